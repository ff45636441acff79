package appsql

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/test/servers"
)

func TestMigrate(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		ctx := t.Context()
		table := d.table(t, tableName())
		for _, err := range []error{table.Ping(ctx), table.Create(ctx, &apps.App{ID: "1"})} {
			refused(t, "without a table", err, ErrNoTable, "parley app migrate", table.name)
		}
		dry, err := table.Migrate(ctx, false, true)
		if err != nil || !dry.Created || len(dry.Statements) != 1 {
			t.Errorf("dry run: %+v, %v", dry, err)
		}
		refused(t, "after a dry run", table.Ping(ctx), ErrNoTable)
		done, err := table.Migrate(ctx, false, false)
		if err != nil || !done.Created || !slices.Equal(done.Statements, dry.Statements) {
			t.Errorf("%+v, %v", done, err)
		}
		must(t, "ping", table.Ping(ctx))
		again, err := table.Migrate(ctx, true, false)
		if err != nil || again.Created || len(again.Statements)+len(again.Missing)+len(again.Added) > 0 {
			t.Errorf("a second time: %+v, %v", again, err)
		}

		soketi := d.tableOf(t, soketiTable[d.driver])
		soketi.exec(t, "INSERT INTO TABLE_ (id, "+keyColumn(d)+`, secret, max_connections, enabled, enable_client_messages,
			max_backend_events_per_sec, max_client_events_per_sec, max_read_req_per_sec) VALUES ('1', 'k', 's', 1, 1, 1, 1, 1, 1)`)
		node := d.table(t, soketi.name) // has read the columns before
		_, err = node.Update(ctx, "1", func(a *apps.App) error { a.Name = "y"; return nil })
		refused(t, "without the column", err, apps.ErrRefused, "table "+soketi.name, "there is no column name")
		lacking, err := soketi.Migrate(ctx, false, false)
		want := "name enable_user_authentication enable_watchlist_events enable_subscription_count allowed_origins"
		if err != nil || strings.Join(lacking.Missing, " ") != want || len(lacking.Statements) > 0 {
			t.Errorf("soketi's: %+v, %v", lacking, err)
		}
		added, err := soketi.Migrate(ctx, true, false)
		if err != nil || strings.Join(added.Added, " ") != want || len(added.Missing) > 0 {
			t.Errorf("with the columns: %+v, %v", added, err)
		}
		app, err := node.Update(ctx, "1", func(a *apps.App) error {
			a.Name, a.AllowedOrigins, a.EnableSubscriptionCount = "x", []string{"a.example"}, true
			return nil
		})
		if err != nil || app.Name != "x" {
			t.Errorf("then the app is %+v, %v", app, err)
		}
		other := d.tableOf(t, "CREATE TABLE TABLE_ (id int, name text)")
		if err := other.Ping(ctx); err == nil || !strings.Contains(err.Error(), "no column key") {
			t.Errorf("a table of something else: %v", err)
		}
	})
}

// A column that is there, and then is not, and one that comes later.
func TestColumnsChange(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		ctx := t.Context()
		table := d.newTable(t)
		must(t, "create", table.Create(ctx, &apps.App{ID: "1", Key: "k", Secret: "s", Name: "x"}))
		table.exec(t, "ALTER TABLE TABLE_ DROP COLUMN name")
		if app := table.app(t, "1"); app.Name != "" {
			t.Errorf("the app is %+v", app)
		}
		must(t, "create", table.Create(ctx, &apps.App{ID: "2", Key: "k2", Secret: "s"}))
		table.exec(t, "ALTER TABLE TABLE_ DROP COLUMN max_event_batch_size")
		_, err := table.Update(ctx, "1", func(a *apps.App) error { a.Limits.MaxConnections = 5; return nil })
		must(t, "update", err)
		table.exec(t, "ALTER TABLE TABLE_ ADD COLUMN tenant int NOT NULL DEFAULT 0")
		table.exec(t, "ALTER TABLE TABLE_ ADD COLUMN must_be text NULL")
		table.exec(t, "UPDATE TABLE_ SET must_be = 'x'")
		table.exec(t, map[string]string{
			MySQL:    "ALTER TABLE TABLE_ MODIFY must_be varchar(10) NOT NULL",
			Postgres: "ALTER TABLE TABLE_ ALTER COLUMN must_be SET NOT NULL",
		}[d.driver])
		table.forgetColumns() // as after a minute
		err = table.Create(ctx, &apps.App{ID: "3", Key: "k3", Secret: "s"})
		refused(t, "a column that Parley does not know", err, apps.ErrRefused, "column must_be")
	})
}

// What the database itself refuses is said without a value.
func TestDatabaseRefuses(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		ctx := t.Context()
		table := d.newTable(t)
		must(t, "create", table.Create(ctx, &apps.App{ID: "1", Key: "k", Secret: "s"}))
		other := d.tableOf(t, "CREATE TABLE TABLE_ (app_id varchar(255) NOT NULL"+
			map[string]string{MySQL: " COLLATE utf8mb4_bin", Postgres: ""}[d.driver]+", FOREIGN KEY (app_id) REFERENCES "+
			table.quote(table.name)+" (id))"+map[string]string{MySQL: " DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin", Postgres: ""}[d.driver])
		other.exec(t, "INSERT INTO TABLE_ VALUES ('1')")
		refused(t, "delete with rows that refer to it", table.Delete(ctx, "1"), apps.ErrRefused, "refer to the app")

		reader := "reader" + table.name
		password := "'another-pass'"
		table.exec(t, map[string]string{
			MySQL:    "CREATE USER " + reader + " IDENTIFIED BY " + password,
			Postgres: "CREATE ROLE " + reader + " LOGIN PASSWORD " + password,
		}[d.driver])
		table.exec(t, "GRANT SELECT ON TABLE_ TO "+reader)
		o := d.options
		o.Table, o.User, o.Password = table.name, reader, "another-pass"
		readOnly := open(t, o)
		if app := readOnly.app(t, "1"); app.Key != "k" {
			t.Errorf("the app is %+v", app)
		}
		refused(t, "create without the right to", readOnly.Create(ctx, &apps.App{ID: "2", Key: "k2", Secret: "hush"}),
			apps.ErrRefused, "may not change the table")
		o.Password = "wrong-pass"
		err := open(t, o).Ping(ctx)
		if err == nil || strings.Contains(err.Error(), "wrong-pass") {
			t.Errorf("with a wrong password: %v", err)
		}
	})
}

func TestManyRows(t *testing.T) {
	const count, part = 10_000, 500
	onEach(t, func(t *testing.T, d database) {
		ctx := t.Context()
		table := d.newTable(t)
		for i := 0; i < count; i += part {
			var values []string
			for j := i; j < i+part; j++ {
				values = append(values, fmt.Sprintf("('app-%05d', 'key-%05d', 'secret', '[\"a.example\"]')", j, j))
			}
			table.exec(t, "INSERT INTO TABLE_ (id, "+keyColumn(d)+", secret, allowed_origins) VALUES "+strings.Join(values, ", "))
		}
		nodes := startNodes(t, time.Hour, nil, table, d.table(t, table.name))
		begin := time.Now()
		seen, after := 0, ""
		for {
			list, err := nodes[0].List(ctx, after, 1000)
			must(t, "list", err)
			seen += len(list)
			if len(list) < 1000 {
				break
			}
			after = list[999].ID
		}
		listed := time.Since(begin)
		if seen != count {
			t.Errorf("%d are listed", seen)
		}
		begin = time.Now()
		for i := range count { // as after a restart of a cluster with so many apps in use
			nodes[0].ByID(fmt.Sprintf("app-%05d", i))
		}
		eventually(t, "all are in memory", func() bool { return nodes[0].cached.State().Apps == count })
		read := time.Since(begin)
		begin = time.Now()
		const looked = 200
		for i := range looked {
			app, err := nodes[1].FindByKey(ctx, fmt.Sprintf("key-%05d", i*count/looked))
			if err != nil || app.AllowedOrigins[0] != "a.example" {
				t.Fatalf("%+v, %v", app, err)
			}
		}
		each := time.Since(begin) / looked
		_, err := nodes[1].Update(ctx, "app-00777", func(a *apps.App) error { a.Enabled = false; return nil })
		must(t, "update", err)
		eventually(t, "the other node sees it", func() bool { app, ok := nodes[0].ByID("app-00777"); return ok && !app.Enabled })
		t.Logf("%d apps: listed in %v, read into memory in %v, a look-up by key takes %v", count,
			listed.Round(time.Millisecond), read.Round(time.Millisecond), each.Round(time.Microsecond))
	})
}

// TestRestartUnderTraffic kills the server while look-ups run: apps in memory are found all the
// time, others say that they are unavailable and never that they do not exist, and everything
// resumes by itself.
func TestRestartUnderTraffic(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		ctx := t.Context()
		table := d.newTable(t)
		const count = 400
		for i := range count {
			must(t, "create", table.Create(ctx, &apps.App{ID: fmt.Sprint(i), Key: fmt.Sprint("key-", i), Secret: "s", Enabled: true}))
		}
		nodes := startNodes(t, 200*time.Millisecond, nil, table, d.table(t, table.name))
		n := nodes[0]
		if _, err := n.FindByID(ctx, "0"); err != nil {
			t.Fatal(err)
		}
		var next, found, away atomic.Int64
		traffic, stop := context.WithCancel(ctx)
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for traffic.Err() == nil {
					if _, err := n.FindByKey(ctx, "key-0"); err != nil {
						t.Errorf("an app in memory: %v", err)
					}
					i := next.Add(1) % count
					app, err := nodes[1].FindByKey(ctx, fmt.Sprint("key-", i))
					switch {
					case err == nil && app.ID == fmt.Sprint(i):
						found.Add(1)
					case errors.Is(err, apps.ErrUnavailable):
						away.Add(1)
					default:
						t.Errorf("app %d: %+v, %v", i, app, err)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		eventually(t, "there is traffic", func() bool { return found.Load() > 20 })
		d.kill()
		eventually(t, "it is noticed", func() bool { return away.Load() > 20 && n.cached.State().Away })
		if err := table.Ping(ctx); err == nil {
			t.Error("the server that was killed answers")
		}
		eventually(t, "the app in memory is stale", func() bool { return n.cached.State().Stale == 1 })
		if _, err := n.Update(ctx, "0", func(*apps.App) error { return nil }); !errors.Is(err, apps.ErrUnavailable) {
			t.Errorf("update: %v", err)
		}
		d.start()
		before := found.Load()
		eventually(t, "it goes on", func() bool {
			return found.Load() > before+50 && n.cached.State() == apps.CacheState{Apps: n.cached.State().Apps}
		})
		_, err := n.Update(ctx, "0", func(a *apps.App) error { a.Name = "new"; return nil })
		must(t, "update", err)
		stop()
		group.Wait()
		if app, err := n.FindByID(ctx, "0"); err != nil || app.Name != "new" {
			t.Errorf("the app is %+v, %v", app, err)
		}
		if text := n.log.String(); strings.Count(text, "does not answer") != 1 || !strings.Contains(text, "answers again") ||
			strings.Contains(text, d.options.Password) {
			t.Errorf("the log is:\n%s", text)
		}
	})
}

// A server that takes connections and says nothing holds nobody up for long.
func TestSilentServer(t *testing.T) {
	servers.NeedMariaDB(t)
	s := mariaDB()
	table := onMariaDB(s).newTable(t)
	must(t, "create", table.Create(t.Context(), &apps.App{ID: "1", Key: "k", Secret: "s"}))
	s.Pause()
	defer s.Resume()
	ask := func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err = table.ByIDs(ctx, []string{"1"})
		if took := time.Since(begin); took > 20*time.Second { // before the connection gives up by itself
			t.Errorf("it took %v to give up", took)
		}
		return err
	}
	// A process stops a moment after it was told to.
	eventually(t, "no answer on the connection that is there", func() bool { return ask() != nil })
	if ask() == nil {
		t.Error("an answer on a new connection")
	}
}

// A login that is refused is told from a database that is away.
func TestLoginRefused(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		options := d.options
		options.Password = "not-the-password"
		refused(t, "ping", open(t, options).Ping(t.Context()), ErrLogin)
	})
}

func TestConnections(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		ctx := t.Context()
		table := d.newTable(t)
		encrypted := map[string]string{
			MySQL:    "SELECT IF(VARIABLE_VALUE = '', 'off', 'on') FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_cipher'",
			Postgres: "SELECT CASE WHEN ssl THEN 'on' ELSE 'off' END FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
		}[d.driver]
		for name, test := range d.ways(table.name) {
			t.Run(name, func(t *testing.T) {
				opened := open(t, test.options)
				if err := opened.Ping(ctx); err != nil {
					if test.want == "" || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), d.options.Password) {
						t.Errorf("ping: %v", err)
					}
					return
				}
				var got string
				must(t, "ask for TLS", opened.db.QueryRowContext(ctx, encrypted).Scan(&got))
				if test.want != "" && got != test.want {
					t.Errorf("TLS is %s, want %s", got, test.want)
				}
			})
		}
	})
}

// way is how a database may be reached.
type way struct {
	options Options
	want    string // off and on are TLS, others a part of the error, and empty is anything but an error
}

// ways returns the ways to reach a table.
func (d database) ways(table string) map[string]way {
	o := d.options
	o.Table, o.TLS = table, TLSOff
	with := func(change func(*Options)) Options {
		o := o
		change(&o)
		return o
	}
	byURL := func(change func(*Options, *url.URL)) Options {
		to := Options{Driver: o.Driver, Table: o.Table, TLS: TLSOff}
		u := url.URL{Scheme: d.driver, User: url.UserPassword(o.User, o.Password), Path: "/" + o.Database,
			Host: fmt.Sprintf("%s:%d", o.Host, o.Port)}
		change(&to, &u)
		to.URL = u.String()
		return to
	}
	dsn := map[string]string{
		MySQL:    fmt.Sprintf("%s:%s@tcp(%s:%d)/%s", o.User, o.Password, o.Host, o.Port, o.Database),
		Postgres: fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable", o.Host, o.Port, o.User, o.Password, o.Database),
	}[d.driver]
	schema := map[string]string{MySQL: o.Database, Postgres: "public"}[d.driver]
	return map[string]way{
		"parts":             {o, "off"},
		"TLS":               {with(func(o *Options) { o.TLS = TLSOn }), "on"},
		"unknown authority": {with(func(o *Options) { o.TLS, o.CAFile = TLSOn, "" }), "certificate"},
		"unverified":        {with(func(o *Options) { o.TLS, o.CAFile = TLSUnverified, "" }), "on"},
		"URL":               {byURL(func(*Options, *url.URL) {}), ""},
		"URL with TLS":      {byURL(func(to *Options, _ *url.URL) { to.TLS, to.CAFile = TLSOn, o.CAFile }), "on"},
		"URL, password apart": {byURL(func(to *Options, u *url.URL) {
			u.User, to.Password = url.User(o.User), o.Password
		}), ""},
		"URL, user apart": {byURL(func(to *Options, u *url.URL) {
			u.User, to.User, to.Password = nil, o.User, o.Password
		}), ""},
		"DSN":            {Options{Driver: o.Driver, Table: o.Table, URL: dsn, TLS: TLSOff}, "off"},
		"with a schema":  {with(func(o *Options) { o.Table = schema + "." + table }), "off"},
		"other database": {with(func(o *Options) { o.Database = "nowhere" }), "nowhere"},
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"driver":      {Driver: "oracle"},
		"MySQL URL":   {Driver: MySQL, URL: "http://user:hush@host/db"},
		"no URL":      {Driver: MySQL, URL: "mysql://user:hush@/db"},
		"bad DSN":     {Driver: MySQL, URL: "user:hush@tcp(host"},
		"bad query":   {Driver: MySQL, URL: "mysql://user:hush@host/db?timeout=x"},
		"Postgres":    {Driver: Postgres, URL: "postgres://user:hush@host:port/db"},
		"authority":   {Driver: MySQL, Host: "h", TLS: TLSOn, CAFile: "/nowhere/hush.pem"},
		"no PEM":      {Driver: Postgres, Host: "h", TLS: TLSOn, CAFile: "table_test.go"},
		"certificate": {Driver: Postgres, Host: "h", TLS: TLSOn, CertFile: "/nowhere"},
		"TLS":         {Driver: MySQL, Host: "h", TLS: "maybe"},
	} {
		_, err := Open(o)
		if err == nil || name != "authority" && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
