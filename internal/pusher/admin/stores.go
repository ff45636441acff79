package admin

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Errors of a node that can store nothing at the moment.
var (
	// ErrNoMajority says that too few nodes with a store reach each other.
	ErrNoMajority = errors.New("no majority of the nodes with a store can be reached")
	// ErrNoStore says that the broker which keeps what is stored cannot be reached.
	ErrNoStore = errors.New("what is stored cannot be reached")
)

const (
	// storePatience is how long a request waits for the store before anybody asks whether it
	// can answer. An election takes 2 s.
	storePatience = 3 * time.Second
	// storePause is between two such questions.
	storePause = time.Second
)

// WithStores has requests that wait for the store end with 503 when stores says why it cannot
// answer, in an error that wraps ErrNoMajority or ErrNoStore. It returns nil while the store can.
func (h *Handler) WithStores(stores func(ctx context.Context) error) *Handler {
	h.stores = stores
	return h
}

// stored returns an endpoint that uses the store.
func (h *Handler) stored(serve endpoint) endpoint {
	return func(r *http.Request) (int, any, error) {
		if h.stores == nil {
			return serve(r)
		}
		ctx, cancel := context.WithCancelCause(r.Context())
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			h.watchStores(ctx, cancel)
		}()
		status, body, err := serve(r.WithContext(ctx))
		cancel(nil)
		<-watched
		if cause := context.Cause(ctx); err != nil && (errors.Is(cause, ErrNoMajority) || errors.Is(cause, ErrNoStore)) {
			err = cause
		}
		return status, body, err
	}
}

// watchStores ends a request that waits for a store that cannot answer.
func (h *Handler) watchStores(ctx context.Context, cancel context.CancelCauseFunc) {
	for wait := storePatience; ; wait = storePause {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		if err := h.stores(ctx); err != nil {
			cancel(err)
			return
		}
	}
}
