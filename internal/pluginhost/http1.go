// HTTP/1.x as nginx speaks it with a client: requests one after the other on
// a connection, their bodies and the answers.

package pluginhost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"slices"
	"strings"
	"time"
)

// http1 is the downstream of a request over HTTP/1.x.
type http1 struct {
	conn net.Conn
	br   *bufio.Reader
	head *requestHead // nil: it was refused, and the connection ends
}

// serveHTTP1 serves a connection until it ends.
func (g *Gateway) serveHTTP1(conn net.Conn, br *bufio.Reader, from origin) {
	for {
		down := &http1{conn: conn, br: br}
		tx := g.newTransaction(from, down)
		head, err := readHead(br)
		var no *refusal
		switch {
		case errors.As(err, &no):
			_ = tx.refuse(no)
			lingeringClose(conn)
			return
		case err != nil:
			return
		}
		down.head = head
		body := down.body()
		err = tx.serve(head, body)
		if err != nil || head.close || body.continued != nil {
			lingeringClose(conn)
			return
		}
		// What the upstream did not read must not be taken for a request.
		if _, err := io.CopyN(io.Discard, body, 1<<20); !errors.Is(err, io.EOF) {
			lingeringClose(conn)
			return
		}
	}
}

// lingeringClose lets the client read the answer before unread input turns
// the close into a reset.
func lingeringClose(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = io.CopyN(io.Discard, conn, 1<<20)
	}
}

func (c *http1) context() context.Context { return context.Background() }

func (c *http1) interrupt() { _ = c.conn.SetReadDeadline(time.Now()) }

func (c *http1) resume() { _ = c.conn.SetReadDeadline(time.Time{}) }

func (c *http1) tunnel() (net.Conn, *bufio.Reader, bool) { return c.conn, c.br, true }

func (c *http1) answer(status int, reason string, fields []Field, length int64) (io.WriteCloser, error) {
	hasBody, chunked, closing := status >= 200, false, true
	if h := c.head; h != nil {
		hasBody = bodyAllowed(h.method, status)
		chunked = hasBody && length < 0 && h.minor > 0
		if hasBody && length < 0 && h.minor == 0 {
			h.close = true // only the end of the connection ends the body
		}
		closing = h.close
	}
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %03d %s\r\n", status, reason)
	for _, f := range fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	switch {
	case chunked:
		b.WriteString("Transfer-Encoding: chunked\r\n")
	case length >= 0 && status >= 200 && status != 204:
		fmt.Fprintf(&b, "Content-Length: %d\r\n", length)
	}
	named := slices.ContainsFunc(fields, func(f Field) bool { return f.is("connection") })
	switch {
	case named || status < 200:
	case closing:
		b.WriteString("Connection: close\r\n")
	default:
		b.WriteString("Connection: keep-alive\r\n")
	}
	b.WriteString("\r\n")
	if _, err := io.WriteString(c.conn, b.String()); err != nil {
		return nil, err
	}
	switch {
	case !hasBody:
		return noBody{}, nil
	case chunked:
		return chunkedBody{httputil.NewChunkedWriter(c.conn), c.conn}, nil
	}
	return plainBody{c.conn}, nil
}

// plainBody is an answer's body of a known length, or up to the connection's
// end.
type plainBody struct{ io.Writer }

func (plainBody) Close() error { return nil }

// chunkedBody is an answer's body in chunks.
type chunkedBody struct {
	io.WriteCloser
	conn io.Writer
}

func (b chunkedBody) Close() error {
	if err := b.WriteCloser.Close(); err != nil {
		return err
	}
	_, err := io.WriteString(b.conn, "\r\n")
	return err
}

// body is the body of the request, still on the connection.
func (c *http1) body() *bodyReader {
	h := c.head
	b := &bodyReader{src: &sizedReader{c.br, h.length}, done: h.length <= 0 && !h.chunked}
	if h.chunked {
		b.src = &chunkedReader{httputil.NewChunkedReader(c.br), c.br}
	}
	if v := lookup(h.fields, "expect", len(h.fields)); v != nil && lowerASCII(v[0]) == "100-continue" && !b.done && h.minor > 0 {
		b.continued = func() error {
			_, err := io.WriteString(c.conn, "HTTP/1.1 100 Continue\r\n\r\n")
			return err
		}
	}
	return b
}

// sizedReader reads a body whose length is known.
type sizedReader struct {
	br   *bufio.Reader
	left int64
}

func (r *sizedReader) Read(p []byte) (int, error) {
	n, err := r.br.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case r.left == 0:
		return n, io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// chunkedReader reads a body in chunks, and the trailers, which nginx drops.
type chunkedReader struct {
	chunks io.Reader
	br     *bufio.Reader
}

func (r *chunkedReader) Read(p []byte) (int, error) {
	n, err := r.chunks.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	for range maxFields {
		line, err := r.br.ReadSlice('\n')
		if err != nil {
			return n, io.ErrUnexpectedEOF
		}
		if len(strings.TrimRight(string(line), "\r\n")) == 0 {
			return n, io.EOF
		}
	}
	return n, io.ErrUnexpectedEOF
}
