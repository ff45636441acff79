package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeIM speaks as much of the protocol of WuKongIM as the benchmark needs, without encryption.
type fakeIM struct {
	t    *testing.T
	api  *httptest.Server
	tcp  net.Listener
	done sync.WaitGroup

	// Set before the first connection.
	refuseEvery int  // every so many sends one is answered with reason 22, 0 for none
	mute        bool // no send is answered
	failEvery   int  // every so many reads one is answered with 503, 0 for none

	mu       sync.Mutex // guards the following fields
	conns    []net.Conn
	groups   map[string]bool
	messages map[string]int // by channel: a group's id, or sender>receiver
	nos      map[string]bool
	sends    int
	reads    int
	read     map[string]int // how often each channel was read
}

func startFakeIM(t *testing.T) *fakeIM {
	s := &fakeIM{t: t, groups: map[string]bool{}, messages: map[string]int{}, nos: map[string]bool{}, read: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /channel", s.group)
	mux.HandleFunc("POST /channel/messagesync", s.sync)
	s.api = httptest.NewServer(mux)
	var err error
	if s.tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.done.Go(func() {
		for {
			conn, err := s.tcp.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			s.done.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() {
		s.api.Close()
		_ = s.tcp.Close()
		s.mu.Lock()
		for _, conn := range s.conns {
			_ = conn.Close()
		}
		s.mu.Unlock()
		s.done.Wait()
	})
	return s
}

func (s *fakeIM) config() IMConfig {
	c := DefaultIMConfig()
	c.TCP, c.API, c.Token = []string{s.tcp.Addr().String()}, s.api.URL, "secret"
	c.Senders, c.Channels, c.Window, c.Timeout = 3, 7, 2, 5*time.Second
	return c
}

func (s *fakeIM) serve(conn net.Conn) {
	c := &imConn{Conn: conn, in: bufio.NewReader(conn)}
	uid := ""
	for {
		first, body, err := c.frame()
		if err != nil {
			return
		}
		switch first >> 4 {
		case 1:
			_, rest, _ := imCut(body[2:]) // the device
			uid, _, _ = imCut(rest)
			_, _ = conn.Write(imFrame(imConnack<<4, append(make([]byte, 8), 1, 0, 0, 0, 0)))
		case 3:
			if answer := s.send(uid, body); answer != nil {
				_, _ = conn.Write(imFrame(imSendack<<4, answer))
			}
		}
	}
}

// send stores what a SEND says and returns its SENDACK, nil for none.
func (s *fakeIM) send(uid string, body []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	no, rest, _ := imCut(body[5:])
	channel, rest, _ := imCut(rest)
	kind := rest[0]
	if kind == 2 && !s.groups[channel] || kind != 1 && kind != 2 {
		s.t.Errorf("a send to %q of type %d, which was not made", channel, kind)
	}
	if kind == 1 {
		channel = uid + ">" + channel
	}
	if s.nos[no] {
		s.t.Errorf("%q was sent twice", no)
	}
	s.nos[no] = true
	s.sends++
	reason := byte(1)
	if s.refuseEvery > 0 && s.sends%s.refuseEvery == 0 {
		reason = 22
	} else {
		s.messages[channel]++
	}
	if s.mute {
		return nil
	}
	answer := append(make([]byte, 8), body[1:5]...)
	return append(binary.BigEndian.AppendUint32(answer, 1), reason)
}

func (s *fakeIM) group(w http.ResponseWriter, r *http.Request) {
	var q struct {
		ID          string   `json:"channel_id"`
		Subscribers []string `json:"subscribers"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.Header.Get("token") != "secret" || len(q.Subscribers) == 0 {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[q.ID] = true
}

func (s *fakeIM) sync(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Login string `json:"login_uid"`
		ID    string `json:"channel_id"`
		Type  int    `json:"channel_type"`
		Limit int    `json:"limit"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if q.Type == 1 {
		q.ID = q.Login + ">" + q.ID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.failEvery > 0 && s.reads%s.failEvery == 0 {
		http.Error(w, "later", http.StatusServiceUnavailable)
		return
	}
	s.read[q.ID]++
	list := make([]struct{}, min(s.messages[q.ID], q.Limit))
	_ = json.NewEncoder(w).Encode(map[string]any{"messages": list})
}

// What one run fills, groups or persons, a later one reads by its name; a second fill adds.
func TestIMFillAndRead(t *testing.T) {
	for _, persons := range []bool{false, true} {
		t.Run(fmt.Sprintf("persons %v", persons), func(t *testing.T) {
			s := startFakeIM(t)
			cfg := s.config()
			cfg.Name, cfg.Fill, cfg.Persons = "x", 4, persons
			for range 2 {
				report, err := RunIM(t.Context(), cfg, io.Discard)
				if err != nil {
					t.Fatal(err)
				}
				if report.Sent != 28 || report.Acknowledged != 28 || len(report.Refused) != 0 || report.Ack.Samples != 28 {
					t.Errorf("%+v, %+v", report, report.Ack)
				}
			}
			if len(s.messages) != 7 {
				t.Errorf("channels %v", s.messages)
			}
			for c, n := range s.messages {
				if n != 8 {
					t.Errorf("%d messages in %s", n, c)
				}
			}
			cfg.Fill, cfg.Newest = 0, 5
			report, err := RunIMRead(t.Context(), cfg, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if report.Reads != 7 || report.Messages != 35 || report.Short != 0 || report.Latency.Samples != 7 {
				t.Errorf("%+v", report)
			}
			for c := range s.messages {
				if s.read[c] != 1 {
					t.Errorf("%s was read %d times", c, s.read[c])
				}
			}
			cfg.Newest, cfg.Rate = 9, 500
			if report, err = RunIMRead(t.Context(), cfg, io.Discard); err != nil || report.Short != 7 {
				t.Errorf("%+v, %v", report, err)
			}
		})
	}
}

func TestIMReadEndsWithItsTime(t *testing.T) {
	s := startFakeIM(t)
	cfg := s.config()
	cfg.Name, cfg.Newest, cfg.Channels, cfg.Rate, cfg.Duration = "x", 1, 1000, 100, 100*time.Millisecond
	report, err := RunIMRead(t.Context(), cfg, io.Discard)
	if err != nil || report.Reads < 1 || report.Reads > 11 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestIMFillShowsRefusals(t *testing.T) {
	s := startFakeIM(t)
	s.refuseEvery = 7
	cfg := s.config()
	cfg.Fill = 2
	report, err := RunIM(t.Context(), cfg, io.Discard)
	if err != nil || report.Acknowledged != 12 || report.Refused["reason 22"] != 2 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestIMReadShowsFailures(t *testing.T) {
	s := startFakeIM(t)
	s.failEvery = 3
	cfg := s.config()
	cfg.Name, cfg.Newest = "x", 1
	report, err := RunIMRead(t.Context(), cfg, io.Discard)
	if err != nil || report.Failed != 2 || report.Reads != 5 || report.Short != 5 || !strings.Contains(report.Failure, "503: later") {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestIMFails(t *testing.T) {
	s := startFakeIM(t)
	s.mute = true
	cfg := s.config()
	cfg.Fill, cfg.ackTimeout = 1, 200*time.Millisecond
	if _, err := RunIM(t.Context(), cfg, io.Discard); err == nil || !strings.Contains(err.Error(), "only 0 of 7") {
		t.Errorf("a server that does not answer: %v", err)
	}
	cfg.Token = "wrong"
	if _, err := RunIM(t.Context(), cfg, io.Discard); err == nil || !strings.Contains(err.Error(), "status 400: no") {
		t.Errorf("groups that are refused: %v", err)
	}
	s.api.Close()
	cfg.Fill, cfg.Newest, cfg.Name = 0, 1, "x"
	if _, err := RunIMRead(t.Context(), cfg, io.Discard); err == nil || !strings.Contains(err.Error(), "POST /channel/messagesync") {
		t.Errorf("no API: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := RunIM(ended, s.config(), io.Discard); err == nil {
		t.Error("no error when it was ended")
	}
}

func TestIMValidate(t *testing.T) {
	for flag, change := range map[string]func(*IMConfig){
		"--tcp":        func(c *IMConfig) { c.TCP = nil },
		"--senders":    func(c *IMConfig) { c.Senders = 0 },
		"--group-size": func(c *IMConfig) { c.GroupSize = -1 },
		"--payload":    func(c *IMConfig) { c.Payload = MinIMPayload - 1 },
		"--duration":   func(c *IMConfig) { c.Duration = 0 },
		"--newest":     func(c *IMConfig) { c.Name, c.Fill, c.Newest = "x", 1, 1 },
		"--name":       func(c *IMConfig) { c.Newest = 50 },
		"--fill":       func(c *IMConfig) { c.Fill, c.Rate = 1, 1 },
		"--persons":    func(c *IMConfig) { c.Persons, c.Channels = true, 63 },
	} {
		c := DefaultIMConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
	if err := DefaultIMConfig().Validate(); err != nil {
		t.Error(err)
	}
}

func TestIMReportsText(t *testing.T) {
	var text strings.Builder
	read := &IMReadReport{Newest: 50, Reads: 3, Messages: 150, Server: &ServerReport{RSSAfter: 5 << 20, CPU: &CPU{Percent: 7}}}
	if err := read.WriteText(&text); err != nil || !strings.Contains(text.String(), "3 in all with 150 messages") ||
		!strings.Contains(text.String(), "5.0 MiB at the end") {
		t.Errorf("%s, %v", text.String(), err)
	}
	text.Reset()
	sent := &IMReport{Persons: true, Fill: 60}
	if err := sent.WriteText(&text); err != nil || !strings.Contains(text.String(), "60 for each") ||
		!strings.Contains(text.String(), "a person who is not online") {
		t.Errorf("%s, %v", text.String(), err)
	}
}
