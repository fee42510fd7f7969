package evidence

// What the tests share: keys, one honest request, and a clock that stands.

import (
	"net/netip"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

func newKey(t testing.TB, id string, alg Algorithm) *Key {
	t.Helper()
	k, err := GenerateKey(id, alg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keySet(t testing.TB, keys ...*Key) *KeySet {
	t.Helper()
	set, err := NewKeySet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func honest() Message {
	return Message{
		Method: "POST", Authority: "api.example.com", Target: "/orders/17?expand=lines&q={a|b}",
		RequestID: "0123456789abcdef0123456789abcdef", ClientIP: "203.0.113.7", Mode: "block",
		Application: "17", Node: "task/4f1c", Inspection: "active",
	}
}

func signed(t testing.TB, k *Key, m Message, now time.Time) Message {
	t.Helper()
	s, err := NewSigner(k, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sign(&m, now); err != nil {
		t.Fatal(err)
	}
	return m
}

func defaultPolicy() Policy {
	return Policy{MaxAge: 30 * time.Second, ClockSkew: 5 * time.Second, MinMode: ModeMonitoring, RequireActive: true}
}

func verifier(keys *KeySet, now time.Time) *Verifier {
	return &Verifier{
		Policy: defaultPolicy(),
		Keys:   func() *KeySet { return keys },
		Now:    at(now),
	}
}

func received(m Message) *Request {
	return &Request{Message: m, ID: "ffffffffffffffffffffffffffffffff", Source: netip.MustParseAddr("10.0.1.5")}
}
