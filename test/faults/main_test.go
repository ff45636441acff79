//go:build linux

package faults

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/parleyio/parley/test/process"
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
	if binary, err = build(scratch); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
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

// build returns the program with further flags for its build, and with the race detector if
// PARLEY_FAULTS_RACE is 1.
func build(dir string, flags ...string) (program string, err error) {
	if os.Getenv("PARLEY_FAULTS_RACE") == "1" {
		flags = append(flags, "-race")
	}
	return process.Parley(dir, flags...)
}
