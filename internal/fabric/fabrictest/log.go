package fabrictest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

func openLog(t *testing.T, p fabric.Provider) fabric.Log {
	t.Helper()
	l, err := p.Log(patient(t), fabric.LogConfig{Name: shortName(t)})
	must(t, "open log", err)
	return l
}

func appendTo(t *testing.T, l fabric.Log, subject, payload string, options ...fabric.AppendOption) uint64 {
	t.Helper()
	seq, err := l.Append(patient(t), subject, []byte(payload), options...)
	must(t, "append to "+subject, err)
	return seq
}

// wantEntries reads a log page by page and compares "seq subject payload".
func wantEntries(t *testing.T, l fabric.Log, pattern string, from uint64, pageSize int, want ...string) {
	t.Helper()
	var got []string
	for {
		page, err := l.Read(context.Background(), pattern, from, pageSize)
		must(t, "read", err)
		if len(page) > pageSize {
			t.Errorf("a page of %d has %d entries", pageSize, len(page))
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			got = append(got, fmt.Sprintf("%d %s %s", e.Seq, e.Subject, e.Payload))
			from = e.Seq + 1
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", pattern, got, want)
	}
}

func testLog(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	l := openLog(t, p)
	wantEntries(t, l, ">", 0, 10)
	_, err := l.Last(ctx, ">")
	wantError(t, "last of nothing", err, fabric.ErrNotFound)
	if info, err := l.Info(ctx); err != nil || info != (fabric.LogInfo{FirstSeq: 1}) {
		t.Errorf("info of nothing: %+v, %v", info, err)
	}
	before := time.Now().Add(-time.Minute)
	for i, subject := range []string{"a.1", "a.2", "b", "a.1"} {
		if seq := appendTo(t, l, subject, strconv.Itoa(i)); seq != uint64(i+1) {
			t.Errorf("got seq %d, want %d", seq, i+1)
		}
	}
	wantEntries(t, l, ">", 0, 3, "1 a.1 0", "2 a.2 1", "3 b 2", "4 a.1 3")
	wantEntries(t, l, "a.*", 2, 1, "2 a.2 1", "4 a.1 3")
	wantEntries(t, l, "b", 4, 10)
	wantEntries(t, l, "b", 100, 10)
	e, err := l.Last(ctx, "a.1")
	if err != nil || e.Seq != 4 || e.Subject != "a.1" || string(e.Payload) != "3" || e.Time.Before(before) {
		t.Errorf("last: %+v, %v", e, err)
	}
	if e, err := l.Last(ctx, "a.>"); err != nil || e.Seq != 4 {
		t.Errorf("last of a pattern: %+v, %v", e, err)
	}
	same := openLog(t, p)
	wantEntries(t, same, "b", 0, 10, "3 b 2")

	must(t, "delete", l.Delete(ctx, 2))
	wantError(t, "delete again", l.Delete(ctx, 2), fabric.ErrNotFound)
	wantError(t, "delete what never was", l.Delete(ctx, 99), fabric.ErrNotFound)
	must(t, "purge", l.Purge(ctx, "a.1"))
	must(t, "purge nothing", l.Purge(ctx, "none"))
	wantEntries(t, l, ">", 0, 10, "3 b 2")
	info, err := l.Info(ctx)
	if err != nil || info.FirstSeq != 3 || info.LastSeq != 4 || info.Entries != 1 || info.Bytes == 0 {
		t.Errorf("info: %+v, %v", info, err)
	}
	must(t, "purge all", l.Purge(ctx, ">"))
	wantEntries(t, l, ">", 0, 10)
	if seq := appendTo(t, l, "c", "x"); seq != 5 {
		t.Errorf("after a purge got seq %d, want 5", seq)
	}
}

func testLogValues(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	l := openLog(t, p)
	largest := bytes.Repeat([]byte{'x'}, fabric.MaxValueSize)
	for _, payload := range [][]byte{nil, {}, {0, 0xff, '\n'}, largest} {
		seq, err := l.Append(ctx, "a", payload)
		must(t, "append", err)
		page, err := l.Read(ctx, "a", seq, 1)
		must(t, "read", err)
		last, err := l.Last(ctx, "a")
		must(t, "last", err)
		if len(page) != 1 || page[0].Payload == nil || !bytes.Equal(page[0].Payload, payload) || !bytes.Equal(last.Payload, payload) {
			t.Errorf("got %d entries for %.100q", len(page), payload)
		}
	}
	for range 20 { // more than fits into a page
		_, err := l.Append(ctx, "large", largest)
		must(t, "append", err)
	}
	count := 0
	for from := uint64(0); ; {
		page, err := l.Read(ctx, "large", from, 100)
		must(t, "read", err)
		if len(page) == 0 {
			break
		}
		count += len(page)
		from = page[len(page)-1].Seq + 1
	}
	if count != 20 {
		t.Errorf("read %d of 20 large entries", count)
	}
	_, err := l.Append(ctx, "a", make([]byte, fabric.MaxValueSize+1))
	wantError(t, "append too much", err, fabric.ErrTooLarge)
	for _, bad := range []string{"", "a.*", ">", "a b", "a..b"} {
		_, err := l.Append(ctx, bad, nil)
		wantError(t, "append to "+bad, err, fabric.ErrInvalidSubject)
	}
	for _, bad := range []string{"", "a b", "a.>.b"} {
		_, err := l.Read(ctx, bad, 0, 1)
		wantError(t, "read "+bad, err, fabric.ErrInvalidSubject)
		_, err = l.Last(ctx, bad)
		wantError(t, "last of "+bad, err, fabric.ErrInvalidSubject)
		wantError(t, "purge "+bad, l.Purge(ctx, bad), fabric.ErrInvalidSubject)
		wantError(t, "follow "+bad, l.Follow(ctx, bad, 0, nil), fabric.ErrInvalidSubject)
	}
	for _, bad := range []fabric.LogConfig{{}, {Name: "x", MaxAge: 1}, {Name: "x", MaxBytes: -1}, {Name: "x", MaxPerSubject: -1}} {
		_, err := p.Log(ctx, bad)
		wantError(t, fmt.Sprintf("open %+v", bad), err, fabric.ErrInvalidConfig)
	}
}

func testLogExpectations(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	l := openLog(t, p)
	conflict := func(subject string, option fabric.AppendOption) {
		t.Helper()
		_, err := l.Append(ctx, subject, nil, option)
		wantError(t, "append", err, fabric.ErrConflict)
	}
	conflict("a", fabric.ExpectLast(1))
	conflict("a", fabric.ExpectLastOfSubject(1))
	a := appendTo(t, l, "a", "", fabric.ExpectLast(0))
	conflict("a", fabric.ExpectLast(0))
	b := appendTo(t, l, "b", "", fabric.ExpectLast(a), fabric.ExpectLastOfSubject(0))
	conflict("b", fabric.ExpectLast(a))
	conflict("a", fabric.ExpectLastOfSubject(b))
	conflict("a", fabric.ExpectLastOfSubject(0))
	a = appendTo(t, l, "a", "", fabric.ExpectLastOfSubject(a))
	must(t, "purge", l.Purge(ctx, ">"))
	conflict("a", fabric.ExpectLast(0))
	appendTo(t, l, "a", "", fabric.ExpectLast(a), fabric.ExpectLastOfSubject(0))
}

// appendNext appends to a subject behind whatever is its last entry.
func appendNext(ctx context.Context, l fabric.Log, subject string) error {
	for {
		e, err := l.Last(ctx, subject)
		if err != nil && !errors.Is(err, fabric.ErrNotFound) {
			return err
		}
		number, _ := strconv.Atoi(string(e.Payload))
		_, err = l.Append(ctx, subject, []byte(strconv.Itoa(number+1)), fabric.ExpectLastOfSubject(e.Seq))
		if !errors.Is(err, fabric.ErrConflict) {
			return err
		}
	}
}

func testLogRace(t *testing.T, p fabric.Provider) {
	raceLog(t, []fabric.Log{openLog(t, p)})
}

// raceLog has several writers number the entries of one subject by compare-and-append.
func raceLog(t *testing.T, logs []fabric.Log) {
	t.Helper()
	const writers, each = 6, 15
	ctx := context.Background()
	var running sync.WaitGroup
	for i := range writers {
		running.Go(func() {
			for range each {
				if err := appendNext(ctx, logs[i%len(logs)], "a"); err != nil {
					t.Errorf("append: %v", err)
				}
			}
		})
	}
	running.Wait()
	for _, l := range logs {
		page, err := l.Read(ctx, "a", 0, writers*each+1)
		must(t, "read", err)
		if len(page) != writers*each {
			t.Errorf("%d entries, want %d", len(page), writers*each)
		}
		for i, e := range page {
			if string(e.Payload) != strconv.Itoa(i+1) {
				t.Fatalf("entry %d is %s", i+1, e.Payload)
			}
		}
	}
}

// follow starts a Follow call and returns what it hands over.
func follow(t *testing.T, l fabric.Log, pattern string, from uint64) <-chan fabric.Entry {
	t.Helper()
	entries := make(chan fabric.Entry, 10_000)
	background(t, "follow", func(ctx context.Context) error {
		return l.Follow(ctx, pattern, from, func(e fabric.Entry) { entries <- e })
	})
	return entries
}

func testLogFollow(t *testing.T, p fabric.Provider) {
	l := openLog(t, p)
	for i := range 5 {
		appendTo(t, l, "a."+strconv.Itoa(i%2), strconv.Itoa(i))
	}
	all, some := follow(t, l, ">", 0), follow(t, l, "a.1", 3)
	background(t, "writer", func(context.Context) error {
		for i := 5; i < 300; i++ {
			if _, err := l.Append(context.Background(), "a."+strconv.Itoa(i%2), []byte(strconv.Itoa(i))); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range 300 {
		e := receive(t, "entry", all)
		if e.Seq != uint64(i+1) || e.Subject != "a."+strconv.Itoa(i%2) || string(e.Payload) != strconv.Itoa(i) || e.Time.IsZero() {
			t.Fatalf("got %+v, want %d", e, i)
		}
	}
	for i := 3; i < 300; i += 2 {
		if e := receive(t, "entry", some); string(e.Payload) != strconv.Itoa(i) {
			t.Fatalf("got %+v, want %d", e, i)
		}
	}
	later := follow(t, l, ">", 350)
	for i := 301; i <= 350; i++ {
		appendTo(t, l, "b", "")
	}
	if e := receive(t, "entry", later); e.Seq != 350 {
		t.Errorf("got seq %d, want 350", e.Seq)
	}
}

func testLogRetention(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	l, err := p.Log(ctx, fabric.LogConfig{Name: shortName(t) + "-subject", MaxPerSubject: 2})
	must(t, "open", err)
	for i := range 4 {
		appendTo(t, l, "a", strconv.Itoa(i))
		appendTo(t, l, "b", strconv.Itoa(i))
	}
	wantEntries(t, l, ">", 0, 100, "5 a 2", "6 b 2", "7 a 3", "8 b 3")

	l, err = p.Log(ctx, fabric.LogConfig{Name: shortName(t) + "-bytes", MaxBytes: 100_000})
	must(t, "open", err)
	for range 20 {
		appendTo(t, l, "a", string(make([]byte, 10_000)))
	}
	info, err := l.Info(ctx)
	if err != nil || info.Bytes > 100_000 || info.Entries < 5 || info.LastSeq != 20 {
		t.Errorf("info: %+v, %v", info, err)
	}

	l, err = p.Log(ctx, fabric.LogConfig{Name: shortName(t) + "-age", MaxAge: time.Second})
	must(t, "open", err)
	appendTo(t, l, "a", "")
	eventually(t, "the entry is too old", func() bool {
		info, err := l.Info(ctx)
		must(t, "info", err)
		return info.Entries == 0
	})
	if info, _ := l.Info(ctx); info.FirstSeq != 2 || info.LastSeq != 1 {
		t.Errorf("info: %+v", info)
	}
}

func testLogClose(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	l := openLog(t, p)
	appendTo(t, l, "a", "")
	running, result := make(chan struct{}), make(chan error, 1)
	go func() {
		result <- l.Follow(ctx, ">", 0, func(fabric.Entry) { close(running) })
	}()
	receive(t, "follow runs", running)
	must(t, "close", p.Close())
	wantError(t, "follow", receive(t, "follow ends", result), fabric.ErrClosed)
	_, err := l.Append(ctx, "a", nil)
	wantError(t, "append", err, fabric.ErrClosed)
	_, err = l.Read(ctx, "a", 0, 1)
	wantError(t, "read", err, fabric.ErrClosed)
	_, err = l.Last(ctx, "a")
	wantError(t, "last", err, fabric.ErrClosed)
	_, err = l.Info(ctx)
	wantError(t, "info", err, fabric.ErrClosed)
	wantError(t, "purge", l.Purge(ctx, "a"), fabric.ErrClosed)
	wantError(t, "delete", l.Delete(ctx, 1), fabric.ErrClosed)
	wantError(t, "follow again", l.Follow(ctx, "a", 0, nil), fabric.ErrClosed)
	_, err = p.Log(ctx, fabric.LogConfig{Name: shortName(t)})
	wantError(t, "open", err, fabric.ErrClosed)
}

// testLogBetweenNodes appends on all nodes, and reads and follows on all of them.
func testLogBetweenNodes(t *testing.T, open func() fabric.Provider) {
	logs := []fabric.Log{openLog(t, open()), openLog(t, open()), openLog(t, open())}
	raceLog(t, logs)
	for _, l := range logs {
		followed := follow(t, l, "a", 0)
		for i := range 90 {
			if e := receive(t, "entry", followed); e.Seq != uint64(i+1) {
				t.Fatalf("got %+v, want seq %d", e, i+1)
			}
		}
	}
}
