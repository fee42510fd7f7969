package main

// The probe's way to a server: requests as bytes, answers within bounds. What
// comes back may be made by an attacker, so neither time nor memory is theirs.

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxAnswer bounds the head and the body of one answer together, in bytes.
const maxAnswer = 64 << 10

// gateDetail is the sentence by which the plugin's own refusal is known.
const gateDetail = "This request was not accepted by the gateway."

// endpoint is where requests go.
type endpoint struct {
	addr string      // host:port
	tls  *tls.Config // nil: plain HTTP
}

// reply is an answer as far as the probe looks at it.
type reply struct {
	status                int
	location, contentType string
	body                  []byte // the beginning, if it is long
}

// gate reports whether the plugin itself refused the request.
func (r *reply) gate() bool {
	if r.status < 400 || r.status > 499 {
		return false
	}
	if kind, _, err := mime.ParseMediaType(r.contentType); err != nil || kind != "application/problem+json" {
		return false
	}
	var problem struct {
		Status int
		Detail string
	}
	return json.Unmarshal(r.body, &problem) == nil && problem.Status == r.status && problem.Detail == gateDetail
}

// noRoute reports whether Kong answered because no route fits.
func (r *reply) noRoute() bool {
	var answer struct{ Message string }
	return r.status == http.StatusNotFound && json.Unmarshal(r.body, &answer) == nil && strings.HasPrefix(answer.Message, "no Route matched")
}

// session is one connection. It is for one goroutine.
type session struct {
	conn    net.Conn
	limit   *io.LimitedReader
	r       *bufio.Reader
	timeout time.Duration
	reuse   bool // the last answer left the connection fit for another
}

// open connects, for at most timeout.
func open(ctx context.Context, e endpoint, timeout time.Duration) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", e.addr)
	if err != nil {
		return nil, err
	}
	if e.tls != nil {
		secured := tls.Client(conn, e.tls)
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		conn = secured
	}
	return newSession(conn, timeout), nil
}

func newSession(conn net.Conn, timeout time.Duration) *session {
	s := &session{conn: conn, limit: &io.LimitedReader{R: conn}, timeout: timeout}
	s.r = bufio.NewReader(s.limit)
	return s
}

func (s *session) close() { s.conn.Close() }

// exchange sends the head of a request and reads its answer, for at most the
// session's timeout. A body that is too long, too slow or broken is cut off:
// the status stands.
func (s *session) exchange(ctx context.Context, request string) (*reply, error) {
	s.reuse = false
	s.conn.SetDeadline(time.Now().Add(s.timeout))
	defer context.AfterFunc(ctx, func() { s.conn.Close() })()
	s.limit.N = maxAnswer
	if _, err := io.WriteString(s.conn, request); err != nil {
		return nil, err
	}
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(s.r, &http.Request{Method: method})
	for err == nil && res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols {
		res, err = http.ReadResponse(s.r, &http.Request{Method: method})
	}
	if err != nil {
		if s.limit.N <= 0 {
			return nil, fmt.Errorf("the head of the answer is longer than %d bytes", maxAnswer)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return nil, errNoAnswer
		}
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	a := &reply{status: res.StatusCode, location: res.Header.Get("Location"), contentType: res.Header.Get("Content-Type")}
	if res.StatusCode != http.StatusSwitchingProtocols {
		a.body, err = io.ReadAll(res.Body)
		s.reuse = err == nil && !res.Close && s.limit.N > 0
	}
	return a, nil
}

var errNoAnswer = errors.New("the connection was closed before an answer")

// unreachable reports whether err says that there is no way to an address from
// here. A name that does not resolve is not among them: it may be a mistake.
func unreachable(err error) bool {
	var op *net.OpError
	var name *net.DNSError
	if !errors.As(err, &op) || op.Op != "dial" || errors.As(err, &name) {
		return false
	}
	for _, code := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ETIMEDOUT} {
		if errors.Is(err, code) {
			return true
		}
	}
	return op.Timeout()
}

// clientCertificateWanted reports whether the server ended the handshake because
// it wants a certificate of the client (TLS 1.3).
func clientCertificateWanted(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" && strings.Contains(op.Err.Error(), "certificate required")
}

// shown makes text of a server fit for one line of the report.
func shown(s string) string {
	const most = 160
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return s
}
