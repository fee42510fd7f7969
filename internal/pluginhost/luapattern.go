// Lua patterns, the language of "match" in a Kong schema. Only whether a
// pattern matches is of interest, so captures are not recorded.

package pluginhost

import (
	"errors"
	"fmt"
	"strings"
)

// luaPattern is a parsed pattern: items in sequence, each with a repetition.
type luaPattern struct {
	anchored, end bool // ^ at the start, $ at the end
	items         []luaItem
}

type luaItem struct {
	set    [256]bool
	repeat byte // 0, '*', '+', '-', '?'
}

// compileLuaPattern parses pattern. It refuses what a yes-or-no match does
// not need: %b, %f and back references.
func compileLuaPattern(pattern string) (*luaPattern, error) {
	if len(pattern) > 4096 {
		return nil, errors.New("pattern longer than 4096 bytes")
	}
	p := new(luaPattern)
	s, anchored := strings.CutPrefix(pattern, "^")
	p.anchored = anchored
	open := 0
	for len(s) > 0 {
		switch {
		case s == "$":
			p.end, s = true, ""
			continue
		case s[0] == '(':
			open++
			s = s[1:]
			continue
		case s[0] == ')':
			if open--; open < 0 {
				return nil, fmt.Errorf("invalid pattern capture in %q", pattern)
			}
			s = s[1:]
			continue
		}
		var it luaItem
		n, err := it.parseClass(s)
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w", pattern, err)
		}
		if s = s[n:]; len(s) > 0 && strings.IndexByte("*+-?", s[0]) >= 0 {
			it.repeat, s = s[0], s[1:]
		}
		p.items = append(p.items, it)
	}
	if open != 0 {
		return nil, fmt.Errorf("unfinished capture in %q", pattern)
	}
	return p, nil
}

// parseClass reads one character class from the start of s and returns how
// many bytes it took.
func (it *luaItem) parseClass(s string) (int, error) {
	switch s[0] {
	case '.':
		for c := range it.set {
			it.set[c] = true
		}
		return 1, nil
	case '%':
		return 2, addEscape(&it.set, s)
	case '[':
		return it.parseSet(s)
	}
	it.set[s[0]] = true
	return 1, nil
}

// parseSet reads [set] or [^set]; a ']' that comes first stands for itself.
func (it *luaItem) parseSet(s string) (int, error) {
	i, negated := 1, false
	if strings.HasPrefix(s[i:], "^") {
		i, negated = i+1, true
	}
	for first := true; ; first = false {
		switch {
		case i >= len(s):
			return 0, errors.New("malformed pattern (missing ']')")
		case s[i] == ']' && !first:
			if negated {
				for c := range it.set {
					it.set[c] = !it.set[c]
				}
			}
			return i + 1, nil
		case s[i] == '%':
			if err := addEscape(&it.set, s[i:]); err != nil {
				return 0, err
			}
			i += 2
		case i+2 < len(s) && s[i+1] == '-' && s[i+2] != ']':
			for c := int(s[i]); c <= int(s[i+2]); c++ {
				it.set[c] = true
			}
			i += 3
		default:
			it.set[s[i]] = true
			i++
		}
	}
}

// addEscape adds %x, the two bytes at the start of s, to set.
func addEscape(set *[256]bool, s string) error {
	if len(s) < 2 {
		return errors.New("malformed pattern (ends with '%')")
	}
	class, negated := s[1], false
	if class >= 'A' && class <= 'Z' {
		class, negated = class+'a'-'A', true
	}
	in := func(from, to byte) func(byte) bool { return func(c byte) bool { return c >= from && c <= to } }
	digit, lower, upper, control := in('0', '9'), in('a', 'z'), in('A', 'Z'), func(c byte) bool { return c < 0x20 || c == 0x7f }
	alpha := func(c byte) bool { return lower(c) || upper(c) }
	member, known := map[byte]func(byte) bool{
		'a': alpha, 'd': digit, 'l': lower, 'u': upper, 'c': control,
		's': func(c byte) bool { return c == ' ' || in('\t', '\r')(c) },
		'w': func(c byte) bool { return alpha(c) || digit(c) },
		'x': func(c byte) bool { return digit(c) || in('a', 'f')(c) || in('A', 'F')(c) },
		'p': func(c byte) bool { return in('!', '~')(c) && !alpha(c) && !digit(c) },
		'z': func(c byte) bool { return c == 0 },
	}[class]
	if !known {
		if alpha(class) || digit(class) {
			return fmt.Errorf("%%%c is not supported", s[1])
		}
		set[s[1]] = true
		return nil
	}
	for c := range set {
		if member(byte(c)) != negated {
			set[c] = true
		}
	}
	return nil
}

// match reports whether p matches somewhere in s. It follows all choices at
// once, so its time is bounded by len(s) times len(items).
func (p *luaPattern) match(s string) bool {
	n := len(p.items)
	states, next := make([]bool, n+1), make([]bool, n+1)
	enter := func(set []bool, i int) { // i is reached, and all that may be skipped from it
		for ; ; i++ {
			set[i] = true
			if i == n || p.items[i].repeat == 0 || p.items[i].repeat == '+' {
				return
			}
		}
	}
	for at := 0; ; at++ {
		if at == 0 || !p.anchored {
			enter(states, 0)
		}
		if states[n] && (!p.end || at == len(s)) {
			return true
		}
		if at == len(s) {
			return false
		}
		clear(next)
		for i, it := range p.items {
			if !states[i] || !it.set[s[at]] {
				continue
			}
			if it.repeat == '*' || it.repeat == '+' || it.repeat == '-' {
				next[i] = true
			}
			enter(next, i+1)
		}
		states, next = next, states
	}
}
