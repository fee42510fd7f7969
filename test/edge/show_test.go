package edge

// What `terraform show -json` says of a plan or a state.

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/gruntwork-io/terratest/modules/terraform"
)

type resource struct {
	Address string         `json:"address"`
	Mode    string         `json:"mode"`
	Type    string         `json:"type"`
	Values  map[string]any `json:"values"`
}

type module struct {
	Resources []resource `json:"resources"`
	Children  []module   `json:"child_modules"`
}

func (m module) all() []resource {
	out := slices.Clone(m.Resources)
	for _, c := range m.Children {
		out = append(out, c.all()...)
	}
	return slices.DeleteFunc(out, func(r resource) bool { return r.Mode != "managed" })
}

type shown struct {
	raw     []byte
	Planned []resource // of a plan
	State   []resource // of a state
	changes map[string]string
	outputs map[string]any
}

func show(t *testing.T, o *terraform.Options) shown {
	t.Helper()
	raw := []byte(terraform.ShowContext(t, t.Context(), o))
	var doc struct {
		Planned struct {
			Root module `json:"root_module"`
		} `json:"planned_values"`
		Values struct {
			Root    module `json:"root_module"`
			Outputs map[string]struct {
				Value any `json:"value"`
			} `json:"outputs"`
		} `json:"values"`
		Changes []struct {
			Address string `json:"address"`
			Change  struct {
				Actions []string `json:"actions"`
			} `json:"change"`
		} `json:"resource_changes"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatalf("terraform show -json: %v", err)
	}
	s := shown{raw: raw, Planned: doc.Planned.Root.all(), State: doc.Values.Root.all(), changes: map[string]string{}, outputs: map[string]any{}}
	for _, c := range doc.Changes {
		if a := strings.Join(c.Change.Actions, " "); a != "no-op" && a != "read" {
			s.changes[c.Address] = a
		}
	}
	for name, o := range doc.Values.Outputs {
		s.outputs[name] = o.Value
	}
	return s
}

func (s shown) actions() map[string]string { return s.changes }

func (s shown) output(t *testing.T, name string) string {
	t.Helper()
	v, ok := s.outputs[name].(string)
	if !ok {
		t.Fatalf("output %s is %T, want a string", name, s.outputs[name])
	}
	return v
}

func ofType(resources []resource, kind string) []resource {
	return slices.DeleteFunc(slices.Clone(resources), func(r resource) bool { return r.Type != kind })
}

func only(t *testing.T, resources []resource, kind string) resource {
	t.Helper()
	r := ofType(resources, kind)
	if len(r) != 1 {
		t.Fatalf("%d resources of type %s, want 1", len(r), kind)
	}
	return r[0]
}

// block is the first nested block of that name.
func (r resource) block(t *testing.T, name string) map[string]any {
	t.Helper()
	l, _ := r.Values[name].([]any)
	if len(l) == 0 {
		t.Fatalf("%s has no %s", r.Address, name)
	}
	m, ok := l[0].(map[string]any)
	if !ok {
		t.Fatalf("%s: %s is %T", r.Address, name, l[0])
	}
	return m
}

func noSecret(t *testing.T, where string, text []byte, hidden []string) {
	t.Helper()
	if len(text) == 0 {
		t.Errorf("%s is empty: nothing was looked through", where)
	}
	for _, h := range hidden {
		if bytes.Contains(text, []byte(h)) {
			t.Errorf("%s holds a secret", where)
		}
	}
}

// planFile is everything in a plan, which is a zip archive.
func planFile(t *testing.T, path string) []byte {
	t.Helper()
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var all []byte
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}
