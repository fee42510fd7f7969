package pluginhost

// The gateway beside a real Kong 3.9: the same bytes to both, with the test
// plugin in both, and what the client and the upstream get of them.

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// recorder is an upstream that keeps requests as they came.
type recorder struct {
	net.Listener
	mu   sync.Mutex
	seen []string
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r := &recorder{Listener: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.serve(c)
		}
	}()
	return r
}

func (r *recorder) url() string { return "http://" + r.Addr().String() }

func (r *recorder) serve(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		head := ""
		for !strings.HasSuffix(head, "\r\n\r\n") {
			line, err := br.ReadString('\n')
			if err != nil {
				return
			}
			head += line
		}
		var body []byte
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
		switch {
		case err != nil: // the head is what counts
			err = nil
		case len(req.TransferEncoding) > 0:
			if body, err = io.ReadAll(httputil.NewChunkedReader(br)); err == nil {
				_, err = br.ReadString('\n')
			}
		case req.ContentLength > 0:
			body = make([]byte, req.ContentLength)
			_, err = io.ReadFull(br, body)
		}
		if err != nil {
			return
		}
		r.mu.Lock()
		r.seen = append(r.seen, tidy(head, string(body)))
		r.mu.Unlock()
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Upstream: 1\r\n\r\nok"); err != nil {
			return
		}
	}
}

// take returns what came since the last call.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.seen
	r.seen = nil
	return seen
}

var (
	anyID   = regexp.MustCompile(`[0-9a-f]{32}`)
	anyPort = regexp.MustCompile(`(127\.0\.0\.1:|x-forwarded-port: )\d+`)
)

// tidy is a request at the upstream without what differs each time: fields in
// order of their names, which go in lower case, the framing of the body left out
// (nginx reads a body whole before it sends it on).
func tidy(head, body string) string {
	lines := strings.Split(strings.TrimRight(head, "\r\n"), "\r\n")
	var fields []string
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		if name = strings.ToLower(name); name != "content-length" && name != "transfer-encoding" {
			fields = append(fields, name+":"+value)
		}
	}
	slices.SortStableFunc(fields, func(a, b string) int {
		nameA, _, _ := strings.Cut(a, ":")
		nameB, _, _ := strings.Cut(b, ":")
		return strings.Compare(nameA, nameB)
	})
	s := lines[0] + "\n" + strings.Join(fields, "\n") + "\nbody " + body
	return anyPort.ReplaceAllString(anyID.ReplaceAllString(s, "ID"), "${1}PORT")
}

// side is one of the two gateways.
type side struct {
	addr     string
	upstream *recorder
}

// exchange sends bytes, and returns the answers and what the upstream got. Of an
// answer of the gateway's own it keeps the status: its words are not played. rest
// bounds the wait for each answer behind the first.
func (s *side) exchange(t *testing.T, request string, rest time.Duration) string {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(deadline))
	go func() { _, _ = io.WriteString(c, request) }() // an answer may come before the end
	method, _, _ := strings.Cut(strings.TrimLeft(request, "\r\n"), " ")
	br := bufio.NewReader(c)
	var out strings.Builder
	for {
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				out.WriteString("closed\n")
			}
			break
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Errorf("%.80q: body: %v", request, err)
		}
		fmt.Fprintf(&out, "answer %d %v", resp.StatusCode, resp.Header["X-Reason"])
		switch {
		case resp.Header.Get("X-Upstream") != "":
			fmt.Fprintf(&out, " proxied %v", resp.Header["X-From-Plugin"])
		case strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") && resp.StatusCode == 200, resp.Header["X-Reason"] != nil:
			out.WriteString(" plugin " + anyID.ReplaceAllString(string(body), "ID"))
		}
		out.WriteString("\n")
		_ = c.SetDeadline(time.Now().Add(rest))
	}
	return out.String() + strings.Join(s.upstream.take(), "\n")
}

// startKong runs a real Kong with the test plugin. set are its settings.
func startKong(t *testing.T, bin string, set map[string]string) *side {
	t.Helper()
	dir, upstream := shortDir(t), newRecorder(t)
	program, err := os.ReadFile(probeBinary)
	if err != nil {
		t.Fatal(err)
	}
	yml := "_format_version: '3.0'\nservices:\n- name: up\n  url: " + upstream.url() +
		"\n  routes:\n  - {name: all, paths: [/], strip_path: false}\nplugins:\n- name: probe\n"
	conf, err := filepath.Abs("testdata/evidence.conf")
	if err != nil {
		t.Fatal(err)
	}
	prefix, plugin := filepath.Join(dir, "kong"), filepath.Join(dir, "probe")
	for name, data := range map[string][]byte{plugin: program, filepath.Join(dir, "kong.yml"): []byte(yml)} {
		if err := os.WriteFile(name, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	env := map[string]string{
		"PATH": os.Getenv("PATH"), "HOME": dir,
		"KONG_PREFIX": prefix, "KONG_DATABASE": "off", "KONG_DECLARATIVE_CONFIG": filepath.Join(dir, "kong.yml"),
		"KONG_PROXY_LISTEN": addr, "KONG_ADMIN_LISTEN": "off", "KONG_ADMIN_GUI_LISTEN": "off", "KONG_STATUS_LISTEN": "off",
		"KONG_NGINX_WORKER_PROCESSES": "1", "KONG_ANONYMOUS_REPORTS": "off", "KONG_NGINX_HTTP_INCLUDE": conf,
		"KONG_PLUGINS": "bundled,probe", "KONG_PLUGINSERVER_NAMES": "probe",
		"KONG_PLUGINSERVER_PROBE_SOCKET":    filepath.Join(prefix, "probe.socket"),
		"KONG_PLUGINSERVER_PROBE_START_CMD": plugin + " -kong-prefix " + prefix,
		"KONG_PLUGINSERVER_PROBE_QUERY_CMD": plugin + " -dump",
	}
	if os.Geteuid() == 0 {
		env["KONG_NGINX_USER"] = "root root" // its workers make the plugin's socket
	}
	maps.Copy(env, set)
	run := func(verb string) {
		t.Helper()
		cmd := exec.Command(bin, verb)
		for name, value := range env {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("kong %s: %v: %s", verb, err, out)
		}
	}
	run("start")
	t.Cleanup(func() { run("stop") })
	s := &side{addr, upstream}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(deadline); ; <-tick.C {
		if got := s.exchange(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", time.Second); strings.Contains(got, "proxied") {
			return s
		} else if time.Now().After(limit) {
			t.Fatalf("Kong is not ready: %s", got)
		}
	}
}

// KONG_BIN is the kong command of an installed Kong 3.9. The test is left out,
// and says so, without it.
func TestBesideKong(t *testing.T) {
	bin := os.Getenv("KONG_BIN")
	if bin == "" {
		t.Skip("NOT RUN: KONG_BIN names no Kong")
	}
	conf, err := os.ReadFile("testdata/evidence.conf")
	if err != nil {
		t.Fatal(err)
	}
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	for _, tt := range []struct {
		name     string
		kong     map[string]string
		settings Settings
		requests []string
	}{
		{"by default", nil, Settings{}, slices.Concat(besideLines(), besideFields(), besideNumbers(), besideBodies())},
		{"a trusted peer", map[string]string{"KONG_TRUSTED_IPS": "127.0.0.0/8,10.0.0.0/8", "KONG_REAL_IP_HEADER": "X-Forwarded-For", "KONG_REAL_IP_RECURSIVE": "on"},
			Settings{TrustedIPs: loopback, RealIPHeader: "X-Forwarded-For", RealIPRecursive: true}, besideTrusted()},
		{"lua_max_req_headers", map[string]string{"KONG_LUA_MAX_REQ_HEADERS": "1000"}, Settings{MaxRequestHeaders: 1000}, besideNumbers()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			kong := startKong(t, bin, tt.kong)
			upstream := newRecorder(t)
			tt.settings.Nginx = conf
			b := newBench(t, benchSetup{upstream: upstream.url(), settings: tt.settings})
			mine := &side{b.addr, upstream}
			for _, request := range tt.requests {
				want, got := kong.exchange(t, request, 100*time.Millisecond), mine.exchange(t, request, 100*time.Millisecond)
				if got != want {
					t.Errorf("%.300q\nKong:\n%s\nhere:\n%s", request, want, got)
				}
			}
		})
	}
}

const besideVars = "X-Do: vars request_method,host,http_host,request_uri,uri,args,http_connection,http_upgrade,http_x_a,request_length,realip_remote_addr,remote_addr,wallarm_evidence"

// head is a request without a body.
func head(line string, fields ...string) string {
	return line + "\r\n" + strings.Join(append(fields, "\r\n"), "\r\n")
}

// besideLines are request lines.
func besideLines() (all []string) {
	for _, target := range []string{
		"/a#frag/../z?q=1", "/a/%2e%2e/b%2Fc//d?x", "/../x", "/a%00", "/a%zz", "/a%2", "/a%", "/a%%", "/a b", "?a", "a", "*", "//a", "/a\x01", "/a\\b",
		"http://X.y:80/q?z", "http://X.y", "http://x.y?foo", "http://[::1]:80/", "http:///x", "https://x_y/x", "http://u@x/", "http://x:99999/", "http://x:/",
		"HTTP://x/", "ftp://x/", "x-y+z.1://x/", "://x/", "/?", "/??", "/a?b?c", "/a?#x", "/a/..", "/a/.", "/a%3f?b", "/a?x=<>\"{}|^`", "/%2f%2F%61%7e%7E%41%25%23%3f",
		"/a;b=c/..;/d", "/a%0d%0ab", "/a?b%00c", "/%c3%a9/%C3%A9", "/a/%2e", "/a/%2e%2e", "/a/%2e%2e%2fb", "/+a+b%20c", "/" + strings.Repeat("a", 8300), "/" + strings.Repeat("a", 8000),
	} {
		all = append(all, head("GET "+target+" HTTP/1.1", "Host: a.b"), head("GET "+target+" HTTP/1.1", "Host: a.b", besideVars))
	}
	for _, line := range []string{
		"OPTIONS * HTTP/1.1", "CONNECT a.b:80 HTTP/1.1", "CONNECT / HTTP/1.1", "TRACE / HTTP/1.1", "get / HTTP/1.1", "G-T / HTTP/1.1", "G_T / HTTP/1.1", "PURGE / HTTP/1.1",
		"GET  /a HTTP/1.1", "GET /a  HTTP/1.1", "GET /a HTTP/1.1 ", " GET /a HTTP/1.1", "GET\t/a HTTP/1.1", "GET /a\tHTTP/1.1", "\r\n\r\nGET / HTTP/1.1",
		"GET / HTTP/2.0", "GET / HTTP/1.2", "GET / HTTP/1", "GET / HTTP/1.0", "GET / HTTP/01.1", "GET / HTTP/1.01", "GET / HTTP/1.999", "GET / http/1.1", "PRI * HTTP/2.0",
	} {
		all = append(all, head(line, "Host: a.b"), head(line, "Host: a.b", besideVars))
	}
	return append(all, head("GET / HTTP/1.0"), head("GET / HTTP/1.0", besideVars), head("GET http://x/y HTTP/1.0"), head("GET http://x/y HTTP/1.1"),
		head("GET http://x/y HTTP/1.1", "Host: z"), head("GET http://x/y HTTP/1.1", "Host:"), head("GET http://x/y HTTP/1.1", "Host: a/b"))
}

// besideFields are header fields, and what the plugin does with them.
func besideFields() (all []string) {
	for _, host := range []string{
		"", " a", " A:80", " A.B.:80", " a..b", " a/b", " a\\b", " a b", " a\t", " :80", " .", " [::1]:80", " [::1", " [::1]x", " [a]b:1", " ]", " a[b]", " a:x", " a:80:80", " a:..",
		" a@b", " a,b", " a.b..", " a%2eb", " a?b", " a#b", " a\r\nHost: a",
	} {
		all = append(all, head("GET /x HTTP/1.1", "Host:"+host), head("GET /x HTTP/1.1", "Host:"+host, besideVars))
	}
	for _, fields := range []string{
		"X-A: 1\r\n 2", "X-A:1\rb", "X-A:1\r", "X-A:1\x00", "X-A:1\x01", "X A: 1", "X-A : 1", ": 1", "X(A: 1", "X\xff: 1", "X-A", "X-A\r", "X-A:  \t1\t ", "X-A: caf\xe9", "X-A: 1, 2",
		"X-A: 1\r\nX-A: 2", "X-A: 1\r\nx_a: 2", "X-A:\r\nX-A: 1", "X-A: " + strings.Repeat("a", 9000),
		"Content-Length: 1\r\nContent-Length: 1", "Content-Length: +1", "Content-Length:", "Content-Length: 99999999999999999999", "Content-Length: 0\r\nTransfer-Encoding: chunked",
		"Transfer-Encoding: gzip", "Transfer-Encoding:", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: identity",
		"Authorization: a\r\nAuthorization: b", "Expect: a\r\nExpect: a", "Expect: a", "Content-Type: a\r\nContent-Type: b", "User-Agent: a\r\nUser-Agent: b", "Referer: a\r\nReferer: b",
		"Upgrade: a\r\nUpgrade: b", "Range: a\r\nRange: b", "TE: a\r\nTE: b", "Via: a\r\nVia: b", "Cookie: a=1\r\nCookie: b=2", "X-Real-IP: 1.1.1.1", "X_Real_IP: 1.1.1.1", "Keep-Alive: 5",
		"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2", "X_Forwarded_For: 1.1.1.1", "X-Forwarded_For: 1.1.1.1",
		"X-Forwarded-Proto: https\r\nX-Forwarded-Host: e\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Path: /e\r\nX-Forwarded-Prefix: /p", "X_Forwarded_Proto: https",
		"Connection: X-A\r\nX-A: 1", "connection: x-b\r\nConnection: X-A\r\nX-A: 1\r\nX-B: 2", "Connection: X-A, X-B\r\nX-A: 1\r\nX_A: 2\r\nX-B: 2", "Connection: x-a,,x-b\r\nX-A: 1\r\nX-B: 1",
		"Connection: keep-alive, X-A\r\nX-A: 1", "Connection: close, X-A\r\nX-A: 1", "Connection: close", "Connection: Keep-Alive", "Connection: upgrade\r\nUpgrade: h2c", "Connection: Upgrade, X-A\r\nUpgrade: foo\r\nX-A: 1",
		"Connection: X-Forwarded-For, Cookie\r\nCookie: a=b", "Connection: \"X-A\"\r\nX-A: 1", "Connection: x a\r\nX-A: 1", "Connection: X-A;q=1\r\nX-A: 1", "Connection: X-A\t,\tX-B\r\nX-A: 1\r\nX-B: 1", "Connection: x-a\r\nX-A: 1\r\nX-Do: set X-A=9",
		"Connection: Signature, Signature-Input\r\nSignature: 1\r\nSignature-Input: 2\r\nSignature_Input: 3", "Connection: Signature\r\nConnection: Signature-Input\r\nSignature: 1\r\nSignature-Input: 2",
		"Keep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip\r\nProxy: x\r\nTrailer: x\r\nProxy-Authenticate: y\r\nProxy-Authorization: z", "TE: gzip, trailers", "TE: trailers;q=0.5", "Proxy_Connection: x",
		"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA", "Upgrade: websocket", "Upgrade: WebSocket\r\nConnection: upgrade", "Upgrade: websocket, x\r\nConnection: upgrade", "Upgrade: x\r\nUpgrade: websocket\r\nConnection: upgrade",
		"X-Do: set X-A=9\r\nx-a: 1\r\nX-A: 2", "X-Do: set X-A=9\r\nX_A: 1", "X-Do: set X-A=", "X-Do: set Host=other", "X-Do: set X-Forwarded-For=9", "X-Do: add X-A=9\r\nX-A: 1", "X-Do: add X-A=9\r\nX_A: 1", "X-Do: add X-A=9\r\nX-A: 1\r\nX-A: 2",
		"X-Do: remove X-A,x-b\r\nX-A: 1\r\nX-B: 1\r\nX-B: 2", "X-Do: remove X-A\r\nX_A: 1", "X-Do: remove X-A,X_A\r\nX_A: 1\r\nx-a: 2", "X-Do: remove Connection\r\nConnection: X-A\r\nX-A: 1", "X-Do: remove X-Real-IP,Via,User-Agent\r\nUser-Agent: x",
		"X-Do: clear x-a\r\nX-A: 1\r\nX-A: 2", "X-Do: clear x-a\r\nX_A: 1", "X-Do: respond", "X-Do: route", "X-Do: ctx", "X-Do: request",
		"X-Do: exit 200", "X-Do: exit 401", "X-Do: exit 403", "X-Do: exit 426", "X-Do: exit 444", "X-Do: exit 451", "X-Do: exit 494", "X-Do: exit 499", "X-Do: exit 500", "X-Do: exit 599", "X-Do: exit 99", "X-Do: exit 600",
		"X-Do: header x-a\r\nX-A: 1\r\nX-A: 2", "X-Do: header x-a\r\nX_A: 1", "X-Do: header x-a\r\nX_A: 1, 2", "X-Do: header x_a\r\nX-A: 1, 2", "X-Do: header x_a\r\nX-A: 1\r\nX_A: 2", "X-Do: header x-a\r\nX-A: caf\xe9",
		"X-Do: headers 5\r\nX-A: 1\r\nX-A: 2", "X-Do: headers 100\r\nX_A: 1\r\nx-a: 2", "X-Do: headers 1001", "X-Do: headers 0", "X-Do: close-once", "X-Do: bad-utf8", "X-Do: unknown",
		"X-Do: vars wallarm_evidence\r\nX-Wallarm-Mode: a\r\nX_Wallarm-Mode: b\r\nX-Wallarm-Token: \xff", "X-Do: vars no_such_variable,http_,content_length,content_type,http_user_agent,http_referer,http_cookie,http_via\r\nCookie: a=1\r\nUser_Agent: u\r\nVia: v\r\nVia: w",
	} {
		all = append(all, head("GET /x HTTP/1.1", "Host: a", fields))
		if !strings.Contains(fields, "X-Do") {
			all = append(all, head("GET /x HTTP/1.1", besideVars, "Host: a", fields))
		}
	}
	return all
}

// besideNumbers have as many fields as Kong's Lua reads, and more.
func besideNumbers() (all []string) {
	for _, n := range []int{90, 97, 98, 99, 100, 101, 150, 900} {
		fill := slices.Repeat([]string{"X-Fill: y"}, n)
		for _, parts := range [][2]string{
			{"Host: a", "Connection: X-A\r\nX-A: 1"}, {"Host: a\r\nX-Do: header x-a", "X-A: 1, 2"}, {"Host: a\r\nX-Do: add x-a=3", "X-A: 1"}, {"Host: a\r\nX-Do: remove x-a", "X-A: 1"},
			{"Host: a\r\nX-Do: headers -1", "X-A: 1"}, {"Host: a\r\nConnection: x-fill, x-a", "X-A: 1"},
			{"Accept: x", "Host: a\r\nUpgrade: websocket\r\nTE: trailers\r\nX-Forwarded-For: 1.1.1.1\r\nVia: x\r\nProxy: z\r\nProxy-Connection: y"},
		} {
			all = append(all, head("GET /x HTTP/1.1", slices.Concat([]string{parts[0]}, fill, []string{parts[1]})...))
		}
	}
	return all
}

// besideBodies are requests with a body, and with something behind it.
func besideBodies() []string {
	const next = "GET /next HTTP/1.1\r\nHost: b\r\n\r\n"
	return []string{
		"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + next,
		"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
		"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-A: x\r\n\r\n" + next,
		"POST /x HTTP/1.1\r\nHost: a\r\nX-Do: exit 403\r\nContent-Length: 31\r\n\r\n" + next,
		"POST /x HTTP/1.1\r\nHost: a\r\nX-Do: exit 403\r\nTransfer-Encoding: Chunked\r\n\r\n1f\r\n" + next + "\r\n0\r\n\r\n" + next,
		"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
		"POST /x HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\nContent-Length: 31\r\n\r\n" + next,
		"POST /x HTTP/1.1\r\nHost: a\r\nX-Do: exit 403\r\nConnection: Content-Length\r\nContent-Length: 31\r\n\r\n" + next,
		"POST /x HTTP/1.1\r\nHost: a\r\nConnection: Content_Length\r\nContent-Length: 31\r\n\r\n" + next,
		"POST /x HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + next,
		"HEAD /x HTTP/1.1\r\nHost: a\r\nX-Do: exit 403\r\n\r\n",
		"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n" + next,
		"GET /x HTTP/1.1\nHost: a\nX-A: 1\n\n",
	}
}

// besideTrusted are requests of a peer whose word counts.
func besideTrusted() (all []string) {
	for _, fields := range []string{
		"X-Forwarded-For: 9.9.9.9, 192.0.2.1, 10.1.1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: h\r\nX-Forwarded-Port: 8443\r\nX-Forwarded-Path: /e\r\nX-Forwarded-Prefix: /p",
		"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2", "X-Forwarded-For: 1.1.1.1:80", "X-Forwarded-For: [::1]:80", "X-Forwarded-For: x, 1.1.1.1", "X-Forwarded-For: 1.1.1.1, x", "X-Forwarded-For:", "X-Forwarded-For: 10.0.0.1",
		"X_Forwarded_For: 1.1.1.1", "X-Forwarded-For: 2.2.2.2\r\nX_Forwarded_For: 1.1.1.1", "X_Forwarded_Proto: https", "X-Forwarded-Proto: http\r\nX_Forwarded_Proto: https", "X-Forwarded_Proto: https", "X-Real-IP: 1.1.1.1",
	} {
		all = append(all, head("GET /x HTTP/1.1", "Host: a", fields), head("GET /x HTTP/1.1", besideVars, "Host: a", fields))
	}
	return all
}
