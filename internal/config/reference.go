package config

import (
	"fmt"
	"strings"
)

const referenceIntro = `# Configuration

Every option has one key. It is set in the file as TOML, in the environment under the name
given below, or by a flag that is the key itself (` + "`--channels.port 7001`" + `). Flags win over
the environment, the environment over the file, the file over the defaults. The file is named by
` + "`--config`" + ` or ` + "`PARLEY_CONFIG`" + `. An unknown key, variable or value is an error.

- A duration has a unit (` + "`500ms`, `30s`, `5m`, `1h`" + `), and so has a size (` +
	"`512B`, `64KiB`, `10MB`" + `).
- A list in the environment or in a flag is separated by commas.
- A bool is true or false; 1 and 0, yes and no, on and off mean the same.
- Kubernetes sets variables for each service of a namespace. With a service that is named
  ` + "`parley`" + ` they look like options: set ` + "`enableServiceLinks: false`" + ` in the pod.

` + "`parley config check`" + ` reports every mistake of a configuration.
` + "`parley config default`" + ` prints a file with all defaults.
` + "`parley config import`" + ` writes a file from the configuration of
[another server](../guides/importing.md); ` + "`--config`" + ` takes such files as well.
`

const appsIntro = `
## apps

Apps and their webhooks are declared in the file only, each in a table of its own.

` + "```toml" + `
` + appsExample + "```" + `
`

const keysIntro = `
## primitives.keys

Keys of the [primitives](../guides/primitives.md) that are declared in the file, beside those that
` + "`parley key create`" + ` makes. A scope is an area or area:action, with =name for one name or, with a
` + "`*`" + ` at its end, those that begin so. ` + "`*`" + ` alone is everything.

` + "```toml" + `
` + keysExample + "```" + `
`

const keysExample = `[[primitives.keys]]
id = "shop"
namespace = "shop"
token = "change-me-0123456789"
scopes = ["cache", "locks=deploy-*", "queues:publish=mail"]
`

const appsExample = `[[apps]]
id = "shop"
key = "shop-key"
secret = "change-me"

[[apps.webhooks]]
url = "https://shop.example.com/hooks"
event_types = ["channel_occupied", "channel_vacated"]
`

// Reference returns the reference page of all options in Markdown.
func Reference() string {
	var b strings.Builder
	b.WriteString(referenceIntro)
	group := "-"
	for _, f := range options {
		if g := groupOf(f.key); g != group {
			group = g
			b.WriteString("\n## " + heading(group) + "\n\n")
			b.WriteString("| Key | Environment | Value | Default | Meaning |\n")
			b.WriteString("|---|---|---|---|---|\n")
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s |\n",
			f.key, f.environment(), cell(f.kind), shownDefault(f), cell(f.doc))
	}
	writeForeign(&b)
	b.WriteString(appsIntro)
	writeTables(&b, "apps", appFields, requiredAppKeys)
	writeTables(&b, "apps.webhooks", webhookFields, requiredWebhookKeys)
	b.WriteString(keysIntro)
	writeTables(&b, keysKey, keyFields, requiredKeyKeys)
	return b.String()
}

const foreignIntro = `
## Variables of other programs

These set an option where its own variable is not set. A number alone has the unit.

| Variable | Unit | Key |
|---|---|---|
`

// writeForeign writes the variables that are not Parley's own.
func writeForeign(b *strings.Builder) {
	b.WriteString(foreignIntro)
	for _, f := range options {
		for _, other := range f.others {
			unit := other.unit
			if unit == "" {
				unit = "none"
			}
			fmt.Fprintf(b, "| `%s` | %s | `%s` |\n", other.name, unit, f.key)
		}
	}
}

// writeTables writes the keys of [[name]] tables.
func writeTables[S any](b *strings.Builder, name string, fields []field[S], required []string) {
	fmt.Fprintf(b, "\n### `[[%s]]`\n\n", name)
	b.WriteString("| Key | Value | Default | Meaning |\n|---|---|---|---|\n")
	for _, f := range fields {
		shown := shownDefault(f)
		for _, key := range required {
			if key == f.key {
				shown = "required"
			}
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", f.key, cell(f.kind), shown, cell(f.doc))
	}
}

// groupOf returns the table that a key lies in, which is empty at the top level.
func groupOf(key string) string {
	group, _, found := strings.Cut(key, ".")
	if !found {
		return ""
	}
	return group
}

func heading(group string) string {
	if group == "" {
		return "top level"
	}
	return group
}

func shownDefault[S any](f field[S]) string {
	if f.preset == "" {
		return "none"
	}
	return "`" + f.preset + "`"
}

// cell escapes what would end a cell of a Markdown table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// DefaultFile returns a TOML file that sets every option to its default, each under a
// comment with its meaning and the name of its environment variable.
func DefaultFile() string {
	var b strings.Builder
	b.WriteString("# Every option of Parley with its default.\n")
	group := ""
	for _, f := range options {
		if g := groupOf(f.key); g != group {
			group = g
			fmt.Fprintf(&b, "\n[%s]\n", group)
		}
		fmt.Fprintf(&b, "\n# %s\n# %s (%s)\n", f.doc, f.environment(), f.kind)
		fmt.Fprintf(&b, "%s = %s\n", lastPart(f.key), f.literal(f.preset))
	}
	b.WriteString("\n# Apps are declared here, each in a table of its own.\n#\n")
	for line := range strings.Lines(appsExample) {
		b.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
	}
	return b.String()
}
