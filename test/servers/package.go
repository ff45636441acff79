package servers

import (
	"fmt"
	"testing"
)

// Package stands for all tests of a package, where a testing.TB is wanted: what is started for it
// lives until Run returns. Such servers are made when the first test needs them, by a
// sync.OnceValue.
//
//	var tests servers.Package
//	var mariaDB = sync.OnceValue(func() *servers.MariaDB { return servers.StartMariaDB(&tests) })
//
//	func TestMain(m *testing.M) { os.Exit(tests.Run(m)) }
type Package struct {
	testing.TB // nil: only the methods below can be called
	cleanups   []func()
	failed     bool
}

// Run runs the tests, and ends what was started for them.
func (p *Package) Run(m *testing.M) (code int) {
	defer func() {
		for i := len(p.cleanups) - 1; i >= 0; i-- {
			p.cleanups[i]()
		}
	}()
	code = m.Run()
	p.failed = code != 0
	return code
}

// Helper implements testing.TB.
func (p *Package) Helper() {}

// Cleanup implements testing.TB.
func (p *Package) Cleanup(f func()) { p.cleanups = append(p.cleanups, f) }

// Failed implements testing.TB.
func (p *Package) Failed() bool { return p.failed }

// Logf implements testing.TB.
func (p *Package) Logf(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// Fatal implements testing.TB: it ends all tests.
func (p *Package) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// Fatalf implements testing.TB: it ends all tests.
func (p *Package) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
