package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Parley returns the program under test: the one that PARLEY_BIN names, or one that it builds in
// dir, with further flags for the build.
func Parley(dir string, flags ...string) (string, error) {
	if program := os.Getenv("PARLEY_BIN"); program != "" && len(flags) == 0 {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	program := filepath.Join(dir, "parley")
	args := slices.Concat([]string{"build", "-o", program}, flags, []string{"github.com/parleyio/parley/cmd/parley"})
	build := exec.Command("go", args...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if slices.Contains(flags, "-race") {
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return program, nil
}
