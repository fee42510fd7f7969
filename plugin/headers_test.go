package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func TestSpellings(t *testing.T) {
	t.Parallel()
	if got, want := spellings("A-B-C"), []string{"A-B-C", "A_B-C", "A-B_C", "A_B_C"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	names := slices.Collect(maps.Keys(removeAll.Fields))
	if len(names) != 39 {
		t.Errorf("%d spellings of the nine names, want 39", len(names))
	}
	for _, name := range names {
		if !evidence.IsHeader(name) {
			t.Errorf("%s is no header of the contract", name)
		}
	}
	for _, framing := range []string{"Transfer-Encoding", "Content-Length"} {
		if removeExempt.Fields[framing] != nil {
			t.Errorf("%s is removed, and with it the body", framing)
		}
	}
}

func TestRemoval(t *testing.T) {
	t.Parallel()
	const plainConnection = "Signature, Signature-Input"
	for _, c := range []struct {
		name string
		v    verdict
		want int // names
	}{
		{"allowed, Connection names the proof", verdict{decision: allow, read: true, vars: variables{varConnection: plainConnection}}, 0},
		{"allowed, a token beside", verdict{decision: allow, read: true, vars: variables{varConnection: plainConnection, varToken: "x"}}, 3 + 4},
		{"allowed, underscore in Connection", verdict{decision: allow, read: true, vars: variables{varConnection: "signature, signature_input"}}, 3 + 4},
		{"allowed", verdict{decision: allow, read: true}, 3 + 4},
		{"allowed by token", verdict{decision: allow, read: true, byToken: true, vars: variables{varConnection: plainConnection}}, 3 + 4 + 4 + 4},
		{"exempt, nothing there", verdict{decision: exempt, read: true}, 39 + 2 + 8 + 4 + 4 + 4 + 4},
		{"reported, nothing there", verdict{decision: report, read: true}, 0},
		{"reported, a token there", verdict{decision: report, read: true, vars: variables{varToken: "x"}}, 39},
		{"reported, nothing could be read", verdict{decision: report}, 39},
		{"reported, Connection names the proof", verdict{decision: report, read: true, vars: variables{varConnection: plainConnection, varSignature: "x"}}, 39},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := 0
			if s := c.v.removalFor(); s != nil {
				got = len(s.Fields)
			}
			if got != c.want {
				t.Errorf("%d names removed, want %d", got, c.want)
			}
		})
	}
}

// Kong's log plugins write the fields of a request, and those of a refused one too.
func TestRefusalHidesTheProof(t *testing.T) {
	t.Parallel()
	c := configure(t, testGate(), map[string]any{"proof": proofToken, "require_inspection": "any", "tokens": []string{testToken}, "min_mode": "block"})
	for _, tc := range []struct {
		name    string
		header  []headerField
		garbage string
		want    int // names
	}{
		{"nothing there", nil, "", 0},
		{"evidence without a proof", []headerField{{"X-Wallarm-Mode", "block"}}, "", 0},
		{"a good token", []headerField{{"X-Wallarm-Token", testToken}, {"X-Wallarm-Mode", "monitoring"}}, "", 4 + 3},
		{"a token in another spelling", []headerField{{"x_wallarm_token", testToken}}, "", 4 + 3},
		{"a signature", []headerField{{"Signature", "sig1=:AA==:"}}, "", 4 + 3},
		{"what was signed", []headerField{{"Signature-Input", "sig1=()"}}, "", 4 + 3},
		{"nothing could be read", nil, "kong.nginx.get_var", 4 + 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := &sample{peer: "192.0.2.1", method: "GET", target: "/", host: "a.example", header: tc.header}
			o := (&fakeKong{vars: s.nginx(true), garbage: tc.garbage}).access(t, c)
			if !o.exited || len(o.removed) != tc.want {
				t.Errorf("exited is %v, removed %q, want %d names", o.exited, o.removed, tc.want)
			}
		})
	}
}
