package transport

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/transport/websocket"
	"github.com/pires/go-proxyproto"
)

// patience bounds every wait of the tests; nothing in them takes that long.
const patience = 20 * time.Second

// mode is a way in which connections are served.
type mode struct {
	name  string
	loops int // Options.EventLoops
	tls   bool
}

var modes = []mode{{"event-loop", 2, false}, {"goroutine", -1, false}, {"TLS", 2, true}}

// eachMode runs a test in all modes.
func eachMode(t *testing.T, test func(t *testing.T, m mode)) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) { test(t, m) })
	}
}

// setup is what a test wants different from the usual.
type setup struct {
	Options
	hooks        hooks
	smallBuffers bool // let the kernel hold little on the way to the client
	proxy        bool // expect a PROXY header
	unix         bool // listen on a unix socket
	leaveOpen    bool // the test calls Server.Close itself
}

// hooks replace the default behaviour of the server side, which is to echo.
type hooks struct {
	open    func(c *Conn)
	message func(c *Conn, text []byte)
	expired func(c *Conn)
}

// rig is a Server behind a real HTTP server. It ends with a check that every connection was
// closed exactly once and that nothing is left in the accounts.
type rig struct {
	t      *testing.T
	server *Server
	http   *httptest.Server
	setup  setup
	mode   mode

	accepted chan *session // every connection, as it opens
	refused  chan error    // every error of Upgrade
	live     sync.WaitGroup
	opened   atomic.Int64
	closed   atomic.Int64

	mu      sync.Mutex
	dropped map[string]int
	clients []*client
}

func newRig(t *testing.T, m mode, s setup) *rig {
	t.Helper()
	r := &rig{t: t, setup: s, mode: m, accepted: make(chan *session, 2000), refused: make(chan error, 2000), dropped: map[string]int{}}
	o := s.Options
	o.EventLoops = m.loops
	o.Dropped = func(reason string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.dropped[reason]++
	}
	o.OverflowCode, o.OverflowReason = 4100, "too slow"
	o.MaxMessage = orDefault(o.MaxMessage, 100<<10)
	o.MaxQueue = orDefault(o.MaxQueue, 64<<20)
	o.MaxBacklog = orDefault(o.MaxBacklog, 1<<30)
	server, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	if m.loops > 0 && server.Mode() != "event-loop" {
		_ = server.Close()
		t.Skip("no event loops on this platform")
	}
	r.server = server
	r.listen()
	t.Cleanup(r.finish)
	return r
}

func orDefault(n, usual int64) int64 {
	if n == 0 {
		return usual
	}
	return n
}

func (r *rig) listen() {
	r.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.live.Add(1)
		if err := r.server.Upgrade(w, req, &session{rig: r, ended: make(chan struct{})}); err != nil {
			r.live.Done()
			r.refused <- err
		}
	}))
	if r.setup.unix {
		_ = r.http.Listener.Close()
		listener, err := net.Listen("unix", filepath.Join(r.t.TempDir(), "s"))
		if err != nil {
			r.t.Fatal(err)
		}
		r.http.Listener = listener
	}
	if r.setup.smallBuffers {
		r.http.Listener = smallListener{r.http.Listener}
	}
	if r.setup.proxy {
		r.http.Listener = &proxyproto.Listener{Listener: r.http.Listener, ReadBufferSize: 16 << 10}
	}
	if r.mode.tls {
		r.http.TLS = &tls.Config{Certificates: []tls.Certificate{testCertificate()}}
		r.http.StartTLS()
	} else {
		r.http.Start()
	}
}

// smallListener makes the kernel hold little of what is sent.
type smallListener struct{ net.Listener }

func (l smallListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		err = nc.(*net.TCPConn).SetWriteBuffer(64 << 10)
	}
	return nc, err
}

// finish ends the rig and checks its accounts.
func (r *rig) finish() {
	for _, c := range r.clients {
		_ = c.conn.Close()
	}
	if !r.setup.leaveOpen {
		await(r.t, "every connection to close", r.live.Wait)
	}
	await(r.t, "the server to close", func() {
		if err := r.server.Close(); err != nil {
			r.t.Errorf("close server: %v", err)
		}
	})
	await(r.t, "every connection to have closed", r.live.Wait)
	r.http.Close()
	if n := r.server.Count(); n != 0 {
		r.t.Errorf("%d connections are still counted", n)
	}
	if n := r.server.Backlog(); n != 0 {
		r.t.Errorf("%d bytes are still counted as waiting", n)
	}
	if o, c := r.opened.Load(), r.closed.Load(); o != c {
		r.t.Errorf("%d connections opened and %d closed", o, c)
	}
}

// await runs f, which must end within patience.
func await(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("waited too long for %s", what)
	}
}

// until waits for a condition that has no event of its own.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// session is the server side of one connection.
type session struct {
	rig   *rig
	conn  *Conn
	state atomic.Int32  // calls of Open and Closed
	ended chan struct{} // closed by Closed
}

func (s *session) Open(c *Conn) {
	s.conn = c
	if s.state.Add(1) != 1 {
		s.rig.t.Error("Open was not the first call")
	}
	s.rig.opened.Add(1)
	if s.rig.setup.hooks.open != nil {
		s.rig.setup.hooks.open(c)
	}
	s.rig.accepted <- s
}

func (s *session) Message(c *Conn, text []byte) {
	if s.state.Load() != 1 || c != s.conn {
		s.rig.t.Error("Message came before Open or after Closed")
	}
	if s.rig.setup.hooks.message != nil {
		s.rig.setup.hooks.message(c, text)
		return
	}
	c.Send(websocket.NewFrame(text))
}

func (s *session) Expired(c *Conn) {
	if s.rig.setup.hooks.expired != nil {
		s.rig.setup.hooks.expired(c)
	}
}

func (s *session) Closed(*Conn) {
	if s.state.Add(1) != 2 {
		s.rig.t.Error("Closed was not the second call")
		return
	}
	s.rig.closed.Add(1)
	close(s.ended)
	s.rig.live.Done()
}

// next returns the next connection that opened.
func (r *rig) next() *session {
	r.t.Helper()
	select {
	case s := <-r.accepted:
		return s
	case <-time.After(patience):
		r.t.Fatal("no connection opened")
		return nil
	}
}

// awaitClosed waits for Handler.Closed.
func (s *session) awaitClosed(t *testing.T) {
	t.Helper()
	await(t, "Closed", func() { <-s.ended })
}

// drops returns how often reason was counted.
func (r *rig) drops(reason string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped[reason]
}

// connect dials a client and returns it with its server side.
func (r *rig) connect() (*client, *session) {
	r.t.Helper()
	c := r.dial(dialing{})
	return c, r.next()
}

// testCertificate is made once: signing with P-256 keeps handshakes quick.
var testCertificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// clientReader is large enough that a test does not spend its time in system calls.
func clientReader(nc net.Conn) *bufio.Reader { return bufio.NewReaderSize(nc, 32<<10) }
