package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// TestPatiently tries again what is only too early, as when a founder of a cluster stores
// something before the engines of the others are connected.
func TestPatiently(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err   error
		tries int
	}{
		"nobody answers":        {context.DeadlineExceeded, 3},
		"nobody is responsible": {nats.ErrNoResponders, 3},
		"too few nodes":         {fmt.Errorf("open: %w", &jetstream.APIError{Code: 400, ErrorCode: 10005}), 3},
		"no leader":             {fmt.Errorf("open: %w", fabric.ErrUnavailable), 3},
		"refused":               {fmt.Errorf("open: %w", &jetstream.APIError{Code: 400, ErrorCode: 10047}), 1},
		"anything else":         {errors.New("no"), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tries := 0
			_, err := patiently(t.Context(), slog.New(slog.DiscardHandler), "it", func(context.Context) (int, error) {
				if tries++; tries < 3 {
					return 0, test.err
				}
				return 1, nil
			})
			if tries != test.tries || (err == nil) != (test.tries == 3) {
				t.Errorf("%d tries and then %v", tries, err)
			}
		})
	}
}
