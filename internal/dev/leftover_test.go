package dev

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// A run removes the directory of one that was killed, and neither one in use nor a stranger's.
func TestLeftover(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("nodes may outlive the program here")
	}
	t.Setenv("TMPDIR", t.TempDir())
	used, removeUsed, err := temporaryDir()
	if err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(os.TempDir(), temporaryPrefix+"1")
	stranger := filepath.Join(os.TempDir(), temporaryPrefix+"2")
	for _, dir := range []string{killed, stranger} {
		if err := os.MkdirAll(filepath.Join(dir, "node1"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	release, err := hold(filepath.Join(killed, lockFile))
	if err != nil {
		t.Fatal(err)
	}
	release()
	_, remove, err := temporaryDir()
	if err != nil {
		t.Fatal(err)
	}
	remove()
	there := func(dir string) bool { _, err := os.Stat(dir); return err == nil }
	if there(killed) || !there(used) || !there(stranger) {
		t.Errorf("the killed one's is there: %v, the used one: %v, the stranger's: %v", there(killed), there(used), there(stranger))
	}
	removeUsed()
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v", left, err)
	}
}
