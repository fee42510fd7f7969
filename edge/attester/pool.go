package main

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// The connections to the gateway that wait for a request. http.Transport's own
// pool re-sends a request by itself when an idle connection breaks, which would
// present one nonce twice, and knows no largest age.

// pool keeps idle connections to one address, the last used on top. It is safe
// for concurrent use.
type pool struct {
	address     string                     // host:port
	tls         atomic.Pointer[tls.Config] // nil: plain HTTP; a new one ends the connections of the old one
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
		if p.mayServe(c) && c.socket.isQuiet() {
			c.reused = true
			c.use()
			return c, nil
		}
		c.Close()
	}

	ctx, cancel := context.WithTimeout(ctx, p.dialTimeout)
	defer cancel()
	c, err := dial(ctx, p.address, p.tls.Load(), &p.open)
	if err != nil {
		return nil, err
	}
	if p.maxAge > 0 {
		// The ages differ by up to a tenth, so that connections that were
		// opened together are not all opened anew together.
		c.expires = p.elapsed() + p.maxAge - rand.N(p.maxAge/10+1)
	}
	c.use()
	return c, nil
}

// mayServe reports whether c may take one more request, as far as the pool knows.
func (p *pool) mayServe(c *backendConn) bool {
	now := p.elapsed()
	return (c.expires == 0 || now < c.expires) && now-c.idleSince < p.idleTimeout && c.config == p.tls.Load()
}

// put gives back a connection whose answer has been read to its end. One that is
// too old or one too many is closed.
func (p *pool) put(c *backendConn) {
	c.idleSince = p.elapsed()
	if c.rest() && p.mayServe(c) {
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
		if p.mayServe(c) && c.socket.isQuiet() {
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

// probe reports whether the gateway accepts a connection, TLS included.
func (p *pool) probe(ctx context.Context) error {
	c, err := p.get(ctx, true)
	if err != nil {
		return err
	}
	return c.Close()
}
