package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// configure compiles a configuration as Kong would send it.
func configure(tb testing.TB, g *gate, config map[string]any) *Config {
	tb.Helper()
	data, err := json.Marshal(config)
	if err != nil {
		tb.Fatal(err)
	}
	c := &Config{gate: g}
	if err := json.Unmarshal(data, c); err != nil {
		tb.Fatal(err)
	}
	return c
}

// nginx returns the variables that nginx has for s, joined or one by one.
func (s *sample) nginx(joined bool) map[string]string {
	vars := map[string]string{
		"request_id": "ffeeddccbbaa99887766554433221100", "realip_remote_addr": s.peer, "remote_addr": s.peer,
		"request_method": s.method, "http_host": s.host, "request_uri": s.target,
	}
	if s.id != "" {
		vars["request_id"] = s.id
	}
	vars["host"], _ = hostName(s.host)
	if s.absolute != "" {
		vars["host"] = s.absolute
	}
	for _, f := range s.header {
		name := "http_" + strings.ReplaceAll(strings.ToLower(f.name), "-", "_")
		if old, ok := vars[name]; ok {
			f.value = old + ", " + f.value
		}
		vars[name] = f.value
	}
	if !joined {
		return vars
	}
	fields := []string{"1"}
	for _, name := range variableNames {
		fields = append(fields, vars[name])
	}
	return map[string]string{"wallarm_evidence": strings.Join(fields, "\n")}
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	for _, c := range gateCases() {
		for path, joined := range map[string]bool{"joined": true, "one by one": false} {
			t.Run(c.name+"/"+path, func(t *testing.T) {
				t.Parallel()
				now := time.Now()
				g := newGate(func() time.Time { return now })
				g.joinedMissing.Do(func() {}) // the line about it has a test of its own
				config := configure(t, g, c.configFor(e))
				s := c.request(t, e, now)
				o := (&fakeKong{vars: s.nginx(joined)}).access(t, config)
				c.check(t, o, joined)
			})
		}
	}
}

// check compares an outcome of the fake Kong with the case.
func (c *gateCase) check(t *testing.T, o *outcome, joined bool) {
	t.Helper()
	if refused := c.decision == deny; o.exited != refused {
		t.Fatalf("exited is %v, want %v: %v %v", o.exited, refused, o.value, o.lines)
	}
	want := defaultStatus
	if s, ok := c.config["deny_status"].(int); ok {
		want = s
	}
	if o.exited && o.status != want {
		t.Errorf("status %d, want %d", o.status, want)
	}
	if c.decision != allow && c.config["log"] != "off" {
		if o.value["decision"] != string(c.decision) {
			t.Errorf("serialized decision is %v, want %s", o.value["decision"], c.decision)
		}
		if got, _ := o.value["reason"].(string); got != string(c.reason) {
			t.Errorf("reason is %q, want %q (%v)", got, c.reason, o.lines)
		}
	}
	if c.decision == report && slices.Contains(o.calls, "kong.service.request.set_headers") && len(o.removed) != 39 {
		t.Errorf("%d spellings removed, want all 39", len(o.removed))
	}
	if c.decision == exempt && len(o.removed) != 39+26 {
		t.Errorf("%d spellings removed, want all 65", len(o.removed))
	}
	if c.trips != 0 && joined && !o.exited && len(o.calls) != c.trips {
		t.Errorf("%d PDK calls, want %d: %v", len(o.calls), c.trips, o.calls)
	}
	for _, line := range append(slices.Clone(o.lines), o.body) {
		if strings.Contains(line, testToken) || strings.Contains(line, testOtherToken) {
			t.Errorf("a token is in %q", line)
		}
	}
}

func TestReplayIsNotARerun(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	now := time.Now()
	g := newGate(func() time.Time { return now })
	c := configure(t, g, map[string]any{"jwks": e.inline})
	other := configure(t, g, map[string]any{"jwks": e.inline, "max_age": 60, "replay": map[string]any{"capacity": 2_000_000}})
	s := signed(t, message(), e.key, now)
	s.id = strings.Repeat("a", 32)
	first := s.nginx(true)
	s.id = strings.Repeat("b", 32)
	second := s.nginx(true)

	for _, step := range []struct {
		name   string
		vars   map[string]string
		config *Config
		exited bool
	}{
		{"first", first, c, false},
		{"Kong runs the same request again", first, c, false},
		{"replayed", second, c, true},
		{"replayed under another configuration", second, other, true},
		{"the first again", first, other, false},
	} {
		o := (&fakeKong{vars: step.vars}).access(t, step.config)
		if o.exited != step.exited {
			t.Fatalf("%s: exited is %v", step.name, o.exited)
		}
		if step.exited && o.value["reason"] != string(evidence.ReasonReplayed) {
			t.Errorf("%s: reason %v", step.name, o.value["reason"])
		}
	}
}

// Evidence that was refused for its host has not been used up.
func TestHostIsJudgedBeforeTheNonce(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	c := configure(t, testGate(), map[string]any{"jwks": e.inline})
	s := signed(t, message(), e.key, time.Now())
	s.absolute = "evil.example.com"
	if o := (&fakeKong{vars: s.nginx(true)}).access(t, c); o.value["reason"] != string(evidence.ReasonMalformedEvidence) ||
		!strings.Contains(o.lines[0], "differ") {
		t.Fatalf("%+v", o)
	}
	s.absolute, s.id = "", strings.Repeat("a", 32)
	if o := (&fakeKong{vars: s.nginx(true)}).access(t, c); o.exited {
		t.Errorf("%+v", o)
	}
}
