package bench

import (
	"errors"
	"net"
	"sync"
)

// errReceiverClosed means that a connection came after its receiver was closed.
var errReceiverClosed = errors.New("receiver is closed")

// receiver reads established connections until they end.
type receiver interface {
	// add hands conn over. The receiver closes it, also when add fails.
	add(conn *net.TCPConn, s *socket) error
	// close drops all connections at once and waits until they are gone. Ends that it
	// causes are not counted. It may be called more than once.
	close()
}

// newReceivers starts n of the platform's best receivers.
func newReceivers(n int) ([]receiver, error) {
	var list []receiver
	for range n {
		r, err := newReceiver()
		if err != nil {
			for _, started := range list {
				started.close()
			}
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// readers is a receiver with a goroutine for each connection. It costs more for each read
// than an event loop, but works everywhere, and others may write to its connections.
type readers struct {
	wg    sync.WaitGroup
	mu    sync.Mutex // guards the following field
	conns map[*net.TCPConn]struct{}
}

func newReaders() *readers { return &readers{conns: map[*net.TCPConn]struct{}{}} }

func (r *readers) add(conn *net.TCPConn, s *socket) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		conn.Close()
		return errReceiverClosed
	}
	r.conns[conn] = struct{}{}
	r.wg.Go(func() { r.serve(conn, s) })
	return nil
}

func (r *readers) serve(conn *net.TCPConn, s *socket) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := conn.Read(buffer)
		if err == nil {
			err = s.read(buffer[:n])
		}
		if err != nil {
			break
		}
	}
	conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns != nil {
		delete(r.conns, conn)
		s.end(closeAbnormal)
	}
}

func (r *readers) close() {
	r.mu.Lock()
	for conn := range r.conns {
		conn.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	r.wg.Wait()
}
