package bypass

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

const honest = `# A comment.
case one
  Two values of one
  name.
proto h1
sign e target=/a/{{mark}} with=edge-1
edit e.mode s|block|off|
| GET /a/{{mark}} HTTP/1.1
| Host: {{host}}
| {{e}}
+ X_Wallarm_Mode: off
|
expect 403 malformed_evidence
expect@kong 400 gateway
differs Because.
`

func TestParse(t *testing.T) {
	t.Parallel()
	cases, err := Parse([]byte(honest))
	if err != nil {
		t.Fatal(err)
	}
	c := cases[0]
	if len(cases) != 1 || c.Name != "one" || c.Description != "Two values of one name." || c.Door != Origin || !c.HasTwin() {
		t.Errorf("read as %+v", c)
	}
	if got := c.Answers(Attack, "kong"); len(got) != 1 || got[0] != (Answer{"400", Gateway}) {
		t.Errorf("expects %v of Kong", got)
	}
	if got := c.Answers(Twin, "kong"); len(got) != 1 || got[0] != (Answer{"200", Allow}) {
		t.Errorf("expects %v for the twin", got)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	replace := func(old, new string) string {
		if !strings.Contains(honest, old) {
			t.Fatalf("no %q", old)
		}
		return strings.Replace(honest, old, new, 1)
	}
	for name, c := range map[string]struct{ text, want string }{
		"nothing":              {"", "no case"},
		"comments alone":       {"# x\n", "no case"},
		"no line feed":         {strings.TrimSuffix(honest, "\n"), "no line feed"},
		"carriage return":      {replace("\nproto", "\r\nproto"), "byte 0x0d"},
		"not ASCII":            {replace("name.", "n\xc3\xa4me."), "byte 0xc3"},
		"trailing space":       {replace("name.", "name. "), `\x20`},
		"no description":       {replace("  Two values of one\n  name.\n", ""), "says nothing"},
		"bytes before a case":  {"| GET\n" + honest, "before anything else"},
		"twice":                {honest + honest, "stands twice"},
		"bad name":             {replace("case one", "case One"), "want words"},
		"unknown directive":    {replace("proto h1", "protocol h1"), `"protocol"`},
		"unknown protocol":     {replace("proto h1", "proto h3"), "want one of h1, h2"},
		"unknown argument":     {replace("with=edge-1", "key=edge-1"), "want NAME=TEXT"},
		"argument twice":       {replace("with=edge-1", "with=a with=b"), "stands twice"},
		"signed twice":         {replace("edit e", "sign e\nedit e"), "signed twice"},
		"edit of nothing":      {replace("edit e.", "edit f."), `no evidence "f"`},
		"forge of a value":     {replace("edit e.mode", "forge e.mode"), "forge takes input"},
		"bad operation":        {replace("s|block|off|", "s|block|off"), "want s|FROM|TO|"},
		"empty FROM":           {replace("s|block|off|", "s||off|"), "want s|FROM|TO|"},
		"bad escape":           {replace("Mode: off", `Mode: \q`), `want one of \r`},
		"upper-case escape":    {replace("Mode: off", `Mode: \xAB`), "lower-case"},
		"open placeholder":     {replace("{{host}}", "{{host}"), "without }}"},
		"unknown evidence":     {replace("{{e}}", "{{f}}"), "signs no evidence {{f}}"},
		"unknown field":        {replace("{{e}}", "{{e.foo}}"), "want one of"},
		"repeat too much":      {replace("{{host}}", "{{repeat 20001 aa}}"), "at most"},
		"no answer":            {strings.Replace(replace("expect 403 malformed_evidence\n", ""), "expect@kong", "# expect@kong", 1), "without `expect`"},
		"unknown reason":       {replace("malformed_evidence", "malformed"), "want a status"},
		"dishonest twin":       {replace("differs", "twin 403 missing_evidence\ndiffers"), "a twin is honest"},
		"edge at the origin":   {replace("400 gateway", "400 edge"), `"edge" at the door`},
		"difference unsaid":    {replace("differs Because.\n", ""), "go together"},
		"no difference":        {replace("expect@kong 400 gateway\n", ""), "go together"},
		"without an edit":      {replace("edit e.mode s|block|off|\n", ""), ""},
		"marked bytes, no gap": {replace("| GET", "|GET"), "want a space"},
		"late sign":            {replace("| Host", "sign f\n| Host"), "before the bytes"},
		"late door":            {replace("| Host", "door edge\n| Host"), "before the bytes"},
		"dangling connection":  {honest + "connection\n", "without bytes"},
		"connection too early": {replace("| GET", "connection\n| GET"), "after the answers"},
		"refuses nothing":      {"case a\n  b\n| GET / HTTP/1.1\nexpect 200 exempt\n", "refuses nothing"},
		"no diff":              {"case a\n  b\nsign e\n| {{e}}\nexpect 403 replayed\n", "no honest twin"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(c.text))
			if c.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestPrepareIsBounded(t *testing.T) {
	t.Parallel()
	text := "case a\n  b\nsign e node={{repeat 40000 n}}\n" + strings.Repeat("| {{e}}{{e}}{{e}}{{e}}\n", 2000) + "+ x\nexpect 403 replayed\n"
	cases, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cases[0].Prepare(Attack, testSite(t), time.Now()); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
}

// Whatever Parse accepts can be filled in, is bounded, and keeps to what a case is.
func FuzzParse(f *testing.F) {
	f.Add([]byte(honest))
	files, err := filepath.Glob("../testdata/bypass/*.txt")
	if err != nil || len(files) == 0 {
		f.Fatalf("no corpus: %v", err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		// A case at a time: small inputs mutate better.
		for _, c := range bytes.SplitAfter(data, []byte("\n\n")) {
			f.Add(c)
		}
	}
	site := testSite(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		cases, err := Parse(data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "line ") && !strings.HasPrefix(err.Error(), "the file ") {
				t.Fatalf("the error names no line: %v", err)
			}
			return
		}
		if len(cases) == 0 || len(cases) > maxCases {
			t.Fatalf("%d cases", len(cases))
		}
		for _, c := range cases {
			if c.Name == "" || c.Description == "" || len(c.signings) > 0 && !c.HasTwin() {
				t.Fatalf("%+v", c)
			}
			for _, v := range []Variant{Attack, Twin} {
				if v == Twin && !c.HasTwin() {
					continue
				}
				run, err := c.Prepare(v, site, time.Now())
				if err != nil {
					continue // a key that is not there, an edit that finds nothing
				}
				want := 0
				for _, s := range run.steps {
					if want += s.want; s.want == 0 || c.Proto == HTTP1 && len(s.frames) > 0 || c.Proto == HTTP2 && len(s.bytes) > 0 {
						t.Fatalf("%+v", s)
					}
				}
				if want != len(run.Want) {
					t.Fatalf("%d answers for %d requests", len(run.Want), want)
				}
			}
		}
	})
}

func testSite(t testing.TB) *Site {
	t.Helper()
	var list []*evidence.Key
	for id, alg := range map[string]evidence.Algorithm{"edge-1": evidence.AlgEd25519, "shared-1": evidence.AlgHMACSHA256} {
		key, err := evidence.GenerateKey(id, alg)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, key)
	}
	set, err := evidence.NewKeySet(list...)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := NewKeys(set)
	if err != nil {
		t.Fatal(err)
	}
	return &Site{Gateway: "embedded", Host: "api.example.com", Token: "secret", Keys: keys}
}
