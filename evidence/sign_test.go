package evidence

import (
	"encoding/base64"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestSignAgain: what a signer keeps from one request shows in no other.
func TestSignAgain(t *testing.T) {
	t.Parallel()
	for _, alg := range []Algorithm{AlgEd25519, AlgHMACSHA256} {
		key := newKey(t, "k1", alg)
		s, err := NewSigner(key, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		v := verifier(keySet(t, key), noon)
		for _, size := range []int{1, 3000, 60000, 1, 5000, 2} {
			m := honest()
			m.Target = "/" + strings.Repeat("a", size)
			if err := s.Sign(&m, noon); err != nil {
				t.Fatal(err)
			}
			if a, reason := v.Verify(received(m)); reason != "" {
				t.Errorf("%s, target of %d bytes: %s (%s)", alg, size+1, reason, a.Detail)
			}
		}
	}
}

// TestSignWritesTheProfile compares with a signature base written by hand: a
// verifier of somebody else's reads the same nine values under the same names.
func TestSignWritesTheProfile(t *testing.T) {
	t.Parallel()
	for _, alg := range []Algorithm{AlgEd25519, AlgHMACSHA256} {
		key := newKey(t, `k"\1`, alg)
		m := signed(t, key, honest(), time.Unix(0, 0))
		params := regexp.MustCompile(`^wallarm=(\("@method" "@authority" "@request-target" "x-wallarm-request-id" "x-wallarm-client-ip" "x-wallarm-mode" ` +
			`"x-wallarm-application" "x-wallarm-node" "x-wallarm-inspection"\);created=0;expires=30;nonce="[A-Za-z0-9_-]{22}";keyid="k\\"\\\\1";alg="` +
			string(alg) + `";tag="wallarm-gate")$`).FindStringSubmatch(m.SignatureInput)
		if params == nil {
			t.Fatalf("Signature-Input %q", m.SignatureInput)
		}
		base := `"@method": POST
"@authority": api.example.com
"@request-target": /orders/17?expand=lines&q={a|b}
"x-wallarm-request-id": 0123456789abcdef0123456789abcdef
"x-wallarm-client-ip": 203.0.113.7
"x-wallarm-mode": block
"x-wallarm-application": 17
"x-wallarm-node": task/4f1c
"x-wallarm-inspection": active
"@signature-params": ` + params[1]
		sig, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(strings.TrimPrefix(m.Signature, "wallarm=:"), ":"))
		if err != nil || !key.verify([]byte(base), sig) {
			t.Errorf("%s: %q (%v) does not sign\n%s", alg, m.Signature, err, base)
		}
	}
}

func TestSignBounds(t *testing.T) {
	t.Parallel()
	key := newKey(t, "k1", AlgHMACSHA256)
	for lifetime, ok := range map[time.Duration]bool{
		time.Second - 1: false, time.Second: true, time.Second + 1: false, 1500 * time.Millisecond: false, 2 * time.Second: true,
		300 * time.Second: true, 301 * time.Second: false, 0: false, -time.Second: false,
	} {
		if _, err := NewSigner(key, lifetime); (err == nil) != ok {
			t.Errorf("lifetime %v: %v", lifetime, err)
		}
	}
	s, err := NewSigner(key, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	m := honest()
	if err := s.Sign(&m, time.Unix(-1, 0)); err == nil || m != honest() {
		t.Errorf("signed before 1970: %v, %+v", err, m)
	}
	// The same request at the same second: nothing but the nonce differs.
	a, b := honest(), honest()
	if err := errors.Join(s.Sign(&a, noon), s.Sign(&b, noon)); err != nil || a.SignatureInput == b.SignatureInput {
		t.Errorf("two calls, one nonce: %q (%v)", a.SignatureInput, err)
	}
	public, err := newKey(t, "k2", AlgEd25519).Public()
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]*Key{"no key": nil, "a public key": public} {
		if _, err := NewSigner(k, time.Second); err == nil {
			t.Errorf("%s signs", name)
		}
	}
}
