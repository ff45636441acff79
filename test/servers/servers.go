// Package servers starts the real servers that Parley works with, for tests: programs of Debian's
// packages, on free ports, in directories of their own, gone with the test.
//
// It may import test/process and the standard library, and nothing else.
package servers

import (
	"encoding/json"
	"net/http"
	"time"
)

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
