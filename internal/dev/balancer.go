package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Timing of the balancer, and how many connections it carries at a time.
const (
	checkInterval  = 200 * time.Millisecond
	checkTimeout   = time.Second
	dialTimeout    = time.Second
	acceptPause    = 50 * time.Millisecond
	maxConnections = 10000
)

// balancer passes TCP connections on to the nodes that say on /ready that they are, in turn.
type balancer struct {
	listener net.Listener
	nodes    []backend
	next     atomic.Uint64
	slots    chan struct{} // held by connections
	changed  chan struct{} // has an entry when a node has become ready or is no longer
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

type backend struct {
	address string
	ready   atomic.Bool
}

// listen opens the balancer's port and begins to serve it.
func listen(address string, nodes []string) (*balancer, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for the balancer (--port_offset shifts all ports): %w", err)
	}
	b := &balancer{
		listener: listener, nodes: make([]backend, len(nodes)),
		slots: make(chan struct{}, maxConnections), changed: make(chan struct{}, 1),
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	for i, node := range nodes {
		b.nodes[i].address = node
		b.running.Go(func() { b.watch(&b.nodes[i]) })
	}
	b.running.Go(b.accept)
	return b, nil
}

// close ends all connections and waits for everything that runs.
func (b *balancer) close() {
	b.cancel()
	_ = b.listener.Close() // nothing is left to do about it
	b.running.Wait()
}

// ready tells whether node i gets new connections.
func (b *balancer) ready(i int) bool { return b.nodes[i].ready.Load() }

// leave takes node i out, which ends, without waiting for the next look.
func (b *balancer) leave(i int) { b.set(&b.nodes[i], false) }

// watch asks a node again and again whether it is ready.
func (b *balancer) watch(node *backend) {
	client := &http.Client{Timeout: checkTimeout}
	defer client.CloseIdleConnections()
	ticker := time.NewTicker(checkInterval)
	defer ticker.Stop()
	for {
		b.set(node, b.probe(client, node.address))
		select {
		case <-ticker.C:
		case <-b.ctx.Done():
			return
		}
	}
}

func (b *balancer) probe(client *http.Client, address string) bool {
	request, err := http.NewRequestWithContext(b.ctx, http.MethodGet, "http://"+address+"/ready", nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1024)) // so that the connection is used again
	return response.StatusCode == http.StatusOK
}

func (b *balancer) set(node *backend, ready bool) {
	if node.ready.Swap(ready) == ready {
		return
	}
	select {
	case b.changed <- struct{}{}:
	default: // one that is not read yet says the same
	}
}

func (b *balancer) accept() {
	for {
		conn, err := b.listener.Accept()
		if err != nil && (b.ctx.Err() != nil || errors.Is(err, net.ErrClosed)) {
			return
		}
		if err != nil { // no file descriptors, for one
			time.Sleep(acceptPause)
			continue
		}
		select {
		case b.slots <- struct{}{}:
			b.running.Go(func() {
				defer func() { <-b.slots }()
				b.serve(conn)
			})
		default:
			_ = conn.Close() // there are too many
		}
	}
}

// serve connects a client with a node until one of them ends.
func (b *balancer) serve(client net.Conn) {
	defer client.Close()
	node := b.dial()
	if node == nil {
		return
	}
	defer node.Close()
	defer context.AfterFunc(b.ctx, func() { _ = client.Close(); _ = node.Close() })()
	var back sync.WaitGroup
	back.Go(func() { pass(client, node) })
	pass(node, client)
	back.Wait()
}

// pass copies what from sends and passes on that it has ended.
func pass(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = from.Close()
		_ = to.Close()
		return
	}
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite() // it is gone, and the other direction tells
	}
}

// dial connects to the next node that is ready, or nil.
func (b *balancer) dial() net.Conn {
	first := b.next.Add(1)
	for i := range b.nodes {
		node := &b.nodes[(first+uint64(i))%uint64(len(b.nodes))]
		if !node.ready.Load() {
			continue
		}
		dialer := net.Dialer{Timeout: dialTimeout}
		conn, err := dialer.DialContext(b.ctx, "tcp", node.address)
		if err == nil {
			return conn
		}
		b.set(node, false) // the next look corrects it
	}
	return nil
}
