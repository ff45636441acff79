package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/config"
)

// What the cluster refuses the configuration refuses first, with the same words: neither room
// may know the other.
func TestClusterRulesOfConfiguration(t *testing.T) {
	const secret = "0123456789abcdef"
	for _, test := range []struct {
		name    string
		key     string
		environ []string
		refused cluster.Options
		rule    string
	}{
		{"secret", "cluster.secret", []string{"PARLEY_CLUSTER_SEEDS=10.0.0.5", "PARLEY_CLUSTER_SECRET=" + secret[1:]},
			cluster.Options{Secret: secret[1:]}, "must have 16 bytes or more; make one with: openssl rand -hex 32"},
		{"one node", "cluster.bootstrap_expect", []string{"PARLEY_CLUSTER_BOOTSTRAP_EXPECT=1"},
			cluster.Options{BootstrapExpect: 1}, "must be 0 (only join) or 2 to 256; a node of its own has no cluster section"},
		{"too many", "cluster.bootstrap_expect", []string{"PARLEY_CLUSTER_BOOTSTRAP_EXPECT=257"},
			cluster.Options{BootstrapExpect: 257}, "must be 0 (only join) or 2 to 256"},
		{"domain", "cluster.domain", []string{"PARLEY_CLUSTER_DOMAIN=a b"},
			cluster.Options{Domain: "a b"}, "must be letters, digits, - _ and dots"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := config.Load(config.Sources{Environ: test.environ, Serve: true})
			var problem config.Problem
			if !errors.As(err, &problem) || problem.Key != test.key || !strings.Contains(problem.Error(), test.rule) {
				t.Errorf("the configuration says %v", err)
			}
			o := test.refused
			o.DataDir = t.TempDir()
			if o.Secret == "" {
				o.Secret = secret
			}
			if o.Domain == "" {
				o.Domain = "d"
			}
			_, err = cluster.Discover(t.Context(), o)
			if !errors.Is(err, cluster.ErrInvalidOptions) || !strings.Contains(err.Error(), test.rule) {
				t.Errorf("the cluster says %v", err)
			}
		})
	}
	_, err := config.Load(config.Sources{Serve: true, Environ: []string{
		"PARLEY_CLUSTER_BOOTSTRAP_EXPECT=256", "PARLEY_CLUSTER_SECRET=" + secret,
	}})
	if err != nil || cluster.MaxMembers != 256 || cluster.MinSecretSize != len(secret) {
		t.Errorf("what is just right: %v", err)
	}
}
