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
	// Observer is told about every request once, before the first byte of
	// its answer is written. It is called from several goroutines at once.
	Observer func(Observation)
}

// Observation is what happened to one request.
type Observation struct {
	RequestID            string // $request_id
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

// Gateway serves HTTP/1.x in front of upstream services with one plugin
// between. Its methods are safe for concurrent use.
type Gateway struct {
	host     *Host
	settings Settings
	maps     map[string]*nginxMap
	router   atomic.Pointer[router]

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
	g := &Gateway{host: h, settings: s, done: make(chan struct{}), open: map[io.Closer]struct{}{}}
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

// Listen serves plain HTTP on a TCP address until Close.
func (g *Gateway) Listen(addr string) (net.Addr, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return g.serve(l, nil)
}

// ListenTLS serves HTTPS on a TCP address until Close. Client certificates are
// asked for and checked as c says.
func (g *Gateway) ListenTLS(addr string, c *tls.Config) (net.Addr, error) {
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

// ServeConn serves one connection, a *tls.Conn as HTTPS, as if it came from
// peer. It closes conn and returns when the connection ends.
func (g *Gateway) ServeConn(conn net.Conn, peer netip.AddrPort) {
	if !g.track(conn) {
		conn.Close()
		return
	}
	defer g.untrack(conn)
	verify, isTLS := "", false
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
	}
	_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
	br := bufio.NewReaderSize(conn, maxLine+2)
	for {
		tx := &transaction{
			gw: g, peer: peer, local: port, tls: isTLS, verify: verify,
			requestID: randomHex(16), kongRequestID: randomHex(16),
			ctx: map[string]any{}, shared: map[string]any{},
		}
		tx.obs = Observation{RequestID: tx.requestID, Peer: peer.Addr().String(), Serialized: map[string]any{}}
		head, err := readHead(br)
		var no *refusal
		switch {
		case errors.As(err, &no):
			_ = tx.fail(conn, no.status, no.why, true)
			lingeringClose(conn)
			return
		case err != nil:
			return
		}
		tx.head = head
		if !tx.serve(conn, br) {
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

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// serve answers one request and reports whether the connection can go on.
func (tx *transaction) serve(conn net.Conn, br *bufio.Reader) bool {
	h := tx.head
	tx.fields, tx.cached = slices.Clone(h.fields), slices.Clone(h.fields)
	tx.client = tx.gw.realIP(tx.peer.Addr(), h.fields)
	httpHost, _ := tx.header("host")
	tx.obs.Method, tx.obs.Target, tx.obs.Host = h.method, h.target, httpHost

	body := newBody(h, br, conn)
	err := tx.answerRequest(conn, body)
	if err != nil || h.close || body.continued != nil {
		lingeringClose(conn)
		return false
	}
	// What the upstream did not read must not be taken for a request.
	if _, err := io.CopyN(io.Discard, body, 1<<20); !errors.Is(err, io.EOF) {
		lingeringClose(conn)
		return false
	}
	return true
}

// answerRequest writes the answer. An error says that the connection cannot
// be used any more.
func (tx *transaction) answerRequest(conn net.Conn, body *bodyReader) error {
	h := tx.head
	routeHost, _ := tx.early("host")
	path := normalPath(pathOf(h.target))
	tx.route = tx.gw.router.Load().match(h.method, routeHost, path)
	if tx.route == nil {
		return tx.fail(conn, 404, "no Route matched with those values", false)
	}
	tx.obs.Route, tx.obs.Service = tx.route.name, tx.route.service.name
	up := tx.prepareUpstream(path)
	if !slices.Contains(tx.route.protocols, "http") && up.forwardedProto != "https" {
		tx.responseFields = []Field{{"Connection", "Upgrade"}, {"Upgrade", "TLS/1.2, HTTP/1.1"}}
		return tx.fail(conn, 426, "Please use HTTPS protocol", false)
	}
	host := tx.gw.host
	if conf := tx.route.conf; conf != nil && slices.Contains(host.schema.Phases, "access") {
		err := host.handleEvent(conf, "access", tx)
		tx.obs.Events = tx.events
		var t thrown
		switch {
		case errors.Is(err, errExit):
			return tx.writeExit(conn)
		case errors.As(err, &t):
			host.opts.Log("err", err.Error())
			return tx.failWith(conn, 500, "An unexpected error occurred", err.Error())
		case err != nil:
			host.opts.Log("err", "pluginserver error: "+err.Error())
			return tx.failWith(conn, 500, "An unexpected error occurred", err.Error())
		}
	}
	return tx.proxy(conn, body, up)
}

func (tx *transaction) observe(status int) {
	tx.obs.Status = status
	if tx.gw.settings.Observer != nil {
		tx.gw.settings.Observer(tx.obs)
	}
}

// fail answers as Kong does by itself.
func (tx *transaction) fail(conn net.Conn, status int, why string, last bool) error {
	err := tx.failWith(conn, status, why, why)
	if last {
		return errors.New(why)
	}
	return err
}

func (tx *transaction) failWith(conn net.Conn, status int, message, why string) error {
	tx.obs.Err = why
	body := fmt.Sprintf("{\n  \"message\":%q,\n  \"request_id\":%q\n}", message, tx.kongRequestID)
	fields := append(slices.Clone(tx.responseFields), Field{"Content-Type", "application/json; charset=utf-8"}, Field{"X-Kong-Request-Id", tx.kongRequestID})
	return tx.write(conn, status, fields, []byte(body))
}

// writeExit answers with what the plugin gave to kong.response.exit.
func (tx *transaction) writeExit(conn net.Conn) error {
	tx.obs.Exited = true
	fields := slices.Clone(tx.responseFields)
	for _, f := range tx.exit.fields {
		switch strings.ReplaceAll(lowerASCII(f.Name), "_", "-") {
		case "transfer-encoding", "content-length", "connection":
			continue // the framing is the gateway's
		}
		fields = append(fields, f)
	}
	return tx.write(conn, tx.exit.status, append(fields, Field{"X-Kong-Request-Id", tx.kongRequestID}), tx.exit.body)
}

// write sends an answer that is all in memory.
func (tx *transaction) write(conn net.Conn, status int, fields []Field, body []byte) error {
	closing := tx.head == nil || tx.head.close
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nDate: %s\r\nServer: kong/%s\r\n", status, http.StatusText(status), time.Now().UTC().Format(http.TimeFormat), kongVersion)
	named := map[string]bool{}
	for _, f := range fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
		named[lowerASCII(f.Name)] = true
	}
	if status != 204 && status != 304 && status >= 200 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	} else {
		body = nil
	}
	if !named["connection"] {
		b.WriteString(map[bool]string{true: "Connection: close\r\n", false: "Connection: keep-alive\r\n"}[closing])
	}
	b.WriteString("\r\n")
	if tx.head == nil || tx.head.method != "HEAD" {
		b.Write(body)
	}
	tx.observe(status)
	_, err := io.WriteString(conn, b.String())
	return err
}

// kongVersion is the version that this package imitates.
const kongVersion = "3.9.3"
