package config

import "slices"

// Names of the tables that Declared.Table holds beside the empty name of Config itself.
const (
	AppsTable     = appsKey
	WebhooksTable = appsKey + "." + webhooksKey
	KeysTable     = keysKey
)

// Declared is what the declaration of a key says, for programs that write configurations.
type Declared struct {
	Table   string // "" for an option, AppsTable, WebhooksTable or KeysTable
	Key     string // below the table, such as "channels.port" or "secret"
	Kind    string // such as "number" or "duration", as on the reference page
	List    bool   // several values
	Private bool   // the value must never be shown

	check func(raw) error
}

// Check tells whether a value is allowed: a string in the notation of the environment, a
// []string for a list or a map[string]string for a table. The error shows no secret. A
// Declared that Declarations did not return allows everything.
func (d Declared) Check(value any) error {
	if d.check == nil {
		return nil
	}
	r := raw{value: value, plain: true}
	switch value := value.(type) {
	case []string:
		items := make([]any, len(value))
		for i := range value {
			items[i] = value[i]
		}
		r = raw{value: items}
	case map[string]string:
		table := map[string]any{}
		for name := range value {
			table[name] = value[name]
		}
		r = raw{value: table}
	}
	return d.check(r)
}

// Declarations returns every key of every table in the order of the reference page.
func Declarations() []Declared {
	return slices.Concat(
		declared("", options), declared(AppsTable, appFields), declared(WebhooksTable, webhookFields),
		declared(KeysTable, keyFields))
}

func declared[S any](table string, fields []field[S]) []Declared {
	out := make([]Declared, len(fields))
	for i, f := range fields {
		out[i] = Declared{
			Table: table, Key: f.key, Kind: f.kind, List: f.list, Private: f.private,
			check: func(r raw) error {
				var scratch S
				if err := f.set(&scratch, r); err != nil {
					return f.explain(err, r)
				}
				return nil
			},
		}
	}
	return out
}

// Imported is a configuration in TOML that was made from files of another system. It
// stands in for the file of Sources.
type Imported struct {
	Name   string                   // names the files in messages
	TOML   []byte                   // the options
	Source func(path string) string // place in the files that a path, such as "apps[0].key", comes from
}

// imported applies a configuration that was made from foreign files.
func (l *loader) imported(from *Imported) {
	l.summary.FileName = from.Name
	d, err := parseDocument(from.Name, from.TOML)
	if err != nil {
		l.unreadable(from.Name, err)
		return
	}
	d.origin = from.Source
	l.document(d)
}

// Nearest returns the known name that takes the fewest edits to become name, and how many.
func Nearest(name string, known []string) (nearest string, edits int) {
	for _, k := range known {
		if n := distance(name, k); nearest == "" || n < edits {
			nearest, edits = k, n
		}
	}
	return nearest, edits
}
