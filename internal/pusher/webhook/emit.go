package webhook

import (
	"container/list"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/apps"
)

// A request body grows to softBodyBytes, which common receivers accept. A single event may
// be larger, up to what a job can carry beside its address.
const (
	softBodyBytes  = 256 << 10
	eventBytesMax  = fabric.MaxValueSize - addressBytes
	addressBytes   = 16 << 10 // app id, URL, time and the names of the fields
	urlBytesMax    = 8 << 10
	separatorBytes = 1 // the comma between two events
)

// destination is where a batch goes. Hooks of one app that share an address are one: an
// event that several of them want is sent once.
type destination struct {
	appID, url string
}

// batch is a group of events for one destination.
type batch struct {
	to      destination
	events  []json.RawMessage
	bytes   int
	due     time.Time     // when it is closed although it is not full
	element *list.Element // in openOrder while it is open
	timeMS  int64         // when it was closed, Unix time in milliseconds
	done    chan struct{} // closed when the batch is in the queue or dropped
}

// Emit sends the event to the hooks of the app that want it. It never waits: what is over
// the limits is dropped and counted. An unknown app has no hooks. Channels that begin with
// # are the server's own and never cause webhooks.
//
// A leave (channel_vacated, member_removed) is held back for LeaveDebounce. A return
// (channel_occupied, member_added) in that time to the same channel, and of the same user,
// cancels it, and neither is sent. Without a ledger this needs both to be emitted on the
// same node.
func (e *Emitter) Emit(appID string, event Event) {
	if strings.HasPrefix(event.channel, "#") {
		return
	}
	opposite := event.opposite()
	if e.ledger != nil && opposite != "" {
		e.change(appID, event)
		return
	}
	app, found := e.apps.ByID(appID)
	if !found {
		return
	}
	urls := wantedBy(app, event.name, event.channel)
	// A hook for one of the two opposites alone still needs the other to be tracked.
	if len(urls) == 0 && (opposite == "" || len(wantedBy(app, opposite, event.channel)) == 0) {
		return
	}
	body := event.encode()

	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	e.takeDueLeaves(now)
	if opposite != "" && !e.stopped {
		key := event.about(appID)
		if event.leaves() && e.leaves.hold(key, event, now) {
			e.signal()
			return
		}
		if !event.leaves() && e.leaves.cancel(key) {
			return
		}
	}
	e.add(appID, urls, body, now)
}

// wantedBy returns the addresses of the app's hooks that want an event of that name on
// that channel, each once.
func wantedBy(app *apps.App, name, channel string) []string {
	var urls []string
	for i := range app.Webhooks {
		hook := &app.Webhooks[i]
		if len(hook.EventTypes) > 0 && !slices.Contains(hook.EventTypes, name) {
			continue
		}
		if !hook.Filter.Match(channel) || slices.Contains(urls, hook.URL) {
			continue
		}
		urls = append(urls, hook.URL)
	}
	return urls
}

// takeDueLeaves sends the leaves whose time is over.
func (e *Emitter) takeDueLeaves(now time.Time) {
	for _, held := range []*leaves{e.leaves, e.found} {
		for _, leave := range held.takeDue(now) {
			e.addLeave(leave, now)
		}
	}
}

// letGo ends the wait of all leaves: they are sent, or, with a ledger, left to the node that
// compares next.
func (e *Emitter) letGo(now time.Time) {
	e.found.takeAll()
	for _, leave := range e.leaves.takeAll() {
		if e.ledger == nil {
			e.addLeave(leave, now)
		}
	}
}

// addLeave sends a leave whose time is over to the hooks that the app has now.
func (e *Emitter) addLeave(leave leave, now time.Time) {
	if e.ledger != nil {
		e.ledger.add(leave.key, leave.event, 0) // the view may be another by now
		return
	}
	app, found := e.apps.ByID(leave.key.appID)
	if !found {
		return
	}
	urls := wantedBy(app, leave.event.name, leave.event.channel)
	e.add(leave.key.appID, urls, leave.event.encode(), now)
}

// add puts an event into the open batch of each address, or drops it.
func (e *Emitter) add(appID string, urls []string, body []byte, now time.Time) {
	for _, url := range urls {
		switch {
		case e.stopped:
			e.metrics.Dropped(DropShutdown, 1)
		case len(body) > eventBytesMax || len(url) > urlBytesMax:
			e.metrics.Dropped(DropTooLarge, 1)
		case e.pending >= e.options.MaxPending ||
			e.pendingBytes+len(body) > e.options.MaxPendingBytes:
			e.metrics.Dropped(DropPendingFull, 1)
		default:
			e.addTo(destination{appID: appID, url: url}, body, now)
		}
	}
}

func (e *Emitter) addTo(to destination, body []byte, now time.Time) {
	current := e.open[to]
	if current != nil && current.bytes+len(body)+separatorBytes > softBodyBytes {
		e.closeBatch(current, now)
		current = nil
	}
	if current == nil {
		current = &batch{
			to:   to,
			due:  now.Add(e.options.BatchInterval),
			done: make(chan struct{}),
		}
		current.element = e.openOrder.PushBack(current)
		e.open[to] = current
		e.signal()
	}
	current.events = append(current.events, body)
	current.bytes += len(body) + separatorBytes
	e.pending++
	e.pendingBytes += len(body) + separatorBytes
	if len(current.events) >= e.options.BatchSize {
		e.closeBatch(current, now)
	}
}

// closeBatch moves an open batch to the end of those that are ready.
func (e *Emitter) closeBatch(b *batch, now time.Time) {
	e.openOrder.Remove(b.element)
	delete(e.open, b.to)
	b.timeMS = now.UnixMilli()
	e.ready = append(e.ready, b)
	e.lastDone = b.done
	e.signal()
}

// signal wakes the loop; a signal that it has not yet seen is enough.
func (e *Emitter) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}
