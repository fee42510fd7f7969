package pluginhost

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// without are the fields but one.
func without(name string, fields []string) []string {
	var out []string
	for i := 0; i < len(fields); i += 2 {
		if fields[i] != name {
			out = append(out, fields[i], fields[i+1])
		}
	}
	return out
}

// with are the fields, one with another value.
func with(name, value string, fields []string) []string {
	out := append([]string(nil), fields...)
	for i := 0; i < len(out); i += 2 {
		if out[i] == name {
			out[i+1] = value
		}
	}
	return out
}

const asked = "vars request_method,host,http_host,request_uri,uri,args"

// The expectations of this table were recorded from the nginx 1.25.3 of
// OpenResty 1.25.3.2 with Kong 3.9.3's patches.
func TestHTTP2Heads(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	plain := get("/", "x-do", asked)
	many := func(n int) []string {
		f := get("/", "x-do", asked)
		for range n - 1 {
			f = append(f, "x-f", "")
		}
		return f
	}
	const ok = "GET host=a.example http_host=a.example ru=/ uri=/ args="
	for _, tt := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"a plain request", plain, ok},
		{"an upper-case name", append(plain, "X-A", "1"), "400"},
		{"one upper-case letter", append(plain, "x-aB", "1"), "400"},
		{"a space in a name", append(plain, "x a", "1"), "400"},
		{"a control byte in a name", append(plain, "x\x01", "1"), "400"},
		{"DEL in a name", append(plain, "x\x7f", "1"), "400"},
		{"a colon in a name", append(plain, "x:a", "1"), "400"},
		{"a parenthesis in a name is ignored with its field", append(plain, "host(", "1"), ok},
		{"a dot in a name is ignored with its field", append(plain, "x.host", "1"), ok},
		{"a high byte in a name is ignored with its field", append(plain, "x\xff", "1"), ok},
		{"an ignored field's value is looked at", append(plain, "x(", "\n"), "400"},
		{"a name with an underscore", append(plain, "x_a", "1"), ok},
		{"LF in a value", append(plain, "x-a", "1\n2"), "400"},
		{"CR in a value", append(plain, "x-a", "1\r2"), "400"},
		{"NUL in a value", append(plain, "x-a", "1\x002"), "400"},
		{"another control byte in a value", append(plain, "x-a", "\x01\x7f\t"), ok},
		{"a high byte in a value", append(plain, "x-a", "\xff"), ok},
		{"LF in :path", with(":path", "/\n", plain), "400"},
		{"LF in :authority", with(":authority", "a\nb", plain), "400"},
		{"LF in a cookie", append(plain, "cookie", "a\nb"), "400"},

		{"no :method", without(":method", plain), "400"},
		{"no :scheme", without(":scheme", plain), "400"},
		{"no :path", without(":path", plain), "400"},
		{"no :authority and no host", without(":authority", plain), "400"},
		{"host for :authority", append(without(":authority", plain), "host", "B.example:1"), "GET host=b.example http_host=B.example:1 ru=/ uri=/ args="},
		{"both, and equal", append(plain, "host", "a.example"), "400"},
		{"both, and different", append(plain, "host", "b.example"), "400"},
		{":authority twice", append(plain, ":authority", "a.example"), "400"},
		{"host twice", append(without(":authority", plain), "host", "a", "host", "a"), "400"},
		{":path twice", append(plain, ":path", "/"), "400"},
		{":method twice", append(plain, ":method", "GET"), "400"},
		{":scheme twice", append(plain, ":scheme", "http"), "400"},
		{"an unknown pseudo-header", append(plain, ":protocol", "websocket"), "400"},
		{":status", append(plain, ":status", "200"), "400"},
		{"no more than a colon", append(plain, ":", "x"), "400"},
		{"two colons", append(plain, "::path", "/"), "400"},
		{"pseudo-headers behind the others", append([]string{"x-do", asked}, get("/")...), ok},
		{"an empty :method", with(":method", "", plain), "400"},
		{"a :method in lower case", with(":method", "get", plain), "400"},
		{"a :method of its own", with(":method", "A_B-C", plain), "A_B-C host=a.example http_host=a.example ru=/ uri=/ args="},
		{"a :method with a space", with(":method", "GET /x", plain), "400"},
		{"CONNECT", with(":method", "CONNECT", plain), "405"},
		{"CONNECT as RFC 9113 has it", []string{":method", "CONNECT", ":authority", "a:1"}, "400"},
		{"TRACE", with(":method", "TRACE", plain), "405"},
		{"an empty :scheme", with(":scheme", "", plain), "400"},
		{"another :scheme", with(":scheme", "FTP+a.1-", plain), ok},
		{"a :scheme that begins with a digit", with(":scheme", "1a", plain), "400"},
		{"a :scheme with a colon", with(":scheme", "http:", plain), "400"},

		{"an empty :path", with(":path", "", plain), "400"},
		{"an asterisk", with(":path", "*", with(":method", "OPTIONS", plain)), "400"},
		{"a :path without a slash", with(":path", "a", plain), "400"},
		{"an absolute :path", with(":path", "http://b/x", plain), "400"},
		{"a space in :path", with(":path", "/a b", plain), "400"},
		{"a request line in :path", with(":path", "/a HTTP/1.1", plain), "400"},
		{"a control byte in :path", with(":path", "/\x01", plain), "400"},
		{"DEL in :path", with(":path", "/\x7f", plain), "400"},
		{"a high byte in :path", with(":path", "/\xff", plain), "404"}, // Kong's router takes UTF-8 only
		{"one that is encoded", with(":path", "/%ff", plain), "404"},
		{"a high byte in the query", with(":path", "/?\xfe", plain), "GET host=a.example http_host=a.example ru=/?\xfe uri=/ args=\xfe"},
		{"UTF-8 in :path", with(":path", "/\u00e9", plain), "GET host=a.example http_host=a.example ru=/\u00e9 uri=/\u00e9 args="},
		{"a high byte in :authority", with(":authority", "a\xff", plain), "GET host=a\xff http_host=a\xff ru=/ uri=/ args="},
		{"a number sign", with(":path", "/a#b/../z?q=1", plain), "GET host=a.example http_host=a.example ru=/a#b/../z?q=1 uri=/a args="},
		{"dot segments", with(":path", "/a/%2e%2e/b%2Fc//d?x", plain), "GET host=a.example http_host=a.example ru=/a/%2e%2e/b%2Fc//d?x uri=/b/c/d args=x"},
		{"above the root", with(":path", "/../x", plain), "400"},
		{"a NUL that is encoded", with(":path", "/a%00", plain), "400"},
		{"a bad escape", with(":path", "/a%zz", plain), "400"},
		{"a quote", with(":path", `/a"<>`, plain), `GET host=a.example http_host=a.example ru=/a"<> uri=/a"<> args=`},
		{"two slashes", with(":path", "//b/x", plain), "GET host=a.example http_host=a.example ru=//b/x uri=/b/x args="},
		{"a question mark", with(":path", "/?", plain), "GET host=a.example http_host=a.example ru=/? uri=/ args="},

		{"an empty :authority", with(":authority", "", plain), "400"},
		{"a dot", with(":authority", ".", plain), "400"},
		{"a backslash in :authority", with(":authority", `a\b`, plain), `GET host=a\b http_host=a\b ru=/ uri=/ args=`},
		{"a bracket that is not closed", with(":authority", "[::1", plain), "GET host=[::1 http_host=[::1 ru=/ uri=/ args="},
		{"a number of a port that is none", with(":authority", "a:b.", plain), "GET host=a http_host=a:b. ru=/ uri=/ args="},
		{"two dots", with(":authority", "a..b", plain), "400"},
		{"a slash in :authority", with(":authority", "a/b", plain), "400"},
		{"a space in :authority", with(":authority", "a b", plain), "400"},
		{"a tab in :authority", with(":authority", "a\t", plain), "400"},
		{"user information", with(":authority", "u@A.", plain), "GET host=u@a http_host=u@A. ru=/ uri=/ args="},
		{"a port", with(":authority", "A.B.:80", plain), "GET host=a.b http_host=A.B.:80 ru=/ uri=/ args="},
		{"an IPv6 literal", with(":authority", "[::1]:80", plain), "GET host=[::1] http_host=[::1]:80 ru=/ uri=/ args="},

		{"connection", append(plain, "connection", "close, keep-alive"), ok},
		{"keep-alive", append(plain, "keep-alive", "1"), ok},
		{"upgrade", append(plain, "upgrade", "h2c"), ok},
		{"proxy-connection", append(plain, "proxy-connection", "x"), ok},
		{"te: gzip", append(plain, "te", "gzip"), ok},
		{"http2-settings", append(plain, "http2-settings", "AAAA"), ok},
		{"transfer-encoding: chunked", append(plain, "transfer-encoding", "chunked"), ok},
		{"transfer-encoding: gzip", append(plain, "transfer-encoding", "gzip"), "501"},
		{"transfer-encoding with a space", append(plain, "transfer-encoding", " chunked"), "501"},
		{"transfer-encoding and content-length", append(plain, "transfer-encoding", "chunked", "content-length", "0"), "400"},
		{"transfer-encoding twice", append(plain, "transfer-encoding", "chunked", "transfer-encoding", "chunked"), "400"},
		{"content-length: 0", append(plain, "content-length", "0"), ok},
		{"content-length twice", append(plain, "content-length", "0", "content-length", "0"), "400"},
		{"content-length without a body", append(plain, "content-length", "1"), "400"},
		{"a content-length that is none", append(plain, "content-length", "+0"), "400"},
		{"an empty content-length", append(plain, "content-length", ""), "400"},
		{"a content-length with a space", append(plain, "content-length", "0 "), "400"},
		{"a content-length that is too large", append(plain, "content-length", "99999999999999999999"), "400"},
		{"expect", append(plain, "expect", "100-continue"), ok},
		{"expect twice", append(plain, "expect", "a", "expect", "a"), "400"},
		{"authorization twice", append(plain, "authorization", "a", "authorization", "b"), "400"},
		{"a plain field twice", append(plain, "x-a", "1", "x-a", "2"), ok},
		{"an empty value", append(plain, "x-a", ""), ok},
		{"1000 fields", many(1000 - 1), ok}, // with the host field
		{"1001 fields", many(1001), "400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := b.ask(t, tt.fields...)
			o := b.observed(t)
			got := a.String()
			if a.status == "200" {
				v := variables(t, a.body)
				got = fmt.Sprintf("%s host=%s http_host=%s ru=%s uri=%s args=%s", v["request_method"], v["host"], v["http_host"], v["request_uri"], v["uri"], v["args"])
			} else if o.Events != 0 || o.Proxied || fmt.Sprint(o.Status) != a.status || o.Err == "" {
				t.Errorf("%+v", o)
			}
			if got != tt.want {
				t.Errorf("%s: got %q want %q", describe(tt.fields), got, tt.want)
			}
		})
	}
}

func TestHTTP2Variables(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	for _, tt := range []struct {
		name, variable, want string
		fields               []string
	}{
		{"the protocol", "server_protocol", "HTTP/2.0", nil},
		{"the request line", "request", "GET /p?q HTTP/2.0", nil},
		{"the scheme is the connection's", "scheme", "http", nil},
		{"duplicates are joined", "http_x_a", "1, 2", []string{"x-a", "1", "x-a", "2"}},
		{"every mix of _ and - fills a variable", "http_x_a_b", "1, 2, 3", []string{"x_a-b", "1", "x-a_b", "2", "x-a-b", "3"}},
		{"a comma stays", "http_x_a", "1,2, 3", []string{"x-a", "1,2", "x-a", "3"}},
		{"cookies are joined with ;", "http_cookie", "a=1; b=2; c=3; d=4", []string{"cookie", "a=1", "x-a", "1", "cookie", "b=2; c=3", "cookie", "d=4"}},
		{"spaces around a value stay", "http_x_a", "  1\t ", []string{"x-a", "  1\t "}},
		{"bytes stay", "http_x_a", "caf\xe9\x01", []string{"x-a", "caf\xe9\x01"}},
		{"connection", "http_connection", "x-a, close", []string{"connection", "x-a", "connection", "close"}},
		{"upgrade", "http_upgrade", "websocket", []string{"upgrade", "websocket"}},
		{"te", "http_te", "trailers", []string{"te", "trailers"}},
		{"host is :authority", "http_host", "a.example", nil},
		{"content_length", "content_length", "0", []string{"content-length", "0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := b.ask(t, append(get("/p?q", "x-do", "vars "+tt.variable), tt.fields...)...)
			if got := variables(t, a.body)[tt.variable]; got != tt.want {
				t.Errorf("got %q want %q", got, tt.want)
			}
		})
	}
	t.Run("request_length is the header block's", func(t *testing.T) {
		c := dialHTTP2(t, b.addr)
		block := c.block(get("/", "x-do", "vars request_length")...)
		c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:9], EndStream: true, PadLength: 3, Priority: http2.PriorityParam{StreamDep: 7}}))
		c.must(c.WriteContinuation(1, true, block[9:]))
		if got := variables(t, c.wait(1, false).body)["request_length"]; got != fmt.Sprint(len(block)) {
			t.Errorf("%s, want %d", got, len(block))
		}
	})
	t.Run("the PDK's version", func(t *testing.T) {
		a := b.ask(t, get("/", "x-do", "request")...)
		if !strings.HasSuffix(a.body, "\n2\n") {
			t.Errorf("%q", a.body)
		}
	})
	t.Run("lower-case names, :authority as host", func(t *testing.T) {
		a := b.ask(t, get("/", "x-do", "headers 100", "cookie", "a=1", "x-b", "2", "cookie", "c=3")...)
		if want := `4 {"cookie":["a=1; c=3"],"host":["a.example"],"x-b":["2"],"x-do":["headers 100"]} false`; a.body != want {
			t.Errorf("%s, want %s", a.body, want)
		}
	})
}

// Recorded from the same nginx: what a client does wrong with frames, behind
// the preface and an empty SETTINGS frame.
func TestHTTP2Frames(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	u32 := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	frame := func(kind http2.FrameType, flags http2.Flags, id uint32, payload string) string {
		return u32(uint32(len(payload))<<8 | uint32(kind))[:4] + string([]byte{byte(flags)}) + u32(id) + payload
	}
	request := func(id uint32, flags http2.Flags) string {
		block := ""
		f := get("/")
		for i := 0; i < len(f); i += 2 {
			block += string(literal(f[i], f[i+1]))
		}
		return frame(http2.FrameHeaders, flags, id, block)
	}
	const (
		end  = http2.FlagHeadersEndStream
		done = http2.FlagHeadersEndHeaders
	)
	good := request(1, end|done)
	block := good[9:]
	long := strings.Repeat("a", 8192)
	for _, tt := range []struct{ name, wire, want string }{
		{"a request", good, "200"},
		{"an unknown type", frame(0x77, 0xff, 9, "abc") + good, "200"},
		{"PRIORITY_UPDATE", frame(http2.FramePriorityUpdate, 0, 0, "\x00\x00\x00\x01u=1") + good, "200"},
		{"PUSH_PROMISE", frame(http2.FramePushPromise, 4, 1, u32(2)), "GOAWAY PROTOCOL_ERROR"},
		{"CONTINUATION out of nowhere", frame(http2.FrameContinuation, 4, 1, block), "GOAWAY PROTOCOL_ERROR"},
		{"the reserved bit of a stream", frame(http2.FrameHeaders, end|done, 1|1<<31, block), "200"},

		{"HEADERS on stream 0", request(0, end|done), "GOAWAY PROTOCOL_ERROR"},
		{"HEADERS on an even stream", request(2, end|done), "GOAWAY PROTOCOL_ERROR"},
		{"HEADERS on an old stream", request(3, end|done) + good, "GOAWAY PROTOCOL_ERROR"},
		{"trailers", request(1, done) + frame(http2.FrameHeaders, end|done, 1, string(literal("x-a", "1"))), "GOAWAY PROTOCOL_ERROR"},
		{"no header block", frame(http2.FrameHeaders, end|done, 1, ""), "GOAWAY FRAME_SIZE_ERROR"},
		{"a padded frame without a header block", frame(http2.FrameHeaders, end|done|http2.FlagHeadersPadded, 1, "\x00"), "GOAWAY FRAME_SIZE_ERROR"},
		{"a priority without a header block", frame(http2.FrameHeaders, end|done|http2.FlagHeadersPriority, 1, "\x00\x00\x00\x00\x00"), "GOAWAY FRAME_SIZE_ERROR"},
		{"half a priority", frame(http2.FrameHeaders, end|done|http2.FlagHeadersPriority, 1, "\x00\x00\x00"), "GOAWAY FRAME_SIZE_ERROR"},
		{"nothing but padding", frame(http2.FrameHeaders, end|done|http2.FlagHeadersPadded, 1, "\x02ab"), "GOAWAY FRAME_SIZE_ERROR"},
		{"more padding than frame", frame(http2.FrameHeaders, end|done|http2.FlagHeadersPadded, 1, "\x03ab"), "GOAWAY PROTOCOL_ERROR"},
		{"padding", frame(http2.FrameHeaders, end|done|http2.FlagHeadersPadded, 1, "\x03"+block+"abc"), "200"},
		{"a stream that depends on itself", frame(http2.FrameHeaders, end|done|http2.FlagHeadersPriority, 1, u32(1)+"\x00"+block), "GOAWAY PROTOCOL_ERROR"},
		{"a priority", frame(http2.FrameHeaders, end|done|http2.FlagHeadersPriority, 1, u32(1<<31|9)+"\x00"+block), "200"},
		{"an end of headers that does not come", request(1, end), ""},
		{"another frame in a header block", request(1, end) + frame(http2.FramePing, 0, 0, "12345678"), "GOAWAY PROTOCOL_ERROR"},
		{"CONTINUATION of another stream", request(1, end) + frame(http2.FrameContinuation, 4, 3, ""), "GOAWAY PROTOCOL_ERROR"},
		{"an empty CONTINUATION", request(1, end) + frame(http2.FrameContinuation, 4, 1, ""), "200"},
		{"a CONTINUATION for each byte", frame(http2.FrameHeaders, end, 1, block[:1]) + each(block[1:], func(c string, last bool) string {
			return frame(http2.FrameContinuation, flag(last, 4), 1, c)
		}), "200"},
		{"padding before a CONTINUATION", frame(http2.FrameHeaders, end|http2.FlagHeadersPadded, 1, "\x02"+block[:5]+"xx") + frame(http2.FrameContinuation, 4, 1, block[5:]), "200"},

		{"a field that is cut", frame(http2.FrameHeaders, end|done, 1, block[:len(block)-1]), "GOAWAY FRAME_SIZE_ERROR"},
		{"a length that is cut", frame(http2.FrameHeaders, end|done, 1, "\x00"), "GOAWAY FRAME_SIZE_ERROR"},
		{"index 0", frame(http2.FrameHeaders, end|done, 1, "\x80"), "GOAWAY COMPRESSION_ERROR"},
		{"an index beyond the table", frame(http2.FrameHeaders, end|done, 1, "\xbe"), "GOAWAY COMPRESSION_ERROR"},
		{"an index of too many bytes", frame(http2.FrameHeaders, end|done, 1, "\xff\x80\x80\x80\x01"+block), "GOAWAY COMPRESSION_ERROR"},
		{"a table that is too large", frame(http2.FrameHeaders, end|done, 1, "\x3f\xe2\x1f"+block), "GOAWAY COMPRESSION_ERROR"},
		{"a table of its size", frame(http2.FrameHeaders, end|done, 1, "\x3f\xe1\x1f"+block), "200"},
		{"a table's size behind a field", frame(http2.FrameHeaders, end|done, 1, block+"\x20"), "200"},
		{"bad Huffman code", frame(http2.FrameHeaders, end|done, 1, block+"\x00\x01x\x84\xff\xff\xff\xff"), "GOAWAY COMPRESSION_ERROR"},
		{"an empty name", frame(http2.FrameHeaders, end|done, 1, block+"\x00\x00\x01x"), "GOAWAY PROTOCOL_ERROR"},
		{"8192 bytes of a value", frame(http2.FrameHeaders, end|done, 1, block+string(literal("x-a", long))), "200"},
		{"8193 bytes of a value", frame(http2.FrameHeaders, end|done, 1, block+string(literal("x-a", long+"a"))), "GOAWAY ENHANCE_YOUR_CALM"},
		{"8193 bytes of a name", frame(http2.FrameHeaders, end|done, 1, block+string(literal(long+"a", ""))), "GOAWAY ENHANCE_YOUR_CALM"},
		{"13107 bytes of a value in 8192 of Huffman code", frame(http2.FrameHeaders, end|done, 1, block+"\x00\x03x-a"+huffman(strings.Repeat("a", 13107))), "200"},
		{"a large path, which would be 414 over HTTP/1.1", frame(http2.FrameHeaders, end|done, 1, "\x82\x86\x41\x01a\x04"+huffman("/"+strings.Repeat("a", 12000))), "200"},
		{"32 kB of header", frame(http2.FrameHeaders, end|done, 1, block+strings.Repeat(string(literal("x-a", long[:8000])), 4)), "200"},
		{"more than 32 kB of header", frame(http2.FrameHeaders, end|done, 1, block+strings.Repeat(string(literal("x-a", long[:8000])), 5)), "GOAWAY ENHANCE_YOUR_CALM"},
		{"more than 32 kB out of a table", frame(http2.FrameHeaders, end|done, 1, block+"\x40"+string(literal("x-a", long[:4000]))[1:]+strings.Repeat("\xbe", 9)), "GOAWAY ENHANCE_YOUR_CALM"},

		// A request that is refused for an empty value, and what follows it.
		{"an empty :path", frame(http2.FrameHeaders, end|done, 1, "\x82\x86\x41\x01a\x04\x00"), "400"},
		{"and a name", frame(http2.FrameHeaders, end|done, 1, "\x82\x86\x41\x01a\x04\x00"+string(literal("x-a", "b"))), "GOAWAY PROTOCOL_ERROR"},
		{"and a name that goes into the table", frame(http2.FrameHeaders, end|done, 1, "\x82\x86\x41\x01a\x04\x00\x40"+string(literal("x-a", "b"))[1:]), "400"},
		{"and a name of the table", frame(http2.FrameHeaders, end|done, 1, "\x82\x86\x41\x01a\x04\x00\x04\x01b"), "400"},
		{"and a name that is not in the table", frame(http2.FrameHeaders, end|done, 1, "\x82\x86\x41\x01a\x04\x00\x0f\x70\x01b"), "GOAWAY COMPRESSION_ERROR"},
		{"a bad one that is long counts for the rest", frame(http2.FrameHeaders, end|done, 1, string(literal("X", long))+strings.Repeat("\x00\x01a\x00", 2)), "GOAWAY ENHANCE_YOUR_CALM"},
		{"a bad Huffman code is skipped", frame(http2.FrameHeaders, end|done, 1, string(literal("X", "a"))+"\x00\x01x\x84\xff\xff\xff\xff"), "400"},

		{"DATA on stream 0", frame(http2.FrameData, 0, 0, "a"), "GOAWAY PROTOCOL_ERROR"},
		{"DATA on a stream that is not", frame(http2.FrameData, 0, 7, "a") + good, "200"},
		{"padded DATA without a length", frame(http2.FrameData, http2.FlagDataPadded, 1, ""), "GOAWAY FRAME_SIZE_ERROR"},
		{"DATA with too much padding", frame(http2.FrameData, http2.FlagDataPadded, 1, "\x01"), "GOAWAY PROTOCOL_ERROR"},

		{"PRIORITY", frame(http2.FramePriority, 0, 1, u32(0)+"\x00") + good, "200"},
		{"PRIORITY of 4 bytes", frame(http2.FramePriority, 0, 1, u32(0)), "GOAWAY FRAME_SIZE_ERROR"},
		{"PRIORITY on stream 0", frame(http2.FramePriority, 0, 0, u32(3)+"\x00"), "GOAWAY PROTOCOL_ERROR"},
		{"PRIORITY on itself", frame(http2.FramePriority, 0, 5, u32(5)+"\x00"), "GOAWAY PROTOCOL_ERROR"},
		{"100 PRIORITY frames", strings.Repeat(frame(http2.FramePriority, 0, 1, u32(0)+"\x00"), 100) + good, "200"}, // nginx counts some twice
		{"128 PRIORITY frames", strings.Repeat(frame(http2.FramePriority, 0, 1, u32(0)+"\x00"), 128), "GOAWAY ENHANCE_YOUR_CALM"},

		{"RST_STREAM on a stream that is not", frame(http2.FrameRSTStream, 0, 7, u32(8)) + good, "200"},
		{"RST_STREAM on stream 0", frame(http2.FrameRSTStream, 0, 0, u32(8)), "GOAWAY PROTOCOL_ERROR"},
		{"RST_STREAM of 3 bytes", frame(http2.FrameRSTStream, 0, 1, "abc"), "GOAWAY FRAME_SIZE_ERROR"},

		{"SETTINGS on a stream", frame(http2.FrameSettings, 0, 1, ""), "GOAWAY PROTOCOL_ERROR"},
		{"SETTINGS of 5 bytes", frame(http2.FrameSettings, 0, 0, "abcde"), "GOAWAY FRAME_SIZE_ERROR"},
		{"an acknowledgement with a setting", frame(http2.FrameSettings, 1, 0, "\x00\x04\x00\x00\x00\x01"), "GOAWAY FRAME_SIZE_ERROR"},
		{"an unknown setting", frame(http2.FrameSettings, 0, 0, "\x00\x99\xff\xff\xff\xff") + good, "200"},
		{"a window that is too large", frame(http2.FrameSettings, 0, 0, "\x00\x04\x80\x00\x00\x00"), "GOAWAY FLOW_CONTROL_ERROR"},
		{"a frame size that is too small", frame(http2.FrameSettings, 0, 0, "\x00\x05\x00\x00\x3f\xff"), "GOAWAY PROTOCOL_ERROR"},
		{"a frame size that is too large", frame(http2.FrameSettings, 0, 0, "\x00\x05\x01\x00\x00\x00"), "GOAWAY PROTOCOL_ERROR"},
		{"push: 2", frame(http2.FrameSettings, 0, 0, "\x00\x02\x00\x00\x00\x02"), "GOAWAY PROTOCOL_ERROR"},
		{"no table for the answers", frame(http2.FrameSettings, 0, 0, "\x00\x01\x00\x00\x00\x00") + good, "200"},

		{"PING on a stream", frame(http2.FramePing, 0, 1, "12345678"), "GOAWAY PROTOCOL_ERROR"},
		{"PING of 7 bytes", frame(http2.FramePing, 0, 0, "1234567"), "GOAWAY FRAME_SIZE_ERROR"},
		{"an answer to no PING", frame(http2.FramePing, 1, 0, "12345678") + good, "200"},
		{"GOAWAY", frame(http2.FrameGoAway, 0, 0, u32(0)+u32(0)+"why") + good, "200"},
		{"GOAWAY on a stream", frame(http2.FrameGoAway, 0, 1, u32(0)+u32(0)), "GOAWAY PROTOCOL_ERROR"},
		{"GOAWAY of 7 bytes", frame(http2.FrameGoAway, 0, 0, "1234567"), "GOAWAY FRAME_SIZE_ERROR"},
		{"WINDOW_UPDATE of 0", frame(http2.FrameWindowUpdate, 0, 0, u32(0)), "GOAWAY PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of 0 on a stream", frame(http2.FrameWindowUpdate, 0, 1, u32(1<<31)), "GOAWAY PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of 3 bytes", frame(http2.FrameWindowUpdate, 0, 0, "abc"), "GOAWAY FRAME_SIZE_ERROR"},
		{"WINDOW_UPDATE beyond the largest window", frame(http2.FrameWindowUpdate, 0, 0, u32(1<<31-1)), "GOAWAY FLOW_CONTROL_ERROR"},
		{"WINDOW_UPDATE on a stream that is not", frame(http2.FrameWindowUpdate, 0, 9, u32(1<<31-1)) + good, "200"},
		{"a window beyond the largest on a stream", request(1, done) + frame(http2.FrameWindowUpdate, 0, 1, u32(1<<31-1)), "RST_STREAM FLOW_CONTROL_ERROR"},
		{"a first window that makes a stream's too large", request(1, done) + frame(http2.FrameWindowUpdate, 0, 1, u32(1<<30)) + frame(http2.FrameSettings, 0, 0, "\x00\x04\x7f\xff\xff\xff"), "RST_STREAM FLOW_CONTROL_ERROR"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dialHTTP2(t, b.addr)
			if _, err := io.WriteString(c.conn, tt.wire); err != nil {
				t.Fatal(err)
			}
			if tt.want == "" {
				c.must(c.conn.(*net.TCPConn).CloseWrite())
				tt.want = "closed"
			}
			a := c.wait(1, strings.HasPrefix(tt.want, "GOAWAY"))
			if got := a.String(); got != tt.want && !(strings.HasPrefix(tt.want, "GOAWAY") && strings.HasSuffix(got, tt.want)) {
				t.Errorf("got %q want %q", got, tt.want)
			}
		})
	}
}

// each joins what f makes of each byte.
func each(s string, f func(c string, last bool) string) string {
	out := ""
	for i := range len(s) {
		out += f(s[i:i+1], i == len(s)-1)
	}
	return out
}

func flag(set bool, f http2.Flags) http2.Flags {
	if set {
		return f
	}
	return 0
}

// huffman is a string literal in Huffman code.
func huffman(s string) string {
	b := hpackLength(int(hpack.HuffmanEncodeLength(s)))
	b[0] |= 0x80
	return string(hpack.AppendHuffmanString(b, s))
}

func TestHTTP2Preface(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	off := newBench(t, benchSetup{settings: Settings{NoHTTP2: true}})
	read := func(addr, wire string) string {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(deadline))
		for i := range len(wire) { // byte by byte, as far as the network lets it
			_, _ = io.WriteString(conn, wire[i:i+1])
		}
		if len(wire) == 20 {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
		var b [12]byte
		n, _ := io.ReadFull(conn, b[:])
		return string(b[:n])
	}
	settings := "\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00"[:12]
	for wire, want := range map[string]string{
		http2.ClientPreface:                            settings,
		http2.ClientPreface[:20]:                       "",
		"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n":             "HTTP/1.1 400",
		"PRI / HTTP/1.1\r\nHost: a\r\n\r\n":            "HTTP/1.1 200",
		"GET / HTTP/1.0\r\n\r\n":                       "HTTP/1.1 200",
		"\r\n" + http2.ClientPreface:                   "HTTP/1.1 400",
		"GET / HTTP/1.0\r\n\r\n" + http2.ClientPreface: "HTTP/1.1 200",
	} {
		if got := read(b.addr, wire); got != want {
			t.Errorf("%q: got %q want %q", wire, got, want)
		}
	}
	if got := read(off.addr, http2.ClientPreface); got != "HTTP/1.1 400" {
		t.Errorf("NoHTTP2: %q", got)
	}
}

func TestHTTP2Upstream(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	a := b.ask(t, get("/a/%2e%2e/b?c#d", "connection", "x-gone", "x-gone", "1", "te", "gzip, trailers", "cookie", "a=1", "cookie", "b=2",
		"upgrade", "h2c", "keep-alive", "5", "proxy-connection", "x", "x_y", " z ", "via", "2 edge", "x-forwarded-for", "192.0.2.1", "expect", "100-continue")...)
	o := b.observed(t)
	if a.status != "200" || a.body != "GET /b?c host="+strings.TrimPrefix(o.values("Host")[0], "")+" body=" || a.header["x-upstream"][0] != "echo" {
		t.Errorf("%s %q %v", a, a.body, a.header)
	}
	if o.Protocol != "HTTP/2.0" || o.Method != "GET" || o.Target != "/a/%2e%2e/b?c#d" || o.Host != "a.example" || o.Events != 1 {
		t.Errorf("%+v", o)
	}
	for name, want := range map[string]string{
		"connection": "[keep-alive]", "te": "[trailers]", "cookie": "[a=1; b=2]", "upgrade": "[]", "keep-alive": "[]", "proxy-connection": "[]",
		"x_y": "[ z ]", "x-gone": "[]", "via": "[2 edge, 2 kong/3.9.3]", "x-forwarded-host": "[a.example]", "x-forwarded-proto": "[http]",
		"x-forwarded-for": "[192.0.2.1, 127.0.0.1]", "content-length": "[]", "transfer-encoding": "[]", "expect": "[]", "x-forwarded-path": "[/a/%2e%2e/b]",
	} {
		if got := fmt.Sprint(o.values(name)); got != want {
			t.Errorf("%s: got %s want %s", name, got, want)
		}
	}
}

// An answer goes through the same code as over HTTP/1.1; its framing is
// another.
func TestHTTP2Answers(t *testing.T) {
	t.Parallel()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Mixed-Case", "1")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("Keep-Alive", "1")
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.WriteHeader(304)
		case "/large-header":
			w.Header().Set("X-Large", strings.Repeat("a", 40000))
		case "/stream":
			for range 3 {
				fmt.Fprint(w, strings.Repeat("b", 10000))
				w.(http.Flusher).Flush()
			}
		case "/broken":
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "short")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			fmt.Fprint(w, "body")
		}
	}))
	t.Cleanup(up.Close)
	b := newBench(t, benchSetup{upstream: up.URL})
	for _, tt := range []struct {
		name   string
		fields []string
		want   string
		body   int
		length string
	}{
		{"a length", get("/"), "200", 4, "[4]"},
		{"HEAD", with(":method", "HEAD", get("/")), "200", 0, "[4]"},
		{"204", get("/204"), "204", 0, "[]"},
		{"304", get("/304"), "304", 0, "[]"},
		{"no length", get("/stream"), "200", 30000, "[]"},
		{"a header of two frames", get("/large-header"), "200", 0, "[]"},
		{"a body that breaks off", get("/broken"), "200 RST_STREAM INTERNAL_ERROR", 5, "[10]"},
		{"the plugin's", get("/", "x-do", "exit 403"), "403", 6, "[6]"},
		{"the plugin's without a body", get("/", "x-do", "exit 204"), "204", 0, "[]"},
		{"the plugin's to HEAD", with(":method", "HEAD", get("/", "x-do", "exit 403")), "403", 0, "[6]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := b.ask(t, tt.fields...)
			if a.String() != tt.want || len(a.body) != tt.body || fmt.Sprint(a.header["content-length"]) != tt.length {
				t.Errorf("%s, %d bytes, %v", a, len(a.body), a.header["content-length"])
			}
			if a.header["x-hop"] != nil || a.header["connection"] != nil || a.header["keep-alive"] != nil || a.header["transfer-encoding"] != nil {
				t.Errorf("hop-by-hop fields: %v", a.header)
			}
			for name := range a.header {
				if name != lowerASCII(name) {
					t.Errorf("the name %q has an upper-case letter", name)
				}
			}
		})
	}
	if a := b.ask(t, get("/", "x-do", "exit 403")...); fmt.Sprint(a.header["x-reason"]) != "[asked twice]" {
		t.Errorf("%v", a.header)
	}
}

func TestHTTP2Bodies(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	type part struct {
		data string
		end  bool
	}
	for _, tt := range []struct {
		name   string
		fields []string
		parts  []part
		want   string
		body   string
	}{
		{"with its length", post("/", "content-length", "5"), []part{{"hel", false}, {"lo", true}}, "200", "hello"},
		{"without", post("/"), []part{{"hel", false}, {"lo", false}, {"", true}}, "200", "hello"},
		{"empty", post("/"), []part{{"", true}}, "200", ""},
		{"empty, and said so", post("/", "content-length", "0"), []part{{"", true}}, "200", ""},
		{"chunked means nothing", post("/", "transfer-encoding", "chunked"), []part{{"3\r\nabc\r\n0\r\n\r\n", true}}, "200", "3\r\nabc\r\n0\r\n\r\n"},
		{"of a GET", get("/"), []part{{"x", true}}, "200", "x"},
		{"longer than it says", post("/", "content-length", "2"), []part{{"abc", true}}, "400", ""},
		{"longer in a later frame", post("/", "content-length", "2"), []part{{"ab", false}, {"c", false}}, "400", ""},
		{"shorter than it says", post("/", "content-length", "4"), []part{{"abc", true}}, "400", ""},
		{"some where it says none", post("/", "content-length", "0"), []part{{"a", true}}, "400", ""},
		{"a request in it", post("/", "content-length", "26"), []part{{"GET /smuggled HTTP/1.1\r\n\r\n", true}}, "200", "GET /smuggled HTTP/1.1\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dialHTTP2(t, b.addr)
			c.open(1, false, tt.fields)
			for _, p := range tt.parts {
				c.must(c.WriteDataPadded(1, p.end, []byte(p.data), make([]byte, 7)))
			}
			a := c.wait(1, false)
			o := b.observed(t)
			if a.String() != tt.want || a.status == "200" && !strings.HasSuffix(a.body, " body="+tt.body) || fmt.Sprint(o.Status) != a.status {
				t.Errorf("%s %q %+v", a, a.body, o)
			}
			// One length, or chunks; never both.
			if n := len(o.values("Content-Length")) + len(o.values("Transfer-Encoding")); n != 1 && o.Proxied {
				t.Errorf("%v", o.UpstreamHeader)
			}
			if o := len(b.obs); o != 0 {
				t.Errorf("%d more requests", o)
			}
		})
	}
}

// A body that breaks off must not look whole to the upstream.
func TestHTTP2BrokenBody(t *testing.T) {
	t.Parallel()
	arrived, ends := make(chan struct{}, 10), make(chan error, 10)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		_, err := io.Copy(io.Discard, r.Body)
		ends <- err
	}))
	t.Cleanup(up.Close)
	b := newBench(t, benchSetup{upstream: up.URL})
	for name, end := range map[string]func(c *http2Client){
		"a reset":             func(c *http2Client) { c.must(c.WriteRSTStream(1, http2.ErrCodeCancel)) },
		"a closed connection": func(c *http2Client) { c.conn.Close() },
		"a wrong frame":       func(c *http2Client) { c.must(c.WriteWindowUpdate(0, 0)) },
	} {
		for _, fields := range [][]string{post("/"), post("/", "content-length", "10")} {
			c := dialHTTP2(t, b.addr)
			c.open(1, false, fields)
			c.must(c.WriteData(1, false, []byte("abc")))
			receive(t, arrived)
			end(c)
			if err := receive(t, ends); err == nil {
				t.Errorf("%s, %s: the upstream took the body for whole", name, describe(fields))
			}
			if o := b.observed(t); o.Status != 0 || !o.Proxied || o.Err == "" {
				t.Errorf("%s: %+v", name, o)
			}
		}
	}
}

func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(deadline):
		t.Fatal("nothing comes")
		panic("unreachable")
	}
}

// What the client still sends of a body that nobody wants is not waited for.
func TestHTTP2AnswerBeforeBody(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	c := dialHTTP2(t, b.addr)
	c.open(1, false, post("/", "x-do", "exit 403"))
	if a := c.wait(1, true); a.String() != "403 RST_STREAM NO_ERROR" {
		t.Errorf("%s", a)
	}
	// Frames on their way then are no fault, and the connection goes on.
	c.must(c.WriteData(1, false, []byte("late")))
	c.must(c.WriteData(1, true, nil))
	c.open(3, true, get("/"))
	if a := c.wait(3, false); a.String() != "200" {
		t.Errorf("%s", a)
	}
	// A whole body that is not read is no reason for a reset.
	c.open(5, false, post("/", "x-do", "exit 403"))
	c.must(c.WriteData(5, true, []byte("abc")))
	c.must(c.WritePing(false, [8]byte{}))
	if a := c.wait(5, false); a.status != "403" {
		t.Errorf("%s", a)
	}
}

func TestHTTP2FlowControl(t *testing.T) {
	t.Parallel()
	const size = 300 << 10
	release := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Got", fmt.Sprint(n))
		if r.Method == "GET" {
			_, _ = w.Write(bytes.Repeat([]byte("a"), size))
		}
	}))
	t.Cleanup(up.Close)
	b := newBench(t, benchSetup{upstream: up.URL})

	t.Run("the client's windows hold", func(t *testing.T) {
		c := dialHTTP2(t, b.addr)
		c.must(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}))
		c.open(1, true, get("/"))
		got, window, total := 0, 10, 65535
		for ended := false; !ended; {
			f, err := c.ReadFrame()
			c.must(err)
			d, ok := f.(*http2.DataFrame)
			if !ok {
				continue
			}
			n := len(d.Data())
			if got += n; n > window || n > total || n > chunkSize {
				t.Fatalf("a frame of %d bytes, the windows were %d and %d", n, window, total)
			}
			if window, total = window-n, total-n; window == 0 {
				window = 20000
				c.must(c.WriteWindowUpdate(1, 20000))
			}
			if total == 0 {
				total = 50000
				c.must(c.WriteWindowUpdate(0, 50000))
			}
			ended = d.StreamEnded()
		}
		if got != size {
			t.Errorf("%d bytes", got)
		}
	})
	t.Run("the first window may shrink below 0", func(t *testing.T) {
		c := dialHTTP2(t, b.addr)
		c.open(1, true, get("/"))
		for got := 0; got < 65535; {
			f, err := c.ReadFrame()
			c.must(err)
			if d, ok := f.(*http2.DataFrame); ok {
				got += len(d.Data())
			}
		}
		c.must(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
		c.must(c.WriteWindowUpdate(0, 1<<20))
		c.must(c.WriteWindowUpdate(1, 65535)) // to 0
		c.must(c.WritePing(false, [8]byte{1}))
		for {
			f, err := c.ReadFrame()
			c.must(err)
			if _, ok := f.(*http2.DataFrame); ok {
				t.Fatal("DATA without a window")
			}
			if p, ok := f.(*http2.PingFrame); ok && p.IsAck() {
				break
			}
		}
		c.must(c.WriteWindowUpdate(1, size))
		if a := c.wait(1, false); len(a.body) != size-65535 {
			t.Errorf("%s: %d bytes", a, len(a.body))
		}
	})
	t.Run("the gateway's windows are given back", func(t *testing.T) {
		c := dialHTTP2(t, b.addr)
		c.open(1, false, post("/"))
		window, left := streamWindow, size
		for left > 0 {
			for window > 0 && left > 0 {
				n := min(window, left, 16000)
				c.must(c.WriteData(1, n == left, make([]byte, n)))
				window, left = window-n, left-n
			}
			for window == 0 {
				f, err := c.ReadFrame()
				c.must(err)
				if w, ok := f.(*http2.WindowUpdateFrame); ok && w.StreamID == 1 {
					window += int(w.Increment)
				}
			}
			if window > streamWindow {
				t.Fatalf("a window of %d", window)
			}
		}
		if a := c.wait(1, false); fmt.Sprint(a.header["x-got"]) != fmt.Sprintf("[%d]", size) {
			t.Errorf("%s %v", a, a.header)
		}
	})
	t.Run("a client that does not keep to the window", func(t *testing.T) {
		b := newBench(t, benchSetup{options: func(o *Options) { o.Timeout = 2 * time.Second }})
		c := dialHTTP2(t, b.addr)
		// The plugin hangs, nothing is read of the body.
		c.open(1, false, post("/", "x-do", "hang"))
		c.must(c.WriteData(1, false, make([]byte, streamWindow)))
		c.must(c.WriteData(1, false, make([]byte, 1)))
		if a := c.wait(1, true); a.String() != "RST_STREAM FLOW_CONTROL_ERROR" {
			t.Errorf("%s", a)
		}
		c.open(3, true, get("/"))
		c.must(c.WriteWindowUpdate(3, size))
		c.must(c.WriteWindowUpdate(0, size))
		if a := c.wait(3, false); a.String() != "200" {
			t.Errorf("%s", a)
		}
	})
	t.Run("DATA behind the end", func(t *testing.T) {
		c := dialHTTP2(t, b.addr)
		c.open(1, true, with(":path", "/slow", post("/")))
		c.must(c.WriteData(1, false, []byte("a")))
		if a := c.wait(1, true); a.String() != "RST_STREAM STREAM_CLOSED" {
			t.Errorf("%s", a)
		}
		close(release)
	})
}

func TestHTTP2Streams(t *testing.T) {
	t.Parallel()
	hold, arrived, gone := make(chan struct{}), make(chan struct{}, 1000), make(chan struct{}, 1000)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		select {
		case <-hold:
		case <-r.Context().Done():
			gone <- struct{}{}
		}
		fmt.Fprint(w, r.URL.Path)
	}))
	t.Cleanup(up.Close)
	b := newBench(t, benchSetup{upstream: up.URL})

	t.Run("a reset ends the upstream's request", func(t *testing.T) {
		c := dialHTTP2(t, b.addr)
		c.open(1, true, get("/"))
		receive(t, arrived)
		c.must(c.WriteRSTStream(1, http2.ErrCodeCancel))
		receive(t, gone)
		if o := b.observed(t); o.Status != 0 || !strings.Contains(o.Err, "CANCEL") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("128 at a time", func(t *testing.T) {
		c := dialHTTP2(t, b.addr)
		for i := range uint32(maxStreams) {
			c.open(2*i+1, true, get(fmt.Sprintf("/%d", i)))
		}
		for range maxStreams {
			receive(t, arrived)
		}
		// The refused ones' fields are read all the same: they are in the table.
		c.open(999, true, get("/refused", "x-table", "1"))
		if a := c.wait(999, true); a.String() != "RST_STREAM REFUSED_STREAM" {
			t.Errorf("%s", a)
		}
		close(hold)
		if a := c.wait(2*maxStreams-1, false); a.String() != "200" || a.body != fmt.Sprintf("/%d", maxStreams-1) {
			t.Errorf("%s %q", a, a.body)
		}
		waitFor(t, func() bool { return len(b.obs) == maxStreams })
		c.open(1001, true, get("/after", "x-table", "1"))
		if a := c.wait(1001, false); a.String() != "200" || a.body != "/after" {
			t.Errorf("%s %q", a, a.body)
		}
	})
}

// waitFor polls until ok.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	limit := time.After(deadline)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it does not come to pass")
		}
	}
}

// A client that goes on while its streams are refused is sent away.
func TestHTTP2RefusedStreams(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold }))
	t.Cleanup(up.Close)
	t.Cleanup(func() { close(hold) })
	b := newBench(t, benchSetup{upstream: up.URL})
	c := dialHTTP2(t, b.addr)
	id := uint32(1)
	for range 2*maxStreams + 2 {
		c.open(id, true, get("/"))
		id += 2
	}
	if a := c.wait(id, true); a.String() != "GOAWAY NO_ERROR" {
		t.Errorf("%s", a)
	}
}

func TestHTTP2KeepaliveRequests(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	b.requests = 3
	c := dialHTTP2(t, b.addr)
	for _, id := range []uint32{1, 3} {
		c.open(id, true, get("/"))
		if a := c.wait(id, false); a.String() != "200" {
			t.Errorf("%d: %s", id, a)
		}
	}
	c.open(5, true, get("/"))
	c.open(7, true, get("/")) // too late, and not answered
	if a := c.wait(5, false); a.String() != "200 GOAWAY NO_ERROR" {
		t.Errorf("%s", a)
	}
	if a := c.wait(7, true); a.String() != "closed" {
		t.Errorf("%s", a)
	}
	for range 3 {
		b.observed(t)
	}
	if len(b.obs) != 0 {
		t.Error("a request behind GOAWAY was served")
	}
}

// Frames that carry nothing are bounded by what they weigh.
func TestHTTP2Flood(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	for name, frame := range map[string]string{
		"PING":         "\x00\x00\x08\x06\x01\x00\x00\x00\x0012345678",
		"CONTINUATION": "\x00\x00\x00\x09\x00\x00\x00\x00\x01",
		"SETTINGS":     "\x00\x00\x00\x04\x01\x00\x00\x00\x00",
		"DATA":         "\x00\x00\x00\x00\x00\x00\x00\x00\x09",
	} {
		c := dialHTTP2(t, b.addr)
		c.silent = true // the flood is all that it sends
		// Up to 12 kB below the bound, in frames that cost no time.
		_, err := io.WriteString(c.conn, strings.Repeat("\x00\x40\x00\x77\x00\x00\x00\x00\x00"+strings.Repeat("x", 1<<14), 511))
		c.must(err)
		if name == "CONTINUATION" {
			c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(get("/")...)}))
		}
		go func() {
			_, _ = io.WriteString(c.conn, strings.Repeat(frame, 2000)) // it is cut off
		}()
		if a := c.wait(1, true); a.String() != "GOAWAY NO_ERROR" {
			t.Errorf("%s: %s", name, a)
		}
	}
}

// Kong drops a field that Connection names after nginx has read it: without its
// length a body is none.
func TestConnectionDropsContentLength(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	const hidden = "GET /hidden HTTP/1.1\r\nHost: h.example\r\n\r\n"
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(deadline))
	fmt.Fprintf(conn, "POST /1 HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\nContent-Length: %d\r\n\r\n%s", len(hidden), hidden)
	br := bufio.NewReader(conn)
	for _, want := range []string{"POST /1 host=", "GET /hidden host="} {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); !strings.HasPrefix(string(body), want) || !strings.HasSuffix(string(body), " body=") {
			t.Errorf("%q", body)
		}
		if o := b.observed(t); o.Events != 1 || len(o.values("content-length")) != 0 {
			t.Errorf("%+v", o)
		}
	}
	c := dialHTTP2(t, b.addr)
	c.open(1, false, post("/2", "connection", "content-length", "content-length", fmt.Sprint(len(hidden))))
	c.must(c.WriteData(1, true, []byte(hidden)))
	a := c.wait(1, false)
	if o := b.observed(t); a.status != "200" || !strings.HasSuffix(a.body, " body=") || len(o.values("content-length")) != 0 {
		t.Errorf("%s %q %+v", a, a.body, o)
	}
	if len(b.obs) != 0 {
		t.Error("DATA became a request")
	}
}

func TestHTTP2Upgrade(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = http.ReadRequest(bufio.NewReader(c))
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw")
	}()
	b := newBench(t, benchSetup{upstream: "http://" + l.Addr().String()})
	a := b.ask(t, get("/", "upgrade", "websocket", "connection", "upgrade")...)
	o := b.observed(t)
	if a.status != "502" || fmt.Sprint(o.values("Upgrade"), o.values("Connection")) != "[websocket] [keep-alive, Upgrade]" {
		t.Errorf("%s %v", a, o.UpstreamHeader)
	}
}

// TestHTTP2Client is the honest way: Go's client, over TLS and over plain TCP.
func TestHTTP2Client(t *testing.T) {
	t.Parallel()
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		if r.URL.Path == "/proto" {
			fmt.Fprint(w, r.Proto, " ", r.Header.Get("X-Forwarded-Proto"))
			return
		}
		buf := make([]byte, 1)
		for range 3 {
			if _, err := io.ReadFull(r.Body, buf); err != nil {
				t.Errorf("upstream: %v", err)
				return
			}
			fmt.Fprintf(w, "data: %s\n\n", buf)
			w.(http.Flusher).Flush()
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	up.StartTLS()
	t.Cleanup(up.Close)
	pool := x509.NewCertPool()
	pool.AddCert(up.Certificate())
	b := newBench(t, benchSetup{upstream: up.URL})
	secure, err := b.ListenTLS("127.0.0.1:0", &tls.Config{Certificates: up.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	for scheme, addr := range map[string]string{"https": secure.String(), "http": b.addr} {
		t.Run(scheme, func(t *testing.T) {
			tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, Protocols: onlyHTTP2()}
			t.Cleanup(tr.CloseIdleConnections)
			client := &http.Client{Transport: tr, Timeout: deadline}
			base := scheme + "://" + addr
			// Side by side on one connection.
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					resp, err := client.Get(base + "/proto")
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					if body, _ := io.ReadAll(resp.Body); resp.Proto != "HTTP/2.0" || string(body) != "HTTP/1.1 "+scheme {
						t.Errorf("%s %q", resp.Proto, body)
					}
				})
			}
			wg.Wait()
			// Both ways at once.
			r, w := io.Pipe()
			go func() { _, _ = io.WriteString(w, "a") }()
			resp, err := client.Post(base+"/stream", "text/plain", r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			br := bufio.NewReader(resp.Body)
			for i, want := range []string{"a", "b", "c"} {
				if i > 0 {
					_, _ = io.WriteString(w, want)
				}
				if line, err := br.ReadString('\n'); err != nil || line != "data: "+want+"\n" {
					t.Fatalf("%q %v", line, err)
				}
				_, _ = br.ReadString('\n')
			}
			w.Close()
			if rest, err := io.ReadAll(br); err != nil || len(rest) > 0 {
				t.Errorf("%q %v", rest, err)
			}
		})
	}
}

// onlyHTTP2 makes Go's client speak it, over plain TCP with prior knowledge.
func onlyHTTP2() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

func TestHTTP2Negotiation(t *testing.T) {
	t.Parallel()
	up := httptest.NewTLSServer(named("up"))
	t.Cleanup(up.Close)
	for _, tt := range []struct {
		name          string
		off           bool
		offer, protos []string
		want          string
	}{
		{"by default", false, nil, []string{"h2", "http/1.1"}, "h2"},
		{"the server chooses", false, nil, []string{"http/1.1", "h2"}, "h2"},
		{"a client without it", false, nil, []string{"http/1.1"}, "http/1.1"},
		{"a client without ALPN", false, nil, nil, ""},
		{"off", true, nil, []string{"h2", "http/1.1"}, "http/1.1"},
		{"as the caller says", false, []string{"http/1.1"}, []string{"h2", "http/1.1"}, "http/1.1"},
		{"no common one", false, nil, []string{"spdy/1"}, "tls: no application protocol"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, benchSetup{settings: Settings{NoHTTP2: tt.off}})
			addr, err := b.ListenTLS("127.0.0.1:0", &tls.Config{Certificates: up.TLS.Certificates, NextProtos: tt.offer})
			if err != nil {
				t.Fatal(err)
			}
			conn, err := tls.Dial("tcp", addr.String(), &tls.Config{InsecureSkipVerify: true, NextProtos: tt.protos})
			if err != nil {
				if !strings.Contains(err.Error(), tt.want) || tt.want == "" {
					t.Fatal(err)
				}
				return
			}
			defer conn.Close()
			if got := conn.ConnectionState().NegotiatedProtocol; got != tt.want {
				t.Fatalf("got %q want %q", got, tt.want)
			}
			_ = conn.SetDeadline(time.Now().Add(deadline))
			if tt.want == "h2" {
				c := newHTTP2Client(t, conn)
				c.open(1, true, get("/"))
				if a := c.wait(1, false); a.String() != "200" {
					t.Error(a)
				}
				return
			}
			// The preface is no way around the negotiation.
			fmt.Fprint(conn, http2.ClientPreface)
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 400 {
				t.Errorf("%v %v", resp, err)
			}
		})
	}
}

func TestHTTP2ServeConn(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	server, client := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.ServeConn(server, netip.MustParseAddrPort("192.0.2.9:1234"))
	}()
	tr := &http.Transport{Protocols: onlyHTTP2(), DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil }}
	req, _ := http.NewRequest("GET", "http://a.example/", nil)
	req.Header.Set("X-Do", "vars realip_remote_addr,realip_remote_port")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); string(body) != "realip_remote_addr=\"192.0.2.9\"\nrealip_remote_port=\"1234\"\n" {
		t.Errorf("%q", body)
	}
	b.Close() // ends the connection
	<-done
}

// curl speaks HTTP/2 with another library than Go's.
func TestHTTP2Curl(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("curl", "--version").Output()
	if err != nil || !bytes.Contains(out, []byte("HTTP2")) {
		const missing = "curl with HTTP/2 is not there; apt-get install curl"
		if os.Getenv("CURL_REQUIRED") == "1" {
			t.Fatal(missing)
		}
		t.Skip("LEFT OUT: " + missing)
	}
	up := httptest.NewTLSServer(named("up"))
	t.Cleanup(up.Close)
	b := newBench(t, benchSetup{})
	secure, err := b.ListenTLS("127.0.0.1:0", &tls.Config{Certificates: up.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 200<<10)
	for name, args := range map[string][]string{
		"prior knowledge": {"--http2-prior-knowledge", "http://" + b.addr + "/p?q"},
		"over TLS":        {"--http2", "-k", "https://" + secure.String() + "/p?q"},
	} {
		cmd := exec.Command("curl", append([]string{"-sS", "--max-time", "20", "-w", "\n%{http_version} %{http_code}", "--data-binary", "@-"}, args...)...)
		cmd.Stdin = strings.NewReader(large)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %.200s", name, err, out)
			continue
		}
		if s := string(out); !strings.HasPrefix(s, "POST /p?q host=") || !strings.HasSuffix(s, " body="+large+"\n2 200") {
			t.Errorf("%s: %.100s … %s", name, s, s[max(0, len(s)-10):])
		}
	}
	// An upgrade from HTTP/1.1 is not offered, as in nginx.
	out, err = exec.Command("curl", "-sS", "--max-time", "20", "-o", os.DevNull, "-w", "%{http_version} %{http_code}", "--http2", "http://"+b.addr+"/").CombinedOutput()
	if err != nil || string(out) != "1.1 200" {
		t.Errorf("Upgrade: h2c: %v %s", err, out)
	}
}

// FuzzHTTP2Head gives any bytes to the reader of header blocks.
func FuzzHTTP2Head(f *testing.F) {
	c := &http2Client{}
	c.henc = hpack.NewEncoder(&c.hbuf)
	f.Add(c.block(get("/a?b#c", "x_y", "\xff", "cookie", "a", "cookie", "b")...), uint8(3), true)
	f.Add(append([]byte{0x20}, c.block(post("/%2e%2e/", "content-length", "3")...)...), uint8(1), false)
	f.Add([]byte("\x3f\xe1\x1f\x82\x86\x41\x01a\x04\x01/\x00\x03x-a\x81\x1f"), uint8(200), true)
	f.Fuzz(func(t *testing.T, data []byte, step uint8, ended bool) {
		var r fieldReader
		b := &http2Head{head: &requestHead{major: 2, length: -1}}
		r.begin(b.field, func() bool { return b.refused != nil })
		src := bytes.NewReader(data)
		for src.Len() > 0 {
			if err := r.read(src, uint32(min(src.Len(), int(step)+1))); err != nil {
				if _, ok := err.(http2.ConnectionError); !ok {
					t.Fatalf("%v", err)
				}
				return
			}
			if r.rep.Len() > 2*(maxLine+hpackOctets)+hpackOctets {
				t.Fatalf("%d bytes are kept", r.rep.Len())
			}
		}
		if r.end() != nil {
			return
		}
		h, err := b.finish(ended)
		size := 0
		for _, fd := range h.fields {
			size += len(fd.Name) + len(fd.Value)
			if strings.ContainsAny(fd.Name+fd.Value, "\r\n\x00") || fd.Name == "" || fd.Name != lowerASCII(fd.Name) {
				t.Fatalf("%q", fd)
			}
		}
		if size > 3*maxHead || len(h.fields) > maxFields+2 && err == nil {
			t.Fatalf("out of bounds: %d bytes, %d fields", size, len(h.fields))
		}
		if err != nil {
			var no *refusal
			if !errors.As(err, &no) {
				t.Fatal(err)
			}
			return
		}
		if h.host == "" || h.method == "" || !strings.HasPrefix(h.target, "/") || strings.ContainsAny(h.target+h.host, " \r\n\x00") || strings.Contains(h.path, "//") || strings.Contains(h.path+"/", "/../") {
			t.Fatalf("%+v", h)
		}
		if h.chunked && h.length >= 0 || h.length > 0 && ended || !ended && !h.chunked && h.length < 0 {
			t.Fatalf("framing: %+v", h)
		}
	})
}

// FuzzHTTP2 sends any bytes behind the preface through the gateway and the
// plugin: it must end the connection when the client does, run an event once at
// most, and never answer 500.
func FuzzHTTP2(f *testing.F) {
	var wire bytes.Buffer
	c := &http2Client{Framer: http2.NewFramer(&wire, nil)}
	c.henc = hpack.NewEncoder(&c.hbuf)
	_ = c.WriteSettings()
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(get("/")...), EndStream: true, EndHeaders: true})
	f.Add(bytes.Clone(wire.Bytes()))
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: c.block(post("/x", "content-length", "3", "x_y", "\xff")...), EndHeaders: true, PadLength: 4})
	_ = c.WriteDataPadded(3, false, []byte("ab"), []byte{0})
	_ = c.WriteData(3, true, []byte("c"))
	_ = c.WriteWindowUpdate(0, 5)
	_ = c.WritePing(false, [8]byte{})
	_ = c.WriteRSTStream(3, 8)
	f.Add(bytes.Clone(wire.Bytes()))
	_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: c.block(get("/a")...)})
	_ = c.WriteContinuation(5, true, c.block("cookie", "a=1", "transfer-encoding", "chunked"))
	_ = c.WritePriority(7, http2.PriorityParam{StreamDep: 1})
	_ = c.WriteGoAway(0, 0, []byte("x"))
	f.Add(bytes.Clone(wire.Bytes()))
	fuzzConnection(f, http2.ClientPreface)
}
