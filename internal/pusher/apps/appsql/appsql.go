// Package appsql keeps apps in a table of MySQL, MariaDB or PostgreSQL, one a row. It reads the
// tables of Sockudo ("applications") and soketi ("apps") as they are: which column holds what is
// found by the columns' names, so a table may have more and fewer, and what Parley does not know
// stays untouched.
//
// It may import apps and the databases' drivers. It must never import the fabric or the
// configuration: caching and telling other nodes is the business of apps.Cached.
package appsql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// The drivers that Options.Driver names.
const (
	MySQL    = "mysql" // and MariaDB
	Postgres = "postgres"
)

// Values of Options.TLS.
const (
	TLSOff        = "off"
	TLSOn         = "on"         // the server's certificate must be valid
	TLSUnverified = "unverified" // any certificate will do
)

// Options say where the table is and how many connections to it there may be.
type Options struct {
	Driver string
	// URL is an address, such as mysql://user:password@host:3306/database, or what the driver
	// itself understands. With it, of the fields down to Database only User and Password count,
	// where the URL has none.
	URL      string
	Host     string
	Port     int // 0 for the database's own
	User     string
	Password string
	Database string
	Table    string // may have a schema in front, "schema.table"

	TLS      string // with a URL, TLSOff leaves it to that
	CAFile   string // of the authority that signs the server's certificate; empty for the system's
	CertFile string // of the client, if the server wants one
	KeyFile  string

	PoolMin  int           // connections that stay open while nothing uses them
	PoolMax  int           // connections at most, 0 for any number
	Lifetime time.Duration // of a connection, 0 for ever
}

// ErrNoTable says that the database has no such table.
var ErrNoTable = errors.New("the table does not exist; \"parley app migrate\" creates it")

// ErrLogin says that the database refuses the user or the password.
var ErrLogin = errors.New("the database refuses the login")

// Table is a table of apps. Its methods may be called concurrently.
type Table struct {
	db   *sql.DB
	name string
	dialect

	mu     sync.Mutex // guards the following fields
	layout *layout
	looked time.Time // when the layout was read
}

var _ apps.Table = (*Table)(nil)

// Open returns the table. It does not connect; the first call of another method does.
func Open(o Options) (*Table, error) {
	t := &Table{name: o.Table}
	var err error
	switch o.Driver {
	case MySQL:
		t.dialect = mysqlDialect{}
		t.db, err = openMySQL(o)
	case Postgres:
		t.dialect = postgresDialect{}
		t.db, err = openPostgres(o)
	default:
		err = fmt.Errorf("there is no driver %q", o.Driver)
	}
	if err != nil {
		return nil, fmt.Errorf("open the database of apps: %w", err)
	}
	t.db.SetMaxOpenConns(o.PoolMax)
	t.db.SetMaxIdleConns(o.PoolMin)
	t.db.SetConnMaxLifetime(o.Lifetime)
	return t, nil
}

// Close closes the connections.
func (t *Table) Close() error {
	if err := t.db.Close(); err != nil {
		return fmt.Errorf("close the database of apps: %w", err)
	}
	return nil
}

// Ping tells whether the database answers and has the table; the error wraps ErrNoTable if it has not,
// and ErrLogin if it lets nobody in.
func (t *Table) Ping(ctx context.Context) error {
	_, err := t.describe(ctx)
	return err
}

// layoutAge is how long the columns of the table are believed to be the same.
const layoutAge = time.Minute

// columns returns which columns the table has.
func (t *Table) columns(ctx context.Context) (*layout, error) {
	t.mu.Lock()
	known, looked := t.layout, t.looked
	t.mu.Unlock()
	if known != nil && time.Since(looked) < layoutAge {
		return known, nil
	}
	return t.describe(ctx)
}

// describe reads which columns the table has.
func (t *Table) describe(ctx context.Context) (*layout, error) {
	var found []column
	err := t.twice(ctx, func() (err error) {
		found, err = t.dialect.describe(ctx, t.db, t.name)
		return err
	})
	if t.dialect.loginRefused(err) {
		err = fmt.Errorf("%w: %w", ErrLogin, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the columns of table %s: %w", t.name, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("table %s: %w", t.name, ErrNoTable)
	}
	l, err := newLayout(found)
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", t.name, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.layout, t.looked = l, time.Now()
	return l, nil
}

// forgetColumns has the columns read again: one is not there any more.
func (t *Table) forgetColumns() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.layout = nil
}

// twice does once more what failed because a connection was lost: the pool may have others that
// are from before a restart of the database as well, but hands out each once.
func (t *Table) twice(ctx context.Context, do func() error) error {
	err := do()
	for range maxStale {
		if err == nil || ctx.Err() != nil || !t.connectionLost(err) {
			break
		}
		err = do()
	}
	return err
}

// maxStale is how many lost connections one call takes out of the pool.
const maxStale = 3
