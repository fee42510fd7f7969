package e2e

// Clients: of the edge, through the address that plays its load balancer, and of
// the gateway, past the edge.

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// clientIP is the client that the load balancer names.
const clientIP = "203.0.113.7"

func (s *system) dialFrom(t testing.TB, ip, addr string) net.Conn {
	t.Helper()
	c, err := dialer(ip).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

func dialer(ip string) *net.Dialer {
	d := &net.Dialer{Timeout: patience}
	if ip != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(ip)}
	}
	return d
}

// dialEdge connects to the node as its load balancer does.
func (s *system) dialEdge(t testing.TB) net.Conn {
	t.Helper()
	return s.dialFrom(t, s.alb, s.edge)
}

// dialOrigin connects to the gateway's plain listener from inside the edge's
// network.
func (s *system) dialOrigin(t testing.TB) net.Conn {
	t.Helper()
	return s.dialFrom(t, "", s.origin)
}

// dialOriginTLS connects to the gateway's own listener; without protocols it
// speaks HTTP/1.1.
func (s *system) dialOriginTLS(t testing.TB, protocols ...string) *tls.Conn {
	t.Helper()
	config := s.trust.Clone()
	if config.NextProtos = protocols; len(protocols) == 0 {
		config.NextProtos = []string{"http/1.1"}
	}
	c := tls.Client(s.dialFrom(t, "", s.originTLS), config)
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// answered is one response.
type answered struct {
	status  int
	proto   string
	header  http.Header
	trailer http.Header
	body    string
	err     error // the connection was closed without a response
}

var errClosed = errors.New("closed without an answer")

// exchange sends raw bytes and reads one response, skipping interim ones. It ends
// the test when no answer comes in time.
func exchange(t testing.TB, c net.Conn, raw string) answered {
	t.Helper()
	go io.WriteString(c, raw) // an early answer must not block on the rest of a body
	method, _, _ := strings.Cut(raw, " ")
	return readAnswer(t, bufio.NewReader(c), method)
}

func readAnswer(t testing.TB, br *bufio.Reader, method string) answered {
	t.Helper()
	for {
		if _, err := br.Peek(1); err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				t.Fatalf("no answer within %v", patience)
			}
			return answered{err: errClosed}
		}
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("response: %v", err)
		}
		if resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatalf("response body: %v", err)
		}
		return answered{status: resp.StatusCode, proto: resp.Proto, header: resp.Header, trailer: resp.Trailer, body: string(body)}
	}
}

// get is the smallest request that a client sends, with a trace of its own.
func (s *system) get(target, trace string, lines ...string) string {
	return s.request("GET", target, trace, "", lines...)
}

// request is a raw HTTP/1.1 request as the load balancer forwards it.
func (s *system) request(method, target, trace, body string, lines ...string) string {
	var b strings.Builder
	b.WriteString(method + " " + target + " HTTP/1.1\r\nHost: " + s.host + "\r\nUser-Agent: e2e\r\nAccept: */*\r\n" +
		"X-Forwarded-For: " + clientIP + "\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n" + traceHeader + ": " + trace + "\r\n")
	for _, line := range lines {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return b.String()
}

// balancer adds what an ALB adds.
type balancer struct{ http.RoundTripper }

func (b balancer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", clientIP)
	r.Header.Set("X-Forwarded-Proto", "https")
	r.Header.Set("X-Forwarded-Port", "443")
	return b.RoundTripper.RoundTrip(r)
}

func transport(from, to string, trust *tls.Config, h2 bool) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer(from).DialContext(ctx, "tcp", to)
		},
		TLSClientConfig: trust, Protocols: protocols,
		DisableCompression: true, MaxIdleConnsPerHost: 64, ExpectContinueTimeout: time.Second,
	}
}

func client(rt http.RoundTripper) *http.Client {
	return &http.Client{Transport: rt, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// client speaks to the edge as a load balancer does: "http://"+s.host+"/…".
func (s *system) client() *http.Client {
	return client(balancer{transport(s.alb, s.edge, nil, false)})
}

// originClient speaks TLS to the gateway, past the edge: "https://"+s.host+"/…".
func (s *system) originClient(h2 bool) *http.Client {
	return client(transport("", s.originTLS, s.trust.Clone(), h2))
}
