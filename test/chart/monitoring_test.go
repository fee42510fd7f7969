package chart

// The dashboard and the alerts: they parse, they fire and stay silent as they should, and they
// speak of what the plugin and the attester export, all of it and nothing else.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

const page = "https://github.com/wallarm-gate/wallarm-gate/blob/main/docs/troubleshooting.md"

// promtool runs promtool: $PROMTOOL, or that of the PATH (Debian's package prometheus has it).
// Without it the test is skipped, or fails with PROMTOOL_REQUIRED=1.
func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	bin := os.Getenv("PROMTOOL")
	if bin == "" {
		var err error
		if bin, err = exec.LookPath("promtool"); err != nil {
			const how = "no promtool: install Debian's prometheus, or name one in PROMTOOL"
			if os.Getenv("PROMTOOL_REQUIRED") == "1" {
				t.Fatal(how)
			}
			t.Skip("NOT RUN: " + how)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, bin, args...).CombinedOutput()
	return string(out), err
}

var ruleFiles = []string{chartDir + "/rules/wallarm-gate.yaml", chartDir + "/rules/wallarm-attester.yaml"}

// ruleGroups reads the files of rules/ strictly into the Prometheus Operator's type.
func ruleGroups(t *testing.T) (groups []monitoringv1.RuleGroup) {
	t.Helper()
	for _, file := range ruleFiles {
		var spec monitoringv1.PrometheusRuleSpec
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(data, &spec); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		groups = append(groups, spec.Groups...)
	}
	return groups
}

func alerts(t *testing.T) (found []monitoringv1.Rule) {
	t.Helper()
	for _, g := range ruleGroups(t) {
		for _, r := range g.Rules {
			if r.Alert == "" {
				t.Errorf("%s records %q: rules/ holds alerts only", g.Name, r.Record)
			}
			found = append(found, r)
		}
	}
	if len(found) < 25 {
		t.Fatalf("only %d alerts", len(found))
	}
	return found
}

func TestRulesParse(t *testing.T) {
	t.Parallel()
	if out, err := promtool(t, append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, ruleFiles...)...); err != nil {
		t.Error(out)
	}
}

func TestRulesFire(t *testing.T) {
	t.Parallel()
	if out, err := promtool(t, "test", "rules", "testdata/rules_test.yaml"); err != nil {
		t.Error(out)
	}
}

// Each alert fires in one case, and in another there are its metrics but it does not fire.
func TestEveryRuleIsTested(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Tests []struct {
			Name   string
			Series []struct{ Series string } `json:"input_series"`
			Exprs  []struct {
				Samples []struct{ Labels string } `json:"exp_samples"`
			} `json:"promql_expr_test"`
		}
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	for _, a := range alerts(t) {
		needs := slices.Compact(slices.Sorted(slices.Values(metricName.FindAllString(a.Expr.String(), -1))))
		fires, silent := false, false
		for _, test := range file.Tests {
			fired := false
			for _, e := range test.Exprs {
				for _, s := range e.Samples {
					fired = fired || strings.Contains(s.Labels, `alertname="`+a.Alert+`"`)
				}
			}
			has := 0
			for _, n := range needs {
				if slices.ContainsFunc(test.Series, func(s struct{ Series string }) bool { return strings.HasPrefix(s.Series, n+"{") }) {
					has++
				}
			}
			fires = fires || fired
			silent = silent || !fired && has == len(needs)
		}
		if !fires || !silent || len(needs) == 0 {
			t.Errorf("%s: fires in a case: %t; silent in a case with %q: %t", a.Alert, fires, needs, silent)
		}
	}
}

// Each alert says what it is, what it means, and where the page of remedies has it.
func TestAlertsSayWhatToDo(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile(filepath.Join(chartDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, a := range alerts(t) {
		if seen[a.Alert] {
			t.Errorf("%s stands twice", a.Alert)
		}
		seen[a.Alert] = true
		if !strings.Contains(string(manual), "`"+a.Alert+"`") {
			t.Errorf("%s is not in the chart's README", a.Alert)
		}
		if s := a.Labels["severity"]; !slices.Contains([]string{"critical", "warning", "info"}, s) || len(a.Labels) != 1 {
			t.Errorf("%s: labels %v, want one severity", a.Alert, a.Labels)
		}
		if len(a.Annotations) != 3 || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s: annotations %v", a.Alert, a.Annotations)
		}
		anchor := "#" + strings.ToLower(kebab.ReplaceAllString(a.Alert, "$1-$2"))
		if strings.Contains(a.Expr.String(), "reason)") {
			anchor = "#{{ $labels.reason }}"
		}
		if got := a.Annotations["runbook_url"]; got != page+anchor {
			t.Errorf("%s refers to %q, want %q", a.Alert, got, page+anchor)
		}
	}
}

var kebab = regexp.MustCompile(`([a-z])([A-Z])`)

// What the chart installs are the files, with the gate's own numbers and the user's page.
func TestPrometheusRule(t *testing.T) {
	t.Parallel()
	m := render(t, "", "operations")
	if m.Rules.Labels["release"] != "prometheus" {
		t.Errorf("labels %v", m.Rules.Labels)
	}
	expr := func(groups []monitoringv1.RuleGroup, alert string) string {
		for _, g := range groups {
			for _, r := range g.Rules {
				if r.Alert == alert {
					return strings.TrimSpace(r.Expr.String())
				}
			}
		}
		t.Fatalf("no alert %s", alert)
		return ""
	}
	numbers := map[string]string{"WallarmGateEvidenceNearlyStale": " > 0.7 * 30", "WallarmGateAttesterClockAhead": " < -0.5 * 5"}
	for _, a := range alerts(t) {
		got, want := expr(m.Rules.Spec.Groups, a.Alert), strings.TrimSpace(a.Expr.String())
		if number := numbers[a.Alert]; !strings.HasSuffix(want, number) {
			t.Errorf("%s: %q does not end with %q, which the chart replaces", a.Alert, want, number)
		}
		if got != want {
			t.Errorf("%s: the chart has %q, the file %q", a.Alert, got, want)
		}
	}
	own := render(t, `{gate: {config: {max_age: 60, clock_skew: 0}}, monitoring: {prometheusRule: {runbookUrl: "https://wiki.example.com/gate"}}}`, "operations").Rules
	for alert, end := range map[string]string{"WallarmGateEvidenceNearlyStale": " > 0.7 * 60", "WallarmGateAttesterClockAhead": " < -0.5 * 0"} {
		if got := expr(own.Spec.Groups, alert); !strings.HasSuffix(got, end) {
			t.Errorf("%s: %q, want the end %q", alert, got, end)
		}
	}
	for _, g := range own.Spec.Groups {
		for _, r := range g.Rules {
			if !strings.HasPrefix(r.Annotations["runbook_url"], "https://wiki.example.com/gate#") {
				t.Errorf("%s refers to %s", r.Alert, r.Annotations["runbook_url"])
			}
		}
	}
	if r := render(t, "", "minimal"); r.Rules != nil || r.Dashboard != nil {
		t.Error("rules or a dashboard that nobody asked for")
	}
	// Prometheus takes what the chart renders.
	data, err := yaml.Marshal(own.Spec)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtool(t, "check", "rules", path); err != nil {
		t.Error(out)
	}
}

// dashboard is a Grafana dashboard, as far as this one uses the format; decoding refuses any other
// field.
type dashboard struct {
	UID           string   `json:"uid"`
	Title         string   `json:"title"`
	Description   string   `json:"description"`
	Tags          []string `json:"tags"`
	SchemaVersion int      `json:"schemaVersion"`
	Version       int      `json:"version"`
	Editable      bool     `json:"editable"`
	GraphTooltip  int      `json:"graphTooltip"`
	Timezone      string   `json:"timezone"`
	Refresh       string   `json:"refresh"`
	Time          struct{ From, To string }
	Annotations   struct{ List []any }
	Links         []any
	Templating    struct{ List []variable }
	Panels        []graph
}

type source struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type variable struct {
	Name       string          `json:"name"`
	Label      string          `json:"label"`
	Type       string          `json:"type"`
	Datasource *source         `json:"datasource"`
	Query      json.RawMessage `json:"query"`
	Definition string          `json:"definition"`
	Refresh    int             `json:"refresh"`
	Sort       int             `json:"sort"`
	Multi      bool            `json:"multi"`
	IncludeAll bool            `json:"includeAll"`
	AllValue   string          `json:"allValue"`
	Current    map[string]any  `json:"current"`
}

type graph struct {
	ID          int     `json:"id"`
	Type        string  `json:"type"`
	Title       string  `json:"title"`
	Description string  `json:"description"`
	Datasource  *source `json:"datasource"`
	Collapsed   bool    `json:"collapsed"`
	Panels      []any   `json:"panels"`
	GridPos     struct {
		H, W, X, Y int
	} `json:"gridPos"`
	FieldConfig map[string]any `json:"fieldConfig"`
	Options     map[string]any `json:"options"`
	Targets     []struct {
		RefID        string  `json:"refId"`
		Datasource   *source `json:"datasource"`
		Expr         string  `json:"expr"`
		LegendFormat string  `json:"legendFormat"`
		Instant      bool    `json:"instant"`
	} `json:"targets"`
}

const dashboardFile = chartDir + "/dashboards/wallarm-gate.json"

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	data, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		t.Fatalf("%s: %v", dashboardFile, err)
	}
	return d
}

// expressions are those of the panels, with Grafana's variables filled in.
func (d dashboard) expressions() (found []string) {
	fill := strings.NewReplacer("$__rate_interval", "5m", "$namespace", "kong", "$pod", "a|b", "$attester", ".*")
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			found = append(found, fill.Replace(target.Expr))
		}
	}
	return found
}

func TestDashboard(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 36 || len(d.Panels) < 20 {
		t.Errorf("uid %q, title %q, schemaVersion %d, %d panels", d.UID, d.Title, d.SchemaVersion, len(d.Panels))
	}
	variables := map[string]bool{"__rate_interval": true}
	for i, v := range d.Templating.List {
		if variables[v.Name] {
			t.Errorf("variable %s stands twice", v.Name)
		}
		variables[v.Name] = true
		if i == 0 && (v.Type != "datasource" || string(v.Query) != `"prometheus"` || v.Name != "datasource") {
			t.Errorf("the first variable must choose the data source: %+v", v)
		}
		if i > 0 && (v.Type != "query" || v.Datasource == nil || v.Datasource.UID != "${datasource}" || v.AllValue != ".*" || !v.IncludeAll || v.Definition == "") {
			t.Errorf("variable %s: %+v", v.Name, v)
		}
	}
	ids, cells := map[int]bool{}, map[[2]int]string{}
	uses := regexp.MustCompile(`\$\{?(\w+)`)
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("%s: id %d stands twice", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := cells[[2]int{x, y}]; ok || x > 23 {
					t.Fatalf("%s: cell %d,%d lies outside of 24 columns or in %q", p.Title, x, y, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if p.Title == "" || !slices.Contains([]string{"row", "stat", "timeseries"}, p.Type) {
			t.Errorf("panel %d: title %q, type %q", p.ID, p.Title, p.Type)
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource == nil || p.Datasource.Type != "prometheus" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("%s: data source %+v, %d targets", p.Title, p.Datasource, len(p.Targets))
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if refs[target.RefID] || target.RefID == "" || target.Expr == "" || target.LegendFormat == "" || target.Datasource == nil || target.Datasource.UID != "${datasource}" {
				t.Errorf("%s: target %+v", p.Title, target)
			}
			refs[target.RefID] = true
			for _, m := range uses.FindAllStringSubmatch(target.Expr, -1) {
				if !variables[m[1]] {
					t.Errorf("%s uses the variable %s, which is none", p.Title, m[1])
				}
			}
		}
	}

	m := render(t, "", "operations").Dashboard
	if m.Labels["grafana_dashboard"] != "1" || m.Annotations["grafana_folder"] != "Gateways" {
		t.Errorf("labels %v, annotations %v", m.Labels, m.Annotations)
	}
	data, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Data) != 1 || m.Data["wallarm-gate.json"] != strings.TrimSpace(string(data)) {
		t.Error("the ConfigMap does not hold the file")
	}
	if l := render(t, "monitoring: {dashboard: {labels: {grafana_dashboard: null, dashboards: gate}}}", "operations").Dashboard.Labels; l["dashboards"] != "gate" || l["grafana_dashboard"] != "" {
		t.Errorf("labels of one's own: %v", l)
	}
}

// Prometheus parses every expression of the dashboard.
func TestDashboardParses(t *testing.T) {
	t.Parallel()
	var rules []monitoringv1.Rule
	for i, e := range readDashboard(t).expressions() {
		r := monitoringv1.Rule{Record: fmt.Sprintf("dashboard:target:%d", i)}
		r.Expr.StrVal, r.Expr.Type = e, 1
		rules = append(rules, r)
	}
	data, err := yaml.Marshal(monitoringv1.PrometheusRuleSpec{Groups: []monitoringv1.RuleGroup{{Name: "dashboard", Rules: rules}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := promtool(t, "check", "rules", path)
	if err != nil || !strings.Contains(out, fmt.Sprintf("%d rules found", len(rules))) {
		t.Errorf("%v: %s", err, out)
	}
}

var (
	metricName = regexp.MustCompile(`\b(?:wallarm_(?:gate|attester)_[a-z0-9_]+|process_[a-z0-9_]+|up)\b`)
	selector   = regexp.MustCompile(`\b(wallarm_(?:gate|attester)_[a-z0-9_]+)\{([^}]*)\}`)
	matcher    = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"([^"]*)"`)
)

// exported is what a binary exports: the labels of each family, and the values of each label.
type exported map[string]map[string]map[string]bool

// scrape asks a listener until every family that it describes in HELP has been seen.
func scrape(t *testing.T, url string, into exported) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", url, resp.Status, err)
	}
	kinds := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE ((?:wallarm|process)_\w+) (\w+)$`).FindAllStringSubmatch(string(body), -1) {
		kinds[m[1]] = m[2]
		into[m[1]] = map[string]map[string]bool{}
	}
	for _, m := range regexp.MustCompile(`(?m)^((?:wallarm|process)_\w+)(?:\{(.*)\})? \S+$`).FindAllStringSubmatch(string(body), -1) {
		family := m[1]
		if kinds[family] == "" {
			family = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(family, "")
			if kinds[family] != "histogram" {
				t.Fatalf("%s is of no family", m[1])
			}
		}
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if into[family][l[1]] == nil {
				into[family][l[1]] = map[string]bool{}
			}
			into[family][l[1]][l[3]] = true
		}
		if kinds[family] == "histogram" { // and the series of each
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				into[family+suffix] = into[family]
			}
		}
	}
}

// scrapeBoth runs the plugin and the attester until each metric has a series, and scrapes them.
func scrapeBoth(t *testing.T) (families []string, all exported) {
	t.Helper()
	all = exported{}
	e, up := newEdge(t), newUpstream(t)
	m := withUpstream(t, "minimal", up.URL)
	m.Keys.Data["jwks.json"] = e.public
	r := run(t, m, map[string]map[string]string{"gateway-tls": e.server})
	if got, err := r.send(edgePeer, e.request(t, "a.example", "/", nil), nil); got != 200 {
		t.Fatalf("%d %v\n%s", got, err, r.log)
	}
	if got, err := r.send(edgePeer, plain("a.example", "/"), nil); got != 403 {
		t.Fatalf("%d %v\n%s", got, err, r.log)
	}
	scrape(t, "http://"+r.ports["0.0.0.0:9542"]+"/metrics", all)

	scrape(t, startAttester(t), all)
	for name := range all {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if strings.HasPrefix(name, "wallarm_") && (base == name || all[base] == nil) {
			families = append(families, name)
		}
	}
	if len(families) < 25 {
		t.Fatalf("only %d families: %q", len(families), families)
	}
	return families, all
}

// startAttester runs the attester, lets it refuse a request, and returns the URL of its metrics.
func startAttester(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "attester")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./edge/attester")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	key, err := evidence.GenerateKey("edge-1", evidence.AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	key.Expires = time.Now().Add(time.Hour)
	set, err := evidence.NewKeySet(key)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := set.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	status := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(status.Close)
	listen, metrics := freeAddress(t), freeAddress(t)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, bin)
	cmd.Env = []string{
		"ATTESTER_LISTEN=" + listen, "ATTESTER_HEALTH_LISTEN=127.0.0.1:0", "ATTESTER_METRICS_LISTEN=" + metrics,
		"ATTESTER_BACKEND_URL=" + status.URL, "ATTESTER_ALLOW_PLAINTEXT=true", "ATTESTER_NODE_STATUS_URL=" + status.URL, "ATTESTER_SIGNING_JWKS=" + string(keys),
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := cmd.Wait(); err == nil {
			t.Errorf("the attester ended by itself: %s", &log)
		}
	})
	limit := time.Now().Add(deadline)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := http.Get("http://" + listen + "/")
		if err == nil {
			resp.Body.Close()
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("%v\n%s", err, &log)
		}
		<-tick.C
	}
	return "http://" + metrics + "/metrics"
}

// notShown are metrics without a panel, and why.
var notShown = map[string]string{}

// Dashboard and rules name only what the binaries export, with labels and values that exist there;
// and whatever they export of their own is on the dashboard.
func TestMetricsAreTheBinaries(t *testing.T) {
	t.Parallel()
	families, all := scrapeBoth(t)
	reasons := map[string]bool{"": true}
	for _, r := range evidence.Reasons() {
		reasons[string(r)] = true
	}
	// Labels whose values appear only with what happens.
	all["wallarm_gate_decisions_total"]["reason"] = reasons
	all["wallarm_gate_decisions_total"]["decision"] = map[string]bool{"allow": true, "deny": true, "exempt": true, "report": true}
	scraped := map[string]bool{"job": true, "namespace": true, "pod": true, "instance": true} // added by Prometheus

	texts := map[string][]string{"dashboard": readDashboard(t).expressions()}
	for _, a := range alerts(t) {
		texts[a.Alert] = []string{a.Expr.String()}
	}
	shown := map[string]bool{}
	for where, exprs := range texts {
		for _, expr := range exprs {
			for _, name := range metricName.FindAllString(expr, -1) {
				if name != "up" && all[name] == nil {
					t.Errorf("%s: no binary exports %s", where, name)
				}
				if where == "dashboard" {
					shown[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")] = true
				}
			}
			for _, s := range selector.FindAllStringSubmatch(expr, -1) {
				for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
					values, ok := all[s[1]][m[1]]
					if !ok {
						if !scraped[m[1]] {
							t.Errorf("%s: %s has no label %s", where, s[1], m[1])
						}
						continue
					}
					for _, v := range strings.Split(m[3], "|") {
						if !values[v] && m[1] != "le" {
							t.Errorf("%s: the label %s of %s is never %q, but one of %q", where, m[1], s[1], v, slices.Sorted(maps.Keys(values)))
						}
					}
				}
			}
		}
	}
	for _, name := range families {
		if !shown[name] && notShown[name] == "" {
			t.Errorf("%s is exported, and no panel shows it", name)
		}
	}
	for name := range notShown {
		if all[name] == nil || shown[name] {
			t.Errorf("%s is no exception any more", name)
		}
	}
}
