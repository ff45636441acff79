package nats

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// A commit whose first try was stored without an answer must find that out, also when others
// have gone on with some of its keys.
func TestCommitAnswerLost(t *testing.T) {
	ctx, p := open(t)
	d, err := openDocuments(ctx, p, "answer-lost")
	check(t, err)
	revision, err := d.Put(ctx, "deleted", []byte("x"), 0)
	check(t, err)
	for round, others := range []func(){
		func() {},
		func() {
			now, err := d.Get(ctx, "made-1")
			check(t, err)
			check(t, d.Delete(ctx, "made-1", now.Revision))
		},
	} {
		if round > 0 {
			revision, err = d.Put(ctx, "deleted", []byte("x"), 0)
			check(t, err)
		}
		writes := []fabric.Write{
			{Key: fmt.Sprint("made-", round), Value: []byte("1")}, {Key: "deleted", Revision: revision},
		}
		c := &commit{documents: d, id: fmt.Sprint("id-", round), writes: writes, expected: []uint64{0, revision}}
		last, err := c.send(ctx)
		check(t, err)
		others()
		revisions, err := c.run(ctx)
		check(t, err)
		if want := []uint64{last - 1, last}; !slices.Equal(revisions, want) {
			t.Errorf("round %d: got revisions %v, want those of the first try, %v", round, revisions, want)
		}
	}
}

// A batch that lost a message is not stored, and the next try is.
func TestCommitMessageLost(t *testing.T) {
	ctx, p := open(t)
	d, err := openDocuments(ctx, p, "message-lost")
	check(t, err)
	c := &commit{documents: d, id: "id", expected: make([]uint64, 2),
		writes: []fabric.Write{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("1")}}}
	end := c.message("lost", 1)
	end.Header.Set(headerBatchCommit, "1")
	_, err = p.conn.RequestMsgWithContext(ctx, end)
	check(t, err) // the answer is a refusal
	if _, err := d.Get(ctx, "b"); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("the end of a batch was stored alone: %v", err)
	}
	_, err = c.run(ctx)
	check(t, err)
}

// A collection that was opened by a version without Commit takes commits once it is opened.
func TestCommitToOldStream(t *testing.T) {
	ctx, p := open(t)
	_, err := p.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "KV_parley-docs-old", Subjects: []string{"$KV.parley-docs-old.>"}, MaxMsgsPerSubject: 1,
		Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true, AllowMsgTTL: true,
	})
	check(t, err)
	d, err := openDocuments(ctx, p, "old")
	check(t, err)
	_, err = d.Commit(ctx, []fabric.Write{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("1")}})
	check(t, err)
}

// BenchmarkCommit commits as many creations as the name says, of keys that are new or were
// deleted.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			ctx, p := open(b)
			d, err := openDocuments(ctx, p, fmt.Sprint("bench-", size))
			check(b, err)
			for round := 0; b.Loop(); round++ {
				var writes []fabric.Write
				for i := range size {
					writes = append(writes, fabric.Write{Key: fmt.Sprint(round, "/", i), Value: []byte("value")})
				}
				_, err := d.Commit(ctx, writes)
				check(b, err)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/write")
		})
	}
}

// A conditional write that is repeated, as its answer was lost, is known again, and whether another was
// first as well, as long as the last message tells it.
func TestPublished(t *testing.T) {
	ctx, p := open(t)
	d, err := openDocuments(ctx, p, "answer-lost")
	check(t, err)
	own, other := newMsg(d.prefix+"k", []byte("same")), newMsg(d.prefix+"k", []byte("same"))
	other.Header.Set(jetstream.MsgIDHeader, "other")
	first, err := d.write(ctx, own, 0)
	check(t, err)
	conflict := errors.New("conflict")
	if ack, err := p.published(ctx, own, conflict); err != nil || ack.Sequence != first {
		t.Errorf("got %v, %v for what was stored as %d", ack, err, first)
	}
	other.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
	if _, err := p.published(ctx, other, conflict); err != conflict {
		t.Errorf("got %v for what another was faster with", err)
	}
	_, err = d.write(ctx, newMsg(d.prefix+"k", []byte("next")), first)
	check(t, err)
	if _, err := p.published(ctx, own, conflict); !errors.Is(err, errUnknown) || !errors.Is(err, fabric.ErrUnavailable) {
		t.Errorf("got %v for what was written over", err)
	}
}
