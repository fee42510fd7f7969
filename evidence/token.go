package evidence

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
)

// Proof by token: a static secret of the edge, for a node without an attester.

// Bounds of a token set, and of a token in bytes.
const (
	maxTokens   = 4
	minTokenLen = 32
	maxTokenLen = 256
)

// TokenSet holds the hashes of the tokens that are valid at once. It is
// immutable, safe for concurrent use, and cannot print a token.
type TokenSet struct{ sums [][sha256.Size]byte }

// NewTokenSet returns a set of 1 to 4 tokens of 32 to 256 bytes of printable
// ASCII without spaces and commas (a comma is how nginx joins two headers).
func NewTokenSet(tokens ...string) (*TokenSet, error) {
	if len(tokens) == 0 || len(tokens) > maxTokens {
		return nil, fmt.Errorf("%d tokens given, allowed are 1 to %d", len(tokens), maxTokens)
	}
	set := new(TokenSet)
	for i, t := range tokens {
		if len(t) < minTokenLen || len(t) > maxTokenLen {
			return nil, fmt.Errorf("token %d is %d bytes, allowed are %d to %d", i+1, len(t), minTokenLen, maxTokenLen)
		}
		for j := 0; j < len(t); j++ {
			if t[j] <= ' ' || t[j] > '~' || t[j] == ',' {
				return nil, errors.New("a token holds a byte that is not printable ASCII, or a space or comma")
			}
		}
		set.sums = append(set.sums, sha256.Sum256([]byte(t)))
	}
	return set, nil
}

// Match reports whether token is in the set, in a time that depends only on the
// token's own length: all tokens are compared, by their hashes.
func (s *TokenSet) Match(token string) bool {
	if len(token) > maxTokenLen {
		return false
	}
	sum := sha256.Sum256([]byte(token))
	found := 0
	for i := range s.sums {
		found |= subtle.ConstantTimeCompare(sum[:], s.sums[i][:])
	}
	return found == 1
}
