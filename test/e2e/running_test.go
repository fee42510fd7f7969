package e2e

// GATEWAY=url, by a second run of this suite against the first one's gateway.

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunningGateway(t *testing.T) {
	t.Parallel()
	if os.Getenv("GATEWAY") == "url" {
		t.Skip("this is that run")
	}
	s := start(t, options{withoutEdge: true})
	upstream := string(s.net) + "4:" + appPort
	s.reload(t, strings.ReplaceAll(s.kongYML(t), s.upstream.addr, upstream))
	ca := filepath.Join(s.dir, "ca.pem")
	if err := os.WriteFile(ca, suiteCA().pem, 0o644); err != nil {
		t.Fatal(err)
	}
	s.writeKeys(t, s.signingFile, s.keys)
	env := []string{
		"GATEWAY=url", "GATEWAY_URL=https://" + s.originTLS, "GATEWAY_HOST=" + s.host, "GATEWAY_CA=" + ca, "GATEWAY_SERVER_NAME=" + gatewayName,
		"GATEWAY_SIGNING_JWKS=" + s.signingFile, "GATEWAY_UPSTREAM_LISTEN=" + upstream,
	}
	again := func(run string, more ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", run, "-test.v")
		cmd.Env = append(append(os.Environ(), env...), more...)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestTraffic") {
			t.Fatalf("%v\n%s", err, tail(string(out), 6000))
		}
		return string(out)
	}
	out := again("^TestTraffic$", "GATEWAY_METRICS_URL="+s.metricsURL, "GATEWAY_PLAIN="+s.origin)
	if strings.Contains(out, "NOT OBSERVED in this run: reason") || !strings.Contains(out, "NOT OBSERVED in this run: source on GATEWAY=url") {
		t.Errorf("with a metrics listener the run does not say what it did not observe:\n%s", tail(out, 2000))
	}
	if out := again("^TestTraffic$/^past"); !strings.Contains(out, "NOT OBSERVED in this run: reason on GATEWAY=url") {
		t.Errorf("without a metrics listener the run does not say what it did not observe:\n%s", tail(out, 2000))
	}
}
