package edge

// Operations: the dashboard speaks of what the state holds, and schedules may move the bounds.

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gruntwork-io/terratest/modules/terraform"
)

// A dashboard's body in CloudWatch's own structure, as far as the module uses it; decoding
// refuses any other field.
type dashboard struct {
	Widgets []widget `json:"widgets"`
}

type widget struct {
	Type       string          `json:"type"`
	X          int             `json:"x"`
	Y          int             `json:"y"`
	Width      int             `json:"width"`
	Height     int             `json:"height"`
	Properties json.RawMessage `json:"properties"`
}

type alarmWidget struct {
	Title  string   `json:"title"`
	Alarms []string `json:"alarms"`
}

type logWidget struct {
	Title, View, Region, Query string
}

type metricWidget struct {
	Title       string              `json:"title"`
	View        string              `json:"view"`
	Region      string              `json:"region"`
	Period      int                 `json:"period"`
	Metrics     [][]json.RawMessage `json:"metrics"`
	YAxis       struct{ Left axis } `json:"yAxis"`
	Annotations struct {
		Horizontal []struct {
			Label string  `json:"label"`
			Value float64 `json:"value"`
		} `json:"horizontal"`
	} `json:"annotations"`
}

type axis struct {
	Min       float64 `json:"min"`
	Label     string  `json:"label"`
	ShowUnits *bool   `json:"showUnits"`
}

func strictly(t *testing.T, what string, b []byte, into any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func text(t *testing.T, r resource, name string) string {
	t.Helper()
	s, ok := r.Values[name].(string)
	if !ok || s == "" {
		t.Fatalf("%s: %s is %v, want a string", r.Address, name, r.Values[name])
	}
	return s
}

// metrics that AWS publishes with the dimensions that the module uses, and no others.
var published = map[string][]string{
	"LoadBalancer": {
		"RequestCount", "HTTPCode_ELB_4XX_Count", "HTTPCode_ELB_5XX_Count", "DesyncMitigationMode_NonCompliant_Request_Count",
		"ClientTLSNegotiationErrorCount", "RejectedConnectionCount",
	},
	"LoadBalancer TargetGroup": {
		"HTTPCode_Target_4XX_Count", "HTTPCode_Target_5XX_Count", "TargetResponseTime", "HealthyHostCount", "UnHealthyHostCount",
		"TargetConnectionErrorCount",
	},
	"ClusterName ServiceName": {"CPUUtilization", "MemoryUtilization"},
	"":                        {"InspectionActive"},
}

// checkDashboard holds the dashboard to CloudWatch's structure and to what the state says.
func checkDashboard(t *testing.T, all []resource, url string) {
	t.Helper()
	r := only(t, all, "aws_cloudwatch_dashboard")
	name := text(t, r, "dashboard_name")
	if !strings.HasSuffix(url, "#dashboards/dashboard/"+name) || !strings.Contains(name, "eu-central-1") {
		t.Errorf("the dashboard is %q, its URL %q", name, url)
	}
	var d dashboard
	strictly(t, "dashboard", []byte(text(t, r, "dashboard_body")), &d)

	values := map[string]string{
		"LoadBalancer": text(t, only(t, all, "aws_lb"), "arn_suffix"),
		"TargetGroup":  text(t, only(t, all, "aws_lb_target_group"), "arn_suffix"),
		"ClusterName":  text(t, only(t, all, "aws_ecs_cluster"), "name"),
		"ServiceName":  text(t, only(t, all, "aws_ecs_service"), "name"),
	}
	filter := first(t, only(t, all, "aws_cloudwatch_log_metric_filter"), "metric_transformation")
	shown := map[string]bool{}
	taken := map[[2]int]string{}
	for i, w := range d.Widgets {
		at := fmt.Sprintf("widget %d (%s)", i, w.Type)
		for x := w.X; x < w.X+w.Width; x++ {
			for y := w.Y; y < w.Y+w.Height; y++ {
				if other, ok := taken[[2]int{x, y}]; ok || x < 0 || x > 23 {
					t.Fatalf("%s: cell %d,%d lies outside of 24 columns or in %s", at, x, y, other)
				}
				taken[[2]int{x, y}] = at
			}
		}
		switch w.Type {
		case "alarm":
			var p alarmWidget
			strictly(t, at, w.Properties, &p)
			var want []string
			for _, a := range every(all, "aws_cloudwatch_metric_alarm") {
				want = append(want, text(t, a, "arn"))
			}
			slices.Sort(want)
			slices.Sort(p.Alarms)
			if len(want) == 0 || !slices.Equal(p.Alarms, want) {
				t.Errorf("%s: shows %q, want every alarm: %q", at, p.Alarms, want)
			}
		case "log":
			var p logWidget
			strictly(t, at, w.Properties, &p)
			if group := text(t, only(t, all, "aws_cloudwatch_log_group"), "name"); !strings.HasPrefix(p.Query, "SOURCE '"+group+"' | ") {
				t.Errorf("%s: query %q does not read %s", at, p.Query, group)
			}
		case "metric":
			var p metricWidget
			strictly(t, at, w.Properties, &p)
			if p.Title == "" || p.Region != "eu-central-1" || p.View != "timeSeries" || p.Period != 60 || len(p.Metrics) == 0 {
				t.Errorf("%s: %+v lacks a title, a metric, or the alarms' period and region", at, p)
			}
			for _, m := range p.Metrics {
				shown[checkMetric(t, at, m, values, filter)] = true
			}
		default:
			t.Errorf("%s: unknown type", at)
		}
	}
	for _, a := range every(all, "aws_cloudwatch_metric_alarm") {
		if m := text(t, a, "metric_name"); !shown[m] {
			t.Errorf("no graph shows %s, on which %s is raised", m, a.Address)
		}
	}
}

// checkMetric returns the metric's name.
func checkMetric(t *testing.T, at string, m []json.RawMessage, values map[string]string, filter map[string]any) string {
	t.Helper()
	if len(m) < 3 || len(m)%2 == 0 {
		t.Fatalf("%s: a metric of %d parts, want namespace, name, pairs of dimensions, how to draw it", at, len(m))
	}
	var options struct{ Label, Stat string }
	strictly(t, at, m[len(m)-1], &options)
	words := make([]string, len(m)-1)
	for i := range words {
		if err := json.Unmarshal(m[i], &words[i]); err != nil {
			t.Fatalf("%s: part %d of a metric: %v", at, i, err)
		}
	}
	var dimensions []string
	for i := 2; i < len(words); i += 2 {
		dimensions = append(dimensions, words[i])
		if words[i+1] == "" || words[i+1] != values[words[i]] {
			t.Errorf("%s: %s is %q, the state says %q", at, words[i], words[i+1], values[words[i]])
		}
	}
	namespace := map[string]any{
		"LoadBalancer": "AWS/ApplicationELB", "LoadBalancer TargetGroup": "AWS/ApplicationELB",
		"ClusterName ServiceName": "AWS/ECS", "": filter["namespace"],
	}[strings.Join(dimensions, " ")]
	if words[0] != namespace || !slices.Contains(published[strings.Join(dimensions, " ")], words[1]) {
		t.Errorf("%s: nobody publishes %q with the dimensions %q", at, words[:2], dimensions)
	}
	if !slices.Contains([]string{"Sum", "Average", "Minimum", "Maximum", "SampleCount", "p50", "p90", "p99"}, options.Stat) || options.Label == "" {
		t.Errorf("%s: %s is drawn as %+v", at, words[1], options)
	}
	return words[1]
}

// The dashboard of an edge with everything on. And its schedules: what one did to the bounds is no drift; other bounds in the configuration make the target
// anew, with everything that AWS drops together with it.
func TestOperations(t *testing.T) {
	t.Parallel()
	needTerraform(t)
	needStandIn(t)
	e := examples(t)[2]
	dir := filepath.Join(copyModule(t), "examples", e.name)
	setVariables(t, dir, e.vars)
	o := options(dir, e.secrets)
	state := applied(t, o)
	checkDashboard(t, state, terraform.OutputContext(t, t.Context(), o, "dashboard_url"))
	schedules := map[string]string{}
	for _, r := range every(state, "aws_appautoscaling_scheduled_action") {
		b := first(t, r, "scalable_target_action")
		schedules[text(t, r, "schedule")] = fmt.Sprintf("%s %v to %v", text(t, r, "timezone"), b["min_capacity"], b["max_capacity"])
	}
	if want := map[string]string{
		"cron(0 7 ? * MON-FRI *)": "Europe/Berlin 6 to 20", "cron(0 20 * * ? *)": "Europe/Berlin 2 to 10",
	}; !maps.Equal(schedules, want) {
		t.Errorf("schedules: %v, want %v", schedules, want)
	}

	// The morning, as a refresh would find it.
	path := filepath.Join(dir, "terraform.tfstate")
	var doc map[string]any
	if err := json.Unmarshal(readFile(t, path), &doc); err != nil {
		t.Fatal(err)
	}
	moved := 0
	for _, r := range doc["resources"].([]any) {
		if r := r.(map[string]any); r["type"] == "aws_appautoscaling_target" {
			for _, i := range r["instances"].([]any) {
				i.(map[string]any)["attributes"].(map[string]any)["min_capacity"] = 6
				moved++
			}
		}
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil || moved != 1 {
		t.Fatalf("%d targets in the state; %v", moved, err)
	}
	if code := terraform.PlanExitCodeContext(t, t.Context(), o); code != 0 {
		t.Errorf("bounds that a schedule moved plan a change: exit code %d", code)
	}

	change(t, filepath.Join(dir, "main.tf"), "max_capacity               = 20", "max_capacity               = 24")
	o.PlanFilePath = filepath.Join(t.TempDir(), "plan")
	terraform.PlanContext(t, t.Context(), o)
	want := map[string]string{"module.edge.terraform_data.scaling_bounds[0]": "update"}
	for _, address := range []string{
		`aws_appautoscaling_target.this[0]`,
		`aws_appautoscaling_policy.this["cpu"]`, `aws_appautoscaling_policy.this["memory"]`, `aws_appautoscaling_policy.this["requests"]`,
		`aws_appautoscaling_scheduled_action.this["day"]`, `aws_appautoscaling_scheduled_action.this["night"]`,
	} {
		want["module.edge."+address] = "delete create"
	}
	if got := planned(t, o); !maps.Equal(got, want) {
		t.Errorf("other bounds plan\n%v\nwant\n%v", got, want)
	}
}

func every(all []resource, kind string) []resource {
	return slices.DeleteFunc(slices.Clone(all), func(r resource) bool { return r.Type != kind })
}

// first is the first nested block of that name.
func first(t *testing.T, r resource, name string) map[string]any {
	t.Helper()
	blocks, _ := r.Values[name].([]any)
	if len(blocks) == 0 {
		t.Fatalf("%s has no %s", r.Address, name)
	}
	b, ok := blocks[0].(map[string]any)
	if !ok {
		t.Fatalf("%s: %s is %T", r.Address, name, blocks[0])
	}
	return b
}

// planned is what a plan does, by address.
func planned(t *testing.T, o *terraform.Options) map[string]string {
	t.Helper()
	var doc struct {
		Changes []struct {
			Address string                     `json:"address"`
			Change  struct{ Actions []string } `json:"change"`
		} `json:"resource_changes"`
	}
	if err := json.Unmarshal([]byte(terraform.ShowContext(t, t.Context(), o)), &doc); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, c := range doc.Changes {
		if a := strings.Join(c.Change.Actions, " "); a != "no-op" && a != "read" {
			out[c.Address] = a
		}
	}
	return out
}

func change(t *testing.T, path, from, to string) {
	t.Helper()
	old := string(readFile(t, path))
	if strings.Count(old, from) != 1 {
		t.Fatalf("%s does not hold %q once", path, from)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(old, from, to, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}
