package importer

import (
	"slices"
	"strings"
)

// Sockudo and soketi keep apps in a table of MySQL or PostgreSQL, if they are told to. The rules for
// that stand here, in the notation of Sockudo.

const (
	whyAppCache   = "every Parley node has all apps in memory and learns of changes at once"
	whyNoDatabase = "the apps are not in this database: app_manager.driver is another one"
	whyOtherStore = "Parley keeps apps itself, or in MySQL, MariaDB or PostgreSQL: declare them in [[apps]], or " +
		"create them with \"parley app create\""
	whyVersion  = "Parley finds out which database it speaks with"
	whyCleanup  = "Parley reads apps again before they are too old"
	whyPoolSize = "pooling is on, so the bounds of the pool count"
)

// databases are those that apps can be in, by their name in the settings.
var databases = []string{"mysql", "postgres"}

// databaseRules are the rules for the table of apps.
func databaseRules() []rule {
	rules := []rule{
		takes("app_manager.driver", "app_store.driver", appDriver),
		takes("app_manager.cache.ttl", "app_store.cache_ttl", secondsOrNone),
	}
	rules = append(rules, under("database_pooling.enabled",
		takes("database_pooling.min", "app_store.pool_min", number),
		takes("database_pooling.max", "app_store.pool_max", number))...)
	rules = append(rules, takes("database.connection_pool_size", "app_store.pool_max", number))
	for _, name := range databases {
		of := "database." + name + "."
		rules = append(rules,
			takes(of+"host", "app_store.host", bareHost),
			takes(of+"port", "app_store.port", number),
			takes(of+"username", "app_store.user", nil), takes(of+"user", "app_store.user", nil),
			takes(of+"database", "app_store.database", nil),
			takes(of+"table_name", "app_store.table", nil), takes("app_manager."+name+".table", "app_store.table", nil),
			takes(of+"cache_ttl", "app_store.cache_ttl", secondsOrNone),
			takes(of+"cache_max_capacity", "app_store.cache_capacity", number))
		rules = append(rules, hidden([]rule{takes(of+"password", "app_store.password", nil)})...)
		rules = append(rules, under("database_pooling.enabled",
			takes(of+"pool_min", "app_store."+name+"_pool_min", number),
			takes(of+"pool_max", "app_store."+name+"_pool_max", number))...)
		rules = append(rules, lacks(whyCleanup, of+"cache_cleanup_interval")...)
		rules = append(rules, lacks(whyVersion, "app_manager."+name+".*")...)
		rules = append(rules, hidden(lacks("Parley's connection to a database has no such setting", of+"*"))...)
	}
	return together(rules,
		lacks("Parley keeps the apps in memory that it was asked for; app_store.cache_ttl says how soon a change of "+
			"another program is seen", "app_manager.cache.*"),
		lacks("it decides about the settings beside it", "database_pooling.enabled"),
		lacks("Parley's pool has no such setting", "database_pooling.*"),
		lacks(whyOtherStore, "app_manager.dynamodb.*", "database.dynamodb.*", "database.scylladb.*"),
		hidden(lacks(whyOtherStore, "database.surrealdb.*")))
}

// appDriver converts where apps are. The memory of Sockudo and the array of soketi have the apps of
// the file.
func appDriver(value any) (any, error) {
	switch name := strings.ToLower(strings.TrimSpace(textOf(value))); name {
	case "mysql":
		return "mysql", nil
	case "postgres", "pgsql", "postgresql":
		return "postgres", nil
	case "memory", "array":
		return nil, noEffect("the apps of the file are declared; further ones can be made with \"parley app create\"")
	}
	return nil, noEffect(whyOtherStore)
}

// secondsOrNone is in("s") for a number that means for ever if it is not positive.
func secondsOrNone(value any) (any, error) {
	if n, err := whole(value); err == nil && n <= 0 {
		return nil, noEffect("it means for ever, and Parley looks at least now and then: app_store.cache_ttl")
	}
	return in("s")(value)
}

// appDatabase returns the database that the apps are in, or nothing.
func (r *run) appDatabase() string {
	driver, err := appDriver(r.resolvedText("app_manager.driver"))
	if err != nil {
		return ""
	}
	return textOf(driver)
}

// deriveDatabase settles which database counts, and what it has where the files are silent: the
// defaults of the other program, not those of Parley.
func (r *run) deriveDatabase(defaults map[string]string) {
	chosen := r.appDatabase()
	pooling := r.isOn("database_pooling.enabled")
	for _, name := range databases {
		of := "database." + name + "."
		if size, ok := r.settings[of+"connection_pool_size"]; ok {
			delete(r.settings, size.name)
			if name == chosen || chosen == "" {
				size.label, size.name = size.shown(), "database.connection_pool_size"
				r.put(size)
			}
		}
		if name == chosen {
			continue
		}
		for _, setting := range slices.Clone(r.order) {
			if strings.HasPrefix(setting, of) && !strings.HasPrefix(setting, of+"pool_") || setting == "app_manager."+name+".table" {
				r.omit(setting, whyNoDatabase)
			}
		}
	}
	if pooling {
		r.omit("database.connection_pool_size", whyPoolSize)
	}
	if chosen == "" {
		r.dropUnder(whyAppCache, "app_manager.cache.")
		return
	}
	r.fillDatabase(chosen, defaults)
}

// fillDatabase gives the settings of a database their defaults. Both programs have MySQL's port for
// PostgreSQL, which nobody means.
func (r *run) fillDatabase(name string, defaults map[string]string) {
	driver := r.settings["app_manager.driver"]
	for _, key := range sortedPaths(defaults) {
		e := driver
		e.name = "database." + name + "." + key
		if key == "table" {
			e.name = "app_manager." + name + ".table"
		}
		other := e.name
		if key == "username" {
			other = "database." + name + ".user"
		}
		if r.get(e.name) == "" && r.get(other) == "" {
			e.label, e.value, e.quiet = r.system.title+"'s default", defaults[key], true
			r.put(e)
		}
	}
	if port := "database." + name + ".port"; name == "postgres" && r.get(port) == "" {
		driver.label = port
		r.note(driver, NoEffect, "", "is not set, and "+r.system.title+" would take 3306, the port of MySQL; Parley takes 5432")
	}
}
