package redis

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

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
	if bound.Err() == nil {
		news, err := l.provider.await(bound, l.base, l.news)
		if err != nil {
			return l.failed("follow", err)
		}
		defer news.stop()
		l.follow(bound, news, &following{log: l, pattern: pattern, handler: handler, from: max(1, from), next: max(1, from)})
	}
	if err := l.provider.life.Ended(ctx); err != nil {
		return l.failed("follow", err)
	}
	return nil
}

// following is one Follow call.
type following struct {
	*log
	pattern string
	handler func(fabric.Entry)
	from    uint64
	next    uint64 // from where to read on
	epoch   uint64 // of the log that is followed, 0 before it is known
	recent  []told // the last entries that were handed over, oldest first
}

// told is an entry that was handed over. Its time tells it from another with the same number.
type told struct {
	seq uint64
	at  time.Time
}

// maxRecent is how many entries a follower knows again.
const maxRecent = 64

// follow hands over what is there and what comes, until ctx ends.
func (l *log) follow(ctx context.Context, news *waiter, f *following) {
	var interruption fabric.Interruption
	for ctx.Err() == nil {
		more, err := f.catchUp(ctx, news)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			news.gap.Store(true) // it may be another server that answers next
			if _, tell := interruption.Failed(); tell {
				l.provider.options.Logger.Warn("following interrupted, trying on",
					slog.String("log", l.name), slog.Any("error", err))
			}
		default:
			if lasted, was := interruption.Over(); was {
				l.provider.options.Logger.Info("following works again", slog.String("log", l.name),
					slog.Duration("after", lasted.Round(time.Millisecond)))
			}
		}
		if !more {
			news.wait(ctx, lookInterval)
		}
	}
}

// catchUp hands over a page, and says whether there may be more.
func (f *following) catchUp(ctx context.Context, news *waiter) (more bool, err error) {
	if news.gap.Swap(false) {
		if err := f.lookBack(ctx); err != nil {
			return false, err
		}
	}
	p, err := f.read(ctx, f.pattern, f.next, fabric.MaxLogPage, "+", "read")
	if err != nil {
		return false, err
	}
	if f.epoch != 0 && p.epoch != f.epoch { // somebody has thrown everything away
		f.lost(f.from)
		f.epoch, f.recent = p.epoch, nil
		return true, nil
	}
	f.epoch = p.epoch
	for _, e := range p.entries {
		if ctx.Err() != nil {
			return false, nil
		}
		if len(f.recent) == maxRecent {
			f.recent = append(f.recent[:0], f.recent[1:]...)
		}
		f.recent = append(f.recent, told{e.Seq, e.Time})
		f.handler(e)
	}
	f.next = p.next
	return p.more || len(p.entries) > 0, nil
}

// lookBack compares the last entries that were handed over with what is there, as a failover may
// have lost some, whose numbers others get. It goes back behind the last one that is the same.
func (f *following) lookBack(ctx context.Context) error {
	if len(f.recent) == 0 {
		return nil
	}
	newest := f.recent[len(f.recent)-1].seq
	there := map[uint64]time.Time{}
	for p := (logPage{next: f.recent[0].seq, more: true}); p.more; {
		var err error
		if p, err = f.read(ctx, f.pattern, p.next, maxRecent, strconv.FormatUint(newest, 10), "read"); err != nil {
			return err
		}
		for _, e := range p.entries {
			there[e.Seq] = e.Time
		}
	}
	info, err := f.info(ctx)
	if err != nil {
		return err
	}
	differ := info.LastSeq < newest
	for i := len(f.recent) - 1; i >= 0; i-- {
		at, found := there[f.recent[i].seq]
		switch {
		case found && at.Equal(f.recent[i].at):
			if differ {
				f.lost(f.recent[i].seq + 1)
				f.recent = f.recent[:i+1]
			}
			return nil
		case found:
			differ = true
		}
	}
	if differ {
		f.lost(min(f.recent[0].seq, info.LastSeq+1))
		f.recent = nil
	}
	return nil
}

// lost has the log followed from an earlier place on.
func (f *following) lost(next uint64) {
	f.provider.options.Logger.Warn("the log has lost entries", slog.String("log", f.name),
		slog.Uint64("followed_to", f.next-1), slog.Uint64("goes_on_at", next))
	f.next = next
}
