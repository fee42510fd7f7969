package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/internal/kongfile"
	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

// binaries are built once for all tests of this package.
var binaries = sync.OnceValues(func() (paths [2]string, err error) {
	dir, err := os.MkdirTemp("", "gatectl-test-")
	if err != nil {
		return paths, err
	}
	cleanup = func() { os.RemoveAll(dir) }
	if paths[0], err = build(context.Background(), filepath.Join(dir, "wallarm-gate"), module+"/plugin", "--plugin"); err != nil {
		return paths, err
	}
	paths[1], err = build(context.Background(), filepath.Join(dir, "attester"), module+"/edge/attester", "--attester")
	return paths, err
})

var cleanup = func() {}

func TestMain(m *testing.M) {
	code := m.Run()
	cleanup()
	os.Exit(code)
}

func built(t *testing.T) (plugin, attester string) {
	t.Helper()
	paths, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	return paths[0], paths[1]
}

// The whole demo, as a user runs it.
func TestDemo(t *testing.T) {
	t.Parallel()
	plugin, attester := built(t)
	var stdout, stderr bytes.Buffer
	tl := &tool{strings.NewReader(""), &stdout, &stderr, time.Now}
	code := tl.main(t.Context(), []string{"demo", "--json", "--verbose", "--plugin", plugin, "--attester", attester})
	var report struct {
		Scenarios   []demoResult
		Held, Total int
	}
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatalf("exit status %d, %v; standard error:\n%s", code, err, stderr.String())
	}
	for _, r := range report.Scenarios {
		if !r.Holds {
			t.Errorf("%s: expected %q, got %q %q %s", r.Scenario, r.Expected, r.Got, r.Reason, r.Error)
		}
	}
	if code != 0 || report.Held != report.Total || report.Total != len(scenarios()) || report.Total < 35 {
		t.Errorf("exit status %d, %d of %d scenarios hold", code, report.Held, report.Total)
	}
	if t.Failed() {
		t.Logf("standard error:\n%s", stderr.String())
	}
	for _, secret := range []string{demoToken, `"d"`} {
		if strings.Contains(stderr.String(), secret) {
			t.Errorf("the logs hold the secret %q", secret)
		}
	}
}

// A gate that lets everything pass must make the demo fail: in report mode the
// first refusal that is expected does not come.
func TestDemoNoticesAnOpenGate(t *testing.T) {
	t.Parallel()
	plugin, attester := built(t)
	s, err := startSite(t.Context(), plugin, attester, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	open := s.gatewayConfig()
	open.Plugins[0].Config["mode"] = "report"
	gateway, err := pluginhost.NewGateway(s.host, open, pluginhost.Settings{Observer: s.observe})
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Close()
	addr, err := gateway.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.gateway = addr.String()
	for _, sc := range scenarios() {
		if sc.name == "key rotated under load" {
			break // from here on each takes seconds
		}
		o, err := sc.run(t.Context(), s)
		denied := strings.HasPrefix(sc.want, "403") && !strings.HasSuffix(sc.want, " edge")
		// These ask through the edge, whose attester sends to the gated one, or
		// a route with a gate of its own.
		elsewhere := slices.Contains([]string{"403 not_inspected", "403 mode_not_allowed", "403 upgrade_not_allowed", "403 token_mismatch"}, sc.want)
		if denied && !elsewhere && err == nil && sc.holds(o) {
			t.Errorf("%q holds although the gate is open: %v", sc.name, o)
		}
	}
}

func TestDemoServe(t *testing.T) {
	t.Parallel()
	plugin, attester := built(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, in := io.Pipe()
	code := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		tl := &tool{strings.NewReader(""), in, &stderr, time.Now}
		code <- tl.main(ctx, []string{"demo", "--serve", "--plugin", plugin, "--attester", attester})
		in.Close()
	}()
	var text strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(text.String(), "Interrupt to stop") {
		n, err := out.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v after %q; standard error %q", err, text.String(), stderr.String())
		}
	}
	urls := regexp.MustCompile(`curl -i (http://\S+/orders)\n`).FindAllStringSubmatch(text.String(), -1)
	if len(urls) != 2 {
		t.Fatalf("curl lines %q in:\n%s", urls, text.String())
	}
	for i, want := range []int{http.StatusOK, http.StatusForbidden} {
		res, err := http.Get(urls[i][1])
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: status %d, want %d", urls[i][1], res.StatusCode, want)
		}
	}
	stop()
	go io.Copy(io.Discard, out)
	if got := <-code; got != 0 {
		t.Errorf("exit status %d: %s", got, stderr.String())
	}
}

func TestDemoMistakes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		code int
		want string
		args []string
	}{
		{"two forms", 2, "--serve and --json exclude each other", []string{"demo", "--serve", "--json"}},
		{"an operand", 2, `"x" is one argument too many`, []string{"demo", "x"}},
		{"no such plugin", 1, "--plugin: testdata/absent: no such file", []string{"demo", "--plugin", "testdata/absent", "--attester", "testdata/absent"}},
		{"a folder as attester", 1, "--attester: testdata: not an executable file", []string{"demo", "--attester", "testdata"}},
		{"a plugin that is none", 1, "is not the plugin", []string{"demo", "--plugin", "/bin/true", "--attester", "/bin/true"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, stderr, code := run(t, signedAt, "", tc.args...)
			if code != tc.code || !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit status %d, standard error %q, want one line with %q", code, stderr, tc.want)
			}
		})
	}
}

// What lint knows of the gate's configuration is what the plugin declares.
func TestLintKnowsTheSchema(t *testing.T) {
	t.Parallel()
	plugin, _ := built(t)
	dump, err := exec.CommandContext(t.Context(), plugin, "-dump").Output()
	if err != nil {
		t.Fatal(err)
	}
	schema, err := pluginhost.ParseSchema(dump)
	if err != nil {
		t.Fatal(err)
	}
	if schema.Name != kongfile.PluginName || schema.Priority != kongfile.Priority {
		t.Errorf("the plugin is %s with priority %d, lint knows %s with %d", schema.Name, schema.Priority, kongfile.PluginName, kongfile.Priority)
	}
	config, err := schema.Validate(pluginhost.Plugin{Name: schema.Name, Config: map[string]any{
		"exempt": []any{map[string]any{"path": "/healthz"}},
		"replay": map[string]any{"store": "redis", "redis": map[string]any{"address": "redis:6379", "tls": map[string]any{}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var declared []string
	var declare func(prefix string, record map[string]any)
	declare = func(prefix string, record map[string]any) {
		for name, v := range record {
			declared = append(declared, prefix+name)
			if list, ok := v.([]any); ok && len(list) == 1 {
				v = list[0]
			}
			if inner, ok := v.(map[string]any); ok {
				declare(prefix+name+".", inner)
			}
		}
	}
	declare("", config)
	known := kongfile.Fields()
	slices.Sort(declared)
	slices.Sort(known)
	if !slices.Equal(declared, known) {
		t.Errorf("the plugin declares %q\nlint knows          %q", declared, known)
	}
}

func TestPrintResult(t *testing.T) {
	t.Parallel()
	list := []scenario{{name: "a", want: "200 allow"}, {name: "longer name", want: "403 missing_evidence"}}
	var out bytes.Buffer
	printResult(&out, list, demoResult{Scenario: "a", Expected: "200 allow", Got: "200", Reason: "allow", Holds: true})
	printResult(&out, list, demoResult{Scenario: "longer name", Expected: "403 missing_evidence", Got: "200", Reason: "allow", Error: "the upstream got it"})
	const want = "ok    a            200 allow             200  allow\n" +
		"FAIL  longer name  403 missing_evidence  200  allow  (the upstream got it)\n"
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

func TestHolds(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		want string
		o    outcome
		ok   bool
	}{
		{"200 allow", outcome{got: "200", reason: "allow"}, true},
		{"200 allow", outcome{got: "200", reason: "report"}, false},
		{"403 replayed", outcome{got: "403", reason: "bad_signature"}, false},
		{"403 edge", outcome{got: "403", reason: "edge: stopped"}, true},
		{"403 edge", outcome{got: "400", reason: "edge: ambiguous"}, false},
		{"403 edge", outcome{got: "403", reason: "missing_evidence"}, false},
		{"same", outcome{got: "same", detail: "x"}, true},
	} {
		if got := (&scenario{want: tc.want}).holds(tc.o); got != tc.ok {
			t.Errorf("holds(%v) with %q = %v", tc.o, tc.want, got)
		}
	}
}
