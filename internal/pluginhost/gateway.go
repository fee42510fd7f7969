// The gateway: it accepts connections, reads requests as nginx does, finds a
// route, runs the plugin's access phase and proxies what passes.

package pluginhost

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// Settings are Kong's settings as far as they are played.
type Settings struct {
	// Nginx is the text of the file that Kong is given as
	// nginx_http_include. Its map blocks become variables.
	Nginx []byte
	// TrustedIPs are the peers whose X-Forwarded-* and real IP header count.
	TrustedIPs []netip.Prefix
	// RealIPHeader is the header with the client's address; empty: X-Real-IP.
	RealIPHeader string
	// RealIPRecursive looks past trusted addresses in the header.
	RealIPRecursive bool
	// MaxRequestHeaders is lua_max_req_headers: how many header fields Kong's
	// own code looks at; 0: 100.
	MaxRequestHeaders int
	// UpstreamTLS is for https services; nil: the certificate is not
	// verified, as Kong does by default.
	UpstreamTLS *tls.Config
	// NoHTTP2 serves HTTP/1.x only, as Kong does where no listener of
	// proxy_listen says http2. Kong's default says it for the TLS listener,
	// and nginx then takes the preface of HTTP/2 on the plain one as well.
	NoHTTP2 bool
	// Observer is told about every request once, before the first byte of
	// its answer is written. It is called from several goroutines at once.
	Observer func(Observation)
}

// Observation is what happened to one request.
type Observation struct {
	RequestID            string // $request_id
	Protocol             string // $server_protocol
	Method, Target, Host string // Target: $request_uri; Host: $http_host
	Peer                 string // address of the TCP peer
	Route, Service       string // names; empty when no route matched

	Status  int  // of the answer; 0 when the client gets none
	Exited  bool // the plugin ended the request
	Proxied bool // an upstream was sent the request

	UpstreamTarget string  // request target as sent
	UpstreamHeader []Field // header as sent, in its order

	Events     int      // times the access event was run
	RoundTrips int      // PDK calls in all of them
	Calls      []string // their names

	Serialized map[string]any // kong.log.set_serialize_value
	Logs       []LogLine      // kong.log.*
	Err        string         // why the gateway itself refused or failed
}

// LogLine is a line that the plugin logged.
type LogLine struct{ Level, Message string }

// Gateway serves HTTP/1.x and HTTP/2 in front of upstream services with one
// plugin between. Its methods are safe for concurrent use.
type Gateway struct {
	host     *Host
	settings Settings
	maps     map[string]*nginxMap
	router   atomic.Pointer[router]
	requests int // a connection's over HTTP/2, then it ends: keepalive_requests

	done chan struct{} // closed by Close
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[io.Closer]struct{} // listeners and connections
}

// NewGateway makes a gateway that serves c. It refuses what Kong would refuse
// when it loads such a configuration.
func NewGateway(h *Host, c Config, s Settings) (*Gateway, error) {
	if n := s.MaxRequestHeaders; n < 0 || n > 1000 {
		return nil, fmt.Errorf("lua_max_req_headers must be an integer between 1 and 1000, not %d", n)
	}
	g := &Gateway{host: h, settings: s, requests: keepaliveRequests, done: make(chan struct{}), open: map[io.Closer]struct{}{}}
	var err error
	if g.maps, err = parseNginxMaps(s.Nginx); err != nil {
		return nil, err
	}
	for name, m := range g.maps {
		if err := g.checkMap(m); err != nil {
			return nil, fmt.Errorf("nginx configuration: variable %q: %w", name, err)
		}
	}
	return g, g.Reload(c)
}

func (g *Gateway) checkMap(m *nginxMap) error {
	all := []template{m.source, m.deflt}
	for _, t := range m.values {
		all = append(all, t)
	}
	for _, t := range all {
		for _, p := range t {
			if p.variable && !g.knownVariable(p.text) {
				return fmt.Errorf("unknown %q variable", p.text)
			}
		}
	}
	return nil
}

// Reload serves c from now on; requests under way keep what they have. Every
// plugin gets a new sequence number, and with it a new instance. On an error
// nothing changes.
func (g *Gateway) Reload(c Config) error {
	r, err := newRouter(g.host, c, g.host.env)
	if err != nil {
		return fmt.Errorf("load configuration: %w", err)
	}
	g.router.Store(r)
	return nil
}

// env looks a variable up in the environment given to the host.
func (h *Host) env(name string) (string, bool) {
	for _, kv := range slices.Backward(h.opts.Env) {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v, true
		}
	}
	return "", false
}

// Listen serves plain HTTP on a TCP address until Close: HTTP/1.x, and HTTP/2
// to a client that begins with its preface.
func (g *Gateway) Listen(addr string) (net.Addr, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return g.serve(l, nil)
}

// ListenTLS serves HTTPS on a TCP address until Close. Client certificates are
// asked for and checked as c says. Without NextProtos in c the client may
// choose HTTP/2, unless Settings.NoHTTP2 says otherwise.
func (g *Gateway) ListenTLS(addr string, c *tls.Config) (net.Addr, error) {
	if c.NextProtos == nil {
		c = c.Clone()
		c.NextProtos = []string{http2.NextProtoTLS, "http/1.1", "http/1.0", "http/0.9"}
		if g.settings.NoHTTP2 {
			c.NextProtos = c.NextProtos[1:]
		}
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return g.serve(l, c)
}

func (g *Gateway) serve(l net.Listener, c *tls.Config) (net.Addr, error) {
	if !g.track(l) {
		l.Close()
		return nil, errors.New("gateway: closed")
	}
	g.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // out of descriptors, or a client that went away
				g.host.opts.Log("alert", fmt.Sprintf("accept: %v", err))
				select {
				case <-g.done:
					return
				case <-time.After(10 * time.Millisecond):
				}
				continue
			}
			peer, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
			peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
			if c != nil {
				conn = tls.Server(conn, c)
			}
			g.wg.Go(func() { g.ServeConn(conn, peer) })
		}
	})
	return l.Addr(), nil
}

// track registers what Close must close; false when it is too late.
func (g *Gateway) track(c io.Closer) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.open[c] = struct{}{}
	return true
}

func (g *Gateway) untrack(c io.Closer) {
	g.mu.Lock()
	delete(g.open, c)
	g.mu.Unlock()
	c.Close()
}

// Close closes the listeners and every connection and waits for them. The
// Host stays as it is.
func (g *Gateway) Close() error {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		close(g.done)
		for c := range g.open {
			c.Close()
		}
	}
	g.mu.Unlock()
	g.wg.Wait()
	return nil
}

// ServeConn serves one connection, a *tls.Conn as HTTPS and as HTTP/2 where
// that was negotiated, as if it came from peer. It closes conn and returns when
// the connection ends.
func (g *Gateway) ServeConn(conn net.Conn, peer netip.AddrPort) {
	if !g.track(conn) {
		conn.Close()
		return
	}
	defer g.untrack(conn)
	verify, isTLS, h2 := "", false, false
	var err error
	if t, ok := conn.(*tls.Conn); ok {
		isTLS, verify = true, "NONE"
		_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
		if t.Handshake() != nil {
			return
		}
		_ = conn.SetDeadline(time.Time{})
		if len(t.ConnectionState().VerifiedChains) > 0 {
			verify = "SUCCESS"
		}
		h2 = t.ConnectionState().NegotiatedProtocol == http2.NextProtoTLS
	}
	_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
	from := origin{peer: peer, local: port, tls: isTLS, verify: verify}
	br := bufio.NewReaderSize(conn, maxLine+2)
	if !isTLS && !g.settings.NoHTTP2 {
		if h2, err = sniffPreface(br); err != nil {
			return
		}
	}
	if h2 {
		g.serveHTTP2(conn, br, from)
	} else {
		g.serveHTTP1(conn, br, from)
	}
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// newTransaction is the state of a request that is about to be read.
func (g *Gateway) newTransaction(from origin, down downstream) *transaction {
	tx := &transaction{
		gw: g, origin: from, down: down,
		requestID: randomHex(16), kongRequestID: randomHex(16),
		ctx: map[string]any{}, shared: map[string]any{},
	}
	tx.obs = Observation{RequestID: tx.requestID, Peer: from.peer.Addr().String(), Serialized: map[string]any{}}
	return tx
}

// serve answers the request. An error says that the answer or the request's
// body was left unfinished.
func (tx *transaction) serve(h *requestHead, body *bodyReader) error {
	tx.head = h
	tx.fields, tx.cached = slices.Clone(h.fields), slices.Clone(h.fields)
	tx.client = tx.gw.realIP(tx.peer.Addr(), h.fields)
	httpHost, _ := tx.header("host")
	tx.obs.Protocol, tx.obs.Method, tx.obs.Target, tx.obs.Host = h.protocol(), h.method, h.target, httpHost

	routeHost, _ := tx.early("host")
	path := normalPath(pathOf(h.target))
	tx.route = tx.gw.router.Load().match(h.method, routeHost, path)
	if tx.route == nil {
		return tx.fail(404, "no Route matched with those values")
	}
	tx.obs.Route, tx.obs.Service = tx.route.name, tx.route.service.name
	up := tx.prepareUpstream(path)
	if !slices.Contains(tx.route.protocols, "http") && up.forwardedProto != "https" {
		tx.responseFields = []Field{{"Connection", "Upgrade"}, {"Upgrade", "TLS/1.2, HTTP/1.1"}}
		return tx.fail(426, "Please use HTTPS protocol")
	}
	host := tx.gw.host
	if conf := tx.route.conf; conf != nil && slices.Contains(host.schema.Phases, "access") {
		err := host.handleEvent(conf, "access", tx)
		tx.obs.Events = tx.events
		var t thrown
		switch {
		case errors.Is(err, errExit):
			return tx.writeExit()
		case errors.As(err, &t):
			host.opts.Log("err", err.Error())
			return tx.failWith(500, "An unexpected error occurred", err.Error())
		case err != nil:
			host.opts.Log("err", "pluginserver error: "+err.Error())
			return tx.failWith(500, "An unexpected error occurred", err.Error())
		}
	}
	return tx.proxy(body, up)
}

func (tx *transaction) observe(status int) {
	tx.obs.Status = status
	if tx.gw.settings.Observer != nil {
		tx.gw.settings.Observer(tx.obs)
	}
}

// errorPages are the words of Kong's error handler for what nginx refuses.
var errorPages = map[int]string{
	400: "Bad request", 405: "Method not allowed", 414: "URI too long", 494: "Request header or cookie too large",
}

// refuse answers a request that nginx does not let through: with Kong's error
// handler, in the type that it takes where nobody asks for one, or nginx's page.
func (tx *transaction) refuse(no *refusal) error {
	tx.obs.Err = no.why
	kind, body := "text/plain; charset=utf-8", ""
	if message, ok := errorPages[no.status]; ok {
		body = fmt.Sprintf("%s\nrequest_id: %s\n", message, tx.kongRequestID)
	} else {
		kind = "text/html; charset=UTF-8"
		title := fmt.Sprintf("%d %s", no.status, http.StatusText(no.status))
		body = "<html>\r\n<head><title>" + title + "</title></head>\r\n<body>\r\n<center><h1>" + title + "</h1></center>\r\n</body>\r\n</html>\r\n"
	}
	return tx.write(no.answer(), []Field{{"Content-Type", kind}, {"X-Kong-Request-Id", tx.kongRequestID}}, []byte(body))
}

// fail answers as Kong does by itself.
func (tx *transaction) fail(status int, why string) error { return tx.failWith(status, why, why) }

func (tx *transaction) failWith(status int, message, why string) error {
	tx.obs.Err = why
	body := fmt.Sprintf("{\n  \"message\":%q,\n  \"request_id\":%q\n}", message, tx.kongRequestID)
	fields := append(slices.Clone(tx.responseFields), Field{"Content-Type", "application/json; charset=utf-8"}, Field{"X-Kong-Request-Id", tx.kongRequestID})
	return tx.write(status, fields, []byte(body))
}

// writeExit answers with what the plugin gave to kong.response.exit.
func (tx *transaction) writeExit() error {
	tx.obs.Exited = true
	fields := slices.Clone(tx.responseFields)
	for _, f := range tx.exit.fields {
		switch strings.ReplaceAll(lowerASCII(f.Name), "_", "-") {
		case "transfer-encoding", "content-length", "connection":
			continue // the framing is the gateway's
		}
		fields = append(fields, f)
	}
	if s := tx.exit.status; s == 444 || s == 499 {
		tx.observe(0)
		return errNoAnswer
	}
	return tx.write(tx.exit.status, append(fields, Field{"X-Kong-Request-Id", tx.kongRequestID}), tx.exit.body)
}

// errNoAnswer is nginx's way with the statuses 444 and 499: it closes the
// connection.
var errNoAnswer = errors.New("a status that is not answered")

// write sends an answer that is all in memory.
func (tx *transaction) write(status int, fields []Field, body []byte) error {
	fields = append([]Field{{"Date", time.Now().UTC().Format(http.TimeFormat)}, {"Server", "kong/" + kongVersion}}, fields...)
	length := int64(len(body))
	if !bodyAllowed("", status) {
		length, body = -1, nil
	}
	tx.observe(status)
	w, err := tx.down.answer(status, http.StatusText(status), fields, length)
	if err != nil {
		return err
	}
	if len(body) > 0 {
		if _, err := w.Write(body); err != nil {
			return err
		}
	}
	return w.Close()
}

// kongVersion is the version that this package imitates.
const kongVersion = "3.9.3"
