package cluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// dialing says how a client connects.
type dialing struct {
	url    string // ws://… or wss://…, without a path
	key    string // of the app; empty for that of the tests
	from   string // the client's own address; empty for any
	cookie string
	trust  *tls.Config
}

// socket is a connected client.
type socket struct {
	net.Conn
	cookie string // that the server has set, or the one that was sent
}

// connect opens a WebSocket until it is established. The error tells the close code.
func (d dialing) connect() (*socket, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s := &socket{cookie: d.cookie}
	dialer := ws.Dialer{TLSConfig: d.trust, OnHeader: func(key, value []byte) error {
		if strings.EqualFold(string(key), "Set-Cookie") {
			s.cookie, _, _ = strings.Cut(string(value), ";")
		}
		return nil
	}}
	if d.from != "" {
		own := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(d.from)}}
		dialer.NetDial = own.DialContext
	}
	if d.cookie != "" {
		dialer.Header = ws.HandshakeHeaderHTTP(http.Header{"Cookie": {d.cookie}})
	}
	conn, early, _, err := dialer.Dial(ctx, d.url+"/app/"+cmp.Or(d.key, appKey)+"?protocol=7")
	if err != nil {
		return nil, err
	}
	s.Conn = conn
	if early != nil && early.Buffered() > 0 {
		s.Conn = &buffered{Conn: conn, early: early}
	}
	event, data, err := s.next()
	if err == nil && event != "pusher:connection_established" {
		err = fmt.Errorf("got %s %s", event, data)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

// buffered reads first what came together with the answer to the handshake.
type buffered struct {
	net.Conn
	early interface {
		Buffered() int
		Read(p []byte) (int, error)
	}
}

func (b *buffered) Read(p []byte) (int, error) {
	if n := b.early.Buffered(); n > 0 {
		return b.early.Read(p[:min(n, len(p))])
	}
	return b.Conn.Read(p)
}

// must is connect for a test that cannot go on without.
func (d dialing) must(t *testing.T) *socket {
	t.Helper()
	s, err := d.connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// next returns the next message within patience.
func (s *socket) next() (event, data string, err error) {
	if err := s.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", "", err
	}
	return s.read()
}

// read returns the next message. Pings are answered, as a client that was quiet for long gets some.
func (s *socket) read() (event, data string, err error) {
	text, err := wsutil.ReadServerText(s)
	if err != nil {
		return "", "", err
	}
	var message struct {
		Event string
		Data  json.RawMessage
	}
	if err := json.Unmarshal(text, &message); err != nil {
		return "", "", err
	}
	if message.Event == "pusher:ping" {
		if err := wsutil.WriteClientText(s, []byte(`{"event":"pusher:pong","data":{}}`)); err != nil {
			return "", "", err
		}
		return s.read()
	}
	var quoted string
	if json.Unmarshal(message.Data, &quoted) == nil {
		return message.Event, quoted, nil
	}
	return message.Event, string(message.Data), nil
}

// subscribe subscribes to a public channel.
func (s *socket) subscribe(t *testing.T, channel string) {
	t.Helper()
	text := fmt.Sprintf(`{"event":"pusher:subscribe","data":{"channel":%q}}`, channel)
	if err := wsutil.WriteClientText(s, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if event, data, err := s.next(); err != nil || event != "pusher_internal:subscription_succeeded" {
		t.Fatalf("got %s %s, %v", event, data, err)
	}
}

// want reads the next event that is no probe.
func (s *socket) want(t *testing.T, event, data string) {
	t.Helper()
	got, text, err := s.next()
	for err == nil && got == probeEvent {
		got, text, err = s.next()
	}
	if err != nil || got != event || text != data {
		t.Errorf("got %s %s, %v; want %s %s", got, text, err, event, data)
	}
}

// probeEvent is what spreads publishes, each time with another number.
const probeEvent = "probe"

var probes atomic.Int64

// spreads publishes probes in one way until every client has heard one: nothing else tells when
// a node's interest in a channel has reached the others.
func spreads(t *testing.T, clients []*socket, publish func(event, data string) error) {
	t.Helper()
	number := fmt.Sprint(probes.Add(1))
	heard, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			if err := publish(probeEvent, number); err != nil {
				stopped <- err
				return
			}
			select {
			case <-heard:
				stopped <- nil
				return
			case <-time.After(50 * time.Millisecond): // enough for most
			}
		}
	}()
	for _, s := range clients {
		event, data, err := s.next()
		for err == nil && event == probeEvent && data != number { // of an earlier time
			event, data, err = s.next()
		}
		if err != nil || event != probeEvent {
			t.Errorf("got %s %s, %v; want a probe", event, data, err)
		}
	}
	close(heard)
	if err := <-stopped; err != nil {
		t.Fatalf("publish a probe: %v", err)
	}
}

// closeCode reads until the connection ends and returns its code, 0 without one or when nothing
// comes within patience.
func (s *socket) closeCode() int { return codeOf(s.next) }

// lastCode is closeCode for who waits however long.
func (s *socket) lastCode() int {
	if s.SetReadDeadline(time.Time{}) != nil {
		return 0
	}
	return codeOf(s.read)
}

func codeOf(read func() (event, data string, err error)) int {
	for {
		_, _, err := read()
		var closed wsutil.ClosedError
		if errors.As(err, &closed) {
			return int(closed.Code)
		}
		if err != nil {
			return 0
		}
	}
}
