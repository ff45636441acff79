package engine

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// TLSOptions name the PEM files for mutual TLS between nodes. The certificate must be good
// for a server and for a client, and name the hosts under which the node is reached.
type TLSOptions struct {
	CertFile, KeyFile, CAFile string
}

// Config reads the files. The certificate and its key are read again at every handshake, so
// that they can be replaced while the node runs; if that fails, those read before stay in use.
// The authority is read once.
func (t *TLSOptions) Config() (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate of the node (options cluster.cert_file, cluster.key_file): %w", err)
	}
	pem, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, fmt.Errorf("load authority of the nodes (option cluster.ca_file): %w", err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load authority of the nodes (option cluster.ca_file): %w",
			errors.New("no certificate in "+t.CAFile))
	}
	var last atomic.Pointer[tls.Certificate]
	last.Store(&certificate)
	current := func() (*tls.Certificate, error) {
		if fresh, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err == nil {
			last.Store(&fresh)
		}
		return last.Load(), nil
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return current() },
		RootCAs:              authorities,
		ClientCAs:            authorities,
		ClientAuth:           tls.RequireAndVerifyClientCert,
	}, nil
}
