package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/apps/appsql"
)

// startApps makes the apps known.
func (n *Node) startApps(ctx, background context.Context) error {
	static := make([]*apps.App, 0, len(n.config.Apps))
	for _, app := range n.config.Apps {
		static = append(static, apps.FromConfig(app))
	}
	log := n.log.With("part", "apps")
	store, err := n.appStore(ctx, log)
	if err != nil {
		return err
	}
	n.apps = apps.New(static, store, log)
	if err := n.apps.Start(background); err != nil {
		return err
	}
	if n.config.AppStore.Driver == config.AppStoreFabric {
		return n.ensureApp(ctx)
	}
	if len(static) == 0 && n.config.AppStore.Driver == config.AppStoreMemory {
		log.Warn("there are no apps: app_store.driver is memory, and the configuration has no [[apps]]")
	}
	return nil
}

// ensureApp makes a first app if there is none. Nobody wants one in a database of their own.
func (n *Node) ensureApp(ctx context.Context) error {
	// Nodes of a cluster start together and must make one app, not one each.
	id := ""
	if n.cluster != nil {
		id = apps.DefaultID
	}
	app, created, err := n.apps.EnsureDefault(ctx, id)
	if err != nil {
		return fmt.Errorf("create the first app: %w", err)
	}
	if created {
		n.FirstApp = app
	}
	return nil
}

// appStore opens what keeps apps beside the file.
func (n *Node) appStore(ctx context.Context, log *slog.Logger) (apps.Store, error) {
	switch c := n.config.AppStore; {
	case c.Driver == config.AppStoreMemory:
		return apps.FileOnly(), nil
	case c.InDatabase():
		return n.openAppTable(ctx, log)
	}
	documents, err := patiently(ctx, n.log, "the app registry", func(ctx context.Context) (fabric.Documents, error) {
		return n.fabric.Documents(ctx, apps.Collection)
	})
	if err != nil {
		return nil, err
	}
	return apps.NewDocuments(documents, log), nil
}

// appTable is the table of a database that has the apps.
type appTable struct {
	table  *appsql.Table
	cached *apps.Cached
	hub    atomic.Pointer[pusher.Hub] // knows which apps are in use, once it is there
}

// use has the apps that a hub uses stay in memory. There may be no table.
func (t *appTable) use(hub *pusher.Hub) {
	if t != nil {
		t.hub.Store(hub)
	}
}

// uses tells whether an app must stay in memory.
func (t *appTable) uses(id string) bool {
	hub := t.hub.Load()
	return hub != nil && hub.Uses(id)
}

// knows tells whether the hub has to do with an app. Without a table it is yes.
func (t *appTable) knows(id string) bool {
	if t == nil {
		return true
	}
	hub := t.hub.Load()
	return hub != nil && hub.Knows(id)
}

// close closes the connections to the database. There may be no table.
func (t *appTable) close() error {
	if t == nil {
		return nil
	}
	return t.table.Close()
}

// AppTable returns the table of a database that has the apps. It does not connect.
func AppTable(c config.AppStore) (*appsql.Table, error) {
	low, high := c.Pool()
	return appsql.Open(appsql.Options{
		Driver: c.Driver, URL: c.URL, Host: c.Host, Port: c.Port, User: c.User, Password: c.Password,
		Database: c.Database, Table: c.Table,
		TLS: c.TLS, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
		PoolMin: low, PoolMax: high, Lifetime: c.ConnectionLifetime,
	})
}

// openAppTable opens the table and waits until it is there.
func (n *Node) openAppTable(ctx context.Context, log *slog.Logger) (apps.Store, error) {
	c := n.config.AppStore
	table, err := AppTable(c)
	if err != nil {
		return nil, err
	}
	t := &appTable{table: table}
	n.appTable = t // from here on Stop closes it
	signal, err := patiently(ctx, n.log, "the signal of apps", func(ctx context.Context) (fabric.Signal, error) {
		return n.fabric.Signal(ctx, apps.SignalName)
	})
	if err != nil {
		return nil, err
	}
	t.cached = apps.NewCached(table, signal, apps.CacheOptions{
		TTL: c.CacheTTL, Capacity: c.CacheCapacity, InUse: t.uses,
		Count: n.metrics.AppLookup, Dropped: n.metrics.Drop, Logger: log,
	})
	n.exportAppTable()
	n.waits("waiting for the database of apps")
	if err := awaitTable(ctx, log, table.Ping); err != nil {
		return nil, err
	}
	return t.cached, nil
}

// exportAppTable adds the gauges of the table to the node's metrics.
func (n *Node) exportAppTable() {
	prefix, state := n.config.Metrics.Prefix, n.appTable.cached.State
	n.metrics.Gauge(prefix+"app_store_up", "1 if the database of apps answered the last question, else 0.",
		func() float64 {
			if state().Away {
				return 0
			}
			return 1
		})
	n.metrics.Gauge(prefix+"app_store_apps", "Apps of the database that are in memory.",
		func() float64 { return float64(state().Apps) })
	n.metrics.Gauge(prefix+"app_store_stale_apps", "Apps in memory older than app_store.cache_ttl, as the database does not answer.",
		func() float64 { return float64(state().Stale) })
}

// Pauses between two questions whether the table is there, the time that one may take, and the
// time between two lines in the log about it.
const (
	tablePauseMin = 100 * time.Millisecond
	tablePauseMax = 5 * time.Second
	tableTry      = 10 * time.Second
	tableNotice   = time.Minute
)

// awaitTable waits until the database answers and has the table, however late that is.
func awaitTable(ctx context.Context, log *slog.Logger, ping func(context.Context) error) error {
	begun := time.Now()
	var noticed time.Time
	reached := false // the database answers, but has no table
	for pause := tablePauseMin; ; pause = min(2*pause, tablePauseMax) {
		trying, done := context.WithTimeout(ctx, tableTry)
		err := ping(trying)
		done()
		if err == nil {
			if !noticed.IsZero() {
				log.Info("the database of apps answers", "after", time.Since(begun).Round(time.Millisecond))
			}
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the database of apps: %w", err)
		}
		missing := errors.Is(err, appsql.ErrNoTable)
		if missing != reached || time.Since(noticed) >= tableNotice {
			reached, noticed = missing, time.Now()
			log.Warn("waiting for the database of apps", "error", err, "options", optionsToSee(err))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// optionsToSee names what to look at when the database does not let the node have its table.
func optionsToSee(err error) string {
	switch {
	case errors.Is(err, appsql.ErrLogin):
		return "app_store.user, app_store.password, app_store.url"
	case errors.Is(err, appsql.ErrNoTable):
		return "app_store.database, app_store.table"
	}
	return "app_store.host, app_store.port, app_store.url"
}

// hasApp tells whether an app exists and is enabled.
func (n *Node) hasApp(ctx context.Context, id string) (bool, error) {
	app, err := n.apps.FindByID(ctx, id)
	if errors.Is(err, apps.ErrNotFound) {
		return false, nil
	}
	return err == nil && app.Enabled, err
}

// Keys returns the keys of some of the apps that may connect.
func (n *Node) Keys() []string {
	const few = 2
	ctx, cancel := context.WithTimeout(context.Background(), queueTimeout)
	defer cancel()
	list, err := n.apps.List(ctx, "", few)
	if err != nil {
		return nil // the database went away again
	}
	var keys []string
	for _, app := range list {
		if app.Enabled {
			keys = append(keys, app.Key)
		}
	}
	return keys
}
