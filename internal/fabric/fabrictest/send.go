package fabrictest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// openPipe opens a log that can Send, or skips the test.
func openPipe(t *testing.T, p fabric.Provider) fabric.PipeLog {
	t.Helper()
	l, ok := openLog(t, p).(fabric.PipeLog)
	if !ok {
		t.Skip("this driver's logs cannot Send")
	}
	return l
}

func entriesOf(subject string, payloads ...string) []fabric.NewEntry {
	list := make([]fabric.NewEntry, len(payloads))
	for i, payload := range payloads {
		list[i] = fabric.NewEntry{Subject: subject, Payload: []byte(payload)}
	}
	return list
}

// testLogSend sends many without waiting, in ones and batches, then one behind a wrong place and
// one behind that.
func testLogSend(t *testing.T, p fabric.Provider) {
	l := openPipe(t, p)
	outcomes := make(chan error, 100)
	done := func(err error) { outcomes <- err }
	await := func(what string, want error, n int) {
		t.Helper()
		for range n {
			if err := <-outcomes; !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
	}
	last := uint64(0)
	var want []string
	for i := range 30 {
		entries := entriesOf("a.b", fmt.Sprint(i))
		if i%3 == 0 {
			entries = append(entries, entriesOf("a.c", "x", "y")...)
		}
		must(t, "send", l.Send(last, entries, done))
		for _, e := range entries {
			last++
			want = append(want, fmt.Sprintf("%d %s %s", last, e.Subject, e.Payload))
		}
	}
	await("send", nil, 30)
	wantEntries(t, l, ">", 0, 1000, want...)
	must(t, "send", l.Send(last-1, entriesOf("a.b", "late"), done))
	await("behind a wrong place", fabric.ErrConflict, 1)
	must(t, "send", l.Send(last+5, entriesOf("a.b", "early", "early"), done))
	must(t, "send", l.Send(last+7, entriesOf("a.b", "behind it"), done))
	await("behind a place that is not there", fabric.ErrConflict, 2)
	must(t, "send", l.Send(last, entriesOf("a.b", "fits"), done))
	await("send", nil, 1)
	wantEntries(t, l, ">", last+1, 10, fmt.Sprintf("%d a.b fits", last+1))

	for what, entries := range map[string][]fabric.NewEntry{
		"nothing":    {},
		"many":       make([]fabric.NewEntry, fabric.MaxSend+1),
		"a wildcard": entriesOf("a.*", "x"),
		"large":      {{Subject: "a", Payload: make([]byte, fabric.MaxValueSize+1)}},
		"a TTL":      {{Subject: "a", TTL: time.Millisecond}},
	} {
		if l.Send(last+1, entries, done) == nil {
			t.Errorf("%s is sent", what)
		}
	}
	must(t, "purge before", l.PurgeBefore(context.Background(), "a.c", 6))
	must(t, "purge before", l.PurgeBefore(context.Background(), "a.b", last))
	wantEntries(t, l, "a.b", 0, 1000, want[len(want)-1], fmt.Sprintf("%d a.b fits", last+1))
	if e, err := l.Read(context.Background(), "a.c", 0, 1); err != nil || len(e) != 1 || e[0].Seq != 7 {
		t.Errorf("purged before 6: %+v, %v", e, err)
	}
}

// testLogTTL sends entries that go by themselves.
func testLogTTL(t *testing.T, p fabric.Provider) {
	l := openPipe(t, p)
	done := make(chan error, 2)
	entries := entriesOf("a", "stays", "goes")
	entries[1].TTL = time.Second
	must(t, "send", l.Send(0, entries, func(err error) { done <- err }))
	must(t, "sent", <-done)
	entries[1].Subject = "b"
	must(t, "send", l.Send(2, entries[1:], func(err error) { done <- err }))
	must(t, "sent", <-done)
	eventually(t, "those with a TTL go", func() bool {
		info, err := l.Info(context.Background())
		return err == nil && info.Entries == 1 && info.LastSeq == 3
	})
}
