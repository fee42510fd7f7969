package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// One connection to the gateway. net/http's own client hands each request to two
// goroutines of the connection and its answer back from them, which costs more
// than a signature; here whoever holds the connection writes and reads it. The
// parsers are net/http's.

// maxResponseHeader bounds the header of an answer, interim ones included, in bytes.
const maxResponseHeader = 256 << 10

// backendConn is an HTTP/1.1 connection, held by one request or by the pool.
type backendConn struct {
	net.Conn // the socket, or TLS over it
	socket   *socket
	in       *bufio.Reader // reads through Read; nil while idle
	left     int64         // bytes that the header may still have
	ended    bool          // a Read has failed: nothing more comes

	config    *tls.Config // with which it was opened
	expires   time.Duration
	idleSince time.Duration
	reused    bool
}

// dial opens a connection to address, with TLS if config is not nil. open counts
// it until it is closed.
func dial(ctx context.Context, address string, config *tls.Config, open *atomic.Int64) (*backendConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a TCP connection")
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	s := &socket{TCPConn: tcp, raw: raw, open: open}
	s.look = s.lookAt
	open.Add(1)
	b := &backendConn{Conn: s, socket: s, config: config}
	if config != nil {
		t := tls.Client(s, config)
		if err := t.HandshakeContext(ctx); err != nil {
			s.Close()
			return nil, err
		}
		b.Conn = t
	}
	return b, nil
}

var errHeaderTooLarge = fmt.Errorf("the header of the answer is larger than %d bytes", maxResponseHeader)

// Read reads from the connection, at most as much as the header may still have.
func (c *backendConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errHeaderTooLarge
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	c.ended = c.ended || err != nil && !isTimeout(err)
	return n, err
}

// extendWrite lets a write to c, one that waits included, take d from now on.
func (c *backendConn) extendWrite(d time.Duration) { c.SetWriteDeadline(time.Now().Add(d)) }

// readHeader reads the header of the answer to r. begun reports whether a byte of
// it came. Interim answers go to interim; 101 is none. The body of the result is
// read from c.
func (c *backendConn) readHeader(r *http.Request, interim func(*http.Response)) (res *http.Response, begun bool, err error) {
	c.left = maxResponseHeader
	if _, err := c.in.Peek(1); err != nil {
		return nil, false, err
	}
	for {
		res, err := http.ReadResponse(c.in, r)
		if err != nil {
			return nil, true, err
		}
		if res.StatusCode < 100 {
			return nil, true, fmt.Errorf("the gateway answered with status %d", res.StatusCode)
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			c.left = math.MaxInt64
			return res, true, nil
		}
		interim(res)
	}
}

// readers lends the buffers of the connections that are in use. Header and body
// of a usual answer fit into one.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 16<<10) }}

// use readies an idle or new connection for a request.
func (c *backendConn) use() {
	c.in = readers.Get().(*bufio.Reader)
	c.in.Reset(c)
}

// rest ends use after an answer that has been read to its end, and reports
// whether another request may follow it.
func (c *backendConn) rest() bool {
	clean := !c.ended && c.in.Buffered() == 0 && (c.config == nil || c.isDrained())
	c.in.Reset(nil)
	readers.Put(c.in)
	c.in = nil
	return clean
}

// isDrained reports whether TLS holds nothing that has come from the socket and
// has not been read. crypto/tls takes more from the socket than one record, and
// more from a record than it is asked for; isQuiet sees neither.
func (c *backendConn) isDrained() bool {
	if c.SetReadDeadline(time.Unix(1, 0)) != nil { // nothing more from the socket
		return false
	}
	n, err := c.Conn.Read(make([]byte, 1))
	return n == 0 && isTimeout(err) && c.SetReadDeadline(time.Time{}) == nil
}

// socket is a TCP connection that counts what has been written to it, TLS
// records included: nothing written means that nothing can have arrived.
type socket struct {
	*net.TCPConn
	written atomic.Int64
	open    *atomic.Int64
	once    sync.Once

	raw   syscall.RawConn
	look  func(fd uintptr) bool // lookAt
	quiet bool                  // its result
}

func (s *socket) Write(p []byte) (int, error) {
	n, err := s.TCPConn.Write(p)
	s.written.Add(int64(n))
	return n, err
}

func (s *socket) Close() error {
	s.once.Do(func() { s.open.Add(-1) })
	return s.TCPConn.Close()
}

// isQuiet reports whether nothing has come in: no byte, no end, no reset. What
// comes in on an idle connection answers nothing, so such a connection is of no
// more use, and what has come may be lost.
func (s *socket) isQuiet() bool {
	s.quiet = false
	return s.raw.Read(s.look) == nil && s.quiet
}

func (s *socket) lookAt(fd uintptr) bool {
	var b [1]byte
	_, err := syscall.Read(int(fd), b[:])
	s.quiet = err == syscall.EAGAIN
	return true // do not wait
}
