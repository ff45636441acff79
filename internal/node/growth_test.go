package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/pusher/admin"
)

func TestSurvivable(t *testing.T) {
	for stores, want := range map[int][2]int{1: {1, 0}, 2: {1, 0}, 3: {3, 1}, 4: {3, 1}, 5: {5, 2}, 6: {5, 2}, 9: {5, 2}} {
		replicas := survivable(stores)
		if got := [2]int{replicas, survives(stores, replicas)}; got != want {
			t.Errorf("%d stores: %v, want %v", stores, got, want)
		}
	}
	if got := survives(5, 3); got != 1 {
		t.Errorf("five stores and three replicas survive %d", got)
	}
}

// crew makes members n1, n2, … with a store; n0 has none.
func crew(count int) (known []cluster.Member) {
	for i := range count {
		m := cluster.Member{ID: fmt.Sprint("id", i), Name: fmt.Sprint("n", i), Roles: []string{cluster.RoleStore}}
		if i == 0 {
			m.Roles = []string{cluster.RoleGateway}
		}
		known = append(known, m)
	}
	return known
}

func TestWhoCanBeSpared(t *testing.T) {
	tests := []struct {
		stores int
		name   string
		force  bool
		alive  bool
		left   int
		text   string // of the refusal, empty for none
	}{
		{5, "n5", false, false, 4, ""},
		{5, "id5", false, false, 4, ""},
		{4, "n4", false, false, 3, ""},
		{3, "n3", false, false, 0, "let another join first, or force it"},
		{3, "n3", true, false, 2, ""},
		{2, "n2", true, false, 0, "a cluster needs two"},
		{5, "n0", false, false, 5, ""},
		{5, "n1", true, true, 0, "the node that was asked"},
		{5, "n2", true, true, 0, "it is alive; drain it"},
		{5, "bringing", true, false, 0, "start it again"},
	}
	for _, test := range tests {
		known := crew(test.stores + 1)
		if test.name == "bringing" {
			known[test.stores].Name, known[test.stores].Importing = test.name, true
		}
		m, err := find(known, test.name)
		if err != nil {
			t.Fatal(err)
		}
		view := cluster.View{Self: "id1"}
		if test.alive {
			view.Members = []cluster.Member{m}
		}
		left, err := spare(known, view, m, test.force)
		if test.text == "" {
			if err != nil || left != test.left {
				t.Errorf("%+v: %d, %v", test, left, err)
			}
		} else if !errors.Is(err, admin.ErrMemberStays) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// What failed is shown until the member is back or no member; what goes on, whatever is seen.
func TestForgetterView(t *testing.T) {
	var f forgetter
	missing, back := func(string) bool { return true }, func(string) bool { return false }
	if f.view(missing) != nil {
		t.Error("it shows what nobody asked for")
	}
	if busy := f.begin(cluster.Member{ID: "a", Name: "n1"}); busy != "" {
		t.Errorf("it is busy with %s", busy)
	}
	if busy := f.begin(cluster.Member{ID: "b", Name: "n2"}); busy != "n1" {
		t.Errorf("it is busy with %q", busy)
	}
	f.step("one", "two")
	if shown := f.view(back); shown == nil || shown.Step != "one" || shown.Waits != "two" {
		t.Errorf("shown is %+v", shown)
	}
	f.end(errors.New("no"))
	if shown := f.view(missing); shown == nil || shown.Error != "no" {
		t.Errorf("shown is %+v", shown)
	}
	if f.view(back) != nil || f.view(missing) != nil {
		t.Error("it shows what is over")
	}
}

func TestFindMember(t *testing.T) {
	known := append(crew(3), cluster.Member{ID: "other", Name: "n1"})
	for name, text := range map[string]string{"n1": "give the id of one: id1, other", "nobody": "members"} {
		if _, err := find(known, name); !errors.Is(err, admin.ErrNoMember) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A node that looks for its cluster answers, and stops when it is told to.
func TestStartThatWaits(t *testing.T) {
	c := options(t)
	c.Fabric.Driver = "embedded"
	c.Channels.Port = freePort(t)
	c.Cluster.BootstrapExpect = 3
	c.Cluster.Secret = strings.Repeat("s", 32)
	c.Cluster.BindHost, c.Cluster.BindPort = "127.0.0.1", freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := Start(ctx, c, slog.New(slog.DiscardHandler))
		ended <- err
	}()
	get := func(path string) (int, string) {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", c.Channels.Port, path))
		if err != nil {
			return 0, err.Error()
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return response.StatusCode, string(text)
	}
	eventually(t, "it says for whom it waits", func() bool {
		status, text := get("/ready")
		return status == 503 && strings.Contains(text, "waiting for 3 nodes with role store")
	})
	if status, text := get("/live"); status != 200 {
		t.Errorf("/live: %d %s", status, text)
	}
	if status, text := get("/admin/v1/cluster"); status != 401 {
		t.Errorf("without a token: %d %s", status, text)
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "still waiting for 3 nodes") {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(patience):
		t.Error("it does not stop")
	}
}
