package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// One attempt to send a request: take a connection, sign, send. Every attempt
// is signed anew, so no nonce leaves twice.

// sender signs requests and sends them to the gateway. It is safe for concurrent use.
type sender struct {
	pool            *pool
	keys            *keyring
	node            string
	inspection      func() evidence.Inspection
	wall            func() time.Time
	metrics         *metrics
	responseTimeout time.Duration
}

// errNotSigned marks a request that never left because it could not be signed.
type errNotSigned struct{ err error }

func (e errNotSigned) Error() string { return e.err.Error() }
func (e errNotSigned) Unwrap() error { return e.err }

// errClientGone marks a request whose client went away before the answer.
var errClientGone = errors.New("the client went away")

// answer is the gateway's answer, its body not read yet. Whoever gets one ends it.
type answer struct {
	*http.Response
	pool    *pool
	conn    *backendConn
	upload  *upload // nil: the request has no body
	release func() bool
	timeout time.Duration // of a write to the gateway while nothing comes from it
}

// end gives the connection back if the answer has been read whole, and may be
// followed by another request. Else the connection is closed.
func (a *answer) end(whole bool) {
	held := a.release() // not cut by the client's going
	if a.upload != nil {
		whole = a.upload.end() && whole
	}
	// In HTTP/1.0 net/http takes no notice of a Transfer-Encoding, so the end may
	// be another than the gateway's (RFC 9112, section 6.1).
	if held && whole && !a.Close && a.ProtoAtLeast(1, 1) {
		a.pool.put(a.conn)
		return
	}
	a.conn.socket.Close()
}

// send sends r, whose head x holds, and returns the answer. interim is called for
// each interim answer but a 100.
func (s *sender) send(w http.ResponseWriter, r *http.Request, x *exchange, interim func(*http.Response)) (*answer, error) {
	began := time.Now()
	a, again, err := s.attempt(w, r, x, interim, false)
	if again {
		s.metrics.retries.Inc()
		a, _, err = s.attempt(w, r, x, interim, true)
	}
	if err != nil {
		return nil, err
	}
	s.metrics.backendSeconds.Observe(time.Since(began).Seconds())
	return a, nil
}

// attempt sends r once. again is true when an idle connection turned out to be
// broken before the gateway can have acted on the request: nothing was written,
// or the method is idempotent (RFC 9110, section 9.2.2), and not a byte came back.
// The second attempt takes a new connection, so there is no third.
func (s *sender) attempt(w http.ResponseWriter, r *http.Request, x *exchange, interim func(*http.Response), fresh bool) (a *answer, again bool, err error) {
	ctx := r.Context()
	conn, err := s.pool.get(ctx, fresh)
	if err != nil && ctx.Err() != nil {
		return nil, false, errClientGone
	}
	if err != nil {
		return nil, false, err
	}
	head, err := s.sign(x)
	if err != nil {
		s.pool.put(conn)
		return nil, false, errNotSigned{err}
	}

	// A client that goes away ends its request at the gateway.
	a = &answer{pool: s.pool, conn: conn, timeout: s.responseTimeout,
		release: context.AfterFunc(ctx, func() { conn.socket.Close() })}
	written := conn.socket.written.Load()
	conn.SetDeadline(time.Now().Add(s.responseTimeout))
	begun := false
	if _, err = conn.Write(head); err == nil {
		if x.body != nil {
			conn.SetReadDeadline(time.Time{}) // set anew once the body is sent
			a.upload = startUpload(w, r, x, conn, s.responseTimeout)
		}
		a.Response, begun, err = conn.readHeader(r, func(res *http.Response) {
			if res.StatusCode == http.StatusContinue {
				a.upload.proceed()
				return
			}
			interim(res)
		})
	}
	if err != nil {
		gone := ctx.Err() != nil // before end, which may end the client's connection itself
		a.end(false)
		switch {
		case gone:
			err = errClientGone
		case a.upload != nil && a.upload.clientErr != nil:
			err = a.upload.clientErr
		}
		again = conn.reused && x.body == nil && !begun && !isTimeout(err) && !gone &&
			(isIdempotent(r.Method) || conn.socket.written.Load() == written)
		return nil, again, err
	}
	if a.upload != nil {
		a.upload.answered()
	} else {
		conn.SetDeadline(time.Time{}) // the body takes what it takes
	}
	if a.StatusCode == http.StatusSwitchingProtocols {
		err = a.checkSwitch(x)
	}
	if err != nil {
		a.end(false)
		return nil, false, err
	}
	return a, false, nil
}

// checkSwitch reports why the connections must not become those of another
// protocol. If they may, the request's body has been sent.
func (a *answer) checkSwitch(x *exchange) error {
	if got := a.Header.Get("Upgrade"); got == "" || !strings.EqualFold(got, x.upgrade) {
		return fmt.Errorf("the gateway switched to protocol %q, asked for was %q", got, x.upgrade)
	}
	if a.upload == nil {
		return nil
	}
	sent := a.upload.end()
	a.upload = nil
	if !sent {
		return errors.New("the gateway switched protocols in the middle of the request's body")
	}
	return nil
}

// sign completes the evidence with what is true now, and returns the whole head.
func (s *sender) sign(x *exchange) ([]byte, error) {
	signer, err := s.keys.signer()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	x.evidence.Node = s.node
	x.evidence.Inspection = s.inspection().String()
	if err := signer.Sign(&x.evidence, s.wall()); err != nil {
		return nil, err
	}
	s.metrics.signSeconds.Observe(time.Since(began).Seconds())
	return x.complete()
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
