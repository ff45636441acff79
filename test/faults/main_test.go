//go:build linux

package faults

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// atOnce is how many tests run at a time. They mostly wait.
const atOnce = 3

// binary is the program under test, and scratch a directory for this run.
var binary, scratch string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	begin := time.Now()
	var err error
	if scratch, err = os.MkdirTemp("", "parley-faults-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(scratch) }() // only disk space
	if binary = os.Getenv("PARLEY_BIN"); binary == "" {
		binary = filepath.Join(scratch, "parley")
		if err := build(binary); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(atOnce)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if testing.Verbose() {
		if err := printFigures(os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	fmt.Printf("figure: all tests, with building: %v\n", time.Since(begin).Round(time.Second))
	return code
}

// build builds the program, with the race detector if PARLEY_FAULTS_RACE is 1.
func build(program string, flags ...string) error {
	if os.Getenv("PARLEY_FAULTS_RACE") == "1" {
		flags = append(flags, "-race")
	}
	args := slices.Concat([]string{"build", "-o", program}, flags, []string{"../../cmd/parley"})
	if output, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, output)
	}
	return nil
}
