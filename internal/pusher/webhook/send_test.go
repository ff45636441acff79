package webhook

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
)

// The signature was computed with: openssl dgst -sha256 -hmac 7ad3773142a6692b25b8
func TestSignVector(t *testing.T) {
	body := `{"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"test_channel"}]}`
	want := "709fdb84c03664445f7698120b0edf0acc1ab1c8c6e93a0368c61841d6b998aa"
	if got := protocol.Sign("7ad3773142a6692b25b8", body); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRequest(t *testing.T) {
	r := newReceiver(t, http.StatusNoContent)
	app := appAt(r.URL)
	app.Webhooks[0].Headers = map[string]string{
		"X-Tenant": "blue", "x-pusher-key": "forged", "X-Pusher-Signature": "forged",
		"content-type": "text/plain",
	}
	n := startNode(t, quick(), app)
	n.Emit("a", ClientEvent("private-c", "client-e", `{"a":"<é>"}`, "1.2", ""))
	d := r.next(t)

	want := []string{`{"name":"client_event","channel":"private-c","event":"client-e",` +
		`"data":"{\"a\":\"<é>\"}","socket_id":"1.2"}`}
	if got := d.events(t); !reflect.DeepEqual(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	if !d.signedWith("secret-a") {
		t.Error("signature is not that of the body")
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "X-Pusher-Key": "key-a", "X-Tenant": "blue",
	} {
		if got := d.header.Values(name); !reflect.DeepEqual(got, []string{want}) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	n.waitSent(t, ResultAccepted, 1)
}

func TestHeadersOfHooksAtOneAddress(t *testing.T) {
	app := appAt("http://x.test", "http://x.test", "http://y.test")
	app.Webhooks[0].Headers = map[string]string{"X-A": "1"}
	app.Webhooks[1].Headers = map[string]string{"x-a": "2", "X-B": "3"}
	app.Webhooks[2].Headers = map[string]string{"X-C": "4"}
	got, found := headersFor(&app, "http://x.test")
	want := http.Header{"X-A": {"1"}, "X-B": {"3"}}
	if !found || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, found, want)
	}
	if _, found := headersFor(&app, "http://z.test"); found {
		t.Error("found a hook that the app does not have")
	}
}

func TestRetriesUntilAccepted(t *testing.T) {
	// 302 leads to the same server, so a redirect that is followed shows as a request.
	statuses := []int{500, 302, 307, 400, 404, 410, 429, 201}
	r := newReceiver(t, statuses...)
	options := quick()
	options.BatchSize, options.BatchInterval = 2, time.Minute // one batch, however slow this is
	n := startNode(t, options, appAt(r.URL))
	n.Emit("a", CacheMiss("1"))
	n.Emit("a", CacheMiss("2"))
	var bodies []string
	for range statuses {
		d := r.next(t)
		if !d.signedWith("secret-a") {
			t.Error("signature is not that of the body")
		}
		bodies = append(bodies, string(d.body))
	}
	n.waitSent(t, ResultAccepted, 2)
	if got := slices.Compact(bodies); len(got) != 1 {
		t.Errorf("attempts had different bodies: %q", got)
	}
	want := map[string]int{ResultRefused: 2 * (len(statuses) - 1), ResultAccepted: 2}
	if got := n.counts.sentNow(); !reflect.DeepEqual(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
	if left, err := n.Drain(t.Context()); left != 0 || err != nil {
		t.Errorf("Drain returned %d, %v", left, err)
	}
	r.none(t)
}

func TestRetriesAfterTransportError(t *testing.T) {
	r := newReceiver(t, http.StatusOK)
	down := httptest.NewServer(http.NotFoundHandler())
	url := down.URL
	n := startNode(t, quick(), appAt(url))
	down.Close()
	n.Emit("a", CacheMiss("c"))
	eventually(t, "a failed attempt", func() error { return nil },
		func() bool { return n.counts.sentNow()[ResultUnreachable] > 0 })

	// The address answers again.
	n.apps.put(t, appAt(r.URL))
	n.Emit("a", CacheMiss("d"))
	if got, want := r.next(t).events(t), []string{miss("d")}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestTimeoutIsAFailure(t *testing.T) {
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(slow.Close)
	t.Cleanup(func() { close(release) })
	options := quick()
	options.Timeout = 20 * time.Millisecond
	n := startNode(t, options, appAt(slow.URL))
	n.Emit("a", CacheMiss("c"))
	eventually(t, "a timeout", func() error { return nil },
		func() bool { return n.counts.sentNow()[ResultUnreachable] >= 2 })
}

func TestSecretOfTheTimeOfSending(t *testing.T) {
	r := newReceiver(t, http.StatusServiceUnavailable)
	n := startNode(t, quick(), appAt(r.URL))
	n.Emit("a", CacheMiss("c"))
	if d := r.next(t); !d.signedWith("secret-a") || d.header.Get("X-Pusher-Key") != "key-a" {
		t.Error("first attempt is not signed with the first secret")
	}
	rotated := appAt(r.URL)
	rotated.Key, rotated.Secret = "key-b", "secret-b"
	n.apps.put(t, rotated)
	d := r.next(t)
	for d.header.Get("X-Pusher-Key") == "key-a" { // under way when the secret changed
		d = r.next(t)
	}
	if !d.signedWith("secret-b") || d.header.Get("X-Pusher-Key") != "key-b" {
		t.Error("later attempt is not signed with the second secret")
	}
	r.answerWith(http.StatusOK)
	n.waitSent(t, ResultAccepted, 1)
}

func TestAppOrHookGone(t *testing.T) {
	tests := []struct {
		name   string
		remove func(*testing.T, *registry)
		reason string
	}{
		{"app", func(_ *testing.T, r *registry) { r.remove("a") }, errAppGone.Error()},
		{"hook", func(t *testing.T, r *registry) { r.put(t, appAt("http://other.test")) }, errHookGone.Error()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newReceiver(t, http.StatusOK)
			n := newNode(t, memory.New(), quick(), appAt(r.URL))
			n.Emit("a", CacheMiss("c"))
			test.remove(t, n.apps)
			start(t, n.Emitter)
			dead := n.waitDead(t)
			if !strings.Contains(dead.Reason, test.reason) {
				t.Errorf("reason %q, want %q", dead.Reason, test.reason)
			}
			if dead.AppID != "a" || dead.Attempts != goneAttempts {
				t.Errorf("dead letter %+v", dead)
			}
			if want := map[string]int{ResultGivenUp: 1}; !reflect.DeepEqual(n.counts.sentNow(), want) {
				t.Errorf("sent %v, want %v", n.counts.sentNow(), want)
			}
			r.none(t)
		})
	}
}

// A new app may not have reached the node whose worker gets the first attempt.
func TestMissingAppIsGivenTime(t *testing.T) {
	n := newNode(t, memory.New(), quick())
	job := fabric.Job{Payload: []byte(`{"app_id":"a","url":"http://x.test","events":[{}]}`)}
	for attempt, want := range map[int]bool{1: false, 2: false, 3: true, 4: true} {
		job.Attempt = attempt
		err := n.deliver(t.Context(), job)
		if err == nil || errors.Is(err, fabric.ErrGiveUp) != want {
			t.Errorf("attempt %d returned %v, want it to give up: %v", attempt, err, want)
		}
	}
}

// While nobody can tell whether there is such an app, its webhooks are tried again.
func TestUnavailableAppIsNotGivenUp(t *testing.T) {
	n := newNode(t, memory.New(), quick())
	n.apps.setAway(true)
	job := fabric.Job{Attempt: 100, Payload: []byte(`{"app_id":"a","url":"http://x.test","events":[{}]}`)}
	if err := n.deliver(t.Context(), job); !errors.Is(err, apps.ErrUnavailable) || errors.Is(err, fabric.ErrGiveUp) {
		t.Errorf("returned %v", err)
	}
}

func TestSilentReceiverHoldsUpNobody(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var asked atomic.Int64
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		<-release
	}))
	t.Cleanup(silent.Close)
	t.Cleanup(func() { close(release) })
	r := newReceiver(t, http.StatusOK)
	other := appAt(r.URL)
	other.ID = "b"
	options := quick()
	options.Concurrency = 2
	options.Timeout = 300 * time.Millisecond
	options.RetryInitial, options.RetryMax = time.Millisecond, time.Millisecond
	options.BatchSize = 1
	n := startNode(t, options, appAt(silent.URL), other)

	const each = 50
	for range each {
		n.Emit("a", CacheMiss("silent"))
	}
	if err := n.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range each {
		n.Emit("b", CacheMiss("c"))
	}
	for range each {
		r.next(t)
	}
	// Without the gate both workers would wait for each of the 50 in turn.
	if n := asked.Load(); n >= each {
		t.Errorf("the healthy hook waited for %d requests to the silent one", n)
	}
}

func TestShutdownLeavesTheRestInTheQueue(t *testing.T) {
	t.Parallel()
	provider := memory.New()
	r := newReceiver(t, http.StatusServiceUnavailable)
	options := quick()
	options.LeaveDebounce = time.Hour
	options.RetryInitial, options.RetryMax = 3*time.Second, 3*time.Second
	first := newNode(t, provider, options, appAt(r.URL))
	stop := start(t, first.Emitter)
	first.Emit("a", ChannelVacated("c"))
	if err := first.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.next(t)
	left, err := first.Drain(t.Context())
	if left != 1 || err != nil {
		t.Fatalf("Drain returned %d, %v, want 1 batch that waits for its retry", left, err)
	}
	stop()

	r.answerWith(http.StatusOK)
	second := newNode(t, provider, options, appAt(r.URL))
	start(t, second.Emitter)
	want := []string{string(ChannelVacated("c").encode())}
	if got := r.next(t).events(t); !reflect.DeepEqual(got, want) {
		t.Errorf("after the restart came %v, want %v", got, want)
	}
	if dropped := first.counts.droppedNow(); len(dropped) > 0 {
		t.Errorf("dropped %v", dropped)
	}
}

func TestRequestBrokenOffByTheEndIsNoFailure(t *testing.T) {
	provider := memory.New()
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}))
	t.Cleanup(silent.Close)
	t.Cleanup(func() { close(release) })
	n := newNode(t, provider, quick(), appAt(silent.URL))
	stop := start(t, n.Emitter)
	n.Emit("a", CacheMiss("c"))
	<-arrived
	stop()
	if sent := n.counts.sentNow(); len(sent) > 0 {
		t.Errorf("counted %v", sent)
	}
	if left, err := n.queue.Len(t.Context()); left != 1 || err != nil {
		t.Errorf("queue has %d jobs, %v, want 1", left, err)
	}
	if len(n.gate.hooks) != 0 {
		t.Errorf("gate still knows %d hooks", len(n.gate.hooks))
	}
}

func TestNoSecretsInLogs(t *testing.T) {
	r := newReceiver(t, http.StatusBadRequest)
	address := strings.Replace(r.URL, "http://", "http://user:pass-word@", 1) + "/?token=to-ken"
	app := appAt(address, "http://127.0.0.1:1/?token=to-ken", "http://bad host/?token=to-ken")
	app.Webhooks[0].Headers = map[string]string{"Authorization": "au-thor"}
	options := quick()
	options.RetryElapsed = 30 * time.Millisecond
	n := startNode(t, options, app)
	n.Emit("a", ClientEvent("private-c", "client-e", "con-tent", "1.2", ""))
	var list []Dead
	eventually(t, "three dead letters", func() (err error) {
		list, err = n.ListDead(t.Context(), "", 10)
		return err
	}, func() bool { return len(list) == 3 })
	text := n.log.String()
	if !strings.Contains(text, "webhook fails") {
		t.Errorf("failure is not logged:\n%s", text)
	}
	for _, dead := range list {
		text += dead.Reason + "\n" + dead.URL + "\n"
	}
	for _, word := range []string{"secret-a", "pass-word", "au-thor", "con-tent"} {
		if strings.Contains(text, word) {
			t.Errorf("%q is shown:\n%s", word, text)
		}
	}
	if strings.Contains(n.log.String(), "to-ken") {
		t.Errorf("an address is logged:\n%s", n.log.String())
	}
}
