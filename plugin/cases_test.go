package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// One table of requests and decisions. It runs in process over a fake Kong, and
// over the real binary and internal/pluginhost; both with $wallarm_evidence and
// without it.

const (
	testToken      = "0123456789abcdef0123456789abcdef-token"
	testOtherToken = "fedcba9876543210fedcba9876543210-other"
	testRequestID  = "00112233445566778899aabbccddeeff"
	testPeer       = "10.1.2.3"
)

type headerField struct{ name, value string }

// sample is a request as it arrives at Kong.
type sample struct {
	method, target, host string
	absolute             string // the host of an absolute-form target; nginx takes it for $host
	peer                 string
	header               []headerField // without Host
	id                   string        // nginx's; only the fake Kong can choose it
}

func (s *sample) add(name, value string) { s.header = append(s.header, headerField{name, value}) }

// set replaces a header field in place; it must be there.
func (s *sample) set(name, value string) {
	for i := range s.header {
		if s.header[i].name == name {
			s.header[i].value = value
			return
		}
	}
	panic("no header " + name)
}

func (s *sample) rename(from, to string) {
	for i := range s.header {
		if s.header[i].name == from {
			s.header[i].name = to
			return
		}
	}
	panic("no header " + from)
}

func (s *sample) remove(name string) {
	s.header = slices.DeleteFunc(s.header, func(f headerField) bool { return f.name == name })
}

// edge is an attester with its keys.
type edge struct {
	key, other, hmac, expired *evidence.Key
	inline                    string // the JWK Set of the gateway
}

func newEdge(tb testing.TB) *edge {
	tb.Helper()
	generate := func(id string, alg evidence.Algorithm) *evidence.Key {
		k, err := evidence.GenerateKey(id, alg)
		if err != nil {
			tb.Fatal(err)
		}
		return k
	}
	e := &edge{
		key:     generate("edge-1", evidence.AlgEd25519),
		other:   generate("edge-unknown", evidence.AlgEd25519),
		hmac:    generate("edge-hmac", evidence.AlgHMACSHA256),
		expired: generate("edge-old", evidence.AlgEd25519),
	}
	e.expired.Expires = time.Now().Add(-time.Hour)
	e.inline = jwks(tb, e.key, e.hmac, e.expired)
	return e
}

func jwks(tb testing.TB, keys ...*evidence.Key) string {
	tb.Helper()
	public := make([]*evidence.Key, len(keys))
	for i, k := range keys {
		public[i] = k
		if k.Alg == evidence.AlgEd25519 {
			p, err := k.Public()
			if err != nil {
				tb.Fatal(err)
			}
			public[i] = p
		}
	}
	set, err := evidence.NewKeySet(public...)
	if err != nil {
		tb.Fatal(err)
	}
	text, err := json.Marshal(set)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// message is what a healthy edge states about GET /api/x.
func message() evidence.Message {
	return evidence.Message{
		Method: "GET", Authority: "api.example.com", Target: "/api/x?a=1",
		RequestID: testRequestID, ClientIP: "203.0.113.7", Mode: "block", Application: "7",
		Node: "task/abc", Inspection: "active",
	}
}

// signed is the request that carries m, signed by key at the given time.
func signed(tb testing.TB, m evidence.Message, key *evidence.Key, at time.Time) *sample {
	tb.Helper()
	private := *key
	private.NotBefore, private.Expires = time.Time{}, time.Time{}
	signer, err := evidence.NewSigner(&private, 60*time.Second)
	if err != nil {
		tb.Fatal(err)
	}
	if err := signer.Sign(&m, at); err != nil {
		tb.Fatal(err)
	}
	s := &sample{method: m.Method, target: m.Target, host: m.Authority, peer: testPeer}
	s.add("Connection", "Signature, Signature-Input")
	s.add(evidence.HeaderRequestID, m.RequestID)
	s.add(evidence.HeaderClientIP, m.ClientIP)
	s.add(evidence.HeaderMode, m.Mode)
	s.add(evidence.HeaderApplication, m.Application)
	s.add(evidence.HeaderNode, m.Node)
	s.add(evidence.HeaderInspection, m.Inspection)
	s.add(evidence.HeaderSignatureInput, m.SignatureInput)
	s.add(evidence.HeaderSignature, m.Signature)
	return s
}

// plain is a request without evidence.
func plain(method, target string) *sample {
	return &sample{method: method, target: target, host: "api.example.com", peer: testPeer}
}

func tokenSample(token string) *sample {
	m := message()
	s := plain(m.Method, m.Target)
	s.add(evidence.HeaderRequestID, m.RequestID)
	s.add(evidence.HeaderClientIP, m.ClientIP)
	s.add(evidence.HeaderMode, m.Mode)
	s.add(evidence.HeaderApplication, m.Application)
	s.add(evidence.HeaderNode, "forged-node")
	s.add(evidence.HeaderInspection, "active")
	s.add(evidence.HeaderToken, token)
	return s
}

type gateCase struct {
	name     string
	config   map[string]any // beside jwks; nil for a key: left out
	request  func(testing.TB, *edge, time.Time) *sample
	decision decision
	reason   evidence.Reason
	trips    int // PDK calls over $wallarm_evidence; 0: not counted
}

// configFor completes the configuration of a case.
func (c *gateCase) configFor(e *edge) map[string]any {
	config := map[string]any{"jwks": e.inline}
	maps.Copy(config, c.config)
	maps.DeleteFunc(config, func(_ string, v any) bool { return v == nil })
	return config
}

// honest is a request through the edge, changed after it was signed.
func honest(change func(*sample)) func(testing.TB, *edge, time.Time) *sample {
	return func(tb testing.TB, e *edge, now time.Time) *sample {
		s := signed(tb, message(), e.key, now)
		if change != nil {
			change(s)
		}
		return s
	}
}

// stated is a request through an edge that states something else.
func stated(change func(*evidence.Message)) func(testing.TB, *edge, time.Time) *sample {
	return func(tb testing.TB, e *edge, now time.Time) *sample {
		m := message()
		change(&m)
		return signed(tb, m, e.key, now)
	}
}

func signedBy(key func(*edge) *evidence.Key, shift time.Duration) func(testing.TB, *edge, time.Time) *sample {
	return func(tb testing.TB, e *edge, now time.Time) *sample {
		return signed(tb, message(), key(e), now.Add(shift))
	}
}

func direct(method, target string, change func(*sample)) func(testing.TB, *edge, time.Time) *sample {
	return func(testing.TB, *edge, time.Time) *sample {
		s := plain(method, target)
		if change != nil {
			change(s)
		}
		return s
	}
}

func withToken(token string, change func(*sample)) func(testing.TB, *edge, time.Time) *sample {
	return func(testing.TB, *edge, time.Time) *sample {
		s := tokenSample(token)
		if change != nil {
			change(s)
		}
		return s
	}
}

func theKey(e *edge) *evidence.Key { return e.key }

var (
	tokenConfig = map[string]any{"proof": "token", "jwks": nil, "require_inspection": "any", "tokens": []any{testToken, testOtherToken}}
	healthz     = map[string]any{"exempt": []any{map[string]any{"path": "/healthz"}, map[string]any{"path": "/pub/*", "methods": []any{"GET"}}}}
)

func gateCases() []gateCase {
	cases := []gateCase{
		{name: "through the edge", request: honest(nil), decision: allow, trips: 1},
		{name: "hmac key", request: signedBy(func(e *edge) *evidence.Key { return e.hmac }, 0), decision: allow, trips: 1},
		{name: "Connection does not name the signature", request: honest(func(s *sample) { s.remove("Connection") }), decision: allow, trips: 2},
		{name: "Connection names half of it", request: honest(func(s *sample) { s.set("Connection", "signature") }), decision: allow, trips: 2},
		{name: "Connection in another case and form", request: honest(func(s *sample) { s.set("Connection", "keep-alive ,\tSIGNATURE-input,signature") }), decision: allow, trips: 2},
		{name: "Connection names evidence", request: honest(func(s *sample) { s.set("Connection", "Signature, Signature-Input, x-wallarm-mode") }), decision: allow, trips: 2},
		{name: "a token rides along", request: honest(func(s *sample) { s.add("X_Wallarm-Token", "x") }), decision: allow, trips: 2},
		{name: "Latin-1 cookie", request: honest(func(s *sample) { s.add("Cookie", "name=J\xf6rg\xff") }), decision: allow, trips: 1},
		{name: "host in another case", request: honest(func(s *sample) { s.host = "API.example.COM" }), decision: allow, trips: 1},
		{name: "host with a port", request: stated(func(m *evidence.Message) { m.Authority = "api.example.com:8443" }), decision: allow},
		{name: "IPv6 host", request: stated(func(m *evidence.Message) { m.Authority = "[2001:db8::1]:8443" }), decision: allow},
		{name: "serialized for all", config: map[string]any{"log": "all"}, request: honest(nil), decision: allow, trips: 2},

		{name: "source is allowed", config: map[string]any{"allowed_sources": []any{"192.0.2.1", "10.1.0.0/16"}}, request: honest(nil), decision: allow},
		{name: "source is not allowed", config: map[string]any{"allowed_sources": []any{"10.2.0.0/16"}}, request: honest(nil), decision: deny, reason: evidence.ReasonSourceNotAllowed},
		{name: "source comes before evidence", config: map[string]any{"allowed_sources": []any{"10.2.0.0/16"}}, request: direct("GET", "/", nil), decision: deny, reason: evidence.ReasonSourceNotAllowed},

		{name: "direct", request: direct("GET", "/api/x", nil), decision: deny, reason: evidence.ReasonMissingEvidence},
		{name: "direct HEAD", request: direct("HEAD", "/api/x", nil), decision: deny, reason: evidence.ReasonMissingEvidence},
		{name: "direct POST", request: direct("POST", "/api/x", nil), decision: deny, reason: evidence.ReasonMissingEvidence},
		{name: "one header is missing", request: honest(func(s *sample) { s.remove(evidence.HeaderNode) }), decision: deny, reason: evidence.ReasonMissingEvidence},
		{name: "empty header", request: honest(func(s *sample) { s.set(evidence.HeaderNode, "") }), decision: deny, reason: evidence.ReasonMissingEvidence},

		{name: "duplicate mode", request: honest(func(s *sample) { s.add(evidence.HeaderMode, "block") }), decision: deny, reason: evidence.ReasonMalformedEvidence},
		{name: "duplicate signature", request: honest(func(s *sample) { s.add("signature", "wallarm=:AAAA:") }), decision: deny, reason: evidence.ReasonMalformedEvidence},
		{name: "Latin-1 node", request: honest(func(s *sample) { s.set(evidence.HeaderNode, "t\xe4sk") }), decision: deny, reason: evidence.ReasonMalformedEvidence},
		{name: "two members", request: honest(func(s *sample) { s.add("Signature-Input", `x=("@method")`) }), decision: deny, reason: evidence.ReasonMalformedEvidence},
		{name: "label of another", request: honest(func(s *sample) { s.set("Signature", "sig1=:AAAA:") }), decision: deny, reason: evidence.ReasonMalformedEvidence},
		{name: "8 kB of signature input", request: honest(func(s *sample) { s.set("Signature-Input", strings.Repeat("a", 7000)) }), decision: deny, reason: evidence.ReasonMalformedEvidence},
		{name: "unknown mode", request: honest(func(s *sample) { s.set(evidence.HeaderMode, "blocking") }), decision: deny, reason: evidence.ReasonMalformedEvidence},
		{name: "raw quote in the path", request: honest(func(s *sample) { s.target = `/p"%2f..%2fadm` }), decision: deny, reason: evidence.ReasonMalformedEvidence},

		{name: "unknown key", request: signedBy(func(e *edge) *evidence.Key { return e.other }, 0), decision: deny, reason: evidence.ReasonUnknownKey},
		{name: "expired key", request: signedBy(func(e *edge) *evidence.Key { return e.expired }, 0), decision: deny, reason: evidence.ReasonKeyNotActive},
		{name: "another path", request: honest(func(s *sample) { s.target = "/api/y?a=1" }), decision: deny, reason: evidence.ReasonBadSignature},
		{name: "another query", request: honest(func(s *sample) { s.target = "/api/x?a=2" }), decision: deny, reason: evidence.ReasonBadSignature},
		{name: "another method", request: honest(func(s *sample) { s.method = "POST" }), decision: deny, reason: evidence.ReasonBadSignature},
		{name: "another host", request: honest(func(s *sample) { s.host = "other.example.com" }), decision: deny, reason: evidence.ReasonBadSignature},
		{name: "another mode", request: honest(func(s *sample) { s.set(evidence.HeaderMode, "monitoring") }), decision: deny, reason: evidence.ReasonBadSignature},
		{name: "another client", request: honest(func(s *sample) { s.set(evidence.HeaderClientIP, "203.0.113.8") }), decision: deny, reason: evidence.ReasonBadSignature},
		{name: "stale", request: signedBy(theKey, -10*time.Minute), decision: deny, reason: evidence.ReasonStaleEvidence},
		{name: "older than max_age", config: map[string]any{"max_age": 10, "clock_skew": 0}, request: signedBy(theKey, -20*time.Second), decision: deny, reason: evidence.ReasonStaleEvidence},
		{name: "within max_age", config: map[string]any{"max_age": 50}, request: signedBy(theKey, -40*time.Second), decision: allow},
		{name: "from the future", request: signedBy(theKey, 10*time.Minute), decision: deny, reason: evidence.ReasonFutureEvidence},
		{name: "within the skew", config: map[string]any{"clock_skew": 60}, request: signedBy(theKey, 30*time.Second), decision: allow},

		{name: "node degraded", request: stated(func(m *evidence.Message) { m.Inspection = "degraded" }), decision: deny, reason: evidence.ReasonNotInspected},
		{name: "node unknown", request: stated(func(m *evidence.Message) { m.Inspection = "unknown" }), decision: deny, reason: evidence.ReasonNotInspected},
		{name: "any inspection", config: map[string]any{"require_inspection": "any"}, request: stated(func(m *evidence.Message) { m.Inspection = "stale" }), decision: allow},
		{name: "mode off", request: stated(func(m *evidence.Message) { m.Mode = "off" }), decision: deny, reason: evidence.ReasonModeNotAllowed},
		{name: "mode below min_mode", config: map[string]any{"min_mode": "block"}, request: stated(func(m *evidence.Message) { m.Mode = "safe_blocking" }), decision: deny, reason: evidence.ReasonModeNotAllowed},
		{name: "mode off is allowed", config: map[string]any{"min_mode": "off"}, request: stated(func(m *evidence.Message) { m.Mode = "off" }), decision: allow},
		{name: "application", config: map[string]any{"applications": []any{-1, 7}}, request: honest(nil), decision: allow},
		{name: "another application", config: map[string]any{"applications": []any{8}}, request: honest(nil), decision: deny, reason: evidence.ReasonApplicationNotAllowed},
		{name: "upgrade", request: honest(func(s *sample) { s.add("Upgrade", "websocket") }), decision: deny, reason: evidence.ReasonUpgradeNotAllowed},
		{name: "upgrade in Connection only", request: honest(func(s *sample) { s.set("Connection", "Upgrade, Signature, Signature-Input") }), decision: deny, reason: evidence.ReasonUpgradeNotAllowed},
		{name: "upgrade is allowed", config: map[string]any{"allow_upgrade": true}, request: honest(func(s *sample) { s.set("Connection", "Upgrade, Signature, Signature-Input") }), decision: allow},

		{name: "token", config: tokenConfig, request: withToken(testToken, nil), decision: allow, trips: 2},
		{name: "the other token", config: tokenConfig, request: withToken(testOtherToken, nil), decision: allow},
		{name: "token without an attester", config: tokenConfig, request: withToken(testToken, func(s *sample) {
			s.remove(evidence.HeaderNode)
			s.remove(evidence.HeaderInspection)
		}), decision: allow},
		{name: "token in another spelling", config: tokenConfig, request: withToken(testToken, func(s *sample) { s.rename(evidence.HeaderToken, "x_wallarm-TOKEN") }), decision: allow},
		{name: "wrong token", config: tokenConfig, request: withToken(testToken+"x", nil), decision: deny, reason: evidence.ReasonTokenMismatch},
		{name: "no token", config: tokenConfig, request: withToken("", nil), decision: deny, reason: evidence.ReasonMissingEvidence},
		{name: "two tokens", config: tokenConfig, request: withToken(testToken, func(s *sample) { s.add("X_Wallarm_Token", testToken) }), decision: deny, reason: evidence.ReasonTokenMismatch},
		{name: "token and mode off", config: tokenConfig, request: withToken(testToken, func(s *sample) { s.set(evidence.HeaderMode, "off") }), decision: deny, reason: evidence.ReasonModeNotAllowed},
		{name: "signature where a token is wanted", config: tokenConfig, request: honest(nil), decision: deny, reason: evidence.ReasonMissingEvidence},
		{name: "token where a signature is wanted", request: withToken(testToken, nil), decision: deny, reason: evidence.ReasonMissingEvidence},

		{name: "exempt", config: healthz, request: direct("GET", "/healthz", nil), decision: exempt, trips: 3},
		{name: "exempt with a query", config: healthz, request: direct("HEAD", "/healthz?x=/../", nil), decision: exempt},
		{name: "exempt prefix", config: healthz, request: direct("GET", "/pub/a/b.css", nil), decision: exempt},
		{name: "exempt strips what it did not verify", config: healthz, request: direct("GET", "/healthz", func(s *sample) {
			s.add("X_Wallarm-Mode", "block")
			s.add("X-Wallarm-Token", testToken)
		}), decision: exempt, trips: 3},
		{name: "exempt source", config: map[string]any{"exempt": []any{map[string]any{"path": "/healthz", "sources": []any{"10.1.2.3"}, "hosts": []any{"api.example.com"}}}}, request: direct("GET", "/healthz", nil), decision: exempt},
		{name: "misconfigured before exempt", config: map[string]any{"jwks": "{}", "exempt": healthz["exempt"]}, request: direct("GET", "/healthz", nil), decision: deny, reason: evidence.ReasonMisconfigured},

		{name: "report: direct", config: map[string]any{"mode": "report"}, request: direct("GET", "/api/x", nil), decision: report, reason: evidence.ReasonMissingEvidence},
		{name: "report: forged", config: map[string]any{"mode": "report"}, request: honest(func(s *sample) { s.target = "/api/y" }), decision: report, reason: evidence.ReasonBadSignature},
		{name: "report: honest", config: map[string]any{"mode": "report"}, request: honest(nil), decision: allow, trips: 1},
		{name: "report: misconfigured", config: map[string]any{"mode": "report", "jwks": "{}"}, request: honest(nil), decision: report, reason: evidence.ReasonMisconfigured},

		{name: "absolute-form target of another host", request: honest(func(s *sample) { s.absolute = "evil.example.com" }), decision: deny, reason: evidence.ReasonMalformedEvidence},
		{name: "absolute-form target of the same host", request: honest(func(s *sample) { s.absolute = "api.example.com" }), decision: allow},
		{name: "absolute-form target, by token", config: tokenConfig, request: withToken(testToken, func(s *sample) { s.absolute = "evil.example.com" }), decision: deny, reason: evidence.ReasonMalformedEvidence},
		{name: "absolute-form target is not exempt", config: healthz, request: direct("GET", "/healthz", func(s *sample) { s.absolute = "evil.example.com" }), decision: deny, reason: evidence.ReasonMissingEvidence},

		{name: "another status", config: map[string]any{"deny_status": 404}, request: direct("GET", "/", nil), decision: deny, reason: evidence.ReasonMissingEvidence},
		{name: "log off", config: map[string]any{"log": "off"}, request: direct("GET", "/", nil), decision: deny, reason: evidence.ReasonMissingEvidence, trips: 2},
		{name: "replay off", config: map[string]any{"replay": map[string]any{"store": "off"}}, request: honest(nil), decision: allow, trips: 1},
	}
	for _, target := range []string{
		"/healthz/", "/healthz/../admin", "/healthz%2f..", "/healthz/;/..;/admin", "/healthz;x", "//healthz", "/./healthz",
		"/healthz%00", "/healthz/.", "/Healthz", "/pub", "/pub/", "/pub/../admin", "/pub//x", "/pub/%2e%2e/admin", "/pub/a/..", "/pub/a\xff",
	} {
		want := evidence.ReasonMissingEvidence
		cases = append(cases, gateCase{name: fmt.Sprintf("not exempt: %q", target), config: healthz,
			request: direct("GET", target, nil), decision: deny, reason: want})
	}
	for name, change := range map[string]func(*sample){
		"method":       func(s *sample) { s.method = "POST" },
		"upgrade":      func(s *sample) { s.add("Upgrade", "websocket") },
		"upgrade only": func(s *sample) { s.add("Connection", "upgrade") },
	} {
		cases = append(cases, gateCase{name: "not exempt: " + name, config: healthz,
			request: direct("GET", "/healthz", change), decision: deny, reason: evidence.ReasonMissingEvidence})
	}
	cases = append(cases,
		gateCase{name: "not exempt: another source", config: map[string]any{"exempt": []any{map[string]any{"path": "/healthz", "sources": []any{"10.1.2.4"}}}},
			request: direct("GET", "/healthz", nil), decision: deny, reason: evidence.ReasonMissingEvidence},
		gateCase{name: "not exempt: another host", config: map[string]any{"exempt": []any{map[string]any{"path": "/healthz", "hosts": []any{"health.example.com"}}}},
			request: direct("GET", "/healthz", nil), decision: deny, reason: evidence.ReasonMissingEvidence},
	)
	// Evidence in every spelling of its names is the same evidence to nginx.
	for _, name := range evidence.Headers()[:8] {
		for _, spelling := range spellings(name)[1:] {
			cases = append(cases, gateCase{name: "spelled " + spelling,
				request: honest(func(s *sample) { s.rename(name, spelling) }), decision: allow})
		}
	}
	return cases
}
