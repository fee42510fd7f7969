package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/internal/kongfile"
)

var update = flag.Bool("update", false, "write the golden files")

func TestDump(t *testing.T) {
	t.Parallel()
	code, got, stderr := command(t, "-kong-prefix", "/kong_prefix", "-dump")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	const golden = "testdata/dump.golden.json"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the dump is not that of %s (run with -update):\n%s", golden, got)
	}
	// cjson.null is what Kong's rule for "no consumer" needs.
	if !strings.Contains(got, `"eq": null`) {
		t.Error("consumer is not declared null")
	}
}

// Kong runs an event for a phase that the binary lacks without end.
func TestPhasesAreTheMethods(t *testing.T) {
	t.Parallel()
	var have []string
	for _, name := range []string{"Certificate", "Rewrite", "Access", "Response", "Preread", "Log"} {
		if _, ok := reflect.TypeFor[*Config]().MethodByName(name); ok {
			have = append(have, strings.ToLower(name))
		}
	}
	if want := dump(pluginName, "/").Plugins[0].Phases; !slices.Equal(have, want) {
		t.Errorf("methods for %q, phases %q", have, want)
	}
}

// walk calls f for every declared field, with its path.
func walk(prefix string, fields []named, f func(path string, f field)) {
	for _, n := range fields {
		for name, decl := range n {
			f(prefix+name, decl)
			walk(prefix+name+".", decl.Fields, f)
			if decl.Elements != nil {
				walk(prefix+name+".", decl.Elements.Fields, f)
			}
		}
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	var names []string
	walk("", configFields(), func(path string, f field) {
		names = append(names, path)
		if n := len(f.Description); n < 10 || n > 500 {
			t.Errorf("%s: the description has %d bytes, Kong allows 10 to 500", path, n)
		}
		if f.Default != nil && f.Type != "set" && f.Required != true {
			t.Errorf("%s has a default and may be null", path)
		}
	})
	if want := kongfile.Fields(); !slices.Equal(slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(want))) {
		t.Errorf("the schema has %q, the check of a declarative file knows %q", names, want)
	}
}

// The decoder and the schema agree on the defaults.
func TestDefaultsOfTheSchemaDecode(t *testing.T) {
	t.Parallel()
	values := map[string]any{"replay": map[string]any{}, "jwks": newEdge(t).inline}
	for _, n := range configFields() {
		for name, f := range n {
			if f.Default != nil {
				values[name] = f.Default
			}
			for _, inner := range f.Fields {
				for innerName, f := range inner {
					if f.Default != nil {
						values[name].(map[string]any)[innerName] = f.Default
					}
				}
			}
		}
	}
	explicit := configure(t, testGate(), values)
	if explicit.verifier == nil {
		t.Fatal(explicit.problem)
	}
	implicit := configure(t, testGate(), map[string]any{"jwks": values["jwks"]})
	if !reflect.DeepEqual(explicit.verifier.Policy, implicit.verifier.Policy) || explicit.status != implicit.status ||
		explicit.mode != implicit.mode || explicit.logged != implicit.logged ||
		explicit.gate.replay.capacity != implicit.gate.replay.capacity {
		t.Errorf("%+v\n%+v", explicit, implicit)
	}
}

func TestDumpIsOneJSONValue(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := dump("x", "/p").write(&b); err != nil {
		t.Fatal(err)
	}
	if !json.Valid(b.Bytes()) {
		t.Errorf("%s", b.Bytes())
	}
}
