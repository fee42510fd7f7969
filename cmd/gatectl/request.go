package main

// The request that sign and verify speak about: read from options, or from the
// head of a request as it went over the wire.

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"strings"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// requestOptions name a request.
type requestOptions struct{ method, url, authority, target string }

func (o *requestOptions) register(fs *flag.FlagSet, method string) {
	fs.StringVar(&o.method, "method", method, "request `method`")
	fs.StringVar(&o.url, "url", "", "`URL` of the request: sets --authority and --target")
	fs.StringVar(&o.authority, "authority", "", "`host` field of the request, with the port unless it is the scheme's own")
	fs.StringVar(&o.target, "target", "", "request `target`: path and query exactly as they are sent")
}

// apply sets what the options name in m. The target of a URL is taken byte for
// byte: a parser that decodes and encodes again would sign something else.
func (o *requestOptions) apply(m *evidence.Message) error {
	authority, target := o.authority, o.target
	if o.url != "" {
		if authority != "" || target != "" {
			return usagef("--url excludes --authority and --target")
		}
		scheme, rest, ok := strings.Cut(o.url, "://")
		if !ok || scheme != "http" && scheme != "https" {
			return usagef("--url is %q; it must begin with http:// or https://", o.url)
		}
		end := strings.IndexAny(rest, "/?#")
		if end < 0 {
			end = len(rest)
		}
		authority, target = rest[:end], rest[end:]
		if strings.Contains(authority, "@") {
			return usagef("--url must not hold a user name")
		}
		if scheme == "http" {
			authority = strings.TrimSuffix(authority, ":80")
		} else {
			authority = strings.TrimSuffix(authority, ":443")
		}
		if target == "" || target[0] != '/' {
			target = "/" + target
		}
	}
	set(&m.Method, o.method)
	set(&m.Authority, authority)
	set(&m.Target, target)
	return nil
}

func set(field *string, value string) {
	if value != "" {
		*field = value
	}
}

// fields returns the evidence of m as header fields, in the contract's order.
func fields(m *evidence.Message) [][2]string {
	return [][2]string{
		{evidence.HeaderRequestID, m.RequestID},
		{evidence.HeaderClientIP, m.ClientIP},
		{evidence.HeaderMode, m.Mode},
		{evidence.HeaderApplication, m.Application},
		{evidence.HeaderNode, m.Node},
		{evidence.HeaderInspection, m.Inspection},
		{evidence.HeaderSignatureInput, m.SignatureInput},
		{evidence.HeaderSignature, m.Signature},
	}
}

// field returns where r keeps the evidence header of that folded name.
func field(r *evidence.Request, folded string) *string {
	switch folded {
	case evidence.FoldHeader(evidence.HeaderRequestID):
		return &r.RequestID
	case evidence.FoldHeader(evidence.HeaderClientIP):
		return &r.ClientIP
	case evidence.FoldHeader(evidence.HeaderMode):
		return &r.Mode
	case evidence.FoldHeader(evidence.HeaderApplication):
		return &r.Application
	case evidence.FoldHeader(evidence.HeaderNode):
		return &r.Node
	case evidence.FoldHeader(evidence.HeaderInspection):
		return &r.Inspection
	case evidence.FoldHeader(evidence.HeaderSignatureInput):
		return &r.SignatureInput
	case evidence.FoldHeader(evidence.HeaderSignature):
		return &r.Signature
	}
	return nil
}

// readRequest reads header lines into r: "Name: value", with or without a
// request line before them, or what sign prints (-H 'Name: value' and curl's
// header = "Name: value", with its url and request). It stops at an empty line.
// Equal names are joined with ", ", as nginx joins them.
func readRequest(data []byte, r *evidence.Request) error {
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxHead)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSuffix(lines.Text(), "\r")
		if line == "" {
			break
		}
		if method, rest, ok := strings.Cut(line, " "); n == 1 && ok && strings.Contains(rest, " HTTP/") {
			i := strings.LastIndex(rest, " HTTP/")
			r.Method, r.Target = method, rest[:i]
			continue
		}
		line = strings.TrimSuffix(strings.TrimSpace(line), `\`)
		line = strings.TrimSpace(line)
		if inner, ok := strings.CutPrefix(line, "-H '"); ok {
			line = strings.TrimSuffix(inner, "'")
		} else if inner, ok := strings.CutPrefix(line, `header = "`); ok {
			line = curlUnquote(inner)
		} else if inner, ok := strings.CutPrefix(line, `url = "`); ok {
			o := requestOptions{url: curlUnquote(inner)}
			if err := o.apply(&r.Message); err != nil {
				return fmt.Errorf("line %d: the url of a curl configuration must begin with http:// or https:// and hold no user name", n)
			}
			continue
		} else if inner, ok := strings.CutPrefix(line, `request = "`); ok {
			r.Method = curlUnquote(inner)
			continue
		} else if strings.Contains(line, " = ") && !strings.Contains(line, ":") || line == "path-as-is" {
			continue // the rest of a curl configuration
		}
		// The line is not repeated: a file of secrets may stand here by mistake.
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) {
			return fmt.Errorf("line %d is no header line such as %s: block", n, evidence.HeaderMode)
		}
		value = strings.Trim(value, " \t")
		folded := evidence.FoldHeader(name)
		switch folded {
		case "host":
			if seen[folded] {
				return fmt.Errorf("line %d: a second Host field", n)
			}
			r.Authority = value
		case "upgrade":
			r.Upgrade = r.Upgrade || value != ""
		case "connection":
			for token := range strings.SplitSeq(value, ",") {
				r.Upgrade = r.Upgrade || strings.EqualFold(strings.TrimSpace(token), "upgrade")
			}
		default:
			if f := field(r, folded); f != nil && seen[folded] {
				*f += ", " + value
			} else if f != nil {
				*f = value
			}
		}
		seen[folded] = true
	}
	return lines.Err()
}

// isToken reports whether s can be the name of a field (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// maxHead is the largest request head that is read, in bytes.
const maxHead = 64 << 10

func cut(s string) string {
	const most = 60
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
