package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func TestLogAdapter(t *testing.T) {
	var out bytes.Buffer
	handler := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})
	a := newLogAdapter(slog.New(handler), &fatalError{}, "restart")
	a.Tracef("payload %s", "secret")
	a.Debugf("d %d", 1)
	a.Noticef("n %d", 2)
	a.Warnf("w %d", 3)
	a.Errorf("e %d", 4)
	a.Errorf("JetStream out of %s resources, will be DISABLED", "File")
	a.Fatalf("f %d", 5)
	a.Fatalf("f %d", 6)
	log := out.String()
	for _, want := range []string{
		`level=DEBUG msg=engine message="d 1"`, `level=DEBUG msg=engine message="n 2"`,
		`level=WARN msg=engine message="w 3"`, `level=ERROR msg=engine message="e 4"`,
		`level=ERROR msg=engine message="f 5" fatal=true`,
		`level=ERROR msg="the store is off since a write failed; channels go on; restart"`,
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

// TestRepeats has the engine say for two hours, four times a second, that it cannot reach two
// others, and then no more.
func TestRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		a := newLogAdapter(slog.New(slog.NewTextHandler(&out, nil)), &fatalError{}, "restart")
		const format = "Error of a stream (attempt %v): %v"
		refused := map[string]error{"one": errors.New("one refuses"), "two": errors.New("two refuses")}
		for n := range 4 * 7200 {
			a.Errorf(format, n, refused["one"])
			if n < 8 {
				a.Errorf(format, n, refused["two"])
			}
			time.Sleep(time.Second / 4)
		}
		time.Sleep(time.Minute)
		a.Errorf(format, 1, refused["one"])
		lines := map[string]int{}
		repeated := 0
		for line := range strings.Lines(out.String()) {
			for peer := range refused {
				switch {
				case !strings.Contains(line, peer+" refuses"):
				case strings.Contains(line, "over=true"):
					lines[peer+" over"]++
				default:
					lines[peer]++
				}
			}
			if _, rest, ok := strings.Cut(line, "repeated="); ok && strings.Contains(line, "one refuses") {
				count, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
				n, err := strconv.Atoi(count)
				if err != nil {
					t.Error(err)
				}
				repeated += n
			}
		}
		// 10, 20, 40, 80, 160, 320 and 600 s apart, the first, and the one after the end.
		want := map[string]int{"one": 2 + 6 + 10, "one over": 1, "two": 1, "two over": 1}
		if !maps.Equal(lines, want) {
			t.Errorf("lines are %v, want %v:\n%s", lines, want, out.String())
		}
		if repeated != 4*7200-1 {
			t.Errorf("%d repetitions were told, want %d", repeated, 4*7200-1)
		}
		if !strings.Contains(out.String(), "total=8 lasted=1.75s") {
			t.Errorf("the end is not told right:\n%s", out.String())
		}
		a.said.close()
	})
}

// TestUsual has the engine say what it says whenever a node starts or another one goes: that is
// worth a warning when it goes on for more than some seconds, and only then.
func TestUsual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			seconds int
			lines   int // of the log, besides details
			want    string
		}{
			{1, 0, ""},
			{5, 0, ""},
			{6, 3, `level=WARN msg=engine message="Error trying to connect to route (attempt 5): refused" repeated=5`},
		} {
			var out, all bytes.Buffer
			a := newLogAdapter(slog.New(slog.NewMultiHandler(slog.NewTextHandler(&out, nil),
				slog.NewTextHandler(&all, &slog.HandlerOptions{Level: slog.LevelDebug}))), &fatalError{}, "restart")
			written := func(b *bytes.Buffer) string { // what ends is told by a goroutine
				a.said.mu.Lock()
				defer a.said.mu.Unlock()
				return b.String()
			}
			for n := range test.seconds {
				a.Errorf("Error trying to connect to route (attempt %v): %v", n, errors.New("refused"))
				a.Warnf("%s", "Waiting for routing to be established...")
				a.Warnf("%v", "JetStream has not established contact with a meta leader")
				a.Warnf("Filestore [x] Recovering stream state from index errored: %v", "prior state file")
				a.Warnf("%s", "Metalayer blocking snapshot took 0.013s (streams: 7)")
				time.Sleep(time.Second)
			}
			if n := strings.Count(written(&out), "\n"); n != test.lines || !strings.Contains(written(&out), test.want) {
				t.Errorf("after %d s:\n%s", test.seconds, written(&out))
			}
			for _, text := range []string{"route (attempt 0)", "routing", "meta leader", "prior state", "took"} {
				if !strings.Contains(written(&all), text) {
					t.Errorf("%q is not even a detail in\n%s", text, written(&all))
				}
			}
			time.Sleep(usualPatience + time.Second)
			a.Warnf("%s", "Waiting for routing to be established...") // another time
			time.Sleep(time.Minute)
			for _, text := range []string{"errored: corrupt state", "Metalayer blocking snapshot took 3.013s"} {
				if a.Warnf("Filestore [x] %s", text); !strings.Contains(written(&out), "level=WARN msg=engine message=\"Filestore [x] "+text) {
					t.Errorf("%q is no warning in\n%s", text, written(&out))
				}
			}
			if n := strings.Count(written(&out), "over=true"); n != test.lines {
				t.Errorf("after %d s the end is told %d times:\n%s", test.seconds, n, written(&out))
			}
			a.said.close()
		}
	})
}

// TestManyKinds has the engine say what it never said before: all of it is written, and
// little remembered.
func TestManyKinds(t *testing.T) {
	var out bytes.Buffer
	a := newLogAdapter(slog.New(slog.NewTextHandler(&out, nil)), &fatalError{}, "restart")
	for n := range 1000 {
		a.Warnf("%s", fmt.Sprint("text ", n))
	}
	if n := strings.Count(out.String(), "\n"); n != 1000 {
		t.Errorf("%d lines were written", n)
	}
	if n := len(a.said.kinds); n != repeatKinds {
		t.Errorf("%d kinds are remembered", n)
	}
	a.said.close()
	a.Warnf("after the end")
	a.Warnf("after the end")
	if n := strings.Count(out.String(), "after the end"); n != 2 || len(a.said.kinds) != 0 {
		t.Errorf("after the end %d lines were written, %d kinds remembered", n, len(a.said.kinds))
	}
}

// The server still says what healthz knows it by, here because it was never started.
func TestListenersSlow(t *testing.T) {
	srv, err := server.NewServer(&server.Options{DontListen: true, StoreDir: t.TempDir(), NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	if status := srv.Healthz(&server.HealthzOptions{}); !strings.Contains(status.Error, listenersSlow) {
		t.Errorf("got %q", status.Error)
	}
}
