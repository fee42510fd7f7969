// The head of a request, and how nginx in front of Kong reads it from
// HTTP/1.x: what it refuses is refused, what it lets through keeps its bytes.

package pluginhost

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

const (
	maxLine   = 8 << 10 // one buffer of large_client_header_buffers 4 8k
	maxHead   = 4 * maxLine
	maxFields = 1000 // nginx has max_headers since 1.29 only; Kong reads at most 1000
)

// Field is one header field, its name as spelled on the wire.
type Field struct{ Name, Value string }

// is reports whether the field has the given lower-case name.
func (f Field) is(name string) bool { return lowerASCII(f.Name) == name }

// requestHead is the head of a request and what nginx derives from it.
type requestHead struct {
	line           string // $request
	method, target string // target: $request_uri
	major, minor   int    // of the version of HTTP
	path, args     string // $uri (decoded, normal form) and $args
	host           string // $host
	fields         []Field
	seen           map[string]bool // of the single ones
	length         int64           // Content-Length, -1 without one
	chunked        bool            // a body comes, and only its end tells its length
	close          bool            // the client keeps the connection no longer
	size           int             // bytes of the head
}

// protocol is $server_protocol.
func (h *requestHead) protocol() string { return fmt.Sprintf("HTTP/%d.%d", h.major, h.minor) }

// version is ngx.req.http_version().
func (h *requestHead) version() float64 { return float64(h.major) + float64(h.minor)/10 }

// is10 reports whether the request is an HTTP/1.0 one.
func (h *requestHead) is10() bool { return h.major == 1 && h.minor == 0 }

// refusal is an answer that nginx gives by itself.
type refusal struct {
	status int // nginx's own, see answer
	why    string
}

// answer is the status that the client gets: Kong turns nginx's 494 for a
// header that is too large into 400.
func (r *refusal) answer() int {
	if r.status == 494 {
		return 400
	}
	return r.status
}

func (r *refusal) Error() string { return fmt.Sprintf("%d: %s", r.status, r.why) }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// readHead reads one request head. The error is a *refusal where the client
// gets an answer, io.EOF where it sent nothing, and any other read error.
// br must hold at least maxLine bytes.
func readHead(br *bufio.Reader) (*requestHead, error) {
	h := &requestHead{major: 1, length: -1}
	line := ""
	for line == "" { // nginx skips empty lines before a request
		raw, err := h.readLine(br, 414)
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) && h.size == 0 {
				return nil, io.EOF
			}
			return nil, err
		}
		if line = strings.TrimLeft(raw, "\r"); line == "" {
			h.size = 0
		}
	}
	h.line = line
	uriHost, err := h.parseLine(line)
	if err != nil {
		return nil, err
	}
	h.close = h.is10()
	for {
		line, err := h.readLine(br, 494)
		if err != nil {
			return nil, err
		}
		if line == "" {
			break
		}
		if err := h.parseField(line); err != nil {
			return nil, err
		}
	}
	return h, h.check(uriHost)
}

// readLine reads up to LF and takes the line's end off.
func (h *requestHead) readLine(br *bufio.Reader, tooLong int) (string, error) {
	raw, err := br.ReadSlice('\n')
	h.size += len(raw)
	switch {
	case errors.Is(err, bufio.ErrBufferFull) || len(raw) > maxLine:
		return "", refuse(tooLong, "a line of the head is longer than %d bytes", maxLine)
	case h.size > maxHead:
		return "", refuse(494, "the head is larger than %d bytes", maxHead)
	case errors.Is(err, io.EOF):
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	}
	line := strings.TrimSuffix(string(raw), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// parseLine parses the request line and returns the host of an absolute-form
// target, lower case and without its port, or "".
func (h *requestHead) parseLine(line string) (uriHost string, err error) {
	bad := func(what string) (string, error) { return "", refuse(400, "invalid request line: %s", what) }
	method, rest, ok := strings.Cut(line, " ")
	if !ok || method == "" || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_-") != "" {
		return bad("method")
	}
	target, version, ok := strings.Cut(strings.TrimLeft(rest, " "), " ")
	if !ok {
		return bad("no HTTP version") // HTTP/0.9: nginx answers it, nobody needs it
	}
	for i := range len(target) {
		if target[i] < 0x20 || target[i] == 0x7f {
			return bad("control character in the target")
		}
	}
	version = strings.Trim(version, " ")
	number, ok := strings.CutPrefix(version, "HTTP/")
	major, minor, dot := strings.Cut(number, ".")
	maj, err1 := strconv.ParseUint(major, 10, 16)
	min, err2 := strconv.ParseUint(minor, 10, 16)
	if !ok || !dot || err1 != nil || err2 != nil || major[0] == '0' || min > 999 {
		return bad("HTTP version")
	}
	h.method, h.minor = method, int(min)

	switch {
	case strings.HasPrefix(target, "/"):
		h.target = target
	default:
		scheme, after, ok := strings.Cut(target, "://")
		if !ok || scheme == "" || !isAlpha(scheme[0]) || strings.Trim(lowerASCII(scheme), "abcdefghijklmnopqrstuvwxyz0123456789+-.") != "" {
			return bad("the target is neither a path nor an absolute URI")
		}
		end := strings.IndexAny(after, "/?#")
		if end < 0 {
			end, after = len(after), after+"/"
		}
		authority := after[:end]
		h.target = after[end:]
		name, port := authority, ""
		if strings.HasPrefix(authority, "[") {
			i := strings.IndexByte(authority, ']')
			if i < 0 || strings.Trim(lowerASCII(authority[1:i]), "abcdefghijklmnopqrstuvwxyz0123456789:._~!$&'()*+,;=-") != "" {
				return bad("host of the absolute URI")
			}
			name, port = authority[:i+1], authority[i+1:]
		} else if i := strings.IndexByte(authority, ':'); i >= 0 {
			name, port = authority[:i], authority[i:]
			if strings.Trim(lowerASCII(name), "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
				return bad("host of the absolute URI")
			}
		} else if strings.Trim(lowerASCII(name), "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
			return bad("host of the absolute URI")
		}
		if name == "" || port != "" && (port[0] != ':' || strings.Trim(port[1:], "0123456789") != "") || h.target[0] == '#' {
			return bad("host of the absolute URI")
		}
		if uriHost, ok = validHost(name); !ok {
			return bad("host of the absolute URI")
		}
	}
	switch {
	case maj > 1:
		return "", refuse(505, "HTTP version %d", maj)
	case !h.splitTarget():
		return bad("path")
	}
	return uriHost, nil
}

// splitTarget derives $uri and $args from the target. nginx ends the URI at
// '#' and refuses a path that climbs above its root, a NUL and a bad escape.
func (h *requestHead) splitTarget() bool {
	path, _, _ := strings.Cut(h.target, "#")
	path, h.args, _ = strings.Cut(path, "?")
	var decoded strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			if i+2 >= len(path) {
				return false
			}
			v, err := strconv.ParseUint(path[i+1:i+3], 16, 8)
			if err != nil || v == 0 || strings.ContainsAny(path[i+1:i+3], "+_") {
				return false
			}
			c, i = byte(v), i+2
		}
		decoded.WriteByte(c)
	}
	var out []string
	segments := strings.Split(strings.TrimPrefix(decoded.String(), "/"), "/")
	for i, s := range segments {
		last := i == len(segments)-1
		switch s {
		case "..":
			if len(out) == 0 {
				return false
			}
			out = out[:len(out)-1]
		case "", ".": // slashes are merged
		default:
			out = append(out, s)
			continue
		}
		if last {
			out = append(out, "")
		}
	}
	h.path = "/" + strings.Join(out, "/")
	return true
}

// parseField parses one header line and keeps it, unless nginx ignores it for
// a byte in its name that no header name has.
func (h *requestHead) parseField(line string) error {
	name, value, _ := strings.Cut(strings.TrimRight(line, "\r"), ":") // nginx takes CRs for one
	if name == "" {
		return refuse(400, "a header line has no name")
	}
	valid := true
	for i := range len(name) {
		c := name[i]
		if c <= 0x20 || c == 0x7f {
			return refuse(400, "control character or space in a header name")
		}
		valid = valid && (isAlpha(c) || c >= '0' && c <= '9' || c == '-' || c == '_')
	}
	value = strings.Trim(value, " ")
	if strings.ContainsAny(value, "\x00\r") {
		return refuse(400, "NUL or bare CR in the value of header %q", name)
	}
	if !valid {
		return nil
	}
	if len(h.fields) == maxFields {
		return refuse(494, "more than %d header fields", maxFields)
	}
	return h.add(Field{name, value})
}

// single are the fields that nginx refuses to see twice.
var single = []string{
	"host", "content-length", "content-range", "transfer-encoding", "expect", "authorization",
	"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range",
}

// add keeps a field and applies what nginx decides about it at once.
func (h *requestHead) add(f Field) error {
	name := lowerASCII(f.Name)
	if slices.Contains(single, name) {
		if h.seen[name] {
			return refuse(400, "header %q given twice", name)
		}
		if h.seen == nil {
			h.seen = map[string]bool{}
		}
		h.seen[name] = true
	}
	h.fields = append(h.fields, f)
	switch name {
	case "host":
		host, ok := validHost(f.Value)
		if !ok {
			return refuse(400, "invalid Host %q", f.Value)
		}
		h.host = host
	case "connection":
		if v := lowerASCII(f.Value); strings.Contains(v, "close") {
			h.close = true
		} else if strings.Contains(v, "keep-alive") {
			h.close = false
		}
	}
	return nil
}

// check applies what nginx decides about a head as a whole.
func (h *requestHead) check(uriHost string) error {
	te, hasTE := "", false
	for _, f := range h.fields {
		switch lowerASCII(f.Name) {
		case "content-length":
			n, err := strconv.ParseInt(f.Value, 10, 64)
			if err != nil || strings.Trim(f.Value, "0123456789") != "" {
				return refuse(400, "invalid Content-Length %q", f.Value)
			}
			h.length = n
		case "transfer-encoding":
			te, hasTE = f.Value, true
		}
	}
	named := h.host != ""
	if uriHost != "" {
		h.host = uriHost
	}
	switch {
	case !named && !h.is10():
		return refuse(400, "no Host in an %s request", h.protocol())
	case hasTE && h.is10():
		return refuse(400, "Transfer-Encoding in an HTTP/1.0 request")
	case hasTE && h.length >= 0:
		return refuse(400, "Content-Length and Transfer-Encoding in one request")
	case hasTE && lowerASCII(te) != "chunked":
		return refuse(501, "Transfer-Encoding %q", te)
	case h.method == "TRACE", h.method == "CONNECT":
		return refuse(405, "method %s", h.method)
	}
	if h.host == "" {
		h.host = serverName
	}
	h.chunked = hasTE
	return nil
}

// serverName is Kong's server_name, $host where a request names none.
const serverName = "kong"

// validHost is nginx's check of a host: $host is its lower case, without port
// and without one trailing dot.
func validHost(s string) (string, bool) {
	const usual, literal, rest = 0, 1, 2
	state, dot, end := usual, len(s), len(s)
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if dot == i-1 {
				return "", false
			}
			dot = i
		case c == ':':
			if state == usual {
				end, state = i, rest
			}
		case c == '[' && i == 0:
			state = literal
		case c == ']' && state == literal:
			end, state = i+1, rest
		case c <= 0x20, c == 0x7f, c == '/':
			return "", false
		}
	}
	if dot == end-1 {
		end--
	}
	return lowerASCII(s[:end]), end > 0
}

func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// lowerASCII folds ASCII letters only: other bytes of a header stay as they are.
func lowerASCII(s string) string {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if b[j] >= 'A' && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
