package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAllowOrigins(t *testing.T) {
	const (
		origin      = "Access-Control-Allow-Origin"
		credentials = "Access-Control-Allow-Credentials"
		methods     = "Access-Control-Allow-Methods"
	)
	for _, test := range []struct {
		name    string
		origins []string
		method  string
		origin  string
		ask     string // Access-Control-Request-Method
		status  int    // 200 from the handler behind
		allowed bool
	}{
		{"all", []string{"*"}, "GET", "https://a.example", "", 200, true},
		{"all, no page", []string{"*"}, "GET", "", "", 200, false},
		{"listed", []string{"https://b.example", "https://a.example"}, "POST", "https://a.example", "", 200, true},
		{"listed in other letters", []string{"https://A.example"}, "POST", "https://a.example", "", 200, true},
		{"not listed", []string{"https://a.example"}, "POST", "https://a.example.org", "", 200, false},
		{"another scheme", []string{"https://a.example"}, "POST", "http://a.example", "", 200, false},
		{"pattern", []string{"https://*.example"}, "GET", "https://a.b.example", "", 200, true},
		{"pattern, another", []string{"https://*.example"}, "GET", "https://a.example.org", "", 200, false},
		{"domain and below", []string{"*.example.com"}, "GET", "http://x.example.com", "", 200, true},
		{"none", nil, "GET", "https://a.example", "", 200, false},
		{"preflight", []string{"https://a.example"}, "OPTIONS", "https://a.example", "POST", 204, true},
		{"preflight, not listed", []string{"https://a.example"}, "OPTIONS", "https://b.example", "POST", 200, false},
		{"OPTIONS that is no preflight", []string{"*"}, "OPTIONS", "https://a.example", "", 200, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			behind := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "behind") })
			request := httptest.NewRequest(test.method, "/apps/3/channels", nil)
			request.Header.Set("Origin", test.origin)
			if test.ask != "" {
				request.Header.Set("Access-Control-Request-Method", test.ask)
			}
			w := httptest.NewRecorder()
			AllowOrigins(test.origins, behind).ServeHTTP(w, request)
			header := w.Result().Header
			if w.Code != test.status || (w.Body.String() == "behind") != (test.status == 200) {
				t.Errorf("got %d %q", w.Code, w.Body)
			}
			want := ""
			if test.allowed {
				want = test.origin
			}
			if header.Get(origin) != want || (header.Get(credentials) == "true") != test.allowed {
				t.Errorf("got %v", header)
			}
			if (header.Get(methods) == "GET, POST, OPTIONS") != (test.status == 204) {
				t.Errorf("got %v", header)
			}
			if (header.Get("Vary") == "Origin") != (test.origins != nil) {
				t.Errorf("a cache is not told: %v", header)
			}
		})
	}
}
