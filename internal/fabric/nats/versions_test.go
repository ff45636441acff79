package nats

import (
	"errors"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/fabric"
)

func TestSupports(t *testing.T) {
	for _, c := range []struct {
		kind, version string
		want          bool
	}{
		{"queue", "2.9.10", true}, {"queue", "2.8.4", false},
		{"documents", "2.9.10", false}, {"documents", "2.12.0", false}, {"documents", "2.12.1", true},
		{"cache", "2.11.10", false}, {"cache", "2.15.2", true}, {"lock", "3.0.0", true},
		{"log", "2.13.0-dev", true}, {"log", "2.12.1-rc1", false}, {"log", "unknown", true},
	} {
		err := supports(c.kind, c.version)
		if (err == nil) != c.want || err != nil && !errors.Is(err, fabric.ErrUnsupported) {
			t.Errorf("%s with %s: %v", c.kind, c.version, err)
		}
		if err != nil && !strings.Contains(err.Error(), `fabric.signal = "nats"`) {
			t.Errorf("no way out is named: %v", err)
		}
	}
}
