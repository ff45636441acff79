package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// IMConfig describes a run against messaging.
type IMConfig struct {
	TCP         []string // host:port of each node, for clients
	API         string   // http://host:port of any node
	Token       string   // of the API
	Senders     int
	Channels    int
	GroupSize   int // members of each channel, those who are online included
	Receivers   int // members of every channel who are online and only receive
	Persist     bool
	Payload     int
	Rate        float64 // messages a second in total; 0 for flat out
	Window      int     // messages that a sender may have under way
	Duration    time.Duration
	Warmup      time.Duration
	Timeout     time.Duration
	PIDs        []int
	Concurrency int // requests and logins in flight

	Name   string // that channels and users begin with; empty for one that no other run has
	Fill   int    // messages that each channel gets, instead of a load for Duration; 0 for a load
	Newest int    // messages that are read of channels that were filled, instead of a load; 0 for none

	Persons bool // each channel is between a sender and a person who is not online, not a group

	ackTimeout time.Duration // of the last answers of a fill; 0 for Timeout
}

// MinIMPayload is the smallest payload in bytes: it holds the time of the send.
const MinIMPayload = 8

// DefaultIMConfig is what "parley bench im" does without flags.
func DefaultIMConfig() IMConfig {
	return IMConfig{
		TCP: []string{"127.0.0.1:5100"}, API: "http://127.0.0.1:5001", Senders: 64, Channels: 64, Persist: true,
		Payload: 128, Window: 16, Duration: 10 * time.Second, Warmup: 2 * time.Second, Timeout: 30 * time.Second,
		Concurrency: 32,
	}
}

// Validate returns an error that names the flag that cannot be.
func (c IMConfig) Validate() error {
	switch {
	case len(c.TCP) == 0:
		return errors.New("--tcp is empty")
	case c.Senders < 1 || c.Channels < 1 || c.Window < 1 || c.Concurrency < 1:
		return errors.New("--senders, --channels, --window and --concurrency must be at least 1")
	case c.Receivers < 0 || c.GroupSize < 0 || c.Rate < 0:
		return errors.New("--receivers, --group-size and --rate must not be negative")
	case c.Payload < MinIMPayload:
		return fmt.Errorf("--payload must be at least %d", MinIMPayload)
	case c.Duration <= 0:
		return errors.New("--duration must be positive")
	}
	return c.validateModes()
}

func (c IMConfig) validateModes() error {
	switch {
	case c.Fill < 0 || c.Newest < 0 || c.Fill > 0 && c.Newest > 0:
		return errors.New("--fill and --newest must not be negative, and not both be given")
	case c.Newest > 0 && c.Name == "":
		return errors.New("--newest needs the --name that channels were filled under")
	case c.Persons && (c.Receivers > 0 || c.GroupSize > 0 || c.Channels < c.Senders):
		return errors.New("--persons needs as many --channels as --senders, and no --receivers and --group-size")
	case c.Fill > 0 && (c.Rate > 0 || c.Receivers > 0 || !c.Persist):
		return errors.New("--fill stores messages flat out: --rate, --receivers and --persist=false do not go with it")
	}
	return nil
}

// imRun is the state of one run.
type imRun struct {
	cfg      IMConfig
	clock    clock
	id       string // of this run alone
	name     string // that channels and users begin with
	http     *http.Client
	progress *progress
	conns    []*imConn // senders first
	from, to int64     // the window, in ns of the clock

	sent, acked, windowAcked atomic.Int64
	received, windowReceived atomic.Int64

	mu      sync.Mutex // guards the following fields
	acks    *histogram
	recvs   *histogram
	refused map[string]int64
}

// RunIM runs the benchmark that cfg describes.
func RunIM(ctx context.Context, cfg IMConfig, out io.Writer) (*IMReport, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := newIMRun(cfg, out)
	defer r.close()
	server := &process{pids: cfg.PIDs}
	if err := r.groups(ctx); err != nil { // first: it may take longer than a server keeps silent clients
		return nil, err
	}
	before, err := server.usage()
	if err != nil {
		return nil, err
	}
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	connected, err := server.usage()
	if err != nil {
		return nil, err
	}
	load := r.load
	if cfg.Fill > 0 {
		load = r.fill
	}
	begun, ended, err := load(ctx, server)
	if err != nil {
		return nil, err
	}
	report := r.report()
	if len(cfg.PIDs) > 0 {
		report.Server = &ServerReport{
			RSSBefore: before.rss, RSSConnected: connected.rss, RSSAfter: ended.rss,
			RSSPerConnection: float64(connected.rss-before.rss) / float64(len(r.conns)),
			CPU:              newCPU(ended.cpu-begun.cpu, report.Seconds, r.windowReceived.Load(), r.windowAcked.Load()),
		}
	}
	return report, nil
}

func newIMRun(cfg IMConfig, out io.Writer) *imRun {
	r := &imRun{
		cfg: cfg, clock: newClock(), id: fmt.Sprintf("bench-%08x", rand.Uint32()), name: cfg.Name,
		http:     &http.Client{Timeout: cfg.Timeout, Transport: &http.Transport{MaxIdleConnsPerHost: cfg.Concurrency}},
		progress: &progress{out: out}, acks: &histogram{}, recvs: &histogram{}, refused: map[string]int64{},
	}
	if r.name == "" {
		r.name = r.id
	}
	return r
}

func (r *imRun) close() {
	r.http.CloseIdleConnections()
	for _, c := range r.conns {
		if c != nil {
			_ = c.Close()
		}
	}
}

func (r *imRun) channel(i int) string { return fmt.Sprintf("%s-c%d", r.name, i) }
func (r *imRun) user(i int) string    { return fmt.Sprintf("%s-u%d", r.name, i) }

// kind is the type of the channels in the protocol.
func (r *imRun) kind() byte {
	if r.cfg.Persons {
		return 1
	}
	return 2
}

// connect logs everybody in.
func (r *imRun) connect(ctx context.Context) error {
	n := r.cfg.Senders + r.cfg.Receivers
	r.conns = make([]*imConn, n)
	errs := make(chan error, n)
	slots := make(chan struct{}, r.cfg.Concurrency)
	for i := range n {
		slots <- struct{}{}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		go func() {
			defer func() { <-slots }()
			c, err := dialIM(r.cfg.TCP[i%len(r.cfg.TCP)], r.user(i), r.cfg.Timeout)
			r.conns[i] = c
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			return fmt.Errorf("connect: %w", err)
		}
	}
	return nil
}

// groups makes the channels with their members, some at a time.
func (r *imRun) groups(ctx context.Context) error {
	if r.cfg.Persons {
		return nil // such a channel is there as soon as somebody sends
	}
	making, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	stop := r.progress.during(func() string {
		return fmt.Sprintf("%d of %d groups", min(int(next.Load()), r.cfg.Channels), r.cfg.Channels)
	})
	defer stop()
	var workers sync.WaitGroup
	for range min(r.cfg.Concurrency, r.cfg.Channels) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < r.cfg.Channels && making.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := r.group(making, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(making)
}

// group makes one channel. Its members are the senders who send there, everybody who receives, and as
// many who are not online as it takes.
func (r *imRun) group(ctx context.Context, i int) error {
	var members []string
	if r.cfg.Channels >= r.cfg.Senders {
		members = append(members, r.user(i%r.cfg.Senders))
	} else {
		for s := range r.cfg.Senders {
			if r.sendsTo(s, i) {
				members = append(members, r.user(s))
			}
		}
	}
	for k := range r.cfg.Receivers {
		members = append(members, r.user(r.cfg.Senders+k))
	}
	for k := len(members); k < r.cfg.GroupSize; k++ {
		members = append(members, fmt.Sprintf("%s-away%d", r.name, k))
	}
	return r.post(ctx, "/channel", map[string]any{
		"channel_id": r.channel(i), "channel_type": 2, "subscribers": members,
	}, nil)
}

// sendsTo tells whether a sender sends to a channel: each to its share of them.
func (r *imRun) sendsTo(sender, channel int) bool {
	if r.cfg.Channels >= r.cfg.Senders {
		return channel%r.cfg.Senders == sender
	}
	return sender%r.cfg.Channels == channel
}

// post asks the HTTP API; answer is what its JSON is decoded into, nil for nothing.
func (r *imRun) post(ctx context.Context, path string, what, answer any) error {
	body, err := json.Marshal(what)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.cfg.API+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("token", r.cfg.Token)
	response, err := r.http.Do(request)
	if err != nil {
		return fmt.Errorf("POST %s: %w", path, err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body) // to the end, so that the connection is used again
	switch {
	case err != nil:
		return fmt.Errorf("POST %s: %w", path, err)
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("POST %s: status %d: %s", path, response.StatusCode, text[:min(len(text), 300)])
	case answer == nil:
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("POST %s: %w", path, err)
	}
	return nil
}

// load sends and receives through the warm-up and the window, then waits for what is under way.
func (r *imRun) load(ctx context.Context, server *process) (begun, ended usage, err error) {
	r.from = r.clock.now() + int64(r.cfg.Warmup)
	r.to = r.from + int64(r.cfg.Duration)
	var reading, sending sync.WaitGroup
	for i, c := range r.conns {
		s := &imSender{run: r, conn: c, slots: make(chan struct{}, r.cfg.Window), at: map[uint32]int64{}, number: i}
		reading.Go(s.read)
		if i < r.cfg.Senders {
			sending.Go(func() { s.send(ctx) })
		}
	}
	r.clock.sleepUntil(ctx, r.from)
	if begun, err = server.usage(); err != nil {
		return begun, ended, err
	}
	r.clock.sleepUntil(ctx, r.to)
	if ended, err = server.usage(); err != nil {
		return begun, ended, err
	}
	sending.Wait()
	r.settle(ctx)
	r.close()
	reading.Wait()
	return begun, ended, ctx.Err()
}

// settle waits until all is acknowledged and received, or nothing more comes.
func (r *imRun) settle(ctx context.Context) {
	last, since := int64(-1), time.Now()
	for ctx.Err() == nil {
		now := r.acked.Load() + r.received.Load()
		if now != last {
			last, since = now, time.Now()
		}
		if r.acked.Load() == r.sent.Load() && r.received.Load() >= r.expected() || time.Since(since) > 2*time.Second {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// expected is how many messages are to be received: each by every receiver, and by those who send to
// the same channel.
func (r *imRun) expected() int64 {
	others := int64(0)
	if r.cfg.Channels < r.cfg.Senders {
		others = int64(r.cfg.Senders/r.cfg.Channels) - 1
	}
	return r.acked.Load() * (int64(r.cfg.Receivers) + others)
}

// imSender is one connection under load.
type imSender struct {
	run    *imRun
	conn   *imConn
	number int
	slots  chan struct{} // one for each message under way
	acks   []byte        // RECVACKs that are not sent yet

	mu sync.Mutex
	at map[uint32]int64 // when messages under way were sent, by their number; guarded by mu
}

// send sends until the window ends.
func (s *imSender) send(ctx context.Context) {
	r := s.run
	channels := s.channels()
	payload := make([]byte, r.cfg.Payload)
	due := r.clock.now()
	step := int64(0)
	if r.cfg.Rate > 0 {
		step = int64(float64(time.Second) * float64(r.cfg.Senders) / r.cfg.Rate)
		due += step * int64(s.number) / int64(r.cfg.Senders)
	}
	for seq := uint32(1); r.clock.now() < r.to; seq++ {
		if step > 0 && !r.clock.sleepUntil(ctx, due) {
			return
		}
		at := int64(0)
		if step > 0 { // a server that makes senders wait cannot hide it
			at = due
			due += step
		}
		if !s.sendOne(ctx, seq, channels[int(seq)%len(channels)], payload, at) {
			return
		}
	}
}

// channels returns the channels that it sends to.
func (s *imSender) channels() []string {
	var channels []string
	for i := range s.run.cfg.Channels {
		if s.run.sendsTo(s.number, i) {
			channels = append(channels, s.run.channel(i))
		}
	}
	return channels
}

// sendOne sends a message as soon as one may be under way. The time of its send is at, or now for 0. It
// returns false when no more can be sent.
func (s *imSender) sendOne(ctx context.Context, seq uint32, channel string, payload []byte, at int64) bool {
	r := s.run
	late := time.NewTimer(r.cfg.Timeout)
	defer late.Stop()
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return false
	case <-late.C:
		return false
	}
	if at == 0 {
		at = r.clock.now()
	}
	binary.BigEndian.PutUint64(payload, uint64(at))
	s.mu.Lock()
	s.at[seq] = at
	s.mu.Unlock()
	no := fmt.Sprintf("%s-u%d-%d", r.id, s.number, seq)
	r.sent.Add(1)
	_, err := s.conn.Write(s.conn.sendFrame(seq, no, channel, r.kind(), r.cfg.Persist, payload))
	return err == nil
}

// read takes what comes until the connection is closed.
func (s *imSender) read() {
	for {
		first, body, err := s.conn.frame()
		if err != nil {
			return
		}
		switch first >> 4 {
		case imSendack:
			s.acked(body)
		case imRecv:
			s.received(body)
		}
	}
}

func (s *imSender) acked(body []byte) {
	if len(body) < 17 {
		return
	}
	r := s.run
	seq := binary.BigEndian.Uint32(body[8:])
	s.mu.Lock()
	at := s.at[seq]
	delete(s.at, seq)
	s.mu.Unlock()
	<-s.slots
	now := r.clock.now()
	if reason := body[16]; reason != 1 {
		r.mu.Lock()
		r.refused[fmt.Sprintf("reason %d", reason)]++
		r.mu.Unlock()
		return
	}
	r.acked.Add(1)
	if now >= r.from && now < r.to {
		r.windowAcked.Add(1)
		r.mu.Lock()
		r.acks.record(now - at)
		r.mu.Unlock()
	}
}

func (s *imSender) received(body []byte) {
	r := s.run
	payload, id, seq, err := s.conn.recvPayload(body)
	if err != nil || len(payload) < MinIMPayload {
		return
	}
	now := r.clock.now()
	r.received.Add(1)
	if r.cfg.Persist {
		s.acks = append(s.acks, imAckFrame(id, seq)...)
		if s.conn.in.Buffered() == 0 { // confirm together what came together
			_, _ = s.conn.Write(s.acks) // a closed connection ends the reading
			s.acks = s.acks[:0]
		}
	}
	if now >= r.from && now < r.to {
		r.windowReceived.Add(1)
		if at := int64(binary.BigEndian.Uint64(payload)); at > 0 && at <= now {
			r.mu.Lock()
			r.recvs.record(now - at)
			r.mu.Unlock()
		}
	}
}
