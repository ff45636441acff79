package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/pusher/admin"
)

// newClusterCommand returns the command tree for the cluster of a running node.
func newClusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Show the cluster of a running node, drain it, forget a dead one, configure a load balancer",
		Long: "Show the cluster as a running node sees it, take the node out of the rotation and back,\n" +
			"take a dead member out for good, and write the configuration of a load balancer in front\n" +
			"of all.\n\n" + adminHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	remote := addAdminFlags(cmd)
	cmd.AddCommand(
		newClusterStatusCommand(remote),
		newClusterMembersCommand(remote),
		newClusterDrainCommand(remote),
		newClusterUndrainCommand(remote),
		newClusterForgetCommand(remote),
		newClusterLBCommand(remote),
	)
	return cmd
}

func newClusterStatusCommand(remote *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the cluster is, as the node sees it",
		Args:  cobra.NoArgs,
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, _ []string) error {
			view, err := client.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			if remote.json {
				return printJSON(cmd.OutOrStdout(), view)
			}
			return printCluster(cmd.OutOrStdout(), view)
		}),
	}
}

func newClusterMembersCommand(remote *adminFlags) *cobra.Command {
	var subDomain string
	cmd := &cobra.Command{
		Use:   "members",
		Short: "List the nodes of the cluster",
		Args:  cobra.NoArgs,
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, _ []string) error {
			view, err := client.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			if err := selectSubDomain(&view, subDomain); err != nil {
				return err
			}
			if remote.json {
				return printJSON(cmd.OutOrStdout(), append(view.Members, view.Missing...))
			}
			return printMembers(cmd.OutOrStdout(), view)
		}),
	}
	cmd.Flags().StringVar(&subDomain, "sub-domain", "", "only nodes of this sub-domain, such as worker (default all)")
	return cmd
}

func newClusterDrainCommand(remote *adminFlags) *cobra.Command {
	var rate int
	var delay time.Duration
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Take the node out of the rotation and send its clients to the others",
		Long: `Take the node out of the rotation: /ready answers 503. After --delay, the time that load
balancers need to notice, it takes no new clients and tells those that it has to connect again
(4200), --rate of them each second. The HTTP API goes on working. The command returns at once;
"parley cluster members" shows how many clients are left. "parley cluster undrain" and a restart
take the node back. The node is the one that --server or --config names, not an argument, and
not a load balancer, which passes the command on to any of them.`,
		Args: thisNode,
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, _ []string) error {
			if rate < 1 {
				return fmt.Errorf("--rate is %d and must be at least 1", rate)
			}
			if delay < 0 && cmd.Flags().Changed("delay") {
				return fmt.Errorf("--delay is %v and cannot be negative", delay)
			}
			node, err := client.Drain(cmd.Context(), rate, delay)
			if err != nil {
				return err
			}
			return remote.printDrained(cmd.OutOrStdout(), node, node.Name+" is draining")
		}),
	}
	cmd.Flags().IntVar(&rate, "rate", admin.DefaultDrainRate, "clients that are sent away each second")
	cmd.Flags().DurationVar(&delay, "delay", admin.NoDelay,
		"how long the node serves on before that (default shutdown.delay, or 5s where that is 0)")
	cmd.Flags().Lookup("delay").DefValue = "0s" // not printed; the text tells it
	return cmd
}

// thisNode refuses the name of a node: one is asked to drain itself.
func thisNode(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%q: \"parley cluster %s\" takes no name of a node, it asks the one on this machine: "+
		"name another with --server, such as --server http://10.0.0.5:6001, or with -c, the file of its options",
		args[0], cmd.Name())
}

func newClusterUndrainCommand(remote *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "undrain",
		Short: "Take the node back into the rotation",
		Long: `Take the node back into the rotation. The node is the one that --server or --config names: a
load balancer passes the command on to a node that is in the rotation, and it says so.`,
		Args: thisNode,
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, _ []string) error {
			node, err := client.Undrain(cmd.Context())
			if err != nil {
				return err
			}
			if node.Was != "draining" {
				return remote.printDrained(cmd.OutOrStdout(), node,
					node.Name+" was not draining; it answered at "+client.Server)
			}
			return remote.printDrained(cmd.OutOrStdout(), node, node.Name+" is back in the rotation")
		}),
	}
}

// printDrained says what became of a node that was drained or undrained.
func (f *adminFlags) printDrained(out io.Writer, node admin.Drained, text string) error {
	if f.json {
		return printJSON(out, node)
	}
	_, err := fmt.Fprintln(out, printable(text))
	return err
}

// printCluster prints the summary and the members.
func printCluster(out io.Writer, view admin.ClusterView) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		_, _ = fmt.Fprintf(table, "%s\t%s\n", name, printable(value)) // Flush reports its error
	}
	row("cluster", describeCluster(view))
	if view.Starting != "" {
		row("starting", view.Starting)
	}
	if view.Self != "" {
		row("asked", fmt.Sprintf("%s, view %d", nodeName(view, view.Self), view.Epoch))
		row("nodes", describeNodes(view))
	}
	for _, broker := range view.Brokers {
		row("shares", describeBroker(broker))
	}
	if !view.OverBroker() && view.Starting == "" {
		row("replicas", describeReplicas(view))
		row("survives", describeSurvival(view.Replicas))
		row("engine", describeEngine(view))
	}
	if view.Forgetting != nil {
		row("forgetting", describeForgetting(*view.Forgetting))
	}
	if err := table.Flush(); err != nil || view.Self == "" {
		return err
	}
	if _, err := fmt.Fprintln(out); err != nil {
		return err
	}
	return printMembers(out, view)
}

// describeCluster names the cluster. Where nodes share a broker, its domain is all of its name.
func describeCluster(view admin.ClusterView) string {
	if view.OverBroker() {
		return view.Domain
	}
	return fmt.Sprintf("%s (%s)", view.Domain, cmp.Or(view.ID, "not found yet"))
}

// describeBroker says what nodes share by it, and what is wrong with it.
func describeBroker(broker admin.BrokerView) string {
	text := fmt.Sprintf("%s (%s)", broker.Driver, strings.Join(broker.Carries, ", "))
	if broker.Error != "" {
		text += ", which cannot be reached: " + broker.Error
	}
	return text
}

func printMembers(out io.Writer, view admin.ClusterView) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "NAME\tSTATE\tCLIENTS\tADDRESS\tROLES\tSUB-DOMAIN\tPROPERTIES\tVERSION\tID") // Flush reports its error
	row := func(m admin.ClusterMember, state, clients string) {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", printable(m.Name), state, clients,
			printable(m.Addresses["channels"]), printable(strings.Join(m.Roles, ",")),
			printable(orDash(m.SubDomain)), printable(orDash(describeProperties(m.Properties))),
			printable(orDash(m.Version)), m.ID)
	}
	byName := func(a, b admin.ClusterMember) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	}
	for _, m := range slices.SortedFunc(slices.Values(view.Members), byName) {
		row(m, m.State, strconv.Itoa(m.Connections))
	}
	for _, m := range slices.SortedFunc(slices.Values(view.Missing), byName) {
		row(m, "missing", "-")
	}
	return table.Flush()
}

// describeProperties returns key=value, sorted.
func describeProperties(properties map[string]string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(properties)) {
		parts = append(parts, key+"="+properties[key])
	}
	return strings.Join(parts, ",")
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// nodeName returns the name of a node, or its id where the view does not know it.
func nodeName(view admin.ClusterView, id string) string {
	for _, m := range slices.Concat(view.Members, view.Missing) {
		if m.ID == id {
			return m.Name
		}
	}
	return id
}

// describeNodes counts the nodes by state.
func describeNodes(view admin.ClusterView) string {
	count := map[string]int{"missing": len(view.Missing)}
	for _, m := range view.Members {
		count[m.State]++
	}
	parts := []string{}
	for _, state := range []string{"ready", "starting", "draining", "missing"} {
		if count[state] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[state], state))
		}
	}
	return strings.Join(parts, ", ")
}

// describeEngine says whether the cluster can store, and what is wrong.
func describeEngine(view admin.ClusterView) string {
	engine := view.Engine
	parts := []string{"healthy"}
	if !engine.Healthy {
		parts[0] = "not healthy: " + engine.Error
	}
	if !engine.Store {
		return parts[0] + ", no store on this node"
	}
	switch {
	case engine.Leader != "":
		parts = append(parts, "led by "+nodeName(view, engine.Leader))
	case engine.Healthy:
		parts = append(parts, "no leader")
	} // otherwise the error says so
	parts = append(parts, fmt.Sprintf("%d with a store", engine.Size))
	for _, peer := range engine.Peers {
		if peer.Offline {
			parts = append(parts, nodeName(view, peer.ID)+" offline")
		}
	}
	if len(engine.Lagging) > 0 {
		parts = append(parts, fmt.Sprintf("%d streams behind", len(engine.Lagging)))
	}
	return strings.Join(parts, ", ")
}
