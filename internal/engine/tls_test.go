package engine_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/engine"
)

// A certificate that is replaced on the disk is shown at the next handshake; one that cannot
// be read leaves the one before in use.
func TestCertificateIsReplaced(t *testing.T) {
	issue := authority(t)
	files, next := issue(t), issue(t)
	config, err := files.Config()
	if err != nil {
		t.Fatal(err)
	}
	shown := func() []byte {
		t.Helper()
		server, err := config.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		client, err := config.GetClientCertificate(nil)
		if err != nil || !bytes.Equal(client.Certificate[0], server.Certificate[0]) {
			t.Fatalf("as a client it shows another: %v", err)
		}
		return server.Certificate[0]
	}
	first := shown()
	for from, to := range map[string]string{next.CertFile: files.CertFile, next.KeyFile: files.KeyFile} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	second := shown()
	if bytes.Equal(first, second) {
		t.Error("the new certificate is not shown")
	}
	if err := os.WriteFile(files.CertFile, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(shown(), second) {
		t.Error("a broken file takes the certificate away")
	}
}

func TestCertificatesMissing(t *testing.T) {
	good := authority(t)(t)
	none := filepath.Join(t.TempDir(), "none.pem")
	for option, files := range map[string]engine.TLSOptions{
		"cluster.cert_file": {CertFile: none, KeyFile: good.KeyFile, CAFile: good.CAFile},
		"cluster.key_file":  {CertFile: good.CertFile, KeyFile: none, CAFile: good.CAFile},
		"cluster.ca_file":   {CertFile: good.CertFile, KeyFile: good.KeyFile, CAFile: good.KeyFile},
	} {
		if _, err := files.Config(); err == nil || !strings.Contains(err.Error(), option) {
			t.Errorf("%s: %v", option, err)
		}
	}
}
