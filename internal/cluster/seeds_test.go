package cluster

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestSeeds(t *testing.T) {
	lookup := func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "nodes.example" && host != "10.0.0.5-9.example" {
			return nil, errors.New("no such host")
		}
		return []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("::ffff:10.1.0.2"),
			netip.MustParseAddr("fd00::1")}, nil
	}
	tests := []struct {
		seed string
		want string // targets, or "error: …"
	}{
		{"10.0.0.5", "10.0.0.5:11110 10.0.0.5:11112"},
		{" 10.0.0.5:4000 ", "10.0.0.5:4000 10.0.0.5:4002"},
		{"10.0.0.5:65535", "10.0.0.5:65535"},
		{"10.0.0.5-7", "10.0.0.5:11110 10.0.0.6:11110 10.0.0.7:11110"},
		{"10.0.0.254-255:4000", "10.0.0.254:4000 10.0.0.255:4000"},
		{"nodes.example", "10.1.0.1:11110 10.1.0.1:11112 10.1.0.2:11110 10.1.0.2:11112 " +
			"[fd00::1]:11110 [fd00::1]:11112"},
		{"10.0.0.5-9.example:1", "10.1.0.1:1 10.1.0.1:3 10.1.0.2:1 10.1.0.2:3 [fd00::1]:1 [fd00::1]:3"},
		{"fd00::2", "[fd00::2]:11110 [fd00::2]:11112"},
		{"[fd00::2]:4000", "[fd00::2]:4000 [fd00::2]:4002"},
		{"other.example", "error: no such host"},
		{"", "error: no valid host"},
		{"a b", "error: no valid host"},
		{"a:b:c", "error: is not host"},
		{"10.0.0.5:0", "error: no port"},
		{"10.0.0.5:x", "error: no port"},
		{"10.0.0.9-5", "error: smaller to a larger"},
		{"10.0.0.5-256", "error: smaller to a larger"},
		{"10.0.0.5-", "error: smaller to a larger"},
		{"10.0.*.5", "error: only the last part"},
		{"nodes.*", "error: only the last part"},
	}
	for _, test := range tests {
		t.Run(test.seed, func(t *testing.T) {
			parsed, err := parseSeed(test.seed, 11110, 2)
			var targets []string
			if err == nil {
				targets, err = parsed.targets(t.Context(), lookup)
			}
			got := strings.Join(targets, " ")
			if err != nil {
				got = "error: " + err.Error()
			}
			if want, isError := strings.CutPrefix(test.want, "error: "); got != test.want &&
				!(isError && err != nil && strings.Contains(got, want)) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	all, err := parseSeed("10.0.0.*", 11110, 2)
	targets, _ := all.targets(t.Context(), lookup)
	if err != nil || len(targets) != 254 || !slices.Contains(targets, "10.0.0.254:11110") {
		t.Errorf("10.0.0.* has %d targets, %v", len(targets), err)
	}
}
