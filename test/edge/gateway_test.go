package edge

// The gateway's side: what the module says must fit the plugin and the chart.

import (
	"strings"
	"testing"

	"github.com/gruntwork-io/terratest/modules/terraform"
	"go.yaml.in/yaml/v3"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/internal/kongfile"
)

func applied(t *testing.T, o *terraform.Options) []resource {
	t.Helper()
	terraform.InitAndApplyContext(t, t.Context(), o)
	return show(t, o).State
}

func checkGateway(t *testing.T, config, values string) {
	t.Helper()
	doc := "_format_version: \"3.0\"\nservices:\n- name: api\n  url: http://upstream:8080\n  routes:\n  - name: api\n    paths: [\"/\"]\nplugins:\n" + config
	report, err := kongfile.Check([]byte(doc))
	if err != nil {
		t.Fatalf("gate_config is no part of a kong.yml: %v\n%s", err, config)
	}
	for _, f := range report.Findings {
		t.Errorf("gate_config: %s %s: %s", f.Severity, f.Where, f.What)
	}
	if report.Gates != 1 {
		t.Errorf("gate_config holds %d gates, want 1", report.Gates)
	}
	var plugins []struct {
		Config struct {
			JWKS    string   `yaml:"jwks"`
			Sources []string `yaml:"allowed_sources"`
		} `yaml:"config"`
	}
	if err := yaml.Unmarshal([]byte(config), &plugins); err != nil || len(plugins) != 1 {
		t.Fatalf("gate_config: %d plugins, %v", len(plugins), err)
	}
	keys, err := evidence.ParseKeySet([]byte(plugins[0].Config.JWKS))
	if err != nil {
		t.Fatalf("gate_config: jwks: %v", err)
	}
	for _, k := range keys.Keys() {
		if k.CanSign() {
			t.Errorf("gate_config holds the signing part of %v", k)
		}
	}
	if len(plugins[0].Config.Sources) == 0 {
		t.Error("gate_config allows every source")
	}

	var mine, chart map[string]any
	if err := yaml.Unmarshal([]byte(values), &mine); err != nil {
		t.Fatalf("chart_values: %v", err)
	}
	if err := yaml.Unmarshal(readFile(t, root+"/charts/wallarm-gate/values.yaml"), &chart); err != nil {
		t.Fatal(err)
	}
	known(t, "", mine, chart)
}

// known finds values that the chart does not have.
func known(t *testing.T, at string, mine, chart map[string]any) {
	t.Helper()
	for name, v := range mine {
		other, ok := chart[name]
		if !ok {
			t.Errorf("chart_values sets %s, which the chart does not have", strings.TrimPrefix(at+"."+name, "."))
			continue
		}
		if m, ok := v.(map[string]any); ok {
			o, _ := other.(map[string]any)
			known(t, at+"."+name, m, o)
		}
	}
}
