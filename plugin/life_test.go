package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func TestLife(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lives := func() int {
		names, err := filepath.Glob(filepath.Join(dir, lifeFiles))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	starts := func(want bool) *life {
		t.Helper()
		l, crashed, err := begin(dir)
		if err != nil || crashed != want {
			t.Fatalf("begin: crashed %v (%v), want %v", crashed, err, want)
		}
		return l
	}
	first := starts(false)
	second := starts(false) // a reload: the first one lives
	first.end()
	first.file.Close()
	third := starts(false)
	second.file.Close() // a crash: the lock goes, the file stays
	fourth := starts(true)
	if n := lives(); n != 2 {
		t.Errorf("%d files for two processes", n)
	}
	starts(false).end() // it is told once
	third.end()
	fourth.end()
	if n := lives(); n != 0 {
		t.Errorf("%d files are left", n)
	}

	for name, broken := range map[string]string{"missing": filepath.Join(dir, "missing"), "no folder": os.Args[0]} {
		if _, crashed, err := begin(broken); err == nil || !crashed {
			t.Errorf("%s: crashed %v, error %v", name, crashed, err)
		}
	}
}

func TestForgottenUntil(t *testing.T) {
	t.Parallel()
	second := time.Unix(1800000000, 0)
	for _, now := range []time.Time{second, second.Add(time.Nanosecond), second.Add(time.Second - time.Nanosecond)} {
		if got := forgottenUntil(now); !got.Equal(second.Add(time.Second)) {
			t.Errorf("%v: %v", now, got)
		}
	}
}

// Evidence that a process has accepted is not accepted by the one that comes
// after its crash.
func TestBinaryCrash(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	g := startGateway(t, true, map[string]any{"jwks": e.inline})
	used := signed(t, message(), e.key, time.Now()).bytes()
	if a := g.send(t, testPeer, "GET", used); !a.Proxied {
		t.Fatalf("before the crash: %v", a.Serialized)
	}
	starts := g.host.Starts()
	if err := g.host.Kill(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(60 * time.Second)
	for refused := false; ; {
		if time.Now().After(deadline) {
			t.Fatal("fresh evidence is not accepted after the crash")
		}
		a := g.send(t, testPeer, "GET", used)
		if a.Proxied {
			t.Fatal("the evidence was accepted once more")
		}
		refused = refused || a.reason() == evidence.ReasonStaleEvidence
		if a := g.send(t, testPeer, "GET", signed(t, message(), e.key, time.Now()).bytes()); a.Proxied {
			if !refused || g.host.Starts() == starts {
				t.Errorf("the new process, start %d after %d, did not refuse used evidence as stale", g.host.Starts(), starts)
			}
			return
		}
	}
}

func (a answer) reason() evidence.Reason {
	value, _ := a.Serialized["wallarm_gate"].(map[string]any)
	reason, _ := value["reason"].(string)
	return evidence.Reason(reason)
}
