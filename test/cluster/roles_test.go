package cluster

import (
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Nodes on hosts of their own with the same ports find each other in all the ways in which
// seeds can be written, tell of themselves what they were told to, and those without a store
// go on serving whatever happens to those with one.
func TestRoles(t *testing.T) {
	t.Parallel()
	c := newTrial(t, "[cluster.properties]\nrack = \"r7\"\n")
	rangeOf := "--cluster.seeds=" + c.seed("127.0.0.5-7")
	var stores []*member
	for i, host := range []string{"127.0.0.5", "127.0.0.6", "127.0.0.7"} {
		stores = append(stores, c.node(fmt.Sprint("store", i+1), host, rangeOf, "--cluster.bootstrap_expect=3"))
	}
	c.await(3, stores...)

	// The first is found by a star. The second asks by name, listens on all addresses, where
	// the ports are taken, so that it moves on, and tells another address than that.
	star := c.node("star", "127.0.0.1", "--cluster.seeds="+c.seed("127.0.0.*"), "--node.roles=gateway",
		"--node.sub_domain=worker", "--cluster.properties=zone=a,rack=r8")
	c.await(4, star)
	named := c.node("named", "127.0.0.9", "--cluster.seeds="+c.seed("localhost"), "--node.roles=gateway",
		"--node.sub_domain=worker", "--cluster.bind_host=", "--cluster.advertise_host=127.0.0.9")
	c.await(5, named)
	all := append([]*member{star, named}, stores...)
	c.await(5, all...)
	c.showsMembers(stores[0])
	if got := stores[0].member("named").Addresses["hello"]; got != "127.0.0.9:"+strconv.Itoa(c.clusterPort()+2) {
		t.Errorf("the node that moved on is at %s", got)
	}
	storesNothing(star)

	// One of each kind is killed: the clients of the others go on.
	var clients []*socket
	for _, m := range []*member{star, stores[0], stores[1]} {
		clients = append(clients, m.connect("news"))
	}
	c.reaches(clients, "news", all...)
	named.Kill()
	stores[2].Kill()
	eventually(t, "the deaths are noticed", func() bool { return star.sees() == 3 && stores[0].sees() == 3 })
	c.reaches(clients, "news", star, stores[0])

	// Without a majority of the stores nothing can be stored, and channels work.
	stores[1].Kill()
	clients = clients[:2]
	eventually(t, "the gateway says what is missing", func() bool {
		status, word, failed := star.health()
		return status == http.StatusOK && word == "DEGRADED" && failed == "engine"
	})
	eventually(t, "the store is out of the rotation", func() bool {
		status, word, failed := stores[0].health()
		return status == http.StatusServiceUnavailable && word == "ERROR" && failed == "engine"
	})
	clients = append(clients, star.connect("news"))
	c.reaches(clients, "news", star, stores[0])
	star.prints("cluster status", "not healthy: ", "no store on this node")

	stores[1].start()
	stores[2].start()
	eventually(t, "the gateway is well again", func() bool { _, word, _ := star.health(); return word == "OK" })
	c.await(4, star, stores[0], stores[1], stores[2])
	c.reaches(clients, "news", star, stores[2])
}

// showsMembers looks at what is shown of the nodes.
func (c *trial) showsMembers(m *member) {
	c.Helper()
	m.prints("cluster members", "rack=r8,zone=a", "rack=r7", "worker", "127.0.0.5:"+strconv.Itoa(c.base))
	m.prints("cluster status", "rack=r8,zone=a", "5 ready")
	if out := m.prints("cluster members --sub-domain worker", "star", "named"); strings.Contains(out, "store1") {
		c.Errorf("others than those of the sub-domain:\n%s", out)
	}
	out := m.prints("cluster lb --format haproxy --sub-domain worker", "server star 127.0.0.1:", "server named 127.0.0.9:")
	if strings.Contains(out, "store1") {
		c.Errorf("others than those of the sub-domain:\n%s", out)
	}
	if _, err := m.parley("cluster", "lb", "--format", "haproxy", "--sub-domain", "mgt"); err == nil ||
		!strings.Contains(err.Error(), "there are: worker") {
		c.Errorf("a sub-domain without nodes: %v", err)
	}
	if got := m.member("star"); got.Properties["zone"] != "a" || got.SubDomain != "worker" {
		c.Errorf("the API shows %+v", got)
	}
}

// storesNothing expects nothing of the engine on the disk of a node without a store.
func storesNothing(m *member) {
	m.Helper()
	err := filepath.WalkDir(m.data(), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.HasPrefix(path, filepath.Join(m.data(), "engine")+string(filepath.Separator)) {
			m.Errorf("it has written %s", path)
		}
		return err
	})
	if err != nil {
		m.Fatal(err)
	}
}
