// Kong's normal form of a path (tools/uri.lua): what it routes by and what
// the upstream gets.

package pluginhost

import (
	"fmt"
	"strings"
)

// pathOf cuts the query off a target the way Kong's router does: at the first
// '?' that is not the first byte. A '#' stays.
func pathOf(target string) string {
	if len(target) > 1 {
		if i := strings.IndexByte(target[1:], '?'); i >= 0 {
			return target[:i+1]
		}
	}
	return target
}

const reserved = "!*'();:@&=+$,/?%#[]"

// normalPath decodes the percent-escapes of every byte but the reserved ones
// (those are put in upper case), removes dot segments and merges slashes.
func normalPath(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) && isHex(path[i+1]) && isHex(path[i+2]) {
			c := unhex(path[i+1])<<4 | unhex(path[i+2])
			if strings.IndexByte(reserved, c) >= 0 {
				b.WriteString(strings.ToUpper(path[i : i+3]))
			} else {
				b.WriteByte(c)
			}
			i += 2
			continue
		}
		b.WriteByte(path[i])
	}
	path = b.String()
	if !strings.Contains(path, ".") && !strings.Contains(path, "//") {
		return path
	}

	// Each element of out is a segment with the slash in front of it.
	var out []string
	pop := func() {
		if len(out) > 0 {
			out = out[:len(out)-1]
		}
	}
	for path != "" {
		switch {
		case path == "/.":
			path = "/"
		case path == "/..":
			path = "/"
			pop()
		case path == ".", path == "..":
			path = ""
		case strings.HasPrefix(path, "../"):
			path = path[3:]
		case strings.HasPrefix(path, "./"):
			path = path[2:]
		case strings.HasPrefix(path, "/./"):
			path = path[2:]
		case strings.HasPrefix(path, "/../"):
			path = path[3:]
			pop()
		case strings.HasPrefix(path, "//"):
			path = path[1:]
		default:
			end := strings.IndexByte(path[1:], '/') + 1
			if end == 0 {
				end = len(path)
			}
			out = append(out, path[:end])
			path = path[end:]
		}
	}
	return strings.Join(out, "")
}

// escapePath encodes what must not stand in a request line.
func escapePath(path string) string {
	var b strings.Builder
	for i := range len(path) {
		c := path[i]
		if isAlpha(c) || c >= '0' && c <= '9' || strings.IndexByte("!#$&'()*+,/:;=?@[]-_.~%", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return (c | 0x20) - 'a' + 10
}
