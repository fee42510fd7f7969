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
	"maps"
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
			"x_forwarded_proto": &up.forwardedProto, "x_forwarded_host": &up.forwardedHost, "x_forwarded_port": &up.forwardedPort,
			"x_forwarded_path": &up.forwardedPath, "x_forwarded_prefix": &up.forwardedPrefix,
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
	if v, ok := tx.early("x_forwarded_for"); ok {
		up.forwardedFor = v + ", " + tx.peer.Addr().String()
	}
	if v, _ := tx.early("upgrade"); lowerASCII(v) == "websocket" {
		up.connection, up.upgrade = "keep-alive, Upgrade", "websocket"
	}
	up.via = "kong/" + kongVersion
	if v := tx.head.version(); v <= 1.1 || v == 2 { // of others Lua says nothing
		up.via = fmt.Sprintf("%g %s", v, up.via)
	}
	if v, ok := tx.early("via"); ok {
		up.via = v + ", " + up.via
	}
	return up
}

// luaSpace is %s in a pattern of Lua's.
const luaSpace = " \t\n\v\f\r"

// csv are the elements of a header as Kong splits it.
func csv(s string) []string {
	var out []string
	for _, e := range strings.Split(lowerASCII(s), ",") {
		if strings.HasPrefix(e, " ") { // only then does it look for more
			e = strings.TrimLeft(e, luaSpace)
		}
		if strings.HasSuffix(e, " ") {
			e = strings.TrimRight(e, luaSpace)
		}
		if e != "" {
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
			if name == "content-length" && tx.head.length >= 0 {
				// nginx then takes the request for one without a body. What
				// would have been the body is the next request of a client
				// that speaks HTTP/1.1.
				tx.head.length, body.done, body.continued = -1, true, nil
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
	out = append(out, tx.head.framing()...)
	for _, f := range tx.fields {
		if !own[lowerASCII(f.Name)] {
			out = append(out, f)
		}
	}
	return out
}

// proxy sends the request to the upstream and its answer to the client.
func (tx *transaction) proxy(body *bodyReader, up *upstreamRequest) error {
	ctx := tx.down.context()
	if tx.head.length == 0 { // that it is empty, only HTTP/2's end of the stream tells
		if _, err := body.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && ctx.Err() == nil {
			return tx.refuse(&refusal{400, errBody.Error()})
		}
	}
	fields := tx.finishUpstream(up, body)
	upstream, err := tx.gw.dial(ctx, tx.route.service)
	if err != nil {
		return tx.upstreamFailed(err)
	}
	defer tx.gw.untrack(upstream)
	defer context.AfterFunc(ctx, func() { upstream.Close() })()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", tx.head.method, up.uri)
	for _, f := range fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	b.WriteString("\r\n")
	_ = upstream.SetDeadline(time.Now().Add(upstreamTimeout))
	if _, err := io.WriteString(upstream, b.String()); err != nil {
		return tx.upstreamFailed(err)
	}
	_ = upstream.SetDeadline(time.Time{})
	tx.obs.Proxied, tx.obs.UpstreamTarget, tx.obs.UpstreamHeader = true, up.uri, fields

	// The body goes on while the answer comes, so that both can be streams.
	sent := make(chan struct{})
	var cut atomic.Bool // the client's body broke off
	go func() {
		defer close(sent)
		if sendBody(upstream, body, tx.head.chunked); body.failed {
			cut.Store(true)
			upstream.Close()
		}
	}()
	br := bufio.NewReader(upstream)
	resp, err := readResponse(br, tx.head.method)
	var answered error
	switch {
	case err != nil && cut.Load() && ctx.Err() == nil:
		answered = tx.refuse(&refusal{400, errBody.Error()})
	case err != nil:
		answered = tx.upstreamFailed(err)
	case resp.StatusCode == http.StatusSwitchingProtocols && up.upgrade == "":
		answered = tx.upstreamFailed(errors.New("the upstream switched protocols and nobody asked it to"))
	case resp.StatusCode == http.StatusSwitchingProtocols:
		conn, from, ok := tx.down.tunnel()
		if !ok {
			answered = tx.upstreamFailed(errors.New("the upstream switched protocols and an HTTP/2 stream cannot"))
			break
		}
		<-sent // a body comes before the tunnel
		return tx.tunnel(conn, from, upstream, br, resp)
	default:
		answered = tx.writeResponse(resp)
		resp.Body.Close()
	}

	// An upstream may answer without the whole body. The sender must be out
	// of the client's connection before the next request is read from it.
	upstream.Close()
	tx.down.interrupt()
	<-sent
	tx.down.resume()
	if answered == nil && !body.done {
		answered = errors.New("the request's body was not read to its end")
	}
	return answered
}

// dial connects to a service. The connection is closed with the gateway.
func (g *Gateway) dial(ctx context.Context, s *service) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
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

func (tx *transaction) upstreamFailed(err error) error {
	if gone := context.Cause(tx.down.context()); gone != nil {
		tx.obs.Err = gone.Error()
		tx.observe(0)
		return gone
	}
	tx.gw.host.opts.Log("err", "upstream: "+err.Error())
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return tx.failWith(504, "The upstream server is timing out", err.Error())
	}
	return tx.failWith(502, "An invalid response was received from the upstream server", err.Error())
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
func (tx *transaction) writeResponse(resp *http.Response) error {
	hasLength := resp.Header.Get("Content-Length") != ""
	for _, name := range csv(resp.Header.Get("Connection")) {
		resp.Header.Del(name)
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length", "Upgrade", "Trailer"} {
		resp.Header.Del(name)
	}
	length := resp.ContentLength
	if resp.StatusCode == http.StatusNotModified && !hasLength {
		length = -1 // net/http says 0
	}
	reason := strings.TrimPrefix(resp.Status, fmt.Sprintf("%03d ", resp.StatusCode))
	tx.observe(resp.StatusCode)
	w, err := tx.down.answer(resp.StatusCode, reason, append(headerFields(resp.Header), tx.responseFields...), length)
	if err != nil {
		return err
	}
	if bodyAllowed(tx.head.method, resp.StatusCode) {
		if _, err := io.Copy(w, resp.Body); err != nil {
			return err // without the end of the body: the client sees a broken one
		}
	}
	return w.Close()
}

// headerFields are the fields of an upstream's answer, by name.
func headerFields(h http.Header) []Field {
	var out []Field
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, v := range h[name] {
			out = append(out, newField(name, v))
		}
	}
	return out
}

// errTunnel says that the connection was a tunnel and has ended.
var errTunnel = errors.New("the connection was upgraded")

// tunnel passes bytes both ways after a 101, until either side closes.
func (tx *transaction) tunnel(conn net.Conn, from io.Reader, upstream net.Conn, br *bufio.Reader, resp *http.Response) error {
	tx.observe(resp.StatusCode)
	if _, err := tx.down.answer(resp.StatusCode, http.StatusText(resp.StatusCode), headerFields(resp.Header), -1); err != nil {
		return err
	}
	up := make(chan struct{})
	go func() {
		defer close(up)
		_, _ = io.Copy(upstream, from)
		upstream.Close()
	}()
	_, _ = io.Copy(conn, br)
	conn.Close()
	<-up
	return errTunnel
}

// framing is the header field that announces the body to the upstream.
func (h *requestHead) framing() []Field {
	switch {
	case h.chunked:
		return []Field{{"Transfer-Encoding", "chunked"}}
	case h.length >= 0:
		return []Field{{"Content-Length", strconv.FormatInt(h.length, 10)}}
	}
	return nil
}

// sendBody copies the body to the upstream, framed as its head says. Where the
// upstream stops reading, its answer says why.
func sendBody(w io.Writer, body *bodyReader, chunked bool) {
	if !chunked {
		_, _ = io.Copy(w, body)
		return
	}
	cw := httputil.NewChunkedWriter(w)
	if _, err := io.Copy(cw, body); err != nil {
		return
	}
	if cw.Close() == nil {
		_, _ = io.WriteString(w, "\r\n")
	}
}
