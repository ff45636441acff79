package node

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
)

// certificate is the TLS certificate of a port; it can be replaced while connections go on.
type certificate struct {
	certFile, keyFile string
	options           string // that name the files, for errors
	current           atomic.Pointer[tls.Certificate]
}

func loadCertificate(certFile, keyFile, options string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, options: options}
	return c, c.reload()
}

func (c *certificate) reload() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("load the certificate %s (options %s): %w", c.certFile, c.options, err)
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
	var errs []error
	for _, c := range n.certificates() {
		err := c.reload()
		if err == nil {
			n.log.Info("certificate reloaded", "file", c.certFile)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// certificates are those of all ports.
func (n *Node) certificates() []*certificate {
	var list []*certificate
	if n.tls != nil {
		list = append(list, n.tls)
	}
	if n.im != nil && n.im.tls != nil {
		list = append(list, n.im.tls)
	}
	return list
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
