// The plugin's schema as its dump declares it, in Kong's schema language.

package pluginhost

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
)

// Schema is what a plugin's dump declares about it. It is immutable and safe
// for concurrent use.
type Schema struct {
	Name, Version string
	Priority      int
	Phases        []string

	entity []*field // top-level fields other than config, e.g. consumer
	config *field
}

// field is one field of a schema.
type field struct {
	name                      string
	kind                      string // "type" in the schema
	required                  bool
	optional                  bool // declared with required false
	hasDefault                bool
	def                       any
	hasEq, hasNe              bool
	eq, ne                    any
	oneOf, notOneOf           []any
	between                   []float64
	gt                        *float64
	lenEq, lenMin, lenMax     *int
	startsWith                *string
	match, notMatch           *luaPattern
	matchAll, matchNone       []patternRule
	matchAny                  []*luaPattern
	matchAnyErr               string
	contains                  any
	uuid, timestamp           bool
	referenceable             bool
	err                       string
	elements, keys, mapValues *field
	fields                    []*field
}

type patternRule struct {
	pattern *luaPattern
	err     string
}

// phases are the phases that Kong 3.9 has for a plugin.
var phases = []string{
	"init_worker", "configure", "certificate", "rewrite", "access", "ws_handshake", "ws_client_frame", "ws_upstream_frame", "ws_close",
	"response", "header_filter", "body_filter", "log", "preread",
}

// ParseSchema reads a dump, the JSON that a plugin prints for -dump, and
// takes the first plugin in it as Kong does. It refuses a dump of more than
// 4 MiB, another protocol than ProtoBuf:1, and a schema attribute that Kong
// or this package does not know.
func ParseSchema(dump []byte) (*Schema, error) {
	if len(dump) > maxDump {
		return nil, fmt.Errorf("plugin dump: larger than %d bytes", maxDump)
	}
	var d struct {
		Protocol string
		Plugins  []struct {
			Name, Version string
			Priority      *float64
			Phases        []string
			Schema        *struct {
				Name   string                       `json:"name"`
				Fields []map[string]json.RawMessage `json:"fields"`
			}
		}
	}
	if err := json.Unmarshal(dump, &d); err != nil {
		return nil, fmt.Errorf("plugin dump: %w", err)
	}
	if d.Protocol != "ProtoBuf:1" {
		return nil, fmt.Errorf("plugin dump: protocol %q, only \"ProtoBuf:1\" is spoken here", d.Protocol)
	}
	if len(d.Plugins) == 0 {
		return nil, errors.New("plugin dump: no plugin in it")
	}
	p := d.Plugins[0]
	switch {
	case p.Name == "":
		return nil, errors.New("plugin dump: the plugin has no name")
	case p.Priority == nil || *p.Priority != math.Trunc(*p.Priority) || math.Abs(*p.Priority) > 1<<31:
		return nil, fmt.Errorf("plugin dump: plugin %q has no integer priority", p.Name)
	case p.Schema == nil:
		return nil, fmt.Errorf("plugin dump: plugin %q has no schema", p.Name)
	}
	for _, phase := range p.Phases {
		if !slices.Contains(phases, phase) {
			return nil, fmt.Errorf("plugin dump: unknown phase %q", phase)
		}
	}
	s := &Schema{Name: p.Name, Version: p.Version, Priority: int(*p.Priority), Phases: p.Phases}
	fields, err := parseFields(p.Schema.Fields, 0)
	if err != nil {
		return nil, fmt.Errorf("plugin dump: schema of %q: %w", p.Name, err)
	}
	for _, f := range fields {
		switch f.name {
		case "config":
			s.config = f
		case "consumer", "route", "service":
			s.entity = append(s.entity, f)
		case "protocols":
			s.entity = append(s.entity, f)
		default:
			return nil, fmt.Errorf("plugin dump: schema of %q: %s: cannot create a new field", p.Name, f.name)
		}
	}
	if s.config == nil || s.config.kind != "record" {
		return nil, fmt.Errorf("plugin dump: schema of %q: no config record", p.Name)
	}
	s.config.optional = false
	requireRecords(s.config)
	return s, nil
}

// requireRecords makes every record a required one that does not say otherwise,
// as Kong does for the schemas of plugins: a record that is left out is filled
// with its defaults.
func requireRecords(f *field) {
	f.required = !f.optional
	for _, sub := range f.fields {
		if sub.kind == "record" {
			requireRecords(sub)
		}
	}
}

const maxSchemaDepth = 32

func parseFields(list []map[string]json.RawMessage, depth int) ([]*field, error) {
	out := []*field{}
	for _, entry := range list {
		if len(entry) != 1 {
			return nil, fmt.Errorf("a field entry has %d names, it must have one", len(entry))
		}
		for name, raw := range entry {
			f, err := parseField(raw, depth)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if slices.ContainsFunc(out, func(o *field) bool { return o.name == name }) {
				return nil, fmt.Errorf("%s: declared twice", name)
			}
			f.name = name
			out = append(out, f)
		}
	}
	return out, nil
}

func parseField(raw json.RawMessage, depth int) (*field, error) {
	if depth > maxSchemaDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxSchemaDepth)
	}
	var attrs map[string]json.RawMessage
	if err := json.Unmarshal(raw, &attrs); err != nil {
		return nil, err
	}
	f := new(field)
	names := make([]string, 0, len(attrs))
	for name := range attrs {
		names = append(names, name)
	}
	sort.Strings(names) // so that the same dump gives the same error
	for _, name := range names {
		err := f.setAttribute(name, attrs[name], depth)
		if err != nil && name != "fields" { // a field in fields says its own name
			err = fmt.Errorf("attribute %q: %w", name, err)
		}
		if err != nil {
			return nil, err
		}
	}
	return f, f.check()
}

func (f *field) setAttribute(name string, raw json.RawMessage, depth int) error {
	var err error
	sub := func() *field {
		var s *field
		s, err = parseField(raw, depth+1)
		return s
	}
	into := func(v any) error { return json.Unmarshal(raw, v) }
	switch name {
	case "type":
		return into(&f.kind)
	case "required":
		err := into(&f.required)
		f.optional = err == nil && !f.required
		return err
	case "default":
		f.hasDefault = true
		return into(&f.def)
	case "eq":
		f.hasEq = true
		return into(&f.eq)
	case "ne":
		f.hasNe = true
		return into(&f.ne)
	case "one_of":
		return into(&f.oneOf)
	case "not_one_of":
		return into(&f.notOneOf)
	case "between":
		return into(&f.between)
	case "gt":
		return into(&f.gt)
	case "len_eq":
		return into(&f.lenEq)
	case "len_min":
		return into(&f.lenMin)
	case "len_max":
		return into(&f.lenMax)
	case "starts_with":
		return into(&f.startsWith)
	case "contains":
		return into(&f.contains)
	case "uuid":
		return into(&f.uuid)
	case "timestamp":
		return into(&f.timestamp)
	case "referenceable":
		return into(&f.referenceable)
	case "err":
		return into(&f.err)
	case "match":
		f.match, err = parsePattern(raw)
	case "not_match":
		f.notMatch, err = parsePattern(raw)
	case "match_all":
		f.matchAll, err = parsePatternRules(raw)
	case "match_none":
		f.matchNone, err = parsePatternRules(raw)
	case "match_any":
		var any struct {
			Patterns []json.RawMessage `json:"patterns"`
			Err      string            `json:"err"`
		}
		if err := into(&any); err != nil {
			return err
		}
		f.matchAnyErr = any.Err
		for _, p := range any.Patterns {
			pattern, err := parsePattern(p)
			if err != nil {
				return err
			}
			f.matchAny = append(f.matchAny, pattern)
		}
	case "elements":
		f.elements = sub()
	case "keys":
		f.keys = sub()
	case "values":
		f.mapValues = sub()
	case "fields":
		var list []map[string]json.RawMessage
		if err := into(&list); err != nil {
			return err
		}
		f.fields, err = parseFields(list, depth+1)
	case "description":
		var text string
		if err := into(&text); err != nil {
			return err
		}
		if len(text) < 10 || len(text) > 500 {
			return fmt.Errorf("%d bytes long, Kong takes 10 to 500", len(text))
		}
	case "reference", "on_delete":
		var text string
		return into(&text)
	case "encrypted", "unique", "immutable":
		var flag bool // they change nothing about a declarative configuration
		return into(&flag)
	default:
		return errors.New("not known")
	}
	return err
}

func parsePattern(raw json.RawMessage) (*luaPattern, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, err
	}
	return compileLuaPattern(s)
}

func parsePatternRules(raw json.RawMessage) ([]patternRule, error) {
	var list []struct {
		Pattern json.RawMessage `json:"pattern"`
		Err     string          `json:"err"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	var out []patternRule
	for _, r := range list {
		p, err := parsePattern(r.Pattern)
		if err != nil {
			return nil, err
		}
		out = append(out, patternRule{p, r.Err})
	}
	return out, nil
}

// check refuses what Kong's own schema of schemas refuses.
func (f *field) check() error {
	switch f.kind {
	case "string", "number", "integer", "boolean", "foreign":
	case "array", "set":
		if f.elements == nil {
			return fmt.Errorf("%s without elements", f.kind)
		}
	case "map":
		if f.keys == nil || f.mapValues == nil {
			return errors.New("map without keys and values")
		}
	case "record":
		if f.fields == nil {
			return errors.New("record without fields")
		}
	default:
		return fmt.Errorf("invalid type: %q", f.kind)
	}
	if f.between != nil && len(f.between) != 2 {
		return fmt.Errorf("between has %d numbers, it must have two", len(f.between))
	}
	if f.referenceable && f.kind != "string" {
		return fmt.Errorf("a %s cannot be referenceable", f.kind)
	}
	// A rule that cannot apply to the type would make Kong's validator fail.
	text := f.match != nil || f.notMatch != nil || f.matchAll != nil || f.matchNone != nil || f.matchAny != nil || f.startsWith != nil || f.uuid
	if text && f.kind != "string" {
		return fmt.Errorf("a %s cannot be matched against a pattern", f.kind)
	}
	if number := f.between != nil || f.gt != nil || f.timestamp; number && f.kind != "number" && f.kind != "integer" {
		return fmt.Errorf("a %s cannot be compared with a number", f.kind)
	}
	if length := f.lenEq != nil || f.lenMin != nil || f.lenMax != nil; length && !slices.Contains([]string{"string", "array", "set", "map"}, f.kind) {
		return fmt.Errorf("a %s has no length", f.kind)
	}
	if f.oneOf != nil && f.kind != "string" && f.kind != "number" && f.kind != "integer" {
		return fmt.Errorf("field of type '%s' cannot have attribute 'one_of'", f.kind)
	}
	if f.contains != nil && f.kind != "array" && f.kind != "set" {
		return fmt.Errorf("a %s cannot contain anything", f.kind)
	}
	if f.hasDefault && f.def != nil {
		// A default is validated when it is used, as any other value.
		if _, err := canonical(f.def); err != nil {
			return fmt.Errorf("default: %w", err)
		}
	}
	return nil
}

// canonical turns a value decoded from JSON or YAML, or built in Go, into the
// values of encoding/json: nil, bool, float64, string, []any, map[string]any.
func canonical(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out any
	dec := json.NewDecoder(bytes.NewReader(data))
	return out, dec.Decode(&out)
}
