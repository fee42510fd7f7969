package evidence

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// JSON Web Key Sets (RFC 7517) of the two key types of the contract. encoding/json
// alone folds the case of names and takes the last of duplicates, so two
// parsers could read two different keys out of one set: the members are read as
// tokens instead.

// Bounds of a key set.
const (
	maxKeySetBytes = 64 << 10
	maxKeys        = 32
)

// KeySet is an immutable set of keys with unique ids, safe for concurrent use.
type KeySet struct {
	keys []*Key
	byID map[string]*Key
}

// NewKeySet returns a set of 1 to 32 keys with unique ids, in the given order.
func NewKeySet(keys ...*Key) (*KeySet, error) {
	if len(keys) == 0 {
		return nil, errors.New("the set holds no key")
	}
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("the set holds %d keys, %d are allowed", len(keys), maxKeys)
	}
	set := &KeySet{keys: slices.Clone(keys), byID: make(map[string]*Key, len(keys))}
	for _, k := range keys {
		if set.byID[k.ID] != nil {
			return nil, fmt.Errorf("the set holds the key id %q twice", k.ID)
		}
		set.byID[k.ID] = k
	}
	return set, nil
}

// ParseKeySet reads a JWK Set of at most 64 KiB. It is strict: kid is required
// and unique, kty is OKP with crv Ed25519 or oct of 32 to 1,024 bytes, alg, use
// and key_ops agree with that where they are given, nbf and exp are Unix seconds,
// a private part belongs to its public one, no member stands twice. Members that
// it does not know are ignored (RFC 7517, section 4). Errors never quote a secret.
func ParseKeySet(jwks []byte) (*KeySet, error) {
	if len(jwks) > maxKeySetBytes {
		return nil, fmt.Errorf("JWK Set: longer than %d bytes", maxKeySetBytes)
	}
	set, err := members(jwks)
	if err != nil {
		return nil, fmt.Errorf("JWK Set: %w", err)
	}
	raw, ok := set["keys"]
	if !ok {
		return nil, errors.New(`JWK Set: the member "keys" is missing`)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, errors.New(`JWK Set: "keys" is not an array`)
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("JWK Set: the set holds %d keys, %d are allowed", len(list), maxKeys)
	}
	keys := make([]*Key, 0, len(list))
	for i, raw := range list {
		k, err := parseKey(raw)
		if err != nil {
			return nil, fmt.Errorf("JWK Set: key %d: %w", i+1, err)
		}
		keys = append(keys, k)
	}
	ks, err := NewKeySet(keys...)
	if err != nil {
		return nil, fmt.Errorf("JWK Set: %w", err)
	}
	return ks, nil
}

// members reads one JSON object and refuses a name that stands twice.
func members(data []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	start, err := dec.Token()
	if err != nil || start != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	m := make(map[string]json.RawMessage)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, errors.New("not a JSON object")
		}
		name := token.(string) // the decoder yields nothing else here
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errors.New("not a JSON object")
		}
		if _, ok := m[name]; ok {
			return nil, fmt.Errorf("the member %q stands twice", name)
		}
		m[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, errors.New("not a JSON object")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return m, nil
}

func parseKey(data []byte) (*Key, error) {
	m, err := members(data)
	if err != nil {
		return nil, err
	}
	text := func(name string) (string, error) {
		raw, ok := m[name]
		if !ok {
			return "", nil
		}
		var s *string
		if json.Unmarshal(raw, &s) != nil || s == nil {
			return "", fmt.Errorf("%q is not a string", name)
		}
		return *s, nil
	}

	k := new(Key)
	if k.ID, err = text("kid"); err != nil {
		return nil, err
	}
	if err := checkKeyID(k.ID); err != nil {
		return nil, fmt.Errorf(`"kid": %w`, err)
	}
	kty, err := text("kty")
	if err != nil {
		return nil, err
	}
	// RFC 8037, section 3.1 and RFC 9864 name the one, RFC 7518 the other.
	var algs []string
	switch kty {
	case "OKP":
		k.Alg, algs = AlgEd25519, []string{"", "EdDSA", "Ed25519"}
		err = k.parseOKP(m, text)
	case "oct":
		k.Alg, algs = AlgHMACSHA256, []string{"", "HS256"}
		err = k.parseOct(m, text)
	default:
		err = fmt.Errorf(`"kty" is %q, allowed are "OKP" and "oct"`, kty)
	}
	if err != nil {
		return nil, fmt.Errorf("%q: %w", k.ID, err)
	}

	if alg, err := text("alg"); err != nil || !slices.Contains(algs, alg) {
		return nil, fmt.Errorf(`%q: "alg" is not one for a %s key`, k.ID, k.Alg)
	}
	if use, err := text("use"); err != nil || use != "" && use != "sig" {
		return nil, fmt.Errorf(`%q: "use" is not "sig"`, k.ID)
	}
	if raw, ok := m["key_ops"]; ok {
		var ops []string
		if json.Unmarshal(raw, &ops) != nil || !slices.Contains(ops, "sign") && !slices.Contains(ops, "verify") {
			return nil, fmt.Errorf(`%q: "key_ops" allows neither "sign" nor "verify"`, k.ID)
		}
	}
	if k.NotBefore, err = numericDate(m, "nbf"); err != nil {
		return nil, fmt.Errorf("%q: %w", k.ID, err)
	}
	if k.Expires, err = numericDate(m, "exp"); err != nil {
		return nil, fmt.Errorf("%q: %w", k.ID, err)
	}
	if !k.Expires.IsZero() && !k.NotBefore.IsZero() && !k.NotBefore.Before(k.Expires) {
		return nil, fmt.Errorf(`%q: "exp" is not after "nbf"`, k.ID)
	}
	return k, nil
}

// parseOKP reads an Ed25519 key (RFC 8037, section 2).
func (k *Key) parseOKP(m map[string]json.RawMessage, text func(string) (string, error)) error {
	if crv, err := text("crv"); err != nil || crv != "Ed25519" {
		return errors.New(`"crv" is not "Ed25519"`)
	}
	if _, ok := m["k"]; ok {
		return errors.New(`an OKP key has no "k"`)
	}
	x, err := text("x")
	if err != nil {
		return err
	}
	public, err := decodeBase64URL(x)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return errors.New(`"x" is not 32 bytes in base64url`)
	}
	if isSmallOrder(public) {
		return errors.New(`"x" is a point of small order: anybody could sign for it`)
	}
	k.public = public
	if _, ok := m["d"]; !ok {
		return nil
	}
	d, err := text("d")
	if err != nil {
		return err
	}
	seed, err := decodeBase64URL(d)
	if err != nil || len(seed) != ed25519.SeedSize {
		return errors.New(`"d" is not 32 bytes in base64url`)
	}
	k.private = ed25519.NewKeyFromSeed(seed)
	if !k.private.Public().(ed25519.PublicKey).Equal(k.public) {
		return errors.New(`"d" does not belong to "x"`)
	}
	return nil
}

// parseOct reads a shared secret (RFC 7518, section 6.4).
func (k *Key) parseOct(m map[string]json.RawMessage, text func(string) (string, error)) error {
	for _, name := range []string{"crv", "x", "d"} {
		if _, ok := m[name]; ok {
			return fmt.Errorf("an oct key has no %q", name)
		}
	}
	value, err := text("k")
	if err != nil {
		return err
	}
	secret, err := decodeBase64URL(value)
	if err != nil {
		return errors.New(`"k" is not base64url without padding`)
	}
	if len(secret) < minSecret || len(secret) > maxSecret {
		return fmt.Errorf(`"k" is %d bytes, allowed are %d to %d`, len(secret), minSecret, maxSecret)
	}
	k.secret = secret
	return nil
}

func decodeBase64URL(s string) ([]byte, error) {
	for i := 0; i < len(s); i++ {
		if s[i] == '\r' || s[i] == '\n' {
			return nil, errors.New("line break in base64url")
		}
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// numericDate reads a date of RFC 7519, section 2, in whole seconds.
func numericDate(m map[string]json.RawMessage, name string) (time.Time, error) {
	raw, ok := m[name]
	if !ok {
		return time.Time{}, nil
	}
	n, rest, err := cutInteger(string(raw))
	if err != nil || rest != "" {
		return time.Time{}, fmt.Errorf("%q is not a number of whole seconds since 1970", name)
	}
	return time.Unix(n, 0), nil
}

// isSmallOrder reports whether an encoded point of edwards25519 has an order
// that divides 8. For such a key a signature can be made without any secret.
// The sign bit is ignored; the y coordinates are those of the eight points, in
// both encodings where y + p fits.
func isSmallOrder(point []byte) bool {
	var y [32]byte
	copy(y[:], point)
	y[31] &= 0x7f
	return slices.Contains(smallOrder[:], y)
}

var smallOrder = [...][32]byte{
	{0: 0x00}, // order 4
	{0: 0x01}, // order 1
	{0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, // p-1: order 2
	{0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, // p: 0
	{0xee, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, // p+1: 1
	{0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05}, // order 8
	{0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a}, // order 8
}

// Keys returns the keys in the set's order. The slice is the caller's own.
func (s *KeySet) Keys() []*Key { return slices.Clone(s.keys) }

// Lookup returns the key with the given id, nil if there is none.
func (s *KeySet) Lookup(id string) *Key { return s.byID[id] }

// SigningKey returns the key to sign with at now: of those that are active and
// hold their signing part the one with the latest NotBefore, the last of equals.
func (s *KeySet) SigningKey(now time.Time) (*Key, error) {
	var newest *Key
	for _, k := range s.keys {
		if k.CanSign() && k.ActiveAt(now, 0) && (newest == nil || !k.NotBefore.Before(newest.NotBefore)) {
			newest = k
		}
	}
	if newest == nil {
		return nil, errors.New("the key set holds no key that can sign now")
	}
	return newest, nil
}

// jwk is the written form of a key; its fields stand in the order of RFC 7517's
// examples.
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv,omitempty"`
	Kid string `json:"kid"`
	Use string `json:"use"`
	X   string `json:"x,omitempty"`
	D   string `json:"d,omitempty"`
	K   string `json:"k,omitempty"`
	Nbf *int64 `json:"nbf,omitempty"`
	Exp *int64 `json:"exp,omitempty"`
}

// MarshalJSON returns the JWK Set, with the private parts that the set holds.
func (s *KeySet) MarshalJSON() ([]byte, error) {
	keys := make([]jwk, 0, len(s.keys))
	for _, k := range s.keys {
		w := jwk{Kid: k.ID, Use: "sig", Nbf: seconds(k.NotBefore), Exp: seconds(k.Expires)}
		switch k.Alg {
		case AlgEd25519:
			w.Kty, w.Crv = "OKP", "Ed25519"
			w.X = base64.RawURLEncoding.EncodeToString(k.public)
			if k.private != nil {
				w.D = base64.RawURLEncoding.EncodeToString(k.private.Seed())
			}
		default:
			w.Kty = "oct"
			w.K = base64.RawURLEncoding.EncodeToString(k.secret)
		}
		keys = append(keys, w)
	}
	return json.Marshal(struct {
		Keys []jwk `json:"keys"`
	}{keys})
}

func seconds(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	n := t.Unix()
	return &n
}
