package evidence

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func FuzzParseSignatureInput(f *testing.F) {
	f.Add(goodInput)
	f.Add("wallarm=(")
	f.Add(strings.Repeat("\\\"", 600))
	f.Fuzz(func(t *testing.T, s string) {
		in, err := ParseSignatureInput(s)
		if err != nil {
			return
		}
		if in.String() != s {
			t.Errorf("%q is written as %q", s, in.String())
		}
		if len(in.Nonce) < minNonce || len(in.Nonce) > maxNonce || in.KeyID == "" || in.Created < 0 || in.Expires < in.Created {
			t.Errorf("%q is read as %+v", s, in)
		}
		m := honest()
		if n := bytes.Count(in.AppendBase(nil, &m), []byte("\n")); n != componentCount {
			t.Errorf("%q gives a base of %d lines", s, n+1)
		}
	})
}

// The parser must not let a stranger choose how much is allocated.
func TestParserAllocations(t *testing.T) {
	hostile := []string{
		goodInput, strings.Repeat("a", 8192), goodInput + strings.Repeat(";", 600), strings.Replace(goodInput, "0123456789abcdef", strings.Repeat(`\"`, 64), 1),
		"wallarm=(" + strings.Repeat(`"@method" `, 100), goodInput[:len(goodInput)-14] + `tag="` + strings.Repeat(`\\`, 300),
	}
	for _, s := range hostile {
		if n := testing.AllocsPerRun(100, func() { ParseSignatureInput(s) }); n > 4 {
			t.Errorf("%.40q: %v allocations", s, n)
		}
	}
}

func FuzzParseKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"` + rfcX + `","d":"` + rfcD + `","nbf":1,"exp":2}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","kid":"a","k":"` + secret256 + `"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := ParseKeySet(data)
		if err != nil {
			return
		}
		written, err := json.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseKeySet(written)
		if err != nil {
			t.Fatalf("%s does not read back: %v", written, err)
		}
		rewritten, err := json.Marshal(again)
		if err != nil || !bytes.Equal(written, rewritten) {
			t.Errorf("%s is written as %s (%v)", written, rewritten, err)
		}
	})
}

// FuzzFlip signs what the fuzzer gives, changes one byte of what is covered or of
// the evidence itself, and wants a refusal.
func FuzzFlip(f *testing.F) {
	fields := []func(*Message) *string{
		func(m *Message) *string { return &m.Method }, func(m *Message) *string { return &m.Authority },
		func(m *Message) *string { return &m.Target }, func(m *Message) *string { return &m.RequestID },
		func(m *Message) *string { return &m.ClientIP }, func(m *Message) *string { return &m.Mode },
		func(m *Message) *string { return &m.Application }, func(m *Message) *string { return &m.Node },
		func(m *Message) *string { return &m.Inspection }, func(m *Message) *string { return &m.SignatureInput },
		func(m *Message) *string { return &m.Signature },
	}
	var signers []*Signer
	var keys []*Key
	for _, alg := range []Algorithm{AlgEd25519, AlgHMACSHA256} {
		k := newKey(f, string(alg), alg)
		s, err := NewSigner(k, 30*time.Second)
		if err != nil {
			f.Fatal(err)
		}
		keys, signers = append(keys, k), append(signers, s)
	}
	v := verifier(keySet(f, keys...), noon)
	v.Policy.RequireActive, v.Policy.MinMode = false, ModeOff

	for field := range fields {
		f.Add(field%2, "GET", "api.example.com:8443", "/a?b=c", "2001:db8::1", "block", "12", "task/1", "active", field, 3, byte(1))
	}
	f.Fuzz(func(t *testing.T, signer int, method, authority, target, client, mode, application, node, inspection string, field, offset int, mask byte) {
		m := Message{
			Method: method, Authority: authority, Target: target, RequestID: honest().RequestID,
			ClientIP: client, Mode: mode, Application: application, Node: node, Inspection: inspection,
		}
		if signers[uint(signer)%2].Sign(&m, noon) != nil {
			return
		}
		if a, reason := v.Verify(received(m)); reason != "" {
			t.Fatalf("honest %+v refused: %q %s", m, reason, a.Detail)
		}
		value := fields[uint(field)%uint(len(fields))](&m)
		if mask == 0 || *value == "" {
			return
		}
		b := []byte(*value)
		b[uint(offset)%uint(len(b))] ^= mask
		if value == &m.Authority && strings.EqualFold(string(b), *value) && lowerASCII(string(b)) == lowerASCII(*value) {
			return // the case of the Host field is not covered: RFC 9421, section 2.2.3
		}
		before := *value
		*value = string(b)
		if _, reason := v.Verify(received(m)); reason == "" {
			t.Errorf("accepted with %q changed to %q", before, *value)
		}
	})
}

// FuzzVerify sends what a stranger may send: nothing of it is ever accepted, and
// nothing of it panics.
func FuzzVerify(f *testing.F) {
	key := newKey(f, "k", AlgHMACSHA256)
	m := signed(f, newKey(f, "k", AlgHMACSHA256), honest(), noon)
	f.Add(m.Method, m.Authority, m.Target, m.RequestID, m.ClientIP, m.Mode, m.Application, m.Node, m.Inspection, m.SignatureInput, m.Signature)
	tokens, err := NewTokenSet(strings.Repeat("t", 32))
	if err != nil {
		f.Fatal(err)
	}
	byKey := verifier(keySet(f, key), noon)
	byKey.Policy = Policy{MaxAge: MaxAgeLimit, ClockSkew: SkewLimit, AllowUpgrade: true}
	byKey.Replay = NewMemoryStore(1)
	byToken := &Verifier{Policy: byKey.Policy, Tokens: tokens, Now: at(noon)}
	f.Fuzz(func(t *testing.T, method, authority, target, id, client, mode, application, node, inspection, input, signature string) {
		r := &Request{
			Message: Message{method, authority, target, id, client, mode, application, node, inspection, input, signature},
			ID:      id, Source: netip.Addr{}, Token: node,
		}
		if _, reason := byKey.Verify(r); reason == "" {
			t.Errorf("accepted %+v", r)
		}
		if _, reason := byToken.Verify(r); reason == "" && !tokens.Match(node) {
			t.Errorf("accepted %+v", r)
		}
	})
}
