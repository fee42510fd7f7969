package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// key returns a new key that expires at exp; never, if that is zero.
func key(tb testing.TB, id string, exp time.Time) *evidence.Key {
	tb.Helper()
	k, err := evidence.GenerateKey(id, evidence.AlgHMACSHA256)
	if err != nil {
		tb.Fatal(err)
	}
	k.Expires = exp
	return k
}

func TestKeyExpiry(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_900_000_000, 0)
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	g := newGate(func() time.Time { return now })
	want := func(step string, want map[string]int) {
		t.Helper()
		wanted := map[string]float64{}
		for id, seconds := range want {
			wanted[id] = float64(at(seconds).Unix())
		}
		if got := counters(t, g, "wallarm_gate_key_expiry_timestamp_seconds"); !maps.Equal(got, wanted) {
			t.Errorf("%s: %v, want %v", step, got, wanted)
		}
	}
	want("no configuration", nil)

	never := time.Time{}
	path := filepath.Join(t.TempDir(), "keys.json")
	live := []*Config{
		configure(t, g, map[string]any{"jwks": jwks(t, key(t, "a", at(500)), key(t, "never", never), key(t, "past", at(-500)))}),
		configure(t, g, map[string]any{"jwks_file": path}),
	}
	want("one that waits for its file", map[string]int{"a": 500, "past": -500})
	live = append(live,
		configure(t, g, map[string]any{"jwks": jwks(t, key(t, "a", at(300)))}),
		configure(t, g, map[string]any{"jwks": jwks(t, key(t, "a", at(900)))}),
		configure(t, g, map[string]any{"jwks": jwks(t, key(t, "a", never))}),
		configure(t, g, map[string]any{"jwks": jwks(t, key(t, "a", at(1)), key(t, "unusable", at(1))), "max_age": 0}),
		configure(t, g, map[string]any{"mode": "report", "jwks": jwks(t, key(t, "reported", at(700)))}))
	want("the earliest of those that can be used", map[string]int{"a": 300, "past": -500, "reported": 700})

	rest := map[string]int{"a": 300, "past": -500, "reported": 700}
	file := func(step, content string, add map[string]int) {
		t.Helper()
		writeFile(t, path, content)
		g.files.poll()
		maps.Copy(add, rest)
		want(step, add)
	}
	file("the file appears", jwks(t, key(t, "f", at(100)), key(t, "g", at(200))), map[string]int{"f": 100, "g": 200})
	file("garbage: the last good keys", "{", map[string]int{"f": 100, "g": 200})
	file("a key leaves, another gets more time", jwks(t, key(t, "g", at(800))), map[string]int{"g": 800})
	file("and has no end any more", jwks(t, key(t, "g", never)), map[string]int{})
	runtime.KeepAlive(live)
}

// The keys of a configuration go with it.
func TestKeyExpiryOfADroppedConfiguration(t *testing.T) {
	t.Parallel()
	g := testGate()
	kept := configure(t, g, map[string]any{"jwks": jwks(t, key(t, "kept", time.Now()))})
	configure(t, g, map[string]any{"jwks": jwks(t, key(t, "dropped", time.Now()))})
	held := func() int {
		g.metrics.keys.mu.Lock()
		defer g.metrics.keys.mu.Unlock()
		return len(g.metrics.keys.verifiers)
	}
	for deadline := time.Now().Add(30 * time.Second); held() != 1; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatalf("%d configurations are held", held())
		}
	}
	if got := counters(t, g, "wallarm_gate_key_expiry_timestamp_seconds"); len(got) != 1 || got["kept"] == 0 {
		t.Errorf("keys %v", got)
	}
	runtime.KeepAlive(kept)
}

// Any number of routes with keys of their own makes a bounded number of series.
func TestKeyExpiriesAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_900_000_000, 0)
	g := newGate(func() time.Time { return now })
	var live []*Config
	var soon []string // as they expire
	for i := range 10 {
		var keys []*evidence.Key
		for j := range 30 {
			n := 30*i + j
			id, exp := fmt.Sprintf("soon-%03d", n), now.Add(time.Duration(n+1)*time.Hour)
			if n < 10 {
				id, exp = fmt.Sprintf("past-%03d", n), now.Add(-time.Duration(n)*time.Hour)
			} else {
				soon = append(soon, id)
			}
			keys = append(keys, key(t, id, exp))
		}
		live = append(live, configure(t, g, map[string]any{"jwks": jwks(t, keys...)}))
	}
	exported := func() []string {
		return slices.Sorted(maps.Keys(counters(t, g, "wallarm_gate_key_expiry_timestamp_seconds")))
	}
	if got, want := exported(), soon[:maxKeyExpiries]; !slices.Equal(got, want) {
		t.Errorf("those that expire next: %d, %q; want %d, %q", len(got), got, len(want), want)
	}
	now = now.Add(100 * time.Hour) // at which soon-099 expires, and 200 are left
	if got, want := exported(), soon[len(soon)-maxKeyExpiries:]; !slices.Equal(got, want) {
		t.Errorf("and those that expired last: %d, %q; want %d, %q", len(got), got, len(want), want)
	}
	runtime.KeepAlive(live)
}
