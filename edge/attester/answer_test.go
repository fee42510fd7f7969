package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What the attester's own end of the connection to the gateway does.

func TestEarlyHints(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{"true": "[100 103 103]", "false": "[100]"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			r := start(t, options{env: map[string]string{"EARLY_HINTS": setting}})
			r.gateway.handle(func(w http.ResponseWriter, req *http.Request) {
				io.Copy(io.Discard, req.Body)
				w.Header().Set("Link", "</style.css>; rel=preload")
				w.WriteHeader(http.StatusEarlyHints)
				w.WriteHeader(http.StatusProcessing) // nginx knows no other than 103
				w.WriteHeader(http.StatusEarlyHints)
				w.Header().Del("Link")
				io.WriteString(w, "hello")
			})
			var codes []int
			var links []string
			req := r.request("POST", "/", strings.NewReader("x"))
			req.Header.Set("Expect", "100-continue")
			req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
					codes = append(codes, code)
					links = append(links, h["Link"]...)
					return nil
				},
			}))
			r.client.Transport.(*http.Transport).ExpectContinueTimeout = patience
			res, body := r.do(req)
			if res.StatusCode != 200 || body != "hello" || res.Header.Get("Link") != "" {
				t.Errorf("answer %d %q, Link %q", res.StatusCode, body, res.Header.Get("Link"))
			}
			if fmt.Sprint(codes) != want || setting == "true" && len(links) != 2 || setting == "false" && len(links) != 0 {
				t.Errorf("interim answers %v with Link %q, want %s", codes, links, want)
			}
			// A client of HTTP/1.0 knows no interim answer.
			conn, err := net.Dial("tcp", r.addr("listen"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: a\r\n%s\r\n", statement)
			if old, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || old.StatusCode != 200 {
				t.Errorf("HTTP/1.0: %+v, %v", old, err)
			}
		})
	}
}

// TestAnswersAreBounded: no number of interim answers keeps a request for ever.
func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"true", "false"} {
		backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
			if _, err := readHead(r); err != nil {
				return
			}
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"); err != nil {
					return
				}
			}
		})
		r := start(t, options{backend: backend, env: map[string]string{"EARLY_HINTS": setting}})
		if res, _ := r.get("/"); res.StatusCode != 502 {
			t.Errorf("early hints %s: answer %d, want 502", setting, res.StatusCode)
		}
	}
}

// TestUnaskedAnswer: what a gateway says on an idle connection answers nothing.
// Neither it nor an end that has come is met by the next request.
func TestUnaskedAnswer(t *testing.T) {
	t.Parallel()
	const good, evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	tests := []struct {
		name   string
		answer func(c net.Conn)
	}{
		{"with the answer", func(c net.Conn) { io.WriteString(c, good+evil) }},
		{"an interim answer", func(c net.Conn) { io.WriteString(c, good+"HTTP/1.1 103 Early Hints\r\n\r\n") }},
		{"after an answer without body", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n"+evil) }},
		{"after a 304 with a length", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil") }},
		{"says close", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood")
		}},
		{"HTTP/1.0", func(c net.Conn) { io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ngood") }},
		{"HTTP/1.0 that keeps alive", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\ngood")
		}},
		{"until the end", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\ngood"); c.(*net.TCPConn).CloseWrite() }},
		{"ends", func(c net.Conn) { io.WriteString(c, good); c.(*net.TCPConn).CloseWrite() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			said := make(chan struct{}, 5)
			backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
				for i := 0; ; i++ {
					if _, err := readHead(r); err != nil {
						return
					}
					requests.Add(1)
					if i > 0 {
						t.Error("a second request came over the connection")
						said <- struct{}{}
						return
					}
					tt.answer(c)
					said <- struct{}{}
				}
			})
			r := start(t, options{backend: backend})
			for range 5 {
				// A POST is not sent again: it would fail if the connection were used.
				if res, body := r.do(r.request("POST", "/", nil)); res.StatusCode >= 400 || strings.Contains(body, "evil") {
					t.Errorf("answer %d %q", res.StatusCode, body)
				}
				<-said // all of it
			}
			if n := requests.Load(); n != 5 {
				t.Errorf("%d requests arrived, want 5", n)
			}
		})
	}
}

// TestUnaskedBytesLater: the same when the bytes come after the connection has
// been put aside.
func TestUnaskedBytesLater(t *testing.T) {
	t.Parallel()
	idle, said := make(chan struct{}), make(chan struct{})
	backend := rawBackend(t, func(number int, c net.Conn, r *bufio.Reader) {
		for {
			if _, err := readHead(r); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
			if number == 1 {
				<-idle
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
				close(said)
			}
		}
	})
	r := start(t, options{backend: backend})
	if _, body := r.get("/"); body != "good" {
		t.Errorf("answer %q", body)
	}
	close(idle)
	<-said
	if _, body := r.get("/"); body != "good" {
		t.Errorf("answer %q, want the second connection's", body)
	}
}

// TestSweepFindsTheDead: a connection that the gateway has closed does not wait
// for its idle time.
func TestSweepFindsTheDead(t *testing.T) {
	t.Parallel()
	backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	r := start(t, options{backend: backend})
	r.get("/")
	eventually(t, func() error {
		r.a.pool.sweep()
		if n := r.a.pool.open.Load(); n != 0 {
			return fmt.Errorf("%d connections are open", n)
		}
		return nil
	})
}

// TestHeaderBeforeTheBody: the header of an answer does not wait for a body that
// is slow.
func TestHeaderBeforeTheBody(t *testing.T) {
	t.Parallel()
	for name, framing := range map[string]string{
		"unknown length": "Transfer-Encoding: chunked\r\n\r\n", "until the end": "\r\n", "known length": "Content-Length: 8\r\n\r\n",
	} {
		body := map[string]string{"unknown length": "4\r\nlate\r\n"}[name]
		if body == "" {
			body = "late"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			goOn := make(chan struct{})
			backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
				if _, err := readHead(r); err != nil {
					return
				}
				io.WriteString(c, "HTTP/1.1 200 OK\r\n"+framing)
				for range 2 {
					<-goOn
					io.WriteString(c, body)
				}
				if name == "unknown length" {
					io.WriteString(c, "0\r\n\r\n")
				}
			})
			r := start(t, options{backend: backend})
			res, err := r.client.Do(r.request("GET", "/", nil)) // returns with the header
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			for range 2 {
				goOn <- struct{}{}
				piece := make([]byte, 4)
				if _, err := io.ReadFull(res.Body, piece); err != nil || string(piece) != "late" {
					t.Fatalf("piece %q, %v", piece, err)
				}
			}
			if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
				t.Errorf("%q, %v behind the last piece", rest, err)
			}
		})
	}
}

// limitedConn is a connection on which a read with a limit comes too late, up to
// ten times, and one without gets a piece. It notes the limits of the writes.
type limitedConn struct {
	net.Conn
	pieces  []string
	limited bool
	late    int
	writes  []time.Time
}

func (c *limitedConn) SetReadDeadline(t time.Time) error {
	c.limited = !t.IsZero()
	return nil
}

func (c *limitedConn) SetWriteDeadline(t time.Time) error {
	c.writes = append(c.writes, t)
	return nil
}

func (c *limitedConn) Read(p []byte) (int, error) {
	if c.limited && c.late < 10 {
		c.late++
		return 0, os.ErrDeadlineExceeded
	}
	if len(c.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.pieces[0])
	c.pieces = c.pieces[1:]
	return n, nil
}

// TestPiecesOfTheAnswer: a piece waits once for the next one, and then goes out;
// the wait behind it is no poll. While the body of the request is on its way,
// each piece gives the gateway its time anew to take the body.
func TestPiecesOfTheAnswer(t *testing.T) {
	t.Parallel()
	for _, uploading := range []bool{true, false} {
		c := &limitedConn{pieces: []string{"late", "late"}}
		conn := &backendConn{Conn: c, left: 100}
		conn.in = bufio.NewReader(conn)
		u := &upload{conn: conn, timeout: time.Hour, done: make(chan struct{})}
		u.answered()
		if !uploading {
			close(u.done)
		}
		a := &answer{Response: &http.Response{ContentLength: 8, Body: io.NopCloser(io.LimitReader(conn.in, 8))}, conn: conn, upload: u}
		w := httptest.NewRecorder()
		if err := copyAnswer(w, a); err != nil || w.Body.String() != "latelate" {
			t.Errorf("%q, %v", w.Body, err)
		}
		if c.late != 2 || !w.Flushed {
			t.Errorf("%d reads came to their limit, want one for the header and one for the first piece", c.late)
		}
		want := 1 // with the header
		if uploading {
			want += 2
		}
		if len(c.writes) != want {
			t.Errorf("uploading %v: %d limits of writes were set, want %d", uploading, len(c.writes), want)
		}
		for _, limit := range c.writes {
			if !limit.After(time.Now()) {
				t.Errorf("a write ends at %v", limit)
			}
		}
	}
}

// TestContentTypeIsNotGuessed: a browser would trust it.
func TestContentTypeIsNotGuessed(t *testing.T) {
	t.Parallel()
	backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")
		}
	})
	r := start(t, options{backend: backend})
	if res, body := r.get("/"); body != "<html>" || res.Header["Content-Type"] != nil {
		t.Errorf("answer %q with Content-Type %q", body, res.Header["Content-Type"])
	}
}

func TestFieldsThatEndHere(t *testing.T) {
	t.Parallel()
	backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nX-End: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	r := start(t, options{backend: backend})
	res, _ := r.get("/")
	for _, name := range []string{"X-Hop", "Keep-Alive", "Upgrade", "Connection"} {
		if res.Header[name] != nil {
			t.Errorf("%s: %q goes on", name, res.Header[name])
		}
	}
	if res.Header.Get("X-End") != "2" || len(res.Header["Set-Cookie"]) != 2 || res.ContentLength != 2 {
		t.Errorf("header %v, length %d", res.Header, res.ContentLength)
	}
}

// TestTrailerFieldsThatEndHere: a trailer field is no way around what ends with
// the connection to the gateway.
func TestTrailerFieldsThatEndHere(t *testing.T) {
	t.Parallel()
	backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTrailer: Keep-Alive, X-A\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"+
				"Keep-Alive: a\r\nX-A: 1\r\nX-B: 2\r\nConnection: X-B\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n")
		}
	})
	r := start(t, options{backend: backend})
	res, body := r.do(r.request("GET", "/", nil))
	if body != "ok" || len(res.Trailer) != 2 || res.Trailer.Get("X-A") != "1" || res.Trailer.Get("X-B") != "2" {
		t.Errorf("body %q, trailer %v", body, res.Trailer)
	}
}

// TestBrokenUpload: a body that the client breaks off, or sends malformed, never
// arrives as a whole one.
func TestBrokenUpload(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, framing, answer string
		code                  string // of the metric
	}{
		{"ends early, length", "Content-Length: 100\r\n\r\nhello", "", "499"},
		{"ends early, chunked", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "", "499"},
		{"ends in a chunk", "Transfer-Encoding: chunked\r\n\r\n50\r\nhello", "", "499"},
		{"bad chunk", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n", "HTTP/1.1 400 ", "400"},
		{"chunk longer than it says", "Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n", "HTTP/1.1 400 ", "400"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, options{})
			ended := make(chan error, 1)
			r.gateway.handle(func(_ http.ResponseWriter, req *http.Request) {
				_, err := io.Copy(io.Discard, req.Body)
				ended <- err
			})
			conn, err := net.Dial("tcp", r.addr("listen"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\n"+statement+tt.framing)
			conn.(*net.TCPConn).CloseWrite()
			answer, err := io.ReadAll(conn)
			if err != nil || tt.answer != "" && !strings.HasPrefix(string(answer), tt.answer) {
				t.Errorf("answer %q, %v", answer, err)
			}
			if err := <-ended; err == nil {
				t.Error("the gateway got a whole body")
			}
			eventually(t, func() error {
				if got := r.metric(`wallarm_attester_requests_total{code="` + tt.code + `"}`); got != "1" {
					return fmt.Errorf("requests_total of %s is %q, want 1", tt.code, got)
				}
				return nil
			})
			if got := r.metric(`wallarm_attester_backend_errors_total{kind="broken"}`); got != "0" {
				t.Errorf("%s errors of the gateway", got)
			}
		})
	}
}

// TestGatewayBreaksDuringUpload: where the gateway breaks while the client still
// owes a part of its body, the gateway is to blame.
func TestGatewayBreaksDuringUpload(t *testing.T) {
	t.Parallel()
	for _, framing := range []string{"Content-Length: 100\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"} {
		backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
			if _, err := readHead(r); err == nil {
				c.(*net.TCPConn).SetLinger(0)
			}
		})
		r := start(t, options{backend: backend})
		if code, body, err := r.raw("POST / HTTP/1.1\r\nHost: a\r\n" + statement + framing); err != nil || code != 502 {
			t.Errorf("%.14s: answer %d %q, %v; want 502", framing, code, body, err)
		}
		if got := r.metric(`wallarm_attester_backend_errors_total{kind="broken"}`); got != "1" {
			t.Errorf("%.14s: backend_errors_total of broken is %q, want 1", framing, got)
		}
	}
}

// TestAnswerDuringUpload: a gateway that has had enough of a body answers, and
// takes no more. The client gets that answer.
func TestAnswerDuringUpload(t *testing.T) {
	t.Parallel()
	for _, framing := range []string{"Content-Length: 100000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5F5E100\r\n"} {
		backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
			if _, err := readHead(r); err != nil {
				return
			}
			io.CopyN(io.Discard, r, 100_000)
			io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, r) // a reset would take the answer away
		})
		r := start(t, options{backend: backend})
		conn, err := net.Dial("tcp", r.addr("listen"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		go func() {
			io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\n"+statement+framing)
			io.CopyN(conn, endless{}, 100_000_000)
		}()
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); res.StatusCode != 413 || string(body) != "big" || !res.Close {
			t.Errorf("answer %d %q, %v, Connection: close is %v", res.StatusCode, body, err, res.Close)
		}
		eventually(t, func() error {
			if n := r.a.proxy.active.Load(); n != 0 {
				return fmt.Errorf("%d requests are active", n)
			}
			return nil
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestUploadPanic: a panic while a body is read is one of its request, not of
// the process.
func TestUploadPanic(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var open atomic.Int64
	conn, err := dial(t.Context(), l.Addr().String(), nil, &open)
	if err != nil {
		t.Fatal(err)
	}
	u := startUpload(nil, &http.Request{ContentLength: 1}, &exchange{body: &requestBody{Reader: defect{}}}, conn, time.Minute)
	<-u.done
	defer func() {
		if v := recover(); v != "defect" {
			t.Errorf("recovered %v", v)
		}
		if open.Load() != 0 {
			t.Error("the connection is open")
		}
	}()
	u.end()
}

type defect struct{}

func (defect) Read([]byte) (int, error) { panic("defect") }

// TestUpgradeWithEarlyBytes: what a client sends behind its upgrade request
// belongs to the new protocol, and what comes with the 101 as well.
func TestUpgradeWithEarlyBytes(t *testing.T) {
	t.Parallel()
	backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfrom the gateway ")
		io.Copy(c, r)
	})
	r := start(t, options{backend: backend})
	conn, err := net.Dial("tcp", r.addr("listen"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /u HTTP/1.1\r\nHost: a\r\n%sConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", statement)
	in := bufio.NewReader(conn)
	if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("answer %+v, %v", res, err)
	}
	conn.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(in); err != nil || string(rest) != "from the gateway GET /smuggled HTTP/1.1\r\n\r\n" {
		t.Errorf("got %q, %v", rest, err)
	}
}

// TestUpgradeBeforeTheBody: a connection does not change its protocol in the
// middle of a body.
func TestUpgradeBeforeTheBody(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		body string
		code int
	}{{"hello", 101}, {"hel", 502}} {
		backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
			if _, err := readHead(r); err != nil {
				return
			}
			io.ReadFull(r, make([]byte, len(tt.body)))
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			io.Copy(c, r)
		})
		r := start(t, options{backend: backend})
		conn, err := net.Dial("tcp", r.addr("listen"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "GET /u HTTP/1.1\r\nHost: a\r\n%sConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\n%s", statement, tt.body)
		in := bufio.NewReader(conn)
		if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != tt.code {
			t.Fatalf("%q of hello: answer %+v, %v; want %d", tt.body, res, err, tt.code)
		}
		if tt.code == 101 {
			io.WriteString(conn, "echo")
			echo := make([]byte, 4)
			if _, err := io.ReadFull(in, echo); err != nil || string(echo) != "echo" {
				t.Errorf("got %q, %v", echo, err)
			}
		}
		if got := r.metric("wallarm_attester_panics_total"); got != "0" {
			t.Errorf("%s panics", got)
		}
	}
}

// TestUpgradeIsPlain: nothing but one plain websocket is asked for, as at the node.
func TestUpgradeIsPlain(t *testing.T) {
	t.Parallel()
	for _, fields := range []string{
		"Upgrade: websocket\r\nUpgrade: h2c\r\n", "Upgrade: websocket, h2c\r\n", "Upgrade: web\xffsocket\r\n", "Upgrade: web\u017focket\r\n",
		"Upgrade:\r\n", "Upgrade: h2c\r\n", "Upgrade: TLS/1.2\r\n", "Upgrade: raw\r\n",
	} {
		h, _, _ := onWire(t, "Connection: upgrade\r\n"+fields+statement)
		if got := h.all("Upgrade"); len(got) != 0 {
			t.Errorf("%q arrives as %q", fields, got)
		}
	}
}

func TestFieldWithALineBreak(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"a\r\nX: b", "a\nb", "a\rb"} {
		if b, err := appendField(nil, "X-A", value); !errors.Is(err, errFieldValue) {
			t.Errorf("%q is written as %q, %v", value, b, err)
		}
	}
}
