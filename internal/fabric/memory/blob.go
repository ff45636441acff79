package memory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// blobStore is the state that all handles of one collection share.
type blobStore struct {
	mu    sync.Mutex // guards blobs
	blobs map[string]blob
}

type blob struct {
	info    fabric.BlobInfo
	content []byte // never changed
}

func newBlobStore() *blobStore { return &blobStore{blobs: map[string]blob{}} }

// blobs is one handle.
type blobs struct {
	provider *Provider
	config   fabric.BlobConfig
	store    *blobStore
}

func (b *blobs) failed(operation, name string, err error) error {
	return fmt.Errorf("%s blob %.300q of %q: %w", operation, name, b.config.Name, err)
}

func (b *blobs) check(ctx context.Context, name string) error {
	return errors.Join(b.provider.life.Ready(ctx), fabric.CheckText(name))
}

// Put implements fabric.Blobs.
func (b *blobs) Put(ctx context.Context, name string, content io.Reader) (fabric.BlobInfo, error) {
	if err := b.check(ctx, name); err != nil {
		return fabric.BlobInfo{}, b.failed("put", name, err)
	}
	data, err := io.ReadAll(io.LimitReader(content, b.config.MaxSize+1))
	if err == nil && int64(len(data)) > b.config.MaxSize {
		err = fabric.ErrTooLarge
	}
	if err == nil {
		err = b.provider.life.Ready(ctx)
	}
	if err != nil {
		return fabric.BlobInfo{}, b.failed("put", name, err)
	}
	sum := sha256.Sum256(data)
	info := fabric.BlobInfo{
		Name: name, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:]), Time: time.Now(),
	}
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	b.store.blobs[name] = blob{info, data}
	return info, nil
}

// Get implements fabric.Blobs.
func (b *blobs) Get(ctx context.Context, name string) (fabric.BlobInfo, io.ReadCloser, error) {
	if err := b.check(ctx, name); err != nil {
		return fabric.BlobInfo{}, nil, b.failed("get", name, err)
	}
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	found, ok := b.store.blobs[name]
	if !ok {
		return fabric.BlobInfo{}, nil, b.failed("get", name, fabric.ErrNotFound)
	}
	return found.info, &blobReader{b, ctx, bytes.NewReader(found.content)}, nil
}

// blobReader reads a blob for as long as its context and the provider live.
type blobReader struct {
	blobs *blobs
	ctx   context.Context
	*bytes.Reader
}

// Read implements io.Reader.
func (r *blobReader) Read(into []byte) (int, error) {
	if err := r.blobs.provider.life.Ready(r.ctx); err != nil {
		return 0, err
	}
	return r.Reader.Read(into)
}

// Close implements io.Closer.
func (r *blobReader) Close() error { return nil }

// List implements fabric.Blobs.
func (b *blobs) List(ctx context.Context) ([]fabric.BlobInfo, error) {
	if err := b.provider.life.Ready(ctx); err != nil {
		return nil, b.failed("list", "", err)
	}
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	infos := []fabric.BlobInfo{}
	for _, name := range slices.Sorted(maps.Keys(b.store.blobs)) {
		infos = append(infos, b.store.blobs[name].info)
	}
	return infos, nil
}

// Delete implements fabric.Blobs.
func (b *blobs) Delete(ctx context.Context, name string) error {
	err := b.check(ctx, name)
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	if _, ok := b.store.blobs[name]; err == nil && !ok {
		err = fabric.ErrNotFound
	}
	if err != nil {
		return b.failed("delete", name, err)
	}
	delete(b.store.blobs, name)
	return nil
}
