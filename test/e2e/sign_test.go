package e2e

// Evidence that this suite signs itself, with the attester's keys or with others.

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// directNode is the node that this suite states: upstream it tells such a request
// from one that really came through the edge.
const directNode = "e2e-direct"

// statement is what an edge would state about a request, not yet signed.
func (s *system) statement(method, target string) evidence.Message {
	return evidence.Message{
		Method: method, Authority: s.host, Target: target,
		RequestID: randomHex(), ClientIP: clientIP, Mode: s.mode, Application: s.application,
		Node: directNode, Inspection: "active",
	}
}

// sign signs with the attester's key.
func (s *system) sign(t testing.TB, m evidence.Message) evidence.Message {
	t.Helper()
	key, err := s.keys.SigningKey(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return signWith(t, m, key, time.Now(), 30*time.Second)
}

func signWith(t testing.TB, m evidence.Message, key *evidence.Key, at time.Time, lifetime time.Duration) evidence.Message {
	t.Helper()
	signer, err := evidence.NewSigner(key, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	if err := signer.Sign(&m, at); err != nil {
		t.Fatal(err)
	}
	return m
}

// fields are the header lines of evidence, as the attester sends them.
func fields(m evidence.Message) string {
	return strings.Join(lines(m), "\r\n") + "\r\n"
}

// lines are the same, each by itself.
func lines(m evidence.Message) (lines []string) {
	for _, f := range [][2]string{
		{evidence.HeaderRequestID, m.RequestID}, {evidence.HeaderClientIP, m.ClientIP}, {evidence.HeaderMode, m.Mode},
		{evidence.HeaderApplication, m.Application}, {evidence.HeaderNode, m.Node}, {evidence.HeaderInspection, m.Inspection},
		{evidence.HeaderSignatureInput, m.SignatureInput}, {evidence.HeaderSignature, m.Signature},
		{"Connection", "Signature, Signature-Input"},
	} {
		lines = append(lines, f[0]+": "+f[1])
	}
	return lines
}

// signed puts evidence into a raw request, right behind the request line.
func (s *system) signed(t testing.TB, raw string) string {
	t.Helper()
	line, rest, ok := strings.Cut(raw, "\r\n")
	parts := strings.Split(line, " ")
	if !ok || len(parts) != 3 {
		t.Fatalf("no request line in %q", raw)
	}
	m := s.statement(parts[0], parts[1])
	for _, field := range strings.Split(rest, "\r\n") {
		if name, value, ok := strings.Cut(field, ":"); ok && strings.EqualFold(name, "Host") {
			m.Authority = strings.TrimSpace(value)
			break
		}
	}
	return line + "\r\n" + fields(s.sign(t, m)) + rest
}

func randomHex() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func newKeySet(t testing.TB, id string) *evidence.KeySet {
	t.Helper()
	key, err := evidence.GenerateKey(id, evidence.AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	set, err := evidence.NewKeySet(key)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// public is the part of a set that the gateway gets.
func public(t testing.TB, set *evidence.KeySet) *evidence.KeySet {
	t.Helper()
	keys := set.Keys()
	for i, k := range keys {
		if k.Alg == evidence.AlgHMACSHA256 {
			continue // a shared secret has no public part
		}
		var err error
		if keys[i], err = k.Public(); err != nil {
			t.Fatal(err)
		}
	}
	out, err := evidence.NewKeySet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func keySetJSON(t testing.TB, set *evidence.KeySet) string {
	t.Helper()
	data, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// writeKeys replaces a key file in one step.
func (s *system) writeKeys(t testing.TB, path string, set *evidence.KeySet) {
	t.Helper()
	if path == s.verifyingFile {
		set = public(t, set)
	}
	atomicWrite(t, path, []byte(keySetJSON(t, set)))
}
