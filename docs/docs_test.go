// Package docs holds the documentation to the code: the tests, reasons,
// metrics and files that it names must be there.
package docs

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

const root = ".."

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// pages are the Markdown files of the tree.
func pages(t *testing.T) (names []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "dist" || d.Name() == "testdata") {
			if d.Name() != ".github" {
				return filepath.SkipDir
			}
		}
		if strings.HasSuffix(name, ".md") {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 10 {
		t.Fatalf("only %d pages were found: %q", len(names), names)
	}
	return names
}

var (
	testName = regexp.MustCompile("`([a-z0-9/]+): ((?:Test|Fuzz)[A-Za-z0-9]+)`")
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]+)\(`)
)

// testsOf are the tests and fuzz targets in a folder of the tree.
func testsOf(t *testing.T, folder string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(folder), "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for _, m := range testFunc.FindAllStringSubmatch(read(t, file), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

func TestThreatModelNamesTests(t *testing.T) {
	t.Parallel()
	model := read(t, "threat-model.md")
	named := testName.FindAllStringSubmatch(model, -1)
	if len(named) < 40 {
		t.Errorf("the threat model names %d tests: is the form still folder, colon, name?", len(named))
	}
	for _, m := range named {
		if !slices.Contains(testsOf(t, m[1]), m[2]) {
			t.Errorf("%s has no %s", m[1], m[2])
		}
	}
	// A claim without a test is a wish: each row of an attacker's attempts names one, or a residual risk.
	for line := range strings.Lines(model) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) == 5 && !strings.Contains(line, "---") && !strings.Contains(line, "held by") &&
			!testName.MatchString(cells[3]) && !strings.Contains(cells[3], "residual risk") {
			t.Errorf("no test holds %q", cells[1])
		}
	}
}

// The other pages name tests as `TestName` in `folder`.
func TestPagesNameTests(t *testing.T) {
	t.Parallel()
	sentence := regexp.MustCompile("`(Test[A-Za-z0-9]+)`(?: in `([a-z0-9/]+)`)?")
	for _, name := range []string{"rotation.md", "rollout.md", "scaling.md", "timeouts.md", "faults.md"} {
		folder := "test/e2e"
		for _, m := range sentence.FindAllStringSubmatch(read(t, name), -1) {
			if m[2] != "" {
				folder = m[2]
			}
			if !slices.Contains(testsOf(t, folder), m[1]) {
				t.Errorf("%s: %s has no %s", name, folder, m[1])
			}
		}
	}
}

func TestTroubleshootingHasEveryReason(t *testing.T) {
	t.Parallel()
	text := read(t, "troubleshooting.md")
	sections := strings.Split(text, "\n### `")
	found := map[string]string{}
	var order []string
	for _, section := range sections[1:] {
		name, body, _ := strings.Cut(section, "`")
		body, _, _ = strings.Cut(body, "\n## ")
		found[name] = body
		order = append(order, name)
	}
	for _, reason := range evidence.Reasons() {
		body, ok := found[string(reason)]
		if !ok {
			t.Errorf("no section about %s", reason)
			continue
		}
		causes := 0
		for line := range strings.Lines(body) {
			cells := strings.Split(strings.ReplaceAll(strings.TrimSpace(line), `\|`, ""), "|")
			if len(cells) != 4 || strings.Contains(line, "---") || strings.Contains(line, "the command that tells") {
				continue
			}
			causes++
			if strings.TrimSpace(cells[1]) == "" || strings.TrimSpace(cells[2]) == "" {
				t.Errorf("%s: a cause without a way to tell: %q", reason, line)
			}
		}
		if causes != 3 {
			t.Errorf("%s has %d causes, want the three most likely ones", reason, causes)
		}
		delete(found, string(reason))
	}
	for name := range found {
		t.Errorf("%s is not a reason", name)
	}
	// misconfigured is looked for first, whatever the contract's order of the others.
	want := []string{"misconfigured"}
	for _, reason := range evidence.Reasons() {
		if reason != evidence.ReasonMisconfigured {
			want = append(want, string(reason))
		}
	}
	if !slices.Equal(order, want) {
		t.Errorf("sections stand as %q, want %q", order, want)
	}
}

var (
	metricName = regexp.MustCompile(`\bwallarm_(?:gate|attester)_[a-z_]+[a-z]\b`)
	link       = regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?\)`)
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInSlug  = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)
)

// A metric that a page tells the operator to look at must be exported: the
// READMEs of the two binaries are held to them by their own tests.
func TestMetricsExist(t *testing.T) {
	t.Parallel()
	known := read(t, root+"/plugin/README.md") + read(t, root+"/edge/attester/README.md")
	files, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		for _, metric := range metricName.FindAllString(read(t, name), -1) {
			base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(metric, "")
			if !strings.Contains(known, "`"+base) && !strings.Contains(known, "`"+metric) {
				t.Errorf("%s names %s, which no README knows", name, metric)
			}
		}
	}
}

// Relative links lead to files, and their fragments to headings.
func TestLinks(t *testing.T) {
	t.Parallel()
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			target, fragment := m[1], strings.TrimPrefix(m[2], "#")
			if strings.Contains(target, ":") {
				continue
			}
			file := page
			if target != "" {
				file = path.Join(path.Dir(filepath.ToSlash(page)), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s, which is not there", page, target)
				continue
			}
			if fragment != "" && strings.HasSuffix(file, ".md") && !slices.Contains(slugs(read(t, file)), fragment) {
				t.Errorf("%s links to %s#%s: no such heading", page, target, fragment)
			}
		}
	}
}

// slugs are the anchors that GitHub gives to headings.
func slugs(text string) (all []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		slug := notInSlug.ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(strings.TrimSpace(slug), " ", "-"))
	}
	return all
}
