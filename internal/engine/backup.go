package engine

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

const (
	manifestName    = "manifest.json"
	manifestVersion = 1
	partialSuffix   = ".partial"
)

// ErrBadBackup says that a directory is no backup, an incomplete one, or a damaged one.
var ErrBadBackup = errors.New("not a complete backup")

// Manifest describes a backup. A directory without one is not complete.
type Manifest struct {
	Version int       `json:"version"`
	ID      string    `json:"id"` // tells this backup from every other
	Created time.Time `json:"created"`
	Server  string    `json:"server"` // name of the node that wrote it
	Streams []Backed  `json:"streams"`
	// Omitted are streams that are kept in memory only, which cannot be copied.
	Omitted []string `json:"omitted,omitempty"`
}

// Backed describes one stream of a backup.
type Backed struct {
	Name   string `json:"name"`
	File   string `json:"file"`
	Size   int64  `json:"size"` // bytes of the file
	SHA256 string `json:"sha256"`
	// Config and State are those of the server.
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`
	// Consumers are the durable ones, with the stream sequence up to which they had
	// acknowledged everything before the snapshot began.
	Consumers map[string]uint64 `json:"consumers"`
}

// Backup writes all streams, with their consumers, to a new directory, which appears when it
// is complete. Each stream is as of one moment, and writing goes on meanwhile. The directory
// is of mode 0700: what is in it is not encrypted.
func (e *Engine) Backup(ctx context.Context, dir string) (*Manifest, error) {
	manifest, err := e.backup(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("back up to %q: %w", dir, err)
	}
	return manifest, nil
}

func (e *Engine) backup(ctx context.Context, dir string) (*Manifest, error) {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, fs.ErrExist)
	}
	conn, err := e.internal(userClient)
	if err != nil {
		return nil, err
	}
	partial := dir + partialSuffix
	if err := os.RemoveAll(partial); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(partial, 0o700); err != nil {
		return nil, err
	}
	manifest := &Manifest{
		Version: manifestVersion, ID: nuid.Next(), Created: time.Now().UTC(), Server: e.server.Name(),
	}
	names, err := streamNames(ctx, conn)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		file := fmt.Sprintf("%04d.snapshot", i+1) // a stream's name may not do for a file
		if err := manifest.add(ctx, conn, partial, name, file); err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
	}
	if err := manifest.write(partial); err != nil {
		return nil, err
	}
	if err := os.Rename(partial, dir); err != nil {
		return nil, err
	}
	return manifest, syncDirectory(filepath.Dir(dir))
}

// add copies one stream.
func (m *Manifest) add(ctx context.Context, conn *nats.Conn, dir, name, file string) error {
	info, err := readStream(ctx, conn, name)
	if hasCode(err, codeStreamNotFound) {
		return nil // deleted since
	}
	if err != nil {
		return err
	}
	if info.Config.Storage == "memory" {
		m.Omitted = append(m.Omitted, name)
		return nil
	}
	// Read before the snapshot: what is acknowledged only grows.
	consumers, err := consumers(ctx, conn, name)
	if err != nil {
		return err
	}
	backed := Backed{Name: name, File: file, Consumers: map[string]uint64{}}
	for _, consumer := range consumers {
		if consumer.Config.Durable != "" {
			backed.Consumers[consumer.Name] = consumer.AckFloor.Stream
		}
	}
	hash := sha256.New()
	var response snapshotResponse
	backed.Size, err = writeFile(filepath.Join(dir, file), func(w io.Writer) (err error) {
		response, err = snapshotStream(ctx, conn, name, io.MultiWriter(w, hash))
		return err
	})
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	backed.SHA256 = hex.EncodeToString(hash.Sum(nil))
	backed.Config, backed.State = response.Config, response.State
	m.Streams = append(m.Streams, backed)
	return nil
}

func (m *Manifest) write(dir string) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	_, err = writeFile(filepath.Join(dir, manifestName), func(w io.Writer) error {
		_, err := w.Write(append(data, '\n'))
		return err
	})
	return errors.Join(err, syncDirectory(dir))
}

// ReadManifest reads the manifest of a backup and compares every file with it. Errors:
// ErrBadBackup and those of the file system.
func ReadManifest(dir string) (*Manifest, error) {
	data, err := os.ReadFile(filepath.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrBadBackup, err)
	}
	if err != nil {
		return nil, err
	}
	var manifest Manifest
	if err := json.Unmarshal(data, &manifest); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBadBackup, manifestName, err)
	}
	if manifest.Version != manifestVersion || manifest.ID == "" {
		return nil, fmt.Errorf("%w: version %d of it is not known", ErrBadBackup, manifest.Version)
	}
	for _, stream := range manifest.Streams {
		if err := stream.check(dir); err != nil {
			return nil, fmt.Errorf("stream %s: %w", stream.Name, err)
		}
	}
	return &manifest, nil
}

// check compares the file with the manifest.
func (b *Backed) check(dir string) error {
	if !filepath.IsLocal(b.File) {
		return fmt.Errorf("%w: file %q is outside of it", ErrBadBackup, b.File)
	}
	file, err := os.Open(filepath.Join(dir, b.File))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadBackup, err)
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	size, err := io.Copy(hash, file)
	if err != nil {
		return fmt.Errorf("read %s: %w", b.File, err)
	}
	if size != b.Size || hex.EncodeToString(hash.Sum(nil)) != b.SHA256 {
		return fmt.Errorf("%w: %s is not what was written", ErrBadBackup, b.File)
	}
	if _, err := b.state(); err != nil {
		return fmt.Errorf("%w: state: %w", ErrBadBackup, err)
	}
	if _, err := b.configured(1, ""); err != nil {
		return fmt.Errorf("%w: configuration: %w", ErrBadBackup, err)
	}
	return nil
}

func (b *Backed) state() (server.StreamState, error) {
	var state server.StreamState
	err := json.Unmarshal(b.State, &state)
	return state, err
}

// configured returns the configuration with another number of replicas and a mark, if one is
// given. Everything else stays as the server wrote it.
func (b *Backed) configured(replicas int, mark string) (json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(b.Config, &fields); err != nil {
		return nil, err
	}
	metadata := map[string]string{}
	if raw, ok := fields["metadata"]; ok {
		if err := json.Unmarshal(raw, &metadata); err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(metadata, func(key, _ string) bool { return key == markKey })
	if mark != "" {
		metadata[markKey] = mark
	}
	var errs [2]error
	fields["num_replicas"], errs[0] = json.Marshal(replicas)
	fields["metadata"], errs[1] = json.Marshal(metadata)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// consumerNames are the names of the durable consumers, sorted.
func (b *Backed) consumerNames() []string {
	return slices.Sorted(maps.Keys(b.Consumers))
}

// writeFile writes a new file of mode 0600 through to the disk and returns its size.
func writeFile(path string, write func(io.Writer) error) (size int64, err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buffered := bufio.NewWriterSize(file, 1<<20)
	if err := errors.Join(write(buffered), buffered.Flush()); err != nil {
		return 0, err
	}
	if err := file.Sync(); err != nil {
		return 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
