// Package hook tells the application of messages and logins, by the webhooks of WuKongIM over a durable
// queue: signed, repeated until they are taken, and kept as dead letters when they are given up.
//
// It may import im, its journal, message and api for the shape of messages, and fabric for the queue. It
// must never import another surface, the cluster or the engine.
package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im"
)

// Events that are told.
const (
	EventOnline  = "user.onlinestatus"
	EventStored  = "msg.notify"
	EventOffline = "msg.offline"
)

const (
	// onlineInterval is how long logins and logouts are collected.
	onlineInterval = 2 * time.Second
	// maxOnline bounds those that wait; beyond it the oldest goes.
	maxOnline = 10000
	// enqueueTimeout bounds handing something to the queue.
	enqueueTimeout = 10 * time.Second
)

// Options configure Hooks.
type Options struct {
	URL      string // of the application, over HTTP; empty for nowhere
	GRPCAddr string // host:port of the application, over gRPC; then URL is told nothing
	AgentURL string // is told of the messages of agents, beside the application; empty for nowhere
	NodeID   uint16 // of this node, in message IDs
	Secret   string // of the signature; empty for none
	Events   []string
	Interval time.Duration // that messages wait for others
	Batch    int           // messages in one request
	// CompressAbove is from how many users on the list of an offline message is compressed; 0 is never.
	CompressAbove int
	Timeout       time.Duration
	Retry         fabric.RetryPolicy
	Concurrency   int
	MaxDead       int
	Logger        *slog.Logger
	// Sent counts requests by their outcome: "delivered", "failed", "dead_letter".
	Sent func(outcome string)
	// Dropped counts what is lost.
	Dropped func(reason string)
}

const (
	// DropOnline: a login or logout that was pushed out by newer ones.
	DropOnline = "im_online_status"
	// DropPayload: a payload that is too large for a webhook, which is told without it.
	DropPayload = "im_webhook_payload"
)

// QueueConfig is that of the queue which Hooks take.
func (o Options) QueueConfig() fabric.QueueConfig {
	return fabric.QueueConfig{
		Name: "im-webhooks", Visibility: 30 * time.Second, MaxJobs: 1_000_000, MaxDead: o.MaxDead, Retry: o.Retry,
		Concurrency: o.Concurrency,
		Dead: func(letter fabric.DeadLetter) {
			o.Sent("dead_letter")
			o.Logger.Warn("webhook is a dead letter now", "id", letter.ID, "attempts", letter.Attempt, "error", letter.Reason)
		},
	}
}

// Hooks tell the application.
type Hooks struct {
	options Options
	queue   fabric.Queue
	app     sender // nil when the application is told of nothing
	agents  sender // nil when nobody is told of the messages of agents

	mu     sync.Mutex
	online []string // logins and logouts that wait; guarded by mu
}

var _ im.Reports = (*Hooks)(nil)

// New returns hooks that use a queue opened with QueueConfig. Close ends them.
func New(options Options, queue fabric.Queue) (*Hooks, error) {
	h := &Hooks{options: options, queue: queue}
	var err error
	switch {
	case options.GRPCAddr != "": // as in the original, instead of HTTP
		h.app, err = newGRPCSender(options)
	case options.URL != "":
		h.app, err = newHTTPSender(options, options.URL)
	}
	if err == nil && options.AgentURL != "" {
		h.agents, err = newHTTPSender(options, options.AgentURL)
	}
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// Close drops the connections to the application, after Run has returned.
func (h *Hooks) Close() error {
	var errs []error
	for _, s := range []sender{h.app, h.agents} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	return errors.Join(errs...)
}

// wants tells whether the application is told of an event.
func (h *Hooks) wants(event string) bool {
	return h.app != nil && (len(h.options.Events) == 0 || slices.Contains(h.options.Events, event))
}

// Online implements im.Reports.
func (h *Hooks) Online(s im.OnlineStatus) {
	if !h.wants(EventOnline) {
		return
	}
	online := 0
	if s.Online {
		online = 1
	}
	text := fmt.Sprintf("%s-%d-%d-%d-%d-%d", s.UID, s.Flag, online, s.Conn, s.OfFlag, s.Total)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.online) >= maxOnline {
		h.options.Dropped(DropOnline)
		h.online = h.online[1:]
	}
	h.online = append(h.online, text)
}

// Run tells until ctx ends: what this node's clients do, and what is stored in the slots that it owns.
func (h *Hooks) Run(ctx context.Context, server *im.Server) error {
	var all sync.WaitGroup
	all.Go(func() { h.runOnline(ctx) })
	if h.wants(EventStored) || h.wants(EventOffline) || h.agents != nil {
		for slot := range server.Journal().Slots() {
			all.Go(func() { (&teller{h, server, slot, 0}).run(ctx) })
		}
	}
	err := h.queue.Work(ctx, h.send)
	all.Wait()
	if err != nil {
		return fmt.Errorf("send webhooks of messaging: %w", err)
	}
	return nil
}

// runOnline hands logins and logouts to the queue, also those of the node's end.
func (h *Hooks) runOnline(ctx context.Context) {
	ticker := time.NewTicker(onlineInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
		h.mu.Lock()
		list := h.online
		h.online = nil
		h.mu.Unlock()
		if len(list) == 0 {
			continue
		}
		if err := h.enqueue(context.WithoutCancel(ctx), "", toApp, EventOnline, list); err != nil {
			h.options.Dropped(DropOnline)
			h.options.Logger.Warn("logins and logouts are not told", "count", len(list), "error", err)
		}
	}
}

// receiver is who gets a request.
type receiver string

const (
	toApp    receiver = ""
	toAgents receiver = "agents"
)

// job is a request to be sent.
type job struct {
	Event string          `json:"event"`
	Body  json.RawMessage `json:"body"`
	To    receiver        `json:"to,omitempty"`
}

// enqueue stores a request. One with an ID that was stored before is not stored again.
func (h *Hooks) enqueue(ctx context.Context, id string, to receiver, event string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	payload, err := json.Marshal(job{event, data, to})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, enqueueTimeout)
	defer cancel()
	_, err = h.queue.Enqueue(ctx, fabric.Job{ID: id, Payload: payload})
	return err
}

// send delivers one request.
func (h *Hooks) send(ctx context.Context, queued fabric.Job) error {
	err := h.try(ctx, queued)
	if err != nil {
		h.options.Sent("failed")
		return err
	}
	h.options.Sent("delivered")
	return nil
}

// errNobody says that who is to get a request is not configured any more.
var errNobody = errors.New("the configuration names nobody who is told of it any more")

func (h *Hooks) try(ctx context.Context, queued fabric.Job) error {
	var j job
	if err := json.Unmarshal(queued.Payload, &j); err != nil {
		return fmt.Errorf("%w: %w", fabric.ErrGiveUp, err)
	}
	to := h.app
	if j.To == toAgents {
		to = h.agents
	}
	if to == nil {
		return fmt.Errorf("webhook %s: %w: %w", j.Event, fabric.ErrGiveUp, errNobody)
	}
	r := request{delivery: queued.ID, event: j.Event, body: j.Body}
	if h.options.Secret != "" {
		r.signature = Sign(h.options.Secret, j.Body)
	}
	if err := to.send(ctx, r); err != nil {
		return fmt.Errorf("webhook %s: %w", j.Event, err)
	}
	return nil
}

// DeadLetter is a request that was given up.
type DeadLetter struct {
	ID       string    `json:"id"`
	Event    string    `json:"event"`
	Attempts int       `json:"attempts"`
	Reason   string    `json:"reason"`
	FailedAt time.Time `json:"failed_at"`
}

// DeadLetters returns requests that were given up, the oldest first, behind the one with an ID.
func (h *Hooks) DeadLetters(ctx context.Context, after string, limit int) (any, error) {
	letters, err := h.queue.DeadLetters(ctx, after, limit)
	list := make([]DeadLetter, len(letters))
	for i, letter := range letters {
		var j job
		_ = json.Unmarshal(letter.Payload, &j) // one that cannot be read has no event
		list[i] = DeadLetter{letter.ID, j.Event, letter.Attempt, letter.Reason, letter.FailedAt}
	}
	return list, err
}

// Replay sends a request again that was given up.
func (h *Hooks) Replay(ctx context.Context, id string) error { return h.queue.Replay(ctx, id) }
