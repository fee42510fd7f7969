// The nginx file that Kong includes for the plugin: its map blocks give
// variables, so that the file itself is what a test runs.

package pluginhost

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

const maxNginxConf = 64 << 10

// nginxMap is one map block: the variable's value for each value of a source.
type nginxMap struct {
	source  template
	values  map[string]template // keys in lower case
	deflt   template
	hasDflt bool
}

// template is a string with variables, in parts.
type template []templatePart

type templatePart struct {
	text     string
	variable bool // text is a variable's name
}

// token is one word of an nginx configuration. A word in quotes is never a
// delimiter or a keyword.
type token struct {
	text   string
	quoted bool
	line   int
}

// parseNginxMaps reads the map blocks of an nginx configuration file. What makes
// nginx ignore fields of a response is passed over: this package never acts on
// them. Any other directive is refused: it would do something in Kong that this
// package does not.
func parseNginxMaps(conf []byte) (map[string]*nginxMap, error) {
	if len(conf) > maxNginxConf {
		return nil, fmt.Errorf("nginx configuration: larger than %d bytes", maxNginxConf)
	}
	tokens, err := nginxTokens(string(conf))
	if err != nil {
		return nil, fmt.Errorf("nginx configuration: %w", err)
	}
	maps := map[string]*nginxMap{}
	for len(tokens) > 0 {
		line := tokens[0].line
		fail := func(format string, args ...any) (map[string]*nginxMap, error) {
			return nil, fmt.Errorf("nginx configuration: line %d: %s", line, fmt.Sprintf(format, args...))
		}
		if text := tokens[0].text; !tokens[0].quoted && (text == "proxy_ignore_headers" || text == "grpc_ignore_headers") {
			end := slices.IndexFunc(tokens, func(t token) bool { return t.delimiter(";") })
			if end < 2 || slices.ContainsFunc(tokens[:end], token.anyDelimiter) {
				return fail("%s takes names of header fields, then a semicolon", text)
			}
			tokens = tokens[end+1:]
			continue
		}
		if tokens[0].quoted || tokens[0].text != "map" {
			return fail("directive %q, only map and ignored header fields are known here", tokens[0].text)
		}
		if len(tokens) < 4 || !tokens[3].delimiter("{") {
			return fail("map takes a source and a variable, then a block")
		}
		m := &nginxMap{values: map[string]template{}}
		if m.source, err = parseTemplate(tokens[1].text); err != nil {
			return fail("%v", err)
		}
		name, ok := strings.CutPrefix(tokens[2].text, "$")
		if !ok || name == "" || strings.Trim(lowerASCII(name), "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			return fail("invalid variable name %q", tokens[2].text)
		}
		name = lowerASCII(name)
		if maps[name] != nil {
			return fail("variable %q is mapped twice", name)
		}
		rest, err := m.parseBlock(tokens[4:])
		if err != nil {
			return fail("%v", err)
		}
		maps[name], tokens = m, rest
	}
	return maps, nil
}

// parseBlock reads the entries up to the closing brace and returns what
// follows it.
func (m *nginxMap) parseBlock(tokens []token) ([]token, error) {
	for {
		if len(tokens) == 0 {
			return nil, errors.New("the map's block is not closed")
		}
		if tokens[0].delimiter("}") {
			return tokens[1:], nil
		}
		if len(tokens) > 1 && tokens[0].text == "volatile" && !tokens[0].quoted && tokens[1].delimiter(";") {
			tokens = tokens[2:]
			continue
		}
		if len(tokens) < 3 || tokens[0].anyDelimiter() || tokens[1].anyDelimiter() || !tokens[2].delimiter(";") {
			return nil, fmt.Errorf("line %d: a map entry takes a key and a value, then ';'", tokens[0].line)
		}
		key := tokens[0]
		if !key.quoted && (strings.HasPrefix(key.text, "~") || strings.HasPrefix(key.text, "\\") || key.text == "include") {
			return nil, fmt.Errorf("line %d: map entry %q, only default and plain keys are known here", key.line, key.text)
		}
		value, err := parseTemplate(tokens[1].text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", tokens[1].line, err)
		}
		if key.text == "default" {
			if m.hasDflt {
				return nil, fmt.Errorf("line %d: a second default", key.line)
			}
			m.deflt, m.hasDflt = value, true
		} else {
			m.values[lowerASCII(key.text)] = value
		}
		tokens = tokens[3:]
	}
}

func (t token) delimiter(d string) bool { return !t.quoted && t.text == d }

func (t token) anyDelimiter() bool {
	return !t.quoted && (t.text == "{" || t.text == "}" || t.text == ";")
}

// nginxTokens splits a configuration into words as nginx does: \t, \r, \n and
// an escaped quote or backslash are interpreted, any other escape is kept.
func nginxTokens(s string) ([]token, error) {
	var out []token
	line := 1
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == '\n':
			line++
			i++
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#':
			for i < len(s) && s[i] != '\n' {
				i++
			}
		case c == '{' || c == '}' || c == ';':
			out = append(out, token{text: string(c), line: line})
			i++
		default:
			start, quote := line, byte(0)
			if c == '"' || c == '\'' {
				quote = c
				i++
			}
			var b strings.Builder
			closed := false
			for i < len(s) && !closed {
				c := s[i]
				switch {
				case c == '\\' && i+1 < len(s):
					if n := strings.IndexByte(`"'\trn`, s[i+1]); n >= 0 {
						b.WriteByte("\"'\\\t\r\n"[n])
					} else {
						b.WriteString(s[i : i+2])
					}
					i += 2
				case quote != 0 && c == quote:
					closed = true
					i++
				case quote == 0 && strings.IndexByte(" \t\r\n;", c) >= 0, quote == 0 && c == '{' && (b.Len() == 0 || s[i-1] != '$'):
					closed = true
				default:
					if c == '\n' {
						line++
					}
					b.WriteByte(c)
					i++
				}
			}
			if quote != 0 && !closed {
				return nil, fmt.Errorf("line %d: a quoted string is not closed", start)
			}
			out = append(out, token{text: b.String(), quoted: quote != 0, line: start})
		}
	}
	return out, nil
}

// parseTemplate splits a string at its variables, $name and ${name}.
func parseTemplate(s string) (template, error) {
	var t template
	for s != "" {
		i := strings.IndexByte(s, '$')
		if i != 0 {
			if i < 0 {
				i = len(s)
			}
			t, s = append(t, templatePart{text: s[:i]}), s[i:]
			continue
		}
		s = s[1:]
		brace := strings.HasPrefix(s, "{")
		if brace {
			s = s[1:]
		}
		n := 0
		for n < len(s) && (isAlpha(s[n]) || s[n] >= '0' && s[n] <= '9' || s[n] == '_') {
			n++
		}
		name := s[:n]
		if s = s[n:]; brace {
			if !strings.HasPrefix(s, "}") {
				return nil, fmt.Errorf("the closing bracket in %q is missing", name)
			}
			s = s[1:]
		}
		if name == "" {
			return nil, errors.New("a '$' without a variable's name")
		}
		t = append(t, templatePart{text: lowerASCII(name), variable: true})
	}
	return t, nil
}

// maxMapDepth bounds variables that refer to variables that …
const maxMapDepth = 8

// expand evaluates t; a variable that does not exist or has no value is "".
func (t template) expand(variable func(name string) (string, bool)) string {
	var b strings.Builder
	for _, p := range t {
		if p.variable {
			p.text, _ = variable(p.text)
		}
		b.WriteString(p.text)
	}
	return b.String()
}

// value is the map's value for what its source evaluates to.
func (m *nginxMap) value(variable func(name string) (string, bool)) string {
	if t, ok := m.values[lowerASCII(m.source.expand(variable))]; ok {
		return t.expand(variable)
	}
	return m.deflt.expand(variable)
}
