package bench

import (
	"bufio"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

const (
	fakeApp    = "7"
	fakeKey    = "a-key"
	fakeSecret = "a-secret"
)

// fakeServer speaks as much of the Pusher protocol as the benchmark needs, in the plainest
// way, and checks what the benchmark sends.
type fakeServer struct {
	t    *testing.T
	http *httptest.Server

	// Set before the first connection.
	loseEvery   int // every so many deliveries one is not made, 0 for none
	refuseEvery int // every so many publishes one is answered with 413, 0 for none
	pingFirst   bool
	onSubscribe func(n int) (code int, silent bool) // called for each subscription, n counts from 1; nil for none
	onPublish   func(n int)                         // called for each publish, n counts from 1

	mu         sync.Mutex // guards the following fields
	nextID     int
	channels   map[string]map[*fakeConn]bool
	deliveries int
	publishes  int
	subscribes int
	left       int // channels, by unsubscribing
	unmasked   int
}

type fakeConn struct {
	net.Conn
	mu sync.Mutex // one writer at a time
	id string
}

func startFake(t *testing.T) *fakeServer {
	s := &fakeServer{t: t, channels: map[string]map[*fakeConn]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /app/"+fakeKey, s.serveSocket)
	mux.HandleFunc("POST /apps/"+fakeApp+"/events", s.servePublish)
	s.http = httptest.NewServer(mux)
	t.Cleanup(s.http.Close)
	return s
}

// config is a short run against the server.
func (s *fakeServer) config() Config {
	cfg := DefaultConfig()
	cfg.URLs = []string{s.http.URL}
	cfg.AppID, cfg.Key, cfg.Secret = fakeApp, fakeKey, fakeSecret
	cfg.Connections, cfg.Channels, cfg.Publishers = 10, 2, 2
	cfg.Rate = 200
	cfg.Warmup, cfg.Duration, cfg.Settle = 0, 500_000_000, 0
	cfg.drainStall = drainMax // what is on its way comes
	return cfg
}

func (s *fakeServer) serveSocket(w http.ResponseWriter, r *http.Request) {
	if q := r.URL.Query(); q.Get("protocol") != "7" || q.Get("client") != "parley-bench" {
		http.Error(w, "query", http.StatusBadRequest)
		return
	}
	conn, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	defer conn.Close()
	s.mu.Lock()
	s.nextID++
	c := &fakeConn{Conn: conn, id: fmt.Sprintf("%d.1", s.nextID)}
	s.mu.Unlock()
	defer s.leave(c)
	c.send(`{"event":"pusher:connection_established","data":"{\"socket_id\":\"` + c.id +
		`\",\"activity_timeout\":120}"}`)
	in := bufio.NewReader(conn)
	for {
		header, err := ws.ReadHeader(in)
		if err != nil {
			return
		}
		payload := make([]byte, header.Length)
		if _, err := io.ReadFull(in, payload); err != nil {
			return
		}
		if !header.Masked {
			s.mu.Lock()
			s.unmasked++
			s.mu.Unlock()
		}
		ws.Cipher(payload, header.Mask, 0)
		s.handle(c, payload)
	}
}

func (c *fakeConn) send(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = wsutil.WriteServerText(c, []byte(text))
}

func (s *fakeServer) leave(c *fakeConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, members := range s.channels {
		delete(members, c)
	}
}

func (s *fakeServer) handle(c *fakeConn, payload []byte) {
	var e event
	if err := json.Unmarshal(payload, &e); err != nil {
		return
	}
	switch {
	case e.Event == "pusher:subscribe":
		s.subscribe(c, e)
	case e.Event == "pusher:unsubscribe":
		var data struct{ Channel string }
		e.decode(&data)
		s.mu.Lock()
		if s.channels[data.Channel][c] {
			s.left++
		}
		delete(s.channels[data.Channel], c)
		s.mu.Unlock()
	case strings.HasPrefix(e.Event, "client-"):
		s.deliver(e.Event, e.Channel, e.Data, c)
	}
}

func (s *fakeServer) subscribe(c *fakeConn, e event) {
	var data struct {
		Channel, Auth string
		ChannelData   string `json:"channel_data"`
	}
	e.decode(&data)
	presence := strings.HasPrefix(data.Channel, "presence-")
	if presence || strings.HasPrefix(data.Channel, "private-") {
		text := c.id + ":" + data.Channel
		if presence {
			text += ":" + data.ChannelData
		}
		want := fakeKey + ":" + fakeSign(text)
		if data.Auth != want {
			c.send(`{"event":"pusher:subscription_error","data":{"type":"AuthError"},"channel":"` +
				data.Channel + `"}`)
			return
		}
	}
	s.mu.Lock()
	s.subscribes++
	n := s.subscribes
	s.mu.Unlock()
	if s.onSubscribe != nil {
		code, silent := s.onSubscribe(n)
		if code != 0 {
			c.send(fmt.Sprintf(`{"event":"pusher:error","data":{"code":%d,"message":"no"}}`, code))
		}
		if code != 0 || silent {
			return
		}
	}
	s.mu.Lock()
	if s.channels[data.Channel] == nil {
		s.channels[data.Channel] = map[*fakeConn]bool{}
	}
	s.channels[data.Channel][c] = true
	s.mu.Unlock()
	c.send(`{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"` +
		data.Channel + `"}`)
	if presence {
		c.send(`{"event":"pusher_internal:member_added","data":"{\"user_id\":\"1\"}","channel":"` + data.Channel + `"}`)
	}
	if s.pingFirst {
		c.send(`{"event":"pusher:ping","data":{}}`)
	}
}

func fakeSign(text string) string {
	mac := hmac.New(sha256.New, []byte(fakeSecret))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

func (s *fakeServer) servePublish(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	q := r.URL.Query()
	sum := md5.Sum(body)
	signed := "POST\n" + r.URL.Path + "\nauth_key=" + fakeKey + "&auth_timestamp=" +
		q.Get("auth_timestamp") + "&auth_version=1.0&body_md5=" + hex.EncodeToString(sum[:])
	var publish struct {
		Name     string
		Channels []string
		Data     string
	}
	err = json.Unmarshal(body, &publish)
	if q.Get("auth_signature") != fakeSign(signed) || err != nil || !json.Valid([]byte(publish.Data)) {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	s.publishes++
	n := s.publishes
	refused := s.refuseEvery > 0 && n%s.refuseEvery == 0
	s.mu.Unlock()
	if s.onPublish != nil {
		s.onPublish(n)
	}
	if refused {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		return
	}
	data, _ := json.Marshal(publish.Data)
	for _, channel := range publish.Channels {
		s.deliver(publish.Name, channel, data, nil)
	}
	_, _ = io.WriteString(w, "{}")
}

func (s *fakeServer) deliver(name, channel string, data []byte, except *fakeConn) {
	text := fmt.Sprintf(`{"event":%q,"channel":%q,"data":%s}`, name, channel, data)
	s.mu.Lock()
	var to []*fakeConn
	for c := range s.channels[channel] {
		if c == except {
			continue
		}
		if s.deliveries++; s.loseEvery > 0 && s.deliveries%s.loseEvery == 0 {
			continue
		}
		to = append(to, c)
	}
	s.mu.Unlock()
	for _, c := range to {
		c.send(text)
	}
}

// hangUp ends all connections, half of them with a close frame.
func (s *fakeServer) hangUp(code ws.StatusCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	polite := false
	for _, members := range s.channels {
		for c := range members {
			if polite = !polite; polite {
				body := ws.NewCloseFrameBody(code, "bye")
				c.mu.Lock()
				_ = ws.WriteFrame(c, ws.NewCloseFrame(body))
				c.mu.Unlock()
			}
			c.Close()
		}
	}
}
