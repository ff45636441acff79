package bench

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

// The vectors are the examples of the Pusher documentation.
func TestSignatures(t *testing.T) {
	s := newSigner("278d425bdf160c739803", "7ad3773142a6692b25b8")
	body := []byte(`{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}`)
	want := "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0" +
		"&body_md5=ec365a775a4cd0599faeb73354201b6f" +
		"&auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
	for range 2 { // the signer reuses its state
		if got := string(s.appendQuery(nil, "/apps/3/events", body, 1353088179)); got != want {
			t.Errorf("query\n%s, want\n%s", got, want)
		}
		want := "278d425bdf160c739803:" +
			"58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"
		if got := s.channelAuth("1234.1234", "private-foobar"); got != want {
			t.Errorf("channel auth %s, want %s", got, want)
		}
	}
}

func TestStamp(t *testing.T) {
	frame := appendStamp([]byte("~@ no ~@123. "), 12, 999_999_999_999_999)
	frame = append(frame, " after"...)
	for _, hint := range []int{0, 13, -4, 1000, len(frame)} {
		due, sent, at, ok := findStamp(frame, hint)
		if !ok || due != 12 || sent != 999_999_999_999_999 || at != 13 {
			t.Errorf("hint %d: %d %d at %d, %v", hint, due, sent, at, ok)
		}
	}
	for _, cut := range []int{0, 14, len(frame) - 7} {
		if _, _, _, ok := findStamp(frame[:cut], 0); ok {
			t.Errorf("found a stamp in the first %d bytes", cut)
		}
	}
}

func TestTemplatesHavePayloadSize(t *testing.T) {
	for _, size := range []int{MinPayload, MinPayload + 1, 1000} {
		t1, t2 := httpTemplate(size), clientEventTemplate(size)
		const escapes = 8 // quotes inside the data string
		fixed := len(t1.head) + len(`"],"data":"`) + len(`"}`)
		if got := len(t1.append(nil, "", 1, 2)) - fixed - escapes; got != size {
			t.Errorf("http data of %d bytes, want %d", got, size)
		}
		fixed = len(t2.head) + len(`","data":`) + len("}")
		if got := len(t2.append(nil, "", 1, 2)) - fixed; got != size {
			t.Errorf("client event data of %d bytes, want %d", got, size)
		}
	}
}

func TestHistogram(t *testing.T) {
	for _, v := range []int64{0, 1, 127, 128, 255, 256, 1000, 123_456, 5_000_000_000, 1 << 43} {
		slot := slotOf(v)
		if high := highest(slot); high < v || float64(high) > float64(v)*1.008+1 {
			t.Errorf("%d: highest of its slot is %d", v, high)
		}
		if v > 0 && highest(slot-1) >= v {
			t.Errorf("%d: belongs to the slot before", v)
		}
	}
	if slot := slotOf(math.MaxInt64); slot != histSlots-1 {
		t.Errorf("longest duration in slot %d", slot)
	}
	h := new(histogram)
	if h.latency() != nil {
		t.Error("an empty histogram has a latency")
	}
	for i := int64(1); i <= 1000; i++ {
		h.record(i * int64(time.Millisecond))
	}
	h.record(-5)
	l := h.latency()
	near := func(got, want float64) bool { return math.Abs(got-want) <= want*0.01 }
	if l.Samples != 1001 || !near(l.P50, 500) || !near(l.P95, 950) || !near(l.P99, 990) || l.Max != 1000 {
		t.Errorf("latency %+v", *l)
	}
}

func TestSocketCounts(t *testing.T) {
	tally := newTally(clock{start: time.Now()}, MinPayload, 1)
	tally.from.Store(0)
	var out bytes.Buffer
	s := newSocket(tally, &out)
	text := func(s string) []byte { return ws.MustCompileFrame(ws.NewTextFrame([]byte(s))) }
	event := string(httpTemplate(MinPayload).append(nil, "c", 0, 0))
	pad := strings.Repeat(" ", MinPayload)
	stream := bytes.Join([][]byte{
		text(event), text(event),
		text(`{"event":"pusher:ping","data":{}}`),
		text(`{"data":"{}","event":"pusher:ping"}`),
		ws.MustCompileFrame(ws.NewPingFrame([]byte("abc"))),
		ws.MustCompileFrame(ws.NewPongFrame([]byte(pad))),
		text(`{"event":"pusher:error","data":{"code":4301,"message":"slow down` + pad + `"}}`),
		text(`not json`),
		ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(4100, "later"))),
		text(event),
	}, nil)
	if err := s.read(stream); !errors.Is(err, errCloseFrame) {
		t.Fatalf("read: %v", err)
	}
	s.end(closeAbnormal) // what the receiver reports afterwards is the same end
	closes, errs := tally.losses()
	if tally.deliveries.Load() != 2 || tally.pings.Load() != 3 || tally.sinceDue.count.Load() != 2 ||
		errs["4301"] != 1 || closes["4100"] != 1 || closes[closeAbnormal] != 0 {
		t.Errorf("deliveries %d, pings %d, samples %d, errors %v, closes %v",
			tally.deliveries.Load(), tally.pings.Load(), tally.sinceDue.count.Load(), errs, closes)
	}
	for _, want := range []string{`{"event":"pusher:pong","data":{}}`, `{"event":"pusher:pong","data":{}}`, "abc"} {
		frame, err := ws.ReadFrame(&out)
		if err != nil || !frame.Header.Masked {
			t.Fatalf("answer: masked %v, %v", frame.Header.Masked, err)
		}
		if got := string(ws.UnmaskFrame(frame).Payload); got != want {
			t.Errorf("answer %s, want %s", got, want)
		}
	}
}

func TestSamplesAreSpread(t *testing.T) {
	s := newSocket(newTally(clock{}, MinPayload, 64), io.Discard)
	var sum, draws uint32 = 0, 10_000
	for range draws {
		n := s.nextSample()
		if n < 1 || n > 127 {
			t.Fatalf("distance %d", n)
		}
		sum += n
	}
	if mean := float64(sum) / float64(draws); mean < 60 || mean > 68 {
		t.Errorf("mean distance %.1f, want 64", mean)
	}
}

func TestReadAllocatesNothing(t *testing.T) {
	s := newSocket(newTally(clock{start: time.Now()}, MinPayload, 1), nil)
	event := httpTemplate(200).append(nil, "c", 0, 0)
	read := bytes.Repeat(ws.MustCompileFrame(ws.NewTextFrame(event)), 100)
	if n := testing.AllocsPerRun(100, func() { _ = s.read(read) }); n != 0 {
		t.Errorf("%v allocations for a read", n)
	}
}

// slowPublisher takes a fixed time for each event.
type slowPublisher struct {
	took time.Duration
	dues []int64
}

func (p *slowPublisher) open(context.Context) error { return nil }
func (p *slowPublisher) close()                     {}
func (p *slowPublisher) publish(_ context.Context, _, due int64) (int, bool) {
	p.dues = append(p.dues, due)
	time.Sleep(p.took)
	return 0, true
}

// A slow publisher falls behind, but the times its events were due stay those of the
// schedule, and what it had no time for is missed.
func TestScheduleIsOpenLoop(t *testing.T) {
	synctest.Test(t, scheduleIsOpenLoop)
}

func scheduleIsOpenLoop(t *testing.T) {
	clock := newClock()
	start := int64(50 * time.Millisecond)
	l := &load{clock: clock, rate: 100, start: start, until: start + int64(time.Second), receives: []int64{3}}
	p := &slowPublisher{took: 20 * time.Millisecond}
	l.run(context.Background(), []publisher{p})
	if l.accepted.Load() != 50 || l.expected.Load() != 150 || l.missed(l.until) != 50 {
		t.Errorf("accepted %d, expected %d, missed %d", l.accepted.Load(), l.expected.Load(), l.missed(l.until))
	}
	for i, due := range p.dues {
		if want := start + int64(i)*int64(10*time.Millisecond); due != want {
			t.Fatalf("event %d due at %d, want %d", i, due, want)
		}
	}
	if behind := time.Duration(l.behindMax.Load()); behind < 400*time.Millisecond {
		t.Errorf("at most %s behind", behind)
	}
}

func TestProcess(t *testing.T) {
	p := &process{pids: []int{os.Getpid()}}
	got, err := p.usage()
	if runtime.GOOS != "linux" {
		if err == nil {
			t.Fatal("no error without /proc")
		}
		return
	}
	if err != nil || got.rss < 1<<20 || got.rss > 1<<40 || got.cpu < 0 || got.cpu > time.Hour {
		t.Errorf("usage %+v, %v", got, err)
	}
	p.pids = append(p.pids, math.MaxInt32)
	if _, err := p.usage(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unknown process: %v", err)
	}
}

func TestValidate(t *testing.T) {
	valid := DefaultConfig()
	valid.AppID, valid.Key, valid.Secret = "1", "k", "s"
	if err := valid.Validate(); err != nil {
		t.Fatal(err)
	}
	for flag, change := range map[string]func(*Config){
		"--secret":         func(c *Config) { c.Secret = "" },
		"--url":            func(c *Config) { c.URLs = []string{"ws://x:1"} },
		"--source":         func(c *Config) { c.Sources = []string{"localhost"} },
		"--idle":           func(c *Config) { c.Idle, c.Drop = true, true },
		"--via":            func(c *Config) { c.Via = "telnet" },
		"--channel-prefix": func(c *Config) { c.ChannelPrefix = "presence-x" },
		"--connections":    func(c *Config) { c.Connections = 0 },
		"--channels":       func(c *Config) { c.Channels = -1 },
		"--publishers":     func(c *Config) { c.Publishers = 0 },
		"--payload":        func(c *Config) { c.Payload = MinPayload - 1 },
		"--presence":       func(c *Config) { c.Presence = 1.1 },
		"--rate must":      func(c *Config) { c.Churn, c.Rate = true, 0 },
		"--rate":           func(c *Config) { c.Rate = math.NaN() },
		"--connect-rate":   func(c *Config) { c.ConnectRate = 0 },
		"--duration":       func(c *Config) { c.Duration = 0 },
		"--settle":         func(c *Config) { c.Settle = -1 },
	} {
		c := valid
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for raw, want := range map[string]target{
		"http://h:6001":      {"h:6001", "h:6001", ""},
		"http://h/":          {"h:80", "h", ""},
		"http://[::1]:1/a/b": {"[::1]:1", "[::1]:1", "/a/b"},
	} {
		if got, err := parseTarget(raw); err != nil || got != want {
			t.Errorf("%s: %+v, %v", raw, got, err)
		}
	}
}
