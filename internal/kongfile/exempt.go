package kongfile

// This file judges a gate's exemptions: each one by itself, and together
// whether they leave a whole route without a gate.

import (
	"regexp/syntax"
	"slices"
	"strings"
)

const (
	// maxExemptions is the most that the gate takes.
	maxExemptions = 32
	// maxPath bounds the path of a route that is held against exemptions, in bytes.
	maxPath = 1024
)

// exemption is one that lets GET pass from every source.
type exemption struct {
	path   string // ends with '/' if prefix
	prefix bool
	hosts  []string // empty: any
}

// gateExempt lists the exemptions, and returns those for GET from every source.
func (c *check) gateExempt(g config) (open []exemption) {
	v := g.n.get("exempt")
	if v == nil {
		return nil
	}
	if v.kind != kindList {
		g.refuse("exempt", "is %s; it must be a list", v.kind)
		return nil
	}
	g.atMost("exempt", maxExemptions)
	for _, item := range v.items {
		e := config{c, g.where, "config.exempt", item}
		if item.kind != kindMap {
			g.refuse("exempt", "holds %s; each entry must be a mapping with a path", item.kind)
			continue
		}
		e.known()
		path := e.text("path")
		if path == "" {
			e.refuse("path", "is missing")
			continue
		}
		if !exemptPath(path) {
			g.denyAll("the exempt path %s is not segments of [A-Za-z0-9._~-] without an empty or a dot segment, or such a prefix and /*", quote(path))
			continue
		}
		methods := e.strings("methods")
		if i := slices.IndexFunc(methods, func(m string) bool { return m != "GET" && m != "HEAD" }); i >= 0 {
			e.refuse("methods", "holds %s; only GET and HEAD can be exempt", quote(methods[i]))
			continue
		}
		if len(methods) == 0 {
			methods = []string{"GET", "HEAD"}
		}
		hosts := e.strings("hosts")
		e.atMost("hosts", maxHosts)
		anySource := e.prefixes("sources")
		limits := ""
		if len(hosts) > 0 {
			limits += " for " + strings.Join(mapped(hosts, quoteName), ", ")
		}
		if !anySource {
			limits += " from " + strings.Join(mapped(e.strings("sources"), quoteName), ", ")
		}
		c.add(Note, g.where, "exempts %s %s%s", strings.Join(methods, " and "), path, limits)
		if anySource && slices.Contains(methods, "GET") && len(open) < maxExemptions {
			prefix := strings.TrimSuffix(path, "*")
			open = append(open, exemption{prefix, prefix != path, hosts})
		}
	}
	return open
}

// exemptPath is the gate's own rule for the path of an exemption.
func exemptPath(path string) bool {
	if path == "/" {
		return true
	}
	path, _ = strings.CutSuffix(path, "/*")
	segments := strings.Split(path, "/")
	if len(segments) < 2 || segments[0] != "" {
		return false
	}
	for _, s := range segments[1:] {
		if s == "" || s == "." || s == ".." || strings.ContainsFunc(s, notUnreserved) {
			return false
		}
	}
	return true
}

// notUnreserved reports a character outside the unreserved ones of RFC 3986.
func notUnreserved(r rune) bool {
	return !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || strings.ContainsRune("._~-", r))
}

// exempted reports a route that the gate's exemptions cover whole: then a GET
// needs no evidence on it, as if it had no gate. A prefix /a/* is taken to cover
// a path /a, although /a itself and /ab still need evidence there. A route on
// which Kong answers by itself may be exempt.
func (c *check) exempted(r *route, gate *plugin) {
	paths := r.list("paths")
	if methods := r.list("methods"); len(paths) == 0 || len(methods) > 0 &&
		!slices.ContainsFunc(methods, func(m *node) bool { return m.text == "GET" }) {
		return
	}
	for _, p := range paths {
		l := literalOf(p.text)
		if !slices.ContainsFunc(gate.exempt, func(e exemption) bool { return e.covers(l) && e.onHostOf(r) }) {
			return
		}
	}
	if r.service == nil && c.caller(r) == nil {
		return
	}
	c.add(Open, r.where, "is exempt as a whole: the exemptions of %s cover all of its paths, so a GET needs no evidence", gate.where)
}

// onHostOf reports whether a request of the route can have a host of e. A host
// of the route with a wildcard or a port is taken to be any.
func (e exemption) onHostOf(r *route) bool {
	hosts := r.list("hosts")
	return len(e.hosts) == 0 || len(hosts) == 0 || slices.ContainsFunc(hosts, func(h *node) bool {
		return strings.ContainsAny(h.text, "*:") || slices.ContainsFunc(e.hosts, func(s string) bool { return strings.EqualFold(s, h.text) })
	})
}

// covers reports whether e covers all that starts with l as l says.
func (e exemption) covers(l *literal) bool {
	begin := l.text.String()
	switch {
	case !e.prefix:
		return l.ended && begin == e.path
	case l.open || l.ended:
		return strings.HasPrefix(begin, e.path)
	}
	return strings.HasPrefix(strings.TrimRight(begin, "/")+"/", e.path)
}

// literal is the text with which all begins that a path of a route matches.
type literal struct {
	text  strings.Builder
	open  bool // something that is no literal follows
	ended bool // nothing may follow
}

// literalOf reads a path of a route: a prefix, or after '~' a regular
// expression. Of what it cannot read it knows no text.
func literalOf(path string) *literal {
	l := &literal{}
	expr, ok := strings.CutPrefix(path, "~")
	if len(path) > maxPath {
		l.open = true
	} else if !ok {
		l.text.WriteString(path)
	} else if re, err := syntax.Parse(expr, syntax.Perl); err != nil {
		l.open = true
	} else {
		l.read(re)
	}
	return l
}

func (l *literal) read(re *syntax.Regexp) {
	switch {
	case l.open || l.ended:
	case re.Op == syntax.OpLiteral && re.Flags&syntax.FoldCase == 0:
		l.text.WriteString(string(re.Rune))
	case re.Op == syntax.OpConcat || re.Op == syntax.OpCapture:
		for _, sub := range re.Sub {
			l.read(sub)
		}
	case re.Op == syntax.OpEndText:
		l.ended = true
	case re.Op == syntax.OpBeginText || re.Op == syntax.OpEmptyMatch:
	default:
		l.open = true
	}
}
