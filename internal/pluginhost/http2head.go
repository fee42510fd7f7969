// The head of an HTTP/2 request: HPACK within nginx's bounds, and what nginx
// makes of the fields.

package pluginhost

import (
	"bytes"
	"io"
	"strings"

	"golang.org/x/net/http2/hpack"
)

const (
	hpackTable  = 4096 // of the fields that a client may refer to again
	hpackOctets = 4    // the longest integer that nginx reads
)

// fieldReader decodes header blocks. It gives its decoder one field's
// representation at a time, whole: nginx bounds a string by its length on the
// wire, and lets the table's size change anywhere in a block. The decoder by
// itself would do neither.
type fieldReader struct {
	dec     *hpack.Decoder
	rep     bytes.Buffer // the representation so far
	empty   bool         // nothing of the block was read
	left    int          // bytes of names and values that it may still have
	last    int          // length of the last value that came as a string
	refused func() bool
	emit    func(name, value string)
}

// begin starts a block, whose fields go to emit until refused.
func (r *fieldReader) begin(emit func(name, value string), refused func() bool) {
	if r.dec == nil {
		r.dec = hpack.NewDecoder(hpackTable, nil)
	}
	r.empty, r.left, r.emit, r.refused = true, maxHead, emit, refused
}

// read reads n bytes of the block.
func (r *fieldReader) read(src io.Reader, n uint32) error {
	for n > 0 {
		need, err := r.need()
		if err != nil {
			return err
		}
		more := min(int64(need), int64(n))
		if _, err := io.CopyN(&r.rep, src, more); err != nil {
			return err
		}
		n -= uint32(more)
		r.empty = false
		if need, err = r.need(); err != nil {
			return err
		}
		if need == 0 {
			if err := r.field(); err != nil {
				return err
			}
			r.rep.Reset()
		}
	}
	return nil
}

// field decodes the representation. Once the request is refused nginx skips
// strings that go into no table, but counts them: with the length of the last
// one that it did not skip, and if that was empty it takes a name for empty.
func (r *fieldReader) field() error {
	b := r.rep.Bytes()
	literal, indexing := b[0] < 1<<7 && b[0]>>5 != 1, b[0]>>6 == 1
	skipped := literal && !indexing && r.refused()
	size := 0
	if skipped {
		size = r.last
		index, n, _ := hpackInt(b, 4)
		if index == 0 {
			if r.last == 0 {
				return errProtocol
			}
			size, b = 2*r.last, nil
		} else {
			b = append(b[:n:n], 0) // its name must be in the table
		}
	}
	var name, value string
	r.dec.SetEmitFunc(func(f hpack.HeaderField) { name, value = f.Name, f.Value })
	if _, err := r.dec.Write(b); err != nil || r.dec.Close() != nil {
		return errCompression
	}
	if r.left -= size + len(name) + len(value); r.left < 0 {
		return errCalm
	}
	if literal && !skipped {
		r.last = len(value)
	}
	if name != "" && !skipped {
		r.emit(name, value)
	}
	return nil
}

// end ends a block, which must not stop within a field.
func (r *fieldReader) end() error {
	if r.empty || r.rep.Len() > 0 {
		return errFrameSize
	}
	return nil
}

// need is how many more bytes the representation has at least; 0: it is whole.
func (r *fieldReader) need() (int, error) {
	b := r.rep.Bytes()
	if len(b) == 0 {
		return 1, nil
	}
	prefix, literal := 4, true
	switch first := b[0]; {
	case first >= 1<<7:
		prefix, literal = 7, false
	case first >= 1<<6:
		prefix = 6
	case first >= 1<<5: // the table's size
		prefix, literal = 5, false
	}
	index, n, err := hpackInt(b, prefix)
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 1, nil
	case !literal:
		return 0, nil
	}
	b = b[n:]
	named := index == 0 // by a string, and not by the table
	if named {
		if n, err = hpackString(b); n > len(b) || err != nil {
			return n - len(b), err
		}
		if b[0]&0x7f == 0 {
			return 0, errProtocol // no name
		}
		b = b[n:]
	}
	if n, err = hpackString(b); err != nil {
		return 0, err
	}
	return max(n-len(b), 0), nil
}

// hpackString is the length of the string at the beginning of b with its
// prefix; where that is not whole, one more than b has.
func hpackString(b []byte) (int, error) {
	if len(b) == 0 {
		return 1, nil
	}
	length, n, err := hpackInt(b, 7)
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return len(b) + 1, nil
	case length > maxLine:
		return 0, errCalm
	}
	return n + length, nil
}

// hpackInt reads an integer with a prefix of so many bits. It takes n bytes,
// 0 where it is not whole.
func hpackInt(b []byte, prefix int) (value, n int, err error) {
	mask := 1<<prefix - 1
	if value = int(b[0]) & mask; value != mask {
		return value, 1, nil
	}
	for n := 1; n < min(len(b), hpackOctets); n++ {
		value += int(b[n]&0x7f) << (7 * (n - 1))
		if b[n] < 0x80 {
			return value, n + 1, nil
		}
	}
	if len(b) >= hpackOctets {
		return 0, 0, errCompression
	}
	return 0, 0, nil
}

// http2Head is the head of a request as its fields come in.
type http2Head struct {
	head    *requestHead
	scheme  bool // :scheme came; it counts for nothing else
	plain   int  // fields but pseudo-headers and cookies
	cookies []string
	refused error // the first *refusal: the rest is read and dropped
}

// field takes one field.
func (b *http2Head) field(name, value string) {
	if b.refused == nil {
		b.refused = b.take(name, value)
	}
}

func (b *http2Head) take(name, value string) error {
	pseudo, isPseudo := strings.CutPrefix(name, ":")
	valid := true
	for i := range len(pseudo) {
		c := pseudo[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		case c <= 0x20, c == 0x7f, c == ':', c >= 'A' && c <= 'Z':
			return refuse(400, "invalid header name %q", name)
		default:
			valid = false
		}
	}
	if strings.ContainsAny(value, "\x00\r\n") {
		return refuse(400, "NUL, CR or LF in the value of header %q", name)
	}
	switch {
	case isPseudo:
		return b.pseudo(pseudo, value)
	case !valid: // ignored, as over HTTP/1.x
	case name == "cookie":
		b.cookies = append(b.cookies, value)
	case b.plain == maxFields:
		return refuse(494, "more than %d header fields", maxFields)
	default:
		b.plain++
		return b.head.add(Field{name, value})
	}
	return nil
}

// pseudo takes a pseudo-header. nginx lets it stand anywhere.
func (b *http2Head) pseudo(name, value string) error {
	h := b.head
	twice := false
	switch name {
	case "authority": // becomes a Host field, and must be the only one
		return h.add(Field{"host", value})
	case "path":
		twice = h.target != ""
		if value == "" || value[0] != '/' || strings.ContainsFunc(value, func(c rune) bool { return c <= 0x20 || c == 0x7f }) {
			return refuse(400, "invalid :path %q", value)
		}
		if !twice {
			if h.target = value; !h.splitTarget() {
				return refuse(400, "invalid :path %q", value)
			}
		}
	case "method":
		twice = h.method != ""
		if value == "" || strings.Trim(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_-") != "" {
			return refuse(400, "invalid :method %q", value)
		}
		h.method = value
	case "scheme":
		twice = b.scheme
		if value == "" || !isAlpha(value[0]) || strings.Trim(lowerASCII(value), "abcdefghijklmnopqrstuvwxyz0123456789+-.") != "" {
			return refuse(400, "invalid :scheme %q", value)
		}
		b.scheme = true
	default:
		return refuse(400, "unknown pseudo-header %q", name)
	}
	if twice {
		return refuse(400, ":%s given twice", name)
	}
	return nil
}

// finish is the head that the fields make. ended says that no body comes.
func (b *http2Head) finish(ended bool) (*requestHead, error) {
	h := b.head
	switch {
	case b.refused != nil:
		return h, b.refused
	case h.method == "" || !b.scheme || h.target == "":
		return h, refuse(400, ":method, :scheme or :path is missing")
	}
	h.line = h.method + " " + h.target + " HTTP/2.0"
	if b.cookies != nil {
		h.fields = append(h.fields, Field{"cookie", strings.Join(b.cookies, "; ")}) // no rule of add is about it
	}
	if err := h.check(""); err != nil {
		return h, err
	}
	if h.length > 0 && ended {
		return h, refuse(400, "the stream ended before the body")
	}
	switch {
	case ended && h.chunked: // of the field, which means nothing here
		h.chunked, h.length = false, 0
	case !ended && h.length < 0:
		h.chunked = true
	}
	return h, nil
}
