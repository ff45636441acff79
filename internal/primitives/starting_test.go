package primitives

import (
	"net/http/httptest"
	"testing"
)

func TestStarting(t *testing.T) {
	w := httptest.NewRecorder()
	Starting(func() string { return "looking for others" }).ServeHTTP(w, httptest.NewRequest("GET", "/v1/ids", nil))
	reply{t: t, status: w.Code, body: w.Body.Bytes()}.wantCode(503, "starting")
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}
