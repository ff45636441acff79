package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/parleyio/parley/internal/fabric"
)

// A store without a leader, as during an election, is waited for; other refusals are final.
func TestElectionIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		final := errors.New("no such thing")
		tries := 0
		open := func(context.Context) (int, error) {
			if tries++; tries < 4 {
				return 0, fmt.Errorf("open it: %w", fabric.ErrUnavailable)
			}
			return tries, final
		}
		_, err := patiently(t.Context(), slog.New(slog.DiscardHandler), "it", open)
		if !errors.Is(err, final) || tries != 4 {
			t.Errorf("got %v after %d tries", err, tries)
		}
	})
}
