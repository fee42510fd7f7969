// Package chart tests the wallarm-gate chart: what helm renders is decoded
// strictly into the API's own types, and its commands, environment and kong.yml
// are run with the real plugin.
package chart

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

const (
	root      = "../.."
	chartDir  = root + "/charts/wallarm-gate"
	namespace = "gateway"
	// The oldest Kubernetes that the chart claims.
	kubeVersion = "1.28.0"
)

var update = flag.Bool("update", false, "write the golden files and the table of the README")

// helmBinary finds helm: $HELM, what the tools' module built, or the PATH.
var helmBinary = sync.OnceValues(func() (string, error) {
	if h := os.Getenv("HELM"); h != "" {
		return filepath.Abs(h)
	}
	for _, p := range []string{root + "/bin/helm", root + "/tools/helm/bin/helm"} {
		if abs, err := filepath.Abs(p); err == nil {
			if _, err := os.Stat(abs); err == nil {
				return abs, nil
			}
		}
	}
	return exec.LookPath("helm")
})

// helm runs helm in a home of its own. Without helm the test is skipped, or
// fails with HELM_REQUIRED=1.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	bin, err := helmBinary()
	if err != nil {
		const how = "no helm: build it (see tools/helm/README.md), or name one in HELM"
		if os.Getenv("HELM_REQUIRED") == "1" {
			t.Fatal(how)
		}
		t.Skip("NOT RUN: " + how)
	}
	home := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+filepath.Join(home, "none"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout.String(), nil
}

func values(name string) string { return filepath.Join(chartDir, "ci", name+"-values.yaml") }

// template renders the chart with value files and, last, a text of values.
func template(t *testing.T, extra string, files ...string) (string, error) {
	t.Helper()
	return templateOf(t, chartDir, extra, files...)
}

func templateOf(t *testing.T, chart, extra string, files ...string) (string, error) {
	t.Helper()
	args := []string{"template", "gate", chart, "--namespace", namespace, "--kube-version", kubeVersion}
	for _, f := range files {
		args = append(args, "--values", f)
	}
	if extra != "" {
		// Not in t.TempDir, whose name is the test's: helm splits at commas.
		f, err := os.CreateTemp("", "values")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(f.Name()) })
		if _, err := f.WriteString(extra); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--values", f.Name())
	}
	return helm(t, args...)
}

// manifests is what the chart rendered.
type manifests struct {
	text string

	Deployment  *appsv1.Deployment
	Service     *corev1.Service
	Secret      *corev1.Secret // kong.yml
	Keys        *corev1.ConfigMap
	Policy      *networkingv1.NetworkPolicy
	HPA         *autoscalingv2.HorizontalPodAutoscaler
	PDB         *policyv1.PodDisruptionBudget
	Certificate *certificate
	Test        *corev1.Pod
	PodMonitor  *monitoringv1.PodMonitor
	Rules       *monitoringv1.PrometheusRule
	Dashboard   *corev1.ConfigMap
	External    map[string]*externalSecret // by name
}

// certificate is the part of cert-manager's Certificate (cert-manager.io/v1)
// that the chart uses.
type certificate struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		SecretName string   `json:"secretName"`
		DNSNames   []string `json:"dnsNames"`
		IssuerRef  struct {
			Name  string `json:"name"`
			Kind  string `json:"kind"`
			Group string `json:"group"`
		} `json:"issuerRef"`
		PrivateKey struct {
			Algorithm      string `json:"algorithm"`
			Size           int    `json:"size"`
			RotationPolicy string `json:"rotationPolicy"`
		} `json:"privateKey"`
		Usages []string `json:"usages"`
	} `json:"spec"`
}

// externalSecret is the part of external-secrets' ExternalSecret
// (external-secrets.io/v1) that the chart uses.
type externalSecret struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		RefreshInterval string `json:"refreshInterval"`
		SecretStoreRef  struct {
			Name string `json:"name"`
			Kind string `json:"kind"`
		} `json:"secretStoreRef"`
		Target struct {
			Name           string `json:"name"`
			CreationPolicy string `json:"creationPolicy"`
		} `json:"target"`
		Data []struct {
			SecretKey string `json:"secretKey"`
			RemoteRef struct {
				Key      string `json:"key"`
				Property string `json:"property"`
			} `json:"remoteRef"`
		} `json:"data"`
	} `json:"spec"`
}

// strict refuses unknown, misspelt and duplicate fields.
var strict = sync.OnceValue(func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, autoscalingv2.AddToScheme, policyv1.AddToScheme,
		monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
})

// documents are the objects in a stream of YAML.
func documents(t *testing.T, text string) (docs [][]byte) {
	t.Helper()
	r := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return docs
		}
		if err != nil {
			t.Fatal(err)
		}
		var any map[string]any
		if err := sigsyaml.Unmarshal(doc, &any); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if len(any) > 0 {
			docs = append(docs, doc)
		}
	}
}

func decode(t *testing.T, text string) *manifests {
	t.Helper()
	m := &manifests{text: text, External: map[string]*externalSecret{}}
	for _, doc := range documents(t, text) {
		var meta struct{ APIVersion, Kind string }
		if err := sigsyaml.Unmarshal(doc, &meta); err != nil {
			t.Fatal(err)
		}
		if meta.Kind == "Certificate" {
			m.Certificate = &certificate{}
			if err := sigsyaml.UnmarshalStrict(doc, m.Certificate); err != nil {
				t.Fatalf("%v in\n%s", err, doc)
			}
			continue
		}
		if meta.Kind == "ExternalSecret" && meta.APIVersion == "external-secrets.io/v1" {
			e := &externalSecret{}
			if err := sigsyaml.UnmarshalStrict(doc, e); err != nil {
				t.Fatalf("%v in\n%s", err, doc)
			}
			if m.External[e.Metadata.Name] != nil {
				t.Fatalf("a second ExternalSecret %s was rendered", e.Metadata.Name)
			}
			m.External[e.Metadata.Name] = e
			continue
		}
		object, kind, err := strict().Decode(doc, nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		m.add(t, object, kind)
	}
	return m
}

func (m *manifests) add(t *testing.T, object runtime.Object, kind *schema.GroupVersionKind) {
	t.Helper()
	once := func(first bool) {
		if !first {
			t.Fatalf("a second %s was rendered", kind.Kind)
		}
	}
	switch o := object.(type) {
	case *appsv1.Deployment:
		once(m.Deployment == nil)
		m.Deployment = o
	case *corev1.Service:
		once(m.Service == nil)
		m.Service = o
	case *corev1.Secret:
		once(m.Secret == nil)
		m.Secret = o
	case *corev1.ConfigMap:
		if strings.HasSuffix(o.Name, "-dashboard") {
			once(m.Dashboard == nil)
			m.Dashboard = o
			return
		}
		once(m.Keys == nil)
		m.Keys = o
	case *networkingv1.NetworkPolicy:
		once(m.Policy == nil)
		m.Policy = o
	case *autoscalingv2.HorizontalPodAutoscaler:
		once(m.HPA == nil)
		m.HPA = o
	case *policyv1.PodDisruptionBudget:
		once(m.PDB == nil)
		m.PDB = o
	case *monitoringv1.PodMonitor:
		once(m.PodMonitor == nil)
		m.PodMonitor = o
	case *monitoringv1.PrometheusRule:
		once(m.Rules == nil)
		m.Rules = o
	case *corev1.Pod:
		once(m.Test == nil)
		m.Test = o
	default:
		t.Fatalf("an unexpected %s was rendered", kind)
	}
}

// render renders the chart with the named files of ci/ and a text of values.
func render(t *testing.T, extra string, names ...string) *manifests {
	t.Helper()
	files := make([]string, len(names))
	for i, n := range names {
		files[i] = values(n)
	}
	text, err := template(t, extra, files...)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, text)
}

// kong is Kong's container.
func (m *manifests) kong(t *testing.T) *corev1.Container {
	t.Helper()
	if len(m.Deployment.Spec.Template.Spec.Containers) != 1 {
		t.Fatal("the pod does not have exactly one container")
	}
	return &m.Deployment.Spec.Template.Spec.Containers[0]
}

// env is the environment of a container, without what comes from elsewhere.
func env(c *corev1.Container) map[string]string {
	out := map[string]string{}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			out[e.Name] = e.Value
		}
	}
	return out
}

// ciNames are the files in ci/.
func ciNames(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob(values("*"))
	if err != nil || len(files) < 5 {
		t.Fatalf("ci/ has %d files (%v)", len(files), err)
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), "-values.yaml"))
	}
	return names
}

// golden compares got with a file in testdata/, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Fatalf("%s differs from line %d on (go test -update writes it):\n got %q\nwant %q", path, i+1, line(g, i), line(w, i))
		}
	}
}

func line(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(the end)"
}
