package chart

// What the manifests say, field by field.

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

func TestGolden(t *testing.T) {
	t.Parallel()
	for _, name := range ciNames(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden(t, name+".yaml", render(t, `{monitoring: {dashboard: {enabled: false}}}`, name).text)
		})
	}
}

func TestLint(t *testing.T) {
	t.Parallel()
	for _, name := range ciNames(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := helm(t, "lint", "--strict", "--kube-version", kubeVersion, "--values", values(name), chartDir); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDefaultsAreRefused(t *testing.T) {
	t.Parallel()
	_, err := template(t, "")
	if err == nil {
		t.Fatal("the chart renders without any value")
	}
	for _, want := range []string{"gate.image.repository", "gate.keys", "services", "tls", "edgeCidrs", "loadBalancerCidrs", "networkPolicy.upstreams"} {
		if !strings.Contains(err.Error(), "\n- "+want) && !strings.Contains(err.Error(), "set "+want) {
			t.Errorf("the refusal does not speak of %s: %v", want, err)
		}
	}
}

func TestAtMostADozenTemplates(t *testing.T) {
	t.Parallel()
	n := 0
	err := filepath.WalkDir(filepath.Join(chartDir, "templates"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil || n > 12 {
		t.Errorf("%d templates, %v", n, err)
	}
}

// Every container of every rendering may do nothing that it need not.
func TestSecurityContext(t *testing.T) {
	t.Parallel()
	for _, name := range ciNames(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := render(t, "", name)
			specs := []corev1.PodSpec{m.Deployment.Spec.Template.Spec}
			if m.Test != nil {
				specs = append(specs, m.Test.Spec)
			}
			for _, spec := range specs {
				if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
					t.Error("a ServiceAccount token is mounted")
				}
				if spec.HostNetwork || spec.HostPID || spec.HostIPC {
					t.Error("the pod shares a namespace of the host")
				}
				for _, c := range append(slices.Clone(spec.InitContainers), spec.Containers...) {
					s := c.SecurityContext
					switch {
					case s == nil:
						t.Errorf("%s has no security context", c.Name)
					case !*s.ReadOnlyRootFilesystem, *s.AllowPrivilegeEscalation, *s.Privileged, !*s.RunAsNonRoot, *s.RunAsUser != 1000,
						s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault,
						!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}), len(s.Capabilities.Add) > 0:
						t.Errorf("%s: %+v", c.Name, s)
					}
					if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
						t.Errorf("%s has no resources", c.Name)
					}
					for _, v := range c.VolumeMounts {
						if v.SubPath != "" || v.SubPathExpr != "" {
							t.Errorf("%s mounts %s by subPath, which never changes", c.Name, v.Name)
						}
					}
				}
			}
			for _, v := range specs[0].Volumes {
				if v.HostPath != nil {
					t.Errorf("volume %s is of the host", v.Name)
				}
				if v.Secret != nil && *v.Secret.DefaultMode != 0o440 {
					t.Errorf("volume %s has mode %o", v.Name, *v.Secret.DefaultMode)
				}
			}
			if g := specs[0].SecurityContext.FSGroup; g == nil || *g != 1000 {
				t.Error("uid 1000 could not read a Secret of mode 0440")
			}
		})
	}
}

// What a container mounts exists, and nothing that is secret is a value.
func TestVolumes(t *testing.T) {
	t.Parallel()
	for _, name := range ciNames(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := render(t, "", name).Deployment.Spec.Template.Spec
			used := map[string]bool{}
			for _, c := range append(slices.Clone(spec.InitContainers), spec.Containers...) {
				paths := map[string]bool{}
				for _, m := range c.VolumeMounts {
					used[m.Name] = true
					if paths[m.MountPath] {
						t.Errorf("%s mounts two volumes at %s", c.Name, m.MountPath)
					}
					paths[m.MountPath] = true
					if !slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
						t.Errorf("%s mounts %s, which is no volume", c.Name, m.Name)
					}
				}
			}
			for _, v := range spec.Volumes {
				if !used[v.Name] {
					t.Errorf("volume %s is not mounted", v.Name)
				}
			}
		})
	}
}

func TestPortsAndProbes(t *testing.T) {
	t.Parallel()
	for _, name := range ciNames(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := render(t, "", name)
			c := m.kong(t)
			e := env(c)
			ports := map[string]int32{}
			for _, p := range c.Ports {
				ports[p.Name] = p.ContainerPort
			}
			proxy := map[bool]int32{true: 8443, false: 8000}[name != "nlb"]
			if len(ports) != 3 || ports["proxy"] != proxy || ports["status"] != 8100 || ports["gate"] != 9542 {
				t.Errorf("ports %v", ports)
			}
			listen := strings.Fields(e["KONG_PROXY_LISTEN"])
			if listen[0] != fmt.Sprintf("0.0.0.0:%d", proxy) || slices.Contains(listen, "ssl") != (name != "nlb") || strings.Contains(e["KONG_PROXY_LISTEN"], ",") {
				t.Errorf("KONG_PROXY_LISTEN %q: one listener, and no plain one beside TLS", e["KONG_PROXY_LISTEN"])
			}
			for _, off := range []string{"KONG_ADMIN_LISTEN", "KONG_ADMIN_GUI_LISTEN", "KONG_STREAM_LISTEN", "KONG_DATABASE"} {
				if e[off] != "off" {
					t.Errorf("%s is %q", off, e[off])
				}
			}
			if e["KONG_STATUS_LISTEN"] != "0.0.0.0:8100" {
				t.Errorf("KONG_STATUS_LISTEN %q", e["KONG_STATUS_LISTEN"])
			}
			start := e["KONG_PLUGINSERVER_WALLARM_GATE_START_CMD"]
			if !strings.Contains(start, "-metrics-listen 0.0.0.0:9542") || !strings.Contains(start, "-kong-status-url http://127.0.0.1:8100/status/ready") {
				t.Errorf("start command %q", start)
			}
			for what, want := range map[string]struct {
				probe      *corev1.Probe
				path, port string
			}{
				"readiness": {c.ReadinessProbe, "/readyz", "gate"},
				"liveness":  {c.LivenessProbe, "/status", "status"},
				"startup":   {c.StartupProbe, "/status", "status"},
			} {
				if g := want.probe.HTTPGet; g == nil || g.Path != want.path || g.Port.String() != want.port {
					t.Errorf("%s probe: %+v", what, g)
				}
			}
			if p := m.Service.Spec.Ports; len(p) != 1 || p[0].TargetPort.String() != "proxy" || p[0].Port != 443 {
				t.Errorf("Service ports %+v", p)
			}
		})
	}
}

// On IPv6 the same ports, with the same flags.
func TestIPv6(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"minimal", "nlb"} {
		before, after := env(render(t, "", name).kong(t)), env(render(t, "kong: {ipv6: true}", name).kong(t))
		for _, listen := range []string{"KONG_PROXY_LISTEN", "KONG_STATUS_LISTEN"} {
			if want := before[listen] + ", " + strings.Replace(before[listen], "0.0.0.0", "[::]", 1); after[listen] != want {
				t.Errorf("%s is %q, want %q", listen, after[listen], want)
			}
		}
		if start := after["KONG_PLUGINSERVER_WALLARM_GATE_START_CMD"]; !strings.Contains(start, " -metrics-listen [::]:9542 ") {
			t.Errorf("start command %q", start)
		}
	}
}

// The NLB lets go of a pod before Kong ends, and Kong ends before the kubelet
// kills it.
func TestShutdown(t *testing.T) {
	t.Parallel()
	m := render(t, "shutdown: {deregistrationSeconds: 60, waitSeconds: 70, drainSeconds: 40}", "minimal")
	want := []string{"kong", "quit", "--wait=70", "--timeout=40"}
	if got := m.kong(t).Lifecycle.PreStop.Exec.Command; !slices.Equal(got, want) {
		t.Errorf("preStop %q, want %q", got, want)
	}
	if g := *m.Deployment.Spec.Template.Spec.TerminationGracePeriodSeconds; g <= 70+40 {
		t.Errorf("the grace period is %d s, not more than wait and drain", g)
	}
	if a := m.Service.Annotations[aws+"target-group-attributes"]; !strings.Contains(a, "deregistration_delay.timeout_seconds=60") {
		t.Errorf("target group attributes %q", a)
	}
}

// By default a pod outlives the attesters' connections to it and their waits.
func TestShutdownFitsTheAttester(t *testing.T) {
	t.Parallel()
	settings, err := os.ReadFile(filepath.Join(root, "edge", "attester", "settings.go"))
	if err != nil {
		t.Fatal(err)
	}
	attester := func(name string) time.Duration {
		m := regexp.MustCompile(`env: "` + name + `", def: "([^"]+)"`).FindSubmatch(settings)
		if m == nil {
			t.Fatalf("the attester has no setting %s", name)
		}
		d, err := time.ParseDuration(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	command := render(t, "", "minimal").kong(t).Lifecycle.PreStop.Exec.Command
	var wait, drain int
	if _, err := fmt.Sscanf(strings.Join(command[2:], " "), "--wait=%d --timeout=%d", &wait, &drain); err != nil {
		t.Fatal(err)
	}
	if age := attester("CONNECTION_MAX_AGE"); time.Duration(wait)*time.Second <= age {
		t.Errorf("Kong ends after %d s, an attester keeps its connection for %s", wait, age)
	}
	if limit := attester("RESPONSE_TIMEOUT"); time.Duration(drain)*time.Second < limit {
		t.Errorf("Kong finishes requests for %d s, an attester waits for %s", drain, limit)
	}
}

const aws = "service.beta.kubernetes.io/aws-load-balancer-"

func TestLoadBalancer(t *testing.T) {
	t.Parallel()
	base := map[string]string{
		"type": "external", "nlb-target-type": "ip", "scheme": "internal",
		"target-group-attributes": "preserve_client_ip.enabled=true,deregistration_delay.timeout_seconds=30",
		"healthcheck-protocol":    "http", "healthcheck-port": "8100", "healthcheck-path": "/status/ready",
	}
	s := render(t, "", "minimal").Service
	for name, want := range base {
		if got := s.Annotations[aws+name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if len(s.Annotations) != len(base) {
		t.Errorf("annotations %v", s.Annotations)
	}
	if *s.Spec.AllocateLoadBalancerNodePorts {
		t.Error("node ports are a way in beside the NLB")
	}
	if got := s.Spec.LoadBalancerSourceRanges; !slices.Equal(got, []string{"10.0.16.0/20"}) {
		t.Errorf("loadBalancerSourceRanges %v, want edgeCidrs", got)
	}

	s = render(t, "service: {loadBalancerSourceRanges: [10.9.0.0/16]}", "nlb").Service
	for name, want := range map[string]string{"scheme": "internet-facing", "ssl-ports": "443", "ssl-negotiation-policy": "ELBSecurityPolicy-TLS13-1-2-2021-06"} {
		if got := s.Annotations[aws+name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if !strings.HasPrefix(s.Annotations[aws+"ssl-cert"], "arn:aws:acm:") || s.Annotations["external-dns.alpha.kubernetes.io/hostname"] != "gateway.example.com" {
		t.Errorf("annotations %v", s.Annotations)
	}
	if got := s.Spec.LoadBalancerSourceRanges; !slices.Equal(got, []string{"10.9.0.0/16"}) {
		t.Errorf("loadBalancerSourceRanges %v", got)
	}

	s = render(t, "", "secret").Service
	if s.Spec.Type != corev1.ServiceTypeClusterIP || len(s.Annotations) > 0 || s.Spec.LoadBalancerSourceRanges != nil {
		t.Errorf("ClusterIP: %+v %v", s.Spec, s.Annotations)
	}
}

func TestNetworkPolicy(t *testing.T) {
	t.Parallel()
	describe := func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) string {
		var s []string
		for _, p := range peers {
			switch {
			case p.IPBlock != nil && p.NamespaceSelector == nil && p.PodSelector == nil:
				s = append(s, p.IPBlock.CIDR)
			case p.IPBlock == nil:
				d := ""
				if p.NamespaceSelector != nil {
					d = "ns " + p.NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"]
				}
				if p.PodSelector != nil {
					d += fmt.Sprint(" pods ", p.PodSelector.MatchLabels)
				}
				s = append(s, d)
			default:
				t.Errorf("peer %+v", p)
			}
		}
		for _, p := range ports {
			s = append(s, fmt.Sprintf(":%s/%s", p.Port.String(), *p.Protocol))
		}
		return strings.Join(s, " ")
	}
	m := render(t, "", "image")
	spec := m.Policy.Spec
	if !slices.Equal(spec.PolicyTypes, []networkingv1.PolicyType{"Ingress", "Egress"}) {
		t.Errorf("policy types %v", spec.PolicyTypes)
	}
	for k, v := range spec.PodSelector.MatchLabels {
		if m.Deployment.Spec.Template.Labels[k] != v {
			t.Errorf("the policy's label %s=%s is not the pods'", k, v)
		}
	}
	var in, out []string
	for _, r := range spec.Ingress {
		in = append(in, describe(r.From, r.Ports))
	}
	for _, r := range spec.Egress {
		out = append(out, describe(r.To, r.Ports))
	}
	if want := []string{"10.0.16.0/20 2001:db8:16::/48 :proxy/TCP", "10.0.0.0/24 :status/TCP", "ns monitoring :gate/TCP"}; !slices.Equal(in, want) {
		t.Errorf("ingress %q, want %q", in, want)
	}
	if want := []string{"ns kube-system 169.254.20.10/32 :53/UDP :53/TCP", "ns shop pods map[app:shop] :8080/TCP :8081/TCP", "10.0.64.0/20 :443/TCP"}; !slices.Equal(out, want) {
		t.Errorf("egress %q, want %q", out, want)
	}
	// A rule without peers or ports would allow everything.
	for _, name := range ciNames(t) {
		m := render(t, "", name)
		if m.Policy == nil {
			if name != "secret" {
				t.Errorf("%s has no NetworkPolicy", name)
			}
			continue
		}
		for _, r := range m.Policy.Spec.Ingress {
			if len(r.From) == 0 || len(r.Ports) == 0 {
				t.Errorf("%s: an ingress rule is open: %+v", name, r)
			}
		}
		for _, r := range m.Policy.Spec.Egress {
			if len(r.To) == 0 || len(r.Ports) == 0 {
				t.Errorf("%s: an egress rule is open: %+v", name, r)
			}
		}
	}
}

func TestWhoIsTrusted(t *testing.T) {
	t.Parallel()
	e := env(render(t, "", "image").kong(t))
	for name, want := range map[string]string{
		"KONG_TRUSTED_IPS": "10.0.16.0/20,2001:db8:16::/48", "KONG_REAL_IP_HEADER": "X-Forwarded-For", "KONG_REAL_IP_RECURSIVE": "on",
		"KONG_PORT_MAPS": "443:8443",
	} {
		if e[name] != want {
			t.Errorf("%s is %q, want %q", name, e[name], want)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	m := render(t, "", "image")
	e := env(m.kong(t))
	for name, want := range map[string]string{
		"KONG_SSL_CERT": "/etc/wallarm-gate/tls/tls.crt", "KONG_SSL_CERT_KEY": "/etc/wallarm-gate/tls/tls.key",
		"KONG_NGINX_PROXY_SSL_VERIFY_CLIENT": "on", "KONG_NGINX_PROXY_SSL_CLIENT_CERTIFICATE": "/etc/wallarm-gate/client-ca/ca.crt",
		"KONG_NGINX_PROXY_SSL_VERIFY_DEPTH": "1",
	} {
		if e[name] != want {
			t.Errorf("%s is %q, want %q", name, e[name], want)
		}
	}
	if c := m.Certificate; c.Spec.SecretName != volume(t, m, "tls").Secret.SecretName || !slices.Equal(c.Spec.DNSNames, []string{"gateway.internal.example.com"}) || c.Spec.IssuerRef.Kind != "ClusterIssuer" {
		t.Errorf("certificate %+v", c.Spec)
	}
	if v := volume(t, m, "client-ca").Secret; v.SecretName != "attester-ca" || v.Items[0].Path != "ca.crt" {
		t.Errorf("client CA %+v", v)
	}
	if got := volume(t, render(t, "", "minimal"), "tls").Secret.SecretName; got != "gateway-tls" {
		t.Errorf("TLS Secret %q", got)
	}
	for name := range env(render(t, "", "nlb").kong(t)) {
		if strings.HasPrefix(name, "KONG_SSL") || strings.HasPrefix(name, "KONG_NGINX_PROXY_SSL") {
			t.Errorf("%s is set though TLS ends at the NLB", name)
		}
	}
}

func volume(t *testing.T, m *manifests, name string) corev1.Volume {
	t.Helper()
	for _, v := range m.Deployment.Spec.Template.Spec.Volumes {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("no volume %s", name)
	return corev1.Volume{}
}

// The pods roll when what Kong reads at its start changes, and only then.
func TestRoll(t *testing.T) {
	t.Parallel()
	annotations := func(extra string, names ...string) string {
		return fmt.Sprint(render(t, extra, names...).Deployment.Spec.Template.Annotations)
	}
	base := annotations("", "minimal")
	for name, c := range map[string]struct {
		extra string
		rolls bool
	}{
		"a route":               {"services: [{name: shop, url: http://shop, routes: [{name: shop, paths: [/new]}]}]", true},
		"the gate":              {"gate: {config: {max_age: 31}}", true},
		"the revision":          {`configRevision: "2"`, true},
		"a number for it":       {`configRevision: 20261123`, true},
		"the public keys":       {`gate: {keys: {jwks: '{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"edge-2","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'}}`, false}, // re-read by the plugin
		"the Deployment's own":  {"deploymentAnnotations: {secret.reloader.stakater.com/reload: gateway-tls}", false},
		"the number of pods":    {"replicaCount: 3", false},
		"the NLB's annotations": {"service: {annotations: {a: b}}", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := annotations(c.extra, "minimal"); (got != base) != c.rolls {
				t.Errorf("%s: before %s, after %s", name, base, got)
			}
		})
	}
	if got := render(t, "configRevision: 20261123\ndeploymentAnnotations: {a: b}", "minimal").Deployment; got.Spec.Template.Annotations["wallarm-gate/config-revision"] != "20261123" || got.Annotations["a"] != "b" {
		t.Errorf("annotations %v and %v", got.Annotations, got.Spec.Template.Annotations)
	}
	if annotations("", "secret") == annotations(`configRevision: "8"`, "secret") {
		t.Error("configRevision does not roll the pods of an existing Secret")
	}
}

func TestScaling(t *testing.T) {
	t.Parallel()
	m := render(t, "", "image")
	if r := m.Deployment.Spec.Strategy.RollingUpdate; r == nil || r.MaxUnavailable.IntValue() != 0 || r.MaxSurge.IntValue() != 1 {
		t.Errorf("a rollout takes serving pods away: %+v", r)
	}
	if m.Deployment.Spec.Replicas != nil {
		t.Error("replicas and an autoscaler fight each other")
	}
	h := m.HPA.Spec
	if h.ScaleTargetRef.Name != m.Deployment.Name || h.ScaleTargetRef.Kind != "Deployment" || *h.MinReplicas != 3 || h.MaxReplicas != 12 || *h.Metrics[0].Resource.Target.AverageUtilization != 70 {
		t.Errorf("autoscaler %+v", h)
	}
	if p := m.PDB.Spec; p.MaxUnavailable.IntValue() != 1 || fmt.Sprint(p.Selector) != fmt.Sprint(m.Deployment.Spec.Selector) {
		t.Errorf("disruption budget %+v", p)
	}
	var keys []string
	for _, c := range m.Deployment.Spec.Template.Spec.TopologySpreadConstraints {
		keys = append(keys, c.TopologyKey)
		if fmt.Sprint(c.LabelSelector) != fmt.Sprint(m.Deployment.Spec.Selector) {
			t.Errorf("the spread over %s selects other pods", c.TopologyKey)
		}
	}
	if !slices.Equal(keys, []string{"topology.kubernetes.io/zone", "kubernetes.io/hostname"}) {
		t.Errorf("spread over %v", keys)
	}
	m = render(t, `podDisruptionBudget: {maxUnavailable: "25%"}`, "minimal")
	if *m.Deployment.Spec.Replicas != 2 || m.HPA != nil || m.PDB.Spec.MaxUnavailable.String() != "25%" {
		t.Errorf("%v %v %+v", m.Deployment.Spec.Replicas, m.HPA, m.PDB.Spec)
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	m := render(t, "commonLabels: {team: platform, app.kubernetes.io/name: other}", "image")
	for what, labels := range map[string]map[string]string{
		"Deployment": m.Deployment.Labels, "pods": m.Deployment.Spec.Template.Labels, "Service": m.Service.Labels, "Secret": m.Secret.Labels,
		"NetworkPolicy": m.Policy.Labels, "HPA": m.HPA.Labels, "PDB": m.PDB.Labels, "Certificate": m.Certificate.Metadata.Labels, "test": m.Test.Labels,
	} {
		if labels["team"] != "platform" || labels["app.kubernetes.io/name"] == "other" {
			t.Errorf("%s has the labels %v", what, labels)
		}
	}
	for k, v := range m.Service.Spec.Selector {
		if m.Deployment.Spec.Template.Labels[k] != v || m.Deployment.Spec.Selector.MatchLabels[k] != v {
			t.Errorf("the Service's selector %s=%s is not the pods'", k, v)
		}
		if m.Test.Labels[k] == v {
			t.Errorf("the test pod would be selected by %s=%s", k, v)
		}
	}
}

// The environment that the user adds comes last and changes nothing of ours.
func TestExtraEnvironment(t *testing.T) {
	t.Parallel()
	c := render(t, "", "image").kong(t)
	seen := map[string]bool{}
	for _, e := range c.Env {
		if seen[e.Name] {
			t.Errorf("%s is set twice", e.Name)
		}
		seen[e.Name] = true
	}
	if e := env(c); e["KONG_UPSTREAM_KEEPALIVE_POOL_SIZE"] != "256" {
		t.Errorf("environment %v", e)
	}
}

// A parent chart can switch the chart off and pass global values.
func TestSubchart(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	if err := os.CopyFS(filepath.Join(parent, "charts", "wallarm-gate"), os.DirFS(chartDir)); err != nil {
		t.Fatal(err)
	}
	ours, err := os.ReadFile(values("minimal"))
	if err != nil {
		t.Fatal(err)
	}
	indented := regexp.MustCompile(`(?m)^`).ReplaceAllString(string(ours), "  ")
	for name, text := range map[string]string{
		"Chart.yaml":  "apiVersion: v2\nname: parent\nversion: 1.0.0\ndependencies: [{name: wallarm-gate, version: 0.1.0, condition: wallarm-gate.enabled}]\n",
		"values.yaml": "global: {region: eu}\nwallarm-gate:\n  enabled: true\n" + indented,
	} {
		if err := os.WriteFile(filepath.Join(parent, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := templateOf(t, parent, "")
	if err != nil {
		t.Fatal(err)
	}
	if m := decode(t, text); m.Deployment == nil {
		t.Error("nothing was rendered")
	}
	text, err = templateOf(t, parent, "wallarm-gate: {enabled: false}")
	if err != nil || len(documents(t, text)) > 0 {
		t.Errorf("switched off: %v\n%s", err, text)
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	// helm renders NOTES.txt only with a cluster; here a ConfigMap holds it.
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(chartDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "templates", "NOTES.txt"), filepath.Join(dir, "notes")); err != nil {
		t.Fatal(err)
	}
	object := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n  notes: {{ tpl (.Files.Get \"notes\") . | toJson }}\n"
	if err := os.WriteFile(filepath.Join(dir, "templates", "notes.yaml"), []byte(object), 0o600); err != nil {
		t.Fatal(err)
	}
	notes := func(extra, name string) string {
		text, err := templateOf(t, dir, extra, values(name))
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range documents(t, text) {
			var cm corev1.ConfigMap
			if err := yaml.Unmarshal(doc, &cm); err != nil {
				t.Fatal(err)
			}
			if cm.Name == "notes" {
				return cm.Data["notes"]
			}
		}
		t.Fatal("no notes")
		return ""
	}
	for name, c := range map[string]struct {
		extra, file string
		warnings    []string
	}{
		"minimal":                 {"", "minimal", []string{"2 pods do not share a replay store"}},
		"one pod":                 {"replicaCount: 1", "minimal", nil},
		"a shared store":          {"", "redis", nil},
		"a store in clear":        {"gate: {redis: {onError: local, tls: {enabled: false, ca: {existingConfigMap: ''}}}}", "redis", []string{"each pod goes on for itself", "the connection to the replay store is not encrypted"}},
		"replay off":              {"gate: {config: {replay: {store: \"off\"}}}", "minimal", nil},
		"autoscaled":              {"", "image", []string{"weaker gate of their own: sockets", "12 pods do not share a replay store"}},
		"nlb":                     {"", "nlb", []string{"2 pods do not share a replay store", "from the NLB to Kong is not encrypted"}},
		"report":                  {"", "report", []string{"the gate only reports"}},
		"a route reports":         {"replicaCount: 1\nallowWeakerRoutes: [r]\n" + onRoute("{mode: report}"), "minimal", []string{"weaker gate of their own: r", "the gate of a route or service only reports"}},
		"no policy":               {"", "secret", []string{"2 pods do not share a replay store", "networkPolicy.enabled is false"}},
		"report, existing Secret": {"{replicaCount: 1, gate: {config: {mode: report}}, networkPolicy: {enabled: true, upstreams: [{cidr: 10.0.0.0/8, ports: [80]}]}}", "secret", []string{"the gate only reports"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := notes(c.extra, c.file)
			if n := strings.Count(got, "WARNING"); n != len(c.warnings) {
				t.Errorf("%d warnings, want %d:\n%s", n, len(c.warnings), got)
			}
			for _, want := range append(c.warnings, "gatectl probe", "helm test gate --namespace "+namespace) {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in\n%s", want, got)
				}
			}
		})
	}
}
