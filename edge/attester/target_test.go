package main

import (
	"bufio"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// forwardedTargets are targets that Go's own proxy would change, or that look
// hostile: each must arrive byte for byte.
var forwardedTargets = []string{
	"/",
	"/?",
	"/a?b=c",
	"/a?b;c=d;e",
	"/a?b=%zz&c=%",
	"/a?b=c%2",
	"/a%2fb",
	"/a%2Fb%2f..%2F",
	"/a/../b",
	"/a/./b//c",
	"/a/%2e%2e/b",
	"/a;x=1/b;/c",
	"/a;x/..;/adm",
	"/%00",
	"/%ff%fe",
	"/a:b@c!$&'()*+,=~",
	"/[a]",
	"/a?q[]=1&q[a]=2",
	"/a?q={x}|y^`z",
	"/a?b?c?d",
	"/a?//evil.example/",
	"/a?http://evil.example/",
	"/*",
	"/a%23b?c=%23",
	"/a?" + strings.Repeat("x=1&", 12000),
	"/" + strings.Repeat("a", 8000),
}

// refusedTargets never arrive.
var refusedTargets = []string{
	"/public#?q=<script>",
	"/p#x?id=1%27%20or",
	`/p"%2f..%2fadm`,
	`/a\..\b`,
	"/a<b>",
	"/a?b=\"",
	"/a?b=<c>",
	"/a?b#c",
	"/\xff",
	"/a?\xc3\xa9",
	"/a\x01",
	"/a?b\x7f",
	"/a?b\x00",
	"/{a}",
	"/a|b",
	"/a^b",
	"/a`b",
	"//evil.example/a",
	"//",
	"http://evil.example/a",
	"https://api.example.com/",
	"HTTP://api.example.com",
	"evil.example:443",
	"*",
	"a",
	"?a",
	"%2fa",
	"/%zz",
	"/%",
	"/a%2",
	"/" + strings.Repeat("a", 65<<10),
}

func TestTargetArrivesAsSent(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	for _, target := range forwardedTargets {
		code, body, err := r.raw("GET " + target + " HTTP/1.1\r\nHost: api.example.com\r\n" + statement + "\r\n")
		if err != nil || code != http.StatusOK {
			t.Errorf("%.80q: answer %d %q, error %v; want 200", target, code, body, err)
			continue
		}
		got := r.gateway.take()
		if len(got) != 1 || got[0].target != target || got[0].reason != "" {
			t.Errorf("%.80q: arrived as %+v", target, got)
		}
	}
}

func TestTargetIsRefused(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	for _, target := range refusedTargets {
		code, body, err := r.raw("GET " + target + " HTTP/1.1\r\nHost: api.example.com\r\n" + statement + "\r\n")
		if err != nil || code != http.StatusBadRequest {
			t.Errorf("%.80q: answer %d %q, error %v; want 400", target, code, body, err)
		}
		if got := r.gateway.take(); len(got) != 0 {
			t.Errorf("%.80q: arrived as %q", target, got[0].target)
		}
	}
}

func TestMethodConnectIsRefused(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	for _, target := range []string{"/a", "evil.example:443"} {
		code, _, err := r.raw("CONNECT " + target + " HTTP/1.1\r\nHost: api.example.com\r\n" + statement + "\r\n")
		if err != nil || code != http.StatusBadRequest || len(r.gateway.take()) != 0 {
			t.Errorf("CONNECT %s: answer %d, error %v; want 400 and nothing forwarded", target, code, err)
		}
	}
}

func TestForwardedHost(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, host, want string }{ // want "": refused
		{"plain", "api.example.com", "api.example.com"},
		{"case kept", "API.Example.com", "API.Example.com"},
		{"default port of http", "api.example.com:80", "api.example.com"},
		{"default port of https", "GOOD:443", "GOOD"},
		{"other port", "api.example.com:8443", "api.example.com:8443"},
		{"port with leading zero stays", "a:080", "a:080"},
		{"trailing dot", "good.", "good."},
		{"underscore", "a_b", "a_b"},
		{"IPv4", "192.0.2.1:8080", "192.0.2.1:8080"},
		{"IPv6", "[2001:db8::1]", "[2001:db8::1]"},
		{"IPv6 default port", "[2001:db8::1]:443", "[2001:db8::1]"},
		{"IPv6 port", "[2001:db8::1]:8443", "[2001:db8::1]:8443"},
		{"empty", "", ""},
		{"port only", ":80", ""},
		{"empty port", "a:", ""},
		{"empty port after address", "[::1]:", ""},
		{"two ports", "a:80:80", ""},
		{"port too long", "a:123456", ""},
		{"port no number", "a:8a", ""},
		{"bare IPv6", "::1", ""},
		{"open bracket", "[::1", ""},
		{"empty brackets", "[]", ""},
		{"zone", "[fe80::1%eth0]", ""},
		{"junk behind bracket", "[::1]a", ""},
		{"user", "user@host", ""},
		{"path", "host/path", ""},
		{"space", "a b", ""},
		{"comma", "a,b", ""},
		{"non-ASCII", "b\xc3\xbccher.example", ""},
		{"too long", strings.Repeat("a", 256), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := forwardedHost(tt.host)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("forwardedHost(%q) = %q, %v; want %q", tt.host, got, err, tt.want)
			}
		})
	}
}

func TestHostArrivesWithoutDefaultPort(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	tests := []struct {
		name, fields, want string
		code               int
	}{
		{"default port", "Host: API.example.com:443\r\n", "API.example.com", 200},
		{"other port", "Host: api.example.com:8443\r\n", "api.example.com:8443", 200},
		{"none", "", "", 400},
		{"empty", "Host: \r\n", "", 400},
		{"two", "Host: a\r\nHost: b\r\n", "", 400},
		{"two alike", "Host: a\r\nHost: a\r\n", "", 400},
		{"non-ASCII", "Host: b\xc3\xbccher.example\r\n", "", 400},
		{"zone", "Host: [fe80::1%25eth0]\r\n", "", 400},
	}
	for _, tt := range tests {
		code, body, err := r.raw("GET / HTTP/1.1\r\n" + tt.fields + statement + "\r\n")
		if err != nil || code != tt.code {
			t.Errorf("%s: answer %d %q, error %v; want %d", tt.name, code, body, err, tt.code)
		}
		got := r.gateway.take()
		if tt.want == "" && len(got) != 0 || tt.want != "" && (len(got) != 1 || got[0].host != tt.want) {
			t.Errorf("%s: arrived as %+v; want host %q", tt.name, got, tt.want)
		}
	}
}

// FuzzTarget asks checkTarget about every target that net/http would hand over:
// what it lets pass, net/http writes as it was.
func FuzzTarget(f *testing.F) {
	for _, target := range append(forwardedTargets, refusedTargets...) {
		f.Add("GET", target)
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		r := &http.Request{Method: method, RequestURI: target, URL: u, Host: "api.example.com", Header: http.Header{}, Proto: "HTTP/1.1"}
		if checkTarget(r) != nil {
			return
		}
		out := &http.Request{Method: "GET", URL: &url.URL{Scheme: "http", Host: "gateway", Path: u.Path, RawPath: u.RawPath,
			RawQuery: u.RawQuery, ForceQuery: u.ForceQuery}, Host: r.Host, Header: http.Header{}}
		var b strings.Builder
		if err := out.Write(&b); err != nil {
			t.Fatalf("%q cannot be written: %v", target, err)
		}
		h, err := readHead(bufio.NewReader(strings.NewReader(b.String())))
		if err != nil || h.line != "GET "+target+" HTTP/1.1" {
			t.Fatalf("%q is written as %q", target, h.line)
		}
	})
}

// FuzzHost: what passes is a host that net/http does not change either, and
// taking the port off twice changes nothing more.
func FuzzHost(f *testing.F) {
	for _, host := range []string{"a", "a:80", "[::1]:443", "a:80:80", "[fe80::1%eth0]", "b\xc3\xbccher", ""} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		got, err := forwardedHost(host)
		if err != nil {
			return
		}
		if again, err := forwardedHost(got); err != nil || again != got {
			t.Fatalf("%q becomes %q, then %q (%v)", host, got, again, err)
		}
		out := &http.Request{Method: "GET", URL: &url.URL{Scheme: "http", Host: "gateway", Path: "/"}, Host: got, Header: http.Header{}}
		var b strings.Builder
		if err := out.Write(&b); err != nil {
			t.Fatal(err)
		}
		h, err := readHead(bufio.NewReader(strings.NewReader(b.String())))
		if err != nil || len(h.all("Host")) != 1 || h.all("Host")[0] != got {
			t.Fatalf("%q is written as %q", got, h.all("Host"))
		}
	})
}
