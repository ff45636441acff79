package directory

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// Options configure a Directory.
type Options struct {
	Node string // this node's id
	// Incarnation grows with each start of the node, so that its old rows are told from new.
	Incarnation uint64
	Signal      fabric.Signal
	// BatchInterval is how long a change may wait for others; after a quiet time the first
	// one does not wait.
	BatchInterval  time.Duration
	DigestInterval time.Duration
	// Changed is told what changes on other nodes, in the order of each node, one call at a
	// time. It may use the Directory, but not NodeGone.
	Changed func([]Change)
	Dropped func(reason string) // counts what was lost under a reason, one of the Drop constants
	Logger  *slog.Logger
}

// Reasons given to Options.Dropped.
const (
	DropRowTooLarge = "directory_row_too_large" // no message can carry it; it is left out
	DropPublish     = "directory_publish"       // a message that was not sent; who misses it asks
	DropMalformed   = "directory_malformed"     // a message that cannot be read
	DropAskers      = "directory_askers"        // a question of one node too many; it asks again
)

// Sizes of messages in bytes: of a batch of changes and of one part of a snapshot.
const (
	deltaSize    = 64 << 10
	snapshotSize = 128 << 10
)

// maxAskers bounds the nodes whose questions wait for their snapshot.
const maxAskers = 256

// Directory is this node's replica. Its methods may be called from any goroutine.
type Directory struct {
	options Options

	delivering sync.Mutex // held while Changed runs, so that changes keep their order

	mu        sync.Mutex // guards the following fields
	table     *table
	askers    map[string]struct{}
	lastFlush time.Time
	timer     *time.Timer // set while a flush is due

	asked chan struct{} // holds one token while an asker waits
}

// Subjects on the signal.
const (
	subjectChanges  = "changes"   // deltas and digests of all nodes
	subjectAsk      = "ask."      // and the owner's token
	subjectSnapshot = "snapshot." // and the asker's token
)

// New returns a directory without rows. It takes rows from now on, and hears of those of
// others while Run runs. It fails when an option cannot be used.
func New(options Options) (*Directory, error) {
	switch {
	case options.Node == "" || len(options.Node) > maxText:
		return nil, fmt.Errorf("directory: Node %.300q must have 1 to %d bytes", options.Node, maxText)
	case options.DigestInterval <= 0:
		return nil, fmt.Errorf("directory: DigestInterval %v must be positive", options.DigestInterval)
	}
	return &Directory{
		options: options,
		table:   newTable(options.Node, options.Incarnation),
		askers:  make(map[string]struct{}),
		asked:   make(chan struct{}, 1),
	}, nil
}

// Run receives what others tell, and sends digests and snapshots, until ctx ends, which is
// not an error. It fails when it cannot subscribe. Changed is called for as long as it runs.
func (d *Directory) Run(ctx context.Context) error {
	own := fabric.Token(d.options.Node)
	for subject, handle := range map[string]func(fabric.Message){
		subjectChanges:        d.receive,
		subjectSnapshot + own: d.receive,
		subjectAsk + own:      d.answer,
	} {
		subscription, err := d.options.Signal.Subscribe(subject, handle, fabric.SkipSelf())
		if err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		defer func() { _ = subscription.Unsubscribe() }() // fails only when the signal is closed
	}
	ticker := time.NewTicker(d.options.DigestInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			d.sendDigest()
		case <-d.asked:
			d.sendSnapshots(ctx)
		}
	}
}

// Set makes value the node's row under key and entry and tells the others; nil removes it.
// The value must not be changed afterwards. A row that no message can carry is left out and
// counted: one with a key or entry over 4 KiB, or a value over 64 KiB.
func (d *Directory) Set(key, entry string, value []byte) {
	if len(key) > maxText || len(entry) > maxText || len(value) > maxRow {
		d.options.Dropped(DropRowTooLarge)
		value = nil // what was there is no longer true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.table.set(key, entry, value) || d.timer != nil {
		return
	}
	wait := d.options.BatchInterval - time.Since(d.lastFlush)
	if wait <= 0 {
		d.flush()
		return
	}
	d.timer = time.AfterFunc(wait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.flush()
	})
}

// Flush tells the others at once what would wait for the end of the batch.
func (d *Directory) Flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flush()
}

// flush sends what waits. d.mu is held.
func (d *Directory) flush() {
	if d.timer != nil {
		d.timer.Stop() // one that went off already finds nothing, or flushes early
		d.timer = nil
	}
	if len(d.table.pending) > 0 {
		d.lastFlush = time.Now()
	}
	for m := d.table.flush(deltaSize); m != nil; m = d.table.flush(deltaSize) {
		d.publish(subjectChanges, m)
	}
}

// publish sends a message. One that is lost is noticed by its receivers, who ask.
func (d *Directory) publish(subject string, m *message) {
	if err := d.options.Signal.Publish(context.Background(), subject, m.encode()); err != nil {
		d.options.Dropped(DropPublish)
		d.options.Logger.Debug("directory message not sent", "subject", subject, "error", err)
	}
}

// sendDigest sends what waits first: on a busy node something always does, and those that
// lost a message would never be told.
func (d *Directory) sendDigest() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flush()
	d.publish(subjectChanges, d.table.digest())
}

// receive takes a message of another node.
func (d *Directory) receive(raw fabric.Message) {
	m, err := decode(raw.Payload)
	if err != nil {
		d.options.Dropped(DropMalformed)
		return
	}
	d.delivering.Lock()
	defer d.delivering.Unlock()
	d.mu.Lock()
	changes, ask := d.table.receive(m)
	d.mu.Unlock()
	if ask {
		d.publish(subjectAsk+fabric.Token(m.node), &message{kind: kindAsk, node: d.options.Node})
	}
	if len(changes) > 0 {
		d.options.Changed(changes)
	}
}

// answer notes that another node wants this node's rows.
func (d *Directory) answer(raw fabric.Message) {
	m, err := decode(raw.Payload)
	if err != nil || m.kind != kindAsk {
		d.options.Dropped(DropMalformed)
		return
	}
	d.mu.Lock()
	if len(d.askers) < maxAskers {
		d.askers[m.node] = struct{}{}
	} else {
		d.options.Dropped(DropAskers)
	}
	d.mu.Unlock()
	select {
	case d.asked <- struct{}{}:
	default: // Run has not looked yet and will see this one too
	}
}

// sendSnapshots sends this node's rows to those who asked, at the pace of the signal.
func (d *Directory) sendSnapshots(ctx context.Context) {
	d.mu.Lock()
	askers := d.askers
	d.askers = make(map[string]struct{})
	d.flush()
	parts := d.table.snapshot(snapshotSize)
	d.mu.Unlock()
	for asker := range askers {
		for _, part := range parts {
			d.publish(subjectSnapshot+fabric.Token(asker), part)
			if err := d.options.Signal.Flush(ctx); err != nil {
				return // the askers ask again
			}
		}
	}
}

// NodeGone drops the rows of a node that is dead.
func (d *Directory) NodeGone(node string) {
	d.delivering.Lock()
	defer d.delivering.Unlock()
	d.mu.Lock()
	changes := d.table.forget(node)
	d.mu.Unlock()
	if len(changes) > 0 {
		d.options.Changed(changes)
	}
}

// Each calls f with every other node's entries under key.
func (d *Directory) Each(key string, f func(node, entry string, value []byte)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for node, r := range d.table.others {
		for entry, value := range r.rows.byKey[key] {
			f(node, entry, value)
		}
	}
}

// Knows tells whether this node has the rows of another as of its last word.
func (d *Directory) Knows(node string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.table.others[node]
	return r != nil && !r.asked
}

// Rows returns how many rows this node has and how many it knows of others.
func (d *Directory) Rows() (own, others int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.table.others {
		others += r.rows.count
	}
	return d.table.own.count, others
}
