package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// One attempt to send a request: take a connection, sign, send. Every attempt
// is signed anew, so no nonce leaves twice.

// signingTransport is the http.RoundTripper of the proxy. It writes into the
// header of the request, which belongs to the proxy alone.
type signingTransport struct {
	pool       *pool
	keys       *keyring
	node       string
	inspection func() evidence.Inspection
	wall       func() time.Time
	metrics    *metrics
}

// errNotSigned marks a request that never left because it could not be signed.
type errNotSigned struct{ err error }

func (e errNotSigned) Error() string { return e.err.Error() }
func (e errNotSigned) Unwrap() error { return e.err }

// RoundTrip sends req, which comes from proxy.ServeHTTP.
func (t *signingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	x := exchangeOf(req.Context())
	began := time.Now()
	res, again, err := t.attempt(req, x, false)
	if again {
		t.metrics.retries.Inc()
		res, _, err = t.attempt(req, x, true)
	}
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	t.metrics.backendSeconds.Observe(time.Since(began).Seconds())
	return res, nil
}

// attempt sends req once. again is true when an idle connection turned out to
// be broken before the gateway can have acted on the request: nothing was
// written, or the method is idempotent (RFC 9110, section 9.2.2) and not a byte
// came back. The second attempt takes a new connection, so there is no third.
func (t *signingTransport) attempt(req *http.Request, x *exchange, fresh bool) (res *http.Response, again bool, err error) {
	conn, err := t.pool.get(req.Context(), fresh)
	if err != nil {
		return nil, false, err
	}
	if err := t.sign(req, x); err != nil {
		t.pool.put(conn)
		return nil, false, errNotSigned{err}
	}

	out := req
	var answered atomic.Bool
	retryable := conn.reused && req.Body == nil
	if retryable {
		out = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			GotFirstResponseByte: func() { answered.Store(true) },
		}))
	}
	written := conn.socket.written.Load()
	res, err = conn.RoundTrip(out)
	if err != nil {
		conn.Close()
		again = retryable && !answered.Load() && !isTimeout(err) && req.Context().Err() == nil &&
			(isIdempotent(req.Method) || conn.socket.written.Load() == written)
		return nil, again, err
	}
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		// ReverseProxy leaves the connection open if it rejects the switch.
		if got := res.Header.Get("Upgrade"); got == "" || !strings.EqualFold(got, req.Header.Get("Upgrade")) {
			res.Body.Close()
			return nil, false, fmt.Errorf("the gateway switched to protocol %q, asked for was %q", got, req.Header.Get("Upgrade"))
		}
		// The connection is the caller's now; closing the body closes it.
	case res.Body == http.NoBody:
		t.pool.put(conn)
	default:
		res.Body = &pooledBody{ReadCloser: res.Body, pool: t.pool, conn: conn}
	}
	return res, false, nil
}

// sign completes the evidence with what is true now, and puts it into req.
func (t *signingTransport) sign(req *http.Request, x *exchange) error {
	signer, err := t.keys.signer()
	if err != nil {
		return err
	}
	began := time.Now()
	x.evidence.Node = t.node
	x.evidence.Inspection = t.inspection().String()
	if err := signer.Sign(&x.evidence, t.wall()); err != nil {
		return err
	}
	t.metrics.signSeconds.Observe(time.Since(began).Seconds())
	writeEvidence(req.Header, &x.evidence)
	return nil
}

func isIdempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}
