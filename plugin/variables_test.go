package main

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

// The nginx file and the plugin must agree on every field and its place.
func TestEvidenceConfIsTheLayout(t *testing.T) {
	t.Parallel()
	m := regexp.MustCompile(`(?s)map "" \$wallarm_evidence \{\s+default "([^"]*)";\s+\}`).FindSubmatch(evidenceConf)
	if m == nil {
		t.Fatal("nginx/evidence.conf has no map of the expected form")
	}
	if got, want := string(m[1]), layoutVersion+`\n$`+strings.Join(variableNames[:], `\n$`); got != want {
		t.Errorf("nginx/evidence.conf and variableNames differ:\n%s\n%s", got, want)
	}
}

// An application must not make Kong's nginx run a request again.
func TestEvidenceConfIgnoresRedirects(t *testing.T) {
	t.Parallel()
	for _, module := range []string{"proxy", "grpc"} {
		if !regexp.MustCompile(`(?m)^` + module + `_ignore_headers X-Accel-Redirect;$`).Match(evidenceConf) {
			t.Errorf("nginx/evidence.conf lets %s responses redirect", module)
		}
	}
}

func TestParseJoined(t *testing.T) {
	t.Parallel()
	layout := new(layoutError)
	for _, c := range []struct {
		name, value string
		layout, ok  bool
	}{
		{"all empty", "1" + strings.Repeat("\n", 18), false, true},
		{"all full", "1" + strings.Repeat("\nx", 18), false, true},
		{"bytes", "1" + strings.Repeat("\n\xff\x00", 18), false, true},
		{"one field too many", "1" + strings.Repeat("\n", 19), false, false},
		{"one field missing", "1" + strings.Repeat("\n", 17), false, false},
		{"version only", "1", false, false},
		{"another version", "2" + strings.Repeat("\n", 18), true, false},
		{"version with a zero", "01" + strings.Repeat("\n", 18), true, false},
		{"no version", strings.Repeat("\n", 18), true, false},
		{"carriage return", "1\r" + strings.Repeat("\n", 18), true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := parseJoined(c.value)
			if (err == nil) != c.ok || errors.As(err, &layout) != c.layout {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func FuzzParseJoined(f *testing.F) {
	f.Add("1" + strings.Repeat("\nx", 18))
	f.Add("2\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseJoined(s)
		if err != nil {
			if v != (variables{}) {
				t.Error("values beside an error")
			}
			return
		}
		if back := layoutVersion + "\n" + strings.Join(v[:], "\n"); back != s {
			t.Errorf("%q became %q", s, back)
		}
	})
}
