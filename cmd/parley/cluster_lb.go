package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/lbconfig"
	"github.com/parleyio/parley/internal/pusher/admin"
)

// roleGateway is the role of the nodes that serve clients.
const roleGateway = "gateway"

func newClusterLBCommand(remote *adminFlags) *cobra.Command {
	var o lbconfig.Options
	cmd := &cobra.Command{
		Use:   "lb",
		Short: "Write the configuration of nginx or HAProxy for the nodes of the cluster",
		Long: `Write a complete configuration of nginx or HAProxy for the nodes of the cluster that serve
clients, those that are down included. With --cert the balancer ends TLS and redirects plain HTTP to it.`,
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
		if o.Nodes = gateways(view); len(o.Nodes) == 0 {
			return fmt.Errorf("none of the %d nodes has the role %s", len(view.Members), roleGateway)
		}
		return lbconfig.Write(cmd.OutOrStdout(), o)
	})
	return cmd
}

// gateways returns the nodes that serve clients, by name.
func gateways(view admin.ClusterView) []lbconfig.Node {
	var nodes []lbconfig.Node
	for _, m := range slices.Concat(view.Members, view.Missing) { // who is down may come back
		if slices.Contains(m.Roles, roleGateway) {
			nodes = append(nodes, lbconfig.Node{
				Name: m.Name, Address: m.Addresses["channels"], Draining: m.State == "draining",
			})
		}
	}
	slices.SortFunc(nodes, func(a, b lbconfig.Node) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address))
	})
	return nodes
}
