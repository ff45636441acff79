package primitives

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// Collection is the name of the collection of documents that holds keys and the settings of
// queues: a document for each key below keyPrefix, and one for all queues, so that their number
// is exact.
const Collection = "primitives"

const (
	keyPrefix  = "key/"
	queuesKey  = "queues"
	writeTries = 10 // of a document that others change at the same time
)

// Pauses before a watch that broke is tried again.
const (
	rewatchMin = 100 * time.Millisecond
	rewatchMax = 5 * time.Second
)

// registry knows all keys and queues. It follows the store, so that what one node does all nodes
// know within a moment. While the store is away it knows what it knew.
type registry struct {
	documents fabric.Documents
	log       *slog.Logger
	static    []*Key
	changed   func(map[queueName]queueRecord) // is told of all queues after each change
	snapshot  atomic.Pointer[snapshot]

	mu     sync.Mutex // guards the following fields
	stored map[string]storedKey
	queues queueBook
}

// storedKey is a key of the store at its revision. The key is nil when it was revoked, so that no
// late word of it brings it back, or cannot be read.
type storedKey struct {
	key      *Key
	revision uint64
}

// queueBook is the document of all queues.
type queueBook struct {
	records  map[queueName]queueRecord
	revision uint64
}

// snapshot is an immutable view of all keys and queues.
type snapshot struct {
	byHash map[tokenHash]*Key
	byID   map[string]*Key
	all    []*Key // static ones first, then by id
	queues map[queueName]queueRecord
}

func newRegistry(documents fabric.Documents, static []*Key, log *slog.Logger) *registry {
	r := &registry{
		documents: documents, log: log, static: static, stored: map[string]storedKey{},
		changed: func(map[queueName]queueRecord) {},
	}
	r.publish()
	return r
}

// keyOf returns the key that a token belongs to.
func (r *registry) keyOf(token string) *Key {
	hash := hashToken(token)
	if key := r.snapshot.Load().byHash[hash]; key != nil && key.hash.equals(hash) {
		return key
	}
	return nil
}

// queue returns the record of a queue, unless it is being removed.
func (r *registry) queue(name queueName) (queueRecord, bool) {
	record, found := r.snapshot.Load().queues[name]
	return record, found && !record.Removing
}

// publish shows what is known. The caller holds r.mu, or is the only one.
func (r *registry) publish() {
	next := &snapshot{byHash: map[tokenHash]*Key{}, byID: map[string]*Key{}, queues: r.queues.records}
	for _, key := range r.static {
		next.byHash[key.hash], next.byID[key.ID] = key, key
		next.all = append(next.all, key)
	}
	var stored []*Key
	for _, s := range r.stored {
		if s.key != nil && next.byID[s.key.ID] == nil { // one of the file hides it
			stored = append(stored, s.key)
		}
	}
	slices.SortFunc(stored, func(a, b *Key) int { return strings.Compare(a.ID, b.ID) })
	for _, key := range stored {
		next.byHash[key.hash], next.byID[key.ID] = key, key
	}
	next.all = append(next.all, stored...)
	r.snapshot.Store(next)
}

// keyRecord is the document of a key.
type keyRecord struct {
	Namespace         string    `json:"namespace"`
	Scopes            []string  `json:"scopes"`
	RequestsPerSecond int       `json:"requests_per_second,omitempty"`
	TokenSHA256       string    `json:"token_sha256"`
	CreatedAt         time.Time `json:"created_at"`
}

// readKey reads the document of a key. One that cannot be read lets nobody in.
func (r *registry) readKey(d fabric.Document) storedKey {
	var record keyRecord
	err := json.Unmarshal(d.Value, &record)
	key := &Key{
		ID: strings.TrimPrefix(d.Key, keyPrefix), Namespace: record.Namespace, Scopes: record.Scopes,
		RequestsPerSecond: record.RequestsPerSecond, CreatedAt: record.CreatedAt,
	}
	var hash []byte
	if err == nil {
		err = key.check()
	}
	if err == nil {
		hash, err = hex.DecodeString(record.TokenSHA256)
	}
	if err == nil && len(hash) != len(key.hash) {
		err = errors.New("the hash of the token has the wrong size")
	}
	if err != nil {
		r.log.Error("a stored key cannot be read, and is refused", "key", d.Key, "error", err)
		return storedKey{revision: d.Revision}
	}
	key.hash = tokenHash(hash)
	return storedKey{key, d.Revision}
}

// readQueues reads the document of all queues.
func (r *registry) readQueues(d fabric.Document) (queueBook, error) {
	var record map[string]queueRecord
	if err := json.Unmarshal(d.Value, &record); err != nil {
		return queueBook{}, fmt.Errorf("read the settings of queues: %w", err)
	}
	book := queueBook{records: map[queueName]queueRecord{}, revision: d.Revision}
	for text, queue := range record {
		namespace, name, _ := strings.Cut(text, "/")
		book.records[queueName{namespace, name}] = queue
	}
	return book, nil
}

func (b queueBook) encode() ([]byte, error) {
	record := map[string]queueRecord{}
	for name, queue := range b.records {
		record[name.String()] = queue
	}
	return json.Marshal(record)
}

// start loads what is stored and follows it until ctx ends. It fails if it cannot be loaded.
func (r *registry) start(ctx context.Context, goes func(func()) bool) error {
	ready := make(chan struct{})
	ended := make(chan error, 1)
	goes(func() {
		var once sync.Once
		err := r.watch(ctx, func() { once.Do(func() { close(ready) }) })
		ended <- err
		for wait := rewatchMin; err != nil && ctx.Err() == nil && !errors.Is(err, fabric.ErrClosed); {
			r.log.Warn("keys and queues cannot be followed, trying again", "error", err, "pause", wait)
			if pause(ctx, wait) != nil {
				return
			}
			wait = min(2*wait, rewatchMax)
			err = r.watch(ctx, func() { wait = rewatchMin })
		}
	})
	select {
	case <-ready:
		return nil
	case err := <-ended:
		return fmt.Errorf("load keys and queues: %w", errors.Join(err, ctx.Err()))
	}
}

// watch replaces what is known by what is stored, calls ready, and applies changes until ctx
// ends.
func (r *registry) watch(ctx context.Context, ready func()) error {
	loading := map[string]fabric.Document{}
	return r.documents.Watch(ctx, func(change fabric.Change) {
		switch {
		case loading == nil:
			r.apply(change)
		case change.Deleted:
			delete(loading, change.Key)
		default:
			loading[change.Key] = change.Document
		}
	}, func() {
		r.replace(loading)
		loading = nil
		ready()
	})
}

// replace takes over the whole content of the store.
func (r *registry) replace(documents map[string]fabric.Document) {
	r.mu.Lock()
	gone := []fabric.Change{}
	for id, s := range r.stored {
		if _, stays := documents[keyPrefix+id]; !stays && s.key != nil {
			gone = append(gone, fabric.Change{Document: fabric.Document{Key: keyPrefix + id, Revision: s.revision + 1}, Deleted: true})
		}
	}
	r.mu.Unlock()
	for _, change := range gone {
		r.apply(change)
	}
	for _, d := range documents {
		r.apply(fabric.Change{Document: d})
	}
}

// apply takes over one change of the store, unless it or a later one is known.
func (r *registry) apply(change fabric.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id, isKey := strings.CutPrefix(change.Key, keyPrefix)
	switch {
	case isKey:
		r.applyKey(id, change)
	case change.Key == queuesKey:
		r.applyQueues(change)
	}
}

// applyKey is apply for a key. The caller holds r.mu.
func (r *registry) applyKey(id string, change fabric.Change) {
	old := r.stored[id]
	if change.Revision <= old.revision {
		return
	}
	if change.Deleted {
		r.stored[id] = storedKey{revision: change.Revision}
	} else {
		r.stored[id] = r.readKey(change.Document)
	}
	r.publish()
	if old.key != nil {
		close(old.key.gone)
	}
}

// applyQueues is apply for the queues. The caller holds r.mu.
func (r *registry) applyQueues(change fabric.Change) {
	if change.Revision <= r.queues.revision {
		return
	}
	book := queueBook{revision: change.Revision}
	if !change.Deleted {
		var err error
		if book, err = r.readQueues(change.Document); err != nil {
			r.log.Error("the settings of queues cannot be read, those known before stay", "error", err)
			return
		}
	}
	r.queues = book
	r.publish()
	r.changed(book.records)
}

// createKey stores a new key and returns it with its token, which is kept nowhere.
func (r *registry) createKey(ctx context.Context, key Key) (*Key, string, error) {
	if key.ID == "" {
		key.ID = strings.ToLower(randomText()[:10])
	}
	if err := key.check(); err != nil {
		return nil, "", err
	}
	known := r.snapshot.Load()
	if known.byID[key.ID] != nil {
		return nil, "", fmt.Errorf("%w: %s", ErrKeyExists, key.ID)
	}
	if len(known.all) >= MaxKeys {
		return nil, "", ErrTooManyKeys
	}
	token := newToken()
	key.hash, key.CreatedAt, key.Static = hashToken(token), time.Now().UTC().Truncate(time.Second), false
	text, err := json.Marshal(keyRecord{
		Namespace: key.Namespace, Scopes: key.Scopes, RequestsPerSecond: key.RequestsPerSecond,
		TokenSHA256: hex.EncodeToString(key.hash[:]), CreatedAt: key.CreatedAt,
	})
	if err != nil {
		return nil, "", err
	}
	revision, err := r.documents.Put(ctx, keyPrefix+key.ID, text, 0)
	if errors.Is(err, fabric.ErrConflict) {
		return nil, "", fmt.Errorf("%w: %s", ErrKeyExists, key.ID)
	}
	if err != nil {
		return nil, "", err
	}
	r.apply(fabric.Change{Document: fabric.Document{Key: keyPrefix + key.ID, Value: text, Revision: revision}})
	return &key, token, nil
}

// revokeKey removes a key of the store.
func (r *registry) revokeKey(ctx context.Context, id string) error {
	if key := r.snapshot.Load().byID[id]; key != nil && key.Static {
		return fmt.Errorf("%w: %s", ErrKeyStatic, id)
	}
	if !keyIDPattern.MatchString(id) {
		return fmt.Errorf("%w: %.80q", ErrKeyNotFound, id)
	}
	for range writeTries {
		d, err := r.documents.Get(ctx, keyPrefix+id)
		if err == nil {
			err = r.documents.Delete(ctx, d.Key, d.Revision)
		}
		switch {
		case err == nil:
			d.Revision++ // of the deletion, at least
			d.Value = nil
			r.apply(fabric.Change{Document: d, Deleted: true})
			return nil
		case errors.Is(err, fabric.ErrNotFound):
			return fmt.Errorf("%w: %s", ErrKeyNotFound, id)
		case !errors.Is(err, fabric.ErrConflict):
			return err
		}
	}
	return fmt.Errorf("revoke key %s: %w", id, fabric.ErrConflict)
}

// changeQueues has change make the next records of all queues from the last ones, and stores
// them. It changes nothing when change returns an error.
func (r *registry) changeQueues(ctx context.Context, change func(map[queueName]queueRecord) error) error {
	for range writeTries {
		book := queueBook{records: map[queueName]queueRecord{}}
		d, err := r.documents.Get(ctx, queuesKey)
		if err == nil {
			book, err = r.readQueues(d)
		}
		if err != nil && !errors.Is(err, fabric.ErrNotFound) {
			return err
		}
		if err := change(book.records); err != nil {
			return err
		}
		text, err := book.encode()
		if err != nil {
			return err
		}
		revision, err := r.documents.Put(ctx, queuesKey, text, book.revision)
		if err == nil {
			r.apply(fabric.Change{Document: fabric.Document{Key: queuesKey, Value: text, Revision: revision}})
			return nil
		}
		if !errors.Is(err, fabric.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("change the queues: %w", fabric.ErrConflict)
}
