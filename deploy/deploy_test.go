// Package deploy has no code of its own. Its test holds the dashboard and the metrics page
// to the families that a node really registers; it may import telemetry and the surfaces
// that have metrics, and starts none of them.
package deploy

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleyio/parley/internal/im"
	"github.com/parleyio/parley/internal/primitives"
	"github.com/parleyio/parley/internal/pusher"
	"github.com/parleyio/parley/internal/pusher/api"
	"github.com/parleyio/parley/internal/telemetry"
)

const (
	prefix        = "parley_"
	internalDir   = "../internal"
	dashboardFile = "grafana/parley.json"
	pageFile      = "../docs/operations/metrics.md"
)

// declaring are the packages that declare families, below internal. A new one is added here
// and to families.
var declaring = []string{"im", "primitives", "pusher", "pusher/api", "telemetry"}

// family is what a node tells of one family. Type is empty where only a value would tell it,
// labels are nil where nothing does.
type family struct {
	kind   string
	labels []string
}

// families returns everything that a node exports, by name.
func families(t *testing.T) map[string]family {
	t.Helper()
	all := map[string]family{}
	described(t, all, pusher.NewMetrics(prefix, "6001"))
	described(t, all, api.NewMetrics(prefix, "6001"))
	described(t, all, primitives.NewMetrics(prefix))
	described(t, all, im.NewMetrics(prefix, nil))
	described(t, all, telemetry.NewCluster(prefix, nil))
	described(t, all, telemetry.NewCarrier(prefix, "redis", "signal", nil))
	metrics := telemetry.NewMetrics(prefix, "v0")
	// A vector is not gathered before it has a value.
	metrics.Drop("any")
	metrics.Sent("any", 1)
	metrics.Ledger("any", 1)
	metrics.AppLookup("any")
	scraped(t, all, metrics)
	for _, name := range gauges(t) {
		all[name] = family{kind: "gauge", labels: []string{}}
	}
	return all
}

var (
	descName   = regexp.MustCompile(`fqName: "([^"]+)"`)
	descConst  = regexp.MustCompile(`(\w+)="`)
	descLabels = regexp.MustCompile(`constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)
)

// described adds what a collector declares, whether it has values or not.
func described(t *testing.T, all map[string]family, collector prometheus.Collector) {
	t.Helper()
	descriptions := make(chan *prometheus.Desc, 1000)
	collector.Describe(descriptions)
	close(descriptions)
	for d := range descriptions {
		name, labels := descName.FindStringSubmatch(d.String()), descLabels.FindStringSubmatch(d.String())
		if name == nil || labels == nil {
			t.Fatalf("a description reads differently: %s", d)
		}
		found := []string{}
		for _, label := range descConst.FindAllStringSubmatch(labels[1], -1) {
			found = append(found, label[1])
		}
		for label := range strings.SplitSeq(labels[2], ",") {
			if label != "" {
				found = append(found, label)
			}
		}
		slices.Sort(found)
		all[name[1]] = family{labels: found}
	}
}

var (
	typeLine   = regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`)
	sampleLine = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{(.*)\})? `)
)

// scraped adds what the registry of the node itself answers to a scrape.
func scraped(t *testing.T, all map[string]family, metrics *telemetry.Metrics) {
	t.Helper()
	w := httptest.NewRecorder()
	metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, found := range typeLine.FindAllStringSubmatch(w.Body.String(), -1) {
		all[found[1]] = family{kind: found[2], labels: []string{}}
	}
	for _, sample := range sampleLine.FindAllStringSubmatch(w.Body.String(), -1) {
		f, found := all[sample[1]]
		if !found {
			continue // the sum or count of a summary
		}
		for _, label := range descConst.FindAllStringSubmatch(sample[2], -1) {
			if !slices.Contains(f.labels, label[1]) {
				f.labels = append(f.labels, label[1])
			}
		}
		slices.Sort(f.labels)
		all[sample[1]] = f
	}
}

// gauges returns the families that the composition root adds with Metrics.Gauge, which
// would take a running node to gather, from its source.
func gauges(t *testing.T) []string {
	t.Helper()
	var names []string
	eachFile(t, func(path string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 3 {
				return true
			}
			if f, ok := call.Fun.(*ast.SelectorExpr); !ok || f.Sel.Name != "Gauge" {
				return true
			}
			sum, ok := call.Args[0].(*ast.BinaryExpr)
			if !ok {
				t.Errorf("%s: the name of a gauge is not prefix + literal", path)
				return true
			}
			literal, ok := sum.Y.(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: the name of a gauge is not prefix + literal", path)
				return true
			}
			name, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			names = append(names, prefix+name)
			return true
		})
	})
	return names
}

// eachFile hands do every Go file of internal that is no test.
func eachFile(t *testing.T, do func(path string, file *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(internalDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err == nil {
			do(path, file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The families come from the packages that this test knows.
func TestDeclaringPackages(t *testing.T) {
	var found []string
	eachFile(t, func(path string, file *ast.File) {
		for _, imported := range file.Imports {
			if imported.Path.Value != `"github.com/prometheus/client_golang/prometheus"` {
				continue
			}
			dir, err := filepath.Rel(internalDir, filepath.Dir(path))
			if err != nil {
				t.Fatal(err)
			}
			if dir = filepath.ToSlash(dir); !slices.Contains(found, dir) {
				found = append(found, dir)
			}
		}
	})
	slices.Sort(found)
	if !slices.Equal(found, declaring) {
		t.Errorf("families are declared in %v, this test knows %v", found, declaring)
	}
	if got := gauges(t); !slices.Contains(got, prefix+"outgoing_bytes") {
		t.Errorf("found the gauges %v, without parley_outgoing_bytes", got)
	}
}

var (
	pageRow   = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (counter|gauge|histogram|summary) \\| ([a-z_, ]+) \\| (.+) \\|$")
	pageNames = regexp.MustCompile(`\b(?:parley|go|process|promhttp)_[a-z_]+[a-z]\b`)
)

// The metrics page names every family, no other, and each with its type and labels.
func TestMetricsPage(t *testing.T) {
	real := families(t)
	text := read(t, pageFile)
	documented := map[string]bool{}
	for _, row := range pageRow.FindAllStringSubmatch(text, -1) {
		name, kind, labels := row[1], row[2], strings.Split(row[3], ", ")
		if documented[name] {
			t.Errorf("%s is documented twice", name)
		}
		documented[name] = true
		f, found := real[name]
		if !found {
			continue // told below
		}
		if f.kind != "" && f.kind != kind {
			t.Errorf("%s is a %s, the page says %s", name, f.kind, kind)
		}
		if slices.Equal(labels, []string{"none"}) {
			labels = []string{}
		}
		if !slices.Equal(f.labels, labels) {
			t.Errorf("%s has the labels %v, the page says %v", name, f.labels, labels)
		}
	}
	for name := range real {
		if !documented[name] {
			t.Errorf("%s is not in a table of %s", name, pageFile)
		}
	}
	for _, name := range pageNames.FindAllString(text, -1) {
		if !known(real, name) {
			t.Errorf("%s names %s, which no node exports", pageFile, name)
		}
	}
}

// known tells whether name is a family or one of the series of a histogram or summary.
// What is known of the process differs from system to system; the page is about Linux.
func known(real map[string]family, name string) bool {
	if runtime.GOOS != "linux" && strings.HasPrefix(name, "process_") {
		return true
	}
	if _, found := real[name]; found {
		return true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, cut := strings.CutSuffix(name, suffix); cut {
			f, found := real[base]
			return found && (f.kind == "" || f.kind == "histogram" || f.kind == "summary")
		}
	}
	return false
}

// dashboard is the part of a Grafana dashboard that is checked.
type dashboard struct {
	Templating struct {
		List []struct {
			Name       string `json:"name"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type panel struct {
	ID      int      `json:"id"`
	Type    string   `json:"type"`
	Title   string   `json:"title"`
	Targets []target `json:"targets"`
}

type target struct {
	Expr       string `json:"expr"`
	Datasource struct {
		UID string `json:"uid"`
	} `json:"datasource"`
}

// selector is the name in front of the braces of a PromQL selector. The dashboard writes
// them always, so that a name is told from a function or a label.
var selector = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}`)

// Every query of the dashboard asks for families that exist, by labels that they have.
func TestDashboard(t *testing.T) {
	real := families(t)
	var d dashboard
	if err := json.Unmarshal([]byte(read(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	variables := []string{}
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		if v.Definition != "" {
			checkQuery(t, real, "variable "+v.Name, v.Definition)
		}
	}
	if !slices.Equal(variables, []string{"datasource", "app_id"}) {
		t.Errorf("the variables are %v", variables)
	}
	ids, queries := map[int]bool{}, 0
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q: id %d is taken", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing", p.Title)
		}
		for _, asked := range p.Targets {
			queries++
			checkQuery(t, real, "panel "+strconv.Quote(p.Title), asked.Expr)
			if asked.Datasource.UID != "${datasource}" {
				t.Errorf("panel %q: the data source is %q", p.Title, asked.Datasource.UID)
			}
		}
	}
	if queries < 20 {
		t.Errorf("found only %d queries", queries)
	}
}

var matcher = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)

func checkQuery(t *testing.T, real map[string]family, where, query string) {
	t.Helper()
	selectors := selector.FindAllStringSubmatch(query, -1)
	if len(selectors) == 0 {
		t.Errorf("%s: no family with braces in %q", where, query)
	}
	for _, s := range selectors {
		name := s[1]
		if !known(real, name) {
			t.Errorf("%s asks for %s, which no node exports", where, name)
			continue
		}
		f, whole := real[name]
		for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
			if whole && !slices.Contains(f.labels, m[1]) {
				t.Errorf("%s: %s has no label %s", where, name, m[1])
			}
		}
		if whole && slices.Contains(f.labels, "app_id") && !strings.HasPrefix(where, "variable") && !strings.Contains(s[2], "$app_id") {
			t.Errorf("%s: %s is not narrowed to $app_id", where, name)
		}
	}
	for _, name := range pageNames.FindAllString(query, -1) {
		if !known(real, name) {
			t.Errorf("%s asks for %s, which no node exports", where, name)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
