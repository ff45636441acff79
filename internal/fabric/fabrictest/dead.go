package fabrictest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

func deadLetters(t *testing.T, q fabric.Queue) []fabric.DeadLetter {
	t.Helper()
	letters, err := q.DeadLetters(context.Background(), "", fabric.MaxDeadLettersPage)
	must(t, "dead letters", err)
	return letters
}

func wantDead(t *testing.T, q fabric.Queue, want ...string) {
	t.Helper()
	if got := idsOf(deadLetters(t, q)); !slices.Equal(got, want) {
		t.Errorf("dead letters are %q, want %q", got, want)
	}
}

func idsOf(letters []fabric.DeadLetter) []string {
	var ids []string
	for _, letter := range letters {
		ids = append(ids, letter.ID)
	}
	return ids
}

// kill has the queue give up jobs with these IDs, in this order.
func kill(t *testing.T, q fabric.Queue, ids ...string) {
	t.Helper()
	for _, id := range ids {
		enqueue(t, q, fabric.Job{ID: id, Payload: []byte("payload of " + id)})
	}
	stop := work(t, q, func(_ context.Context, job fabric.Job) error {
		return fmt.Errorf("%s: %w", job.ID, fabric.ErrGiveUp)
	})
	wantLen(t, q, 0)
	stop()
}

func testDeadPages(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	q := openQueue(t, p, queueConfig(t))
	wantDead(t, q)
	var all []string
	for i := range 7 {
		all = append(all, "job "+strconv.Itoa(i))
	}
	kill(t, q, all...)
	var got []string
	after := ""
	for {
		page, err := q.DeadLetters(ctx, after, 3)
		must(t, "dead letters", err)
		if len(page) > 3 {
			t.Fatalf("a page of %d", len(page))
		}
		if len(page) == 0 {
			break
		}
		got = append(got, idsOf(page)...)
		after = got[len(got)-1]
		if string(page[0].Payload) != "payload of "+page[0].ID {
			t.Errorf("got %+v", page[0])
		}
	}
	if !slices.Equal(got, all) {
		t.Errorf("got %q, want %q", got, all)
	}
	for _, limit := range []int{0, -1} {
		page, err := q.DeadLetters(ctx, "", limit)
		must(t, "dead letters", err)
		if len(page) != 0 {
			t.Errorf("limit %d gave %d", limit, len(page))
		}
	}
	_, err := q.DeadLetters(ctx, "unknown", 3)
	wantError(t, "page after an unknown id", err, fabric.ErrNotFound)
}

func testDeadBounded(t *testing.T, p fabric.Provider) {
	config := queueConfig(t)
	config.MaxDead = 2
	q := openQueue(t, p, config)
	kill(t, q, "a", "b", "c")
	wantDead(t, q, "b", "c")
}

func testReplay(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	q := openQueue(t, p, queueConfig(t))
	wantError(t, "replay what is not there", q.Replay(ctx, "a"), fabric.ErrNotFound)
	kill(t, q, "a", "b")
	before := deadLetters(t, q)[0]
	must(t, "replay", q.Replay(ctx, "a"))
	wantDead(t, q, "b")
	wantLen(t, q, 1)
	wantError(t, "replay again", q.Replay(ctx, "a"), fabric.ErrNotFound)

	// It fails again at once, well within the time in which its ID is remembered.
	handler, attempts := record(func(fabric.Job) error { return fabric.ErrGiveUp })
	stop := work(t, q, handler)
	a := receive(t, "attempt", attempts)
	if a.ID != "a" || a.Attempt != 1 || string(a.Payload) != "payload of a" ||
		!a.EnqueuedAt.Equal(before.EnqueuedAt) {
		t.Errorf("replayed as %+v, was %+v", a, before)
	}
	wantLen(t, q, 0)
	stop()
	wantDead(t, q, "b", "a")

	must(t, "replay a second time", q.Replay(ctx, "a"))
	handler, attempts = record(succeed)
	work(t, q, handler)
	receive(t, "second replay", attempts)
	wantLen(t, q, 0)
	wantDead(t, q, "b")
}

func testReplayIntoFull(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	config := queueConfig(t)
	config.MaxJobs = 1
	q := openQueue(t, p, config)
	kill(t, q, "a")
	enqueue(t, q, fabric.Job{ID: "b", NotBefore: time.Now().Add(time.Hour)})
	wantError(t, "replay into a full queue", q.Replay(ctx, "a"), fabric.ErrFull)
	wantDead(t, q, "a")
}

func testDiscard(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	q := openQueue(t, p, queueConfig(t))
	wantError(t, "discard what is not there", q.Discard(ctx, "a"), fabric.ErrNotFound)
	kill(t, q, "a", "b", "c")
	must(t, "discard", q.Discard(ctx, "b"))
	wantError(t, "discard again", q.Discard(ctx, "b"), fabric.ErrNotFound)
	wantDead(t, q, "a", "c")
	wantLen(t, q, 0)
}
