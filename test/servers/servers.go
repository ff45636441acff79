// Package servers starts the real servers that Parley works with, for tests: programs of Debian's
// packages, on free ports, in directories of their own, gone with the test.
//
// It may import test/process and the standard library, and nothing else.
package servers

import (
	"encoding/json"
	"net/http"
	"os"
	"testing"
	"time"
)

// requireEnv is the variable that has tests fail, instead of being skipped, when a server is not
// installed. It does not begin as the options of Parley do, which refuses those that it does not know.
const requireEnv = "TEST_REQUIRE_SERVERS"

// missing ends a test whose server is not installed: it is skipped, or fails where all servers
// should be there.
func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv(requireEnv) != "" {
		t.Fatalf("%s; scripts/test-deps does it for root (%s is set)", why, requireEnv)
	}
	t.Skip(why)
}

// prober asks servers that may not answer.
var prober = &http.Client{Timeout: time.Second}

// probe returns the status under which a URL answers.
func probe(url string) (int, error) {
	response, err := prober.Get(url)
	if err != nil {
		return 0, err
	}
	_ = response.Body.Close() // its status is all
	return response.StatusCode, nil
}

// fetch decodes the JSON that a URL answers with.
func fetch(url string, into any) error {
	response, err := prober.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return json.NewDecoder(response.Body).Decode(into)
}
