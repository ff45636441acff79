package rabbitmq

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
)

// newLetters returns an empty store of letters, and counts what it loses.
func newLetters(t *testing.T, limit int) (*letters, *int) {
	t.Helper()
	store, lost := memory.New(), 0
	heads, err1 := store.Documents(t.Context(), "heads")
	payloads, err2 := store.Documents(t.Context(), "payloads")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &letters{
		heads: heads, payloads: payloads, limit: limit, logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		dropped: func(_, _ string, count int) { lost += count },
	}, &lost
}

func letterOf(id string, at int) fabric.DeadLetter {
	return fabric.DeadLetter{
		Job: fabric.Job{ID: id, Payload: []byte("payload of " + id), Attempt: at}, Reason: "reason",
		FailedAt: time.Unix(int64(at), 0),
	}
}

func putLetter(t *testing.T, l *letters, id string, at int) {
	t.Helper()
	if err := l.put(t.Context(), letterOf(id, at)); err != nil {
		t.Fatal(err)
	}
}

func wantLetters(t *testing.T, l *letters, want string) {
	t.Helper()
	page, err := l.page(t.Context(), "", fabric.MaxDeadLettersPage)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, letter := range page {
		got = append(got, letter.ID)
		if string(letter.Payload) != "payload of "+letter.ID {
			t.Errorf("letter %s has the payload %q", letter.ID, letter.Payload)
		}
	}
	if strings.Join(got, " ") != want {
		t.Errorf("letters %v, want %s", got, want)
	}
}

func TestLetters(t *testing.T) {
	l, lost := newLetters(t, 3)
	putLetter(t, l, "b", 2)
	putLetter(t, l, "a", 1) // another worker was faster
	putLetter(t, l, "c", 3)
	wantLetters(t, l, "a b c")
	putLetter(t, l, "a", 4) // again
	wantLetters(t, l, "b c a")
	putLetter(t, l, "d", 5)
	wantLetters(t, l, "c a d")
	if *lost != 1 {
		t.Errorf("%d were lost", *lost)
	}
	page, err := l.page(t.Context(), "c", 1)
	if err != nil || len(page) != 1 || page[0].ID != "a" || page[0].Attempt != 4 || page[0].Reason != "reason" {
		t.Errorf("got %+v, %v", page, err)
	}
	if _, err := l.page(t.Context(), "b", 1); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("after one that is gone: %v", err)
	}
	documents, err := l.payloads.List(t.Context())
	if err != nil || len(documents) != 3 {
		t.Errorf("%d payloads, %v", len(documents), err)
	}
}

// TestLetterReplaced removes a letter that was replaced after it had been read.
func TestLetterReplaced(t *testing.T) {
	l, _ := newLetters(t, 3)
	putLetter(t, l, "a", 1)
	h, _, err := l.get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	putLetter(t, l, "a", 2)
	if removed, err := l.remove(t.Context(), h); removed || err != nil {
		t.Errorf("remove returned %v, %v", removed, err)
	}
	wantLetters(t, l, "a")

	h, _, err = l.get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	// The payload of the next letter is written, the rest is not yet.
	if _, err := overwrite(t.Context(), l.payloads, token("a"), []byte("payload of a")); err != nil {
		t.Fatal(err)
	}
	if removed, err := l.remove(t.Context(), h); !removed || err != nil {
		t.Errorf("remove returned %v, %v", removed, err)
	}
	if _, err := l.payloads.Get(t.Context(), token("a")); err != nil {
		t.Errorf("the payload of the next letter: %v", err)
	}
}

// TestManyLetters checks that the letters are not all read for each new one, and are bounded
// all the same.
func TestManyLetters(t *testing.T) {
	const limit = 24
	l, lost := newLetters(t, limit)
	for i := range 3 * limit {
		putLetter(t, l, fmt.Sprint(i), i)
		documents, err := l.heads.List(t.Context())
		if err != nil || len(documents) > limit+l.slack() {
			t.Fatalf("%d letters, %v", len(documents), err)
		}
		page, err := l.page(t.Context(), "", fabric.MaxDeadLettersPage)
		if err != nil || len(page) != min(i+1, limit) || page[len(page)-1].ID != fmt.Sprint(i) {
			t.Fatalf("%d letters are shown, %v", len(page), err)
		}
	}
	if *lost < 2*limit-l.slack() {
		t.Errorf("%d were lost", *lost)
	}
}
