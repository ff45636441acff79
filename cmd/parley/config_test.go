package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/config"
)

// runConfig runs parley config with args and returns what it printed.
func runConfig(t *testing.T, args ...string) (string, error) {
	t.Helper()
	t.Setenv("PARLEY_CONFIG", "")
	cmd := newConfigCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

func TestConfigCheckCountsSources(t *testing.T) {
	file := filepath.Join(t.TempDir(), "parley.toml")
	text := "[channels]\nport = 7001\n[[apps]]\nid = \"a\"\nkey = \"k\"\nsecret = \"s\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PARLEY_LOG_LEVEL", "debug")
	out, err := runConfig(t, "check", "-c", file, "--port_offset=1", "--log.format=json")
	want := "configuration is valid: 1 options set by file, 1 by environment, 2 by flags; 1 apps\n"
	if err != nil || out != want {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestConfigCheckReportsEveryMistake(t *testing.T) {
	t.Setenv("PARLEY_CHANNELS_PROT", "1")
	out, err := runConfig(t, "check", "--cache.ttl=30", "--admin.token=two words")
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{"PARLEY_CHANNELS_PORT", "cache.ttl (flag", "admin.token (flag"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is missing in %v", part, err)
		}
	}
	if strings.Contains(out, "two words") || strings.Contains(out, "Usage:") {
		t.Errorf("printed %q", out)
	}
}

func TestConfigCheckReadsSeeds(t *testing.T) {
	_, err := runConfig(t, "check", "--cluster.secret=0123456789abcdef", "--cluster.seeds=10.0.0.9-5",
		"--cluster.seeds=10.0.0.5-7", "--cluster.seeds=host:99999")
	if err == nil || !strings.Contains(err.Error(), `"10.0.0.9-5"`) || !strings.Contains(err.Error(), "host:99999") ||
		strings.Contains(err.Error(), "10.0.0.5-7") {
		t.Errorf("got %v", err)
	}
}

func TestConfigUnknownFlagNamesTheNearest(t *testing.T) {
	out, err := runConfig(t, "check", "--admin.tokn=hidden")
	if err == nil || !strings.Contains(err.Error(), "--admin.token") || strings.Contains(out, "hidden") {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestConfigPrints(t *testing.T) {
	for name, want := range map[string]string{
		"reference": config.Reference(), "default": config.DefaultFile(),
	} {
		if out, err := runConfig(t, name); err != nil || out != want {
			t.Errorf("%s: %v, %d bytes", name, err, len(out))
		}
	}
}

// The check refuses what serve refuses.
func TestConfigCheckAsksForTheSecret(t *testing.T) {
	_, err := runConfig(t, "check", "--cluster.seeds=10.0.0.5")
	if err == nil || !strings.Contains(err.Error(), "cluster.secret (default): must have 16 bytes or more") {
		t.Errorf("got %v", err)
	}
}
