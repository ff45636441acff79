package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/parleyio/parley/internal/node"
)

// root runs the whole program within the test.
func root(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := newRootCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestVersion(t *testing.T) {
	code, out, errout := run(t, "version")
	if code != 0 || errout != "" || !regexp.MustCompile(`^parley \S.* \(go\S+, \w+/\w+\)\n$`).MatchString(out) {
		t.Errorf("got %d %q %q", code, out, errout)
	}
	if out, err := root(t, "--version"); err != nil || !strings.Contains(out, node.Version()) {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	out, err := root(t, "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"serve", "dev", "cluster", "config", "app", "publish", "webhook", "bench", "healthcheck", "version", "completion"} {
		if !regexp.MustCompile(`(?m)^  ` + name + ` +\S`).MatchString(out) {
			t.Errorf("%s is missing in\n%s", name, out)
		}
	}
}

func TestHealthcheck(t *testing.T) {
	var status atomic.Int32
	status.Store(http.StatusOK)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ready" {
			t.Errorf("asked for %s", r.URL)
		}
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write([]byte("WORD"))
	}))
	address := server.URL + "/ready"
	if code, out, errout := run(t, "healthcheck", "--url", address, "--timeout", "60s"); code != 0 || out != "WORD\n" || errout != "" {
		t.Errorf("well: %d %q %q", code, out, errout)
	}
	status.Store(http.StatusServiceUnavailable)
	if code, out, errout := run(t, "healthcheck", "--url", address, "--timeout", "60s"); code != 1 || out != "" ||
		!strings.Contains(errout, "503") || !strings.Contains(errout, "WORD") {
		t.Errorf("not ready: %d %q %q", code, out, errout)
	}
	server.Close()
	if code, _, errout := run(t, "healthcheck", "--url", address, "--timeout", "60s"); code != 1 || !strings.Contains(errout, "no answer") {
		t.Errorf("gone: %d %q", code, errout)
	}
}

func TestHealthcheckTimeout(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	if _, err := root(t, "healthcheck", "--url", server.URL, "--timeout", "20ms"); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("got %v", err)
	}
}

func TestCompletion(t *testing.T) {
	code, out, errout := run(t, "completion", "bash")
	if code != 0 || errout != "" || !strings.Contains(out, "__start_parley") {
		t.Fatalf("got %d %q and %d bytes", code, errout, len(out))
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash to read it")
	}
	check := exec.Command(bash, "-n")
	check.Stdin = strings.NewReader(out)
	if text, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, text)
	}
}
