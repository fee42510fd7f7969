package evidence

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	rfcX      = "JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"
	rfcD      = "n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU"
	secret256 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
)

func TestParseKeySet(t *testing.T) {
	t.Parallel()
	okp := `{"kty":"OKP","crv":"Ed25519","kid":"a","x":"` + rfcX + `"%s}`
	oct := `{"kty":"oct","kid":"a","k":"` + secret256 + `"%s}`
	set := func(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }
	with := fmt.Sprintf
	many := make([]string, 33)
	for i := range many {
		many[i] = strings.Replace(with(okp, ""), `"a"`, with(`"a%d"`, i), 1)
	}

	for name, s := range map[string]string{
		"public":         set(with(okp, "")),
		"private":        set(with(okp, `,"d":"`+rfcD+`"`)),
		"secret":         set(with(oct, "")),
		"everything":     set(with(okp, `,"alg":"EdDSA","use":"sig","key_ops":["verify"],"nbf":1,"exp":2`)),
		"RFC 9864":       set(with(okp, `,"alg":"Ed25519"`)),
		"HS256":          set(with(oct, `,"alg":"HS256"`)),
		"unknown member": set(with(okp, `,"x5t":"z"`)),
		"32 keys":        set(many[:32]...),
		"white space":    " " + set(with(okp, "")) + "\n",
	} {
		if _, err := ParseKeySet([]byte(s)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	for name, s := range map[string]string{
		"empty":               "",
		"array":               "[]",
		"null":                "null",
		"no keys":             `{}`,
		"keys null":           `{"keys":null}`,
		"keys object":         `{"keys":{}}`,
		"no key":              set(),
		"keys twice":          `{"keys":[` + with(okp, "") + `],"keys":[]}`,
		"Keys":                `{"Keys":[` + with(okp, "") + `]}`,
		"something follows":   set(with(okp, "")) + "x",
		"cut off":             strings.TrimSuffix(set(with(okp, "")), "}"),
		"key null":            set("null"),
		"id twice":            set(with(okp, ""), with(oct, "")),
		"33 keys":             set(many...),
		"no kid":              set(strings.Replace(with(okp, ""), `"kid":"a",`, "", 1)),
		"kid empty":           set(strings.Replace(with(okp, ""), `"kid":"a"`, `"kid":""`, 1)),
		"kid number":          set(strings.Replace(with(okp, ""), `"kid":"a"`, `"kid":1`, 1)),
		"kid null":            set(strings.Replace(with(okp, ""), `"kid":"a"`, `"kid":null`, 1)),
		"kid not ASCII":       set(strings.Replace(with(okp, ""), `"kid":"a"`, `"kid":"é"`, 1)),
		"kid too long":        set(strings.Replace(with(okp, ""), `"kid":"a"`, `"kid":"`+strings.Repeat("a", 129)+`"`, 1)),
		"kid twice":           set(with(okp, `,"kid":"b"`)),
		"x twice":             set(with(okp, `,"x":"`+rfcX+`"`)),
		"kty RSA":             set(strings.Replace(with(okp, ""), "OKP", "RSA", 1)),
		"crv X25519":          set(strings.Replace(with(okp, ""), "Ed25519", "X25519", 1)),
		"x missing":           set(`{"kty":"OKP","crv":"Ed25519","kid":"a"}`),
		"x short":             set(strings.Replace(with(okp, ""), rfcX, rfcX[:42], 1)),
		"x padded":            set(strings.Replace(with(okp, ""), rfcX, rfcX+"=", 1)),
		"x with a line break": set(strings.Replace(with(okp, ""), rfcX, `\n`+rfcX, 1)),
		"x loose last bits":   set(strings.Replace(with(okp, ""), rfcX, rfcX[:42]+"t", 1)),
		"d of another key":    set(with(okp, `,"d":"`+secret256+`"`)),
		"d short":             set(with(okp, `,"d":"AA"`)),
		"d null":              set(with(okp, `,"d":null`)),
		"OKP with k":          set(with(okp, `,"k":"`+secret256+`"`)),
		"oct with d":          set(with(oct, `,"d":"`+rfcD+`"`)),
		"k missing":           set(`{"kty":"oct","kid":"a"}`),
		"k of 31":             set(`{"kty":"oct","kid":"a","k":"` + base64.RawURLEncoding.EncodeToString(make([]byte, 31)) + `"}`),
		"k of 1025":           set(`{"kty":"oct","kid":"a","k":"` + base64.RawURLEncoding.EncodeToString(make([]byte, 1025)) + `"}`),
		"alg of the other":    set(with(okp, `,"alg":"HS256"`)),
		"alg HS512":           set(with(oct, `,"alg":"HS512"`)),
		"use enc":             set(with(okp, `,"use":"enc"`)),
		"key_ops encrypt":     set(with(okp, `,"key_ops":["encrypt"]`)),
		"nbf text":            set(with(okp, `,"nbf":"1"`)),
		"nbf fraction":        set(with(okp, `,"nbf":1.5`)),
		"exp negative":        set(with(okp, `,"exp":-1`)),
		"exp before nbf":      set(with(okp, `,"nbf":2,"exp":2`)),
		"small order":         set(strings.Replace(with(okp, ""), rfcX, base64.RawURLEncoding.EncodeToString(make([]byte, 32)), 1)),
		"identity, signed":    set(strings.Replace(with(okp, ""), rfcX, base64.RawURLEncoding.EncodeToString(append([]byte{1}, append(make([]byte, 30), 0x80)...)), 1)),
		"too large":           set(with(okp, "")) + strings.Repeat(" ", 64<<10),
	} {
		_, err := ParseKeySet([]byte(s))
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), secret256[:20]) || strings.Contains(err.Error(), rfcD[:20]) {
			t.Errorf("%s: the error holds a secret: %v", name, err)
		}
	}
}

// For a key of small order some signature verifies for every message: this is
// what the refusal in parseOKP is for.
func TestSmallOrderIsForgeable(t *testing.T) {
	t.Parallel()
	identity := append([]byte{1}, make([]byte, 31)...)
	k := &Key{ID: "k", Alg: AlgEd25519, public: identity}
	forged := append(append([]byte{}, identity...), make([]byte, 32)...) // R = A = 1, S = 0
	if !k.verify([]byte("anything"), forged) {
		t.Error("the identity as a key is not forgeable here: the refusal is not needed")
	}
	// Independently of the list: y is 0, 1 or -1, or d*y^4 + 2*y^2 - 1 = 0, where
	// doubling leads to a point of order 4.
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	d := new(big.Int).ModInverse(big.NewInt(121666), p)
	d.Mul(d, big.NewInt(-121665)).Mod(d, p)
	mod := func(v *big.Int) *big.Int { return v.Mod(v, p) }
	seen := map[string]bool{}
	for i, point := range smallOrder {
		y := point
		slices.Reverse(y[:])
		n := new(big.Int).SetBytes(y[:])
		seen[n.String()] = true
		square := mod(new(big.Int).Mul(n, n))
		eighth := mod(new(big.Int).Mul(square, square))
		eighth.Mul(eighth, d)
		eighth.Add(eighth, new(big.Int).Lsh(square, 1)).Sub(eighth, big.NewInt(1))
		if square.Sign() != 0 && square.Cmp(big.NewInt(1)) != 0 && mod(eighth).Sign() != 0 {
			t.Errorf("point %d has no small order", i)
		}
		for _, sign := range []byte{0, 0x80} {
			encoded := point
			encoded[31] |= sign
			if !isSmallOrder(encoded[:]) {
				t.Errorf("point %d is not recognised with the sign %#x", i, sign)
			}
			if set, err := ParseKeySet(fmt.Appendf(nil, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":%q}]}`, base64.RawURLEncoding.EncodeToString(encoded[:]))); err == nil {
				t.Errorf("point %d is a key: %v", i, set.Keys())
			}
		}
	}
	// 0, 1, -1, p, p+1, and two of order 8: whatever else is congruent has no room in 255 bits.
	if len(seen) != 7 {
		t.Errorf("%d different points are listed, want 7", len(seen))
	}
	honest := [32]byte{0: 9}
	if isSmallOrder(honest[:]) {
		t.Error("an ordinary point is refused")
	}
}

func TestKeySetBounds(t *testing.T) {
	t.Parallel()
	oct := func(n int) string { return base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, n)) }
	key := func(more string) string {
		return `{"keys":[{"kty":"oct","kid":"k","k":"` + oct(32) + `"` + more + `}]}`
	}
	for _, tc := range []struct {
		name, jwks, err string
	}{
		{"longest set", key("") + strings.Repeat(" ", 64<<10-len(key(""))), ""},
		{"a byte longer", key("") + strings.Repeat(" ", 64<<10-len(key(""))+1), "longer than 65536 bytes"},
		{"shortest secret", strings.Replace(key(""), oct(32), oct(32), 1), ""},
		{"a byte shorter", strings.Replace(key(""), oct(32), oct(31), 1), "is 31 bytes"},
		{"longest secret", strings.Replace(key(""), oct(32), oct(1024), 1), ""},
		{"a byte longer secret", strings.Replace(key(""), oct(32), oct(1025), 1), "is 1025 bytes"},
		{"31 bytes of x", `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"` + oct(31) + `"}]}`, "is not 32 bytes"},
		{"33 bytes of x", `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"` + oct(33) + `"}]}`, "is not 32 bytes"},
		{"an array", `[]`, "not a JSON object"},
		{"the second key is named", `{"keys":[{"kty":"oct","kid":"k","k":"` + oct(32) + `"},{}]}`, "key 2:"},
	} {
		_, err := ParseKeySet([]byte(tc.jwks))
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.err)
		}
	}
	set, err := ParseKeySet([]byte(key(`,"nbf":1700000000,"exp":1700000001`)))
	if err != nil {
		t.Fatal(err)
	}
	if k := set.Lookup("k"); !k.NotBefore.Equal(time.Unix(1700000000, 0)) || !k.Expires.Equal(time.Unix(1700000001, 0)) {
		t.Errorf("nbf %v, exp %v", k.NotBefore, k.Expires)
	}
}

func TestKeySetMarshal(t *testing.T) {
	t.Parallel()
	ed, mac := newKey(t, "ed", AlgEd25519), newKey(t, "mac", AlgHMACSHA256)
	ed.NotBefore, ed.Expires = noon, noon.Add(time.Hour)
	public, err := ed.Public()
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string]*KeySet{"private": keySet(t, ed, mac), "public": keySet(t, public)} {
		data, err := json.Marshal(keys)
		if err != nil {
			t.Fatal(err)
		}
		read, err := ParseKeySet(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again, err := json.Marshal(read)
		if err != nil || !bytes.Equal(data, again) {
			t.Errorf("%s: %s read and written is %s (%v)", name, data, again, err)
		}
		if has := bytes.Contains(data, []byte(`"d":`)); has != (name == "private") {
			t.Errorf("%s set holds a private part: %v", name, has)
		}
	}
	if _, err := mac.Public(); err == nil {
		t.Error("a shared secret has a public part")
	}
	if s := fmt.Sprintf("%v %+v %#v", mac, mac, mac); strings.Contains(s, fmt.Sprint(mac.secret)) || strings.Contains(s, "secret:") {
		t.Errorf("a key prints its secret: %s", s)
	}
}

func TestSigningKey(t *testing.T) {
	t.Parallel()
	old, current, next, over := newKey(t, "old", AlgEd25519), newKey(t, "current", AlgEd25519), newKey(t, "next", AlgEd25519), newKey(t, "over", AlgEd25519)
	current.NotBefore = noon
	next.NotBefore = noon.Add(time.Second)
	over.NotBefore, over.Expires = noon.Add(-time.Second), noon
	public, err := newKey(t, "public", AlgEd25519).Public()
	if err != nil {
		t.Fatal(err)
	}
	public.NotBefore = noon
	keys := keySet(t, current, old, next, over, public)
	for when, want := range map[time.Time]string{
		noon.Add(-time.Second): "over", noon.Add(-1): "over", noon.Add(-time.Minute): "old", noon: "current", noon.Add(time.Second): "next",
	} {
		k, err := keys.SigningKey(when)
		if err != nil || k.ID != want {
			t.Errorf("at %v: %v (%v), want %s", when, k, err, want)
		}
	}
	if k, err := keySet(t, public).SigningKey(noon); err == nil {
		t.Errorf("signs with %v", k)
	}
	twin := newKey(t, "twin", AlgHMACSHA256)
	if k, err := keySet(t, old, twin).SigningKey(noon); err != nil || k != twin {
		t.Errorf("of equals %v (%v), want the last", k, err)
	}
	if _, err := NewKeySet(old, old); err == nil {
		t.Error("a set with one id twice")
	}
	for _, id := range []string{" ", "~", strings.Repeat("k", 128)} {
		newKey(t, id, AlgEd25519)
	}
	if _, err := GenerateKey("", AlgEd25519); err == nil {
		t.Error("a key without an id")
	}
	if _, err := GenerateKey("a\n", AlgEd25519); err == nil {
		t.Error("a key id with a line feed")
	}
	if _, err := GenerateKey("a", "rsa"); err == nil {
		t.Error("a key of an algorithm unheard of")
	}
}
