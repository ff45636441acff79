// Package lbconfig writes the configuration of a load balancer, nginx or HAProxy, for the
// nodes of a cluster.
//
// It may import the standard library. It must never import another room of Parley: the
// command tells it who the nodes are.
package lbconfig

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"text/template"
)

// ErrInvalid says that no configuration can be written for these options.
var ErrInvalid = errors.New("invalid load balancer options")

// Formats.
const (
	NGINX   = "nginx"
	HAProxy = "haproxy"
)

// What keeps a client with its node.
const (
	StickyIP     = "ip"     // the client's address; several clients behind one address share a node
	StickyCookie = "cookie" // a cookie; clients without cookies are spread
)

// Node is one node behind the balancer.
type Node struct {
	Name    string // for people; made unique if it is not
	Address string // host:port of its channels port
	// Draining has nginx leave the node out from the start; HAProxy asks it anyway.
	Draining bool
}

// Options describe the balancer.
type Options struct {
	Format     string // NGINX or HAProxy
	Sticky     string // StickyIP or StickyCookie
	Nodes      []Node
	ServerName string // public name; empty for every name
	// HTTPPort serves plain HTTP, or with CertFile redirects to HTTPSPort.
	HTTPPort  int
	HTTPSPort int
	// TCPPort passes TCP connections on as they are; 0 for none.
	TCPPort int
	// CertFile is a PEM chain, for HAProxy together with its key; KeyFile is for nginx.
	CertFile, KeyFile string
	// PathPrefix is channels.path_prefix of the nodes, without a slash at its end; empty for none.
	PathPrefix string
	// NodeTLS says that the nodes speak TLS. Their certificates are checked against NodeCA, a
	// PEM file, and for NodeName if one is given; without NodeCA they are not.
	NodeTLS          bool
	NodeCA, NodeName string
}

//go:embed nginx.tmpl haproxy.tmpl
var files embed.FS

var templates = template.Must(template.ParseFS(files, "*.tmpl"))

// Write writes a complete configuration. Errors: ErrInvalid, those of out.
func Write(out io.Writer, o Options) error {
	if err := o.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	o.Nodes = named(o.Nodes)
	if err := templates.ExecuteTemplate(out, o.Format+".tmpl", o); err != nil {
		return fmt.Errorf("write the configuration for %s: %w", o.Format, err)
	}
	return nil
}

// TLS tells whether the balancer ends TLS; for the templates.
func (o Options) TLS() bool { return o.CertFile != "" }

// NodeScheme is what the nodes speak; for the templates.
func (o Options) NodeScheme() string {
	if o.NodeTLS {
		return "https"
	}
	return "http"
}

// ServerTLS is what the line of a server of HAProxy says about TLS; for the templates.
func (o Options) ServerTLS() string {
	switch {
	case !o.NodeTLS:
		return ""
	case o.NodeCA == "":
		return " ssl verify none alpn http/1.1"
	}
	return fmt.Sprintf(" ssl verify required ca-file %s sni str(%s) verifyhost %s alpn http/1.1", o.NodeCA, o.NodeName, o.NodeName)
}

var (
	prefixPattern = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)*$`)

	hostPattern = regexp.MustCompile(`^[A-Za-z0-9._-]+$|^[0-9A-Fa-f:.]+$`)
	pathPattern = regexp.MustCompile(`^[^\s;{}"'#\\$]+$`)
	namePattern = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)
)

// check refuses what would not be one word of the configuration.
func (o Options) check() error {
	switch {
	case o.Format != NGINX && o.Format != HAProxy:
		return fmt.Errorf("format %q is not %s or %s", o.Format, NGINX, HAProxy)
	case o.Sticky != StickyIP && o.Sticky != StickyCookie:
		return fmt.Errorf("sticky %q is not %s or %s", o.Sticky, StickyIP, StickyCookie)
	case len(o.Nodes) == 0:
		return errors.New("no node serves clients")
	case o.ServerName != "" && !hostPattern.MatchString(o.ServerName):
		return fmt.Errorf("server name %q is no host name", o.ServerName)
	case o.TLS() && o.Format == NGINX && o.KeyFile == "":
		return errors.New("nginx needs the key of the certificate in a file of its own")
	case !prefixPattern.MatchString(o.PathPrefix):
		return fmt.Errorf("path prefix %q has characters that a configuration cannot hold", o.PathPrefix)
	case o.NodeName != "" && !hostPattern.MatchString(o.NodeName):
		return fmt.Errorf("name of the nodes %q is no host name", o.NodeName)
	case o.NodeCA != "" && !o.NodeTLS:
		return errors.New("the nodes speak no TLS, so there is no certificate to check")
	case o.NodeName != "" && o.NodeCA == "":
		return errors.New("the name of the nodes is checked together with their authority: give both")
	case o.NodeCA != "" && o.NodeName == "":
		return errors.New("say which name the certificates of the nodes are for")
	}
	for _, path := range []string{o.CertFile, o.KeyFile, o.NodeCA} {
		if path != "" && !pathPattern.MatchString(path) {
			return fmt.Errorf("path %q has characters that a configuration cannot hold", path)
		}
	}
	for _, port := range []int{o.HTTPPort, o.HTTPSPort, o.TCPPort} {
		if port < 0 || port > 65535 {
			return fmt.Errorf("port %d is not 0 to 65535", port)
		}
	}
	for _, node := range o.Nodes {
		host, port, err := net.SplitHostPort(node.Address)
		if err != nil || !hostPattern.MatchString(host) {
			return fmt.Errorf("address %q of node %q is not host:port", node.Address, node.Name)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("address %q of node %q has no port", node.Address, node.Name)
		}
	}
	return nil
}

// named returns the nodes with names that are words and differ.
func named(nodes []Node) []Node {
	result := make([]Node, len(nodes))
	taken := map[string]bool{}
	for i, node := range nodes {
		base := strings.Trim(namePattern.ReplaceAllString(node.Name, "-"), "-")
		if base == "" {
			base = "node"
		}
		name := base
		for n := 2; taken[name]; n++ {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		taken[name] = true
		result[i] = node
		result[i].Name = name
	}
	return result
}
