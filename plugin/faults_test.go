package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func decisions(tb testing.TB, g *gate) map[string]float64 {
	return counters(tb, g, "wallarm_gate_decisions_total")
}

// A connection that breaks under a call ends the event, and it counts as denied
// unless the request had been let go before.
func TestBrokenConnection(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	for _, c := range []struct {
		name, method string
		config       map[string]any
		request      *sample
	}{
		{"reading", "kong.nginx.get_var", nil, plain("GET", "/")},
		{"reading in report mode", "kong.nginx.get_var", map[string]any{"mode": "report"}, plain("GET", "/")},
		{"removing", "kong.service.request.set_headers", nil, func() *sample {
			s := signed(t, message(), e.key, time.Now())
			s.remove("Connection")
			return s
		}()},
		{"removing in report mode", "kong.service.request.set_headers", map[string]any{"mode": "report"}, tokenSample("x")},
		{"logging", "kong.log.warn", nil, plain("GET", "/")},
		{"serializing", "kong.log.set_serialize_value", nil, plain("GET", "/")},
		{"serializing an allow", "kong.log.set_serialize_value", map[string]any{"log": "all"}, signed(t, message(), e.key, time.Now())},
		{"answering", "kong.response.exit", nil, plain("GET", "/")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := testGate()
			gc := gateCase{config: c.config}
			config := configure(t, g, gc.configFor(e))
			o := (&fakeKong{vars: c.request.nginx(true), breaks: c.method}).access(t, config)
			if o.calls[len(o.calls)-1] != c.method {
				t.Fatalf("calls %v", o.calls)
			}
			got := decisions(t, g)
			if len(got) != 1 {
				t.Errorf("one request, decisions %v", got)
			}
			for key := range got {
				if !strings.HasPrefix(key, "deny") {
					t.Errorf("decision %s", key)
				}
			}
		})
	}
}

// An answer of Kong's that cannot be read is a denial like any other.
func TestGarbageFromKong(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	c := configure(t, testGate(), map[string]any{"jwks": e.inline})
	o := (&fakeKong{vars: plain("GET", "/").nginx(true), garbage: "kong.nginx.get_var"}).access(t, c)
	if !o.exited || o.value["reason"] != string(evidence.ReasonInternalError) || !strings.HasPrefix(o.lines[0], "err: ") {
		t.Errorf("%+v", o)
	}
}

func TestLayout(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	for _, c := range []struct {
		name, joined string
		reason       evidence.Reason
		line         string
	}{
		{"of another release", "2\nx", evidence.ReasonMisconfigured, "crit: decision=deny reason=misconfigured detail=\"$wallarm_evidence has layout "},
		{"with a field missing", "1\nx", evidence.ReasonInternalError, "err: decision=deny reason=internal_error detail=\"$wallarm_evidence does not have 19 fields\""},
	} {
		for _, mode := range []string{"enforce", "report"} {
			t.Run(c.name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				config := configure(t, testGate(), map[string]any{"jwks": e.inline, "mode": mode})
				o := (&fakeKong{vars: map[string]string{"wallarm_evidence": c.joined}}).access(t, config)
				if o.value["reason"] != string(c.reason) {
					t.Errorf("reason %v", o.value["reason"])
				}
				if want := strings.ReplaceAll(c.line, "=deny", "="+map[string]string{"enforce": "deny", "report": "report"}[mode]); len(o.lines) != 1 || !strings.HasPrefix(o.lines[0], want) {
					t.Errorf("lines %q", o.lines)
				}
				if o.exited != (mode == "enforce") || mode == "report" && len(o.removed) != 39 {
					t.Errorf("exited %v, %d removed", o.exited, len(o.removed))
				}
			})
		}
	}
}

// A panic refuses the one request, or lets it pass bare in report mode.
func TestPanic(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	for _, mode := range []string{"enforce", "report"} {
		c := configure(t, testGate(), map[string]any{"jwks": e.inline, "mode": mode})
		c.verifier.Keys = func() *evidence.KeySet { panic(errors.New("tested")) }
		s := signed(t, message(), e.key, time.Now())
		o := (&fakeKong{vars: s.nginx(true)}).access(t, c)
		if o.exited != (mode == "enforce") || o.value["reason"] != string(evidence.ReasonInternalError) {
			t.Errorf("%s: %+v", mode, o)
		}
		if mode == "report" && len(o.removed) != 39 {
			t.Errorf("%d removed", len(o.removed))
		}
	}
}

// A panic while the request is let go is a denial, too.
func TestPanicAfterTheDecision(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	g := testGate()
	c := configure(t, g, map[string]any{"jwks": e.inline, "log": "all"})
	verified := false
	c.verifier.Now = func() time.Time { verified = true; return time.Now() }
	g.now = func() time.Time {
		if verified {
			verified = false // once: the denial needs the time as well
			panic("tested")
		}
		return time.Now()
	}
	o := (&fakeKong{vars: signed(t, message(), e.key, time.Now()).nginx(true)}).access(t, c)
	if !o.exited || o.value["reason"] != string(evidence.ReasonInternalError) {
		t.Errorf("%+v", o)
	}
}

func TestJoinedVariableMissingIsSaidOnce(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	g := testGate()
	c := configure(t, g, map[string]any{"jwks": e.inline})
	var lines []string
	for range 3 {
		o := (&fakeKong{vars: signed(t, message(), e.key, time.Now()).nginx(false)}).access(t, c)
		if o.exited {
			t.Fatalf("%+v", o)
		}
		lines = append(lines, o.lines...)
	}
	if len(lines) != 1 || !strings.Contains(lines[0], "include evidence.conf with nginx_http_include") {
		t.Errorf("lines %q", lines)
	}
}

// Whatever nginx hands over: one decision, never an allow without a signature.
func FuzzAccess(f *testing.F) {
	e := newEdge(f)
	c := configure(f, testGate(), map[string]any{"jwks": e.inline, "log": "all", "exempt": healthz["exempt"]})
	f.Add(signed(f, message(), e.other, time.Now()).nginx(true)["wallarm_evidence"])
	f.Add(plain("GET", "/healthz").nginx(true)["wallarm_evidence"])
	f.Add(tokenSample("x").nginx(true)["wallarm_evidence"])
	f.Add("")
	f.Add("1")
	f.Fuzz(func(t *testing.T, joined string) {
		o := (&fakeKong{vars: map[string]string{"wallarm_evidence": joined}}).access(t, c)
		if o.exited == (o.value["decision"] == "exempt") {
			t.Fatalf("%+v", o)
		}
		if o.exited && o.status != defaultStatus {
			t.Fatalf("status %d", o.status)
		}
		if i := slices.Index(o.calls, "kong.response.exit"); i >= 0 && i != len(o.calls)-1 {
			t.Fatalf("calls after the answer: %v", o.calls)
		}
	})
}
