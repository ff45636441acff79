package lbconfig

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
)

//go:generate go test -run TestDeployFiles -update .

var update = flag.Bool("update", false, "write the files in deploy/")

// example is the cluster of the files in deploy.
func example(format string) Options {
	o := Options{
		Format: format, Sticky: StickyIP, ServerName: "realtime.example.com",
		HTTPPort: 80, HTTPSPort: 443, TCPPort: 15001,
		Nodes: []Node{
			{Name: "node1", Address: "10.0.0.5:6001"},
			{Name: "node2", Address: "10.0.0.6:6001"},
			{Name: "node3", Address: "10.0.0.7:6001"},
		},
	}
	if format == NGINX {
		o.CertFile, o.KeyFile = "/etc/nginx/tls/fullchain.pem", "/etc/nginx/tls/privkey.pem"
	} else {
		o.CertFile = "/etc/haproxy/certs/parley.pem"
	}
	return o
}

// The files in deploy are what the command writes.
func TestDeployFiles(t *testing.T) {
	for format, path := range map[string]string{
		NGINX: "../../deploy/nginx/parley.conf", HAProxy: "../../deploy/haproxy/haproxy.cfg",
	} {
		var text strings.Builder
		if err := Write(&text, example(format)); err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ReplaceAll(string(got), "\r\n", "\n") != text.String() {
			t.Errorf("%s is not what the template gives: go generate ./internal/lbconfig", path)
		}
	}
}

func TestChoices(t *testing.T) {
	tests := []struct {
		name    string
		format  string
		change  func(*Options)
		with    []string
		without []string
	}{
		{"nginx by cookie", NGINX, func(o *Options) { o.Sticky = StickyCookie },
			[]string{"http://parley_by_cookie;", "http://parley_by_cookie/up;", "Secure; SameSite=None"}, []string{"http://parley_by_ip"}},
		{"nginx without TLS", NGINX, func(o *Options) { o.CertFile = "" },
			[]string{"listen 80;"}, []string{"ssl", "308", "443", "Secure"}},
		{"nginx without TCP", NGINX, func(o *Options) { o.TCPPort = 0 }, nil, []string{"stream {", "15001"}},
		{"nginx draining", NGINX, func(o *Options) { o.Nodes[1].Draining = true },
			[]string{"10.0.0.6:6001 max_fails=1 fail_timeout=5s down;"}, []string{"10.0.0.5:6001 max_fails=1 fail_timeout=5s down"}},
		{"HAProxy by cookie", HAProxy, func(o *Options) { o.Sticky = StickyCookie },
			[]string{"default_backend parley_by_cookie"}, []string{"default_backend parley_by_ip"}},
		{"HAProxy without TLS", HAProxy, func(o *Options) { o.CertFile = "" }, []string{"bind :80"}, []string{"crt", "308"}},
		{"HAProxy without TCP", HAProxy, func(o *Options) { o.TCPPort = 0 }, nil, []string{"parley_tcp", "15001"}},
		{"names", HAProxy, func(o *Options) { o.Nodes[0].Name, o.Nodes[1].Name, o.Nodes[2].Name = "a b\nc", "a-b-c", "ü" },
			[]string{"server a-b-c 10.0.0.5", "server a-b-c-2 10.0.0.6", "server node 10.0.0.7"}, nil},
		{"nginx to TLS", NGINX, func(o *Options) { o.NodeTLS = true },
			[]string{"proxy_pass https://parley_by_ip;", "proxy_pass https://parley_by_ip/up;", "proxy_pass https://parley_api;"},
			[]string{"http://parley", "proxy_ssl_verify"}},
		{"nginx to checked TLS", NGINX, func(o *Options) { o.NodeTLS, o.NodeCA, o.NodeName = true, "/ca.pem", "node" },
			[]string{"proxy_ssl_trusted_certificate /ca.pem;", "proxy_ssl_verify on;", "proxy_ssl_name node;"}, []string{"http://parley"}},
		{"HAProxy to TLS", HAProxy, func(o *Options) { o.NodeTLS = true },
			[]string{"node1 10.0.0.5:6001 ssl verify none alpn http/1.1 check", "ssl verify none alpn http/1.1 cookie", "ssl verify none alpn http/1.1 track"}, nil},
		{"HAProxy to checked TLS", HAProxy, func(o *Options) { o.NodeTLS, o.NodeCA, o.NodeName = true, "/ca.pem", "node" },
			[]string{"ssl verify required ca-file /ca.pem sni str(node) verifyhost node"}, []string{"verify none"}},
		{"nginx with a prefix", NGINX, func(o *Options) { o.PathPrefix = "/rt" },
			[]string{"location /rt/app/ {", "location /rt/apps/ {", "location = /rt/up {", "parley_by_ip/rt/up;"}, []string{"location /app"}},
		{"HAProxy with a prefix", HAProxy, func(o *Options) { o.PathPrefix = "/rt" },
			[]string{"path_beg /rt/app/ /rt/apps/ }", "path /rt/up }", "GET /rt/up", "path_beg /rt/apps/ }"}, []string{"path_beg /app"}},
		{"IPv6", HAProxy, func(o *Options) { o.Nodes[0].Address = "[fd00::5]:6001" }, []string{"server node1 [fd00::5]:6001 check"}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := example(test.format)
			test.change(&o)
			var text strings.Builder
			if err := Write(&text, o); err != nil {
				t.Fatal(err)
			}
			for _, part := range test.with {
				if !strings.Contains(text.String(), part) {
					t.Errorf("no %q in\n%s", part, &text)
				}
			}
			for _, part := range test.without {
				if strings.Contains(text.String(), part) {
					t.Errorf("there is %q in\n%s", part, &text)
				}
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"format":         func(o *Options) { o.Format = "apache" },
		"sticky":         func(o *Options) { o.Sticky = "luck" },
		"no nodes":       func(o *Options) { o.Nodes = nil },
		"no port":        func(o *Options) { o.Nodes[0].Address = "10.0.0.5" },
		"port":           func(o *Options) { o.Nodes[0].Address = "10.0.0.5:0" },
		"injected":       func(o *Options) { o.Nodes[0].Address = "10.0.0.5; x:6001" },
		"server name":    func(o *Options) { o.ServerName = "a;b" },
		"certificate":    func(o *Options) { o.CertFile = "a b" },
		"key":            func(o *Options) { o.KeyFile = "" },
		"path prefix":    func(o *Options) { o.PathPrefix = "/a b" },
		"CA alone":       func(o *Options) { o.NodeTLS, o.NodeCA = true, "/ca.pem" },
		"CA without TLS": func(o *Options) { o.NodeCA, o.NodeName = "/ca.pem", "node" },
		"name alone":     func(o *Options) { o.NodeTLS, o.NodeName = true, "node" },
		"listening port": func(o *Options) { o.TCPPort = 65536 },
	} {
		o := example(NGINX)
		change(&o)
		var text strings.Builder
		if err := Write(&text, o); !errors.Is(err, ErrInvalid) || text.Len() > 0 {
			t.Errorf("%s: %v, written %q", name, err, &text)
		}
	}
}
