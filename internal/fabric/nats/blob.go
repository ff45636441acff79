package nats

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/parleyio/parley/internal/fabric"
)

// chunkSize is the size of all chunks of a blob but the last.
const chunkSize = 256 << 10

// orphanAge is how old the chunks of a Put that never ended are when they are removed.
const orphanAge = 24 * time.Hour

// settleBlob bounds the removal of chunks that nobody needs any more.
const settleBlob = 10 * time.Second

// blobs is one collection: a stream with one message a subject, which is a chunk of a content
// or the record of a blob. A content has an ID of its own, so that it is written beside the
// one it replaces, and is in effect when the record is.
type blobs struct {
	provider *Provider
	config   fabric.BlobConfig
	stream   jetstream.Stream
	stored   stored
}

// blobRecord is what a blob's record says.
type blobRecord struct {
	Name    string `json:"name"`
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"`
	Content string `json:"content"` // the ID
	Chunks  int    `json:"chunks"`

	entry fabric.Entry // that it was read from
}

func (r blobRecord) info() fabric.BlobInfo {
	return fabric.BlobInfo{Name: r.Name, Size: r.Size, SHA256: r.SHA256, Time: r.entry.Time}
}

func (b *blobs) prefix() string { return b.provider.subject("blob", b.config.Name) }

func (b *blobs) record(name string) string { return b.prefix() + "r." + fabric.Token(name) }

func (b *blobs) chunk(content string, n int) string {
	return b.prefix() + "c." + content + "." + strconv.Itoa(n)
}

func openBlobs(ctx context.Context, p *Provider, config fabric.BlobConfig) (*blobs, error) {
	b := &blobs{provider: p, config: config}
	var err error
	b.stream, err = p.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              p.stream("blob", config.Name),
		Subjects:          []string{b.prefix() + ">"},
		Storage:           jetstream.FileStorage,
		Replicas:          p.replicas,
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardOld,
		AllowDirect:       true,
		Duplicates:        retryWindow,
	})
	if err != nil {
		return nil, err
	}
	b.stored = stored{provider: p, stream: p.stream("blob", config.Name)}
	if err := b.sweep(ctx); err != nil {
		p.logger.Warn("leftovers of blobs not removed", slog.String("blobs", config.Name), slog.Any("error", err))
	}
	return b, nil
}

func (b *blobs) failed(operation, name string, err error) error {
	return fmt.Errorf("%s blob %.300q of %q: %w", operation, name, b.config.Name, translate(err))
}

func (b *blobs) check(ctx context.Context, name string) error {
	if err := b.provider.life.Ready(ctx); err != nil {
		return err
	}
	return fabric.CheckText(name)
}

// Put implements fabric.Blobs.
func (b *blobs) Put(ctx context.Context, name string, content io.Reader) (fabric.BlobInfo, error) {
	if err := b.check(ctx, name); err != nil {
		return fabric.BlobInfo{}, b.failed("put", name, err)
	}
	record := blobRecord{Name: name, Content: nuid.Next()}
	err := b.writeChunks(ctx, &record, content)
	var replaced *blobRecord
	if err == nil {
		replaced, err = b.writeRecord(ctx, &record)
	}
	if err != nil {
		// When the answer to the record got lost it may be in effect, and must stay whole.
		if current, readErr := b.read(context.WithoutCancel(ctx), name); errors.Is(readErr, jetstream.ErrMsgNotFound) ||
			readErr == nil && current.Content != record.Content {
			b.removeContent(ctx, record.Content)
		}
		return fabric.BlobInfo{}, b.failed("put", name, err)
	}
	if replaced != nil {
		b.removeContent(ctx, replaced.Content)
	}
	return record.info(), nil
}

// writeChunks stores the content and completes the record with what it is.
func (b *blobs) writeChunks(ctx context.Context, record *blobRecord, content io.Reader) error {
	sum := sha256.New()
	buffer := make([]byte, chunkSize)
	for end := false; !end; {
		n, err := io.ReadFull(content, buffer)
		end = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return fmt.Errorf("read content: %w", err)
		}
		if record.Size += int64(n); record.Size > b.config.MaxSize {
			return fmt.Errorf("over %d bytes: %w", b.config.MaxSize, fabric.ErrTooLarge)
		}
		if n == 0 {
			break
		}
		sum.Write(buffer[:n])
		if err := b.provider.life.Ready(ctx); err != nil {
			return err
		}
		if _, err := b.publish(ctx, b.chunk(record.Content, record.Chunks), buffer[:n]); err != nil {
			return err
		}
		record.Chunks++
	}
	record.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return nil
}

func (b *blobs) publish(
	ctx context.Context, subject string, body []byte, options ...jetstream.PublishOpt,
) (uint64, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	ack, err := b.provider.publish(ctx, newMsg(subject, body), options...)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// writeRecord puts the record into effect and returns the one that it replaced, if any. The
// write is conditional, so that of several each knows which content it has to remove.
func (b *blobs) writeRecord(ctx context.Context, record *blobRecord) (*blobRecord, error) {
	body, err := json.Marshal(record)
	if err != nil {
		return nil, err
	}
	for {
		replaced, err := b.read(ctx, record.Name)
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, err
		}
		var revision uint64
		if replaced != nil {
			revision = replaced.entry.Seq
		}
		_, err = b.publish(ctx, b.record(record.Name), body,
			jetstream.WithExpectLastSequencePerSubject(revision))
		if err == nil {
			record.entry.Time = time.Now()
			return replaced, nil
		}
		if !movedOn(err) {
			return nil, err
		}
		if err := b.provider.life.Ready(ctx); err != nil {
			return nil, err
		}
	}
}

// read returns the record of a blob, or jetstream.ErrMsgNotFound.
func (b *blobs) read(ctx context.Context, name string) (*blobRecord, error) {
	entry, err := b.stored.leader(ctx, getRequest{LastFor: b.record(name)})
	if err != nil {
		return nil, err
	}
	return decodeBlob(entry)
}

func decodeBlob(entry fabric.Entry) (*blobRecord, error) {
	record := &blobRecord{entry: entry}
	if err := json.Unmarshal(entry.Payload, record); err != nil {
		return nil, fmt.Errorf("decode record %d: %w", entry.Seq, err)
	}
	return record, nil
}

// removeContent removes the chunks of a content. It does so also when ctx has ended, because
// nobody else would until they are orphans.
func (b *blobs) removeContent(ctx context.Context, content string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleBlob)
	defer cancel()
	err := purge(ctx, b.stream, b.prefix()+"c."+content+".*")
	if err != nil {
		b.provider.logger.Warn("content of a blob not removed",
			slog.String("blobs", b.config.Name), slog.String("content", content), slog.Any("error", err))
	}
}

// Get implements fabric.Blobs.
func (b *blobs) Get(ctx context.Context, name string) (fabric.BlobInfo, io.ReadCloser, error) {
	err := b.check(ctx, name)
	var record *blobRecord
	if err == nil {
		record, err = b.read(ctx, name)
	}
	if err != nil {
		return fabric.BlobInfo{}, nil, b.failed("get", name, err)
	}
	return record.info(), &blobReader{ctx: ctx, blobs: b, record: *record, sum: sha256.New()}, nil
}

// blobReader reads a content chunk by chunk.
type blobReader struct {
	ctx    context.Context
	blobs  *blobs
	record blobRecord
	next   int    // chunk
	rest   []byte // of the current one
	size   int64  // of what was read
	sum    hash.Hash
	err    error // that ended it
}

// Read implements io.Reader.
func (r *blobReader) Read(into []byte) (int, error) {
	for r.err == nil && len(r.rest) == 0 {
		if err := r.advance(); err != nil {
			r.err = err
			if !errors.Is(err, io.EOF) {
				r.err = r.blobs.failed("read", r.record.Name, err)
			}
		}
	}
	if r.err != nil {
		return 0, r.err
	}
	n := copy(into, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// advance fetches the next chunk; io.EOF after the last when all is right.
func (r *blobReader) advance() error {
	if err := r.blobs.provider.life.Ready(r.ctx); err != nil {
		return err
	}
	if r.next == r.record.Chunks {
		if r.size != r.record.Size || hex.EncodeToString(r.sum.Sum(nil)) != r.record.SHA256 {
			return fabric.ErrCorrupt
		}
		return io.EOF
	}
	entry, err := r.blobs.stored.leader(r.ctx, getRequest{LastFor: r.blobs.chunk(r.record.Content, r.next)})
	if err != nil {
		return err
	}
	r.next++
	r.rest = entry.Payload
	r.size += int64(len(r.rest))
	r.sum.Write(r.rest)
	return nil
}

// Close implements io.Closer.
func (r *blobReader) Close() error {
	r.err = errors.Join(io.ErrClosedPipe, r.err)
	return nil
}

// List implements fabric.Blobs.
func (b *blobs) List(ctx context.Context) ([]fabric.BlobInfo, error) {
	err := b.provider.life.Ready(ctx)
	infos := []fabric.BlobInfo{}
	if err == nil {
		err = b.records(ctx, func(r *blobRecord) { infos = append(infos, r.info()) })
	}
	if err != nil {
		return nil, b.failed("list", "", err)
	}
	slices.SortFunc(infos, func(a, b fabric.BlobInfo) int { return cmp.Compare(a.Name, b.Name) })
	return infos, nil
}

// records calls each for all records. A blob that is replaced meanwhile is met once, as the
// last of its records.
func (b *blobs) records(ctx context.Context, each func(*blobRecord)) error {
	found := map[string]*blobRecord{}
	for next := uint64(1); ; {
		page, err := b.stored.page(ctx, b.prefix()+"r.*", next, fabric.MaxLogPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		for _, entry := range page {
			next = entry.Seq + 1
			record, err := decodeBlob(entry)
			if err != nil {
				return err
			}
			found[record.Name] = record
		}
	}
	for _, record := range found {
		each(record)
	}
	return nil
}

// Delete implements fabric.Blobs.
func (b *blobs) Delete(ctx context.Context, name string) error {
	err := b.check(ctx, name)
	for err == nil {
		var record *blobRecord
		if record, err = b.read(ctx, name); err != nil {
			break
		}
		removed, cancel := bounded(ctx)
		err = remove(removed, b.stream, record.entry.Seq, b.stream.DeleteMsg)
		cancel()
		if err == nil {
			b.removeContent(ctx, record.Content)
			return nil
		}
		if current, readErr := b.read(ctx, name); readErr == nil && current.entry.Seq != record.entry.Seq {
			err = nil // it was replaced meanwhile
		}
	}
	return b.failed("delete", name, err)
}

// sweep removes contents without a record that are old: a process ended in the midst of a
// Put, or before it had removed what it replaced.
func (b *blobs) sweep(ctx context.Context) error {
	info, err := ask(ctx, func(ctx context.Context) (*jetstream.StreamInfo, error) {
		return b.stream.Info(ctx, jetstream.WithSubjectFilter(b.prefix()+"c.*.0"))
	})
	if err != nil || len(info.State.Subjects) == 0 {
		return err
	}
	orphans := map[string]bool{}
	for subject := range info.State.Subjects {
		content, _, _ := strings.Cut(strings.TrimPrefix(subject, b.prefix()+"c."), ".")
		orphans[content] = true
	}
	if err := b.records(ctx, func(r *blobRecord) { delete(orphans, r.Content) }); err != nil {
		return err
	}
	for content := range orphans {
		first, err := b.stored.leader(ctx, getRequest{LastFor: b.chunk(content, 0)})
		if err == nil && time.Since(first.Time) > orphanAge {
			b.removeContent(ctx, content)
		}
	}
	return nil
}
