package bypass

// The values of the format: bytes with escapes and placeholders.

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// text is literal bytes and placeholders, in order.
type text []part

type part struct {
	literal string
	name    string // of the placeholder; "" for a literal
	field   string // of evidence: {{e.field}}
	except  string // of evidence: {{e!field}}
	times   int    // of {{repeat N TEXT}}, whose TEXT is literal
}

// noLineEnd, at the end of a line of bytes, leaves its CR LF away.
const noLineEnd = `\`

const maxRepeat = 40_000

// The placeholders that name no evidence.
const (
	nameMark   = "mark"   // a text that no other request holds
	nameHost   = "host"   // the host that the edge and the signature know
	nameToken  = "token"  // the token of the route /token
	nameRepeat = "repeat" // {{repeat N TEXT}}
)

var reservedNames = []string{nameMark, nameHost, nameToken, nameRepeat}

var (
	evidenceForm = regexp.MustCompile(`^([a-z][a-z0-9]{0,15})(?:([.!])([a-z-]{1,16}))?$`)
	repeatForm   = regexp.MustCompile(`^repeat ([1-9][0-9]{0,5}) (.+)$`)
)

// parseText reads a value. In a line of bytes it appends the CR LF that the line
// stands for, unless the line ends with a backslash.
func parseText(s string, isLine bool) (text, error) {
	var t text
	var literal []byte
	flush := func() {
		if len(literal) > 0 {
			t = append(t, part{literal: string(literal)})
			literal = nil
		}
	}
	end := "\r\n"
	if !isLine {
		end = ""
	}
	for s != "" {
		switch {
		case isLine && s == noLineEnd:
			s, end = "", ""
		case s[0] == '\\':
			c, rest, err := unescape(s)
			if err != nil {
				return nil, err
			}
			literal, s = append(literal, c), rest
		case strings.HasPrefix(s, "{{"):
			inner, rest, ok := strings.Cut(s[2:], "}}")
			if !ok {
				return nil, errors.New("{{ without }}")
			}
			p, err := parsePlaceholder(inner)
			if err != nil {
				return nil, err
			}
			flush()
			t, s = append(t, p), rest
		default:
			literal, s = append(literal, s[0]), s[1:]
		}
	}
	literal = append(literal, end...)
	flush()
	return t, nil
}

// unescape reads one escape off the front of s.
func unescape(s string) (byte, string, error) {
	if len(s) > 1 {
		if i := strings.IndexByte(`rnt\{`, s[1]); i >= 0 {
			return "\r\n\t\\{"[i], s[2:], nil
		}
		if s[1] == 'x' && len(s) >= 4 {
			if n, err := strconv.ParseUint(s[2:4], 16, 8); err == nil && strings.Trim(s[2:4], "0123456789abcdef") == "" {
				return byte(n), s[4:], nil
			}
		}
	}
	return 0, "", fmt.Errorf(`%.4q: want one of \r \n \t \\ \{ or \x and two lower-case hex digits`, s)
}

func parsePlaceholder(s string) (part, error) {
	if m := repeatForm.FindStringSubmatch(s); m != nil {
		n, err := strconv.Atoi(m[1])
		t, bad := parseText(m[2], false)
		if err != nil || bad != nil || n > maxRepeat || len(t) != 1 || t[0].name != "" || n*len(t[0].literal) > maxRepeat {
			return part{}, fmt.Errorf("{{%s}}: want {{repeat N TEXT}} of at most %d bytes, TEXT without placeholders", s, maxRepeat)
		}
		return part{name: nameRepeat, literal: t[0].literal, times: n}, nil
	}
	m := evidenceForm.FindStringSubmatch(s)
	if m == nil || m[1] == nameRepeat {
		return part{}, fmt.Errorf("{{%s}}: want {{mark}}, {{host}}, {{token}}, {{repeat N TEXT}}, or evidence as {{e}}, {{e.FIELD}}, {{e!FIELD}}", s)
	}
	p := part{name: m[1]}
	switch {
	case slices.Contains(reservedNames, m[1]):
		if m[2] != "" {
			return part{}, fmt.Errorf("{{%s}}: %s has no fields", s, m[1])
		}
	case m[2] == ".":
		if p.field = m[3]; !slices.Contains(readable, p.field) {
			return part{}, fmt.Errorf("{{%s}}: want one of %s", s, strings.Join(readable, ", "))
		}
	case m[2] == "!":
		if p.except = m[3]; !slices.Contains(editable, p.except) {
			return part{}, fmt.Errorf("{{%s}}: want one of %s", s, strings.Join(editable, ", "))
		}
	}
	return p, nil
}

// unknown returns the name of a placeholder for evidence that is not in signed,
// or "".
func (t text) unknown(signed map[string]bool) string {
	for _, p := range t {
		if p.name != "" && !slices.Contains(reservedNames, p.name) && !signed[p.name] {
			return p.name
		}
	}
	return ""
}

// whole reports whether t is one placeholder for all fields of evidence, with
// or without the end of its line.
func (t text) whole() (p part, ok bool) {
	if len(t) == 2 && t[1].literal == "\r\n" {
		t = t[:1]
	}
	return t[0], len(t) == 1 && t[0].name != "" && t[0].field == "" && !slices.Contains(reservedNames, t[0].name)
}

// values are what placeholders stand for in one run of one variant.
type values struct {
	mark, host, token string
	evidence          map[string]*signed
	left              *int // bytes that may still be made, below 0 when there were too many
}

// maxRun is how many bytes all values of a run may have.
const maxRun = 4 << 20

func newValues(mark, host, token string) *values {
	left := maxRun
	return &values{mark: mark, host: host, token: token, evidence: map[string]*signed{}, left: &left}
}

// with is v where e alone is signed.
func (v *values) with(name string, e *signed) *values {
	own := *v
	own.evidence = map[string]*signed{name: e}
	return &own
}

// expand returns the bytes of t, or a part of them where they are too many. Evidence
// as a whole is header lines.
func (t text) expand(v *values) string {
	var b strings.Builder
	for i, p := range t {
		if *v.left < b.Len() {
			break
		}
		switch p.name {
		case "":
			if i > 0 && t[i-1].name != "" && p.literal == "\r\n" {
				if _, ok := t.whole(); ok {
					continue // the lines of evidence have ends of their own
				}
			}
			b.WriteString(p.literal)
		case nameMark:
			b.WriteString(v.mark)
		case nameHost:
			b.WriteString(v.host)
		case nameToken:
			b.WriteString(v.token)
		case nameRepeat:
			b.WriteString(strings.Repeat(p.literal, p.times))
		default:
			e := v.evidence[p.name]
			if p.field != "" {
				b.WriteString(e.value(p.field))
				continue
			}
			for _, f := range e.fields(p.except) {
				b.WriteString(f.name + ": " + f.value + "\r\n")
			}
		}
	}
	*v.left -= b.Len()
	return b.String()
}

// operation changes one value.
type operation struct {
	from, to text   // s|FROM|TO|
	verb     string // or one of verbs
}

// parseOperation reads `s|FROM|TO|`, any character in the place of '|', or a verb.
func parseOperation(s string) (operation, error) {
	if verbs[s] != nil {
		return operation{verb: s}, nil
	}
	if len(s) > 2 && s[0] == 's' && strings.IndexByte(`|/,#!`, s[1]) >= 0 {
		if f := strings.Split(s[2:], s[1:2]); len(f) == 3 && f[0] != "" && f[2] == "" {
			from, err := parseText(f[0], false)
			if err != nil {
				return operation{}, err
			}
			to, err := parseText(f[1], false)
			return operation{from: from, to: to}, err
		}
	}
	return operation{}, fmt.Errorf("operation %q: want s|FROM|TO| (| or one of / , # !) or one of %s", s, strings.Join(verbNames(), ", "))
}

// apply is an error where nothing changes, or where FROM does not stand exactly
// once: an edit that has lost its hold must not go unseen.
func (o *operation) apply(s string, v *values) (string, error) {
	var out string
	if o.verb != "" {
		var err error
		if out, err = verbs[o.verb](s); err != nil {
			return "", fmt.Errorf("%s: %w", o.verb, err)
		}
	} else {
		from := o.from.expand(v)
		if n := strings.Count(s, from); n != 1 {
			return "", fmt.Errorf("%q stands %d times in %q, want once", from, n, s)
		}
		out = strings.Replace(s, from, o.to.expand(v), 1)
	}
	if out == s {
		return "", errUnchanged
	}
	return out, nil
}

var errUnchanged = errors.New("the edit changes nothing")
