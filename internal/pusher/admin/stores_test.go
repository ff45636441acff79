package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/pusher/webhook"
)

// slowDead answers after a while, or never.
type slowDead struct {
	dead
	takes time.Duration
}

func (d *slowDead) ListDead(ctx context.Context, _ string, _ int) ([]webhook.Dead, error) {
	select {
	case <-time.After(d.takes):
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Who waits for a store that cannot answer hears why, and soon.
func TestNoMajority(t *testing.T) {
	const never = time.Hour
	for _, test := range []struct {
		name   string
		takes  time.Duration // of the store
		away   time.Duration // the majority, from the beginning of the request
		status int
		text   string
		within time.Duration
	}{
		{"no majority", never, never, 503, "no majority of the nodes with a store can be reached: n2, n3", 3 * time.Second},
		{"an election", 2500 * time.Millisecond, 2500 * time.Millisecond, 200, "dead_letters", 2500 * time.Millisecond},
		{"slow", 10 * time.Second, 0, 200, "dead_letters", 10 * time.Second},
		{"it answers all the same", time.Second, never, 200, "dead_letters", time.Second},
		{"no answer for another reason", never, 0, 503, "the store does not answer", requestTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				h := New(nil, &slowDead{takes: test.takes}, token, slog.New(slog.DiscardHandler)).
					WithStores(func(context.Context) error {
						if time.Since(begin) < test.away {
							return fmt.Errorf("%w: n2, n3", ErrNoMajority)
						}
						return nil
					})
				request := httptest.NewRequest("GET", "/admin/v1/webhooks/dead-letters", nil)
				request.Header.Set("Authorization", "Bearer "+token)
				recorder := httptest.NewRecorder()
				h.ServeHTTP(recorder, request)
				if took := time.Since(begin); recorder.Code != test.status ||
					!strings.Contains(recorder.Body.String(), test.text) || took != test.within {
					t.Errorf("%d %s after %v", recorder.Code, recorder.Body, took)
				}
			})
		})
	}
}
