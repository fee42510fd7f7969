package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// wireGateway verifies what arrives from its bytes, as nginx reads them, and
// reports each request. It ends the connection after every answer, so that a
// body that it does not read is never taken for a request.
func wireGateway(t testing.TB) (url string, use func(*gate), arrived <-chan error) {
	results := make(chan error, 16)
	gates := make(chan *gate, 1)
	url = rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
		g := <-gates
		gates <- g
		h, err := readHead(r)
		if err != nil {
			return
		}
		results <- func() error {
			m, err := h.message()
			if err != nil {
				return err
			}
			if a, reason := g.verify(m, len(h.all("Upgrade")) > 0); reason != "" {
				return fmt.Errorf("%s %s: %q", reason, a.Detail, h.fields)
			}
			if got := h.all("Connection"); len(got) != 1 || !strings.HasSuffix(got[0], "Signature, Signature-Input") {
				return fmt.Errorf("Connection is %q", got)
			}
			for _, f := range h.fields {
				if evidence.FoldHeader(f[0]) == "x-wallarm-token" {
					return fmt.Errorf("the token arrives: %q", f)
				}
			}
			return nil
		}()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	return url, func(g *gate) { gates <- g }, results
}

// FuzzWire: whatever bytes a client sends behind a node's statement, either
// nothing arrives at the gateway, or what arrives is signed as it arrived.
func FuzzWire(f *testing.F) {
	for _, target := range append(forwardedTargets, refusedTargets...) {
		if len(target) < 200 {
			f.Add("GET", target, "api.example.com", "", "")
		}
	}
	f.Add("POST", "/a", "a:443", "Content-Length: 5\r\n", "hello")
	f.Add("POST", "/a", "a", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX-Wallarm-Mode: off\r\n\r\n")
	f.Add("POST", "/a", "a", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n")
	f.Add("GET", "/a", "a", "X_Wallarm_Mode: off\r\n", "")
	f.Add("GET", "/a", "a", "Connection: x-wallarm-mode, signature\r\nX-Wallarm-Token: t\r\n", "")
	f.Add("GET", "/a", "a", "Connection: upgrade\r\nUpgrade: websocket\r\n", "")
	f.Add("GET", "/a", "a", "X-A: b\r\n X-Wallarm-Mode: off\r\n", "")
	f.Add("GET", "/a HTTP/1.1\r\nHost: b\r\n\r\nGET /b", "a", "", "")
	f.Add("GET", "/a", "a\r\nX-Wallarm-Mode: off", "", "")
	f.Add("CONNECT", "/a", "a", "", "")
	f.Add("get", "/a", "a", "Host: b\r\n", "")

	url, use, arrived := wireGateway(f)
	r := start(f, options{backend: url, alg: evidence.AlgHMACSHA256, env: map[string]string{"LOG_LEVEL": "error", "MAX_IDLE_CONNECTIONS": "0"}})
	use(newGate(r.set, time.Now))
	one := func(t *testing.T, method, target, host, fields, body string) {
		conn, err := net.DialTimeout("tcp", r.addr("listen"), fuzzLimit/2)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// An input may leave a request unfinished; then nothing answers.
		conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
		io.WriteString(conn, method+" "+target+" HTTP/1.1\r\nHost: "+host+"\r\n"+fields+statement+"\r\n"+body)
		in := bufio.NewReader(conn)
		for {
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				break
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				break
			}
			// What follows the first request may be read as a second one.
			conn.(*net.TCPConn).CloseWrite()
		}
		for {
			select {
			case err := <-arrived:
				if err != nil {
					t.Fatal(err)
				}
				continue
			default:
			}
			break
		}
	}
	f.Fuzz(func(t *testing.T, method, target, host, fields, body string) {
		limited(t, func() { one(t, method, target, host, fields, body) })
	})
}

// FuzzAnswer: whatever bytes a gateway sends, the client gets what net/http's own
// client would read, whole, or an answer that is not, or the attester's 502; and
// nothing behind it.
func FuzzAnswer(f *testing.F) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n2;x=y\r\nok\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nX: a\r\n b\r\n\r\n0\r\n\r\n",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Length: 1\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.1 999 x\nConnection: close, content-length\nContent-Length: 1\n\na",
		"HTTP/1.1 099 x\r\n\r\n", "HTTP/1.1 200\r\n\r\n", "SSH-2.0-x\r\n", "",
	} {
		f.Add(answer, false)
		f.Add(answer, true)
	}
	var answer atomic.Pointer[string]
	backend := rawBackend(f, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			io.WriteString(c, *answer.Load())
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, r) // a reset would take the answer away
		}
	})
	r := start(f, options{backend: backend, alg: evidence.AlgHMACSHA256, env: map[string]string{"LOG_LEVEL": "error"}})
	one := func(t *testing.T, said string, head bool) {
		req := &http.Request{Method: http.MethodGet}
		if head {
			req.Method = http.MethodHead
		}
		code, body, whole, refused := http.StatusBadGateway, "", false, true
		for in := bufio.NewReaderSize(strings.NewReader(said), 16<<10); ; {
			res, err := http.ReadResponse(in, req)
			if err != nil || res.StatusCode < 100 || res.StatusCode == http.StatusSwitchingProtocols {
				break
			}
			if res.StatusCode >= 200 {
				read, err := io.ReadAll(res.Body)
				code, body, whole, refused = res.StatusCode, string(read), err == nil, false
				break
			}
		}

		answer.Store(&said)
		conn, err := net.DialTimeout("tcp", r.addr("listen"), fuzzLimit/2)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(fuzzLimit / 2))
		io.WriteString(conn, req.Method+" / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"+statement+"\r\n")
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, req)
		if err == nil {
			var got []byte
			got, err = io.ReadAll(res.Body)
			switch {
			case res.StatusCode != code:
				t.Errorf("answer %d, want %d", res.StatusCode, code)
			case err == nil && whole && string(got) != body:
				t.Errorf("body %q, want %q", got, body)
			}
			if more, _ := io.ReadAll(in); len(more) > 0 {
				t.Errorf("%q behind the answer", more)
			}
		}
		if isTimeout(err) || err != nil && (whole || refused) || err == nil && !whole && !refused {
			t.Errorf("%d %q, whole %v, comes as %+v, %v", code, body, whole, res, err)
		}
		if log := r.log.String(); strings.Contains(log, `"msg":"panic"`) {
			t.Fatal(log)
		}
	}
	f.Fuzz(func(t *testing.T, said string, head bool) {
		limited(t, func() { one(t, said, head) })
	})
}

// fuzzLimit is shorter than the ten seconds after which Go ends a fuzzing process
// without a word.
const fuzzLimit = 8 * time.Second

// limited runs one input of a fuzz target, and fails it with the stacks of all
// goroutines if it does not come to an end.
func limited(t *testing.T, one func()) {
	done := make(chan struct{})
	go func() {
		defer close(done) // also where a helper ends this goroutine with t.Fatal
		one()
	}()
	limit := time.NewTimer(fuzzLimit)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		stacks := make([]byte, 1<<20)
		t.Fatalf("not over within %v:\n%s", fuzzLimit, stacks[:runtime.Stack(stacks, true)])
	}
}
