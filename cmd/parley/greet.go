package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/node"
)

// greet tells a person what runs and how to try it. configFile is the file that the node
// was started with, empty for none.
func greet(out io.Writer, n *node.Node, c config.Config, configFile string) {
	host, port, err := net.SplitHostPort(n.Address("channels"))
	if err != nil {
		return
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	base := n.Scheme() + "://" + net.JoinHostPort(host, port) + strings.TrimSuffix(c.Channels.PathPrefix, "/")
	flags := sameNode(c, configFile, base)
	fmt.Fprintf(out, "\nParley serves the Pusher protocol on %s\n", base)
	if n.FirstApp != nil {
		fmt.Fprintf(out, `
There was no app, so one was made. Its secret is shown this once; the node tells it again with
  %s app show%s --secret %s

  app id  %s
  key     %s
  secret  %s
`, os.Args[0], flags, n.FirstApp.ID, n.FirstApp.ID, n.FirstApp.Key, shownOnce(n.FirstApp.Secret))
	}
	if n.NewIMToken != "" {
		fmt.Fprintf(out, "\nThe token that the messaging API asks for in the header token is in %s\n", n.NewIMToken)
	}
	page := base + "/"
	if keys := n.Keys(); len(keys) == 1 {
		page += "?key=" + keys[0]
	}
	fmt.Fprintf(out, `
Open        %s
Then run    %s publish%s my-channel my-event '{"hello":"world"}'

`, page, os.Args[0], flags)
}

// shownOnce returns the secret, unless the output goes into the system's journal, where it
// would stay.
func shownOnce(secret string) string {
	if os.Getenv("JOURNAL_STREAM") != "" {
		return "(not shown: the output goes into the journal)"
	}
	return secret
}

// sameNode returns the flags with which another command finds this node.
func sameNode(c config.Config, configFile, base string) string {
	if configFile != "" && c.Channels.Port != 0 {
		return " -c " + configFile
	}
	flags := ""
	if defaults := config.Default(); c.Channels.PathPrefix != defaults.Channels.PathPrefix ||
		c.Channels.Port != defaults.Channels.Port || c.PortOffset != 0 || c.TLS.CertFile != "" {
		flags = " --server " + base
	}
	if c.Node.DataDir != config.Default().Node.DataDir {
		flags += " --node.data_dir " + c.Node.DataDir
	}
	return flags
}
