package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

// oneCluster is a node's cluster that remembers what was asked of it.
type oneCluster struct {
	rate  int
	delay time.Duration
	back  int
	err   error

	member string
	force  bool
}

func (c *oneCluster) Forget(_ context.Context, member string, force bool) (ClusterMember, error) {
	if c.err != nil {
		return ClusterMember{}, c.err
	}
	c.member, c.force = member, force
	return ClusterMember{ID: "b", Name: "node2"}, nil
}

func (c *oneCluster) ClusterView() ClusterView {
	return ClusterView{
		Domain: "parley", ID: "c1", Epoch: 5, Self: "a",
		Replicas: ReplicaView{Stores: 3, Survives: 1, Have: 3, Want: 5, Behind: []string{"s"}, Work: "w"},
		Members: []ClusterMember{{ID: "a", Name: "node1", State: "ready", Connections: 7,
			Addresses: map[string]string{"channels": "10.0.0.5:6001"}}},
		Missing: []ClusterMember{{ID: "b", Name: "node2"}},
		Engine:  EngineView{Healthy: true, Peers: []EnginePeer{{ID: "b", Offline: true}}},
	}
}

func (c *oneCluster) Drain(rate int, delay time.Duration) (Drained, error) {
	c.rate, c.delay = rate, delay
	return Drained{ID: "a", Name: "node1", Was: "ready"}, c.err
}

func (c *oneCluster) Undrain() (Drained, error) {
	c.back++
	return Drained{ID: "a", Name: "node1", Was: "draining"}, c.err
}

func clusterClient(t *testing.T, c Cluster) *Client {
	t.Helper()
	handler := New(nil, nil, token, slog.New(slog.DiscardHandler))
	if c != nil {
		handler.WithCluster(c)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &Client{Server: server.URL, Token: token}
}

func TestCluster(t *testing.T) {
	node := &oneCluster{}
	client := clusterClient(t, node)
	view, err := client.Cluster(t.Context())
	if want := node.ClusterView(); err != nil || !reflect.DeepEqual(view, want) {
		t.Errorf("got %+v, %v", view, err)
	}
	for _, test := range []struct {
		rate      int
		delay     time.Duration
		wantRate  int
		wantDelay time.Duration
	}{
		{0, NoDelay, DefaultDrainRate, NoDelay},
		{20, 0, 20, 0},
		{1, 1500 * time.Millisecond, 1, 1500 * time.Millisecond},
	} {
		if asked, err := client.Drain(t.Context(), test.rate, test.delay); err != nil || asked.Name != "node1" || asked.Was != "ready" ||
			node.rate != test.wantRate || node.delay != test.wantDelay {
			t.Errorf("%+v: got %d, %v, %v", test, node.rate, node.delay, err)
		}
	}
	if m, err := client.Forget(t.Context(), "node2", true); err != nil || m.ID != "b" || node.member != "node2" || !node.force {
		t.Errorf("forget: %+v, %v", m, err)
	}
	if asked, err := client.Undrain(t.Context()); err != nil || node.back != 1 || asked.ID != "a" || asked.Was != "draining" {
		t.Errorf("undrain: %d, %v", node.back, err)
	}
}

func TestClusterRefusals(t *testing.T) {
	node := &oneCluster{}
	in, alone := clusterClient(t, node), clusterClient(t, nil)
	stopping := clusterClient(t, &oneCluster{err: ErrStopping})
	_, errAlone := alone.Cluster(t.Context())
	forget := func(client *Client, member string) error {
		_, err := client.Forget(t.Context(), member, false)
		return err
	}
	drain := func(client *Client, rate int, delay time.Duration) error {
		_, err := client.Drain(t.Context(), rate, delay)
		return err
	}
	undrain := func(client *Client) error {
		_, err := client.Undrain(t.Context())
		return err
	}
	fails := func(err error) *Client { return clusterClient(t, &oneCluster{err: fmt.Errorf("%w: details", err)}) }
	tests := []struct {
		name string
		err  error
		code string
		text string
	}{
		{"rate", drain(in, -1, 0), CodeInvalid, "rate"},
		{"high rate", drain(in, MaxDrainRate+1, 0), CodeInvalid, "rate"},
		{"delay", drain(in, 1, -time.Second), CodeInvalid, "delay_ms"},
		{"long delay", drain(in, 1, time.Hour), CodeInvalid, "delay_ms"},
		{"unknown field", in.call(t.Context(), "POST", "cluster/drain", map[string]int{"pace": 1}, nil), CodeInvalid, "pace"},
		{"method", in.call(t.Context(), "GET", "cluster/drain", nil, nil), CodeMethodNotAllowed, "GET"},
		{"forget nobody", forget(in, ""), CodeInvalid, "member"},
		{"forget alone", forget(alone, "x"), CodeNoCluster, "not in a cluster"},
		{"forget an unknown one", forget(fails(ErrNoMember), "x"), CodeNotFound, "details"},
		{"forget a living one", forget(fails(ErrMemberStays), "x"), CodeStays, "details"},
		{"forget two", forget(fails(ErrBusy), "x"), CodeBusy, "details"},
		{"forget while stopping", forget(fails(ErrStopping), "x"), CodeUnavailable, "details"},
		{"show alone", errAlone, CodeNoCluster, "not in a cluster"},
		{"drain alone", drain(alone, 1, 0), CodeNoCluster, "not in a cluster"},
		{"undrain alone", undrain(alone), CodeNoCluster, "not in a cluster"},
		{"drain while stopping", drain(stopping, 1, 0), CodeUnavailable, "stopping"},
		{"undrain while stopping", undrain(stopping), CodeUnavailable, "stopping"},
	}
	for _, test := range tests {
		var failure *Failure
		if !errors.As(test.err, &failure) || failure.Code != test.code || !strings.Contains(failure.Text, test.text) {
			t.Errorf("%s: got %v", test.name, test.err)
		}
	}
	if node.rate != 0 {
		t.Error("a refused drain reaches the node")
	}
}
