package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// counters returns the values of a counter or gauge by its label values.
func counters(tb testing.TB, g *gate, name string) map[string]float64 {
	tb.Helper()
	families, err := g.metrics.registry.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			values[strings.Join(labels, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	now := time.Unix(1_900_000_000, 0)
	g := newGate(func() time.Time { return now })
	c := configure(t, g, map[string]any{"jwks": e.inline, "exempt": healthz["exempt"]})
	r := configure(t, g, map[string]any{"jwks": e.inline, "mode": "report"})
	send := func(c *Config, s *sample) { (&fakeKong{vars: s.nginx(true)}).access(t, c) }
	send(c, signed(t, message(), e.key, now.Add(-3*time.Second)))
	send(c, signed(t, message(), e.key, now))
	send(c, signed(t, message(), e.other, now))
	send(c, plain("GET", "/"))
	send(c, plain("GET", "/healthz"))
	send(r, plain("GET", "/"))

	families, err := g.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names, process []string // in their order
	for _, f := range families {
		switch name, _, _ := strings.Cut(f.GetName(), "_"); name {
		case "wallarm":
			names = append(names, f.GetName())
		case "process":
			process = append(process, f.GetName())
		}
		h := f.GetMetric()[0].GetHistogram()
		switch f.GetName() {
		case "wallarm_gate_evidence_age_seconds":
			if h.GetSampleCount() != 2 || h.GetSampleSum() != 3 {
				t.Errorf("age: %d, sum %v", h.GetSampleCount(), h.GetSampleSum())
			}
		case "wallarm_gate_decision_seconds":
			if h.GetSampleCount() != 6 {
				t.Errorf("%d decisions timed", h.GetSampleCount())
			}
		}
	}
	want := []string{
		"wallarm_gate_decision_seconds", "wallarm_gate_decisions_total", "wallarm_gate_evidence_age_seconds",
		"wallarm_gate_jwks_last_reload_timestamp_seconds", "wallarm_gate_jwks_reload_failure_total",
		"wallarm_gate_jwks_reload_success_total", "wallarm_gate_key_expiry_timestamp_seconds", "wallarm_gate_key_uses_total", "wallarm_gate_mode",
		"wallarm_gate_redis_breaker_open", "wallarm_gate_redis_local_fallbacks_total", "wallarm_gate_redis_operations_total",
		"wallarm_gate_redis_seconds", "wallarm_gate_redis_server_changes_total", "wallarm_gate_replay_capacity", "wallarm_gate_replay_entries",
	}
	if !slices.Equal(names, want) {
		t.Errorf("metrics %q", names)
	}
	// Alerts and dashboard rely on these.
	for _, name := range []string{"process_cpu_seconds_total", "process_max_fds", "process_open_fds", "process_resident_memory_bytes", "process_start_time_seconds"} {
		if runtime.GOOS == "linux" && !slices.Contains(process, name) {
			t.Errorf("no %s among %q", name, process)
		}
	}
	for name, want := range map[string]map[string]float64{
		"wallarm_gate_decisions_total": {"allow ": 2, "deny unknown_key": 1, "deny missing_evidence": 1, "exempt ": 1, "report missing_evidence": 1},
		"wallarm_gate_key_uses_total":  {"edge-1": 2}, // a stranger's key id is no label
		"wallarm_gate_mode":            {"enforce": 1, "report": 1},
		"wallarm_gate_replay_entries":  {"": 2},
		"wallarm_gate_replay_capacity": {"": defaultCapacity},
	} {
		if got := counters(t, g, name); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	runtime.KeepAlive(c)
	runtime.KeepAlive(r)
}

// A report mode that has gone does not keep its alert.
func TestModeOfADroppedConfiguration(t *testing.T) {
	t.Parallel()
	g := testGate()
	func() {
		c := configure(t, g, map[string]any{"mode": "report"})
		if got := counters(t, g, "wallarm_gate_mode")["report"]; got != 1 {
			t.Errorf("report is %v", got)
		}
		runtime.KeepAlive(c)
	}()
	deadline := time.Now().Add(30 * time.Second)
	for counters(t, g, "wallarm_gate_mode")["report"] != 0 {
		if time.Now().After(deadline) {
			t.Fatal("the mode is still counted")
		}
		runtime.GC()
	}
}

// The store that a larger one replaced is still asked, for as long as needed.
func TestReplayMemoryGrows(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_900_000_000, 0)
	m := &replayMemory{now: func() time.Time { return now }}
	remember := func(n byte, id string) error {
		return m.Remember(evidence.Nonce{n}, id, now, now.Add(time.Minute))
	}
	if n := m.size(); n != 0 {
		t.Errorf("a capacity of %d that nobody asked for", n)
	}
	m.reserve(1000)
	if err := remember(1, "a"); err != nil {
		t.Fatal(err)
	}
	m.reserve(1000)
	m.reserve(10)
	if len(m.previous) != 0 {
		t.Fatal("the same or a smaller capacity replaced the store")
	}
	m.reserve(2000)
	if n := m.size(); n != 2000 {
		t.Errorf("capacity %d", n)
	}
	for _, c := range []struct {
		nonce byte
		id    string
		want  error
	}{
		{1, "b", evidence.ErrReplayed}, {1, "a", nil}, {2, "a", nil}, {2, "b", evidence.ErrReplayed},
	} {
		if err := remember(c.nonce, c.id); err != c.want {
			t.Errorf("nonce %d for %s: %v", c.nonce, c.id, err)
		}
	}
	// Past the capacity of the old one: only the new one counts.
	for i := range 1500 {
		n := evidence.Nonce{9, byte(i), byte(i >> 8)}
		if err := m.Remember(n, "c", now, now.Add(time.Minute)); err != nil {
			t.Fatalf("nonce %d: %v", i, err)
		}
		if err := m.Remember(n, "d", now, now.Add(time.Minute)); err != evidence.ErrReplayed {
			t.Fatalf("nonce %d again: %v", i, err)
		}
	}
	now = now.Add(replayHorizon + time.Second)
	if err := remember(3, "a"); err != nil {
		t.Fatal(err)
	}
	if len(m.previous) != 0 {
		t.Error("the old store is still asked")
	}
}
