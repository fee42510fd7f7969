package pluginhost

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// schemaOf makes a schema with the given config fields, as JSON.
func schemaOf(t testing.TB, fields string, entity ...string) *Schema {
	t.Helper()
	s, err := ParseSchema(dumpOf(fields, entity...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dumpOf(fields string, entity ...string) []byte {
	list := strings.Join(append(entity, `{"config":{"type":"record","fields":[`+fields+`]}}`), ",")
	return []byte(`{"Protocol":"ProtoBuf:1","Plugins":[{"Name":"p","Version":"1.0.0","Priority":1,"Phases":["access"],"Schema":{"name":"p","fields":[` + list + `]}}]}`)
}

func TestValidate(t *testing.T) {
	t.Parallel()
	const record = `{"r":{"type":"record","fields":[{"n":{"type":"integer","between":[1,5],"default":2}},{"s":{"type":"string","required":true}}]}}`
	tests := []struct {
		name, fields, config string
		want                 string // the configuration, or the violation
	}{
		{"a default", `{"a":{"type":"string","default":"x"}}`, `{}`, `{"a":"x"}`},
		{"a value instead of the default", `{"a":{"type":"string","default":"x"}}`, `{"a":"y"}`, `{"a":"y"}`},
		{"null instead of the default", `{"a":{"type":"string","default":"x"}}`, `{"a":null}`, `{"a":null}`},
		{"unset and optional", `{"a":{"type":"string"}}`, `{}`, `{"a":null}`},
		{"required", `{"a":{"type":"string","required":true}}`, `{}`, "schema violation (config.a: required field missing)"},
		{"required and null", `{"a":{"type":"string","required":true,"default":"x"}}`, `{"a":null}`, "schema violation (config.a: required field missing)"},
		{"unknown field", `{"a":{"type":"string"}}`, `{"b":1}`, "schema violation (config.b: unknown field)"},
		{"unknown field that is null", `{"a":{"type":"string"}}`, `{"b":null}`, "schema violation (config.b: unknown field)"},
		{"every violation, in order", `{"a":{"type":"string"}},{"c":{"type":"boolean"}}`, `{"c":1,"b":1,"a":1}`,
			"3 schema violations (config.a: expected a string; config.b: unknown field; config.c: expected a boolean)"},
		{"not a record at all", `{"a":{"type":"string"}}`, `[1]`, "schema violation (config.1: unknown field)"},

		{"a number for a string", `{"a":{"type":"string"}}`, `{"a":1}`, "schema violation (config.a: expected a string)"},
		{"an empty string", `{"a":{"type":"string"}}`, `{"a":""}`, "schema violation (config.a: length must be at least 1)"},
		{"an empty string that is allowed", `{"a":{"type":"string","len_min":0}}`, `{"a":""}`, `{"a":""}`},
		{"a string for a number", `{"a":{"type":"number"}}`, `{"a":"1"}`, "schema violation (config.a: expected a number)"},
		{"a number", `{"a":{"type":"number"}}`, `{"a":1.5}`, `{"a":1.5}`},
		{"a fraction for an integer", `{"a":{"type":"integer"}}`, `{"a":1.5}`, "schema violation (config.a: expected an integer)"},
		{"a whole float is an integer", `{"a":{"type":"integer"}}`, `{"a":2.0}`, `{"a":2}`},
		{"a string for a boolean", `{"a":{"type":"boolean"}}`, `{"a":"true"}`, "schema violation (config.a: expected a boolean)"},

		{"one_of", `{"a":{"type":"string","one_of":["x","y"]}}`, `{"a":"z"}`, "schema violation (config.a: expected one of: x, y)"},
		{"one_of comes before the length", `{"a":{"type":"string","one_of":["x","y"]}}`, `{"a":""}`, "schema violation (config.a: expected one of: x, y)"},
		{"one_of of numbers", `{"a":{"type":"integer","one_of":[1,2]}}`, `{"a":3}`, "schema violation (config.a: expected one of: 1, 2)"},
		{"not_one_of", `{"a":{"type":"string","not_one_of":["x"]}}`, `{"a":"x"}`, "schema violation (config.a: must not be one of: x)"},
		{"between, below", `{"a":{"type":"integer","between":[1,300]}}`, `{"a":0}`, "schema violation (config.a: value should be between 1 and 300)"},
		{"between, above", `{"a":{"type":"integer","between":[1,300]}}`, `{"a":301}`, "schema violation (config.a: value should be between 1 and 300)"},
		{"between, at its ends", `{"a":{"type":"integer","between":[1,300]}},{"b":{"type":"integer","between":[1,300]}}`, `{"a":1,"b":300}`, `{"a":1,"b":300}`},
		{"gt", `{"a":{"type":"number","gt":0.5}}`, `{"a":0.5}`, "schema violation (config.a: value must be greater than 0.5)"},
		{"len_min", `{"a":{"type":"string","len_min":3}}`, `{"a":"xx"}`, "schema violation (config.a: length must be at least 3)"},
		{"len_max", `{"a":{"type":"string","len_max":3}}`, `{"a":"xxxx"}`, "schema violation (config.a: length must be at most 3)"},
		{"len_eq", `{"a":{"type":"string","len_eq":3}}`, `{"a":"xx"}`, "schema violation (config.a: length must be 3)"},
		{"eq", `{"a":{"type":"string","eq":"x"}}`, `{"a":"y"}`, "schema violation (config.a: value must be x)"},
		{"ne", `{"a":{"type":"string","ne":"x"}}`, `{"a":"x"}`, "schema violation (config.a: value must not be x)"},
		{"uuid", `{"a":{"type":"string","uuid":true}}`, `{"a":"x"}`, "schema violation (config.a: expected a valid UUID)"},
		{"starts_with", `{"a":{"type":"string","starts_with":"/"}}`, `{"a":"x"}`, "schema violation (config.a: should start with: /)"},
		{"match", `{"a":{"type":"string","match":"^%d+$"}}`, `{"a":"1x"}`, "schema violation (config.a: invalid value: 1x)"},
		{"match holds", `{"a":{"type":"string","match":"^%d+$"}}`, `{"a":"12"}`, `{"a":"12"}`},
		{"not_match", `{"a":{"type":"string","not_match":"%s"}}`, `{"a":"x y"}`, "schema violation (config.a: invalid value: x y)"},
		{"match_any", `{"a":{"type":"string","match_any":{"patterns":["^a","^b"],"err":"a or b"}}}`, `{"a":"c"}`, "schema violation (config.a: a or b)"},
		{"match_all", `{"a":{"type":"string","match_all":[{"pattern":"^a","err":"no a"},{"pattern":"z$","err":"no z"}]}}`, `{"a":"ab"}`, "schema violation (config.a: no z)"},
		{"match_none", `{"a":{"type":"string","match_none":[{"pattern":"x","err":"an x"}]}}`, `{"a":"axb"}`, "schema violation (config.a: an x)"},
		{"the schema's own words", `{"a":{"type":"string","one_of":["x"],"err":"say x"}}`, `{"a":"z"}`, "schema violation (config.a: say x)"},

		{"a reference", `{"a":{"type":"string","referenceable":true,"len_min":40}}`, `{"a":"{vault://env/x}"}`, `{"a":"{vault://env/x}"}`},
		{"a reference where none may be", `{"a":{"type":"string","len_min":40}}`, `{"a":"{vault://env/x}"}`, "schema violation (config.a: length must be at least 40)"},

		{"a list", `{"a":{"type":"array","elements":{"type":"string"}}}`, `{"a":["x","x"]}`, `{"a":["x","x"]}`},
		{"a set drops duplicates", `{"a":{"type":"set","elements":{"type":"string"}}}`, `{"a":["x","y","x"]}`, `{"a":["x","y"]}`},
		{"a string for a list", `{"a":{"type":"array","elements":{"type":"string"}}}`, `{"a":"x"}`, "schema violation (config.a: expected an array)"},
		{"a string for a set", `{"a":{"type":"set","elements":{"type":"string"}}}`, `{"a":"x"}`, "schema violation (config.a: expected a set)"},
		{"an empty table is a list", `{"a":{"type":"array","elements":{"type":"string"}}}`, `{"a":{}}`, `{"a":[]}`},
		{"too many elements", `{"a":{"type":"array","len_max":1,"elements":{"type":"string"}}}`, `{"a":["x","y"]}`, "schema violation (config.a: length must be at most 1)"},
		{"a bad element", `{"a":{"type":"array","elements":{"type":"string","len_min":2}}}`, `{"a":["xx","y"]}`,
			"schema violation (config.a: {\n  [2] = \"length must be at least 2\"\n})"},
		{"a null element", `{"a":{"type":"array","elements":{"type":"string"}}}`, `{"a":[null]}`, "schema violation (config.a: {\n  \"required field missing\"\n})"},
		{"contains", `{"a":{"type":"array","contains":"x","elements":{"type":"string"}}}`, `{"a":["y"]}`, "schema violation (config.a: expected to contain: x)"},
		{"a map", `{"a":{"type":"map","keys":{"type":"string"},"values":{"type":"integer"}}}`, `{"a":{"k":1}}`, `{"a":{"k":1}}`},
		{"a bad value in a map", `{"a":{"type":"map","keys":{"type":"string"},"values":{"type":"integer"}}}`, `{"a":{"k":"v"}}`, "schema violation (config.a: expected an integer)"},
		{"a bad key in a map", `{"a":{"type":"map","keys":{"type":"string","len_min":2},"values":{"type":"integer"}}}`, `{"a":{"k":1}}`, "schema violation (config.a: length must be at least 2)"},

		{"a record's defaults", record, `{"r":{"s":"x"}}`, `{"r":{"n":2,"s":"x"}}`},
		{"a record that is left out", record, `{}`, "schema violation (config.r: {\n  s = \"required field missing\"\n})"},
		{"an optional record that is left out", strings.Replace(record, `"fields"`, `"required":false,"fields"`, 1), `{}`, `{"r":null}`},
		{"an optional record that is there", strings.Replace(record, `"fields"`, `"required":false,"fields"`, 1), `{"r":{}}`, "schema violation (config.r: {\n  s = \"required field missing\"\n})"},
		{"a record's violations", record, `{"r":{"n":9,"q":1}}`,
			"schema violation (config.r: {\n  n = \"value should be between 1 and 5\",\n  q = \"unknown field\",\n  s = \"required field missing\"\n})"},
		{"records in a list", `{"a":{"type":"array","elements":{"type":"record","fields":[{"p":{"type":"string","required":true}},{"m":{"type":"set","default":["GET"],"elements":{"type":"string"}}}]}}}`,
			`{"a":[{"p":"/x"}]}`, `{"a":[{"m":["GET"],"p":"/x"}]}`},
		{"a bad record in a list", `{"a":{"type":"array","elements":{"type":"record","fields":[{"p":{"type":"string","required":true}}]}}}`,
			`{"a":[{"p":"/x"},{}]}`, "schema violation (config.a: {\n  [2] = {\n    p = \"required field missing\"\n  }\n})"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := schemaOf(t, tt.fields)
			p := Plugin{Name: "p"}
			if strings.HasPrefix(tt.config, "[") { // only a decoder can hand this in
				config := s.config.fill([]any{1.0})
				if got := (violations{"config": s.config.validate(config)}).error().Error(); got != tt.want {
					t.Errorf("got %s want %s", got, tt.want)
				}
				return
			}
			if err := json.Unmarshal([]byte(tt.config), &p.Config); err != nil {
				t.Fatal(err)
			}
			config, err := s.Validate(p)
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				data, _ := json.Marshal(config)
				got = string(data)
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestValidateEntity(t *testing.T) {
	t.Parallel()
	noConsumer := `{"consumer":{"type":"foreign","reference":"consumers","eq":null}}`
	protocols := `{"protocols":{"type":"set","elements":{"type":"string","one_of":["http","https"]}}}`
	tests := []struct {
		name   string
		schema *Schema
		plugin Plugin
		want   string
	}{
		{"another plugin", schemaOf(t, ""), Plugin{Name: "q"}, "schema violation (name: plugin 'q' not enabled; add it to the 'plugins' configuration property)"},
		{"a consumer where none may be", schemaOf(t, "", noConsumer), Plugin{Name: "p", Consumer: "c"}, "schema violation (consumer: value must be null)"},
		{"no consumer", schemaOf(t, "", noConsumer), Plugin{Name: "p"}, ""},
		{"a consumer where it may be", schemaOf(t, ""), Plugin{Name: "p", Consumer: "c"}, ""},
		{"a protocol that the schema does not have", schemaOf(t, "", protocols), Plugin{Name: "p", Protocols: []string{"http", "tcp"}}, "schema violation (protocols.2: expected one of: http, https)"},
		{"a protocol that Kong does not have", schemaOf(t, ""), Plugin{Name: "p", Protocols: []string{"ftp"}}, "schema violation (protocols.1: expected one of: grpc, grpcs, http, https, tcp, tls, tls_passthrough, udp, ws, wss)"},
		{"both places", schemaOf(t, "", noConsumer), Plugin{Name: "p", Consumer: "c", Config: map[string]any{"x": 1}}, "2 schema violations (config.x: unknown field; consumer: value must be null)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := tt.schema.Validate(tt.plugin)
			if got := fmt.Sprint(err); got != tt.want && !(err == nil && tt.want == "") {
				t.Errorf("got %s want %s", got, tt.want)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	s := schemaOf(t, `{"a":{"type":"string","referenceable":true}},{"b":{"type":"array","elements":{"type":"string","referenceable":true}}},
		{"c":{"type":"map","keys":{"type":"string"},"values":{"type":"string","referenceable":true}}},{"d":{"type":"string"}},{"e":{"type":"string"}},
		{"r":{"type":"record","fields":[{"s":{"type":"string","referenceable":true}}]}}`)
	config, err := s.Validate(Plugin{Name: "p", Config: map[string]any{
		"a": "{vault://env/my-secret}", "b": []string{"x", "{vault://env/nope}"}, "c": map[string]string{"k": "{vault://env/MY_SECRET}"},
		"d": "{vault://env/my-secret}", "r": map[string]any{"s": "{vault://hcv/x/y}"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var notices []string
	got, _ := json.Marshal(s.config.resolve(config, func(name string) (string, bool) {
		return "resolved", name == "MY_SECRET"
	}, func(msg string) { notices = append(notices, msg) }))
	want := `{"$refs":{"a":"{vault://env/my-secret}","b":{"2":"{vault://env/nope}"},"c":{"k":"{vault://env/MY_SECRET}"}},` +
		`"a":"resolved","b":["x",""],"c":{"k":"resolved"},"d":"{vault://env/my-secret}","r":{"$refs":{"s":"{vault://hcv/x/y}"},"s":""}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(notices) != 2 {
		t.Errorf("notices: %q", notices)
	}
}

func TestParseSchemaRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ dump, want string }{
		"no JSON":              {`x`, "plugin dump: invalid character"},
		"another protocol":     {`{"Protocol":"MsgPack:1"}`, `protocol "MsgPack:1"`},
		"no plugin":            {`{"Protocol":"ProtoBuf:1"}`, "no plugin in it"},
		"no priority":          {`{"Protocol":"ProtoBuf:1","Plugins":[{"Name":"p"}]}`, "no integer priority"},
		"no schema":            {`{"Protocol":"ProtoBuf:1","Plugins":[{"Name":"p","Priority":1}]}`, "no schema"},
		"no config":            {`{"Protocol":"ProtoBuf:1","Plugins":[{"Name":"p","Priority":1,"Schema":{"fields":[]}}]}`, "no config record"},
		"unknown phase":        {strings.Replace(string(dumpOf("")), `"access"`, `"acces"`, 1), `unknown phase "acces"`},
		"unknown type":         {string(dumpOf(`{"a":{"type":"text"}}`)), `config: a: invalid type: "text"`},
		"unknown attribute":    {string(dumpOf(`{"a":{"type":"string","oneof":[]}}`)), `attribute "oneof": not known`},
		"two names in a field": {string(dumpOf(`{"a":{"type":"string"},"b":{"type":"string"}}`)), "has 2 names"},
		"twice":                {string(dumpOf(`{"a":{"type":"string"}},{"a":{"type":"string"}}`)), "declared twice"},
		"no elements":          {string(dumpOf(`{"a":{"type":"array"}}`)), "array without elements"},
		"no keys":              {string(dumpOf(`{"a":{"type":"map"}}`)), "map without keys"},
		"a match on a number":  {string(dumpOf(`{"a":{"type":"number","match":"x"}}`)), "cannot be matched"},
		"between on a string":  {string(dumpOf(`{"a":{"type":"string","between":[1,2]}}`)), "cannot be compared"},
		"a length of a number": {string(dumpOf(`{"a":{"type":"integer","len_max":2}}`)), "has no length"},
		"half a between":       {string(dumpOf(`{"a":{"type":"integer","between":[1]}}`)), "must have two"},
		"a short description":  {string(dumpOf(`{"a":{"type":"string","description":"short"}}`)), "Kong takes 10 to 500"},
		"one_of a boolean":     {string(dumpOf(`{"a":{"type":"boolean","one_of":[true]}}`)), "cannot have attribute 'one_of'"},
		"a bad pattern":        {string(dumpOf(`{"a":{"type":"string","match":"[a"}}`)), "missing ']'"},
		"a field of its own":   {string(dumpOf("", `{"mine":{"type":"string"}}`)), "mine: cannot create a new field"},
		"too deep":             {string(dumpOf(strings.Repeat(`{"a":{"type":"record","fields":[`, 40) + strings.Repeat(`]}}`, 40))), "nested deeper"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := ParseSchema([]byte(tt.dump)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v want %s", err, tt.want)
			}
		})
	}
}

func TestLuaPattern(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern string
		yes, no []string
	}{
		{"", []string{"", "x"}, nil},
		{"^$", []string{""}, []string{"x"}},
		{"b", []string{"abc"}, []string{"ac"}},
		{"^a", []string{"ab"}, []string{"ba"}},
		{"a$", []string{"ba"}, []string{"ab"}},
		{"^a.c$", []string{"abc", "a\nc"}, []string{"ac", "abbc"}},
		{"^%d+$", []string{"0", "123"}, []string{"", "12a"}},
		{"^%a*$", []string{"", "aZ"}, []string{"a1"}},
		{"^ab?c$", []string{"ac", "abc"}, []string{"abbc"}},
		{"^a-b$", []string{"b", "aab"}, []string{"aa"}},
		{"^[%w_.-]+$", []string{"a-b.c_1"}, []string{"a b"}},
		{"^[^/]+$", []string{"ab"}, []string{"a/b"}},
		{"^[]a]+$", []string{"]a"}, []string{"b"}},
		{"^[a-c]+$", []string{"abc"}, []string{"d"}},
		{"^%%%.$", []string{"%."}, []string{"%x"}},
		{"^%S+$", []string{"ab"}, []string{"a b"}},
		{"^(a+)(b)$", []string{"aab"}, []string{"a"}},
		{"^%x+$", []string{"09afAF"}, []string{"g"}},
		{"^%u%l$", []string{"Ab"}, []string{"aB"}},
		{"^%p$", []string{"!", "~"}, []string{"a", " "}},
		{"a*a*a*a*a*a*a*a*a*a*$", []string{strings.Repeat("a", 5000)}, nil},
		{"$a", []string{"$a"}, []string{"a"}},
	} {
		p, err := compileLuaPattern(tt.pattern)
		if err != nil {
			t.Errorf("%q: %v", tt.pattern, err)
			continue
		}
		for _, s := range tt.yes {
			if !p.match(s) {
				t.Errorf("%q does not match %.20q", tt.pattern, s)
			}
		}
		for _, s := range tt.no {
			if p.match(s) {
				t.Errorf("%q matches %.20q", tt.pattern, s)
			}
		}
	}
	for _, pattern := range []string{"[a", "%", "(a", "a)", "%b()", "%1", "[%", "%f[a]", strings.Repeat("a", 5000)} {
		if _, err := compileLuaPattern(pattern); err == nil {
			t.Errorf("%.20q compiles", pattern)
		}
	}
}

func FuzzSchema(f *testing.F) {
	f.Add(dumpOf(`{"a":{"type":"array","elements":{"type":"record","fields":[{"p":{"type":"string","match":"^[%w/]+$","default":"x"}}]}}}`), []byte(`{"a":[{"p":1},null,{}]}`))
	f.Add(dumpOf(`{"m":{"type":"map","keys":{"type":"string"},"values":{"type":"set","elements":{"type":"number"}}}}`), []byte(`{"m":{"k":[1,1]}}`))
	f.Add(dumpOf(`{"s":{"type":"string","referenceable":true,"default":7}}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, dump, config []byte) {
		s, err := ParseSchema(dump)
		if err != nil {
			return
		}
		p := Plugin{Name: s.Name}
		if json.Unmarshal(config, &p.Config) != nil {
			return
		}
		valid, err := s.Validate(p)
		if err != nil {
			return
		}
		// What is valid stays valid and as it is once its defaults are in it.
		again, err := s.Validate(Plugin{Name: s.Name, Config: valid})
		if err != nil {
			t.Fatalf("%v: %v", valid, err)
		}
		a, _ := json.Marshal(valid)
		if b, _ := json.Marshal(again); string(a) != string(b) {
			t.Fatalf("%s became %s", a, b)
		}
		if _, err := json.Marshal(s.config.resolve(valid, func(string) (string, bool) { return "", false }, func(string) {})); err != nil {
			t.Fatal(err)
		}
	})
}
