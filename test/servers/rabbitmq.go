package servers

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/test/process"
)

// rabbitScripts is where Debian's package has RabbitMQ's own scripts. Those in the path run the
// system's server, as its user.
const rabbitScripts = "/usr/lib/rabbitmq/bin"

// RabbitMQ is a node of its own, with nothing of the system's server: data, log, cookie, name
// and ports are those of the test.
type RabbitMQ struct {
	// Address is host:port for amqp://.
	Address string
	// TLSAddress is host:port for amqps://, or empty.
	TLSAddress string
	// CertFile is that of the options.
	CertFile string

	t       testing.TB
	dir     string
	node    string // its name among Erlang's nodes
	env     []string
	process *process.Process
}

// RabbitMQOptions say how a server is to be.
type RabbitMQOptions struct {
	// CertFile and KeyFile name a certificate with which it speaks TLS on another port; empty is
	// without TLS.
	CertFile, KeyFile string
}

// StartRabbitMQ starts a server, which ends with the test. The test is skipped, or fails,
// when the server is not installed; see missing.
func StartRabbitMQ(t testing.TB, options RabbitMQOptions) *RabbitMQ {
	t.Helper()
	if _, err := os.Stat(filepath.Join(rabbitScripts, "rabbitmq-server")); err != nil {
		missing(t, "RabbitMQ is not installed: apt-get install rabbitmq-server")
	}
	const ports = 4
	first := process.FreePorts(t, ports)
	port, secure, distribution, names := first, first+1, first+2, first+3
	r := &RabbitMQ{
		t: t, dir: t.TempDir(), node: "parley" + strconv.Itoa(port) + "@localhost",
		Address: process.Address(port), CertFile: options.CertFile,
	}
	if options.CertFile != "" {
		r.TLSAddress = process.Address(secure)
	}
	config := filepath.Join(r.dir, "rabbitmq.config")
	r.write(config, rabbitConfig(port, secure, options))
	r.write(filepath.Join(r.dir, "plugins"), "[].\n")
	r.env = []string{
		"HOME=" + r.dir, // where the cookie is
		"ERL_EPMD_PORT=" + strconv.Itoa(names),
		"ERL_CRASH_DUMP_SECONDS=0",
		"RABBITMQ_NODENAME=" + r.node,
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(distribution),
		"RABBITMQ_CONF_ENV_FILE=" + os.DevNull,
		"RABBITMQ_CONFIG_FILE=" + config,
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(r.dir, "plugins"),
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(r.dir, "data"),
		"RABBITMQ_LOG_BASE=" + filepath.Join(r.dir, "log"),
		"RABBITMQ_LOGS=-", // to the standard output
		// Lets the script become the server, instead of being its parent: what kills or pauses the
		// process then does that to the server.
		"RABBITMQ_ALLOW_INPUT=true",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-noinput",
	}
	// The server would start one that outlives it.
	process.Start(t, process.Command{
		Args: []string{"epmd", "-port", strconv.Itoa(names), "-address", "127.0.0.1"},
	})
	process.Eventually(t, "the name server of Erlang answers", func() bool { return answers(process.Address(names)) })
	r.Start(t)
	return r
}

// answers says whether something takes connections.
func answers(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close() // it was only to see
	return true
}

// rabbitConfig is a configuration in Erlang's own notation, which needs no translation.
func rabbitConfig(port, secure int, options RabbitMQOptions) string {
	listener := func(port int) string { return fmt.Sprintf(`[{"127.0.0.1",%d}]`, port) }
	var b bytes.Buffer
	fmt.Fprintf(&b, "[{rabbit,[{tcp_listeners,%s},{disk_free_limit,1000000}", listener(port))
	if options.CertFile != "" {
		fmt.Fprintf(&b, ",{ssl_listeners,%s},{ssl_options,[{certfile,%q},{keyfile,%q}]}",
			listener(secure), options.CertFile, options.KeyFile)
	}
	b.WriteString("]},{ra,[{wal_max_size_bytes,67108864}]}].\n")
	return b.String()
}

func (r *RabbitMQ) write(file, text string) {
	r.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// Start starts the server again after Kill, and returns when it takes connections. It ends
// with the test that started it first.
func (r *RabbitMQ) Start(t testing.TB) {
	t.Helper()
	r.process = process.Start(r.t, process.Command{
		Args: []string{filepath.Join(rabbitScripts, "rabbitmq-server")}, Env: r.env, Dir: r.dir,
	})
	process.Eventually(t, "RabbitMQ takes connections", func() bool {
		if !r.process.Running() {
			t.Fatalf("RabbitMQ has ended:\n%s", r.process.Output())
		}
		return answers(r.Address)
	})
}

// Kill ends the server as a crash does.
func (r *RabbitMQ) Kill() { r.process.Kill() }

// Pause stops the server where it stands, until Resume.
func (r *RabbitMQ) Pause() { r.t.Helper(); r.process.Pause() }

// Resume lets it go on.
func (r *RabbitMQ) Resume() { r.t.Helper(); r.process.Resume() }

// URL is that of a virtual host, with the user that a new server has.
func (r *RabbitMQ) URL(vhost string) string { return rabbitURL("amqp", r.Address, vhost) }

// TLSURL is URL for TLS.
func (r *RabbitMQ) TLSURL(vhost string) string { return rabbitURL("amqps", r.TLSAddress, vhost) }

func rabbitURL(scheme, address, vhost string) string {
	return (&url.URL{
		Scheme: scheme, User: url.UserPassword("guest", "guest"), Host: address,
		Path: "/" + vhost, RawPath: "/" + url.PathEscape(vhost),
	}).String()
}

// Eval has the server evaluate expressions of Erlang, as "rabbitmqctl eval" does, which takes a
// second longer, and returns what the last one gives.
func (r *RabbitMQ) Eval(t testing.TB, expressions string) string {
	t.Helper()
	cookie, err := os.ReadFile(filepath.Join(r.dir, ".erlang.cookie"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("erl_call", "-sname", r.node, "-c", string(cookie), "-r", "-timeout", "30", "-e")
	cmd.Env, cmd.Dir = append(process.Environment(), r.env...), r.dir
	cmd.Stdin = strings.NewReader(strings.Join(strings.Fields(expressions), " ") + "\n") // it reads a line
	out, err := cmd.CombinedOutput()
	text, ok := strings.CutPrefix(string(out), "{ok, ")
	if err != nil || !ok {
		t.Fatalf("eval %s: %v\n%s", expressions, err, out)
	}
	return strings.TrimSuffix(text, "}")
}
