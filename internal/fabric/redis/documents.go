package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// keptDeletions is how many deleted keys of a collection are remembered. A watch that was cut
	// off while there were more compares all keys.
	keptDeletions = 4096
	// pageEntries and pageBytes bound what one read of a collection, a log or the dead letters
	// carries; the server answers nobody else meanwhile.
	pageEntries = 500
	pageBytes   = 4 << 20
)

var (
	commitScript = load("docs_commit")
	pageScript   = load("docs_page")
)

// documents is one handle of a collection.
type documents struct {
	provider *Provider
	name     string
	base     string   // of all keys
	keys     []string // as lua/docs.lua has them
	changes  string   // the channel on which each commit is told
}

func newDocuments(p *Provider, name string) *documents {
	base := p.key("docs", name)
	return &documents{
		provider: p, name: name, base: base, changes: p.channel("docs", name) + "w",
		keys: []string{base + "d", base + "k", base + "g", base + "s"},
	}
}

// check does what every operation does first.
func (d *documents) check(ctx context.Context, operation, key string) error {
	err := d.provider.life.Ready(ctx)
	if err == nil {
		err = fabric.CheckKey(key)
	}
	if err != nil {
		return d.failed(operation, key, err)
	}
	return nil
}

func (d *documents) failed(operation, key string, err error) error {
	return fmt.Errorf("%s document %.300q of %q: %w", operation, key, d.name, translate(err))
}

// Get implements fabric.Documents.
func (d *documents) Get(ctx context.Context, key string) (fabric.Document, error) {
	if err := d.check(ctx, "get", key); err != nil {
		return fabric.Document{}, err
	}
	var stored string
	err := d.provider.tries(ctx, func(ctx context.Context) (err error) {
		b := d.provider.client.B()
		stored, err = d.provider.client.Do(ctx, b.Hget().Key(d.keys[0]).Field(key).Build()).ToString()
		return err
	})
	var document fabric.Document
	if rueidis.IsRedisNil(err) {
		err = fabric.ErrNotFound
	}
	if err == nil {
		document, err = readDocument(key, stored)
	}
	if err != nil {
		return fabric.Document{}, d.failed("get", key, err)
	}
	return document, nil
}

// readDocument reads what is stored under a key.
func readDocument(key, stored string) (fabric.Document, error) {
	digits, value, found := strings.Cut(stored, " ")
	revision, err := strconv.ParseUint(digits, 10, 64)
	if !found || err != nil {
		return fabric.Document{}, fmt.Errorf("%w: no revision", errAnswer)
	}
	return fabric.Document{Key: key, Value: notNil(value), Revision: revision}, nil
}

// conflict says that a write expected another revision.
type conflict struct {
	key     string
	current uint64 // 0 when there is none
}

// Error implements error.
func (c *conflict) Error() string {
	return fmt.Sprintf("document %.300q is at revision %d", c.key, c.current)
}

// Unwrap has errors.Is find the sentinel.
func (c *conflict) Unwrap() error { return fabric.ErrConflict }

// commit makes all writes or none and returns the revision of the first; those of the others
// follow it.
func (d *documents) commit(ctx context.Context, writes []fabric.Write) (uint64, error) {
	keys := append(slices.Clone(d.keys), operation(d.base))
	args := make([]string, 0, 3+4*len(writes))
	args = append(args, d.changes, milliseconds(memoryTime), strconv.Itoa(keptDeletions))
	for _, w := range writes {
		kind := "put"
		if w.Value == nil {
			kind = "delete"
		}
		args = append(args, w.Key, strconv.FormatUint(w.Revision, 10), kind, string(w.Value))
	}
	answer, err := d.provider.runDurable(ctx, commitScript, keys, args)
	if err != nil {
		return 0, err
	}
	parts, err := list(answer, 2)
	if err != nil {
		return 0, err
	}
	if done, _ := parts[0].AsInt64(); done == 1 {
		return number(parts[1])
	}
	if parts, err = list(answer, 3); err != nil {
		return 0, err
	}
	key, _ := parts[1].ToString() // is a text
	current, err := number(parts[2])
	if err != nil {
		return 0, err
	}
	return 0, &conflict{key, current}
}

// Put implements fabric.Documents.
func (d *documents) Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if err := d.check(ctx, "put", key); err != nil {
		return 0, err
	}
	err := fabric.CheckValue(value)
	var stored uint64
	if err == nil {
		if value == nil {
			value = []byte{}
		}
		stored, err = d.commit(ctx, []fabric.Write{{Key: key, Value: value, Revision: revision}})
	}
	if err != nil {
		return 0, d.failed("put", key, err)
	}
	return stored, nil
}

// Delete implements fabric.Documents.
func (d *documents) Delete(ctx context.Context, key string, revision uint64) error {
	if err := d.check(ctx, "delete", key); err != nil {
		return err
	}
	_, err := d.commit(ctx, []fabric.Write{{Key: key, Revision: revision}})
	var c *conflict
	if errors.As(err, &c) && c.current == 0 {
		err = fabric.ErrNotFound
	}
	if err != nil {
		return d.failed("delete", key, err)
	}
	return nil
}

// Commit implements fabric.Documents.
func (d *documents) Commit(ctx context.Context, writes []fabric.Write) ([]uint64, error) {
	err := d.provider.life.Ready(ctx)
	if err == nil {
		err = fabric.CheckWrites(writes)
	}
	var first uint64
	if err == nil && len(writes) > 0 {
		first, err = d.commit(ctx, writes)
	}
	if err != nil {
		return nil, fmt.Errorf("commit %d writes to documents of %q: %w", len(writes), d.name, translate(err))
	}
	revisions := make([]uint64, len(writes))
	for i := range revisions {
		revisions[i] = first + uint64(i)
	}
	return revisions, nil
}

// List implements fabric.Documents.
func (d *documents) List(ctx context.Context) ([]fabric.Document, error) {
	err := d.provider.life.Ready(ctx)
	var found map[string]fabric.Document
	if err == nil {
		found, _, err = d.scan(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("list documents of %q: %w", d.name, translate(err))
	}
	return slices.SortedFunc(maps.Values(found), func(a, b fabric.Document) int {
		return cmp.Compare(a.Key, b.Key)
	}), nil
}

// scan reads the collection page by page in the order of revisions, so that a key that is written
// meanwhile is met again behind and never missed. What is deleted meanwhile may be found. It
// also returns the first page, up to whose revision the result holds all changes.
func (d *documents) scan(ctx context.Context) (found map[string]fabric.Document, first page, err error) {
	found = map[string]fabric.Document{}
	if first, err = d.page(ctx, 0, false); err != nil {
		return nil, first, err
	}
	for p := first; len(p.changes) > 0; {
		for _, change := range p.changes {
			found[change.Key] = change.Document
		}
		if p, err = d.page(ctx, p.changes[len(p.changes)-1].Revision, false); err != nil {
			return nil, first, err
		}
	}
	return found, first, nil
}

// page is what one read gave.
type page struct {
	epoch    uint64 // another one is another collection, of which nothing is known
	revision uint64 // of the last change of the collection
	floor    uint64 // deletions up to this revision may be missing
	changes  []fabric.Change
}

// page returns the first of what changed last behind a revision.
func (d *documents) page(ctx context.Context, after uint64, deletions bool) (p page, err error) {
	wanted := "0"
	if deletions {
		wanted = "1"
	}
	answer, err := d.provider.run(ctx, pageScript, d.keys,
		[]string{strconv.FormatUint(after, 10), strconv.Itoa(pageEntries), strconv.Itoa(pageBytes), wanted})
	if err != nil {
		return p, err
	}
	parts, err := list(answer, 3)
	if err != nil {
		return p, err
	}
	for i, field := range []*uint64{&p.epoch, &p.revision, &p.floor} {
		if *field, err = number(parts[i]); err != nil {
			return p, err
		}
	}
	for parts = parts[3:]; len(parts) >= 3; parts = parts[3:] {
		change := fabric.Change{Deleted: parts[2].IsNil()}
		key, err := parts[0].ToString()
		if err != nil {
			return p, fmt.Errorf("%w: %w", errAnswer, err)
		}
		if change.Deleted {
			change.Key = key
			change.Revision, err = number(parts[1])
		} else {
			stored, _ := parts[2].ToString() // is a text
			change.Document, err = readDocument(key, stored)
		}
		if err != nil {
			return p, err
		}
		p.changes = append(p.changes, change)
	}
	return p, nil
}
