package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

var update = flag.Bool("update", false, "write the golden outputs anew")

// signedAt is when testdata/head.txt was signed.
var signedAt = time.Unix(1795375778, 0)

// run runs one command line at the given time.
func run(t *testing.T, now time.Time, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	tl := &tool{strings.NewReader(stdin), &out, &errOut, func() time.Time { return now }}
	code = tl.main(context.Background(), args)
	return out.String(), errOut.String(), code
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestOutput compares whole outputs with testdata/NAME.golden.
func TestOutput(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		code int
		args []string
	}{
		{"help", 0, []string{"help"}},
		{"help-keys", 0, []string{"help", "keys"}},
		{"help-sign", 0, []string{"sign", "--help"}},
		{"help-verify", 0, []string{"help", "verify"}},
		{"help-demo", 0, []string{"help", "demo"}},
		{"help-probe", 0, []string{"help", "probe"}},
		{"keys-public", 0, []string{"keys", "public", "testdata/private.json"}},
		{"verify-accepted", 0, []string{"verify", "--keys", "testdata/private.json", "--base", "testdata/head.txt"}},
		{"verify-other-target", 1, []string{"verify", "--keys", "testdata/private.json", "--target", "/admin", "testdata/head.txt"}},
		{"verify-unknown-key", 1, []string{"verify", "--keys", "testdata/shared.json", "testdata/head.txt"}},
		{"verify-stale", 1, []string{"verify", "--keys", "testdata/private.json", "--at", "2026-11-22T19:31:00Z", "testdata/head.txt"}},
		{"verify-strict", 1, []string{"verify", "--keys", "testdata/private.json", "--at", "2026-11-22T19:29:40Z", "--min-mode", "block", "--max-age", "1s", "--clock-skew", "0s", "testdata/head.txt"}},
		{"lint", 1, []string{"lint", "testdata/open.yml", "testdata/shut.yml"}},
		{"lint-json", 1, []string{"lint", "--json", "testdata/open.yml", "testdata/shut.yml", "testdata/absent.yml"}},
		{"lint-shut", 0, []string{"lint", "testdata/shut.yml"}},
		{"lint-report", 1, []string{"lint", "testdata/report.yml"}},
		{"lint-report-allowed", 0, []string{"lint", "--allow-report", "testdata/report.yml"}},
		{"lint-open-allowed", 1, []string{"lint", "--allow-report", "testdata/open.yml"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := run(t, signedAt.Add(2*time.Second), "", tc.args...)
			if code != tc.code || stderr != "" {
				t.Errorf("exit status %d, want %d; standard error %q", code, tc.code, stderr)
			}
			golden := filepath.Join("testdata", tc.name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(stdout), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := read(t, golden); stdout != want {
				t.Errorf("output:\n%s\nwant:\n%s", stdout, want)
			}
		})
	}
}

// Every mistake is one line on the standard error, and nothing elsewhere.
func TestMistakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	exists := filepath.Join(dir, "exists")
	if err := os.WriteFile(exists, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(`{"keys":[{"kty":"oct","kid":"a","k":"c2VjcmV0"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	const private = "testdata/private.json"
	for _, tc := range []struct {
		name, stdin string
		code        int
		want        string
		args        []string
	}{
		{"no command", "", 2, "no command given", nil},
		{"unknown command", "", 2, `"frobnicate" is no command`, []string{"frobnicate"}},
		{"help on an unknown command", "", 2, `"x" is no command`, []string{"help", "x"}},
		{"keys alone", "", 2, "one of new, add, prune and public", []string{"keys"}},
		{"unknown option", "", 2, "not defined: -colour; see gatectl help lint", []string{"lint", "--colour"}},
		{"operand missing", "", 2, "FILE is missing", []string{"lint"}},
		{"one operand too many", "", 2, `"b" is one argument too many`, []string{"keys", "public", "a", "b"}},
		{"version with an operand", "", 2, `"x" is one argument too many`, []string{"version", "x"}},
		{"unknown algorithm", "", 2, `--alg is "rsa"; it must be ed25519 or hmac-sha256`, []string{"keys", "new", "--alg", "rsa"}},
		{"bad kid", "", 2, "key id", []string{"keys", "new", "--kid", "a\nb"}},
		{"bad nbf", "", 2, `--nbf is "soon"`, []string{"keys", "new", "--nbf", "soon"}},
		{"nbf that no JWK has", "", 2, `--nbf is "1900-01-31T12:00:00Z"; it must be a time since 1970`, []string{"keys", "new", "--nbf", "1900-01-31T12:00:00Z"}},
		{"no duration", "", 2, `"30d" for flag -expires-in: it must be a duration such as 30s, 10m or 24h; see gatectl help keys new`, []string{"keys", "new", "--expires-in", "30d"}},
		{"an empty option", "", 2, "--out is empty; give it a value or leave it out", []string{"keys", "new", "--out", ""}},
		{"an empty kid to prune", "", 2, "--kid is empty", []string{"keys", "prune", private, "--kid", ""}},
		{"nbf twice", "", 2, "exclude each other", []string{"keys", "new", "--nbf", "2027-01-31T12:00:00Z", "--activate-in", "1m"}},
		{"expires before it is used", "", 2, "ends before the key is used", []string{"keys", "new", "--activate-in", "2h", "--expires-in", "1h"}},
		{"negative", "", 2, "must not be negative", []string{"keys", "new", "--expires-in", "-1h"}},
		{"new over a file", "", 1, "exists and stays as it is", []string{"keys", "new", "--out", exists}},
		{"new in no folder", "", 1, "no such file", []string{"keys", "new", "--out", filepath.Join(dir, "no", "k")}},
		{"add to no file", "", 1, "no such file", []string{"keys", "add", filepath.Join(dir, "absent")}},
		{"add to a folder", "", 1, "gatectl: keys add: " + dir + ": is a directory", []string{"keys", "add", dir}},
		{"add to public keys", "", 1, "holds public keys only; add to the set that signs", []string{"keys", "add", "testdata/keys-public.golden"}},
		{"add to garbage", "", 1, "garbage: ", []string{"keys", "add", garbage}},
		{"add a kid twice", "", 1, `holds a key "test-key-ed25519" already`, []string{"keys", "add", private, "--kid", "test-key-ed25519"}},
		{"add that retires too early", "", 2, "--retire-in is 5m0s; it must end after the new key is used", []string{"keys", "add", private, "--activate-in", "10m", "--retire-in", "5m"}},
		{"add that retires in the past", "", 2, "--retire-in is -5m0s", []string{"keys", "add", private, "--retire-in", "-5m"}},
		{"add to standard input", read(t, private), 2, "a set is changed in a file only", []string{"keys", "add", "-"}},
		{"public over a file", "", 1, "exists and stays as it is; leave out --out", []string{"keys", "public", private, "--out", exists}},
		{"public of standard input", "{}", 1, "gatectl: keys public: standard input: JWK Set: ", []string{"keys", "public", "-"}},
		{"public of a shared secret", "", 1, "is a shared secret (hmac-sha256) and has no public part", []string{"keys", "public", "testdata/shared.json"}},
		{"sign without keys", "", 2, "--keys is missing", []string{"sign", "--url", "http://a/"}},
		{"sign nothing", "", 2, "must name the request", []string{"sign", "--keys", private}},
		{"sign another scheme", "", 2, "must begin with http:// or https://", []string{"sign", "--keys", private, "--url", "ftp://a/"}},
		{"sign twice the target", "", 2, "--url excludes", []string{"sign", "--keys", private, "--url", "http://a/", "--target", "/"}},
		{"sign a user name", "", 2, "must not hold a user name", []string{"sign", "--keys", private, "--url", "http://u:p@a/"}},
		{"sign a fragment", "", 2, "gatectl: sign: target holds", []string{"sign", "--keys", private, "--url", "http://a/x#y"}},
		{"sign an unknown mode", "", 2, "gatectl: sign: mode is not one of", []string{"sign", "--keys", private, "--url", "http://a/", "--mode", "paranoid"}},
		{"sign in two forms", "", 2, "exclude each other", []string{"sign", "--keys", private, "--url", "http://a/", "--curl", "--plain"}},
		{"sign with another key", "", 1, `holds no key "b"`, []string{"sign", "--keys", private, "--url", "http://a/", "--kid", "b"}},
		{"sign for too long", "", 2, "--lifetime is 1h0m0s; it must be whole seconds from 1s to 5m0s", []string{"sign", "--keys", private, "--url", "http://a/", "--lifetime", "1h"}},
		{"verify without keys", "", 2, "--keys is missing", []string{"verify"}},
		{"verify everything from one input", "", 2, "cannot both come", []string{"verify", "--keys", "-"}},
		{"verify no authority", "X-Wallarm-Mode: block\n", 2, "the authority is not known", []string{"verify", "--keys", private, "--target", "/"}},
		{"verify no target", "Host: a\n", 2, "the target is not known", []string{"verify", "--keys", private}},
		{"verify two hosts", "Host: a\nHost: b\n", 1, "standard input: line 2: a second Host field", []string{"verify", "--keys", private, "--target", "/"}},
		{"verify no header", "nonsense\n", 1, "line 1 is no header line such as X-Wallarm-Mode: block", []string{"verify", "--keys", private}},
		{"verify keys as the head", "", 1, "gatectl: verify: testdata/shared.json: line 1 is no header line", []string{"verify", "--keys", private, "testdata/shared.json"}},
		{"verify a secret as the head", "c2VjcmV0c2VjcmV0\n", 1, "line 1 is no header line", []string{"verify", "--keys", private}},
		{"verify too much", strings.Repeat("A: b\n", 20000), 1, "is larger than 65536 bytes", []string{"verify", "--keys", private}},
		{"verify a bad time", "", 2, `--at is "now"`, []string{"verify", "--keys", private, "--at", "now"}},
		{"verify a bad mode", "", 2, "--min-mode", []string{"verify", "--keys", private, "--min-mode", "x"}},
		{"verify beyond the bounds", "", 2, "age", []string{"verify", "--keys", private, "--max-age", "1h"}},
		{"lint a folder", "", 1, "gatectl: lint: " + dir + ": is a directory", []string{"lint", dir}},
		{"lint no file", "", 1, "no such file", []string{"lint", filepath.Join(dir, "absent")}},
		{"lint no kong.yml", "", 1, "_format_version is missing", []string{"lint", garbage}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := run(t, signedAt, tc.stdin, tc.args...)
			lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
			if tc.args == nil {
				lines = lines[len(lines)-1:] // the list of commands comes first
			}
			if code != tc.code || len(lines) != 1 || !strings.HasPrefix(lines[0], "gatectl: ") || !strings.Contains(lines[0], tc.want) {
				t.Errorf("exit status %d, want %d; standard error %q, want one line with %q", code, tc.code, stderr, tc.want)
			}
			if stdout != "" {
				t.Errorf("standard output %q, want none", stdout)
			}
			if strings.Contains(stderr, "c2VjcmV0") {
				t.Errorf("the message holds a secret: %q", stderr)
			}
		})
	}
	if got := read(t, exists); got != "mine" {
		t.Errorf("an existing file now holds %q", got)
	}
}

// A life of a key file: new, add, rotate, prune.
func TestKeys(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "keys.json")
	step := func(now time.Time, wantCode int, args ...string) string {
		t.Helper()
		stdout, stderr, code := run(t, now, "", args...)
		if code != wantCode {
			t.Fatalf("%v: exit status %d, want %d: %s", args, code, wantCode, stderr)
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Fatalf("%v: mode %v, want 0600", args, st.Mode())
		}
		return stdout + stderr
	}
	keys := func() *evidence.KeySet {
		t.Helper()
		set, err := evidence.ParseKeySet([]byte(read(t, path)))
		if err != nil {
			t.Fatal(err)
		}
		return set
	}

	out := step(now, 0, "keys", "new", "--expires-in", "24h", "--out", path)
	first := keys().Keys()[0]
	if !strings.HasPrefix(first.ID, "2027-01-31-") || !first.CanSign() || !first.Expires.Equal(now.Add(24*time.Hour)) || !strings.Contains(out, first.ID) {
		t.Fatalf("new key %v expires %v, output %q", first, first.Expires, out)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	step(now, 0, "keys", "add", path, "--activate-in", "10m", "--kid", "second")
	if k, err := keys().SigningKey(now); err != nil || k.ID != first.ID {
		t.Errorf("signs with %v (%v) before the new key is active, want %s", k, err, first.ID)
	}
	if k, err := keys().SigningKey(now.Add(10 * time.Minute)); err != nil || k.ID != "second" || k.Alg != evidence.AlgEd25519 {
		t.Errorf("signs with %v (%v) once the new key is active, want second", k, err)
	}
	if out := step(now.Add(24*time.Hour), 0, "keys", "prune", path); !strings.Contains(out, "no key has expired") {
		t.Errorf("pruned within the largest clock skew: %q", out)
	}
	if out := step(now.Add(25*time.Hour), 0, "keys", "prune", path); !strings.Contains(out, "dropped "+first.ID) || len(keys().Keys()) != 1 {
		t.Errorf("prune left %v: %q", keys().Keys(), out)
	}
	step(now, 0, "keys", "add", "--nbf", "2027-02-01T00:00:00Z", "--expires-in", "48h", path)

	// A key without an end gets one when its successor retires it; one that
	// ends earlier keeps its own.
	third := keys().Keys()[1].ID
	step(now, 0, "keys", "add", path, "--kid", "fourth", "--activate-in", "1h", "--retire-in", "72h")
	for id, want := range map[string]time.Time{"second": now.Add(72 * time.Hour), third: now.Add(48 * time.Hour), "fourth": {}} {
		if got := keys().Lookup(id).Expires; !got.Equal(want) {
			t.Errorf("key %s expires %v, want %v", id, got, want)
		}
	}
	if out := step(now.Add(80*time.Hour), 0, "keys", "prune", path); strings.Count(out, "dropped ") != 2 || len(keys().Keys()) != 1 {
		t.Errorf("prune left %v: %q", keys().Keys(), out)
	}

	// No key may end before it begins: no part of the product would read the set.
	before := read(t, path)
	step(now.Add(80*time.Hour), 0, "keys", "add", path, "--kid", "later", "--activate-in", "2h")
	after := read(t, path)
	if out := step(now.Add(80*time.Hour), 2, "keys", "add", path, "--retire-in", "1h"); !strings.Contains(out, `key "later" is used from 2027-02-03T22:00:00Z on`) || read(t, path) != after {
		t.Errorf("retired a key before it begins: %q", out)
	}
	step(now.Add(80*time.Hour), 0, "keys", "prune", path, "--kid", "later")
	if got := read(t, path); got != before {
		t.Errorf("prune --kid left %s, want %s", got, before)
	}

	// One is taken away by its id, unless it is the one that signs.
	step(now.Add(80*time.Hour), 0, "keys", "add", path, "--kid", "fifth")
	step(now.Add(80*time.Hour), 0, "keys", "add", path, "--kid", "sixth", "--activate-in", "1h")
	if out := step(now.Add(80*time.Hour), 0, "keys", "prune", path, "--kid", "fourth"); !strings.Contains(out, "dropped fourth, no expiry") || keys().Lookup("fourth") != nil {
		t.Errorf("prune --kid left %v: %q", keys().Keys(), out)
	}
	for id, want := range map[string]string{"fifth": "without a usable key", "fourth": `has no key "fourth"`} {
		before := read(t, path)
		if _, stderr, code := run(t, now.Add(80*time.Hour), "", "keys", "prune", path, "--kid", id); code != 1 || !strings.Contains(stderr, want) || read(t, path) != before {
			t.Errorf("prune --kid %s: exit status %d, %q", id, code, stderr)
		}
	}

	// The last key that signs is never dropped, and the file stays as it is.
	alone := filepath.Join(t.TempDir(), "alone.json")
	if _, stderr, code := run(t, now, "", "keys", "new", "--expires-in", "1h", "--out", alone); code != 0 {
		t.Fatal(stderr)
	}
	before = read(t, alone)
	_, stderr, code := run(t, now.Add(48*time.Hour), "", "keys", "prune", alone)
	if code != 1 || !strings.Contains(stderr, "would be left without a usable key") || read(t, alone) != before {
		t.Errorf("prune of the last key: exit status %d, %q", code, stderr)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v (%v), want the key file alone", entries, err)
	}
}

// The symbolic link of a mounted secret stays a link.
func TestKeysAddThroughLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, link := filepath.Join(dir, "real.json"), filepath.Join(dir, "link.json")
	if err := os.WriteFile(path, []byte(read(t, "testdata/private.json")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real.json", link); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := run(t, signedAt, "", "keys", "add", link); code != 0 {
		t.Fatal(stderr)
	}
	st, err := os.Lstat(link)
	if err != nil || st.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("%s is no link any more (%v)", link, err)
	}
	set, err := evidence.ParseKeySet([]byte(read(t, path)))
	if err != nil || len(set.Keys()) != 2 {
		t.Errorf("the file behind the link holds %v (%v), want two keys", set, err)
	}
}

// A file that changed since it was read is not overwritten.
func TestReplaceChangedFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := replaceFile(path, []byte("as it was"), []byte("mine"))
	if err == nil || !strings.Contains(err.Error(), "changed by somebody else") || read(t, path) != "theirs" {
		t.Errorf("error %v, content %q", err, read(t, path))
	}
}

// What public prints holds no private part.
func TestPublicHoldsNoSecret(t *testing.T) {
	t.Parallel()
	stdout, _, _ := run(t, signedAt, "", "keys", "public", "testdata/private.json")
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal([]byte(stdout), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("%v in %q", err, stdout)
	}
	if _, there := set.Keys[0]["d"]; there || strings.Contains(stdout, "n4Ni") {
		t.Errorf("the public set holds the private part: %s", stdout)
	}
	if strings.Contains(read(t, "testdata/keys-public.golden"), `"d"`) {
		t.Error("the golden file holds a private part")
	}
}

// Whatever sign prints, in each of its forms, verify accepts for that request
// and for no other.
func TestSignThenVerify(t *testing.T) {
	t.Parallel()
	for _, keys := range []string{"testdata/private.json", "testdata/shared.json"} {
		for _, form := range []string{"", "--plain", "--curl"} {
			t.Run(filepath.Base(keys)+form, func(t *testing.T) {
				t.Parallel()
				args := []string{"sign", "--keys", keys, "--method", "POST", "--url", `https://Api.Example:443/a;b=%2F/c?q={x}&r=1`}
				if form == "--curl" { // it names the request, too
					head, stderr, _ := run(t, signedAt, "", append(args, form)...)
					if stdout, verr, code := run(t, signedAt, head, "verify", "--keys", keys); code != 0 {
						t.Errorf("verify of a curl configuration: exit status %d\n%s%s%s", code, stdout, verr, stderr)
					}
				}
				if form != "" {
					args = append(args, form)
				}
				head, stderr, code := run(t, signedAt, "", args...)
				if code != 0 {
					t.Fatal(stderr)
				}
				for _, tc := range []struct {
					method, authority, target string
					want                      int
				}{
					{"POST", "api.example", `/a;b=%2F/c?q={x}&r=1`, 0},
					{"GET", "api.example", `/a;b=%2F/c?q={x}&r=1`, 1},
					{"POST", "api.example:443", `/a;b=%2F/c?q={x}&r=1`, 1},
					{"POST", "api.example", `/a;b=%2f/c?q={x}&r=1`, 1},
				} {
					stdout, stderr, code := run(t, signedAt, head, "verify", "--keys", keys, "--method", tc.method, "--authority", tc.authority, "--target", tc.target)
					if code != tc.want {
						t.Errorf("verify of %+v: exit status %d\n%s%s", tc, code, stdout, stderr)
					}
				}
			})
		}
	}
}

// A duplicate evidence header, in whatever spelling, is no evidence.
func TestVerifyDuplicates(t *testing.T) {
	t.Parallel()
	head := strings.Replace(read(t, "testdata/head.txt"), "X-Wallarm-Mode: block\n", "X-Wallarm-Mode: block\nx_wallarm-mode: block\n", 1)
	stdout, _, code := run(t, signedAt, head, "verify", "--keys", "testdata/private.json")
	if code != 1 || !strings.Contains(stdout, "malformed_evidence") {
		t.Errorf("exit status %d\n%s", code, stdout)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if stdout, _, code := run(t, signedAt, "", "version"); code != 0 || !strings.HasPrefix(stdout, "gatectl ") {
		t.Errorf("exit status %d, output %q", code, stdout)
	}
}

// readRequest is total, and what it reads can be shown.
func FuzzReadRequest(f *testing.F) {
	for _, name := range []string{"testdata/head.txt"} {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("url = \"http://a/\"\npath-as-is\nheader = \"Signature: \\\"x\\\"\"\n-H 'X-Wallarm-Mode: block' \\\n"))
	f.Add([]byte("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nbody"))
	keys, err := evidence.ParseKeySet(mustRead(f, "testdata/private.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r evidence.Request
		if err := readRequest(data, &r); err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Fatalf("the error is more than one line: %q", err)
			}
			return
		}
		var out bytes.Buffer
		tl := &tool{stdout: &out}
		if err := tl.explain(&r, evidence.Attestation{}, evidence.ReasonMalformedEvidence, keys, signedAt, true); err != nil {
			t.Fatal(err)
		}
	})
}

func mustRead(tb testing.TB, path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// The manual names every option of every command.
func TestManualIsComplete(t *testing.T) {
	t.Parallel()
	manual := read(t, "README.md")
	options := 0
	for _, c := range commands() {
		stdout, _, code := run(t, signedAt, "", append([]string{"help"}, strings.Fields(c.name)...)...)
		if code != 0 || !strings.Contains(manual, "gatectl "+strings.TrimSpace(c.name)) {
			t.Errorf("the manual does not have the command %q", c.name)
		}
		for line := range strings.Lines(stdout) {
			name, ok := strings.CutPrefix(line, "  -")
			if !ok {
				continue
			}
			options++
			name = strings.Fields(name)[0]
			if !strings.Contains(manual, "`--"+name) {
				t.Errorf("the manual does not explain --%s of %s", name, c.name)
			}
		}
	}
	if options < 25 {
		t.Errorf("only %d options found", options)
	}
}
