//go:build linux

package faults

import (
	"os"
	"testing"
)

// network connects the nodes of a cluster, apart from their clients, and can lose what they
// send to each other.
type network interface {
	// attach makes the nodes of a cluster that was not started use it.
	attach(c *cluster)
	// host is an address of this machine that the nodes reach.
	host() string
	// cut loses everything between a node and the others, mute what it sends to them,
	// deafen what they send to it. heal ends all of that.
	cut(node int)
	mute(node int)
	deafen(node int)
	heal(node int)
	// carried is how many bytes the other nodes have sent to a node.
	carried(node int) int64
}

// newNetwork makes one of network namespaces where that is allowed, and of proxies between
// the nodes elsewhere. PARLEY_FAULTS_NETWORK=proxy wants proxies.
func newNetwork(t *testing.T) network {
	t.Helper()
	if os.Getenv("PARLEY_FAULTS_NETWORK") != "proxy" {
		w, err := newNamespaces(t)
		if err == nil {
			return w
		}
		t.Logf("proxies between the nodes, as network namespaces are not to be had: %v", err)
	}
	return newProxies(t)
}
