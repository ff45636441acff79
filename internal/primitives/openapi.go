package primitives

import (
	_ "embed" // the document
	"encoding/json"
	"fmt"
	"net/http"

	"go.yaml.in/yaml/v3"
)

//go:embed openapi.yaml
var openAPI []byte

// document is the OpenAPI 3.1 document in both forms.
type document struct{ yaml, json []byte }

func readDocument() (document, error) {
	var tree any
	if err := yaml.Unmarshal(openAPI, &tree); err != nil {
		return document{}, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	text, err := json.Marshal(tree)
	if err != nil {
		return document{}, fmt.Errorf("write the OpenAPI document as JSON: %w", err)
	}
	return document{yaml: openAPI, json: text}, nil
}

// openAPIJSON answers GET openapi.json.
func (s *Server) openAPIJSON(*request) (answer, error) {
	return s.document.answer("application/json", s.document.json)
}

// openAPIYAML answers GET openapi.yaml.
func (s *Server) openAPIYAML(*request) (answer, error) {
	return s.document.answer("application/yaml", s.document.yaml)
}

func (document) answer(contentType string, text []byte) (answer, error) {
	return answer{status: http.StatusOK, body: text, header: http.Header{"Content-Type": {contentType}}}, nil
}
