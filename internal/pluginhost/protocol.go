// The frames of the plugin protocol (ProtoBuf:1) and the pool of connections
// that carry them: a little-endian uint32 length, then that many bytes.

package pluginhost

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	pb "github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"google.golang.org/protobuf/proto"
)

// maxFrame bounds a frame from the plugin. Kong has no bound; a larger frame
// here can only be a broken plugin.
const maxFrame = 64 << 20

// maxIdle is lua_socket_pool_size as Kong sets it.
const maxIdle = 256

// pool keeps idle connections to the plugin's socket.
type pool struct {
	socket  string
	timeout time.Duration

	mu     sync.Mutex
	idle   []*pluginConn
	closed bool
}

// pluginConn is one connection to the plugin; one event at a time uses it.
type pluginConn struct {
	net.Conn
	r       *bufio.Reader
	timeout time.Duration
}

func (p *pool) init(socket string, timeout time.Duration) {
	p.socket, p.timeout = socket, timeout
}

// get returns an idle connection that the plugin has not closed, or a new one.
func (p *pool) get() (*pluginConn, error) {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			break
		}
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if c.alive() {
			return c, nil
		}
		c.Close()
	}
	c, err := net.DialTimeout("unix", p.socket, p.timeout)
	if err != nil {
		return nil, err
	}
	return &pluginConn{Conn: c, r: bufio.NewReader(c), timeout: p.timeout}, nil
}

func (p *pool) put(c *pluginConn) {
	p.mu.Lock()
	keep := !p.closed && len(p.idle) < maxIdle
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		c.Close()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}

// alive reports whether an idle connection is open and silent. nginx watches
// its idle connections and drops one as soon as the other side closes it.
func (c *pluginConn) alive() bool {
	if c.r.Buffered() > 0 {
		return false
	}
	raw, err := c.Conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return false
	}
	silent := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		silent = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return err == nil && silent
}

func (c *pluginConn) readFrame() ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return nil, readError(err)
	}
	var head [4]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return nil, readError(err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxFrame {
		return nil, fmt.Errorf("frame of %d bytes from the plugin, at most %d are allowed", n, maxFrame)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(c.r, frame); err != nil {
		return nil, readError(err)
	}
	return frame, nil
}

func (c *pluginConn) writeFrame(data []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return thrown{err}
	}
	frame := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(data)), uint32(len(data)))
	if _, err := c.Write(append(frame, data...)); err != nil {
		return thrown{err}
	}
	return nil
}

// thrown is an error that Kong raises rather than returns (Lua's assert and
// error): it never leads to a re-run, whatever its words.
type thrown struct{ error }

func (t thrown) Unwrap() error { return t.error }

// readError puts a failed read into the words of nginx's sockets, which
// decide whether Kong runs the event again.
func readError(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("timeout")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("closed")
	case errors.Is(err, syscall.ECONNRESET):
		return errors.New("connection reset by peer")
	}
	return err
}

// rerun reports whether Kong runs an event again after err: it looks for two
// phrases in the error's text, wherever they come from.
func rerun(err error) bool {
	var t thrown
	if errors.As(err, &t) {
		return false
	}
	text := strings.ToLower(err.Error())
	return strings.Contains(text, "no plugin instance") || strings.Contains(text, "closed")
}

// errExit ends an event because the plugin called kong.response.exit.
var errExit = errors.New("the plugin ended the request")

// call sends one command and returns the plugin's answer. answer, where not
// nil, is given each PDK call that the plugin makes meanwhile. The connection
// is given up on any error, errExit included, as Kong does.
func (h *Host) call(cmd *pb.RpcCall, answer func(method string, arg []byte) ([]byte, error)) (*pb.RpcReturn, error) {
	c, err := h.pool.get()
	if err != nil {
		h.opts.Log("err", fmt.Sprintf("trying to connect: %v", err))
		return nil, thrown{err} // "connection refused" and "no such file": no re-run
	}
	ret, err := c.roundTrip(cmd, answer)
	if err != nil {
		c.Close()
		return nil, err
	}
	h.pool.put(c)
	return ret, nil
}

func (c *pluginConn) roundTrip(cmd *pb.RpcCall, answer func(method string, arg []byte) ([]byte, error)) (*pb.RpcReturn, error) {
	cmd.Sequence = 2 // Kong's counter means nothing: a connection has one call at a time
	msg, err := proto.Marshal(cmd)
	if err != nil {
		return nil, thrown{err}
	}
	if err := c.writeFrame(msg); err != nil {
		return nil, err
	}
	for answer != nil {
		method, err := c.readFrame()
		if err != nil {
			return nil, err
		}
		if len(method) == 0 {
			break
		}
		arg, err := c.readFrame()
		if err != nil {
			return nil, err
		}
		reply, err := answer(string(method), arg)
		if err != nil {
			return nil, err
		}
		if err := c.writeFrame(reply); err != nil {
			return nil, err
		}
	}
	msg, err = c.readFrame()
	if err != nil {
		return nil, err
	}
	ret := new(pb.RpcReturn)
	if err := proto.Unmarshal(msg, ret); err != nil {
		return nil, thrown{err}
	}
	if ret.Sequence != cmd.Sequence {
		return nil, thrown{fmt.Errorf("answer to call %d where %d was asked", ret.Sequence, cmd.Sequence)}
	}
	return ret, nil
}
