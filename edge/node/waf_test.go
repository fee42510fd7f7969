package node

// The same configuration with a WAF in it: the OWASP CRS stand-in, which is
// ModSecurity where the node has the Wallarm module.

import (
	"bufio"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
)

func TestStandIn(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"block", "monitoring"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			back := newRecorder(t)
			n := start(t, back.addr, true, func(s *Settings) { s.Mode = mode })
			form := func(body string) string {
				return fmt.Sprintf("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			}
			for i, c := range []struct {
				name, line, rest string
				want             int // in mode block; 200 in mode monitoring, unless refused
				refused          bool
			}{
				{"plain", "GET /v1/orders?limit=3", "\r\n", 200, false},
				{"form", "POST /v1/orders", form("a=1&b=2"), 200, false},
				{"SQL injection", "GET /x?sqli=union+select+1", "\r\n", 403, false},
				{"SQL injection, quoted", "GET /x?id=1%27%20or%20%271%27=%271", "\r\n", 403, false},
				{"SQL injection behind a semicolon", "GET /x?a=1;id=1%27%20or%20%271%27=%271", "\r\n", 403, false},
				{"script", "GET /x?q=" + url.QueryEscape("<script>alert(1)</script>"), "\r\n", 403, false},
				{"traversal in an argument", "GET /x?f=" + url.QueryEscape("../../etc/passwd"), "\r\n", 403, false},
				{"SQL injection in a form", "POST /x", form("id=1%27%20or%20%271%27%3D%271"), 403, false},
				{"script in a header", "GET /x", "Referer: <script>alert(1)</script>\r\n\r\n", 403, false},
				{"script in the path", "GET /x/" + url.PathEscape("<script>alert(1)</script>"), "\r\n", 403, false},
				{"script behind a hash", "GET /public#?q=<script>alert(1)</script>", "\r\n", 400, true},
				{"injection behind a hash", "GET /p#x?id=1%27%20or", "\r\n", 400, true},
				{"traversal behind a quote", `GET /p"%2f..%2fadm`, "\r\n", 400, true},
				{"encoded parent", "GET /a/%2e%2e/adm", "\r\n", 400, true},
			} {
				t.Run(c.name, func(t *testing.T) {
					trace := fmt.Sprintf("waf-%s-%d", mode, i)
					raw := c.line + " HTTP/1.1\r\nHost: " + nodeName + "\r\nX-Amzn-Trace-Id: " + trace +
						"\r\nX-Forwarded-For: 198.51.100.7\r\nUser-Agent: test\r\nAccept: */*\r\nConnection: close\r\n" + c.rest
					resp, _, err := n.exchange(t, albIP, raw)
					if err != nil {
						t.Fatal(err)
					}
					want := c.want
					if mode == "monitoring" && !c.refused {
						want = 200
					}
					if resp.StatusCode != want {
						t.Fatalf("got %d, want %d", resp.StatusCode, want)
					}
					got := back.find(trace)
					if want != 200 {
						if len(got) != 0 {
							t.Fatalf("stopped, and still sent on as %q", got[0].line)
						}
						if e := n.logged(t, trace); (e["refusal"] != "") != c.refused {
							t.Errorf("the log gives %q as refusal", e["refusal"])
						}
						return
					}
					_, target, _ := strings.Cut(c.line, " ")
					if len(got) != 1 || got[0].target() != target {
						t.Fatalf("sent on as %+v", got)
					}
					if v := got[0].values("x-wallarm-mode"); len(v) != 1 || v[0] != mode {
						t.Errorf("mode arrives as %q", v)
					}
				})
			}

			// What the image puts into every server is closed to clients, also to
			// those that claim to be local.
			for i, forwarded := range []string{"198.51.100.7", "127.0.0.1, 198.51.100.7", "127.0.0.1, 198.51.100.7, 127.0.0.2"} {
				trace := fmt.Sprintf("apifw-%s-%d", mode, i)
				resp, _, err := n.exchange(t, albIP, "GET /wallarm-apifw/x HTTP/1.1\r\nHost: "+nodeName+"\r\nX-Amzn-Trace-Id: "+trace+"\r\nX-Forwarded-For: "+forwarded+"\r\nConnection: close\r\n\r\n")
				if err != nil || resp.StatusCode != 403 || len(back.find(trace)) != 0 {
					t.Errorf("/wallarm-apifw for X-Forwarded-For %q: %v, %v", forwarded, resp, err)
				}
			}

			// The WAF reads the body, whatever its size and coding.
			t.Run("10 MB body", func(t *testing.T) {
				trace := "waf-big-" + mode
				c := n.dial(t, albIP)
				go fmt.Fprintf(c, "POST /x HTTP/1.1\r\nHost: %s\r\nX-Amzn-Trace-Id: %s\r\nUser-Agent: test\r\nAccept: */*\r\nX-Forwarded-For: 198.51.100.7\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%s\r\n0\r\n\r\n",
					nodeName, trace, 10_000_000, `"`+strings.Repeat("x", 9_999_998)+`"`)
				resp, _, err := readResponse(t, bufio.NewReader(c), "POST")
				if err != nil || resp.StatusCode != 200 {
					t.Fatalf("%v, %v", resp, err)
				}
				if got := back.find(trace); len(got) != 1 || got[0].body != 10_000_000 {
					t.Errorf("sent on as %+v", got)
				}
			})
			t.Run("attack in a chunked body", func(t *testing.T) {
				trace := "waf-chunked-" + mode
				body := "id=1%27%20or%20%271%27%3D%271"
				c := n.dial(t, albIP)
				io.WriteString(c, fmt.Sprintf("POST /x HTTP/1.1\r\nHost: %s\r\nX-Amzn-Trace-Id: %s\r\nUser-Agent: test\r\nAccept: */*\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n",
					nodeName, trace, 5, body[:5], len(body)-5, body[5:]))
				resp, _, err := readResponse(t, bufio.NewReader(c), "POST")
				want := map[string]int{"block": 403, "monitoring": 200}[mode]
				if err != nil || resp.StatusCode != want {
					t.Fatalf("%v, %v, want %d", resp, err, want)
				}
				if got := len(back.find(trace)); (got == 0) != (mode == "block") {
					t.Errorf("sent on %d times", got)
				}
			})
		})
	}
}
