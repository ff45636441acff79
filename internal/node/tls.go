package node

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
)

// certificate is the TLS certificate of the channels port; it can be replaced while
// connections go on.
type certificate struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
}

func loadCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	return c, c.reload()
}

func (c *certificate) reload() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("load the certificate %s (options tls.cert_file, tls.key_file): %w", c.certFile, err)
	}
	c.current.Store(&pair)
	return nil
}

func (c *certificate) listener(l net.Listener) net.Listener {
	return tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, // a WebSocket upgrade needs HTTP/1.1
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	})
}

// ReloadTLS reads the certificate files again, for new connections. On an error the old
// certificate stays.
func (n *Node) ReloadTLS() error {
	if n.tls == nil {
		return nil
	}
	if err := n.tls.reload(); err != nil {
		return err
	}
	n.log.Info("certificate reloaded", "file", n.tls.certFile)
	return nil
}

// redirectToTLS sends browsers from the plain port to the TLS port.
func redirectToTLS(port string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		host = net.JoinHostPort(strings.Trim(host, "[]"), port) // the brackets of an IPv6 address
		if port == "443" {
			host = strings.TrimSuffix(host, ":443")
		}
		target := *r.URL
		target.Scheme, target.Host = "https", host
		http.Redirect(w, r, target.String(), http.StatusPermanentRedirect)
	})
}
