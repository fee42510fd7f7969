// Validation of a plugin entity against its schema, in Kong's order and words,
// and the two steps around it: defaults before, references after.

package pluginhost

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// violations maps a field's name, or an element's number from 1, to a string
// or to the violations inside it.
type violations map[string]any

// Validate checks one plugin entity as Kong does when a configuration is
// loaded. It returns the configuration with the defaults filled in and null
// for what is unset, references unresolved: what Kong's admin API shows. The
// error names every violation in Kong's words.
func (s *Schema) Validate(p Plugin) (map[string]any, error) {
	if p.Name != s.Name {
		return nil, fmt.Errorf("schema violation (name: plugin '%s' not enabled; add it to the 'plugins' configuration property)", p.Name)
	}
	errs := violations{}
	entity := map[string]any{}
	if p.Consumer != "" {
		entity["consumer"] = map[string]any{"id": p.Consumer}
	}
	if p.Protocols != nil {
		list := []any{}
		for _, v := range p.Protocols {
			list = append(list, v)
		}
		entity["protocols"] = list
	}
	for _, f := range s.entity {
		if v, given := entity[f.name]; f.kind == "foreign" {
			// Kong's default of a foreign key is null, so eq null holds
			// unless the entity names one. route and service are given by
			// where the plugin stands.
			if given && f.hasEq && f.eq == nil {
				errs[f.name] = f.message("value must be null")
			}
		} else if given {
			if err := f.validate(v); err != nil {
				errs[f.name] = err
			}
		}
	}
	if entity["protocols"] != nil && !slices.ContainsFunc(s.entity, func(f *field) bool { return f.name == "protocols" }) {
		known := []string{"grpc", "grpcs", "http", "https", "tcp", "tls", "tls_passthrough", "udp", "ws", "wss"}
		for i, v := range p.Protocols {
			if !slices.Contains(known, v) {
				errs["protocols"] = violations{strconv.Itoa(i + 1): "expected one of: " + strings.Join(known, ", ")}
			}
		}
	}
	var config any = map[string]any{}
	if p.Config != nil {
		var err error
		if config, err = canonical(p.Config); err != nil {
			return nil, fmt.Errorf("plugin %q: config: %w", p.Name, err)
		}
	}
	config = s.config.fill(config)
	if err := s.config.validate(config); err != nil {
		errs["config"] = err
	}
	if len(errs) > 0 {
		return nil, errs.error()
	}
	return config.(map[string]any), nil
}

// fill puts defaults where v leaves fields out (process_auto_fields, insert).
// A given null stays null.
func (f *field) fill(v any) any {
	switch v := v.(type) {
	case map[string]any:
		switch f.kind {
		case "record":
			for _, sub := range f.fields {
				if value, ok := v[sub.name]; ok {
					v[sub.name] = sub.fill(value)
				} else if value, ok := sub.missing(); ok {
					v[sub.name] = value
				}
			}
		case "map":
			for k, value := range v {
				v[k] = f.mapValues.fill(value)
			}
		case "array", "set":
			if len(v) == 0 { // Lua's {} is a sequence, too
				return []any{}
			}
		}
	case []any:
		switch f.kind {
		case "array", "set":
			if f.kind == "set" {
				v = unique(v)
			}
			for i := range v {
				v[i] = f.elements.fill(v[i])
			}
			return v
		case "record", "map":
			if len(v) == 0 {
				return f.fill(map[string]any{})
			}
		}
	}
	return v
}

// missing is the value of a field that the configuration leaves out; false
// where there is none, which a required field turns into a violation.
func (f *field) missing() (any, bool) {
	switch {
	case f.hasDefault:
		v, err := canonical(f.def)
		if err != nil { // ruled out by check
			return nil, false
		}
		return f.fill(v), true
	case !f.required:
		return nil, true
	case f.kind == "record":
		return f.fill(map[string]any{}), true
	}
	return nil, false
}

// unique drops later duplicates of plain values, as Kong does for sets.
func unique(list []any) []any {
	seen := map[any]bool{}
	out := list[:0:0]
	for _, v := range list {
		switch v.(type) {
		case string, float64, bool:
			if seen[v] {
				continue
			}
			seen[v] = true
		}
		out = append(out, v)
	}
	if out == nil {
		return []any{}
	}
	return out
}

// message is the schema's own words for a violation, or else Kong's.
func (f *field) message(text string) string {
	if f.err != "" {
		return f.err
	}
	return text
}

// validate returns nil, a string, or violations.
func (f *field) validate(v any) any {
	if v == nil {
		switch {
		case f.hasNe && f.ne == nil:
			return f.message("value must not be null")
		case f.hasEq && f.eq != nil:
			return "value must be " + luaString(f.eq)
		case f.required:
			return "required field missing"
		}
		return nil
	}
	if f.hasEq && f.eq == nil {
		return f.message("value must be null")
	}
	var err any
	length := 0
	switch f.kind {
	case "array", "set":
		list, ok := v.([]any)
		if !ok {
			return map[string]string{"array": "expected an array", "set": "expected a set"}[f.kind]
		}
		length, err = len(list), f.validateElements(list)
	case "map":
		err = f.validateMap(v)
		if m, ok := v.(map[string]any); ok {
			length = len(m)
		}
	case "record":
		err = f.validateRecord(v)
	case "integer":
		if n, ok := v.(float64); !ok || n != math.Trunc(n) {
			return "expected an integer"
		}
	case "number":
		if _, ok := v.(float64); !ok {
			return "expected a number"
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return "expected a boolean"
		}
	case "string":
		s, ok := v.(string)
		if !ok {
			return "expected a string"
		}
		if f.referenceable && isReference(s) {
			return nil
		}
		length = len(s)
	}
	if err != nil {
		return err
	}
	if text := f.validateRules(v, length); text != "" {
		return f.message(text)
	}
	return nil
}

func (f *field) validateElements(list []any) any {
	errs := violations{}
	for i, v := range list {
		if err := f.elements.validateRequired(v); err != nil {
			errs[strconv.Itoa(i+1)] = err
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

// validateRequired validates an element, key or value: Kong makes them
// required.
func (f *field) validateRequired(v any) any {
	required := *f
	required.required = true
	return required.validate(v)
}

func (f *field) validateMap(v any) any {
	m, ok := v.(map[string]any)
	if list, isList := v.([]any); isList && len(list) > 0 {
		return "expected a string" // the keys of a Lua sequence are numbers
	} else if !ok {
		return "expected a map"
	}
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		if err := f.keys.validateRequired(k); err != nil {
			return err
		}
		if err := f.mapValues.validateRequired(m[k]); err != nil {
			return err
		}
	}
	return nil
}

func (f *field) validateRecord(v any) any {
	errs := violations{}
	m, ok := v.(map[string]any)
	if list, isList := v.([]any); isList {
		for i := range list {
			errs[strconv.Itoa(i+1)] = "unknown field"
		}
	} else if !ok {
		return "expected a record"
	}
	for name, value := range m {
		i := slices.IndexFunc(f.fields, func(sub *field) bool { return sub.name == name })
		if i < 0 {
			errs[name] = "unknown field"
		} else if err := f.fields[i].validate(value); err != nil {
			errs[name] = err
		}
	}
	for _, sub := range f.fields {
		if sub.required && m[sub.name] == nil {
			errs[sub.name] = "required field missing"
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

var uuidText = regexp.MustCompile(`(?i)^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// validateRules applies the rules of a field, in Kong's order, to a value of
// the right type. It returns Kong's words for the first that does not hold.
func (f *field) validateRules(v any, length int) string {
	n, _ := v.(float64)
	s, _ := v.(string)
	lenMin := f.lenMin
	if f.kind == "string" && lenMin == nil {
		one := 1 // Kong takes no empty string unless the schema asks for it
		lenMin = &one
	}
	one := func(v any) func(any) bool { return func(o any) bool { return reflect.DeepEqual(v, o) } }
	switch {
	case f.hasEq && !reflect.DeepEqual(v, f.eq):
		return "value must be " + luaString(f.eq)
	case f.hasNe && reflect.DeepEqual(v, f.ne):
		return "value must not be " + luaString(v)
	case f.notOneOf != nil && slices.ContainsFunc(f.notOneOf, one(v)):
		return "must not be one of: " + luaList(f.notOneOf)
	case f.oneOf != nil && !slices.ContainsFunc(f.oneOf, one(v)):
		return "expected one of: " + luaList(f.oneOf)
	case f.gt != nil && n <= *f.gt:
		return "value must be greater than " + luaString(*f.gt)
	case f.timestamp && n <= 0:
		return "expected a valid timestamp"
	case f.uuid && !uuidText.MatchString(s):
		return "expected a valid UUID"
	case f.between != nil && (n < f.between[0] || n > f.between[1]):
		return fmt.Sprintf("value should be between %d and %d", int64(f.between[0]), int64(f.between[1]))
	case f.lenEq != nil && length != *f.lenEq:
		return fmt.Sprintf("length must be %d", *f.lenEq)
	case lenMin != nil && length < *lenMin:
		return fmt.Sprintf("length must be at least %d", *lenMin)
	case f.lenMax != nil && length > *f.lenMax:
		return fmt.Sprintf("length must be at most %d", *f.lenMax)
	case f.startsWith != nil && !strings.HasPrefix(s, *f.startsWith):
		return "should start with: " + *f.startsWith
	case f.notMatch != nil && f.notMatch.match(s):
		return "invalid value: " + s
	}
	for _, r := range f.matchNone {
		if r.pattern.match(s) {
			return r.err
		}
	}
	if f.match != nil && !f.match.match(s) {
		return "invalid value: " + s
	}
	for _, r := range f.matchAll {
		if !r.pattern.match(s) {
			return r.err
		}
	}
	if f.matchAny != nil && !slices.ContainsFunc(f.matchAny, func(p *luaPattern) bool { return p.match(s) }) {
		if f.matchAnyErr == "" {
			return "invalid value: " + s
		}
		return f.matchAnyErr
	}
	if f.contains != nil && !slices.ContainsFunc(v.([]any), one(f.contains)) {
		return "expected to contain: " + luaString(f.contains)
	}
	return ""
}

// luaString is Lua's tostring of a JSON value.
func luaString(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'g', 14, 64)
	}
	return fmt.Sprint(v)
}

func luaList(list []any) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = luaString(v)
	}
	return strings.Join(words, ", ")
}

// error puts violations into Kong's one line (db/errors.lua).
func (errs violations) error() error {
	var lines []string
	for _, name := range errs.names() {
		if sub, ok := errs[name].(violations); ok {
			for _, inner := range sub.names() {
				lines = append(lines, fmt.Sprintf("%s.%s: %s", name, inner, pretty(sub[inner], "")))
			}
		} else {
			lines = append(lines, fmt.Sprintf("%s: %s", name, errs[name]))
		}
	}
	text := strings.Join(lines, "; ")
	if len(lines) == 1 {
		return errors.New("schema violation (" + text + ")")
	}
	return fmt.Errorf("%d schema violations (%s)", len(lines), text)
}

// names are the keys of errs, numbers first and in their order.
func (errs violations) names() []string {
	names := make([]string, 0, len(errs))
	for name := range errs {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool {
		a, errA := strconv.Atoi(names[i])
		b, errB := strconv.Atoi(names[j])
		if errA == nil && errB == nil {
			return a < b
		}
		if (errA == nil) != (errB == nil) {
			return errA == nil
		}
		return names[i] < names[j]
	})
	return names
}

var luaName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// pretty is Penlight's pl.pretty of nested violations; a string is itself at
// the top and quoted inside.
func pretty(v any, indent string) string {
	errs, ok := v.(violations)
	if !ok {
		if indent == "" {
			return fmt.Sprint(v)
		}
		return strconv.Quote(fmt.Sprint(v))
	}
	inner := indent + "  "
	var lines []string
	for i, name := range errs.names() {
		value := pretty(errs[name], inner)
		switch n, err := strconv.Atoi(name); {
		case err == nil && n == i+1:
			lines = append(lines, inner+value)
		case err == nil:
			lines = append(lines, fmt.Sprintf("%s[%d] = %s", inner, n, value))
		case luaName.MatchString(name):
			lines = append(lines, inner+name+" = "+value)
		default:
			lines = append(lines, fmt.Sprintf("%s[%q] = %s", inner, name, value))
		}
	}
	return "{\n" + strings.Join(lines, ",\n") + "\n" + indent + "}"
}

// isReference reports whether Kong takes a string for a vault reference.
func isReference(s string) bool {
	return strings.HasPrefix(s, "{vault://") && strings.HasSuffix(s, "}")
}

// resolve is Kong's reading of a stored configuration (process_auto_fields,
// select): references replaced, unset and empty fields left out. env gives
// {vault://env/NAME}; one that does not resolve becomes "", and notice says so.
func (f *field) resolve(m map[string]any, env func(string) (string, bool), notice func(string)) map[string]any {
	out := map[string]any{}
	refs := map[string]any{}
	deref := func(sub *field, v any) (any, bool) {
		s, ok := v.(string)
		if !ok || sub.kind != "string" || !sub.referenceable || !isReference(s) {
			return v, false
		}
		value, ok := resolveReference(s, env)
		if !ok {
			notice("unable to resolve reference " + s)
			value = ""
		}
		return value, true
	}
	for _, sub := range f.fields {
		v := m[sub.name]
		switch value := v.(type) {
		case nil:
			continue
		case string:
			resolved, isRef := deref(sub, value)
			if isRef {
				refs[sub.name] = value
			} else if value == "" && (sub.lenMin == nil || *sub.lenMin > 0) {
				continue
			}
			v = resolved
		case []any:
			list, listRefs := make([]any, len(value)), map[string]any{}
			for i, e := range value {
				var isRef bool
				if list[i], isRef = deref(sub.elements, e); isRef {
					listRefs[strconv.Itoa(i+1)] = e
				} else if r, ok := e.(map[string]any); ok && sub.elements.kind == "record" {
					list[i] = sub.elements.resolve(r, env, notice)
				}
			}
			if len(listRefs) > 0 {
				refs[sub.name] = listRefs
			}
			v = list
		case map[string]any:
			if sub.kind == "record" {
				v = sub.resolve(value, env, notice)
				break
			}
			values, mapRefs := map[string]any{}, map[string]any{}
			for k, e := range value {
				var isRef bool
				if values[k], isRef = deref(sub.mapValues, e); isRef {
					mapRefs[k] = e
				}
			}
			if len(mapRefs) > 0 {
				refs[sub.name] = mapRefs
			}
			v = values
		}
		out[sub.name] = v
	}
	if len(refs) > 0 {
		out["$refs"] = refs
	}
	return out
}

// resolveReference resolves {vault://env/NAME}: Kong looks for NAME in upper
// case with - as _. Other vaults do not exist here.
func resolveReference(ref string, env func(string) (string, bool)) (string, bool) {
	name, ok := strings.CutPrefix(strings.TrimSuffix(ref, "}"), "{vault://env/")
	if !ok || name == "" || strings.ContainsAny(name, "/?#") {
		return "", false
	}
	return env(strings.ToUpper(strings.ReplaceAll(name, "-", "_")))
}
