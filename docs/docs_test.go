// Package docs tests that what the documents claim can be looked up.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNamedTestsExist: a row of parity.md that says yes because of a test names one there is.
func TestNamedTestsExist(t *testing.T) {
	defined := map[string]bool{}
	define := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range define.FindAllStringSubmatch(string(text), -1) {
			defined[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("parity.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(?:test/)?((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) == 0 {
		t.Fatal("parity.md names no test")
	}
	for _, m := range named {
		if !defined[m[1]] {
			t.Errorf("parity.md names %s, which is no test", m[1])
		}
	}
}
