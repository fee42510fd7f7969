package kongfile_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/internal/kongfile"
)

var update = flag.Bool("update", false, "write the golden reports anew")

// Every file of testdata has its report beside it.
func TestCheck(t *testing.T) {
	t.Parallel()
	yml, err := filepath.Glob("testdata/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	files := append(yml, "testdata/json.json")
	if len(files) < 30 {
		t.Fatalf("only %d files in testdata", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			report, err := kongfile.Check(data)
			if err != nil {
				t.Fatalf("Check: %v", err)
			}
			var got bytes.Buffer
			if err := report.Fprint(&got); err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, filepath.Ext(file)) + ".golden"
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("report of %s:\n%s\nwant:\n%s", file, got.String(), want)
			}
			if open := strings.HasPrefix(string(want), "open"); report.Open() != open {
				t.Errorf("Open() = %v with this report:\n%s", report.Open(), want)
			}
		})
	}
}

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	const version = "_format_version: \"3.0\"\n"
	for _, tc := range []struct{ name, in, want string }{
		{"empty", "", "the file is empty"},
		{"only a comment", "# nothing\n", "the file is empty"},
		{"a list", "- a\n", "holds a list, not a mapping"},
		{"no version", "services: []\n", "_format_version is missing"},
		{"version as a number", "_format_version: 3.0\n", "is \"3.0\" (a number)"},
		{"unknown version", "_format_version: \"4.0\"\n", "is \"4.0\" (a string)"},
		{"duplicate key", version + "plugins: []\nplugins: []\n", "line 3: the key \"plugins\" stands twice"},
		{"duplicate key in JSON", `{"_format_version": "3.0", "plugins": [], "plugins": []}`, "the key \"plugins\" stands twice"},
		{"two documents", version + "---\n" + version, "more than one YAML document"},
		{"not YAML", "a: [", "not YAML or JSON"},
		{"complex key", version + "? [a]\n: b\n", "a key must be a plain string"},
		{"merge of a string", version + "plugins:\n - <<: x\n", "merges mappings only"},
		{"merge over a key", version + "a: &a {name: x}\nplugins:\n - name: y\n   <<: *a\n", "let \"<<\" stand first"},
		{"quoted merge key", version + "plugins:\n - name: x\n   \"<<\": {enabled: false}\n", "line 4: the key \"<<\" is quoted"},
		{"single-quoted merge key", version + "plugins:\n - '<<': {enabled: false}\n", "line 3: the key \"<<\" is quoted"},
		{"escaped merge key", version + "plugins:\n - \"\\x3c<\": {enabled: false}\n", "line 3: the key \"<<\" is quoted"},
		{"block merge key", version + "? |-\n  <<\n: {plugins: []}\n", "line 2: the key \"<<\" is quoted"},
		{"quoted merge key at the top", version + "\"<<\":\n  plugins: []\n", "line 2: the key \"<<\" is quoted"},
		{"merge key in JSON", `{"_format_version": "3.0", "plugins": [{"name": "x", "<<": {"enabled": false}}]}`, "an object has the key \"<<\""},
		{"merge key in JSON with a comment", `{"_format_version": "3.0", "<<": {"plugins": []}} # YAML`, "line 1: the key \"<<\" is quoted"},
		{"key tagged null", version + "!!null \"plugins\": []\n", "line 2: the key \"plugins\" has the tag \"!!null\""},
		{"key tagged merge", version + "!!merge x: {plugins: []}\n", "line 2: the key \"x\" has the tag \"!!merge\""},
		{"key of an own tag", version + "!x plugins: []\n", "line 2: the key \"plugins\" has the tag \"!x\""},
		{"an alias of itself", version + "a: &a [*a]\n", "deeper than 64 levels"},
		{"deep", version + "a: " + strings.Repeat("[", 100) + strings.Repeat("]", 100), "deeper than 64 levels"},
		{"aliases that explode", version + laughs(), "expands to more than 500000 values"},
		{"too large", version + strings.Repeat("#", kongfile.MaxSize), "at most 8388608 are read"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := kongfile.Check([]byte(tc.in))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

// laughs is small, and expands to 9^9 values.
func laughs() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x]\n")
	for i := byte('1'); i <= '9'; i++ {
		b.WriteString("a" + string(i) + ": &a" + string(i) + " [" + strings.TrimSuffix(strings.Repeat("*a"+string(i-1)+", ", 9), ", ") + "]\n")
	}
	return b.String()
}

// A list that is longer than the gate takes keeps Kong from starting.
func TestLongLists(t *testing.T) {
	t.Parallel()
	for field, c := range map[string]struct {
		entry string
		most  int
	}{
		"allowed_sources": {"10.0.0.0/8", 256}, "applications": {"7", 256}, "exempt": {"{path: /a}", 32},
		"exempt.hosts": {"a.example", 32}, "exempt.sources": {"10.0.0.0/8", 256},
	} {
		for n, open := range map[int]bool{c.most: false, c.most + 1: true} {
			list := "[" + strings.Repeat(c.entry+", ", n-1) + c.entry + "]"
			config := field + ": " + list
			if inner, ok := strings.CutPrefix(field, "exempt."); ok {
				config = "exempt: [{path: /a, " + inner + ": " + list + "}]"
			}
			report, err := kongfile.Check([]byte("_format_version: \"3.0\"\nservices:\n- name: s\n  url: http://s.internal\n  routes:\n  - {name: r, paths: [/r]}\n" +
				"plugins:\n- {name: wallarm-gate, config: {jwks_file: /k, " + config + "}}\n"))
			if err != nil {
				t.Fatal(err)
			}
			said := slices.ContainsFunc(report.Findings, func(f kongfile.Finding) bool {
				return strings.Contains(f.What, fmt.Sprintf("has %d entries; at most %d are allowed", n, c.most))
			})
			if report.Open() != open || said != open {
				t.Errorf("%s with %d entries: Open() = %v, %+v", field, n, report.Open(), report.Findings[:min(2, len(report.Findings))])
			}
		}
	}
}

// Report mode that is meant is no open door, and hides none.
func TestAllowReport(t *testing.T) {
	t.Parallel()
	const head = "_format_version: \"3.0\"\nservices:\n- name: s\n  url: http://s.internal\n  routes:\n  - {name: r, paths: [/r]}\n"
	for _, tc := range []struct {
		name, in     string
		open         bool // with AllowReport
		notes, doors int
	}{
		{"report", head + "plugins:\n- {name: wallarm-gate, config: {jwks_file: /k, mode: report}}\n", false, 1, 0},
		{"enforce", head + "plugins:\n- {name: wallarm-gate, config: {jwks_file: /k}}\n", false, 0, 0},
		{"no gate", head, true, 0, 1},
		{"report, and a route without a gate", head + "  - {name: bare, paths: [/bare]}\nplugins:\n- {name: wallarm-gate, route: r, config: {jwks_file: /k, mode: report}}\n", true, 1, 1},
		{"report, and exempt as a whole", head + "plugins:\n- {name: wallarm-gate, config: {jwks_file: /k, mode: report, exempt: [{path: /r/*}]}}\n", true, 2, 1},
		{"report, and a bad field", head + "plugins:\n- {name: wallarm-gate, config: {jwks_file: /k, mode: report, min_mod: \"off\"}}\n", true, 1, 1},
		{"no such mode", head + "plugins:\n- {name: wallarm-gate, config: {jwks_file: /k, mode: watch}}\n", true, 0, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			report, err := kongfile.Check([]byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if meant := strings.Contains(tc.in, "mode: report"); meant && !report.Open() {
				t.Error("report mode is no open door without AllowReport")
			}
			report.AllowReport()
			notes, doors := 0, 0
			for i, f := range report.Findings {
				switch f.Severity {
				case kongfile.Open:
					if doors++; notes > 0 {
						t.Errorf("finding %d: an open door stands behind a note", i)
					}
				case kongfile.Note:
					notes++
				}
			}
			if report.Open() != tc.open || notes != tc.notes || doors != tc.doors {
				t.Errorf("Open() = %v, %d notes, %d open: %+v", report.Open(), notes, doors, report.Findings)
			}
		})
	}
}

// No secret of a file may come back in a report.
func TestReportHoldsNoSecret(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"testdata/token.golden", "testdata/keys.golden", "testdata/admin-port-disguised.golden"} {
		report, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"0123456789abcdef", "c2VjcmV0", "n4Ni-HpISp", "short\"", "secret-of-the-file"} {
			if bytes.Contains(report, []byte(secret)) {
				t.Errorf("%s holds %q", file, secret)
			}
		}
	}
}

// Check is total and bounded: whatever the bytes, it returns.
func FuzzCheck(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		if filepath.Ext(file) == ".golden" {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(laughs()))
	f.Fuzz(func(t *testing.T, data []byte) {
		report, err := kongfile.Check(data)
		if (report == nil) == (err == nil) {
			t.Fatalf("report %v with error %v", report, err)
		}
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := report.Fprint(&out); err != nil {
			t.Fatal(err)
		}
		for _, b := range out.Bytes() {
			if b != '\n' && b < ' ' {
				t.Fatalf("the report holds a control character: %q", out.String())
			}
		}
	})
}
