package rabbitmq

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// letters are the dead letters of one queue: a document with what is known of each, and
// another, in a collection of its own so that lists stay small, with its payload. The key of
// both is the token of the job's ID, so that there is one letter an ID. A letter is there when
// the first document is; the payload is written before it and removed after it.
type letters struct {
	queue    string
	heads    fabric.Documents
	payloads fabric.Documents
	limit    int // letters that are kept
	dropped  fabric.DropFunc
	logger   *slog.Logger

	mu      sync.Mutex // guards the following fields
	counted int        // letters when they were last counted
	added   int        // letters that were written here since then
}

// head is what is known of a dead letter beside its payload.
type head struct {
	ID         string    `json:"id"`
	EnqueuedAt time.Time `json:"enqueued_at"`
	NotBefore  time.Time `json:"not_before,omitzero"`
	Attempt    int       `json:"attempt"`
	Reason     string    `json:"reason"`
	FailedAt   time.Time `json:"failed_at"`
	// Payload is the revision of the document with the payload.
	Payload uint64 `json:"payload"`

	revision uint64
}

// put stores a letter in the place of an earlier one with its ID, and removes the oldest beyond
// the limit. A repetition stores the same letter.
func (l *letters) put(ctx context.Context, letter fabric.DeadLetter) error {
	key := token(letter.ID)
	payload, err := overwrite(ctx, l.payloads, key, letter.Payload)
	if err != nil {
		return err
	}
	value, err := json.Marshal(head{
		ID: letter.ID, EnqueuedAt: letter.EnqueuedAt, NotBefore: letter.NotBefore, Attempt: letter.Attempt,
		Reason: letter.Reason, FailedAt: letter.FailedAt.UTC(), Payload: payload,
	})
	if err != nil {
		return err
	}
	if _, err := overwrite(ctx, l.heads, key, value); err != nil {
		return err
	}
	if l.mayBeOver() {
		if err := l.trim(ctx); err != nil { // the next letter tries again
			l.logger.Warn("dead letters beyond the limit not removed", slog.Any("error", err))
		}
	}
	return nil
}

// overwrite stores a document whatever is there, and returns its revision.
func overwrite(ctx context.Context, documents fabric.Documents, key string, value []byte) (uint64, error) {
	found := uint64(0)
	for {
		revision, err := documents.Put(ctx, key, value, found)
		if !errors.Is(err, fabric.ErrConflict) {
			return revision, err
		}
		current, err := documents.Get(ctx, key)
		if err != nil && !errors.Is(err, fabric.ErrNotFound) {
			return 0, err
		}
		found = current.Revision // 0 when there is none
	}
}

// slack is by how many letters the limit may be exceeded in the store before the letters are
// counted again, which reads all heads. What is over it is not shown.
func (l *letters) slack() int { return l.limit / 8 }

// mayBeOver counts a letter that was written, and says whether it is time to count all.
func (l *letters) mayBeOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.added++
	return l.counted == 0 || l.counted+l.added > l.limit+l.slack()
}

// trim removes the oldest letters beyond the limit.
func (l *letters) trim(ctx context.Context) error {
	all, err := l.all(ctx)
	if err != nil {
		return err
	}
	over := max(0, len(all)-l.limit)
	for _, h := range all[:over] {
		removed, err := l.remove(ctx, h)
		if err != nil {
			return err
		}
		if removed {
			l.dropped(fabric.DropDeadLetter, l.queue, 1)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counted, l.added = len(all)-over, 0
	return nil
}

// removeAll removes all letters, and what is left of some.
func (l *letters) removeAll(ctx context.Context) error {
	for _, documents := range []fabric.Documents{l.heads, l.payloads} {
		list, err := documents.List(ctx)
		if err != nil {
			return err
		}
		for _, d := range list {
			err := documents.Delete(ctx, d.Key, d.Revision)
			if err != nil && !errors.Is(err, fabric.ErrNotFound) && !errors.Is(err, fabric.ErrConflict) {
				return err
			}
		}
	}
	return nil
}

// all returns the heads of all letters in the store, oldest first.
func (l *letters) all(ctx context.Context) ([]head, error) {
	documents, err := l.heads.List(ctx)
	if err != nil {
		return nil, err
	}
	heads := make([]head, 0, len(documents))
	for _, document := range documents {
		h, err := decodeHead(document)
		if err != nil {
			l.logger.Warn("dead letter unreadable", slog.String("key", document.Key), slog.Any("error", err))
			continue
		}
		heads = append(heads, h)
	}
	slices.SortFunc(heads, func(a, b head) int {
		return cmp.Or(a.FailedAt.Compare(b.FailedAt), cmp.Compare(a.ID, b.ID))
	})
	return heads, nil
}

func decodeHead(document fabric.Document) (head, error) {
	var h head
	if err := json.Unmarshal(document.Value, &h); err != nil {
		return head{}, fmt.Errorf("decode dead letter: %w", err)
	}
	h.revision = document.Revision
	return h, nil
}

// page returns up to limit letters after the one with id after, "" for the start.
func (l *letters) page(ctx context.Context, after string, limit int) ([]fabric.DeadLetter, error) {
	heads, err := l.all(ctx)
	if err != nil {
		return nil, err
	}
	heads = heads[max(0, len(heads)-l.limit):]
	if after != "" {
		i := slices.IndexFunc(heads, func(h head) bool { return h.ID == after })
		if i < 0 {
			return nil, fabric.ErrNotFound
		}
		heads = heads[i+1:]
	}
	page := []fabric.DeadLetter{}
	for _, h := range heads {
		if len(page) >= min(limit, fabric.MaxDeadLettersPage) {
			break
		}
		payload, err := l.payloads.Get(ctx, token(h.ID))
		if errors.Is(err, fabric.ErrNotFound) { // the letter was removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		page = append(page, h.letter(payload.Value))
	}
	return page, nil
}

func (h head) letter(payload []byte) fabric.DeadLetter {
	return fabric.DeadLetter{
		Job: fabric.Job{
			ID: h.ID, Payload: notNil(payload), NotBefore: h.NotBefore, Attempt: h.Attempt, EnqueuedAt: h.EnqueuedAt,
		},
		Reason:   h.Reason,
		FailedAt: h.FailedAt,
	}
}

// get returns the letter with an ID, or ErrNotFound.
func (l *letters) get(ctx context.Context, id string) (head, fabric.DeadLetter, error) {
	document, err := l.heads.Get(ctx, token(id))
	if err != nil {
		return head{}, fabric.DeadLetter{}, err
	}
	h, err := decodeHead(document)
	if err != nil {
		return head{}, fabric.DeadLetter{}, err
	}
	payload, err := l.payloads.Get(ctx, token(id))
	if err != nil {
		return head{}, fabric.DeadLetter{}, err
	}
	return h, h.letter(payload.Value), nil
}

// remove removes a letter, unless it was replaced or removed since it was read, and says
// whether it did. A payload that was written for a letter that comes next has another
// revision, and stays.
func (l *letters) remove(ctx context.Context, h head) (bool, error) {
	isGone := func(err error) bool {
		return errors.Is(err, fabric.ErrConflict) || errors.Is(err, fabric.ErrNotFound)
	}
	key := token(h.ID)
	if err := l.heads.Delete(ctx, key, h.revision); err != nil {
		if isGone(err) {
			err = nil
		}
		return false, err
	}
	if err := l.payloads.Delete(ctx, key, h.Payload); err != nil && !isGone(err) {
		return true, err
	}
	return true, nil
}
