package edge

// Plans and states, and what must not be in them.

import (
	"archive/zip"
	"bytes"
	"io"
	"testing"

	"github.com/gruntwork-io/terratest/modules/terraform"

	"github.com/wallarm-gate/wallarm-gate/test/edge/plan"
)

type resource = plan.Resource

func show(t *testing.T, o *terraform.Options) plan.Shown {
	t.Helper()
	s, err := plan.Parse([]byte(terraform.ShowContext(t, t.Context(), o)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func output(t *testing.T, s plan.Shown, name string) string {
	t.Helper()
	v, ok := s.Outputs[name].(string)
	if !ok {
		t.Fatalf("output %s is %T, want a string", name, s.Outputs[name])
	}
	return v
}

func only(t *testing.T, resources []resource, kind string) resource {
	t.Helper()
	r, err := plan.Only(resources, kind)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// block is the first nested block of that name.
func block(t *testing.T, r resource, name string) map[string]any {
	t.Helper()
	b, err := r.Block(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
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
