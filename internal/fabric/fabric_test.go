package fabric_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/parleyio/parley/internal/fabric"
)

func TestWait(t *testing.T) {
	p := fabric.RetryPolicy{Initial: time.Second, Max: 5 * time.Second}
	for failures, want := range map[int]time.Duration{1: 1, 2: 2, 3: 4, 4: 5, 5: 5, 1 << 30: 5} {
		if got := p.Wait(failures); got != want*time.Second {
			t.Errorf("after %d failures: %v, want %d s", failures, got, want)
		}
	}
	widest := fabric.RetryPolicy{Initial: 1, Max: math.MaxInt64}
	if got := widest.Wait(1000); got != math.MaxInt64 {
		t.Errorf("the widest policy waits %v", got)
	}
	p.Jitter = 0.25
	least, most := time.Hour, time.Duration(0)
	for range 2000 {
		wait := p.Wait(3)
		least, most = min(least, wait), max(most, wait)
	}
	if least < 3*time.Second || least > 3200*time.Millisecond || most > 5*time.Second || most < 4800*time.Millisecond {
		t.Errorf("waits of 4 s ± 25%% are from %v to %v", least, most)
	}
}

func TestGiveUp(t *testing.T) {
	first := time.Unix(1000, 0)
	failed, hopeless := errors.New("failed"), fmt.Errorf("failed: %w", fabric.ErrGiveUp)
	for _, c := range []struct {
		elapsed, age time.Duration
		err          error
		want         bool
	}{
		{time.Minute, 59 * time.Second, failed, false},
		{time.Minute, time.Minute, failed, true},
		{time.Minute, 0, hopeless, true},
		{0, 0, failed, true},
	} {
		if got := (fabric.RetryPolicy{Elapsed: c.elapsed}).GiveUp(first, first.Add(c.age), c.err); got != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

func TestReason(t *testing.T) {
	for _, text := range []string{"", "short", "\xff bad", strings.Repeat("x", 5000), strings.Repeat("€", 5000)} {
		got := fabric.Reason(errors.New(text))
		if len(got) > fabric.MaxReasonSize || !utf8.ValidString(got) {
			t.Errorf("%.10q: %d bytes, valid %v", text, len(got), utf8.ValidString(got))
		}
		if len(text) > fabric.MaxReasonSize && len(got) < fabric.MaxReasonSize-3 {
			t.Errorf("%.10q: cut to %d bytes", text, len(got))
		}
	}
}

func FuzzCheckKey(f *testing.F) {
	for _, key := range []string{"a", "a.b/c=d_e-f", ".", "a..b", "ü", strings.Repeat("k", 256)} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := fabric.CheckKey(key)
		if err != nil && !errors.Is(err, fabric.ErrInvalidKey) {
			t.Fatalf("%q: %v", key, err)
		}
		if err == nil && (key == "" || len(key) > fabric.MaxKeySize || strings.ContainsAny(key, " *>\r\n\x00:$") ||
			strings.Contains("."+key+".", "..")) {
			t.Errorf("%q is accepted", key)
		}
	})
}
