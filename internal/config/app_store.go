package config

import (
	"errors"
	"regexp"
	"strings"
	"time"
)

// The values of AppStore.Driver.
const (
	AppStoreFabric   = "fabric"   // documents of the fabric
	AppStoreMemory   = "memory"   // none but the apps of the file
	AppStoreMySQL    = "mysql"    // a table of MySQL or MariaDB
	AppStorePostgres = "postgres" // a table of PostgreSQL
)

// AppStore says where apps are kept that are not in the file, and how a table is reached that has
// them.
type AppStore struct {
	Driver string

	URL      string // with it, Host, Port and Database do not count, and User and Password where it has none
	Host     string
	Port     int // 0 for the database's own
	User     string
	Password string
	Database string
	Table    string

	TLS      string // off, on or unverified
	CAFile   string
	CertFile string
	KeyFile  string

	PoolMin            int // connections that stay open while nothing uses them
	PoolMax            int
	MySQLPoolMin       int // instead of those for both databases; below 0 for the same
	MySQLPoolMax       int
	PostgresPoolMin    int
	PostgresPoolMax    int
	ConnectionLifetime time.Duration // 0 for ever

	CacheTTL      time.Duration // until a change is seen that was not made through Parley
	CacheCapacity int           // apps in memory beside those in use
}

// InDatabase tells whether the apps are in a table of a database.
func (a AppStore) InDatabase() bool { return a.Driver == AppStoreMySQL || a.Driver == AppStorePostgres }

// Pool returns the bounds of the pool of connections to the database of the driver.
func (a AppStore) Pool() (low, high int) {
	low, high = a.MySQLPoolMin, a.MySQLPoolMax
	if a.Driver == AppStorePostgres {
		low, high = a.PostgresPoolMin, a.PostgresPoolMax
	}
	if low < 0 {
		low = a.PoolMin
	}
	if high < 0 {
		high = a.PoolMax
	}
	return low, high
}

// appStoreOptions declare where apps are kept.
var appStoreOptions = []field[Config]{
	option("app_store.driver", AppStoreFabric, oneOf(AppStoreFabric, AppStoreMemory, AppStoreMySQL, AppStorePostgres),
		"Where apps are kept beside those of the file: with everything else (fabric), nowhere (memory), or in a "+
			"table of a database.",
		func(c *Config) *string { return &c.AppStore.Driver }),
	option("app_store.url", "", stringKind,
		"Address of the database, such as mysql://user:password@host:3306/database, instead of its parts.",
		func(c *Config) *string { return &c.AppStore.URL }).secret(),
	option("app_store.host", "127.0.0.1", stringKind,
		"Host of the database.",
		func(c *Config) *string { return &c.AppStore.Host }, notEmpty, isHost),
	option("app_store.port", "0", intKind,
		"Port of the database; 0 for 3306 or 5432.",
		func(c *Config) *int { return &c.AppStore.Port }, isPort),
	option("app_store.user", "parley", stringKind,
		"User of the database.",
		func(c *Config) *string { return &c.AppStore.User }),
	option("app_store.password", "", stringKind,
		"Password of that user.",
		func(c *Config) *string { return &c.AppStore.Password }).secret(),
	option("app_store.database", "parley", stringKind,
		"Name of the database.",
		func(c *Config) *string { return &c.AppStore.Database }),
	option("app_store.table", "applications", stringKind,
		"Name of the table, with a schema in front if need be; applications is Sockudo's, apps is soketi's.",
		func(c *Config) *string { return &c.AppStore.Table }, isTable),
	option("app_store.tls", "off", oneOf("off", "on", "unverified"),
		"TLS to the database: off, on, or on with any certificate; off leaves it to app_store.url, if that is set.",
		func(c *Config) *string { return &c.AppStore.TLS }),
	option("app_store.ca_file", "", stringKind,
		"PEM file with the authority that signs the database's certificate; empty for those of the system.",
		func(c *Config) *string { return &c.AppStore.CAFile }),
	option("app_store.cert_file", "", stringKind,
		"PEM file with a certificate to show to the database.",
		func(c *Config) *string { return &c.AppStore.CertFile }),
	option("app_store.key_file", "", stringKind,
		"PEM file with the key of that certificate.",
		func(c *Config) *string { return &c.AppStore.KeyFile }),
	option("app_store.pool_min", "2", intKind,
		"Connections to the database that stay open while nothing uses them.",
		func(c *Config) *int { return &c.AppStore.PoolMin }, atLeast(0)),
	option("app_store.pool_max", "10", intKind,
		"Connections to the database at a time.",
		func(c *Config) *int { return &c.AppStore.PoolMax }, atLeast(1)),
	option("app_store.mysql_pool_min", "-1", intKind,
		"Instead of app_store.pool_min when the driver is mysql; -1 for the same.",
		func(c *Config) *int { return &c.AppStore.MySQLPoolMin }, atLeast(-1)),
	option("app_store.mysql_pool_max", "-1", intKind,
		"Instead of app_store.pool_max when the driver is mysql; -1 for the same.",
		func(c *Config) *int { return &c.AppStore.MySQLPoolMax }, atLeast(-1), notZero),
	option("app_store.postgres_pool_min", "-1", intKind,
		"Instead of app_store.pool_min when the driver is postgres; -1 for the same.",
		func(c *Config) *int { return &c.AppStore.PostgresPoolMin }, atLeast(-1)),
	option("app_store.postgres_pool_max", "-1", intKind,
		"Instead of app_store.pool_max when the driver is postgres; -1 for the same.",
		func(c *Config) *int { return &c.AppStore.PostgresPoolMax }, atLeast(-1), notZero),
	option("app_store.connection_lifetime", "30m", durationKind,
		"How long a connection to the database is used; 0 for ever.",
		func(c *Config) *time.Duration { return &c.AppStore.ConnectionLifetime }, lasting(0)),
	option("app_store.cache_ttl", "5m", durationKind,
		"Longest time until a change of the table is seen that another program made; what Parley changes is "+
			"seen at once.",
		func(c *Config) *time.Duration { return &c.AppStore.CacheTTL }, lasting(time.Second)),
	option("app_store.cache_capacity", "10000", intKind,
		"Apps of the table that are kept in memory beside those with connections.",
		func(c *Config) *int { return &c.AppStore.CacheCapacity }, atLeast(1)),
}

var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$-]*(\.[A-Za-z_][A-Za-z0-9_$-]*)?$`)

func isTable(s string) error {
	if !tableName.MatchString(s) {
		return errors.New("must be the name of a table: letters, digits and _, with a schema and a dot in front if need be")
	}
	return nil
}

func notZero(n int) error {
	if n == 0 {
		return errors.New("must be at least 1, or -1")
	}
	return nil
}

// checkAppStore records what does not fit together about the database of apps.
func (l *loader) checkAppStore() {
	a := &l.config.AppStore
	if !a.InDatabase() {
		return
	}
	if scheme, _, found := strings.Cut(a.URL, "://"); found {
		fits := map[string][]string{
			AppStoreMySQL: {"mysql", "mariadb"}, AppStorePostgres: {"postgres", "postgresql"},
		}[a.Driver]
		if scheme != fits[0] && scheme != fits[1] {
			l.conflict("app_store.url", []string{"app_store.driver"},
				"must begin with "+fits[0]+"://, because app_store.driver is "+a.Driver)
		}
	}
	if low, high := a.Pool(); low > high {
		l.conflict("app_store.pool_min", []string{"app_store.pool_max"},
			"must not be more than the most connections to the database ("+a.Driver+")")
	}
	if (a.CertFile == "") != (a.KeyFile == "") {
		l.conflict("app_store.cert_file", []string{"app_store.key_file"}, "and app_store.key_file must both be set, or none")
	}
	if a.TLS == "off" && a.CAFile+a.CertFile != "" {
		l.conflict("app_store.tls", []string{"app_store.ca_file", "app_store.cert_file"},
			"is off, but there are files for it")
	}
}
