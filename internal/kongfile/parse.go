package kongfile

// This file turns the bytes of a declarative configuration into a tree that
// the checks walk. YAML and JSON end in the same tree: aliases and merge keys
// are resolved, a key given twice is refused, and the work is bounded.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// MaxSize is the largest file that Check reads, in bytes.
	MaxSize = 8 << 20
	// maxNodes bounds the tree after aliases are expanded, so that a small
	// file of nested aliases cannot ask for unbounded work.
	maxNodes = 500_000
	// maxDepth bounds nesting; Kong's own entities nest less than ten deep.
	maxDepth = 64
	// mergeKey is the key at which YAML 1.1 merges mappings.
	mergeKey = "<<"
)

type kind uint8

const (
	kindNull kind = iota
	kindString
	kindBool
	kindNumber
	kindList
	kindMap
)

func (k kind) String() string {
	return [...]string{"null", "a string", "a boolean", "a number", "a list", "a mapping"}[k]
}

// node is one value of the file. The zero node stands for an absent value.
type node struct {
	kind   kind
	line   int    // 1-based; 0 where it is not known (JSON)
	text   string // scalar as written
	truth  bool   // kindBool
	items  []*node
	keys   []string // in the order of the file
	fields map[string]*node
}

// get returns the value of key, or nil when n is no mapping, has no such key,
// or holds null there: Kong treats null as absent.
func (n *node) get(key string) *node {
	if n == nil || n.kind != kindMap {
		return nil
	}
	v := n.fields[key]
	if v == nil || v.kind == kindNull {
		return nil
	}
	return v
}

// str returns the string at key, or "" when there is none.
func (n *node) str(key string) string {
	if v := n.get(key); v != nil && v.kind == kindString {
		return v.text
	}
	return ""
}

// list returns the list at key, or nil when there is none.
func (n *node) list(key string) []*node {
	if v := n.get(key); v != nil && v.kind == kindList {
		return v.items
	}
	return nil
}

// parse reads data as JSON when it is JSON, otherwise as YAML.
func parse(data []byte) (*node, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("the file has %d bytes; at most %d are read", len(data), MaxSize)
	}
	b := &builder{left: maxNodes}
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(trimmed) {
		return b.json(trimmed)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the file is empty")
	case err != nil:
		return nil, fmt.Errorf("not YAML or JSON: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		// Kong would read the first document only.
		return nil, errors.New("the file holds more than one YAML document; Kong reads one")
	}
	return b.yaml(&doc, 0)
}

// builder makes nodes until its budget is used up.
type builder struct{ left int }

func (b *builder) spend(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("values are nested deeper than %d levels", maxDepth)
	}
	if b.left--; b.left < 0 {
		return fmt.Errorf("the file expands to more than %d values", maxNodes)
	}
	return nil
}

func (b *builder) yaml(y *yaml.Node, depth int) (*node, error) {
	if err := b.spend(depth); err != nil {
		return nil, err
	}
	n := &node{line: y.Line}
	switch y.Kind {
	case yaml.DocumentNode:
		if len(y.Content) != 1 {
			return nil, errors.New("the file is empty")
		}
		return b.yaml(y.Content[0], depth)
	case yaml.AliasNode:
		return b.yaml(y.Alias, depth+1)
	case yaml.ScalarNode:
		n.text = y.Value
		n.kind, n.truth = scalar(y)
		return n, nil
	case yaml.SequenceNode:
		n.kind = kindList
		for _, c := range y.Content {
			item, err := b.yaml(c, depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		return n, nil
	case yaml.MappingNode:
		n.kind, n.fields = kindMap, map[string]*node{}
		merged := map[string]bool{}
		for i := 0; i+1 < len(y.Content); i += 2 {
			key := y.Content[i]
			if key.Kind != yaml.ScalarNode {
				return nil, fmt.Errorf("line %d: a key must be a plain string", key.Line)
			}
			// Kong's parser types a key by its tag, and merges at a key that
			// reads << in whatever style; others do neither.
			if key.Style&yaml.TaggedStyle != 0 {
				return nil, fmt.Errorf("line %d: the key %s has the tag %s, which YAML parsers read differently; write the key without a tag", key.Line, quote(key.Value), quote(key.Tag))
			}
			if key.Value == mergeKey && key.Style != 0 {
				return nil, fmt.Errorf("line %d: the key \"<<\" is quoted: Kong merges there all the same, other YAML parsers do not; write it without quotes or leave it out", key.Line)
			}
			v, err := b.yaml(y.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			if key.Value == mergeKey {
				if err := b.merge(n, merged, v, key.Line, depth); err != nil {
					return nil, err
				}
				continue
			}
			if _, dup := n.fields[key.Value]; dup && !merged[key.Value] {
				return nil, fmt.Errorf("line %d: the key %s stands twice; Kong would take the last one in silence", key.Line, quote(key.Value))
			}
			if !merged[key.Value] {
				n.keys = append(n.keys, key.Value)
			}
			delete(merged, key.Value)
			n.fields[key.Value] = v
		}
		return n, nil
	}
	return nil, fmt.Errorf("line %d: a value of an unknown kind", y.Line)
}

// merge adds the keys of the mappings that a merge key ("<<") names. YAML parsers
// disagree on who wins when a key is merged over one that is already there, so
// that is refused; a key that follows the merge overrides it in all of them.
func (b *builder) merge(n *node, merged map[string]bool, v *node, line, depth int) error {
	sources := []*node{v}
	if v.kind == kindList {
		sources = v.items
	}
	for _, m := range sources {
		if m.kind != kindMap {
			return fmt.Errorf("line %d: \"<<\" merges mappings only, this is %s", line, m.kind)
		}
		for _, k := range m.keys {
			if _, there := n.fields[k]; there {
				return fmt.Errorf("line %d: \"<<\" merges %s over a key that is already there, which YAML parsers read differently; let \"<<\" stand first and merge each key once", line, quote(k))
			}
			if err := b.spend(depth); err != nil {
				return err
			}
			n.keys = append(n.keys, k)
			n.fields[k] = m.fields[k]
			merged[k] = true
		}
	}
	return nil
}

// scalar types a YAML scalar as Kong's parser (libyaml, YAML 1.1) does: a plain
// yes, no, on or off is a boolean there, and `enabled: off` turns a gate off.
func scalar(y *yaml.Node) (kind, bool) {
	plain := y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle|yaml.TaggedStyle) == 0
	if plain || y.ShortTag() == "!!bool" {
		switch y.Value {
		case "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON":
			return kindBool, true
		case "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF":
			return kindBool, false
		}
	}
	switch y.ShortTag() {
	case "!!null":
		return kindNull, false
	case "!!int", "!!float":
		return kindNumber, false
	}
	return kindString, false
}

func (b *builder) json(data []byte) (*node, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return b.jsonValue(dec, 0)
}

func (b *builder) jsonValue(dec *json.Decoder, depth int) (*node, error) {
	if err := b.spend(depth); err != nil {
		return nil, err
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	switch t := tok.(type) {
	case string:
		return &node{kind: kindString, text: t}, nil
	case json.Number:
		return &node{kind: kindNumber, text: t.String()}, nil
	case bool:
		return &node{kind: kindBool, text: strconv.FormatBool(t), truth: t}, nil
	case json.Delim:
		n := &node{kind: kindList}
		if t == '{' {
			n.kind, n.fields = kindMap, map[string]*node{}
		}
		for dec.More() {
			key := ""
			if t == '{' {
				k, err := dec.Token()
				if err != nil {
					return nil, fmt.Errorf("not JSON: %w", err)
				}
				key = k.(string) // encoding/json yields nothing else in a key's place
				if key == mergeKey {
					return nil, errors.New("an object has the key \"<<\": Kong merges there when it reads the file as YAML, and does not when it reads it as JSON; write the merged keys out")
				}
				if _, dup := n.fields[key]; dup {
					return nil, fmt.Errorf("the key %s stands twice in one object; Kong would take the last one in silence", quote(key))
				}
			}
			v, err := b.jsonValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			if t == '{' {
				n.keys = append(n.keys, key)
				n.fields[key] = v
			} else {
				n.items = append(n.items, v)
			}
		}
		if _, err := dec.Token(); err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		return n, nil
	}
	return &node{kind: kindNull}, nil
}

// quote quotes a value of the file for a message, in ASCII and cut to a length
// that one line can hold.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.QuoteToASCII(s)
}
