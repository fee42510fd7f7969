package pluginhost

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func readString(s string) (*requestHead, error) {
	return readHead(bufio.NewReaderSize(strings.NewReader(s), maxLine+2))
}

// outcome is a status, or what nginx made of the head.
func outcome(s string) string {
	h, err := readString(s)
	var no *refusal
	switch {
	case errors.As(err, &no):
		return fmt.Sprint(no.status)
	case err != nil:
		return err.Error()
	}
	return fmt.Sprintf("host=[%s] ru=[%s] uri=[%s] args=[%s]", h.host, h.target, h.path, h.args)
}

// The expectations of this table were recorded from nginx 1.22.
func TestRequestLine(t *testing.T) {
	t.Parallel()
	const rest = "\r\nHost: a.b\r\n\r\n"
	for line, want := range map[string]string{
		"GET /a#frag/../z?q=1 HTTP/1.1":      "host=[a.b] ru=[/a#frag/../z?q=1] uri=[/a] args=[]",
		"GET /a/%2e%2e/b%2Fc//d?x HTTP/1.1":  "host=[a.b] ru=[/a/%2e%2e/b%2Fc//d?x] uri=[/b/c/d] args=[x]",
		"GET /../x HTTP/1.1":                 "400",
		"GET /a%00 HTTP/1.1":                 "400",
		"GET /a%zz HTTP/1.1":                 "400",
		"GET /a%+1 HTTP/1.1":                 "400",
		"GET /a%2 HTTP/1.1":                  "400",
		"GET /a b HTTP/1.1":                  "400",
		"GET http://X.y:80/q?z HTTP/1.1":     "host=[x.y] ru=[/q?z] uri=[/q] args=[z]",
		"GET http://X.y HTTP/1.1":            "host=[x.y] ru=[/] uri=[/] args=[]",
		"GET http://x.y?foo HTTP/1.1":        "host=[x.y] ru=[?foo] uri=[/] args=[foo]",
		"GET http://[::1]:80/ HTTP/1.1":      "host=[[::1]] ru=[/] uri=[/] args=[]",
		"OPTIONS * HTTP/1.1":                 "400",
		"GET * HTTP/1.1":                     "400",
		"CONNECT a.b:80 HTTP/1.1":            "400",
		"CONNECT / HTTP/1.1":                 "405",
		"TRACE / HTTP/1.1":                   "405",
		"GET /a\x01 HTTP/1.1":                "400",
		"GET /a\x7f HTTP/1.1":                "400",
		"GET /a\xff HTTP/1.1":                "host=[a.b] ru=[/a\xff] uri=[/a\xff] args=[]",
		"get / HTTP/1.1":                     "400",
		"GET //a HTTP/1.1":                   "host=[a.b] ru=[//a] uri=[/a] args=[]",
		"GET a HTTP/1.1":                     "400",
		"GET ?a HTTP/1.1":                    "400",
		"G-T / HTTP/1.1":                     "host=[a.b] ru=[/] uri=[/] args=[]",
		"G_T / HTTP/1.1":                     "host=[a.b] ru=[/] uri=[/] args=[]",
		"GET /a\\b HTTP/1.1":                 "host=[a.b] ru=[/a\\b] uri=[/a\\b] args=[]",
		"GET  /a HTTP/1.1":                   "host=[a.b] ru=[/a] uri=[/a] args=[]",
		"GET /a  HTTP/1.1":                   "host=[a.b] ru=[/a] uri=[/a] args=[]",
		"GET /? HTTP/1.1":                    "host=[a.b] ru=[/?] uri=[/] args=[]",
		"GET /a?#x HTTP/1.1":                 "host=[a.b] ru=[/a?#x] uri=[/a] args=[]",
		"GET /a/.. HTTP/1.1":                 "host=[a.b] ru=[/a/..] uri=[/] args=[]",
		"GET /a/. HTTP/1.1":                  "host=[a.b] ru=[/a/.] uri=[/a/] args=[]",
		"GET http:///x HTTP/1.1":             "400",
		"GET https://x_y/x HTTP/1.1":         "400",
		"GET /a%3f?b HTTP/1.1":               "host=[a.b] ru=[/a%3f?b] uri=[/a?] args=[b]",
		"GET / HTTP/2.0":                     "505",
		"GET / HTTP/1.2":                     "host=[a.b] ru=[/] uri=[/] args=[]",
		"GET / HTTP/1":                       "400",
		"GET / HTTP/01.1":                    "400",
		"GET / HTTP/1.001":                   "host=[a.b] ru=[/] uri=[/] args=[]",
		"GET / HTTP/1.999":                   "host=[a.b] ru=[/] uri=[/] args=[]",
		"GET / HTTP/1.1000":                  "400",
		"\r\n\r\nGET / HTTP/1.1":             "host=[a.b] ru=[/] uri=[/] args=[]",
		"GET /" + strings.Repeat("a", 8300):  "414",
		"GET /" + strings.Repeat("a", 20000): "414",
	} {
		if got := outcome(line + rest); got != want {
			t.Errorf("%.60q: got %s want %s", line, got, want)
		}
	}
}

// Recorded from nginx 1.22, the hosts from a real Kong 3.9.3 (nginx 1.25.3), but
// for duplicates of plain headers, which newer ones join.
func TestHeaderLines(t *testing.T) {
	t.Parallel()
	const ok = "host=[a] ru=[/] uri=[/] args=[]"
	for lines, want := range map[string]string{
		"Host: a\r\n":                 ok,
		"Host: A:80\n":                ok,
		"":                            "400",
		"Host:\r\n":                   "400",
		"Host: a\r\nHost: a\r\n":      "400",
		"Host: A.B.:80\r\n":           "host=[a.b] ru=[/] uri=[/] args=[]",
		"Host: a..b\r\n":              "400",
		"Host: a/b\r\n":               "400",
		"Host: a\\b\r\n":              "host=[a\\b] ru=[/] uri=[/] args=[]",
		"Host: a b\r\n":               "400",
		"Host: a\t\r\n":               "400",
		"Host: :80\r\n":               "400",
		"Host: .\r\n":                 "400",
		"Host: [::1]:80\r\n":          "host=[[::1]] ru=[/] uri=[/] args=[]",
		"Host: [::1\r\n":              "host=[[::1] ru=[/] uri=[/] args=[]",
		"Host: [::1]x\r\n":            "host=[[::1]] ru=[/] uri=[/] args=[]",
		"Host: [::1].\r\n":            "host=[[::1]] ru=[/] uri=[/] args=[]",
		"Host: [x.]:1\r\n":            "host=[[x.]] ru=[/] uri=[/] args=[]",
		"Host: a.:80\r\n":             ok,
		"Host: a:80.\r\n":             ok,
		"Host: a:..\r\n":              "400",
		"Host: a:/\r\n":               "400",
		"Host: a\r\r\r\n":             ok,
		"Host: a\r\nX-A: 1 \r\r\n":    ok,
		"Host: a\r\n\r\r\n":           "400",
		"Host: a:x\r\n":               ok,
		"Host: a:80:80\r\n":           ok,
		"Host: a@b\r\n":               "host=[a@b] ru=[/] uri=[/] args=[]",
		"Host: a\xff\r\n":             "host=[a\xff] ru=[/] uri=[/] args=[]",
		"Host: a\r\nX-A: 1\r\n 2\r\n": "400", // obs-fold
		"Host: a\r\nX-A:1\rb\r\n":     "400",
		"Host: a\r\nX-A:1\x00\r\n":    "400",
		"Host: a\r\nX-A:1\x01\r\n":    ok,
		"Host: a\r\nX A: 1\r\n":       "400",
		"Host: a\r\nX-A : 1\r\n":      "400",
		"Host: a\r\n: 1\r\n":          "400",
		"Host: a\r\nX(A: 1\r\n":       ok,
		"Host: a\r\nX\xff: 1\r\n":     ok,
		"Host: a\r\nX-A\r\n":          ok,
		"Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n":                      "400",
		"Host: a\r\nContent-Length: +1\r\n":                                          "400",
		"Host: a\r\nContent-Length:\r\n":                                             "400",
		"Host: a\r\nContent-Length: 99999999999999999999\r\n":                        "400",
		"Host: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n":             "400",
		"Host: a\r\nTransfer-Encoding: Chunked\r\n":                                  ok,
		"Host: a\r\nTransfer-Encoding: gzip\r\n":                                     "501",
		"Host: a\r\nTransfer-Encoding:\r\n":                                          "501",
		"Host: a\r\nTransfer-Encoding: chunked, chunked\r\n":                         "501",
		"Host: a\r\nAuthorization: a\r\nAuthorization: b\r\n":                        "400",
		"Host: a\r\nExpect: a\r\nExpect: a\r\n":                                      "400",
		"Host: a\r\nUpgrade: a\r\nUpgrade: b\r\n":                                    ok,
		"Host: a\r\nX-A: " + strings.Repeat("a", 9000) + "\r\n":                      "494",
		"Host: a\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 4000)+"\r\n", 12): "494",
	} {
		if got := outcome("GET / HTTP/1.1\r\n" + lines + "\r\n"); got != want {
			t.Errorf("%.60q: got %s want %s", lines, got, want)
		}
	}
	for request, want := range map[string]string{
		"GET / HTTP/1.0\r\n\r\n":                               "host=[kong] ru=[/] uri=[/] args=[]",
		"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n": "400",
		"GET http://x/ HTTP/1.1\r\n\r\n":                       "400",
		"GET http://x/ HTTP/1.0\r\n\r\n":                       "host=[x] ru=[/] uri=[/] args=[]",
		"GET / HTTP/1.1\r\nHost: a\r\nX-A\r\r\n\r\n":           "host=[a] ru=[/] uri=[/] args=[]",
		"GET http://x/ HTTP/1.1\r\nHost:\r\n\r\n":              "400",
		"GET http://x/ HTTP/1.1\r\nHost: a/b\r\n\r\n":          "400",
		"GET /\r\n":                     "400", // HTTP/0.9
		"":                              io.EOF.Error(),
		"GET / HTTP/1.1\r\nHost: a\r\n": io.ErrUnexpectedEOF.Error(),
	} {
		if got := outcome(request); got != want {
			t.Errorf("%.60q: got %s want %s", request, got, want)
		}
	}
}

func TestHeaderFields(t *testing.T) {
	t.Parallel()
	h, err := readString("GET / HTTP/1.1\r\nHost: a\r\nx_B:  1 \t \r\nX(: gone\r\nX-Empty\r\nX-A:\t2\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []Field{{"Host", "a"}, {"x_B", "1 \t"}, {"X-Empty", ""}, {"X-A", "\t2"}}
	if fmt.Sprintf("%q", h.fields) != fmt.Sprintf("%q", want) {
		t.Errorf("got %q want %q", h.fields, want)
	}
}

func FuzzHead(f *testing.F) {
	f.Add([]byte("GET http://a:1/b?c#d HTTP/1.1\r\nHost: a\r\nX_y: \xff\r\n\r\n"))
	f.Add([]byte("POST /%2e%2e/ HTTP/1.0\nContent-Length: 3\n\nabc"))
	f.Add([]byte("GET http://[::1]?x HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := readHead(bufio.NewReaderSize(strings.NewReader(string(data)), maxLine+2))
		if err != nil {
			return
		}
		if h.size > maxHead || h.size > len(data) || len(h.fields) > maxFields {
			t.Fatalf("out of bounds: %d bytes, %d fields", h.size, len(h.fields))
		}
		// Nothing that is let through may end a line or hold a NUL.
		for _, s := range []string{h.line, h.target, h.host} {
			if strings.ContainsAny(s, "\r\n\x00 ") && s != h.line {
				t.Fatalf("%q", s)
			}
		}
		for _, fd := range h.fields {
			if strings.ContainsAny(fd.Name+fd.Value, "\r\n\x00") || fd.Name == "" {
				t.Fatalf("%q", fd)
			}
		}
		if h.host == "" || !strings.HasPrefix(h.path, "/") || strings.Contains(h.path, "//") || strings.Contains(h.path+"/", "/../") {
			t.Fatalf("host %q path %q", h.host, h.path)
		}
		if h.chunked && h.length >= 0 {
			t.Fatal("two framings")
		}
		up := escapePath(normalPath(pathOf(h.target)))
		if strings.ContainsAny(up, " \r\n\x00") || strings.Contains(up, "//") {
			t.Fatalf("upstream path %q", up)
		}
	})
}
