package e2e

// Other variables of the edge and other values of the chart.

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/test/edge/plan"
)

const attack = "/x?id=1%27%20or%20%271%27=%271"

// A node that only watches: Terraform's chart_values make the gateway accept it,
// and nothing else does.
func TestMinMode(t *testing.T) {
	t.Parallel()
	monitoring := map[string]any{"wallarm_mode": "monitoring"}
	t.Run("as Terraform says", func(t *testing.T) {
		t.Parallel()
		s := start(t, options{terraform: monitoring, values: " "}) // a gateway that runs already has its own min_mode
		for _, target := range []string{"/v1/orders", attack} {
			trace := newTrace()
			s.wantDecision(t, allowed, func() {
				if a := exchange(t, s.dialEdge(t), s.get(target, trace)); a.status != http.StatusOK {
					t.Errorf("%s: answer %d", target, a.status)
				}
			})
			if got := s.arrived(t, trace); got.value(evidence.HeaderMode) != "monitoring" {
				t.Errorf("the upstream got the mode %q", got.values(evidence.HeaderMode))
			}
		}
	})
	t.Run("against the chart", func(t *testing.T) {
		t.Parallel()
		s := start(t, options{terraform: monitoring, values: "gate: {config: {min_mode: block}}"})
		trace := newTrace()
		s.wantDenied(t, evidence.ReasonModeNotAllowed, func() {
			if a := exchange(t, s.dialEdge(t), s.get("/v1/orders", trace)); a.status != http.StatusForbidden {
				t.Errorf("answer %d", a.status)
			}
		})
		s.notArrived(t, trace)
	})
}

// The first days: the gate decides, lets everything pass, and hands nothing on
// that it has not verified.
func TestReportMode(t *testing.T) {
	t.Parallel()
	s := start(t, options{values: "gate: {config: {mode: report}}"})
	trace := newTrace()
	s.wantDecision(t, allowed, func() {
		if a := exchange(t, s.dialEdge(t), s.get("/v1/orders", trace)); a.status != http.StatusOK {
			t.Errorf("through the edge: answer %d", a.status)
		}
	})
	s.arrived(t, trace)
	forged := s.statement("GET", "/v1/orders")
	forged = signWith(t, forged, newKeySet(t, "mine").Keys()[0], time.Now(), 30*time.Second)
	for name, tc := range map[string]struct {
		lines  string
		reason evidence.Reason
	}{
		"direct": {"", evidence.ReasonMissingEvidence},
		"forged": {fields(forged), evidence.ReasonUnknownKey},
	} {
		trace := newTrace()
		raw := s.get("/v1/orders", trace)
		raw = strings.Replace(raw, "\r\nUser-Agent", "\r\n"+tc.lines+"User-Agent", 1)
		s.wantDecision(t, decision{"report", string(tc.reason)}, func() {
			if a := exchange(t, s.dialOriginTLS(t), raw); a.status != http.StatusOK {
				t.Errorf("%s: answer %d", name, a.status)
			}
		})
		got := s.upstream.find(trace)
		if len(got) != 1 {
			t.Fatalf("%s: the upstream got it %d times", name, len(got))
		}
		for _, f := range got[0].header {
			if evidence.IsHeader(f[0]) {
				t.Errorf("%s: the upstream got %s: %s, which nobody verified", name, f[0], f[1])
			}
		}
	}
}

func TestExemption(t *testing.T) {
	t.Parallel()
	s := start(t, options{values: "gate: {config: {exempt: [{path: /healthz}]}}"})
	trace := newTrace()
	s.wantDecision(t, decision{"exempt", ""}, func() {
		if a := exchange(t, s.dialOriginTLS(t), s.get("/healthz", trace, "X-Wallarm-Mode: block")); a.status != http.StatusOK {
			t.Errorf("answer %d", a.status)
		}
	})
	if got := s.upstream.find(trace); len(got) != 1 || len(got[0].values(evidence.HeaderMode)) != 0 {
		t.Errorf("the upstream got %v", got)
	}
	s.wantDenied(t, evidence.ReasonMissingEvidence, func() {
		if a := exchange(t, s.dialOriginTLS(t), s.get("/healthz/x", newTrace())); a.status != http.StatusForbidden {
			t.Errorf("below the exempt path: answer %d", a.status)
		}
	})
}

// Shared keys instead of Ed25519, several hosts, another port of the node and of
// the gateway's load balancer.
func TestOtherSettings(t *testing.T) {
	t.Parallel()
	key, err := evidence.GenerateKey("shared-1", evidence.AlgHMACSHA256)
	if err != nil {
		t.Fatal(err)
	}
	set, err := evidence.NewKeySet(key)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, options{
		signing: set,
		terraform: map[string]any{
			"server_names": []string{hostName, "www.example.com"}, "node_port": 8088,
			"gateway_url": "https://" + gatewayName + ":8443",
		},
		values: "service: {port: 8443}",
	})
	if !strings.HasSuffix(s.edge, ":8088") {
		t.Errorf("the load balancer sends to %s", s.edge)
	}
	for _, host := range []string{hostName, "www.example.com", "WWW.example.com:443"} {
		trace := newTrace()
		s.wantDecision(t, allowed, func() {
			a := exchange(t, s.dialEdge(t), strings.Replace(s.get("/v1/orders", trace), "Host: "+hostName, "Host: "+host, 1))
			if a.status != http.StatusOK {
				t.Errorf("%s: answer %d", host, a.status)
			}
		})
		name, _, _ := strings.Cut(strings.ToLower(host), ":")
		if got := s.arrived(t, trace); got.value("Host") != name {
			t.Errorf("the upstream got the Host %q", got.values("Host"))
		}
	}
	if a := exchange(t, s.dialEdge(t), strings.Replace(s.get("/v1/orders", newTrace()), "Host: "+hostName, "Host: evil.example", 1)); a.status != http.StatusMisdirectedRequest {
		t.Errorf("another host: answer %d", a.status)
	}
}

// Who waits for an answer gives up later than who has to give it: the attester's
// 504 comes through, and none of the node's.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	s := start(t, options{terraform: map[string]any{"response_timeout": 1}})
	trace := newTrace()
	a := exchange(t, s.dialEdge(t), s.get("/slow?ms=3000", trace))
	if a.status != http.StatusGatewayTimeout {
		t.Errorf("answer %d, want 504 before the upstream's answer", a.status)
	}
	s.arrived(t, trace)
	found := false
	eventually(t, "the node logs the attester's 504", func() bool {
		for _, line := range strings.Split(s.node.log(), "\n") {
			found = found || strings.Contains(line, `"path":"/slow"`) && strings.Contains(line, `"upstream_status":"504"`)
		}
		return found
	})

	// In the plan, from the inside out.
	env := plan.Environment(s.plans.attester)
	conf, err := base64.StdEncoding.DecodeString(plan.Environment(s.plans.node)["GATE_DEFAULT_CONF"])
	if err != nil {
		t.Fatal(err)
	}
	directive := func(pattern string) time.Duration {
		t.Helper()
		m := regexp.MustCompile(`(?m)^\s*`+pattern+`\s+(\d+s);`).FindAllStringSubmatch(string(conf), -1)
		if len(m) != 1 {
			t.Fatalf("the planned nginx configuration has %s %d times", pattern, len(m))
		}
		d, err := time.ParseDuration(m[0][1])
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	attester, err := time.ParseDuration(env["ATTESTER_RESPONSE_TIMEOUT"])
	if err != nil {
		t.Fatal(err)
	}
	balancer, err := plan.Only(s.plans.resources, "aws_lb")
	if err != nil {
		t.Fatal(err)
	}
	seconds, err := strconv.Atoi(fmt.Sprint(balancer.Values["idle_timeout"]))
	if err != nil {
		t.Fatal(err)
	}
	idle := time.Duration(seconds) * time.Second
	if node := directive("proxy_read_timeout"); !(attester < node && node < idle) {
		t.Errorf("the attester waits %v, the node %v, the load balancer %v: each must be longer", attester, node, idle)
	}
	// nginx.conf has two: in the upstream block towards the attester, in the server towards the balancer.
	kept := regexp.MustCompile(`(?m)^\s*keepalive_timeout\s+(\d+)s;`).FindAllStringSubmatch(string(conf), -1)
	if len(kept) != 2 {
		t.Fatalf("%d keepalive timeouts", len(kept))
	}
	toAttester, _ := strconv.Atoi(kept[0][1])
	toBalancer, _ := strconv.Atoi(kept[1][1])
	if toAttester >= 90 || toBalancer <= seconds {
		t.Errorf("the node keeps connections to the attester %d s (the attester: 90), from the load balancer %d s (the load balancer: %d)", toAttester, toBalancer, seconds)
	}
}

// A redirect from HTTP is nobody's here: Terraform's load balancer answers it.
func TestRedirectIsTheLoadBalancers(t *testing.T) {
	t.Parallel()
	redirects := 0
	for _, l := range plan.OfType(planned(t, terraformVars(t, suiteKeys())).resources, "aws_lb_listener") {
		if fmt.Sprint(l.Values["port"]) != "80" {
			continue
		}
		action, err := l.Block("default_action")
		if err != nil {
			t.Fatal(err)
		}
		if action["type"] != "redirect" {
			t.Errorf("port 80 does %v", action["type"])
		}
		redirects++
	}
	if redirects != 1 {
		t.Errorf("%d listeners on port 80, want the one that redirects", redirects)
	}
}
