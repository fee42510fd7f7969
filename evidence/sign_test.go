package evidence

import (
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
