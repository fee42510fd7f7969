package e2e

// The upstream: it reads requests byte by byte, records everything, and is a
// small application.

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The upstream's URL in the cluster.
const (
	appURL  = "http://app.shop.svc.cluster.local:8080"
	appPort = "8080"
)

// traceHeader finds a request again. The edge and Kong pass it on.
const traceHeader = "X-Trace"

// seen is one request as it came over the wire.
type seen struct {
	method, target, proto string
	header, trailer       [][2]string
	body                  []byte // its first 64 kB
	size                  int64  // of all of it, decoded
	sum                   [sha256.Size]byte
	whole                 bool // it came to its end
	at                    time.Time
}

// values are those of a field, in any spelling of its name that Kong takes for
// the same.
func (r seen) values(name string) []string {
	var v []string
	for _, f := range r.header {
		if evidence.FoldHeader(f[0]) == evidence.FoldHeader(name) {
			v = append(v, f[1])
		}
	}
	return v
}

// value is the only value of a field, "" when there is none or more than one.
func (r seen) value(name string) string {
	if v := r.values(name); len(v) == 1 {
		return v[0]
	}
	return ""
}

type recorder struct {
	addr string
	// inspected says why a request does not prove that it was inspected.
	inspected func(seen) error
	lean      bool // keep only what is not proven

	mu         sync.Mutex
	requests   []*seen
	unverified []*seen
	repeated   []*seen
	ids        map[string]bool
	n          int64
}

func newRecorder(t testing.TB, addr string, lean bool, inspected func(seen) error) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{addr: l.Addr().String(), lean: lean, inspected: inspected, ids: map[string]bool{}}
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
				r.serve(c)
				c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
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

// note records the head of a request, before its body is read.
func (r *recorder) note(s *seen) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	id := s.value(evidence.HeaderRequestID)
	switch {
	case r.inspected(*s) != nil:
		r.unverified = append(r.unverified, s)
	case r.ids[id]:
		r.repeated = append(r.repeated, s)
	default:
		r.ids[id] = true
	}
	if !r.lean {
		r.requests = append(r.requests, s)
	}
}

func copies(list []*seen) []seen {
	out := make([]seen, len(list))
	for i, s := range list {
		out[i] = *s
	}
	return out
}

// all are the requests so far, and of those under way what has come of them.
func (r *recorder) all() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return copies(r.requests)
}

// take returns the requests and forgets them.
func (r *recorder) take() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := copies(r.requests)
	r.requests = nil
	return all
}

// count is the number of all requests, those that were taken included.
func (r *recorder) count() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// find returns the requests with this trace.
func (r *recorder) find(trace string) []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []seen
	for _, s := range r.requests {
		if s.value(traceHeader) == trace {
			found = append(found, *s)
		}
	}
	return found
}

func (r *recorder) serve(c net.Conn) {
	br := bufio.NewReaderSize(c, 32<<10)
	for {
		s, err := readHead(br)
		if err != nil {
			return
		}
		r.note(s)
		if s.value("Upgrade") != "" {
			echo(c, br, s)
			return
		}
		if s.value("Expect") != "" {
			if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
				return
			}
		}
		if err := r.readBody(br, s); err != nil {
			return
		}
		if err := answer(c, s); err != nil || s.proto == "HTTP/1.0" || strings.EqualFold(s.value("Connection"), "close") {
			return
		}
	}
}

const maxHead = 1 << 20

func readHead(br *bufio.Reader) (*seen, error) {
	s := &seen{at: time.Now()}
	lines, err := readLines(br)
	if err != nil {
		return nil, err
	}
	var ok bool
	if s.method, s.target, ok = strings.Cut(lines[0], " "); !ok {
		return nil, errors.New("no request line")
	}
	i := strings.LastIndexByte(s.target, ' ')
	if i < 0 {
		return nil, errors.New("no protocol version")
	}
	s.target, s.proto = s.target[:i], s.target[i+1:]
	s.header = split(lines[1:])
	return s, nil
}

// readLines reads up to an empty line, which it leaves out.
func readLines(br *bufio.Reader) (lines []string, err error) {
	for size := 0; size < maxHead; {
		line, err := br.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size += len(line)
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if line == "" {
			return lines, nil
		}
		lines = append(lines, line)
	}
	return nil, errors.New("head too large")
}

func split(lines []string) (fields [][2]string) {
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		fields = append(fields, [2]string{name, strings.Trim(value, " \t")})
	}
	return fields
}

// readBody reads the body and fills in what is known of it at the end.
func (r *recorder) readBody(br *bufio.Reader, s *seen) error {
	var body io.Reader
	chunked := len(s.values("Transfer-Encoding")) > 0
	switch length := s.values("Content-Length"); {
	case chunked:
		body = httputil.NewChunkedReader(br)
	case len(length) == 1:
		n, err := strconv.ParseInt(length[0], 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("length %q", length[0])
		}
		body = io.LimitReader(br, n)
	default:
		body = strings.NewReader("")
	}
	first := &beginning{hash: sha256.New()}
	n, err := io.Copy(first, body)
	var trailer [][2]string
	if err == nil && chunked {
		var lines []string
		lines, err = readLines(br)
		trailer = split(lines)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.body, s.size, s.trailer, s.whole = first.kept, n, trailer, err == nil
	s.sum = [sha256.Size]byte(first.hash.Sum(nil))
	return err
}

// beginning keeps the first 64 kB of what is written to it, and hashes all.
type beginning struct {
	kept []byte
	hash hash.Hash
}

func (b *beginning) Write(p []byte) (int, error) {
	b.kept = append(b.kept, p[:min(len(p), 64<<10-len(b.kept))]...)
	return b.hash.Write(p)
}

// answer is the application.
func answer(c net.Conn, s *seen) error {
	path, query, _ := strings.Cut(s.target, "?")
	status, more, steer, body := "200 OK", "", "", "ok\n"
	switch {
	case path == "/sse":
		return events(c)
	case path == "/trailers":
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nok\n\r\n0\r\nX-Sum: 42\r\n\r\n")
		return err
	case path == "/big":
		body = strings.Repeat("x", 10_000_000)
	case path == "/steer": // nginx would run the request once more, with this target
		steer = "X-Accel-Redirect: /v1/orders?unsigned=1\r\n"
	case strings.HasPrefix(path, "/status/"):
		status = strings.TrimPrefix(path, "/status/") + " Test"
	case path == "/slow":
		ms, err := strconv.Atoi(strings.TrimPrefix(query, "ms="))
		if err != nil {
			return err
		}
		<-time.After(time.Duration(min(ms, 60_000)) * time.Millisecond)
	}
	if s.method == http.MethodHead {
		more, body = fmt.Sprintf("Content-Length: %d\r\n", len(body)), ""
	} else {
		more = fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	_, err := io.WriteString(c, "HTTP/1.1 "+status+"\r\nContent-Type: text/plain\r\n"+steer+more+"\r\n"+body)
	return err
}

// events sends one, and the rest never: it ends when the client goes away.
func events(c net.Conn) error {
	const event = "data: 1\n\n"
	if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(event), event); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		return errors.New("a request in the middle of an answer")
	}
	return io.EOF
}

// echo is a WebSocket that sends back what it gets.
func echo(c net.Conn, br *bufio.Reader, s *seen) {
	req, err := http.NewRequest(s.method, s.target, nil)
	if err != nil {
		return
	}
	req.ProtoMajor, req.ProtoMinor = 1, 1
	for _, f := range s.header {
		req.Header.Add(f[0], f[1])
	}
	ws, err := websocket.Accept(&hijacked{c: c, br: br, header: http.Header{}}, req, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	for {
		kind, data, err := ws.Read(req.Context())
		if err != nil || ws.Write(req.Context(), kind, data) != nil {
			return
		}
	}
}

// hijacked is a connection as net/http would hand it over.
type hijacked struct {
	c      net.Conn
	br     *bufio.Reader
	header http.Header
}

func (h *hijacked) Header() http.Header         { return h.header }
func (h *hijacked) Write(p []byte) (int, error) { return h.c.Write(p) }
func (h *hijacked) WriteHeader(status int) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	h.header.Write(&b)
	b.WriteString("\r\n")
	h.c.Write(b.Bytes())
}
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.c, bufio.NewReadWriter(h.br, bufio.NewWriter(h.c)), nil
}
