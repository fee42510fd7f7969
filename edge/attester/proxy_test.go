package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestBodiesAndTrailers(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	r.gateway.handle(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Errorf("body: %v", err)
		}
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Length", fmt.Sprint(req.ContentLength))
		w.Header().Set("X-Request-Trailer", fmt.Sprint(req.Trailer))
		w.Write(body)
		w.Header().Set("X-Sum", fmt.Sprint(len(body)))
		w.Header().Set(http.TrailerPrefix+"X-Late", "1")
	})
	large := strings.Repeat("0123456789abcdef", 10<<16) // 10 MiB
	tests := []struct {
		name, method string
		body         io.Reader
		length       string
		want         string
	}{
		{"none", "POST", nil, "0", ""},
		{"known length", "POST", strings.NewReader("hello"), "5", "hello"},
		{"chunked", "PUT", struct{ io.Reader }{strings.NewReader("hello")}, "-1", "hello"},
		{"chunked in a GET", "GET", struct{ io.Reader }{strings.NewReader("hello")}, "-1", "hello"},
		{"10 MiB", "POST", strings.NewReader(large), fmt.Sprint(len(large)), large},
		{"10 MiB chunked", "PATCH", struct{ io.Reader }{strings.NewReader(large)}, "-1", large},
	}
	for _, tt := range tests {
		req := r.request(tt.method, "/echo", tt.body)
		res, body := r.do(req)
		if res.StatusCode != 200 || body != tt.want || res.Header.Get("X-Length") != tt.length {
			t.Errorf("%s: answer %d, %d bytes, length %q; want 200, %d, %q", tt.name, res.StatusCode, len(body),
				res.Header.Get("X-Length"), len(tt.want), tt.length)
		}
		if res.Trailer.Get("X-Sum") != fmt.Sprint(len(tt.want)) || res.Trailer.Get("X-Late") != "1" {
			t.Errorf("%s: trailers %v", tt.name, res.Trailer)
		}
	}

	code, _, err := r.raw("POST /t HTTP/1.1\r\nHost: a\r\n" + statement +
		"Transfer-Encoding: chunked\r\nTrailer: X-Checksum, X-Wallarm-Mode, x_wallarm_token\r\n\r\n" +
		"5\r\nhello\r\n0\r\nX-Checksum: abc\r\nX-Wallarm-Mode: off\r\nX_Wallarm_Token: t\r\nX-Unannounced: 1\r\n\r\n")
	if err != nil || code != 200 {
		t.Fatalf("answer %d, %v", code, err)
	}
	req := r.request("POST", "/t", struct{ io.Reader }{strings.NewReader("x")})
	req.Trailer = http.Header{"X-Checksum": {"abc"}, "X-Wallarm-Mode": {"off"}}
	if res, _ := r.do(req); res.Header.Get("X-Request-Trailer") != "map[X-Checksum:[abc]]" {
		t.Errorf("request trailers arrive as %s", res.Header.Get("X-Request-Trailer"))
	}
	for _, s := range r.gateway.take() {
		if s.reason != "" {
			t.Errorf("%s %s refused: %s", s.method, s.target, s.reason)
		}
	}
}

// TestNothingIsAdded: what the client did not send, the gateway does not get.
func TestNothingIsAdded(t *testing.T) {
	t.Parallel()
	h, _, _ := onWire(t, statement)
	for _, name := range []string{"Accept-Encoding", "User-Agent", "X-Forwarded-For", "Content-Length", "Transfer-Encoding"} {
		if got := h.all(name); len(got) != 0 {
			t.Errorf("%s: %q was added", name, got)
		}
	}
}

func TestStatusAndHeaderOfTheAnswer(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	r.gateway.handle(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			w.Write([]byte{0x1f, 0x8b, 1, 2, 3})
		case "/redirect":
			w.Header().Set("Location", "https://elsewhere.example/")
			w.WriteHeader(302)
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.WriteHeader(304)
		case "/503":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(503)
			io.WriteString(w, "busy")
		}
	})
	for _, tt := range []struct {
		method, path, body, field, value string
		code                             int
	}{
		{"GET", "/gzip", "\x1f\x8b\x01\x02\x03", "Content-Encoding", "gzip", 200},
		{"HEAD", "/gzip", "", "Content-Encoding", "gzip", 200},
		{"GET", "/redirect", "", "Location", "https://elsewhere.example/", 302},
		{"DELETE", "/204", "", "", "", 204},
		{"GET", "/304", "", "", "", 304},
		{"OPTIONS", "/503", "busy", "Retry-After", "7", 503},
	} {
		res, body := r.do(r.request(tt.method, tt.path, nil))
		if res.StatusCode != tt.code || body != tt.body || res.Header.Get(tt.field) != tt.value {
			t.Errorf("%s %s: %d %q %v", tt.method, tt.path, res.StatusCode, body, res.Header)
		}
	}
	if n := r.gateway.connections.Load(); n != 1 {
		t.Errorf("%d connections to the gateway, want 1: the connection is reused after every kind of answer", n)
	}
}

// TestStreams: each piece of a request and of a response goes on before the next
// one exists, so nothing waits for a whole body.
func TestStreams(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"chunked", "event stream", "known length"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			const pieces = 5
			r := start(t, options{})
			r.gateway.handle(func(w http.ResponseWriter, req *http.Request) {
				switch kind {
				case "event stream":
					w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
				case "known length":
					w.Header().Set("Content-Length", fmt.Sprint(pieces*len("piece\n")))
				}
				http.NewResponseController(w).EnableFullDuplex()
				in := bufio.NewReader(req.Body)
				for range pieces {
					line, err := in.ReadString('\n')
					if err != nil {
						t.Errorf("gateway: %v", err)
						return
					}
					io.WriteString(w, line)
					http.NewResponseController(w).Flush()
				}
			})
			conn, err := net.Dial("tcp", r.addr("listen"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			fmt.Fprintf(conn, "POST /s HTTP/1.1\r\nHost: a\r\n%sTransfer-Encoding: chunked\r\n\r\n6\r\npiece\n\r\n", statement)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			out := bufio.NewReader(res.Body)
			for i := range pieces {
				if line, err := out.ReadString('\n'); err != nil || line != "piece\n" {
					t.Fatalf("piece %d: %q, %v", i, line, err)
				}
				if i < pieces-1 {
					io.WriteString(conn, "6\r\npiece\n\r\n")
				}
			}
		})
	}
}

func TestInformationalAnswers(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	r.gateway.handle(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		io.Copy(w, req.Body)
	})
	var codes []int
	var link string
	req := r.request("POST", "/", strings.NewReader("hello"))
	req.Header.Set("Expect", "100-continue")
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			codes, link = append(codes, code), link+h.Get("Link")
			return nil
		},
	}))
	r.client.Transport.(*http.Transport).ExpectContinueTimeout = patience
	res, body := r.do(req)
	if res.StatusCode != 200 || body != "hello" || res.Header.Get("Link") != "" {
		t.Errorf("answer %d %q", res.StatusCode, body)
	}
	// The 103 would be taken for the answer by the nginx in front.
	if fmt.Sprint(codes) != "[100]" || link != "" {
		t.Errorf("informational answers %v with Link %q, want the 100 that was asked for", codes, link)
	}
}

// A gateway that answers before the request's body has ended ends the connection
// with it: the rest of the body must not be read as a request, and be signed.
func TestEarlyAnswerEndsTheConnection(t *testing.T) {
	t.Parallel()
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: a\r\n" + statement + "\r\n"
	for name, tt := range map[string]struct{ framing, rest string }{
		"chunked": {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "64\r\n" + smuggled},
		"between": {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n64\r\n", smuggled},
		"length":  {"Content-Length: 1000\r\n\r\nhello", smuggled + strings.Repeat("x", 995-len(smuggled)) + smuggled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, options{})
			var targets sync.Map
			r.gateway.handle(func(w http.ResponseWriter, req *http.Request) {
				targets.Store(req.RequestURI, true)
				http.NewResponseController(w).EnableFullDuplex()
				io.WriteString(w, "early")
			})
			for range 20 {
				conn, err := net.Dial("tcp", r.addr("listen"))
				if err != nil {
					t.Fatal(err)
				}
				conn.SetDeadline(time.Now().Add(patience))
				io.WriteString(conn, "POST /p HTTP/1.1\r\nHost: a\r\n"+statement+tt.framing)
				in := bufio.NewReader(conn)
				res, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(res.Body); err != nil || string(body) != "early" || !res.Close {
					t.Fatalf("%d %q, %v, Connection: close is %v", res.StatusCode, body, err, res.Close)
				}
				io.WriteString(conn, tt.rest)
				if more, err := http.ReadResponse(in, nil); err == nil {
					t.Fatalf("a second answer: %d", more.StatusCode)
				}
				conn.Close()
			}
			if _, ok := targets.Load("/smuggled"); ok {
				t.Error("a part of a body came to the gateway as a request")
			}
		})
	}
}

// TestExpectationRefused: a gateway that refuses before the body gets no body.
func TestExpectationRefused(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	r.gateway.handle(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	code, _, err := r.raw("POST / HTTP/1.1\r\nHost: a\r\n" + statement + "Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
	if err != nil || code != http.StatusRequestEntityTooLarge {
		t.Errorf("answer %d, %v; want 413 without a byte of the body", code, err)
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	r.gateway.handle(func(w http.ResponseWriter, req *http.Request) {
		c, err := websocket.Accept(w, req, nil)
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		for {
			kind, message, err := c.Read(req.Context())
			if err != nil {
				return
			}
			if err := c.Write(req.Context(), kind, message); err != nil {
				return
			}
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := http.Header{}
	state(h)
	c, _, err := websocket.Dial(ctx, "ws://"+r.addr("listen")+"/ws", &websocket.DialOptions{HTTPHeader: h, Host: "api.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	c.SetReadLimit(1 << 20)
	for _, size := range []int{1, 1000, 100_000} {
		message := bytes.Repeat([]byte{'x'}, size)
		if err := c.Write(ctx, websocket.MessageBinary, message); err != nil {
			t.Fatal(err)
		}
		if _, echo, err := c.Read(ctx); err != nil || !bytes.Equal(echo, message) {
			t.Fatalf("echo of %d bytes: %d bytes, %v", size, len(echo), err)
		}
	}
	if got := r.metric("wallarm_attester_requests_in_flight"); got != "1" {
		t.Errorf("requests_in_flight is %s while a WebSocket is open, want 1", got)
	}
	c.Close(websocket.StatusNormalClosure, "")
	eventually(t, func() error {
		if n := r.a.pool.open.Load(); n != 0 {
			return fmt.Errorf("%d connections to the gateway are open", n)
		}
		return nil
	})
	if got := r.metric(`wallarm_attester_requests_total{code="101"}`); got != "1" {
		t.Errorf("requests_total of 101 is %q, want 1", got)
	}
}

// TestUpgradeHalfClose: each side may end its half while the other goes on.
func TestUpgradeHalfClose(t *testing.T) {
	t.Parallel()
	backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello ")
		said, err := io.ReadAll(r) // returns when the client has ended its half
		if err != nil {
			t.Errorf("gateway: %v", err)
		}
		fmt.Fprintf(c, "you said %s", said)
	})
	r := start(t, options{backend: backend})
	conn, err := net.Dial("tcp", r.addr("listen"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /u HTTP/1.1\r\nHost: a\r\n%sConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", statement)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("answer %+v, %v", res, err)
	}
	io.WriteString(conn, "goodbye")
	conn.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(in); err != nil || string(rest) != "hello you said goodbye" {
		t.Errorf("got %q, %v", rest, err)
	}
}

// TestClientGone: a client that goes away ends its request at the gateway.
func TestClientGone(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	arrived, ended := make(chan struct{}, 2), make(chan error, 2)
	r.gateway.handle(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/body" {
			io.WriteString(w, "first")
			http.NewResponseController(w).Flush()
		}
		arrived <- struct{}{}
		select {
		case <-req.Context().Done():
			ended <- nil
		case <-time.After(patience):
			ended <- errors.New("still running")
		}
	})
	for _, path := range []string{"/header", "/body"} {
		ctx, cancel := context.WithCancel(context.Background())
		if path == "/header" {
			go func() {
				<-arrived
				cancel()
			}()
		}
		if res, err := r.client.Do(r.request("GET", path, nil).WithContext(ctx)); err == nil {
			if _, err := io.ReadFull(res.Body, make([]byte, len("first"))); err != nil {
				t.Error(err)
			}
			cancel()
			res.Body.Close()
		} else if path == "/body" {
			t.Error(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	eventually(t, func() error {
		if n := r.a.proxy.active.Load(); n != 0 {
			return fmt.Errorf("%d requests are active", n)
		}
		return nil
	})
	if got := r.metric(`wallarm_attester_requests_total{code="499"}`); got != "1" {
		t.Errorf("requests_total of 499 is %q, want 1", got)
	}
}

func TestHeaderTooLarge(t *testing.T) {
	t.Parallel()
	r := start(t, options{env: map[string]string{"MAX_HEADER_BYTES": "8192"}})
	code, _, err := r.raw("GET / HTTP/1.1\r\nHost: a\r\n" + statement + "X-Large: " + strings.Repeat("x", 16<<10) + "\r\n\r\n")
	if err != nil || code != http.StatusRequestHeaderFieldsTooLarge || len(r.gateway.take()) != 0 {
		t.Errorf("answer %d, %v; want 431 and nothing forwarded", code, err)
	}
}

// TestMalformedRequests: what two parsers could cut differently is not forwarded,
// or arrives as one request with one reading.
func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, raw := range map[string]string{
		"two lengths":         "POST / HTTP/1.1\r\nHost: a\r\n" + statement + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"signed length":       "POST / HTTP/1.1\r\nHost: a\r\n" + statement + "Content-Length: +5\r\n\r\nhello",
		"unknown coding":      "POST / HTTP/1.1\r\nHost: a\r\n" + statement + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"two codings":         "POST / HTTP/1.1\r\nHost: a\r\n" + statement + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"space before colon":  "POST / HTTP/1.1\r\nHost: a\r\n" + statement + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"bare CR in a value":  "GET / HTTP/1.1\r\nHost: a\r\n" + statement + "X-A: b\rX-Wallarm-Token: c\r\n\r\n",
		"NUL in a value":      "GET / HTTP/1.1\r\nHost: a\r\n" + statement + "X-A: b\x00c\r\n\r\n",
		"HTTP/2 preface":      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"unknown version":     "GET / HTTP/3.0\r\nHost: a\r\n" + statement + "\r\n",
		"two spaces":          "GET  / HTTP/1.1\r\nHost: a\r\n" + statement + "\r\n",
		"method with comma":   "GE,T / HTTP/1.1\r\nHost: a\r\n" + statement + "\r\n",
		"method of 33 bytes":  strings.Repeat("A", 33) + " / HTTP/1.1\r\nHost: a\r\n" + statement + "\r\n",
		"space in a name":     "GET / HTTP/1.1\r\nHost: a\r\n" + statement + "X A: b\r\n\r\n",
		"evidence name, NBSP": "GET / HTTP/1.1\r\nHost: a\r\n" + statement + "X-Wallarm-Mode\xa0: off\r\n\r\n",
	} {
		code, body, err := r.raw(raw)
		if err != nil || code < 400 {
			t.Errorf("%s: answer %d %q, %v; want a refusal", name, code, body, err)
		}
		if got := r.gateway.take(); len(got) != 0 {
			t.Errorf("%s: arrived as %+v", name, got)
		}
	}
	// CL.TE: the chunked coding wins (RFC 9112, section 6.3), and what follows is
	// a request of its own, without a statement.
	if code, _, err := r.raw("POST /first HTTP/1.1\r\nHost: a\r\n" + statement + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled); err != nil || code != 200 {
		t.Errorf("CL.TE: answer %d, %v", code, err)
	}
	for _, s := range r.gateway.take() {
		if s.target != "/first" || s.body != "" || s.reason != "" {
			t.Errorf("CL.TE: arrived as %+v", s)
		}
	}
}

func TestProblemDocument(t *testing.T) {
	t.Parallel()
	r := start(t, options{backend: "http://127.0.0.1:1"})
	res, body := r.get("/a")
	var problem map[string]any
	if err := json.Unmarshal([]byte(body), &problem); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	if res.StatusCode != 502 || res.Header.Get("Content-Type") != "application/problem+json" ||
		problem["status"] != 502.0 || problem["request_id"] != requestID || problem["title"] != "Bad Gateway" {
		t.Errorf("answer %d %s", res.StatusCode, body)
	}
	if res.Header.Get("Cache-Control") != "no-store" {
		t.Error("a failure may be cached")
	}
}

// brokenOnce panics for its first request as a defect in the proxy would.
type brokenOnce struct {
	backend
	panicked atomic.Bool
}

func (b *brokenOnce) send(w http.ResponseWriter, r *http.Request, x *exchange, interim func(*http.Response)) (*answer, error) {
	if !b.panicked.Swap(true) {
		panic("defect")
	}
	return b.backend.send(w, r, x, interim)
}

func TestPanicIsContained(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	log, c := &logBuffer{}, systemClock()
	broken := newProxy(r.a.settings, &brokenOnce{backend: r.a.proxy.backend}, newLogger(log, slog.LevelDebug), r.a.metrics, c.elapsed)
	server := httptest.NewServer(broken)
	defer server.Close()
	request := func() (*http.Response, error) {
		req, err := http.NewRequest("POST", server.URL+"/", strings.NewReader("x")) // which a client does not repeat
		if err != nil {
			t.Fatal(err)
		}
		state(req.Header)
		return r.client.Do(req)
	}
	if res, err := request(); err == nil {
		t.Errorf("answer %d after a panic, want a closed connection", res.StatusCode)
	}
	if res, err := request(); err != nil || res.StatusCode != 200 {
		t.Errorf("%v, %v after the panic of another request", res, err)
	} else {
		res.Body.Close()
	}
	if lines := log.lines(t, "panic"); len(lines) != 1 || lines[0]["value"] != "defect" || lines[0]["request_id"] != requestID {
		t.Errorf("log lines %v", lines)
	}
	if got := r.metric("wallarm_attester_panics_total"); got != "1" {
		t.Errorf("panics_total is %s", got)
	}
}

// TestNothingSecretIsLogged: at the lowest level, no log line and no metric
// holds a key, a signature or what a client sent as a token.
func TestNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	r := start(t, options{env: map[string]string{"LOG_LEVEL": "debug"}})
	req := r.request("GET", "/?password=hunter2", nil)
	req.Header.Set("X-Wallarm-Token", "token-of-a-client")
	req.Header.Set("Cookie", "session-of-a-client")
	r.do(req)
	r.raw("GET /x#password=hunter2 HTTP/1.1\r\nHost: a\r\n" + statement + "\r\n")
	signature := r.gateway.take()[0].header.Get("Signature")
	jwks, err := r.set.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []struct{ D string } }
	if err := json.Unmarshal(jwks, &set); err != nil || set.Keys[0].D == "" {
		t.Fatalf("no private part: %v", err)
	}
	for _, secret := range []string{"hunter2", "token-of-a-client", "session-of-a-client", signature, set.Keys[0].D} {
		if strings.Contains(r.log.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

// TestConcurrentRequests runs many requests of every kind at once: each is
// answered, each is verified, no nonce comes twice.
func TestConcurrentRequests(t *testing.T) {
	t.Parallel()
	r := start(t, options{alg: "hmac-sha256"})
	const workers, each = 16, 50
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				var body io.Reader
				method := "GET"
				if i%3 == 0 {
					method, body = "POST", strings.NewReader(strings.Repeat("x", i*100))
				}
				res, err := r.client.Do(r.request(method, fmt.Sprintf("/%d/%d", w, i), body))
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != 200 {
					t.Errorf("answer %d", res.StatusCode)
				}
			}
		})
	}
	wg.Wait()
	got := r.gateway.take()
	if len(got) != workers*each {
		t.Errorf("%d requests arrived, want %d", len(got), workers*each)
	}
	for _, s := range got {
		if s.reason != "" {
			t.Errorf("%s refused: %s", s.target, s.reason)
		}
	}
}
