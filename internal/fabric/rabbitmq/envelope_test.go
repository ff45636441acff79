package rabbitmq

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestEnvelope(t *testing.T) {
	now := time.Now().UTC()
	e := envelope{
		ID: " a\r\n\x00\"ü", Instance: "instance", EnqueuedAt: now, NotBefore: now.Add(time.Second),
		Failures: 3, FirstAttempt: now.Add(time.Minute), FailedAt: now.Add(time.Hour),
		RetryAt: now.Add(2 * time.Hour), Again: true,
	}
	message, err := e.message([]byte("payload"))
	if err != nil {
		t.Fatal(err)
	}
	if err := message.Headers.Validate(); err != nil {
		t.Error(err)
	}
	got, err := decodeEnvelope(message.Headers)
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("got %+v, %v", got, err)
	}
	if e.readyAt() != e.RetryAt || e.waits() != time.Hour {
		t.Errorf("ready at %v after %v", e.readyAt(), e.waits())
	}
	for what, headers := range map[string]amqp.Table{
		"none":      nil,
		"a number":  {envelopeHeader: int64(1)},
		"no JSON":   {envelopeHeader: "{"},
		"no ID":     {envelopeHeader: `{"instance":"i"}`},
		"no state":  {envelopeHeader: `{"id":"i"}`},
		"no object": {envelopeHeader: "[]"},
	} {
		if _, err := decodeEnvelope(headers); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestBrokerHeaders(t *testing.T) {
	for _, n := range []any{int64(7), int32(7), int16(7), int8(7), uint8(7)} {
		if got := deliveries(amqp.Table{deliveriesHeader: n}); got != 7 {
			t.Errorf("%T: %d", n, got)
		}
	}
	for _, n := range []any{nil, "7", 7.5} {
		if got := deliveries(amqp.Table{deliveriesHeader: n}); got != 0 {
			t.Errorf("%T: %d", n, got)
		}
	}
	at := time.Unix(1, 0)
	reason, when := death(amqp.Table{"x-death": []any{
		amqp.Table{"reason": "delivery_limit", "time": at}, amqp.Table{"reason": "expired"},
	}})
	if reason != "delivery_limit" || !when.Equal(at) {
		t.Errorf("%q at %v", reason, when)
	}
	for _, headers := range []amqp.Table{nil, {"x-death": "x"}, {"x-death": []any{}}, {"x-death": []any{1}}} {
		if reason, when := death(headers); reason != "unknown" || !when.IsZero() {
			t.Errorf("%v: %q at %v", headers, reason, when)
		}
	}
}

// FuzzDecodeEnvelope checks that an envelope that can be read can be written, and is then the
// same.
func FuzzDecodeEnvelope(f *testing.F) {
	text, err := json.Marshal(envelope{ID: "id", Instance: "i", EnqueuedAt: time.Unix(1, 2).UTC(), Failures: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(`{"id":"\ud800","instance":"i"}`)
	f.Fuzz(func(t *testing.T, text string) {
		e, err := decodeEnvelope(amqp.Table{envelopeHeader: text})
		if err != nil {
			return
		}
		message, err := e.message(nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeEnvelope(message.Headers)
		if err != nil || again.ID != e.ID || again.Failures != e.Failures || !again.RetryAt.Equal(e.RetryAt) {
			t.Errorf("%+v became %+v, %v", e, again, err)
		}
	})
}
