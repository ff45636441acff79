// Package index keeps on the disk of one node what it derives from the logs: which message of a
// channel is where, who is a member of what. It is a Pebble database that can be deleted at any
// time: the node follows the logs from the place that the database holds, or from their start.
//
// It may import Pebble. It must never import another room of Parley.
package index

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

// Sizes in bytes. A node whose index is larger than its cache reads from the system's. Pebble takes the
// tables in memory out of the cache, those that are being written and those that were as well: of 32 MB
// nothing was left under load, and of 100 blocks that were looked for 8 were there, with 64 MB 84.
const (
	cacheSize    = 64 << 20
	memTableSize = 8 << 20
	// filterBits is bits for each key in filters: one of 100 keys that are not there is looked for in vain.
	filterBits = 10
)

// ErrClosed says that the index was closed.
var ErrClosed = errors.New("the index is closed")

// Index is an open database. Its methods may be called from any goroutine.
type Index struct {
	db *pebble.DB

	users  atomic.Int64 // calls that use the database
	closed atomic.Bool
}

// use begins a use of the database, which done ends, or returns ErrClosed. Uses may be nested.
func (x *Index) use() error {
	x.users.Add(1)
	if x.closed.Load() {
		x.done()
		return ErrClosed
	}
	return nil
}

func (x *Index) done() { x.users.Add(-1) }

// closePause is between two looks whether the database is still used.
const closePause = time.Millisecond

// Open opens the database in dir, making it when there is none. One that is damaged is made anew.
func Open(dir string, logger *slog.Logger) (*Index, error) {
	cache := pebble.NewCache(cacheSize)
	defer cache.Unref()
	filter := pebble.LevelOptions{FilterPolicy: bloom.FilterPolicy(filterBits)}
	options := &pebble.Options{
		Cache:              cache,
		MemTableSize:       memTableSize,
		FormatMajorVersion: pebble.FormatNewest,
		// Most keys that are looked for alone are not there: what a sender sends again, what nobody has set.
		Levels:     [7]pebble.LevelOptions{filter, filter, filter, filter, filter, filter, filter},
		DisableWAL: true, // what a crash loses of the newest rows is followed again
		Logger:     quiet{logger},
	}
	db, err := pebble.Open(dir, options)
	if pebble.IsCorruptionError(err) {
		logger.Warn("the index is damaged and is made anew", "dir", dir, "error", err)
		if err = os.RemoveAll(dir); err == nil {
			db, err = pebble.Open(dir, options)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the index in %s: %w", dir, err)
	}
	return &Index{db: db}, nil
}

// quiet hands Pebble's messages to a slog.Logger.
type quiet struct{ logger *slog.Logger }

func (q quiet) Infof(string, ...any) {}

func (q quiet) Errorf(format string, args ...any) { q.logger.Error(fmt.Sprintf(format, args...)) }

func (q quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// Close writes what waits and closes the database.
func (x *Index) Close() error {
	if x.closed.Swap(true) {
		return nil
	}
	for x.users.Load() > 0 {
		time.Sleep(closePause)
	}
	if err := errors.Join(x.db.Flush(), x.db.Close()); err != nil {
		return fmt.Errorf("close the index: %w", err)
	}
	return nil
}

// Get returns the value of a key, nil when there is none.
func (x *Index) Get(key []byte) ([]byte, error) {
	if err := x.use(); err != nil {
		return nil, err
	}
	defer x.done()
	value, closer, err := x.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the index: %w", err)
	}
	out := append([]byte{}, value...)
	return out, closer.Close()
}

// Each calls f for the keys from the first one to before the one of end, in their order, or from the
// last one back, until f returns false. Key and value are valid during the call.
func (x *Index) Each(from, end []byte, backwards bool, f func(key, value []byte) bool) error {
	if err := x.use(); err != nil {
		return err
	}
	defer x.done()
	rows, err := x.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: end})
	if err != nil {
		return fmt.Errorf("read the index: %w", err)
	}
	first, next := rows.First, rows.Next
	if backwards {
		first, next = rows.Last, rows.Prev
	}
	for ok := first(); ok; ok = next() {
		if !f(rows.Key(), rows.Value()) {
			break
		}
	}
	if err := errors.Join(rows.Error(), rows.Close()); err != nil {
		return fmt.Errorf("read the index: %w", err)
	}
	return nil
}

// Applied returns the sequence number up to which a log was applied.
func (x *Index) Applied(log string) (uint64, error) {
	value, err := x.Get(Key('a', log))
	if err != nil || value == nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(value), nil
}

// Batch is a number of changes that are made together.
type Batch struct {
	index *Index
	batch *pebble.Batch
}

// Batch begins a batch.
func (x *Index) Batch() Batch { return Batch{x, x.db.NewBatch()} }

// Set, Delete and DeleteRange are written by Commit; their errors come from it as well.
func (b Batch) Set(key, value []byte) { _ = b.batch.Set(key, value, nil) }

// Delete removes a key.
func (b Batch) Delete(key []byte) { _ = b.batch.Delete(key, nil) }

// DeleteRange removes the keys from the first one to before end.
func (b Batch) DeleteRange(from, end []byte) { _ = b.batch.DeleteRange(from, end, nil) }

// Write makes the changes, which no log is behind.
func (b Batch) Write() error {
	if err := b.index.use(); err != nil {
		return err
	}
	defer b.index.done()
	if err := errors.Join(b.batch.Commit(pebble.NoSync), b.batch.Close()); err != nil {
		return fmt.Errorf("write the index: %w", err)
	}
	return nil
}

// Commit makes the changes, with the place that the log was applied to. It does not wait for the
// disk: what is lost with the machine's power is followed again.
func (b Batch) Commit(log string, applied uint64) error {
	b.Set(Key('a', log), binary.BigEndian.AppendUint64(nil, applied))
	return b.Write()
}

// Compact takes what was removed between two keys off the disk: until then it stays there, not to be
// read any more.
func (x *Index) Compact(from, end []byte) error {
	if err := x.use(); err != nil {
		return err
	}
	defer x.done()
	if err := x.db.Compact(context.Background(), from, end, false); err != nil {
		return fmt.Errorf("compact the index: %w", err)
	}
	return nil
}

// Clear removes everything.
func (x *Index) Clear() error {
	if err := x.use(); err != nil {
		return err
	}
	defer x.done()
	if err := x.db.DeleteRange([]byte{0}, []byte{0xff}, pebble.Sync); err != nil {
		return fmt.Errorf("clear the index: %w", err)
	}
	return nil
}

// Key joins a table's letter and texts, which must have no zero byte, to a key.
func Key(table byte, parts ...string) []byte {
	size := 1
	for _, part := range parts {
		size += len(part) + 1
	}
	key := append(make([]byte, 0, size+8), table)
	for i, part := range parts {
		if i > 0 {
			key = append(key, 0)
		}
		key = append(key, part...)
	}
	return key
}

// Prefix is what the keys begin with that have more parts, and End what comes behind them.
func Prefix(table byte, parts ...string) []byte { return append(Key(table, parts...), 0) }

// End is the first key behind all that begin with the prefix.
func End(prefix []byte) []byte {
	end := append([]byte{}, prefix...)
	end[len(end)-1]++
	return end
}

// KeySeq is a key that ends with a number, so that keys are in its order.
func KeySeq(table byte, part string, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(Prefix(table, part), seq)
}

// SeqOf returns the number that ends a key of KeySeq.
func SeqOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }
