// Package hook tells the application of messages and logins, by the webhooks of WuKongIM over a durable
// queue: signed, repeated until they are taken, and kept as dead letters when they are given up.
//
// It may import im, its journal, message and api for the shape of messages, and fabric for the queue. It
// must never import another surface, the cluster or the engine.
package hook

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im"
	"github.com/parleyio/parley/internal/im/api"
	"github.com/parleyio/parley/internal/im/message"
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
	// slotPause is between two looks of a node whether it owns a slot, and after an error.
	slotPause = 500 * time.Millisecond
	// maxAnswer is how much of an answer is read, so that its connection can be used again.
	maxAnswer = 64 << 10
)

// SignatureHeader has the HMAC-SHA256 of the body in hex, DeliveryHeader what is the same for all tries.
const (
	SignatureHeader = "X-Parley-Signature"
	DeliveryHeader  = "X-Parley-Delivery"
)

// Options configure Hooks.
type Options struct {
	URL      string
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
	client  *http.Client

	mu     sync.Mutex
	online []string // logins and logouts that wait; guarded by mu
}

var _ im.Reports = (*Hooks)(nil)

// New returns hooks that use a queue opened with QueueConfig.
func New(options Options, queue fabric.Queue) *Hooks {
	return &Hooks{options: options, queue: queue, client: &http.Client{
		Timeout:       options.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (h *Hooks) wants(event string) bool {
	return len(h.options.Events) == 0 || slices.Contains(h.options.Events, event)
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
	if h.wants(EventStored) || h.wants(EventOffline) {
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
		if err := h.enqueue(context.WithoutCancel(ctx), "", EventOnline, list); err != nil {
			h.options.Dropped(DropOnline)
			h.options.Logger.Warn("logins and logouts are not told", "count", len(list), "error", err)
		}
	}
}

// job is a request to be sent.
type job struct {
	Event string          `json:"event"`
	Body  json.RawMessage `json:"body"`
}

// enqueue stores a request. One with an ID that was stored before is not stored again.
func (h *Hooks) enqueue(ctx context.Context, id, event string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	payload, err := json.Marshal(job{event, data})
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
	err := h.post(ctx, queued)
	if err != nil {
		h.options.Sent("failed")
		return err
	}
	h.options.Sent("delivered")
	return nil
}

func (h *Hooks) post(ctx context.Context, queued fabric.Job) error {
	var j job
	if err := json.Unmarshal(queued.Payload, &j); err != nil {
		return fmt.Errorf("%w: %w", fabric.ErrGiveUp, err)
	}
	target, err := url.Parse(h.options.URL)
	if err != nil {
		return fmt.Errorf("%w: %w", fabric.ErrGiveUp, err)
	}
	query := target.Query()
	query.Set("event", j.Event)
	target.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(j.Body))
	if err != nil {
		return fmt.Errorf("%w: %w", fabric.ErrGiveUp, err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(DeliveryHeader, queued.ID)
	if h.options.Secret != "" {
		request.Header.Set(SignatureHeader, Sign(h.options.Secret, j.Body))
	}
	response, err := h.client.Do(request)
	if err != nil {
		return fmt.Errorf("webhook %s: %w", j.Event, err)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer))
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("webhook %s: the application answered %s", j.Event, response.Status)
	}
	return nil
}

// Sign returns the signature of a body.
func Sign(secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// teller tells of the messages of one slot while this node owns it. It reads the log behind a mark that
// all nodes share, and moves the mark when what it read is in the queue: so nothing is left out when
// the owner dies, and what is told twice has the same delivery number.
type teller struct {
	*Hooks
	server *im.Server
	slot   int
	mark   uint64 // 0 when it is not known
}

func (t *teller) run(ctx context.Context) {
	for ctx.Err() == nil {
		if !t.server.Owns(t.slot) {
			t.mark = 0 // another moves it now
			fabric.Pause(ctx, slotPause)
			continue
		}
		told, err := t.tell(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			t.options.Logger.Warn("messages are not told yet", "slot", t.slot, "error", err)
			t.mark = 0
			fabric.Pause(ctx, slotPause)
		case told < t.options.Batch:
			fabric.Pause(ctx, t.options.Interval)
		}
	}
}

// tell hands the next messages to the queue and returns how many entries it read.
func (t *teller) tell(ctx context.Context) (int, error) {
	name := "webhook-" + strconv.Itoa(t.slot)
	if t.mark == 0 {
		mark, known, err := t.server.Registry().Mark(name)
		if err != nil {
			return 0, err
		}
		if !known { // webhooks are new here: what is old is not told
			mark = t.server.Journal().Position(t.slot)
			if err := t.server.Registry().SetMark(ctx, name, mark); err != nil {
				return 0, err
			}
		}
		t.mark = mark
	}
	if t.server.Journal().Position(t.slot) <= t.mark {
		return 0, nil
	}
	list, last, err := t.server.Journal().Entries(ctx, t.slot, t.mark+1, t.options.Batch)
	if err != nil || last == 0 {
		return 0, err
	}
	if err := t.notify(ctx, list); err != nil {
		return 0, err
	}
	for _, m := range list {
		if err := t.offline(ctx, m); err != nil {
			return 0, err
		}
	}
	if err := t.server.Registry().SetMark(ctx, name, last); err != nil {
		return 0, err
	}
	t.mark = last
	return len(list), nil
}

func (t *teller) notify(ctx context.Context, list []*message.Message) error {
	if len(list) == 0 || !t.wants(EventStored) {
		return nil
	}
	var rows []api.Message
	size := 0
	for _, m := range list {
		if size += len(m.Payload)*4/3 + rowSize; len(rows) > 0 && (size > maxBody || len(rows) == t.options.Batch) {
			if err := t.notifyRows(ctx, rows); err != nil {
				return err
			}
			rows, size = nil, len(m.Payload)*4/3+rowSize
		}
		rows = append(rows, api.View(m, ""))
	}
	return t.notifyRows(ctx, rows)
}

const (
	// maxBody is about how large a request gets: the queue carries fabric.MaxValueSize.
	maxBody = 300 << 10
	// rowSize is more than a message takes beside its payload.
	rowSize = 2 << 10
)

// notifyRows stores one request. Its number says which messages are in it: another number of them is
// another request.
func (t *teller) notifyRows(ctx context.Context, rows []api.Message) error {
	first, last := rows[0].MessageID, rows[len(rows)-1].MessageID
	id := "notify-" + strconv.FormatInt(first, 36) + "-" + strconv.FormatInt(last, 36)
	err := t.enqueue(ctx, id, EventStored, rows)
	if errors.Is(err, fabric.ErrTooLarge) && len(rows) == 1 { // told without its payload
		t.options.Dropped(DropPayload)
		rows[0].Payload = nil
		err = t.enqueue(ctx, id, EventStored, rows)
	}
	return err
}

// offlineMessage is a message with those of its recipients who are not online.
type offlineMessage struct {
	api.Message
	ToUIDs         []string `json:"to_uids,omitempty"`
	Compress       string   `json:"compress,omitempty"`
	CompressToUIDs string   `json:"compress_to_uids,omitempty"`
	SourceID       uint16   `json:"source_id,omitempty"`
}

func (t *teller) offline(ctx context.Context, m *message.Message) error {
	if !t.wants(EventOffline) {
		return nil
	}
	away := t.server.Away(m)
	if len(away) == 0 {
		return nil
	}
	row := offlineMessage{Message: api.View(m, ""), ToUIDs: away}
	if above := t.options.CompressAbove; above > 0 && len(away) > above {
		packed, err := pack(away)
		if err != nil {
			return err
		}
		row.ToUIDs, row.Compress, row.CompressToUIDs = nil, "gzip", packed
	}
	err := t.enqueue(ctx, "offline-"+strconv.FormatInt(m.ID, 36), EventOffline, row)
	if errors.Is(err, fabric.ErrTooLarge) { // a very large group: in parts
		return t.offlineParts(ctx, m, row, away)
	}
	return err
}

// offlinePart is how many users a part of an offline message names.
const offlinePart = 5000

func (t *teller) offlineParts(ctx context.Context, m *message.Message, row offlineMessage, away []string) error {
	row.Compress, row.CompressToUIDs = "", ""
	if len(row.Payload)*4/3 > maxBody/2 {
		t.options.Dropped(DropPayload)
		row.Payload = nil
	}
	part := 0
	for uids := range slices.Chunk(away, offlinePart) {
		row.ToUIDs = uids
		id := fmt.Sprintf("offline-%s-%d", strconv.FormatInt(m.ID, 36), part)
		if err := t.enqueue(ctx, id, EventOffline, row); err != nil {
			return err
		}
		part++
	}
	return nil
}

// pack compresses a list as the original does: base64 of the gzip of its JSON.
func pack(uids []string) (string, error) {
	data, err := json.Marshal(uids)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(out.Bytes()), nil
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
