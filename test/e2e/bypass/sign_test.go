package bypass

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// signedBy makes evidence as `sign e ARGUMENTS` and its edits would.
func signedBy(t *testing.T, site *Site, directives string) (*signed, error) {
	t.Helper()
	cases, err := Parse([]byte("case a\n  b\n" + directives + "\n| {{e}}\n+ x\nexpect 403 replayed\n"))
	if err != nil {
		t.Fatal(err)
	}
	return cases[0].signings[0].make(site.Keys, cases[0].edits, newValues("m1", site.Host, ""), time.Unix(1_800_000_000, 0))
}

// The signer here and package evidence were written apart: what one signs the
// other verifies.
func TestSignerAgrees(t *testing.T) {
	t.Parallel()
	for _, alg := range []evidence.Algorithm{evidence.AlgEd25519, evidence.AlgHMACSHA256} {
		key, err := evidence.GenerateKey("k", alg)
		if err != nil {
			t.Fatal(err)
		}
		set, err := evidence.NewKeySet(key)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := NewKeys(set)
		if err != nil {
			t.Fatal(err)
		}
		site := &Site{Host: "API.example.com", Keys: keys}
		e, err := signedBy(t, site, "sign e with=k method=PUT target=/a?{{mark}} mode=monitoring application=-1")
		if err != nil {
			t.Fatal(err)
		}
		v := evidence.Verifier{
			Policy: evidence.Policy{MaxAge: 30 * time.Second, MinMode: evidence.ModeMonitoring, RequireActive: true},
			Keys:   func() *evidence.KeySet { return set },
			Now:    func() time.Time { return time.Unix(1_800_000_010, 0) },
		}
		r := evidence.Request{Message: evidence.Message{
			Method: "PUT", Authority: "api.example.com", Target: "/a?m1",
			RequestID: e.value("request-id"), ClientIP: e.value("client-ip"), Mode: e.value("mode"), Application: e.value("application"),
			Node: e.value("node"), Inspection: e.value("inspection"), SignatureInput: e.value("input"), Signature: e.value("signature"),
		}}
		if _, reason := v.Verify(&r); reason != "" {
			t.Errorf("%s: refused for %s: %s", alg, reason, r.SignatureInput)
		}
		r.Method = "POST"
		if _, reason := v.Verify(&r); reason != evidence.ReasonBadSignature {
			t.Errorf("%s: another method gives %q", alg, reason)
		}
	}
}

// What is forged is signed as it then stands, what is edited is not.
func TestEdits(t *testing.T) {
	t.Parallel()
	site := testSite(t)
	for _, c := range []struct{ directives, field, want string }{
		{"edit e.mode s|block|off|", "mode", "off"},
		{"edit e.mode s/block/{{e.nonce}}/", "mode", ""},
		{"edit e.signature unpad", "signature", "!="},
		{"edit e.signature zero", "signature", "wallarm=:" + strings.Repeat("A", 86) + "==:"},
		{"edit e.input s|;tag=\"wallarm-gate\"|;x=\"\\x41\"|", "input", ""},
		{"edit e.mode upper", "mode", "BLOCK"},
	} {
		e, err := signedBy(t, site, "sign e\n"+c.directives)
		if err != nil {
			t.Errorf("%s: %v", c.directives, err)
			continue
		}
		got := e.value(c.field)
		switch {
		case c.want == "!=" && strings.Contains(got, "=:") && !strings.HasSuffix(got, "=:"):
		case c.want == "":
		case got != c.want:
			t.Errorf("%s: %q, want %q", c.directives, got, c.want)
		}
	}
	for directives, want := range map[string]string{
		"sign e\nedit e.mode s|monitoring|off|":   "stands 0 times",
		"sign e\nedit e.input s|wallarm|x|":       "times in",
		"sign e\nedit e.mode lower":               "changes nothing",
		"sign e with=nobody":                      `no key "nobody"`,
		"sign e created=soon":                     "want seconds",
		"sign e\nedit e.mode unpad":               "no base64",
		"sign e mode=:x:\nedit e.mode flip":       "not base64",
		"sign e with=shared-1\nforge e.input url": "no base64",
	} {
		if _, err := signedBy(t, site, directives); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", directives, err, want)
		}
	}
}

// The base that the lenient signer signs, for what the profile does not allow.
func TestSignatureBase(t *testing.T) {
	t.Parallel()
	covered := map[string]string{"@method": "GET", "x-wallarm-mode": "block"}
	for input, want := range map[string]string{
		`wallarm=("@method" "x-wallarm-mode";req);created=1`: "\"@method\": GET\n\"x-wallarm-mode\";req: block\n\"@signature-params\": (\"@method\" \"x-wallarm-mode\";req);created=1",
		`wallarm=();tag="a,b", sig1=()`:                      `"@signature-params": ();tag="a,b"`,
		`wallarm=("host")`:                                   "\"host\": \n\"@signature-params\": (\"host\")",
		`wallarm=("@method"`:                                 `"@signature-params": ("@method"`,
		``:                                                   `"@signature-params": `,
	} {
		if got := signatureBase(input, covered); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", input, got, want)
		}
	}
}

func TestNewKeys(t *testing.T) {
	t.Parallel()
	key, err := evidence.GenerateKey("k", evidence.AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	if key, err = key.Public(); err != nil {
		t.Fatal(err)
	}
	set, err := evidence.NewKeySet(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewKeys(set); err == nil || !strings.Contains(err.Error(), "no signing part") {
		document, _ := json.Marshal(set)
		t.Errorf("%s: %v", document, err)
	}
}

// The carry goes through, and R stays.
func TestAddGroupOrder(t *testing.T) {
	t.Parallel()
	sig := make([]byte, 64)
	sig[32] = 0x13 // 0xed + 0x13 carries
	addGroupOrder(sig)
	if sig[32] != 0 || sig[33] != 0xd4 || sig[63] != 0x10 || sig[31] != 0 {
		t.Errorf("%x", sig[32:])
	}
}
