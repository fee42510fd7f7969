package pluginhost

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Client sends frames as it is told, right or wrong.
type http2Client struct {
	t    testing.TB
	conn net.Conn
	*http2.Framer
	hbuf bytes.Buffer
	henc *hpack.Encoder
	hdec *hpack.Decoder

	silent bool // acknowledges no settings
}

// dialHTTP2 begins a connection: the preface and an empty SETTINGS frame.
func dialHTTP2(t testing.TB, addr string) *http2Client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return newHTTP2Client(t, conn)
}

func newHTTP2Client(t testing.TB, conn net.Conn) *http2Client {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(deadline))
	c := &http2Client{t: t, conn: conn, Framer: http2.NewFramer(conn, conn), hdec: hpack.NewDecoder(4096, nil)}
	c.henc = hpack.NewEncoder(&c.hbuf)
	c.AllowIllegalWrites, c.AllowIllegalReads = true, true
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c.must(c.WriteSettings())
	return c
}

func (c *http2Client) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// block encodes fields, name and value by turns.
func (c *http2Client) block(fields ...string) []byte {
	c.hbuf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = c.henc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(c.hbuf.Bytes())
}

// get are the fields of a plain request, and more.
func get(path string, more ...string) []string {
	return slices.Clip(append([]string{":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", path}, more...))
}

// post are the fields of a request with a body.
func post(path string, more ...string) []string {
	return slices.Clip(append([]string{":method", "POST"}, get(path, more...)[2:]...))
}

// open sends a header block in one frame.
func (c *http2Client) open(id uint32, end bool, fields []string) {
	c.t.Helper()
	c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block(fields...), EndStream: end, EndHeaders: true}))
}

// http2Answer is what came on one stream.
type http2Answer struct {
	status string
	header map[string][]string
	body   string
	reset  error // of the stream
	goaway error // of the connection, with what came before it
	closed bool
	window int // bytes that the stream was given
}

// String is what the tables of the tests compare.
func (a *http2Answer) String() string {
	var parts []string
	if a.status != "" {
		parts = append(parts, a.status)
	}
	if a.reset != nil {
		parts = append(parts, "RST_STREAM", a.reset.Error())
	}
	if a.goaway != nil {
		parts = append(parts, "GOAWAY", a.goaway.Error())
	}
	if a.closed && a.goaway == nil {
		parts = append(parts, "closed")
	}
	return strings.Join(parts, " ")
}

// codeError names an error code.
type codeError http2.ErrCode

func (e codeError) Error() string { return http2.ErrCode(e).String() }

// wait reads frames until the stream or the connection ends. With reset it
// goes on to the reset behind an answer.
func (c *http2Client) wait(id uint32, reset bool) *http2Answer {
	c.t.Helper()
	a := &http2Answer{header: map[string][]string{}}
	mine := false // the header block that is read
	c.hdec.SetEmitFunc(func(f hpack.HeaderField) {
		switch {
		case !mine:
		case f.Name == ":status":
			a.status = f.Value
		default:
			a.header[f.Name] = append(a.header[f.Name], f.Value)
		}
	})
	for {
		f, err := c.ReadFrame()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.t.Fatalf("nothing comes any more after %q", a)
			}
			a.closed = true
			return a
		}
		ended := false
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() && !c.silent {
				_ = c.WriteSettingsAck()
			}
		case *http2.GoAwayFrame:
			a.goaway = codeError(f.ErrCode)
		case *http2.HeadersFrame:
			mine = f.StreamID == id
			if _, err := c.hdec.Write(f.HeaderBlockFragment()); err != nil {
				c.t.Fatal(err)
			}
			ended = f.StreamEnded()
		case *http2.ContinuationFrame:
			if _, err := c.hdec.Write(f.HeaderBlockFragment()); err != nil {
				c.t.Fatal(err)
			}
		case *http2.DataFrame:
			if f.StreamID == id {
				a.body += string(f.Data())
			}
			ended = f.StreamEnded()
		case *http2.WindowUpdateFrame:
			if f.StreamID == id {
				a.window += int(f.Increment)
			}
			continue
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				a.reset = codeError(f.ErrCode)
				return a
			}
		}
		if ended && f.Header().StreamID == id && !reset {
			return a
		}
	}
}

// ask sends one request without a body on a connection of its own.
func (b *bench) ask(t testing.TB, fields ...string) *http2Answer {
	t.Helper()
	c := dialHTTP2(t, b.addr)
	defer c.conn.Close()
	c.open(1, true, fields)
	return c.wait(1, false)
}

// variables reads what the test plugin answers to "vars".
func variables(t testing.TB, body string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(body) {
		name, quoted, _ := strings.Cut(strings.TrimSpace(line), "=")
		value, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out[name] = value
	}
	return out
}

// literal is a field that is not Huffman-coded and goes into no table.
func literal(name, value string) []byte {
	b := append([]byte{0}, hpackLength(len(name))...)
	b = append(append(b, name...), hpackLength(len(value))...)
	return append(b, value...)
}

func hpackLength(n int) []byte {
	if n < 127 {
		return []byte{byte(n)}
	}
	b := []byte{127}
	for n -= 127; n >= 128; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

func describe(fields []string) string { return fmt.Sprintf("%.120q", fields) }
