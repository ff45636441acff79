package im

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
)

// Limits of questions to the datasource.
const (
	sourceTimeout = 5 * time.Second
	maxSource     = 32 << 20 // bytes of one answer
	// sourceSlots bounds the channels that are asked for at once, and maxSourceWaiting those who wait for
	// one of them.
	sourceSlots      = 16
	maxSourceWaiting = 10000
)

// source asks the application for channels that nobody has told of: who is a member, who is on the
// lists, and the flags. What it answers is kept like what the application tells by the API, so it is
// asked once.
type source struct {
	server *Server
	client *http.Client
	slots  chan struct{}

	mu      sync.Mutex
	life    context.Context // ends with the server
	end     context.CancelFunc
	waiting map[message.Channel][]func() // guarded by mu
	count   int
	running sync.WaitGroup
}

func newSource(s *Server) *source {
	life, end := context.WithCancel(context.Background())
	return &source{
		life: life, end: end, server: s, client: &http.Client{Timeout: sourceTimeout}, slots: make(chan struct{}, sourceSlots),
		waiting: map[message.Channel][]func(){},
	}
}

// unknown tells whether the datasource has to be asked for a channel.
func (o *source) unknown(c message.Channel) bool {
	if o == nil || c.Type == message.Person || c.Type == message.Temporary {
		return false
	}
	_, exists, err := o.server.registry.Channel(c.Base())
	return err == nil && !exists
}

// load asks for a channel, and calls then when the answer is kept or could not be had. It returns false
// when too many wait.
func (o *source) load(c message.Channel, then func()) bool {
	c = c.Base()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count >= maxSourceWaiting {
		return false
	}
	o.count++
	first := o.waiting[c] == nil
	o.waiting[c] = append(o.waiting[c], then)
	if first {
		o.running.Go(func() { o.fetch(c) })
	}
	return true
}

func (o *source) fetch(c message.Channel) {
	o.slots <- struct{}{}
	ctx, cancel := context.WithTimeout(o.life, 4*sourceTimeout)
	err := o.keep(ctx, c)
	cancel()
	<-o.slots
	if err != nil {
		o.server.metrics.dropped(dropSource)
		o.server.options.Logger.Warn("the datasource does not tell of a channel", "channel", c.Key(), "error", err)
	}
	o.mu.Lock()
	waiting := o.waiting[c]
	delete(o.waiting, c)
	o.count -= len(waiting)
	o.mu.Unlock()
	for _, then := range waiting {
		then()
	}
}

// keep asks for a channel and keeps what the answers say.
func (o *source) keep(ctx context.Context, c message.Channel) error {
	about := map[string]any{"channel_id": c.ID, "channel_type": c.Type}
	var info struct{ Large, Ban, Disband json.Number }
	if o.server.options.DatasourceInfo {
		if err := o.ask(ctx, "getChannelInfo", about, &info); err != nil {
			return err
		}
	}
	head, err := o.server.journal.Head(c)
	if err != nil {
		return err
	}
	for _, list := range []struct {
		cmd    string
		kind   registry.Kind
		joined uint64
	}{
		{"getSubscribers", registry.Members, head.Seq}, {"getBlacklist", registry.Deny, 0}, {"getWhitelist", registry.Allow, 0},
	} {
		var uids []string
		if err := o.ask(ctx, list.cmd, about, &uids); err != nil {
			return err
		}
		members := make([]registry.Member, 0, len(uids))
		for _, uid := range uids {
			if message.CheckID(uid) {
				members = append(members, registry.Member{UID: uid, Joined: list.joined})
			}
		}
		if _, err := o.server.registry.Add(ctx, list.kind, c, members); err != nil {
			return err
		}
	}
	seq, err := o.server.registry.ChangeChannel(ctx, c, func(known *registry.Channel) {
		known.Created = time.Now().UnixMilli()
		known.Large, known.Ban, known.Disband = info.Large == "1", info.Ban == "1", info.Disband == "1"
	})
	if err != nil {
		return err
	}
	o.server.Spread(ctx, seq)
	return nil
}

// keepSystem asks for the system accounts.
func (o *source) keepSystem(ctx context.Context) error {
	var uids []string
	if err := o.ask(ctx, "getSystemUIDs", map[string]any{}, &uids); err != nil {
		return err
	}
	members := make([]registry.Member, 0, len(uids))
	for _, uid := range uids {
		if message.CheckID(uid) {
			members = append(members, registry.Member{UID: uid})
		}
	}
	_, err := o.server.registry.Add(ctx, registry.System, registry.SystemChannel, members)
	return err
}

// ask puts one question.
func (o *source) ask(ctx context.Context, cmd string, data, answer any) error {
	body, err := json.Marshal(map[string]any{"cmd": cmd, "data": data})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, o.server.options.Datasource, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the datasource: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := o.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the datasource for %s: %w", cmd, err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxSource))
	switch {
	case err != nil:
		return fmt.Errorf("ask the datasource for %s: %w", cmd, err)
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("ask the datasource for %s: it answers %s", cmd, response.Status)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("ask the datasource for %s: read the answer: %w", cmd, err)
	}
	return nil
}
