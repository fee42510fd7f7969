package evidence

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// The vectors of RFC 9421 cover other components than the profile, so they meet
// the two layers below it: the lines of a signature base and the algorithms.
func TestRFC9421(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/rfc9421.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		JWKS       json.RawMessage
		Signatures []struct {
			Name, Key, Params, Base, Signature string
			Lines                              [][2]string
		}
		Derivations []struct {
			Section, Component, Line string
			Message                  Message
		}
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeySet(vectors.JWKS)
	if err != nil {
		t.Fatal(err)
	}
	if len(vectors.Signatures) == 0 || len(vectors.Derivations) == 0 {
		t.Fatal("no vectors read")
	}
	for _, v := range vectors.Signatures {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			var base []byte
			for _, line := range v.Lines {
				base = appendLine(base, line[0], line[1])
			}
			base = appendParams(base, v.Params)
			if string(base) != v.Base {
				t.Fatalf("signature base\n%s\nwant\n%s", base, v.Base)
			}
			key := keys.Lookup(v.Key)
			want, err := base64.StdEncoding.DecodeString(v.Signature)
			if err != nil {
				t.Fatal(err)
			}
			if got := key.sign(base); !bytes.Equal(got, want) {
				t.Errorf("signature %x, want %x", got, want)
			}
			if !key.verify(base, want) {
				t.Error("the vector's signature is refused")
			}
			for i := range base {
				flipped := slices.Clone(base)
				flipped[i] ^= 1
				if key.verify(flipped, want) {
					t.Fatalf("accepted with byte %d of the base changed", i)
				}
			}
		})
	}
	for _, v := range vectors.Derivations {
		t.Run(v.Section, func(t *testing.T) {
			t.Parallel()
			i := slices.Index(componentNames[:], v.Component)
			if i < 0 {
				t.Fatalf("component %s is not in the profile", v.Component)
			}
			line := string(appendLine(nil, v.Component, v.Message.value(component(i))))
			if line != v.Line+"\n" {
				t.Errorf("%q, want %q", line, v.Line)
			}
		})
	}
}

// Any signer that signs exactly the nine components must verify, whatever the
// order of components and parameters: this one writes them in orders of its own.
func TestVerifyAnyOrder(t *testing.T) {
	t.Parallel()
	key := newKey(t, `k"\1`, AlgEd25519)
	m := honest()
	params := []string{`;created=1795348800`, `;expires=1795348830`, `;nonce="0123456789abcdef\"\\"`, `;keyid="k\"\\1"`, `;alg="ed25519"`, `;tag="wallarm-gate"`}
	for turn := range componentCount {
		names := append(slices.Clone(componentNames[turn:]), componentNames[:turn]...)
		if turn%2 == 1 {
			slices.Reverse(names)
		}
		order := append(slices.Clone(params[turn%6:]), params[:turn%6]...)
		in := `("` + strings.Join(names, `" "`) + `")` + strings.Join(order, "")
		var base strings.Builder
		for _, name := range names {
			base.WriteString(`"` + name + `": ` + m.value(component(slices.Index(componentNames[:], name))) + "\n")
		}
		base.WriteString(`"@signature-params": ` + in)
		r := received(m)
		r.SignatureInput = "wallarm=" + in
		r.Signature = "wallarm=:" + base64.StdEncoding.EncodeToString(key.sign([]byte(base.String()))) + ":"
		a, reason := verifier(keySet(t, key), noon).Verify(r)
		if reason != "" {
			t.Errorf("turn %d: %q %s", turn, reason, a.Detail)
		}
	}
}
