package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// enough are the settings without which nothing starts.
func enough(t testing.TB) map[string]string {
	_, jwks := keySet(t, "k", evidence.AlgEd25519)
	return map[string]string{"BACKEND_URL": "https://gateway.internal", "SIGNING_JWKS": jwks, "NODE_NAME": "n"}
}

func environ(m map[string]string) (list []string) {
	for name, value := range m {
		list = append(list, envPrefix+name+"="+value)
	}
	return list
}

func TestSettingsDefaults(t *testing.T) {
	t.Parallel()
	c, err := parseSettings(nil, append(environ(enough(t)), "PATH=/bin", "ATTESTER_LOG_LEVEL="))
	if err != nil {
		t.Fatal(err)
	}
	s := c.settings
	if s.listen != "127.0.0.1:8081" || s.healthListen != ":8082" || s.metricsListen != "" ||
		s.statusURL != "http://127.0.0.8:8080/wallarm-status" || s.lifetime != 30*time.Second ||
		s.idleTimeout != 55*time.Second || s.connectionMaxAge != 30*time.Second || s.nodeStopTimeout != 2*time.Minute ||
		s.allowPlaintext || s.readyChecksBackend || s.backend.String() != "https://gateway.internal" {
		t.Errorf("settings %+v", s)
	}
}

func TestSettingsFlagsBeatVariables(t *testing.T) {
	t.Parallel()
	env := enough(t)
	env["DIAL_TIMEOUT"] = "7s"
	c, err := parseSettings([]string{"-dial-timeout", "3s", "-allow-plaintext", "-backend-url=http://h:1", "--log-level", "warn"}, environ(env))
	if err != nil {
		t.Fatal(err)
	}
	if c.dialTimeout != 3*time.Second || !c.allowPlaintext || c.backend.String() != "http://h:1" || c.logLevel.String() != "WARN" {
		t.Errorf("settings %+v", c.settings)
	}
}

// TestBadSettings: one line, which names the setting and says what is allowed.
func TestBadSettings(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		set   map[string]string // "-" removes
		args  []string
		wants []string
	}{
		{"nothing", map[string]string{"BACKEND_URL": "-", "SIGNING_JWKS": "-"}, nil, []string{"ATTESTER_BACKEND_URL", "missing"}},
		{"no key", map[string]string{"SIGNING_JWKS": "-"}, nil, []string{"ATTESTER_SIGNING_JWKS", "missing"}},
		{"two keys", map[string]string{"SIGNING_JWKS_FILE": "f"}, nil, []string{"SIGNING_JWKS_FILE", "one of the two"}},
		{"plain http", map[string]string{"BACKEND_URL": "http://h"}, nil, []string{"ATTESTER_BACKEND_URL", "ATTESTER_ALLOW_PLAINTEXT"}},
		{"TLS settings without TLS", map[string]string{"BACKEND_URL": "http://h", "ALLOW_PLAINTEXT": "true", "BACKEND_CA_FILE": "f"}, nil, []string{"exclude"}},
		{"backend with path", map[string]string{"BACKEND_URL": "https://h/api"}, nil, []string{"ATTESTER_BACKEND_URL", "without user, path or query"}},
		{"backend with query", map[string]string{"BACKEND_URL": "https://h?x"}, nil, []string{"without user, path or query"}},
		{"backend with password", map[string]string{"BACKEND_URL": "https://u:hunter2@h"}, nil, []string{"without user"}},
		{"backend without scheme", map[string]string{"BACKEND_URL": "h:443"}, nil, []string{"https://host"}},
		{"backend of another scheme", map[string]string{"BACKEND_URL": "ftp://h"}, nil, []string{"https://host"}},
		{"two CAs", map[string]string{"BACKEND_CA": "x", "BACKEND_CA_FILE": "f"}, nil, []string{"BACKEND_CA", "one of the two"}},
		{"certificate without key", map[string]string{"CLIENT_CERT_FILE": "f"}, nil, []string{"CLIENT_KEY_FILE", "both"}},
		{"key without certificate", map[string]string{"CLIENT_KEY_FILE": "f"}, nil, []string{"CLIENT_CERT_FILE", "both"}},
		{"listen for all", map[string]string{"LISTEN": ":8081"}, nil, []string{"ATTESTER_LISTEN", "loopback", "ATTESTER_ALLOW_REMOTE"}},
		{"listen without port", map[string]string{"LISTEN": "127.0.0.1"}, nil, []string{"ATTESTER_LISTEN", "host:port"}},
		{"listen on a bad port", map[string]string{"LISTEN": "127.0.0.1:70000"}, nil, []string{"65535"}},
		{"no health listener", nil, []string{"-health-listen", ""}, []string{"-health-listen", "empty"}},
		{"one address twice", map[string]string{"METRICS_LISTEN": ":8082"}, nil, []string{"ATTESTER_METRICS_LISTEN", "ATTESTER_HEALTH_LISTEN"}},
		{"duration without unit", map[string]string{"DIAL_TIMEOUT": "5"}, nil, []string{"ATTESTER_DIAL_TIMEOUT", `"5"`, "30s"}},
		{"duration too long", map[string]string{"EVIDENCE_LIFETIME": "10m"}, nil, []string{"ATTESTER_EVIDENCE_LIFETIME", "5m0s"}},
		{"negative duration", map[string]string{"CONNECTION_MAX_AGE": "-1s"}, nil, []string{"ATTESTER_CONNECTION_MAX_AGE", "out of bounds"}},
		{"number", map[string]string{"MAX_IDLE_CONNECTIONS": "many"}, nil, []string{"ATTESTER_MAX_IDLE_CONNECTIONS", `"many"`}},
		{"boolean", map[string]string{"READY_CHECKS_BACKEND": "yes"}, nil, []string{"ATTESTER_READY_CHECKS_BACKEND", "true or false"}},
		{"level", map[string]string{"LOG_LEVEL": "trace"}, nil, []string{"ATTESTER_LOG_LEVEL", "debug, info, warn or error"}},
		{"node name", map[string]string{"NODE_NAME": "a b"}, nil, []string{"ATTESTER_NODE_NAME", `"a b"`}},
		{"server name with a scheme", map[string]string{"BACKEND_SERVER_NAME": "https://kong.internal"}, nil, []string{"ATTESTER_BACKEND_SERVER_NAME", `"https://kong.internal" is not a host name`}},
		{"server name with a port", map[string]string{"BACKEND_SERVER_NAME": "kong.internal:8443"}, nil, []string{"ATTESTER_BACKEND_SERVER_NAME", "without scheme and port"}},
		{"status URL", map[string]string{"NODE_STATUS_URL": "127.0.0.8/wallarm-status"}, nil, []string{"ATTESTER_NODE_STATUS_URL"}},
		{"ready URL", map[string]string{"NODE_READY_URL": "http://u:hunter2@h/"}, nil, []string{"ATTESTER_NODE_READY_URL"}},
		{"status too young", map[string]string{"STATUS_MAX_AGE": "3s"}, nil, []string{"ATTESTER_STATUS_MAX_AGE", "ATTESTER_STATUS_INTERVAL"}},
		{"shutdown", map[string]string{"SHUTDOWN_TIMEOUT": "1s"}, nil, []string{"ATTESTER_SHUTDOWN_TIMEOUT", "ATTESTER_SHUTDOWN_DELAY"}},
		{"misspelt variable", map[string]string{"RULESET_MAX_AG": "1h"}, nil, []string{"ATTESTER_RULESET_MAX_AG", "no such setting"}},
		{"unknown flag", nil, []string{"-dial-timeouts", "5s"}, []string{"dial-timeouts"}},
		{"flag without value", nil, []string{"-dial-timeout"}, []string{"dial-timeout"}},
		{"bad flag", nil, []string{"-dial-timeout", "5"}, []string{"-dial-timeout", `"5"`}},
		{"secret as a flag", nil, []string{"-signing-jwks", "hunter2"}, []string{"signing-jwks"}},
		{"argument", nil, []string{"serve"}, []string{`"serve"`}},
		{"no JWK Set", map[string]string{"SIGNING_JWKS": `{"keys":"hunter2"}`}, nil, []string{"ATTESTER_SIGNING_JWKS: JWK Set"}},
		{"public keys only", map[string]string{"SIGNING_JWKS": publicOnly(t)}, nil, []string{"ATTESTER_SIGNING_JWKS", "private"}},
		{"no key file", map[string]string{"SIGNING_JWKS": "-", "SIGNING_JWKS_FILE": "/nonexistent/jwks"}, nil, []string{"ATTESTER_SIGNING_JWKS_FILE", "/nonexistent/jwks"}},
		{"no CA file", map[string]string{"BACKEND_CA_FILE": "/nonexistent/ca"}, nil, []string{"ATTESTER_BACKEND_CA_FILE", "/nonexistent/ca"}},
		{"CA that is none", map[string]string{"BACKEND_CA": "x"}, nil, []string{"ATTESTER_BACKEND_CA", "PEM"}},
		{"no certificate files", map[string]string{"CLIENT_CERT_FILE": "/nonexistent/c", "CLIENT_KEY_FILE": "/nonexistent/k"}, nil, []string{"ATTESTER_CLIENT_CERT_FILE", "/nonexistent/c"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			env := enough(t)
			for name, value := range tt.set {
				env[name] = value
				if value == "-" {
					delete(env, name)
				}
			}
			var stdout, stderr bytes.Buffer
			ctx, cancel := context.WithCancel(context.Background())
			cancel() // what starts in spite of its settings ends at once
			code := run(ctx, tt.args, environ(env), &stdout, &stderr)
			got := stderr.String()
			if code != exitUsage || strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "attester: ") {
				t.Errorf("exit code %d, stderr %q; want 2 and one line", code, got)
			}
			for _, want := range tt.wants {
				if !strings.Contains(got, want) {
					t.Errorf("stderr %q does not say %q", got, want)
				}
			}
			if strings.Contains(got+stdout.String(), "hunter2") {
				t.Errorf("a secret is printed: %s%s", got, stdout.String())
			}
		})
	}
}

func publicOnly(t *testing.T) string {
	k, err := evidence.GenerateKey("k", evidence.AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	public, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	_, jwks := marshalKeys(t, public)
	return jwks
}

func TestHelp(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"-help"}, nil, &stdout, &stderr); code != exitOK || stderr.Len() != 0 {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
	for _, d := range definitions {
		if !strings.Contains(stdout.String(), d.help) {
			t.Errorf("-help leaves out %s", d.env)
		}
	}
}

// TestReadmeSettings holds the table of the README to the one of the code.
func TestReadmeSettings(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for _, d := range definitions {
		name, def := "`"+envPrefix+d.env+"`, `-"+d.flag()+"`", "`"+d.def+"`"
		if d.secret {
			name = "`" + envPrefix + d.env + "` (no flag)"
		}
		if d.def == "" {
			def = ""
		}
		fmt.Fprintf(&want, "| %s | %s | %s |\n", name, def, d.help)
	}
	if !strings.Contains(string(readme), want.String()) {
		t.Errorf("README.md does not hold this table:\n%s", want.String())
	}
}

// TestReadmeMetrics: the README names every metric, and no other.
func TestReadmeMetrics(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	key, err := evidence.GenerateKey("expires", evidence.AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	key.Expires = time.Now().Add(time.Hour)
	_, jwks := marshalKeys(t, key)
	r := start(t, options{env: map[string]string{"SIGNING_JWKS": jwks}})
	families, err := r.a.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	r.get("/")
	exported := map[string]bool{"wallarm_attester_requests_total": true}
	process := false
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), metricsNamespace) {
			exported[f.GetName()] = true
		}
		process = process || f.GetName() == "process_resident_memory_bytes"
	}
	if runtime.GOOS == "linux" && !process {
		t.Error("the process is not among the metrics")
	}
	for name := range exported {
		if !strings.Contains(string(readme), "`"+name) {
			t.Errorf("README.md leaves out %s", name)
		}
	}
	for word := range strings.FieldsFuncSeq(string(readme), func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }) {
		if strings.HasPrefix(word, metricsNamespace+"_") && !exported[word] {
			t.Errorf("README.md names %s, which does not exist", word)
		}
	}
}

// FuzzSettings: the parser is total, and whatever it accepts is complete.
func FuzzSettings(f *testing.F) {
	f.Add("BACKEND_URL", "https://h", "-dial-timeout=5s")
	f.Add("LISTEN", "[::1]:80", "")
	f.Fuzz(func(t *testing.T, name, value, arg string) {
		var args []string
		if arg != "" {
			args = []string{arg}
		}
		c, err := parseSettings(args, []string{"ATTESTER_BACKEND_URL=https://h", "ATTESTER_SIGNING_JWKS={}", envPrefix + name + "=" + value})
		if err != nil || c.help || c.healthcheck {
			return
		}
		if c.backend == nil || c.jwks+c.jwksFile == "" || c.backend.Scheme != "https" && !c.allowPlaintext ||
			!c.allowRemote && !isLoopback(c.listen) || c.lifetime > evidence.MaxAgeLimit {
			t.Fatalf("accepted: %+v", c.settings)
		}
	})
}
