package servers

import (
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/parleyio/parley/test/process"
)

// Postgres is a server of Debian's package postgresql. It accepts connections with and without
// TLS, and keeps what it was told from one start to the next.
type Postgres struct {
	Port     int
	User     string // may do everything
	Password string
	Database string // has no tables of its own
	CAFile   string // of the authority that signed the server's certificate

	t       testing.TB
	dir     string
	args    []string
	process *process.Process
}

// NeedPostgres skips a test where the server is not installed, or has it fail; see missing.
func NeedPostgres(t testing.TB) {
	t.Helper()
	if postgresProgram("postgres") == "" || postgresProgram("initdb") == "" {
		missing(t, "needs PostgreSQL: apt-get install postgresql")
	}
	if os.Getuid() == 0 && postgresUser() == nil {
		missing(t, "needs the user postgres, because PostgreSQL refuses to be run by root")
	}
}

// postgresProgram is where a program of the server is: Debian keeps each version apart.
func postgresProgram(name string) string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name) // the pattern is fine
	if len(found) > 0 {
		slices.Sort(found)
		return found[len(found)-1]
	}
	path, _ := exec.LookPath(name)
	return path
}

// postgresUser is who runs the server when these tests are run by root.
func postgresUser() *user.User {
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil
	}
	return u
}

// asPostgres returns the arguments of a program so that it is not run by root. It still ends with
// the tests.
func asPostgres(args ...string) []string {
	if os.Getuid() != 0 {
		return args
	}
	u := postgresUser()
	return append([]string{"setpriv", "--reuid=" + u.Uid, "--regid=" + u.Gid, "--clear-groups", "--pdeathsig=KILL", "--"}, args...)
}

// StartPostgres starts a new server and returns when it serves.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	s := &Postgres{
		Port: process.FreePorts(t, 1), User: "parley", Password: "db-pass/word@1", Database: "postgres", t: t,
	}
	var err error
	if s.dir, err = os.MkdirTemp("", "postgres-test-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	certificates := certificatesIn(t, s.dir)
	s.CAFile = certificates.CA
	password := filepath.Join(s.dir, "password")
	if err := os.WriteFile(password, []byte(s.Password), 0o600); err != nil {
		t.Fatal(err)
	}
	s.own(s.dir, certificates.CA, certificates.Cert, certificates.Key, password)
	data := filepath.Join(s.dir, "data")
	args := asPostgres(postgresProgram("initdb"), "--pgdata="+data, "--username="+s.User, "--pwfile="+password,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
	install := exec.Command(args[0], args[1:]...)
	install.Dir = s.dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.args = asPostgres(postgresProgram("postgres"), "-D", data, "-p", strconv.Itoa(s.Port), "-k", s.dir,
		"-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=50",
		"-c", "ssl=on", "-c", "ssl_cert_file="+certificates.Cert, "-c", "ssl_key_file="+certificates.Key)
	s.Start()
	return s
}

// own gives files to who runs the server.
func (s *Postgres) own(names ...string) {
	s.t.Helper()
	if os.Getuid() != 0 {
		return
	}
	u := postgresUser()
	uid, _ := strconv.Atoi(u.Uid) // they are numbers on all systems that have setpriv
	gid, _ := strconv.Atoi(u.Gid)
	for _, name := range names {
		if err := os.Chown(name, uid, gid); err != nil {
			s.t.Fatal(err)
		}
	}
}

// Start starts the server again, after Kill or Stop, and returns when it serves. After a kill the
// processes of its connections may live on for a moment, which it does not like.
func (s *Postgres) Start() {
	s.t.Helper()
	s.process = process.Start(s.t, process.Command{Args: s.args, Dir: s.dir})
	process.Eventually(s.t, "PostgreSQL serves", func() bool {
		if !s.process.Running() {
			if !strings.Contains(s.process.Output(), "shared memory") {
				s.t.Fatalf("PostgreSQL ended:\n%s", s.process.Output())
			}
			s.process = process.Start(s.t, process.Command{Args: s.args, Dir: s.dir})
		}
		return strings.Contains(s.process.Output(), "ready to accept connections")
	})
}

// Kill ends the server as a crash does.
func (s *Postgres) Kill() { s.process.Kill() }

// Stop ends the server in order, and its connections with it.
func (s *Postgres) Stop() {
	s.process.Signal(syscall.SIGINT)
	s.process.Await()
}

// URL is the address of a database of the server.
func (s *Postgres) URL(database string) string {
	return databaseURL("postgres", s.User, s.Password, s.Port, database)
}

func databaseURL(scheme, user, password string, port int, database string) string {
	u := url.URL{Scheme: scheme, User: url.UserPassword(user, password), Host: process.Address(port), Path: "/" + database}
	return u.String()
}
