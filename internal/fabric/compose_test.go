package fabric_test

import (
	"context"
	"errors"
	"testing"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/fabrictest"
	"github.com/parleyio/parley/internal/fabric/memory"
)

// counting counts what is asked of a driver.
type counting struct {
	fabric.Provider
	pings, closes int
	err           error
}

func (c *counting) Ping(context.Context) error { c.pings++; return c.err }
func (c *counting) Close() error               { c.closes++; return c.err }

func TestCompose(t *testing.T) {
	one, two := &counting{Provider: memory.New()}, &counting{Provider: memory.New(), err: fabric.ErrUnavailable}
	parts := fabric.Parts{Documents: one, Queue: two, Signal: one, Cache: two, Locks: one, Log: one, Blobs: two}
	p := fabric.Compose(parts)
	if err := p.Ping(t.Context()); !errors.Is(err, fabric.ErrUnavailable) || one.pings != 1 || two.pings != 1 {
		t.Errorf("ping: %v, asked %d and %d times", err, one.pings, two.pings)
	}
	if err := p.Close(); !errors.Is(err, fabric.ErrUnavailable) || one.closes != 1 || two.closes != 1 {
		t.Errorf("close: %v, closed %d and %d times", err, one.closes, two.closes)
	}
}

// TestComposedContract has each port carried by a store of its own.
func TestComposedContract(t *testing.T) {
	fabrictest.Run(t, func(*testing.T) fabric.Provider {
		return fabric.Compose(fabric.Parts{
			Documents: memory.New(), Queue: memory.New(), Signal: memory.New(), Cache: memory.New(),
			Locks: memory.New(), Log: memory.New(), Blobs: memory.New(),
		})
	})
}
