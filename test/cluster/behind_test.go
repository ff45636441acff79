package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/test/process"
)

// Nodes that speak TLS below a path and on ports that differ, behind balancers that check
// their certificates; a node of another sub-domain, in the clear, is none of theirs.
func TestBehind(t *testing.T) {
	t.Parallel()
	programs := map[string]string{"nginx": installed(t, "nginx", "/usr/sbin/nginx"), "haproxy": installed(t, "haproxy", "/usr/sbin/haproxy")}
	if os.Geteuid() != 0 {
		t.Skip("Debian's nginx writes below /var/lib/nginx: only root can run it")
	}
	c := newTrial(t, "[http]\ntrusted_proxies = [\"127.0.0.1\"]\n")
	a := newAuthority(t)
	c.trust = &tls.Config{RootCAs: x509.NewCertPool()}
	c.trust.RootCAs.AddCert(a.certificate)
	transport := &http.Transport{TLSClientConfig: c.trust}
	t.Cleanup(transport.CloseIdleConnections)
	c.client.Transport = transport

	cert, key := a.issue("node", 5, time.Now().Add(time.Hour))
	seeds := "--cluster.seeds=" + c.seed("127.0.0.5-7")
	var nodes []*member
	for i, host := range []string{"127.0.0.5", "127.0.0.6"} {
		m := c.node(fmt.Sprint("worker", i+1), host, seeds, "--cluster.bootstrap_expect=2", "--node.sub_domain=worker",
			"--tls.cert_file="+cert, "--tls.key_file="+key)
		nodes = append(nodes, m.served(c.base+20*i, "https", "/rt"))
	}
	manager := c.node("manager", "127.0.0.7", seeds, "--node.sub_domain=mgt", "--node.roles=manager,gateway")
	c.await(3, append(nodes, manager)...)
	if _, err := manager.parley("cluster", "lb", "--format", "nginx"); err == nil || !strings.Contains(err.Error(), "choose some with --sub-domain") {
		t.Errorf("a configuration for nodes that differ: %v", err)
	}
	for format, program := range programs {
		c.works(nodes, format, c.behind(manager, format, program, a.file, "node.internal"))
		at := c.behind(manager, format, program, a.file, "other.internal")
		answers := 0
		eventually(t, format+" answers", func() bool { answers = c.status("http://" + at + "/rt/up"); return answers != 0 })
		if answers != http.StatusBadGateway && answers != http.StatusServiceUnavailable {
			t.Errorf("%s with nodes of another name: status %d", format, answers)
		}
	}
}

// behind starts a balancer for the nodes of the sub-domain worker, whose certificates have to
// be for a name, and returns its address.
func (c *trial) behind(manager *member, format, program, authority, name string) string {
	c.Helper()
	base := process.FreePorts(c.T, ports)
	text := manager.prints(fmt.Sprintf("cluster lb --format %s --sub-domain worker --node-ca %s --node-name %s --http-port %d --tcp-port 0",
		format, authority, name, base), "127.0.0.5:"+strconv.Itoa(c.base), "127.0.0.6:"+strconv.Itoa(c.base+20))
	if strings.Contains(text, "127.0.0.7") {
		c.Errorf("%s: the manager is behind the balancer:\n%s", format, text)
	}
	config := filepath.Join(c.TempDir(), format+".conf")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
	if format == "nginx" {
		server := launch(c.T, nil, program, "-e", "stderr", "-c", config, "-g", "daemon off; error_log stderr; pid "+config+".pid;")
		c.Cleanup(func() { server.Terminate() }) // its workers with it
	} else {
		launch(c.T, nil, program, "-db", "-f", config)
	}
	return process.Address(base)
}

// status asks for a page; 0 if nobody answers.
func (c *trial) status(page string) int {
	response, err := c.client.Get(page)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// works tries a balancer.
func (c *trial) works(nodes []*member, format, at string) {
	c.Helper()
	eventually(c.T, "a node answers through "+format, func() bool { return c.status("http://"+at+"/rt/up") == http.StatusOK })
	if got := c.status("http://" + at + "/up"); got != http.StatusNotFound {
		c.Errorf("%s: without the prefix the status is %d", format, got)
	}
	var clients []*socket
	for i := range 4 {
		s := dialing{url: "ws://" + at + "/rt", from: fmt.Sprintf("127.0.%d.1", 10+i)}.must(c.T)
		s.subscribe(c.T, "news")
		clients = append(clients, s)
	}
	for _, m := range nodes { // the balancer may take each
		spreads(c.T, clients, func(event, data string) error { return m.publish("news", event, data) })
	}
	if err := publishAt(c.client, &url.URL{Scheme: "http", Host: at, Path: "/rt"}, "news", "e", "through "+format); err != nil {
		c.Fatalf("%s: %v", format, err)
	}
	for _, s := range clients {
		s.want(c.T, "e", "through "+format)
	}
}
