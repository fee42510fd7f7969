package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// What the tests share: a whole attester over real sockets, a gateway behind it
// that verifies what arrives, and a node's status beside it.

// patience is how long a test waits for something that has to happen.
const patience = 20 * time.Second

// eventually retries f until it returns nil.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	deadline := time.After(patience)
	retry := time.NewTicker(time.Millisecond)
	defer retry.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-retry.C:
		case <-deadline:
			t.Fatalf("not within %v: %v", patience, err)
		}
	}
}

// testClock is a clock that the test moves. It starts at the real time, because
// TLS and the file system know no other.
type testClock struct {
	mu      sync.Mutex
	wall    time.Time
	elapsed time.Duration
}

func newTestClock() *testClock {
	return &testClock{wall: time.Now().Round(0), elapsed: time.Hour}
}

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall, c.elapsed = c.wall.Add(d), c.elapsed+d
}

// step sets the wall clock as an operator or NTP does: no time passes.
func (c *testClock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall = c.wall.Add(d)
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wall
}

func (c *testClock) clock() clock {
	return clock{wall: c.now, elapsed: func() time.Duration {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.elapsed
	}}
}

// logBuffer keeps what an attester logs.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// lines returns the log lines with the given msg.
func (b *logBuffer) lines(t testing.TB, msg string) []map[string]any {
	t.Helper()
	var found []map[string]any
	for line := range strings.Lines(b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("log line is no JSON: %q", line)
		}
		if m["msg"] == msg {
			found = append(found, m)
		}
	}
	return found
}

// goodStatus is a status document as Wallarm documents it.
const goodStatus = `{"requests":0,"attacks":0,"blocked":0,"blocked_by_acl":0,"acl_allow_list":0,"abnormal":0,"tnt_errors":0,` +
	`"api_errors":0,"requests_lost":0,"overlimits_time":0,"segfaults":0,"memfaults":0,"softmemfaults":0,"proton_errors":0,` +
	`"time_detect":0,"db_id":73,"lom_id":102,"custom_ruleset_id":102,"custom_ruleset_ver":51,"db_apply_time":1598525865,` +
	`"lom_apply_time":1598525870,"custom_ruleset_apply_time":1598525870,"proton_instances":{"total":3,"success":3,"fallback":0,"failed":0},` +
	`"stalled_workers_count":0,"stalled_workers":[],"startid":1459972331756458216,"timestamp":1664530105.868875}`

// node is a node's status server.
type node struct {
	*httptest.Server
	document atomic.Pointer[string]
}

func startNode(t testing.TB) *node {
	n := &node{}
	n.set(goodStatus)
	n.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, *n.document.Load())
	}))
	t.Cleanup(n.Close)
	return n
}

func (n *node) set(document string) { n.document.Store(&document) }

// keySet returns a set of one key, and it as JSON.
func keySet(t testing.TB, id string, alg evidence.Algorithm) (*evidence.KeySet, string) {
	t.Helper()
	k, err := evidence.GenerateKey(id, alg)
	if err != nil {
		t.Fatal(err)
	}
	return marshalKeys(t, k)
}

func marshalKeys(t testing.TB, keys ...*evidence.Key) (*evidence.KeySet, string) {
	t.Helper()
	set, err := evidence.NewKeySet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return set, string(jwks)
}

// gate verifies requests as the gateway does: nginx joins the fields of one
// name, in every spelling, with ", ".
type gate struct {
	verifier *evidence.Verifier
	count    atomic.Int64
}

func newGate(set *evidence.KeySet, now func() time.Time) *gate {
	return &gate{verifier: &evidence.Verifier{
		Policy: evidence.Policy{MaxAge: 30 * time.Second, ClockSkew: 5 * time.Second, MinMode: evidence.ModeMonitoring, RequireActive: true, AllowUpgrade: true},
		Keys:   func() *evidence.KeySet { return set },
		Replay: evidence.NewMemoryStore(1 << 20),
		Now:    now,
	}}
}

// message collects what the evidence is made of. fields yields every header field.
func message(method, host, target string, fields func(yield func(name, value string) bool)) evidence.Message {
	values := map[string][]string{}
	fields(func(name, value string) bool {
		name = evidence.FoldHeader(name)
		values[name] = append(values[name], value)
		return true
	})
	get := func(name string) string { return strings.Join(values[evidence.FoldHeader(name)], ", ") }
	return evidence.Message{
		Method: method, Authority: host, Target: target,
		RequestID: get(evidence.HeaderRequestID), ClientIP: get(evidence.HeaderClientIP),
		Mode: get(evidence.HeaderMode), Application: get(evidence.HeaderApplication),
		Node: get(evidence.HeaderNode), Inspection: get(evidence.HeaderInspection),
		SignatureInput: get(evidence.HeaderSignatureInput), Signature: get(evidence.HeaderSignature),
	}
}

// verify returns the reason for which a gateway would refuse, "" for none. Every
// call is another request: the same nonce twice is a replay.
func (g *gate) verify(m evidence.Message, upgrade bool) (evidence.Attestation, evidence.Reason) {
	id := fmt.Sprintf("%032x", g.count.Add(1))
	return g.verifier.Verify(&evidence.Request{Message: m, ID: id, Upgrade: upgrade})
}

func (g *gate) verifyHTTP(r *http.Request) (evidence.Attestation, evidence.Reason) {
	return g.verify(message(r.Method, r.Host, r.RequestURI, func(yield func(name, value string) bool) {
		for name, values := range r.Header {
			for _, value := range values {
				yield(name, value)
			}
		}
	}), r.Header.Get("Upgrade") != "")
}

// seen is one request as it arrived at the gateway.
type seen struct {
	method, target, host string
	header, trailer      http.Header
	reason               evidence.Reason
	attestation          evidence.Attestation
	body                 string
}

// gateway is an HTTP server that verifies each request, answers 403 with the
// reason as the plugin would, and else hands it to handler.
type gateway struct {
	*httptest.Server
	gate        *gate
	handler     atomic.Pointer[http.HandlerFunc]
	connections atomic.Int64

	mu       sync.Mutex
	requests []seen
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := seen{method: r.Method, target: r.RequestURI, host: r.Host, header: r.Header.Clone()}
	s.attestation, s.reason = g.gate.verifyHTTP(r)
	if s.reason != "" {
		g.record(s)
		http.Error(w, string(s.reason), http.StatusForbidden)
		return
	}
	if h := g.handler.Load(); h != nil {
		g.record(s)
		(*h)(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.body, s.trailer = string(body), r.Trailer
	g.record(s)
	w.WriteHeader(http.StatusOK)
}

func (g *gateway) record(s seen) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests = append(g.requests, s)
}

// take returns the requests that arrived since the last call.
func (g *gateway) take() []seen {
	g.mu.Lock()
	defer g.mu.Unlock()
	taken := g.requests
	g.requests = nil
	return taken
}

func (g *gateway) handle(h http.HandlerFunc) { g.handler.Store(&h) }

// rig is a running attester with what stands around it.
type rig struct {
	t       testing.TB
	a       *attester
	clock   *testClock // nil: the system's
	log     *logBuffer
	reports *logBuffer
	node    *node
	gateway *gateway // nil if the test brings its own
	set     *evidence.KeySet
	stop    context.CancelFunc
	done    chan error // serve's result
	client  *http.Client
}

// options change a rig before it starts.
type options struct {
	env     map[string]string // without envPrefix; "-" removes
	clock   *testClock
	alg     evidence.Algorithm
	backend string // URL; empty: a gateway of the rig's own
}

func start(t testing.TB, o options) *rig {
	t.Helper()
	r := &rig{t: t, clock: o.clock, log: &logBuffer{}, reports: &logBuffer{}, node: startNode(t), done: make(chan error, 1)}
	if o.alg == "" {
		o.alg = evidence.AlgEd25519
	}
	set, jwks := keySet(t, "test-key", o.alg)
	r.set = set
	c := systemClock()
	if o.clock != nil {
		c = o.clock.clock()
	}
	if o.backend == "" {
		r.gateway = &gateway{gate: newGate(set, c.wall)}
		r.gateway.Server = httptest.NewUnstartedServer(r.gateway)
		r.gateway.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				r.gateway.connections.Add(1)
			}
		}
		r.gateway.Start()
		t.Cleanup(r.gateway.Close)
		o.backend = r.gateway.URL
	}
	env := map[string]string{
		"LISTEN": "127.0.0.1:0", "HEALTH_LISTEN": "127.0.0.1:0", "METRICS_LISTEN": "127.0.0.1:0",
		"BACKEND_URL": o.backend, "ALLOW_PLAINTEXT": "true", "SIGNING_JWKS": jwks,
		"NODE_NAME": "node-1", "NODE_STATUS_URL": r.node.URL, "STATUS_INTERVAL": "20ms",
		"RELOAD_INTERVAL": "10ms", "SHUTDOWN_DELAY": "50ms", "SHUTDOWN_TIMEOUT": "10s",
	}
	for name, value := range o.env {
		env[name] = value
	}
	var environ []string
	for name, value := range env {
		if value != "-" {
			environ = append(environ, envPrefix+name+"="+value)
		}
	}
	cmd, err := parseSettings(nil, environ)
	if err != nil {
		t.Fatal(err)
	}
	log := newLogger(r.log, slog.LevelDebug)
	if r.a, err = newAttester(&cmd.settings, log, c); err != nil {
		t.Fatal(err)
	}
	if err := r.a.listen(); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() { r.done <- r.a.serve(ctx, newLogger(r.reports, slog.LevelInfo)) }()
	r.client = &http.Client{
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       patience,
	}
	t.Cleanup(func() {
		r.stop()
		r.client.CloseIdleConnections()
		eventually(t, func() error {
			if o.clock != nil {
				o.clock.advance(time.Second) // the shutdown's delay is measured by it
			}
			select {
			case <-r.done:
				return nil
			default:
				return fmt.Errorf("the attester does not stop")
			}
		})
	})
	eventually(t, func() error {
		if r.a.watcher.inspection() != evidence.InspectionActive {
			return fmt.Errorf("not active; log:\n%s", r.log)
		}
		return nil
	})
	return r
}

// endsAll waits until no request is active and no connection to the gateway open.
func (r *rig) endsAll(t testing.TB) {
	t.Helper()
	eventually(t, func() error {
		if n, open := r.a.proxy.active.Load(), r.a.pool.open.Load(); n != 0 || open != 0 {
			return fmt.Errorf("%d requests are active, %d connections open", n, open)
		}
		return nil
	})
}

func (r *rig) addr(name string) string {
	for _, l := range r.a.listeners {
		if l.name == name {
			return l.Addr().String()
		}
	}
	r.t.Fatalf("no listener %q", name)
	return ""
}

func (r *rig) url(path string) string { return "http://" + r.addr("listen") + path }

// requestID is what the node states in the tests.
const requestID = "0123456789abcdef0123456789abcdef"

// statement is what a node adds to a request, as header lines.
const statement = "X-Wallarm-Request-Id: " + requestID + "\r\nX-Wallarm-Client-Ip: 203.0.113.7\r\n" +
	"X-Wallarm-Mode: block\r\nX-Wallarm-Application: 3\r\n"

// state adds a node's statement to a request.
func state(h http.Header) {
	h.Set(evidence.HeaderRequestID, requestID)
	h.Set(evidence.HeaderClientIP, "203.0.113.7")
	h.Set(evidence.HeaderMode, "block")
	h.Set(evidence.HeaderApplication, "3")
}

// request makes a request as the node sends it.
func (r *rig) request(method, path string, body io.Reader) *http.Request {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url(path), body)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Host = "api.example.com"
	state(req.Header)
	return req
}

// do sends a request and reads the answer to its end.
func (r *rig) do(req *http.Request) (*http.Response, string) {
	r.t.Helper()
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, string(body)
}

func (r *rig) get(path string) (*http.Response, string) {
	r.t.Helper()
	return r.do(r.request("GET", path, nil))
}

// health asks the health listener.
func (r *rig) health(path string) (int, string) {
	r.t.Helper()
	res, err := r.client.Get("http://" + r.addr("health_listen") + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// metric returns the value of one series as /metrics shows it.
func (r *rig) metric(series string) string {
	r.t.Helper()
	res, err := r.client.Get("http://" + r.addr("metrics_listen") + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// raw sends bytes as they are, and returns the answer's code and body.
func (r *rig) raw(bytes string) (int, string, error) {
	conn, err := net.Dial("tcp", r.addr("listen"))
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, bytes); err != nil {
		return 0, "", err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

// head is one request as raw bytes.
type head struct {
	line   string
	fields [][2]string
}

func (h *head) all(name string) (values []string) {
	for _, f := range h.fields {
		if f[0] == name {
			values = append(values, f[1])
		}
	}
	return values
}

// readHead reads a request's head without judging it.
func readHead(r *bufio.Reader) (*head, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	h := &head{line: strings.TrimSuffix(line, "\r\n")}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		line = strings.TrimSuffix(line, "\r\n")
		if line == "" {
			return h, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("header line without colon: %q", line)
		}
		h.fields = append(h.fields, [2]string{name, strings.TrimPrefix(value, " ")})
	}
}

// message returns what a gateway sees of the head.
func (h *head) message() (evidence.Message, error) {
	method, rest, ok := strings.Cut(h.line, " ")
	target, version, ok2 := cutLast(rest, " ")
	if !ok || !ok2 || version != "HTTP/1.1" {
		return evidence.Message{}, fmt.Errorf("request line %q", h.line)
	}
	return message(method, strings.Join(h.all("Host"), ", "), target, func(yield func(name, value string) bool) {
		for _, f := range h.fields {
			yield(f[0], f[1])
		}
	}), nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// rawBackend accepts connections and hands each, with its number from 1, to
// serve, which ends when the connection should be closed.
func rawBackend(t testing.TB, serve func(number int, c net.Conn, r *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(2 * patience))
				serve(n, c, bufio.NewReader(c))
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// writeFile puts content into place at once, as a well-behaved tool does.
func writeFile(t testing.TB, name, content string) {
	t.Helper()
	temporary := filepath.Join(filepath.Dir(name), ".new-"+filepath.Base(name))
	if err := os.WriteFile(temporary, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temporary, name); err != nil {
		t.Fatal(err)
	}
}
