package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The header: what the node stated is taken in, every other field of the
// contract is thrown away, and the evidence is put in its place.

// readStatement fills m with the four values that the node states. Each must be
// there exactly once, counted over every spelling that a gateway reads as the
// same name.
func readStatement(h http.Header, m *evidence.Message) error {
	var seen [4]int
	for i, dst := range [4]*string{&m.RequestID, &m.ClientIP, &m.Mode, &m.Application} {
		for _, value := range h[stated[i]] {
			*dst = value
			seen[i]++
		}
	}
	for name, values := range h {
		if !evidence.IsHeader(name) || slices.Contains(stated[:], name) {
			continue
		}
		name = evidence.FoldHeader(name)
		for i := range stated {
			if name == statedFolded[i] {
				seen[i] += len(values)
			}
		}
	}
	for i, name := range stated {
		if seen[i] != 1 {
			return fmt.Errorf("%s stands %d times, the node states it once", name, seen[i])
		}
	}
	return m.CheckStatement()
}

// stated are the fields that the node states, in the order of readStatement.
var stated = [4]string{evidence.HeaderRequestID, evidence.HeaderClientIP, evidence.HeaderMode, evidence.HeaderApplication}

var statedFolded = func() (folded [4]string) {
	for i, name := range stated {
		folded[i] = evidence.FoldHeader(name)
	}
	return folded
}()

// The Connection field that goes to the gateway. Kong drops the fields that it
// names before it forwards: an upstream never sees a signature that it could
// replay. A client's own Connection field ends here.
const (
	connectionPlain   = "Signature, Signature-Input"
	connectionUpgrade = "Upgrade, Signature, Signature-Input"
	upgradeOnly       = "Upgrade"
)

// maxNamedFields is the number of header fields up to which the signature is
// named in Connection. Kong looks for that among the first 100 fields only
// (lua_max_req_headers), while the plugin sees it anywhere and leaves the removal
// to Kong. Beyond it nothing is named, and the plugin removes the signature itself.
const maxNamedFields = 80

// appendHead appends the request line and the header that go to the gateway to
// b, all but the evidence, which appendEvidence ends the header with. Method,
// target and Host are those of the evidence: what is signed is what is sent. The
// fields are sorted by name; those of one name keep their order.
func (x *exchange) appendHead(b []byte, r *http.Request) ([]byte, error) {
	b = append(b, x.evidence.Method...)
	b = append(b, ' ')
	b = append(b, x.evidence.Target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, x.evidence.Authority...)
	b = append(b, "\r\n"...)

	ends := endsHere(r.Header)
	var few [32]string
	names := few[:0]
	for name := range r.Header {
		if !isHopByHop(name) && !evidence.IsHeader(name) && !ends[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	fields := len(evidenceFields)
	var err error
	for _, name := range names {
		for _, value := range r.Header[name] {
			if b, err = appendField(b, name, value); err != nil {
				return nil, err
			}
			fields++
		}
	}
	if hasToken(r.Header["Te"], "trailers") {
		b = append(b, "Te: trailers\r\n"...)
		fields++
	}
	switch {
	case r.ContentLength > 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, r.ContentLength, 10)
		b = append(b, "\r\n"...)
		fields++
	case r.ContentLength < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		fields++
		if x.trailer = forwardedTrailer(r.Trailer); len(x.trailer) > 0 {
			if b, err = appendField(b, "Trailer", strings.Join(x.trailer, ", ")); err != nil {
				return nil, err
			}
			fields++
		}
	case r.Method == http.MethodPost, r.Method == http.MethodPut, r.Method == http.MethodPatch:
		b = append(b, "Content-Length: 0\r\n"...) // RFC 9110, section 8.6
		fields++
	}
	if !x.old { // RFC 9110, section 7.8
		x.upgrade = upgradeOf(r)
	}
	if x.upgrade != "" {
		if b, err = appendField(b, "Upgrade", x.upgrade); err != nil {
			return nil, err
		}
		fields++
	}
	switch few := fields <= maxNamedFields; {
	case x.upgrade != "" && few:
		return appendField(b, "Connection", connectionUpgrade)
	case x.upgrade != "":
		return appendField(b, "Connection", upgradeOnly)
	case few:
		return appendField(b, "Connection", connectionPlain)
	}
	return b, nil
}

// appendEvidence appends the signed values of m to b and ends the header.
func appendEvidence(b []byte, m *evidence.Message) ([]byte, error) {
	var err error
	for i, value := range [...]string{
		m.RequestID, m.ClientIP, m.Mode, m.Application, m.Node, m.Inspection, m.SignatureInput, m.Signature,
	} {
		if b, err = appendField(b, evidenceFields[i], value); err != nil {
			return nil, err
		}
	}
	return append(b, "\r\n"...), nil
}

// evidenceFields are the fields of a signed request, in the order of appendEvidence.
var evidenceFields = [8]string{
	evidence.HeaderRequestID, evidence.HeaderClientIP, evidence.HeaderMode, evidence.HeaderApplication,
	evidence.HeaderNode, evidence.HeaderInspection, evidence.HeaderSignatureInput, evidence.HeaderSignature,
}

// errFieldValue is a defect: net/http lets no such value in.
var errFieldValue = errors.New("a header field holds a line break")

func appendField(b []byte, name, value string) ([]byte, error) {
	if strings.IndexByte(value, '\n') >= 0 || strings.IndexByte(value, '\r') >= 0 {
		return nil, errFieldValue
	}
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...), nil
}

// isHopByHop reports whether a field ends with this connection (RFC 9110,
// section 7.6.1), or is written anew from what net/http made of it.
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Host":
		return true
	}
	return false
}

// endsHere returns the fields of h that its Connection field names. What the
// node has set from what the load balancer said is not for a client to end, nor
// is Expect: a body that waits for the gateway needs a gateway that knows of it.
func endsHere(h http.Header) map[string]bool {
	var ends map[string]bool
	for _, value := range h["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))
			if h[name] == nil || name == "Expect" || name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-") {
				continue
			}
			if ends == nil {
				ends = make(map[string]bool)
			}
			ends[name] = true
		}
	}
	return ends
}

// upgradeOf returns the protocol that r asks to upgrade to, "" if it does not. As
// at the node it is a WebSocket's (RFC 6455, section 4.1) or none: another, h2c
// above all, would be a way past everything that inspects and signs requests.
func upgradeOf(r *http.Request) string {
	const websocket = "websocket"
	values := r.Header["Upgrade"]
	if r.Method != http.MethodGet || len(values) != 1 || !hasToken(r.Header["Connection"], "upgrade") {
		return ""
	}
	if len(values[0]) != len(websocket) || !strings.EqualFold(values[0], websocket) { // some longer letters fold to ASCII's
		return ""
	}
	return websocket
}

// hasToken reports whether a field that is a list of tokens holds token.
func hasToken(values []string, token string) bool {
	for _, value := range values {
		for t := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}

// forwardedTrailer returns the announced trailer fields that go on, sorted.
// net/http takes a name with a space from both the announcement and the trailer.
func forwardedTrailer(announced http.Header) []string {
	var names []string
	for name := range announced {
		if !isHopByHop(name) && !evidence.IsHeader(name) && !strings.ContainsRune(name, ' ') {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// copyAnswerHeader puts the fields of an answer into dst, but for those that end
// with the connection to the gateway.
func copyAnswerHeader(dst, src http.Header) {
	ends := endsHere(src)
	for name, values := range src {
		if name == "Content-Length" || !isHopByHop(name) && !ends[name] {
			dst[name] = values
		}
	}
	if _, typed := src["Content-Type"]; !typed {
		dst["Content-Type"] = nil // else net/http guesses one from the body
	}
}
