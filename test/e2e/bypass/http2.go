package bypass

// HTTP/2, frame by frame: nothing of what a client library would refuse to send
// is refused here.

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frame is a line that begins with '@'.
type frame struct {
	verb       string // one of frameVerbs
	end        bool   // END_STREAM
	split      int    // bytes of the header block in HEADERS, the rest in CONTINUATION; -1: all
	interleave bool   // a PING between the two
	pad        uint8
	kind       http2.FrameType // of @frame
	flags      http2.Flags
	stream     uint32 // of @stream
}

const (
	frameHeaders  = "headers"  // the fields so far, on a new stream
	frameTrailers = "trailers" // the fields so far, on the same stream
	frameData     = "data"
	frameAny      = "frame"
	frameStream   = "stream" // the number of the next stream
)

// parseHTTP2 reads a line of an HTTP/2 case: `name: value`, evidence as a whole,
// or `@VERB OPTIONS`.
func (l *line) parseHTTP2(s string) error {
	if strings.HasPrefix(s, "@") {
		return l.parseFrame(s[1:])
	}
	if strings.HasPrefix(s, "{{") {
		t, err := parseText(s, false)
		if err != nil {
			return err
		}
		if len(t) > 0 {
			if _, ok := t.whole(); ok {
				l.text = t
				return nil
			}
		}
	}
	if s == "" {
		return errors.New("want `name: value` or `@headers`")
	}
	// A pseudo-header begins with a colon.
	at := strings.Index(s[1:], ": ") + 1
	end := at + 2
	if at == 0 {
		if at = len(s) - 1; at == 0 || s[at] != ':' {
			return errors.New("want `name: value`, `name:`, evidence alone, or `@headers`, `@trailers`, `@data`, `@frame`, `@stream`")
		}
		end = len(s)
	}
	var err1, err2 error
	l.field, err1 = parseText(s[:at], false)
	l.text, err2 = parseText(s[end:], false)
	return cmp.Or(err1, err2)
}

func (l *line) parseFrame(s string) error {
	verb, rest, _ := strings.Cut(s, " ")
	f := &frame{verb: verb, split: -1}
	l.frame = f
	number := func(s string, max uint64) (uint64, error) {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || n > max || strconv.FormatUint(n, 10) != s {
			return 0, fmt.Errorf("%q: want a number up to %d", s, max)
		}
		return n, nil
	}
	switch verb {
	case frameHeaders, frameTrailers:
		for _, option := range strings.Fields(rest) {
			name, value, _ := strings.Cut(option, "=")
			var n uint64
			var err error
			switch {
			case option == "end":
				f.end = true
			case option == "interleave":
				f.interleave = true
			case name == "split":
				n, err = number(value, 1<<14)
				f.split = int(n)
			case name == "pad":
				n, err = number(value, 255)
				f.pad = uint8(n)
			default:
				err = errors.New("want end, split=N, interleave or pad=N")
			}
			if err != nil {
				return fmt.Errorf("@%s %s: %w", verb, option, err)
			}
		}
		if f.interleave && f.split < 0 {
			return fmt.Errorf("@%s: interleave goes with split=N", verb)
		}
		return nil
	case frameData:
		body, end := strings.CutPrefix(rest, "end")
		if f.end = end && (body == "" || body[0] == ' '); f.end {
			rest = strings.TrimPrefix(body, " ")
		}
		var err error
		l.text, err = parseText(rest, false)
		return err
	case frameAny: // @frame TYPE FLAGS PAYLOAD
		words := strings.SplitN(rest, " ", 3)
		if len(words) < 2 {
			return errors.New("want @frame TYPE FLAGS PAYLOAD")
		}
		kind, err1 := number(words[0], 255)
		flags, err2 := number(words[1], 255)
		if err := cmp.Or(err1, err2); err != nil {
			return err
		}
		f.kind, f.flags = http2.FrameType(kind), http2.Flags(flags)
		if len(words) == 3 {
			var err error
			l.text, err = parseText(words[2], false)
			return err
		}
		return nil
	case frameStream:
		n, err := number(rest, 1<<31-1)
		f.stream = uint32(n)
		return err
	}
	return fmt.Errorf("@%s: want @headers, @trailers, @data, @frame or @stream", verb)
}

// action is a line with everything filled in: fields, or a frame.
type action struct {
	fields []headerField
	frame  *frame
	body   string
}

func (l *line) actions(v *values) []action {
	if l.frame != nil {
		return []action{{frame: l.frame, body: l.text.expand(v)}}
	}
	if l.field == nil {
		p, _ := l.text.whole()
		fields := v.evidence[p.name].fields(p.except)
		for i := range fields {
			fields[i].name = strings.ToLower(fields[i].name)
		}
		return []action{{fields: fields}}
	}
	return []action{{fields: []headerField{{l.field.expand(v), l.text.expand(v)}}}}
}

// link2 is a connection of HTTP/2.
type link2 struct {
	conn    net.Conn
	framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
	next    uint32 // stream
	current uint32
	fields  []headerField

	order   []uint32 // streams that were opened, until they are answered
	outcome map[uint32]string
	ended   string // Closed or GoAway, once the connection is over
	pinged  bool
}

var pingData = [8]byte{'b', 'y', 'p', 'a', 's', 's', 0, 1}

func newHTTP2(conn net.Conn) *link2 {
	l := &link2{conn: conn, framer: http2.NewFramer(conn, conn), next: 1, outcome: map[uint32]string{}}
	l.framer.AllowIllegalWrites = true
	l.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	l.encoder = hpack.NewEncoder(&l.block)
	l.encoder.SetMaxDynamicTableSize(0)
	_, _ = conn.Write([]byte(http2.ClientPreface))
	_ = l.framer.WriteSettings()
	return l
}

// exchange ignores errors of writing: a broken connection shows in what is read.
func (l *link2) exchange(s *step) []string {
	for _, a := range s.frames {
		l.act(a)
	}
	for l.ended == "" && slices.ContainsFunc(l.order, func(id uint32) bool { return l.outcome[id] == "" }) {
		l.read()
	}
	return l.take()
}

// take are the outcomes of the streams so far, in the order of their opening.
func (l *link2) take() []string {
	var got []string
	for _, id := range l.order {
		got = append(got, cmp.Or(l.outcome[id], l.ended))
	}
	l.order = nil
	return got
}

func (l *link2) finish() []string {
	if l.ended == "" {
		// What came before the PING has been read when it is answered.
		_ = l.framer.WritePing(false, pingData)
		for l.ended == "" && !l.pinged {
			l.read()
		}
	}
	l.conn.Close()
	return l.take()
}

func (l *link2) act(a action) {
	if a.frame == nil {
		l.fields = append(l.fields, a.fields...)
		return
	}
	switch f := a.frame; f.verb {
	case frameHeaders, frameTrailers:
		if f.verb == frameHeaders {
			l.current, l.next = l.next, l.next+2
			l.order = append(l.order, l.current)
			delete(l.outcome, l.current)
		}
		l.block.Reset()
		for _, field := range l.fields {
			_ = l.encoder.WriteField(hpack.HeaderField{Name: field.name, Value: field.value})
		}
		l.fields = nil
		l.writeBlock(f)
	case frameData:
		_ = l.framer.WriteData(l.current, f.end, []byte(a.body))
	case frameAny:
		_ = l.framer.WriteRawFrame(f.kind, f.flags, l.current, []byte(a.body))
	case frameStream:
		l.next = f.stream
	}
}

// writeBlock writes the header block in one frame, or as f divides it.
func (l *link2) writeBlock(f *frame) {
	block := l.block.Bytes()
	const most = 16 << 10 // SETTINGS_MAX_FRAME_SIZE to begin with
	first := min(len(block), most-256)
	if f.split >= 0 {
		first = min(first, f.split)
	}
	rest := block[first:]
	_ = l.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: l.current, BlockFragment: block[:first], PadLength: f.pad,
		EndStream: f.end, EndHeaders: len(rest) == 0 && f.split < 0,
	})
	if f.interleave {
		_ = l.framer.WritePing(false, [8]byte{})
	}
	for more := len(rest) > 0 || f.split >= 0; more; more = len(rest) > 0 {
		n := min(len(rest), most)
		_ = l.framer.WriteContinuation(l.current, n == len(rest), rest[:n])
		rest = rest[n:]
	}
}

// read reads one frame.
func (l *link2) read() {
	fr, err := l.framer.ReadFrame()
	var stream http2.StreamError
	if errors.As(err, &stream) {
		l.outcome[stream.StreamID] = "unreadable"
		return
	}
	if err != nil {
		l.ended = cmp.Or(l.ended, Closed)
		return
	}
	switch fr := fr.(type) {
	case *http2.SettingsFrame:
		if !fr.IsAck() {
			_ = l.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if fr.IsAck() {
			l.pinged = l.pinged || fr.Data == pingData
		} else {
			_ = l.framer.WritePing(true, fr.Data)
		}
	case *http2.MetaHeadersFrame:
		if status := fr.PseudoValue("status"); l.outcome[fr.StreamID] == "" && status != "100" && status != "" {
			l.outcome[fr.StreamID] = status
			if !slices.Contains(l.order, fr.StreamID) {
				l.order = append(l.order, fr.StreamID) // nobody asked for it
			}
		}
	case *http2.RSTStreamFrame:
		l.outcome[fr.StreamID] = cmp.Or(l.outcome[fr.StreamID], Reset)
	case *http2.GoAwayFrame:
		if fr.ErrCode != http2.ErrCodeNo {
			l.ended = GoAway
		}
	}
}
