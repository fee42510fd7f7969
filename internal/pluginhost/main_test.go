package pluginhost

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/Kong/go-pdk/server" // of testdata/probe, which go mod tidy does not see
)

// probeBinary is the test plugin, built once.
var probeBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pluginhost")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	probeBinary = filepath.Join(dir, "probe")
	if out, err := exec.Command("go", "build", "-o", probeBinary, "./testdata/probe").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the test plugin: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// deadline bounds every wait of a test.
const deadline = 20 * time.Second

// logBook keeps Kong's log.
type logBook struct {
	mu    sync.Mutex
	lines []string
	news  chan struct{}
}

func (b *logBook) add(level, msg string) {
	b.mu.Lock()
	b.lines = append(b.lines, level+": "+msg)
	b.mu.Unlock()
	select {
	case b.news <- struct{}{}:
	default:
	}
}

func (b *logBook) contains(s string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(strings.Join(b.lines, "\n"), s)
}

// wait waits for a line with s in it.
func (b *logBook) wait(t *testing.T, s string) {
	t.Helper()
	limit := time.After(deadline)
	for !b.contains(s) {
		select {
		case <-b.news:
		case <-limit:
			t.Fatalf("no line with %q in the log:\n%s", s, strings.Join(b.lines, "\n"))
		}
	}
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "ph")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// startHost starts the test plugin.
func startHost(t *testing.T, change func(*Options)) (*Host, *logBook) {
	t.Helper()
	book := &logBook{news: make(chan struct{}, 1)}
	o := Options{Binary: probeBinary, Prefix: shortDir(t), MaxEvents: 50, RespawnInterval: 10 * time.Millisecond, Log: book.add}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	h, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	if err := h.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return h, book
}

// bench is a gateway with the test plugin in front of an echo upstream.
type bench struct {
	*Gateway
	host *Host
	log  *logBook
	addr string
	obs  chan Observation
}

// echo answers with the request as it arrived, head first.
func echo(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Upstream", "echo")
		fmt.Fprintf(w, "%s %s host=%s body=%s", r.Method, r.RequestURI, r.Host, body)
	}))
	t.Cleanup(s.Close)
	return s
}

type benchSetup struct {
	options  func(*Options)
	settings Settings
	config   func(c *Config)
	upstream string
}

func newBench(t *testing.T, setup benchSetup) *bench {
	t.Helper()
	h, book := startHost(t, setup.options)
	if setup.upstream == "" {
		setup.upstream = echo(t).URL
	}
	b := &bench{host: h, log: book, obs: make(chan Observation, 1000)}
	setup.settings.Observer = func(o Observation) { b.obs <- o }
	c := Config{
		Services: []Service{{Name: "up", URL: setup.upstream, Routes: []Route{{Name: "all"}}}},
		Plugins:  []Plugin{{Name: "probe"}},
	}
	if setup.config != nil {
		setup.config(&c)
	}
	g, err := NewGateway(h, c, setup.settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	addr, err := g.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.Gateway, b.addr = g, addr.String()
	return b
}

// raw sends bytes as they are and returns status, header and body of the
// answer.
func (b *bench) raw(t *testing.T, request string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(deadline))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// do sends a request with an operation for the test plugin.
func (b *bench) do(t *testing.T, op string, fields ...string) (*http.Response, string, Observation) {
	t.Helper()
	head := "GET /x HTTP/1.1\r\nHost: a.example\r\n"
	if op != "" {
		head += "X-Do: " + op + "\r\n"
	}
	for _, f := range fields {
		head += f + "\r\n"
	}
	resp, body := b.raw(t, head+"\r\n")
	return resp, body, b.observed(t)
}

func (b *bench) observed(t *testing.T) Observation {
	t.Helper()
	select {
	case o := <-b.obs:
		return o
	case <-time.After(deadline):
		t.Fatal("no observation")
		panic("unreachable")
	}
}

// values are the values of the upstream header with exactly this name, letter
// case aside.
func (o Observation) values(name string) []string {
	var out []string
	for _, f := range o.UpstreamHeader {
		if f.is(lowerASCII(name)) {
			out = append(out, f.Value)
		}
	}
	return out
}
