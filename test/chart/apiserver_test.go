package chart

// A real kube-apiserver with its own etcd takes what the chart renders: dryRun=All, which admits,
// defaults and validates like a real request and stores nothing, and fieldValidation=Strict.

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	sigsyaml "sigs.k8s.io/yaml"
)

// crds are definitions of resources that the chart uses, from their owners' Go modules. They are
// read from the module cache, and downloaded there if need be; none is committed here.
var crds = []struct {
	module, sum string
	files       []string
}{
	{"github.com/prometheus-operator/prometheus-operator@v0.85.0", "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=", []string{
		"example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
		"example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
	}},
	{"github.com/external-secrets/external-secrets@v1.3.2", "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ=", []string{
		"config/crds/bases/external-secrets.io_externalsecrets.yaml",
	}},
	{"github.com/cert-manager/cert-manager@v1.21.2", "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=", []string{
		"deploy/crds/cert-manager.io_certificates.yaml",
	}},
}

// binary finds a program: in the variable, or where the tools' module builds it.
func binary(t *testing.T, variable, name string) string {
	t.Helper()
	bin := os.Getenv(variable)
	if bin == "" {
		bin = filepath.Join(root, "bin", name)
	}
	if _, err := os.Stat(bin); err != nil {
		missing := fmt.Sprintf("no %s: build it (see tools/kube/README.md), or name one in %s", name, variable)
		if os.Getenv("APISERVER_REQUIRED") == "1" {
			t.Fatal(missing)
		}
		t.Skip("NOT RUN: " + missing)
	}
	abs, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// start runs a program until the test ends; what it says is shown if the test fails. The channel
// is closed when it has ended.
func start(t *testing.T, bin string, args ...string) (ended <-chan struct{}) {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		if t.Failed() {
			text := said.String()
			t.Logf("%s: …%s", filepath.Base(bin), text[max(0, len(text)-2000):])
		}
	})
	return done
}

// apiServer is a running kube-apiserver.
type apiServer struct {
	t      *testing.T
	url    string
	token  string
	client *http.Client
	kinds  map[string]apiResource // by apiVersion and kind
}

type apiResource struct {
	Name       string `json:"name"`
	Kind       string `json:"kind"`
	Namespaced bool   `json:"namespaced"`
}

// answer is what is looked at of the API's answers: of a metav1.Status, a list, an object.
type answer struct {
	Message string          `json:"message"`
	Items   []any           `json:"items"`
	Status  json.RawMessage `json:"status"` // a word in a metav1.Status
}

// awaitFor asks until the answer is yes; an API server takes its time on a busy machine.
func awaitFor(t *testing.T, what string, done func() (bool, string)) {
	t.Helper()
	limit := time.Now().Add(3 * time.Minute)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, why := done()
		if ok {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%s: %s", what, why)
		}
		<-tick.C
	}
}

func startAPIServer(t *testing.T) *apiServer {
	t.Helper()
	etcd, kube := binary(t, "ETCD", "etcd"), binary(t, "KUBE_APISERVER", "kube-apiserver")
	dir := t.TempDir()
	client, peer, secure := "http://"+freeAddress(t), "http://"+freeAddress(t), freeAddress(t)
	start(t, etcd, "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--unsafe-no-fsync", "--log-level", "error")

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	token := rand.Text()
	files := map[string]string{
		"sa.key": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})),
		"tokens": token + ",admin,1,system:masters\n",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, port, err := net.SplitHostPort(secure)
	if err != nil {
		t.Fatal(err)
	}
	ended := start(t, kube, "--etcd-servers", client, "--bind-address", host, "--secure-port", port, "--cert-dir", filepath.Join(dir, "certs"),
		"--service-cluster-ip-range", "10.96.0.0/16", "--authorization-mode", "RBAC", "--token-auth-file", filepath.Join(dir, "tokens"),
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", filepath.Join(dir, "sa.key"),
		"--service-account-signing-key-file", filepath.Join(dir, "sa.key"))
	s := &apiServer{t: t, url: "https://" + secure, token: token, kinds: map[string]apiResource{}, client: &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, // its own certificate, on loopback
	}}
	awaitFor(t, "the API server is ready", func() (bool, string) {
		select {
		case <-ended:
			t.Fatal("the API server has ended")
		default:
		}
		code, _, body, err := s.try(http.MethodGet, "/readyz", nil)
		return err == nil && code == http.StatusOK, fmt.Sprint(code, " ", err, " ", string(body))
	})
	return s
}

func (s *apiServer) try(method, path string, body []byte) (code int, warnings []string, text []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/yaml")
	req.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header.Values("Warning"), text, err
}

// do returns the code and what the server says.
func (s *apiServer) do(method, path string, body []byte) (code int, warnings []string, said answer) {
	s.t.Helper()
	code, warnings, text, err := s.try(method, path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := json.Unmarshal(text, &said); err != nil {
		s.t.Fatalf("%s %s: %d %v %s", method, path, code, err, text)
	}
	return code, warnings, said
}

// resource asks the server's discovery where objects of that kind are.
func (s *apiServer) resource(apiVersion, kind string) (prefix string, r apiResource, ok bool) {
	s.t.Helper()
	prefix = "/apis/" + apiVersion
	if !strings.Contains(apiVersion, "/") {
		prefix = "/api/" + apiVersion
	}
	if r, ok = s.kinds[apiVersion+" "+kind]; ok {
		return prefix, r, true
	}
	code, _, text, err := s.try(http.MethodGet, prefix, nil)
	if err != nil || code != http.StatusOK {
		return prefix, r, false
	}
	var list struct {
		Resources []apiResource `json:"resources"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		s.t.Fatal(err)
	}
	for _, r := range list.Resources {
		if !strings.Contains(r.Name, "/") {
			s.kinds[apiVersion+" "+r.Kind] = r
		}
	}
	r, ok = s.kinds[apiVersion+" "+kind]
	return prefix, r, ok
}

// create posts an object; a dry run stores nothing.
func (s *apiServer) create(doc []byte, dryRun bool) (code int, warnings []string, said answer) {
	s.t.Helper()
	var meta struct {
		APIVersion, Kind string
		Metadata         struct{ Name, Namespace string }
	}
	if err := sigsyaml.Unmarshal(doc, &meta); err != nil {
		s.t.Fatal(err)
	}
	prefix, r, ok := s.resource(meta.APIVersion, meta.Kind)
	if !ok {
		s.t.Fatalf("the server knows no %s of %s", meta.Kind, meta.APIVersion)
	}
	path := prefix + "/" + r.Name
	if r.Namespaced {
		if meta.Metadata.Namespace != "" && meta.Metadata.Namespace != namespace {
			s.t.Fatalf("%s %s is in namespace %s", meta.Kind, meta.Metadata.Name, meta.Metadata.Namespace)
		}
		path = prefix + "/namespaces/" + namespace + "/" + r.Name
	}
	path += "?fieldManager=helm&fieldValidation=Strict"
	if dryRun {
		path += "&dryRun=All"
	}
	return s.do(http.MethodPost, path, doc)
}

// install stores an object.
func (s *apiServer) install(doc string) {
	s.t.Helper()
	if code, _, said := s.create([]byte(doc), false); code != http.StatusCreated {
		s.t.Fatalf("%d %s\n%.300s", code, said.Message, doc)
	}
}

// installCRDs makes the server know the resources of others.
func (s *apiServer) installCRDs() {
	s.t.Helper()
	for _, c := range crds {
		out, err := exec.Command("go", "mod", "download", "-json", c.module).Output()
		var module struct{ Dir, Sum, Error string }
		if jsonErr := json.Unmarshal(out, &module); jsonErr != nil || err != nil || module.Error != "" {
			s.t.Fatalf("%s: %v %v %s", c.module, err, jsonErr, module.Error)
		}
		if module.Sum != c.sum {
			s.t.Fatalf("%s is %s, want %s", c.module, module.Sum, c.sum)
		}
		for _, f := range c.files {
			data, err := os.ReadFile(filepath.Join(module.Dir, filepath.FromSlash(f)))
			if err != nil {
				s.t.Fatal(err)
			}
			var crd struct {
				Metadata struct{ Name string }
				Spec     struct {
					Group    string
					Names    struct{ Kind string }
					Versions []struct{ Name string }
				}
			}
			if err := sigsyaml.Unmarshal(data, &crd); err != nil {
				s.t.Fatal(err)
			}
			s.install(string(data))
			awaitFor(s.t, crd.Metadata.Name, func() (bool, string) {
				code, _, said := s.do(http.MethodGet, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+crd.Metadata.Name, nil)
				var status struct {
					Conditions []struct{ Type, Status string }
				}
				if len(said.Status) > 0 {
					if err := json.Unmarshal(said.Status, &status); err != nil {
						return false, err.Error()
					}
				}
				for _, condition := range status.Conditions {
					if condition.Type == "Established" && condition.Status == "True" {
						_, _, served := s.resource(crd.Spec.Group+"/"+crd.Spec.Versions[0].Name, crd.Spec.Names.Kind)
						return served, "established, but not served"
					}
				}
				return false, fmt.Sprint(code, " ", said.Message)
			})
		}
	}
}

func TestAPIServerTakesTheChart(t *testing.T) {
	t.Parallel()
	s := startAPIServer(t)
	// Pods are held to the strictest of the Pod Security Standards, and what makes pods is warned of.
	s.install("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + namespace + "\n  labels: {pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}\n")
	s.install("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default}\n") // a controller's work
	s.installCRDs()

	taken := map[string]bool{}
	for _, name := range ciNames(t) {
		for _, doc := range documents(t, render(t, "", name).text) {
			var meta struct{ Kind string }
			if err := sigsyaml.Unmarshal(doc, &meta); err != nil {
				t.Fatal(err)
			}
			code, warnings, said := s.create(doc, true)
			if code != http.StatusCreated || len(warnings) > 0 {
				t.Errorf("%s, %s: %d %s %q\n%s", name, meta.Kind, code, said.Message, warnings, doc)
			}
			taken[meta.Kind] = true
		}
	}
	for _, kind := range []string{
		"Deployment", "Service", "Secret", "ConfigMap", "NetworkPolicy", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Pod",
		"Certificate", "ExternalSecret", "PodMonitor", "PrometheusRule",
	} {
		if !taken[kind] {
			t.Errorf("no %s was tried", kind)
		}
	}

	// What the server would not take it does not take here either.
	deployment := func(change func(text string) string) []byte {
		for _, doc := range documents(t, render(t, "", "minimal").text) {
			if bytes.Contains(doc, []byte("kind: Deployment")) {
				if changed := change(string(doc)); changed != string(doc) {
					return []byte(changed)
				}
				t.Fatal("the change changes nothing")
			}
		}
		t.Fatal("no Deployment")
		return nil
	}
	for what, c := range map[string]struct {
		doc  []byte
		code int
		want string
	}{
		"an unknown field":   {deployment(func(s string) string { return strings.Replace(s, "  replicas:", "  replicaz: 1\n  replicas:", 1) }), 400, `unknown field "spec.replicaz"`},
		"a number as text":   {deployment(func(s string) string { return strings.Replace(s, "  replicas: 2", "  replicas: two", 1) }), 400, "replicas"},
		"a probe of no port": {deployment(func(s string) string { return strings.Replace(s, "port: gate", "port: 99999", 1) }), 422, "must be between 1 and 65535"},
		"a volume of nobody": {deployment(func(s string) string {
			return strings.Replace(s, "- name: kong-prefix\n          emptyDir", "- name: other\n          emptyDir", 1)
		}), 422, `Not found: "kong-prefix"`},
		"a selector of others": {deployment(func(s string) string {
			return strings.Replace(s, "    matchLabels:\n", "    matchLabels:\n      a: b\n", 1)
		}), 422, "`selector` does not match template `labels`"},
		"a monitor's own field": {[]byte("apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nmetadata: {name: x}\nspec: {selector: {}, podMetricsEndpoint: []}\n"), 400, "podMetricsEndpoint"},
		"a pod as root":         {[]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: x, image: x}]}\n"), 403, `violates PodSecurity "restricted`},
	} {
		if code, _, said := s.create(c.doc, true); code != c.code || !strings.Contains(said.Message, c.want) {
			t.Errorf("%s: %d %s, want %d %s", what, code, said.Message, c.code, c.want)
		}
	}
	// A Deployment that asks for more than a restricted pod may is warned of: the lack of warnings above says something.
	asRoot := deployment(func(s string) string { return strings.ReplaceAll(s, "runAsNonRoot: true", "runAsNonRoot: false") })
	if code, warnings, _ := s.create(asRoot, true); code != http.StatusCreated || !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, "PodSecurity") }) {
		t.Errorf("a Deployment that runs as root: %d %q", code, warnings)
	}
	if code, _, said := s.do(http.MethodGet, "/apis/apps/v1/deployments", nil); code != http.StatusOK || len(said.Items) > 0 {
		t.Errorf("a dry run stored something: %d %v", code, said.Items)
	}
}
