package chart

// The table of the chart's README is made from the comments in values.yaml.

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// value is a line of values.yaml with a comment that begins with two dashes.
type value struct {
	path, comment string
	standard      any
}

var (
	commentLine = regexp.MustCompile(`^\s*# -- (.+)$`)
	keyLine     = regexp.MustCompile(`^( *)([A-Za-z_]\w*):`)
)

// documented are the values of values.yaml in their order. Every value must be
// documented: itself, or each of those in it.
func documented(t *testing.T) (found []value) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := yaml.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	var path []string
	comment := ""
	inside := -1 // depth of a documented value whose keys need no comment
	for i, l := range strings.Split(string(data), "\n") {
		if m := commentLine.FindStringSubmatch(l); m != nil {
			comment = m[1]
			continue
		}
		m := keyLine.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		depth := len(m[1]) / 2
		path = append(path[:depth], m[2])
		if inside >= 0 && depth > inside {
			continue
		}
		inside = -1
		at := any(all)
		for _, name := range path {
			at = at.(map[string]any)[name]
		}
		if comment == "" {
			if inner, ok := at.(map[string]any); !ok || len(inner) == 0 {
				t.Errorf("values.yaml:%d: %s has no comment", i+1, strings.Join(path, "."))
			}
			continue
		}
		found = append(found, value{strings.Join(path, "."), comment, at})
		comment, inside = "", depth
	}
	return found
}

const (
	tableBegin = "<!-- values: made from values.yaml by go test -update -->\n"
	tableEnd   = "<!-- end of values -->\n"
)

func TestReadmeTable(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	table.WriteString("| value | default | meaning |\n|---|---|---|\n")
	values := documented(t)
	if len(values) < 80 {
		t.Errorf("only %d values", len(values))
	}
	for _, v := range values {
		standard, err := json.Marshal(v.standard)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&table, "| `%s` | `%s` | %s |\n", v.path, standard, strings.ReplaceAll(v.comment, "|", `\|`))
	}
	path := filepath.Join(chartDir, "README.md")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(data), tableBegin)
	old, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no table between %q and %q", path, tableBegin, tableEnd)
	}
	if *update {
		text := before + tableBegin + table.String() + tableEnd + after
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old != table.String() {
		t.Errorf("the table in %s is not that of values.yaml: run go test -update", path)
	}
}
