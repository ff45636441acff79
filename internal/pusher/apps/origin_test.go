package apps

import "testing"

func TestAllowsOrigin(t *testing.T) {
	for _, test := range []struct {
		name     string
		patterns []string
		allowed  []string
		refused  []string
	}{
		{"no list", nil, []string{"", "null", "https://a.example"}, nil},
		{"empty list", []string{}, []string{"", "https://a.example"}, nil},
		{"all", []string{"*"}, []string{"", "null", "https://a.example"}, nil},
		{"all beside another", []string{"https://b.example", "*"}, []string{"", "https://a.example"}, nil},
		{"exact", []string{"https://a.example"},
			[]string{"https://a.example", "HTTPS://A.Example"},
			[]string{"", "http://a.example", "https://a.example:8443", "https://b.a.example", "https://a.example.org", "a.example"}},
		{"exact in capitals", []string{"HTTPS://A.EXAMPLE"}, []string{"https://a.example"}, []string{"https://b.example"}},
		{"with a port", []string{"http://localhost:3000"},
			[]string{"http://localhost:3000"}, []string{"http://localhost", "http://localhost:30000"}},
		{"no scheme", []string{"a.example"},
			[]string{"http://a.example", "https://a.example"},
			[]string{"", "https://a.example:8443", "https://b.a.example", "https://xa.example"}},
		{"no scheme with a port", []string{"a.example:8443"},
			[]string{"https://a.example:8443"}, []string{"https://a.example"}},
		{"domain and below", []string{"*.example.com"},
			[]string{"https://example.com", "http://a.example.com", "https://a.b.example.com"},
			[]string{"https://badexample.com", "https://example.com.evil.org", "https://a.example.com:8443", ""}},
		{"domain with a port", []string{"*.example.com:8443"},
			[]string{"https://example.com:8443", "https://a.example.com:8443"}, []string{"https://a.example.com"}},
		{"scheme and below", []string{"https://*.example.com"},
			[]string{"https://a.example.com", "https://a.b.example.com"},
			[]string{"https://example.com", "http://a.example.com", "https://badexample.com"}},
		{"prefix and suffix", []string{"https://pre*post.example"},
			[]string{"https://prepost.example", "https://pre-x-post.example"},
			[]string{"https://prepos.example", "https://xprepost.example"}},
		{"any port", []string{"localhost:*"},
			[]string{"http://localhost:3000", "https://localhost:1"}, []string{"http://localhost", "http://localhost.evil:1"}},
		{"the parts may not overlap", []string{"https://aba*ba"},
			[]string{"https://ababa"}, []string{"https://aba"}},
		{"no page", []string{"null"}, []string{"null"}, []string{"", "https://null.example"}},
		{"the second of two", []string{"https://a.example", "b.example"},
			[]string{"https://a.example", "http://b.example"}, []string{"http://a.example"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			app := &App{AllowedOrigins: test.patterns}
			for _, origin := range test.allowed {
				if !app.AllowsOrigin(origin) {
					t.Errorf("%q is refused", origin)
				}
			}
			for _, origin := range test.refused {
				if app.AllowsOrigin(origin) {
					t.Errorf("%q is allowed", origin)
				}
			}
		})
	}
}
