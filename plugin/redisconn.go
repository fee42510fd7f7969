package main

// Connections to a Redis server. The client library believes the lengths that a
// server announces and allocates what they say, so a connection looks at every
// reply before it does.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxReply     = 64 << 10 // bytes that may follow one command
	maxReplyBulk = 16 << 10 // bytes of one string: INFO memory has about 2 kB
	maxReplyLine = 1 << 10  // bytes of a line: a status, an error, a length
	maxReplyList = 256      // elements: HELLO has 14
)

// errNoRedis is what a reply that no Redis server gives is refused with.
var errNoRedis = errors.New("the server does not answer as Redis does")

// replyCheck follows the framing of RESP2 replies, in whatever pieces they
// arrive. The elements of an array are replies that follow each other, so no
// nesting has to be kept.
type replyCheck struct {
	total int // bytes since the last command
	skip  int // bytes of a string that are to come, its line end included
	line  [maxReplyLine]byte
	size  int // of line
}

// sent begins a new round: a command has been written.
func (c *replyCheck) sent() { c.total = 0 }

// read looks at the next bytes.
func (c *replyCheck) read(p []byte) error {
	if c.total += len(p); c.total > maxReply {
		return errNoRedis
	}
	for len(p) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(p))
			c.skip -= n
			p = p[n:]
			continue
		}
		b := p[0]
		p = p[1:]
		if b != '\n' {
			if c.size == len(c.line) {
				return errNoRedis
			}
			c.line[c.size] = b
			c.size++
			continue
		}
		if err := c.endLine(c.line[:c.size]); err != nil {
			return err
		}
		c.size = 0
	}
	// What is no reply is refused by its first byte: it may have no line end.
	if c.size > 0 && !isReplyType(c.line[0]) {
		return errNoRedis
	}
	return nil
}

func isReplyType(b byte) bool { return b == '+' || b == '-' || b == ':' || b == '$' || b == '*' }

func (c *replyCheck) endLine(line []byte) error {
	if len(line) < 2 || line[len(line)-1] != '\r' || !isReplyType(line[0]) {
		return errNoRedis
	}
	most := 0
	switch line[0] {
	case '$':
		most = maxReplyBulk
	case '*':
		most = maxReplyList
	default:
		return nil
	}
	n, ok := replyLength(line[1 : len(line)-1])
	if !ok || n > most {
		return errNoRedis
	}
	if line[0] == '$' && n >= 0 {
		c.skip = n + len("\r\n")
	}
	return nil
}

// replyLength reads a length; -1 stands for nil.
func replyLength(digits []byte) (n int, ok bool) {
	if string(digits) == "-1" {
		return -1, true
	}
	if len(digits) == 0 || len(digits) > 6 {
		return 0, false
	}
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0, false
		}
		n = n*10 + int(d-'0')
	}
	return n, true
}

// checkedConn is a connection whose replies are looked at. Like any connection
// it has one reader at a time, which also is the one that writes.
type checkedConn struct {
	net.Conn
	raw   syscall.Conn // below TLS; nil where there is none
	check replyCheck
	gone  func() // when it is closed
}

func (c *checkedConn) Close() error {
	c.gone()
	return c.Conn.Close()
}

func (c *checkedConn) Write(p []byte) (int, error) {
	c.check.sent()
	return c.Conn.Write(p)
}

func (c *checkedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if refused := c.check.read(p[:n]); refused != nil {
		c.Conn.Close()
		return 0, refused
	}
	return n, err
}

// SyscallConn lets the pool see that an idle connection was closed by the
// server, with TLS too, before a request pays for it.
func (c *checkedConn) SyscallConn() (syscall.RawConn, error) {
	if c.raw == nil {
		return nil, errors.ErrUnsupported
	}
	return c.raw.SyscallConn()
}

// redisDialer makes connections to one server.
type redisDialer struct {
	settings *redisSettings
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	roots    atomic.Pointer[x509.CertPool] // nil: the system's

	mu   sync.Mutex
	open map[net.Conn]struct{} // the connections, below TLS
}

// closeAll breaks all connections. It does not wait for a peer, as the end of
// TLS could.
func (d *redisDialer) closeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for conn := range d.open {
		conn.Close()
	}
	clear(d.open)
}

func (d *redisDialer) opened(conn net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		d.open = make(map[net.Conn]struct{})
	}
	d.open[conn] = struct{}{}
}

func (d *redisDialer) closed(conn net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, conn)
}

// load reads the CA file, if there is one. Connections take what was read last.
func (d *redisDialer) load() error {
	if !d.settings.tls || d.settings.caFile == "" {
		return nil
	}
	content, err := readRegular(d.settings.caFile, maxCAFile)
	if err != nil {
		return fmt.Errorf("tls.ca_file %s: %w", quote(d.settings.caFile), err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(content) {
		return fmt.Errorf("tls.ca_file %s has no certificate in PEM form", quote(d.settings.caFile))
	}
	d.roots.Store(roots)
	return nil
}

// connect implements the dialer of the client library.
func (d *redisDialer) connect(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	raw, _ := conn.(syscall.Conn)
	plain := conn
	d.opened(plain)
	if d.settings.tls {
		secure := tls.Client(conn, &tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: d.settings.serverName, RootCAs: d.roots.Load(),
		})
		if err := secure.HandshakeContext(ctx); err != nil {
			d.closed(plain)
			conn.Close()
			return nil, &handshakeError{err}
		}
		conn = secure
	}
	return &checkedConn{Conn: conn, raw: raw, gone: func() { d.closed(plain) }}, nil
}

// handshakeError is a TLS handshake that failed.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// plainDialer connects over TCP and finds out when the peer is gone.
var plainDialer = net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
	Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
}}
