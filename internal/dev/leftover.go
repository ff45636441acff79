package dev

import (
	"fmt"
	"os"
	"path/filepath"
)

// temporaryPrefix begins the names of data directories that are removed at the end, and lockFile
// is the file in one that a running program holds a lock on.
const (
	temporaryPrefix = "parley-dev-"
	lockFile        = "dev.lock"
)

// temporaryDir makes a data directory for this run and returns what removes it. It removes those
// first whose program was killed before it could.
func temporaryDir() (dir string, remove func(), err error) {
	old, _ := filepath.Glob(filepath.Join(os.TempDir(), temporaryPrefix+"*")) // the pattern is right
	for _, dir := range old {
		if abandoned(filepath.Join(dir, lockFile)) {
			_ = os.RemoveAll(dir) // what is left of it is tried again next time
		}
	}
	dir, err = os.MkdirTemp("", temporaryPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("make a data directory: %w", err)
	}
	release, err := hold(filepath.Join(dir, lockFile))
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, fmt.Errorf("lock the data directory: %w", err)
	}
	return dir, func() { _ = os.RemoveAll(dir); release() }, nil
}
