package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What a hostile or broken gateway, or client, must not get done.

// heldConn keeps what is written until release, which writes it at once.
type heldConn struct {
	net.Conn
	held *bytes.Buffer // nil: written through
}

func (c *heldConn) Write(p []byte) (int, error) {
	if c.held != nil {
		return c.held.Write(p)
	}
	return c.Conn.Write(p)
}

func (c *heldConn) release() error {
	held := c.held
	c.held = nil
	_, err := c.Conn.Write(held.Bytes())
	return err
}

// TestUnaskedAnswerInTLS: crypto/tls takes more from the socket than it has been
// asked for, so what the gateway says behind an answer may be in neither the
// socket nor the reader. No request meets it either.
func TestUnaskedAnswerInTLS(t *testing.T) {
	t.Parallel()
	const good, evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	long := "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 8000) + "\r\nContent-Length: %d\r\n\r\n"
	// Behind the status line, which is taken before the rest comes, it fills the reader.
	body := strings.Repeat("g", len("HTTP/1.1 200 OK\r\n")+(16<<10)-len(fmt.Sprintf(long, 1000)))
	long = fmt.Sprintf(long, len(body)) + body
	tests := []struct {
		name    string
		records []string
		reused  bool
	}{
		{"nothing", []string{good}, true},
		{"in a record of its own", []string{good, evil}, false},
		{"begins in a record of its own", []string{good, evil[:1]}, false},
		{"behind a full reader", []string{long[:4000], long[4000:] + evil}, false},
		{"an answer in three records", []string{good[:10], good[10:20], good[20:]}, true},
	}
	ca := newAuthority(t, "ca")
	certPEM, keyPEM := ca.issue(t, "gateway", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, tt := range tests {
			t.Run(tls.VersionName(version)+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				var connections atomic.Int64
				backend := rawBackend(t, func(number int, c net.Conn, _ *bufio.Reader) {
					connections.Add(1)
					h := &heldConn{Conn: c}
					s := tls.Server(h, &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: version, DynamicRecordSizingDisabled: true})
					for r := bufio.NewReader(s); ; {
						if _, err := readHead(r); err != nil {
							return
						}
						h.held = new(bytes.Buffer)
						for _, record := range tt.records {
							io.WriteString(s, record)
						}
						if err := h.release(); err != nil {
							return
						}
					}
				})
				r := start(t, options{backend: strings.Replace(backend, "http:", "https:", 1), env: map[string]string{"BACKEND_CA": ca.pem}})
				for range 4 {
					if res, got := r.do(r.request("POST", "/", nil)); res.StatusCode != 200 || !strings.HasPrefix(got, "g") {
						t.Errorf("answer %d %.10q", res.StatusCode, got)
					}
				}
				want := int64(4)
				if tt.reused {
					want = 1
				}
				if n := connections.Load(); n != want {
					t.Errorf("%d connections, want %d", n, want)
				}
			})
		}
	}
}

// TestGatewayReadsNothing: a gateway that takes no more of a request, and says
// nothing, costs the response timeout. The client's going could not end it:
// nobody reads the client's connection while the gateway's is full.
func TestGatewayReadsNothing(t *testing.T) {
	t.Parallel()
	for _, framing := range []string{"Content-Length: 100000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5F5E100\r\n"} {
		t.Run(framing[:14], func(t *testing.T) {
			t.Parallel()
			stop := make(chan struct{})
			defer close(stop)
			backend := rawBackend(t, func(_ int, _ net.Conn, _ *bufio.Reader) { <-stop })
			r := start(t, options{backend: backend, env: map[string]string{"RESPONSE_TIMEOUT": "100ms"}})
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
			if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || res.StatusCode != 504 || !res.Close {
				t.Errorf("answer %+v, %v; want 504 and the end", res, err)
			}
			r.endsAll(t)
		})
	}
}

// TestGatewayStopsAfterTheHeader: a gateway whose answer has begun, and that then
// neither takes nor says anything, costs the response timeout as well.
func TestGatewayStopsAfterTheHeader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, request, answer string }{
		{"length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"},
		{"chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"upgraded", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
			"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stop := make(chan struct{})
			defer close(stop)
			backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
				if _, err := readHead(r); err == nil {
					io.WriteString(c, tt.answer)
					<-stop
				}
			})
			r := start(t, options{backend: backend, env: map[string]string{"RESPONSE_TIMEOUT": "500ms"}})
			conn, err := net.Dial("tcp", r.addr("listen"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			io.WriteString(conn, tt.request+statement+"\r\n")
			if tt.name == "chunked" {
				io.WriteString(conn, "5F5E100\r\n")
			}
			go io.CopyN(conn, endless{}, 100_000_000)
			answer, _ := io.ReadAll(conn)
			if got, _, _ := strings.Cut(string(answer), "\r\n"); !strings.HasPrefix(tt.answer, got+"\r\n") {
				t.Errorf("answer %q", answer)
			}
			if strings.HasSuffix(string(answer), "0\r\n\r\n") {
				t.Errorf("answer %q looks whole", answer)
			}
			r.endsAll(t)
		})
	}
}

// TestUploadAfterTheHeader: the header of the answer does not end the request's
// body, nor does a gateway that makes a pause.
func TestUploadAfterTheHeader(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
		<-goOn
		if n, err := io.CopyN(io.Discard, r, 20_000_000); err != nil {
			t.Errorf("%d bytes of the body, %v", n, err)
		}
		io.WriteString(c, "ok")
	})
	r := start(t, options{backend: backend})
	conn, err := net.Dial("tcp", r.addr("listen"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	go func() {
		io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\n"+statement+"Content-Length: 20000000\r\n\r\n")
		io.CopyN(conn, endless{}, 20_000_000)
	}()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("answer %+v, %v", res, err)
	}
	close(goOn)
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "ok" {
		t.Errorf("body %q, %v", body, err)
	}
}

// TestOldRequestIsTheLast: net/http takes no notice of a Transfer-Encoding in
// HTTP/1.0, and would read what follows as the next request.
func TestOldRequestIsTheLast(t *testing.T) {
	t.Parallel()
	for _, begin := range []string{"POST /a", "POST //refused"} {
		r := start(t, options{})
		conn, err := net.Dial("tcp", r.addr("listen"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, begin+" HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n"+statement+"Transfer-Encoding: chunked\r\n\r\n"+
			"GET /smuggled HTTP/1.1\r\nHost: a\r\n"+statement+"\r\n")
		if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || !res.Close {
			t.Errorf("%s: answer %+v, %v; want the end behind it", begin, res, err)
		}
		io.Copy(io.Discard, conn)
		for _, s := range r.gateway.take() {
			if s.target != "/a" {
				t.Errorf("%s: a part of the body arrives signed, as %s %s", begin, s.method, s.target)
			}
		}
	}
}

// TestOldRequestIsNotUpgraded: HTTP/1.0 knows no upgrade (RFC 9110, section 7.8).
func TestOldRequestIsNotUpgraded(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	if code, _, err := r.raw("GET /a HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" + statement + "\r\n"); err != nil || code != 200 {
		t.Errorf("answer %d, %v", code, err)
	}
	if got := r.gateway.take(); len(got) != 1 || got[0].header["Upgrade"] != nil || got[0].reason != "" {
		t.Errorf("arrived as %+v", got)
	}
}

// TestExpectStaysWithItsBody: the body waits for the 100 of a gateway, so the
// gateway must have been asked for one.
func TestExpectStaysWithItsBody(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	code, _, err := r.raw("POST /a HTTP/1.1\r\nHost: a\r\n" + statement + "Connection: expect\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
	if err != nil || code != 100 && code != 200 {
		t.Errorf("answer %d, %v", code, err)
	}
	eventually(t, func() error {
		if got := r.gateway.take(); len(got) != 1 || got[0].body != "hello" || got[0].header.Get("Expect") != "100-continue" {
			return fmt.Errorf("arrived: %+v", got)
		}
		return nil
	})
}

// TestTrailerNames: a trailer field whose name is none does not go on.
func TestTrailerNames(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	code, _, err := r.raw("POST /a HTTP/1.1\r\nHost: a\r\n" + statement + "Transfer-Encoding: chunked\r\nTrailer: X B, X-A\r\n\r\n0\r\nX B: 1\r\nX-A: 2\r\n\r\n")
	if err != nil || code != 200 {
		t.Errorf("answer %d, %v", code, err)
	}
	if got := r.gateway.take(); len(got) != 1 || len(got[0].trailer) != 1 || got[0].trailer.Get("X-A") != "2" {
		t.Errorf("arrived as %+v", got)
	}
}

// TestUnfinishedBodyIsNotAwaited: a client that owes a part of its body, and
// keeps its connection open behind an answer that is the last, does not hold it.
func TestUnfinishedBodyIsNotAwaited(t *testing.T) {
	t.Parallel()
	down, _ := reservePort(t)
	early := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
		}
	})
	for _, tt := range []struct {
		name, backend, target string
		code                  int
	}{
		{"gateway down", "http://" + down, "/", 502},
		{"answered early", early, "/", 403},
		{"refused", early, "//", 400},
	} {
		for _, framing := range []string{"Content-Length: 100\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"} {
			t.Run(tt.name+" "+framing[:7], func(t *testing.T) {
				t.Parallel()
				r := start(t, options{backend: tt.backend})
				conn, err := net.Dial("tcp", r.addr("listen"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				io.WriteString(conn, "POST "+tt.target+" HTTP/1.1\r\nHost: a\r\n"+statement+framing)
				in := bufio.NewReader(conn)
				res, err := http.ReadResponse(in, nil)
				if err != nil || res.StatusCode != tt.code || !res.Close {
					t.Fatalf("answer %+v, %v; want %d and the end", res, err, tt.code)
				}
				io.Copy(io.Discard, res.Body)
				if _, err := in.ReadByte(); err != io.EOF {
					t.Errorf("behind the answer: %v, want the end", err)
				}
			})
		}
	}
}

// unread is a ResponseWriter that keeps the limit of the client's connection.
type unread struct {
	http.ResponseWriter
	until time.Time
}

func (w *unread) EnableFullDuplex() error { return nil }
func (w *unread) SetReadDeadline(t time.Time) error {
	w.until = t
	return nil
}

// sendFunc is a backend.
type sendFunc func(x *exchange) error

func (f sendFunc) send(_ http.ResponseWriter, _ *http.Request, x *exchange, _ func(*http.Response)) (*answer, error) {
	return nil, f(x)
}

// TestRestOfABody: behind an answer the node may send the rest of a body; an end
// without an answer does not wait for it.
func TestRestOfABody(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		send       sendFunc
		past, none bool
	}{
		{name: "answered", send: func(*exchange) error { return errNotSigned{errors.New("no key")} }},
		{name: "defect", send: func(*exchange) error { panic("defect") }, past: true},
		{name: "read to its end", send: func(x *exchange) error {
			io.Copy(io.Discard, x.body)
			return errNotSigned{errors.New("no key")}
		}, none: true},
	} {
		s := &settings{}
		p := newProxy(s, tt.send, newLogger(io.Discard, slog.LevelError), newMetrics(), systemClock().elapsed)
		w := &unread{ResponseWriter: httptest.NewRecorder()}
		r := httptest.NewRequest("POST", "/", strings.NewReader("hello"))
		state(r.Header)
		func() {
			defer func() { recover() }()
			p.ServeHTTP(w, r)
		}()
		if w.until.IsZero() != tt.none || !tt.none && w.until.Before(time.Unix(2, 0)) != tt.past {
			t.Errorf("%s: the rest is read until %v", tt.name, w.until)
		}
	}
}
