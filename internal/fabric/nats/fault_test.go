package nats

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/fabric"
)

// TestSignalConnectionLost checks that subscriptions come back and are told of the gap.
func TestSignalConnectionLost(t *testing.T) {
	ctx, p := open(t)
	defer func() { check(t, p.Close()) }()
	s, err := p.Signal(ctx, "s")
	check(t, err)
	messages, gaps := make(chan fabric.Message, 100), make(chan fabric.Gap, 100)
	_, err = s.Subscribe("a.*", func(m fabric.Message) { messages <- m },
		fabric.OnGap(func(gap fabric.Gap) { gaps <- gap }))
	check(t, err)
	for i := range 3 {
		check(t, s.Publish(ctx, "a.b", []byte(strconv.Itoa(i))))
		if m := next(ctx, t, messages); string(m.Payload) != strconv.Itoa(i) {
			t.Errorf("got %q, want %d", m.Payload, i)
		}
		check(t, p.bus.conn.ForceReconnect())
		if gap := next(ctx, t, gaps); gap != fabric.GapReconnect {
			t.Errorf("got gap %q", gap)
		}
	}
	_, err = s.Request(ctx, "nobody", nil)
	if !errors.Is(err, fabric.ErrNoResponder) {
		t.Errorf("request after reconnects: %v", err)
	}
}

// TestStoredPartsConnectionLost uses each part before and after losses of the connection,
// with a lock held and a log followed all the while.
func TestStoredPartsConnectionLost(t *testing.T) {
	t.Parallel()
	ctx, p := open(t)
	c, err := p.Cache(ctx, fabric.CacheConfig{Name: "c", MaxBytes: 1 << 20})
	check(t, err)
	locks, err := p.Locks(ctx, "l")
	check(t, err)
	l, err := p.Log(ctx, fabric.LogConfig{Name: "l"})
	check(t, err)
	b, err := p.Blobs(ctx, fabric.BlobConfig{Name: "b", MaxSize: 1 << 20})
	check(t, err)

	held, err := locks.Acquire(ctx, "held", 10*time.Second)
	check(t, err)
	until := held.Until()
	entries := make(chan fabric.Entry, 100)
	following, stop := context.WithCancel(ctx)
	followed := make(chan error, 1)
	go func() { followed <- l.Follow(following, ">", 0, func(e fabric.Entry) { entries <- e }) }()
	content := bytes.Repeat([]byte("x"), 2*chunkSize)
	for i := range 3 {
		check(t, c.Set(ctx, "k", []byte{byte(i)}, 0))
		n, err := c.Add(ctx, "n", 1, 0)
		check(t, err)
		if n != int64(i+1) {
			t.Errorf("counter is %d, want %d", n, i+1)
		}
		seq, err := l.Append(ctx, "a", nil)
		check(t, err)
		if e := next(ctx, t, entries); e.Seq != seq {
			t.Errorf("followed %d, want %d", e.Seq, seq)
		}
		_, err = b.Put(ctx, "k", bytes.NewReader(content))
		check(t, err)
		_, reader, err := b.Get(ctx, "k")
		check(t, err)
		check(t, p.conn.ForceReconnect())
		got, err := io.ReadAll(reader)
		check(t, err)
		if !bytes.Equal(got, content) {
			t.Errorf("read %d bytes, want %d", len(got), len(content))
		}
		other, err := locks.Acquire(ctx, "other", 10*time.Second)
		check(t, err)
		check(t, other.Release(ctx))
	}
	stop()
	check(t, next(ctx, t, followed))
	for renewed := false; !renewed; time.Sleep(time.Millisecond) {
		select {
		case <-held.Lost():
			t.Fatal("the lock was lost with the connection")
		default:
			renewed = held.Until().After(until)
		}
	}
	check(t, held.Release(ctx))
}

// TestLockLostWithoutStore takes the store away from a holder. It must learn that the lock is
// lost by its own clock, as the store does not come back.
func TestLockLostWithoutStore(t *testing.T) {
	t.Parallel()
	ctx, p := open(t)
	locks, err := p.Locks(ctx, "l")
	check(t, err)
	const lease = time.Second
	held, err := locks.Acquire(ctx, "k", lease)
	check(t, err)
	check(t, p.js.DeleteStream(ctx, "parley-lock-l"))
	next(ctx, t, held.Lost())
	if err := held.Release(ctx); !errors.Is(err, fabric.ErrLost) {
		t.Errorf("release: %v", err)
	}
	_, err = locks.TryAcquire(ctx, "k", lease)
	if !errors.Is(err, fabric.ErrUnavailable) {
		t.Errorf("acquire without a store: %v", err)
	}
}

// TestLockAnswerLost has a renewal be written without its holder learning of it.
func TestLockAnswerLost(t *testing.T) {
	ctx, p := open(t)
	opened, err := p.Locks(ctx, "l")
	check(t, err)
	held, err := opened.Acquire(ctx, "k", time.Minute)
	check(t, err)
	k := held.(*lock)
	k.stop()
	<-k.kept
	_, err = k.write(ctx, lease{k.id, 1000}, k.revision) // the revision of k is old now
	check(t, err)
	if err := k.renew(ctx); !isConflict(err) {
		t.Errorf("renew: %v", err)
	}
	check(t, k.renew(ctx))
	_, err = k.write(ctx, lease{k.id, 1000}, k.revision)
	check(t, err)
	check(t, k.Release(ctx))
	again, err := opened.TryAcquire(ctx, "k", time.Minute)
	check(t, err)
	check(t, again.Release(ctx))
}

// TestLockTakenOver has another take a lock over from a holder that is late, as after a long
// pause of its process. The holder must learn of it and leave the other's lock alone.
func TestLockTakenOver(t *testing.T) {
	ctx, p := open(t)
	opened, err := p.Locks(ctx, "l")
	check(t, err)
	late, err := opened.Acquire(ctx, "k", time.Second)
	check(t, err)
	k := late.(*lock)
	thief := &lock{locks: k.locks, name: "k", duration: time.Minute, id: "thief"}
	for taken := false; !taken; { // renewals may come between
		_, revision, err := k.locks.read(ctx, "k")
		check(t, err)
		_, err = thief.write(ctx, lease{"thief", 60_000}, revision)
		taken = err == nil
	}
	next(ctx, t, late.Lost())
	if err := late.Release(ctx); !errors.Is(err, fabric.ErrLost) {
		t.Errorf("release: %v", err)
	}
	record, _, err := k.locks.read(ctx, "k")
	check(t, err)
	if record.Holder != "thief" {
		t.Errorf("the lock is held by %q", record.Holder)
	}
}

// Who waits for a lock that is given back again and again is no slow consumer: one word to look again
// is enough.
func TestLockManyWords(t *testing.T) {
	t.Parallel()
	const lasting = time.Minute
	ctx, p := open(t)
	slow := make(chan error, 100)
	p.conn.SetErrorHandler(func(_ *natsgo.Conn, _ *natsgo.Subscription, err error) { slow <- err })
	opened, err := p.Locks(ctx, "many")
	check(t, err)
	first, err := opened.TryAcquire(ctx, "l", lasting) // not what is tried here, so longer than that takes
	check(t, err)
	before, taken := p.conn.NumSubscriptions(), make(chan error, 1)
	go func() {
		_, err := opened.Acquire(ctx, "l", lasting)
		taken <- err
	}()
	for p.conn.NumSubscriptions() == before && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		for range 500 {
			check(t, p.conn.Publish(opened.(*locks).wakeSubject("l"), nil))
		}
		check(t, p.conn.Flush())
	}
	check(t, first.Release(ctx))
	check(t, next(ctx, t, taken))
	select {
	case err := <-slow:
		t.Error(err)
	default:
	}
}

// TestBlobCorrupt changes and removes chunks behind the back of the driver.
func TestBlobCorrupt(t *testing.T) {
	ctx, p := open(t)
	opened, err := p.Blobs(ctx, fabric.BlobConfig{Name: "b", MaxSize: 1 << 20})
	check(t, err)
	b := opened.(*blobs)
	_, err = b.Put(ctx, "k", bytes.NewReader(make([]byte, 2*chunkSize)))
	check(t, err)
	record, err := b.read(ctx, "k")
	check(t, err)
	read := func() error {
		t.Helper()
		_, reader, err := b.Get(ctx, "k")
		check(t, err)
		_, err = io.ReadAll(reader)
		return err
	}
	_, err = b.publish(ctx, b.chunk(record.Content, 1), bytes.Repeat([]byte("y"), chunkSize))
	check(t, err)
	if err := read(); !errors.Is(err, fabric.ErrCorrupt) {
		t.Errorf("read what was changed: %v", err)
	}
	b.removeContent(ctx, record.Content)
	if err := read(); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("read what was removed: %v", err)
	}
}

// TestBlobLeftovers counts what is stored after blobs were replaced, refused and deleted.
func TestBlobLeftovers(t *testing.T) {
	ctx, p := open(t)
	opened, err := p.Blobs(ctx, fabric.BlobConfig{Name: "b", MaxSize: 1 << 20})
	check(t, err)
	b := opened.(*blobs)
	for range 3 {
		_, err = b.Put(ctx, "k", bytes.NewReader(make([]byte, 1<<20)))
		check(t, err)
	}
	if _, err := b.Put(ctx, "k", bytes.NewReader(make([]byte, 1<<20+1))); !errors.Is(err, fabric.ErrTooLarge) {
		t.Errorf("put too much: %v", err)
	}
	wantMessages := func(want uint64) {
		t.Helper()
		info, err := b.stream.Info(ctx)
		check(t, err)
		if info.State.Msgs != want {
			t.Errorf("%d messages are stored, want %d", info.State.Msgs, want)
		}
	}
	wantMessages(1 + 1<<20/chunkSize)
	_, err = b.publish(ctx, b.chunk("orphan", 0), nil) // too young to be swept
	check(t, err)
	check(t, b.sweep(ctx))
	wantMessages(2 + 1<<20/chunkSize)
	check(t, b.Delete(ctx, "k"))
	wantMessages(1)
}

// TestDropped checks that what is lost is counted under its reason.
func TestDropped(t *testing.T) {
	t.Parallel()
	ctx, p := open(t)
	t.Cleanup(func() { check(t, p.Close()) }) // after the worker has ended
	var dead, slow, backlog atomic.Int64
	counts := map[string]*atomic.Int64{
		fabric.DropDeadLetter: &dead, fabric.DropSignalSlow: &slow, fabric.DropSignalBacklog: &backlog,
	}
	p.dropped = func(reason, _ string, n int) { counts[reason].Add(int64(n)) }
	q := openTestQueue(ctx, t, p) // keeps 10 dead letters
	ids := startWork(ctx, t, q, fabric.ErrGiveUp)
	for i := range 13 {
		_, err := q.Enqueue(ctx, fabric.Job{ID: strconv.Itoa(i)})
		check(t, err)
		next(ctx, t, ids)
	}
	for n := 1; n != 0; {
		var err error
		n, err = q.Len(ctx)
		check(t, err)
	}
	if dead.Load() != 3 {
		t.Errorf("%d dead letters were pushed out, want 3", dead.Load())
	}

	s, err := p.Signal(ctx, "s")
	check(t, err)
	release := make(chan struct{})
	sub, err := s.Subscribe("a", func(fabric.Message) { <-release })
	check(t, err)
	for i := range fabric.MaxSignalPending + 500 {
		check(t, s.Publish(ctx, "a", nil))
		if i%10_000 == 0 {
			check(t, s.Flush(ctx))
		}
	}
	check(t, s.Flush(ctx))
	close(release)
	check(t, sub.Unsubscribe())
	check(t, s.Flush(ctx))
	if n := slow.Load(); n < 490 || n > 500 {
		t.Errorf("%d messages were lost by the slow handler, want 499", n)
	}
	blocked := make(chan struct{})
	s.(*signal).outbox.control(func() { <-blocked })
	full := 0
	for range 3 * fabric.MaxSignalBacklogBytes / fabric.MaxValueSize {
		if err := s.Publish(ctx, "b", make([]byte, fabric.MaxValueSize)); err != nil {
			full++
			if !errors.Is(err, fabric.ErrFull) {
				t.Fatal(err)
			}
		}
	}
	close(blocked)
	if full == 0 || int(backlog.Load()) != full {
		t.Errorf("%d publishes were refused, %d counted", full, backlog.Load())
	}
}

// TestEngineGone stops the engine below a provider: calls must end, with an error.
func TestEngineGone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	silent := slog.New(slog.DiscardHandler)
	e, err := engine.Start(ctx, engine.Options{DataDir: t.TempDir(), Logger: silent})
	check(t, err)
	conn, err := e.Connect("test")
	check(t, err)
	p, err := New(conn, Options{Logger: silent})
	check(t, err)
	s, err := p.Signal(ctx, "s")
	check(t, err)
	locks, err := p.Locks(ctx, "l")
	check(t, err)
	held, err := locks.Acquire(ctx, "k", time.Second)
	check(t, err)
	check(t, e.Stop(ctx))
	next(ctx, t, held.Lost())
	check(t, s.Publish(ctx, "a", nil)) // waits for the connection, or is lost and counted
	brief, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := s.Request(brief, "a", nil); err == nil {
		t.Error("a request was answered")
	}
	if _, err := locks.TryAcquire(ctx, "other", time.Second); !errors.Is(err, fabric.ErrClosed) {
		t.Errorf("acquire: %v", err)
	}
	check(t, p.Close())
	if !p.bus.conn.IsClosed() {
		t.Error("the connection of the signals is open")
	}
}

// BenchmarkSignal sends between two connections to one engine.
func BenchmarkSignal(b *testing.B) {
	ctx, p := open(b)
	other, err := New(p.conn, Options{Logger: p.logger})
	check(b, err)
	defer func() { check(b, p.Close()); check(b, other.Close()) }()
	sender, err := p.Signal(ctx, "bench")
	check(b, err)
	receiver, err := other.Signal(ctx, "bench")
	check(b, err)
	for name, subject := range map[string]string{"received": "a.room", "nobody": "b.room"} {
		b.Run(name, func(b *testing.B) {
			flying, done, n := make(chan struct{}, 20_000), make(chan struct{}), 0
			sub, err := receiver.Subscribe("a.*", func(fabric.Message) {
				<-flying
				if n++; n == b.N {
					close(done)
				}
			})
			check(b, err)
			check(b, receiver.Flush(ctx))
			payload := make([]byte, 256)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if name == "received" {
					flying <- struct{}{}
				} else if i%10_000 == 0 {
					check(b, sender.Flush(ctx))
				}
				check(b, sender.Publish(ctx, subject, payload))
			}
			if name == "received" {
				<-done
			}
			check(b, sender.Flush(ctx))
			b.StopTimer()
			check(b, sub.Unsubscribe())
		})
	}
}
