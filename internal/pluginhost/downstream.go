// The client's end of a request, the same to the rest of the gateway whatever
// version of HTTP the client speaks.

package pluginhost

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
)

// downstream is where one request's answer goes: an HTTP/1.x connection, or a
// stream of HTTP/2.
type downstream interface {
	// answer sends the head of the answer. length is its body's, or -1 where
	// only its end tells. The body goes to the writer and is complete once
	// that is closed; until then the client takes it for one that broke off.
	answer(status int, reason string, fields []Field, length int64) (io.WriteCloser, error)
	// context ends when it is known that the client is gone.
	context() context.Context
	// interrupt ends a read of the request's body and any that follows, up
	// to resume.
	interrupt()
	resume()
	// tunnel hands the connection over to an upgraded protocol; false where
	// it is not this request's alone.
	tunnel() (net.Conn, *bufio.Reader, bool)
}

// bodyAllowed reports whether an answer may have a body.
func bodyAllowed(method string, status int) bool {
	return method != "HEAD" && status >= 200 && status != 204 && status != 304
}

// noBody is the body of an answer without one.
type noBody struct{}

func (noBody) Write(p []byte) (int, error) { return len(p), nil }
func (noBody) Close() error                { return nil }

// errBody is a request's body that broke off, or that is longer or shorter
// than its head says.
var errBody = errors.New("the request's body broke off or is malformed")

// bodyReader is the body of a request.
type bodyReader struct {
	src       io.Reader    // io.EOF at the body's end, any other error before it
	done      bool         // it was read to its end
	failed    bool         // the client's part of it broke
	continued func() error // sends 100 Continue before the first read
}

// Read returns io.EOF at the body's end.
func (b *bodyReader) Read(p []byte) (int, error) {
	if b.done {
		return 0, io.EOF
	}
	if f := b.continued; f != nil {
		b.continued = nil
		if err := f(); err != nil {
			b.failed = true
			return 0, err
		}
	}
	n, err := b.src.Read(p)
	b.done = errors.Is(err, io.EOF)
	b.failed = err != nil && !b.done
	return n, err
}
