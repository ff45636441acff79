package config

import (
	"strings"
	"testing"
)

func TestParseConsoleUser(t *testing.T) {
	for text, want := range map[string]ConsoleUser{
		"admin:pass:*":            {"admin", "pass", "*:rw"},
		"a:p:with:colons:*":       {"a", "p:with:colons", "*:rw"},
		"guest:guest:[*:r]":       {"guest", "guest", "*:r"},
		"op:x:[slots:rw,users:r]": {"op", "x", "slots:rw,users:r"},
	} {
		if got, err := ParseConsoleUser(text); err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "secret", ":secret:*", "a::*", "a:secret:", "a:secret:all", "a:secret:[]", "a:secret:[x:y]", "a:secret:[x:r"} {
		if got, err := ParseConsoleUser(text); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
}
