package node

// The whole way, of real processes: nginx with the OWASP CRS stand-in, the
// attester, the gateway with the Kong plugin, and the upstream. What the node
// inspected, what was signed and what the upstream got are compared.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

// built is the directory of the binaries, once there is one.
var built string

// build builds the attester and the plugin once.
var build = sync.OnceValue(func() error {
	var err error
	if built, err = os.MkdirTemp("", "node"); err != nil {
		return err
	}
	for name, pkg := range map[string]string{"attester": "../attester", "wallarm-gate": "../../plugin"} {
		if out, err := exec.Command("go", "build", "-o", filepath.Join(built, name), pkg).CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
})

const (
	statusActive   = `{"requests":1,"db_id":71,"lom_id":102,"custom_ruleset_id":102,"proton_instances":{"total":2,"success":2,"fallback":0,"failed":0},"stalled_workers_count":0,"stalled_workers":[]}`
	statusFallback = `{"requests":1,"db_id":71,"lom_id":102,"custom_ruleset_id":102,"proton_instances":{"total":2,"success":1,"fallback":1,"failed":0},"stalled_workers_count":0,"stalled_workers":[]}`
)

// chain is the whole way of a request.
type chain struct {
	*nginx
	upstream *recorder
	gateway  string // its address

	mu   sync.Mutex
	last pluginhost.Observation
}

func startChain(t *testing.T, mode string, relaxed bool) *chain {
	t.Helper()
	nginxBinary(t)
	needModSecurity(t)
	c := &chain{upstream: newRecorder(t)}
	signing := c.startGateway(t, mode)

	// nginx, then the attester, which reads the status behind nginx's port.
	attester := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	c.nginx = start(t, attester, true, func(s *Settings) { s.Mode, s.AllowDotSegments = mode, relaxed })
	c.status(t, statusActive)
	c.startAttester(t, attester, signing, fmt.Sprintf("http://127.0.0.8:%d/wallarm-status", c.port))
	return c
}

// startGateway starts the gateway with the plugin in it and returns the JWK Set
// whose evidence it accepts.
func (c *chain) startGateway(t testing.TB, mode string) (signing string) {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	key, err := evidence.GenerateKey("edge-1", evidence.AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.Public()
	if err != nil {
		t.Fatal(err)
	}
	verifying := keySet(t, public)

	socket, err := os.MkdirTemp("", "gate") // short: the path of a socket is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(socket) })
	plugin := filepath.Join(built, "wallarm-gate")
	host, err := pluginhost.Start(ctx, pluginhost.Options{
		Binary: plugin, Prefix: socket, MaxEvents: 100,
		StartCmd: shellLine(bound(syscall.SIGKILL, plugin, "-kong-prefix", socket)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	if err := host.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	evidenceConf, err := os.ReadFile("../../plugin/nginx/evidence.conf")
	if err != nil {
		t.Fatal(err)
	}
	echo := httpBackend(t, upstreamApplication)
	gate := func(more map[string]any) []pluginhost.Plugin {
		config := map[string]any{"jwks": verifying, "min_mode": mode, "log": "all"}
		for k, v := range more {
			config[k] = v
		}
		return []pluginhost.Plugin{{Name: "wallarm-gate", Config: config}}
	}
	gateway, err := pluginhost.NewGateway(host, pluginhost.Config{
		Plugins: gate(nil),
		Services: []pluginhost.Service{
			{Name: "recorder", URL: "http://" + c.upstream.addr, Routes: []pluginhost.Route{{Name: "all", Paths: []string{"/"}, PreserveHost: true}}},
			{Name: "application", URL: "http://" + echo, Routes: []pluginhost.Route{
				{Name: "events", Paths: []string{"/app/events"}},
				{Name: "ws", Paths: []string{"/app/ws"}, Plugins: gate(map[string]any{"allow_upgrade": true})},
				{Name: "no-ws", Paths: []string{"/app/no-ws"}},
			}},
		},
	}, pluginhost.Settings{Nginx: evidenceConf, Observer: func(o pluginhost.Observation) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.last = o
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gateway.Close() })
	addr, err := gateway.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.gateway = addr.String()
	return keySet(t, key)
}

// shellLine quotes a command line for sh.
func shellLine(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

// startAttester starts the attester before the gateway and waits until it is ready.
func (c *chain) startAttester(t testing.TB, listen, signing, statusURL string) {
	t.Helper()
	health := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	var log bytes.Buffer
	line := bound(syscall.SIGKILL, filepath.Join(built, "attester"))
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Env = []string{
		"ATTESTER_LISTEN=" + listen, "ATTESTER_HEALTH_LISTEN=" + health,
		"ATTESTER_BACKEND_URL=http://" + c.gateway, "ATTESTER_ALLOW_PLAINTEXT=true",
		"ATTESTER_SIGNING_JWKS=" + signing, "ATTESTER_NODE_NAME=task-1",
		"ATTESTER_NODE_STATUS_URL=" + statusURL,
		"ATTESTER_STATUS_INTERVAL=20ms", "ATTESTER_STATUS_MAX_AGE=30s",
		"ATTESTER_SHUTDOWN_DELAY=0s", "ATTESTER_SHUTDOWN_TIMEOUT=1s",
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-done
		if t.Failed() {
			t.Logf("attester:\n%s", tail(log.String(), 3000))
		}
	})
	eventually(t, "the attester is ready", func() bool {
		select {
		case err := <-done:
			done <- err
			t.Fatalf("the attester ended: %v\n%s", err, log.String())
		default:
		}
		resp, err := http.Get("http://" + health + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	})
}

// upstreamApplication is an application behind the gateway: events and an echo.
func upstreamApplication(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/events") {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done() // the rest never comes; the client goes away
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	for {
		kind, data, err := ws.Read(r.Context())
		if err != nil || ws.Write(r.Context(), kind, data) != nil {
			return
		}
	}
}

func keySet(t testing.TB, k *evidence.Key) string {
	t.Helper()
	set, err := evidence.NewKeySet(k)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// status replaces the node's status at once, so that no reading sees half.
func (c *chain) status(t *testing.T, document string) {
	t.Helper()
	c.write(t, "status.new", []byte(document))
	if err := os.Rename(filepath.Join(c.dir, "status.new"), filepath.Join(c.dir, "status.json")); err != nil {
		t.Fatal(err)
	}
}

// take returns what the gateway saw since the last take, if anything.
func (c *chain) take() pluginhost.Observation {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.last
	c.last = pluginhost.Observation{}
	return o
}

// arrived holds one request that was let through to what it must be everywhere.
func (c *chain) arrived(t *testing.T, trace, target string, o pluginhost.Observation) seen {
	t.Helper()
	decision, _ := o.Serialized["wallarm_gate"].(map[string]any)
	if decision["decision"] != "allow" || o.Target != target {
		t.Fatalf("the gateway got %q and decided %v; sent was %q", o.Target, decision, target)
	}
	if o.Events != 1 || o.RoundTrips == 0 {
		t.Errorf("%d events, %d round trips", o.Events, o.RoundTrips)
	}
	got := c.upstream.find(trace)
	if len(got) != 1 {
		t.Fatalf("the upstream got it %d times", len(got))
	}
	if got[0].target() != o.UpstreamTarget {
		t.Errorf("the gateway sent %q, the upstream got %q", o.UpstreamTarget, got[0].target())
	}
	e := c.logged(t, trace)
	if e["target"] != target || e["host"] != nodeName || !strings.EqualFold(o.Host, nodeName) {
		t.Errorf("inspected %v for %v, signed for %s", e["target"], e["host"], o.Host)
	}
	// The evidence goes on, as the node and the attester stated it, the proof not.
	for name, want := range map[string]string{
		evidence.HeaderRequestID: e["request_id"].(string), evidence.HeaderClientIP: e["client_ip"].(string),
		evidence.HeaderMode: e["mode"].(string), evidence.HeaderApplication: "-1",
		evidence.HeaderNode: "task-1", evidence.HeaderInspection: "active",
		evidence.HeaderSignature: "", evidence.HeaderSignatureInput: "", evidence.HeaderToken: "",
	} {
		if v := strings.Join(got[0].values(name), "|"); v != want {
			t.Errorf("the upstream got %s: %q, want %q", name, v, want)
		}
	}
	return got[0]
}

// pathAndQuery is a target as an application reads it.
func pathAndQuery(t *testing.T, target string) (path, query string) {
	t.Helper()
	path, query, _ = strings.Cut(target, "?")
	path, err := url.PathUnescape(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, query
}

func TestChainTargets(t *testing.T) {
	t.Parallel()
	for _, relaxed := range []bool{false, true} {
		t.Run(map[bool]string{false: "strict", true: "relaxed"}[relaxed], func(t *testing.T) {
			t.Parallel()
			c := startChain(t, "monitoring", relaxed)
			for i, tc := range targetCases() {
				t.Run(tc.name, func(t *testing.T) {
					want := tc.want
					if relaxed {
						want = tc.relaxed
					}
					if tc.router != 0 {
						want = tc.router
					}
					trace := fmt.Sprintf("chain-%v-%d", relaxed, i)
					c.take()
					resp, _, err := c.exchange(t, albIP, "GET "+tc.target+" HTTP/1.1\r\nHost: GOOD.example:443\r\nX-Amzn-Trace-Id: "+trace+"\r\nX-Forwarded-For: 198.51.100.7\r\nConnection: close\r\n\r\n")
					if err != nil || resp.StatusCode != want {
						t.Fatalf("got %v, %v, want %d", resp, err, want)
					}
					o := c.take()
					if want != 200 {
						if (o.RequestID != "") != (tc.router != 0) || len(c.upstream.find(trace)) != 0 {
							t.Errorf("refused, and still went on: %+v", o)
						}
						return
					}
					got := c.arrived(t, trace, tc.target, o)
					if relaxed {
						return // the node's and the gateway's normal forms differ: that is the risk of it
					}
					path, query := pathAndQuery(t, got.target())
					e := c.logged(t, trace)
					if query != e["query"] || isASCII(path) && path != e["path"] {
						t.Errorf("inspected %v ? %v, the upstream got %q", e["path"], e["query"], got.target())
					}
				})
			}
			// Longer than Kong reads: refused there, and never half.
			trace := fmt.Sprintf("chain-%v-long", relaxed)
			resp, _, err := c.exchange(t, albIP, "GET /a?b="+strings.Repeat("x", 9000)+" HTTP/1.1\r\nHost: "+nodeName+"\r\nX-Amzn-Trace-Id: "+trace+"\r\nConnection: close\r\n\r\n")
			if err != nil || resp.StatusCode != 414 || len(c.upstream.find(trace)) != 0 {
				t.Errorf("9 kB target: %v, %v", resp, err)
			}
		})
	}
}

func TestChain(t *testing.T) {
	t.Parallel()
	c := startChain(t, "block", false)
	const rest = "\r\nHost: " + nodeName + "\r\nUser-Agent: test\r\nAccept: */*\r\nX-Forwarded-For: 10.9.9.9, 198.51.100.7\r\n"

	for i, tc := range []struct {
		name, line, head, body string
		want                   int
		size                   int
	}{
		{name: "plain", line: "GET /v1/orders?limit=3 HTTP/1.1", want: 200},
		{name: "HTTP/1.0", line: "GET /v1/orders HTTP/1.0", want: 200},
		{name: "HEAD", line: "HEAD /v1/orders HTTP/1.1", want: 200},
		{name: "Latin-1 cookie", line: "GET /x HTTP/1.1", head: "Cookie: name=caf\xe9\r\n", want: 200},
		{name: "form", line: "POST /v1/orders HTTP/1.1", head: "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n", body: "a=1", want: 200, size: 3},
		{name: "chunked", line: "POST /v1/orders HTTP/1.1", head: "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n", body: "2\r\n{}\r\n0\r\n\r\n", want: 200, size: 2},
		{name: "10 MB", line: "POST /v1/orders HTTP/1.1", head: "Content-Type: application/json\r\nContent-Length: 10000000\r\n", body: `"` + strings.Repeat("x", 9_999_998) + `"`, want: 200, size: 10_000_000},
		{name: "Connection takes nothing away", line: "GET /x HTTP/1.1", head: "Connection: x-wallarm-mode, X-Wallarm-Request-Id, close\r\n", want: 200},
		{name: "SQL injection", line: "GET /x?sqli=union+select+1 HTTP/1.1", want: 403},
		{name: "traversal in an argument", line: "GET /x?f=..%2f..%2fetc%2fpasswd HTTP/1.1", want: 403},
		{name: "script", line: "GET /x?q=%3Cscript%3Ealert(1)%3C/script%3E HTTP/1.1", want: 403},
		{name: "script behind a hash", line: "GET /public#?q=<script>alert(1)</script> HTTP/1.1", want: 400},
		{name: "absolute-form", line: "GET http://evil.example/x HTTP/1.1", want: 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			trace := fmt.Sprintf("whole-%d", i)
			c.take()
			conn := c.dial(t, albIP)
			go io.WriteString(conn, tc.line+rest+"X-Amzn-Trace-Id: "+trace+"\r\n"+tc.head+"\r\n"+tc.body)
			method, after, _ := strings.Cut(tc.line, " ")
			resp, _, err := readResponse(t, bufio.NewReader(conn), method)
			if err != nil || resp.StatusCode != tc.want {
				t.Fatalf("got %v, %v, want %d", resp, err, tc.want)
			}
			o := c.take()
			if tc.want != 200 {
				if o.RequestID != "" || len(c.upstream.find(trace)) != 0 {
					t.Errorf("stopped, and still came to the gateway: %+v", o)
				}
				return
			}
			target, _, _ := strings.Cut(after, " ")
			got := c.arrived(t, trace, target, o)
			if got.body != tc.size {
				t.Errorf("the upstream got a body of %d bytes, want %d", got.body, tc.size)
			}
			if v := got.values(evidence.HeaderClientIP); len(v) != 1 || v[0] != "198.51.100.7" {
				t.Errorf("client stated as %q", v)
			}
		})
	}

	t.Run("forged evidence", func(t *testing.T) {
		for spelling, spell := range map[string]func(string) string{
			"canonical": func(s string) string { return s }, "lower": strings.ToLower,
			"underscores": func(s string) string { return strings.ReplaceAll(s, "-", "_") },
			"mixed":       func(s string) string { return strings.Replace(s, "-", "_", 1) },
		} {
			trace := "whole-forged-" + spelling
			var forged strings.Builder
			for _, name := range evidence.Headers() {
				fmt.Fprintf(&forged, "%s: forged\r\n", spell(name))
			}
			c.take()
			resp, _, err := c.exchange(t, albIP, "GET /x HTTP/1.1"+rest+"X-Amzn-Trace-Id: "+trace+"\r\n"+forged.String()+"Connection: close\r\n\r\n")
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("%s: %v, %v", spelling, resp, err)
			}
			for _, f := range c.arrived(t, trace, "/x", c.take()).fields {
				if f[1] == "forged" {
					t.Errorf("%s: the upstream got the client's %s", spelling, f[0])
				}
			}
		}
	})

	t.Run("past the edge", func(t *testing.T) {
		conn, err := net.Dial("tcp", c.gateway)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "GET /x HTTP/1.1\r\nHost: %s\r\nX-Amzn-Trace-Id: direct\r\n\r\n", nodeName)
		resp, _, err := readResponse(t, bufio.NewReader(conn), "GET")
		if err != nil || resp.StatusCode != 403 || len(c.upstream.find("direct")) != 0 {
			t.Errorf("%v, %v", resp, err)
		}
	})

	t.Run("100-continue", func(t *testing.T) {
		conn := c.dial(t, albIP)
		fmt.Fprint(conn, "POST /x HTTP/1.1"+rest+"X-Amzn-Trace-Id: whole-expect\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n")
		br := bufio.NewReader(conn)
		if line, err := br.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
			t.Fatalf("%q, %v", line, err)
		}
		br.ReadString('\n')
		fmt.Fprint(conn, "{}")
		resp, _, err := readResponse(t, br, "POST")
		if got := c.upstream.find("whole-expect"); err != nil || resp.StatusCode != 200 || len(got) != 1 || got[0].body != 2 {
			t.Fatalf("%v, %v, %+v", resp, err, got)
		}
	})

	t.Run("smuggling", func(t *testing.T) {
		inner := "GET /smuggled HTTP/1.1\r\nHost: " + nodeName + "\r\nX-Amzn-Trace-Id: smuggled\r\n\r\n"
		for _, attempt := range []string{
			fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", 5+len(inner), inner),
			fmt.Sprintf("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(inner), inner),
			fmt.Sprintf("Transfer-Encoding: xchunked\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner),
			fmt.Sprintf("Transfer_Encoding: chunked\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner),
			fmt.Sprintf("X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner),
			fmt.Sprintf("X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner),
		} {
			conn := c.dial(t, albIP)
			io.WriteString(conn, "POST /outer HTTP/1.1"+rest+"Content-Type: text/plain\r\n"+attempt)
			readResponse(t, bufio.NewReader(conn), "POST")
		}
		if got := c.upstream.find("smuggled"); len(got) != 0 {
			t.Errorf("the hidden request arrived: %+v", got)
		}
	})

	t.Run("server-sent events", func(t *testing.T) {
		req, err := http.NewRequest("GET", "http://"+nodeName+"/app/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "data: 1\n" {
			t.Errorf("%q, %v", line, err)
		}
	})

	t.Run("WebSocket", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		ws, resp, err := websocket.Dial(ctx, "ws://"+nodeName+"/app/ws", &websocket.DialOptions{HTTPClient: c.client()})
		if err != nil {
			t.Fatalf("%v: %+v", err, resp)
		}
		defer ws.CloseNow()
		for _, msg := range []string{"a", strings.Repeat("b", 20_000)} {
			if err := ws.Write(ctx, websocket.MessageText, []byte(msg)); err != nil {
				t.Fatal(err)
			}
			if _, got, err := ws.Read(ctx); err != nil || string(got) != msg {
				t.Fatalf("echo of %d bytes: %d bytes, %v", len(msg), len(got), err)
			}
		}
		// Where the policy does not allow it the gateway refuses.
		if _, resp, err := websocket.Dial(ctx, "ws://"+nodeName+"/app/no-ws", &websocket.DialOptions{HTTPClient: c.client()}); err == nil || resp == nil || resp.StatusCode != 403 {
			t.Errorf("%v: %+v", err, resp)
		}
	})

	// Last: the node stops inspecting, and says so itself.
	t.Run("not inspected", func(t *testing.T) {
		get := func() int {
			resp, _, err := c.exchange(t, albIP, "GET /x HTTP/1.1"+rest+"Connection: close\r\n\r\n")
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode
		}
		c.status(t, statusFallback)
		eventually(t, "a node in fallback is refused", func() bool { return get() == 403 })
		if v, _ := c.take().Serialized["wallarm_gate"].(map[string]any); v["reason"] != string(evidence.ReasonNotInspected) {
			t.Errorf("refused as %v", v)
		}
		c.status(t, statusActive)
		eventually(t, "a node that inspects again is let through", func() bool { return get() == 200 })
	})
}
