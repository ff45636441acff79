package cluster

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/test/process"
)

// A drained node leaves the rotation at once, takes nobody new after the delay, and sends
// its clients away at the pace; undrain brings it back.
func TestDrain(t *testing.T) {
	t.Parallel()
	c := start(t)
	drained, other := c.list[0], c.list[1]
	at := dialing{url: "ws://" + process.Address(drained.port)}
	const clients, rate = 30, 20
	codes := make(chan int, clients)
	for range clients {
		s := at.must(t)
		go func() { codes <- s.lastCode() }()
	}
	eventually(t, "the other nodes hear of the clients", func() bool { return other.member(drained.name).Connections == clients })

	// The first delay is longer than this machine can need for a connection, the second one replaces it.
	drain := func(delay time.Duration) {
		t.Helper()
		out, err := c.command("cluster", "drain", "--rate", strconv.Itoa(rate), "--delay", delay.String())
		if err != nil || !strings.Contains(out, "draining") {
			t.Fatal(out, err)
		}
	}
	drain(10 * time.Minute)
	if drained.ready() {
		t.Error("/ready does not fail at once")
	}
	late := at.must(t) // load balancers have not noticed yet
	go late.lastCode()
	const delay = 700 * time.Millisecond
	began := time.Now()
	drain(delay)
	eventually(t, "the other nodes hear of the drain", func() bool { return other.member(drained.name).State == "draining" })
	for range clients {
		if code := <-codes; code != 4200 {
			t.Errorf("a client is closed with %d", code)
		}
	}
	// The first goes at once, and the late one is anywhere among them.
	if took, least := time.Since(began), delay+(clients-2)*time.Second/rate; took < least {
		t.Errorf("all are gone after %v, at that pace it takes %v", took, least)
	}
	eventually(t, "nobody is left", func() bool { return drained.clients() == 0 && other.member(drained.name).Connections == 0 })
	refused := at
	if s, err := refused.connect(); err == nil || !strings.Contains(err.Error(), "4100") {
		t.Errorf("a new client gets %v, %v", s, err)
	}
	if err := publish(http.DefaultClient, drained.url(), "c", "e", "{}"); err != nil {
		t.Errorf("the HTTP API of a drained node: %v", err)
	}
	if out, err := c.command("cluster", "members"); err != nil || !strings.Contains(out, "draining  0") {
		t.Errorf("members: %v\n%s", err, out)
	}

	if _, err := c.command("cluster", "undrain"); err != nil {
		t.Fatal(err)
	}
	if !drained.ready() {
		t.Error("it is not ready after undrain")
	}
	back := at.must(t)
	back.subscribe(t, "back")
	_ = back.Close()
	eventually(t, "the other nodes hear of it", func() bool { return other.sees("ready") == count })
	drained.Terminate()
}

// What the commands show of a cluster in which a node has died.
func TestStatus(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.list[2].Kill()
	eventually(t, "the death is noticed", func() bool { return c.list[0].sees("ready") == count-1 })
	var out string
	var err error
	eventually(t, "the others have a leader", func() bool { // the killed one may have been it
		out, err = c.command("cluster", "status")
		return err == nil && strings.Contains(out, "engine    healthy")
	})
	for _, part := range []string{"2 ready, 1 missing", "replicas  3", "node3  missing", process.Address(c.list[2].port)} {
		if !strings.Contains(out, part) {
			t.Errorf("no %q in\n%s", part, out)
		}
	}
	if out, err = c.command("cluster", "members", "--json"); err != nil || strings.Count(out, `"id"`) != count {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err = c.command("cluster", "lb"); err == nil || !strings.Contains(err.Error(), "--format") {
		t.Errorf("lb without a format: %v", err)
	}
}
