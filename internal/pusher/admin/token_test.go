package admin

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"
)

func TestLoadOrCreateToken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	if got, err := LoadOrCreateToken(dir, "configured"); err != nil || got != "configured" {
		t.Errorf("got %q, error %v", got, err)
	}
	if _, err := ReadToken(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a configured token left a file: %v", err)
	}
	created, err := LoadOrCreateToken(dir, "")
	if err != nil || !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(created) {
		t.Fatalf("created %q, error %v", created, err)
	}
	again, err := LoadOrCreateToken(dir, "")
	if err != nil || again != created {
		t.Errorf("loaded %q, created was %q, error %v", again, created, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("the directory has %v, error %v", files, err)
	}
	info, err := files[0].Info()
	if err != nil || info.Name() != TokenFile {
		t.Errorf("file %v, error %v", info, err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v", info.Mode())
	}
}

func TestReadTokenRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":     "",
		"short":     "0123456789abcde",
		"two lines": "0123456789abcdef\n0123456789abcdef\n",
		"not ASCII": "0123456789abcdefé",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, TokenFile), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if token, err := LoadOrCreateToken(dir, ""); err == nil {
				t.Errorf("token is %q", token)
			}
		})
	}
}
