package e2e

// The bypass corpus in testdata/bypass, on whatever gateway runs.

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/test/e2e/bypass"
)

// bypassToken is what the route /token wants. It is a secret of this suite alone.
var bypassToken = randomHex() + randomHex()

// bypassRoutes are the routes of the corpus beside the global gate: a path, and
// what its gate has otherwise. testdata/bypass/README.md lists them.
var bypassRoutes = []struct {
	name, path string
	gate       map[string]any
}{
	{"all", "/", nil},
	{"ws", "/ws/", map[string]any{"allow_upgrade": true}},
	{"strict", "/strict/", map[string]any{"min_mode": "safe_blocking", "applications": []any{7}}},
	{"closed", "/closed/", map[string]any{"allowed_sources": []any{"192.0.2.0/24"}}},
	{"probe", "/probe", map[string]any{"exempt": []any{
		map[string]any{"path": "/probe/healthz"}, map[string]any{"path": "/probe/public/*"},
		map[string]any{"path": "/probe/hosted", "hosts": []any{"ops.example.com"}},
		map[string]any{"path": "/probe/peer", "sources": []any{"192.0.2.0/24"}},
	}}},
	{"token", "/token", map[string]any{"proof": "token", "tokens": []any{bypassToken}, "require_inspection": "any"}},
}

// bypassKeys are the keys of the corpus: private, what the attester signs with,
// and what the gateway knows.
func bypassKeys(t testing.TB) (all, signing, verifying *evidence.KeySet) {
	t.Helper()
	now := time.Now()
	byID := map[string]*evidence.Key{}
	var every []*evidence.Key
	for _, k := range []struct {
		id             string
		alg            evidence.Algorithm
		before, expire time.Duration
	}{
		{"edge-1", evidence.AlgEd25519, -time.Hour, 24 * time.Hour},
		{"edge-2", evidence.AlgEd25519, 0, 0},
		{"shared-1", evidence.AlgHMACSHA256, 0, 0},
		{"edge-old", evidence.AlgEd25519, -48 * time.Hour, -time.Hour},
		{"edge-next", evidence.AlgEd25519, time.Hour, 48 * time.Hour},
		{"stranger", evidence.AlgEd25519, 0, 0},
	} {
		key, err := evidence.GenerateKey(k.id, k.alg)
		if err != nil {
			t.Fatal(err)
		}
		if k.before != 0 {
			key.NotBefore, key.Expires = now.Add(k.before).Truncate(time.Second), now.Add(k.expire).Truncate(time.Second)
		}
		byID[k.id], every = key, append(every, key)
	}
	set := func(keys ...*evidence.Key) *evidence.KeySet {
		s, err := evidence.NewKeySet(keys...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	return set(every...), set(byID["edge-1"]), set(every[:5]...)
}

// bypassConfig is the chart's declarative file with the routes of the corpus: its
// service, and its global gate without what only the edge could fulfil.
func bypassConfig(t testing.TB, text string) string {
	t.Helper()
	var file map[string]any
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	plugins, _ := file["plugins"].([]any)
	services, _ := file["services"].([]any)
	if len(plugins) != 1 || len(services) != 1 {
		t.Fatalf("the chart's kong.yml has %d global plugins and %d services, want one of each", len(plugins), len(services))
	}
	config := plugins[0].(map[string]any)["config"].(map[string]any)
	for _, field := range []string{"min_mode", "applications", "allowed_sources"} {
		delete(config, field)
	}
	var routes []any
	for _, r := range bypassRoutes {
		route := map[string]any{"name": r.name, "paths": []any{r.path}, "strip_path": false, "preserve_host": true}
		if r.gate != nil {
			own := map[string]any{}
			for field, value := range config {
				if field != "jwks_file" || r.gate["proof"] != "token" {
					own[field] = value
				}
			}
			maps.Copy(own, r.gate)
			route["plugins"] = []any{map[string]any{"name": "wallarm-gate", "config": own}}
		}
		routes = append(routes, route)
	}
	services[0].(map[string]any)["routes"] = routes
	out, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// corpus is every case by its file.
func corpus(t testing.TB) map[string][]*bypass.Case {
	t.Helper()
	paths, err := filepath.Glob("testdata/bypass/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]*bypass.Case{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		cases, err := bypass.Parse(data)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all[strings.TrimSuffix(filepath.Base(path), ".txt")] = cases
	}
	return all
}

// The corpus is as large as it is said to be, no name stands twice, and every
// reason that a client can cause is expected somewhere.
func TestBypassCorpus(t *testing.T) {
	t.Parallel()
	n, names, reasons := 0, map[string]string{}, map[string]bool{}
	for file, cases := range corpus(t) {
		for _, c := range cases {
			if other := names[c.Name]; other != "" {
				t.Errorf("%s.txt: case %s stands in %s.txt too", file, c.Name, other)
			}
			names[c.Name] = file
			n++
			for _, a := range c.Answers(bypass.Attack, "embedded") {
				reasons[a.Reason] = true
			}
		}
	}
	if n < 120 {
		t.Errorf("%d cases, want 120 at least", n)
	}
	for _, reason := range evidence.Reasons() {
		switch reason {
		case evidence.ReasonReplayStoreFull, evidence.ReasonReplayStoreError, evidence.ReasonMisconfigured, evidence.ReasonInternalError:
			// Faults of the gateway, not of a request.
		default:
			if !reasons[string(reason)] {
				t.Errorf("no case expects %s", reason)
			}
		}
	}
}

// prowler runs cases against one system, one after the other.
type prowler struct {
	*system
	site   *bypass.Site
	counts map[decision]float64

	// Marks of requests that were allowed and broke off then. The upstream may
	// hear of them late, or not at all.
	broken       map[string]bool
	fewest, most int // requests that the upstream must and may have got in all
}

func newProwler(t *testing.T, o options) *prowler {
	t.Helper()
	if os.Getenv("GATEWAY") == "url" {
		leaveToOperator(t, "GATEWAY=url: the corpus wants routes and keys of its own")
	}
	all, signing, verifying := bypassKeys(t)
	o.signing, o.verifying = signing, verifying
	p := &prowler{system: start(t, o), broken: map[string]bool{}}
	keys, err := bypass.NewKeys(all)
	if err != nil {
		t.Fatal(err)
	}
	p.site = &bypass.Site{Gateway: p.kind, Host: p.host, Token: bypassToken, Keys: keys}
	p.reload(t, bypassConfig(t, p.kongYML(t)))
	p.counts = p.decisionsNow(t)
	return p
}

// decisionsNow are the counters, none before the first decision.
func (p *prowler) decisionsNow(t testing.TB) map[decision]float64 {
	t.Helper()
	const prefix = `wallarm_gate_decisions_total{decision="`
	out := map[decision]float64{}
	for name, v := range p.samples(t) {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			d, reason, _ := strings.Cut(strings.TrimSuffix(rest, `"}`), `",reason="`)
			out[decision{d, reason}] = v
		}
	}
	return out
}

func (p *prowler) dial(t testing.TB, c *bypass.Case) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		switch {
		case c.Door == bypass.Edge:
			return p.dialEdge(t), nil
		case c.Proto == bypass.HTTP2:
			conn := p.dialOriginTLS(t, "h2")
			if got := conn.ConnectionState().NegotiatedProtocol; got != "h2" {
				return nil, fmt.Errorf("the gateway speaks %q, not HTTP/2", got)
			}
			return conn, nil
		}
		return p.dialOrigin(t), nil
	}
}

// try runs one variant and holds it to everything that is expected of it: what
// the client sees, what the plugin decided and why, and what the upstream got.
func (p *prowler) try(t *testing.T, c *bypass.Case, v bypass.Variant) {
	t.Helper()
	run, err := c.Prepare(v, p.site, time.Now())
	if err != nil {
		t.Fatalf("%s: %v", v, err)
	}
	p.arrived()
	got, err := run.Send(p.dial(t, c))
	if err != nil {
		t.Fatalf("%s: %v", v, err)
	}

	var status []string
	want, fewest, most := map[decision]float64{}, 0, 0
	for _, a := range run.Want {
		status = append(status, a.Status)
		if d, reason, ok := a.Decision(); ok {
			want[decision{d, reason}]++
			if d != "deny" {
				most++
			}
		}
		if a.Passed() {
			fewest++
		}
	}
	failed := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s: %s\nexpected %v\nsent %s", v, fmt.Sprintf(format, args...), run.Want, run.Text())
	}
	if !slices.Equal(got, status) {
		failed("the client saw %v", got)
	}
	now := p.decisionsNow(t)
	decided := map[decision]float64{}
	for d, n := range now {
		if n != p.counts[d] {
			decided[d] = n - p.counts[d]
		}
	}
	p.counts = now
	if !maps.Equal(decided, want) {
		failed("the plugin decided %v", show(decided))
	}
	arrived := p.arrived()
	if p.fewest, p.most = p.fewest+fewest, p.most+most; fewest < most {
		p.broken[run.Mark] = true
	}
	var all strings.Builder
	for _, r := range arrived {
		fmt.Fprintf(&all, "%s %s %s\n", r.method, r.target, r.proto)
		for _, f := range slices.Concat(r.header, r.trailer) {
			fmt.Fprintf(&all, "%s: %s\n", f[0], f[1])
		}
		fmt.Fprintf(&all, "\n%s\n", r.body)
	}
	if n := len(arrived); n < fewest || n > most {
		failed("the upstream got %d requests, allowed were %d:\n%s", n, most, &all)
	}
	if most == 0 && strings.Contains(all.String(), run.Mark) {
		failed("the upstream got a request that nobody allowed:\n%s", &all)
	}
	if err := run.Check(all.String()); err != nil {
		failed("%v\n%s", err, &all)
	}
}

// arrived takes what the upstream got, but for requests that broke off before.
func (p *prowler) arrived() []seen {
	return slices.DeleteFunc(p.upstream.take(), func(r seen) bool {
		return p.broken[strings.Trim(r.target, "/")]
	})
}

func (p *prowler) run(t *testing.T, door string) {
	all := corpus(t)
	n := 0
	for _, file := range slices.Sorted(maps.Keys(all)) {
		for _, c := range all[file] {
			if c.Door != door {
				continue
			}
			n++
			t.Run(file+"/"+c.Name, func(t *testing.T) {
				if c.HasTwin() {
					p.try(t, c, bypass.Twin)
				}
				p.try(t, c, bypass.Attack)
			})
		}
	}
	if n == 0 {
		t.Errorf("no case is for the door %s", door)
	}
	if got := int(p.upstream.count()); got < p.fewest || got > p.most {
		t.Errorf("the upstream got %d requests in all, allowed were %d to %d", got, p.fewest, p.most)
	}
}

// Every attempt at the gateway is refused for the reason that it names, or has no
// other meaning than its honest twin, which passes.
func TestBypassOrigin(t *testing.T) {
	t.Parallel()
	newProwler(t, options{withoutEdge: true}).run(t, bypass.Origin)
}

// The same at the edge's door: what a client forges does not count, and does not
// reach the upstream.
func TestBypassEdge(t *testing.T) {
	t.Parallel()
	newProwler(t, options{}).run(t, bypass.Edge)
}
