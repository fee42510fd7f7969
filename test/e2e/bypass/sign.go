package bypass

// Evidence for one request, honest or not.

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// What `sign` takes. with names the key that signs; keyid and alg are what the
// evidence says about it; created and expires are seconds from now and from
// created.
var signArguments = []string{
	"with", "keyid", "alg", "tag", "created", "expires", "nonce", "method", "target", "host",
	"request-id", "client-ip", "mode", "application", "node", "inspection",
}

// The values of evidence: the six that are stated, the two of the signature.
var editable = []string{
	"request-id", "client-ip", "mode", "application", "node", "inspection", "input", "signature",
}

// The same, and what stands inside of Signature-Input.
var readable = append(slices.Clone(editable), "created", "expires", "nonce")

var headerOf = map[string]string{
	"request-id": evidence.HeaderRequestID, "client-ip": evidence.HeaderClientIP, "mode": evidence.HeaderMode,
	"application": evidence.HeaderApplication, "node": evidence.HeaderNode, "inspection": evidence.HeaderInspection,
	"input": evidence.HeaderSignatureInput, "signature": evidence.HeaderSignature,
}

// Keys are what `with` can name: the keys of a JWK Set by their ids, and what an
// attacker could take for a shared secret, as public(ID), x(ID) and empty.
type Keys struct {
	private map[string]ed25519.PrivateKey
	secrets map[string][]byte
}

// NewKeys takes a set with its private parts.
func NewKeys(set *evidence.KeySet) (*Keys, error) {
	document, err := json.Marshal(set)
	if err != nil {
		return nil, err
	}
	var jwks struct {
		Keys []struct{ Kid, Kty, D, X, K string }
	}
	if err := json.Unmarshal(document, &jwks); err != nil {
		return nil, err
	}
	k := &Keys{private: map[string]ed25519.PrivateKey{}, secrets: map[string][]byte{"empty": {}}}
	for _, key := range jwks.Keys {
		d, err1 := base64.RawURLEncoding.DecodeString(key.D)
		x, err2 := base64.RawURLEncoding.DecodeString(key.X)
		secret, err3 := base64.RawURLEncoding.DecodeString(key.K)
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, fmt.Errorf("key %q: %w", key.Kid, err)
		}
		switch {
		case key.Kty == "oct" && len(secret) > 0:
			k.secrets[key.Kid] = secret
		case len(d) == ed25519.SeedSize && len(x) == ed25519.PublicKeySize:
			k.private[key.Kid] = ed25519.NewKeyFromSeed(d)
			k.secrets["public("+key.Kid+")"] = x
			k.secrets["x("+key.Kid+")"] = []byte(key.X)
		default:
			return nil, fmt.Errorf("key %q has no signing part", key.Kid)
		}
	}
	return k, nil
}

func (k *Keys) sign(name, base string) ([]byte, error) {
	if key, ok := k.private[name]; ok {
		return ed25519.Sign(key, []byte(base)), nil
	}
	secret, ok := k.secrets[name]
	if !ok {
		return nil, fmt.Errorf("no key %q: there are %s and %s", name,
			strings.Join(slices.Sorted(maps.Keys(k.private)), ", "), strings.Join(slices.Sorted(maps.Keys(k.secrets)), ", "))
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(base))
	return mac.Sum(nil), nil
}

// signed is evidence with all edits done.
type signed struct {
	values           map[string]string // by the names in editable
	created, expires int64
	nonce            string
}

func (e *signed) value(field string) string {
	switch field {
	case "created":
		return strconv.FormatInt(e.created, 10)
	case "expires":
		return strconv.FormatInt(e.expires, 10)
	case "nonce":
		return e.nonce
	}
	return e.values[field]
}

type headerField struct{ name, value string }

// fields are the eight header fields but one.
func (e *signed) fields(except string) []headerField {
	var all []headerField
	for _, name := range editable {
		if name != except {
			all = append(all, headerField{headerOf[name], e.values[name]})
		}
	}
	return all
}

// components of the profile, as an attester writes them.
var components = []string{
	"@method", "@authority", "@request-target", "x-wallarm-request-id", "x-wallarm-client-ip",
	"x-wallarm-mode", "x-wallarm-application", "x-wallarm-node", "x-wallarm-inspection",
}

// make signs evidence. v has everything but evidence by then.
func (s *signing) make(keys *Keys, edits []edit, v *values, now time.Time) (*signed, error) {
	arg := func(name, deflt string) string {
		if t := s.args[name]; t != nil {
			return t.expand(v)
		}
		return deflt
	}
	seconds := func(name string, deflt int64, since int64) (int64, error) {
		n, err := strconv.ParseInt(arg(name, strconv.FormatInt(deflt, 10)), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: want seconds: %w", name, err)
		}
		return since + n, nil
	}
	e := &signed{values: map[string]string{
		"request-id": arg("request-id", randomHex()), "client-ip": arg("client-ip", "203.0.113.7"),
		"mode": arg("mode", "block"), "application": arg("application", "7"),
		"node": arg("node", "task-1"), "inspection": arg("inspection", "active"),
	}}
	var err error
	if e.created, err = seconds("created", 0, now.Unix()); err != nil {
		return nil, err
	}
	if e.expires, err = seconds("expires", 30, e.created); err != nil {
		return nil, err
	}
	e.nonce = arg("nonce", randomHex())
	with := arg("with", "edge-1")
	alg := "hmac-sha256"
	if keys.private[with] != nil {
		alg = "ed25519"
	}
	e.values["input"] = fmt.Sprintf(`wallarm=("%s");created=%d;expires=%d;nonce="%s";keyid="%s";alg="%s";tag="%s"`,
		strings.Join(components, `" "`), e.created, e.expires, e.nonce, arg("keyid", with), arg("alg", alg), arg("tag", "wallarm-gate"))

	own := v.with(s.name, e)
	change := func(before bool) error {
		for i := range edits {
			if ed := &edits[i]; ed.name == s.name && ed.before == before {
				var err error
				if e.values[ed.field], err = ed.op.apply(e.values[ed.field], own); err != nil {
					return fmt.Errorf("line %d: %w", ed.at, err)
				}
			}
		}
		return nil
	}
	if err := change(true); err != nil {
		return nil, err
	}
	covered := map[string]string{
		"@method": arg("method", "GET"), "@authority": strings.ToLower(arg("host", v.host)),
		"@request-target": arg("target", "/"+v.mark),
	}
	for name, value := range e.values {
		covered["x-wallarm-"+name] = value
	}
	signature, err := keys.sign(with, signatureBase(e.values["input"], covered))
	if err != nil {
		return nil, err
	}
	e.values["signature"] = "wallarm=:" + base64.StdEncoding.EncodeToString(signature) + ":"
	return e, change(false)
}

// signatureBase is RFC 9421, section 2.5, as the most lenient verifier would
// build it for the first member of the field: a component keeps its parameters,
// one that is not there has an empty value.
func signatureBase(input string, covered map[string]string) string {
	_, params, _ := strings.Cut(input, "=")
	var b strings.Builder
	quoted, inner, end := false, false, len(params)
	identifier := 0
	for i := 0; i < len(params) && end == len(params); i++ {
		switch c := params[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '(':
			inner, identifier = true, i+1
		case inner && (c == ' ' || c == ')'):
			if id := params[identifier:i]; id != "" {
				name, _, _ := strings.Cut(strings.TrimPrefix(id, `"`), `"`)
				b.WriteString(id + ": " + covered[name] + "\n")
			}
			inner, identifier = c == ' ', i+1
		case c == ',' && !inner:
			end = i
		}
	}
	b.WriteString(`"@signature-params": ` + params[:end])
	return b.String()
}

func randomHex() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// verbs are the edits of a value that cannot be written as a replacement. Those
// of base64 look at what stands between the colons.
var verbs map[string]func(string) (string, error)

func init() { // not a literal: the parser asks for the names
	verbs = map[string]func(string) (string, error){
		"upper": func(s string) (string, error) { return strings.ToUpper(s), nil },
		"lower": func(s string) (string, error) { return strings.ToLower(s), nil },
		"unpad": inBase64(func(s string) (string, error) { return strings.TrimRight(s, "="), nil }),
		"url": inBase64(func(s string) (string, error) {
			return strings.NewReplacer("+", "-", "/", "_").Replace(s), nil
		}),
		// The bits of the last character that no byte takes.
		"tailbits": inBase64(func(s string) (string, error) {
			const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
			text := strings.TrimRight(s, "=")
			if text == s {
				return "", errors.New("there is no padding")
			}
			last := len(text) - 1
			return text[:last] + string(alphabet[strings.IndexByte(alphabet, text[last])|1]) + s[last+1:], nil
		}),
		"flip":     inBytes(func(b []byte) []byte { b[0] ^= 1; return b }),
		"truncate": inBytes(func(b []byte) []byte { return b[:len(b)-1] }),
		"extend":   inBytes(func(b []byte) []byte { return append(b, 0) }),
		"zero":     inBytes(func(b []byte) []byte { return make([]byte, len(b)) }),
		// Adds the group order to the scalar: the classic second signature of
		// the same message under a verifier that does not reduce it (RFC 8032,
		// section 5.1.7).
		"malleate": inBytes(addGroupOrder),
	}
}

func verbNames() []string { return slices.Sorted(maps.Keys(verbs)) }

func inBase64(f func(string) (string, error)) func(string) (string, error) {
	return func(s string) (string, error) {
		label, rest, ok := strings.Cut(s, ":")
		encoded, tail, closed := strings.Cut(rest, ":")
		if !ok || !closed {
			return "", errors.New("the value has no base64 between colons")
		}
		out, err := f(encoded)
		return label + ":" + out + ":" + tail, err
	}
}

func inBytes(f func([]byte) []byte) func(string) (string, error) {
	return inBase64(func(s string) (string, error) {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil || len(b) == 0 {
			return "", errors.New("the value is not base64")
		}
		return base64.StdEncoding.EncodeToString(f(b)), nil
	})
}

// groupOrder is L of Ed25519, little-endian.
var groupOrder = [32]byte{
	0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
	31: 0x10,
}

func addGroupOrder(signature []byte) []byte {
	if len(signature) != ed25519.SignatureSize {
		return signature // unchanged, which is an error of the case
	}
	carry := 0
	for i := range groupOrder {
		n := int(signature[32+i]) + int(groupOrder[i]) + carry
		signature[32+i], carry = byte(n), n>>8
	}
	return signature
}
