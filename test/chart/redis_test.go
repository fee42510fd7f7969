package chart

// The replay store that the pods share.

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

// startRedis starts redis-server with TLS, whose certificate is for name, and
// the ACL of plugin/README.md for the user gate. Without the program the test is
// skipped, or fails with REDIS_REQUIRED=1.
func startRedis(t *testing.T, name, password string) (addr, ca string) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		const missing = "redis-server is not installed (Debian: redis-server)"
		if os.Getenv("REDIS_REQUIRED") == "1" {
			t.Fatal(missing + ", and REDIS_REQUIRED=1")
		}
		t.Skip("NOT RUN: " + missing)
	}
	dir := t.TempDir()
	cert, _ := selfSigned(t, name)
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	addr = freeAddress(t)
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", "0", "--tls-port", port, "--tls-auth-clients", "no", "--save", "", "--dir", dir,
		"--tls-cert-file", write("tls.crt", cert["tls.crt"]), "--tls-key-file", write("tls.key", cert["tls.key"]), "--tls-ca-cert-file", filepath.Join(dir, "tls.crt"),
		"--aclfile", write("users.acl", "user default off\nuser gate on >"+password+" resetchannels -@all +set +get +info ~shop:production:*\n"))
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	// To a gateway that meets a server younger than two seconds, the evidence of
	// this second may be from before its start, and is stale.
	old := time.After(2100 * time.Millisecond)
	end := time.Now().Add(deadline)
	for {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			<-old
			return addr, cert["tls.crt"]
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// What one pod has accepted, another refuses; the password comes from a Secret.
func TestPodsShareAReplayStore(t *testing.T) {
	t.Parallel()
	const password = "passw0rd-of-the-replay-store"
	const host = "replay.cache.internal.example.com"
	addr, ca := startRedis(t, host, password)
	e, up := newEdge(t), newUpstream(t)
	_, port, _ := net.SplitHostPort(addr)
	// The name is what the certificate says; the address leads to this machine.
	extra := fmt.Sprintf("gate: {redis: {address: %q, timeout: 1000, tls: {serverName: %q}}}\nnetworkPolicy: {redis: [{cidr: 127.0.0.0/8, ports: [%s]}]}\n"+
		"services: [{name: s, url: %q, routes: [{name: r, paths: [/]}]}]", addr, host, port, up.URL)
	newPod := func() *running {
		m := render(t, extra, "redis")
		m.Keys.Data["jwks.json"] = e.public
		if strings.Contains(m.Secret.StringData["kong.yml"], password) {
			t.Errorf("kong.yml:\n%s", m.Secret.StringData["kong.yml"])
		}
		return run(t, m, map[string]map[string]string{"gateway-tls": e.server, "replay-store": {"password": password}, "replay-ca": {"ca.crt": ca}})
	}
	a, b := newPod(), newPod()
	req := e.request(t, "a.example", "/", nil)
	for _, step := range []struct {
		pod  *running
		want int
	}{{a, 200}, {a, 403}, {b, 403}} {
		if got, err := step.pod.send(edgePeer, req, nil); got != step.want {
			t.Errorf("%d (%v), want %d\n%s", got, err, step.want, step.pod.log)
		}
	}
	if got, err := b.send(edgePeer, e.request(t, "a.example", "/", nil), nil); got != 200 {
		t.Errorf("%d %v\n%s", got, err, b.log)
	}
	for _, pod := range []*running{a, b} {
		if strings.Contains(pod.log.String(), password) {
			t.Errorf("the password is in\n%s", pod.log)
		}
		if strings.Contains(strings.Join([]string{pod.env["KONG_PLUGINSERVER_WALLARM_GATE_START_CMD"], pod.env["KONG_PLUGINSERVER_WALLARM_GATE_QUERY_CMD"]}, " "), password) {
			t.Error("the password is in a command line")
		}
	}
}

func TestRedisRendered(t *testing.T) {
	t.Parallel()
	m := render(t, "", "redis")
	at := slices.IndexFunc(m.kong(t).Env, func(v corev1.EnvVar) bool { return v.Name == "WALLARM_GATE_REDIS_PASSWORD" })
	if at < 0 {
		t.Fatal("no password")
	}
	if v := m.kong(t).Env[at]; v.Value != "" || v.ValueFrom.SecretKeyRef.Name != "replay-store" || v.ValueFrom.SecretKeyRef.Key != "password" {
		t.Errorf("%+v", v)
	}
	if v := volume(t, m, "redis-ca").ConfigMap; v == nil || v.Name != "replay-ca" || v.Items[0].Path != "ca.crt" {
		t.Errorf("CA %+v", v)
	}
	v := volume(t, render(t, "gate: {redis: {tls: {ca: {existingConfigMap: '', existingSecret: s, key: root.pem}}}}", "redis"), "redis-ca").Secret
	if v == nil || v.SecretName != "s" || v.Items[0].Key != "root.pem" || *v.DefaultMode != 0o440 {
		t.Errorf("CA of a Secret %+v", v)
	}
	found := false
	for _, r := range m.Policy.Spec.Egress {
		for _, to := range r.To {
			if to.IPBlock != nil && to.IPBlock.CIDR == "10.0.48.0/22" {
				found = len(r.To) == 1 && len(r.Ports) == 1 && r.Ports[0].Port.IntValue() == 6379
			}
		}
	}
	if !found {
		t.Errorf("egress %+v", m.Policy.Spec.Egress)
	}
	// Nothing of it where it is not asked for.
	for _, name := range []string{"minimal", "image", "nlb"} {
		m := render(t, "", name)
		if m.Secret != nil && strings.Contains(m.Secret.StringData["kong.yml"], "redis") || env(m.kong(t))["WALLARM_GATE_REDIS_PASSWORD"] != "" {
			t.Errorf("%s has a shared store", name)
		}
	}
}

// The values of gate.redis have the plugin's defaults and bounds.
func TestRedisValuesAreThePlugins(t *testing.T) {
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
	validate := func(record map[string]any) (map[string]any, error) {
		record["address"] = "r:6379"
		config, err := host.Schema().Validate(pluginhost.Plugin{Name: "wallarm-gate", Config: map[string]any{"replay": map[string]any{"store": "redis", "redis": record}}})
		if err != nil {
			return nil, err
		}
		return config["replay"].(map[string]any)["redis"].(map[string]any), nil
	}
	defaults, err := validate(map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	for _, v := range documented(t) {
		if name, ok := strings.CutPrefix(v.path, "gate.redis."); ok {
			values[name] = v.standard
		}
	}
	schema := valuesSchema(t).Properties["gate"].Properties["redis"].Properties
	for field, key := range map[string]string{"database": "database", "timeout": "timeout", "pool_size": "poolSize", "prefix": "prefix", "on_error": "onError"} {
		got, err1 := json.Marshal(values[key])
		want, err2 := json.Marshal(defaults[field])
		if err1 != nil || err2 != nil || string(got) != string(want) {
			t.Errorf("gate.redis.%s is %s by default, in the plugin %s", key, got, want)
		}
		p := schema[key]
		try := func(value any, want bool) {
			t.Helper()
			if _, err := validate(map[string]any{field: value}); (err == nil) != want {
				t.Errorf("%s %v: the plugin's schema says %v", field, value, err)
			}
		}
		for _, e := range p.Enum {
			try(e, true)
			try(fmt.Sprint(e, "x"), false)
		}
		if p.Type == "integer" {
			try(*p.Minimum, true)
			try(*p.Minimum-1, false)
			try(*p.Maximum, true)
			try(*p.Maximum+1, false)
		}
	}
	if tls := defaults["tls"].(map[string]any)["enabled"]; tls != true || values["tls.enabled"] != true {
		t.Errorf("TLS is %v by default, in the chart %v", tls, values["tls.enabled"])
	}
}
