//go:build linux

package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/test/process"
)

// stranger is a process that must not become a member.
type stranger struct {
	flags   []string
	program func() (string, error) // nil for that of the cluster
	prepare func(*node)            // may be nil
	says    string                 // what its log must say
	told    string                 // what a member's log must say; may be empty
	ends    bool                   // by itself; else it waits for others of its own kind
}

// TestRefused starts processes that must not become members.
func TestRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, options{})
	c.startAll()
	p := populate(t, c)
	for name, s := range map[string]stranger{
		"another secret": {
			flags: []string{"--cluster.secret=fedcba9876543210fedcba9876543210"}, says: "cluster.secret", ends: true,
		},
		// A domain of its own may be what is wanted: its nodes may share the seeds.
		"another domain": {flags: []string{"--cluster.domain=elsewhere"}, says: "cluster.domain"},
		"a copied identity": {
			prepare: func(n *node) { n.copyIdentity(c.nodes[0]) }, says: "node.id", told: "node.id", ends: true,
		},
		"another version": {
			program: laterBinary, ends: true,
			says: "speaks cluster versions 1 to 1 and this node 2 to 2; install",
			told: "speaks cluster versions 2 to 2 and this node 1 to 1; install",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.refuses(t, name, s)
			p.settle(settleLimit, c.nodes...)
			p.connected()
		})
	}
}

// refuses starts a stranger and demands that it is told what to do, ends with 1 unless it may
// wait, and has not served.
func (c *cluster) refuses(t *testing.T, name string, s stranger) {
	t.Helper()
	port := process.FreePorts(t, 4)
	n := &node{t: t, name: "stranger", binary: binary, dir: t.TempDir(), logs: t.TempDir(), host: "127.0.0.1", channels: port, metrics: port + 1, hello: port + 2}
	n.args = append(c.args(n), s.flags...)
	if s.program != nil {
		var err error
		if n.binary, err = s.program(); err != nil {
			t.Fatal(err)
		}
	}
	if s.prepare != nil {
		s.prepare(n)
	}
	n.start()
	begin := time.Now()
	if !eventually(settleLimit, func() bool { return strings.Contains(n.log(), s.says) }) {
		t.Errorf("its log does not speak of %q:\n%s", s.says, n.log())
	}
	figure(t, "a node with "+name+" is told so", time.Since(begin))
	for line := range strings.Lines(n.log()) {
		if strings.Contains(line, s.says) {
			t.Log(strings.TrimSpace(line))
		}
	}
	if s.told != "" && !slices.ContainsFunc(c.nodes, func(member *node) bool { return strings.Contains(member.log(), s.told) }) {
		t.Errorf("no member's log speaks of %q", s.told)
	}
	if s.ends {
		if code := n.process().Await(); code != 1 {
			t.Errorf("it ended with %d\n%s", code, tail(n.log()))
		}
		figure(t, "a node with "+name+" has ended by itself", time.Since(begin))
	} else if !n.process().Running() {
		t.Errorf("it does not wait for others\n%s", tail(n.log()))
	}
	if n.readiness() == http.StatusOK {
		t.Error("it is ready")
	}
	if strings.Contains(n.log(), "msg=ready") {
		t.Errorf("it was ready\n%s", tail(n.log()))
	}
}

// laterBinary builds the program with a cluster protocol of which the others know nothing, as one
// will be some day. Its versions are constants, so the build replaces their file.
func laterBinary() (string, error) {
	file, err := filepath.Abs("../../internal/cluster/cluster.go")
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	const now, later = "\tversionOldest = 1\n\tversionNewest = 1\n", "\tversionOldest = 2\n\tversionNewest = 2\n"
	if strings.Count(string(text), now) != 1 {
		return "", fmt.Errorf("%s does not declare the versions as %q", file, now)
	}
	changed := filepath.Join(scratch, "later.go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(text), now, later, 1)), 0o600); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {file: changed}})
	if err != nil {
		return "", err
	}
	list := filepath.Join(scratch, "later.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", err
	}
	return build(filepath.Join(scratch, "later"), "-overlay", list)
}
