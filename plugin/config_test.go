package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func testGate() *gate { return newGate(time.Now) }

func TestMisconfigured(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	long := strings.Repeat("s3cret", 60)
	private, err := json.Marshal(map[string]any{"keys": []any{map[string]any{"kty": "oct", "kid": "a", "k": "c2hvcnQ"}}})
	if err != nil {
		t.Fatal(err)
	}
	token := func(change map[string]any) map[string]any {
		c := maps.Clone(tokenConfig)
		maps.Copy(c, change)
		return c
	}
	for _, c := range []struct {
		name   string
		config map[string]any
		want   string // in the problem
	}{
		{"no keys", map[string]any{"jwks": nil}, "config.jwks or config.jwks_file is wanted"},
		{"both kinds of keys", map[string]any{"jwks_file": "/x"}, "exactly one of them"},
		{"empty vault reference", map[string]any{"jwks": ""}, "config.jwks is empty: want a JWK Set (does the vault reference exist?)"},
		{"unresolved reference", map[string]any{"jwks": "{vault://env/x}"}, "config.jwks is no usable JWK Set"},
		{"jwks is no set", map[string]any{"jwks": "{}"}, "config.jwks is no usable JWK Set"},
		{"jwks without keys", map[string]any{"jwks": `{"keys":[]}`}, "config.jwks is no usable JWK Set"},
		{"short shared key", map[string]any{"jwks": string(private)}, "config.jwks is no usable JWK Set"},
		{"jwks is an object", map[string]any{"jwks": map[string]any{}}, "config.jwks is not a string"},
		{"relative file", map[string]any{"jwks": nil, "jwks_file": "keys.json"}, `config.jwks_file is "keys.json": want an absolute path`},
		{"tokens for signatures", map[string]any{"tokens": []any{testToken}}, "config.tokens is set, but proof is signature"},
		{"mode", map[string]any{"mode": "audit"}, `config.mode is "audit": want one of enforce, report`},
		{"mode is a number", map[string]any{"mode": 1}, `config.mode is "1": want one of enforce, report`},
		{"proof", map[string]any{"proof": "none"}, "config.proof is"},
		{"max_age 0", map[string]any{"max_age": 0}, `config.max_age is "0": want an integer from 1 to 300`},
		{"max_age 301", map[string]any{"max_age": 301}, "config.max_age is"},
		{"max_age 1.5", map[string]any{"max_age": 1.5}, "config.max_age is"},
		{"max_age text", map[string]any{"max_age": "30"}, "config.max_age is"},
		{"clock_skew", map[string]any{"clock_skew": -1}, "config.clock_skew is"},
		{"min_mode", map[string]any{"min_mode": "on"}, "config.min_mode is"},
		{"require_inspection", map[string]any{"require_inspection": true}, "config.require_inspection is"},
		{"application 0", map[string]any{"applications": []any{1, 0}}, `config.applications[2] is "0": want -1, or an integer from 1 to 2147483647`},
		{"application -2", map[string]any{"applications": []any{-2}}, "config.applications[1] is"},
		{"applications", map[string]any{"applications": 1}, "config.applications is not a list"},
		{"source", map[string]any{"allowed_sources": []any{"10.0.0.0/33"}}, "config.allowed_sources[1] is \"10.0.0.0/33\": want an IP address or a CIDR"},
		{"source host bits", map[string]any{"allowed_sources": []any{"10.0.0.1/8"}}, "10.0.0.0/8 is the network"},
		{"source mapped", map[string]any{"allowed_sources": []any{"::ffff:10.0.0.0/104"}}, "want the IPv4 form"},
		{"source empty", map[string]any{"allowed_sources": []any{""}}, "config.allowed_sources[1] is"},
		{"source zone", map[string]any{"allowed_sources": []any{"fe80::1%eth0"}}, "config.allowed_sources[1] is"},
		{"allow_upgrade", map[string]any{"allow_upgrade": "no"}, "config.allow_upgrade is"},
		{"exempt all", map[string]any{"exempt": []any{map[string]any{"path": "/*"}}}, "would exempt everything"},
		{"exempt dots", map[string]any{"exempt": []any{map[string]any{"path": "/a/.."}}}, "config.exempt[1] has path"},
		{"exempt without path", map[string]any{"exempt": []any{map[string]any{}}}, "config.exempt[1] has path"},
		{"exempt method", map[string]any{"exempt": []any{map[string]any{"path": "/a", "methods": []any{"POST"}}}}, "want GET, HEAD or both"},
		{"exempt host", map[string]any{"exempt": []any{map[string]any{"path": "/a", "hosts": []any{"A:80"}}}}, "config.exempt[1].hosts has"},
		{"exempt source", map[string]any{"exempt": []any{map[string]any{"path": "/a", "sources": []any{"x"}}}}, "config.exempt[1].sources[1] is"},
		{"exempt null", map[string]any{"exempt": []any{nil}}, "config.exempt[1] is not an object"},
		{"replay store", map[string]any{"replay": map[string]any{"store": "etcd"}}, "config.replay.store is \"etcd\": want one of memory, redis, off"},
		{"replay capacity", map[string]any{"replay": map[string]any{"capacity": 1}}, "config.replay.capacity is"},
		{"replay", map[string]any{"replay": "memory"}, "config.replay is not an object"},
		{"deny_status 200", map[string]any{"deny_status": 200}, "config.deny_status is"},
		{"deny_status 444", map[string]any{"deny_status": 444}, "config.deny_status is 444, at which nginx closes"},
		{"deny_status 499", map[string]any{"deny_status": 499}, "config.deny_status is 499, at which nginx closes"},
		{"log", map[string]any{"log": "yes"}, "config.log is"},
		{"token: inspection", token(map[string]any{"require_inspection": nil}), "config.require_inspection is active, which a token cannot prove: want any"},
		{"token: none", token(map[string]any{"tokens": nil}), "config.tokens is empty"},
		{"token: keys", token(map[string]any{"jwks": e.inline}), "config.proof is token, but jwks or jwks_file is set"},
		{"token: empty vault reference", token(map[string]any{"tokens": []any{testToken, ""}}), "config.tokens[2] has 0 bytes: want a string of 32 to 256"},
		{"token: short", token(map[string]any{"tokens": []any{"s3cret"}}), "config.tokens[1] has 6 bytes"},
		{"token: long", token(map[string]any{"tokens": []any{long}}), "config.tokens[1] has 360 bytes"},
		{"token: five", token(map[string]any{"tokens": []any{testToken, testToken, testToken, testToken, testToken}}), "config.tokens has 5 elements: want at most 4"},
		{"token: bytes", token(map[string]any{"tokens": []any{"s3cret s3cret s3cret s3cret s3cret s3cret"}}), "config.tokens cannot be used"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			gc := gateCase{config: c.config}
			config := configure(t, testGate(), gc.configFor(e))
			if config.verifier != nil || !strings.Contains(config.problem, c.want) {
				t.Fatalf("problem is %q, want %q", config.problem, c.want)
			}
			if strings.Contains(config.problem, "s3cret") || strings.Contains(config.problem, testToken) {
				t.Errorf("a secret is in %q", config.problem)
			}
			s := signed(t, message(), e.key, time.Now())
			o := (&fakeKong{vars: s.nginx(true)}).access(t, config)
			if !o.exited || o.value["reason"] != string(evidence.ReasonMisconfigured) {
				t.Errorf("outcome %+v", o)
			}
			if len(o.lines) != 1 || !strings.HasPrefix(o.lines[0], "crit: decision=deny reason=misconfigured") || !strings.Contains(o.lines[0], "config.") {
				t.Errorf("lines %q", o.lines)
			}
		})
	}
}

func TestAllProblemsAreNamed(t *testing.T) {
	t.Parallel()
	c := configure(t, testGate(), map[string]any{"max_age": 0, "jwks": "x", "log": "x"})
	for _, field := range []string{"config.max_age", "config.jwks", "config.log"} {
		if !strings.Contains(c.problem, field) {
			t.Errorf("%s is not in %q", field, c.problem)
		}
	}
}

// What Kong adds to a configuration, and Lua's empty tables, are no mistakes.
func TestConfigurationAsKongSendsIt(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	data := fmt.Sprintf(`{"__seq__":3,"__key__":"plugins:x","__plugin_id":"y","__ws_id":"z","route_id":"r","$refs":{"jwks":"{vault://env/x}"},
		"mode":"enforce","proof":"signature","jwks":%q,"jwks_file":null,"tokens":null,"max_age":30.0,"clock_skew":5,"min_mode":"monitoring",
		"require_inspection":"active","applications":{},"allowed_sources":{ },"allow_upgrade":false,"exempt":{},
		"replay":{"store":"memory","capacity":1000000},"deny_status":403,"log":"denied"}`, e.inline)
	c := &Config{gate: testGate()}
	if err := json.Unmarshal([]byte(data), c); err != nil || c.verifier == nil {
		t.Fatalf("%v: %s", err, c.problem)
	}
	want := evidence.Policy{MaxAge: 30 * time.Second, ClockSkew: 5 * time.Second, MinMode: evidence.ModeMonitoring, RequireActive: true}
	if got := fmt.Sprintf("%+v", c.verifier.Policy); got != fmt.Sprintf("%+v", want) {
		t.Errorf("policy is %s", got)
	}
	defaults := configure(t, testGate(), map[string]any{"jwks": e.inline})
	if got := fmt.Sprintf("%+v", defaults.verifier.Policy); got != fmt.Sprintf("%+v", want) {
		t.Errorf("default policy is %s", got)
	}
}

// A configuration that says nothing, or was never decoded, refuses.
func TestZeroConfigRefuses(t *testing.T) {
	t.Parallel()
	undecodable := &Config{gate: testGate()}
	if err := json.Unmarshal([]byte(`"x"`), undecodable); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*Config{"zero": {gate: testGate()}, "undecodable": undecodable} {
		o := (&fakeKong{vars: plain("GET", "/").nginx(true)}).access(t, c)
		if !o.exited || o.status != 403 {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

func TestConfigPrintsNoSecret(t *testing.T) {
	t.Parallel()
	gc := gateCase{config: tokenConfig}
	c := configure(t, testGate(), gc.configFor(newEdge(t)))
	if c.verifier == nil {
		t.Fatal(c.problem)
	}
	for _, format := range []string{"%v", "%+v", "%s", "%#v"} {
		if s := fmt.Sprintf(format, c); strings.Contains(s, testToken) {
			t.Errorf("%s prints a token", format)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"mode":"report","jwks":"{\"keys\":[]}"}`))
	f.Add([]byte(`{"proof":"token","tokens":["0123456789abcdef0123456789abcdef"],"require_inspection":"any"}`))
	f.Add([]byte(`{"exempt":[{"path":"/a/*","methods":{},"hosts":["x"],"sources":["::/0"]}],"max_age":1e2}`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`{"replay":{"capacity":1000},"jwks":"x"}`))
	f.Add([]byte(`{"replay":{"store":"redis","redis":{"address":"a:1","password":"p","tls":{"enabled":false},"pool_size":1}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &Config{gate: testGate()}
		c.gate.redis.dial = func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
		if err := json.Unmarshal(data, c); err != nil && json.Valid(data) {
			t.Fatalf("decoding fails: %v", err)
		}
		if json.Valid(data) && (c.verifier == nil) != (c.problem != "") {
			t.Fatalf("verifier %v, problem %q", c.verifier, c.problem)
		}
		if s := c.denyStatus(); s < 400 || s > 499 {
			t.Fatalf("status %d", s)
		}
	})
}
