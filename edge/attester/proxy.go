package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The proxy: admit or refuse, then hand over to httputil.ReverseProxy with the
// signing transport below it.

// proxy is the http.Handler of the node's side.
type proxy struct {
	scheme, host string // of the gateway
	reverse      *httputil.ReverseProxy
	log          *slog.Logger
	metrics      *metrics
	elapsed      func() time.Duration
	refusals     throttle
	failures     throttle

	active   atomic.Int64 // requests and upgraded connections
	lastSeen atomic.Int64 // elapsed time at which the last request ended
}

// exchange is what the proxy knows about one request. It travels in the context.
type exchange struct {
	evidence evidence.Message
	code     int
	body     *watchedBody // nil: the request has none
}

// watchedBody notes that a request's body has been read to its end.
type watchedBody struct {
	io.ReadCloser
	ended atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended.Store(true)
	}
	return n, err
}

// lastOf ends the connection with this answer where the request's body has not
// come to its end. net/http would look for the next request in what follows, and
// in full duplex it no longer knows how much of the body that is: a part of a
// body must never be read, signed and sent on as a request.
func (x *exchange) lastOf(h http.Header) {
	if x.body != nil && !x.body.ended.Load() {
		h.Set("Connection", "close")
	}
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

func newProxy(s *settings, transport http.RoundTripper, log *slog.Logger, m *metrics, elapsed func() time.Duration) *proxy {
	p := &proxy{
		scheme: s.backend.Scheme, host: s.backend.Host,
		log: log, metrics: m, elapsed: elapsed,
		refusals: throttle{elapsed: elapsed}, failures: throttle{elapsed: elapsed},
	}
	p.reverse = &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      transport,
		ModifyResponse: p.response,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			p.fail(w, r, exchangeOf(r.Context()), err)
		},
		ErrorLog:   serverLog(log),
		BufferPool: &copyBuffers{},
		// Bodies of unknown length and event streams are flushed at once; a slow
		// body of a known length within this time.
		FlushInterval: 50 * time.Millisecond,
	}
	return p
}

// The reasons for a refusal, as labels of the metric.
const (
	refusedTarget    = "target"
	refusedHost      = "host"
	refusedStatement = "statement"
)

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.active.Add(1)
	p.metrics.inFlight.Inc()
	x := &exchange{}
	defer func() {
		p.lastSeen.Store(int64(p.elapsed()))
		p.active.Add(-1)
		p.metrics.inFlight.Dec()
		if x.code != 0 {
			p.metrics.answered(x.code)
		}
		if v := recover(); v != nil {
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
			p.fail(w, r, x, err)
			return
		}
		x.body = &watchedBody{ReadCloser: r.Body}
		r.Body = x.body
	}
	x.evidence.Method, x.evidence.Authority, x.evidence.Target = r.Method, host, r.RequestURI
	p.reverse.ServeHTTP(finalWriter{w}, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
}

// finalWriter drops interim answers (1xx) of the gateway. nginx before 1.29, which
// is in front, takes one for the answer, and what follows for the next one's.
// net/http writes the 100 that a client asks for by itself.
type finalWriter struct{ http.ResponseWriter }

func (w finalWriter) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		w.ResponseWriter.WriteHeader(code)
	}
}

// Unwrap lets http.ResponseController reach what is below.
func (w finalWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// rewrite makes the request that goes to the gateway. The evidence comes later,
// with each attempt.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	out := pr.Out
	out.URL.Scheme, out.URL.Host = p.scheme, p.host
	out.URL.RawQuery = pr.In.URL.RawQuery // ReverseProxy drops parameters with ';' or a bad '%'
	out.Host = exchangeOf(pr.In.Context()).evidence.Authority
	for _, name := range forwardingFields {
		if values := pr.In.Header[name]; values != nil {
			out.Header[name] = values
		}
	}
	removeEvidence(out.Header)
	removeEvidence(out.Trailer)
	if len(out.Trailer) > 0 {
		out.Body = &trailerBody{ReadCloser: out.Body, from: pr.In.Trailer, to: out.Trailer}
	}
}

// trailerBody copies the announced trailer fields once the body has been read:
// ReverseProxy forwards their names only.
type trailerBody struct {
	io.ReadCloser
	from, to http.Header
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		for name := range b.to {
			b.to[name] = b.from[name]
		}
	}
	return n, err
}

func (p *proxy) response(res *http.Response) error {
	x := exchangeOf(res.Request.Context())
	x.code = res.StatusCode
	if res.StatusCode != http.StatusSwitchingProtocols {
		x.lastOf(res.Header)
	}
	return nil
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
func (p *proxy) fail(w http.ResponseWriter, r *http.Request, x *exchange, err error) {
	var notSigned errNotSigned
	var op *net.OpError
	kind, code, detail := errorBroken, http.StatusBadGateway, "The gateway did not answer."
	switch {
	case errors.As(err, &notSigned):
		kind, code, detail = errorSign, http.StatusServiceUnavailable, "The request could not be signed."
	case r.Context().Err() != nil:
		x.code = statusClientGone
		w.WriteHeader(statusClientGone)
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
type copyBuffers struct{ pool sync.Pool }

func (b *copyBuffers) Get() []byte {
	if p, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return p[:]
	}
	return new([32 << 10]byte)[:]
}

func (b *copyBuffers) Put(p []byte) { b.pool.Put((*[32 << 10]byte)(p)) }
