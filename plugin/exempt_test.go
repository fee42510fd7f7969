package main

import (
	"path"
	"strings"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func TestParseExemptPath(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in, path   string
		prefix, ok bool
	}{
		{"/", "/", false, true},
		{"/healthz", "/healthz", false, true},
		{"/.well-known/x_y~z-1", "/.well-known/x_y~z-1", false, true},
		{"/a/b/*", "/a/b/", true, true},
		{"/...", "/...", false, true},
		{"", "", false, false},
		{"*", "", false, false},
		{"/*", "", false, false},
		{"//*", "", false, false},
		{"healthz", "", false, false},
		{"/healthz/", "", false, false},
		{"/a//b", "", false, false},
		{"/a/./b", "", false, false},
		{"/a/..", "", false, false},
		{"/a/../*", "", false, false},
		{"/a*", "", false, false},
		{"/a/*/b", "", false, false},
		{"/a%2fb", "", false, false},
		{"/a;b", "", false, false},
		{"/a?b", "", false, false},
		{"/\xe4", "", false, false},
	} {
		p, prefix, err := parseExemptPath(c.in)
		if (err == nil) != c.ok || err == nil && (p != c.path || prefix != c.prefix) {
			t.Errorf("parseExemptPath(%q) = %q, %v, %v", c.in, p, prefix, err)
		}
	}
}

// Whatever is exempt has a path that every parser reads alike: it is its own
// normal form, below the exempted one, whatever the target's other bytes are.
func FuzzExempt(f *testing.F) {
	for _, target := range []string{"/healthz", "/pub/a", "/healthz/../admin", "/pub/..;/x", "/pub/%2e%2e/", "/healthz?/../", "/pub//", "//healthz", "/healthz#x"} {
		f.Add(target, "GET", "example.com")
	}
	list := []exemption{
		{path: "/healthz", methods: methods},
		{path: "/pub/", prefix: true, methods: []string{"GET"}, hosts: []string{"example.com"}},
	}
	f.Fuzz(func(t *testing.T, target, method, host string) {
		r := evidence.Request{Message: evidence.Message{Method: method, Target: target}}
		if !exempted(list, &r, host) {
			return
		}
		p, _, _ := strings.Cut(target, "?")
		switch {
		case p != path.Clean(p), strings.ContainsAny(p, "%;\\#*"):
			t.Fatalf("%q is exempt", target)
		case method != "GET" && method != "HEAD":
			t.Fatalf("%q is exempt", method)
		case p != "/healthz" && (!strings.HasPrefix(p, "/pub/") || host != "example.com" || method != "GET"):
			t.Fatalf("%s %q on %q is exempt", method, target, host)
		}
		r.Upgrade = true
		if exempted(list, &r, host) {
			t.Fatal("an upgrade is exempt")
		}
	})
}
