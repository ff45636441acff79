package webhook

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

func TestDeadLetterIsListedAndReplayed(t *testing.T) {
	r := newReceiver(t, http.StatusInternalServerError)
	options := quick()
	options.RetryElapsed = 50 * time.Millisecond
	options.BatchSize, options.BatchInterval = 2, time.Minute // one batch, however slow this is
	n := startNode(t, options, appAt(strings.Replace(r.URL, "http://", "http://user:pass-word@", 1)))
	n.Emit("a", MemberAdded("presence-c", "u-ser"))
	n.Emit("a", ClientEvent("presence-c", "client-e", "con-tent", "1.2", "u-ser"))

	dead := n.waitDead(t)
	if want := []string{NameMemberAdded, NameClientEvent}; !reflect.DeepEqual(dead.Events, want) {
		t.Errorf("events %v, want %v", dead.Events, want)
	}
	if dead.AppID != "a" || dead.Attempts != len(r.got) || !strings.Contains(dead.Reason, "status 500") ||
		dead.FailedAt.IsZero() || dead.EnqueuedAt.IsZero() {
		t.Errorf("dead letter %+v", dead)
	}
	text, err := json.Marshal(dead)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"pass-word", "secret-a", "con-tent", "u-ser"} {
		if strings.Contains(string(text), word) {
			t.Errorf("%q is shown: %s", word, text)
		}
	}
	if list, err := n.ListDead(t.Context(), dead.ID, 10); len(list) != 0 || err != nil {
		t.Errorf("after the last one came %v, %v", list, err)
	}

	r.answerWith(http.StatusOK)
	if err := n.Replay(t.Context(), dead.ID); err != nil {
		t.Fatal(err)
	}
	n.waitSent(t, ResultAccepted, 2)
	if list, err := n.ListDead(t.Context(), "", 10); len(list) != 0 || err != nil {
		t.Errorf("dead letters after the replay: %v, %v", list, err)
	}
	if err := n.Replay(t.Context(), dead.ID); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("second Replay returned %v, want ErrNotFound", err)
	}
}

func TestDiscardAndUnreadableJob(t *testing.T) {
	n := startNode(t, quick())
	if _, err := n.queue.Enqueue(t.Context(), fabric.Job{Payload: []byte("no batch")}); err != nil {
		t.Fatal(err)
	}
	dead := n.waitDead(t)
	if dead.AppID != "" || dead.Events == nil || !strings.Contains(dead.Reason, errUnreadable.Error()) {
		t.Errorf("dead letter %+v", dead)
	}
	if err := n.Discard(t.Context(), dead.ID); err != nil {
		t.Fatal(err)
	}
	if list, err := n.ListDead(t.Context(), "", 0); len(list) != 0 || err != nil {
		t.Errorf("dead letters after Discard: %v, %v", list, err)
	}
	if err := n.Discard(t.Context(), dead.ID); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("second Discard returned %v, want ErrNotFound", err)
	}
}

// A payload that decodes must give a body that is valid JSON and stays the same after
// another way through the queue.
func FuzzDecodePayload(f *testing.F) {
	f.Add([]byte(`{"app_id":"a","url":"http://x.test","time_ms":1,"events":[{"name":"cache_miss"}]}`))
	f.Add([]byte(`{"app_id":"a","url":"http://x.test","time_ms":-1,"events":[null, "<\u2028>"]}`))
	f.Add([]byte(`{"app_id":"a","url":"","events":[1]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decodePayload(data)
		if err != nil {
			if !errors.Is(err, errUnreadable) {
				t.Errorf("error %v", err)
			}
			return
		}
		if !json.Valid(p.body()) {
			t.Errorf("invalid body %q", p.body())
		}
		again, err := decodePayload(encodeJSON(p))
		if err != nil {
			t.Fatalf("encoded payload does not decode: %v", err)
		}
		if string(again.body()) != string(p.body()) {
			t.Errorf("body %q became %q", p.body(), again.body())
		}
		_ = Describe(fabric.DeadLetter{Job: fabric.Job{Payload: data}})
	})
}
