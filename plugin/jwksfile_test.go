package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func writeFile(tb testing.TB, path, content string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func TestKeyFile(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	now := time.Unix(1_900_000_000, 0)
	g := newGate(func() time.Time { return now })
	path := filepath.Join(t.TempDir(), "keys.json")
	c := configure(t, g, map[string]any{"jwks_file": path, "exempt": healthz["exempt"]})
	d := configure(t, g, map[string]any{"jwks_file": path, "max_age": 60})
	if c.keyFile != d.keyFile {
		t.Error("two configurations watch one file twice")
	}

	step := func(name string, key *evidence.Key, reason evidence.Reason, success, failure float64, line string) {
		t.Helper()
		now = now.Add(2 * time.Second)
		g.files.poll()
		o := (&fakeKong{vars: signed(t, message(), key, now).nginx(true)}).access(t, c)
		got, _ := o.value["reason"].(string)
		if o.exited != (reason != "") || got != string(reason) {
			t.Errorf("%s: exited %v, reason %q, lines %q", name, o.exited, got, o.lines)
		}
		if s, f := counters(t, g, "wallarm_gate_jwks_reload_success_total")[""], counters(t, g, "wallarm_gate_jwks_reload_failure_total")[""]; s != success || f != failure {
			t.Errorf("%s: %v successes, %v failures", name, s, f)
		}
		if all := strings.Join(o.lines, "\n"); !strings.Contains(all, line) || line == "" && strings.Contains(all, "jwks_file") {
			t.Errorf("%s: lines %q, want %q", name, o.lines, line)
		}
	}
	step("there is no file", e.key, evidence.ReasonMisconfigured, 0, 2, "no such file")
	if o := (&fakeKong{vars: plain("GET", "/healthz").nginx(true)}).access(t, c); o.exited {
		t.Error("an exemption waits for keys")
	}
	writeFile(t, path, jwks(t, e.key))
	step("the file appears", e.key, "", 1, 2, "")
	if got := counters(t, g, "wallarm_gate_jwks_last_reload_timestamp_seconds")[""]; got != float64(now.Unix()) {
		t.Errorf("last reload at %v", got)
	}
	step("nothing changed", e.key, "", 1, 2, "")
	writeFile(t, path, `{"keys":[`)
	step("garbage", e.key, "", 1, 3, "the last good key set stays in force")
	step("garbage is said once, and counted", e.key, "", 1, 4, "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	step("removed", e.key, "", 1, 5, "no such file")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	step("a folder", e.key, "", 1, 6, "not a regular file")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, strings.Repeat(" ", maxKeyFile+1))
	step("too large", e.key, "", 1, 7, "larger than 65536 bytes")
	writeFile(t, path, jwks(t, e.key, e.other))
	step("a second key", e.other, "", 2, 7, "2 keys are in force now")
	writeFile(t, path, jwks(t, e.other))
	step("the first is gone", e.key, evidence.ReasonUnknownKey, 3, 7, "1 keys are in force now")
	runtime.KeepAlive(d)
}

// A file that no configuration names is not read any more.
func TestKeyFileIsLetGo(t *testing.T) {
	t.Parallel()
	g := testGate()
	path := filepath.Join(t.TempDir(), "keys.json")
	writeFile(t, path, jwks(t, newEdge(t).key))
	configure(t, g, map[string]any{"jwks_file": path})
	watched := func() int {
		g.files.poll()
		g.files.mu.Lock()
		defer g.files.mu.Unlock()
		return len(g.files.byPath)
	}
	for deadline := time.Now().Add(30 * time.Second); watched() != 0; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("the file is still watched")
		}
	}
}
