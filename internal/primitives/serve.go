package primitives

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxBody is the size in bytes of the largest body: a value in base64 with what is around it.
	maxBody = 1 << 20
	// requestTimeout bounds what does not wait for something to come.
	requestTimeout = 10 * time.Second
	// maxWait bounds what does.
	maxWait = time.Minute
	// slotWait is how long a request waits until fewer others are done.
	slotWait = time.Second
)

// request is a request whose bearer was let in.
type request struct {
	*http.Request
	key  *Key
	body []byte
}

// answer is what a request is answered. The body is encoded as JSON, unless it is []byte; nil is
// none.
type answer struct {
	status int
	body   any
	header http.Header // beside those that every answer has; may be nil
}

// endpoint is what one method of one path does.
type endpoint struct {
	area, action string // of the scope that it needs
	named        string // the part of the path that is the name in that scope; empty if it checks itself
	open         bool   // for everybody
	waits        bool   // for something to come
	serve        func(*request) (answer, error)
	stream       func(http.ResponseWriter, *request) error // instead of serve; an error was not answered yet
}

// methods are the endpoints of one path.
type methods map[string]endpoint

// routes adds every path.
func (s *Server) routes() {
	s.mux = http.NewServeMux()
	for path, endpoints := range s.paths() {
		s.mux.HandleFunc(PathPrefix+path, func(w http.ResponseWriter, r *http.Request) {
			s.dispatch(w, r, path, endpoints)
		})
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, "unknown", fail(problemNotFound, "there is nothing at this path"))
	})
}

// paths returns every path below PathPrefix.
func (s *Server) paths() map[string]methods {
	all := map[string]methods{
		"openapi.json": {http.MethodGet: {open: true, serve: s.openAPIJSON}},
		"openapi.yaml": {http.MethodGet: {open: true, serve: s.openAPIYAML}},
		"roles":        {http.MethodGet: {serve: s.getRoles}},
	}
	for _, group := range []map[string]methods{
		s.cachePaths(), s.signalPaths(), s.queuePaths(), s.lockPaths(), s.idPaths(),
	} {
		for path, endpoints := range group {
			all[path] = endpoints
		}
	}
	return all
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	s.mux.ServeHTTP(w, r)
}

// dispatch does one request.
func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, path string, endpoints methods) {
	e, found := endpoints[r.Method]
	if !found {
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(endpoints)), ", "))
		s.fail(w, path, fail(problemMethod, "this path does not have method %.20s", r.Method))
		return
	}
	route := r.Method + " " + path
	request, done, err := s.admit(w, r, e)
	if err != nil {
		s.fail(w, route, err)
		return
	}
	defer done()
	if e.stream != nil {
		if err := e.stream(w, request); err != nil {
			s.fail(w, route, err)
		}
		return
	}
	result, err := s.do(request, e)
	if err != nil {
		s.fail(w, route, err)
		return
	}
	s.write(w, route, result)
}

// admit lets a request in: its key, the key's rate and scope, what the node can do at a time.
// The caller calls done when it is answered.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, e endpoint) (admitted *request, done func(), err error) {
	admitted = &request{Request: r}
	if !e.open {
		if admitted.key, err = s.authorize(w, r); err != nil {
			return nil, nil, err
		}
		if e.named != "" {
			if err := admitted.allow(e.area, e.action, r.PathValue(e.named)); err != nil {
				return nil, nil, err
			}
		}
	}
	slots := s.requests
	if e.waits {
		slots = s.waiting
	}
	if done, err = enter(r.Context(), slots); err != nil {
		return nil, nil, err
	}
	if admitted.body, err = readBody(w, r); err == nil && e.waits {
		// The time in which a request must have come does not count for the wait.
		err = http.NewResponseController(w).SetReadDeadline(time.Time{})
		if errors.Is(err, http.ErrNotSupported) {
			err = nil
		}
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return admitted, done, nil
}

// enter waits for a slot, a moment.
func enter(ctx context.Context, slots chan struct{}) (done func(), err error) {
	timer := time.NewTimer(slotWait)
	defer timer.Stop()
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-timer.C:
		return nil, fail(problemFull, "the node has too much to do, try again later")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// authorize returns the key of a request.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) (*Key, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	key, why := (*Key)(nil), "the request needs the header Authorization: Bearer with the token of a key"
	if strings.EqualFold(scheme, "Bearer") && token != "" {
		key, why = s.registry.keyOf(strings.TrimSpace(token)), "no key has this token, or it was revoked"
	}
	if key == nil {
		w.Header().Set("WWW-Authenticate", `Bearer realm="parley"`)
		return nil, fail(problemUnauthorized, "%s", why)
	}
	limit := key.RequestsPerSecond
	if limit == 0 {
		limit = s.options.RequestsPerSecond
	}
	if result := s.options.Rates.AllowWithin(key.ID, 1, limit); !result.OK {
		return nil, fail(problemRate, "the key may send %d requests a second", limit)
	}
	return key, nil
}

// allow refuses what the key has no scope for.
func (r *request) allow(area, action, name string) error {
	if r.key.allows(area, action, name) {
		return nil
	}
	need := area
	if action != "" {
		need += ":" + action
	}
	return fail(problemForbidden, "the key has no scope %s for this name", need)
}

// readBody returns the whole body.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, fail(problemTooLarge, "the body may have %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return nil, invalid("the body could not be read")
	}
	return body, nil
}

// do has an endpoint serve a request, once if it asks for that.
func (s *Server) do(r *request, e endpoint) (answer, error) {
	limit := requestTimeout
	if e.waits {
		limit += maxWait
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	r.Request = r.WithContext(ctx)
	if r.Method == http.MethodPost && r.Header.Get(idempotencyHeader) != "" {
		return s.once(r, e.serve)
	}
	return e.serve(r)
}

// failureBody is the body of every answer that is not 2xx.
type failureBody struct {
	Error failureText `json:"error"`
}

type failureText struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Starting answers for a node that does not serve yet; waiting tells what it waits for.
func Starting(waiting func() string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		failure := fail(problemStarting, "the node is starting: %s", waiting())
		body, _, err := explain(failure).answer().encode()
		if err != nil { // cannot be: it is two texts
			http.Error(w, failure.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write(body) // a client that is gone needs no answer
	})
}

// answer returns how a failure is answered.
func (e *requestError) answer() answer {
	return answer{e.status, failureBody{failureText{e.code, e.text}}, nil}
}

func (s *Server) fail(w http.ResponseWriter, route string, err error) {
	known := explain(err)
	switch {
	case known.problem == problemInternal:
		s.log.Error("request failed", "route", route, "error", err)
	case known.problem == problemUnavailable && !errors.Is(err, context.Canceled):
		s.log.Info("request not done", "route", route, "error", err)
	}
	switch known.status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	if known.problem == problemBusy {
		w.Header().Set("Retry-After", "1")
	}
	s.write(w, route, known.answer())
}

func (s *Server) write(w http.ResponseWriter, route string, a answer) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	body, contentType, err := a.encode()
	if err != nil {
		s.log.Error("answer cannot be encoded", "route", route, "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	if body != nil {
		if w.Header().Get("Content-Type") == "" {
			w.Header().Set("Content-Type", contentType)
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(body) // a client that is gone needs no answer
	s.options.Metrics.answered(route, a.status)
}

// encode returns the body as it is sent; nil for none.
func (a answer) encode() (body []byte, contentType string, err error) {
	switch body := a.body.(type) {
	case nil:
		return nil, "", nil
	case []byte:
		return notNil(body), "application/octet-stream", nil
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err = encoder.Encode(a.body)
	return text.Bytes(), "application/json", err
}

// decode reads a JSON body and refuses fields that it may not have. An empty body is that of an
// object without fields.
func decode[T any](r *request) (value T, err error) {
	err = decodeInto(r, &value)
	return value, err
}

// decodeInto is decode into a value whose other fields stay.
func decodeInto(r *request, value any) error {
	if len(bytes.TrimSpace(r.body)) == 0 {
		return nil
	}
	if !utf8.Valid(r.body) {
		return invalid("the body is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(r.body))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(value)
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return invalid("%s cannot be a %s", wrongType.Field, wrongType.Value)
	case err != nil: // also names an unknown field
		return invalid("the body is not as it should be: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return invalid("there is more after the JSON value")
	}
	return nil
}

// number returns a parameter of the query that is a whole number, or preset when it is not there.
func (r *request) number(name string, preset, least, most int64) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return preset, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, invalid("%s must be a whole number", name)
	}
	return n, between(name, n, least, most)
}

// between refuses a number that is out of its bounds.
func between(name string, n, least, most int64) error {
	if n < least || n > most {
		return invalid("%s must be from %d to %d", name, least, most)
	}
	return nil
}

// checkName refuses what cannot name a value or a lock.
func checkName(what, name string) error {
	if name == "" || len(name) > maxName {
		return invalid("%s must have from 1 to %d bytes", what, maxName)
	}
	return nil
}
