// Package webhook tells the applications' own servers what happens on their channels: it
// turns events into signed POST requests in the form of the Pusher protocol.
//
// An event takes this way. Emit finds the hooks that want it; a leave is held back for a
// moment in case the one who left returns; the event joins the open batch of its hook; a
// full or old batch is put into a durable queue; a worker of that queue, on any node, signs
// the batch with the application's current secret and posts it. Up to the queue, memory is
// bounded and the order of each hook's events is kept. From the queue on, nothing is lost
// and batches may overtake each other, as they do with retries at Pusher too.
//
// # With several nodes
//
// Every node sees every transition (channel_occupied, channel_vacated, member_added,
// member_removed) and may take itself for the one to report it, or nobody may: nodes die, are
// paused and cut off. So Join gives the emitters a ledger: documents that say of each channel
// and member that it was reported. A transition is written there first, in one step
// (fabric.Documents.Commit) with the node's outbox, which holds what is to be sent; a
// transition that the ledger knows is left out. What is in an outbox is put into the queue
// under ids that do not change, so it can be done again by whoever finds it. Taking over the
// outbox of a dead node also shuts that node out, see outbox. What nobody reported is found
// by Compare, which holds the ledger against what is so.
//
// So each transition is put into the queue once, but for three cases. An outbox that is found
// more than fabric.DedupWindow after it was enqueued is sent twice: that needs a death within
// a second of a transition and nobody to take over for two minutes. A transition that was
// undone before anybody could report it is not sent. And of two nodes that both report a
// channel for a moment, one that is behind by a whole coming and going can report that again.
//
// The ledger has what some hook wants. So an app that gets its first hook hears of every
// channel and member that is there at that moment, as if they had just come; a further hook
// of the same app hears what comes from then on. Events that are no transitions do not go
// through the ledger and may overtake those that do.
//
// It may import apps, protocol and fabric. It must never import the hub, the HTTP API or the
// transport.
package webhook

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/apps"
)

// QueueName is the name of the queue that holds batches on their way out.
const QueueName = "webhooks"

// Results of one attempt to post a batch, as given to Metrics.Sent.
const (
	ResultAccepted    = "accepted"    // answered with 2xx
	ResultRefused     = "refused"     // answered with another status
	ResultUnreachable = "unreachable" // no answer in time
	ResultGivenUp     = "given_up"    // not sent: app or hook is gone, or the job is unreadable
)

// Reasons for which events are lost before they reach the queue, as given to
// Metrics.Dropped.
const (
	DropPendingFull = "pending_full" // MaxPending or MaxPendingBytes reached
	DropTooLarge    = "too_large"    // one event that no job can carry
	DropQueueFull   = "queue_full"   // the queue stayed full for EnqueueTimeout
	DropQueueFailed = "queue_failed" // the queue took nothing for EnqueueTimeout, or was closed
	DropShutdown    = "shutdown"     // emitted after Run, or not flushed before its end
	// DropAppUnavailable: nobody could tell for EnqueueTimeout which hooks the app has.
	DropAppUnavailable = "app_unavailable"
	// DropLedgerFailed: the ledger took no changes for EnqueueTimeout. They are not lost for
	// good: the next comparison finds them.
	DropLedgerFailed = "ledger_failed"
)

// What becomes of changes of channels with a ledger, as given to Metrics.Ledger.
const (
	LedgerReported  = "reported"  // written to the ledger and to be sent
	LedgerKnown     = "known"     // the ledger says so already: reported before or by another node
	LedgerPassed    = "passed"    // another node's to report, or nobody's who has no majority
	LedgerStale     = "stale"     // not so any more in the present view of who lives
	LedgerConflict  = "conflict"  // another node was faster, to be tried again
	LedgerRecovered = "recovered" // found in an outbox and sent, possibly once more
)

// Apps finds applications. The filters of those that it returns must be compiled.
type Apps interface {
	// ByID must answer from memory and not call the Emitter: Emit calls it.
	ByID(id string) (*apps.App, bool)
	// FindByID may wait. The error wraps apps.ErrNotFound where there is no such app; any other
	// says that nobody can tell at the moment.
	FindByID(ctx context.Context, id string) (*apps.App, error)
}

// Metrics counts what becomes of events. Its methods must not block and not call the
// Emitter.
type Metrics interface {
	// Sent counts an attempt with n events that ended with one of the Result constants.
	Sent(result string, n int)
	// Dropped counts n events that were lost for one of the Drop constants.
	Dropped(reason string, n int)
	// Ledger counts n changes with one of the Ledger constants as the result.
	Ledger(result string, n int)
}

// Options are the limits of the pipeline. Zero takes the value of DefaultOptions, but a
// zero LeaveDebounce sends leaves at once.
type Options struct {
	BatchSize       int           // events in one request at most
	BatchInterval   time.Duration // longest wait of an event for others to join its batch
	LeaveDebounce   time.Duration // how long a leave waits for a return
	MaxLeaves       int           // leaves that wait at once; further ones are sent at once
	MaxPending      int           // events in memory that are not yet in the queue
	MaxPendingBytes int           // bytes of those events
	EnqueueTimeout  time.Duration // how long a batch knocks at a queue that takes nothing

	Timeout      time.Duration // of one request
	Concurrency  int           // requests in flight from this node
	RetryInitial time.Duration // wait after the first failure, then doubled
	RetryMax     time.Duration // longest wait between two attempts
	RetryElapsed time.Duration // from the first attempt; then the batch is a dead letter
	MaxJobs      int           // batches kept in the queue
	MaxDead      int           // dead letters kept, the oldest goes first
}

// DefaultOptions returns batches of 100 events or 50 ms, a debounce of 3 s and retries for
// 5 minutes, which is what Pusher documents where it documents a number.
func DefaultOptions() Options {
	return Options{
		BatchSize:       100,
		BatchInterval:   50 * time.Millisecond,
		LeaveDebounce:   3 * time.Second,
		MaxLeaves:       100_000,
		MaxPending:      10_000,
		MaxPendingBytes: 64 << 20,
		EnqueueTimeout:  30 * time.Second,
		Timeout:         10 * time.Second,
		Concurrency:     20,
		RetryInitial:    time.Second,
		RetryMax:        time.Minute,
		RetryElapsed:    5 * time.Minute,
		MaxJobs:         100_000,
		MaxDead:         10_000,
	}
}

// withDefaults fills in what was left zero.
func (o Options) withDefaults() Options {
	d := DefaultOptions()
	d.BatchSize = cmp.Or(o.BatchSize, d.BatchSize)
	d.BatchInterval = cmp.Or(o.BatchInterval, d.BatchInterval)
	d.LeaveDebounce = o.LeaveDebounce
	d.MaxLeaves = cmp.Or(o.MaxLeaves, d.MaxLeaves)
	d.MaxPending = cmp.Or(o.MaxPending, d.MaxPending)
	d.MaxPendingBytes = cmp.Or(o.MaxPendingBytes, d.MaxPendingBytes)
	d.EnqueueTimeout = cmp.Or(o.EnqueueTimeout, d.EnqueueTimeout)
	d.Timeout = cmp.Or(o.Timeout, d.Timeout)
	d.Concurrency = cmp.Or(o.Concurrency, d.Concurrency)
	d.RetryInitial = cmp.Or(o.RetryInitial, d.RetryInitial)
	d.RetryMax = cmp.Or(o.RetryMax, d.RetryMax)
	d.RetryElapsed = cmp.Or(o.RetryElapsed, d.RetryElapsed)
	d.MaxJobs = cmp.Or(o.MaxJobs, d.MaxJobs)
	d.MaxDead = cmp.Or(o.MaxDead, d.MaxDead)
	return d
}

// visibility is after how long a batch is sent again whose node died while it sent it. The
// queue renews it while a request runs, so it can be far below the request's timeout.
const visibility = 5 * time.Second

// QueueConfig is the configuration with which the queue given to New must be opened.
func (o Options) QueueConfig() fabric.QueueConfig {
	o = o.withDefaults()
	return fabric.QueueConfig{
		Name:       QueueName,
		Visibility: visibility,
		MaxJobs:    o.MaxJobs,
		MaxDead:    o.MaxDead,
		Retry: fabric.RetryPolicy{
			Initial: o.RetryInitial,
			Max:     o.RetryMax,
			Elapsed: o.RetryElapsed,
			Jitter:  0.2,
		},
		Concurrency: o.Concurrency,
	}
}

// Emitter is the pipeline of one node. Its methods may be called concurrently.
type Emitter struct {
	options Options
	apps    Apps
	queue   fabric.Queue
	log     *slog.Logger
	metrics Metrics
	client  *http.Client
	gate    gate
	sending atomic.Int64 // handlers that run
	ledger  *ledger      // set by Join before anything else happens; nil on a node of its own

	wake chan struct{} // of size 1: there is news for the loop

	mu           sync.Mutex // guards the fields below
	leaves       *leaves
	found        *leaves // by a comparison with the ledger
	open         map[destination]*batch
	openOrder    *list.List    // the same batches, oldest first
	ready        []*batch      // closed and not yet taken by the loop, in order
	lastDone     chan struct{} // done of the batch closed most recently, nil before it
	pending      int           // events in open, in ready and in the batch the loop holds
	pendingBytes int
	stopped      bool
}

// New returns an Emitter that sends through queue, which must have been opened with
// options.QueueConfig. It does nothing by itself until Run is called.
func New(options Options, apps Apps, queue fabric.Queue, log *slog.Logger, metrics Metrics) *Emitter {
	options = options.withDefaults()
	for _, result := range []string{LedgerReported, LedgerKnown, LedgerPassed, LedgerStale, LedgerConflict, LedgerRecovered} {
		metrics.Ledger(result, 0) // so that it is there before the first one
	}
	return &Emitter{
		options:   options,
		apps:      apps,
		queue:     queue,
		log:       log,
		metrics:   metrics,
		client:    newClient(options),
		gate:      newGate(),
		wake:      make(chan struct{}, 1),
		leaves:    newLeaves(options.LeaveDebounce, options.MaxLeaves),
		found:     newLeaves(max(options.LeaveDebounce, foundHold), options.MaxLeaves),
		open:      make(map[destination]*batch),
		openOrder: list.New(),
	}
}

// Run forms batches and posts them until ctx ends; then it waits for what it started and
// returns nil. It fails only if the queue's worker fails. The registry of apps must be
// loaded before: a batch of an app that is not found is given up. Run may be called once.
//
// To shut down without loss call Flush, then Drain, then end ctx. Batches in the queue
// that are not delivered by then are delivered by another node, or after the restart.
func (e *Emitter) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batching := make(chan struct{})
	go func() {
		defer close(batching)
		e.loop(ctx)
	}()
	reporting := make(chan struct{})
	go func() {
		defer close(reporting)
		if e.ledger != nil {
			e.ledger.run(ctx)
		}
	}()
	err := e.queue.Work(ctx, e.deliver)
	cancel()
	<-batching
	<-reporting
	e.client.CloseIdleConnections()
	if err != nil {
		return fmt.Errorf("work on queue %s: %w", QueueName, err)
	}
	return nil
}

// Flush sends the leaves that are held back (with a ledger it leaves them to the node that
// compares next, which may be this one after its restart), closes all batches, and returns when
// everything emitted before the call is in the queue. It needs Run to be running and fails
// only when ctx ends first.
func (e *Emitter) Flush(ctx context.Context) error {
	e.mu.Lock()
	now := time.Now()
	e.letGo(now)
	for e.openOrder.Len() > 0 {
		e.closeBatch(e.openOrder.Front().Value.(*batch), now)
	}
	waits := make([]<-chan struct{}, 0, 2)
	if e.lastDone != nil {
		waits = append(waits, e.lastDone)
	}
	if e.ledger != nil {
		waits = append(waits, e.ledger.flush())
	}
	e.mu.Unlock()
	e.signal()
	for _, done := range waits {
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("flush webhooks: %d events are not yet in the queue: %w",
				e.Pending(), ctx.Err())
		}
	}
	return nil
}

// drainIdle is for how long nothing may be in flight before Drain concludes that all jobs
// that are left wait for a retry.
const drainIdle = time.Second

// Drain waits until the queue is empty, or what is left in it waits for a retry, or ctx
// ends. It returns how many batches are left, which stay in the queue, and fails only when
// they cannot be counted.
func (e *Emitter) Drain(ctx context.Context) (int, error) {
	const interval = 20 * time.Millisecond
	tick := time.NewTicker(interval)
	defer tick.Stop()
	busy := time.Now()
	for {
		left, err := e.queue.Len(ctx)
		if err != nil {
			return 0, fmt.Errorf("count jobs of queue %s: %w", QueueName, err)
		}
		if e.sending.Load() > 0 {
			busy = time.Now()
		}
		if left == 0 || time.Since(busy) >= drainIdle {
			return left, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return left, nil
		}
	}
}

// Pending returns how many events are in memory and not yet in the queue, without the
// leaves that are held back.
func (e *Emitter) Pending() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pending
}
