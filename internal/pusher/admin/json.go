package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/apps"
)

// Codes of errors, as in the code field of an answer that is not 2xx.
const (
	CodeInvalid          = "invalid"            // 400: a field or parameter, which the text names
	CodeUnauthorized     = "unauthorized"       // 401
	CodeNotFound         = "not_found"          // 404
	CodeMethodNotAllowed = "method_not_allowed" // 405
	CodeExists           = "exists"             // 409: another app or key has that id or key
	CodeConflict         = "conflict"           // 409: changed by others at the same time
	CodeStatic           = "static"             // 409: an app or key of the configuration file, or there is no other kind
	CodeRefused          = "refused"            // 409: the database cannot hold it, or does not let it be changed
	CodeUnreadable       = "unreadable"         // 409: the app's row in the database cannot be understood
	CodeStays            = "stays"              // 409: the member cannot be taken out as things are
	CodeBusy             = "busy"               // 409: another member is being taken out
	CodeStarting         = "starting"           // 503: the node starts, which the text explains
	CodeNoCluster        = "no_cluster"         // 409: the node is not in a cluster
	CodeTooLarge         = "too_large"          // 413: the body is over 1 MiB
	CodeInternal         = "internal"           // 500: the node's log says more
	CodeUnavailable      = "unavailable"        // 503: the store does not answer or is full, or the node stops
)

// problem is an answer that is not 2xx.
type problem struct {
	status int
	code   string
	text   string
}

// errInvalidRequest says that the request cannot be understood; its text tells why.
var errInvalidRequest = errors.New("invalid request")

// explain returns the answer to a failed request.
func (h *Handler) explain(r *http.Request, err error) problem {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return problem{http.StatusRequestEntityTooLarge, CodeTooLarge,
			fmt.Sprintf("the body is over %d bytes", maxBody)}
	case errors.Is(err, errInvalidRequest), errors.Is(err, apps.ErrInvalid), errors.Is(err, ErrKeyInvalid):
		return problem{http.StatusBadRequest, CodeInvalid, err.Error()}
	case errors.Is(err, apps.ErrNotFound), errors.Is(err, fabric.ErrNotFound), errors.Is(err, ErrNoKey):
		return problem{http.StatusNotFound, CodeNotFound, err.Error()}
	case errors.Is(err, apps.ErrExists), errors.Is(err, ErrKeyExists):
		return problem{http.StatusConflict, CodeExists, err.Error()}
	case errors.Is(err, apps.ErrStatic), errors.Is(err, apps.ErrFixed), errors.Is(err, ErrKeyStatic):
		return problem{http.StatusConflict, CodeStatic, err.Error()}
	case errors.Is(err, apps.ErrRefused):
		return problem{http.StatusConflict, CodeRefused, err.Error()}
	case errors.Is(err, apps.ErrUnreadable):
		return problem{http.StatusConflict, CodeUnreadable, err.Error()}
	case errors.Is(err, errNoCluster):
		return problem{http.StatusConflict, CodeNoCluster, err.Error()}
	case errors.Is(err, ErrNoMember):
		return problem{http.StatusNotFound, CodeNotFound, err.Error()}
	case errors.Is(err, ErrMemberStays):
		return problem{http.StatusConflict, CodeStays, err.Error()}
	case errors.Is(err, ErrBusy):
		return problem{http.StatusConflict, CodeBusy, err.Error()}
	case errors.Is(err, ErrStopping), errors.Is(err, ErrNoMajority), errors.Is(err, ErrNoStore):
		return problem{http.StatusServiceUnavailable, CodeUnavailable, err.Error()}
	case errors.Is(err, apps.ErrConflict):
		return problem{http.StatusConflict, CodeConflict, err.Error()}
	}
	h.log.Error("admin request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	switch {
	case errors.Is(err, apps.ErrUnavailable):
		return problem{http.StatusServiceUnavailable, CodeUnavailable, apps.ErrUnavailable.Error()}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, fabric.ErrClosed):
		return problem{http.StatusServiceUnavailable, CodeUnavailable, "the store does not answer"}
	case errors.Is(err, fabric.ErrFull):
		return problem{http.StatusServiceUnavailable, CodeUnavailable, "the queue is full"}
	}
	return problem{http.StatusInternalServerError, CodeInternal, "internal error"}
}

func (h *Handler) fail(w http.ResponseWriter, p problem) {
	h.write(w, p.status, Failure{Text: p.text, Code: p.code})
}

func (h *Handler) write(w http.ResponseWriter, status int, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	text, err := json.Marshal(body)
	if err != nil {
		h.log.Error("admin answer cannot be encoded", "error", err)
		status, text = http.StatusInternalServerError, []byte(`{"error":"internal error","code":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // a client that is gone needs no answer
}

// readBody returns the whole body.
func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: read body: %w", errInvalidRequest, err)
	}
	return body, nil
}

// decodeStrictly decodes one JSON value and refuses fields that value does not have.
func decodeStrictly(text []byte, value any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(value)
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return fmt.Errorf("%w: %s cannot be a %s", errInvalidRequest, wrongType.Field, wrongType.Value)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the body is empty and must be JSON", errInvalidRequest)
	case err != nil: // also names an unknown field
		return fmt.Errorf("%w: %s", errInvalidRequest, strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: there is more after the JSON value", errInvalidRequest)
	}
	return nil
}

// mergePatch returns target changed by patch as RFC 7396 says: objects are merged, null
// removes, everything else replaces. Names are taken in lower case, as all fields of an app
// are, because the decoder does not tell the cases apart either. Depth is bounded by the
// decoder, which refuses JSON that is nested too deep.
func mergePatch(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	merged, ok := target.(map[string]any)
	if !ok {
		merged = map[string]any{}
	}
	for name, value := range changes {
		name = strings.ToLower(name)
		if value == nil {
			delete(merged, name)
		} else {
			merged[name] = mergePatch(merged[name], value)
		}
	}
	return merged
}

// decodeNumbers decodes any JSON value and keeps numbers as they are written.
func decodeNumbers(text []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("%w: body is not JSON: %w", errInvalidRequest, err)
	}
	return value, nil
}
