package evidence

import (
	"fmt"
	"strings"
	"testing"
)

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

// Every check that goes byte by byte, against the whole list of what it allows.
func TestAllowedBytes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		allowed string
		check   func(c string) error
	}{
		"node":         {lower + upper + digits + "._:/-", checkNode},
		"authority":    {lower + upper + digits + ".-_:[]", checkAuthority},
		"method":       {lower + upper + digits + "!#$%&'*+-.^_`|~", checkMethod},
		"path":         {lower + upper + digits + "-._~!$&'()*+,;=:@/%[]?", func(c string) error { return CheckTarget("/a" + c) }},
		"query":        {lower + upper + digits + "-._~!$&'()*+,;=:@/%[]?{}|^`", func(c string) error { return CheckTarget("/?" + c) }},
		"request id":   {digits + "abcdef", func(c string) error { return checkRequestID(strings.Repeat("0", 31) + c) }},
		"its first":    {digits + "abcdef", func(c string) error { return checkRequestID(c + strings.Repeat("0", 31)) }},
		"application":  {digits, func(c string) error { _, err := parseApplication("1" + c); return err }},
		"first of it":  {"123456789", func(c string) error { _, err := parseApplication(c); return err }},
		"token's byte": {printable(",", " "), func(c string) error { _, err := NewTokenSet(strings.Repeat("a", 31) + c); return err }},
		"key id":       {printable(), checkKeyID},
		"as a String":  {printable(), func(c string) error { return cutsTo(strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(c), c) }},
	} {
		for c := range 256 {
			b := string([]byte{byte(c)})
			if err := tt.check(b); (err == nil) != strings.Contains(tt.allowed, b) {
				t.Errorf("%s: byte %q: %v", name, b, err)
			}
		}
	}
}

// cutsTo reports whether a String with this spelling has the value.
func cutsTo(spelling, value string) error {
	got, rest, err := cutString(`"` + spelling + `";x`)
	if err == nil && (got != value || rest != ";x") {
		err = fmt.Errorf("%q is %q, and %q remains", spelling, got, rest)
	}
	return err
}

// printable is printable ASCII without the given bytes.
func printable(but ...string) string {
	var all strings.Builder
	for c := ' '; c <= '~'; c++ {
		all.WriteRune(c)
	}
	s := all.String()
	for _, b := range but {
		s = strings.ReplaceAll(s, b, "")
	}
	return s
}

// Every bound on a length: what has it passes, one byte more does not.
// No honest Signature-Input is as long, so that the bound shows in the error alone.
func TestSignatureInputLength(t *testing.T) {
	t.Parallel()
	for length, want := range map[int]error{1024: errInputLabel, 1025: errInputLength} {
		if _, err := ParseSignatureInput(strings.Repeat("a", length)); err != want {
			t.Errorf("%d bytes: %v, want %v", length, err, want)
		}
	}
}

func TestLengthBounds(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		longest int
		check   func(s string) error
	}{
		"node":      {128, checkNode},
		"authority": {320, checkAuthority},
		"method":    {32, checkMethod},
		"target":    {64 << 10, func(s string) error { return CheckTarget("/" + s[1:]) }},
		"key id":    {128, checkKeyID},
	} {
		if err := tt.check(strings.Repeat("a", tt.longest)); err != nil {
			t.Errorf("%s of %d bytes: %v", name, tt.longest, err)
		}
		if err := tt.check(strings.Repeat("a", tt.longest+1)); err == nil {
			t.Errorf("%s of %d bytes: accepted", name, tt.longest+1)
		}
	}
	for s, want := range map[string]bool{
		"2147483647": true, "2147483648": false, "9999999999": false, "11111111111": false, "": false, "1": true, "-1": true, "-": false,
	} {
		if n, err := parseApplication(s); (err == nil) != want {
			t.Errorf("application %q: %d, %v", s, n, err)
		}
	}
	for s, want := range map[string]bool{
		"2001:0db8:1111:2222:3333:4444:5555:6666": true, "0000:0000:0000:0000:0000:ffff:255.255.255.255": true, "": false, "%": false,
	} {
		if err := checkClientIP(s); (err == nil) != want {
			t.Errorf("client address %q: %v", s, err)
		}
	}
	if Mode(4).String() != "mode(4)" || Inspection(4).String() != "inspection(4)" {
		t.Error("a value out of range has the name of another")
	}
	if FoldHeader("AZ@[_az") != "az@[-az" || FoldHeader("Z") != "z" || FoldHeader("A") != "a" || FoldHeader("a-z") != "a-z" {
		t.Error("FoldHeader folds more or less than A to Z and _")
	}
	if lowerASCII("AZ@[_az") != "az@[_az" || lowerASCII("Z") != "z" || lowerASCII("A") != "a" {
		t.Error("lowerASCII folds more or less than A to Z")
	}
}
