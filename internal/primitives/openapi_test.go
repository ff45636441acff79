package primitives

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"go.yaml.in/yaml/v3"
)

// contract is the OpenAPI document, to which every exchange of every test is held.
var contract = sync.OnceValues(func() (*openapi3.T, error) {
	loader := openapi3.NewLoader()
	d, err := loader.LoadFromData(openAPI)
	if err == nil {
		err = d.Validate(loader.Context)
	}
	return d, err
})

// routeOf returns the operation for a request, and the parameters in its path.
func routeOf(d *openapi3.T, r *http.Request) (*routers.Route, map[string]string, error) {
	given := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), strings.TrimSuffix(PathPrefix, "/")), "/")
	for path, item := range d.Paths.Map() {
		parts, parameters := strings.Split(path, "/"), map[string]string{}
		fits := len(parts) == len(given)
		for i := 0; fits && i < len(parts); i++ {
			if name, found := strings.CutPrefix(parts[i], "{"); found {
				value, err := url.PathUnescape(given[i])
				if err != nil {
					return nil, nil, err
				}
				parameters[strings.TrimSuffix(name, "}")] = value
			} else {
				fits = parts[i] == given[i]
			}
		}
		if operation := item.GetOperation(r.Method); fits && operation != nil {
			return &routers.Route{Spec: d, Path: path, PathItem: item, Method: r.Method, Operation: operation}, parameters, nil
		}
	}
	return nil, nil, fmt.Errorf("%s %s is not in the document", r.Method, r.URL.EscapedPath())
}

// conforms checks an exchange: the answer in any case, the request if it was accepted.
func conforms(t *testing.T, request *http.Request, sent []byte, answer *http.Response, got []byte) {
	t.Helper()
	d, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	route, parameters, err := routeOf(d, request)
	if err != nil {
		t.Error(err)
		return
	}
	copied := request.Clone(request.Context())
	copied.Body, copied.ContentLength = io.NopCloser(bytes.NewReader(sent)), int64(len(sent))
	if len(sent) == 0 {
		copied.Body = nil
	}
	copied.Header.Set("Content-Type", "application/json")
	if request.Method == http.MethodPut && strings.HasPrefix(route.Path, "/cache/") {
		copied.Header.Set("Content-Type", "application/octet-stream")
	}
	input := &openapi3filter.RequestValidationInput{
		Request: copied, PathParams: parameters, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true},
	}
	if answer.StatusCode < 300 {
		if err := openapi3filter.ValidateRequest(request.Context(), input); err != nil {
			t.Errorf("request %s %s is not as documented: %v\n%s", request.Method, request.URL.Path, err, sent)
		}
	}
	output := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: answer.StatusCode, Header: answer.Header, Options: input.Options,
	}
	if len(got) > 0 {
		output.SetBodyBytes(got)
	}
	if err := openapi3filter.ValidateResponse(request.Context(), output); err != nil {
		t.Errorf("answer to %s %s is not as documented: %v\n%s", request.Method, request.URL.Path, err, got)
	}
}

// The document is right by itself.
func TestOpenAPIDocument(t *testing.T) {
	d, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	if d.OpenAPI != "3.1.0" {
		t.Errorf("version %s", d.OpenAPI)
	}
}

// Every route is in the document, and the other way round.
func TestOpenAPIRoutes(t *testing.T) {
	var document struct {
		Paths map[string]map[string]map[string]any `yaml:"paths"`
	}
	if err := yaml.Unmarshal(openAPI, &document); err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{} // whether a key is needed
	for path, methods := range document.Paths {
		for method, operation := range methods {
			_, open := operation["security"]
			documented[strings.ToUpper(method)+" "+strings.TrimPrefix(path, "/")] = !open
		}
	}
	served := map[string]bool{}
	for path, endpoints := range newRig(t, 1, nil).nodes[0].paths() {
		for method, e := range endpoints {
			served[method+" "+path] = !e.open
		}
	}
	if !maps.Equal(documented, served) {
		t.Errorf("documented are %q,\nserved are %q", slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(served)))
	}
}

// Every code of a failure is in the document.
func TestOpenAPICodes(t *testing.T) {
	var document struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct {
					Properties map[string]struct{ Enum []string }
				}
			}
		}
	}
	if err := yaml.Unmarshal(openAPI, &document); err != nil {
		t.Fatal(err)
	}
	documented := document.Components.Schemas["Failure"].Properties["error"].Properties["code"].Enum
	var codes []string
	for _, p := range []problem{
		problemInvalid, problemUnauthorized, problemForbidden, problemNotFound, problemMethod, problemConflict, problemLocked,
		problemLost, problemNotCounter, problemTooManyQueues, problemNoWorker, problemBusy, problemTooLarge, problemMismatch,
		problemRate, problemInternal, problemUnsupported, problemUnavailable, problemStarting, problemFull, problemClock,
	} {
		codes = append(codes, p.code)
		if text := string(openAPI); !strings.Contains(text, "`"+p.code+"`") {
			t.Errorf("code %s is not explained", p.code)
		}
	}
	wantList(t, "codes", documented, codes...)
}

// Both forms are served to everybody, and say the same.
func TestOpenAPIServed(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	get := func(path, contentType string) []byte {
		t.Helper()
		answer, err := http.Get(n.http.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = answer.Body.Close() }()
		text, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != 200 || answer.Header.Get("Content-Type") != contentType {
			t.Fatalf("%s: %s %s, %v", path, answer.Status, answer.Header.Get("Content-Type"), err)
		}
		return text
	}
	if text := get("/v1/openapi.yaml", "application/yaml"); !bytes.Equal(text, openAPI) {
		t.Error("the YAML is another")
	}
	var tree map[string]any
	if err := json.Unmarshal(get("/v1/openapi.json", "application/json"), &tree); err != nil || tree["openapi"] != "3.1.0" {
		t.Errorf("the JSON is %v, %v", tree["openapi"], err)
	}
}
