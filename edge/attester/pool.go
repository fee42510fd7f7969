package main

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// The connections to the gateway. http.Transport's own pool re-sends a request
// by itself when an idle connection breaks, which would present one nonce
// twice, and knows no largest age; so the attester keeps the connections
// (http.ClientConn) itself.

// pool keeps idle connections to one address, the last used on top. It is safe
// for concurrent use.
type pool struct {
	transport   *http.Transport
	scheme      string
	address     string // host:port
	dialTimeout time.Duration
	idleTimeout time.Duration
	maxAge      time.Duration // 0: no limit
	maxIdle     int
	elapsed     func() time.Duration // monotonic: a stepped clock ages nothing

	open atomic.Int64 // connections that are not closed, idle or in use

	mu     sync.Mutex
	idle   []*backendConn
	closed bool
}

// backendConn is one connection, held by one request or by the pool.
type backendConn struct {
	*http.ClientConn
	socket    *socket
	expires   time.Duration // 0: never
	idleSince time.Duration
	reused    bool
}

// socket is a TCP connection that counts what has been written to it, TLS
// records included: nothing written means that nothing can have arrived.
type socket struct {
	*net.TCPConn
	written atomic.Int64
	open    *atomic.Int64
	once    sync.Once
}

func (s *socket) Write(p []byte) (int, error) {
	n, err := s.TCPConn.Write(p)
	s.written.Add(int64(n))
	return n, err
}

func (s *socket) ReadFrom(r io.Reader) (int64, error) {
	n, err := s.TCPConn.ReadFrom(r)
	s.written.Add(n)
	return n, err
}

func (s *socket) Close() error {
	s.once.Do(func() { s.open.Add(-1) })
	return s.TCPConn.Close()
}

// dialed carries the socket from the transport's DialContext back to the pool.
type dialed struct{ socket *socket }

type dialedKey struct{}

// dial is the DialContext of the pool's transport.
func (p *pool) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: p.dialTimeout}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a TCP connection")
	}
	s := &socket{TCPConn: tcp, open: &p.open}
	p.open.Add(1)
	if d, ok := ctx.Value(dialedKey{}).(*dialed); ok {
		d.socket = s
	}
	return s, nil
}

// get returns an idle connection, or a new one if there is none or fresh is
// set. The caller ends it with put or Close.
func (p *pool) get(ctx context.Context, fresh bool) (*backendConn, error) {
	for !fresh {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			break
		}
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if p.usable(c) {
			c.reused = true
			return c, nil
		}
		c.Close()
	}

	ctx, cancel := context.WithTimeout(ctx, p.dialTimeout)
	defer cancel()
	var d dialed
	cc, err := p.transport.NewClientConn(context.WithValue(ctx, dialedKey{}, &d), p.scheme, p.address)
	if err != nil {
		return nil, err
	}
	c := &backendConn{ClientConn: cc, socket: d.socket}
	if p.maxAge > 0 {
		// The ages differ by up to a tenth, so that connections that were
		// opened together are not all opened anew together.
		c.expires = p.elapsed() + p.maxAge - rand.N(p.maxAge/10+1)
	}
	return c, nil
}

// usable reports whether c may take one more request.
func (p *pool) usable(c *backendConn) bool {
	now := p.elapsed()
	return c.Err() == nil && c.Available() > 0 &&
		(c.expires == 0 || now < c.expires) && now-c.idleSince < p.idleTimeout
}

// put gives back a connection whose response has been read to its end. One that
// is still busy, too old or one too many is closed.
func (p *pool) put(c *backendConn) {
	c.idleSince = p.elapsed()
	if p.usable(c) {
		p.mu.Lock()
		if !p.closed && len(p.idle) < p.maxIdle {
			p.idle = append(p.idle, c)
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
	c.Close()
}

// sweep closes the idle connections that may take no further request.
func (p *pool) sweep() {
	p.mu.Lock()
	var dead []*backendConn
	kept := p.idle[:0]
	for _, c := range p.idle {
		if p.usable(c) {
			kept = append(kept, c)
		} else {
			dead = append(dead, c)
		}
	}
	clear(p.idle[len(kept):])
	p.idle = kept
	p.mu.Unlock()
	for _, c := range dead {
		c.Close()
	}
}

// close closes the idle connections, and every other one when it comes back.
func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}

// probe reports whether the gateway accepts a connection, TLS included. The
// connection goes into the pool.
func (p *pool) probe(ctx context.Context) error {
	c, err := p.get(ctx, true)
	if err != nil {
		return err
	}
	p.put(c)
	return nil
}

// pooledBody gives its connection back when the response has been read, and
// closes it when the reader stops before that.
type pooledBody struct {
	io.ReadCloser
	pool *pool
	conn *backendConn
	done atomic.Bool
}

func (b *pooledBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.release()
	}
	return n, err
}

func (b *pooledBody) Close() error {
	err := b.ReadCloser.Close()
	b.release()
	return err
}

func (b *pooledBody) release() {
	if !b.done.Swap(true) {
		b.pool.put(b.conn)
	}
}
