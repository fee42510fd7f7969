package evidence

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The two header fields of RFC 9421, under our profile. The parser is our own
// because the general ones of structured fields (RFC 9651) take the last of
// duplicates, leading zeros and base64 that is not canonical, all of which give
// one signature several spellings.

// The profile's constants.
const (
	Label = "wallarm"      // the only dictionary member
	Tag   = "wallarm-gate" // the tag parameter (RFC 9421, section 2.3)
)

// Bounds of the nonce and of a key id, in bytes.
const (
	minNonce = 16
	maxNonce = 64
	maxKeyID = 128
)

// SignatureInput is a parsed Signature-Input field of the profile.
type SignatureInput struct {
	Created, Expires int64 // Unix seconds
	Nonce, KeyID     string
	Algorithm        Algorithm

	components [componentCount]component
	params     string // the value of @signature-params, as received
}

// Components returns the covered component identifiers in the order of the field.
func (in *SignatureInput) Components() []string {
	names := make([]string, componentCount)
	for i, c := range in.components {
		names[i] = componentNames[c]
	}
	return names
}

// AppendBase appends the signature base of m (RFC 9421, section 2.5) to b.
func (in *SignatureInput) AppendBase(b []byte, m *Message) []byte {
	for _, c := range in.components {
		b = appendLine(b, componentNames[c], m.value(c))
	}
	return appendParams(b, in.params)
}

// String returns the field as Sign writes it. For a field that ParseSignatureInput
// accepted it is that field, byte for byte.
func (in *SignatureInput) String() string { return Label + "=" + in.params }

var (
	errInputLength  = fmt.Errorf("the field Signature-Input is longer than %d bytes", maxSignatureInput)
	errInputLabel   = errors.New(`the field Signature-Input does not begin with "wallarm=("`)
	errComponents   = errors.New("the field Signature-Input does not cover exactly the nine components, once each, one space apart, without parameters")
	errParamSyntax  = errors.New("the field Signature-Input has something other than ;name=value after the components")
	errParamTwice   = errors.New("the field Signature-Input has a parameter twice")
	errParamUnknown = errors.New("the field Signature-Input has a parameter other than created, expires, nonce, keyid, alg, tag")
	errParamMissing = errors.New("the field Signature-Input lacks one of created, expires, nonce, keyid, alg, tag")
	errInteger      = errors.New("created or expires is not an integer from 0 to 999999999999999 without leading zeros")
	errString       = errors.New("nonce, keyid, alg or tag is not a string of RFC 9651")
	errNonce        = errors.New("nonce is not 16 to 64 bytes")
	errKeyID        = errors.New("keyid is not 1 to 128 bytes")
	errAlg          = errors.New("alg is not ed25519 or hmac-sha256")
	errTag          = errors.New("tag is not wallarm-gate")
	errOrder        = errors.New("expires is before created")
)

// The parameters, as bits of what has been seen.
const (
	paramCreated = 1 << iota
	paramExpires
	paramNonce
	paramKeyID
	paramAlg
	paramTag
	paramAll = 1<<iota - 1
)

// ParseSignatureInput reads a Signature-Input field of the profile. It reads at
// most 1,024 bytes and accepts one spelling of everything but the order of
// components and of parameters.
func ParseSignatureInput(s string) (SignatureInput, error) {
	var in SignatureInput
	if len(s) > maxSignatureInput {
		return in, errInputLength
	}
	const open = Label + "=("
	if !strings.HasPrefix(s, open) {
		return in, errInputLabel
	}
	in.params = s[len(open)-1:]
	rest := s[len(open):]

	seen := 0
	for i := range in.components {
		if i > 0 {
			if rest == "" || rest[0] != ' ' {
				return in, errComponents
			}
			rest = rest[1:]
		}
		c, after, ok := cutComponent(rest)
		if !ok || seen&(1<<c) != 0 {
			return in, errComponents
		}
		seen |= 1 << c
		in.components[i] = c
		rest = after
	}
	if rest == "" || rest[0] != ')' {
		return in, errComponents
	}
	rest = rest[1:]

	seen = 0
	for rest != "" {
		if rest[0] != ';' {
			return in, errParamSyntax
		}
		name, value, ok := strings.Cut(rest[1:], "=")
		if !ok {
			return in, errParamSyntax
		}
		bit := 0
		var err error
		switch name {
		case "created":
			bit = paramCreated
			in.Created, rest, err = cutInteger(value)
		case "expires":
			bit = paramExpires
			in.Expires, rest, err = cutInteger(value)
		case "nonce":
			bit = paramNonce
			in.Nonce, rest, err = cutString(value)
			if err == nil && (len(in.Nonce) < minNonce || len(in.Nonce) > maxNonce) {
				err = errNonce
			}
		case "keyid":
			bit = paramKeyID
			in.KeyID, rest, err = cutString(value)
			if err == nil && (in.KeyID == "" || len(in.KeyID) > maxKeyID) {
				err = errKeyID
			}
		case "alg":
			bit = paramAlg
			var alg string
			alg, rest, err = cutString(value)
			in.Algorithm = Algorithm(alg)
			if err == nil && in.Algorithm.signatureSize() == 0 {
				err = errAlg
			}
		case "tag":
			bit = paramTag
			var tag string
			tag, rest, err = cutString(value)
			if err == nil && tag != Tag {
				err = errTag
			}
		default:
			err = errParamUnknown
		}
		if err != nil {
			return in, err
		}
		if seen&bit != 0 {
			return in, errParamTwice
		}
		seen |= bit
	}
	if seen != paramAll {
		return in, errParamMissing
	}
	if in.Expires < in.Created {
		return in, errOrder
	}
	return in, nil
}

// cutComponent reads one quoted component identifier off the front of s.
func cutComponent(s string) (component, string, bool) {
	if s == "" || s[0] != '"' {
		return 0, "", false
	}
	name, rest, ok := strings.Cut(s[1:], `"`)
	if !ok {
		return 0, "", false
	}
	for i, known := range componentNames {
		if name == known {
			return component(i), rest, true
		}
	}
	return 0, "", false
}

// cutInteger reads an Integer (RFC 9651, section 3.3.1) that is not negative.
func cutInteger(s string) (int64, string, error) {
	end := 0
	for end < len(s) && '0' <= s[end] && s[end] <= '9' {
		end++
	}
	if end == 0 || end > 15 || end > 1 && s[0] == '0' {
		return 0, "", errInteger
	}
	n, err := strconv.ParseInt(s[:end], 10, 64)
	if err != nil {
		return 0, "", errInteger
	}
	return n, s[end:], nil
}

// cutString reads a String (RFC 9651, section 3.3.3). It allocates only where
// an escape makes the value differ from its spelling.
func cutString(s string) (string, string, error) {
	if s == "" || s[0] != '"' {
		return "", "", errString
	}
	var escaped []byte
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			if escaped != nil {
				return string(escaped), s[i+1:], nil
			}
			return s[1:i], s[i+1:], nil
		case c < ' ' || c > '~':
			return "", "", errString
		case c == '\\':
			if i+1 == len(s) || s[i+1] != '"' && s[i+1] != '\\' {
				return "", "", errString
			}
			if escaped == nil {
				escaped = append(make([]byte, 0, len(s)), s[1:i]...)
			}
			i++
			escaped = append(escaped, s[i])
		case escaped != nil:
			escaped = append(escaped, c)
		}
	}
	return "", "", errString
}

var errSignature = errors.New("the field Signature is not one member wallarm=:BASE64: in canonical base64 of the algorithm's size")

// strictBase64 refuses padding bits that are not zero; the parser below refuses
// the line breaks that it would skip.
var strictBase64 = base64.StdEncoding.Strict()

// parseSignature reads a Signature field of the profile into dst, which has the
// size that the algorithm gives a signature.
func parseSignature(dst []byte, s string) error {
	const open, end = Label + "=:", ":"
	encoded := base64.StdEncoding.EncodedLen(len(dst))
	if len(s) != len(open)+encoded+len(end) || !strings.HasPrefix(s, open) || !strings.HasSuffix(s, end) {
		return errSignature
	}
	text := s[len(open) : len(open)+encoded]
	if strings.ContainsAny(text, "\r\n") {
		return errSignature
	}
	// The decoder wants room for a whole last quantum.
	var room [96]byte
	n, err := strictBase64.Decode(room[:], []byte(text))
	if err != nil || n != len(dst) {
		return errSignature
	}
	copy(dst, room[:n])
	return nil
}

func formatSignature(sig []byte) string {
	b := make([]byte, 0, 128) // longer than any
	b = append(b, Label+"=:"...)
	b = base64.StdEncoding.AppendEncode(b, sig)
	return string(append(b, ':'))
}
