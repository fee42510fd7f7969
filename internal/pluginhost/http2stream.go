// One stream of HTTP/2: a request's body as it comes, and the answer as far as
// the client lets it be sent.

package pluginhost

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Stream is the downstream of a request over HTTP/2.
type http2Stream struct {
	conn   *http2Conn
	id     uint32
	head   *requestHead
	ctx    context.Context
	cancel context.CancelCauseFunc

	// Under the connection's mu:
	wake       *sync.Cond // windows, body or end changed
	sendWindow int64      // may be negative
	recvWindow int64
	inClosed   bool // the client sent all
	outClosed  bool // and the server
	resetSent  bool
	dead       bool         // nothing is sent any more
	ignoreBody bool         // what comes of the body is dropped
	body       bytes.Buffer // at most streamWindow bytes
	received   int64
	bodyErr    error
}

// begin opens a stream and serves its request, or answers why it is refused.
func (c *http2Conn) begin(id uint32, head *requestHead, refused error, ended bool) {
	s := &http2Stream{conn: c, id: id, head: head, recvWindow: streamWindow, inClosed: ended, ignoreBody: refused != nil}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.wake = sync.NewCond(&c.mu)
	c.mu.Lock()
	s.sendWindow = c.initWindow
	c.streams[id] = s
	c.mu.Unlock()
	c.wg.Go(func() {
		tx := c.gw.newTransaction(c.from, s)
		var no *refusal
		if errors.As(refused, &no) {
			_ = tx.refuse(no)
		} else {
			_ = tx.serve(head, &bodyReader{src: s, done: ended})
		}
		s.close()
	})
}

// errGone says that a client's connection has ended.
var errGone = errors.New("the client closed the connection")

// kill ends what waits for the client. The caller holds mu.
func (s *http2Stream) kill(why error) {
	s.dead = true
	s.cancel(why)
	s.wake.Broadcast()
}

// close ends the stream: with a reset where the answer is not whole, or where
// the client need not send the rest of the body.
func (s *http2Stream) close() {
	c := s.conn
	c.mu.Lock()
	code, reset := http2.ErrCodeNo, !s.dead && !c.over && !(s.outClosed && s.inClosed)
	if !s.outClosed {
		code = http2.ErrCodeInternal
	}
	s.kill(errGone)
	c.mu.Unlock()
	if reset {
		_ = c.sendReset(s.id, code)
	}
	c.mu.Lock()
	delete(c.streams, s.id)
	last := c.goaway && len(c.streams) == 0
	c.mu.Unlock()
	if last { // wakes the reader
		_ = c.conn.SetReadDeadline(time.Now())
	}
}

func (s *http2Stream) context() context.Context { return s.ctx }

func (s *http2Stream) tunnel() (net.Conn, *bufio.Reader, bool) { return nil, nil, false }

func (s *http2Stream) interrupt() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.ignoreBody = true
	s.wake.Broadcast()
}

func (s *http2Stream) resume() {} // nothing else comes on this stream

// push takes a piece of the body. It fits: the client keeps to its window.
func (s *http2Stream) push(p []byte) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.ignoreBody {
		return
	}
	if s.received += int64(len(p)); s.head.length >= 0 && s.received > s.head.length {
		s.bodyErr, s.ignoreBody = errBody, true
	} else {
		s.body.Write(p)
	}
	s.wake.Broadcast()
}

// end takes the end of the body.
func (s *http2Stream) end() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.inClosed = true
	if s.head.length >= 0 && s.received < s.head.length {
		s.bodyErr = errBody
	}
	s.wake.Broadcast()
}

// Read reads the request's body. The client may send as much again once all
// that it sent is read.
func (s *http2Stream) Read(p []byte) (int, error) {
	c := s.conn
	c.mu.Lock()
	for !s.dead && !s.ignoreBody && !s.inClosed && s.bodyErr == nil && s.body.Len() == 0 {
		s.wake.Wait()
	}
	var n int
	var err error
	switch {
	case s.bodyErr != nil:
		err = s.bodyErr
	case s.dead || s.ignoreBody:
		err = errGone
	case s.body.Len() > 0:
		n, _ = s.body.Read(p)
	default:
		err = io.EOF
	}
	more := int64(0)
	if n > 0 && s.body.Len() == 0 && !s.inClosed && !s.dead {
		more = streamWindow - s.recvWindow
		s.recvWindow += more
	}
	c.mu.Unlock()
	if more > 0 {
		_ = c.sendWindowUpdate(s.id, more) // the next read sees a broken connection
	}
	return n, err
}

func (s *http2Stream) answer(status int, _ string, fields []Field, length int64) (io.WriteCloser, error) {
	c := s.conn
	body := bodyAllowed(s.head.method, status) && length != 0
	err := c.writeFor(s, !body, func(framer *http2.Framer) error {
		c.hbuf.Reset()
		put := func(name, value string) { _ = c.henc.WriteField(hpack.HeaderField{Name: name, Value: value}) } // to memory
		put(":status", fmt.Sprintf("%03d", status))
		for _, f := range fields {
			put(lowerASCII(f.Name), f.Value)
		}
		if length >= 0 && status >= 200 && status != 204 {
			put("content-length", strconv.FormatInt(length, 10))
		}
		c.count(c.hbuf.Len())
		for first := true; ; first = false {
			piece := c.hbuf.Next(defaultFrame) // no client takes less
			last := c.hbuf.Len() == 0
			var err error
			if first {
				err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: piece, EndStream: !body, EndHeaders: last})
			} else {
				err = framer.WriteContinuation(s.id, last, piece)
			}
			if err != nil || last {
				return err
			}
		}
	})
	switch {
	case err != nil:
		return nil, err
	case !body:
		return noBody{}, nil
	}
	return &http2Body{s, length}, nil
}

// count counts a frame that carries an answer.
func (c *http2Conn) count(n int) {
	c.total.Add(9 + int64(n))
	c.payload.Add(int64(n))
}

// http2Body is the body of an answer.
type http2Body struct {
	s    *http2Stream
	left int64 // negative: only Close tells its end
}

func (b *http2Body) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n, err := b.s.reserve(len(p))
		if err != nil {
			return written, err
		}
		if err := b.s.sendData(p[:n], b.left == int64(n)); err != nil {
			return written, err
		}
		if b.left > 0 {
			b.left -= int64(n)
		}
		written, p = written+n, p[n:]
	}
	return written, nil
}

func (b *http2Body) Close() error {
	switch {
	case b.left > 0:
		return io.ErrShortWrite
	case b.left == 0:
		return nil
	}
	return b.s.sendData(nil, true)
}

// reserve waits until the client takes at least one byte, and takes at most n
// of what it takes.
func (s *http2Stream) reserve(n int) (int, error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for !s.dead && (s.sendWindow <= 0 || c.sendWindow <= 0) {
		s.wake.Wait()
	}
	if s.dead {
		return 0, context.Cause(s.ctx)
	}
	n = int(min(int64(n), s.sendWindow, c.sendWindow, chunkSize)) // which every client takes in a frame
	s.sendWindow -= int64(n)
	c.sendWindow -= int64(n)
	return n, nil
}

func (s *http2Stream) sendData(p []byte, last bool) error {
	return s.conn.writeFor(s, last, func(framer *http2.Framer) error {
		s.conn.count(len(p))
		return framer.WriteData(s.id, last, p)
	})
}
