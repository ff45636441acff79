package engine_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/engine"
)

// TestRaise grows from three nodes to five while others write, replicas from 1 to 3 to 5,
// and then has two of the five die.
func TestRaise(t *testing.T) {
	needsTime(t)
	t.Parallel()
	nodes := members(t, 5)
	all := nodes[0].options.Cluster.Routes
	for _, node := range nodes[:3] {
		node.options.Cluster.Routes = all[:3]
	}
	launch(t, nodes[:3]...)
	_, js := streamOf(t, nodes[0])
	s := create(t, js, "s", 1)
	_, err := s.CreateConsumer(bounded(t), jetstream.ConsumerConfig{Durable: "workers"})
	if err != nil {
		t.Fatal(err)
	}
	stopWriting := make(chan struct{})
	written := make(chan int)
	go func() {
		_, n := writeUntil(t, js, stopWriting)
		written <- n
	}()
	type step struct{ nodes, replicas int }
	for _, step := range []step{{3, 3}, {5, 5}} {
		for _, node := range nodes[:step.nodes] {
			if node.engine == nil {
				launch(t, node) // one at a time
				healthy(t, node)
			}
		}
		begin := time.Now()
		// With a consumer, the server takes up to 20 s for some changes.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		err := nodes[1].engine.Raise(ctx, step.replicas, func(string) {})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d replicas after %v", step.replicas, time.Since(begin))
		info, err := s.Info(bounded(t))
		if err != nil || info.Config.Replicas != step.replicas || len(info.Cluster.Replicas) != step.replicas-1 {
			t.Errorf("cluster %+v, %v", info.Cluster, err)
		}
		consumer, err := s.Consumer(bounded(t), "workers")
		if err != nil || len(consumer.CachedInfo().Cluster.Replicas) != step.replicas-1 {
			t.Errorf("consumer %v", err)
		}
	}
	close(stopWriting)
	n := <-written
	verifyWrites(t, js, n)
	halt(t, nodes[3])
	halt(t, nodes[4])
	eventually(t, "a write with two of five dead", func() bool {
		_, err := js.Publish(bounded(t), "s.a", nil)
		return err == nil
	})
	if err := nodes[0].engine.Raise(bounded(t), 2, nil); err == nil {
		t.Error("2 replicas were taken")
	}
	if err := start(t, t.TempDir()).Raise(bounded(t), 3, nil); !errors.Is(err, engine.ErrStandalone) {
		t.Errorf("alone: %v", err)
	}
}

// TestTLS forms a cluster with certificates. One without a certificate of the CA, though it
// knows the secret, stays outside.
func TestTLS(t *testing.T) {
	needsTime(t)
	t.Parallel()
	nodes := members(t, 4)
	ours := authority(t)
	for _, node := range nodes {
		node.options.Cluster.Routes = node.options.Cluster.Routes[:3]
		node.options.Cluster.TLS = ours(t)
	}
	launch(t, nodes[:3]...)
	_, js := streamOf(t, nodes[0])
	create(t, js, "s", 3)
	stranger := nodes[3]
	other := authority(t)(t)
	for what, tls := range map[string]*engine.TLSOptions{
		"no TLS": nil,
		"certificate of another CA": {
			CertFile: other.CertFile, KeyFile: other.KeyFile, CAFile: stranger.options.Cluster.TLS.CAFile,
		},
	} {
		stranger.options.Cluster.TLS = tls
		stranger.options.Cluster.NoStore = true
		launch(t, stranger) // without a store it waits for nobody
		if peers := stranger.engine.Peers(); len(peers) != 0 {
			t.Errorf("%s: peers are %v", what, peers)
		}
		if err := stranger.engine.Health(bounded(t)); !errors.Is(err, engine.ErrNoQuorum) {
			t.Errorf("%s: health is %v", what, err)
		}
		halt(t, stranger)
	}
	if peers := nodes[0].engine.Peers(); !slices.Equal(peers, names(nodes[1:3]...)) {
		t.Errorf("peers are %v", peers)
	}
	stranger.options.Cluster.TLS = ours(t)
	launch(t, stranger)
	eventually(t, "the one with a good certificate is in", func() bool {
		return slices.Equal(stranger.engine.Peers(), names(nodes[:3]...))
	})
}

// authority returns what issues certificates of one new CA.
func authority(t testing.TB) func(testing.TB) *engine.TLSOptions {
	t.Helper()
	dir := t.TempDir()
	key := newKey(t)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true,
	}
	writePEM(t, filepath.Join(dir, "ca.pem"), "CERTIFICATE", sign(t, ca, ca, key, key))
	serial := int64(1)
	return func(t testing.TB) *engine.TLSOptions {
		t.Helper()
		serial++
		nodeKey := newKey(t)
		node := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "node"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		options := &engine.TLSOptions{
			CertFile: filepath.Join(dir, fmt.Sprint("cert", serial)),
			KeyFile:  filepath.Join(dir, fmt.Sprint("key", serial)),
			CAFile:   filepath.Join(dir, "ca.pem"),
		}
		writePEM(t, options.CertFile, "CERTIFICATE", sign(t, node, ca, nodeKey, key))
		der, err := x509.MarshalECPrivateKey(nodeKey)
		if err != nil {
			t.Fatal(err)
		}
		writePEM(t, options.KeyFile, "EC PRIVATE KEY", der)
		return options
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, certificate, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, certificate, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
