package engine

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLogAdapter(t *testing.T) {
	var out bytes.Buffer
	handler := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})
	a := newLogAdapter(slog.New(handler), &fatalError{})
	a.Tracef("payload %s", "secret")
	a.Debugf("d %d", 1)
	a.Noticef("n %d", 2)
	a.Warnf("w %d", 3)
	a.Errorf("e %d", 4)
	a.Fatalf("f %d", 5)
	a.Fatalf("f %d", 6)
	log := out.String()
	for _, want := range []string{
		`level=DEBUG msg=engine message="d 1"`, `level=DEBUG msg=engine message="n 2"`,
		`level=WARN msg=engine message="w 3"`, `level=ERROR msg=engine message="e 4"`,
		`level=ERROR msg=engine message="f 5" fatal=true`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("%q is not in the log:\n%s", want, log)
		}
	}
	if strings.Contains(log, "secret") {
		t.Error("a trace was logged")
	}
	if err := a.fatal.get(); err == nil || err.Error() != "f 5" {
		t.Errorf("kept %v, want the first fatal error", err)
	}
}

// TestLateFatal checks that what the engine calls fatal after its start shows in Health.
func TestLateFatal(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	e, err := Start(ctx, Options{DataDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	e.server.Fatalf("disk %s", "gone")
	if err := e.Health(ctx); !errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), "disk gone") {
		t.Errorf("health: %v", err)
	}
	if err := e.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func TestSync(t *testing.T) {
	for sync, want := range map[string]time.Duration{"": 0, SyncAlways: 0, "2m": 2 * time.Minute} {
		options, err := Options{DataDir: t.TempDir(), Sync: sync}.serverOptions()
		if err != nil || options.SyncAlways != (want == 0) || options.SyncInterval != want {
			t.Errorf("%q: always %v, every %v, %v", sync, options.SyncAlways, options.SyncInterval, err)
		}
		if !options.NoSigs || !options.DontListen {
			t.Error("the engine would take signals or listen")
		}
	}
}
