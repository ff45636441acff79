package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/pusher/admin"
)

// adminTimeout bounds one call of the admin API.
const adminTimeout = 40 * time.Second

const adminHelp = `Which node: the one that --server names, or the one on this machine that the
configuration describes (--config, environment, flags, defaults).
Which token: --token, else admin.token of the configuration (environment
PARLEY_ADMIN_TOKEN), else the one that the node keeps in admin.token in its data
directory, which is sent to this machine only.`

// adminFlags are the flags of every command that calls a node's admin API.
type adminFlags struct {
	server string
	token  string
	json   bool
}

// addAdminFlags adds them to a command for all commands below it.
func addAdminFlags(cmd *cobra.Command) *adminFlags {
	f := &adminFlags{}
	flags := cmd.PersistentFlags()
	flags.StringP(configFlag, "c", "", "TOML file with the node's options (default $PARLEY_CONFIG)")
	options := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.RegisterFlags(options)
	for _, key := range []string{"node.data_dir", "channels.port", "port_offset"} {
		flags.AddFlag(options.Lookup(key))
	}
	flags.StringVar(&f.server, "server", "", "address of the node, such as 127.0.0.1:6001 or https://node2.example.com")
	flags.StringVar(&f.token, "token", "", "token of the admin API")
	flags.BoolVar(&f.json, "json", false, "print JSON")
	return f
}

// run returns a RunE that hands do a client for the node that the flags name.
func (f *adminFlags) run(
	do func(cmd *cobra.Command, client *admin.Client, args []string) error,
) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cmd.SilenceUsage = true // the flags are understood by now
		client, err := f.client(cmd)
		if err != nil {
			return err
		}
		return explainCall(do(cmd, client, args), client.Server)
	}
}

// explainCall adds to an error of a call what can be done about it.
func explainCall(err error, server string) error {
	var unreachable *admin.UnreachableError
	var failure *admin.Failure
	switch {
	case errors.As(err, &unreachable):
		return fmt.Errorf("%w\nIs a node running there? \"parley serve\" starts one; "+
			"--server or --config names another", err)
	case errors.As(err, &failure) && failure.Code == admin.CodeUnauthorized:
		return fmt.Errorf("%s refused the admin token; give the right one with --token "+
			"or PARLEY_ADMIN_TOKEN", server)
	}
	return err
}

// client returns a client for the node that the flags name.
func (f *adminFlags) client(cmd *cobra.Command) (*admin.Client, error) {
	if f.server != "" && !strings.Contains(f.server, "://") {
		f.server = "http://" + f.server
	}
	client := &admin.Client{Server: f.server, Token: f.token, HTTP: &http.Client{Timeout: adminTimeout}}
	if client.Server != "" && client.Token != "" {
		return client, checkServer(client.Server) // there is nothing to ask the configuration for
	}
	c, err := loadConfig(cmd)
	if err != nil {
		return nil, err
	}
	if client.Server == "" {
		if client.Server, err = localServer(c); err != nil {
			return nil, err
		}
		if c.TLS.CertFile != "" {
			if client.HTTP.Transport, err = trustCertificate(c.TLS); err != nil {
				return nil, err
			}
		}
	} else if err := checkServer(client.Server); err != nil {
		return nil, err
	}
	if client.Token == "" {
		client.Token, err = localToken(c, f.server)
	}
	return client, err
}

func checkServer(server string) error {
	u, err := url.Parse(server)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return fmt.Errorf("--server %q must look like http://127.0.0.1:6001", server)
	}
	return nil
}

// localServer returns the address of the node on this machine that c describes.
func localServer(c config.Config) (string, error) {
	port := c.Port(c.Channels.Port)
	if port == 0 {
		return "", errors.New("channels.port is 0, any free port: name the node with --server")
	}
	host := c.Channels.Host
	if address, err := netip.ParseAddr(host); host == "" || err == nil && address.IsUnspecified() {
		host = "127.0.0.1"
		if err == nil && address.Is6() {
			host = "::1"
		}
	}
	scheme := "http"
	if c.TLS.CertFile != "" {
		scheme = "https"
	}
	prefix := strings.TrimSuffix(c.Channels.PathPrefix, "/")
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(port)) + prefix, nil
}

// localToken returns the token of the node on this machine. The one of the data directory is
// not for a server elsewhere, which would learn it.
func localToken(c config.Config, server string) (string, error) {
	if c.Admin.Token != "" {
		return c.Admin.Token, nil
	}
	if server != "" && !isLoopback(server) {
		return "", fmt.Errorf("%s needs a token: --token or PARLEY_ADMIN_TOKEN", server)
	}
	token, err := admin.ReadToken(c.Node.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w\nA node writes it when it first starts, in its node.data_dir. "+
			"Run this command in the same directory or with the same --config, "+
			"or give --token or PARLEY_ADMIN_TOKEN", err)
	}
	return token, err
}

func isLoopback(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	address, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && address.IsLoopback()
}

// trustCertificate returns a transport that accepts the certificate of the configuration and
// no other. Its names are not those by which a command on the same machine calls the node.
func trustCertificate(c config.TLS) (http.RoundTripper, error) {
	text, err := os.ReadFile(c.CertFile)
	if err != nil {
		return nil, fmt.Errorf("read the node's certificate: %w", err)
	}
	leaf, _ := pem.Decode(text) // the first of the chain is the node's own
	if leaf == nil {
		return nil, fmt.Errorf("read the node's certificate: %s is no PEM file", c.CertFile)
	}
	return &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, // VerifyConnection is stricter
		VerifyConnection: func(state tls.ConnectionState) error {
			if !bytes.Equal(state.PeerCertificates[0].Raw, leaf.Bytes) {
				return fmt.Errorf("the node has another certificate than the one in %s", c.CertFile)
			}
			return nil
		},
	}}, nil
}

// printDone says what was done with which thing.
func (f *adminFlags) printDone(out io.Writer, what, id string) error {
	if f.json {
		return printJSON(out, map[string]string{"id": id})
	}
	_, err := fmt.Fprintf(out, "%s %s\n", what, printable(id))
	return err
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// printable replaces what would move a terminal's cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
