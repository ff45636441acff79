package nats

import (
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// FuzzEnvelope decodes any header. What is accepted must survive being written again.
func FuzzEnvelope(f *testing.F) {
	f.Add(`{"id":"job","enqueued_at":"2026-01-02T03:04:05.678Z"}`)
	f.Add(`{"id":"j","not_before":"2026-01-02T03:04:05Z","failures":2,"retry_at":"2026-01-02T03:04:06Z"}`)
	f.Add(`{"id":"\r\n","reason":"a\u0000b","failures":-1}`)
	f.Add(`{"id":""}`)
	f.Add(`{"id":"j","enqueued_at":"tomorrow"}`)
	f.Fuzz(func(t *testing.T, text string) {
		header := natsgo.Header{}
		header.Set(envelopeHeader, text)
		e, err := decodeEnvelope(header)
		if err != nil {
			return
		}
		msg, err := e.message("prefix.", nil)
		if err != nil {
			t.Fatalf("accepted %q and cannot write it: %v", text, err)
		}
		again, err := decodeEnvelope(msg.Header)
		if err != nil {
			t.Fatal(err)
		}
		if again.ID != e.ID || again.Failures != e.Failures || again.Reason != e.Reason ||
			!again.EnqueuedAt.Equal(e.EnqueuedAt) || !again.readyAt().Equal(e.readyAt()) {
			t.Errorf("%+v became %+v", e, again)
		}
	})
}

func TestReadyAt(t *testing.T) {
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	for _, c := range []struct{ notBefore, retryAt, want time.Time }{
		{},
		{notBefore: late, want: late},
		{notBefore: late, retryAt: early, want: late},
		{notBefore: early, retryAt: late, want: late},
	} {
		if got := (envelope{NotBefore: c.notBefore, RetryAt: c.retryAt}).readyAt(); !got.Equal(c.want) {
			t.Errorf("%+v: ready at %v", c, got)
		}
	}
}
