package evidence

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	ed, mac := newKey(t, "ed", AlgEd25519), newKey(t, "mac", AlgHMACSHA256)
	notYet := newKey(t, "not-yet", AlgEd25519)
	notYet.NotBefore = noon.Add(5*time.Second + 1)
	gone := newKey(t, "gone", AlgEd25519)
	gone.Expires = noon.Add(-5 * time.Second)
	edge := newKey(t, "edge", AlgEd25519)
	edge.NotBefore, edge.Expires = noon.Add(5*time.Second), noon.Add(-5*time.Second+1)
	stranger := newKey(t, "stranger", AlgEd25519)
	impostor := newKey(t, "ed", AlgEd25519)
	keys := keySet(t, ed, mac, notYet, gone, edge)

	// A change is made to the message before it is signed, to the request after.
	type change struct {
		key     *Key
		when    time.Duration // signed at noon plus this
		message func(*Message)
		request func(*Request)
		policy  func(*Policy)
	}
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	tests := []struct {
		name string
		change
		want Reason
	}{
		{"ed25519", change{}, ""},
		{"hmac", change{key: mac}, ""},
		{"authority in capitals", change{request: func(r *Request) { r.Authority = "API.Example.COM" }}, ""},
		{"IPv6 everything", change{message: func(m *Message) { m.Authority, m.ClientIP = "[2001:db8::1]:8443", "2001:db8::7" }}, ""},
		{"no application", change{message: func(m *Message) { m.Application = "-1" }}, ""},
		{"source allowed", change{policy: func(p *Policy) { p.AllowedSources = prefix("10.0.0.0/16") }}, ""},
		{"mapped source allowed", change{
			policy:  func(p *Policy) { p.AllowedSources = prefix("10.0.0.0/16") },
			request: func(r *Request) { r.Source = netip.MustParseAddr("::ffff:10.0.1.5") },
		}, ""},
		{"source refused", change{policy: func(p *Policy) { p.AllowedSources = prefix("10.9.0.0/16") }}, ReasonSourceNotAllowed},
		{"source unreadable", change{
			policy:  func(p *Policy) { p.AllowedSources = prefix("0.0.0.0/0") },
			request: func(r *Request) { r.Source = netip.Addr{} },
		}, ReasonSourceNotAllowed},

		{"no request id", change{request: func(r *Request) { r.RequestID = "" }}, ReasonMissingEvidence},
		{"no client address", change{request: func(r *Request) { r.ClientIP = "" }}, ReasonMissingEvidence},
		{"no mode", change{request: func(r *Request) { r.Mode = "" }}, ReasonMissingEvidence},
		{"no application header", change{request: func(r *Request) { r.Application = "" }}, ReasonMissingEvidence},
		{"no node", change{request: func(r *Request) { r.Node = "" }}, ReasonMissingEvidence},
		{"no inspection", change{request: func(r *Request) { r.Inspection = "" }}, ReasonMissingEvidence},
		{"no signature input", change{request: func(r *Request) { r.SignatureInput = "" }}, ReasonMissingEvidence},
		{"no signature", change{request: func(r *Request) { r.Signature = "" }}, ReasonMissingEvidence},

		{"joined duplicates", change{request: func(r *Request) { r.Mode += ", block" }}, ReasonMalformedEvidence},
		{"space around a value", change{request: func(r *Request) { r.Mode = " block" }}, ReasonMalformedEvidence},
		{"mode in capitals", change{request: func(r *Request) { r.Mode = "Block" }}, ReasonMalformedEvidence},
		{"request id in capitals", change{request: func(r *Request) { r.RequestID = strings.ToUpper(r.RequestID) }}, ReasonMalformedEvidence},
		{"request id too short", change{request: func(r *Request) { r.RequestID = r.RequestID[1:] }}, ReasonMalformedEvidence},
		{"client address with a zone", change{request: func(r *Request) { r.ClientIP = "fe80::1%eth0" }}, ReasonMalformedEvidence},
		{"application zero", change{request: func(r *Request) { r.Application = "0" }}, ReasonMalformedEvidence},
		{"application -2", change{request: func(r *Request) { r.Application = "-2" }}, ReasonMalformedEvidence},
		{"application with a leading zero", change{request: func(r *Request) { r.Application = "017" }}, ReasonMalformedEvidence},
		{"application too large", change{request: func(r *Request) { r.Application = "2147483648" }}, ReasonMalformedEvidence},
		{"node too long", change{request: func(r *Request) { r.Node = strings.Repeat("n", 129) }}, ReasonMalformedEvidence},
		{"node with a space", change{request: func(r *Request) { r.Node = "a b" }}, ReasonMalformedEvidence},
		{"empty host", change{request: func(r *Request) { r.Authority = "" }}, ReasonMalformedEvidence},
		{"host with a comma", change{request: func(r *Request) { r.Authority = "a,b" }}, ReasonMalformedEvidence},
		{"absolute target", change{request: func(r *Request) { r.Target = "http://api.example.com/" }}, ReasonMalformedEvidence},
		{"line feed in the target", change{request: func(r *Request) { r.Target = "/\n" }}, ReasonMalformedEvidence},
		{"fragment in the target", change{request: func(r *Request) { r.Target = "/a#?q=1" }}, ReasonMalformedEvidence},
		{"method with a space", change{request: func(r *Request) { r.Method = "GET " }}, ReasonMalformedEvidence},
		{"inspection unheard of", change{request: func(r *Request) { r.Inspection = "fine" }}, ReasonMalformedEvidence},
		{"signature too long", change{request: func(r *Request) { r.Signature += strings.Repeat(" ", 256) }}, ReasonMalformedEvidence},
		{"signature input too long", change{request: func(r *Request) { r.SignatureInput += strings.Repeat(" ", 1024) }}, ReasonMalformedEvidence},
		{"hmac signature under ed25519", change{request: func(r *Request) { r.Signature = "wallarm=:" + strings.Repeat("A", 43) + "=:" }}, ReasonMalformedEvidence},
		{"alg of the other type", change{request: func(r *Request) {
			r.SignatureInput = strings.Replace(r.SignatureInput, `alg="ed25519"`, `alg="hmac-sha256"`, 1)
			r.Signature = "wallarm=:" + strings.Repeat("A", 43) + "=:"
		}}, ReasonMalformedEvidence},

		{"unknown key", change{key: stranger}, ReasonUnknownKey},
		{"key not active yet", change{key: notYet}, ReasonKeyNotActive},
		{"key expired", change{key: gone}, ReasonKeyNotActive},
		{"key active within the skew", change{key: edge}, ""},
		{"another key under a known id", change{key: impostor}, ReasonBadSignature},
		{"another method", change{request: func(r *Request) { r.Method = "PUT" }}, ReasonBadSignature},
		{"another host", change{request: func(r *Request) { r.Authority = "admin.example.com" }}, ReasonBadSignature},
		{"another target", change{request: func(r *Request) { r.Target = "/orders/18" }}, ReasonBadSignature},
		{"another mode", change{request: func(r *Request) { r.Mode = "monitoring" }}, ReasonBadSignature},

		{"oldest that is accepted", change{when: -35 * time.Second}, ""},
		{"too old", change{when: -36 * time.Second}, ReasonStaleEvidence},
		{"max_age below the lifetime", change{when: -16 * time.Second, policy: func(p *Policy) { p.MaxAge = 10 * time.Second }}, ReasonStaleEvidence},
		{"expires below max_age", change{when: -36 * time.Second, policy: func(p *Policy) { p.MaxAge = MaxAgeLimit }}, ReasonStaleEvidence},
		{"youngest that is accepted", change{when: 5 * time.Second}, ""},
		{"from the future", change{when: 6 * time.Second}, ReasonFutureEvidence},

		{"stale ruleset", change{message: func(m *Message) { m.Inspection = "stale" }}, ReasonNotInspected},
		{"degraded", change{message: func(m *Message) { m.Inspection = "degraded" }}, ReasonNotInspected},
		{"unknown", change{message: func(m *Message) { m.Inspection = "unknown" }}, ReasonNotInspected},
		{"unknown under any", change{message: func(m *Message) { m.Inspection = "unknown" }, policy: func(p *Policy) { p.RequireActive = false }}, ""},
		{"mode off", change{message: func(m *Message) { m.Mode = "off" }}, ReasonModeNotAllowed},
		{"mode below", change{message: func(m *Message) { m.Mode = "safe_blocking" }, policy: func(p *Policy) { p.MinMode = ModeBlock }}, ReasonModeNotAllowed},
		{"application allowed", change{policy: func(p *Policy) { p.Applications = []int32{3, 17} }}, ""},
		{"application refused", change{policy: func(p *Policy) { p.Applications = []int32{3} }}, ReasonApplicationNotAllowed},
		{"upgrade refused", change{request: func(r *Request) { r.Upgrade = true }}, ReasonUpgradeNotAllowed},
		{"upgrade allowed", change{request: func(r *Request) { r.Upgrade = true }, policy: func(p *Policy) { p.AllowUpgrade = true }}, ""},

		{"mode equal to the weakest", change{message: func(m *Message) { m.Mode = "monitoring" }}, ""},
		{"smallest policy", change{policy: func(p *Policy) { p.MaxAge, p.ClockSkew = time.Second, 0 }}, ""},
		{"largest policy", change{policy: func(p *Policy) { p.MaxAge, p.ClockSkew, p.MinMode = MaxAgeLimit, SkewLimit, ModeBlock }}, ""},
		{"max_age out of bounds", change{policy: func(p *Policy) { p.MaxAge = MaxAgeLimit + time.Second }}, ReasonMisconfigured},
		{"no max_age", change{policy: func(p *Policy) { p.MaxAge = 0 }}, ReasonMisconfigured},
		{"clock_skew out of bounds", change{policy: func(p *Policy) { p.ClockSkew = SkewLimit + 1 }}, ReasonMisconfigured},
		{"clock_skew negative", change{policy: func(p *Policy) { p.ClockSkew = -1 }}, ReasonMisconfigured},
		{"min_mode out of bounds", change{policy: func(p *Policy) { p.MinMode = 4 }}, ReasonMisconfigured},
		{"mapped prefix", change{policy: func(p *Policy) { p.AllowedSources = prefix("::ffff:10.0.0.0/104") }}, ReasonMisconfigured},
		// The order: the first of two reasons is the one that is told.
		{"source before missing", change{
			policy:  func(p *Policy) { p.AllowedSources = prefix("10.9.0.0/16") },
			request: func(r *Request) { r.Mode = "" },
		}, ReasonSourceNotAllowed},
		{"missing before malformed", change{request: func(r *Request) { r.Mode, r.Node = "", "a b" }}, ReasonMissingEvidence},
		{"malformed before unknown key", change{key: stranger, request: func(r *Request) { r.Node = "a b" }}, ReasonMalformedEvidence},
		{"key not active before bad signature", change{key: gone, request: func(r *Request) { r.Target = "/" }}, ReasonKeyNotActive},
		{"bad signature before stale", change{when: -time.Hour, request: func(r *Request) { r.Target = "/" }}, ReasonBadSignature},
		{"stale before not inspected", change{when: -time.Hour, message: func(m *Message) { m.Inspection = "degraded" }}, ReasonStaleEvidence},
		{"not inspected before mode", change{message: func(m *Message) { m.Inspection, m.Mode = "degraded", "off" }}, ReasonNotInspected},
		{"mode before application", change{
			message: func(m *Message) { m.Mode = "off" },
			policy:  func(p *Policy) { p.Applications = []int32{3} },
		}, ReasonModeNotAllowed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			key := tt.key
			if key == nil {
				key = ed
			}
			m := honest()
			if tt.message != nil {
				tt.message(&m)
			}
			r := received(signed(t, key, m, noon.Add(tt.when)))
			if tt.request != nil {
				tt.request(r)
			}
			v := verifier(keys, noon)
			v.Replay = NewMemoryStore(10)
			if tt.policy != nil {
				tt.policy(&v.Policy)
			}
			a, reason := v.Verify(r)
			if reason != tt.want {
				t.Fatalf("reason %q (%s), want %q", reason, a.Detail, tt.want)
			}
			if reason == "" && (a.KeyID != key.ID || a.RequestID != m.RequestID || a.Node != m.Node || a.Mode.String() != m.Mode) {
				t.Errorf("attestation %+v does not say what was signed", a)
			}
			if n := v.Replay.(*MemoryStore).Len(); (n == 1) != (reason == "") {
				t.Errorf("%d nonces remembered after %q: only an accepted request may enter the store", n, reason)
			}
		})
	}
}

func TestVerifyReplay(t *testing.T) {
	t.Parallel()
	key := newKey(t, "k", AlgEd25519)
	m := signed(t, key, honest(), noon)
	v := verifier(keySet(t, key), noon)
	v.Replay = NewMemoryStore(1)

	first := received(m)
	if a, reason := v.Verify(first); reason != "" {
		t.Fatalf("first: %q %s", reason, a.Detail)
	}
	if _, reason := v.Verify(first); reason != "" {
		t.Errorf("re-run of the same request: %q", reason)
	}
	second := received(m)
	second.ID = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
	if _, reason := v.Verify(second); reason != ReasonReplayed {
		t.Errorf("same nonce, another request: %q", reason)
	}
	if _, reason := v.Verify(received(signed(t, key, honest(), noon))); reason != ReasonReplayStoreFull {
		t.Errorf("store full: %q", reason)
	}
	nameless := received(signed(t, key, honest(), noon))
	nameless.ID = ""
	if _, reason := v.Verify(nameless); reason != ReasonInternalError {
		t.Errorf("request without an id: %q", reason)
	}
	v.Replay = brokenStore{}
	a, reason := v.Verify(received(signed(t, key, honest(), noon)))
	if reason != ReasonReplayStoreError || a.Detail != "down" {
		t.Errorf("store down: %q %q", reason, a.Detail)
	}
	v.Replay = nil
	if _, reason := v.Verify(second); reason != "" {
		t.Errorf("replay off: %q", reason)
	}
}

// What was created before the store began to remember may have been used.
func TestVerifySince(t *testing.T) {
	t.Parallel()
	key := newKey(t, "k", AlgEd25519)
	v := verifier(keySet(t, key), noon)
	for _, tc := range []struct {
		name    string
		replay  ReplayStore
		created time.Time
		want    Reason
	}{
		{"before", NewMemoryStore(10), noon.Add(-time.Second), ReasonStaleEvidence},
		{"at", NewMemoryStore(10), noon, ""},
		{"after", NewMemoryStore(10), noon.Add(time.Second), ""},
		{"replay off", nil, noon.Add(-time.Second), ""},
	} {
		v.Replay, v.Since = tc.replay, noon
		if a, reason := v.Verify(received(signed(t, key, honest(), tc.created))); reason != tc.want || (reason != "") != (a.Detail != "") {
			t.Errorf("%s: %q %q, want %q", tc.name, reason, a.Detail, tc.want)
		}
	}
}

type brokenStore struct{}

func (brokenStore) Remember(Nonce, string, time.Time, time.Time) error { return errors.New("down") }

func TestVerifyToken(t *testing.T) {
	t.Parallel()
	one, two := strings.Repeat("a", 32), strings.Repeat("b", 40)
	tokens, err := NewTokenSet(one, two)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		request func(*Request)
		want    Reason
	}{
		{"first", func(r *Request) { r.Token = one }, ""},
		{"second", func(r *Request) { r.Token = two }, ""},
		{"none", func(*Request) {}, ReasonMissingEvidence},
		{"wrong", func(r *Request) { r.Token = strings.Repeat("c", 32) }, ReasonTokenMismatch},
		{"a prefix", func(r *Request) { r.Token = one[:31] }, ReasonTokenMismatch},
		{"joined duplicates", func(r *Request) { r.Token = "x, " + one }, ReasonTokenMismatch},
		{"right one among others", func(r *Request) { r.Token = one + ", " + two }, ReasonTokenMismatch},
		{"huge", func(r *Request) { r.Token = strings.Repeat("a", 8192) }, ReasonTokenMismatch},
		{"no request id", func(r *Request) { r.Token, r.RequestID = one, "" }, ReasonMissingEvidence},
		{"no client address", func(r *Request) { r.Token, r.ClientIP = one, "" }, ReasonMissingEvidence},
		{"no mode", func(r *Request) { r.Token, r.Mode = one, "" }, ReasonMissingEvidence},
		{"no application", func(r *Request) { r.Token, r.Application = one, "" }, ReasonMissingEvidence},
		{"bad mode", func(r *Request) { r.Token, r.Mode = one, "on" }, ReasonMalformedEvidence},
		{"mode off", func(r *Request) { r.Token, r.Mode = one, "off" }, ReasonModeNotAllowed},
		{"upgrade", func(r *Request) { r.Token, r.Upgrade = one, true }, ReasonUpgradeNotAllowed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := &Verifier{Policy: defaultPolicy(), Tokens: tokens, Now: at(noon)}
			v.Policy.RequireActive = false
			m := honest()
			m.Node, m.Inspection = "", ""
			r := received(m)
			tt.request(r)
			if a, reason := v.Verify(r); reason != tt.want {
				t.Errorf("reason %q (%s), want %q", reason, a.Detail, tt.want)
			}
		})
	}
	t.Run("cannot prove inspection", func(t *testing.T) {
		t.Parallel()
		v := &Verifier{Policy: defaultPolicy(), Tokens: tokens, Now: at(noon)}
		r := received(honest())
		r.Token = one
		if _, reason := v.Verify(r); reason != ReasonMisconfigured {
			t.Errorf("reason %q", reason)
		}
	})
}

func TestTokenSetBounds(t *testing.T) {
	t.Parallel()
	good := strings.Repeat("a", 32)
	for name, tokens := range map[string][]string{
		"none": nil, "five": {good, good, good, good, good}, "empty": {""}, "short": {good[1:]},
		"long": {strings.Repeat("a", 257)}, "space": {good + " a"}, "comma": {good + ",a"}, "byte": {good + "\xff"}, "space first": {" " + good},
	} {
		if _, err := NewTokenSet(tokens...); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), good) {
			t.Errorf("%s: the error holds the token: %v", name, err)
		}
	}
	longest := strings.Repeat("!~", 128)
	set, err := NewTokenSet(good, longest, good+"b", good+"c")
	if err != nil {
		t.Fatal(err)
	}
	if !set.Match(good) || !set.Match(longest) || !set.Match(good+"c") || set.Match(good+"d") || set.Match("") {
		t.Error("a set of four does not match exactly its tokens")
	}
	if _, err := NewTokenSet(good, ""); err == nil || !strings.HasPrefix(err.Error(), "token 2 ") {
		t.Errorf("the second of two is bad: %v", err)
	}
	if s := fmt.Sprintf("%+v %#v", set, set); strings.Contains(s, good) {
		t.Error("a token set prints a token")
	}
}

func TestVerifierWithoutParts(t *testing.T) {
	t.Parallel()
	key := newKey(t, "k", AlgEd25519)
	r := received(signed(t, key, honest(), noon))
	full := verifier(keySet(t, key), noon)
	calls := 0
	for name, v := range map[string]*Verifier{
		"zero":    {},
		"no keys": {Policy: defaultPolicy(), Now: at(noon)},
		"nil set": {Policy: defaultPolicy(), Now: at(noon), Keys: func() *KeySet { return nil }},
		"set taken away": {Policy: defaultPolicy(), Now: at(noon), Keys: func() *KeySet {
			calls++
			if calls == 1 {
				return full.Keys()
			}
			return nil
		}},
		"no clock": {Policy: defaultPolicy(), Keys: full.Keys},
	} {
		if _, reason := v.Verify(r); reason != ReasonMisconfigured {
			t.Errorf("%s: reason %q", name, reason)
		}
	}
}

func TestReasonsAreClosed(t *testing.T) {
	t.Parallel()
	seen := make(map[Reason]bool)
	for _, r := range Reasons() {
		if r == "" || seen[r] {
			t.Errorf("reason %q is empty or stands twice", r)
		}
		seen[r] = true
	}
	if len(seen) != 18 {
		t.Errorf("%d reasons, the contract has 18", len(seen))
	}
}

// The limits are part of the contract: schema, chart and documentation name them.
func TestLimits(t *testing.T) {
	t.Parallel()
	if MaxAgeLimit != 300*time.Second || SkewLimit != time.Minute || NoApplication != -1 {
		t.Errorf("the largest max_age is %v, the largest clock_skew %v, no application %d", MaxAgeLimit, SkewLimit, NoApplication)
	}
}

// The bounds of time are exact: a nanosecond more is too much.
func TestVerifyNanoseconds(t *testing.T) {
	t.Parallel()
	key := newKey(t, "k1", AlgHMACSHA256)
	m := signed(t, key, honest(), noon)
	for when, want := range map[time.Duration]Reason{
		-5*time.Second - 1: ReasonFutureEvidence, -5 * time.Second: "",
		35 * time.Second: "", 35*time.Second + 1: ReasonStaleEvidence,
	} {
		for _, maxAge := range []time.Duration{30 * time.Second, MaxAgeLimit} { // its end, then that of the evidence itself
			v := verifier(keySet(t, key), noon.Add(when))
			v.Policy.MaxAge = maxAge
			if _, got := v.Verify(received(m)); got != want {
				t.Errorf("%v later, max_age %v: %q, want %q", when, maxAge, got, want)
			}
		}
	}
}

// The detail of a refusal names the header that is missing, so that an operator
// sees which side did not state it, and none that the proof does not need.
func TestMissingIsNamed(t *testing.T) {
	t.Parallel()
	key := newKey(t, "k", AlgEd25519)
	tokens, err := NewTokenSet(strings.Repeat("t", 32))
	if err != nil {
		t.Fatal(err)
	}
	bySignature, byToken := verifier(keySet(t, key), noon), verifier(nil, noon)
	byToken.Tokens, byToken.Policy.RequireActive = tokens, false
	statement := []string{HeaderRequestID, HeaderClientIP, HeaderMode, HeaderApplication}
	for v, names := range map[*Verifier][]string{
		bySignature: append(slices.Clone(statement), HeaderNode, HeaderInspection, HeaderSignatureInput, HeaderSignature),
		byToken:     append(slices.Clone(statement), HeaderToken),
	} {
		for i, name := range names {
			r := received(signed(t, key, honest(), noon))
			fields := []*string{&r.RequestID, &r.ClientIP, &r.Mode, &r.Application, &r.Node, &r.Inspection, &r.SignatureInput, &r.Signature}
			if v == byToken {
				r.Token = strings.Repeat("t", 32)
				r.Node, r.Inspection, r.SignatureInput, r.Signature = "", "", "", ""
				fields = append(fields[:4], &r.Token)
			}
			*fields[i] = ""
			if a, reason := v.Verify(r); reason != ReasonMissingEvidence || a.Detail != name+" is missing" {
				t.Errorf("without %s: %q %q", name, reason, a.Detail)
			}
		}
	}
}
