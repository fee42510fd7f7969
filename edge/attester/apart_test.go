package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// manners are what the gateway of TestAnswersStayApart does, by the number in the
// request's target. Each writes what it says at once: what is in flight while
// the connection waits is for nobody to see. The result says whether the gateway
// goes on with the connection.
var manners = []func(c net.Conn, h *head, body func() error, echo string) bool{
	func(c net.Conn, h *head, body func() error, echo string) bool {
		err := body()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n"+echo+"\r\n"+content(h, "good"))
		return err == nil
	},
	func(c net.Conn, h *head, body func() error, echo string) bool { // chunks, a trailer
		err := body()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Trailer\r\n"+echo+"\r\n"+
			content(h, "2\r\ngo\r\n2\r\nod\r\n0\r\nX-Trailer: 1\r\n\r\n"))
		return err == nil
	},
	func(c net.Conn, h *head, body func() error, echo string) bool { // interim answers
		io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </evil>\r\n\r\n")
		err := body()
		io.WriteString(c, "HTTP/1.1 102 Processing\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nHTTP/1.1 204 No Content\r\n"+echo+"\r\n")
		return err == nil
	},
	func(c net.Conn, h *head, body func() error, echo string) bool { // one answer more
		err := body()
		// So long that the reader's buffer does not take what is behind it.
		const length = 45_000
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(length)+"\r\n"+echo+"\r\n"+content(h, strings.Repeat("g", length))+evil)
		return err == nil
	},
	func(c net.Conn, h *head, body func() error, echo string) bool { // a body where there is none
		err := body()
		io.WriteString(c, "HTTP/1.1 304 Not Modified\r\nContent-Length: "+strconv.Itoa(len(evil))+"\r\n"+echo+"\r\n"+evil)
		return err == nil
	},
	func(c net.Conn, h *head, body func() error, echo string) bool { // early, then reads on
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n"+echo+"\r\n")
		return body() == nil
	},
	func(c net.Conn, h *head, body func() error, echo string) bool { // early, and the end
		io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n"+echo+"\r\n")
		return false
	},
	func(c net.Conn, h *head, body func() error, echo string) bool { // until the end
		body()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n"+echo+"\r\ngood")
		return false
	},
	func(c net.Conn, h *head, body func() error, echo string) bool { // breaks in the body
		body()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n"+echo+"\r\nevil")
		return false
	},
	func(c net.Conn, h *head, body func() error, echo string) bool { // breaks in the header
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Len")
		c.(*net.TCPConn).SetLinger(0)
		return false
	},
	func(c net.Conn, h *head, body func() error, echo string) bool { return false }, // says nothing
}

const evil = "HTTP/1.1 200 OK\r\nX-Echo: evil\r\nContent-Length: 4\r\n\r\nevil"

// content returns body where the answer to h has one.
func content(h *head, body string) string {
	if strings.HasPrefix(h.line, "HEAD ") {
		return ""
	}
	return body
}

// TestAnswersStayApart: whatever gateway and clients do to their connections, an
// answer is that of its own request, and nothing is left behind.
func TestAnswersStayApart(t *testing.T) {
	t.Parallel()
	backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for {
			h, err := readHead(r)
			if err != nil {
				return
			}
			var number, manner int
			if _, err := fmt.Sscanf(h.line[strings.IndexByte(h.line, ' ')+1:], "/%d/%d HTTP/1.1", &number, &manner); err != nil {
				t.Errorf("request line %q", h.line)
				return
			}
			body := func() error {
				if n := h.all("Content-Length"); len(n) == 1 {
					length, err := strconv.ParseInt(n[0], 10, 64)
					if err != nil {
						return err
					}
					_, err = io.CopyN(io.Discard, r, length)
					return err
				}
				if len(h.all("Transfer-Encoding")) == 0 {
					return nil
				}
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return err
					}
					size, err := strconv.ParseInt(strings.TrimSpace(line), 16, 64)
					if err != nil {
						return err
					}
					if _, err := io.CopyN(io.Discard, r, size+2); err != nil || size == 0 {
						return err
					}
				}
			}
			if !manners[manner](c, h, body, "X-Echo: "+strconv.Itoa(number)+"\r\n") {
				return
			}
		}
	})
	r := start(t, options{backend: backend, alg: "hmac-sha256", env: map[string]string{"LOG_LEVEL": "error", "RESPONSE_TIMEOUT": "200ms"}})
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for i := range 80 {
				number := worker*1000 + i
				ctx, cancel := context.WithCancel(context.Background())
				var body io.Reader
				method := []string{"GET", "HEAD", "POST", "PUT"}[random.IntN(4)]
				if method[0] == 'P' {
					body = strings.NewReader(strings.Repeat("x", random.IntN(3)*random.IntN(100_000)))
					if random.IntN(2) == 0 {
						body = struct{ io.Reader }{body} // of unknown length
					}
				}
				req := r.request(method, fmt.Sprintf("/%d/%d", number, random.IntN(len(manners))), body).WithContext(ctx)
				if random.IntN(20) == 0 {
					req.Header.Set("Expect", "100-continue")
				}
				if random.IntN(10) == 0 {
					go cancel()
				}
				if res, err := r.client.Do(req); err == nil {
					echo := res.Header.Get("X-Echo")
					if echo != strconv.Itoa(number) && !(echo == "" && res.StatusCode >= 500) {
						t.Errorf("request %s gets the answer of %q: %d", req.URL.Path, echo, res.StatusCode)
					}
					if got, err := io.ReadAll(res.Body); err == nil && strings.Contains(string(got), "evil") {
						t.Errorf("request %s gets %q", req.URL.Path, got)
					}
					res.Body.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	eventually(t, func() error {
		r.a.pool.mu.Lock()
		idle := len(r.a.pool.idle)
		r.a.pool.mu.Unlock()
		if n, open := r.a.proxy.active.Load(), r.a.pool.open.Load(); n != 0 || open != int64(idle) {
			return fmt.Errorf("%d requests are active, %d connections open, %d idle", n, open, idle)
		}
		return nil
	})
	if got := r.metric("wallarm_attester_panics_total"); got != "0" {
		t.Errorf("%s panics", got)
	}
}
