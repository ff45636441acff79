package deploy

import (
	"go/ast"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// dropConstant is the name of a constant that is a reason of the family dropped_total.
var dropConstant = regexp.MustCompile(`^[dD]rop[A-Z]`)

// dropReasons returns the reasons of dropped_total by their constants, which telemetry gets
// as they are, but those of webhooks with the name of that room in front.
func dropReasons(t *testing.T) (reasons []string) {
	t.Helper()
	eachFile(t, func(path string, file *ast.File) {
		front := ""
		if filepath.Base(filepath.Dir(path)) == "webhook" {
			front = "webhook_"
		}
		for _, declaration := range file.Decls {
			constants, ok := declaration.(*ast.GenDecl)
			if !ok || constants.Tok != token.CONST {
				continue
			}
			for _, spec := range constants.Specs {
				values := spec.(*ast.ValueSpec)
				for i, name := range values.Names {
					if !dropConstant.MatchString(name.Name) {
						continue
					}
					reason, ok := "", i < len(values.Values)
					if ok {
						reason, ok = literal(values.Values[i])
					}
					if !ok {
						t.Errorf("%s: %s is no text", path, name.Name)
						continue
					}
					reasons = append(reasons, front+reason)
				}
			}
		}
	})
	return reasons
}

// calledWith returns the texts that calls of a function of one of the names, anywhere below
// a directory of internal, have as their first argument.
func calledWith(t *testing.T, below string, names ...string) (texts []string) {
	t.Helper()
	eachFile(t, func(path string, file *ast.File) {
		if !strings.HasPrefix(filepath.ToSlash(path), internalDir+"/"+below) {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains(names, f.Sel.Name) {
				return true
			}
			if text, ok := literal(call.Args[0]); ok {
				texts = append(texts, text)
			}
			return true
		})
	})
	return texts
}

func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(l.Value)
	return text, err == nil
}

// pageReasons returns the values that the metrics page has for the label reason of a family.
func pageReasons(t *testing.T, family string) []string {
	t.Helper()
	row := regexp.MustCompile("(?m)^\\| `reason` of `" + family + "` \\| (.+) \\|$").FindStringSubmatch(read(t, pageFile))
	if row == nil {
		t.Fatalf("%s has no reasons of %s", pageFile, family)
	}
	var reasons []string
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1], -1) {
		reasons = append(reasons, m[1])
	}
	return reasons
}

// The metrics page names every reason of a loss. A reason is a constant named Drop, so that
// it is found here.
func TestDropReasonsOnPage(t *testing.T) {
	reasons, page := dropReasons(t), pageReasons(t, prefix+"dropped_total")
	for _, known := range []string{"slow_consumer", "webhook_queue_full", "cluster_hello_busy", "rates_publish"} {
		if !slices.Contains(reasons, known) {
			t.Errorf("the constant of %s was not found", known)
		}
	}
	for _, reason := range reasons {
		if !slices.Contains(page, reason) {
			t.Errorf("%s is not in the row of %sdropped_total", reason, prefix)
		}
	}
	for _, text := range calledWith(t, "", "Drop", "Dropped", "Lost", "drop", "dropped") {
		t.Errorf("%q is counted without a constant named Drop", text)
	}
}

// The metrics page names every reason for which the hub itself refuses something.
func TestRejectReasonsOnPage(t *testing.T) {
	reasons, page := calledWith(t, "pusher/", "rejected"), pageReasons(t, prefix+"rejected_messages_total")
	if !slices.Contains(reasons, "cache_busy") {
		t.Errorf("found only %v", reasons)
	}
	for _, reason := range reasons {
		if !slices.Contains(page, reason) {
			t.Errorf("%s is not in the row of %srejected_messages_total", reason, prefix)
		}
	}
}
