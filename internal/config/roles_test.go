package config

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// The truth table of WORKER_MODE.
func TestWorkerMode(t *testing.T) {
	tests := []struct {
		mode          string
		serves, all   bool
		keys, without []string
		fails         string
	}{
		{mode: "!", serves: true},
		{mode: "*", all: true},
		{mode: "workflow:process", keys: []string{"workflow:process"}},
		{mode: "workflow:process, async-task:process", keys: []string{"workflow:process", "async-task:process"}},
		{mode: "!,workflow:process", serves: true, keys: []string{"workflow:process"}},
		{mode: "-", without: []string{"store"}},
		{mode: "!,*", fails: "a * beside others"},
		{mode: "a:b,!", fails: `holds "!"`},
		{mode: "workflow", fails: `holds "workflow"`},
		{mode: "!,", fails: `holds ""`},
		{mode: "A:B", fails: `holds "A:B"`},
	}
	if WorkerModeRoles("") != nil {
		t.Error("an empty mode is not every role")
	}
	for _, test := range tests {
		err := isWorkerMode(test.mode)
		if test.fails != "" {
			if err == nil || !strings.Contains(err.Error(), test.fails) {
				t.Errorf("%q: %v, want %q", test.mode, err, test.fails)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", test.mode, err)
		}
		got := WorkerModeRoles(test.mode)
		if err := areRoles(got); err != nil || len(got) == 0 {
			t.Errorf("%q: roles %q: %v", test.mode, got, err)
		}
		for role, want := range map[string]bool{
			"gateway": test.serves, "manager": test.serves, "keymanager": test.serves,
			"worker": test.all, "store": !slices.Contains(test.without, "store"),
		} {
			if slices.Contains(got, role) != want {
				t.Errorf("%q: role %s is %v, want %v", test.mode, role, !want, want)
			}
		}
		found := slices.DeleteFunc(got, func(role string) bool { return !strings.Contains(role, ":") })
		if !slices.Equal(found, slices.Sorted(slices.Values(test.keys))) {
			t.Errorf("%q: keys %q, want %q", test.mode, found, test.keys)
		}
	}
}

func TestForeignVariables(t *testing.T) {
	c, summary, err := LoadSummary(Sources{Environ: []string{
		"CLUSTER_HEALTH_ENABLED=true", "ADAPTER_CLUSTER_HEALTH_ENABLED=true",
		"CLUSTER_HEALTH_HEARTBEAT_INTERVAL=2000", "ADAPTER_CLUSTER_HEALTH_NODE_TIMEOUT_MS=30000",
		"CLUSTER_HEALTH_CLEANUP_INTERVAL=", "ADAPTER_CLUSTER_HEALTH_CLEANUP_INTERVAL_MS=10s",
		"WORKER_MODE=!", "CLUSTER_HEALTH_OTHER=1",
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{c.Cluster.HeartbeatInterval.String(), c.Cluster.NodeTimeout.String(), c.Cluster.CleanupInterval.String()}
	if want := []string{"2s", "30s", "10s"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if summary.Environment != 5 {
		t.Errorf("%d options are counted, want 5", summary.Environment)
	}
	if !slices.Equal(c.Node.Roles, []string{"gateway", "keymanager", "manager", "store"}) {
		t.Errorf("roles are %q", c.Node.Roles)
	}

	c, err = Load(Sources{Environ: []string{"PARLEY_CLUSTER_NODE_TIMEOUT=9s", "CLUSTER_HEALTH_NODE_TIMEOUT=30000"}})
	if err != nil || c.Cluster.NodeTimeout.String() != "9s" {
		t.Errorf("Parley's own variable: %v, %v", c.Cluster.NodeTimeout, err)
	}
}

func TestProperties(t *testing.T) {
	want := map[string]string{"rack": "r1", "zone": "a b"}
	for name, sources := range map[string]Sources{
		"table":       {File: write(t, "[cluster.properties]\nrack = \"r1\"\nzone = \"a b\"\n")},
		"list":        {File: write(t, "[cluster]\nproperties = [\"rack=r1\", \"zone = a b\"]\n")},
		"environment": {Environ: []string{"PARLEY_CLUSTER_PROPERTIES=rack=r1,zone=a b"}},
		"flags":       {Flags: given(t, "--cluster.properties=rack=r1", "--cluster.properties", "zone=a b")},
	} {
		if c, err := Load(sources); err != nil || !maps.Equal(c.Cluster.Properties, want) {
			t.Errorf("%s: %v, %v", name, c.Cluster.Properties, err)
		}
	}
}
