package deploy

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// link is a Markdown link or image; its first group is where it leads.
var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// code is what a page shows as it is, links included.
var code = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")

// Every relative link of a page of the repository leads to a file or directory that is there.
func TestLinks(t *testing.T) {
	found := 0
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git"):
			return filepath.SkipDir
		case entry.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		page, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range link.FindAllStringSubmatch(code.ReplaceAllString(string(page), ""), -1) {
			target, _, _ := strings.Cut(match[1], "#") // no part is a place on the page itself
			if strings.Contains(target, ":") {
				continue // elsewhere
			}
			found++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), filepath.FromSlash(target))); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", path, match[1])
			}
		}
		return nil
	})
	if err != nil || found < 50 {
		t.Errorf("%d links were found, %v", found, err)
	}
}
