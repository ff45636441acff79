package fabrictest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/parleyio/parley/internal/fabric"
)

const maxBlob = 2 << 20

func openBlobs(t *testing.T, p fabric.Provider) fabric.Blobs {
	t.Helper()
	b, err := p.Blobs(patient(t), fabric.BlobConfig{Name: shortName(t), MaxSize: maxBlob})
	must(t, "open blobs", err)
	return b
}

// noise returns so many bytes that differ everywhere.
func noise(size int) []byte {
	source := rand.NewChaCha8([32]byte{1})
	content := make([]byte, size)
	_, _ = source.Read(content) // never fails
	return content
}

func wantBlob(t *testing.T, b fabric.Blobs, name string, want []byte) {
	t.Helper()
	info, reader, err := b.Get(context.Background(), name)
	must(t, "get "+name, err)
	content, err := io.ReadAll(reader)
	must(t, "read "+name, err)
	must(t, "close", reader.Close())
	sum := sha256.Sum256(want)
	if !bytes.Equal(content, want) || info.Name != name || info.Size != int64(len(want)) ||
		info.SHA256 != hex.EncodeToString(sum[:]) || info.Time.IsZero() {
		t.Errorf("%s: got %d bytes and %+v, want %d bytes", name, len(content), info, len(want))
	}
}

func testBlob(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	b := openBlobs(t, p)
	names := []string{"artifact.tar.gz", "a b/ü*", "one", "chunk", "odd", "largest"}
	for i, size := range []int{0, 1, 100, 256 << 10, 600_001, maxBlob} {
		_, _, err := b.Get(ctx, names[i])
		wantError(t, "get before put", err, fabric.ErrNotFound)
		wantError(t, "delete before put", b.Delete(ctx, names[i]), fabric.ErrNotFound)
		content := noise(size)
		info, err := b.Put(ctx, names[i], iotest.HalfReader(bytes.NewReader(content)))
		must(t, "put "+names[i], err)
		sum := sha256.Sum256(content)
		if info.Name != names[i] || info.Size != int64(size) || info.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("put gave %+v", info)
		}
		wantBlob(t, b, names[i], content)
	}
	infos, err := b.List(ctx)
	must(t, "list", err)
	var got []string
	for _, info := range infos {
		got = append(got, fmt.Sprint(info.Name, info.Size))
	}
	want := "[a b/ü*1 artifact.tar.gz0 chunk262144 largest2097152 odd600001 one100]"
	if fmt.Sprint(got) != want {
		t.Errorf("list is %v, want %s", got, want)
	}
	must(t, "delete", b.Delete(ctx, "chunk"))
	_, _, err = b.Get(ctx, "chunk")
	wantError(t, "get after delete", err, fabric.ErrNotFound)
	wantBlob(t, b, "odd", noise(600_001))
	for _, name := range []string{"", strings.Repeat("n", fabric.MaxKeySize+1)} {
		_, err := b.Put(ctx, name, strings.NewReader(""))
		wantError(t, "put", err, fabric.ErrInvalidKey)
		_, _, err = b.Get(ctx, name)
		wantError(t, "get", err, fabric.ErrInvalidKey)
		wantError(t, "delete", b.Delete(ctx, name), fabric.ErrInvalidKey)
	}
	_, err = p.Blobs(ctx, fabric.BlobConfig{Name: "x"})
	wantError(t, "open without a size", err, fabric.ErrInvalidConfig)
}

// testBlobReplace puts again, well and badly: the blob is the old one or the new one.
func testBlobReplace(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	b := openBlobs(t, p)
	put := func(content []byte) {
		t.Helper()
		_, err := b.Put(ctx, "k", bytes.NewReader(content))
		must(t, "put", err)
		wantBlob(t, b, "k", content)
	}
	put(noise(700_000))
	put(noise(300_000))
	broken := errors.New("broken")
	_, err := b.Put(ctx, "k", io.MultiReader(bytes.NewReader(noise(500_000)), iotest.ErrReader(broken)))
	wantError(t, "put of a broken reader", err, broken)
	wantBlob(t, b, "k", noise(300_000))
	_, err = b.Put(ctx, "k", bytes.NewReader(noise(maxBlob+1)))
	wantError(t, "put too much", err, fabric.ErrTooLarge)
	wantBlob(t, b, "k", noise(300_000))
	_, err = b.Put(ctx, "new", bytes.NewReader(noise(maxBlob+1)))
	wantError(t, "put too much", err, fabric.ErrTooLarge)
	_, _, err = b.Get(ctx, "new")
	wantError(t, "get what was too much", err, fabric.ErrNotFound)

	ended, cancel := context.WithCancel(ctx)
	_, reader, err := b.Get(ended, "k")
	must(t, "get", err)
	cancel()
	_, err = io.ReadAll(reader)
	wantError(t, "read after the context", err, context.Canceled)

	var running sync.WaitGroup
	for i := range 6 {
		running.Go(func() {
			if _, err := b.Put(ctx, "k", bytes.NewReader(noise(400_000+i))); err != nil {
				t.Errorf("put: %v", err)
			}
		})
	}
	running.Wait()
	infos, err := b.List(ctx)
	if err != nil || len(infos) != 1 {
		t.Fatalf("list: %+v, %v", infos, err)
	}
	wantBlob(t, b, "k", noise(int(infos[0].Size)))
}

func testBlobClose(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	b := openBlobs(t, p)
	_, err := b.Put(ctx, "k", bytes.NewReader(noise(600_000)))
	must(t, "put", err)
	_, reader, err := b.Get(ctx, "k")
	must(t, "get", err)
	must(t, "close", p.Close())
	_, err = io.ReadAll(reader)
	wantError(t, "read", err, fabric.ErrClosed)
	_, err = b.Put(ctx, "k", strings.NewReader(""))
	wantError(t, "put", err, fabric.ErrClosed)
	_, _, err = b.Get(ctx, "k")
	wantError(t, "get", err, fabric.ErrClosed)
	_, err = b.List(ctx)
	wantError(t, "list", err, fabric.ErrClosed)
	wantError(t, "delete", b.Delete(ctx, "k"), fabric.ErrClosed)
}

func testBlobBetweenNodes(t *testing.T, open func() fabric.Provider) {
	one, two := openBlobs(t, open()), openBlobs(t, open())
	content := noise(900_000)
	_, err := one.Put(context.Background(), "k", bytes.NewReader(content))
	must(t, "put", err)
	wantBlob(t, two, "k", content)
	must(t, "delete", two.Delete(context.Background(), "k"))
	_, _, err = one.Get(context.Background(), "k")
	wantError(t, "get after delete", err, fabric.ErrNotFound)
}
