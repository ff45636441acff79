// Package growth tests clusters of real processes that begin with one node, grow, shrink and
// restart: what was stored goes along, and a node that waits says for whom. It may import what
// a client of a node needs: the admin client and the signatures of the protocol.
package growth

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/parleyio/parley/test/process"
)

// atOnce is how many tests run at a time. They mostly wait for processes.
const atOnce = 2

// parley is the binary under test.
var parley string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if runtime.GOOS == "windows" {
		fmt.Println("skipped: there are no signals on Windows")
		return 0
	}
	flag.Parse()
	if testing.Short() {
		fmt.Println("skipped: the tests start many processes")
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
