package main

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// The body of a request on its way to the gateway, beside the answer that may
// come at any time.

// requestBody is a request's body; it notes when it has been read to its end.
type requestBody struct {
	io.Reader
	ended atomic.Bool
	cut   bool // nobody reads the rest
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.ended.Store(true)
	}
	return n, err
}

// upload sends one body in a goroutine of its own. The other methods are for the
// goroutine that reads the answer.
type upload struct {
	w       http.ResponseWriter
	r       *http.Request
	conn    *backendConn
	body    *requestBody
	trailer []string
	timeout time.Duration // of a write while no answer comes, and of the wait for the answer's header once the body is sent

	goOn chan struct{} // nil: the body is sent at once
	quit chan struct{} // closed by end
	done chan struct{}

	// Valid once done is closed.
	sent      bool
	clientErr error // why the client's body cannot be sent
	panicked  any

	mu      sync.Mutex
	begun   bool // the answer's header is there
	stalled bool // the gateway has taken nothing for the timeout
}

// errBody marks a body that the client did not send as it ought to.
type errBody struct{ err error }

func (e errBody) Error() string { return "the request's body: " + e.err.Error() }
func (e errBody) Unwrap() error { return e.err }

// startUpload sends the body of r, whose head has been written to conn. Where the
// client asked to be told (Expect), it waits for proceed, timeout at most.
func startUpload(w http.ResponseWriter, r *http.Request, x *exchange, conn *backendConn, timeout time.Duration) *upload {
	u := &upload{w: w, r: r, conn: conn, body: x.body, trailer: x.trailer, timeout: timeout,
		quit: make(chan struct{}), done: make(chan struct{})}
	if hasToken(r.Header["Expect"], "100-continue") {
		u.goOn = make(chan struct{})
	}
	go u.run()
	return u
}

func (u *upload) run() {
	defer close(u.done)
	defer func() {
		if u.panicked = recover(); u.panicked != nil {
			u.conn.socket.Close()
		}
	}()
	if u.goOn != nil {
		limit := time.NewTimer(u.timeout)
		defer limit.Stop()
		select {
		case <-u.goOn:
		case <-limit.C:
		case <-u.quit:
			return
		}
	}
	err := u.copy()
	if errors.As(err, new(errBody)) {
		select {
		case <-u.quit: // end cut it, not the client
		default:
			u.clientErr = err
		}
		u.conn.socket.Close() // never a body that looks whole
		return
	}
	// A gateway that takes no more of the body may have said why, but one that
	// has taken nothing for so long has had its time.
	u.sent = err == nil
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stalled = err != nil && isTimeout(err)
	switch {
	case u.begun && u.stalled:
		u.conn.socket.Close()
	case u.begun:
	case u.stalled:
		u.conn.SetReadDeadline(time.Now())
	default:
		u.conn.SetReadDeadline(time.Now().Add(u.timeout))
	}
}

// write writes to the gateway. Without a limit a gateway that reads nothing would
// keep the request for ever: nobody reads the client's connection meanwhile, so
// the client's going is not seen.
func (u *upload) write(p []byte) error {
	u.conn.extendWrite(u.timeout)
	_, err := u.conn.Write(p)
	return err
}

// moved says that a piece of the answer has come: the gateway may take its time
// anew to go on with the body.
func (u *upload) moved() {
	if u != nil && !u.isDone() {
		u.conn.extendWrite(u.timeout)
	}
}

// copy writes the body as the head announced it. An errBody is the client's.
func (u *upload) copy() error {
	buffer := copyBuffers.Get().(*[copyBufferSize]byte)
	defer copyBuffers.Put(buffer)
	if u.r.ContentLength > 0 {
		var sent int64
		for {
			n, err := u.body.Read(buffer[:])
			if sent += int64(n); sent > u.r.ContentLength {
				return errBody{errors.New("is longer than its Content-Length")}
			}
			if n > 0 {
				if err := u.write(buffer[:n]); err != nil {
					return err
				}
			}
			if err == io.EOF && sent == u.r.ContentLength {
				return nil
			}
			if err != nil {
				return errBody{err}
			}
		}
	}
	// Each piece that is read is a chunk (RFC 9112, section 7.1): its size, in
	// at most four hex digits, stands before it in the buffer.
	const before, after = len("8000\r\n"), len("\r\n")
	for {
		n, err := u.body.Read(buffer[before : len(buffer)-after])
		if n > 0 {
			var size [before]byte
			prefix := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
			first := before - len(prefix)
			copy(buffer[first:], prefix)
			copy(buffer[before+n:], "\r\n")
			if err := u.write(buffer[first : before+n+after]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return errBody{err}
		}
	}
	last := []byte("0\r\n")
	for _, name := range u.trailer {
		for _, value := range u.r.Trailer[name] {
			var err error
			if last, err = appendField(last, name, value); err != nil {
				return errBody{err}
			}
		}
	}
	return u.write(append(last, "\r\n"...))
}

// proceed says that the gateway wants the body.
func (u *upload) proceed() {
	if u != nil && u.goOn != nil {
		select {
		case <-u.goOn:
		default:
			close(u.goOn)
		}
	}
}

// answered says that the header of the answer is there: the rest of both may take
// what it takes, as long as one of them moves.
func (u *upload) answered() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.begun = true
	u.conn.SetReadDeadline(time.Time{})
	u.moved()
	if u.stalled {
		u.conn.socket.Close()
	}
}

// lastWriteTimeout is how long end waits for the last write of a body that has
// been read to its end: the gateway may answer before that write has returned.
const lastWriteTimeout = 50 * time.Millisecond

// end ends the goroutine, and reports whether the body has been sent whole. If it
// has not, the connections on both sides are good for nothing more: the rest of
// the body must not be taken for a request.
func (u *upload) end() bool {
	if !u.isDone() && u.body.ended.Load() {
		limit := time.NewTimer(lastWriteTimeout)
		defer limit.Stop()
		select {
		case <-u.done:
		case <-limit.C:
		}
	}
	if !u.isDone() {
		close(u.quit)
		u.conn.socket.Close()
		if !u.body.ended.Load() {
			u.body.cut = true
			if err := http.NewResponseController(u.w).SetReadDeadline(time.Unix(1, 0)); errors.Is(err, errors.ErrUnsupported) {
				panic(err)
			} // any other error: the connection is closed, which ends a Read as well
		}
		<-u.done
	}
	if u.panicked != nil {
		panic(u.panicked)
	}
	return u.sent
}

func (u *upload) isDone() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}
