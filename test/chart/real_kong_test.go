package chart

// The rendered environment and kong.yml in a real Kong 3.8 or later.

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// realKong starts the pod of m in a real Kong and returns a way to send it a
// request. KONG_BIN is the kong command of an installed Kong; the test is left
// out, and says so, without it.
func realKong(t *testing.T, m *manifests, existing map[string]map[string]string) func(req *http.Request) int {
	t.Helper()
	kong := os.Getenv("KONG_BIN")
	if kong == "" {
		t.Skip("NOT RUN: KONG_BIN names no Kong")
	}
	p := newPod(t, m, existing)
	if _, err := p.runInit(); err != nil {
		t.Fatal(err)
	}
	c := m.kong(t)
	proxy, status, gate := freeAddress(t), freeAddress(t), freeAddress(t)
	addresses := strings.NewReplacer("0.0.0.0:8443", proxy, "0.0.0.0:8100", status, "127.0.0.1:8100", status, "0.0.0.0:9542", gate)
	file := p.path(c, env(c)["KONG_DECLARATIVE_CONFIG"])
	p.write(file, p.mounted(c, m.Secret.StringData["kong.yml"]))
	environ := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	for name, value := range env(c) {
		switch name {
		case "KONG_PREFIX":
			value = p.path(c, value)
		case "KONG_PORT_MAPS":
			continue // of other ports
		}
		environ = append(environ, name+"="+addresses.Replace(p.mounted(c, value)))
	}
	for _, v := range c.Env {
		if v.ValueFrom != nil {
			environ = append(environ, v.Name+"="+existing[v.ValueFrom.SecretKeyRef.Name][v.ValueFrom.SecretKeyRef.Key])
		}
	}
	command := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, kong, args...)
		cmd.Env = environ
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("kong %s: %v: %s", args[0], err, out)
		}
	}
	command("start")
	t.Cleanup(func() { command("quit", "--timeout=10") })

	limit := time.Now().Add(deadline)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := http.Get("http://" + gate + c.ReadinessProbe.HTTPGet.Path)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == 200 {
				break
			}
		}
		if time.Now().After(limit) {
			t.Fatalf("not ready: %v %v", resp, err)
		}
		<-tick.C
	}
	return func(req *http.Request) int {
		t.Helper()
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: deadline}, "tcp", proxy, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		if err := req.Write(conn); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
}

const realServices = "edgeCidrs: [127.0.0.1/32]\nservices: [{name: s, url: '%s', routes: [{name: orders, paths: [/], strip_path: false}]}]\n"

func TestRealKong(t *testing.T) {
	t.Parallel()
	e, up := newEdge(t), newUpstream(t)
	m := render(t, fmt.Sprintf(realServices, up.URL), "minimal")
	m.Keys.Data["jwks.json"] = e.public
	send := realKong(t, m, map[string]map[string]string{"gateway-tls": e.server})
	signed := e.request(t, "api.example.com", "/orders?x=1", nil)
	if got := send(signed); got != 200 {
		t.Errorf("signed: %d", got)
	}
	if header, _ := up.seen(); header.Get("X-Real-Ip") != "203.0.113.7" || header.Get("X-Forwarded-Proto") != "https" || header.Get("Signature") != "" {
		t.Errorf("the upstream sees %v", header)
	}
	_, before := up.seen()
	if got := send(signed); got != 403 {
		t.Errorf("replayed: %d", got)
	}
	if got := send(plain("api.example.com", "/orders?x=1")); got != 403 {
		t.Errorf("direct: %d", got)
	}
	if _, after := up.seen(); after != before {
		t.Error("the upstream saw a request that was refused")
	}
}

// Two Kongs share a replay store, whose password is a vault reference.
func TestRealKongSharesAReplayStore(t *testing.T) {
	t.Parallel()
	const password, host = "passw0rd-of-the-replay-store", "replay.cache.internal.example.com"
	addr, ca := startRedis(t, host, password)
	e, up := newEdge(t), newUpstream(t)
	_, port, _ := net.SplitHostPort(addr)
	newKong := func() func(*http.Request) int {
		m := render(t, fmt.Sprintf(realServices+"gate: {redis: {address: %q, timeout: 1000, tls: {serverName: %q}}}\nnetworkPolicy: {redis: [{cidr: 127.0.0.0/8, ports: [%s]}]}",
			up.URL, addr, host, port), "redis")
		m.Keys.Data["jwks.json"] = e.public
		return realKong(t, m, map[string]map[string]string{"gateway-tls": e.server, "replay-store": {"password": password}, "replay-ca": {"ca.crt": ca}})
	}
	a, b := newKong(), newKong()
	signed := e.request(t, "api.example.com", "/orders?x=1", nil)
	for i, step := range []struct {
		send func(*http.Request) int
		want int
	}{{a, 200}, {a, 403}, {b, 403}} {
		if got := step.send(signed); got != step.want {
			t.Errorf("step %d: %d, want %d", i+1, got, step.want)
		}
	}
	if got := b(e.request(t, "api.example.com", "/orders?x=1", nil)); got != 200 {
		t.Errorf("new at the other Kong: %d", got)
	}
}
