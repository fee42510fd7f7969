package chart

// kong-values.yaml and the manifests in kic/ for those who have a Kong already.
// The official chart is not in this repository: what it renders from our values
// is, in testdata/, with the checksum of those values. KONG_CHART, a folder with
// the official chart, renders it anew.

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

// officialChart is what the official chart renders from files of charts/.
func officialChart(t *testing.T, golden string, files ...string) *manifests {
	t.Helper()
	sum := sha256.New()
	var paths []string
	for _, f := range files {
		path := filepath.Join(root, "charts", f)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sum.Write(data)
		paths = append(paths, path)
	}
	head := fmt.Sprintf("# Rendered by the chart kong/kong 3.4.1 (Apache License 2.0) from %s, sha256 %x.\n", strings.Join(files, " and "), sum.Sum(nil))
	path := filepath.Join("testdata", golden)
	if chart := os.Getenv("KONG_CHART"); chart != "" {
		text, err := templateOf(t, chart, "", paths...)
		if err != nil {
			t.Fatal(err)
		}
		var docs strings.Builder // only what is looked at: certificates in it are new each time
		docs.WriteString(head)
		for _, doc := range documents(t, text) {
			var meta metav1.TypeMeta
			if err := yaml.Unmarshal(doc, &meta); err != nil {
				t.Fatal(err)
			}
			if meta.Kind == "Deployment" || meta.Kind == "Service" && strings.Contains(string(doc), "gate-kong-proxy") {
				var object map[string]any
				if err := yaml.Unmarshal(doc, &object); err != nil {
					t.Fatal(err)
				}
				clean, err := yaml.Marshal(object)
				if err != nil {
					t.Fatal(err)
				}
				docs.WriteString("---\n")
				docs.Write(clean)
			}
		}
		if *update {
			if err := os.WriteFile(path, []byte(docs.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		old, err := os.ReadFile(path)
		if err != nil || string(old) != docs.String() {
			t.Fatalf("%s is not what the official chart renders (%v): run with -update", path, err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if first, _, _ := strings.Cut(string(text), "\n"); first+"\n" != head {
		t.Fatalf("%s was rendered from other values: set KONG_CHART to the official chart and run with -update", path)
	}
	m := &manifests{text: string(text)}
	for _, doc := range documents(t, m.text) {
		object, kind, err := strict().Decode(doc, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		switch o := object.(type) {
		case *appsv1.Deployment:
			m.Deployment = o
		case *corev1.Service:
			m.Service = o
		default:
			t.Fatalf("a %s", kind)
		}
	}
	if m.Deployment == nil || m.Service == nil {
		t.Fatal("no Deployment or no proxy Service")
	}
	return m
}

// asOurs compares Kong's environment with that of our chart.
func asOurs(t *testing.T, theirs map[string]string, but map[string]string) {
	t.Helper()
	ours := env(render(t, "", "minimal").kong(t))
	for name, want := range ours {
		if b, ok := but[name]; ok {
			want = b
		}
		if theirs[name] != want {
			t.Errorf("%s is %q in the official chart, want %q", name, theirs[name], want)
		}
	}
}

var officialDifferences = map[string]string{
	"KONG_PREFIX": "/kong_prefix/", "KONG_DECLARATIVE_CONFIG": "/kong_dbless/kong.yml",
	"KONG_PROXY_LISTEN":  "0.0.0.0:8443 http2 reuseport backlog=16384 ssl, [::]:8443 http2 reuseport backlog=16384 ssl",
	"KONG_STATUS_LISTEN": "0.0.0.0:8100, [::]:8100",
	"KONG_LOG_LEVEL":     "", // Kong's default is ours
}

func TestOfficialChart(t *testing.T) {
	t.Parallel()
	m := officialChart(t, "kong-chart.yaml", "kong-values.yaml")
	c := m.kong(t)
	asOurs(t, env(c), officialDifferences)
	ours := render(t, "", "minimal")
	for name, value := range ours.Service.Annotations {
		if m.Service.Annotations[name] != value {
			t.Errorf("Service annotation %s is %q, want %q", name, m.Service.Annotations[name], value)
		}
	}
	if len(m.Service.Spec.Ports) != 1 || m.Service.Spec.Ports[0].Port != 443 {
		t.Errorf("Service ports %+v", m.Service.Spec.Ports)
	}
	if got, want := fmt.Sprint(c.Lifecycle.PreStop.Exec.Command), fmt.Sprint(ours.kong(t).Lifecycle.PreStop.Exec.Command); got != want {
		t.Errorf("preStop %s, want %s", got, want)
	}
	if *m.Deployment.Spec.Template.Spec.TerminationGracePeriodSeconds != *ours.Deployment.Spec.Template.Spec.TerminationGracePeriodSeconds {
		t.Error("another grace period")
	}

	// And it runs.
	e, up := newEdge(t), newUpstream(t)
	config := "_format_version: \"3.0\"\nservices:\n- {name: s, url: " + up.URL + ", routes: [{name: r, paths: [/]}]}\nplugins:\n- {name: wallarm-gate, config: {jwks_file: /etc/wallarm-gate/keys/jwks.json}}\n"
	existing := map[string]map[string]string{"kong-config": {"kong.yml": config}, "edge-keys": {"jwks.json": e.public}, "gateway-tls": e.server}
	r := run(t, m, existing)
	if got, err := r.send(edgePeer, e.request(t, "a.example", "/", nil), nil); got != 200 {
		t.Errorf("signed: %d %v\n%s", got, err, r.log)
	}
	if header, _ := up.seen(); header.Get("X-Real-Ip") != "203.0.113.7" || header.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("the upstream sees %v", header)
	}
	if got, err := r.send(otherPeer, plain("a.example", "/"), nil); got != 403 {
		t.Errorf("direct: %d %v", got, err)
	}
	r.checkReadiness()

	open := maps.Clone(existing)
	open["kong-config"] = map[string]string{"kong.yml": strings.Replace(config, "config: {", "enabled: false, config: {", 1)}
	if out, err := newPod(t, m, open).runInit(); err == nil || !strings.Contains(out, "open") {
		t.Errorf("an open door does not keep the pod from starting: %v %s", err, out)
	}
}

func TestOfficialChartWithController(t *testing.T) {
	t.Parallel()
	m := officialChart(t, "kong-chart-kic.yaml", "kong-values.yaml", "kic/kong-values.yaml")
	but := maps.Clone(officialDifferences)
	but["KONG_DECLARATIVE_CONFIG"] = ""
	but["KONG_ADMIN_LISTEN"] = "127.0.0.1:8444 http2 ssl" // the controller's way in, on loopback
	var kong *corev1.Container
	for i, c := range m.Deployment.Spec.Template.Spec.Containers {
		if c.Name == "proxy" {
			kong = &m.Deployment.Spec.Template.Spec.Containers[i]
		}
	}
	if kong == nil {
		t.Fatal("no container of Kong")
	}
	asOurs(t, env(kong), but)
	if g := kong.ReadinessProbe.HTTPGet; g.Path != "/readyz" || g.Port.IntValue() != 9542 {
		t.Errorf("readiness probe %+v", g)
	}
	if !slices.ContainsFunc(m.Deployment.Spec.Template.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == "install-gate" }) {
		t.Error("the plugin is not installed")
	}
}

// kongPlugin is the part of KongPlugin and KongClusterPlugin
// (configuration.konghq.com/v1) that the manifests use.
type kongPlugin struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Plugin            string         `json:"plugin"`
	InstanceName      string         `json:"instance_name"`
	Config            map[string]any `json:"config"`
}

func TestControllerManifests(t *testing.T) {
	t.Parallel()
	bin, err := pluginBinary()
	if err != nil {
		t.Fatal(err)
	}
	host, err := pluginhost.Start(t.Context(), pluginhost.Options{Binary: bin, Prefix: t.TempDir(), NoStart: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	for _, kind := range []string{"KongClusterPlugin", "KongPlugin"} {
		data, err := os.ReadFile(filepath.Join(root, "charts", "kic", strings.ToLower(kind)+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var p kongPlugin
		if err := yaml.UnmarshalStrict(data, &p); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if p.Kind != kind || p.APIVersion != "configuration.konghq.com/v1" || p.Plugin != "wallarm-gate" || p.Annotations["kubernetes.io/ingress.class"] != "kong" {
			t.Errorf("%s: %+v", kind, p)
		}
		if global := p.Labels["global"] == "true"; global != (kind == "KongClusterPlugin") || (p.Namespace == "") != global {
			t.Errorf("%s: labels %v, namespace %q", kind, p.Labels, p.Namespace)
		}
		config, err := host.Schema().Validate(pluginhost.Plugin{Name: p.Plugin, Config: p.Config})
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if config["mode"] != "enforce" || config["jwks_file"] != "/etc/wallarm-gate/keys/jwks.json" {
			t.Errorf("%s: %v", kind, config)
		}
	}
}
