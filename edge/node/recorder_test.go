package node

// The recorder stands where the attester is and keeps every byte of a head.

import (
	"bufio"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// seen is one request as it came over the wire.
type seen struct {
	line   string // the request line
	fields [][2]string
	body   int // bytes, decoded
}

func (s seen) target() string {
	_, rest, _ := strings.Cut(s.line, " ")
	return strings.TrimSuffix(rest, " HTTP/1.1")
}

// values are those of a field, in any spelling of its name that Kong takes for
// the same.
func (s seen) values(name string) []string {
	var v []string
	for _, f := range s.fields {
		if fold(f[0]) == fold(name) {
			v = append(v, f[1])
		}
	}
	return v
}

func fold(name string) string { return strings.ReplaceAll(strings.ToLower(name), "_", "-") }

type recorder struct {
	addr string
	mu   sync.Mutex
	all  []seen
}

func newRecorder(t testing.TB) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{addr: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				r.serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return r
}

func (r *recorder) serve(c net.Conn) {
	br := bufio.NewReader(c)
	for {
		var s seen
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				return
			}
			line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
			if s.line == "" {
				s.line = line
				continue
			}
			if line == "" {
				break
			}
			name, value, _ := strings.Cut(line, ":")
			s.fields = append(s.fields, [2]string{name, strings.TrimPrefix(value, " ")})
		}
		var body io.Reader = strings.NewReader("")
		if v := s.values("content-length"); len(v) == 1 {
			n, err := strconv.ParseInt(v[0], 10, 64)
			if err != nil {
				return
			}
			body = io.LimitReader(br, n)
		} else if len(s.values("transfer-encoding")) > 0 {
			body = httputil.NewChunkedReader(br)
		}
		n, err := io.Copy(io.Discard, body)
		if err != nil {
			return
		}
		if len(s.values("transfer-encoding")) > 0 {
			if _, err := br.ReadString('\n'); err != nil { // the end of the trailers
				return
			}
		}
		s.body = int(n)
		r.mu.Lock()
		r.all = append(r.all, s)
		r.mu.Unlock()
		answer := "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\n"
		if !strings.HasPrefix(s.line, "HEAD ") {
			answer += "ok\n"
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
	}
}

// find returns the requests with this trace id.
func (r *recorder) find(trace string) []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []seen
	for _, s := range r.all {
		if v := s.values("x-amzn-trace-id"); len(v) == 1 && v[0] == trace {
			found = append(found, s)
		}
	}
	return found
}

// take returns all requests since the last take.
func (r *recorder) take() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// count is the number of all requests so far.
func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}
