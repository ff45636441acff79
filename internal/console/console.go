// Package console holds the pages that a node serves to people. So far that is the test
// page of the channels surface.
//
// It may import the standard library. It must never import another room of Parley: its
// pages are clients like any other and use the public protocols.
package console

import (
	_ "embed"
	"net/http"
)

//go:embed channels.html
var channels []byte

// policy lets the page run its own script and style and connect anywhere, no more.
const policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src *; base-uri 'none'; form-action 'none'"

// Channels serves the test page of the channels surface.
func Channels() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		header := w.Header()
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		_, _ = w.Write(channels) // the browser is gone; nobody is left to tell
	})
}
