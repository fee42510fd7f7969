package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The proxy: admit or refuse, send, and pass the answer on.

// proxy is the http.Handler of the node's side.
type proxy struct {
	backend    backend
	earlyHints bool
	log        *slog.Logger
	metrics    *metrics
	elapsed    func() time.Duration
	refusals   throttle
	failures   throttle

	active   atomic.Int64 // requests and upgraded connections
	lastSeen atomic.Int64 // elapsed time at which the last request ended
}

// backend sends requests to the gateway. It is a sender but in tests.
type backend interface {
	send(w http.ResponseWriter, r *http.Request, x *exchange, interim func(*http.Response)) (*answer, error)
}

// exchange is what the proxy knows about one request.
type exchange struct {
	evidence evidence.Message
	code     int
	old      bool         // HTTP/1.0
	body     *requestBody // nil: the request has none
	upgrade  string       // the protocol that the request asks for
	trailer  []string     // the trailer fields that go on
	head     []byte       // as appendHead made it; the space behind it is for the evidence
}

// complete returns the head with the evidence, until it is called again.
func (x *exchange) complete() ([]byte, error) {
	head, err := appendEvidence(x.head, &x.evidence)
	if err == nil {
		x.head = head[:len(x.head)] // the space that it took stays
	}
	return head, err
}

// lastOf ends the connection with this answer where the request's body has not
// come to its end. net/http would look for the next request in what follows, and
// in full duplex it no longer knows how much of the body that is: a part of a
// body must never be read, signed and sent on as a request. Nor after a request
// of HTTP/1.0: net/http takes no notice of a Transfer-Encoding there, which
// leaves the body unread (RFC 9112, section 6.1).
func (x *exchange) lastOf(h http.Header) {
	if x.old || x.body != nil && (x.body.cut || !x.body.ended.Load()) {
		h.Set("Connection", "close")
	}
}

// lingerTimeout is how long net/http goes on reading the rest of a body, of which
// it takes 256 kB at most. A client that is still sending would be reset with
// the answer on its way.
const lingerTimeout = 2 * time.Second

// linger bounds what net/http does with the rest of a request's body by itself:
// it reads on, without a limit, before it lets go of the connection. A broken
// answer is not to wait for that.
func linger(w http.ResponseWriter, whole bool) {
	until := time.Unix(1, 0)
	if whole {
		until = time.Now().Add(lingerTimeout)
	}
	// The error is that of a connection that is closed.
	http.NewResponseController(w).SetReadDeadline(until)
}

func newProxy(s *settings, b backend, log *slog.Logger, m *metrics, elapsed func() time.Duration) *proxy {
	return &proxy{
		backend: b, earlyHints: s.earlyHints, log: log, metrics: m, elapsed: elapsed,
		refusals: throttle{elapsed: elapsed}, failures: throttle{elapsed: elapsed},
	}
}

// The reasons for a refusal, as labels of the metric.
const (
	refusedTarget    = "target"
	refusedHost      = "host"
	refusedStatement = "statement"
	refusedBody      = "body"
)

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.active.Add(1)
	p.metrics.inFlight.Inc()
	x := &exchange{old: !r.ProtoAtLeast(1, 1)}
	defer func() {
		p.lastSeen.Store(int64(p.elapsed()))
		p.active.Add(-1)
		p.metrics.inFlight.Dec()
		if x.code != 0 {
			p.metrics.answered(x.code)
		}
		v := recover()
		if r.ContentLength != 0 && (x.body == nil || !x.body.ended.Load()) {
			linger(w, v == nil)
		}
		if v != nil {
			if v != http.ErrAbortHandler {
				p.metrics.panics.Inc()
				p.log.Error("panic", "value", fmt.Sprint(v), "stack", string(debug.Stack()), "request_id", x.requestID())
			}
			// Ends the connection without a word: half an answer must not look whole.
			panic(http.ErrAbortHandler)
		}
	}()

	statement := readStatement(r.Header, &x.evidence)
	if err := checkTarget(r); err != nil {
		p.refuse(w, x, refusedTarget, http.StatusBadRequest, err)
		return
	}
	host, err := forwardedHost(r.Host)
	if err != nil {
		p.refuse(w, x, refusedHost, http.StatusBadRequest, err)
		return
	}
	if statement != nil {
		p.refuse(w, x, refusedStatement, http.StatusBadGateway, statement)
		return
	}
	if r.ContentLength != 0 {
		// Without this net/http reads the request's body to its end before it
		// writes the first byte of an answer; a gateway may answer earlier.
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			p.fail(w, x, err)
			return
		}
		x.body = &requestBody{Reader: r.Body}
	}
	x.evidence.Method, x.evidence.Authority, x.evidence.Target = r.Method, host, r.RequestURI
	p.forward(w, r, x)
}

// forward sends an admitted request, and passes the answer on.
func (p *proxy) forward(w http.ResponseWriter, r *http.Request, x *exchange) {
	buffer := heads.Get().(*[]byte)
	defer func() {
		if cap(x.head) <= maxKeptHead {
			*buffer = x.head[:0]
		}
		heads.Put(buffer)
	}()
	var err error
	if x.head, err = x.appendHead((*buffer)[:0], r); err != nil {
		p.fail(w, x, err)
		return
	}
	a, err := p.backend.send(w, r, x, func(res *http.Response) { p.interim(w, r, x, res) })
	if err != nil {
		p.fail(w, x, err)
		return
	}
	whole, ended := false, false
	end := func() {
		if !ended {
			ended = true
			a.end(whole)
		}
	}
	defer end() // also if this panics
	x.code = a.StatusCode
	if a.StatusCode == http.StatusSwitchingProtocols {
		if err := upgrade(w, r, a); err != nil {
			p.log.Debug("upgraded connection", "error", err.Error(), "request_id", x.evidence.RequestID)
		}
		return
	}

	h := w.Header()
	copyAnswerHeader(h, a.Header)
	x.lastOf(h)
	announced := make([]string, 0, 4)
	for name := range a.Trailer {
		if !isHopByHop(name) {
			announced = append(announced, name)
		}
	}
	if len(announced) > 0 {
		h.Set("Trailer", strings.Join(announced, ", "))
	}
	w.WriteHeader(a.StatusCode)
	if a.Body == http.NoBody {
		whole = true
		return
	}
	if err := copyAnswer(w, a); err != nil {
		// Ends the connection: half an answer must not look whole.
		panic(http.ErrAbortHandler)
	}
	whole = true
	end() // before the client has the end, which may be followed by its next request
	if len(a.Trailer) == 0 {
		return
	}
	// Trailer fields need chunks, whatever the length of the body.
	if err := http.NewResponseController(w).Flush(); err != nil {
		panic(http.ErrAbortHandler)
	}
	for name, values := range a.Trailer {
		if isHopByHop(name) {
			continue
		}
		if !slices.Contains(announced, name) {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
}

// flushDelay is how long a piece of a body of known length may wait for the next one.
const flushDelay = 50 * time.Millisecond

// copyAnswer passes the body on. A piece of a body of unknown length goes out at
// once, and so does the header before it. The last piece goes with the end.
func copyAnswer(w http.ResponseWriter, a *answer) error {
	buffer := copyBuffers.Get().(*[copyBufferSize]byte)
	defer copyBuffers.Put(buffer)
	flush := http.NewResponseController(w).Flush
	stream := a.ContentLength < 0
	if stream && a.conn.in.Buffered() == 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	held := true   // something is to be flushed, at first the header
	waits := false // a read of what may be long in coming has a limit
	for left := a.ContentLength; ; {
		if !stream && held && left > int64(a.conn.in.Buffered()) {
			waits = true
			a.conn.SetReadDeadline(time.Now().Add(flushDelay))
		}
		n, err := a.Body.Read(buffer[:])
		left -= int64(n)
		if n > 0 {
			a.upload.moved()
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
			held = true
		}
		late := waits && err != nil && isTimeout(err)
		if waits && (err == io.EOF || late) {
			waits = false
			a.conn.SetReadDeadline(time.Time{})
		}
		switch {
		case err == io.EOF:
			return nil
		case late, stream && err == nil:
			if err := flush(); err != nil {
				return err
			}
			held = false
		case err != nil:
			return err
		}
	}
}

// interim passes Early Hints (RFC 8297) on if it may. Any other interim answer
// ends here, and so does each one by default: nginx before 1.29, which is in
// front, takes one for the answer, and what follows for the next one's. net/http
// writes the 100 that a client asks for by itself.
func (p *proxy) interim(w http.ResponseWriter, r *http.Request, x *exchange, res *http.Response) {
	if !p.earlyHints || res.StatusCode != http.StatusEarlyHints || !r.ProtoAtLeast(1, 1) {
		return
	}
	if r.Header["Expect"] != nil && x.body != nil && !x.body.ended.Load() {
		return // net/http may be writing its 100
	}
	h := w.Header()
	copyAnswerHeader(h, res.Header)
	w.WriteHeader(res.StatusCode)
	clear(h)
}

// The kinds of a failure, as labels of the metric.
const (
	errorDial    = "dial"
	errorTimeout = "timeout"
	errorBroken  = "broken"
	errorSign    = "sign"
)

// statusClientGone is nginx's code for a client that went away; nobody reads it.
const statusClientGone = 499

// fail answers for a gateway that did not.
func (p *proxy) fail(w http.ResponseWriter, x *exchange, err error) {
	var notSigned errNotSigned
	var body errBody
	var op *net.OpError
	kind, code, detail := errorBroken, http.StatusBadGateway, "The gateway did not answer."
	switch {
	case errors.As(err, &notSigned):
		kind, code, detail = errorSign, http.StatusServiceUnavailable, "The request could not be signed."
	case errors.Is(err, errClientGone):
		p.gone(w, x)
		return
	case errors.As(err, &body):
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) {
			p.gone(w, x)
			return
		}
		p.refuse(w, x, refusedBody, http.StatusBadRequest, errors.New("has a body that is malformed"))
		return
	case isTimeout(err):
		kind, code, detail = errorTimeout, http.StatusGatewayTimeout, "The gateway did not answer in time."
	case errors.As(err, &op) && op.Op == "dial":
		kind, detail = errorDial, "The gateway could not be reached."
	}
	p.metrics.backendErrors.WithLabelValues(kind).Inc()
	if ok, suppressed := p.failures.allow(); ok {
		p.log.Error("request failed", "kind", kind, "error", err.Error(), "code", code,
			"request_id", x.evidence.RequestID, "suppressed", suppressed)
	}
	p.problem(w, x, code, detail)
}

// gone ends the request of a client that went away.
func (p *proxy) gone(w http.ResponseWriter, x *exchange) {
	x.code = statusClientGone
	x.lastOf(w.Header())
	w.WriteHeader(statusClientGone)
}

// refuse answers a request that must not be forwarded.
func (p *proxy) refuse(w http.ResponseWriter, x *exchange, reason string, code int, err error) {
	p.metrics.refused.WithLabelValues(reason).Inc()
	if ok, suppressed := p.refusals.allow(); ok {
		p.log.Warn("request refused", "reason", reason, "error", err.Error(), "code", code,
			"request_id", x.requestID(), "suppressed", suppressed)
	}
	detail := "The request " + err.Error() + "."
	if reason == refusedStatement {
		detail = "The node in front of the attester did not state what it has to."
	}
	p.problem(w, x, code, detail)
}

// problem writes an answer of RFC 9457.
func (p *proxy) problem(w http.ResponseWriter, x *exchange, code int, detail string) {
	x.code = code
	document, err := json.Marshal(struct {
		Title     string `json:"title"`
		Status    int    `json:"status"`
		Detail    string `json:"detail"`
		RequestID string `json:"request_id,omitempty"`
	}{http.StatusText(code), code, detail, x.requestID()})
	if err != nil {
		document = nil
	}
	h := w.Header()
	x.lastOf(h)
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(document)))
	w.WriteHeader(code)
	w.Write(document)
}

// requestID returns the node's id of the request, or nothing if what stands
// there is no such id.
func (x *exchange) requestID() string {
	id := x.evidence.RequestID
	if len(id) != 32 {
		return ""
	}
	for i := 0; i < len(id); i++ {
		if !isHexDigit(id[i]) {
			return ""
		}
	}
	return id
}

// copyBuffers lends the buffers with which bodies are copied.
var copyBuffers = sync.Pool{New: func() any { return new([copyBufferSize]byte) }}

const copyBufferSize = 32 << 10

// heads lends the buffers in which heads are written.
var heads = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// maxKeptHead bounds the buffers that heads keeps, in bytes.
const maxKeptHead = 16 << 10
