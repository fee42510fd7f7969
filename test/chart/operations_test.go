package chart

// What the chart has for operators of the Prometheus Operator and of external-secrets.

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPodMonitor(t *testing.T) {
	t.Parallel()
	m := render(t, "", "operations")
	p := m.PodMonitor
	if fmt.Sprint(p.Spec.Selector) != fmt.Sprint(*m.Deployment.Spec.Selector) || len(p.Spec.NamespaceSelector.MatchNames) > 0 || p.Spec.NamespaceSelector.Any {
		t.Errorf("it selects %+v in %+v, the pods have %+v", p.Spec.Selector, p.Spec.NamespaceSelector, m.Deployment.Spec.Selector)
	}
	if p.Labels["release"] != "prometheus" || p.Labels["app.kubernetes.io/name"] != "wallarm-gate" {
		t.Errorf("labels %v", p.Labels)
	}
	ports := map[string]corev1.ContainerPort{}
	for _, c := range m.kong(t).Ports {
		ports[c.Name] = c
	}
	var got []string
	for _, e := range p.Spec.PodMetricsEndpoints {
		if e.Port == nil || ports[*e.Port].ContainerPort == 0 || len(e.RelabelConfigs) != 1 || *e.RelabelConfigs[0].Replacement == "" {
			t.Fatalf("endpoint %+v", e)
		}
		got = append(got, fmt.Sprintf("%s%s every %s within %s: %s=%s", *e.Port, e.Path, e.Interval, e.ScrapeTimeout, e.RelabelConfigs[0].TargetLabel, *e.RelabelConfigs[0].Replacement))
	}
	want := []string{"gate/metrics every 30s within 10s: job=wallarm-gate", "status/metrics every 30s within 10s: job=kong"}
	if !slices.Equal(got, want) {
		t.Errorf("endpoints %q, want %q", got, want)
	}
	// Prometheus is let in exactly where it scrapes.
	for _, kong := range []bool{true, false} {
		m := render(t, fmt.Sprintf("monitoring: {podMonitor: {kong: %t}}", kong), "operations")
		var open []string
		for _, r := range m.Policy.Spec.Ingress {
			if s := r.From[0].NamespaceSelector; s != nil && s.MatchLabels["kubernetes.io/metadata.name"] == "monitoring" {
				for _, p := range r.Ports {
					open = append(open, p.Port.String())
				}
			}
		}
		var scraped []string
		for _, e := range m.PodMonitor.Spec.PodMetricsEndpoints {
			scraped = append(scraped, *e.Port)
		}
		if !slices.Equal(open, scraped) || len(scraped) != map[bool]int{true: 2, false: 1}[kong] {
			t.Errorf("Prometheus may reach %q and scrapes %q", open, scraped)
		}
	}
	if p := render(t, "", "minimal").PodMonitor; p != nil {
		t.Errorf("a PodMonitor that nobody asked for: %+v", p)
	}
}

func TestExternalSecrets(t *testing.T) {
	t.Parallel()
	m := render(t, "", "operations")
	e := m.External["gate-wallarm-gate-keys"]
	if len(m.External) != 1 || e == nil || m.Keys != nil {
		t.Fatalf("ExternalSecrets %v, ConfigMap %v", m.External, m.Keys)
	}
	if s := e.Spec; s.RefreshInterval != "5m" || s.SecretStoreRef.Name != "aws" || s.SecretStoreRef.Kind != "ClusterSecretStore" || s.Target.CreationPolicy != "Owner" {
		t.Errorf("%+v", s)
	}
	if d := e.Spec.Data; len(d) != 1 || d[0].RemoteRef.Key != "edge/verification-jwks" || d[0].RemoteRef.Property != "jwks" {
		t.Errorf("data %+v", d)
	}
	v := volume(t, m, "keys").Secret
	if v == nil || v.SecretName != e.Spec.Target.Name || v.Items[0].Key != e.Spec.Data[0].SecretKey || v.Items[0].Path != "jwks.json" || *v.DefaultMode != 0o440 {
		t.Errorf("volume %+v does not hold what external-secrets makes: %+v", v, e.Spec)
	}

	m = render(t, "gate: {tokens: {existingSecret: '', keys: [], externalSecrets: [{key: edge/tokens, property: current}, {key: edge/next}]}}\nexternalSecrets: {refreshInterval: 1h, secretStoreRef: {name: aws, kind: SecretStore}}", "report")
	e = m.External["gate-wallarm-gate-tokens"]
	if len(m.External) != 1 || e == nil || e.Spec.RefreshInterval != "1h" || e.Spec.SecretStoreRef.Kind != "SecretStore" {
		t.Fatalf("ExternalSecrets %+v", m.External)
	}
	made := map[string]string{}
	for _, d := range e.Spec.Data {
		made[e.Spec.Target.Name+" "+d.SecretKey] = d.RemoteRef.Key + " " + d.RemoteRef.Property
	}
	for i, want := range []string{"edge/tokens current", "edge/next "} {
		name := fmt.Sprintf("WALLARM_GATE_TOKEN_%d", i+1)
		at := slices.IndexFunc(m.kong(t).Env, func(v corev1.EnvVar) bool { return v.Name == name })
		if at < 0 {
			t.Fatalf("%s is not set", name)
		}
		ref := m.kong(t).Env[at].ValueFrom.SecretKeyRef
		if got := made[ref.Name+" "+ref.Key]; got != want {
			t.Errorf("%s is %q of the store, want %q", name, got, want)
		}
		if reference := fmt.Sprintf("{vault://env/wallarm-gate-token-%d}", i+1); !strings.Contains(m.Secret.StringData["kong.yml"], reference) {
			t.Errorf("no %s in\n%s", reference, m.Secret.StringData["kong.yml"])
		}
	}
}

// The password of the replay store comes from the store of external-secrets as from a Secret.
func TestExternalReplayPassword(t *testing.T) {
	t.Parallel()
	m := render(t, "gate: {redis: {password: {existingSecret: '', externalSecret: {key: edge/replay, property: password}}}}\nexternalSecrets: {secretStoreRef: {name: aws}}", "redis")
	e := m.External["gate-wallarm-gate-redis"]
	if len(m.External) != 1 || e == nil || len(e.Spec.Data) != 1 || e.Spec.Data[0].RemoteRef.Key != "edge/replay" || e.Spec.Data[0].RemoteRef.Property != "password" {
		t.Fatalf("ExternalSecrets %+v", m.External)
	}
	at := slices.IndexFunc(m.kong(t).Env, func(v corev1.EnvVar) bool { return v.Name == "WALLARM_GATE_REDIS_PASSWORD" })
	if at < 0 {
		t.Fatal("WALLARM_GATE_REDIS_PASSWORD is not set")
	}
	if ref := m.kong(t).Env[at].ValueFrom.SecretKeyRef; ref.Name != e.Spec.Target.Name || ref.Key != e.Spec.Data[0].SecretKey {
		t.Errorf("the password is key %s of %s, external-secrets makes key %s of %s", ref.Key, ref.Name, e.Spec.Data[0].SecretKey, e.Spec.Target.Name)
	}
	if !strings.Contains(m.Secret.StringData["kong.yml"], "{vault://env/wallarm-gate-redis-password}") {
		t.Errorf("kong.yml does not refer to the password:\n%s", m.Secret.StringData["kong.yml"])
	}
}

// Keys that external-secrets brings are the keys that the plugin verifies with, and a change of
// theirs needs no restart.
func TestExternalKeysRun(t *testing.T) {
	t.Parallel()
	e, next, up := newEdge(t), newEdge(t), newUpstream(t)
	m := withUpstream(t, "operations", up.URL)
	name := m.External["gate-wallarm-gate-keys"].Spec.Target.Name
	r := run(t, m, map[string]map[string]string{"gateway-tls": e.server, name: {"jwks.json": e.public}})
	if got, err := r.send(edgePeer, e.request(t, "a.example", "/", nil), nil); got != 200 {
		t.Fatalf("%d %v\n%s", got, err, r.log)
	}
	file := r.path(r.kong, "/etc/wallarm-gate/keys/jwks.json")
	if err := os.WriteFile(file+".new", []byte(next.public), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	r.await("the new key is accepted", func() bool {
		got, _ := r.send(edgePeer, next.request(t, "a.example", "/", nil), nil)
		return got == 200
	})
}
