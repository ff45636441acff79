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

// sendAll sends entries without waiting, the first behind last, and returns what became of them.
func sendAll(t *testing.T, l fabric.PipeLog, last uint64, entries ...fabric.NewEntry) (outcomes []error) {
	t.Helper()
	answers := make(chan error, len(entries))
	for i, e := range entries {
		must(t, "send", l.Send(last+uint64(i), e, func(err error) { answers <- err }))
	}
	for range entries {
		outcomes = append(outcomes, receive(t, "answer", answers))
	}
	return outcomes
}

// sendStored sends what is not in the log of its entries. A Send does not try again, and an election may
// come at any time: what it took along, and so what was behind it, is sent once more.
func sendStored(t *testing.T, l fabric.PipeLog, entries []fabric.NewEntry) {
	t.Helper()
	interrupted := false
	eventually(t, "all is stored", func() bool {
		last, err := l.Last(context.Background(), ">")
		must(t, "last", err)
		err = errors.Join(sendAll(t, l, last.Seq, entries[last.Seq:]...)...)
		interrupted = interrupted || errors.Is(err, fabric.ErrUnavailable)
		if err != nil && !interrupted {
			t.Fatalf("send: %v", err)
		}
		return err == nil
	})
}

// sendRefused sends entries behind a wrong place.
func sendRefused(t *testing.T, l fabric.PipeLog, what string, last uint64, entries ...fabric.NewEntry) {
	t.Helper()
	eventually(t, what+" is refused", func() bool {
		refused := true
		for _, err := range sendAll(t, l, last, entries...) {
			if errors.Is(err, fabric.ErrUnavailable) {
				refused = false
			} else {
				wantError(t, what, err, fabric.ErrConflict)
			}
		}
		return refused
	})
}

// testLogSend sends many without waiting, then one behind a wrong place and one behind that.
func testLogSend(t *testing.T, p fabric.Provider) {
	l := openPipe(t, p)
	// Send does not try again, and the way to a log that was just made may not be known here yet.
	_, err := l.Append(context.Background(), "a.b", []byte("0"))
	must(t, "append", err)
	entries, want := []fabric.NewEntry{newEntry("a.b", "0")}, []string{"1 a.b 0"}
	for i := 1; i < 30; i++ {
		e := newEntry([]string{"a.b", "a.c"}[i%2], fmt.Sprint(i))
		entries, want = append(entries, e), append(want, fmt.Sprintf("%d %s %s", i+1, e.Subject, e.Payload))
	}
	sendStored(t, l, entries)
	wantEntries(t, l, ">", 0, 1000, want...)
	sendRefused(t, l, "behind a wrong place", 29, newEntry("a.b", "late"))
	sendRefused(t, l, "behind a place that is not there", 35, newEntry("a.b", "early"), newEntry("a.b", "behind it"))
	sendStored(t, l, append(entries, newEntry("a.b", "fits")))
	wantEntries(t, l, ">", 31, 10, "31 a.b fits")

	for what, e := range map[string]fabric.NewEntry{
		"a wildcard": newEntry("a.*", "x"),
		"large":      {Subject: "a", Payload: make([]byte, fabric.MaxValueSize+1)},
	} {
		if l.Send(31, e, func(error) {}) == nil {
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
	lead := func() (led bool) {
		err := l.Lead(ctx)
		if err == nil {
			led, err = l.Led(ctx)
		}
		if !errors.Is(err, fabric.ErrUnavailable) { // as it is while others are elected
			must(t, "lead", err)
		}
		return err == nil && led
	}
	eventually(t, "it is led from here", lead) // a replica that was just made may not have all of it
	eventually(t, "it is led once more", lead)
	_, err = l.Append(ctx, "a", []byte("after"))
	must(t, "append", err)
	sendStored(t, l, []fabric.NewEntry{newEntry("a", "before"), newEntry("a", "after"), newEntry("a", "sent")})
	wantEntries(t, l, ">", 0, 10, "1 a before", "2 a after", "3 a sent")
}
