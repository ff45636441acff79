package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

// Errors that name why a connection could not be made ready.
var (
	// errRefused means that the server answered with pusher:error or pusher:subscription_error.
	errRefused = errors.New("refused")
	// errClosedEarly means that the server closed the connection during the handshake.
	errClosedEarly = errors.New("closed during the handshake")
)

// dialer makes ready connections to the nodes of a server, in turn.
type dialer struct {
	targets []target
	sources []net.IP
	key     string
	timeout time.Duration

	mu   sync.Mutex // guards sign
	sign *signer
}

func newDialer(cfg Config) (*dialer, error) {
	d := &dialer{key: cfg.Key, timeout: cfg.ConnectTimeout, sign: newSigner(cfg.Key, cfg.Secret)}
	for _, raw := range cfg.URLs {
		t, err := parseTarget(raw)
		if err != nil {
			return nil, err
		}
		d.targets = append(d.targets, t)
	}
	for _, s := range cfg.Sources {
		d.sources = append(d.sources, net.ParseIP(s))
	}
	return d, nil
}

// tcp connects to the node of index i. Closing the connection resets it, so that a run
// leaves no ports waiting that the next run would lack.
func (d *dialer) tcp(ctx context.Context, i int) (*net.TCPConn, error) {
	dial := net.Dialer{KeepAlive: -1}
	if len(d.sources) > 0 {
		dial.LocalAddr = &net.TCPAddr{IP: d.sources[i%len(d.sources)]}
	}
	conn, err := dial.DialContext(ctx, "tcp", d.targets[i%len(d.targets)].address)
	if err != nil {
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	if err := tcp.SetLinger(0); err != nil {
		tcp.Close()
		return nil, fmt.Errorf("set linger: %w", err)
	}
	return tcp, nil
}

// link is a connection during its handshake.
type link struct {
	conn     *net.TCPConn
	in       *bufio.Reader
	socketID string
}

// open connects, upgrades and waits for pusher:connection_established. The caller must
// close the link's connection.
func (d *dialer) open(ctx context.Context, i int) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	conn, err := d.tcp(ctx, i)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	l := &link{conn: conn}
	if err := l.establish(d.targets[i%len(d.targets)], d.key); err != nil {
		conn.Close()
		return nil, err
	}
	return l, nil
}

func (l *link) establish(t target, key string) error {
	u := &url.URL{
		Scheme: "ws", Host: t.host, Path: t.prefix + "/app/" + key,
		RawQuery: "protocol=7&client=parley-bench&version=1",
	}
	in, _, err := ws.Dialer{ReadBufferSize: 1024, WriteBufferSize: 1024}.Upgrade(l.conn, u)
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if in == nil {
		in = bufio.NewReaderSize(l.conn, 1024)
	}
	l.in = in
	e, err := l.await("pusher:connection_established", "")
	if err != nil {
		return err
	}
	var data struct {
		SocketID string `json:"socket_id"`
	}
	e.decode(&data)
	l.socketID = data.SocketID
	return nil
}

// subscribe subscribes and waits for the success.
func (d *dialer) subscribe(ctx context.Context, l *link, channel string) error {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	body, err := d.subscription(l.socketID, channel)
	if err != nil {
		return err
	}
	if _, err := l.conn.Write(appendMasked(nil, opText, body)); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	_, err = l.await("pusher_internal:subscription_succeeded", channel)
	return err
}

// subscription is the message that subscribes a socket to a channel; on a presence channel
// as a user of its own.
func (d *dialer) subscription(socketID, channel string) ([]byte, error) {
	data := map[string]string{"channel": channel}
	signed := channel
	if strings.HasPrefix(channel, presencePrefix) {
		data["channel_data"] = `{"user_id":"` + socketID + `"}`
		signed += ":" + data["channel_data"]
	}
	if signed != channel || strings.HasPrefix(channel, "private-") {
		d.mu.Lock()
		data["auth"] = d.sign.channelAuth(socketID, signed)
		d.mu.Unlock()
	}
	body, err := json.Marshal(map[string]any{"event": "pusher:subscribe", "data": data})
	if err != nil {
		return nil, fmt.Errorf("encode subscription: %w", err)
	}
	return body, nil
}

// await reads until the named event (of that channel, unless empty) arrives.
func (l *link) await(name, channel string) (event, error) {
	for {
		payload, err := l.readText()
		if err != nil {
			return event{}, fmt.Errorf("wait for %s: %w", name, err)
		}
		var e event
		if err := json.Unmarshal(payload, &e); err != nil {
			return event{}, fmt.Errorf("wait for %s: %w", name, err)
		}
		switch e.Event {
		case name:
			if channel == "" || e.Channel == channel {
				return e, nil
			}
		case "pusher:error", "pusher:subscription_error":
			data := e.errorData()
			return event{}, fmt.Errorf("%w: %s %d %s", errRefused, e.Event, data.Code, data.Message)
		}
	}
}

// readText returns the payload of the next text frame.
func (l *link) readText() ([]byte, error) {
	for {
		header, err := ws.ReadHeader(l.in)
		if err != nil {
			return nil, err
		}
		if header.Length > maxFrame {
			return nil, errFrameTooLarge
		}
		payload := make([]byte, header.Length)
		if _, err := io.ReadFull(l.in, payload); err != nil {
			return nil, err
		}
		switch header.OpCode {
		case ws.OpText:
			return payload, nil
		case ws.OpClose:
			code, reason := ws.ParseCloseFrameData(payload)
			return nil, fmt.Errorf("%w: %d %s", errClosedEarly, code, reason)
		}
	}
}

// handOver gives the connection to a receiver, with what was read ahead of it.
func (l *link) handOver(r receiver, t *tally) error {
	_, err := l.become(r, t)
	return err
}

// become is handOver for a caller that goes on to write to the socket.
func (l *link) become(r receiver, t *tally) (*socket, error) {
	s := newSocket(t, l.conn)
	s.id = l.socketID
	ahead, err := l.in.Peek(l.in.Buffered())
	if err == nil && len(ahead) > 0 {
		err = s.read(ahead)
	}
	if err != nil {
		l.conn.Close()
		return nil, fmt.Errorf("hand over: %w", err)
	}
	l.in = nil
	return s, r.add(l.conn, s)
}
