package fabrictest

import (
	"context"
	"errors"
	"fmt"
	"testing"

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

func newEntry(subject, payload string) fabric.NewEntry {
	return fabric.NewEntry{Subject: subject, Payload: []byte(payload)}
}

// testLogSend sends many without waiting, then one behind a wrong place and one behind that.
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
	// Send does not try again, and the way to a log that was just made may not be known here yet.
	_, err := l.Append(context.Background(), "a.b", []byte("0"))
	must(t, "append", err)
	want := []string{"1 a.b 0"}
	for i := uint64(1); i < 30; i++ {
		e := newEntry([]string{"a.b", "a.c"}[i%2], fmt.Sprint(i))
		must(t, "send", l.Send(i, e, done))
		want = append(want, fmt.Sprintf("%d %s %s", i+1, e.Subject, e.Payload))
	}
	await("send", nil, 29)
	wantEntries(t, l, ">", 0, 1000, want...)
	must(t, "send", l.Send(29, newEntry("a.b", "late"), done))
	await("behind a wrong place", fabric.ErrConflict, 1)
	must(t, "send", l.Send(35, newEntry("a.b", "early"), done))
	must(t, "send", l.Send(36, newEntry("a.b", "behind it"), done))
	await("behind a place that is not there", fabric.ErrConflict, 2)
	must(t, "send", l.Send(30, newEntry("a.b", "fits"), done))
	await("send", nil, 1)
	wantEntries(t, l, ">", 31, 10, "31 a.b fits")

	for what, e := range map[string]fabric.NewEntry{
		"a wildcard": newEntry("a.*", "x"),
		"large":      {Subject: "a", Payload: make([]byte, fabric.MaxValueSize+1)},
	} {
		if l.Send(31, e, done) == nil {
			t.Errorf("%s is sent", what)
		}
	}
}

// testLogLead moves the lead of a log here, and stores before and after.
func testLogLead(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	l := openPipe(t, p)
	_, err := l.Append(ctx, "a", []byte("before"))
	must(t, "append", err)
	eventually(t, "it is led from here", func() bool { // a replica that was just made may not have all of it
		must(t, "lead", l.Lead(ctx))
		led, err := l.Led(ctx)
		must(t, "led", err)
		return led
	})
	must(t, "lead once more", l.Lead(ctx))
	_, err = l.Append(ctx, "a", []byte("after"))
	must(t, "append", err)
	outcome := make(chan error, 1)
	must(t, "send", l.Send(2, newEntry("a", "sent"), func(err error) { outcome <- err }))
	must(t, "sent", receive(t, "answer", outcome))
	wantEntries(t, l, ">", 0, 10, "1 a before", "2 a after", "3 a sent")
}
