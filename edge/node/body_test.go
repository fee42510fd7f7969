package node

// Bodies, and requests that two servers would cut at different places.

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestBodies(t *testing.T) {
	t.Parallel()
	back := newRecorder(t)
	n := start(t, back.addr, false, nil)
	chunked := func(size, chunk int) string {
		var b strings.Builder
		for size > 0 {
			k := min(size, chunk)
			fmt.Fprintf(&b, "%x\r\n%s\r\n", k, strings.Repeat("x", k))
			size -= k
		}
		return b.String() + "0\r\n\r\n"
	}
	plain := func(size int) string { return strings.Repeat("x", size) }
	for i, c := range []struct {
		name, head, body string
		want, size       int
	}{
		{"no body", "GET /x HTTP/1.1", "", 200, 0},
		{"empty body", "POST /x HTTP/1.1\r\nContent-Length: 0", "", 200, 0},
		{"one byte", "POST /x HTTP/1.1\r\nContent-Length: 1", "x", 200, 1},
		{"10 MB", "POST /x HTTP/1.1\r\nContent-Length: 10000000", plain(10_000_000), 200, 10_000_000},
		{"chunked", "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked", chunked(100, 7), 200, 100},
		{"chunked, 10 MB", "PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked", chunked(10_000_000, 65_536), 200, 10_000_000},
		{"chunked with trailers", "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Wallarm-Mode", "1\r\nx\r\n0\r\nX-Wallarm-Mode: off\r\n\r\n", 200, 1},
		{"chunk extension", "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked", "1;a=b\r\nx\r\n0\r\n\r\n", 200, 1},
		{"HTTP/1.0 with a length", "POST /x HTTP/1.0\r\nContent-Length: 5", "12345", 200, 5},
		{"GET with a body", "GET /x HTTP/1.1\r\nContent-Length: 5", "12345", 200, 5},
		{"HEAD", "HEAD /x HTTP/1.1", "", 200, 0},
		{"12 kB header", "GET /x HTTP/1.1\r\nCookie: " + plain(12_000), "", 200, 0},
		{"too large", "POST /x HTTP/1.1\r\nContent-Length: 16777217", "", 413, 0},
		{"target above the buffer", "GET /" + plain(17_000) + " HTTP/1.1", "", 414, 0},
		{"header above the buffer", "GET /x HTTP/1.1\r\nX-Big: " + plain(17_000), "", 400, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			trace := fmt.Sprintf("body-%d", i)
			conn := n.dial(t, albIP)
			go io.WriteString(conn, c.head+"\r\nHost: "+nodeName+"\r\nX-Amzn-Trace-Id: "+trace+"\r\nConnection: close\r\n\r\n"+c.body)
			method, _, _ := strings.Cut(c.head, " ")
			resp, _, err := readResponse(t, bufio.NewReader(conn), method)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.want {
				t.Fatalf("got %d, want %d", resp.StatusCode, c.want)
			}
			got := back.find(trace)
			if c.want != 200 {
				if len(got) != 0 {
					t.Fatal("refused, and still sent on")
				}
				return
			}
			if len(got) != 1 || got[0].body != c.size {
				t.Fatalf("sent on %d times, body %v, want %d bytes", len(got), got, c.size)
			}
			if v := got[0].values("x-wallarm-mode"); len(v) != 1 || v[0] != "block" {
				t.Errorf("mode arrives as %q", v)
			}
		})
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	back := newRecorder(t)
	n := start(t, back.addr, false, nil)
	c := n.dial(t, albIP)
	fmt.Fprintf(c, "POST /x HTTP/1.1\r\nHost: %s\r\nX-Amzn-Trace-Id: expect\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", nodeName)
	br := bufio.NewReader(c)
	line, err := br.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := br.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "12345")
	resp, _, err := readResponse(t, br, "POST")
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	got := back.find("expect")
	if len(got) != 1 || got[0].body != 5 || len(got[0].values("expect")) != 0 {
		t.Fatalf("sent on as %+v", got)
	}

	// A refused request is refused before its body.
	c = n.dial(t, albIP)
	fmt.Fprint(c, "POST /x HTTP/1.1\r\nHost: evil.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n")
	line, err = bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 421 ") {
		t.Fatalf("got %q, %v", line, err)
	}
}

// Each attempt carries a second request that must never be one of its own: the
// backend sees requests that the node logged, and no others.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	back := newRecorder(t)
	n := start(t, back.addr, false, nil)
	const inner = "GET /smuggled HTTP/1.1\r\nHost: " + nodeName + "\r\nX-Amzn-Trace-Id: smuggled\r\n\r\n"
	for i, c := range []struct {
		name string
		head string // lines after the Host
		body string
		pass bool // arrives as one request
	}{
		{"CL.TE", fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked", len("0\r\n\r\n"+inner)), "0\r\n\r\n" + inner, false},
		{"TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 4", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner), false},
		{"two equal lengths", "Content-Length: 5\r\nContent-Length: 5", "12345", false},
		{"two lengths", fmt.Sprintf("Content-Length: 0\r\nContent-Length: %d", len(inner)), inner, false},
		{"list of lengths", "Content-Length: 0, 5", "12345", false},
		{"signed length", "Content-Length: +5", "12345", false},
		{"negative length", "Content-Length: -1", "", false},
		{"hex length", "Content-Length: 0x5", "12345", false},
		{"huge length", "Content-Length: 18446744073709551617", "", false},
		{"chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n", false},
		{"unknown coding", "Transfer-Encoding: xchunked", "0\r\n\r\n", false},
		{"identity and chunked", "Transfer-Encoding: identity, chunked", "0\r\n\r\n", false},
		{"gzip and chunked", "Transfer-Encoding: gzip, chunked", "0\r\n\r\n", false},
		{"vertical tab before chunked", "Transfer-Encoding: \x0bchunked", "0\r\n\r\n", false},
		{"upper case chunked", "Transfer-Encoding: CHUNKED", "1\r\nx\r\n0\r\n\r\n", true},
		{"space before the colon", "Transfer-Encoding : chunked", "", false},
		{"coding with an underscore", "Transfer_Encoding: chunked", "", true},
		{"length with an underscore", "Content_Length: 5", "", true},
		{"folded line", "X-A: b\r\n Transfer-Encoding: chunked", "", false},
		{"folded with a tab", "X-A: b\r\n\tX-Wallarm-Mode: off", "", false},
		{"bare CR in a value", "X-A: b\rX-Wallarm-Mode: off", "", false},
		{"bare CR in a name", "X-A\rX-Wallarm-Mode: off", "", false},
		{"NUL in a value", "X-A: b\x00c", "", false},
		{"no colon", "X-A", "", true}, // a name without a value
		{"empty name", ": x", "", false},
		{"bare LF", "X-A: b\nX-B: c", "", true},
		{"chunk size with a sign", "Transfer-Encoding: chunked", "+1\r\nx\r\n0\r\n\r\n", false},
		{"chunk size with 0x", "Transfer-Encoding: chunked", "0x1\r\nx\r\n0\r\n\r\n", false},
		{"chunk size too large", "Transfer-Encoding: chunked", "10000000000000001\r\nx\r\n0\r\n\r\n", false},
		{"chunk longer than said", "Transfer-Encoding: chunked", "1\r\nxyz\r\n0\r\n\r\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			trace := fmt.Sprintf("smuggle-%d", i)
			conn := n.dial(t, albIP)
			fmt.Fprintf(conn, "POST /outer HTTP/1.1\r\nX-Amzn-Trace-Id: %s\r\nHost: %s\r\n%s\r\n\r\n%s", trace, nodeName, c.head, c.body)
			resp, _, err := readResponse(t, bufio.NewReader(conn), "POST")
			got := back.find(trace)
			if c.pass {
				if err != nil || resp.StatusCode != 200 || len(got) != 1 || got[0].target() != "/outer" {
					t.Fatalf("%v, %v, sent on as %+v", resp, err, got)
				}
				if v := got[0].values("x-wallarm-mode"); len(v) != 1 || v[0] != "block" {
					t.Errorf("mode arrives as %q", v)
				}
				if te := got[0].values("transfer-encoding"); len(te) != 0 {
					t.Errorf("Transfer-Encoding goes on as %q", te)
				}
				return
			}
			if err == nil && resp.StatusCode < 400 {
				t.Errorf("got %d; sent on as %+v", resp.StatusCode, got)
			}
			if len(got) != 0 {
				t.Errorf("refused, and still sent on as %+v", got)
			}
		})
	}
	if got := back.find("smuggled"); len(got) != 0 {
		t.Errorf("the hidden request arrived: %+v", got)
	}
}
