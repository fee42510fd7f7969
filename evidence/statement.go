package evidence

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The values that evidence is made of: their types, forms and bounds.

// Mode is the filtration mode of a Wallarm node. A larger mode stops more.
type Mode uint8

// The four modes of wallarm_mode, in rising order.
const (
	ModeOff Mode = iota
	ModeMonitoring
	ModeSafeBlocking
	ModeBlock
)

var modeNames = [...]string{"off", "monitoring", "safe_blocking", "block"}

func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return "mode(" + strconv.Itoa(int(m)) + ")"
}

var errMode = errors.New("mode is not one of off, monitoring, safe_blocking, block")

// ParseMode reads a mode as wallarm_mode spells it.
func ParseMode(s string) (Mode, error) {
	for i, name := range modeNames {
		if s == name {
			return Mode(i), nil
		}
	}
	return ModeOff, errMode
}

// Inspection is what the attester knows about its node: whether it inspects.
type Inspection uint8

// The four states; only InspectionActive means that requests were analysed
// under a ruleset of the allowed age.
const (
	InspectionUnknown  Inspection = iota // the node's status could not be read
	InspectionDegraded                   // fallback or failed instances
	InspectionStale                      // the ruleset is older than allowed
	InspectionActive
)

var inspectionNames = [...]string{"unknown", "degraded", "stale", "active"}

func (i Inspection) String() string {
	if int(i) < len(inspectionNames) {
		return inspectionNames[i]
	}
	return "inspection(" + strconv.Itoa(int(i)) + ")"
}

var errInspection = errors.New("inspection is not one of active, stale, degraded, unknown")

// ParseInspection reads the value of X-Wallarm-Inspection.
func ParseInspection(s string) (Inspection, error) {
	for i, name := range inspectionNames {
		if s == name {
			return Inspection(i), nil
		}
	}
	return InspectionUnknown, errInspection
}

// Bounds that hold before any parsing, in bytes.
const (
	maxSignatureInput = 1024
	maxMethod         = 32
	maxAuthority      = 320
	maxTarget         = 64 << 10
	requestIDLen      = 32
	maxNode           = 128
)

// NoApplication is the value of X-Wallarm-Application for a node without one.
const NoApplication = -1

var (
	errRequestID   = errors.New("request id is not 32 lower-case hex digits")
	errClientIP    = errors.New("client address is not an IP address")
	errApplication = errors.New("application is neither -1 nor an integer from 1 to 2147483647")
	errNode        = errors.New("node is not 1 to 128 of A-Z a-z 0-9 . _ : / -")
	errMethod      = errors.New("method is not a token of 1 to 32 bytes")
	errAuthority   = errors.New("authority is empty, too long or holds a byte that no host has")
)

func checkRequestID(s string) error {
	if len(s) != requestIDLen {
		return errRequestID
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return errRequestID
		}
	}
	return nil
}

func checkClientIP(s string) error {
	// A zone would name an interface of the edge, which says nothing here.
	if len(s) > 45 || strings.IndexByte(s, '%') >= 0 {
		return errClientIP
	}
	if _, err := netip.ParseAddr(s); err != nil {
		return errClientIP
	}
	return nil
}

func parseApplication(s string) (int32, error) {
	if s == "-1" {
		return NoApplication, nil
	}
	if s == "" || len(s) > 10 || s[0] < '1' || s[0] > '9' {
		return 0, errApplication
	}
	n := int64(0)
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, errApplication
		}
		n = n*10 + int64(s[i]-'0')
	}
	if n > 1<<31-1 {
		return 0, errApplication
	}
	return int32(n), nil
}

func checkNode(s string) error {
	if s == "" || len(s) > maxNode {
		return errNode
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == ':', c == '/', c == '-':
		default:
			return errNode
		}
	}
	return nil
}

func checkMethod(s string) error {
	if s == "" || len(s) > maxMethod {
		return errMethod
	}
	for i := 0; i < len(s); i++ {
		// RFC 9110, section 5.6.2: token.
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return errMethod
		}
	}
	return nil
}

// checkAuthority admits what a Host field may hold (RFC 9110, section 7.2):
// a name, an address or a bracketed address, and a port. It judges bytes, not
// names: the value is covered by the signature.
func checkAuthority(s string) error {
	if s == "" || len(s) > maxAuthority {
		return errAuthority
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '-', c == '_', c == ':', c == '[', c == ']':
		default:
			return errAuthority
		}
	}
	return nil
}

// lowerASCII avoids the allocation of strings.ToLower's Unicode path for the
// usual case that nothing changes.
func lowerASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			return strings.ToLower(s)
		}
	}
	return s
}

// CheckTarget reports why a request target must not be forwarded or signed. It
// is the one rule that the attester refuses by and the verifier holds it to:
// origin-form (RFC 9112, section 3.2.1), only bytes of RFC 3986, and in the
// query also { } | ^ and the backquote, which browsers send as they are (WHATWG
// URL, query percent-encode set). '#', '"', '\', '<', '>', space, controls and
// non-ASCII are where parsers differ; none of them passes. '%' is not decoded.
func CheckTarget(target string) error {
	if target == "" || target[0] != '/' {
		return errors.New("target does not begin with '/'")
	}
	if len(target) > maxTarget {
		return fmt.Errorf("target is longer than %d bytes", maxTarget)
	}
	if len(target) > 1 && target[1] == '/' {
		return errors.New("target begins with '//', which some parsers read as a host")
	}
	table := &pathBytes
	for i := 0; i < len(target); i++ {
		c := target[i]
		if c == '?' {
			table = &queryBytes
		}
		if !table[c] {
			return fmt.Errorf("target holds the byte 0x%02x at offset %d, which a path or query must percent-encode", c, i)
		}
	}
	return nil
}

// pathBytes and queryBytes are the bytes that CheckTarget lets through.
var pathBytes, queryBytes = targetBytes("-._~!$&'()*+,;=:@/%[]?"), targetBytes("-._~!$&'()*+,;=:@/%[]?{}|^`")

func targetBytes(marks string) (t [256]bool) {
	for c := range t {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			t[c] = true
		}
	}
	for i := 0; i < len(marks); i++ {
		t[marks[i]] = true
	}
	return t
}
