package main

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The manual names every field, reason, metric and flag.
func TestReadmeIsComplete(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(data)
	want := []string{"`-kong-prefix", "`-dump`", "`-install", "`-check", "`-allow-report`", "`-copy", "`-version`", "`-help`", "`-metrics-listen", "`-kong-status-url"}
	for _, r := range evidence.Reasons() {
		want = append(want, "`"+string(r)+"`")
	}
	walk("", configFields(), func(path string, f field) {
		if parent, name, nested := strings.Cut(path, "."); nested && parent == "exempt" {
			want = append(want, "`"+name+"`")
		} else if len(f.Fields) == 0 {
			want = append(want, "| `"+path+"` |")
		}
	})
	g := testGate()
	c := configure(t, g, map[string]any{"jwks": newEdge(t).inline})
	families, err := g.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(c)
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "wallarm_gate_") {
			want = append(want, "`"+f.GetName())
		}
	}
	// The ACL that the tests run with is the one that is documented.
	want = append(want, "`ACL SETUSER "+strings.Replace(strings.TrimPrefix(redisACL, "user "), redisPassword, "PASSWORD", 1)+"`")
	for _, result := range redisResults {
		want = append(want, "`"+result+"`")
	}
	for _, w := range want {
		if !strings.Contains(manual, w) {
			t.Errorf("README.md does not have %s", w)
		}
	}
}
