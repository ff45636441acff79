package servers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/parleyio/parley/test/process"
)

// MariaDB is a server of Debian's package mariadb-server. It accepts connections with and without
// TLS, and keeps what it was told from one start to the next.
type MariaDB struct {
	Port     int
	User     string // may do everything
	Password string
	Database string // is empty at first
	CAFile   string // of the authority that signed the server's certificate

	t       testing.TB
	dir     string
	args    []string
	process *process.Process
}

// NeedMariaDB skips a test where the server is not installed, or has it fail; see missing.
func NeedMariaDB(t testing.TB) {
	t.Helper()
	if _, err := mariaDBProgram(); err != nil {
		missing(t, "needs MariaDB: apt-get install mariadb-server")
	}
}

// mariaDBProgram is where the server is, which is often in no directory of PATH.
func mariaDBProgram() (string, error) {
	if _, err := exec.LookPath("mariadb-install-db"); err != nil {
		return "", err
	}
	if path, err := exec.LookPath("mariadbd"); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/mariadbd")
}

// StartMariaDB starts a new server and returns when it serves.
func StartMariaDB(t testing.TB) *MariaDB {
	t.Helper()
	program, err := mariaDBProgram()
	if err != nil {
		t.Fatalf("start MariaDB: %v", err)
	}
	s := &MariaDB{
		Port: process.FreePorts(t, 1), User: "parley", Password: "db-pass/word@1", Database: "parley", t: t,
	}
	if s.dir, err = os.MkdirTemp("", "mariadb-test-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	data := filepath.Join(s.dir, "data")
	certificates := certificatesIn(t, s.dir)
	s.CAFile = certificates.CA
	options := []string{"--no-defaults", "--datadir=" + data}
	if os.Getuid() == 0 {
		options = append(options, "--user=root")
	}
	install := exec.Command("mariadb-install-db", append(options, "--skip-test-db", "--auth-root-authentication-method=normal")...)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("mariadb-install-db: %v\n%s", err, out)
	}
	start := filepath.Join(s.dir, "start.sql")
	text := fmt.Sprintf("CREATE DATABASE IF NOT EXISTS %s;\nGRANT ALL ON *.* TO '%s'@'%%' IDENTIFIED BY '%s' WITH GRANT OPTION;\n",
		s.Database, s.User, s.Password)
	if err := os.WriteFile(start, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.args = append([]string{program}, append(options,
		"--port="+strconv.Itoa(s.Port), "--bind-address=127.0.0.1", "--socket="+filepath.Join(s.dir, "socket"),
		"--pid-file="+filepath.Join(s.dir, "pid"), "--init-file="+start, "--skip-name-resolve",
		"--ssl-ca="+certificates.CA, "--ssl-cert="+certificates.Cert, "--ssl-key="+certificates.Key,
		"--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=2")...)
	s.Start()
	return s
}

// Start starts the server again, after Kill or Stop, and returns when it serves.
func (s *MariaDB) Start() {
	s.t.Helper()
	s.process = process.Start(s.t, process.Command{Args: s.args, Dir: s.dir})
	process.Eventually(s.t, "MariaDB serves", func() bool {
		if !s.process.Running() {
			s.t.Fatalf("MariaDB ended:\n%s", s.process.Output())
		}
		return strings.Contains(s.process.Output(), "ready for connections")
	})
}

// Kill ends the server as a crash does.
func (s *MariaDB) Kill() { s.process.Kill() }

// Stop ends the server in order.
func (s *MariaDB) Stop() { s.process.Terminate() }

// Pause stops the server where it stands: it takes connections and answers nothing.
func (s *MariaDB) Pause() { s.process.Pause() }

// Resume lets it go on.
func (s *MariaDB) Resume() { s.process.Resume() }

// URL is the address of a database of the server.
func (s *MariaDB) URL(database string) string {
	return databaseURL("mysql", s.User, s.Password, s.Port, database)
}
