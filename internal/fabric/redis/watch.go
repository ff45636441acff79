package redis

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

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

// watching is one Watch call.
type watching struct {
	*documents
	changed func(fabric.Change)
	epoch   uint64            // of the collection that was told of
	after   uint64            // all changes up to this revision were told
	known   map[string]uint64 // revision of each key that exists, as it was told
}

func (d *documents) watch(ctx context.Context, changed func(fabric.Change), ready func()) error {
	news, err := d.provider.await(ctx, d.base, d.changes)
	if err != nil {
		return err
	}
	defer news.stop()
	w := &watching{documents: d, changed: changed, known: map[string]uint64{}}
	if err := w.compare(ctx); err != nil {
		return err
	}
	ready()
	var interruption fabric.Interruption
	for first := true; ctx.Err() == nil; first = false {
		if !first {
			news.wait(ctx, lookInterval)
		}
		err := w.catchUp(ctx, news)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			news.gap.Store(true) // it may be another server that answers next
			if _, tell := interruption.Failed(); tell {
				d.provider.options.Logger.Warn("watch interrupted, trying on",
					slog.String("documents", d.name), slog.Any("error", err))
			}
		default:
			if lasted, was := interruption.Over(); was {
				d.provider.options.Logger.Info("watch works again", slog.String("documents", d.name),
					slog.Duration("after", lasted.Round(time.Millisecond)))
			}
		}
	}
	return ctx.Err()
}

// catchUp tells what changed since the last time.
func (w *watching) catchUp(ctx context.Context, news *waiter) error {
	if news.gap.Swap(false) {
		return w.compare(ctx)
	}
	for {
		page, err := w.page(ctx, w.after, true)
		if err != nil {
			return err
		}
		if page.epoch != w.epoch || page.revision < w.after || page.floor > w.after {
			return w.compare(ctx)
		}
		if len(page.changes) == 0 {
			return nil
		}
		for _, change := range page.changes {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			w.tell(change)
		}
	}
}

// tell reports a change, unless it is not new.
func (w *watching) tell(change fabric.Change) {
	w.after = max(w.after, change.Revision)
	before, exists := w.known[change.Key]
	switch {
	case change.Deleted && !exists, !change.Deleted && before == change.Revision:
		return
	case change.Deleted:
		delete(w.known, change.Key)
	default:
		w.known[change.Key] = change.Revision
	}
	w.changed(change)
}

// compare reads the whole collection and tells how it differs from what was told: at first, and
// when changes may have been missed, or when a failover may have lost some that were told.
func (w *watching) compare(ctx context.Context) error {
	found, begin, err := w.scan(ctx)
	if err != nil {
		return err
	}
	var changes []fabric.Change
	for key, revision := range w.known {
		if _, exists := found[key]; !exists {
			changes = append(changes, fabric.Change{
				Document: fabric.Document{Key: key, Revision: max(begin.revision, revision+1)}, Deleted: true,
			})
		}
	}
	for _, document := range slices.SortedFunc(maps.Values(found), func(a, b fabric.Document) int {
		return cmp.Compare(a.Revision, b.Revision)
	}) {
		changes = append(changes, fabric.Change{Document: document})
	}
	for _, change := range changes {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.tell(change)
	}
	w.epoch, w.after = begin.epoch, begin.revision
	return nil
}
