package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// markKey is the metadata of a stream that was restored: the ID of the backup, with
// incompleteSuffix as long as not every stream of the backup is there and verified.
const (
	markKey          = "parley-restored"
	incompleteSuffix = " incomplete"
)

const (
	// restoreAttempts is how often one stream is tried.
	restoreAttempts = 10
	restorePause    = 2 * time.Second
	// leftoverAge is how long what another process left half done is let be. The server
	// gives it up after 5 s and then leaves a stream that is in the way and has no data.
	leftoverAge = 6 * time.Second
	// verifyTimeout bounds the wait until every replica of a stream has all of it.
	verifyTimeout = 2 * time.Minute
	// stuckAfter is how long the same may be missing meanwhile, and remakes how often a stream is waited
	// for to which that happens.
	stuckAfter = 10 * time.Second
	remakes    = 3
)

// ErrStreamExists says that a stream of the backup exists and did not come from it.
var ErrStreamExists = errors.New("stream exists")

// Restore makes every stream of a backup, or of an import that LeaveStandalone prepared,
// anew with the given number of replicas, which is 1 for a standalone engine. Sequences,
// deletions, headers and the positions of consumers are kept. It returns when every replica
// has everything on its own disk, compared with the manifest.
//
// Nobody may write to these streams before it returns, so what uses them must not be open
// yet. If it fails, or the process dies, call it again, on any node: it goes on from there.
// It touches no stream that is not in the backup and, with ErrStreamExists, none that was
// there before. Other errors: ErrBadBackup, those of the server, and that of ctx.
func (e *Engine) Restore(ctx context.Context, dir string, replicas int) error {
	if replicas < 1 || e.cluster == nil && replicas != 1 {
		return fmt.Errorf("restore %q: %d replicas are not possible", dir, replicas)
	}
	manifest, err := ReadManifest(dir)
	if err != nil {
		return fmt.Errorf("restore %q: %w", dir, err)
	}
	conn, err := e.internal(userClient)
	if err != nil {
		return fmt.Errorf("restore %q: %w", dir, err)
	}
	r := &restorer{
		engine: e, conn: conn, dir: dir, id: manifest.ID, replicas: replicas, seen: map[string]time.Time{},
	}
	for _, step := range []func(context.Context, *Backed) error{r.admit, r.restore, r.verify, r.finish} {
		for i := range manifest.Streams {
			if err := step(ctx, &manifest.Streams[i]); err != nil {
				return fmt.Errorf("restore %q: stream %s: %w", dir, manifest.Streams[i].Name, err)
			}
		}
	}
	return nil
}

// restorer is one call of Restore.
type restorer struct {
	engine   *Engine
	conn     *nats.Conn
	dir      string
	id       string
	replicas int
	seen     map[string]time.Time // when a leftover was met first, by stream
}

// admit refuses a stream that is there and is not ours, before anything is changed.
func (r *restorer) admit(ctx context.Context, b *Backed) error {
	info, err := readStream(ctx, r.conn, b.Name)
	switch {
	case hasCode(err, codeStreamNotFound):
		return nil
	case err != nil:
		// Half restored by somebody who is gone, it has no leader to ask. The server refuses
		// a restore over anything that is there.
		return nil
	case r.unfinished(info) || r.finished(info):
		return nil
	}
	return fmt.Errorf("%w: created otherwise than from this backup", ErrStreamExists)
}

func (r *restorer) unfinished(info *streamInfo) bool {
	return info.Config.Metadata[markKey] == r.id+incompleteSuffix
}

func (r *restorer) finished(info *streamInfo) bool {
	return info.Config.Metadata[markKey] == r.id
}

// restore makes the stream unless an earlier call has.
func (r *restorer) restore(ctx context.Context, b *Backed) error {
	var err error
	for attempt := range restoreAttempts {
		if err = r.attempt(ctx, b); err == nil || errors.Is(err, ErrStreamExists) {
			return err
		}
		r.engine.logger.Warn("restore of a stream failed", slog.String("stream", b.Name),
			slog.Int("attempt", attempt+1), slog.Any("error", err))
		select {
		case <-time.After(restorePause):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
	return err
}

func (r *restorer) attempt(ctx context.Context, b *Backed) error {
	info, err := readStream(ctx, r.conn, b.Name)
	switch {
	case err == nil && r.finished(info):
		return nil
	case err == nil && r.unfinished(info):
		if want, err := b.state(); err != nil || same(want, info.State, info.Config.expires()) == nil {
			return err
		}
		if err := r.remove(ctx, b); err != nil {
			return err
		}
	case err == nil:
		return ErrStreamExists
	case !hasCode(err, codeStreamNotFound):
		return errors.Join(err, r.removeLeftover(ctx, b))
	}
	config, err := b.configured(r.replicas, r.id+incompleteSuffix)
	if err != nil {
		return err
	}
	file, err := os.Open(filepath.Join(r.dir, b.File))
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	err = restoreStream(ctx, r.conn, b.Name, restoreRequest{Config: config, State: b.State}, file)
	if hasCode(err, codeNameInUse) {
		err = errors.Join(err, r.removeLeftover(ctx, b))
	}
	return err
}

// removeLeftover removes what is left of a restore that another process did not end: a
// stream that is in the way and either does not answer or is not found by those who should
// have it. That it is one, and from this backup, those servers can tell that have been
// waiting for its data.
func (r *restorer) removeLeftover(ctx context.Context, b *Backed) error {
	if first, ok := r.seen[b.Name]; !ok {
		r.seen[b.Name] = time.Now()
		return nil
	} else if time.Since(first) < leftoverAge {
		return nil
	}
	copies, err := r.engine.replicas(ctx, nil)
	if err != nil {
		return err
	}
	for _, streams := range copies {
		if streams[b.Name].Metadata[markKey] == r.id+incompleteSuffix {
			r.engine.logger.Warn("removing what is left of a restore", slog.String("stream", b.Name))
			return r.remove(ctx, b)
		}
	}
	return nil
}

func (r *restorer) remove(ctx context.Context, b *Backed) error {
	var response apiResponse
	return change(ctx, r.conn, "$JS.API.STREAM.DELETE."+b.Name, nil, &response)
}

// verify waits until the stream is whole everywhere, and makes it anew where it cannot become so.
func (r *restorer) verify(ctx context.Context, b *Backed) error {
	for try := 1; ; try++ {
		stuck, err := r.awaitWhole(ctx, b)
		if !stuck || try == remakes {
			return err
		}
		r.engine.logger.Warn("a restored stream does not become whole, restoring it again",
			slog.String("stream", b.Name), slog.Any("missing", err))
		if err := r.again(ctx, b); err != nil {
			return err
		}
	}
}

// awaitWhole waits until the stream is whole everywhere, or is stuck, and otherwise returns what is missing.
func (r *restorer) awaitWhole(ctx context.Context, b *Backed) (stuck bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	var missing error
	since := time.Now() // is the same missing
	err = poll(ctx, 4*pollInterval, func() bool {
		now := r.compare(ctx, b)
		if now == nil || missing == nil || now.Error() != missing.Error() {
			since = time.Now()
		}
		missing = now
		stuck = now != nil && time.Since(since) > stuckAfter && r.stuck(ctx, b)
		return now == nil || stuck
	})
	return stuck, errors.Join(err, missing)
}

// stuck says whether a replica does not follow although it is there. Where a restore was broken off before,
// one of the next can fail to follow for ever.
func (r *restorer) stuck(ctx context.Context, b *Backed) bool {
	info, err := readStream(ctx, r.conn, b.Name)
	if err != nil || info.Cluster == nil || !r.unfinished(info) || settled(info.Cluster, r.replicas) == nil {
		return false
	}
	_, err = r.engine.replicas(ctx, members(info.Cluster, r.engine.server.Name()))
	return err == nil // all have answered: none is only away
}

// again removes an unfinished stream and makes it anew.
func (r *restorer) again(ctx context.Context, b *Backed) error {
	if err := r.remove(ctx, b); err != nil {
		return err
	}
	ending, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	err := poll(ending, pollInterval, func() bool { // its replicas do not end at once
		_, err := readStream(ending, r.conn, b.Name)
		return hasCode(err, codeStreamNotFound)
	})
	if err != nil {
		return fmt.Errorf("wait until it is removed: %w", err)
	}
	return r.restore(ctx, b)
}

// compare compares the stream with the manifest, on its leader and on every replica. That a
// replica is called current is not enough: it was, with little on its disk.
func (r *restorer) compare(ctx context.Context, b *Backed) error {
	info, err := readStream(ctx, r.conn, b.Name)
	if err != nil {
		return err
	}
	if r.finished(info) {
		return nil // may be in use since
	}
	want, err := b.state()
	if err != nil {
		return err
	}
	if err := errors.Join(settled(info.Cluster, r.replicas),
		same(want, info.State, info.Config.expires())); err != nil {
		return err
	}
	found, err := consumers(ctx, r.conn, b.Name)
	if err != nil {
		return err
	}
	for name, floor := range b.Consumers {
		consumer, ok := found[name]
		if !ok {
			return fmt.Errorf("consumer %s is missing", name)
		}
		if consumer.AckFloor.Stream < floor {
			return fmt.Errorf("consumer %s stands at %d, not %d", name, consumer.AckFloor.Stream, floor)
		}
		if err := settled(consumer.Cluster, consumer.Config.replicas(r.replicas)); err != nil {
			return fmt.Errorf("consumer %s: %w", name, err)
		}
	}
	servers := members(info.Cluster, r.engine.server.Name())
	copies, err := r.engine.replicas(ctx, servers)
	if err != nil {
		return err
	}
	for _, name := range servers {
		if err := whole(copies[name], b, want, info.Config.expires()); err != nil {
			return fmt.Errorf("replica on %s: %w", name, err)
		}
	}
	return nil
}

// whole says what one server's own copy lacks.
func whole(copies map[string]replica, b *Backed, want server.StreamState, expires bool) error {
	own, ok := copies[b.Name]
	if !ok {
		return errors.New("not there")
	}
	if err := same(want, own.State, expires); err != nil {
		return err
	}
	for _, consumer := range b.consumerNames() {
		if !own.Consumers[consumer] {
			return fmt.Errorf("consumer %s is not there", consumer)
		}
	}
	return nil
}

// same says in what a stream differs from its backup. Where messages expire, some may have
// gone since, and markers of that have come.
func same(want, have server.StreamState, expires bool) error {
	if expires {
		if have.LastSeq < want.LastSeq {
			return fmt.Errorf("last sequence is %d, not %d", have.LastSeq, want.LastSeq)
		}
		return nil
	}
	// The first sequence of an empty stream says nothing.
	first := want.Msgs == 0 || have.FirstSeq == want.FirstSeq
	if have.Msgs != want.Msgs || !first || have.LastSeq != want.LastSeq {
		return fmt.Errorf("%d messages from %d to %d, not %d from %d to %d",
			have.Msgs, have.FirstSeq, have.LastSeq, want.Msgs, want.FirstSeq, want.LastSeq)
	}
	return nil
}

// finish marks the stream as wholly restored.
func (r *restorer) finish(ctx context.Context, b *Backed) error {
	info, err := readStream(ctx, r.conn, b.Name)
	if err != nil || r.finished(info) {
		return err
	}
	config, err := b.configured(r.replicas, r.id)
	if err != nil {
		return err
	}
	return updateStream(ctx, r.conn, b.Name, config)
}

func updateStream(ctx context.Context, conn *nats.Conn, name string, config json.RawMessage) error {
	var response apiResponse
	return change(ctx, conn, "$JS.API.STREAM.UPDATE."+name, config, &response)
}
