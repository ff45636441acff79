package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFile bounds the size of a configuration file in bytes.
const maxFile = 16 << 20

// document is a decoded configuration file that remembers on which line each path stands.
// A path is a key with its tables and indexes, such as "apps[0].webhooks[1].url".
type document struct {
	name   string
	root   map[string]any
	lines  map[string]int
	origin func(path string) string // names the place instead, if it was imported
}

// readDocument reads and decodes a file. The error names no value of the file.
func readDocument(name string) (*document, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("the file is larger than %d bytes", maxFile)
	}
	return parseDocument(name, data)
}

// syntaxError is a mistake in the notation of a file.
type syntaxError struct {
	line int
	text string
}

func (e syntaxError) Error() string { return e.text }

// quotedInput matches the pieces of the document that the decoder repeats in its messages.
// They are dropped because they may belong to a secret.
var quotedInput = regexp.MustCompile(`( but got| ?:)? ?U\+[0-9A-F]+( '.*')?|: strconv.*`)

func parseDocument(name string, data []byte) (*document, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // some editors put a byte order mark first
	d := &document{name: name}
	err := toml.Unmarshal(data, &d.root)
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		line, column := decode.Position()
		message := strings.TrimPrefix(decode.Error(), "toml: ")
		message = quotedInput.ReplaceAllString(message, "")
		return nil, syntaxError{line, fmt.Sprintf("not valid TOML: %s (column %d)", message, column)}
	}
	if err != nil {
		return nil, errors.New("not valid TOML")
	}
	d.lines = findLines(data)
	return d, nil
}

// source names the place of a path, or of the nearest table around it.
func (d *document) source(path string) string {
	if d.origin != nil {
		return d.origin(path)
	}
	if line := d.line(path); line > 0 {
		return d.name + ":" + strconv.Itoa(line)
	}
	return d.name
}

func (d *document) line(path string) int {
	for path != "" {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0
}

// keys returns the keys of a table in the order of the file.
func (d *document) keys(path string, table map[string]any) []string {
	keys := slices.Sorted(maps.Keys(table))
	sort.SliceStable(keys, func(i, j int) bool {
		return d.line(join(path, keys[i])) < d.line(join(path, keys[j]))
	})
	return keys
}

var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// join appends a key to a path. A key that holds other characters is quoted, so that the
// single key "channels.port" is not taken for port in channels.
func join(path, key string) string {
	if !bareKey.MatchString(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// index appends the index of an array to a path.
func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// lineFinder walks the syntax tree of a document and notes the line of each path.
type lineFinder struct {
	breaks   []int          // offsets of the line breaks
	lines    map[string]int // path to line
	elements map[string]int // path of an array of tables to the number of its tables so far
}

func findLines(data []byte) map[string]int {
	f := &lineFinder{lines: map[string]int{}, elements: map[string]int{}}
	for i, b := range data {
		if b == '\n' {
			f.breaks = append(f.breaks, i)
		}
	}
	parser := unstable.Parser{}
	parser.Reset(data)
	table := ""
	for parser.NextExpression() {
		expression := parser.Expression()
		switch expression.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = f.header(expression)
		case unstable.KeyValue:
			f.keyValue(table, expression)
		}
	}
	return f.lines
}

// note keeps the first line on which a path stands.
func (f *lineFinder) note(path string, offset uint32) {
	if _, ok := f.lines[path]; !ok {
		f.lines[path] = sort.SearchInts(f.breaks, int(offset)) + 1
	}
}

// header notes a [table] or [[table]] and returns its path.
func (f *lineFinder) header(n *unstable.Node) string {
	path := ""
	for keys := n.Key(); keys.Next(); {
		key := keys.Node()
		path = join(path, string(key.Data))
		f.note(path, key.Raw.Offset)
		if n.Kind == unstable.ArrayTable && keys.IsLast() {
			f.elements[path]++
		}
		if count := f.elements[path]; count > 0 {
			path = index(path, count-1)
			f.note(path, key.Raw.Offset)
		}
	}
	return path
}

// keyValue notes a key, which may be dotted, and everything inside its value.
func (f *lineFinder) keyValue(path string, n *unstable.Node) {
	offset := uint32(0)
	for keys := n.Key(); keys.Next(); {
		key := keys.Node()
		path = join(path, string(key.Data))
		offset = key.Raw.Offset
		f.note(path, offset)
	}
	f.value(path, offset, n.Value())
}

// value notes the elements of an array or inline table. The offset is that of its key.
func (f *lineFinder) value(path string, offset uint32, n *unstable.Node) {
	switch n.Kind {
	case unstable.InlineTable:
		for children := n.Children(); children.Next(); {
			f.keyValue(path, children.Node())
		}
	case unstable.Array:
		i := 0
		for children := n.Children(); children.Next(); i++ {
			child := children.Node()
			if child.Kind != unstable.Array { // an array has no place of its own
				offset = child.Raw.Offset
			}
			f.note(index(path, i), offset)
			f.value(index(path, i), offset, child)
		}
	}
}
