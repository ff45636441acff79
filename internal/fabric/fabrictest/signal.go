package fabrictest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

func openSignal(t *testing.T, p fabric.Provider) fabric.Signal {
	t.Helper()
	s, err := p.Signal(patient(t), shortName(t))
	must(t, "open signal", err)
	return s
}

// subscribe returns what a subscription receives.
func subscribe(
	t *testing.T, s fabric.Signal, subject string, options ...fabric.SubscribeOption,
) <-chan fabric.Message {
	t.Helper()
	messages := make(chan fabric.Message, 10_000)
	sub, err := s.Subscribe(subject, func(m fabric.Message) { messages <- m }, options...)
	must(t, "subscribe to "+subject, err)
	t.Cleanup(func() { must(t, "unsubscribe", sub.Unsubscribe()) })
	must(t, "flush", s.Flush(context.Background()))
	return messages
}

func publish(t *testing.T, s fabric.Signal, subject, payload string) {
	t.Helper()
	must(t, "publish on "+subject, s.Publish(context.Background(), subject, []byte(payload)))
}

// nothing fails the test when a message arrives that was sent before now.
func nothing(t *testing.T, what string, s fabric.Signal, messages <-chan fabric.Message) {
	t.Helper()
	must(t, "flush", s.Flush(context.Background()))
	select {
	case m := <-messages:
		t.Errorf("%s: got %+v", what, m)
	case <-time.After(short / 10):
	}
}

func testSignalDelivery(t *testing.T, p fabric.Provider) {
	one, two := openSignal(t, p), openSignal(t, p)
	if one.ID() == two.ID() || one.ID() == "" || strings.ContainsAny(one.ID(), ".*> ") {
		t.Errorf("ids are %q and %q", one.ID(), two.ID())
	}
	own, others := subscribe(t, one, "a.b"), subscribe(t, two, "a.b")
	again := subscribe(t, two, "a.b")
	apart := subscribe(t, two, "a")
	largest := bytes.Repeat([]byte{'x'}, fabric.MaxValueSize)
	for _, payload := range [][]byte{[]byte("text"), {}, {0, 0xff, '\r', '\n'}, largest} {
		must(t, "publish", one.Publish(context.Background(), "a.b", payload))
		for _, messages := range []<-chan fabric.Message{own, others, again} {
			m := receive(t, "message", messages)
			if m.Subject != "a.b" || !bytes.Equal(m.Payload, payload) || m.Sender != one.ID() || m.ReplyTo != "" {
				t.Errorf("got %.100q on %q from %q, want %.100q from %q", m.Payload, m.Subject, m.Sender, payload, one.ID())
			}
		}
	}
	nothing(t, "another subject", two, apart)
	elsewhere, err := p.Signal(context.Background(), shortName(t)+"-2")
	must(t, "open another", err)
	publish(t, elsewhere, "a.b", "x")
	must(t, "flush", elsewhere.Flush(context.Background()))
	nothing(t, "another name", two, others)
}

func testSignalWildcards(t *testing.T, p fabric.Provider) {
	s := openSignal(t, p)
	patterns := []string{"a.*", "a.>", "*.b", ">", "a.b", "*", "a.*.c", "*.*.>"}
	received := map[string]<-chan fabric.Message{}
	for _, pattern := range patterns {
		received[pattern] = subscribe(t, s, pattern)
	}
	subjects := []string{"a", "a.b", "a.c", "c.b", "a.b.c", "x.y.z.w", "a.*b", "end"}
	for _, subject := range subjects {
		publish(t, s, subject, subject)
	}
	receive(t, "end", received["*"]) // a
	receive(t, "end", received["*"]) // end, the last of all
	for pattern, messages := range received {
		var got, want []string
		for range len(messages) {
			got = append(got, (<-messages).Subject)
		}
		for _, subject := range subjects {
			if fabric.Matches(pattern, subject) && pattern != "*" {
				want = append(want, subject)
			}
		}
		if pattern != ">" && !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", pattern, got, want)
		}
	}
}

func testSignalSubjects(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	s := openSignal(t, p)
	for _, bad := range []string{
		"", ".", "a.", ".a", "a..b", "a b", "a\n", "ü", "a\x00", "a\x7f", strings.Repeat("s", fabric.MaxSubjectSize+1),
	} {
		wantError(t, fmt.Sprintf("publish on %q", bad), s.Publish(ctx, bad, nil), fabric.ErrInvalidSubject)
		_, err := s.Subscribe(bad, func(fabric.Message) {})
		wantError(t, fmt.Sprintf("subscribe to %q", bad), err, fabric.ErrInvalidSubject)
	}
	for _, pattern := range []string{"*", ">", "a.*", "a.>", "*.a"} {
		wantError(t, "publish on "+pattern, s.Publish(ctx, pattern, nil), fabric.ErrInvalidSubject)
		_, err := s.Request(ctx, pattern, nil)
		wantError(t, "request on "+pattern, err, fabric.ErrInvalidSubject)
	}
	_, err := s.Subscribe("a.>.b", func(fabric.Message) {})
	wantError(t, "subscribe with > inside", err, fabric.ErrInvalidSubject)
	wantError(t, "publish too much", s.Publish(ctx, "a", make([]byte, fabric.MaxValueSize+1)), fabric.ErrTooLarge)
	wantError(t, "respond to no request", s.Respond(fabric.Message{Subject: "a"}, nil), fabric.ErrInvalidSubject)

	texts := []string{"", " ", ".", "*", ">", "%", "a.b", "ünïcode 频道", "\x00\xff\n", "$SYS", strings.Repeat("ü", 500)}
	messages := subscribe(t, s, "t.*")
	longest := strings.Repeat("s", fabric.MaxSubjectSize-2)
	for _, token := range append(mapped(texts, fabric.Token), longest) {
		publish(t, s, "t."+token, token)
		if m := receive(t, "message on "+token, messages); m.Subject != "t."+token {
			t.Errorf("got subject %q, want %q", m.Subject, "t."+token)
		}
	}
}

func mapped(texts []string, to func(string) string) []string {
	var all []string
	for _, text := range texts {
		all = append(all, to(text))
	}
	return all
}

// testSignalOrder has several senders publish on several subjects at once. Each receiving
// signal must see the messages of a sender in their order.
func testSignalOrder(t *testing.T, p fabric.Provider) {
	const senders, each = 4, 2000
	receiver := openSignal(t, p)
	messages := make(chan fabric.Message, senders*each)
	for _, subject := range []string{"o.0", "o.1", "o.2"} {
		_, err := receiver.Subscribe(subject, func(m fabric.Message) { messages <- m })
		must(t, "subscribe", err)
	}
	must(t, "flush", receiver.Flush(context.Background()))
	var running sync.WaitGroup
	for range senders {
		s := openSignal(t, p)
		running.Go(func() {
			for i := range each {
				err := s.Publish(context.Background(), "o."+strconv.Itoa(i%3), []byte(strconv.Itoa(i)))
				if err != nil {
					t.Errorf("publish: %v", err)
				}
			}
		})
	}
	running.Wait()
	next := map[string]int{}
	for range senders * each {
		m := receive(t, "message", messages)
		if got := string(m.Payload); got != strconv.Itoa(next[m.Sender]) {
			t.Fatalf("from %s: got message %s, want %d", m.Sender, got, next[m.Sender])
		}
		next[m.Sender]++
	}
}

func testSignalSkipSelf(t *testing.T, p fabric.Provider) {
	one, two := openSignal(t, p), openSignal(t, p)
	messages := subscribe(t, one, "a", fabric.SkipSelf())
	publish(t, one, "a", "own")
	must(t, "flush", one.Flush(context.Background()))
	publish(t, two, "a", "other")
	if m := receive(t, "message", messages); string(m.Payload) != "other" {
		t.Errorf("got %q", m.Payload)
	}
}

func testSignalUnsubscribe(t *testing.T, p fabric.Provider) {
	s := openSignal(t, p)
	kept := subscribe(t, s, "a")
	messages := make(chan fabric.Message, 10)
	sub, err := s.Subscribe("a", func(m fabric.Message) { messages <- m })
	must(t, "subscribe", err)
	publish(t, s, "a", "1")
	receive(t, "first", messages)
	receive(t, "first", kept)
	must(t, "unsubscribe", sub.Unsubscribe())
	must(t, "unsubscribe again", sub.Unsubscribe())
	publish(t, s, "a", "2")
	receive(t, "second", kept)
	nothing(t, "after unsubscribe", s, messages)
}

// testSignalInHandler does within a handler what a handler may do.
func testSignalInHandler(t *testing.T, p fabric.Provider) {
	s := openSignal(t, p)
	inner := make(chan fabric.Message, 10)
	var sub fabric.Subscription
	ready := make(chan struct{})
	sub, err := s.Subscribe("outer", func(fabric.Message) {
		<-ready
		_, err := s.Subscribe("inner", func(m fabric.Message) { inner <- m })
		if err := errors.Join(err, sub.Unsubscribe(), s.Publish(context.Background(), "inner", nil)); err != nil {
			t.Errorf("in a handler: %v", err)
		}
	})
	must(t, "subscribe", err)
	close(ready)
	publish(t, s, "outer", "")
	receive(t, "message of the inner subscription", inner)
	publish(t, s, "outer", "")
	publish(t, s, "inner", "last")
	if m := receive(t, "message", inner); string(m.Payload) != "last" {
		t.Errorf("got %q: the handler ran again", m.Payload)
	}
}

func testSignalRequest(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	one, two := openSignal(t, p), openSignal(t, p)
	_, err := one.Request(ctx, "nobody", nil)
	wantError(t, "request to nobody", err, fabric.ErrNoResponder)
	_, err = two.Subscribe("echo.*", func(m fabric.Message) {
		if m.Sender != one.ID() || m.ReplyTo == "" {
			t.Errorf("got %+v", m)
		}
		for range 2 { // the first answer counts
			if err := two.Respond(m, m.Payload); err != nil {
				t.Errorf("respond: %v", err)
			}
		}
	})
	must(t, "subscribe", err)
	_, err = two.Subscribe("silent", func(fabric.Message) {})
	must(t, "subscribe", err)
	must(t, "flush", two.Flush(ctx))
	var running sync.WaitGroup
	for i := range 50 {
		running.Go(func() {
			want := strings.Repeat("x", i)
			answer, err := one.Request(ctx, "echo."+strconv.Itoa(i), []byte(want))
			if err != nil || answer == nil || string(answer) != want {
				t.Errorf("request %d: got %q, %v", i, answer, err)
			}
		})
	}
	running.Wait()
	brief, cancel := context.WithTimeout(ctx, short)
	defer cancel()
	_, err = one.Request(brief, "silent", nil)
	wantError(t, "request to one who is silent", err, context.DeadlineExceeded)
	_, err = one.Request(ctx, "a", make([]byte, fabric.MaxValueSize+1))
	wantError(t, "request too large", err, fabric.ErrTooLarge)
}

// testSignalSlow holds a handler until too much waits for it. The sender must not notice,
// the subscription is told of the gap, and goes on behind it.
func testSignalSlow(t *testing.T, p fabric.Provider) {
	ctx, cancel := context.WithTimeout(context.Background(), patience) // a busy machine takes long for so many
	defer cancel()
	sender, receiver := openSignal(t, p), openSignal(t, p)
	release := make(chan struct{})
	gaps := make(chan fabric.Gap, 1000)
	ends := make(chan fabric.Message, 10)
	_, err := receiver.Subscribe("flood", func(m fabric.Message) {
		<-release
		if string(m.Payload) == "end" {
			ends <- m
		}
	}, fabric.OnGap(func(gap fabric.Gap) { gaps <- gap }))
	must(t, "subscribe", err)
	must(t, "flush", receiver.Flush(ctx))
	for i := range fabric.MaxSignalPending + 1000 {
		err := sender.Publish(ctx, "flood", []byte("x"))
		for ; errors.Is(err, fabric.ErrFull); err = sender.Publish(ctx, "flood", []byte("x")) {
			must(t, "flush", sender.Flush(ctx))
		}
		must(t, "publish", err)
		if i%20_000 == 0 {
			must(t, "flush", sender.Flush(ctx))
		}
	}
	must(t, "flush", sender.Flush(ctx))
	must(t, "flush", receiver.Flush(ctx))
	close(release)
	if gap := receive(t, "gap", gaps); gap != fabric.GapSlow {
		t.Errorf("got gap %q", gap)
	}
	eventually(t, "the handler goes on", func() bool {
		publish(t, sender, "flood", "end")
		return len(ends) > 0
	})
}

func testSignalClose(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	s := openSignal(t, p)
	asked := make(chan struct{})
	_, err := s.Subscribe("silent", func(fabric.Message) { close(asked) })
	must(t, "subscribe", err)
	result := make(chan error, 1)
	go func() {
		_, err := s.Request(ctx, "silent", nil)
		result <- err
	}()
	receive(t, "the request arrives", asked)
	must(t, "close", p.Close())
	wantError(t, "pending request", receive(t, "request ends", result), fabric.ErrClosed)
	wantError(t, "publish", s.Publish(ctx, "a", nil), fabric.ErrClosed)
	_, err = s.Subscribe("a", nil)
	wantError(t, "subscribe", err, fabric.ErrClosed)
	_, err = s.Request(ctx, "a", nil)
	wantError(t, "request", err, fabric.ErrClosed)
	wantError(t, "respond", s.Respond(fabric.Message{ReplyTo: "x"}, nil), fabric.ErrClosed)
	wantError(t, "flush", s.Flush(ctx), fabric.ErrClosed)
	_, err = p.Signal(ctx, shortName(t))
	wantError(t, "open", err, fabric.ErrClosed)
}

// testSignalBetweenNodes sends from one node to the others.
func testSignalBetweenNodes(t *testing.T, open func() fabric.Provider) {
	const nodes, each = 3, 300
	var signals []fabric.Signal
	var received []<-chan fabric.Message
	for range nodes {
		s := openSignal(t, open())
		signals = append(signals, s)
		received = append(received, subscribe(t, s, "all"))
	}
	for _, to := range signals {
		for _, from := range signals {
			settle(t, from, to)
		}
	}
	for i := range each {
		publish(t, signals[0], "all", strconv.Itoa(i))
	}
	for n, messages := range received {
		for i := range each {
			m := receive(t, "message", messages)
			if string(m.Payload) != strconv.Itoa(i) || m.Sender != signals[0].ID() {
				t.Fatalf("node %d: got %q, want %d", n, m.Payload, i)
			}
		}
	}
	_, err := signals[1].Subscribe("echo", func(m fabric.Message) {
		if err := signals[1].Respond(m, m.Payload); err != nil {
			t.Errorf("respond: %v", err)
		}
	})
	must(t, "subscribe", err)
	settle(t, signals[2], signals[1])
	answer, err := signals[2].Request(context.Background(), "echo", []byte("hello"))
	if err != nil || string(answer) != "hello" {
		t.Errorf("request to another node: %q, %v", answer, err)
	}
}

// settle waits until what to has subscribed to reaches it from from.
func settle(t *testing.T, from, to fabric.Signal) {
	t.Helper()
	probe := fmt.Sprintf("probe.%s.%s", from.ID(), to.ID())
	messages := subscribe(t, to, probe)
	eventually(t, "subscriptions are known", func() bool {
		publish(t, from, probe, "")
		return len(messages) > 0
	})
}
