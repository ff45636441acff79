package memory

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// logStore is the state that all handles of one log share.
type logStore struct {
	mu      sync.Mutex // guards the following fields
	config  fabric.LogConfig
	entries []fabric.Entry // in the order of Seq
	last    uint64
	bytes   int64
	subject map[string]int64 // how many entries each subject has
	changed chan struct{}    // closed and replaced with each append
}

func newLogStore() *logStore {
	return &logStore{subject: map[string]int64{}, changed: make(chan struct{})}
}

func entrySize(e fabric.Entry) int64 { return int64(len(e.Subject) + len(e.Payload) + overhead) }

// removeAt takes the entry at index i out. The caller holds s.mu.
func (s *logStore) removeAt(i int) {
	e := s.entries[i]
	s.bytes -= entrySize(e)
	if s.subject[e.Subject]--; s.subject[e.Subject] == 0 {
		delete(s.subject, e.Subject)
	}
	if i == 0 {
		s.entries[0] = fabric.Entry{}
		s.entries = s.entries[1:]
		return
	}
	s.entries = slices.Delete(s.entries, i, i+1)
}

// retain removes what is over the limits. The caller holds s.mu.
func (s *logStore) retain() {
	c := s.config
	if c.MaxAge > 0 {
		for limit := time.Now().Add(-c.MaxAge); len(s.entries) > 0 && !s.entries[0].Time.After(limit); {
			s.removeAt(0)
		}
	}
	for c.MaxBytes > 0 && s.bytes > c.MaxBytes && len(s.entries) > 0 {
		s.removeAt(0)
	}
	if c.MaxPerSubject <= 0 {
		return
	}
	for i := 0; i < len(s.entries); {
		if s.subject[s.entries[i].Subject] > c.MaxPerSubject {
			s.removeAt(i)
			continue
		}
		i++
	}
}

// index returns the place of the first entry from seq on. The caller holds s.mu.
func (s *logStore) index(seq uint64) int {
	return sort.Search(len(s.entries), func(i int) bool { return s.entries[i].Seq >= seq })
}

// page returns up to limit entries, and what is closed with the next append.
func (s *logStore) page(pattern string, from uint64, limit int) ([]fabric.Entry, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retain()
	page := []fabric.Entry{}
	for i := s.index(from); i < len(s.entries) && len(page) < limit; i++ {
		if fabric.Matches(pattern, s.entries[i].Subject) {
			page = append(page, cloneEntry(s.entries[i]))
		}
	}
	return page, s.changed
}

func cloneEntry(e fabric.Entry) fabric.Entry {
	e.Payload = append([]byte{}, e.Payload...)
	return e
}

// log is one handle.
type log struct {
	provider *Provider
	name     string
	store    *logStore
}

func (l *log) failed(operation string, err error) error {
	return fmt.Errorf("%s log %q: %w", operation, l.name, err)
}

// check does what every operation on a pattern does first.
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
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retain()
	o := fabric.NewAppendOptions(options)
	if o.LastSeq != nil && *o.LastSeq != s.last || o.LastSeqOfSubject != nil && *o.LastSeqOfSubject != s.lastOf(subject) {
		return 0, l.failed("append to", fabric.ErrConflict)
	}
	seq := s.append(subject, payload)
	s.retain()
	s.wake()
	return seq, nil
}

// lastOf returns the sequence number of the newest entry under the pattern, or 0. The caller
// holds s.mu.
func (s *logStore) lastOf(pattern string) uint64 {
	for i := len(s.entries) - 1; i >= 0; i-- {
		if fabric.Matches(pattern, s.entries[i].Subject) {
			return s.entries[i].Seq
		}
	}
	return 0
}

// Read implements fabric.Log.
func (l *log) Read(ctx context.Context, pattern string, from uint64, limit int) ([]fabric.Entry, error) {
	if err := l.check(ctx, "read", pattern); err != nil {
		return nil, err
	}
	page, _ := l.store.page(pattern, from, min(limit, fabric.MaxLogPage))
	return page, nil
}

// Last implements fabric.Log.
func (l *log) Last(ctx context.Context, pattern string) (fabric.Entry, error) {
	if err := l.check(ctx, "read", pattern); err != nil {
		return fabric.Entry{}, err
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.store.retain()
	if seq := l.store.lastOf(pattern); seq > 0 {
		return cloneEntry(l.store.entries[l.store.index(seq)]), nil
	}
	return fabric.Entry{}, l.failed("read last of", fabric.ErrNotFound)
}

// Follow implements fabric.Log.
func (l *log) Follow(ctx context.Context, pattern string, from uint64, handler func(fabric.Entry)) error {
	if l.provider.life.Err() != nil {
		return l.failed("follow", fabric.ErrClosed)
	}
	if err := fabric.CheckPattern(pattern); err != nil {
		return l.failed("follow", err)
	}
	bound, release := l.provider.life.Bind(ctx)
	defer release()
	for bound.Err() == nil {
		page, changed := l.store.page(pattern, from, fabric.MaxLogPage)
		for _, e := range page {
			if bound.Err() != nil {
				break
			}
			from = e.Seq + 1
			handler(e)
		}
		if len(page) > 0 {
			continue
		}
		select {
		case <-bound.Done():
		case <-changed:
		}
	}
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
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	for i := len(l.store.entries) - 1; i >= 0; i-- {
		if fabric.Matches(pattern, l.store.entries[i].Subject) {
			l.store.removeAt(i)
		}
	}
	return nil
}

// Delete implements fabric.Log.
func (l *log) Delete(ctx context.Context, seq uint64) error {
	if err := l.provider.life.Ready(ctx); err != nil {
		return l.failed("delete from", err)
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	i := l.store.index(seq)
	if i == len(l.store.entries) || l.store.entries[i].Seq != seq {
		return l.failed("delete from", fmt.Errorf("entry %d: %w", seq, fabric.ErrNotFound))
	}
	l.store.removeAt(i)
	return nil
}

// Info implements fabric.Log.
func (l *log) Info(ctx context.Context) (fabric.LogInfo, error) {
	if err := l.provider.life.Ready(ctx); err != nil {
		return fabric.LogInfo{}, l.failed("inspect", err)
	}
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retain()
	info := fabric.LogInfo{
		FirstSeq: s.last + 1, LastSeq: s.last, Entries: uint64(len(s.entries)), Bytes: uint64(s.bytes),
	}
	if len(s.entries) > 0 {
		info.FirstSeq = s.entries[0].Seq
	}
	return info, nil
}
