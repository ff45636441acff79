package fabric

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrCorrupt says that stored bytes do not have the length or the SHA-256 they were stored
// with.
var ErrCorrupt = errors.New("corrupt")

// BlobInfo describes a blob.
type BlobInfo struct {
	Name   string
	Size   int64     // bytes
	SHA256 string    // of the content, as 64 lower-case hexadecimal digits
	Time   time.Time // when it was stored, by the clock of the node that stored it
}

// Blobs keeps large values by name: artifacts, files, snapshots. Names are any text of 1 to
// MaxKeySize bytes. A blob is whole or not there: who reads gets one that was put
// completely. A Put that returned nil is on the disks of a majority.
type Blobs interface {
	// Put stores what content gives until io.EOF, in the place of what the name had before.
	// ErrTooLarge beyond the MaxSize of the configuration; an error of content is returned.
	// After an error the blob of that name is what it was. Of two at the same time the one
	// that ends last stays.
	Put(ctx context.Context, name string, content io.Reader) (BlobInfo, error)
	// Get returns the content, or ErrNotFound. The reader checks length and SHA-256: what was
	// read is right when it ended in io.EOF, and it ends in an error that wraps ErrCorrupt
	// otherwise, or ErrNotFound when the blob was replaced or deleted meanwhile. ctx holds for
	// the reads too. The caller closes the reader.
	Get(ctx context.Context, name string) (BlobInfo, io.ReadCloser, error)
	// List returns all blobs in the order of their names.
	List(ctx context.Context) ([]BlobInfo, error)
	// Delete removes a blob; ErrNotFound if there is none.
	Delete(ctx context.Context, name string) error
}

// BlobConfig configures a collection of blobs; the driver takes it when it opens it.
type BlobConfig struct {
	Name    string // letters, digits, - and _
	MaxSize int64  // of one blob in bytes; over 0
}

// Check returns an error that wraps ErrInvalidConfig and names the field that cannot be used.
func (c BlobConfig) Check() error {
	if err := CheckName(c.Name); err != nil {
		return fmt.Errorf("blobs: %w", err)
	}
	if c.MaxSize <= 0 {
		return fmt.Errorf("blobs %q: MaxSize %d is out of range: %w", c.Name, c.MaxSize, ErrInvalidConfig)
	}
	return nil
}
