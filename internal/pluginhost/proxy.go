// The way to the upstream: the header that Kong and nginx make of a request's,
// the body, the answer, and the tunnel of an upgraded connection.

package pluginhost

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// upstreamTimeout is Kong's default for connecting, sending and reading.
const upstreamTimeout = 60 * time.Second

// upstreamRequest holds what Kong settles before plugins run.
type upstreamRequest struct {
	uri, connection, upgrade       string
	forwardedFor, forwardedProto   string
	forwardedHost, forwardedPort   string
	forwardedPath, forwardedPrefix string
	via                            string
}

// prepareUpstream is Kong's access.before for a request with a route.
func (tx *transaction) prepareUpstream(path string) *upstreamRequest {
	up := &upstreamRequest{connection: "keep-alive"}
	base := tx.route.service.path
	switch {
	case strings.HasSuffix(base, "/"):
		path = base + strings.TrimPrefix(path, "/")
	case path == "/":
		path = base
	default:
		path = base + path
	}
	up.uri = escapePath(path)
	if tx.route.preserveHost {
		tx.upstreamHost, _ = tx.early("host")
	}

	up.forwardedProto, up.forwardedHost, up.forwardedPort = ifTLS(tx, "https", "http"), tx.head.host, tx.local
	if tx.gw.trusted(tx.peer.Addr()) {
		for name, to := range map[string]*string{
			"x-forwarded-proto": &up.forwardedProto, "x-forwarded-host": &up.forwardedHost, "x-forwarded-port": &up.forwardedPort,
			"x-forwarded-path": &up.forwardedPath, "x-forwarded-prefix": &up.forwardedPrefix,
		} {
			if v, ok := tx.early(name); ok {
				*to = v
			}
		}
	}
	if up.forwardedPath == "" {
		up.forwardedPath = pathOf(tx.head.target)
	}
	up.forwardedFor = tx.client
	if v, ok := tx.early("x-forwarded-for"); ok {
		up.forwardedFor = v + ", " + tx.peer.Addr().String()
	}
	if v, _ := tx.early("upgrade"); lowerASCII(v) == "websocket" {
		up.connection, up.upgrade = "keep-alive, Upgrade", "websocket"
	}
	up.via = fmt.Sprintf("1.%d kong/%s", tx.head.minor, kongVersion)
	if v, ok := tx.early("via"); ok {
		up.via = v + ", " + up.via
	}
	return up
}

// csv are the elements of a header as Kong splits it.
func csv(s string) []string {
	var out []string
	for _, e := range strings.Split(lowerASCII(s), ",") {
		if e = strings.TrimSpace(e); e != "" {
			out = append(out, e)
		}
	}
	return out
}

// finishUpstream is Kong's access.after and nginx's part: it returns the
// header that the upstream is sent.
func (tx *transaction) finishUpstream(up *upstreamRequest, body *bodyReader) []Field {
	if strings.HasSuffix(tx.head.target, "?") || tx.head.args != "" {
		up.uri += "?" + tx.head.args
	}
	host := tx.upstreamHost
	if host == "" {
		host = tx.route.service.hostHeader()
	}
	// Headers named in Connection go now, after the plugin saw them: those of
	// the first Connection field only, and only if Lua reads that far.
	connection, _ := tx.early("connection")
	if !slices.Contains([]string{"keep-alive", "close", "upgrade"}, lowerASCII(connection)) {
		for _, name := range csv(connection) {
			if name != "upgrade" || up.connection == "keep-alive" {
				tx.fields = setField(tx.fields, name)
			}
		}
	}
	te := ""
	if v, _ := tx.early("te"); slices.Contains(csv(v), "trailers") {
		te = "trailers"
	}
	if _, ok := tx.early("proxy"); ok {
		tx.fields = setField(tx.fields, "Proxy")
	}
	if _, ok := tx.early("proxy_connection"); ok {
		tx.fields = setField(tx.fields, "Proxy-Connection")
	}

	set := []Field{
		{"TE", te}, {"Via", up.via}, {"Host", host}, {"Upgrade", up.upgrade}, {"Connection", up.connection},
		{"X-Forwarded-For", up.forwardedFor}, {"X-Forwarded-Proto", up.forwardedProto}, {"X-Forwarded-Host", up.forwardedHost},
		{"X-Forwarded-Port", up.forwardedPort}, {"X-Forwarded-Path", up.forwardedPath}, {"X-Forwarded-Prefix", up.forwardedPrefix},
		{"X-Real-IP", tx.client}, {"X-Kong-Request-Id", tx.kongRequestID},
		{"Content-Length", ""}, {"Transfer-Encoding", ""}, {"Keep-Alive", ""}, {"Expect", ""},
	}
	own := map[string]bool{}
	var out []Field
	for _, f := range set {
		own[lowerASCII(f.Name)] = true
		if f.Value != "" {
			out = append(out, f)
		}
	}
	out = append(out, body.framing(tx.head)...)
	for _, f := range tx.fields {
		if !own[lowerASCII(f.Name)] {
			out = append(out, f)
		}
	}
	return out
}

// proxy sends the request to the upstream and its answer to the client.
func (tx *transaction) proxy(conn net.Conn, body *bodyReader, up *upstreamRequest) error {
	fields := tx.finishUpstream(up, body)
	upstream, err := tx.gw.dial(tx.route.service)
	if err != nil {
		return tx.upstreamFailed(conn, err)
	}
	defer tx.gw.untrack(upstream)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", tx.head.method, up.uri)
	for _, f := range fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	b.WriteString("\r\n")
	_ = upstream.SetDeadline(time.Now().Add(upstreamTimeout))
	if _, err := io.WriteString(upstream, b.String()); err != nil {
		return tx.upstreamFailed(conn, err)
	}
	_ = upstream.SetDeadline(time.Time{})
	tx.obs.Proxied, tx.obs.UpstreamTarget, tx.obs.UpstreamHeader = true, up.uri, fields

	// The body goes on while the answer comes, so that both can be streams.
	sent := make(chan struct{})
	var cut atomic.Bool // the client's body broke off
	go func() {
		defer close(sent)
		if body.send(upstream); body.failed {
			cut.Store(true)
			upstream.Close()
		}
	}()
	br := bufio.NewReader(upstream)
	resp, err := readResponse(br, tx.head.method)
	var answered error
	switch {
	case err != nil && cut.Load():
		answered = tx.failWith(conn, 400, "Bad request", "the request's body broke off or is malformed")
	case err != nil:
		answered = tx.upstreamFailed(conn, err)
	case resp.StatusCode == http.StatusSwitchingProtocols && up.upgrade == "":
		answered = tx.upstreamFailed(conn, errors.New("the upstream switched protocols and nobody asked it to"))
	case resp.StatusCode == http.StatusSwitchingProtocols:
		<-sent // a body comes before the tunnel
		return tx.tunnel(conn, body, upstream, br, resp)
	default:
		answered = tx.writeResponse(conn, resp, up)
		resp.Body.Close()
	}

	// An upstream may answer without the whole body. The sender must be out
	// of the client's connection before the next request is read from it.
	upstream.Close()
	_ = conn.SetReadDeadline(time.Now())
	<-sent
	_ = conn.SetReadDeadline(time.Time{})
	if answered == nil && !body.done {
		answered = errors.New("the request's body was not read to its end")
	}
	return answered
}

// dial connects to a service. The connection is closed with the gateway.
func (g *Gateway) dial(s *service) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), upstreamTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr())
	if err != nil {
		return nil, err
	}
	if s.scheme == "https" {
		c := &tls.Config{InsecureSkipVerify: true} // Kong's tls_verify is off by default
		if g.settings.UpstreamTLS != nil {
			c = g.settings.UpstreamTLS.Clone()
		}
		if c.ServerName == "" {
			c.ServerName = s.host
		}
		t := tls.Client(conn, c)
		if err := t.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		conn = t
	}
	if !g.track(conn) {
		conn.Close()
		return nil, errors.New("the gateway is shut down")
	}
	return conn, nil
}

func (tx *transaction) upstreamFailed(conn net.Conn, err error) error {
	tx.gw.host.opts.Log("err", "upstream: "+err.Error())
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return tx.failWith(conn, 504, "The upstream server is timing out", err.Error())
	}
	return tx.failWith(conn, 502, "An invalid response was received from the upstream server", err.Error())
}

// readResponse reads the head of the final answer, past informational ones.
func readResponse(br *bufio.Reader, method string) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, nil
		}
	}
}

// writeResponse sends an upstream's answer on, without hop-by-hop headers.
func (tx *transaction) writeResponse(conn net.Conn, resp *http.Response, up *upstreamRequest) error {
	h := tx.head
	for _, name := range csv(resp.Header.Get("Connection")) {
		resp.Header.Del(name)
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length", "Upgrade", "Trailer"} {
		resp.Header.Del(name)
	}
	hasBody := h.method != "HEAD" && resp.StatusCode != 204 && resp.StatusCode != 304
	chunked := hasBody && resp.ContentLength < 0 && h.minor > 0
	if hasBody && resp.ContentLength < 0 && h.minor == 0 {
		h.close = true // only the end of the connection ends the body
	}
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %03d %s\r\n", resp.StatusCode, strings.TrimPrefix(resp.Status, fmt.Sprintf("%03d ", resp.StatusCode)))
	_ = resp.Header.Write(&b)
	for _, f := range tx.responseFields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	switch {
	case chunked:
		b.WriteString("Transfer-Encoding: chunked\r\n")
	case resp.ContentLength >= 0 && resp.StatusCode != 204:
		fmt.Fprintf(&b, "Content-Length: %d\r\n", resp.ContentLength)
	}
	if h.close {
		b.WriteString("Connection: close\r\n\r\n")
	} else {
		b.WriteString("Connection: keep-alive\r\n\r\n")
	}
	tx.observe(resp.StatusCode)
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return err
	}
	if !hasBody {
		return nil
	}
	if !chunked {
		_, err := io.Copy(conn, resp.Body)
		return err
	}
	w := httputil.NewChunkedWriter(conn)
	if _, err := io.Copy(w, resp.Body); err != nil {
		return err // without the last chunk: the client sees a broken body
	}
	if err := w.Close(); err != nil {
		return err
	}
	_, err := io.WriteString(conn, "\r\n")
	return err
}

// errTunnel says that the connection was a tunnel and has ended.
var errTunnel = errors.New("the connection was upgraded")

// tunnel passes bytes both ways after a 101, until either side closes.
func (tx *transaction) tunnel(conn net.Conn, body *bodyReader, upstream net.Conn, br *bufio.Reader, resp *http.Response) error {
	var b strings.Builder
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = resp.Header.Write(&b)
	b.WriteString("\r\n")
	tx.observe(resp.StatusCode)
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return err
	}
	up := make(chan struct{})
	go func() {
		defer close(up)
		_, _ = io.Copy(upstream, body.conn)
		upstream.Close()
	}()
	_, _ = io.Copy(conn, br)
	conn.Close()
	<-up
	return errTunnel
}

// bodyReader is the body of a request.
type bodyReader struct {
	conn      *bufio.Reader
	head      *requestHead
	left      int64     // bytes to come, where the length is known
	chunks    io.Reader // nil: not chunked
	done      bool
	failed    bool         // the client's part of it broke
	continued func() error // sends 100 Continue before the first read
}

func newBody(h *requestHead, br *bufio.Reader, conn io.Writer) *bodyReader {
	b := &bodyReader{conn: br, head: h, left: max(h.length, 0), done: h.length <= 0 && !h.chunked}
	if h.chunked {
		b.chunks = httputil.NewChunkedReader(br)
	}
	if v := lookup(h.fields, "expect", len(h.fields)); v != nil && lowerASCII(v[0]) == "100-continue" && !b.done && h.minor > 0 {
		b.continued = func() error {
			_, err := io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
			return err
		}
	}
	return b
}

// Read returns io.EOF at the body's end and io.ErrUnexpectedEOF before it.
func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.read(p)
	b.failed = b.failed || err != nil && !errors.Is(err, io.EOF)
	return n, err
}

func (b *bodyReader) read(p []byte) (int, error) {
	if b.done {
		return 0, io.EOF
	}
	if f := b.continued; f != nil {
		b.continued = nil
		if err := f(); err != nil {
			return 0, err
		}
	}
	if b.chunks != nil {
		n, err := b.chunks.Read(p)
		if errors.Is(err, io.EOF) {
			b.done = true
			err = b.skipTrailers()
		}
		return n, err
	}
	n, err := b.conn.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		b.done = true
		return n, io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// skipTrailers reads a request's trailers, which nginx drops.
func (b *bodyReader) skipTrailers() error {
	for range maxFields {
		line, err := b.conn.ReadSlice('\n')
		if err != nil {
			return io.ErrUnexpectedEOF
		}
		if len(strings.TrimRight(string(line), "\r\n")) == 0 {
			return io.EOF
		}
	}
	return io.ErrUnexpectedEOF
}

// framing is the header field that announces the body to the upstream.
func (b *bodyReader) framing(h *requestHead) []Field {
	switch {
	case h.chunked:
		return []Field{{"Transfer-Encoding", "chunked"}}
	case h.length >= 0:
		return []Field{{"Content-Length", strconv.FormatInt(h.length, 10)}}
	}
	return nil
}

// send copies the body to the upstream, framed as it came. Where the upstream
// stops reading, its answer says why.
func (b *bodyReader) send(w io.Writer) {
	if b.done {
		return
	}
	if b.chunks == nil {
		_, _ = io.Copy(w, b)
		return
	}
	cw := httputil.NewChunkedWriter(w)
	if _, err := io.Copy(cw, b); err != nil {
		return
	}
	if cw.Close() == nil {
		_, _ = io.WriteString(w, "\r\n")
	}
}
