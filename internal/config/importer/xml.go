package importer

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// xmlWalker reads the elements of a document in which settings are elements, attributes and
// <parameter name="…">.
type xmlWalker struct {
	source  *source
	decoder *xml.Decoder
	counts  map[string]int // how often an element of a list was seen
}

// xmlLists are the elements that may stand several times under the same parent.
var xmlLists = map[string]bool{"member": true, "Connector": true, "Role": true, "applicationDomain": true}

func decodeXML(s *source, data []byte) error {
	w := &xmlWalker{source: s, decoder: xml.NewDecoder(bytes.NewReader(data)), counts: map[string]int{}}
	w.decoder.CharsetReader = charset
	for {
		token, err := w.decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return w.broken(err)
		}
		if start, ok := token.(xml.StartElement); ok {
			if err := w.element("", start, 0); err != nil {
				return err
			}
		}
	}
}

// broken explains why the document is no XML, without repeating any of it.
func (w *xmlWalker) broken(err error) error {
	if errors.Is(err, ErrTooLarge) {
		return err
	}
	line, _ := w.decoder.InputPos()
	var syntax *xml.SyntaxError
	if errors.As(err, &syntax) {
		line = syntax.Line
	}
	return syntaxProblem(w.source.name, line, "not valid XML")
}

// element reads an element with everything inside.
func (w *xmlWalker) element(path string, start xml.StartElement, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: the elements nest too deep", ErrTooLarge)
	}
	line, _ := w.decoder.InputPos()
	path = w.name(path, start)
	if err := fits(path); err != nil {
		return err
	}
	for _, a := range start.Attr {
		if err := w.attribute(path, start, a, line); err != nil {
			return err
		}
	}
	text, children := "", false
	for {
		token, err := w.decoder.Token()
		if err != nil {
			return w.broken(err)
		}
		switch token := token.(type) {
		case xml.CharData:
			text += string(token)
		case xml.StartElement:
			children = true
			if err := w.element(path, token, depth+1); err != nil {
				return err
			}
		case xml.EndElement:
			if children || start.Name.Local == "property" {
				return nil
			}
			return w.source.add(path, strings.TrimSpace(text), line)
		}
	}
}

// attribute adds an attribute, unless it is a part of the element's name or says nothing.
func (w *xmlWalker) attribute(path string, start xml.StartElement, a xml.Attr, line int) error {
	key := a.Name.Local
	if key == "xmlns" || a.Name.Space == "xmlns" || strings.HasPrefix(key, "xsi") {
		return nil
	}
	named := start.Name.Local == "parameter" || start.Name.Local == "property"
	switch {
	case named && (key == "name" || key == "locked"):
		return nil
	case start.Name.Local == "property" && key == "value":
		return w.source.add(path, a.Value, line)
	}
	return w.source.add(path+"@"+key, a.Value, line)
}

// name returns the path of an element. A parameter or property is called by its name.
func (w *xmlWalker) name(parent string, start xml.StartElement) string {
	key := start.Name.Local
	if key == "parameter" || key == "property" {
		for _, a := range start.Attr {
			if a.Name.Local == "name" {
				key = a.Value
			}
		}
	}
	path := join(parent, key)
	if xmlLists[key] {
		n := w.counts[path]
		w.counts[path] = n + 1
		path += "[" + strconv.Itoa(n) + "]"
	}
	return path
}

// charset reads the encodings that configurations declare besides UTF-8.
func charset(label string, in io.Reader) (io.Reader, error) {
	switch strings.ToLower(label) {
	case "us-ascii", "ascii":
		return in, nil
	case "iso-8859-1", "latin1", "windows-1252":
		data, err := io.ReadAll(in)
		if err != nil {
			return nil, err
		}
		var out strings.Builder
		for _, b := range data {
			out.WriteRune(rune(b)) // the first 256 characters of Unicode are those of ISO 8859-1
		}
		return strings.NewReader(out.String()), nil
	}
	return nil, errors.New("unknown encoding")
}
