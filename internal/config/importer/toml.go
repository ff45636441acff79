package importer

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/parleyio/parley/internal/config"
)

// header explains a written file.
const header = `# Parley's configuration, imported from %s: %s.
# It may hold secrets. What stands behind a # has no effect; the end of the file says why.
`

// TOML returns the options as a file that Parley loads: values with the setting that each
// comes from, then as comments every setting that has no effect with the reason. It holds
// the secrets that were carried over.
func (r *Result) TOML() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, header, r.System, strings.Join(r.Files, ", "))
	r.writeOptions(&b)
	r.writeApps(&b)
	r.writeNotes(&b)
	return b.Bytes()
}

// inOrder returns the values that are set, in the order of the declarations.
func (r *Result) inOrder() []assignment {
	position := map[string]int{}
	for i, d := range config.Declarations() {
		position[d.Table+"/"+d.Key] = i
	}
	var all []assignment
	for _, path := range sortedPaths(r.set) {
		if r.set[path].waiting == "" {
			all = append(all, r.set[path])
		}
	}
	at := func(a assignment) int { return position[a.target.declared.Table+"/"+a.target.declared.Key] }
	slices.SortStableFunc(all, func(a, b assignment) int { return cmp.Compare(at(a), at(b)) })
	return all
}

func (r *Result) writeOptions(b *bytes.Buffer) {
	group := ""
	for i, a := range r.inOrder() {
		if a.target.declared.Table != "" {
			continue
		}
		table, _, found := strings.Cut(a.target.declared.Key, ".")
		if !found {
			table = ""
		}
		switch {
		case table != group:
			group = table
			fmt.Fprintf(b, "\n[%s]\n", table)
		case i == 0:
			b.WriteString("\n")
		}
		writeValue(b, a)
	}
}

// writeApps writes the tables of apps and their webhooks.
func (r *Result) writeApps(b *bytes.Buffer) {
	inside := map[string][]assignment{} // by the path of the table
	var tables []string
	for _, a := range r.inOrder() {
		at := webhookPath.FindString(a.path)
		if at == "" {
			at = appPath.FindString(a.path)
		}
		if at == "" {
			continue
		}
		if inside[at] == nil {
			tables = append(tables, at)
		}
		inside[at] = append(inside[at], a)
	}
	slices.SortFunc(tables, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
	for _, table := range tables {
		fmt.Fprintf(b, "\n[[%s]]\n", inside[table][0].target.declared.Table)
		for _, a := range inside[table] {
			writeValue(b, a)
		}
	}
}

// numbers returns the indexes of a path, so that [10] comes after [9].
func numbers(path string) []int {
	_, found := patternOf(path)
	return found
}

func writeValue(b *bytes.Buffer, a assignment) {
	key, kind := a.target.declared.Key, a.target.declared.Kind
	if a.target.declared.Table == "" {
		key = key[strings.LastIndexByte(key, '.')+1:]
	}
	if a.target.free != "" {
		key, kind = key+"."+quote(a.target.free), "string"
	}
	fmt.Fprintf(b, "%s = %s # %s\n", key, literal(a.value, kind), comment(a.from.shown()+", "+a.from.source()))
}

// writeNotes writes what has no effect.
func (r *Result) writeNotes(b *bytes.Buffer) {
	sections := []struct {
		outcome Outcome
		title   string
	}{
		{Missing, "Parley needs these too; the files cannot say them:"},
		{Waiting, "No effect yet, because this version lacks the option:"},
		{Unknown, "Unknown settings:"},
		{NoEffect, "No effect:"},
	}
	for _, section := range sections {
		if r.Count(section.outcome) == 0 {
			continue
		}
		fmt.Fprintf(b, "\n# %s\n#\n", section.title)
		for _, n := range r.Notes {
			if n.Outcome == section.outcome {
				r.writeNote(b, n)
			}
		}
	}
}

func (r *Result) writeNote(b *bytes.Buffer, n Note) {
	a, kept := r.set[n.Option]
	switch {
	case n.Outcome == Waiting && kept:
		fmt.Fprintf(b, "# %s = %s # %s\n", n.Option, literal(a.value, ""), comment(n.String()))
	case n.shown != "":
		fmt.Fprintf(b, "# %s = %s (%s): %s\n", comment(n.Name), n.shown, comment(n.Source), comment(n.Text))
	default:
		fmt.Fprintf(b, "# %s\n", comment(n.String()))
	}
}

// literal writes a value in TOML.
func literal(value any, kind string) string {
	if list, ok := value.([]string); ok {
		items := make([]string, len(list))
		for i := range list {
			items[i] = quote(list[i])
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	text := textOf(value)
	if kind == "number" || kind == "" {
		if n, err := strconv.Atoi(text); err == nil {
			return strconv.Itoa(n)
		}
	}
	if kind == "bool" || kind == "" {
		if text == "true" || text == "false" {
			return text
		}
	}
	if kind == "list" || kind == "addresses" {
		return literal(listOf(text), kind)
	}
	return quote(text)
}

// quote writes a basic string of TOML. Its escapes are those of JSON, which lets DEL stand.
func quote(text string) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(text); err != nil {
		return `""` // a string always encodes
	}
	return strings.ReplaceAll(strings.TrimSuffix(b.String(), "\n"), "\x7f", `\u007f`)
}

// comment makes a text fit to stand in one line of a comment.
func comment(text string) string {
	quoted := quote(text)
	return strings.ReplaceAll(strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`), `\\`, `\`)
}
