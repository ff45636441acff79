package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Whatever a backend sends, it gets one of the documented answers, and a success is JSON.
func FuzzEvents(f *testing.F) {
	for _, body := range []string{
		vectorBody,
		`{"name":"e","data":{"a":[1]},"channel":"presence-x","info":"user_count,subscription_count"}`,
		`{"name":"e","channels":["private-encrypted-a"],"data":"","socket_id":"1.1"}`,
		`{"batch":[{"name":"e","channel":"cache-a","data":"d","info":"user_count"},{}]}`,
		`{"batch":null,"name":null,"channels":[null],"data":"\ud800"}`,
		`[`, `0`, "\xff", `{"data":[[[[`,
	} {
		f.Add([]byte(body))
	}
	fixture := newFixture(f, func(o *Options) { o.MaxBody = 64 << 10 })
	handler := fixture.server.Config.Handler
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, path := range []string{"/apps/3/events", "/apps/3/batch_events"} {
			query := sign(vectorKey, vectorSecret, http.MethodPost, path, string(body), time.Now())
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path+"?"+query, strings.NewReader(string(body))))
			switch w.Code {
			case http.StatusOK:
				if !json.Valid(body) || !json.Valid(w.Body.Bytes()) {
					t.Errorf("%q is answered by %q", body, w.Body)
				}
			case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
				if len(w.Body.String()) > 1000 {
					t.Errorf("%q is refused at length", body)
				}
			default:
				t.Errorf("%q is answered with %d %s", body, w.Code, w.Body)
			}
		}
	})
}
