package importer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/parleyio/parley/internal/config"
)

// syntax is the notation of a file.
type syntax int

const (
	syntaxEnv syntax = iota
	syntaxJSON
	syntaxYAML
	syntaxXML
	syntaxBalancer
)

// entry is one setting as a file holds it.
type entry struct {
	name  string // path such as "apps[0].id", or an environment variable
	label string // name as the file has it, if that is another one
	value any    // string or []string
	file  string // base name
	line  int
	env   bool // an environment variable
	quiet bool // derived from other settings: needs no note if it has no effect
	order int  // position among all entries
}

func (e entry) source() string {
	if e.line == 0 {
		return e.file
	}
	return e.file + ":" + strconv.Itoa(e.line)
}

// shown returns the name as the file has it.
func (e entry) shown() string {
	if e.label != "" {
		return e.label
	}
	return e.name
}

// text returns the value as one string; a list is separated by commas.
func (e entry) text() string {
	if list, ok := e.value.([]string); ok {
		return strings.Join(list, ",")
	}
	text, _ := e.value.(string)
	return text
}

// source is a decoded file.
type source struct {
	name     string
	syntax   syntax
	entries  []entry
	services []service // of a compose file
	problems config.Problems
}

// service is one service of a compose file with its environment.
type service struct {
	name    string
	image   string
	line    int
	entries []entry
}

// syntaxProblem is a mistake in the notation of a file. Its text repeats nothing of it.
func syntaxProblem(file string, line int, format string, args ...any) config.Problem {
	place := entry{file: file, line: line}
	return config.Problem{Key: "config", Source: place.source(), Err: fmt.Errorf(format, args...)}
}

// decode reads a file in the notation that its name and its first bytes suggest.
func decode(f File) (*source, error) {
	name := filepath.Base(f.Name)
	if len(f.Data) > MaxFile {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", name, ErrTooLarge, MaxFile)
	}
	if strings.HasSuffix(strings.ToLower(name), ".toml") {
		return nil, fmt.Errorf("%s: %w: TOML is Parley's own notation", name, ErrUnrecognised)
	}
	data := bytes.TrimPrefix(f.Data, []byte("\ufeff"))
	s := &source{name: name, syntax: syntaxOf(name, data)}
	if s.syntax != syntaxXML && !utf8.Valid(data) { // XML says its encoding itself
		return nil, config.Problems{syntaxProblem(name, 0, "is not valid UTF-8")}
	}
	var err error
	switch s.syntax {
	case syntaxJSON:
		err = decodeJSON(s, data)
	case syntaxYAML:
		err = decodeYAML(s, data)
	case syntaxXML:
		err = decodeXML(s, data)
	case syntaxEnv:
		decodeEnv(s, data)
	case syntaxBalancer:
	}
	for i := range s.entries {
		s.entries[i].env = s.syntax == syntaxEnv
	}
	if err != nil {
		var problem config.Problem
		if errors.As(err, &problem) {
			return nil, config.Problems{problem}
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// syntaxOf tells the notation of a file: first by what cannot be mistaken, then by its name.
func syntaxOf(name string, data []byte) syntax {
	lower := strings.ToLower(name)
	trimmed := bytes.TrimSpace(data)
	switch {
	case bytes.HasPrefix(trimmed, []byte("<")):
		return syntaxXML
	case bytes.HasPrefix(trimmed, []byte("{")):
		return syntaxJSON
	case strings.HasSuffix(lower, ".yaml"), strings.HasSuffix(lower, ".yml"):
		return syntaxYAML
	case isBalancer(trimmed):
		return syntaxBalancer
	case strings.HasSuffix(lower, ".env"), strings.HasPrefix(lower, ".env"):
		return syntaxEnv
	case looksLikeYAML(trimmed):
		return syntaxYAML
	}
	return syntaxEnv
}

// looksLikeYAML tells whether the first line that says something is "key:" or "- item".
func looksLikeYAML(data []byte) bool {
	for line := range bytes.Lines(data) {
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		colon, equals := strings.IndexByte(text, ':'), strings.IndexByte(text, '=')
		return text == "---" || strings.HasPrefix(text, "- ") || colon >= 0 && (equals < 0 || colon < equals)
	}
	return false
}

// add appends a setting.
func (s *source) add(name string, value any, line int) error {
	if len(s.entries) >= maxSettings {
		return fmt.Errorf("%w: more than %d settings", ErrTooLarge, maxSettings)
	}
	if err := fits(name); err != nil {
		return err
	}
	s.entries = append(s.entries, entry{name: name, value: value, line: line, file: s.name})
	return nil
}

// fits refuses the name of a setting or a table that is too long.
func fits(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("%w: a name has more than %d bytes", ErrTooLarge, maxName)
	}
	return nil
}

// maxDepth bounds how deep tables may nest.
const maxDepth = 50

// jsonReader walks the tokens of a JSON document, which keeps the lines of all values.
type jsonReader struct {
	source  *source
	decoder *json.Decoder
	breaks  []int // offsets of the line breaks
}

func decodeJSON(s *source, data []byte) error {
	r := &jsonReader{source: s, decoder: json.NewDecoder(bytes.NewReader(data))}
	for i, b := range data {
		if b == '\n' {
			r.breaks = append(r.breaks, i)
		}
	}
	r.decoder.UseNumber()
	if err := r.value("", 0); err != nil {
		return err
	}
	if _, err := r.decoder.Token(); !errors.Is(err, io.EOF) {
		return r.broken(errors.New("something follows the end of the document"))
	}
	return nil
}

func (r *jsonReader) line() int {
	return sort.SearchInts(r.breaks, int(r.decoder.InputOffset())) + 1
}

// broken explains why the document is no JSON. The decoder's own words name single
// characters only.
func (r *jsonReader) broken(err error) error {
	if errors.Is(err, ErrTooLarge) {
		return err
	}
	line := r.line()
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		line = sort.SearchInts(r.breaks, int(syntax.Offset)) + 1
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the document ends too early")
	}
	return syntaxProblem(r.source.name, line, "not valid JSON: %w", err)
}

// value reads what stands under path.
func (r *jsonReader) value(path string, depth int) error {
	if depth > maxDepth {
		return r.broken(errors.New("the tables nest too deep"))
	}
	if err := fits(path); err != nil {
		return err
	}
	token, err := r.decoder.Token()
	if err != nil {
		return r.broken(err)
	}
	line := r.line()
	switch token := token.(type) {
	case json.Delim:
		if token == '{' {
			return r.object(path, depth)
		}
		return r.array(path, line, depth)
	case nil:
		return nil // null is unset
	default:
		return r.source.add(path, scalar(token), line)
	}
}

func (r *jsonReader) object(path string, depth int) error {
	for r.decoder.More() {
		token, err := r.decoder.Token()
		if err != nil {
			return r.broken(err)
		}
		key, ok := token.(string)
		if !ok {
			return r.broken(errors.New("a key must be a string"))
		}
		if err := r.value(join(path, key), depth+1); err != nil {
			return err
		}
	}
	return r.end()
}

// array reads scalars into one list, and everything else under its index.
func (r *jsonReader) array(path string, line, depth int) error {
	first := len(r.source.entries)
	for i := 0; r.decoder.More(); i++ {
		if err := r.value(path+"["+strconv.Itoa(i)+"]", depth+1); err != nil {
			return err
		}
	}
	return errors.Join(r.end(), r.source.fold(path, first, line))
}

// end reads the delimiter that closes an object or an array.
func (r *jsonReader) end() error {
	if _, err := r.decoder.Token(); err != nil {
		return r.broken(err)
	}
	return nil
}

// fold makes one list of the entries path[0], path[1] and so on, if they are scalars.
func (s *source) fold(path string, first, line int) error {
	list := []string{}
	for i, e := range s.entries[first:] {
		text, ok := e.value.(string)
		if !ok || e.name != path+"["+strconv.Itoa(i)+"]" {
			return nil
		}
		list = append(list, text)
	}
	s.entries = s.entries[:first]
	return s.add(path, list, line)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// scalar returns the text of a decoded value.
func scalar(value any) string {
	switch value := value.(type) {
	case string:
		return value
	case bool:
		return strconv.FormatBool(value)
	case json.Number:
		return value.String()
	}
	return fmt.Sprint(value)
}

// sortedPaths returns the keys in the order of their bytes.
func sortedPaths[V any](m map[string]V) []string {
	paths := make([]string, 0, len(m))
	for path := range m {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}
