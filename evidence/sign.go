package evidence

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"sync"
	"time"
)

// The attester's side: evidence becomes valid for one request.

// Signer signs with one key. It is immutable and safe for concurrent use.
type Signer struct {
	key      *Key
	lifetime int64
	fixed    string // the end of the parameters, which never changes
	work     *sync.Pool
}

// NewSigner returns a signer whose evidence expires lifetime after it was
// created: whole seconds, from 1 s to MaxAgeLimit.
func NewSigner(k *Key, lifetime time.Duration) (*Signer, error) {
	if k == nil || !k.CanSign() {
		return nil, errors.New("signer: the key cannot sign")
	}
	if lifetime < time.Second || lifetime > MaxAgeLimit || lifetime%time.Second != 0 {
		return nil, fmt.Errorf("signer: lifetime is %v, allowed are whole seconds from 1s to %v", lifetime, MaxAgeLimit)
	}
	fixed := append([]byte(`";keyid=`), quote(k.ID)...)
	fixed = append(fixed, `;alg="`+string(k.Alg)+`";tag="`+Tag+`"`...)
	return &Signer{key: k, lifetime: int64(lifetime / time.Second), fixed: string(fixed),
		work: &sync.Pool{New: func() any { return newWork(k) }}}, nil
}

// KeyID returns the id of the key that signs.
func (s *Signer) KeyID() string { return s.key.ID }

// quote writes a String of RFC 9651, section 4.1.6. The bytes are printable ASCII.
func quote(v string) []byte {
	b := []byte{'"'}
	for i := 0; i < len(v); i++ {
		if v[i] == '"' || v[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, v[i])
	}
	return append(b, '"')
}

// components is the covered component list as Sign writes it.
var components = func() string {
	b := []byte{'('}
	for i, name := range componentNames {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, '"')
	}
	return string(append(b, ')'))
}()

// Sign checks every value of m, then sets m.SignatureInput and m.Signature under
// a nonce of 128 random bits that no other call uses. On an error m is unchanged.
func (s *Signer) Sign(m *Message, now time.Time) error {
	if err := m.check(); err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	created := now.Unix()
	if created < 0 {
		return errors.New("sign: the clock is before 1970")
	}
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails: crypto/rand

	w := s.work.Get().(*work)
	defer s.work.Put(w)
	base := w.base[:0]
	for i, name := range componentNames {
		base = appendLine(base, name, m.value(component(i)))
	}
	base = appendParams(base, "")
	params := len(base)
	base = append(base, components...)
	base = append(base, ";created="...)
	base = strconv.AppendInt(base, created, 10)
	base = append(base, ";expires="...)
	base = strconv.AppendInt(base, created+s.lifetime, 10)
	base = append(base, `;nonce="`...)
	base = base64.RawURLEncoding.AppendEncode(base, nonce[:])
	base = append(base, s.fixed...)
	if cap(base) <= maxKeptBase {
		w.base = base
	}

	m.SignatureInput = Label + "=" + string(base[params:])
	if w.mac == nil {
		m.Signature = formatSignature(s.key.sign(base))
		return nil
	}
	w.mac.Reset()
	w.mac.Write(base)
	m.Signature = formatSignature(w.mac.Sum(w.sum[:0]))
	return nil
}

// work is what one call of Sign needs and the next one can use again.
type work struct {
	base []byte    // a signature base
	mac  hash.Hash // keyed; nil for ed25519
	sum  [sha256.Size]byte
}

// maxKeptBase bounds the bases that are kept, in bytes: a target may be 64 kB.
const maxKeptBase = 4 << 10

func newWork(k *Key) *work {
	w := &work{base: make([]byte, 0, 1024)}
	if k.Alg == AlgHMACSHA256 {
		w.mac = hmac.New(sha256.New, k.secret)
	}
	return w
}

// check holds the covered values to their forms. Verify asks the same, so that
// nothing is signed that no verifier accepts.
func (m *Message) check() error {
	if err := checkMethod(m.Method); err != nil {
		return err
	}
	if err := checkAuthority(m.Authority); err != nil {
		return err
	}
	if err := CheckTarget(m.Target); err != nil {
		return err
	}
	if err := m.CheckStatement(); err != nil {
		return err
	}
	if err := checkNode(m.Node); err != nil {
		return err
	}
	_, err := ParseInspection(m.Inspection)
	return err
}
