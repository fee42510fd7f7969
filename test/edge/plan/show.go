package plan

// What `terraform show -json` says of a plan or a state.

import (
	"encoding/json"
	"fmt"
	"slices"
)

// A Resource is one managed resource with its values.
type Resource struct {
	Address string         `json:"address"`
	Mode    string         `json:"mode"`
	Type    string         `json:"type"`
	Values  map[string]any `json:"values"`
}

type module struct {
	Resources []Resource `json:"resources"`
	Children  []module   `json:"child_modules"`
}

func (m module) all() []Resource {
	out := slices.Clone(m.Resources)
	for _, c := range m.Children {
		out = append(out, c.all()...)
	}
	return slices.DeleteFunc(out, func(r Resource) bool { return r.Mode != "managed" })
}

type outputs map[string]struct {
	Value any `json:"value"`
}

func (o outputs) values() map[string]any {
	values := map[string]any{}
	for name, output := range o {
		values[name] = output.Value
	}
	return values
}

// Shown is a plan or a state.
type Shown struct {
	Raw     []byte
	Planned []Resource        // of a plan
	State   []Resource        // of a state
	Changes map[string]string // of a plan: address to actions, those that do something
	Outputs map[string]any    // those that are known
}

// Parse reads the output of `terraform show -json`.
func Parse(raw []byte) (Shown, error) {
	type values struct {
		Root    module  `json:"root_module"`
		Outputs outputs `json:"outputs"`
	}
	var doc struct {
		Planned values `json:"planned_values"`
		Values  values `json:"values"`
		Changes []struct {
			Address string `json:"address"`
			Change  struct {
				Actions []string `json:"actions"`
			} `json:"change"`
		} `json:"resource_changes"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return Shown{}, fmt.Errorf("terraform show -json: %w", err)
	}
	s := Shown{Raw: raw, Planned: doc.Planned.Root.all(), State: doc.Values.Root.all(), Changes: map[string]string{}, Outputs: doc.Values.Outputs.values()}
	for name, value := range doc.Planned.Outputs.values() {
		s.Outputs[name] = value
	}
	for _, c := range doc.Changes {
		if a := fmt.Sprint(c.Change.Actions); a != "[no-op]" && a != "[read]" {
			s.Changes[c.Address] = a[1 : len(a)-1]
		}
	}
	return s, nil
}

// OfType are the resources of one type.
func OfType(resources []Resource, kind string) []Resource {
	return slices.DeleteFunc(slices.Clone(resources), func(r Resource) bool { return r.Type != kind })
}

// Only is the one resource of a type.
func Only(resources []Resource, kind string) (Resource, error) {
	r := OfType(resources, kind)
	if len(r) != 1 {
		return Resource{}, fmt.Errorf("%d resources of type %s, want 1", len(r), kind)
	}
	return r[0], nil
}

// Block is the first nested block of that name.
func (r Resource) Block(name string) (map[string]any, error) {
	l, _ := r.Values[name].([]any)
	if len(l) == 0 {
		return nil, fmt.Errorf("%s has no %s", r.Address, name)
	}
	m, ok := l[0].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: %s is %T", r.Address, name, l[0])
	}
	return m, nil
}
