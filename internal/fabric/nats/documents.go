package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// tombstoneAge is how long the marker of a deletion is kept. A watch that is cut off for
// longer does not learn of the deletion.
const tombstoneAge = 24 * time.Hour

// documents is one collection: a bucket, and the stream that it is made of.
type documents struct {
	provider *Provider
	name     string
	bucket   jetstream.KeyValue
	stream   jetstream.Stream
	prefix   string // of the subject of every key
}

func openDocuments(ctx context.Context, p *Provider, name string) (*documents, error) {
	bucket := p.stream("docs", name)
	prefix := "$KV." + bucket + "."
	// The stream is created here and not by the bucket functions because of AllowDirect:
	// without it every read is served by the leader, so nobody misses his own write.
	stream, err := p.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:               "KV_" + bucket,
		Subjects:           []string{prefix + ">"},
		Storage:            jetstream.FileStorage,
		Replicas:           p.replicas,
		MaxMsgsPerSubject:  1,
		Discard:            jetstream.DiscardNew,
		AllowRollup:        true,
		DenyDelete:         true,
		AllowMsgTTL:        true, // for tombstones
		AllowAtomicPublish: true, // for Commit
		Duplicates:         retryWindow,
	})
	if err != nil {
		return nil, err
	}
	kv, err := p.js.KeyValue(ctx, bucket)
	if err != nil {
		return nil, err
	}
	return &documents{provider: p, name: name, bucket: kv, stream: stream, prefix: prefix}, nil
}

// check does what every operation does first.
func (d *documents) check(ctx context.Context, operation, key string) error {
	err := d.provider.life.Ready(ctx)
	if err == nil {
		err = fabric.CheckKey(key)
	}
	if err != nil {
		return d.failed(operation, key, err)
	}
	return nil
}

func (d *documents) failed(operation, key string, err error) error {
	return fmt.Errorf("%s document %.300q of %q: %w", operation, key, d.name, translate(err))
}

// Get implements fabric.Documents.
func (d *documents) Get(ctx context.Context, key string) (fabric.Document, error) {
	if err := d.check(ctx, "get", key); err != nil {
		return fabric.Document{}, err
	}
	entry, err := ask(ctx, func(ctx context.Context) (jetstream.KeyValueEntry, error) {
		return d.bucket.Get(ctx, key)
	})
	if err != nil {
		return fabric.Document{}, d.failed("get", key, err)
	}
	return document(key, entry.Value(), entry.Revision()), nil
}

// Put implements fabric.Documents.
func (d *documents) Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if err := d.check(ctx, "put", key); err != nil {
		return 0, err
	}
	if err := fabric.CheckValue(value); err != nil {
		return 0, d.failed("put", key, err)
	}
	stored, err := d.put(ctx, key, value, revision)
	if err != nil {
		return 0, d.failed("put", key, err)
	}
	return stored, nil
}

// put stores a value over the revision, or over nothing, which may be a tombstone.
func (d *documents) put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	expected := revision
	for range commitTries {
		stored, err := d.write(ctx, newMsg(d.prefix+key, value), expected)
		if revision != 0 || !isConflict(err) {
			return stored, err
		}
		last, lastErr := lastOf(ctx, d.stream, d.prefix+key)
		now := uint64(0)
		switch {
		case errors.Is(lastErr, jetstream.ErrMsgNotFound):
		case lastErr != nil:
			return 0, lastErr
		case !isTombstone(last.Header):
			return 0, err
		default:
			now = last.Sequence
		}
		if now == expected { // another is about to write the same key
			return 0, err
		}
		expected = now
	}
	return 0, fmt.Errorf("%w: %w", fabric.ErrUnavailable, errCommitMoves)
}

// write stores a message over the revision and returns its own. Repetitions are known by the message's
// ID and not by the value: another may write the same.
func (d *documents) write(ctx context.Context, msg *natsgo.Msg, revision uint64) (uint64, error) {
	ack, err := d.provider.publish(ctx, msg, jetstream.WithExpectLastSequencePerSubject(revision))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// Delete implements fabric.Documents.
func (d *documents) Delete(ctx context.Context, key string, revision uint64) error {
	if err := d.check(ctx, "delete", key); err != nil {
		return err
	}
	err := fabric.ErrConflict // what the bucket would take revision 0 for is "any"
	if revision != 0 {
		_, err = d.write(ctx, tombstone(d.prefix+key), revision)
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, fabric.ErrConflict) || isConflict(err) {
		if _, getErr := d.Get(ctx, key); errors.Is(getErr, fabric.ErrNotFound) {
			err = fabric.ErrNotFound
		}
	}
	return d.failed("delete", key, err)
}

// List implements fabric.Documents.
func (d *documents) List(ctx context.Context) ([]fabric.Document, error) {
	err := d.provider.life.Ready(ctx)
	var found map[string]fabric.Document
	if err == nil {
		found, err = d.scan(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("list documents of %q: %w", d.name, translate(err))
	}
	return slices.SortedFunc(maps.Values(found), func(a, b fabric.Document) int {
		return cmp.Compare(a.Key, b.Key)
	}), nil
}

// scan reads the stream message by message from its start to its end, so that a key that
// is written meanwhile is met again behind and never missed. (A consumer can end its first
// round without one that was being written.)
func (d *documents) scan(ctx context.Context) (map[string]fabric.Document, error) {
	found := map[string]fabric.Document{}
	next := uint64(1)
	for {
		msg, err := nextOf(ctx, d.stream, d.prefix+">", next)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		next = msg.Sequence + 1
		key := strings.TrimPrefix(msg.Subject, d.prefix)
		if isTombstone(msg.Header) {
			delete(found, key)
			continue
		}
		found[key] = document(key, msg.Data, msg.Sequence)
	}
}

// Watch implements fabric.Documents.
func (d *documents) Watch(ctx context.Context, changed func(fabric.Change), ready func()) error {
	if d.provider.life.Err() != nil {
		return fmt.Errorf("watch documents of %q: %w", d.name, fabric.ErrClosed)
	}
	bound, release := d.provider.life.Bind(ctx)
	defer release()
	err := d.watch(bound, changed, ready)
	if bound.Err() != nil {
		err = d.provider.life.Ended(ctx)
	}
	if err != nil {
		return fmt.Errorf("watch documents of %q: %w", d.name, translate(err))
	}
	return nil
}

// watch reports what a scan finds, then follows the changes from the state before the scan,
// leaving out those that the scan had seen. It returns when ctx ends or on an error.
func (d *documents) watch(ctx context.Context, changed func(fabric.Change), ready func()) error {
	info, err := infoOf(ctx, d.stream)
	if err != nil {
		return err
	}
	found, err := d.scan(ctx)
	if err != nil {
		return err
	}
	existing := slices.SortedFunc(maps.Values(found), func(a, b fabric.Document) int {
		return cmp.Compare(a.Revision, b.Revision)
	})
	last := info.State.LastSeq
	scanned := map[string]uint64{} // revisions that both the scan and the consumer may report
	for _, document := range existing {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if document.Revision > last {
			scanned[document.Key] = document.Revision
		}
		changed(fabric.Change{Document: document})
	}
	ready()
	f := follower{
		provider: d.provider, stream: "KV_" + d.bucket.Bucket(), filter: d.prefix + ">",
		told: slog.String("documents", d.name),
	}
	f.run(ctx, last+1, func(msg *natsgo.Msg, meta *natsgo.MsgMetadata) {
		change := fabric.Change{Document: document(
			strings.TrimPrefix(msg.Subject, d.prefix), msg.Data, meta.Sequence.Stream)}
		if change.Revision <= scanned[change.Key] {
			return
		}
		if isTombstone(msg.Header) {
			change.Value, change.Deleted = nil, true
		}
		changed(change)
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fabric.ErrClosed
}

// tombstone is the message that stands for a key that was deleted, in the form that the bucket would
// give it.
func tombstone(subject string) *natsgo.Msg {
	m := newMsg(subject, nil)
	m.Header.Set(headerOperation, operationPurge)
	m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	m.Header.Set(jetstream.MsgTTLHeader, tombstoneAge.String())
	return m
}

// isTombstone says whether a message stands for a key that was deleted.
func isTombstone(header natsgo.Header) bool {
	return header.Get(headerOperation) != "" || header.Get(jetstream.MarkerReasonHeader) != ""
}

// document returns a document whose value is never nil.
func document(key string, value []byte, revision uint64) fabric.Document {
	if value == nil {
		value = []byte{}
	}
	return fabric.Document{Key: key, Value: value, Revision: revision}
}
