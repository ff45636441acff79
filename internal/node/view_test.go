package node

import (
	"bytes"
	"log/slog"
	"maps"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/config"
)

func TestCutOff(t *testing.T) {
	member := func(id string, roles ...string) cluster.Member { return cluster.Member{ID: id, Roles: roles} }
	self := member("self", cluster.RoleGateway)
	gateway, store := member("gateway", cluster.RoleGateway), member("store", cluster.RoleStore)
	for name, test := range map[string]struct {
		sees, knows []cluster.Member
		want        bool
	}{
		"alone":                          {[]cluster.Member{self}, []cluster.Member{self}, false},
		"the stores are gone":            {[]cluster.Member{self}, []cluster.Member{self, store}, false},
		"other gateways are gone":        {[]cluster.Member{self}, []cluster.Member{self, store, gateway}, true},
		"another gateway is there":       {[]cluster.Member{self, gateway}, []cluster.Member{self, store, gateway}, false},
		"a store that sees it is enough": {[]cluster.Member{self, store}, []cluster.Member{self, store, gateway}, false},
	} {
		if got := cutOff(cluster.View{Self: "self", Members: test.sees}, test.knows); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// What a node tells of itself and what is shown of it.
func TestMemberView(t *testing.T) {
	n := &Node{config: config.Default(), tls: &certificate{}}
	n.config.Channels.PathPrefix = "/rt/"
	n.config.Cluster.Properties = map[string]string{"rack": "r7"}
	m := cluster.Member{Properties: n.properties("10.0.0.5"), Addresses: map[string]string{
		cluster.AddressHello: "10.0.0.5:11110", "channels": "[::]:6001",
	}}
	shown := memberView(m)
	if shown.URL != "https://10.0.0.5:6001/rt" || !maps.Equal(shown.Properties, n.config.Cluster.Properties) {
		t.Errorf("shown is %+v", shown)
	}
	n.tls, n.config.Channels.PathPrefix = nil, "/"
	if got := n.properties("10.0.0.5"); !maps.Equal(got, n.config.Cluster.Properties) {
		t.Errorf("what is usual is told as well: %v", got)
	}
}

func TestPlaceholdersInProperties(t *testing.T) {
	t.Setenv("RACK", "r7")
	var log bytes.Buffer
	n := &Node{config: config.Default(), log: slog.New(slog.NewTextHandler(&log, nil))}
	n.config.PortOffset = 3
	n.config.Cluster.Properties = map[string]string{
		"console": "https://${hostName}:${httpsPort}/", "plain": "${httpPort}", "rack": "<${RACK}>", "other": "$RACK ${} ${NOTHING}",
	}
	want := map[string]string{
		"console": "https://10.0.0.5:6004/", "plain": "6004", "rack": "<r7>", "other": "$RACK ${} ${NOTHING}",
	}
	if got := n.properties("10.0.0.5"); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if strings.Count(log.String(), "placeholder=NOTHING") != 1 {
		t.Errorf("the log is %s", &log)
	}
}

func TestNamesake(t *testing.T) {
	var log bytes.Buffer
	n := &Node{log: slog.New(slog.NewTextHandler(&log, nil))}
	one, two, three := cluster.Member{ID: "1", Name: "a"}, cluster.Member{ID: "2", Name: "b"}, cluster.Member{ID: "3", Name: "a"}
	view := cluster.View{Self: "2", Members: []cluster.Member{one, two, three}}
	n.tellNamesake(view, two)
	if log.Len() > 0 {
		t.Errorf("a name of its own: %s", &log)
	}
	n.tellNamesake(view, three)
	if text := log.String(); !strings.Contains(text, "other_id=1") || !strings.Contains(text, "node.name of its own") {
		t.Errorf("the log is %q", text)
	}
}
