package bench

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// publishGrace is how long publishes may take that were begun before the end.
const publishGrace = 5 * time.Second

// publisher sends events, one at a time.
type publisher interface {
	// open makes the publisher ready, before the first publish.
	open(ctx context.Context) error
	// publish sends event number i, which was due at that time. It returns the channel it
	// used, as an index, and whether the server (or its socket) took the event. What it
	// did not take it counts in the load's failures.
	publish(ctx context.Context, i, due int64) (channel int, ok bool)
	close()
}

// load drives all publishers of a run along one schedule.
type load struct {
	clock    clock
	rate     float64
	start    int64   // when event 0 is due, ns
	until    int64   // when publishing ends, ns
	receives []int64 // deliveries that an accepted event on each channel should cause

	next      atomic.Int64 // number of the next event
	accepted  atomic.Int64
	expected  atomic.Int64 // deliveries of all accepted events
	failed    failures
	refused   failures     // by HTTP status
	behindMax atomic.Int64 // ns by which the latest event missed its schedule
	calls     histogram    // from sending to the server's response, in the measured window
	tally     *tally
}

// run publishes until the schedule ends or ctx does.
func (l *load) run(ctx context.Context, publishers []publisher) {
	left := time.Duration(l.until - l.clock.now())
	ctx, cancel := context.WithTimeout(ctx, left+publishGrace)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range publishers {
		wg.Go(func() { l.drive(ctx, p) })
	}
	wg.Wait()
}

// drive takes the next due event whenever p is free, so that one slow response delays
// only what it must. An event for which nobody was free in time stays due at that time:
// the server made it late. One for which p only overslept is due when p wakes, because
// that was the fault of this process.
func (l *load) drive(ctx context.Context, p publisher) {
	if !l.clock.sleepUntil(ctx, l.start) {
		return
	}
	for {
		i := l.next.Add(1) - 1
		now := l.clock.now()
		due := l.due(i, now)
		if due >= l.until || now >= l.until || !l.clock.sleepUntil(ctx, due) {
			l.next.Add(-1) // not attempted
			return
		}
		awake := l.clock.now()
		l.noteBehind(awake - due)
		if now < due {
			due = awake
		}
		if channel, ok := p.publish(ctx, i, due); ok {
			l.accepted.Add(1)
			l.expected.Add(l.receives[channel])
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// due is when event i should be sent: by schedule, or now when running flat out.
func (l *load) due(i, now int64) int64 {
	if l.rate == 0 {
		return now
	}
	return l.start + int64(float64(i)*float64(time.Second)/l.rate)
}

func (l *load) noteBehind(ns int64) {
	for {
		seen := l.behindMax.Load()
		if ns <= seen || l.behindMax.CompareAndSwap(seen, ns) {
			return
		}
	}
}

// missed is how many events the schedule demanded and nobody was free to send.
func (l *load) missed(end int64) int64 {
	if l.rate == 0 {
		return 0
	}
	elapsed := float64(min(end, l.until)-l.start) / float64(time.Second)
	return max(int64(math.Floor(elapsed*l.rate))-l.next.Load(), 0)
}

// template is the text of an event around its channel and its stamp.
type template struct {
	head, middle, tail string
}

func (t template) append(dst []byte, channel string, due, sent int64) []byte {
	dst = append(dst, t.head...)
	dst = append(dst, channel...)
	dst = append(dst, t.middle...)
	dst = appendStamp(dst, due, sent)
	return append(dst, t.tail...)
}

// httpTemplate is the body of POST /apps/{id}/events. The data is a string that holds
// JSON, as the server libraries send it.
func httpTemplate(payload int) template {
	escape := func(s string) string { return strings.ReplaceAll(s, `"`, `\"`) }
	return template{
		head:   `{"name":"bench","channels":["`,
		middle: `"],"data":"` + escape(dataHead),
		tail:   escape(dataNext) + padding(payload) + escape(dataTail) + `"}`,
	}
}

// clientEventTemplate is a client event whose data is an object.
func clientEventTemplate(payload int) template {
	return template{
		head:   `{"event":"client-bench","channel":"`,
		middle: `","data":` + dataHead,
		tail:   dataNext + padding(payload) + dataTail + "}",
	}
}

func padding(payload int) string { return strings.Repeat("x", payload-MinPayload) }

// newPublishers makes the publishers and fills in what each event should cause.
func (r *runner) newPublishers(l *load) []publisher {
	list := make([]publisher, r.cfg.Publishers)
	l.receives = append([]int64(nil), r.members...)
	if r.cfg.Via == ViaHTTP {
		for i := range list {
			list[i] = newHTTPPublisher(r, l, i)
		}
		return list
	}
	sockets := newReaders()
	for i := range list {
		p := newEventPublisher(r, l, sockets, i)
		for _, c := range p.channels {
			l.receives[c]++
		}
		list[i] = p
	}
	for c := range l.receives {
		l.receives[c]-- // nobody receives its own client event
	}
	return list
}

// openAll opens every publisher, or none.
func openAll(ctx context.Context, publishers []publisher) error {
	for i, p := range publishers {
		if err := p.open(ctx); err != nil {
			closeAll(publishers[:i])
			return fmt.Errorf("connect publisher %d: %w", i+1, err)
		}
	}
	return nil
}

func closeAll(publishers []publisher) {
	for _, p := range publishers {
		p.close()
	}
}
