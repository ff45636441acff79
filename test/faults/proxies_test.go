//go:build linux

package faults

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/parleyio/parley/test/process"
)

// proxies stand in front of the cluster ports of each node. What is lost there is held back
// and comes when the loss ends, as it does with TCP, but acknowledgements are never lost: one
// direction goes on for as long as the nodes want.
type proxies struct {
	t       *testing.T
	cluster *cluster
	first   int // port of the first node's proxy
	running sync.WaitGroup
	bytes   [nodeCount]atomic.Int64

	mu      sync.Mutex
	ends    []interface{ Close() error }
	lost    map[way]bool
	changed chan struct{} // closed when lost changes
	closed  bool
}

// way is a direction between two nodes.
type way struct{ from, to int }

func newProxies(t *testing.T) *proxies {
	return &proxies{t: t, lost: map[way]bool{}, changed: make(chan struct{})}
}

func (w *proxies) host() string { return "127.0.0.1" }

func (w *proxies) attach(c *cluster) {
	w.cluster, w.first = c, process.FreePorts(w.t, 2*nodeCount)
	var seeds []string
	for i := range c.nodes {
		seeds = append(seeds, "127.0.0.1:"+strconv.Itoa(w.first+2*i))
	}
	w.t.Cleanup(w.close)
	for i, n := range c.nodes {
		hello := w.first + 2*i
		w.serve(i, hello, n.hello)
		w.serve(i, hello+1, n.hello+1)
		n.args = append(n.args, "--cluster.advertise_port="+strconv.Itoa(hello),
			"--cluster.advertise_route_port="+strconv.Itoa(hello+1), "--cluster.seeds="+strings.Join(seeds, ","))
	}
}

func (w *proxies) close() {
	w.mu.Lock()
	w.closed = true
	for _, end := range w.ends {
		_ = end.Close() // it may be closed already
	}
	close(w.changed)
	w.mu.Unlock()
	w.running.Wait()
}

// hold closes something at the end, or now if that has come.
func (w *proxies) hold(end interface{ Close() error }) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		_ = end.Close() // it is not used
		return
	}
	w.ends = append(w.ends, end)
}

// serve forwards a port to a port of a node.
func (w *proxies) serve(to, port, behind int) {
	w.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		w.t.Fatal(err)
	}
	w.hold(listener)
	w.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			w.hold(conn)
			w.running.Go(func() { w.forward(to, conn.(*net.TCPConn), behind) })
		}
	})
}

// forward serves one connection to its end.
func (w *proxies) forward(to int, near *net.TCPConn, port int) {
	defer func() { _ = near.Close() }() // both directions are through
	from, err := w.dialer(near.RemoteAddr().(*net.TCPAddr).Port)
	if err != nil {
		return // it has gone
	}
	// A connection is made of packets in both directions.
	if !w.pass(way{from, to}) || !w.pass(way{to, from}) {
		return
	}
	conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		_ = near.SetLinger(0) // as near to a refusal as a proxy comes
		return
	}
	w.hold(conn)
	far := conn.(*net.TCPConn)
	defer func() { _ = far.Close() }() // as above
	var back sync.WaitGroup
	back.Go(func() { w.carry(way{to, from}, near, far) })
	w.carry(way{from, to}, far, near)
	back.Wait()
}

// carry copies one direction.
func (w *proxies) carry(on way, to, from *net.TCPConn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if !w.pass(on) {
			return
		}
		if n > 0 {
			w.bytes[on.to].Add(int64(n))
			if _, failed := to.Write(buffer[:n]); failed != nil {
				_ = from.Close() // nobody takes it any more
				return
			}
		}
		if err != nil {
			_ = to.CloseWrite() // fails when it is closed
			return
		}
	}
}

// pass waits until a direction is open, and tells false at the end of the test.
func (w *proxies) pass(on way) bool {
	for {
		w.mu.Lock()
		lost, changed, closed := w.lost[on], w.changed, w.closed
		w.mu.Unlock()
		if closed || !lost {
			return !closed
		}
		<-changed
	}
}

func (w *proxies) lose(lost bool, ways ...way) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range ways {
		w.lost[one] = lost
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// outward and inward are the directions from and to a node.
func outward(node int) (list []way) {
	for other := range nodeCount {
		if other != node {
			list = append(list, way{node, other})
		}
	}
	return list
}

func inward(node int) (list []way) {
	for _, one := range outward(node) {
		list = append(list, way{one.to, one.from})
	}
	return list
}

func (w *proxies) mute(node int)          { w.lose(true, outward(node)...) }
func (w *proxies) deafen(node int)        { w.lose(true, inward(node)...) }
func (w *proxies) cut(node int)           { w.lose(true, append(outward(node), inward(node)...)...) }
func (w *proxies) heal(node int)          { w.lose(false, append(outward(node), inward(node)...)...) }
func (w *proxies) carried(node int) int64 { return w.bytes[node].Load() }

// dialer finds the node that a connection comes from by the socket that its process has.
func (w *proxies) dialer(port int) (node int, err error) {
	inode, err := socketOf(port)
	if err != nil {
		return 0, err
	}
	for i, n := range w.cluster.nodes {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", n.pid()))
		if err != nil {
			return 0, err
		}
		for _, file := range files {
			if target, err := os.Readlink(file); err == nil && target == "socket:["+inode+"]" {
				return i, nil
			}
		}
	}
	return 0, fmt.Errorf("port %d is of no node", port)
}

// socketOf returns the inode of the socket that is bound to a port of the loopback and is no
// listener.
func socketOf(port int) (inode string, err error) {
	file, err := os.Open("/proc/net/tcp")
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // it was only read
	local := fmt.Sprintf("0100007F:%04X", port)
	const listening = "0A"
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if field := strings.Fields(lines.Text()); len(field) > 9 && field[1] == local && field[3] != listening {
			return field[9], nil
		}
	}
	return "", fmt.Errorf("port %d is bound by nobody", port)
}
