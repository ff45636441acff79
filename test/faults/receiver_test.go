//go:build linux

package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// receiver records webhooks.
type receiver struct {
	t      *testing.T
	server *httptest.Server

	mu    sync.Mutex
	heard []string // "name channel user", in the order of arrival
}

// newReceiver listens at an address of this machine.
func newReceiver(t *testing.T, host string) *receiver {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{t: t}
	r.server = httptest.NewUnstartedServer(r)
	_ = r.server.Listener.Close() // another one takes its place
	r.server.Listener = listener
	r.server.Start()
	t.Cleanup(r.server.Close)
	return r
}

// ServeHTTP takes one request of webhooks.
func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	text, err := io.ReadAll(request.Body)
	if err != nil {
		return // its sender tries again
	}
	if request.Header.Get("X-Pusher-Signature") != sign(string(text)) {
		r.t.Error("a webhook is not signed with the app's secret")
	}
	var batch struct {
		Events []struct {
			Name, Channel string
			UserID        string `json:"user_id"`
		}
	}
	if err := json.Unmarshal(text, &batch); err != nil {
		r.t.Errorf("webhook: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range batch.Events {
		r.heard = append(r.heard, strings.TrimSpace(e.Name+" "+e.Channel+" "+e.UserID))
	}
}

// mark is how much was heard so far.
func (r *receiver) mark() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.heard)
}

// counts says how often each webhook came behind a mark.
func (r *receiver) counts(since int) map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := map[string]int{}
	for _, h := range r.heard[since:] {
		counts[h]++
	}
	return counts
}

// quiet is how long nothing may come behind what was expected.
const quiet = time.Second

// exactly demands these webhooks behind a mark, each once, and no other.
func (r *receiver) exactly(what string, since int, limit time.Duration, want ...string) {
	r.t.Helper()
	expected := map[string]int{}
	for _, w := range want {
		expected[w]++
	}
	eventually(limit, func() bool { return r.mark()-since >= len(want) })
	time.Sleep(quiet) // that nothing more comes cannot be awaited otherwise
	got := r.counts(since)
	if maps.Equal(got, expected) {
		return
	}
	var missing, surplus []string
	for w, n := range expected {
		if got[w] < n {
			missing = append(missing, w)
		}
	}
	for w, n := range got {
		if n > expected[w] {
			surplus = append(surplus, fmt.Sprintf("%s (%d times for %d)", w, n, expected[w]))
		}
	}
	slices.Sort(missing)
	slices.Sort(surplus)
	r.t.Errorf("webhooks %s:\nmissing %q\nsurplus %q", what, missing, surplus)
}

// whenMoved are the webhooks of the users and the lonely channel of a node that went or came.
func whenMoved(n *node, came bool) (list []string) {
	channel, member := "channel_vacated ", "member_removed "
	if came {
		channel, member = "channel_occupied ", "member_added "
	}
	list = append(list, channel+lonelyChannel(n))
	for _, user := range n.ownUsers() {
		list = append(list, member+presenceChannel+" "+user)
	}
	return list
}

// everybodyCame demands one webhook for each channel and member of a new population.
func (r *receiver) everybodyCame(p *population) {
	r.t.Helper()
	var want []string
	o := p.expected()
	for channel := range o.subscriptions {
		want = append(want, "channel_occupied "+channel)
		for _, user := range o.users[channel] {
			want = append(want, "member_added "+channel+" "+user)
		}
	}
	r.exactly("when everybody came", 0, settleLimit, want...)
}
