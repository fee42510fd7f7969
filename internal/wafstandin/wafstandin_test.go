package wafstandin

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The rules take long to compile, so all tests share one WAF and one attester.
var shared struct {
	waf   *WAF
	front *httptest.Server
	mu    sync.Mutex
	seen  map[string]*http.Request // by the value of the header Case
}

func TestMain(m *testing.M) {
	shared.seen = map[string]*http.Request{}
	attester := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shared.mu.Lock()
		shared.seen[r.Header.Get("Case")] = r
		shared.mu.Unlock()
		if r.Header.Get("Upgrade") != "" {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
			rw.Flush()
			io.CopyN(conn, rw, 4)
			return
		}
		io.Copy(w, r.Body)
	}))
	target, err := url.Parse(attester.URL)
	if err == nil {
		shared.waf, err = New(Options{Attester: target})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared.front = httptest.NewServer(shared.waf)
	code := m.Run()
	shared.front.Close()
	shared.waf.Close()
	attester.Close()
	os.Exit(code)
}

// send writes head, to which it adds the header Case, over a connection of its
// own and returns the answer, its body and what the attester got.
func send(t *testing.T, name, requestLine, fields, body string) (*http.Response, string, *http.Request) {
	t.Helper()
	conn, err := net.Dial("tcp", shared.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	name = url.QueryEscape(name)
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: API.example\r\nUser-Agent: test\r\nAccept: */*\r\nCase: %s\r\n%s\r\n%s", requestLine, name, fields, body)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	if res.StatusCode != http.StatusSwitchingProtocols {
		if out, err = io.ReadAll(res.Body); err != nil {
			t.Fatal(err)
		}
	}
	shared.mu.Lock()
	defer shared.mu.Unlock()
	return res, string(out), shared.seen[name]
}

// A target arrives byte for byte or not at all.
func TestTargets(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		target string
		status int
	}{
		{"/", 200},
		{"/a/b?c=d&e", 200},
		{"/a;b=c/d?e;f=1;g", 200},
		{"/a%2Fb%2fc", 200},
		{"/%41%7e~", 200},
		{"/a?q=%zz", 200},
		{"/a?", 200},
		{"/a?b=c?d=/../e", 403}, // CRS,
		{"/a?q={x}|^`", 200},
		{"/.../x", 403}, // CRS,
		{"/a.b/..c", 200},
		{"/:80/x@y", 200},
		{"/public#?q=<script>alert(1)</script>", 400},
		{`/p"%2f..%2fadm`, 400},
		{`/a\b`, 400},
		{"/a\xffb", 400},
		{"/a%00b", 400},
		{"/a%5cb", 400},
		{"//a", 400},
		{"/a//b", 400},
		{"/a/%2Fb", 400},
		{"/a/../b", 400},
		{"/a/%2e%2E/b", 400},
		{"/a%2f..", 400},
		{"/a/..;x/b", 400},
		{"/healthz/;/..;/admin", 400},
		{"/a/.", 400},
		{"/a/..?b", 400},
		{"/a%zz", 400},
		{"http://other.example/", 400},
		{"*", 400},
	} {
		t.Run(tc.target, func(t *testing.T) {
			t.Parallel()
			res, body, got := send(t, t.Name(), "GET "+tc.target, "", "")
			if res.StatusCode != tc.status {
				t.Fatalf("status %d (%s), want %d", res.StatusCode, body, tc.status)
			}
			if (got != nil) != (tc.status == 200) {
				t.Fatalf("the attester got %v", got)
			}
			if got != nil && (got.RequestURI != tc.target || got.Host != "API.example") {
				t.Errorf("the attester got %q of %q, want %q", got.RequestURI, got.Host, tc.target)
			}
		})
	}
}

// The published attacks are stopped, the ordinary is not.
func TestInspection(t *testing.T) {
	t.Parallel()
	form := "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n"
	for _, tc := range []struct {
		name, line, fields, body string
		status                   int
	}{
		{"plain", "GET /orders?page=2", "", "", 200},
		{"SQL injection", "GET /?id=1%27%20union%20select%201,password%20from%20users--", "", "", 403},
		{"traversal in an argument", "GET /?file=../../../../etc/passwd", "", "", 403},
		{"script", "GET /?q=%3Cscript%3Ealert(1)%3C/script%3E", "", "", 403},
		{"SQL injection in a body", "POST /login", form, "user=admin%27+or+1%3D1--+&p=x", 403},
		{"harmless body", "POST /login", form, "user=alice&p=x", 200},
		{"delete", "DELETE /orders/7", "", "", 200},
		{"Latin-1 cookie", "GET /", "Cookie: name=Jos\xe9\r\n", "", 200},
		{"150 headers", "GET /", headers(150), "", 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			fields := tc.fields
			if strings.Contains(fields, "%d") {
				fields = fmt.Sprintf(fields, len(tc.body))
			}
			res, body, got := send(t, t.Name(), tc.line, fields, tc.body)
			if res.StatusCode != tc.status || (got != nil) != (tc.status == 200) {
				t.Fatalf("status %d (%s), want %d; the attester got %v", res.StatusCode, body, tc.status, got)
			}
			if tc.status == 200 && body != tc.body {
				t.Errorf("body %q, want %q", body, tc.body)
			}
		})
	}
}

func headers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "X-Field-%d: %d\r\n", i, i)
	}
	return b.String()
}

// Whatever a client sends, the attester gets the node's four values once, and
// no other evidence.
func TestStatement(t *testing.T) {
	t.Parallel()
	forged := ""
	for _, name := range evidence.Headers() {
		forged += name + ": forged\r\n" + strings.ReplaceAll(name, "-", "_") + ": forged\r\n"
	}
	ids := map[string]bool{}
	for _, tc := range []struct{ name, fields string }{
		{"none", ""},
		{"forged", forged},
		{"named in Connection", "Connection: x-wallarm-mode, X-Wallarm-Request-Id\r\n"},
	} {
		res, body, got := send(t, t.Name()+tc.name, "GET /", tc.fields, "")
		if res.StatusCode != 200 || got == nil {
			t.Fatalf("%s: status %d: %s", tc.name, res.StatusCode, body)
		}
		for name, values := range got.Header {
			if evidence.IsHeader(name) && (len(values) != 1 || values[0] == "forged") {
				t.Errorf("%s: %s: %q", tc.name, name, values)
			}
		}
		m := evidence.Message{
			RequestID: got.Header.Get(evidence.HeaderRequestID), ClientIP: got.Header.Get(evidence.HeaderClientIP),
			Mode: got.Header.Get(evidence.HeaderMode), Application: got.Header.Get(evidence.HeaderApplication),
		}
		if err := m.CheckStatement(); err != nil || m.Mode != "block" || m.ClientIP != "127.0.0.1" || m.Application != "-1" {
			t.Errorf("%s: statement %+v: %v", tc.name, m, err)
		}
		if ids[m.RequestID] || !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(m.RequestID) {
			t.Errorf("%s: request id %q", tc.name, m.RequestID)
		}
		ids[m.RequestID] = true
		if node := got.Header[evidence.HeaderNode]; node != nil {
			t.Errorf("%s: the attester's own header arrived: %q", tc.name, node)
		}
	}
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	conn, err := net.Dial("tcp", shared.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /ws HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test\r\nAccept: */*\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	fmt.Fprint(conn, "ping")
	got := make([]byte, 4)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "ping" {
		t.Errorf("echo %q, %v", got, err)
	}
}

// The mode and the status are a WAF's own, so this test has one for itself.
func TestModeAndStatus(t *testing.T) {
	t.Parallel()
	var mode string
	attester := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mode = r.Header.Get(evidence.HeaderMode)
	}))
	defer attester.Close()
	target, err := url.Parse(attester.URL)
	if err != nil {
		t.Fatal(err)
	}
	waf, err := New(Options{Attester: target, Application: 7})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(waf)
	defer front.Close()
	defer waf.Close()
	for _, tc := range []struct {
		mode   evidence.Mode
		status int
	}{{evidence.ModeBlock, 403}, {evidence.ModeMonitoring, 200}, {evidence.ModeOff, 200}} {
		waf.SetMode(tc.mode)
		mode = ""
		res, err := http.Get(front.URL + "/?q=%3Cscript%3Ealert(1)%3C/script%3E")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != tc.status || tc.status == 200 && mode != tc.mode.String() {
			t.Errorf("mode %v: status %d, stated %q", tc.mode, res.StatusCode, mode)
		}
	}

	status := func() (s struct {
		Requests, Attacks, Blocked int
		DB                         int            `json:"db_id"`
		Lom                        int            `json:"lom_id"`
		Instances                  map[string]int `json:"proton_instances"`
	}) {
		t.Helper()
		rec := httptest.NewRecorder()
		waf.Status().ServeHTTP(rec, httptest.NewRequest("GET", "/wallarm-status", nil))
		if err := json.Unmarshal(rec.Body.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := status(); s.Requests != 3 || s.Attacks != 2 || s.Blocked != 1 || s.DB == 0 || s.Lom == 0 || s.Instances["success"] != 2 || s.Instances["failed"] != 0 {
		t.Errorf("status %+v", s)
	}
	waf.SetDegraded(true)
	if s := status(); s.Instances["failed"] != 1 {
		t.Errorf("status of a degraded node %+v", s)
	}
	rec := httptest.NewRecorder()
	waf.Status().ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	if rec.Code != http.StatusNotFound {
		t.Errorf("/ of the status server answers %d", rec.Code)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{}); err == nil {
		t.Error("New without an attester succeeded")
	}
}

// The refusal of ambiguous paths is total, and never passes a target that
// net/http would send as another.
func FuzzCheckRequest(f *testing.F) {
	for _, s := range []string{"/", "/a;b?c;d", "/a/%2e%2e/b", "//", "/p\"%2f..%2fadm", "*", "/?", "/a%2Fb"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n")))
		if err != nil || checkRequest(r) != nil {
			return
		}
		if out := r.URL.RequestURI(); out != r.RequestURI || r.RequestURI != target {
			t.Fatalf("%q would be sent as %q", target, out)
		}
		if path, _, _ := strings.Cut(target, "?"); strings.Contains(path, "//") || strings.Contains(path+"/", "/../") {
			t.Fatalf("%q passed", target)
		}
	})
}
