package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority signs certificates; its own is in a file.
type authority struct {
	*testing.T
	dir, file   string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{T: t, dir: t.TempDir()}
	a.file = filepath.Join(a.dir, "ca.pem")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true,
	}
	a.key = a.newKey()
	a.certificate = a.sign(a.file, template, template, a.key)
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	return key
}

func (a *authority) write(path, kind string, der []byte) {
	a.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.Fatal(err)
	}
}

func (a *authority) sign(path string, template, parent *x509.Certificate, of *ecdsa.PrivateKey) *x509.Certificate {
	a.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, of.Public(), a.key)
	if err != nil {
		a.Fatal(err)
	}
	a.write(path, "CERTIFICATE", der)
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		a.Fatal(err)
	}
	return certificate
}

// issue writes a certificate for nodes of this machine, and its key.
func (a *authority) issue(name string, serial int64, until time.Time) (cert, key string) {
	a.Helper()
	cert, key = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"node.internal"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for last := range byte(10) {
		template.IPAddresses = append(template.IPAddresses, net.IPv4(127, 0, 0, last))
	}
	private := a.newKey()
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.Fatal(err)
	}
	a.write(key, "PRIVATE KEY", encoded)
	a.sign(cert, template, a.certificate, private)
	return cert, key
}

// flags are those of a node with a certificate of the authority.
func (a *authority) flags(name string, serial int64, until time.Time) []string {
	a.Helper()
	cert, key := a.issue(name, serial, until)
	return []string{"--cluster.cert_file=" + cert, "--cluster.key_file=" + key, "--cluster.ca_file=" + a.file}
}

// Three nodes with certificates are one server. Who has none, a foreign or an expired one
// is refused, and both sides say what to do.
func TestClusterTLS(t *testing.T) {
	t.Parallel()
	c := newTrial(t, "")
	ours, theirs := newAuthority(t), newAuthority(t)
	seeds := []string{"--cluster.seeds=" + c.seed("127.0.0.5-7"), "--cluster.bootstrap_expect=3"}
	later := time.Now().Add(time.Hour)
	var nodes []*member
	for i, host := range []string{"127.0.0.5", "127.0.0.6", "127.0.0.7"} {
		name := []string{"n1", "n2", "n3"}[i]
		nodes = append(nodes, c.node(name, host, append(seeds, ours.flags(name, int64(10+i), later)...)...))
	}
	c.await(3, nodes...)
	var clients []*socket
	for _, m := range nodes {
		clients = append(clients, m.connect("news"))
	}
	c.reaches(clients, "news", nodes...)

	strangers := []*member{
		c.node("without", "127.0.0.2", seeds...),
		c.node("foreign", "127.0.0.3", append(seeds, theirs.flags("foreign", 2, later)...)...),
		c.node("expired", "127.0.0.4", append(seeds, ours.flags("expired", 3, time.Now().Add(-time.Hour))...)...),
	}
	for _, m := range strangers {
		m.start()
	}
	for i, says := range []string{
		"do not agree whether TLS is spoken between nodes; set cluster.cert_file, cluster.key_file and cluster.ca_file",
		"shows a certificate of another authority; have the certificates of all nodes signed by one",
		"refuses this node's certificate, which has expired or is not valid yet; make a new one for cluster.cert_file",
	} {
		strangers[i].refused(says)
	}
	nodes[0].says("127.0.0.1 and this node do not agree whether TLS is spoken", "127.0.0.1 does not trust this node's certificate",
		"127.0.0.1 shows a certificate that has expired")
	for _, m := range nodes {
		if lines := strings.Count(m.Output(), "cluster hello refused"); lines > 3 {
			t.Errorf("%s has %d lines about refusals", m.name, lines)
		}
	}
	c.reaches(clients, "news", nodes...)
	ours.routeIsEncrypted(nodes[0])
	c.certificateIsReplaced(ours, nodes)
	c.reaches(clients, "news", nodes...)
}

// routeIsEncrypted expects the engine's port to speak TLS only, with certificates only, and to
// want the secret beside.
func (a *authority) routeIsEncrypted(m *member) {
	a.Helper()
	address := m.member(m.name).Addresses["route"]
	trust := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "127.0.0.1"}
	trust.RootCAs.AddCert(a.certificate)
	if _, answer := asRoute(a.T, address, trialSecret, trust); !strings.Contains(answer, "certificate required") {
		a.Errorf("without a certificate: %q", answer)
	}
	cert, key := a.issue("route", 50, time.Now().Add(time.Hour))
	own, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		a.Fatal(err)
	}
	trust.Certificates = []tls.Certificate{own}
	if _, answer := asRoute(a.T, address, trialSecret, trust); !strings.Contains(answer, "Authorization Violation") {
		a.Errorf("with a certificate and no secret: %q", answer)
	}
}

// certificateIsReplaced changes a node's certificate on the disk: it shows the new one at once.
func (c *trial) certificateIsReplaced(a *authority, nodes []*member) {
	c.Helper()
	cert, key := a.issue(nodes[0].name, 99, time.Now().Add(time.Hour)) // same files
	own, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		c.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	address := nodes[0].member(nodes[0].name).Addresses["hello"]
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}})
	if err != nil {
		c.Fatal(err)
	}
	defer conn.Close()
	if serial := conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); serial != 99 {
		c.Errorf("the certificate is number %d, want the new one, 99", serial)
	}
}
