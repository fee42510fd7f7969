package node

// What is refused, and that everything else goes on byte for byte.

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

type targetCase struct {
	name    string
	target  string
	want    int // status
	relaxed int // status with allow_dot_segments, when it differs
	refusal string
	router  int // status of Kong's router, when it finds no route for what the node passes
}

func targetCases() []targetCase {
	cases := []targetCase{
		{name: "root", target: "/", want: 200},
		{name: "path and query", target: "/v1/orders/7?limit=3&after=x", want: 200},
		{name: "empty query", target: "/a?", want: 200},
		{name: "question marks in the query", target: "/a?b=c?d", want: 200},
		{name: "every byte RFC 3986 has", target: "/azAZ09-._~!$&'()*+,;=:@/%5B?azAZ09-._~!$&'()*+,;=:@/?%5B", want: 200},
		{name: "brackets", target: "/a[0]?b[1]=c", want: 200},
		{name: "what browsers leave in a query", target: "/a?b={x}|^`", want: 200},
		{name: "matrix parameters", target: "/a;x=1/b;y=2", want: 200},
		{name: "semicolons between parameters", target: "/a?b=1;c=2;d", want: 200},
		{name: "bad percent in the query", target: "/a?b=%zz&c=%", want: 200},
		{name: "encoded slash", target: "/a%2fb", want: 200},
		{name: "encoded hash", target: "/a%23b", want: 200},
		{name: "encoded question mark", target: "/a%3Fb", want: 200},
		{name: "encoded percent", target: "/a%25b", want: 200},
		{name: "encoded letter", target: "/%61dmin", want: 200},
		{name: "twice encoded traversal", target: "/a/%252e%252e/b", want: 200},
		{name: "three dots", target: "/a/.../b", want: 200},
		{name: "dots in a name", target: "/a/..b/c../d.", want: 200},
		{name: "hidden file", target: "/a/.well-known/x", want: 200},
		{name: "dot segments in the query", target: "/a?b=/x/", want: 200},
		{name: "encoded UTF-8", target: "/caf%C3%A9?q=%C3%A9", want: 200},
		{name: "Latin-1, encoded", target: "/caf%e9", want: 200, router: 404},
		{name: "7,900 bytes", target: "/a?b=" + strings.Repeat("x", 7895), want: 200},

		{name: "fragment with a script", target: "/public#?q=<script>alert(1)</script>", want: 400, refusal: "target"},
		{name: "fragment with an injection", target: "/p#x?id=1%27%20or", want: 400, refusal: "target"},
		{name: "fragment in the query", target: "/p?a#b", want: 400, refusal: "target"},
		{name: "fragment then traversal", target: "/a#frag/../z", want: 400, refusal: "target"},
		{name: "quote", target: `/p"%2f..%2fadm`, want: 400, refusal: "target"},
		{name: "quote in the query", target: `/p?a="b"`, want: 400, refusal: "target"},
		{name: "backslash", target: `/a\b`, want: 400, refusal: "target"},
		{name: "backslash traversal", target: `/a\..\adm`, want: 400, refusal: "target"},
		{name: "backslash in the query", target: `/a?b=\x`, want: 400, refusal: "target"},
		{name: "angle brackets", target: "/<a>", want: 400, refusal: "target"},
		{name: "script in the query, raw", target: "/a?q=<script>alert(1)</script>", want: 400, refusal: "target"},
		{name: "brace in the path", target: "/{id}", want: 400, refusal: "target"},
		{name: "bar in the path", target: "/a|b", want: 400, refusal: "target"},
		{name: "caret in the path", target: "/a^b", want: 400, refusal: "target"},
		{name: "backquote in the path", target: "/a`b", want: 400, refusal: "target"},
		{name: "non-ASCII", target: "/caf\xc3\xa9", want: 400, refusal: "target"},
		{name: "0xff in the query", target: "/a?b=\xff", want: 400, refusal: "target"},
		{name: "two slashes first", target: "//evil.example/x", want: 400, refusal: "target"},
		{name: "three slashes first", target: "///x", want: 400, refusal: "target"},

		{name: "two slashes", target: "/a//b", want: 400, relaxed: 200, refusal: "path"},
		{name: "slash and encoded slash", target: "/a/%2fb", want: 400, relaxed: 200, refusal: "path"},
		{name: "encoded slash and slash", target: "/a%2F/b", want: 400, relaxed: 200, refusal: "path"},
		{name: "two encoded slashes", target: "/a%2f%2Fb", want: 400, relaxed: 200, refusal: "path"},
		{name: "dot segment", target: "/a/./b", want: 400, relaxed: 200, refusal: "path"},
		{name: "dot at the end", target: "/a/.", want: 400, relaxed: 200, refusal: "path"},
		{name: "parent", target: "/a/../b", want: 400, relaxed: 200, refusal: "path"},
		{name: "parent at the end", target: "/a/..", want: 400, relaxed: 200, refusal: "path"},
		{name: "parent before a query", target: "/a/..?x=1", want: 400, relaxed: 200, refusal: "path"},
		{name: "encoded parent", target: "/a/%2e%2e/adm", want: 400, relaxed: 200, refusal: "path"},
		{name: "half encoded parent", target: "/a/.%2E/adm", want: 400, relaxed: 200, refusal: "path"},
		{name: "parent behind an encoded slash", target: "/a%2f..%2fadm", want: 400, relaxed: 200, refusal: "path"},
		{name: "parent with path parameters", target: "/a;x/..;/adm", want: 400, relaxed: 200, refusal: "path"},
		{name: "parent with a named path parameter", target: "/a/..;x=1/adm", want: 400, relaxed: 200, refusal: "path"},
		{name: "encoded parent with parameters", target: "/a/%2e%2e%3bx/adm", want: 400, relaxed: 200, refusal: "path"},
		{name: "segment of parameters only", target: "/x;/..;/y", want: 400, relaxed: 200, refusal: "path"},
		{name: "encoded backslash", target: "/a%5Cb", want: 400, relaxed: 200, refusal: "path"},
		{name: "encoded backslash traversal", target: "/a/..%5cadm", want: 400, relaxed: 200, refusal: "path"},
		// nginx itself answers these 400, whatever the settings say.
		{name: "NUL", target: "/a%00b", want: 400},
		{name: "bad percent in the path", target: "/a%zzb", want: 400},
		{name: "cut percent in the path", target: "/a%", want: 400},
		{name: "above the root", target: "/../x", want: 400},
		{name: "above the root, encoded", target: "/%2e%2e/x", want: 400},
	}
	for i := range cases {
		if cases[i].relaxed == 0 {
			cases[i].relaxed = cases[i].want
		}
	}
	return cases
}

// The node inspects what was sent, and sends on what was sent, or nothing.
func TestTargets(t *testing.T) {
	t.Parallel()
	for _, mode := range []struct {
		name    string
		relaxed bool
	}{{"strict", false}, {"relaxed", true}} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			back := newRecorder(t)
			n := start(t, back.addr, false, func(s *Settings) { s.AllowDotSegments = mode.relaxed })
			for i, c := range targetCases() {
				want := c.want
				if mode.relaxed {
					want = c.relaxed
				}
				t.Run(c.name, func(t *testing.T) {
					trace := fmt.Sprintf("target-%s-%d", mode.name, i)
					resp, _, err := n.exchange(t, albIP, "GET "+c.target+" HTTP/1.1\r\nHost: "+nodeName+"\r\nX-Amzn-Trace-Id: "+trace+"\r\nConnection: close\r\n\r\n")
					if err != nil {
						t.Fatal(err)
					}
					if resp.StatusCode != want {
						t.Fatalf("%s: got %d, want %d", c.target, resp.StatusCode, want)
					}
					got := back.find(trace)
					if want != 200 {
						if len(got) != 0 {
							t.Fatalf("refused, and still sent on as %q", got[0].line)
						}
						if c.refusal != "" {
							if e := n.logged(t, trace); e["refusal"] != c.refusal && !mode.relaxed {
								t.Errorf("the log gives %q as refusal, want %q", e["refusal"], c.refusal)
							}
						}
						return
					}
					if len(got) != 1 || got[0].target() != c.target {
						t.Fatalf("sent on as %+v, want once and as %q", got, c.target)
					}
					if err := evidence.CheckTarget(c.target); err != nil {
						t.Errorf("the attester will refuse what the node lets through: %v", err)
					}
					e := n.logged(t, trace)
					if e["target"] != c.target {
						t.Errorf("the node read %q", e["target"])
					}
					path, query, _ := strings.Cut(c.target, "?")
					if e["query"] != query {
						t.Errorf("inspected the query %q of %q", e["query"], c.target)
					}
					decoded, err := url.PathUnescape(path)
					if err != nil {
						t.Fatal(err)
					}
					// Relaxed, nginx resolves dot segments before it inspects; slashes stay.
					if c.name == "two slashes" && e["path"] != "/a//b" {
						t.Errorf("inspected %q for %q", e["path"], c.target)
					}
					if !mode.relaxed && isASCII(decoded) && e["path"] != decoded {
						t.Errorf("inspected the path %q, sent %q", e["path"], decoded)
					}
				})
			}
		})
	}
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// Every single byte in a path and in a query: the node and the attester refuse
// by the same rule.
func TestTargetBytes(t *testing.T) {
	t.Parallel()
	back := newRecorder(t)
	n := start(t, back.addr, false, nil)
	for b := range 256 {
		if b == '\n' || b == ' ' || b == '?' {
			continue // the end of a line or of a target; the query's begin
		}
		for _, target := range []string{"/a" + string([]byte{byte(b)}) + "31z", "/a?b" + string([]byte{byte(b)}) + "31z"} {
			trace := fmt.Sprintf("byte-%x-%d", b, len(target))
			resp, _, err := n.exchange(t, albIP, "GET "+target+" HTTP/1.1\r\nHost: "+nodeName+"\r\nX-Amzn-Trace-Id: "+trace+"\r\nConnection: close\r\n\r\n")
			if err != nil {
				t.Fatalf("%q: %v", target, err)
			}
			got := back.find(trace)
			if evidence.CheckTarget(target) != nil {
				if resp.StatusCode != http.StatusBadRequest || len(got) != 0 {
					t.Errorf("%q: %d and sent on %d times; the attester refuses it", target, resp.StatusCode, len(got))
				}
				continue
			}
			if resp.StatusCode != http.StatusOK || len(got) != 1 || got[0].target() != target {
				t.Errorf("%q: %d, sent on as %+v", target, resp.StatusCode, got)
			}
		}
	}
}

// Other forms of a request line, and hosts.
func TestRequestLinesAndHosts(t *testing.T) {
	t.Parallel()
	back := newRecorder(t)
	n := start(t, back.addr, false, nil)
	for i, c := range []struct {
		name string
		line string
		host string // the header lines, or empty
		want int    // 0: closed without an answer
		sent string // the Host that goes on
	}{
		{"configured", "GET /x HTTP/1.1", "Host: good.example", 200, nodeName},
		{"another configured", "GET /x HTTP/1.1", "Host: other.example", 200, "other.example"},
		{"upper case", "GET /x HTTP/1.1", "Host: GOOD.example", 200, nodeName},
		{"port 80", "GET /x HTTP/1.1", "Host: GOOD.example:80", 200, nodeName},
		{"port 443", "GET /x HTTP/1.1", "Host: good.example:443", 200, nodeName},
		{"HTTP/1.0", "GET /x HTTP/1.0", "Host: good.example", 200, nodeName},

		{"another port", "GET /x HTTP/1.1", "Host: good.example:8080", 421, ""},
		{"port 0443", "GET /x HTTP/1.1", "Host: good.example:0443", 421, ""},
		{"two ports", "GET /x HTTP/1.1", "Host: good.example:80:443", 421, ""},
		{"port without a name", "GET /x HTTP/1.1", "Host: :443", 400, ""},
		{"empty port", "GET /x HTTP/1.1", "Host: good.example:", 421, ""},
		{"trailing dot", "GET /x HTTP/1.1", "Host: good.example.", 421, ""},
		{"trailing dot and port", "GET /x HTTP/1.1", "Host: good.example.:80", 421, ""},
		{"not configured", "GET /x HTTP/1.1", "Host: evil.example", 421, ""},
		{"a configured name within", "GET /x HTTP/1.1", "Host: good.example.evil.example", 421, ""},
		{"address", "GET /x HTTP/1.1", "Host: 127.0.0.1", 421, ""},
		{"IPv6 address", "GET /x HTTP/1.1", "Host: [::1]", 421, ""},
		{"user info", "GET /x HTTP/1.1", "Host: evil@good.example", 421, ""},
		{"list", "GET /x HTTP/1.1", "Host: good.example, evil.example", 400, ""},
		{"path in it", "GET /x HTTP/1.1", "Host: good.example/evil", 400, ""},
		{"NUL in it", "GET /x HTTP/1.1", "Host: good.example\x00evil", 400, ""},
		{"empty", "GET /x HTTP/1.1", "Host:", 400, ""},
		{"missing", "GET /x HTTP/1.1", "", 400, ""},
		{"missing, HTTP/1.0", "GET /x HTTP/1.0", "", 421, ""},

		{"two Hosts, good first", "GET /x HTTP/1.1", "Host: good.example\r\nHost: evil.example", 400, ""},
		{"two Hosts, evil first", "GET /x HTTP/1.1", "Host: evil.example\r\nHost: good.example", 400, ""},
		{"the same Host twice", "GET /x HTTP/1.1", "Host: good.example\r\nHost: good.example", 400, ""},

		{"absolute-form, another host", "GET http://evil.example/x HTTP/1.1", "Host: good.example", 400, ""},
		{"absolute-form, other way round", "GET http://good.example/x HTTP/1.1", "Host: evil.example", 400, ""},
		{"absolute-form, same host", "GET http://good.example/x HTTP/1.1", "Host: good.example", 400, ""},
		{"authority-form", "CONNECT good.example:443 HTTP/1.1", "Host: good.example", 400, ""},
		{"asterisk-form", "OPTIONS * HTTP/1.1", "Host: good.example", 400, ""},
		{"no slash", "GET x HTTP/1.1", "Host: good.example", 400, ""},
		{"two spaces", "GET  /x HTTP/1.1", "Host: good.example", 400, ""},
		{"space at the end", "GET /x  HTTP/1.1", "Host: good.example", 400, ""},
		{"space in the target", "GET /x y HTTP/1.1", "Host: good.example", 400, ""},
		{"tab", "GET\t/x HTTP/1.1", "Host: good.example", 400, ""},
		{"lower-case method", "get /x HTTP/1.1", "Host: good.example", 400, ""},
		{"TRACE", "TRACE /x HTTP/1.1", "Host: good.example", 405, ""},
		{"HTTP/2.0", "GET /x HTTP/2.0", "Host: good.example", 505, ""},
		{"HTTP/1.2", "GET /x HTTP/1.2", "Host: good.example", 400, ""},
		{"HTTP/01.1", "GET /x HTTP/01.1", "Host: good.example", 400, ""},
		{"WebDAV method", "PROPFIND /x HTTP/1.1", "Host: good.example", 200, nodeName},
	} {
		t.Run(c.name, func(t *testing.T) {
			trace := fmt.Sprintf("line-%d", i)
			raw := c.line + "\r\n"
			if c.host != "" {
				raw += c.host + "\r\n"
			}
			resp, _, err := n.exchange(t, albIP, raw+"X-Amzn-Trace-Id: "+trace+"\r\nConnection: close\r\n\r\n")
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.want {
				t.Errorf("got %d, want %d", resp.StatusCode, c.want)
			}
			got := back.find(trace)
			if c.sent == "" {
				if len(got) != 0 {
					t.Fatalf("refused, and still sent on: %+v", got)
				}
				return
			}
			if len(got) != 1 || len(got[0].values("host")) != 1 || got[0].values("host")[0] != c.sent {
				t.Fatalf("sent on as %+v", got)
			}
			if e := n.logged(t, trace); e["host"] != c.sent {
				t.Errorf("inspected for %q, sent on for %q", e["host"], c.sent)
			}
		})
	}
	t.Run("HTTP/0.9", func(t *testing.T) {
		before := back.count()
		c := n.dial(t, albIP)
		fmt.Fprint(c, "GET /x\r\n")
		buf := make([]byte, 512)
		k, _ := c.Read(buf)
		if back.count() != before {
			t.Fatalf("HTTP/0.9 was sent on; answer %q", buf[:k])
		}
	})
}
