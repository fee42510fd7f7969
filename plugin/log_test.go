package main

import (
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	var l limiter
	start := time.Unix(1_700_000_000, 0)
	for i, c := range []struct {
		kind       evidence.Reason
		after      time.Duration
		suppressed int
		ok         bool
	}{
		{evidence.ReasonReplayed, 0, 0, true},
		{evidence.ReasonReplayed, 0, 0, false},
		{evidence.ReasonUnknownKey, 0, 0, true}, // a reason of its own
		{evidence.ReasonReplayed, logInterval - 1, 0, false},
		{evidence.ReasonReplayed, logInterval, 2, true},
		{evidence.ReasonReplayed, logInterval, 0, false},
		{evidence.ReasonReplayed, -time.Hour, 1, true}, // the clock was set back
	} {
		suppressed, ok := l.take(c.kind, start.Add(c.after))
		if suppressed != c.suppressed || ok != c.ok {
			t.Errorf("step %d: %d, %v", i, suppressed, ok)
		}
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	v := verdict{decision: deny, reason: evidence.ReasonBadSignature, vars: variables{
		varTarget:         "/p\xff\n\"x?api_key=s3cret",
		varHostField:      strings.Repeat("h", 500),
		varToken:          "s3cret",
		varSignature:      "s3cret",
		varRequestID:      testRequestID,
		varPeer:           "10.0.0.1",
		varMethod:         "GET",
		varClientIP:       "s3cret",
		varRemoteAddr:     "s3cret",
		varConnection:     "s3cret",
		varEvidenceID:     "s3cret",
		varApplication:    "s3cret",
		varInspection:     "s3cret",
		varUpgrade:        "s3cret",
		varNode:           "s3cret",
		varMode:           "s3cret",
		varHost:           "s3cret",
		varSignatureInput: "s3cret",
	}}
	v.att.KeyID = "k"
	got := v.line(3)
	want := `decision=deny reason=bad_signature request_id="` + testRequestID + `" source="10.0.0.1" method="GET" host="` +
		strings.Repeat("h", maxLogged) + `"... path="/p\xff\n\"x" key_id="k" suppressed=3`
	if got != want {
		t.Errorf("line is\n%s\nwant\n%s", got, want)
	}
}

// Values of a stranger's never break the serializer, whose strings are UTF-8.
func TestSerialized(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_010, 0)
	v := verdict{decision: deny, reason: evidence.ReasonBadSignature, att: evidence.Attestation{
		KeyID: "k\xff", RequestID: testRequestID, Node: "n", Mode: evidence.ModeBlock, Inspection: evidence.InspectionActive,
		Created: now.Add(-10 * time.Second),
	}}
	got := v.serialized(now).AsMap()
	for name, want := range map[string]any{
		"decision": "deny", "reason": "bad_signature", "key_id": `"k\xff"`, "request_id": testRequestID,
		"node": "n", "mode": "block", "inspection": "active", "age": 10.0,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if len(got) != 8 {
		t.Errorf("%v", got)
	}
	bare := verdict{decision: exempt}
	if got := bare.serialized(now).AsMap(); len(got) != 1 || got["decision"] != "exempt" {
		t.Errorf("%v", got)
	}
}

func TestLogScopes(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	for _, c := range []struct {
		scope             string
		request           *sample
		lines, serialized bool
	}{
		{"denied", plain("GET", "/"), true, true},
		{"denied", plain("GET", "/healthz"), false, true},
		{"denied", signed(t, message(), e.key, time.Now()), false, false},
		{"all", plain("GET", "/"), true, true},
		{"all", signed(t, message(), e.key, time.Now()), false, true},
		{"off", plain("GET", "/"), false, false},
		{"off", plain("GET", "/healthz"), false, false},
	} {
		config := configure(t, testGate(), map[string]any{"jwks": e.inline, "log": c.scope, "exempt": healthz["exempt"]})
		o := (&fakeKong{vars: c.request.nginx(true)}).access(t, config)
		if (len(o.lines) > 0) != c.lines || (o.value != nil) != c.serialized {
			t.Errorf("log %s, %s: lines %q, value %v", c.scope, c.request.target, o.lines, o.value)
		}
	}
	// A mistake of the gate itself is said whatever log is.
	config := configure(t, testGate(), map[string]any{"log": "off"})
	o := (&fakeKong{vars: plain("GET", "/").nginx(true)}).access(t, config)
	if len(o.lines) != 1 || !strings.HasPrefix(o.lines[0], "crit: ") {
		t.Errorf("lines %q", o.lines)
	}
}
