// HTTP/2 as nginx speaks it with a client: the connection, its frames and
// flow control. nginx is more lenient than RFC 9113 in some places and stricter
// in others; what it does is done here, by the code of its version 1.25.3.

package pluginhost

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	keepaliveRequests = 10000 // Kong's nginx_http_keepalive_requests
	keepaliveTime     = time.Hour

	maxStreams   = 128        // http2_max_concurrent_streams
	maxRefused   = maxStreams // streams beyond that before the connection ends
	streamWindow = 64 << 10   // http2_body_preread_size: what a client may send unasked
	maxWindow    = 1<<31 - 1
	maxFrameSize = 1<<24 - 1
	chunkSize    = 8 << 10 // http2_chunk_size: the largest DATA frame sent
	defaultFrame = 16 << 10
	floodMargin  = 1 << 20 // bytes that carry nothing before it is a flood
)

// What ends a connection: the code goes into a GOAWAY frame.
const (
	errProtocol    = http2.ConnectionError(http2.ErrCodeProtocol)
	errFlowControl = http2.ConnectionError(http2.ErrCodeFlowControl)
	errFrameSize   = http2.ConnectionError(http2.ErrCodeFrameSize)
	errCompression = http2.ConnectionError(http2.ErrCodeCompression)
	errCalm        = http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	errNone        = http2.ConnectionError(http2.ErrCodeNo)
)

// http2Conn is a connection that speaks HTTP/2. One goroutine reads its
// frames; each of its streams has one of its own that serves the request.
type http2Conn struct {
	gw    *Gateway
	from  origin
	conn  net.Conn
	br    *bufio.Reader
	start time.Time
	wg    sync.WaitGroup // the streams' goroutines

	// Of the goroutine that reads:
	fields     fieldReader // HPACK
	recvWindow int64
	lastID     uint32
	requests   int
	batch      int // streams since the client was last waited for
	refused    int
	priorities int // PRIORITY frames that are still taken

	// What a client makes the server do for nothing is bounded.
	total, payload atomic.Int64

	out    outbox
	framer *http2.Framer // into the outbox, whose lock is held
	hbuf   bytes.Buffer
	henc   *hpack.Encoder

	mu         sync.Mutex // taken after the outbox's lock, never before
	streams    map[uint32]*http2Stream
	sendWindow int64
	initWindow int64
	goaway     bool // no new streams
	over       bool // nothing is sent any more
}

// sniffPreface reports whether a plain connection begins with HTTP/2's
// preface. An error says that it ended before that was clear.
func sniffPreface(br *bufio.Reader) (bool, error) {
	for n := 1; ; n++ {
		got, err := br.Peek(n)
		switch {
		case err != nil:
			return false, err
		case got[n-1] != http2.ClientPreface[n-1]:
			return false, nil
		case n == len(http2.ClientPreface):
			return true, nil
		}
	}
}

// serveHTTP2 serves a connection until it ends.
func (g *Gateway) serveHTTP2(conn net.Conn, br *bufio.Reader, from origin) {
	c := &http2Conn{
		gw: g, from: from, conn: conn, br: br, start: time.Now(),
		recvWindow: maxWindow, priorities: maxStreams,
		streams:    map[uint32]*http2Stream{},
		sendWindow: 1<<16 - 1, initWindow: 1<<16 - 1,
	}
	c.framer = http2.NewFramer(&c.out.buf, nil)
	c.out.changed = sync.NewCond(&c.out.mu)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		c.out.run(conn)
	}()
	c.henc = hpack.NewEncoder(&c.hbuf)
	c.henc.SetMaxDynamicTableSize(0) // nginx refers to nothing that it sent before
	err := c.run()
	code, fault := err.(http2.ConnectionError)
	if fault {
		c.sendGoAway(http2.ErrCode(code))
	}
	c.mu.Lock()
	c.over = true
	for _, s := range c.streams {
		s.kill(errGone)
	}
	c.mu.Unlock()
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	c.out.close()
	<-sent
	if fault || errors.Is(err, errDrained) {
		lingeringClose(conn)
	}
	conn.Close()
	c.wg.Wait()
}

// outbox holds the frames that wait to be sent, so that the client is read on
// while it does not read. One goroutine sends them.
type outbox struct {
	mu      sync.Mutex
	changed *sync.Cond
	buf     bytes.Buffer
	frames  int   // in buf, of those that nobody waits to append
	err     error // nothing is sent any more
	closed  bool  // what is left is sent
}

const (
	maxOutbox  = 64 << 10 // bytes before an answer waits
	maxControl = 10000    // frames that wait for a client that does not read
)

// errFlood says that a client asks for frames and takes none.
var errFlood = errors.New("too many frames wait for the client")

func (o *outbox) run(conn net.Conn) {
	var sending bytes.Buffer
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.err == nil {
		if o.buf.Len() == 0 {
			if o.closed {
				o.err = net.ErrClosed
				break
			}
			o.changed.Wait()
			continue
		}
		sending.Reset()
		_, _ = o.buf.WriteTo(&sending)
		o.frames = 0
		o.changed.Broadcast()
		o.mu.Unlock()
		_, err := conn.Write(sending.Bytes())
		o.mu.Lock()
		o.err = err
	}
	o.changed.Broadcast()
}

func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.changed.Broadcast()
}

// errDrained ends a connection whose last stream came after a GOAWAY.
var errDrained = errors.New("the connection is drained")

// run reads the connection's frames until it ends.
func (c *http2Conn) run() error {
	err := c.write(func(f *http2.Framer) error {
		if err := f.WriteSettings(
			http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
			http2.Setting{ID: http2.SettingMaxFrameSize, Val: maxFrameSize},
		); err != nil {
			return err
		}
		return f.WriteWindowUpdate(0, maxWindow-(1<<16-1))
	})
	if err != nil {
		return err
	}
	var preface [len(http2.ClientPreface)]byte
	if _, err := io.ReadFull(c.br, preface[:]); err != nil {
		return err
	}
	if string(preface[:]) != http2.ClientPreface {
		return errProtocol
	}
	for {
		if c.drained() {
			return errDrained
		}
		fh, err := c.frameHeader()
		if err == nil {
			err = c.frame(fh)
		}
		if err != nil {
			if c.drained() { // the last stream woke the reader
				return errDrained
			}
			return err
		}
	}
}

// drained reports whether a GOAWAY was sent and no stream is left.
func (c *http2Conn) drained() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.goaway && len(c.streams) == 0
}

func (c *http2Conn) frameHeader() (http2.FrameHeader, error) {
	if c.br.Buffered() == 0 {
		c.batch = 0
	}
	fh, err := http2.ReadFrameHeader(c.br)
	if err != nil {
		return fh, err
	}
	if c.total.Add(9+int64(fh.Length))/8 > c.payload.Load()+floodMargin {
		return fh, errNone // a flood
	}
	return fh, nil
}

// frame reads one frame's payload and does what it says.
func (c *http2Conn) frame(fh http2.FrameHeader) error {
	switch fh.Type {
	case http2.FrameData:
		return c.data(fh)
	case http2.FrameHeaders:
		return c.headers(fh)
	case http2.FramePriority:
		return c.priority(fh)
	case http2.FrameRSTStream:
		return c.rstStream(fh)
	case http2.FrameSettings:
		return c.settings(fh)
	case http2.FramePing:
		return c.ping(fh)
	case http2.FrameGoAway:
		switch { // it changes nothing: the client's streams go on
		case fh.Length < 8:
			return errFrameSize
		case fh.StreamID != 0:
			return errProtocol
		}
		return c.skip(fh.Length)
	case http2.FrameWindowUpdate:
		return c.windowUpdate(fh)
	case http2.FramePushPromise, http2.FrameContinuation:
		return errProtocol
	}
	return c.skip(fh.Length) // a type that nobody knows
}

func (c *http2Conn) skip(n uint32) error {
	_, err := io.CopyN(io.Discard, c.br, int64(n))
	return err
}

// read reads n bytes of a frame's payload, at most 8.
func (c *http2Conn) read(n uint32) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(c.br, b)
	return b, err
}

func (c *http2Conn) data(fh http2.FrameHeader) error {
	size, length, pad := int64(fh.Length), fh.Length, uint32(0)
	if fh.Flags.Has(http2.FlagDataPadded) {
		if length == 0 {
			return errFrameSize
		}
		b, err := c.read(1)
		if err != nil {
			return err
		}
		if pad = uint32(b[0]); pad >= length {
			return errProtocol
		}
		length -= 1 + pad
	}
	switch {
	case fh.StreamID == 0:
		return errProtocol
	case size > c.recvWindow:
		return errFlowControl
	}
	if c.recvWindow -= size; c.recvWindow < maxWindow/4 {
		if err := c.sendWindowUpdate(0, maxWindow-c.recvWindow); err != nil {
			return err
		}
		c.recvWindow = maxWindow
	}

	c.mu.Lock()
	s := c.streams[fh.StreamID]
	take, reset := false, http2.ErrCodeNo
	switch {
	case s == nil || s.dead:
	case size > s.recvWindow:
		reset = http2.ErrCodeFlowControl
	case s.inClosed:
		reset = http2.ErrCodeStreamClosed
	default:
		s.recvWindow -= size
		take = !s.ignoreBody
	}
	c.mu.Unlock()
	if reset != http2.ErrCodeNo {
		if err := c.terminate(s, reset); err != nil {
			return err
		}
	}
	if !take {
		return c.skip(length + pad)
	}
	buf := make([]byte, min(length, defaultFrame))
	for length > 0 {
		n, err := c.br.Read(buf[:min(uint32(len(buf)), length)])
		s.push(buf[:n])
		c.payload.Add(int64(n))
		length -= uint32(n)
		if err != nil {
			return err
		}
	}
	if fh.Flags.Has(http2.FlagDataEndStream) {
		s.end()
	}
	return c.skip(pad)
}

// headers reads a header block, over all of its frames, and begins the stream.
func (c *http2Conn) headers(fh http2.FrameHeader) error {
	length, pad, depend := fh.Length, uint32(0), uint32(0)
	padded, priority := fh.Flags.Has(http2.FlagHeadersPadded), fh.Flags.Has(http2.FlagHeadersPriority)
	need := uint32(0)
	if padded {
		need++
	}
	if priority {
		need += 5
	}
	if length <= need {
		return errFrameSize
	}
	if c.leaving() {
		return c.skip(length)
	}
	if length -= need; padded {
		b, err := c.read(1)
		if err != nil {
			return err
		}
		pad = uint32(b[0])
	}
	if pad > length {
		return errProtocol
	}
	if length -= pad; priority {
		b, err := c.read(5)
		if err != nil {
			return err
		}
		depend = binary.BigEndian.Uint32(b) & (1<<31 - 1)
	}
	if fh.StreamID%2 == 0 || fh.StreamID <= c.lastID || depend == fh.StreamID {
		return errProtocol // trailers among them: nginx takes none
	}
	c.lastID = fh.StreamID

	block := &http2Head{head: &requestHead{major: 2, length: -1}}
	serve := c.admit()
	if !serve {
		if c.refused++; c.refused > maxRefused+1 {
			return errNone
		}
		if err := c.sendReset(fh.StreamID, http2.ErrCodeRefusedStream); err != nil {
			return err
		}
	} else {
		c.requests++
		c.priorities += maxStreams
		if c.requests >= c.gw.requests || time.Since(c.start) > keepaliveTime {
			c.sendGoAway(http2.ErrCodeNo)
		}
	}
	c.fields.begin(block.field, func() bool { return !serve || block.refused != nil })
	flags := fh.Flags
	for {
		block.head.size += int(length)
		if err := c.fields.read(c.br, length); err != nil {
			return err
		}
		if err := c.skip(pad); err != nil {
			return err
		}
		if flags.Has(http2.FlagHeadersEndHeaders) {
			break
		}
		next, err := c.frameHeader()
		if err != nil {
			return err
		}
		if next.Type != http2.FrameContinuation || next.StreamID != fh.StreamID {
			return errProtocol
		}
		flags, length, pad = next.Flags, next.Length, 0
	}
	if err := c.fields.end(); err != nil {
		return err
	}
	if !serve {
		return nil
	}
	ended := fh.Flags.Has(http2.FlagHeadersEndStream)
	head, refused := block.finish(ended)
	if refused == nil {
		c.payload.Add(int64(head.size))
	}
	c.begin(fh.StreamID, head, refused, ended)
	return nil
}

// leaving reports whether a GOAWAY was sent.
func (c *http2Conn) leaving() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.goaway
}

// admit reports whether one more stream may be opened. Streams count until
// their request's goroutine has ended, which bounds those goroutines.
func (c *http2Conn) admit() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams) >= maxStreams {
		return false
	}
	c.batch++
	return c.batch <= 2*maxStreams
}

func (c *http2Conn) priority(fh http2.FrameHeader) error {
	if fh.Length != 5 {
		return errFrameSize
	}
	if c.priorities--; c.priorities == 0 {
		return errCalm
	}
	b, err := c.read(5)
	if err != nil {
		return err
	}
	if fh.StreamID == 0 || binary.BigEndian.Uint32(b)&(1<<31-1) == fh.StreamID {
		return errProtocol
	}
	return nil
}

func (c *http2Conn) rstStream(fh http2.FrameHeader) error {
	if fh.Length != 4 {
		return errFrameSize
	}
	b, err := c.read(4)
	if err != nil {
		return err
	}
	if fh.StreamID == 0 {
		return errProtocol
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[fh.StreamID]; s != nil {
		s.inClosed, s.outClosed = true, true
		s.kill(fmt.Errorf("the client reset the stream: %v", http2.ErrCode(binary.BigEndian.Uint32(b))))
	}
	return nil
}

func (c *http2Conn) settings(fh http2.FrameHeader) error {
	switch {
	case fh.StreamID != 0:
		return errProtocol
	case fh.Flags == http2.FlagSettingsAck && fh.Length != 0, fh.Length%6 != 0:
		return errFrameSize
	case fh.Flags == http2.FlagSettingsAck:
		return nil
	}
	window := int64(-1)
	for range fh.Length / 6 {
		b, err := c.read(6)
		if err != nil {
			return err
		}
		value := binary.BigEndian.Uint32(b[2:])
		switch http2.SettingID(binary.BigEndian.Uint16(b)) {
		case http2.SettingInitialWindowSize:
			if value > maxWindow {
				return errFlowControl
			}
			window = int64(value)
		case http2.SettingMaxFrameSize:
			if value > maxFrameSize || value < defaultFrame {
				return errProtocol
			}
			// More than that is not sent, as nginx does but for its headers.
		case http2.SettingEnablePush:
			if value > 1 {
				return errProtocol
			}
		}
	}
	if err := c.write((*http2.Framer).WriteSettingsAck); err != nil || window < 0 {
		return err
	}
	var overflown []*http2Stream
	c.mu.Lock()
	delta := window - c.initWindow
	c.initWindow = window
	for _, s := range c.streams {
		if s.sendWindow+delta > maxWindow {
			overflown = append(overflown, s)
			continue
		}
		s.sendWindow += delta
		s.wake.Broadcast()
	}
	c.mu.Unlock()
	for _, s := range overflown {
		if err := c.terminate(s, http2.ErrCodeFlowControl); err != nil {
			return err
		}
	}
	return nil
}

func (c *http2Conn) ping(fh http2.FrameHeader) error {
	if fh.Length != 8 {
		return errFrameSize
	}
	b, err := c.read(8)
	if err != nil {
		return err
	}
	if fh.StreamID != 0 {
		return errProtocol
	}
	if fh.Flags.Has(http2.FlagPingAck) {
		return nil
	}
	return c.write(func(f *http2.Framer) error { return f.WritePing(true, [8]byte(b)) })
}

func (c *http2Conn) windowUpdate(fh http2.FrameHeader) error {
	if fh.Length != 4 {
		return errFrameSize
	}
	b, err := c.read(4)
	if err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(b) & (1<<31 - 1))
	if n == 0 {
		return errProtocol
	}
	c.mu.Lock()
	if fh.StreamID == 0 {
		defer c.mu.Unlock()
		if n > maxWindow-c.sendWindow {
			return errFlowControl
		}
		c.sendWindow += n
		for _, s := range c.streams {
			s.wake.Broadcast()
		}
		return nil
	}
	s := c.streams[fh.StreamID]
	over := s != nil && !s.dead && n > maxWindow-s.sendWindow
	if s != nil && !over {
		s.sendWindow += n
		s.wake.Broadcast()
	}
	c.mu.Unlock()
	if over {
		return c.terminate(s, http2.ErrCodeFlowControl)
	}
	return nil
}

// write queues frames, whole, without waiting.
func (c *http2Conn) write(f func(*http2.Framer) error) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.out.err != nil {
		return c.out.err
	}
	if c.out.frames++; c.out.frames > maxControl {
		return errFlood
	}
	c.out.changed.Broadcast()
	return f(c.framer)
}

// writeFor queues frames of a stream's answer once there is room for them, if
// the stream is still there. last says that they end it.
func (c *http2Conn) writeFor(s *http2Stream, last bool, f func(*http2.Framer) error) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	for c.out.err == nil && c.out.buf.Len() > maxOutbox {
		c.out.changed.Wait()
	}
	if c.out.err != nil {
		return c.out.err
	}
	c.mu.Lock()
	dead := s.dead
	s.outClosed = s.outClosed || !dead && last
	c.mu.Unlock()
	if dead {
		return context.Cause(s.ctx)
	}
	c.out.changed.Broadcast()
	return f(c.framer)
}

func (c *http2Conn) sendWindowUpdate(id uint32, n int64) error {
	c.total.Add(9 + 4)
	return c.write(func(f *http2.Framer) error { return f.WriteWindowUpdate(id, uint32(n)) })
}

func (c *http2Conn) sendReset(id uint32, code http2.ErrCode) error {
	c.total.Add(9 + 4)
	return c.write(func(f *http2.Framer) error { return f.WriteRSTStream(id, code) })
}

// sendGoAway says that no new stream is served, once.
func (c *http2Conn) sendGoAway(code http2.ErrCode) {
	c.mu.Lock()
	again := c.goaway
	c.goaway = true
	c.mu.Unlock()
	if !again {
		_ = c.write(func(f *http2.Framer) error { return f.WriteGoAway(c.lastID, code, nil) })
	}
}

// terminate ends a stream for the client's fault.
func (c *http2Conn) terminate(s *http2Stream, code http2.ErrCode) error {
	c.mu.Lock()
	sent := s.resetSent
	s.resetSent = true
	s.kill(fmt.Errorf("the stream was reset: %v", code))
	c.mu.Unlock()
	if sent {
		return nil
	}
	return c.sendReset(s.id, code)
}
