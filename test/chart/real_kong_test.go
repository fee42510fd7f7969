package chart

// The rendered environment and kong.yml in a real Kong 3.8 or later.

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// KONG_BIN is the kong command of an installed Kong. The test is left out, and
// says so, without it.
func TestRealKong(t *testing.T) {
	t.Parallel()
	kong := os.Getenv("KONG_BIN")
	if kong == "" {
		t.Skip("NOT RUN: KONG_BIN names no Kong")
	}
	e, up := newEdge(t), newUpstream(t)
	m := render(t, "edgeCidrs: [127.0.0.1/32]\nservices: [{name: s, url: '"+up.URL+"', routes: [{name: orders, paths: [/], strip_path: false}]}]", "minimal")
	m.Keys.Data["jwks.json"] = e.public
	p := newPod(t, m, map[string]map[string]string{"gateway-tls": e.server})
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
	send := func(req *http.Request) int {
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
