package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// testAuthority signs certificates for 127.0.0.1.
type testAuthority struct {
	*testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) testAuthority {
	t.Helper()
	a := testAuthority{T: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true,
	}
	a.key = a.newKey()
	a.certificate = a.sign(template, template, a.key, a.key)
	return a
}

func (a testAuthority) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	return key
}

func (a testAuthority) sign(template, parent *x509.Certificate, of, by *ecdsa.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, of.Public(), by)
	if err != nil {
		a.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		a.Fatal(err)
	}
	return certificate
}

// config returns what a node has whose certificate is good until then.
func (a testAuthority) config(until time.Time, change func(*x509.Certificate)) *tls.Config {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "node"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(template)
	}
	key := a.newKey()
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return &tls.Config{RootCAs: pool, ClientCAs: pool, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{
		Certificate: [][]byte{a.sign(template, a.certificate, key, a.key).Raw}, PrivateKey: key,
	}}}
}

// Both sides are told what is wrong with certificates, in words that say what to do.
func TestCertificatesRefused(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	good, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	otherNames := func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 9, 9, 9)} }
	trusting := theirs.config(good, nil) // it believes us, and we do not believe it
	trusting.RootCAs = ours.config(good, nil).RootCAs
	none := ours.config(good, nil)
	none.Certificates = nil
	tests := []struct {
		name         string
		asked, asker *tls.Config
		here, there  string // what the asker and the asked must say
	}{
		{"no certificate", ours.config(good, nil), none, "wants a certificate", "shows no certificate"},
		{"no TLS", ours.config(good, nil), nil, "whether TLS is spoken", "whether TLS is spoken"},
		{"TLS to none", nil, ours.config(good, nil), "whether TLS is spoken", "whether TLS is spoken"},
		{"other authority", ours.config(good, nil), theirs.config(good, nil),
			"shows a certificate of another authority", "does not trust this node's certificate"},
		{"signed by another", ours.config(good, nil), trusting,
			"does not know the authority of this node's", "shows a certificate of another authority"},
		{"expired", ours.config(good, nil), ours.config(past, nil),
			"refuses this node's certificate, which has expired", "has expired"},
		{"asked is expired", ours.config(past, nil), ours.config(good, nil), "has expired", "does not trust"},
		{"other names", ours.config(good, otherNames), ours.config(good, nil), "for other names", "does not trust"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			said := make(chan struct{})
			log := &logBuffer{awaits: []string{"cluster hello refused", test.there}, then: func() {
				select {
				case <-said:
				default:
					close(said)
				}
			}}
			options := testOptions(t)
			options.TLS, options.Logger = test.asked, slog.New(slog.NewTextHandler(log, nil))
			_, address := serveHello(t, options, seeking(1))
			asker := askerOf(t, testOptions(t))
			asker.tls = test.asker
			_, err := asker.ask(t.Context(), address, seeking(2))
			if !errors.Is(err, ErrCertificate) {
				t.Fatalf("got %v", err)
			}
			if text := advice(address, err); !strings.Contains(text, test.here) || !strings.HasPrefix(text, address) {
				t.Errorf("the asker says %q, want %q", text, test.here)
			}
			select {
			case <-said:
			case <-time.After(10 * time.Second):
				t.Errorf("the asked does not say %q:\n%s", test.there, log)
			}
		})
	}
}

// A connection that only looks whether somebody listens is no refusal.
func TestLookIsNoRefusal(t *testing.T) {
	options := testOptions(t)
	options.TLS = newAuthority(t).config(time.Now().Add(time.Hour), nil)
	log := &logBuffer{then: func() {}}
	options.Logger = slog.New(slog.NewTextHandler(log, nil))
	hello, address := serveHello(t, options, seeking(1))
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	asker := askerOf(t, options) // served after the look
	if _, err := asker.ask(t.Context(), address, seeking(2)); err != nil {
		t.Error(err)
	}
	hello.Close()
	if text := log.String(); text != "" {
		t.Errorf("the log is\n%s", text)
	}
}

func TestVotesOfRefusal(t *testing.T) {
	failures := map[string]error{
		"secret:1": ErrSecret, "domain:1": errOtherDomain, "certificate:1": ErrCertificate,
		"silent:1": context.DeadlineExceeded, "web:1": errProtocol,
	}
	for _, test := range []struct {
		targets string
		want    ballot
		shares  bool
	}{
		{"secret:1 silent:1", ballot{1, 0}, false},
		{"domain:1 silent:1", ballot{1, 0}, false},
		{"domain:1 silent:1", ballot{0, 1}, true},
		{"secret:1 silent:1", ballot{1, 0}, true},
		{"certificate:1", ballot{1, 0}, false},
		{"silent:1", ballot{0, 1}, false},
		{"web:1 nobody:1", ballot{0, 1}, false},
		{"own:1 silent:1", ballot{}, false},
		{"own:1 domain:1", ballot{}, false},
		{"own:1 secret:1", ballot{1, 0}, false},
	} {
		var got ballot
		got.count(strings.Fields(test.targets), "own:1", test.shares, failures)
		if got != test.want {
			t.Errorf("%s: %+v, want %+v", test.targets, got, test.want)
		}
	}
}

// A node that only meets refusals gives up and says why; one that may yet find others waits.
func TestRefusedNodeGivesUp(t *testing.T) {
	t.Parallel() // it mostly waits
	other := testOptions(t)
	other.Secret = strings.Repeat("x", 32)
	_, refusing := serveHello(t, other, seeking(1))
	discover := func(patience time.Duration, seeds ...string) error {
		options := testOptions(t)
		options.BootstrapExpect, options.PortTries, options.Seeds = 3, 1, seeds
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := Discover(ctx, options)
		return err
	}
	waited := make(chan error, 1)
	go func() { waited <- discover(refusalPatience+2*time.Second, refusing, "127.0.0.1:1") }()
	err := discover(20*time.Second, refusing)
	if !errors.Is(err, ErrRefused) || !errors.Is(err, ErrSecret) || !strings.Contains(err.Error(), "set the same cluster.secret") {
		t.Errorf("got %v", err)
	}
	if err := <-waited; errors.Is(err, ErrRefused) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with another seed that is down: %v", err)
	}
}

// Whoever knocks is told of once in a while, and so is one with this node's id or of another
// version.
func TestKnocksAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logBuffer{then: func() {}}
		h := &Hello{logger: slog.New(slog.NewTextHandler(log, nil)), warned: map[string]time.Time{}, statement: seeking(1)}
		twin, future := seeking(1), seeking(2)
		twin.Self.Instance = "00000000000000ff"
		future.Oldest, future.Newest = 8, 9
		knocks := func() {
			for range 3 {
				h.warn("10.0.0.9", ErrSecret)
				h.knock("10.0.0.9", twin)
				h.knock("10.0.0.9", future)
				h.knock("10.0.0.9", seeking(1)) // itself
				h.knock("10.0.0.9", seeking(2))
			}
		}
		knocks()
		want := func(lines int) {
			t.Helper()
			for _, part := range []string{"set the same cluster.secret", "copy of this node's; remove", "versions 8 to 9"} {
				if got := strings.Count(log.String(), part); got != lines {
					t.Errorf("%q is %d times in the log, want %d:\n%s", part, got, lines, log)
				}
			}
			if got := strings.Count(log.String(), "\n"); got != 3*lines {
				t.Errorf("the log has %d lines, want %d", got, 3*lines)
			}
		}
		want(1)
		time.Sleep(warnInterval)
		knocks()
		want(2)
		for i := range 2 * maxLearned { // strangers without end are not logged without end
			h.warn(net.IPv4(10, 1, byte(i>>8), byte(i)).String(), ErrSecret)
		}
		if got := len(h.warned); got > maxLearned {
			t.Errorf("%d refusals are remembered", got)
		}
	})
}
