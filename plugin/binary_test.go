package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

// The real binary behind internal/pluginhost, which plays Kong.

const eventLimit = 2 // of one request, whatever happens

// testGateway is one running plugin with a gateway before it.
type testGateway struct {
	host    *pluginhost.Host
	gateway *pluginhost.Gateway
	url     string // of the upstream

	mu   sync.Mutex
	last pluginhost.Observation // of the last request
	logs []string
}

func startGateway(tb testing.TB, joined bool, config map[string]any, args ...string) *testGateway {
	tb.Helper()
	g := &testGateway{}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "upstream")
	}))
	tb.Cleanup(upstream.Close)
	g.url = upstream.URL

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	g.host, err = pluginhost.Start(ctx, pluginhost.Options{
		Binary: gateBinary, Prefix: tb.TempDir(), Args: args, MaxEvents: 100, RespawnInterval: 20 * time.Millisecond,
		Log: func(level, msg string) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.logs = append(g.logs, level+": "+msg)
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { g.host.Close() })
	if err := g.host.Ready(ctx); err != nil {
		tb.Fatal(err)
	}
	settings := pluginhost.Settings{Observer: func(o pluginhost.Observation) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.last = o
	}}
	if joined {
		settings.Nginx = evidenceConf
	}
	g.gateway, err = pluginhost.NewGateway(g.host, g.config(config), settings)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { g.gateway.Close() })
	return g
}

func (g *testGateway) config(config map[string]any) pluginhost.Config {
	return pluginhost.Config{
		Services: []pluginhost.Service{{Name: "echo", URL: g.url, Routes: []pluginhost.Route{{Name: "all", Paths: []string{"/"}}}}},
		Plugins:  []pluginhost.Plugin{{Name: pluginName, Config: config}},
	}
}

// bytes is s on the wire.
func (s *sample) bytes() []byte {
	var b bytes.Buffer
	target := s.target
	if s.absolute != "" {
		target = "http://" + s.absolute + target
	}
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", s.method, target, s.host)
	for _, f := range s.header {
		fmt.Fprintf(&b, "%s: %s\r\n", f.name, f.value)
	}
	if s.method == "POST" {
		b.WriteString("Content-Length: 0\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

type answer struct {
	status int
	header http.Header
	body   string
	pluginhost.Observation
}

// send sends one request over a connection of its own. Requests of one gateway
// must be sent one after the other for the observation to be the request's own.
func (g *testGateway) send(tb testing.TB, peer, method string, wire []byte) answer {
	tb.Helper()
	client, server := net.Pipe()
	defer client.Close()
	go g.gateway.ServeConn(server, netip.AddrPortFrom(netip.MustParseAddr(peer), 40000))
	if err := client.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	g.mu.Lock()
	g.last = pluginhost.Observation{}
	g.mu.Unlock()
	go client.Write(wire) // the gateway may answer before it has read all
	resp, err := http.ReadResponse(bufio.NewReader(client), &http.Request{Method: method})
	if err != nil {
		tb.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return answer{resp.StatusCode, resp.Header, string(body), g.last}
}

func TestBinaryDecisions(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	for path, joined := range map[string]bool{"joined": true, "one by one": false} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, joined, map[string]any{"jwks": e.inline})
			for _, c := range gateCases() {
				t.Run(c.name, func(t *testing.T) {
					if err := g.gateway.Reload(g.config(c.configFor(e))); err != nil {
						t.Fatal(err)
					}
					s := c.request(t, e, time.Now())
					c.checkAnswer(t, g.send(t, s.peer, s.method, s.bytes()), s, joined)
				})
			}
		})
	}
}

// refusedByKong are the cases that nginx or Kong's router answers before any
// plugin: a path that is not UTF-8 has no route.
var refusedByKong = map[string]int{
	`not exempt: "/healthz%00"`: http.StatusBadRequest,
	`not exempt: "/pub/a\xff"`:  http.StatusNotFound,
}

func (c *gateCase) checkAnswer(t *testing.T, a answer, s *sample, joined bool) {
	t.Helper()
	if a.Events > eventLimit {
		t.Errorf("%d events", a.Events)
	}
	if status := refusedByKong[c.name]; status != 0 {
		if a.status != status || a.Proxied || a.Events != 0 {
			t.Errorf("status %d, proxied %v", a.status, a.Proxied)
		}
		return
	}
	if a.Events != 1 {
		t.Errorf("%d events, want 1 (%s)", a.Events, a.Err)
	}
	value, _ := a.Serialized["wallarm_gate"].(map[string]any)
	if c.decision != allow && c.config["log"] != "off" {
		got, _ := value["reason"].(string)
		if value["decision"] != string(c.decision) || got != string(c.reason) {
			t.Errorf("decision %v, reason %q: want %s, %q (%v)", value["decision"], got, c.decision, c.reason, a.Logs)
		}
	}
	if c.decision == deny {
		c.checkDenial(t, a, s)
		return
	}
	if a.status != http.StatusOK || !a.Proxied {
		t.Fatalf("status %d, proxied %v: %s %v", a.status, a.Proxied, a.Err, value)
	}
	if c.trips != 0 && joined && a.RoundTrips != c.trips {
		t.Errorf("%d round trips, want %d: %v", a.RoundTrips, c.trips, a.Calls)
	}
	for _, f := range a.UpstreamHeader {
		switch folded := evidence.FoldHeader(f.Name); {
		case c.decision != allow && evidence.IsHeader(f.Name),
			folded == "x-wallarm-token",
			// A spelling with '_' is not what Connection names; its use is spent.
			folded == "signature" || folded == "signature-input" && !strings.EqualFold(f.Name, "Signature_Input"),
			c.config["proof"] == proofToken && (folded == "x-wallarm-node" || folded == "x-wallarm-inspection"):
			t.Errorf("%s reaches the upstream", f.Name)
		}
	}
}

func (c *gateCase) checkDenial(t *testing.T, a answer, s *sample) {
	t.Helper()
	want := http.StatusForbidden
	if status, ok := c.config["deny_status"].(int); ok {
		want = status
	}
	if a.status != want || a.Proxied || !a.Exited {
		t.Fatalf("status %d, proxied %v, exited %v (%s)", a.status, a.Proxied, a.Exited, a.Err)
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q", got)
	}
	if got := a.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q", got)
	}
	if s.method == http.MethodHead {
		return
	}
	var problem map[string]any
	if err := json.Unmarshal([]byte(a.body), &problem); err != nil {
		t.Fatalf("%v: %q", err, a.body)
	}
	if problem["status"] != float64(want) || problem["type"] != "about:blank" || problem["title"] != http.StatusText(want) ||
		problem["request_id"] != a.RequestID {
		t.Errorf("body %s", a.body)
	}
	if strings.Contains(a.body, string(c.reason)) {
		t.Errorf("the reason is in %s", a.body)
	}
}

// Kong's schema, as the dump declares it, refuses a bad value when it is loaded.
func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := dump(pluginName, "/").write(&b); err != nil {
		t.Fatal(err)
	}
	schema, err := pluginhost.ParseSchema(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		consumer string
		config   map[string]any
		want     string
	}{
		{"nothing set", "", nil, ""},
		{"all set", "", map[string]any{"mode": "report", "proof": "token", "tokens": []any{testToken}, "require_inspection": "any",
			"applications": []any{-1}, "allowed_sources": []any{"10.0.0.0/8"}, "exempt": []any{map[string]any{"path": "/x"}},
			"replay": map[string]any{"store": "off"}, "deny_status": 404, "log": "off"}, ""},
		{"reference", "", map[string]any{"jwks": "{vault://env/x}", "tokens": []any{"{vault://env/y}"}}, ""},
		{"consumer", "alice", nil, "consumer"},
		{"unknown field", "", map[string]any{"modes": "x"}, "config.modes"},
		{"mode", "", map[string]any{"mode": "x"}, "config.mode"},
		{"max_age", "", map[string]any{"max_age": 301}, "config.max_age"},
		{"clock_skew", "", map[string]any{"clock_skew": 61}, "config.clock_skew"},
		{"replay", "", map[string]any{"replay": map[string]any{"store": "etcd"}}, "store"},
		{"redis", "", map[string]any{"replay": redisRecord("redis.internal:6379", nil)}, ""},
		{"redis by reference", "", map[string]any{"replay": redisRecord("redis.internal:6379", map[string]any{"username": "{vault://env/x}", "password": "{vault://env/y}"})}, ""},
		{"redis without address", "", map[string]any{"replay": redisRecord("", map[string]any{"address": nil})}, "address"},
		{"redis timeout", "", map[string]any{"replay": redisRecord("a:1", map[string]any{"timeout": 1001})}, "timeout"},
		{"redis pool_size", "", map[string]any{"replay": redisRecord("a:1", map[string]any{"pool_size": 0})}, "pool_size"},
		{"redis prefix", "", map[string]any{"replay": redisRecord("a:1", map[string]any{"prefix": strings.Repeat("x", 65)})}, "prefix"},
		{"redis on_error", "", map[string]any{"replay": redisRecord("a:1", map[string]any{"on_error": "allow"})}, "on_error"},
		{"redis tls", "", map[string]any{"replay": redisRecord("a:1", map[string]any{"tls": map[string]any{"verify": false}})}, "verify"},
		{"capacity", "", map[string]any{"replay": map[string]any{"capacity": 999}}, "capacity"},
		{"deny_status", "", map[string]any{"deny_status": 200}, "config.deny_status"},
		{"deny_status 444", "", map[string]any{"deny_status": 444}, "config.deny_status"},
		{"token", "", map[string]any{"tokens": []any{"short"}}, "config.tokens"},
		{"five tokens", "", map[string]any{"tokens": []any{testToken, testToken, testToken, testToken, testToken}}, "config.tokens"},
		{"exempt without path", "", map[string]any{"exempt": []any{map[string]any{}}}, "config.exempt"},
		{"exempt method", "", map[string]any{"exempt": []any{map[string]any{"path": "/x", "methods": []any{"POST"}}}}, "config.exempt"},
		{"jwks_file", "", map[string]any{"jwks_file": "x"}, "config.jwks_file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := schema.Validate(pluginhost.Plugin{Name: pluginName, Consumer: c.consumer, Config: c.config})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
}

// A captured request is refused, over the binary and over two configurations.
func TestBinaryReplay(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	g := startGateway(t, true, map[string]any{"jwks": e.inline})
	wire := signed(t, message(), e.key, time.Now()).bytes()
	if a := g.send(t, testPeer, "GET", wire); !a.Proxied {
		t.Fatalf("refused: %v", a.Serialized)
	}
	for range 2 {
		a := g.send(t, testPeer, "GET", wire)
		value, _ := a.Serialized["wallarm_gate"].(map[string]any)
		if a.Proxied || value["reason"] != string(evidence.ReasonReplayed) {
			t.Fatalf("proxied %v, %v", a.Proxied, value)
		}
		if err := g.gateway.Reload(g.config(map[string]any{"jwks": e.inline, "replay": map[string]any{"capacity": 2_000_000}})); err != nil {
			t.Fatal(err)
		}
	}
}

// Nothing unverified passes while the plugin is killed, and it recovers.
func TestBinaryKilled(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	g := startGateway(t, true, map[string]any{"jwks": e.inline})
	deadline := time.Now().Add(60 * time.Second)
	for kill := range 3 {
		starts := g.host.Starts()
		if err := g.host.Kill(); err != nil {
			t.Fatal(err)
		}
		for good := 0; good < 3 || g.host.Starts() == starts; {
			if time.Now().After(deadline) {
				t.Fatalf("kill %d: no recovery", kill)
			}
			a := g.send(t, testPeer, "GET", plain("GET", "/").bytes())
			if a.Proxied || a.Events > eventLimit {
				t.Fatalf("unverified: proxied %v, %d events", a.Proxied, a.Events)
			}
			a = g.send(t, testPeer, "GET", signed(t, message(), e.key, time.Now()).bytes())
			if a.Events > eventLimit {
				t.Fatalf("%d events", a.Events)
			}
			if good++; !a.Proxied {
				good = 0
				// What was created in the second of the crash could be what the old process saw.
				if a.status != http.StatusInternalServerError && a.reason() != evidence.ReasonStaleEvidence {
					t.Fatalf("status %d: %v", a.status, a.Serialized)
				}
			}
		}
	}
}

// Whatever bytes a request has: at most two events, and the upstream gets it
// only after an allow.
func TestBinaryGarbage(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	g := startGateway(t, true, map[string]any{"jwks": e.inline, "log": "all"})
	rnd := rand.New(rand.NewPCG(1, 2))
	allowed := 0
	for i := range 400 {
		wire := signed(t, message(), e.key, time.Now()).bytes()
		for range 1 + rnd.IntN(3) {
			at := rnd.IntN(len(wire) - 4) // the empty line stays
			if wire[at] != '\r' && wire[at] != '\n' {
				wire[at] = byte(rnd.IntN(256))
			}
		}
		a := g.send(t, testPeer, "GET", wire)
		value, _ := a.Serialized["wallarm_gate"].(map[string]any)
		if a.Events > eventLimit {
			t.Fatalf("request %d: %d events for %q", i, a.Events, wire)
		}
		if a.Proxied != (value["decision"] == "allow") {
			t.Fatalf("request %d: proxied %v, %v for %q", i, a.Proxied, value, wire)
		}
		if a.Proxied {
			allowed++
		}
	}
	t.Logf("%d of 400 still allowed", allowed)
}

// The variable-by-variable path says once that it is slow, where Kong shows it.
func TestBinaryJoinedVariableMissing(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	g := startGateway(t, false, map[string]any{"jwks": e.inline})
	said := 0
	for range 3 {
		a := g.send(t, testPeer, "GET", signed(t, message(), e.key, time.Now()).bytes())
		if !a.Proxied {
			t.Fatalf("%v", a.Serialized)
		}
		for _, line := range a.Logs {
			if strings.Contains(line.Message, "$wallarm_evidence does not exist") {
				said++
			}
		}
	}
	if said != 1 {
		t.Errorf("said %d times", said)
	}
}

// BenchmarkBinary counts the PDK calls of an allowed request and, where the
// system tells, the processor time that the plugin's process takes for it.
func BenchmarkBinary(b *testing.B) {
	e := newEdge(b)
	bench := func(b *testing.B, key *evidence.Key, replay map[string]any) {
		config := map[string]any{"jwks": e.inline}
		if replay != nil {
			config["replay"] = replay
		}
		g := startGateway(b, true, config)
		// An instance of the configuration, and the end of the second in which a server was started.
		eventually(b, "a request passes", func() bool {
			return g.send(b, testPeer, "GET", signed(b, message(), key, time.Now()).bytes()).Proxied
		})
		before, told := processorTime(g.host.Pid())
		trips := 0
		for b.Loop() {
			a := g.send(b, testPeer, "GET", signed(b, message(), key, time.Now()).bytes())
			if !a.Proxied {
				b.Fatal(a.Serialized)
			}
			trips += a.RoundTrips
		}
		if after, _ := processorTime(g.host.Pid()); told {
			b.ReportMetric(float64((after-before).Microseconds())/float64(b.N), "plugin-cpu-µs/op")
		}
		b.ReportMetric(float64(trips)/float64(b.N), "roundtrips/op")
	}
	b.Run("ed25519", func(b *testing.B) { bench(b, e.key, nil) })
	b.Run("hmac-sha256", func(b *testing.B) { bench(b, e.hmac, nil) })
	b.Run("ed25519 and redis", func(b *testing.B) { bench(b, e.key, startRedis(b).record(nil)) })
}

// processorTime is what a process has used, to a hundredth of a second, where
// there is a Linux /proc.
func processorTime(pid int) (used time.Duration, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var user, system time.Duration
	if len(fields) < 13 {
		return 0, false
	}
	fmt.Sscan(fields[11], &user)
	fmt.Sscan(fields[12], &system)
	return (user + system) * 10 * time.Millisecond, true
}
