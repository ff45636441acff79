package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/admin"
)

// twoOfThree is a cluster that has lost a node.
type twoOfThree struct {
	asked      []string
	workers    bool // another cluster, with a node of the sub-domain worker
	forgetting *admin.Forgetting
	gone       bool // node3 was forgotten
	draining   bool // node1 drains
}

func (c *twoOfThree) ClusterView() admin.ClusterView {
	member := func(id, name, address, state string) admin.ClusterMember {
		return admin.ClusterMember{ID: id, Name: name, State: state, Roles: []string{"gateway", "store"},
			Addresses: map[string]string{"channels": address}}
	}
	store := member("d", "storage\x1b[2J", "10.0.0.8:6001", "ready")
	store.Roles = []string{"store"}
	worker := member("e", "worker1", "10.0.0.9:6001", "ready")
	worker.SubDomain, worker.URL = "worker", "https://10.0.0.9:6001/rt"
	worker.Properties = map[string]string{"zone": "b\x1b", "rack": "r1"}
	if c.workers {
		return admin.ClusterView{Members: []admin.ClusterMember{worker, member("a", "node1", "10.0.0.5:6001", "ready")}}
	}
	missing, away := []admin.ClusterMember{member("c", "node3", "10.0.0.7:6001", "")}, 1
	if c.gone {
		missing, away = nil, 0
	}
	return admin.ClusterView{
		Domain: "parley", ID: "c1", Epoch: 5, Self: "a", Forgetting: c.forgetting,
		Replicas: admin.ReplicaView{Stores: 4, Survives: 1, Away: away, Have: 3, Want: 3},
		Members: []admin.ClusterMember{
			member("b", "node2", "10.0.0.6:6001", "draining"), member("a", "node1", "10.0.0.5:6001", "ready"), store,
		},
		Missing: missing,
		Engine: admin.EngineView{Error: "slow", Store: true, Leader: "b", Size: 3,
			Peers: []admin.EnginePeer{{ID: "c", Offline: true}}, Lagging: map[string]uint64{"KV_apps": 4}},
	}
}

func (c *twoOfThree) Drain(_ int, delay time.Duration) (admin.Drained, error) {
	c.asked = append(c.asked, "drain", delay.String())
	return c.drained(true), nil
}

func (c *twoOfThree) Undrain() (admin.Drained, error) {
	c.asked = append(c.asked, "undrain")
	return c.drained(false), nil
}

// drained sets whether node1 drains.
func (c *twoOfThree) drained(now bool) admin.Drained {
	node := admin.Drained{ID: "a", Name: "node1", Was: "ready"}
	if c.draining {
		node.Was = "draining"
	}
	c.draining = now
	return node
}

func (c *twoOfThree) Forget(_ context.Context, member string, force bool) (admin.ClusterMember, error) {
	c.asked = append(c.asked, "forget", member, fmt.Sprint(force))
	switch member {
	case "node1":
		return admin.ClusterMember{}, fmt.Errorf("%w: it is alive", admin.ErrMemberStays)
	case "c":
		c.forgetting = &admin.Forgetting{ID: "c", Name: "node3", Step: "stopped", Error: "no majority"}
	default:
		c.forgetting, c.gone = nil, true
	}
	return admin.ClusterMember{ID: "c", Name: "node3"}, nil
}

func TestClusterCommands(t *testing.T) {
	cluster := &twoOfThree{}
	server := httptest.NewServer(admin.New(nil, nil, testToken, slog.New(slog.DiscardHandler)).WithCluster(cluster))
	t.Cleanup(server.Close)
	tests := []struct {
		args    string
		with    []string
		without []string
		fails   string
	}{
		{"status", []string{"parley (c1)", "node1, view 5", "2 ready", "1 draining", "1 missing", "not healthy: slow",
			"led by node2", "node3 offline", "1 streams behind"}, []string{"\x1b"}, ""},
		{"members", []string{"NAME", "node1", "node3", "missing", "10.0.0.7:6001"}, []string{"\x1b", "view 5"}, ""},
		{"members --json", []string{`"id": "c"`, `"state": "draining"`}, nil, ""},
		{"forget", nil, nil, "accepts 1 arg"},
		{"forget node1", nil, nil, "it is alive"},
		{"forget c", nil, nil, "no majority"},
		{"status", []string{"replicas    3", "no further loss: 1 of 4", "forgetting  node3: failed: no majority"}, nil, ""},
		{"drain", []string{"node1 is draining"}, nil, ""},
		{"drain --rate 5 --delay 2s --json", []string{`"name": "node1"`, `"was": "draining"`}, nil, ""},
		{"undrain", []string{"node1 is back in the rotation"}, nil, ""},
		{"undrain", []string{"node1 was not draining; it answered at " + server.URL}, []string{"back"}, ""},
		{"drain --rate 0", nil, nil, "--rate is 0"},
		{"drain node2", nil, nil, `"node2": "parley cluster drain" takes no name of a node`},
		{"undrain node2", nil, nil, "name another with --server"},
		{"drain --delay -1ns", nil, nil, "--delay is -1ns"},
		{"lb", nil, nil, "--format"},
		{"lb --format apache", nil, nil, "apache"},
		{"lb --format nginx --cert a.pem", nil, nil, "key"},
		{"lb --format nginx --sub-domain nope", nil, nil, `sub-domain "nope": no node has one`},
		{"lb --format haproxy", []string{"server node1 10.0.0.5:6001 check", "server node3 10.0.0.7:6001 check"}, []string{"10.0.0.8", "crt"}, ""},
		{"lb --format nginx", []string{"10.0.0.6:6001 max_fails=1 fail_timeout=5s down"}, []string{"10.0.0.8", "443"}, ""},
		{"forget node3 --force", []string{"forgotten: c"}, nil, ""},
		{"status", []string{"the loss of 1 of 4 nodes with a store, as 3 would"}, []string{"forgetting"}, ""},
	}
	for _, test := range tests {
		cmd := newClusterCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append(strings.Fields(test.args), "--server", server.URL, "--token", testToken))
		err := cmd.ExecuteContext(t.Context())
		if (err != nil) != (test.fails != "") || err != nil && !strings.Contains(err.Error(), test.fails) {
			t.Errorf("%s: %v", test.args, err)
		}
		for _, part := range test.with {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s: no %q in\n%s", test.args, part, &out)
			}
		}
		for _, part := range test.without {
			if strings.Contains(out.String(), part) {
				t.Errorf("%s: there is %q in\n%s", test.args, part, &out)
			}
		}
	}
	if got, want := strings.Join(cluster.asked, " "), "forget node1 false forget c false drain -1ns drain 2s undrain undrain forget node3 true"; got != want {
		t.Errorf("the node was asked to %s, want %s", got, want)
	}
}

func TestDescribeReplicas(t *testing.T) {
	forgetting := &admin.Forgetting{Name: "node5", Step: "stream s: from 5 to 3 replicas", Waits: "4 of 3 replicas"}
	failed := &admin.Forgetting{Error: "stopped"}
	for _, test := range []struct {
		replicas           admin.ReplicaView
		forgetting         *admin.Forgetting
		survives, describe string
	}{
		{admin.ReplicaView{Stores: 3, Survives: 1, Have: 3, Want: 3}, nil, "the loss of 1 of 3 nodes with a store", "3"},
		{admin.ReplicaView{Stores: 3, Survives: 1, Away: 1, Have: 3, Want: 3}, nil, "no further loss: 1 of 3 nodes with a store is away", "3"},
		{admin.ReplicaView{Stores: 5, Survives: 2, Away: 1, Have: 5, Want: 5}, nil, "the loss of 1 more: 1 of 5 nodes with a store is away", "5"},
		{admin.ReplicaView{Stores: 5, Survives: 2, Away: 2, Have: 5, Want: 5}, nil, "no further loss: 2 of 5 nodes with a store are away", "5"},
		{admin.ReplicaView{Stores: 5, Survives: 1, Have: 3, Want: 5, Behind: []string{"s"}}, nil,
			"the loss of 1 of 5 nodes with a store", "3, to be raised to 5: 1 streams are left"},
		{admin.ReplicaView{Stores: 5, Survives: 1, Away: 1, Have: 3, Want: 5, Behind: []string{"s"}, Work: "w"}, failed,
			"no further loss: 1 of 5 nodes with a store is away",
			"3, fewer than 5 of 1 streams; none is raised while a node with a store is away; w"},
		{admin.ReplicaView{Stores: 5, Survives: 1, Away: 1, Have: 3, Want: 5, Behind: []string{"s"}}, forgetting,
			"no further loss: 1 of 5 nodes with a store is away", "3"},
	} {
		if got := describeSurvival(test.replicas); got != test.survives {
			t.Errorf("%+v survives %q, want %q", test.replicas, got, test.survives)
		}
		view := admin.ClusterView{Replicas: test.replicas, Forgetting: test.forgetting}
		if got := describeReplicas(view); got != test.describe {
			t.Errorf("%+v is %q, want %q", test.replicas, got, test.describe)
		}
	}
	if got, want := describeForgetting(*forgetting), "node5: stream s: from 5 to 3 replicas; 4 of 3 replicas"; got != want {
		t.Errorf("forgetting is %q, want %q", got, want)
	}
}

func TestSubDomain(t *testing.T) {
	server := httptest.NewServer(admin.New(nil, nil, testToken, slog.New(slog.DiscardHandler)).WithCluster(&twoOfThree{workers: true}))
	t.Cleanup(server.Close)
	for _, test := range []struct {
		args          string
		with, without string
		fails         string
	}{
		{"members", "rack=r1,zone=b\ufffd", "\x1b", ""},
		{"members --sub-domain worker", "worker1", "node1", ""},
		{"members --sub-domain mgt", "", "", `sub-domain "mgt"; there are: worker`},
		{"lb --format haproxy", "", "", "some nodes speak TLS"},
		{"lb --format haproxy --sub-domain worker", "worker1 10.0.0.9:6001 ssl verify none", "node1", ""},
		{"lb --format nginx --sub-domain worker --node-ca /ca.pem --node-name n", "location /rt/app/", "node1", ""},
	} {
		cmd := newClusterCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs(append(strings.Fields(test.args), "--server", server.URL, "--token", testToken))
		err := cmd.ExecuteContext(t.Context())
		if (err != nil) != (test.fails != "") || err != nil && !strings.Contains(err.Error(), test.fails) {
			t.Errorf("%s: %v", test.args, err)
		}
		if !strings.Contains(out.String(), test.with) || test.without != "" && strings.Contains(out.String(), test.without) {
			t.Errorf("%s: want %q and no %q in\n%s", test.args, test.with, test.without, &out)
		}
	}
}

// discovering is a node that looks for its cluster.
type discovering struct{ admin.Cluster }

func (discovering) ClusterView() admin.ClusterView {
	return admin.ClusterView{Domain: "parley", Starting: "looking for the cluster: waiting for 3 nodes"}
}

// "cluster status" works while a node starts; everything else is told why it does not.
func TestClusterStatusWhileStarting(t *testing.T) {
	waiting := func() string { return "looking for the cluster: waiting for 3 nodes" }
	server := httptest.NewServer(admin.NewStarting(discovering{}, testToken, waiting, slog.New(slog.DiscardHandler)))
	t.Cleanup(server.Close)
	for args, want := range map[string]string{
		"status": "starting  looking for the cluster: waiting for 3 nodes",
		"drain":  "the node is starting: looking for the cluster",
	} {
		cmd := newClusterCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs([]string{args, "--server", server.URL, "--token", testToken})
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			fmt.Fprint(&out, err)
		}
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: no %q in\n%s", args, want, &out)
		}
	}
}

// Nodes that share a broker have neither an identity of their cluster nor replicas.
func TestClusterStatusOverBroker(t *testing.T) {
	var out bytes.Buffer
	err := printCluster(&out, admin.ClusterView{
		Domain: "parley", Self: "a", Epoch: 3,
		Members: []admin.ClusterMember{{ID: "a", Name: "node1", State: "ready", Roles: []string{"gateway"}}},
		Brokers: []admin.BrokerView{
			{Driver: "redis", Carries: []string{"signal", "cache"}},
			{Driver: "rabbitmq", Carries: []string{"queue"}, Error: "refused"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `cluster  parley
asked    node1, view 3
nodes    1 ready
shares   redis (signal, cache)
shares   rabbitmq (queue), which cannot be reached: refused

NAME   STATE  CLIENTS  ADDRESS  ROLES    SUB-DOMAIN  PROPERTIES  VERSION  ID
node1  ready  0                 gateway  -           -           -        a
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
}

func TestDescribeEngine(t *testing.T) {
	for _, test := range []struct {
		engine admin.EngineView
		want   string
	}{
		{admin.EngineView{Healthy: true, Store: true, Leader: "n1", Size: 3}, "healthy, led by n1, 3 with a store"},
		{admin.EngineView{Healthy: true, Store: true, Size: 3}, "healthy, no leader, 3 with a store"},
		{admin.EngineView{Error: "the cluster has no leader", Store: true, Size: 3},
			"not healthy: the cluster has no leader, 3 with a store"},
		{admin.EngineView{Error: "no answer"}, "not healthy: no answer, no store on this node"},
	} {
		if got := describeEngine(admin.ClusterView{Engine: test.engine}); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}
