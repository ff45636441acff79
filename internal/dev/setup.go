package dev

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Ports of a node without an offset, and the distance between two nodes.
const (
	channelsPort = 6001
	clusterPort  = 11110
	portStep     = 100

	host  = "127.0.0.1"
	appID = "1000001"
)

// setup is what all nodes have in common.
type setup struct {
	dir    string
	offset int
	file   string // their configuration
	key    string // of the app
	secret string // of the app
	token  string // of the nodes' admin API
}

// prepare writes the configuration of all nodes into the data directory. Its secrets are
// derived from one that is kept there, so that the same directory gives the same app again.
func prepare(o Options) (setup, error) {
	dir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return setup{}, fmt.Errorf("data directory %s: %w", o.DataDir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return setup{}, fmt.Errorf("make the data directory: %w", err)
	}
	seed, err := loadSeed(filepath.Join(dir, "dev.secret"))
	if err != nil {
		return setup{}, err
	}
	derive := func(use string, size int) string {
		mac := hmac.New(sha256.New, seed)
		mac.Write([]byte(use))
		return hex.EncodeToString(mac.Sum(nil))[:size]
	}
	s := setup{
		dir: dir, offset: o.PortOffset, file: filepath.Join(dir, "parley.toml"),
		key: derive("app key", 20), secret: derive("app secret", 40), token: derive("admin token", 40),
	}
	var seeds []string
	for n := 1; n <= o.Nodes; n++ {
		seeds = append(seeds, strconv.Quote(s.at(clusterPort, n)))
	}
	text := fmt.Sprintf(`# Written by "parley dev" at each start.
port_offset = %d   # where the balancer is, for commands such as "parley publish"

[channels]
host = %q

[metrics]
host = %q

[admin]
token = %q

[cluster]
secret = %q
bind_host = %q
seeds = [%s]
bootstrap_expect = %d

[[apps]]
id = %q
name = "dev"
key = %q
secret = %q
enable_client_messages = true
enable_user_authentication = true
enable_watchlist_events = true
`, o.PortOffset, host, host, s.token, derive("cluster secret", 64), host,
		strings.Join(seeds, ", "), o.Nodes, appID, s.key, s.secret)
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		return setup{}, fmt.Errorf("write the configuration of the nodes: %w", err)
	}
	return s, nil
}

// loadSeed returns the secret that all others are derived from, making it if there is none.
func loadSeed(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err == nil && len(text) > 0 {
		return text, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the secret: %w", err)
	}
	text = []byte(rand.Text())
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, fmt.Errorf("keep the secret: %w", err)
	}
	return text, nil
}

// at returns an address of node n; 0 is the balancer.
func (s setup) at(port, n int) string {
	return net.JoinHostPort(host, strconv.Itoa(port+s.offset+n*portStep))
}

// address is where the balancer listens.
func (s setup) address() string { return s.at(channelsPort, 0) }

// public is the same as people write it.
func (s setup) public() string { return "localhost:" + strconv.Itoa(channelsPort+s.offset) }

func (s setup) nodeAddress(n int) string { return s.at(channelsPort, n) }

// nodeArgs are the arguments that start node n.
func (s setup) nodeArgs(n int) []string {
	name := fmt.Sprintf("node%d", n)
	return []string{
		"serve", "--config", s.file, "--node.name", name, "--node.data_dir", filepath.Join(s.dir, name),
		"--port_offset", strconv.Itoa(s.offset + n*portStep),
	}
}
