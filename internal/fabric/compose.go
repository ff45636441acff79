package fabric

import (
	"context"
	"errors"
	"fmt"
)

// Parts says which driver carries which port. The same one may stand in several places; none
// may be nil.
type Parts struct {
	Documents DocumentsCarrier
	Queue     QueueCarrier
	Signal    SignalCarrier
	Cache     CacheCarrier
	Locks     LocksCarrier
	Log       LogCarrier
	Blobs     BlobsCarrier
}

// carriers returns each driver once, in the order of the fields.
func (p Parts) carriers() []Carrier {
	var list []Carrier
	seen := map[Carrier]bool{}
	for _, c := range []Carrier{p.Documents, p.Queue, p.Signal, p.Cache, p.Locks, p.Log, p.Blobs} {
		if !seen[c] {
			seen[c] = true
			list = append(list, c)
		}
	}
	return list
}

// composed opens each part from the driver that was chosen for it.
type composed struct{ parts Parts }

// Compose returns a Provider whose ports are carried by the parts. Its Ping asks all of them,
// and its Close closes each once.
func Compose(parts Parts) Provider { return composed{parts} }

// Documents implements DocumentsCarrier.
func (c composed) Documents(ctx context.Context, name string) (Documents, error) {
	return c.parts.Documents.Documents(ctx, name)
}

// Queue implements QueueCarrier.
func (c composed) Queue(ctx context.Context, config QueueConfig) (Queue, error) {
	return c.parts.Queue.Queue(ctx, config)
}

// RemoveQueue implements QueueRemover, as far as the driver of queues does.
func (c composed) RemoveQueue(ctx context.Context, name string) error {
	if remover, ok := c.parts.Queue.(QueueRemover); ok {
		return remover.RemoveQueue(ctx, name)
	}
	return fmt.Errorf("remove queue %.300q: %w", name, ErrUnsupported)
}

// Signal implements SignalCarrier.
func (c composed) Signal(ctx context.Context, name string) (Signal, error) {
	return c.parts.Signal.Signal(ctx, name)
}

// Cache implements CacheCarrier.
func (c composed) Cache(ctx context.Context, config CacheConfig) (Cache, error) {
	return c.parts.Cache.Cache(ctx, config)
}

// Locks implements LocksCarrier.
func (c composed) Locks(ctx context.Context, name string) (Locks, error) {
	return c.parts.Locks.Locks(ctx, name)
}

// Log implements LogCarrier.
func (c composed) Log(ctx context.Context, config LogConfig) (Log, error) {
	return c.parts.Log.Log(ctx, config)
}

// Blobs implements BlobsCarrier.
func (c composed) Blobs(ctx context.Context, config BlobConfig) (Blobs, error) {
	return c.parts.Blobs.Blobs(ctx, config)
}

// Ping implements Carrier.
func (c composed) Ping(ctx context.Context) error {
	var errs []error
	for _, carrier := range c.parts.carriers() {
		errs = append(errs, carrier.Ping(ctx))
	}
	return errors.Join(errs...)
}

// Close implements Carrier.
func (c composed) Close() error {
	var errs []error
	for _, carrier := range c.parts.carriers() {
		errs = append(errs, carrier.Close())
	}
	return errors.Join(errs...)
}
