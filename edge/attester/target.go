package main

import (
	"errors"
	"net/http"
	"strings"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The request line and the Host field: what is forwarded is what was received,
// and what is signed is what is forwarded.

// checkTarget reports why a request must not be forwarded. net/http writes a
// target anew from its parsed form, which for some inputs is another target
// than the one that the node inspected; those are refused.
func checkTarget(r *http.Request) error {
	if r.Method == http.MethodConnect {
		return errors.New("method CONNECT is not forwarded")
	}
	if err := evidence.CheckTarget(r.RequestURI); err != nil {
		return err
	}
	if r.URL.Opaque != "" || r.URL.RequestURI() != r.RequestURI {
		return errors.New("target would change when forwarded")
	}
	return nil
}

// forwardedHost returns the Host field without a default port. The signature
// covers it, and a verifier behind TLS termination cannot know the scheme that
// would make a default port redundant.
func forwardedHost(host string) (string, error) {
	name, port := host, ""
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 2 {
			return "", errors.New("host is no name or address")
		}
		for i := 1; i < end; i++ {
			if c := host[i]; !isHexDigit(c) && c != ':' && c != '.' {
				return "", errors.New("host is no name or address")
			}
		}
		name, port = host[:end+1], host[end+1:]
	} else {
		if i := strings.IndexByte(host, ':'); i >= 0 {
			name, port = host[:i], host[i:]
		}
		if name == "" || len(name) > 255 {
			return "", errors.New("host is empty or longer than 255 bytes")
		}
		for i := 0; i < len(name); i++ {
			switch c := name[i]; {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
			default:
				return "", errors.New("host holds a byte that no name has")
			}
		}
	}
	switch {
	case port == "":
		return name, nil
	case port == ":80", port == ":443":
		return name, nil
	case len(port) < 2 || len(port) > 6 || port[0] != ':':
		return "", errors.New("host has a port that is no number")
	}
	for i := 1; i < len(port); i++ {
		if port[i] < '0' || port[i] > '9' {
			return "", errors.New("host has a port that is no number")
		}
	}
	return host, nil
}

func isHexDigit(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
