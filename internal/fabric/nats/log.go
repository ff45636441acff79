package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// log is one log: a stream with all its subjects.
type log struct {
	provider *Provider
	name     string
	prefix   string // of all subjects
	stream   jetstream.Stream
	stored   stored
	sender   *sender
}

func openLog(ctx context.Context, p *Provider, config fabric.LogConfig) (*log, error) {
	l := &log{provider: p, name: config.Name, prefix: p.subject("log", config.Name)}
	l.sender = &sender{provider: p, stream: p.stream("log", config.Name)}
	limit := func(n int64) int64 {
		if n == 0 {
			return -1
		}
		return n
	}
	window := retryWindow
	if config.MaxAge > 0 {
		window = min(window, config.MaxAge) // the engine takes no other
	}
	var err error
	l.stream, err = p.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              p.stream("log", config.Name),
		Subjects:          []string{l.prefix + ">"},
		Storage:           jetstream.FileStorage,
		Replicas:          p.replicas,
		MaxAge:            config.MaxAge,
		MaxBytes:          limit(config.MaxBytes),
		MaxMsgsPerSubject: limit(config.MaxPerSubject),
		Discard:           jetstream.DiscardOld,
		AllowDirect:       true,
		Duplicates:        window,
	})
	if err != nil {
		return nil, err
	}
	l.stored = stored{provider: p, stream: p.stream("log", config.Name)}
	return l, nil
}

func (l *log) failed(operation string, err error) error {
	return fmt.Errorf("%s log %q: %w", operation, l.name, translate(err))
}

func (l *log) check(ctx context.Context, operation, pattern string) error {
	err := l.provider.life.Ready(ctx)
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
	err := l.provider.life.Ready(ctx)
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
	ack, err := l.provider.publish(ctx, newMsg(l.prefix+subject, payload), expect...)
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
	bound, release := l.provider.life.Bind(ctx)
	defer release()
	f := follower{
		provider: l.provider, stream: l.stored.stream, filter: l.prefix + pattern,
		told: slog.String("log", l.name),
	}
	f.run(bound, max(1, from), func(msg *natsgo.Msg, meta *natsgo.MsgMetadata) {
		handler(fabric.Entry{
			Seq:     meta.Sequence.Stream,
			Subject: strings.TrimPrefix(msg.Subject, l.prefix),
			Payload: notNil(msg.Data),
			Time:    meta.Timestamp,
		})
	})
	if err := l.provider.life.Ended(ctx); err != nil {
		return l.failed("follow", err)
	}
	return nil
}

// Purge implements fabric.Log.
func (l *log) Purge(ctx context.Context, pattern string) error {
	if err := l.check(ctx, "purge", pattern); err != nil {
		return err
	}
	if err := purge(ctx, l.stream, l.prefix+pattern); err != nil {
		return l.failed("purge", err)
	}
	return nil
}

// Delete implements fabric.Log.
func (l *log) Delete(ctx context.Context, seq uint64) error {
	err := l.provider.life.Ready(ctx)
	if err == nil {
		err = remove(ctx, l.stream, seq, l.stream.SecureDeleteMsg)
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
	if err := l.provider.life.Ready(ctx); err != nil {
		return fabric.LogInfo{}, l.failed("inspect", err)
	}
	info, err := infoOf(ctx, l.stream)
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
