package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/lbconfig"
	"github.com/parleyio/parley/internal/pusher/admin"
)

// roleGateway is the role of the nodes that serve clients.
const roleGateway = "gateway"

func newClusterLBCommand(remote *adminFlags) *cobra.Command {
	var o lbconfig.Options
	var subDomain string
	cmd := &cobra.Command{
		Use:   "lb",
		Short: "Write the configuration of nginx or HAProxy for the nodes of the cluster",
		Long: `Write a complete configuration of nginx or HAProxy for the nodes of the cluster that serve
clients, those that are down included. With --cert the balancer ends TLS and redirects plain HTTP to it.

Ports, TLS and channels.path_prefix are those that the nodes tell. Their certificates are checked
with --node-ca and --node-name; without, the way to the nodes is encrypted and not more.`,
		Example: `  parley cluster lb --format nginx --cert /etc/nginx/tls/fullchain.pem \
      --key /etc/nginx/tls/privkey.pem > /etc/nginx/nginx.conf && nginx -t && nginx -s reload
  parley cluster lb --format haproxy --sticky cookie > /etc/haproxy/haproxy.cfg`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&o.Format, "format", "", "nginx or haproxy")
	flags.StringVar(&o.Sticky, "sticky", lbconfig.StickyIP, "what keeps a client with its node: ip or cookie")
	flags.StringVar(&o.ServerName, "server-name", "", "public name (default every name)")
	flags.StringVar(&o.CertFile, "cert", "", "certificate chain in PEM, for HAProxy with its key (default no TLS)")
	flags.StringVar(&o.KeyFile, "key", "", "key of the certificate, for nginx")
	flags.StringVar(&subDomain, "sub-domain", "", "only nodes of this sub-domain, such as worker (default all)")
	flags.StringVar(&o.NodeCA, "node-ca", "", "authority in PEM that the certificates of the nodes are signed by")
	flags.StringVar(&o.NodeName, "node-name", "", "name that the certificates of the nodes are for")
	flags.IntVar(&o.HTTPPort, "http-port", 80, "port for plain HTTP")
	flags.IntVar(&o.HTTPSPort, "https-port", 443, "port for HTTPS")
	flags.IntVar(&o.TCPPort, "tcp-port", 15001, "port that passes TCP on as it is, 0 for none")
	cmd.RunE = remote.run(func(cmd *cobra.Command, client *admin.Client, _ []string) error {
		if o.Format == "" {
			return errors.New("say for which balancer: --format nginx or --format haproxy")
		}
		if remote.json {
			return errors.New("a configuration is not JSON: leave out --json")
		}
		view, err := client.Cluster(cmd.Context())
		if err != nil {
			return err
		}
		if err := selectSubDomain(&view, subDomain); err != nil {
			return err
		}
		if err := addGateways(&o, view); err != nil {
			return err
		}
		return lbconfig.Write(cmd.OutOrStdout(), o)
	})
	return cmd
}

// addGateways adds the nodes that serve clients, by name, and how they are reached, which a
// balancer can only do in one way.
func addGateways(o *lbconfig.Options, view admin.ClusterView) error {
	way := ""                                                     // scheme and path prefix of the nodes so far
	for _, m := range slices.Concat(view.Members, view.Missing) { // who is down may come back
		if !slices.Contains(m.Roles, roleGateway) {
			continue
		}
		u, err := url.Parse(cmp.Or(m.URL, "http://"+m.Addresses["channels"])) // older nodes tell no URL
		if err != nil {
			return fmt.Errorf("node %s tells no address: %w", printable(m.Name), err)
		}
		if mine := u.Scheme + " " + u.Path; way != "" && way != mine {
			return errors.New("some nodes speak TLS or have a channels.path_prefix and others do not: " +
				"make them the same, or choose some with --sub-domain")
		} else {
			way = mine
		}
		o.NodeTLS, o.PathPrefix = u.Scheme == "https", u.Path
		o.Nodes = append(o.Nodes, lbconfig.Node{Name: m.Name, Address: u.Host, Draining: m.State == "draining"})
	}
	if len(o.Nodes) == 0 {
		return fmt.Errorf("none of the %d nodes has the role %s", len(view.Members)+len(view.Missing), roleGateway)
	}
	slices.SortFunc(o.Nodes, func(a, b lbconfig.Node) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address))
	})
	return nil
}

// selectSubDomain leaves in the view only the nodes of a sub-domain; empty for all.
func selectSubDomain(view *admin.ClusterView, subDomain string) error {
	if subDomain == "" {
		return nil
	}
	all := map[string]bool{}
	other := func(m admin.ClusterMember) bool {
		if m.SubDomain != "" {
			all[m.SubDomain] = true
		}
		return m.SubDomain != subDomain
	}
	view.Members = slices.DeleteFunc(view.Members, other)
	view.Missing = slices.DeleteFunc(view.Missing, other)
	if len(view.Members)+len(view.Missing) == 0 {
		if len(all) == 0 {
			return fmt.Errorf("no node is of the sub-domain %q: no node has one", subDomain)
		}
		return fmt.Errorf("no node is of the sub-domain %q; there are: %s", subDomain,
			printable(strings.Join(slices.Sorted(maps.Keys(all)), ", ")))
	}
	return nil
}
