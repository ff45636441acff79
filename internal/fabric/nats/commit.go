package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/parleyio/parley/internal/fabric"
)

// A commit is an atomic batch of the server (ADR-50): its messages are kept aside until the
// last one asks to commit, then all conditions are checked and all messages proposed as one.

// Headers of a batch, and the one by which a commit knows its own messages again.
const (
	headerBatch         = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
	headerCommit        = "Parley-Commit"
	headerOperation     = "KV-Operation"
	operationPurge      = "PURGE"
)

// Codes of the JetStream API for batches that were not stored and may be sent again.
const (
	codeBatchIncomplete jetstream.ErrorCode = 10176 // a message was lost, or the leader changed
	codeBatchesFull     jetstream.ErrorCode = 10210 // too many batches under way
)

// commitLooks bounds the keys that are looked at at once after a conflict, and commitTries
// how often a commit is tried whose keys are as they should be.
const (
	commitLooks = 16
	commitTries = 100
	commitPause = 10 * time.Millisecond // between tries
)

// errCommitMoves says that a commit found its keys as they should be, but others at work on
// them, for commitTries times.
var errCommitMoves = errors.New("others write the same keys without a pause")

// commit is one call of Commit.
type commit struct {
	*documents
	id       string
	writes   []fabric.Write
	expected []uint64 // revision of the last message of each key, tombstones included
	batches  int      // sent so far
	unheard  int      // of them, those that nobody answered
}

// Commit implements fabric.Documents.
func (d *documents) Commit(ctx context.Context, writes []fabric.Write) ([]uint64, error) {
	err := d.provider.life.Ready(ctx)
	if err == nil {
		err = fabric.CheckWrites(writes)
	}
	var revisions []uint64
	if err == nil && len(writes) > 0 {
		c := &commit{documents: d, id: nuid.Next(), writes: writes, expected: make([]uint64, len(writes))}
		for i, w := range writes {
			c.expected[i] = w.Revision
			if w.Value == nil && w.Revision == 0 {
				err = fabric.ErrConflict
			}
		}
		if err == nil {
			revisions, err = c.run(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("commit %d writes to documents of %q: %w", len(writes), d.name, translate(err))
	}
	return revisions, nil
}

// run sends the batch until it is known what became of it.
func (c *commit) run(ctx context.Context) (revisions []uint64, err error) {
	for range commitTries {
		var last uint64
		err = tries(ctx, func(ctx context.Context, _ bool) (err error) {
			last, err = c.send(ctx)
			return err
		})
		if err == nil {
			return c.revisions(last), nil
		}
		switch {
		case isConflict(err):
			// Also when an earlier batch was stored without an answer, when a key was deleted
			// before, or when another writer is about to store one of the keys and may fail.
			revisions, err = c.look(ctx)
			if errors.Is(err, fabric.ErrConflict) && c.unheard > 0 {
				return nil, fmt.Errorf("%w: %w", fabric.ErrUnavailable, errUnknown)
			}
			if err != nil || revisions != nil {
				return revisions, err
			}
		case !hasCode(err, codeBatchIncomplete) && !hasCode(err, codeBatchesFull):
			return nil, err
		}
		fabric.Pause(ctx, commitPause)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return nil, fmt.Errorf("%w: %w", fabric.ErrUnavailable, errCommitMoves)
}

// revisions are consecutive: nothing comes between the messages of a batch.
func (c *commit) revisions(last uint64) []uint64 {
	list := make([]uint64, len(c.writes))
	for i := range list {
		list[i] = last - uint64(len(list)-1-i)
	}
	return list
}

// send sends the batch once and returns the sequence of its last message.
func (c *commit) send(ctx context.Context) (uint64, error) {
	c.batches++
	batch := c.id + "-" + strconv.Itoa(c.batches)
	conn, last := c.provider.conn, len(c.writes)-1
	for i := range last {
		if err := conn.PublishMsg(c.message(batch, i)); err != nil {
			return 0, err
		}
	}
	end := c.message(batch, last)
	end.Header.Set(headerBatchCommit, "1")
	answer, err := conn.RequestMsgWithContext(ctx, end)
	if err != nil {
		c.unheard++
		return 0, err
	}
	var ack struct {
		Error    *jetstream.APIError `json:"error"`
		Sequence uint64              `json:"seq"`
		Count    int                 `json:"count"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return 0, fmt.Errorf("read the answer: %w", err)
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	if ack.Sequence == 0 || ack.Count != len(c.writes) {
		return 0, fmt.Errorf("the server stored %d of %d messages", ack.Count, len(c.writes))
	}
	return ack.Sequence, nil
}

// message is what stores one write, in the form that the bucket would give it.
func (c *commit) message(batch string, i int) *natsgo.Msg {
	w := c.writes[i]
	m := newMsg(c.prefix+w.Key, w.Value)
	if w.Value == nil {
		m = tombstone(c.prefix + w.Key)
	}
	m.Header.Set(headerBatch, batch)
	m.Header.Set(headerBatchSequence, strconv.Itoa(i+1))
	m.Header.Set(headerCommit, c.id)
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(c.expected[i], 10))
	return m
}

// look reads the keys after a conflict. It returns the revisions if an earlier batch of this
// commit was stored, ErrConflict if a key is not as it should be, and nothing if all are:
// then it has learned the revisions of the deletions that are to be followed.
func (c *commit) look(ctx context.Context) ([]uint64, error) {
	found, err := c.last(ctx)
	if err != nil {
		return nil, err
	}
	// All or nothing: one message of this commit proves the others, even overwritten ones.
	for i, msg := range found {
		if msg != nil && msg.Header.Get(headerCommit) == c.id {
			return c.revisions(msg.Sequence + uint64(len(found)-1-i)), nil
		}
	}
	for i, msg := range found {
		now, deleted := uint64(0), true
		if msg != nil {
			now, deleted = msg.Sequence, isTombstone(msg.Header)
		}
		if w := c.writes[i]; deleted != (w.Revision == 0) || !deleted && now != w.Revision {
			return nil, fmt.Errorf("document %.300q: %w", w.Key, fabric.ErrConflict)
		}
		c.expected[i] = now
	}
	return nil, nil
}

// last returns the last message of each key, nil where there is none.
func (c *commit) last(ctx context.Context) ([]*jetstream.RawStreamMsg, error) {
	found := make([]*jetstream.RawStreamMsg, len(c.writes))
	errs := make([]error, len(c.writes))
	slots := make(chan struct{}, commitLooks)
	var looking sync.WaitGroup
	for i, w := range c.writes {
		slots <- struct{}{}
		looking.Go(func() {
			defer func() { <-slots }()
			errs[i] = tries(ctx, func(ctx context.Context, _ bool) (err error) {
				found[i], err = c.stream.GetLastMsgForSubject(ctx, c.prefix+w.Key)
				if errors.Is(err, jetstream.ErrMsgNotFound) {
					found[i], err = nil, nil
				}
				return err
			})
		})
	}
	looking.Wait()
	return found, errors.Join(errs...)
}
