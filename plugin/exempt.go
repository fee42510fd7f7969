package main

// Exemptions: requests that need no evidence, such as a load balancer's health
// check. An exemption is a hole in the gate, so it matches only what every
// parser on the way reads alike.

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// exemption is one entry of config.exempt. Empty hosts and sources mean any.
type exemption struct {
	path    string // the path, or the prefix with its final '/'
	prefix  bool
	methods []string
	hosts   []string // as $host: lower case, without a port
	sources []netip.Prefix
}

// parseExemptPath reads "/a/b" or "/a/b/*".
func parseExemptPath(s string) (path string, prefix bool, err error) {
	path, prefix = strings.CutSuffix(s, "/*")
	switch {
	case prefix && path == "":
		return "", false, fmt.Errorf("path %s would exempt everything: want a prefix with at least one segment, such as /healthz/*", quote(s))
	case !prefix && s == "/":
		return s, false, nil
	case !plainPath(path):
		return "", false, fmt.Errorf("path %s: want /segments of A-Z a-z 0-9 . _ ~ -, none of them empty, . or .., or such a prefix and /*", quote(s))
	}
	if prefix {
		path += "/"
	}
	return path, prefix, nil
}

// plainPath reports whether p is one or more segments, each "/" and at least
// one of the unreserved characters of RFC 3986, and none a dot segment. Such a
// path is its own normal form. "%2e", ";" and "//" are read differently by
// nginx, Kong and upstreams.
func plainPath(p string) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	for p != "" {
		end := strings.IndexByte(p[1:], '/') + 1
		if end == 0 {
			end = len(p)
		}
		switch segment := p[1:end]; segment {
		case "", ".", "..":
			return false
		default:
			for i := 0; i < len(segment); i++ {
				switch c := segment[i]; {
				case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
				case c == '.', c == '_', c == '~', c == '-':
				default:
					return false
				}
			}
		}
		p = p[end:]
	}
	return true
}

// matches reports whether the exemption covers r. The caller has made sure that
// host, which is nginx's, agrees with the Host field.
func (e *exemption) matches(r *evidence.Request, path, host string) bool {
	if e.prefix && !strings.HasPrefix(path, e.path) || !e.prefix && path != e.path {
		return false
	}
	if !slices.Contains(e.methods, r.Method) {
		return false
	}
	if len(e.hosts) > 0 && !slices.Contains(e.hosts, host) {
		return false
	}
	return len(e.sources) == 0 ||
		slices.ContainsFunc(e.sources, func(p netip.Prefix) bool { return p.Contains(r.Source) })
}

// exempted reports whether one of the exemptions covers r.
func exempted(list []exemption, r *evidence.Request, host string) bool {
	if len(list) == 0 || r.Upgrade || evidence.CheckTarget(r.Target) != nil {
		return false
	}
	path, _, _ := strings.Cut(r.Target, "?")
	if path != "/" && !plainPath(path) {
		return false
	}
	for i := range list {
		if list[i].matches(r, path, host) {
			return true
		}
	}
	return false
}
