package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// followMessages and followBytes bound what a Follow call has fetched and not yet handled.
const (
	followMessages = 500
	followBytes    = 4 << 20
)

// log is one log: a stream with all its subjects.
type log struct {
	provider *Provider
	name     string
	prefix   string // of all subjects
	stream   jetstream.Stream
	stored   stored
}

func openLog(ctx context.Context, p *Provider, config fabric.LogConfig) (*log, error) {
	l := &log{provider: p, name: config.Name, prefix: "parley.log." + config.Name + "."}
	limit := func(n int64) int64 {
		if n == 0 {
			return -1
		}
		return n
	}
	var err error
	l.stream, err = p.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              "parley-log-" + config.Name,
		Subjects:          []string{l.prefix + ">"},
		Storage:           jetstream.FileStorage,
		Replicas:          p.replicas,
		MaxAge:            config.MaxAge,
		MaxBytes:          limit(config.MaxBytes),
		MaxMsgsPerSubject: limit(config.MaxPerSubject),
		Discard:           jetstream.DiscardOld,
		AllowDirect:       true,
	})
	if err != nil {
		return nil, err
	}
	l.stored = stored{provider: p, stream: "parley-log-" + config.Name}
	return l, nil
}

func (l *log) failed(operation string, err error) error {
	return fmt.Errorf("%s log %q: %w", operation, l.name, translate(err))
}

func (l *log) check(ctx context.Context, operation, pattern string) error {
	err := l.provider.ready(ctx)
	if err == nil {
		err = fabric.CheckPattern(pattern)
	}
	if err != nil {
		return l.failed(operation, err)
	}
	return nil
}

// Append implements fabric.Log.
func (l *log) Append(
	ctx context.Context, subject string, payload []byte, options ...fabric.AppendOption,
) (uint64, error) {
	err := l.provider.ready(ctx)
	if err == nil {
		err = fabric.CheckSubject(subject)
	}
	if err == nil {
		err = fabric.CheckValue(payload)
	}
	if err != nil {
		return 0, l.failed("append to", err)
	}
	var expect []jetstream.PublishOpt
	o := fabric.NewAppendOptions(options)
	if o.LastSeq != nil {
		expect = append(expect, jetstream.WithExpectLastSequence(*o.LastSeq))
	}
	if o.LastSeqOfSubject != nil {
		expect = append(expect, jetstream.WithExpectLastSequencePerSubject(*o.LastSeqOfSubject))
	}
	ack, err := l.provider.js.Publish(ctx, l.prefix+subject, payload, expect...)
	if err != nil {
		return 0, l.failed("append to", err)
	}
	return ack.Sequence, nil
}

// Read implements fabric.Log.
func (l *log) Read(ctx context.Context, pattern string, from uint64, limit int) ([]fabric.Entry, error) {
	if err := l.check(ctx, "read", pattern); err != nil {
		return nil, err
	}
	page, err := l.stored.page(ctx, l.prefix+pattern, from, min(limit, fabric.MaxLogPage))
	if err != nil {
		return nil, l.failed("read", err)
	}
	for i := range page {
		page[i].Subject = strings.TrimPrefix(page[i].Subject, l.prefix)
	}
	return page, nil
}

// Last implements fabric.Log.
func (l *log) Last(ctx context.Context, pattern string) (fabric.Entry, error) {
	if err := l.check(ctx, "read last of", pattern); err != nil {
		return fabric.Entry{}, err
	}
	e, err := l.stored.leader(ctx, getRequest{LastFor: l.prefix + pattern})
	if err != nil {
		return fabric.Entry{}, l.failed("read last of", err)
	}
	e.Subject = strings.TrimPrefix(e.Subject, l.prefix)
	return e, nil
}

// Follow implements fabric.Log.
func (l *log) Follow(ctx context.Context, pattern string, from uint64, handler func(fabric.Entry)) error {
	err := fabric.CheckPattern(pattern)
	if l.provider.life.Err() != nil {
		err = fabric.ErrClosed
	}
	if err != nil {
		return l.failed("follow", err)
	}
	bound, release := l.provider.bind(ctx)
	defer release()
	next := max(1, from)
	for bound.Err() == nil && !l.provider.conn.IsClosed() {
		next, err = l.follow(bound, pattern, next, handler)
		if bound.Err() == nil && !l.provider.conn.IsClosed() {
			l.provider.logger.Warn("log interrupted", slog.String("log", l.name), slog.Any("error", err))
			pause(bound)
		}
	}
	if err := l.provider.ended(ctx); err != nil {
		return l.failed("follow", err)
	}
	return nil
}

// follow hands over entries from next on until ctx or the delivery ends. It returns where to
// go on.
func (l *log) follow(
	ctx context.Context, pattern string, next uint64, handler func(fabric.Entry),
) (uint64, error) {
	consumer, err := l.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{l.prefix + pattern},
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:    next,
	})
	if err != nil {
		return next, err
	}
	deliveries, err := consumer.Messages(
		jetstream.PullMaxMessagesWithBytesLimit(followMessages, followBytes),
		jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return next, err
	}
	defer deliveries.Stop()
	for {
		msg, err := deliveries.Next(jetstream.NextContext(ctx))
		if err != nil {
			return next, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return next, err
		}
		if meta.Sequence.Stream < next { // told before
			continue
		}
		next = meta.Sequence.Stream + 1
		handler(fabric.Entry{
			Seq:     meta.Sequence.Stream,
			Subject: strings.TrimPrefix(msg.Subject(), l.prefix),
			Payload: notNil(msg.Data()),
			Time:    meta.Timestamp,
		})
	}
}

// Purge implements fabric.Log.
func (l *log) Purge(ctx context.Context, pattern string) error {
	if err := l.check(ctx, "purge", pattern); err != nil {
		return err
	}
	if err := l.stream.Purge(ctx, jetstream.WithPurgeSubject(l.prefix+pattern)); err != nil {
		return l.failed("purge", err)
	}
	return nil
}

// Delete implements fabric.Log.
func (l *log) Delete(ctx context.Context, seq uint64) error {
	err := l.provider.ready(ctx)
	if err == nil {
		err = l.stream.SecureDeleteMsg(ctx, seq)
	}
	if err != nil {
		if _, getErr := l.stored.leader(ctx, getRequest{Seq: seq}); errors.Is(getErr, jetstream.ErrMsgNotFound) {
			err = errors.Join(fabric.ErrNotFound, err)
		}
		return l.failed("delete from", fmt.Errorf("entry %d: %w", seq, err))
	}
	return nil
}

// Info implements fabric.Log.
func (l *log) Info(ctx context.Context) (fabric.LogInfo, error) {
	if err := l.provider.ready(ctx); err != nil {
		return fabric.LogInfo{}, l.failed("inspect", err)
	}
	info, err := l.stream.Info(ctx)
	if err != nil {
		return fabric.LogInfo{}, l.failed("inspect", err)
	}
	state := info.State
	return fabric.LogInfo{
		FirstSeq: max(1, state.FirstSeq),
		LastSeq:  state.LastSeq,
		Entries:  state.Msgs,
		Bytes:    state.Bytes,
	}, nil
}
