package e2e

// The whole way: what passes, what arrives, and what is stopped where.

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

var traces atomic.Int64

func newTrace() string { return fmt.Sprintf("%s-%d", randomHex()[:8], traces.Add(1)) }

// arrived is the one request at the upstream with this trace, inspected.
func (s *system) arrived(t testing.TB, trace string) seen {
	t.Helper()
	got := s.upstream.find(trace)
	if len(got) != 1 {
		t.Fatalf("the upstream got it %d times", len(got))
	}
	if err := s.inspected(got[0]); err != nil {
		t.Error(err)
	}
	return got[0]
}

func (s *system) notArrived(t testing.TB, trace string) {
	t.Helper()
	if got := s.upstream.find(trace); len(got) != 0 {
		t.Errorf("refused, and the upstream still got %s %s", got[0].method, got[0].target)
	}
}

const tenMB = 10_000_000

// One system for all that needs no other: a Kong takes a while to start. The
// cases run one after the other, because they count the plugin's decisions.
func TestTraffic(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	t.Run("passes", s.testPasses)
	t.Run("stopped at the edge", s.testStoppedAtTheEdge)
	t.Run("past the edge", s.testPastTheEdge)
	t.Run("streams", s.testStreams)
}

func (s *system) testPasses(t *testing.T) {
	big := `"` + strings.Repeat("x", tenMB-2) + `"`
	for _, tc := range []struct {
		name, method, target, body string
		lines                      []string
		size                       int
		trailers                   bool
	}{
		{name: "GET", method: "GET", target: "/v1/orders?limit=3&a=%20b+c"},
		{name: "HEAD", method: "HEAD", target: "/v1/orders"},
		{name: "OPTIONS", method: "OPTIONS", target: "/v1/orders"},
		{name: "path parameters and brackets", method: "GET", target: "/v1/a;b=c/(d)?x[]=1&y={2}"},
		{name: "form", method: "POST", target: "/v1/orders", lines: []string{"Content-Type: application/x-www-form-urlencoded", "Content-Length: 3"}, body: "a=1", size: 3},
		{name: "chunked", method: "POST", target: "/v1/orders", lines: []string{"Content-Type: application/json", "Transfer-Encoding: chunked"}, body: "2\r\n{}\r\n0\r\n\r\n", size: 2},
		{name: "chunked with trailers", method: "POST", target: "/v1/orders", lines: []string{"Content-Type: application/json", "Transfer-Encoding: chunked", "Trailer: X-Sum"}, body: "2\r\n{}\r\n0\r\nX-Sum: 1\r\n\r\n", size: 2},
		{name: "10 MB", method: "POST", target: "/v1/orders", lines: []string{"Content-Type: application/json", fmt.Sprintf("Content-Length: %d", tenMB)}, body: big, size: tenMB},
		{name: "10 MB, chunked", method: "POST", target: "/v1/orders", lines: []string{"Content-Type: application/json", "Transfer-Encoding: chunked"}, body: fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", tenMB, big), size: tenMB},
		{name: "Expect", method: "POST", target: "/v1/orders", lines: []string{"Content-Type: application/json", "Content-Length: 2", "Expect: 100-continue"}, body: "{}", size: 2},
		{name: "an application that steers", method: "GET", target: "/steer?q=1"},
		{name: "Latin-1 cookie", method: "GET", target: "/v1/orders", lines: []string{"Cookie: name=caf\xe9"}},
		{name: "forged evidence is replaced", method: "GET", target: "/v1/orders", lines: []string{
			"X-Wallarm-Mode: off", "X_Wallarm_Node: " + s.taskID, "X-Wallarm-Inspection: active", "Signature: wallarm=:AAAA:", "Connection: close, X-Wallarm-Mode",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			trace := newTrace()
			var a answered
			s.wantDecision(t, allowed, func() {
				a = exchange(t, s.dialEdge(t), s.request(tc.method, tc.target, trace, tc.body, tc.lines...))
			})
			if a.err != nil || a.status != http.StatusOK || (a.body != "ok\n") != (tc.method == "HEAD") {
				t.Fatalf("answer %d %q %v", a.status, a.body, a.err)
			}
			got := s.arrived(t, trace)
			if got.method != tc.method || got.target != tc.target {
				t.Errorf("the upstream got %s %s, sent was %s %s", got.method, got.target, tc.method, tc.target)
			}
			if int(got.size) != tc.size || tc.size == tenMB && got.sum != sha256.Sum256([]byte(big)) {
				t.Errorf("the upstream got a body of %d bytes, want %d and the same", got.size, tc.size)
			}
			if len(got.trailer) != 0 {
				t.Errorf("the upstream got the trailers %v: nginx passes none", got.trailer)
			}
			s.checkEvidence(t, got, tc.method, tc.target)
		})
	}
}

// checkEvidence compares what the upstream got with what the node logged, and
// with what Kong adds.
func (s *system) checkEvidence(t *testing.T, got seen, method, target string) {
	t.Helper()
	e := s.logged(t, got.value(evidence.HeaderRequestID))
	if e["method"] != method || e["target"] != target || e["host"] != s.host || e["client_ip"] != clientIP || e["peer"] != s.alb {
		t.Errorf("inspected was %v %v of %v, from %v by %v", e["method"], e["target"], e["host"], e["client_ip"], e["peer"])
	}
	for name, want := range map[string]string{
		evidence.HeaderClientIP: clientIP, evidence.HeaderMode: s.mode, evidence.HeaderApplication: s.application,
		evidence.HeaderNode: s.taskID, evidence.HeaderInspection: "active",
		evidence.HeaderSignature: "", evidence.HeaderSignatureInput: "", evidence.HeaderToken: "",
		"Host": s.host, "X-Real-IP": clientIP, "X-Forwarded-For": clientIP + ", " + unbound,
		"X-Forwarded-Proto": "https", "X-Forwarded-Port": "443", "X-Forwarded-Host": s.host, "X-Forwarded-Prefix": "",
	} {
		if s.kind == "url" && strings.HasPrefix(name, "X-") && !strings.HasPrefix(name, "X-Wallarm-") {
			continue // that gateway's own settings
		}
		if v := strings.Join(got.values(name), " | "); v != want {
			t.Errorf("the upstream got %s: %q, want %q", name, v, want)
		}
	}
	if !requestID.MatchString(got.value("X-Kong-Request-Id")) || !strings.Contains(got.value("Via"), "kong/3.") {
		t.Errorf("the upstream got X-Kong-Request-Id %q and Via %q", got.values("X-Kong-Request-Id"), got.values("Via"))
	}
	if d, ok := e["upstream_status"].(string); !ok || d != "200" {
		t.Errorf("the node logged the attester's status %v", e["upstream_status"])
	}
}

func (s *system) testStoppedAtTheEdge(t *testing.T) {
	form := []string{"Content-Type: application/x-www-form-urlencoded", "Content-Length: 30"}
	for _, tc := range []struct {
		name, line, body string
		lines            []string
		want             int
		from             string
	}{
		{name: "SQL injection", line: "GET /x?id=1%27%20or%20%271%27=%271", want: 403},
		{name: "script", line: "GET /x?q=%3Cscript%3Ealert(1)%3C/script%3E", want: 403},
		{name: "traversal in an argument", line: "GET /x?f=..%2f..%2fetc%2fpasswd", want: 403},
		{name: "SQL injection in a body", line: "POST /x", lines: form, body: "id=1%27%20or%20%271%27%3D%271%20", want: 403},
		{name: "script in a header", line: "GET /x", lines: []string{"Referer: <script>alert(1)</script>"}, want: 403},
		{name: "script behind a hash", line: "GET /public#?q=<script>alert(1)</script>", want: 400},
		{name: "encoded parent", line: "GET /a/%2e%2e/adm", want: 400},
		{name: "absolute-form", line: "GET http://evil.example/x", want: 400},
		{name: "another host", line: "GET /x", lines: []string{"Host: evil.example"}, want: 400},
		{name: "larger than the node takes", line: "POST /x", lines: []string{"Content-Length: 17000000"}, want: 413},
	} {
		t.Run(tc.name, func(t *testing.T) {
			trace := newTrace()
			method, target, _ := strings.Cut(tc.line, " ")
			before := s.attesterRequests(t)
			check := func() {
				a := exchange(t, s.dialEdge(t), s.request(method, target, trace, tc.body, tc.lines...))
				if a.err != nil || a.status != tc.want {
					t.Errorf("answer %d %v, want %d", a.status, a.err, tc.want)
				}
			}
			if s.observes(t, "reason") {
				if got := s.decisionsOf(t, check); len(got) != 0 {
					t.Errorf("it came to the gateway: %v", show(got))
				}
			} else {
				check()
			}
			s.notArrived(t, trace)
			if after := s.attesterRequests(t); after != before {
				t.Errorf("the attester answered %d requests for it", after-before)
			}
		})
	}
}

// attesterRequests counts the lines of the node's log that name an answer of the
// attester's.
func (s *system) attesterRequests(t testing.TB) (n int) {
	t.Helper()
	for line := range bytes.Lines([]byte(s.node.log())) {
		if bytes.Contains(line, []byte(`"upstream_status":"`)) && !bytes.Contains(line, []byte(`"upstream_status":""`)) {
			n++
		}
	}
	return n
}

// Past the edge: nothing gets in without the evidence for exactly this request.
func (s *system) testPastTheEdge(t *testing.T) {
	other := newKeySet(t, s.keys.Keys()[0].ID)
	unknown := newKeySet(t, "unknown")
	with := func(change func(*evidence.Message)) func(*testing.T, string) string {
		return func(t *testing.T, trace string) string {
			m := s.statement("GET", "/v1/orders")
			change(&m)
			m = s.sign(t, m)
			return s.get("/v1/orders", trace, lines(m)...)
		}
	}
	by := func(set *evidence.KeySet, age, lifetime time.Duration) func(*testing.T, string) string {
		return func(t *testing.T, trace string) string {
			m := signWith(t, s.statement("GET", "/v1/orders"), set.Keys()[0], time.Now().Add(-age), lifetime)
			return s.get("/v1/orders", trace, lines(m)...)
		}
	}
	for _, tc := range []struct {
		name   string
		raw    func(t *testing.T, trace string) string
		reason evidence.Reason
	}{
		{"signed", with(func(*evidence.Message) {}), ""},
		{"without evidence", func(_ *testing.T, trace string) string { return s.get("/v1/orders", trace) }, evidence.ReasonMissingEvidence},
		{"made up", func(_ *testing.T, trace string) string {
			return s.get("/v1/orders", trace, "X-Wallarm-Request-Id: "+randomHex(), "X-Wallarm-Client-Ip: 192.0.2.1", "X-Wallarm-Mode: block",
				"X-Wallarm-Application: 7", "X-Wallarm-Node: task", "X-Wallarm-Inspection: active", "Signature-Input: wallarm=()", "Signature: wallarm=:AAAA:")
		}, evidence.ReasonMalformedEvidence},
		{"another key of the same name", by(other, 0, 30*time.Second), evidence.ReasonBadSignature},
		{"an unknown key", by(unknown, 0, 30*time.Second), evidence.ReasonUnknownKey},
		{"stale", by(s.keys, 60*time.Second, 300*time.Second), evidence.ReasonStaleEvidence},
		{"expired", by(s.keys, 20*time.Second, 5*time.Second), evidence.ReasonStaleEvidence},
		{"from the future", by(s.keys, -60*time.Second, 300*time.Second), evidence.ReasonFutureEvidence},
		{"for another target", with(func(m *evidence.Message) { m.Target = "/v1/other" }), evidence.ReasonBadSignature},
		{"for another method", with(func(m *evidence.Message) { m.Method = "POST" }), evidence.ReasonBadSignature},
		{"for another host", with(func(m *evidence.Message) { m.Authority = "other.example.com" }), evidence.ReasonBadSignature},
		{"of a degraded node", with(func(m *evidence.Message) { m.Inspection = "degraded" }), evidence.ReasonNotInspected},
		{"of a node that does not block", with(func(m *evidence.Message) { m.Mode = "monitoring" }), evidence.ReasonModeNotAllowed},
		{"of another application", with(func(m *evidence.Message) { m.Application = "8" }), evidence.ReasonApplicationNotAllowed},
	} {
		for _, way := range s.waysIn() {
			t.Run(tc.name+", "+way.name, func(t *testing.T) {
				trace := newTrace()
				want, wantStatus := decision{"deny", string(tc.reason)}, http.StatusForbidden
				if tc.reason == "" {
					want, wantStatus = allowed, http.StatusOK
				}
				var a answered
				s.wantDecision(t, want, func() { a = way.send(t, tc.raw(t, trace)) })
				if a.err != nil || a.status != wantStatus {
					t.Fatalf("answer %d %v, want %d", a.status, a.err, wantStatus)
				}
				if tc.reason == "" {
					return
				}
				s.notArrived(t, trace)
				if a.header.Get("Content-Type") != "application/problem+json" || strings.Contains(a.body, string(tc.reason)) || a.header.Get("Cache-Control") != "no-store" {
					t.Errorf("the refusal is %v %q", a.header, a.body)
				}
			})
		}
	}

	t.Run("replayed", func(t *testing.T) {
		first, again := newTrace(), newTrace()
		raw := s.signed(t, s.get("/v1/orders", first))
		for i, way := range s.waysIn() {
			want, status := decision{"deny", string(evidence.ReasonReplayed)}, http.StatusForbidden
			if i == 0 {
				want, status = allowed, http.StatusOK
			}
			s.wantDecision(t, want, func() {
				if a := way.send(t, strings.Replace(raw, first, again, i)); a.status != status {
					t.Errorf("%s: answer %d, want %d", way.name, a.status, status)
				}
			})
		}
		s.notArrived(t, again)
	})

	t.Run("from elsewhere", func(t *testing.T) {
		if !s.observes(t, "source") {
			return
		}
		trace := newTrace()
		s.wantDenied(t, evidence.ReasonSourceNotAllowed, func() {
			a := exchange(t, s.dialFrom(t, s.stranger, s.origin), s.signed(t, s.get("/v1/orders", trace)))
			if a.status != http.StatusForbidden {
				t.Errorf("answer %d", a.status)
			}
		})
		s.notArrived(t, trace)
	})

	// What was signed for the edge's way is used up when it has passed: an answer
	// that tells its evidence would not help.
	t.Run("evidence of a request through the edge", func(t *testing.T) {
		trace := newTrace()
		if a := exchange(t, s.dialEdge(t), s.get("/v1/orders", trace)); a.status != http.StatusOK {
			t.Fatalf("answer %d", a.status)
		}
		got, again := s.arrived(t, trace), newTrace()
		var lines []string
		for _, f := range got.header {
			if evidence.IsHeader(f[0]) {
				lines = append(lines, f[0]+": "+f[1])
			}
		}
		s.wantDenied(t, evidence.ReasonMissingEvidence, func() {
			if a := s.waysIn()[0].send(t, s.get("/v1/orders", again, lines...)); a.status != http.StatusForbidden {
				t.Errorf("answer %d", a.status)
			}
		})
		s.notArrived(t, again)
	})
}

// way is one to the gateway past the edge.
type way struct {
	name string
	send func(t *testing.T, raw string) answered
}

func (s *system) waysIn() []way {
	ways := []way{
		{"TLS", func(t *testing.T, raw string) answered { return exchange(t, s.dialOriginTLS(t), raw) }},
		{"HTTP/2", s.sendHTTP2},
	}
	if s.origin != "" {
		ways = append(ways, way{"plain", func(t *testing.T, raw string) answered { return exchange(t, s.dialOrigin(t), raw) }})
	}
	return ways
}

// sendHTTP2 sends the same request over HTTP/2, which has no Connection field.
func (s *system) sendHTTP2(t *testing.T, raw string) answered {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Scheme, r.URL.Host, r.RequestURI = "https", s.host, ""
	r.Header.Del("Connection")
	c := s.originClient(true)
	defer c.CloseIdleConnections()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.ProtoMajor != 2 {
		t.Errorf("the answer came over %s", resp.Proto)
	}
	return answered{status: resp.StatusCode, proto: resp.Proto, header: resp.Header, body: string(body)}
}

// Where the health check of Terraform's load balancer leads, and what it says.
func TestHealth(t *testing.T) {
	t.Parallel()
	s := start(t, options{attesterEnv: map[string]string{"ATTESTER_STATUS_MAX_AGE": "3s"}})
	port, path := cutPort(s.plans.health)
	ask := func(path string) int {
		t.Helper()
		resp, err := http.Get("http://" + s.net.task() + ":" + port + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	send := func() int {
		t.Helper()
		return exchange(t, s.dialEdge(t), s.get("/v1/orders", newTrace())).status
	}
	for _, state := range []struct {
		name, document string
		ready          int
		status         int
		want           decision
	}{
		{"active", statusActive, 200, 200, allowed},
		{"degraded", statusDegraded, 503, 403, decision{"deny", string(evidence.ReasonNotInspected)}},
		{"active again", statusActive, 200, 200, allowed},
		{"without a status", "", 503, 403, decision{"deny", string(evidence.ReasonNotInspected)}},
		{"at last", statusActive, 200, 200, allowed},
	} {
		s.setStatus(t, state.document)
		eventually(t, state.name+": the health check", func() bool { return ask(path) == state.ready })
		s.wantDecision(t, state.want, func() {
			if got := send(); got != state.status {
				t.Errorf("%s: answer %d, want %d", state.name, got, state.status)
			}
		})
	}
	if got := ask("/livez"); got != http.StatusOK {
		t.Errorf("/livez answers %d", got)
	}
	if got := ask("/v1/orders"); got != http.StatusNotFound {
		t.Errorf("the health listener answers %d to a request that is none of its own", got)
	}
}

func (s *system) testStreams(t *testing.T) {

	t.Run("server-sent events", func(t *testing.T) {
		c := s.dialEdge(t)
		if _, err := io.WriteString(c, s.get("/sse", newTrace())); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		// The rest of the body never comes: the event must not wait for it.
		event := make([]byte, len("data: 1\n\n"))
		if _, err := io.ReadFull(resp.Body, event); err != nil || string(event) != "data: 1\n\n" {
			t.Errorf("%q, %v", event, err)
		}
	})

	t.Run("WebSocket", func(t *testing.T) {
		dial := func(path string) (*websocket.Conn, int) {
			t.Helper()
			c := s.client()
			c.Timeout = 0
			ws, resp, err := websocket.Dial(t.Context(), "ws://"+s.host+path, &websocket.DialOptions{HTTPClient: c})
			status := 0
			if resp != nil {
				status = resp.StatusCode
			}
			if (err == nil) != (status == http.StatusSwitchingProtocols) {
				t.Fatalf("%s: %d %v", path, status, err)
			}
			return ws, status
		}
		s.wantDenied(t, evidence.ReasonUpgradeNotAllowed, func() {
			if _, status := dial("/orders"); status != http.StatusForbidden {
				t.Errorf("a route without allow_upgrade answers %d", status)
			}
		})
		s.wantDecision(t, allowed, func() {
			ws, status := dial("/ws")
			if status != http.StatusSwitchingProtocols {
				t.Fatalf("answer %d", status)
			}
			defer ws.CloseNow()
			for _, text := range []string{"hello", strings.Repeat("x", 20_000)} {
				if err := ws.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
					t.Fatal(err)
				}
				if _, back, err := ws.Read(t.Context()); err != nil || string(back) != text {
					t.Fatalf("%d bytes came back, %v", len(back), err)
				}
			}
		})
	})

	t.Run("an answer with trailers", func(t *testing.T) {
		a := exchange(t, s.dialEdge(t), s.get("/trailers", newTrace(), "TE: trailers"))
		if a.status != http.StatusOK || a.body != "ok\n" {
			t.Errorf("answer %d %q", a.status, a.body)
		}
		if len(a.trailer["X-Sum"]) != 0 {
			t.Errorf("the trailers %v came: Debian's nginx passes none", a.trailer)
		}
	})

	t.Run("an answer of 10 MB", func(t *testing.T) {
		a := exchange(t, s.dialEdge(t), s.get("/big", newTrace()))
		if a.status != http.StatusOK || len(a.body) != tenMB || strings.Trim(a.body, "x") != "" {
			t.Errorf("answer %d with %d bytes", a.status, len(a.body))
		}
	})

	t.Run("one connection for many requests", func(t *testing.T) {
		c := s.dialEdge(t)
		br := bufio.NewReader(c)
		for i := range 20 {
			want := http.StatusOK
			target := fmt.Sprintf("/status/%d", want)
			if i%2 == 1 {
				want, target = http.StatusForbidden, "/x?id=1%27%20or%20%271%27=%271"
			}
			if _, err := io.WriteString(c, s.get(target, newTrace())); err != nil {
				t.Fatal(err)
			}
			if a := readAnswer(t, br, "GET"); a.err != nil || a.status != want {
				t.Fatalf("request %d: answer %d %v, want %d", i, a.status, a.err, want)
			}
		}
	})

	for _, r := range s.unverified() {
		if r.value(evidence.HeaderNode) != directNode { // the suite's own, signed with the attester's key
			t.Errorf("%s %s at the upstream proves no inspection", r.method, r.target)
		}
	}
	if got := s.repeated(); len(got) != 0 {
		t.Errorf("%d requests came twice", len(got))
	}
}
