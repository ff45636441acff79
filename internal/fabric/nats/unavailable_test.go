package nats

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// What an election or a server that is a moment behind answers says that one should come
// again.
func TestUnavailable(t *testing.T) {
	for _, err := range []error{
		&jetstream.APIError{Code: 503, ErrorCode: 10008, Description: "JetStream system temporarily unavailable"},
		jetstream.ErrBucketNotFound, jetstream.ErrStreamNotFound, jetstream.ErrNoStreamResponse,
	} {
		if got := translate(fmt.Errorf("open: %w", err)); !errors.Is(got, fabric.ErrUnavailable) {
			t.Errorf("%v becomes %v", err, got)
		}
	}
}
