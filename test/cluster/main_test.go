// Package cluster tests clusters of real processes of the parley binary: draining, load
// balancers in front, and "parley dev". It may import what a client of a node needs: the
// admin client and the signatures of the protocol.
package cluster

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/parleyio/parley/test/process"
)

// patience bounds every wait for something that must happen.
const patience = process.Patience

// atOnce is how many tests run at a time. They mostly wait, for processes to start and for
// balancers to notice.
const atOnce = 3

// parley is the binary under test.
var parley string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if runtime.GOOS == "windows" {
		fmt.Println("skipped: there are no signals on Windows")
		return 0
	}
	dir, err := os.MkdirTemp("", "parley-test-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	if parley, err = process.Parley(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(atOnce)); err != nil {
		fmt.Println(err)
		return 1
	}
	return m.Run()
}

// eventually waits until something is true.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	process.Eventually(t, what, check)
}
