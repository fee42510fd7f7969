package bypass

// The format: what a case is, and how it is read.

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The doors at which a case knocks.
const (
	Origin = "origin" // the gateway, past the edge
	Edge   = "edge"   // the node, as the load balancer reaches it
)

// The protocols that a case speaks.
const (
	HTTP1 = "h1"
	HTTP2 = "h2"
)

// What an answer says beside a reason of package evidence.
const (
	Allow   = "allow"
	Exempt  = "exempt"
	Gateway = "gateway" // refused by the gateway itself: no decision of the plugin
	AtEdge  = "edge"    // refused by the edge: the gateway never heard of it
)

// What a client may see beside a status.
const (
	Closed = "closed" // the end of the connection
	Raw    = "raw"    // bytes that are no HTTP response: HTTP/0.9
	Reset  = "reset"  // HTTP/2: RST_STREAM
	GoAway = "goaway" // HTTP/2: GOAWAY with an error, which ends the connection
)

// Answer is what one request is answered with, and why.
type Answer struct{ Status, Reason string }

func (a Answer) String() string { return a.Status + " " + a.Reason }

// Passed reports whether the upstream has answered the request.
func (a Answer) Passed() bool {
	return (a.Reason == Allow || a.Reason == Exempt) && (a.Status[0] == '1' || a.Status[0] == '2')
}

// Decision returns the labels that the plugin counts the request under, and
// false where it does not hear of it.
func (a Answer) Decision() (decision, reason string, ok bool) {
	switch a.Reason {
	case Gateway, AtEdge:
		return "", "", false
	case Allow, Exempt:
		return a.Reason, "", true
	}
	return "deny", a.Reason, true
}

// Variant is one of the two requests that a case describes.
type Variant int

// The variants: the lines with '-' are the twin's alone, those with '+' and all
// edits are the attack's.
const (
	Attack Variant = iota
	Twin
)

func (v Variant) String() string {
	if v == Twin {
		return "twin"
	}
	return "attack"
}

// scope says in which variants a line stands.
type scope byte

const (
	inBoth   scope = '|'
	inAttack scope = '+'
	inTwin   scope = '-'
)

func (s scope) has(v Variant) bool {
	return s == inBoth || s == inAttack && v == Attack || s == inTwin && v == Twin
}

// line is bytes over HTTP/1.x, and a header field or a frame over HTTP/2.
type line struct {
	scope scope
	text  text // bytes, or the value of a field, or what a frame carries
	field text // HTTP/2: the name of the field
	frame *frame
	at    int // line of the file
}

// exchange is some bytes and the answers to them.
type exchange struct {
	fresh  bool // on a connection of its own
	lines  []line
	expect []Answer
	only   map[string][]Answer // by gateway, where one differs
	twin   []Answer
}

type signing struct {
	scope scope
	name  string
	args  map[string]text
}

type edit struct {
	name, field string
	before      bool // the signature is made over the edited value
	op          operation
	at          int
}

// check looks for text in what the upstream received.
type check struct {
	scope   scope
	present bool
	text    text
}

// Case is one attempt, immutable once parsed.
type Case struct {
	Name        string
	Description string // what it tries, one line
	Door        string // Origin or Edge
	Proto       string // HTTP1 or HTTP2
	Difference  string // why one gateway answers otherwise, or ""

	signings  []signing
	edits     []edit
	exchanges []exchange
	checks    []check
}

// HasTwin reports whether the case has an honest variant.
func (c *Case) HasTwin() bool {
	for _, s := range c.signings {
		if s.scope != inBoth {
			return true
		}
	}
	for _, x := range c.exchanges {
		for _, l := range x.lines {
			if l.scope != inBoth {
				return true
			}
		}
	}
	return len(c.edits) > 0
}

// Answers returns every answer that v expects on the named gateway, in order.
func (c *Case) Answers(v Variant, gateway string) []Answer {
	var all []Answer
	for i := range c.exchanges {
		all = append(all, c.exchanges[i].answers(v, gateway)...)
	}
	return all
}

func (x *exchange) answers(v Variant, gateway string) []Answer {
	if !x.stands(v) {
		return nil
	}
	if v == Twin {
		return x.twin
	}
	if only := x.only[gateway]; only != nil {
		return only
	}
	return x.expect
}

func (x *exchange) stands(v Variant) bool {
	return slices.ContainsFunc(x.lines, func(l line) bool { return l.scope.has(v) })
}

// Bounds of a file.
const (
	maxFile  = 256 << 10
	maxLine  = 1 << 10
	maxCases = 256
)

var (
	caseName   = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	gatewayTag = regexp.MustCompile(`^[a-z]{1,16}$`)
	statusForm = regexp.MustCompile(`^([1-5][0-9][0-9]|closed|raw|reset|goaway)$`)
)

// Parse reads one file of the corpus. It is total: it accepts exactly the
// format, and its error names the line and what is allowed there instead.
func Parse(data []byte) ([]*Case, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("the file is %d bytes, allowed are %d", len(data), maxFile)
	}
	p := parser{}
	for len(data) > 0 {
		p.at++
		row, rest, ended := bytes.Cut(data, []byte{'\n'})
		data = rest
		if !ended {
			return nil, p.fail("the last line has no line feed")
		}
		if err := p.line(string(row)); err != nil {
			return nil, p.fail("%v", err)
		}
	}
	if err := p.finish(); err != nil {
		return nil, p.fail("%v", err)
	}
	if len(p.cases) == 0 {
		return nil, errors.New("the file has no case")
	}
	return p.cases, nil
}

type parser struct {
	at    int
	cases []*Case
	c     *Case
	x     *exchange // nil before the first bytes of a case
	fresh bool      // a directive asked for a new connection
}

func (p *parser) fail(format string, args ...any) error {
	return fmt.Errorf("line %d: %s", p.at, fmt.Sprintf(format, args...))
}

func (p *parser) line(s string) error {
	if len(s) > maxLine {
		return fmt.Errorf("the line is %d bytes, allowed are %d", len(s), maxLine)
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return fmt.Errorf("byte 0x%02x: write it as an escape, such as \\x%02x", s[i], s[i])
		}
	}
	switch {
	case strings.HasSuffix(s, " "):
		return errors.New(`a space at the end of a line cannot be seen: write \x20`)
	case s == "", s[0] == '#':
		return nil
	case strings.HasPrefix(s, "case "):
		return p.begin(s[len("case "):])
	case p.c == nil:
		return errors.New("want `case NAME` before anything else")
	case strings.HasPrefix(s, "  "):
		if p.x != nil || len(p.c.signings) > 0 {
			return errors.New("the description stands directly under `case`")
		}
		p.c.Description = strings.TrimSpace(p.c.Description + " " + strings.TrimSpace(s))
		return nil
	}
	mark := scope(s[0])
	if mark == inBoth || (mark == inAttack || mark == inTwin) && (len(s) == 1 || s[1] == ' ') {
		return p.bytes(mark, s[1:])
	}
	return p.directive(s)
}

func (p *parser) begin(name string) error {
	if err := p.finish(); err != nil {
		return err
	}
	if !caseName.MatchString(name) {
		return fmt.Errorf("case name %q: want words of a-z 0-9 divided by -", name)
	}
	if slices.ContainsFunc(p.cases, func(c *Case) bool { return c.Name == name }) {
		return fmt.Errorf("case %q stands twice", name)
	}
	if len(p.cases) == maxCases {
		return fmt.Errorf("more than %d cases in a file", maxCases)
	}
	p.c, p.x, p.fresh = &Case{Name: name, Door: Origin, Proto: HTTP1}, nil, false
	p.cases = append(p.cases, p.c)
	return nil
}

// bytes reads `| TEXT`: the space after the mark belongs to the format.
func (p *parser) bytes(mark scope, s string) error {
	if s != "" && s[0] != ' ' {
		return fmt.Errorf("want a space after %q", mark)
	}
	if s != "" {
		s = s[1:]
	}
	l := line{scope: mark, at: p.at}
	var err error
	if p.c.Proto == HTTP2 {
		err = l.parseHTTP2(s)
	} else {
		l.text, err = parseText(s, true)
	}
	if err != nil {
		return err
	}
	if p.x == nil || p.fresh || p.x.expect != nil {
		p.c.exchanges = append(p.c.exchanges, exchange{fresh: p.x == nil || p.fresh, only: map[string][]Answer{}})
		p.x, p.fresh = &p.c.exchanges[len(p.c.exchanges)-1], false
	}
	p.x.lines = append(p.x.lines, l)
	return nil
}

func (p *parser) directive(s string) error {
	word, rest, _ := strings.Cut(s, " ")
	word, gateway, tagged := strings.Cut(word, "@")
	if tagged && (word != "expect" || !gatewayTag.MatchString(gateway)) {
		return fmt.Errorf("%q: only `expect@GATEWAY` is for one gateway alone", s)
	}
	mark := inBoth
	if word != "" && (scope(word[0]) == inAttack || scope(word[0]) == inTwin) {
		mark, word = scope(word[0]), word[1:]
		if word != "sign" && word != "absent" && word != "present" {
			return fmt.Errorf("%q: only sign, absent and present can be marked with + or -", s)
		}
	}
	switch word {
	case "door":
		return p.choose(&p.c.Door, rest, Origin, Edge)
	case "proto":
		return p.choose(&p.c.Proto, rest, HTTP1, HTTP2)
	case "differs":
		if p.c.Difference != "" || strings.TrimSpace(rest) == "" {
			return errors.New("want one `differs WHY`")
		}
		p.c.Difference = rest
		return nil
	case "sign":
		return p.sign(mark, rest)
	case "forge", "edit":
		return p.edit(word == "forge", rest)
	case "connection":
		if rest != "" || p.x == nil || p.x.expect == nil || p.fresh {
			return errors.New("want `connection` alone, after the answers of an exchange")
		}
		p.fresh = true
		return nil
	case "expect", "twin":
		return p.answer(word, gateway, rest)
	case "absent", "present":
		t, err := parseText(rest, false)
		if err != nil {
			return err
		}
		if len(t) == 0 {
			return fmt.Errorf("want `%s TEXT`", word)
		}
		p.c.checks = append(p.c.checks, check{mark, word == "present", t})
		return nil
	}
	return fmt.Errorf("%q: want case, door, proto, sign, forge, edit, connection, expect, twin, differs, absent, present, or a line of |, + or -", word)
}

func (p *parser) choose(dst *string, value string, allowed ...string) error {
	if p.x != nil || len(p.c.signings) > 0 {
		return errors.New("door and proto stand before sign and before the bytes")
	}
	if !slices.Contains(allowed, value) {
		return fmt.Errorf("%q: want one of %s", value, strings.Join(allowed, ", "))
	}
	*dst = value
	return nil
}

var evidenceName = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)

// sign reads `sign NAME [ARGUMENT=TEXT]…`.
func (p *parser) sign(mark scope, s string) error {
	if p.x != nil {
		return errors.New("sign stands before the bytes")
	}
	words := splitArguments(s)
	if !evidenceName.MatchString(words[0]) || slices.Contains(reservedNames, words[0]) {
		return fmt.Errorf("evidence is named by a-z 0-9, and not %s", strings.Join(reservedNames, ", "))
	}
	for _, other := range p.c.signings {
		if other.name == words[0] && (other.scope == mark || other.scope == inBoth || mark == inBoth) {
			return fmt.Errorf("evidence %q is signed twice", words[0])
		}
	}
	sg := signing{mark, words[0], map[string]text{}}
	for _, word := range words[1:] {
		name, value, ok := strings.Cut(word, "=")
		if !ok || !slices.Contains(signArguments, name) {
			return fmt.Errorf("%q: want NAME=TEXT with one of %s", word, strings.Join(signArguments, ", "))
		}
		if sg.args[name] != nil {
			return fmt.Errorf("argument %q stands twice", name)
		}
		t, err := parseText(value, false)
		if err != nil {
			return err
		}
		if t == nil {
			t = text{}
		}
		sg.args[name] = t
	}
	p.c.signings = append(p.c.signings, sg)
	return nil
}

// splitArguments divides s at every space that is not inside of a placeholder.
func splitArguments(s string) []string {
	var words []string
	from, inside := 0, false
	for i := range len(s) {
		switch {
		case strings.HasPrefix(s[i:], "{{"):
			inside = true
		case strings.HasPrefix(s[i:], "}}"):
			inside = false
		case s[i] == ' ' && !inside:
			words, from = append(words, s[from:i]), i+1
		}
	}
	return append(words, s[from:])
}

// edit reads `edit NAME.FIELD OPERATION`.
func (p *parser) edit(before bool, s string) error {
	target, op, ok := strings.Cut(s, " ")
	name, field, dotted := strings.Cut(target, ".")
	if !ok || !dotted || p.x != nil {
		return errors.New("want `edit NAME.FIELD OPERATION` before the bytes")
	}
	if !slices.ContainsFunc(p.c.signings, func(s signing) bool { return s.name == name && s.scope.has(Attack) }) {
		return fmt.Errorf("no evidence %q is signed above for the attack", name)
	}
	if before && field != "input" || !slices.Contains(editable, field) {
		return fmt.Errorf("field %q: forge takes input, edit one of %s", field, strings.Join(editable, ", "))
	}
	o, err := parseOperation(op)
	if err != nil {
		return err
	}
	p.c.edits = append(p.c.edits, edit{name, field, before, o, p.at})
	return nil
}

func (p *parser) answer(word, gateway, s string) error {
	if p.x == nil {
		return fmt.Errorf("%s stands after the bytes", word)
	}
	status, reason, _ := strings.Cut(s, " ")
	a := Answer{status, reason}
	known := slices.Contains([]string{Allow, Exempt, Gateway, AtEdge}, reason) ||
		slices.Contains(evidence.Reasons(), evidence.Reason(reason))
	if !statusForm.MatchString(status) || !known {
		return fmt.Errorf("%q: want a status (or closed, raw, reset, goaway) and a reason (or allow, exempt, gateway, edge)", s)
	}
	if (reason == Gateway && p.c.Door == Edge) || (reason == AtEdge && p.c.Door == Origin) {
		return fmt.Errorf("%q at the door %q", reason, p.c.Door)
	}
	switch {
	case word == "twin" && reason != Allow && reason != Exempt:
		return errors.New("a twin is honest: want allow or exempt")
	case word == "twin":
		p.x.twin = append(p.x.twin, a)
	case gateway != "":
		p.x.only[gateway] = append(p.x.only[gateway], a)
	default:
		p.x.expect = append(p.x.expect, a)
	}
	return nil
}

// finish checks the case that ends here.
func (p *parser) finish() error {
	c := p.c
	if c == nil {
		return nil
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("case %q: %s", c.Name, fmt.Sprintf(format, args...))
	}
	if c.Description == "" {
		return wrong("says nothing about what it tries")
	}
	if len(c.exchanges) == 0 || p.fresh {
		return wrong("ends without bytes")
	}
	differs, refused := false, false
	for i := range c.exchanges {
		x := &c.exchanges[i]
		if x.expect == nil {
			return wrong("has bytes without `expect`")
		}
		if x.twin == nil {
			x.twin = []Answer{{"200", Allow}}
		}
		differs = differs || len(x.only) > 0
		for _, a := range x.expect {
			refused = refused || !a.Passed()
		}
		if !x.stands(Attack) {
			return wrong("has an exchange without a byte of the attack")
		}
	}
	switch twin := c.HasTwin(); {
	case differs != (c.Difference != ""):
		return wrong("`expect@GATEWAY` and `differs WHY` go together")
	case len(c.signings) > 0 && !twin:
		return wrong("signs evidence, and has nothing marked with + or - and no edit: it has no honest twin")
	case twin && !c.exchanges[0].stands(Twin):
		return wrong("has a twin without bytes")
	case !refused && len(c.checks) == 0:
		return wrong("refuses nothing and looks for nothing at the upstream")
	}
	return c.checkNames()
}

// checkNames holds placeholders to evidence that the variant signs.
func (c *Case) checkNames() error {
	for _, v := range []Variant{Attack, Twin} {
		if v == Twin && !c.HasTwin() {
			break
		}
		signed := map[string]bool{}
		for _, s := range c.signings {
			if !s.scope.has(v) {
				continue
			}
			for _, t := range s.args {
				if name := t.unknown(nil); name != "" {
					return fmt.Errorf("case %q: sign cannot use {{%s}}", c.Name, name)
				}
			}
			signed[s.name] = true
		}
		for _, x := range c.exchanges {
			for _, l := range x.lines {
				if l.scope.has(v) {
					if name := l.text.unknown(signed) + l.field.unknown(signed); name != "" {
						return fmt.Errorf("case %q, line %d: the %s signs no evidence {{%s}}", c.Name, l.at, v, name)
					}
				}
			}
		}
		for _, k := range c.checks {
			if name := k.text.unknown(signed); k.scope.has(v) && name != "" {
				return fmt.Errorf("case %q: the %s signs no evidence {{%s}}", c.Name, v, name)
			}
		}
	}
	for _, e := range c.edits {
		own := map[string]bool{e.name: true}
		if name := e.op.from.unknown(own) + e.op.to.unknown(own); name != "" {
			return fmt.Errorf("case %q, line %d: an edit of %s cannot use {{%s}}", c.Name, e.at, e.name, name)
		}
	}
	return nil
}
