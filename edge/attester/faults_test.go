package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func TestBackendDown(t *testing.T) {
	t.Parallel()
	addr, listen := reservePort(t)
	r := start(t, options{backend: "http://" + addr, env: map[string]string{"READY_CHECKS_BACKEND": "true"}})
	if res, body := r.get("/"); res.StatusCode != 502 || !strings.Contains(body, "could not be reached") {
		t.Errorf("answer %d %q", res.StatusCode, body)
	}
	if got := r.metric(`wallarm_attester_backend_errors_total{kind="dial"}`); got != "1" {
		t.Errorf("backend_errors_total of dial is %s", got)
	}
	if code, body := r.health("/readyz"); code != 503 || !strings.Contains(body, "accepts no connection") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	// The gateway comes up at the same address.
	l := listen()
	go http.Serve(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(func() { l.Close() })
	eventually(t, func() error {
		if code, body := r.health("/readyz"); code != 200 {
			return fmt.Errorf("/readyz: %d %s", code, body)
		}
		return nil
	})
	if res, _ := r.get("/"); res.StatusCode != 200 {
		t.Errorf("answer %d once the gateway is up", res.StatusCode)
	}
}

// reservePort binds a port of its own that refuses connections until listen is
// called: nobody else can take it in between.
func reservePort(t *testing.T) (addr string, listen func() net.Listener) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "reserved port")
	t.Cleanup(func() { file.Close() })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr = fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	return addr, func() net.Listener {
		t.Helper()
		if err := syscall.Listen(fd, 16); err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(file)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
}

func TestBackendSlow(t *testing.T) {
	t.Parallel()
	backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			io.Copy(io.Discard, r) // never answers
		}
	})
	r := start(t, options{backend: backend, env: map[string]string{"RESPONSE_TIMEOUT": "50ms"}})
	for _, method := range []string{"GET", "POST"} {
		if res, body := r.do(r.request(method, "/", nil)); res.StatusCode != 504 {
			t.Errorf("%s: answer %d %q, want 504", method, res.StatusCode, body)
		}
	}
	if got := r.metric(`wallarm_attester_backend_errors_total{kind="timeout"}`); got != "2" {
		t.Errorf("backend_errors_total of timeout is %s", got)
	}
	if got := r.metric("wallarm_attester_retries_total"); got != "0" {
		t.Errorf("%s retries of a request that the gateway may be working on", got)
	}
}

// TestBackendDialHangs: a gateway that takes no connection costs the dial timeout.
func TestBackendDialHangs(t *testing.T) {
	t.Parallel()
	// A TLS handshake that nobody answers hangs as a lost SYN does.
	backend := rawBackend(t, func(_ int, _ net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
	r := start(t, options{backend: strings.Replace(backend, "http:", "https:", 1), env: map[string]string{"DIAL_TIMEOUT": "50ms"}})
	if res, body := r.get("/"); res.StatusCode != 504 {
		t.Errorf("answer %d %q, want 504", res.StatusCode, body)
	}
}

// TestBackendBreaks: what a gateway does to a response that it has begun.
func TestBackendBreaks(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, answer string
		code         int // 0: no whole answer may reach the client
	}{
		{"closes without a byte", "", 502},
		{"closes in the header", "HTTP/1.1 200 OK\r\nContent-Le", 502},
		{"no HTTP", "SSH-2.0-OpenSSH\r\n", 502},
		{"bad length", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", 502},
		{"bad status", "HTTP/1.1 20x OK\r\n\r\n", 502},
		{"endless header", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 300<<10), 502},
		{"unasked upgrade", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", 502},
		{"closes in the body", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this", 0},
		{"closes in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nonly", 0},
		{"closes before the last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\n", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
				if _, err := readHead(r); err != nil {
					return
				}
				requests.Add(1)
				io.WriteString(c, tt.answer)
				c.(*net.TCPConn).SetLinger(0) // a reset, not an orderly end
			})
			r := start(t, options{backend: backend})
			code, body, err := r.raw("GET /a HTTP/1.1\r\nHost: a\r\n" + statement + "\r\n")
			switch {
			case tt.code == 0 && err == nil:
				t.Errorf("answer %d %q looks whole", code, body)
			case tt.code != 0 && (err != nil || code != tt.code):
				t.Errorf("answer %d %q, %v; want %d", code, body, err, tt.code)
			}
			// A new connection that breaks is no idle one: nothing is sent again.
			if n := requests.Load(); n != 1 {
				t.Errorf("%d requests arrived, want 1", n)
			}
			eventually(t, func() error {
				if n := r.a.pool.open.Load(); n != 0 {
					return fmt.Errorf("%d connections are left open", n)
				}
				return nil
			})
		})
	}
}

// TestIdleConnectionBreaks: the gateway closes a connection at the moment at
// which the next request is written to it. A request that may be repeated is
// signed anew and sent once more, under another nonce; any other is not.
func TestIdleConnectionBreaks(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, method, body string
		retried            bool
	}{
		{"GET", "GET", "", true},
		{"HEAD", "HEAD", "", true},
		{"OPTIONS", "OPTIONS", "", true},
		{"TRACE", "TRACE", "", true},
		{"PUT without body", "PUT", "", true},
		{"DELETE", "DELETE", "", true},
		{"POST without body", "POST", "", false},
		{"PATCH without body", "PATCH", "", false},
		{"unknown method", "LOCK", "", false},
		{"PUT with body", "PUT", "hello", false},
		{"POST with body", "POST", "hello", false},
		{"GET with body", "GET", "hello", false},
	}
	for _, tt := range tests {
		for _, hint := range []string{"", "Idempotency-Key", "X-Idempotency-Key"} {
			t.Run(strings.TrimSpace(tt.name+" "+hint), func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex
				var gate *gate
				var reasons []evidence.Reason
				verify := func(h *head) {
					mu.Lock()
					defer mu.Unlock()
					m, err := h.message()
					if err != nil {
						t.Errorf("%v", err)
						return
					}
					_, reason := gate.verify(m, false)
					reasons = append(reasons, reason)
				}
				backend := rawBackend(t, func(number int, c net.Conn, r *bufio.Reader) {
					for i := 0; ; i++ {
						h, err := readHead(r)
						if err != nil {
							return
						}
						verify(h)
						if number == 1 && i == 1 {
							// The first connection reads its second request and resets.
							c.(*net.TCPConn).SetLinger(0)
							return
						}
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				})
				r := start(t, options{backend: backend})
				mu.Lock()
				gate = newGate(r.set, time.Now)
				mu.Unlock()
				r.get("/first")
				var body io.Reader
				if tt.body != "" {
					body = strings.NewReader(tt.body)
				}
				req := r.request(tt.method, "/second", body)
				if hint != "" {
					req.Header.Set(hint, "1") // net/http would repeat any method
				}
				res, _ := r.do(req)
				want, code := 2, 502
				if tt.retried {
					want, code = 3, 200
				}
				if res.StatusCode != code {
					t.Errorf("answer %d, want %d", res.StatusCode, code)
				}
				mu.Lock()
				defer mu.Unlock()
				if len(reasons) != want {
					t.Errorf("%d requests arrived, want %d", len(reasons), want)
				}
				for i, reason := range reasons {
					if reason != "" {
						t.Errorf("request %d: %s", i+1, reason)
					}
				}
			})
		}
	}
}

// TestRetryIsBounded: a gateway that breaks every connection at its second
// request, and every new one at once, gets a request twice and not more.
func TestRetryIsBounded(t *testing.T) {
	t.Parallel()
	var arrived atomic.Int64
	backend := rawBackend(t, func(number int, c net.Conn, r *bufio.Reader) {
		for i := 0; ; i++ {
			if _, err := readHead(r); err != nil {
				return
			}
			arrived.Add(1)
			if number > 1 || i == 1 {
				c.(*net.TCPConn).SetLinger(0)
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	r := start(t, options{backend: backend})
	r.get("/first")
	if res, _ := r.get("/second"); res.StatusCode != 502 {
		t.Errorf("answer %d, want 502", res.StatusCode)
	}
	if n := arrived.Load(); n != 3 {
		t.Errorf("%d requests arrived, want 3: the first, the second and its one retry", n)
	}
}

// TestIdleConnectionsCloseUnderLoad: the gateway ends connections after a few
// requests without saying so. No request may fail, no nonce may come twice.
func TestIdleConnectionsCloseUnderLoad(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	refused := map[evidence.Reason]int{}
	ready := make(chan *gate, 1)
	var once sync.Once
	var gate *gate
	backend := rawBackend(t, func(number int, c net.Conn, r *bufio.Reader) {
		once.Do(func() { gate = <-ready })
		for range 3 + number%5 {
			h, err := readHead(r)
			if err != nil {
				return
			}
			m, err := h.message()
			if err != nil {
				t.Errorf("%v", err)
				return
			}
			if _, reason := gate.verify(m, false); reason != "" {
				mu.Lock()
				refused[reason]++
				mu.Unlock()
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
		if number%2 == 0 {
			c.(*net.TCPConn).SetLinger(0)
		}
	})
	r := start(t, options{backend: backend, alg: evidence.AlgHMACSHA256})
	ready <- newGate(r.set, time.Now)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				res, err := r.client.Do(r.request("GET", "/a", nil))
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode != 200 || string(body) != "ok" {
					t.Errorf("answer %d %q", res.StatusCode, body)
				}
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(refused) != 0 {
		t.Errorf("refused: %v", refused)
	}
}

// TestNodeStatusLost: the attester goes on signing, says so, and is not ready.
func TestNodeStatusLost(t *testing.T) {
	t.Parallel()
	r := start(t, options{env: map[string]string{"STATUS_MAX_AGE": "100ms", "NODE_STOP_TIMEOUT": "0s"}})
	if code, body := r.health("/readyz"); code != 200 {
		t.Fatalf("/readyz: %d %s", code, body)
	}
	r.node.set("not JSON")
	eventually(t, func() error {
		if code, body := r.health("/readyz"); code != 503 || !strings.Contains(body, "unknown") {
			return fmt.Errorf("/readyz: %d %s", code, body)
		}
		return nil
	})
	if res, body := r.get("/"); res.StatusCode != 403 || strings.TrimSpace(body) != "not_inspected" {
		t.Errorf("answer %d %q, want the gateway's 403 not_inspected", res.StatusCode, body)
	}
	if got := r.gateway.take()[0].attestation.Inspection; got != evidence.InspectionUnknown {
		t.Errorf("evidence says %s", got)
	}
	r.node.set(strings.Replace(goodStatus, `"fallback":0`, `"fallback":1`, 1))
	eventually(t, func() error {
		if code, body := r.health("/readyz"); code != 503 || !strings.Contains(body, "degraded") {
			return fmt.Errorf("/readyz: %d %s", code, body)
		}
		return nil
	})
	r.node.set(goodStatus)
	eventually(t, func() error {
		if code, body := r.health("/readyz"); code != 200 {
			return fmt.Errorf("/readyz: %d %s", code, body)
		}
		return nil
	})
	if res, body := r.get("/"); res.StatusCode != 200 {
		t.Errorf("answer %d %q", res.StatusCode, body)
	}
	if code, _ := r.health("/livez"); code != 200 {
		t.Errorf("/livez: %d", code)
	}
}

// TestNodeDrains: once the status port is closed, requests that the node still
// sends are inspected ones, for as long as the node may take to stop.
func TestNodeDrains(t *testing.T) {
	t.Parallel()
	c := newTestClock()
	r := start(t, options{clock: c, env: map[string]string{"STATUS_MAX_AGE": "10s", "NODE_STOP_TIMEOUT": "120s"}})
	r.node.Close()
	eventually(t, func() error {
		r.a.watcher.mu.Lock()
		defer r.a.watcher.mu.Unlock()
		if !r.a.watcher.belief.draining {
			return fmt.Errorf("the closed port has not been seen")
		}
		return nil
	})
	for _, tt := range []struct {
		after time.Duration
		code  int
	}{{0, 200}, {11 * time.Second, 200}, {109 * time.Second, 200}, {time.Second, 403}} {
		c.advance(tt.after)
		if res, body := r.get("/"); res.StatusCode != tt.code {
			t.Errorf("%v later: answer %d %q, want %d", tt.after, res.StatusCode, body, tt.code)
		}
	}
}

// TestClockIsStepped: a stepped wall clock changes what is signed and which key
// is active. Ages of readings and connections do not know it.
func TestClockIsStepped(t *testing.T) {
	t.Parallel()
	c := newTestClock()
	r := start(t, options{clock: c})
	r.get("/")
	for _, step := range []time.Duration{time.Hour, -3 * time.Hour, 2 * time.Hour} {
		c.step(step)
		if res, body := r.get("/"); res.StatusCode != 200 {
			t.Errorf("after a step of %v: answer %d %q", step, res.StatusCode, body)
		}
		got := r.gateway.take()
		last := got[len(got)-1].attestation
		if !last.Created.Equal(c.now().Truncate(time.Second)) || last.Inspection != evidence.InspectionActive {
			t.Errorf("after a step of %v: created %v, %s; the clock says %v", step, last.Created, last.Inspection, c.now())
		}
	}
	if n := r.gateway.connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1: none has aged", n)
	}
}

// TestConnectionsAge: a connection takes no request after its largest age, so
// that new addresses of the gateway get traffic; idle ones are closed as well.
func TestConnectionsAge(t *testing.T) {
	t.Parallel()
	c := newTestClock()
	r := start(t, options{clock: c, env: map[string]string{"CONNECTION_MAX_AGE": "30s", "IDLE_TIMEOUT": "20s"}})
	want := func(step time.Duration, n int64) {
		t.Helper()
		c.advance(step)
		r.get("/")
		if got := r.gateway.connections.Load(); got != n {
			t.Errorf("%d connections, want %d", got, n)
		}
	}
	want(0, 1)
	want(19*time.Second, 1)
	want(7*time.Second, 1)  // 26 s old: within 0.9 of the age at least
	want(4*time.Second, 2)  // 30 s old
	want(20*time.Second, 3) // idle for 20 s
	c.advance(20 * time.Second)
	r.a.pool.sweep()
	if n := r.a.pool.open.Load(); n != 0 {
		t.Errorf("%d connections are open after the idle time", n)
	}
}

// TestAgeDoesNotCut: a response that runs longer than the connection may live
// runs to its end.
func TestAgeDoesNotCut(t *testing.T) {
	t.Parallel()
	c := newTestClock()
	r := start(t, options{clock: c})
	begun, goOn := make(chan struct{}), make(chan struct{})
	r.gateway.handle(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "begin ")
		http.NewResponseController(w).Flush()
		close(begun)
		<-goOn
		io.WriteString(w, "end")
	})
	go func() {
		<-begun
		c.advance(5 * time.Second) // the status stays fresh
		c.advance(time.Hour)
		r.a.pool.sweep()
		close(goOn)
	}()
	if res, body := r.get("/"); res.StatusCode != 200 || body != "begin end" {
		t.Errorf("answer %d %q", res.StatusCode, body)
	}
	eventually(t, func() error {
		if n := r.a.pool.open.Load(); n != 0 {
			return fmt.Errorf("%d connections are open, the old one was kept", n)
		}
		return nil
	})
}

func TestMaxIdleConnections(t *testing.T) {
	t.Parallel()
	r := start(t, options{env: map[string]string{"MAX_IDLE_CONNECTIONS": "2"}})
	const n = 6
	var inside sync.WaitGroup
	inside.Add(n)
	r.gateway.handle(func(http.ResponseWriter, *http.Request) {
		inside.Done()
		inside.Wait() // all at once
	})
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() { r.get("/") })
	}
	wg.Wait()
	eventually(t, func() error {
		if open := r.a.pool.open.Load(); open != 2 {
			return fmt.Errorf("%d connections are kept, want 2", open)
		}
		return nil
	})
}

// TestStopUnderLoad: after the signal readiness drops, and a balancer that
// follows it sees no request fail.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	r := start(t, options{env: map[string]string{"SHUTDOWN_DELAY": "100ms"}})
	r.gateway.handle(func(w http.ResponseWriter, req *http.Request) {
		io.WriteString(w, "begin ")
		http.NewResponseController(w).Flush()
		if req.URL.Path == "/slow" {
			eventually(t, func() error {
				if !r.a.ready.stopping.Load() {
					return fmt.Errorf("not stopping")
				}
				return nil
			})
		}
		io.WriteString(w, "end")
	})
	var wg sync.WaitGroup
	var sent, failed, afterStop atomic.Int64
	for worker := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				if code, _ := r.health("/readyz"); code != 200 {
					// The balancer still has a few on their way.
					for range 5 {
						if res, body := r.get("/late"); res.StatusCode != 200 || body != "begin end" {
							failed.Add(1)
						}
						afterStop.Add(1)
					}
					return
				}
				path := "/quick"
				if worker == 0 && i == 0 {
					path = "/slow"
				}
				// Every other request comes over a new connection.
				req := r.request("GET", path, nil)
				req.Close = i%2 == 0
				res, err := r.client.Do(req)
				if err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || string(body) != "begin end" {
					failed.Add(1)
				}
				if sent.Add(1) == 100 {
					r.stop()
				}
			}
		})
	}
	wg.Wait()
	if failed.Load() != 0 || afterStop.Load() == 0 {
		t.Errorf("%d of %d requests failed, %d came after the signal", failed.Load(), sent.Load(), afterStop.Load())
	}
	err := <-r.done
	r.done <- err // for the rig's own end
	if err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := net.Dial("tcp", r.addr("listen")); err == nil {
		t.Error("the listener is open after the end")
	}
	if n := r.a.pool.open.Load(); n != 0 {
		t.Errorf("%d connections to the gateway are open after the end", n)
	}
}

// TestStopCutsAtTimeout: a request that does not end is cut at the timeout.
func TestStopCutsAtTimeout(t *testing.T) {
	t.Parallel()
	r := start(t, options{env: map[string]string{"SHUTDOWN_DELAY": "10ms", "SHUTDOWN_TIMEOUT": "100ms"}})
	arrived := make(chan struct{})
	r.gateway.handle(func(_ http.ResponseWriter, req *http.Request) {
		close(arrived)
		<-req.Context().Done()
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := r.client.Do(r.request("GET", "/", nil).WithContext(ctx))
		result <- err
	}()
	<-arrived
	r.stop()
	err := <-r.done
	r.done <- err
	if err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := <-result; err == nil || ctx.Err() != nil {
		t.Errorf("the request ended with %v, want a cut connection", err)
	}
	if len(r.log.lines(t, "requests cut at the end of the shutdown")) != 1 {
		t.Errorf("no line about the cut request in the log:\n%s", r.log)
	}
}

// signingKeyExpiry returns when the metrics say that a key expires, zero if they do not.
func (r *rig) signingKeyExpiry(id string) time.Time {
	r.t.Helper()
	value := r.metric(fmt.Sprintf("wallarm_attester_signing_key_expiry_timestamp_seconds{key_id=%q}", id))
	if value == "" {
		return time.Time{}
	}
	seconds, err := strconv.ParseFloat(value, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return time.Unix(int64(seconds), 0)
}

// TestKeyFile: a changed file is taken over; garbage is not, and says so.
func TestKeyFile(t *testing.T) {
	t.Parallel()
	old, err := evidence.GenerateKey("old", evidence.AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	later, err := evidence.GenerateKey("later", evidence.AlgHMACSHA256)
	if err != nil {
		t.Fatal(err)
	}
	c := newTestClock()
	later.NotBefore = c.now().Truncate(time.Second).Add(time.Minute)
	later.Expires = later.NotBefore.Add(time.Hour)
	both, bothJWKS := marshalKeys(t, old, later)
	_, oldJWKS := marshalKeys(t, old)
	public, err := old.Public()
	if err != nil {
		t.Fatal(err)
	}
	_, publicJWKS := marshalKeys(t, public)
	file := t.TempDir() + "/jwks.json"
	writeFile(t, file, oldJWKS)
	r := start(t, options{clock: c, env: map[string]string{"SIGNING_JWKS": "-", "SIGNING_JWKS_FILE": file}})
	r.gateway.gate.verifier.Keys = func() *evidence.KeySet { return both }
	signedBy := func(want string) {
		t.Helper()
		if got := r.signingKeyExpiry("later"); got.IsZero() != (want == "old") || want == "later" && !got.Equal(later.Expires) {
			t.Errorf("the signing key is %s, and later expires at %v, want %v", want, got, later.Expires)
		}
		if got := r.signingKeyExpiry("old"); !got.IsZero() {
			t.Errorf("a key without exp expires at %v", got)
		}
		res, body := r.get("/")
		got := r.gateway.take()
		if res.StatusCode != 200 || len(got) != 1 || got[0].attestation.KeyID != want {
			t.Errorf("answer %d %q, signed by %q, want %q", res.StatusCode, body, got[0].attestation.KeyID, want)
		}
		if v := r.metric(fmt.Sprintf("wallarm_attester_signing_key_info{key_id=%q}", want)); v != "1" {
			t.Errorf("signing_key_info of %s is %q", want, v)
		}
	}
	failures := func(want string) {
		t.Helper()
		eventually(t, func() error {
			if got := r.metric(`wallarm_attester_jwks_reload_total{result="failure"}`); got != want {
				return fmt.Errorf("%s failures, want %s", got, want)
			}
			return nil
		})
	}
	signedBy("old")
	writeFile(t, file, "garbage")
	failures("1")
	if got := r.metric("wallarm_attester_jwks_last_reload_successful"); got != "0" {
		t.Errorf("jwks_last_reload_successful is %s", got)
	}
	signedBy("old")
	writeFile(t, file, publicJWKS) // the wrong one of the two files
	failures("2")
	writeFile(t, file, strings.Repeat(" ", maxSmallFile+1))
	failures("3")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	failures("4")
	signedBy("old")
	writeFile(t, file, bothJWKS)
	eventually(t, func() error {
		if got := r.metric(`wallarm_attester_key_loaded{key_id="later"}`); got != "1" {
			return fmt.Errorf("the new key is not loaded: %q", got)
		}
		return nil
	})
	if got := r.metric("wallarm_attester_jwks_last_reload_successful"); got != "1" {
		t.Errorf("jwks_last_reload_successful is %s", got)
	}
	signedBy("old") // the new one is not active yet
	c.advance(5 * time.Second)
	c.step(55 * time.Second)
	signedBy("later")
	if lines := r.log.lines(t, "signing keys not reloaded, the last good ones stay"); len(lines) != 4 {
		t.Errorf("%d log lines about the failures, want 4: %v", len(lines), lines)
	}
}

// TestNoActiveKey: without a key that is valid now nothing is forwarded.
func TestNoActiveKey(t *testing.T) {
	t.Parallel()
	c := newTestClock()
	key, err := evidence.GenerateKey("short", evidence.AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	key.Expires = c.now().Truncate(time.Second).Add(time.Minute)
	set, jwks := marshalKeys(t, key)
	r := start(t, options{clock: c, env: map[string]string{"SIGNING_JWKS": jwks}})
	r.gateway.gate.verifier.Keys = func() *evidence.KeySet { return set }
	if res, body := r.get("/"); res.StatusCode != 200 {
		t.Fatalf("answer %d %q", res.StatusCode, body)
	}
	r.gateway.take()
	if got := r.signingKeyExpiry("short"); !got.Equal(key.Expires) {
		t.Errorf("expires at %v, want %v", got, key.Expires)
	}
	c.step(time.Minute)
	if got := r.signingKeyExpiry("short"); !got.IsZero() {
		t.Errorf("a key that does not sign any more expires at %v", got)
	}
	if res, body := r.get("/"); res.StatusCode != 503 || !strings.Contains(body, "could not be signed") {
		t.Errorf("answer %d %q, want 503", res.StatusCode, body)
	}
	if got := r.gateway.take(); len(got) != 0 {
		t.Error("a request was forwarded without evidence")
	}
	if code, body := r.health("/readyz"); code != 503 {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if got := r.metric("wallarm_attester_signing_key_active"); got != "0" {
		t.Errorf("signing_key_active is %s", got)
	}
}
