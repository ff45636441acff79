package memory

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/parleyio/parley/internal/fabric"
)

// documents is one handle of a collection.
type documents struct {
	provider *Provider
	name     string
	*collection
}

// collection is the state that all handles share.
type collection struct {
	mu       sync.Mutex // guards the following fields
	revision uint64     // of the last change of any key
	values   map[string]fabric.Document
	watchers map[*watcher]struct{}
}

// watcher holds what one Watch call has still to report: the last change of each key, so
// that a slow one costs no more than the collection itself.
type watcher struct {
	pending map[string]fabric.Change // guarded by collection.mu
	wake    chan struct{}            // holds one token while pending is not empty
}

func newCollection() *collection {
	return &collection{
		values:   map[string]fabric.Document{},
		watchers: map[*watcher]struct{}{},
	}
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
	return fmt.Errorf("%s document %.300q of %q: %w", operation, key, d.name, err)
}

// Get implements fabric.Documents.
func (d *documents) Get(ctx context.Context, key string) (fabric.Document, error) {
	if err := d.check(ctx, "get", key); err != nil {
		return fabric.Document{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	document, ok := d.values[key]
	if !ok {
		return fabric.Document{}, d.failed("get", key, fabric.ErrNotFound)
	}
	return clone(document), nil
}

// Put implements fabric.Documents.
func (d *documents) Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if err := d.check(ctx, "put", key); err != nil {
		return 0, err
	}
	if err := fabric.CheckValue(value); err != nil {
		return 0, d.failed("put", key, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.values[key].Revision != revision { // 0 when there is none
		return 0, d.failed("put", key, fabric.ErrConflict)
	}
	return d.store(key, value), nil
}

// store makes value the one of key and returns its revision. The caller holds d.mu.
func (d *documents) store(key string, value []byte) uint64 {
	d.revision++
	document := clone(fabric.Document{Key: key, Value: value, Revision: d.revision})
	d.values[key] = document
	d.report(fabric.Change{Document: document})
	return d.revision
}

// remove removes a key and returns the revision of that. The caller holds d.mu.
func (d *documents) remove(key string) uint64 {
	d.revision++
	delete(d.values, key)
	d.report(fabric.Change{Document: fabric.Document{Key: key, Revision: d.revision}, Deleted: true})
	return d.revision
}

// Delete implements fabric.Documents.
func (d *documents) Delete(ctx context.Context, key string, revision uint64) error {
	if err := d.check(ctx, "delete", key); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	document, ok := d.values[key]
	if !ok {
		return d.failed("delete", key, fabric.ErrNotFound)
	}
	if document.Revision != revision {
		return d.failed("delete", key, fabric.ErrConflict)
	}
	d.remove(key)
	return nil
}

// Commit implements fabric.Documents.
func (d *documents) Commit(ctx context.Context, writes []fabric.Write) ([]uint64, error) {
	err := d.provider.life.Ready(ctx)
	if err == nil {
		err = fabric.CheckWrites(writes)
	}
	if err != nil {
		return nil, fmt.Errorf("commit to documents of %q: %w", d.name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range writes {
		if now, there := d.values[w.Key]; now.Revision != w.Revision || w.Value == nil && !there {
			return nil, d.failed("commit", w.Key, fabric.ErrConflict)
		}
	}
	revisions := make([]uint64, 0, len(writes))
	for _, w := range writes {
		if w.Value == nil {
			revisions = append(revisions, d.remove(w.Key))
		} else {
			revisions = append(revisions, d.store(w.Key, w.Value))
		}
	}
	return revisions, nil
}

// List implements fabric.Documents.
func (d *documents) List(ctx context.Context) ([]fabric.Document, error) {
	if err := d.provider.life.Ready(ctx); err != nil {
		return nil, fmt.Errorf("list documents of %q: %w", d.name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]fabric.Document, 0, len(d.values))
	for _, key := range slices.Sorted(maps.Keys(d.values)) {
		list = append(list, clone(d.values[key]))
	}
	return list, nil
}

// Watch implements fabric.Documents.
func (d *documents) Watch(ctx context.Context, changed func(fabric.Change), ready func()) error {
	if d.provider.life.Err() != nil {
		return fmt.Errorf("watch documents of %q: %w", d.name, fabric.ErrClosed)
	}
	bound, release := d.provider.life.Bind(ctx)
	defer release()
	w := d.addWatcher()
	defer d.removeWatcher(w)
	d.drain(bound, w, changed)
	if bound.Err() == nil {
		ready()
	}
	for {
		select {
		case <-bound.Done():
			if err := d.provider.life.Ended(ctx); err != nil {
				return fmt.Errorf("watch documents of %q: %w", d.name, err)
			}
			return nil
		case <-w.wake:
			d.drain(bound, w, changed)
		}
	}
}

// addWatcher returns a watcher whose pending changes are the existing documents.
func (d *documents) addWatcher() *watcher {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := &watcher{pending: map[string]fabric.Change{}, wake: make(chan struct{}, 1)}
	for key, document := range d.values {
		w.pending[key] = fabric.Change{Document: document}
	}
	d.watchers[w] = struct{}{}
	return w
}

func (d *documents) removeWatcher(w *watcher) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.watchers, w)
}

// report hands a change to every watcher. The caller holds d.mu.
func (d *documents) report(change fabric.Change) {
	for w := range d.watchers {
		w.pending[change.Key] = change
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// drain reports the changes that are pending now, in the order they were made.
func (d *documents) drain(ctx context.Context, w *watcher, changed func(fabric.Change)) {
	d.mu.Lock()
	pending := w.pending
	w.pending = map[string]fabric.Change{}
	d.mu.Unlock()
	changes := slices.SortedFunc(maps.Values(pending), func(a, b fabric.Change) int {
		return cmp.Compare(a.Revision, b.Revision)
	})
	for _, change := range changes {
		if ctx.Err() != nil {
			return
		}
		if !change.Deleted {
			change.Document = clone(change.Document)
		}
		changed(change)
	}
}

// clone returns a document that shares no memory with the given one, with a value that is
// never nil.
func clone(document fabric.Document) fabric.Document {
	document.Value = append([]byte{}, document.Value...)
	return document
}
