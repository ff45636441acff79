package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Directories within the data directory of a node.
const (
	storeDir      = "engine"
	exportDir     = "engine.export"     // backup of the standalone store
	standaloneDir = "engine.standalone" // the standalone store, until its import is verified
	keptDir       = "engine.alone"      // the same, when it is of no more use here
)

var (
	// ErrStandaloneStore says that a store with streams was written standalone. A cluster
	// does not know them and would delete them; see LeaveStandalone.
	ErrStandaloneStore = errors.New("store was written standalone")
	// ErrClusterStore says that a store belongs to the member of a cluster, which must not
	// go on alone: the others would not know what it wrote.
	ErrClusterStore = errors.New("store belongs to the member of a cluster")
	// ErrImportPending says that what this node had stored is set aside and waits to be
	// imported into a cluster.
	ErrImportPending = errors.New("an import into a cluster is pending")
)

// clearStore removes what a server that was killed in its start has left of its try to write there. It
// would take that for the data of an account that it does not know, and be unhealthy for ever.
func clearStore(dataDir string) error {
	store := filepath.Join(dataDir, storeDir, "jetstream")
	entries, err := os.ReadDir(store)
	if err != nil {
		return nil // there is none yet, or the server says better what is wrong with it
	}
	for _, entry := range entries {
		if entry.Type().IsRegular() && strings.HasPrefix(entry.Name(), "_test_") {
			err = errors.Join(err, os.Remove(filepath.Join(store, entry.Name())))
		}
	}
	return err
}

// checkStore refuses to open a store in the mode that it was not written in.
func checkStore(dataDir string, cluster *Cluster) error {
	store := filepath.Join(dataDir, storeDir, "jetstream")
	streams, err := os.ReadDir(filepath.Join(store, mainAccount, "streams"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil // the server says better what is wrong with it
	}
	clustered := exists(filepath.Join(store, systemAccount, "_js_", "_meta_"))
	switch {
	case cluster == nil && clustered:
		return fmt.Errorf("%w: %q; configure the cluster, or restore a backup into an empty directory",
			ErrClusterStore, dataDir)
	case cluster == nil && exists(filepath.Join(dataDir, standaloneDir)):
		return fmt.Errorf("%w: configure the cluster, or move %s back to %s in %q",
			ErrImportPending, standaloneDir, storeDir, dataDir)
	case cluster != nil && !clustered && len(streams) > 0:
		return fmt.Errorf("%w: %q", ErrStandaloneStore, dataDir)
	}
	return nil
}

// HasStandaloneStore says whether the data directory has a store with streams that was
// written standalone, so that the node must start standalone and leave with LeaveStandalone
// before it may be the member of a cluster.
func HasStandaloneStore(dataDir string) bool {
	return errors.Is(checkStore(dataDir, &Cluster{}), ErrStandaloneStore)
}

// LeaveStandalone ends a standalone engine so that the node can become the member of a
// cluster: it closes all connections, copies every stream, stops, and sets the store aside.
// Then start the engine in the cluster, give what PendingImport says to Restore, and call
// ReleaseStandalone. If it fails or the process dies before the store was set aside, nothing
// has changed for the next standalone start; but this engine is of no more use.
func (e *Engine) LeaveStandalone(ctx context.Context) error {
	if e.cluster != nil {
		return fmt.Errorf("leave standalone: %w", ErrClusterStore)
	}
	dir := e.options.DataDir
	e.mu.Lock()
	e.sealed = true
	e.mu.Unlock()
	e.drain(ctx)
	if err := os.RemoveAll(filepath.Join(dir, exportDir)); err != nil {
		return fmt.Errorf("leave standalone: %w", err)
	}
	if _, err := e.Backup(ctx, filepath.Join(dir, exportDir)); err != nil {
		return fmt.Errorf("leave standalone: %w", err)
	}
	// The rename happens under the lock: nobody can have written in between.
	e.beforeUnlock = func() error {
		err := os.Rename(filepath.Join(dir, storeDir), filepath.Join(dir, standaloneDir))
		return errors.Join(err, syncDirectory(dir))
	}
	if err := e.Stop(ctx); err != nil {
		return fmt.Errorf("leave standalone: %w", err)
	}
	if e.unlockErr != nil {
		return fmt.Errorf("leave standalone: set the store aside: %w", e.unlockErr)
	}
	return nil
}

// PendingImport returns the directory to give to Restore when the standalone store of this
// node was set aside and is not released yet.
func PendingImport(dataDir string) (dir string, pending bool) {
	return filepath.Join(dataDir, exportDir), exists(filepath.Join(dataDir, standaloneDir))
}

// ReleaseStandalone lets go of what was set aside, after Restore has returned nil: the copy is
// deleted, and the store is kept under another name, which nothing here looks at again, with
// its size in bytes. It may be called again at any time; kept is empty when there was nothing.
func ReleaseStandalone(dataDir string) (kept string, size int64, err error) {
	aside := filepath.Join(dataDir, standaloneDir)
	if exists(aside) {
		kept = filepath.Join(dataDir, keptDir)
		for i := 2; exists(kept); i++ {
			kept = filepath.Join(dataDir, fmt.Sprintf("%s.%d", keptDir, i))
		}
		err = errors.Join(os.Rename(aside, kept), syncDirectory(dataDir))
	}
	if err == nil {
		err = os.RemoveAll(filepath.Join(dataDir, exportDir))
	}
	if err == nil && kept != "" {
		size, err = sizeOf(kept)
	}
	if err != nil {
		return "", 0, fmt.Errorf("release the standalone store: %w", err)
	}
	return kept, size, nil
}

// sizeOf adds up the files of a directory.
func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// syncDirectory has the names in a directory on disk.
func syncDirectory(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // cannot be asked for there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
