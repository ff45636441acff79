package config

import (
	"strings"
	"testing"
)

func TestAppStoreTogether(t *testing.T) {
	for _, test := range []struct {
		environ string // NAME=value without the prefix, separated by spaces
		want    string // part of the error, empty for none
	}{
		{"DRIVER=mysql", ""},
		{"DRIVER=mysql URL=mariadb://u:hush@h/d", ""},
		{"DRIVER=mysql URL=u:hush@tcp(h)/d", ""},
		{"DRIVER=postgres URL=postgresql://h/d", ""},
		{"DRIVER=postgres URL=mysql://u:hush@h/d", "app_store.url (environment PARLEY_APP_STORE_URL): must begin with postgres://"},
		{"DRIVER=fabric URL=mysql://h/d POOL_MIN=99", ""},
		{"DRIVER=mysql POOL_MIN=20", "app_store.pool_min (environment PARLEY_APP_STORE_POOL_MIN): must not be more"},
		{"DRIVER=mysql POOL_MIN=20 MYSQL_POOL_MAX=30", ""},
		{"DRIVER=postgres POOL_MIN=20 MYSQL_POOL_MAX=30", "must not be more"},
		{"DRIVER=postgres POSTGRES_POOL_MIN=0 POSTGRES_POOL_MAX=1", ""},
		{"DRIVER=postgres POSTGRES_POOL_MAX=0", "must be at least 1, or -1"},
		{"DRIVER=mysql TLS=on CERT_FILE=a", "app_store.key_file must both be set"},
		{"DRIVER=mysql CA_FILE=a", "app_store.tls (default): is off"},
		{"DRIVER=mysql TABLE=shop.apps", ""},
		{"DRIVER=mysql TABLE=apps;drop", "must be the name of a table"},
		{"DRIVER=sqlite", "must be one of fabric, memory, mysql, postgres"},
		{"CACHE_TTL=1ms", "must be at least 1s"},
	} {
		var environ []string
		for _, entry := range strings.Fields(test.environ) {
			environ = append(environ, "PARLEY_APP_STORE_"+entry)
		}
		_, err := Load(Sources{Environ: environ})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.environ, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error shows a password: %v", test.environ, err)
		}
	}
}

func TestAppStorePool(t *testing.T) {
	a := Default().AppStore
	if low, high := a.Pool(); low != 2 || high != 10 {
		t.Errorf("by default %d to %d", low, high)
	}
	a.MySQLPoolMin, a.PostgresPoolMax = 4, 32
	for driver, want := range map[string][2]int{AppStoreMySQL: {4, 10}, AppStorePostgres: {2, 32}} {
		a.Driver = driver
		if low, high := a.Pool(); low != want[0] || high != want[1] {
			t.Errorf("%s: %d to %d, want %v", driver, low, high, want)
		}
	}
}
