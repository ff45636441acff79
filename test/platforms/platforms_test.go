// Package platforms checks that Parley, with its tests, is valid Go on the systems that it is built
// for beside this one.
//
// It type-checks from source: compiling everything for each system, as vet needs it, takes minutes on
// two processors.
package platforms

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/tools/go/packages"
)

func TestPlatforms(t *testing.T) {
	for _, system := range []string{"windows", "darwin"} {
		t.Run(system, func(t *testing.T) {
			loaded, err := packages.Load(&packages.Config{
				Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports |
					packages.NeedDeps | packages.NeedTypes,
				Env:   append(os.Environ(), "GOOS="+system, "GOARCH=amd64", "CGO_ENABLED=0"),
				Tests: true,
			}, "github.com/parleyio/parley/...")
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(loaded, func(p *packages.Package) bool { return p.Name == "main" && len(p.CompiledGoFiles) > 10 }) {
				t.Error("the command was not found")
			}
			packages.Visit(loaded, nil, func(p *packages.Package) {
				for _, e := range p.Errors {
					t.Errorf("%s: %v", p.PkgPath, e)
				}
			})
		})
	}
}
