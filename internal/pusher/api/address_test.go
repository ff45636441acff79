package api

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func prefixes(list ...string) []netip.Prefix {
	var result []netip.Prefix
	for _, text := range list {
		result = append(result, netip.MustParsePrefix(text))
	}
	return result
}

func TestClientAddress(t *testing.T) {
	proxies := prefixes("10.0.0.0/8", "2001:db8:1::/48")
	for _, test := range []struct {
		name      string
		trusted   []netip.Prefix
		hops      int
		remote    string
		forwarded []string
		want      string // empty for an invalid address
	}{
		{"direct", nil, 0, "192.0.2.1:4000", nil, "192.0.2.1"},
		{"direct over IPv6", nil, 0, "[2001:db8::1]:4000", nil, "2001:db8::1"},
		{"IPv4 within IPv6", nil, 0, "[::ffff:192.0.2.1]:4000", nil, "192.0.2.1"},
		{"nobody is trusted", nil, 0, "10.0.0.1:1", []string{"192.0.2.1"}, "10.0.0.1"},
		{"nobody is trusted, with hops", nil, 1, "10.0.0.1:1", []string{"192.0.2.1"}, "10.0.0.1"},
		{"another than the proxy", proxies, 0, "192.0.2.7:1", []string{"192.0.2.1"}, "192.0.2.7"},
		{"another than the proxy, with hops", proxies, 1, "192.0.2.7:1", []string{"192.0.2.1"}, "192.0.2.7"},
		{"one proxy", proxies, 0, "10.0.0.1:1", []string{"192.0.2.1"}, "192.0.2.1"},
		{"one proxy over IPv6", proxies, 0, "[2001:db8:1::5]:1", []string{"2001:db8:9::1"}, "2001:db8:9::1"},
		{"proxy within IPv6", proxies, 0, "[::ffff:10.0.0.1]:1", []string{"192.0.2.1"}, "192.0.2.1"},
		{"proxy that says nothing", proxies, 0, "10.0.0.1:1", nil, "10.0.0.1"},
		{"what the client claims", proxies, 0, "10.0.0.1:1", []string{"198.51.100.1, 192.0.2.1"}, "192.0.2.1"},
		{"what the client claims of a proxy", proxies, 0, "10.0.0.1:1", []string{"198.51.100.1, 10.9.9.9, 192.0.2.1"}, "192.0.2.1"},
		{"two proxies", proxies, 0, "10.0.0.1:1", []string{"192.0.2.1,10.0.0.2"}, "192.0.2.1"},
		{"two headers", proxies, 0, "10.0.0.1:1", []string{"192.0.2.1", "10.0.0.2"}, "192.0.2.1"},
		{"proxies all the way", proxies, 0, "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"with a port", proxies, 0, "10.0.0.1:1", []string{"192.0.2.1:5555"}, "192.0.2.1"},
		{"with a port over IPv6", proxies, 0, "10.0.0.1:1", []string{"[2001:db8:9::1]:5555"}, "2001:db8:9::1"},
		{"garbled", proxies, 0, "10.0.0.1:1", []string{"unknown"}, "10.0.0.1"},
		{"garbled behind a proxy", proxies, 0, "10.0.0.1:1", []string{"192.0.2.1, _hidden, 10.0.0.2"}, "10.0.0.2"},
		{"empty entries", proxies, 0, "10.0.0.1:1", []string{", 192.0.2.1, ,"}, "192.0.2.1"},
		{"one hop", proxies, 1, "10.0.0.1:1", []string{"198.51.100.1, 192.0.2.1"}, "192.0.2.1"},
		{"two hops", proxies, 2, "10.0.0.1:1", []string{"198.51.100.1, 192.0.2.1, 203.0.113.1"}, "192.0.2.1"},
		{"more hops than entries", proxies, 3, "10.0.0.1:1", []string{"198.51.100.1, 192.0.2.1"}, "10.0.0.1"},
		{"hops and nothing", proxies, 1, "10.0.0.1:1", nil, "10.0.0.1"},
		{"garbled at the hop", proxies, 1, "10.0.0.1:1", []string{"192.0.2.1, unknown"}, "10.0.0.1"},
		{"unix socket", nil, 0, "@", []string{"192.0.2.1"}, ""},
		{"unix socket, with a proxy", proxies, 0, "@", []string{"192.0.2.1"}, "192.0.2.1"},
		{"unix socket, with a hop", proxies, 1, "@", []string{"192.0.2.1"}, "192.0.2.1"},
		{"a long list", proxies, 0, "10.0.0.1:1", []string{strings.Repeat("198.51.100.1,", 1000) + "192.0.2.1"}, "192.0.2.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := &http.Request{RemoteAddr: test.remote, Header: http.Header{"X-Forwarded-For": test.forwarded}}
			clients := ClientAddress{Trusted: test.trusted, Hops: test.hops}
			got := clients.Of(request)
			if want, _ := netip.ParseAddr(test.want); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestTrusts(t *testing.T) {
	clients := ClientAddress{Trusted: prefixes("10.0.0.0/8")}
	for remote, want := range map[string]bool{
		"10.1.2.3:1": true, "[::ffff:10.1.2.3]:1": true, "11.1.2.3:1": false, "[::1]:1": false, "@": true,
	} {
		if clients.Trusts(remote) != want {
			t.Errorf("%s: %v", remote, !want)
		}
	}
	if (ClientAddress{}).Trusts("@") {
		t.Error("a unix socket is trusted although no proxy is")
	}
}

// Nobody but a trusted proxy can choose the address that is counted, and a proxy only
// one that is in its header.
func FuzzForwardedFor(f *testing.F) {
	for _, text := range []string{"", "192.0.2.1", "198.51.100.1, 192.0.2.1:80", "[2001:db8::1]:1,,\t10.0.0.2", "unknown", "fe80::1%eth0", "::ffff:1.2.3.4"} {
		f.Add(text, 0)
		f.Add(text, 2)
	}
	f.Fuzz(func(t *testing.T, text string, hops int) {
		header := http.Header{"X-Forwarded-For": {text}}
		clients := ClientAddress{Trusted: prefixes("10.0.0.0/8"), Hops: hops}
		stranger := clients.Of(&http.Request{RemoteAddr: "192.0.2.7:1", Header: header})
		if stranger != netip.MustParseAddr("192.0.2.7") {
			t.Errorf("a stranger counts as %v", stranger)
		}
		proxy := netip.MustParseAddr("10.0.0.1")
		got := clients.Of(&http.Request{RemoteAddr: "10.0.0.1:1", Header: header})
		if !got.IsValid() || got != proxy && !slices.Contains(forwardedFor(header), got) {
			t.Errorf("a client counts as %v", got)
		}
		if len(forwardedFor(header)) > maxForwarded {
			t.Error("the list is not bounded")
		}
	})
}
