package importer

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

var yamlLine = regexp.MustCompile(`line ([0-9]+)`)

// decodeYAML reads a YAML document. In a compose file each service has its own settings.
func decodeYAML(s *source, data []byte) error {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		line := 0
		if match := yamlLine.FindStringSubmatch(err.Error()); match != nil {
			line, _ = strconv.Atoi(match[1])
		}
		return syntaxProblem(s.name, line, "not valid YAML") // its own words may repeat a value
	}
	if len(document.Content) == 0 {
		return nil
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return syntaxProblem(s.name, root.Line, "is no table of settings")
	}
	w := &yamlWalker{source: s}
	if services := child(root, "services"); services != nil && services.Kind == yaml.MappingNode {
		return w.compose(services)
	}
	if isEnvironment(root) {
		return w.compose(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Value: ""}, root}})
	}
	if isServices(root) {
		return w.compose(root)
	}
	return w.value("", root, 0)
}

// yamlWalker reads nodes into a source. It counts the nodes, because aliases multiply them.
type yamlWalker struct {
	source *source
	nodes  int
}

func (w *yamlWalker) value(path string, n *yaml.Node, depth int) error {
	if w.nodes++; w.nodes > maxSettings || depth > maxDepth {
		return fmt.Errorf("%w: too many values, or nested too deep", ErrTooLarge)
	}
	if err := fits(path); err != nil {
		return err
	}
	switch n.Kind {
	case yaml.AliasNode:
		return w.value(path, n.Alias, depth+1)
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if err := w.value(join(path, n.Content[i].Value), n.Content[i+1], depth+1); err != nil {
				return err
			}
		}
	case yaml.SequenceNode:
		first := len(w.source.entries)
		for i, item := range n.Content {
			if err := w.value(path+"["+strconv.Itoa(i)+"]", item, depth+1); err != nil {
				return err
			}
		}
		return w.source.fold(path, first, n.Line)
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return nil
		}
		return w.source.add(path, n.Value, n.Line)
	}
	return nil
}

// child returns the value of a key, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// isEnvironment tells whether a document is a part of a compose file: an environment alone.
func isEnvironment(root *yaml.Node) bool { return child(root, "environment") != nil }

// isServices tells whether a document is what stands under services in a compose file.
func isServices(root *yaml.Node) bool {
	for i := 1; i < len(root.Content); i += 2 {
		if child(root.Content[i], "image") == nil && child(root.Content[i], "environment") == nil &&
			child(root.Content[i], "command") == nil {
			return false
		}
	}
	return len(root.Content) > 0
}

// compose reads the environment of every service.
func (w *yamlWalker) compose(services *yaml.Node) error {
	for i := 0; i+1 < len(services.Content); i += 2 {
		key, body := services.Content[i], services.Content[i+1]
		found := service{name: key.Value, line: key.Line}
		if image := child(body, "image"); image != nil {
			found.image = image.Value
		}
		first := len(w.source.entries)
		if environment := child(body, "environment"); environment != nil {
			if err := w.environment(environment); err != nil {
				return err
			}
		}
		for _, e := range w.source.entries[first:] {
			e.env = true
			found.entries = append(found.entries, e)
		}
		w.source.entries = w.source.entries[:first]
		w.source.services = append(w.source.services, found)
	}
	return nil
}

// environment reads a table of variables, or a list of NAME=value.
func (w *yamlWalker) environment(n *yaml.Node) error {
	first := len(w.source.entries)
	if err := w.value("", n, 0); err != nil {
		return err
	}
	entries := w.source.entries[first:]
	w.source.entries = w.source.entries[:first]
	for _, e := range entries {
		list, isList := e.value.([]string)
		if !isList {
			if err := w.source.add(e.name, e.value, e.line); err != nil {
				return err
			}
			continue
		}
		for i, item := range list {
			name, value, ok := strings.Cut(item, "=")
			if !ok || name == "" {
				continue // taken from the environment of compose, which nobody knows here
			}
			if err := w.source.add(name, value, e.line+i); err != nil {
				return err
			}
		}
	}
	return nil
}
