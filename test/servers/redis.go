package servers

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/test/process"
)

// Redis is a redis-server, or a Sentinel, that was started. All methods may be called at any
// time, by one goroutine at a time.
type Redis struct {
	*process.Process
	Port int

	t    testing.TB
	args []string
	host string
	dir  string
	tls  *Certificates // nil without TLS
	auth string        // the password, empty for none
}

// RedisConfig says how a redis-server is started. The zero value is one that keeps nothing.
type RedisConfig struct {
	Host     string // the address that it listens on; empty is 127.0.0.1
	Password string
	// AppendOnly has each write on disk before it is answered; a server that was killed and is
	// started again has all that was answered.
	AppendOnly bool
	// TLS has the server take TLS alone, and ask clients for a certificate.
	TLS *Certificates
	// Failover has the others replace a master that is gone for a second. A test that kills none is not
	// to lose one that the machine was too busy to run: then it takes 30 s.
	Failover bool
	// Settings are further lines of its configuration.
	Settings []string
}

// StartRedis starts a redis-server. It serves when StartRedis returns.
func StartRedis(t testing.TB, config RedisConfig) *Redis {
	t.Helper()
	r := newRedis(t, process.FreePorts(t, 1), config)
	r.start()
	r.AwaitReady()
	return r
}

// goneAfter is after how many milliseconds without an answer a master is replaced.
func (c RedisConfig) goneAfter() string {
	if c.Failover {
		return "1000"
	}
	return "30000"
}

// redisServer is the program, which the test needs.
func redisServer(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		missing(t, "there is no redis-server; on Debian: apt-get install redis-server")
	}
	return path
}

// newRedis prepares a server that keeps its files in a directory of its own.
func newRedis(t testing.TB, port int, config RedisConfig) *Redis {
	t.Helper()
	r := &Redis{Port: port, host: cmp.Or(config.Host, "127.0.0.1"), t: t, dir: t.TempDir(), tls: config.TLS, auth: config.Password}
	r.args = []string{redisServer(t), "--bind", r.host, "--protected-mode", "no", "--dir", r.dir, "--save", "",
		"--repl-diskless-sync-delay", "0", "--loglevel", "notice", "--enable-debug-command", "yes"}
	r.add(r.listening()...)
	if config.Password != "" {
		r.add("requirepass "+config.Password, "masterauth "+config.Password)
	}
	if config.AppendOnly {
		r.add("appendonly yes", "appendfsync always")
	}
	r.add(config.Settings...)
	return r
}

// listening says on which port it listens, and how others are spoken to.
func (r *Redis) listening() []string {
	port := strconv.Itoa(r.Port)
	if r.tls == nil {
		return []string{"port " + port}
	}
	return []string{"port 0", "tls-port " + port, "tls-auth-clients yes", "tls-replication yes", "tls-cluster yes",
		"tls-ca-cert-file " + r.tls.CA, "tls-cert-file " + r.tls.Cert, "tls-key-file " + r.tls.Key}
}

// add adds lines of the configuration to the command line.
func (r *Redis) add(settings ...string) {
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, " ")
		r.args = append(r.args, "--"+name)
		r.args = append(r.args, strings.Fields(value)...)
	}
}

func (r *Redis) start() {
	r.t.Helper()
	r.Process = process.Start(r.t, process.Command{Args: r.args, Dir: r.dir})
}

// Address is where it listens, as host:port.
func (r *Redis) Address() string { return net.JoinHostPort(r.host, strconv.Itoa(r.Port)) }

// TLS is what it was started with, nil for none.
func (r *Redis) TLS() *Certificates { return r.tls }

// Restart starts a server that was killed, with what it has on disk, and returns when it
// serves.
func (r *Redis) Restart() {
	r.t.Helper()
	r.Kill()
	r.start()
	r.AwaitReady()
}

// Start starts a server that was killed, without waiting until it serves.
func (r *Redis) Start() {
	r.t.Helper()
	r.Kill()
	r.start()
}

// AwaitReady waits until it has loaded its data and answers.
func (r *Redis) AwaitReady() {
	r.t.Helper()
	process.Eventually(r.t, "redis-server on port "+strconv.Itoa(r.Port)+" answers", func() bool {
		if !r.Running() {
			r.t.Fatalf("redis-server ended:\n%s", r.Output())
		}
		answer, err := r.Try("PING")
		return err == nil && answer == "PONG"
	})
}

// Do sends a command and returns the answer as text; the elements of an array stand on lines of
// their own. An error ends the test.
func (r *Redis) Do(command ...string) string {
	r.t.Helper()
	answer, err := r.try(30*time.Second, command...) // only a server that hangs takes as long
	if err != nil {
		r.t.Fatalf("%s to the redis-server on port %d: %v", strings.Join(command, " "), r.Port, err)
	}
	return answer
}

// Try is Do that returns the error, and soon, for those who try again.
func (r *Redis) Try(command ...string) (string, error) {
	return r.try(5*time.Second, command...)
}

func (r *Redis) try(limit time.Duration, command ...string) (string, error) {
	dialer := &net.Dialer{Timeout: limit}
	conn, err := dialer.Dial("tcp", r.Address())
	if err != nil {
		return "", err
	}
	if r.tls != nil {
		settings := r.tls.Client(r.t)
		settings.ServerName = "localhost"
		conn = tls.Client(conn, settings)
	}
	defer func() { _ = conn.Close() }() // everything was answered
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	reader := bufio.NewReader(conn)
	if r.auth != "" {
		if _, err := callRedis(conn, reader, "AUTH", r.auth); err != nil {
			return "", err
		}
	}
	return callRedis(conn, reader, command...)
}

// callRedis sends a command in the protocol of Redis (RESP) and reads the answer.
func callRedis(conn net.Conn, reader *bufio.Reader, command ...string) (string, error) {
	var request bytes.Buffer
	fmt.Fprintf(&request, "*%d\r\n", len(command))
	for _, part := range command {
		fmt.Fprintf(&request, "$%d\r\n%s\r\n", len(part), part)
	}
	if _, err := conn.Write(request.Bytes()); err != nil {
		return "", err
	}
	return readRedisAnswer(reader)
}

func readRedisAnswer(reader *bufio.Reader) (string, error) {
	line, err := reader.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", fmt.Errorf("an empty line for an answer")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", fmt.Errorf("%s", rest)
	}
	size, err := strconv.Atoi(rest)
	if err != nil || size < 0 {
		return "", err
	}
	if kind == '$' {
		var text strings.Builder
		for range size + 2 {
			b, err := reader.ReadByte()
			if err != nil {
				return "", err
			}
			text.WriteByte(b)
		}
		return text.String()[:size], nil
	}
	var parts []string
	for range size {
		part, err := readRedisAnswer(reader)
		if err != nil {
			return "", err
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "\n"), nil
}

// Info is a field of INFO, "" if there is none.
func (r *Redis) Info(field string) string {
	text, err := r.Try("INFO", "everything")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(text) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), ":"); found && name == field {
			return value
		}
	}
	return ""
}
