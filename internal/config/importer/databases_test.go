package importer

import (
	"strings"
	"testing"
)

func TestDatabases(t *testing.T) {
	const sockudo = "APP_MANAGER_DRIVER=mysql\nDATABASE_MYSQL_HOST=db\nDATABASE_MYSQL_PASSWORD=pass word\n"
	const soketi = "SOKETI_APP_MANAGER_DRIVER=postgres\nSOKETI_DB_POSTGRES_HOST=db\n"
	unset := "(unset)"
	for _, c := range []conversionCase{
		{name: "Sockudo's MySQL", files: []File{text(".env", sockudo+"DATABASE_MYSQL_PORT=3307\nDATABASE_MYSQL_USERNAME=u\n"+
			"DATABASE_MYSQL_DATABASE=d\nDATABASE_MYSQL_TABLE_NAME=t\nDATABASE_POSTGRES_HOST=other\nDATABASE_POSTGRES_PASSWORD=o\n"+
			"DATABASE_POOL_MIN=4\nDATABASE_POOL_MAX=32\nDATABASE_MYSQL_POOL_MAX=16\nDATABASE_POSTGRES_POOL_MIN=1\n"+
			"APP_MANAGER_CACHE_TTL=60\n")},
			want: map[string]string{"app_store.driver": "mysql", "app_store.host": "db", "app_store.port": "3307",
				"app_store.user": "u", "app_store.password": "pass word", "app_store.database": "d", "app_store.table": "t",
				"app_store.pool_min": "4", "app_store.pool_max": "32", "app_store.mysql_pool_max": "16",
				"app_store.postgres_pool_min": "1", "app_store.cache_ttl": "60s"}},
		{name: "Sockudo's defaults", files: []File{text(".env", sockudo+"CACHE_TTL_SECONDS=120\n")},
			want: map[string]string{"app_store.user": "root", "app_store.database": "sockudo", "app_store.table": "applications",
				"app_store.port": unset, "app_store.cache_ttl": "120s", "app_store.pool_max": unset}},
		{name: "no pooling", files: []File{text(".env", sockudo+"DATABASE_POOLING_ENABLED=false\nDATABASE_POOL_MAX=32\n"+
			"DATABASE_CONNECTION_POOL_SIZE=5\n")},
			want: map[string]string{"app_store.pool_max": "5", "app_store.pool_min": unset}},
		{name: "pooling", files: []File{text(".env", sockudo+"DATABASE_CONNECTION_POOL_SIZE=5\n")},
			want: map[string]string{"app_store.pool_max": unset}},
		{name: "config.json", files: []File{text("config.json", `{"app_manager": {"driver": "pgsql", "cache": {"enabled": false, "ttl": 0}},
			"database": {"postgres": {"host": "h", "port": 5433, "username": "u", "password": "p", "database": "d", "table_name": "t",
			"connection_pool_size": 7, "pool_min": 1, "pool_max": null, "cache_ttl": 30, "cache_max_capacity": 50,
			"cache_cleanup_interval": 60}, "mysql": {"host": "m", "table_name": "n"}}, "database_pooling": {"enabled": false}}`)},
			want: map[string]string{"app_store.driver": "postgres", "app_store.host": "h", "app_store.port": "5433",
				"app_store.table": "t", "app_store.pool_max": "7", "app_store.cache_ttl": "30s", "app_store.cache_capacity": "50",
				"app_store.postgres_pool_min": unset}},
		{name: "soketi", files: []File{text(".env", soketi+"SOKETI_DB_POSTGRES_PORT=5432\nSOKETI_DB_POSTGRES_USERNAME=u\n"+
			"SOKETI_DB_POSTGRES_PASSWORD=p\nSOKETI_DB_POSTGRES_DATABASE=d\nSOKETI_APP_MANAGER_POSTGRES_TABLE=t\n"+
			"SOKETI_APP_MANAGER_POSTGRES_VERSION=13.3\nSOKETI_DB_POOLING_ENABLED=true\nSOKETI_DB_POOLING_MIN=0\n"+
			"SOKETI_DB_POOLING_MAX=7\nSOKETI_APP_MANAGER_CACHE_ENABLED=true\nSOKETI_APP_MANAGER_CACHE_TTL=-1\n")},
			want: map[string]string{"app_store.driver": "postgres", "app_store.user": "u", "app_store.password": "p",
				"app_store.database": "d", "app_store.table": "t", "app_store.pool_min": "0", "app_store.pool_max": "7",
				"app_store.cache_ttl": unset}},
		{name: "soketi's defaults", files: []File{text(".env", soketi+"SOKETI_DB_POOLING_MAX=7\n")},
			want: map[string]string{"app_store.user": "root", "app_store.password": "password", "app_store.database": "main",
				"app_store.table": "apps", "app_store.port": unset, "app_store.pool_max": unset}},
		{name: "soketi's file", files: []File{text("soketi.json", `{"appManager": {"driver": "mysql", "mysql": {"table": "apps2", "version": "8.0"}},
			"database": {"mysql": {"host": "h", "port": 3306, "user": "u", "password": "p", "database": "d"}},
			"databasePooling": {"enabled": true, "min": 1, "max": 3}}`)},
			want: map[string]string{"app_store.driver": "mysql", "app_store.table": "apps2", "app_store.user": "u",
				"app_store.pool_min": "1", "app_store.pool_max": "3"}},
		{name: "memory", files: []File{text(".env", "APP_MANAGER_DRIVER=memory\nDATABASE_MYSQL_HOST=db\nAPP_MANAGER_CACHE_TTL=60\n")},
			want: map[string]string{"app_store.driver": unset, "app_store.host": unset, "app_store.cache_ttl": unset}},
		{name: "DynamoDB", files: []File{text(".env", "APP_MANAGER_DRIVER=dynamodb\nDATABASE_DYNAMODB_REGION=r\n")},
			want: map[string]string{"app_store.driver": unset}},
		{name: "the page about pooling", files: []File{testFile(t, "reference/sockudo-pooling.yml")},
			want: map[string]string{"app_store.pool_min": "4", "app_store.pool_max": "32", "app_store.mysql_pool_min": "4",
				"app_store.mysql_pool_max": "32", "app_store.driver": unset}},
	} {
		t.Run(c.name, c.run)
	}
}

// What has no effect says why, and nothing shows a password.
func TestDatabaseNotes(t *testing.T) {
	for _, c := range []struct {
		file string
		want []string // parts of the notes without effect
	}{
		{"APP_MANAGER_DRIVER=postgres\nDATABASE_POSTGRES_HOST=db\nDATABASE_POSTGRES_PASSWORD=hush\nDATABASE_MYSQL_PASSWORD=hush\n",
			[]string{"database.postgres.port (.env:1): is not set, and Sockudo would take 3306, the port of MySQL; Parley takes 5432",
				"DATABASE_MYSQL_PASSWORD (.env:4): the apps are not in this database"}},
		{"SOKETI_APP_MANAGER_DRIVER=postgres\nSOKETI_DB_POSTGRES_PASSWORD=hush\n", []string{"soketi would take 3306"}},
		{"APP_MANAGER_DRIVER=scylladb\nADAPTER_DRIVER=local\n", []string{"APP_MANAGER_DRIVER (.env:1): Parley keeps apps itself, or in MySQL, MariaDB or PostgreSQL"}},
		{"APP_MANAGER_DRIVER=surrealdb\nDATABASE_SURREALDB_PASSWORD=hush\n", []string{"DATABASE_SURREALDB_PASSWORD (.env:2): Parley keeps apps itself"}},
		{"APP_MANAGER_DRIVER=mysql\nDATABASE_CONNECTION_POOL_SIZE=5\n", []string{"pooling is on"}},
	} {
		r := imported(t, Options{}, text(".env", c.file))
		got := strings.Join(notes(r, NoEffect), "\n")
		for _, part := range c.want {
			if !strings.Contains(got, part) {
				t.Errorf("no note with %q:\n%s", part, got)
			}
		}
		if strings.Contains(got, "hush") {
			t.Errorf("a note shows a password:\n%s", got)
		}
		if lines := notes(r, Unknown); len(lines) > 0 {
			t.Errorf("unknown: %v", lines)
		}
	}
}
