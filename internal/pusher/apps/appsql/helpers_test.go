package appsql

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/test/process"
	"github.com/parleyio/parley/test/servers"
)

// The servers that all tests share, made when the first one needs them.
var (
	tests    servers.Package
	mariaDB  = sync.OnceValue(func() *servers.MariaDB { return servers.StartMariaDB(&tests) })
	postgres = sync.OnceValue(func() *servers.Postgres { return servers.StartPostgres(&tests) })
)

func TestMain(m *testing.M) { os.Exit(tests.Run(m)) }

// database is one of the servers, as the tests use it.
type database struct {
	driver  string
	options Options // without a table
	kill    func()
	start   func()
}

// onEach runs a test on a database of each kind that is installed.
func onEach(t *testing.T, test func(*testing.T, database)) {
	t.Run("MariaDB", func(t *testing.T) {
		servers.NeedMariaDB(t)
		test(t, onMariaDB(mariaDB()))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		servers.NeedPostgres(t)
		test(t, onPostgres(postgres()))
	})
}

func onMariaDB(s *servers.MariaDB) database {
	return database{MySQL, Options{
		Driver: MySQL, Host: "127.0.0.1", Port: s.Port, User: s.User, Password: s.Password, Database: s.Database,
		CAFile: s.CAFile, PoolMin: 2, PoolMax: 5,
	}, s.Kill, s.Start}
}

func onPostgres(s *servers.Postgres) database {
	return database{Postgres, Options{
		Driver: Postgres, Host: "127.0.0.1", Port: s.Port, User: s.User, Password: s.Password, Database: s.Database,
		CAFile: s.CAFile, PoolMin: 2, PoolMax: 5,
	}, s.Kill, s.Start}
}

// made counts tables, so that each test has its own.
var made atomic.Int64

func tableName() string { return fmt.Sprint("apps_", made.Add(1)) }

// table opens the table with that name, which need not exist.
func (d database) table(t *testing.T, name string) *Table {
	t.Helper()
	o := d.options
	o.Table = name
	return open(t, o)
}

func open(t *testing.T, o Options) *Table {
	t.Helper()
	table, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	return table
}

// newTable returns a table of Parley's own.
func (d database) newTable(t *testing.T) *Table {
	t.Helper()
	table := d.table(t, tableName())
	if _, err := table.Migrate(t.Context(), false, false); err != nil {
		t.Fatal(err)
	}
	return table
}

// tableOf makes a table by a statement in which TABLE_ stands for its name.
func (d database) tableOf(t *testing.T, statement string) *Table {
	t.Helper()
	table := d.table(t, tableName())
	table.exec(t, statement)
	return table
}

// exec executes a statement in which TABLE_ stands for the name of the table.
func (t *Table) exec(test *testing.T, statement string, args ...any) {
	test.Helper()
	if _, err := t.db.ExecContext(test.Context(), strings.ReplaceAll(statement, "TABLE_", t.quote(t.name)), args...); err != nil {
		test.Fatalf("%s: %v", statement, err)
	}
}

// texts returns the columns of the row with that id as texts, null for NULL.
func (t *Table) texts(test *testing.T, id string, columns ...string) string {
	test.Helper()
	var list []string
	for _, name := range columns {
		cast := "CAST(" + t.quote(name) + " AS CHAR)"
		if _, ok := t.dialect.(postgresDialect); ok {
			cast = "CAST(" + t.quote(name) + " AS text)"
		}
		var text *string
		query := "SELECT " + cast + " FROM " + t.quote(t.name) + " WHERE id = " + t.parameter(1)
		if err := t.db.QueryRowContext(test.Context(), query, id).Scan(&text); err != nil {
			test.Fatal(err)
		}
		if text == nil {
			null := "null"
			text = &null
		}
		list = append(list, *text)
	}
	return strings.Join(list, " | ")
}

// node is a registry over a table, as a node has it.
type node struct {
	*apps.Registry
	cached *apps.Cached
	log    *buffer
}

// buffer is a log that is written and read at the same time.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// startNodes starts registries over tables that tell each other of changes.
func startNodes(t *testing.T, ttl time.Duration, static []*apps.App, tables ...*Table) (list []*node) {
	t.Helper()
	provider := memory.New()
	t.Cleanup(func() { _ = provider.Close() })
	for _, table := range tables {
		signal, err := provider.Join(memory.Options{}).Signal(t.Context(), apps.SignalName)
		if err != nil {
			t.Fatal(err)
		}
		n := &node{log: &buffer{}}
		log := slog.New(slog.NewTextHandler(n.log, nil))
		n.cached = apps.NewCached(table, signal, apps.CacheOptions{
			TTL: ttl, Capacity: 20_000, Logger: log, Count: func(string) {}, Dropped: func(string) {},
		})
		n.Registry = apps.New(static, n.cached, log)
		ctx, stop := context.WithCancel(context.Background())
		t.Cleanup(func() { stop(); n.Wait() })
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
		list = append(list, n)
	}
	return list
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// refused fails if an error is not the sentinel with all parts in its text.
func refused(t *testing.T, what string, err, sentinel error, parts ...string) {
	t.Helper()
	if !isError(err, sentinel) {
		t.Errorf("%s: error is %v, want %v", what, err, sentinel)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: error %q does not have %q", what, err, part)
		}
	}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	process.Eventually(t, what, done)
}
