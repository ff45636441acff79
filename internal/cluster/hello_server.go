package cluster

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// helloTimeout bounds a whole exchange on the side that is asked.
const helloTimeout = 5 * time.Second

// Hello is the service that answers other nodes on the cluster port, before and after the
// cluster is there. It is made by Discover and must be closed by its caller.
type Hello struct {
	listener net.Listener
	port     int
	domain   string
	key      []byte
	logger   *slog.Logger
	dropped  func(reason string)
	kick     chan struct{} // somebody unknown has asked
	tasks    sync.WaitGroup

	mu        sync.Mutex // guards the following fields
	reserved  net.Listener
	statement statement
	heard     []string       // hello addresses of askers, oldest first
	perHost   map[string]int // open connections by remote host
	conns     map[net.Conn]struct{}
	warned    map[string]time.Time // refusals logged, and when
	closed    bool
}

// listenHello binds the first free pair of ports and serves as soon as begin is called.
func listenHello(options Options, key []byte) (*Hello, error) {
	var failures []error
	for i := range options.PortTries {
		port := options.BindPort + i*portsPerNode
		if port > 65534 {
			break
		}
		listener, reserved, err := bindPair(options.BindHost, port)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if options.TLS != nil {
			config := options.TLS.Clone()
			config.ClientAuth = tls.RequireAndVerifyClientCert
			listener = tls.NewListener(listener, config)
		}
		return &Hello{
			listener: listener, reserved: reserved, port: port,
			domain: options.Domain, key: key,
			logger: options.Logger, dropped: options.Dropped,
			kick:    make(chan struct{}, 1),
			perHost: map[string]int{}, conns: map[net.Conn]struct{}{}, warned: map[string]time.Time{},
		}, nil
	}
	return nil, fmt.Errorf("%w: tried %d pairs from %d: %w; set cluster.bind_host and cluster.bind_port",
		ErrNoPort, options.PortTries, options.BindPort, errors.Join(failures...))
}

// bindPair takes the hello port and holds the route port, so that no neighbour takes it for
// its hello port before the engine does.
func bindPair(host string, port int) (hello, route net.Listener, err error) {
	hello, err = net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, nil, err
	}
	route, err = net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port+1)))
	if err != nil {
		hello.Close()
		return nil, nil, err
	}
	return hello, route, nil
}

// RoutePort is the port held for the engine's routes.
func (h *Hello) RoutePort() int { return h.port + 1 }

// ReleaseRoutePort lets go of the port held for the engine's routes; the engine should take
// it right after. Repeating it does nothing.
func (h *Hello) ReleaseRoutePort() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reserved != nil {
		h.reserved.Close()
		h.reserved = nil
	}
}

// Close ends the service and waits for its goroutines.
func (h *Hello) Close() {
	h.ReleaseRoutePort()
	h.mu.Lock()
	h.closed = true
	for conn := range h.conns {
		conn.Close()
	}
	h.mu.Unlock()
	h.listener.Close()
	h.tasks.Wait()
}

// state changes or replaces what this node says of itself.
func (h *Hello) state(change func(*statement)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.statement)
}

// current is what this node says of itself, with the addresses heard of.
func (h *Hello) current() statement {
	h.mu.Lock()
	defer h.mu.Unlock()
	result := h.statement
	if result.Phase == phaseSeeking {
		result.Heard = slices.Clone(h.heard)
	}
	return result
}

// begin serves until Close.
func (h *Hello) begin() {
	h.tasks.Go(func() {
		for {
			conn, err := h.listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				h.logger.Warn("cluster hello accept failed", "error", err)
				time.Sleep(50 * time.Millisecond) // out of descriptors; others may free some
				continue
			}
			if !h.admit(conn) {
				h.dropped(DropHelloBusy)
				conn.Close()
				continue
			}
			h.tasks.Go(func() { h.serve(conn) })
		}
	})
}

func (h *Hello) admit(conn net.Conn) bool {
	host := remoteHost(conn)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.conns) >= maxHelloConns || h.perHost[host] >= maxHelloConnsPeer {
		return false
	}
	h.conns[conn] = struct{}{}
	h.perHost[host]++
	return true
}

func (h *Hello) forget(conn net.Conn) {
	conn.Close()
	host := remoteHost(conn)
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, conn)
	if h.perHost[host]--; h.perHost[host] == 0 {
		delete(h.perHost, host)
	}
}

func remoteHost(conn net.Conn) string {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return conn.RemoteAddr().String()
	}
	return host
}

func (h *Hello) serve(conn net.Conn) {
	defer h.forget(conn)
	conn.SetDeadline(time.Now().Add(helloTimeout))
	err := handshake(conn)
	if errors.Is(err, io.EOF) {
		return // a look whether somebody is there
	}
	if err == nil {
		err = h.answer(conn)
	}
	if err != nil {
		h.dropped(DropHelloRefused)
		h.warn(remoteHost(conn), err)
	}
}

// answer does the asked side of one exchange. A connection that ends before its first frame
// is a look whether somebody is there, and no error.
func (h *Hello) answer(conn net.Conn) error {
	received, err := readFrame(conn, maxGreetingSize)
	if errors.Is(err, errSpeaksTLS) {
		tellTLS(conn)
		linger(conn)
	}
	if errors.Is(err, errFrame) {
		return notOurs(err)
	} else if err != nil {
		return nil
	}
	asked, err := decodeGreeting(received)
	if err != nil {
		return notOurs(err)
	}
	own := newGreeting(h.domain)
	own.Refusal = checkGreeting(asked, h.domain)
	sent, err := json.Marshal(own)
	if err != nil {
		return err
	}
	if err := writeFrame(conn, sent, maxGreetingSize); err != nil {
		return nil
	}
	switch own.Refusal {
	case "":
	case refusedDomain:
		return fmt.Errorf("%w %q", errOtherDomain, asked.Domain)
	default:
		return fmt.Errorf("%w: %.50q", errProtocol, asked.Protocol)
	}

	script := transcript(received, sent)
	frame, err := readFrame(conn, maxQuestionSize)
	if err != nil {
		return fmt.Errorf("no proof of the secret: %w", err)
	}
	peer, err := open(h.key, speakerAsker, script, frame)
	if errors.Is(err, ErrSecret) {
		refusal, _ := json.Marshal(sealed{Refusal: refusedSecret})
		writeFrame(conn, refusal, maxGreetingSize)
	}
	if err != nil {
		return err
	}
	h.knock(remoteHost(conn), peer)
	h.learn(peer)
	answer, err := seal(h.key, speakerAsked, script, h.current())
	if err != nil {
		return err
	}
	return writeFrame(conn, answer, maxAnswerSize)
}

// learn keeps the address of one who asks, so that it is asked back and told to others.
func (h *Hello) learn(peer statement) {
	address := peer.Self.Addresses[AddressHello]
	h.mu.Lock()
	defer h.mu.Unlock()
	known := slices.Contains(h.heard, address)
	if known || h.statement.Phase != phaseSeeking || address == h.statement.Self.Addresses[AddressHello] {
		return
	}
	if len(h.heard) == maxLearned {
		h.heard = slices.Delete(h.heard, 0, 1)
	}
	h.heard = append(h.heard, address)
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// heardOf returns the addresses of those who asked.
func (h *Hello) heardOf() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.heard)
}
