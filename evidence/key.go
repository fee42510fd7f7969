package evidence

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// Keys: what signs, what verifies, and when.

// Algorithm is a signature algorithm of RFC 9421, section 3.3.
type Algorithm string

// The algorithms of the profile. With ed25519 the verifier holds no secret;
// hmac-sha256 costs less.
const (
	AlgEd25519    Algorithm = "ed25519"
	AlgHMACSHA256 Algorithm = "hmac-sha256"
)

// signatureSize is the size of a signature in bytes, 0 for an unknown algorithm.
func (a Algorithm) signatureSize() int {
	switch a {
	case AlgEd25519:
		return ed25519.SignatureSize
	case AlgHMACSHA256:
		return sha256.Size
	}
	return 0
}

// minSecret is the smallest shared secret, in bytes: RFC 7518, section 3.2 asks
// for a key at least as long as the hash.
const minSecret = sha256.Size

// maxSecret bounds a shared secret, in bytes.
const maxSecret = 1024

// Key signs or verifies evidence. It is immutable but for ID and the two times,
// which must not change once it is in use. A Key never prints its secret.
type Key struct {
	ID        string
	Alg       Algorithm
	NotBefore time.Time // zero: no bound
	Expires   time.Time // zero: no bound

	public  ed25519.PublicKey
	private ed25519.PrivateKey
	secret  []byte
}

// GenerateKey makes a new key from the system's secure random source. id is 1
// to 128 bytes of printable ASCII.
func GenerateKey(id string, alg Algorithm) (*Key, error) {
	if err := checkKeyID(id); err != nil {
		return nil, err
	}
	k := &Key{ID: id, Alg: alg}
	switch alg {
	case AlgEd25519:
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, fmt.Errorf("generate key: %w", err)
		}
		k.public, k.private = public, private
	case AlgHMACSHA256:
		k.secret = make([]byte, minSecret)
		rand.Read(k.secret) // never fails: crypto/rand
	default:
		return nil, fmt.Errorf("algorithm %q is not ed25519 or hmac-sha256", alg)
	}
	return k, nil
}

func checkKeyID(id string) error {
	if id == "" || len(id) > maxKeyID {
		return errors.New("key id is not 1 to 128 bytes")
	}
	for i := 0; i < len(id); i++ {
		if id[i] < ' ' || id[i] > '~' {
			return errors.New("key id is not printable ASCII")
		}
	}
	return nil
}

// CanSign reports whether k holds its signing part.
func (k *Key) CanSign() bool { return k.private != nil || k.secret != nil }

// Public returns the part of k that a verifier may see. A shared secret has none.
func (k *Key) Public() (*Key, error) {
	if k.Alg != AlgEd25519 {
		return nil, fmt.Errorf("key %q is a shared secret: it has no public part", k.ID)
	}
	return &Key{ID: k.ID, Alg: k.Alg, NotBefore: k.NotBefore, Expires: k.Expires, public: k.public}, nil
}

// ActiveAt reports whether NotBefore <= now < Expires, each end moved outwards by
// skew so that two clocks that differ by it agree on a rotation.
func (k *Key) ActiveAt(now time.Time, skew time.Duration) bool {
	if !k.NotBefore.IsZero() && now.Add(skew).Before(k.NotBefore) {
		return false
	}
	return k.Expires.IsZero() || now.Add(-skew).Before(k.Expires)
}

// String names the key without its secret.
func (k *Key) String() string { return fmt.Sprintf("%s key %q", k.Alg, k.ID) }

// GoString is String: %#v must not print a secret either.
func (k *Key) GoString() string { return k.String() }

func (k *Key) sign(base []byte) []byte {
	if k.Alg == AlgEd25519 {
		return ed25519.Sign(k.private, base)
	}
	mac := hmac.New(sha256.New, k.secret)
	mac.Write(base)
	return mac.Sum(nil)
}

// verify reports whether sig, of the algorithm's size, is k's signature of base.
func (k *Key) verify(base, sig []byte) bool {
	if k.Alg == AlgEd25519 {
		return ed25519.Verify(k.public, base, sig)
	}
	mac := hmac.New(sha256.New, k.secret)
	mac.Write(base)
	return hmac.Equal(mac.Sum(nil), sig)
}
