package evidence

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"
)

const goodInput = `wallarm=("@method" "@authority" "@request-target" "x-wallarm-request-id" "x-wallarm-client-ip" ` +
	`"x-wallarm-mode" "x-wallarm-application" "x-wallarm-node" "x-wallarm-inspection")` +
	`;created=1795348800;expires=1795348830;nonce="0123456789abcdef";keyid="k";alg="ed25519";tag="wallarm-gate"`

func TestParseSignatureInput(t *testing.T) {
	t.Parallel()
	in, err := ParseSignatureInput(goodInput)
	if err != nil {
		t.Fatal(err)
	}
	if in.String() != goodInput || in.Created != 1795348800 || in.Expires != 1795348830 || in.Nonce != "0123456789abcdef" ||
		in.KeyID != "k" || in.Algorithm != AlgEd25519 || !slices.Equal(in.Components(), componentNames[:]) {
		t.Errorf("read as %+v", in)
	}

	replace := func(old, new string) string {
		if !strings.Contains(goodInput, old) {
			t.Fatalf("%q does not stand in the good input", old)
		}
		return strings.Replace(goodInput, old, new, 1)
	}
	accepted := map[string]string{
		"created 0":            replace("created=1795348800", "created=0"),
		"equal times":          replace("expires=1795348830", "expires=1795348800"),
		"15 digits":            replace("expires=1795348830", "expires=999999999999999"),
		"nonce of 64":          replace("0123456789abcdef", strings.Repeat("n", 64)),
		"escapes":              replace("0123456789abcdef", `\"\\3456789abcdef01`),
		"keyid with a space":   replace(`"k"`, `"a b"`),
		"hmac":                 replace("ed25519", "hmac-sha256"),
		"as long as it may be": "",
	}
	long := replace(`"k"`, `"`+strings.Repeat("k", 128)+`"`)
	long = strings.Replace(long, "0123456789abcdef", strings.Repeat(`\\`, 64), 1)
	accepted["as long as it may be"] = long
	for name, s := range accepted {
		if got, err := ParseSignatureInput(s); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got.String() != s {
			t.Errorf("%s: written as %s", name, got.String())
		}
	}

	for name, s := range map[string]string{
		"empty":                   "",
		"another label":           replace("wallarm=", "sig1="),
		"label in capitals":       replace("wallarm=", "Wallarm="),
		"space before":            " " + goodInput,
		"space after":             goodInput + " ",
		"space after the label":   replace("wallarm=(", "wallarm= ("),
		"second label":            goodInput + `, sig2=("@method");created=1`,
		"same label again":        goodInput + ", " + goodInput,
		"label before":            `sig2=("@method"), ` + goodInput,
		"comma":                   goodInput + ",",
		"no components":           `wallarm=();created=1795348800`,
		"eight components":        replace(` "x-wallarm-inspection"`, ""),
		"ten components":          replace(`-inspection"`, `-inspection" "date"`),
		"component twice":         replace(`"x-wallarm-inspection"`, `"@method"`),
		"component unheard of":    replace(`"@method"`, `"@path"`),
		"component in capitals":   replace(`"x-wallarm-mode"`, `"X-Wallarm-Mode"`),
		"component with req":      replace(`"@method"`, `"@method";req`),
		"component with sf":       replace(`"x-wallarm-mode"`, `"x-wallarm-mode";sf`),
		"component with bs":       replace(`"x-wallarm-mode"`, `"x-wallarm-mode";bs`),
		"component with key":      replace(`"x-wallarm-mode"`, `"x-wallarm-mode";key="a"`),
		"component with tr":       replace(`"x-wallarm-inspection"`, `"x-wallarm-inspection";tr`),
		"two spaces":              replace(`"@method" `, `"@method"  `),
		"tab":                     replace(`"@method" `, "\"@method\"\t"),
		"no space":                replace(`"@method" `, `"@method"`),
		"space in front":          replace(`("@method"`, `( "@method"`),
		"space behind":            replace(`inspection")`, `inspection" )`),
		"token for a string":      replace(`"@method"`, `@method`),
		"space before parameter":  replace(";created", "; created"),
		"space around =":          replace("created=", "created ="),
		"parameter twice":         goodInput + ";created=1795348800",
		"other value twice":       goodInput + ";created=1",
		"parameter unheard of":    goodInput + ";foo=1",
		"parameter in capitals":   replace("created=", "Created="),
		"boolean parameter":       goodInput + ";flag",
		"semicolon at the end":    goodInput + ";",
		"no created":              replace(";created=1795348800", ""),
		"no expires":              replace(";expires=1795348830", ""),
		"no nonce":                replace(`;nonce="0123456789abcdef"`, ""),
		"no keyid":                replace(`;keyid="k"`, ""),
		"no alg":                  replace(`;alg="ed25519"`, ""),
		"no tag":                  replace(`;tag="wallarm-gate"`, ""),
		"leading zero":            replace("created=1", "created=01"),
		"two zeros":               replace("created=1795348800", "created=00"),
		"plus":                    replace("created=1", "created=+1"),
		"minus":                   replace("created=1", "created=-1"),
		"decimal":                 replace("created=1795348800", "created=1795348800.0"),
		"string for an integer":   replace("created=1795348800", `created="1795348800"`),
		"16 digits":               replace("expires=1795348830", "expires=1000000000000000"),
		"64 bits":                 replace("created=1795348800", "created=18446744073709551616"),
		"expires before created":  replace("expires=1795348830", "expires=1795348799"),
		"nonce of 15":             replace("0123456789abcdef", "123456789abcdef"),
		"nonce of 65":             replace("0123456789abcdef", strings.Repeat("n", 65)),
		"nonce with a line feed":  replace("0123456789abcdef", "0123456789abcde\n"),
		"nonce with a NUL":        replace("0123456789abcdef", "0123456789abcde\x00"),
		"nonce not ASCII":         replace("0123456789abcdef", "0123456789abcdé"),
		"nonce half a string":     replace(`"0123456789abcdef"`, `x0123456789abcdef"`),
		"nonce of nothing":        strings.Replace(replace(`;nonce="0123456789abcdef"`, ""), `;tag=`, `;nonce=;tag=`, 1),
		"a last nonce of nothing": replace(`;nonce="0123456789abcdef"`, "") + ";nonce=",
		"nonce as a token":        replace(`"0123456789abcdef"`, "abcdef0123456789"),
		"nonce as bytes":          replace(`"0123456789abcdef"`, ":MDEyMzQ1Njc4OWFiY2RlZg==:"),
		"escape of another byte":  replace("0123456789abcdef", `01234567\n89abcdef`),
		"string without an end":   strings.TrimSuffix(goodInput, `"`),
		"escape at the end":       strings.TrimSuffix(goodInput, `"`) + `\`,
		"keyid empty":             replace(`"k"`, `""`),
		"keyid of 129":            replace(`"k"`, `"`+strings.Repeat("k", 129)+`"`),
		"alg none":                replace("ed25519", "none"),
		"alg empty":               replace(`"ed25519"`, `""`),
		"alg in capitals":         replace("ed25519", "Ed25519"),
		"alg rsa":                 replace("ed25519", "rsa-pss-sha512"),
		"foreign tag":             replace(`"wallarm-gate"`, `"other"`),
		"vertical tab":            replace(";created", "\v;created"),
		"cut off in components":   strings.TrimSuffix(goodInput[:strings.Index(goodInput, ")")], ")"),
		"longer than 1,024 bytes": goodInput + strings.Repeat(" ", 1024),
	} {
		if in, err := ParseSignatureInput(s); err == nil {
			t.Errorf("%s: accepted as %+v", name, in)
		}
	}
}

func TestParseSignature(t *testing.T) {
	t.Parallel()
	sig := make([]byte, 32)
	for i := range sig {
		sig[i] = byte(i * 7)
	}
	good := formatSignature(sig)
	got := make([]byte, 32)
	if err := parseSignature(got, good); err != nil || !slices.Equal(got, sig) {
		t.Fatalf("%x, %v", got, err)
	}
	body := strings.TrimSuffix(strings.TrimPrefix(good, "wallarm=:"), ":")
	for name, s := range map[string]string{
		"empty":            "",
		"another label":    "sig1=:" + body + ":",
		"no colons":        "wallarm=" + body,
		"string":           `wallarm="` + body + `"`,
		"space around":     " " + good,
		"parameter":        good + ";a",
		"second member":    good + ", b=:AA==:",
		"no padding":       "wallarm=:" + strings.TrimRight(body, "=") + ":",
		"too much padding": "wallarm=:" + body + "=:",
		"short":            "wallarm=:" + base64.StdEncoding.EncodeToString(sig[:31]) + ":",
		"long":             "wallarm=:" + base64.StdEncoding.EncodeToString(append(slices.Clone(sig), 0)) + ":",
		"line break":       "wallarm=:" + body[:41] + "\n" + body[42:] + ":",
		"url alphabet":     "wallarm=:" + strings.Repeat("_", 43) + "=:",
		"loose last bits":  "wallarm=:" + body[:42] + string(body[42]+1) + "=:",
	} {
		if err := parseSignature(got, s); err == nil {
			t.Errorf("%s: accepted %q", name, s)
		}
	}
}

// A public key must not serve as a shared secret: the algorithm is the key's.
func TestAlgorithmConfusion(t *testing.T) {
	t.Parallel()
	key := newKey(t, "k", AlgEd25519)
	public, err := key.Public()
	if err != nil {
		t.Fatal(err)
	}
	forged := signed(t, &Key{ID: "k", Alg: AlgHMACSHA256, secret: public.public}, honest(), noon)
	if _, reason := verifier(keySet(t, public), noon).Verify(received(forged)); reason != ReasonMalformedEvidence {
		t.Errorf("reason %q", reason)
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	key := newKey(t, "k", AlgEd25519)
	s, err := NewSigner(key, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Message){
		"method":     func(m *Message) { m.Method = "" },
		"authority":  func(m *Message) { m.Authority = "a b" },
		"target":     func(m *Message) { m.Target = "//evil/" },
		"quote":      func(m *Message) { m.Target = `/p"` },
		"braces":     func(m *Message) { m.Target = "/{a}" },
		"request id": func(m *Message) { m.RequestID = "x" },
		"client":     func(m *Message) { m.ClientIP = "203.0.113.7:1" },
		"mode":       func(m *Message) { m.Mode = "" },
		"node":       func(m *Message) { m.Node = "" },
		"inspection": func(m *Message) { m.Inspection = "Active" },
	} {
		m := honest()
		change(&m)
		before := m
		if err := s.Sign(&m, noon); err == nil || m != before {
			t.Errorf("%s: error %v, message changed: %v", name, err, m != before)
		}
	}
	m := honest()
	if err := s.Sign(&m, time.Unix(-1, 0)); err == nil {
		t.Error("signed before 1970")
	}
	public, err := key.Public()
	if err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func() (*Signer, error){
		"public key": func() (*Signer, error) { return NewSigner(public, time.Second) },
		"no key":     func() (*Signer, error) { return NewSigner(nil, time.Second) },
		"no time":    func() (*Signer, error) { return NewSigner(key, 0) },
		"half":       func() (*Signer, error) { return NewSigner(key, 1500*time.Millisecond) },
		"too long":   func() (*Signer, error) { return NewSigner(key, MaxAgeLimit+time.Second) },
	} {
		if _, err := make(); err == nil {
			t.Errorf("signer with %s: accepted", name)
		}
	}
}

func TestCheckTarget(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"/", "/a/b;c=1,2/%2f%zz?x=[1]&y='z'", "/?q={a}|^`", "/a//b", "/a?b?c", "/~u/@:!$&()*+="} {
		if err := CheckTarget(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "*", "a", "//", "//evil/x", "http://h/", "/#", "/a?b#c", `/"`, `/?"`, `/\`, `/?\`, "/<", "/?>", "/ ", "/\t", "/\x00", "/\x7f",
		"/é", "/?\xff", "/{", "/|", "/^", "/`", "/" + strings.Repeat("a", maxTarget),
	} {
		if err := CheckTarget(bad); err == nil {
			t.Errorf("%.20q: accepted", bad)
		}
	}
}

func TestHeaderNames(t *testing.T) {
	t.Parallel()
	for _, name := range Headers() {
		folded := strings.ToLower(name)
		spelt := strings.ReplaceAll(strings.ToUpper(name), "-", "_")
		if FoldHeader(name) != folded || FoldHeader(spelt) != folded || !IsHeader(name) || !IsHeader(spelt) || !IsHeader(folded) {
			t.Errorf("%s is not recognised in every spelling", name)
		}
	}
	for _, name := range []string{"", "X-Wallarm", "X-Wallarm-Modes", "Signatur", "Signature-Inpuu", "X-Wallarm-Application2"} {
		if IsHeader(name) {
			t.Errorf("%q is no header of the contract", name)
		}
	}
}
