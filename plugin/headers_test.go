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
