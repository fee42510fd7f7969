package e2e

// The gateway that internal/pluginhost plays, with the environment and kong.yml
// of the pod.

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

// gateway is what carries the plugin.
type gateway interface {
	unit
	// reload makes it serve another kong.yml and returns when that is in force.
	reload(t testing.TB, text string)
	// plugin is the plugin's process.
	plugin() unit
}

// listener is one of Kong's listeners, as its configuration writes it:
// "127.0.0.1:8443 http2 ssl reuseport".
type listener struct {
	addr       string
	tls, http2 bool
}

func listeners(text string) (all []listener) {
	for _, one := range strings.Split(text, ",") {
		if f := strings.Fields(one); len(f) > 0 && f[0] != "off" {
			all = append(all, listener{addr: f[0], tls: slices.Contains(f, "ssl"), http2: slices.Contains(f, "http2")})
		}
	}
	return all
}

// embedded is the plugin host.
type embedded struct {
	logBook
	env    map[string]string
	socket string
	plain  string // the further listener, for raw bytes
	probe  string

	mu       sync.Mutex
	host     *pluginhost.Host
	gw       *pluginhost.Gateway
	config   pluginhost.Config
	settings pluginhost.Settings
	status   *http.Server
}

func startEmbedded(t testing.TB, p *pod, env map[string]string, plain string) *embedded {
	t.Helper()
	g := &embedded{env: env, socket: env["KONG_PLUGINSERVER_WALLARM_GATE_SOCKET"], plain: plain, probe: p.readiness(t)}
	include, err := os.ReadFile(env["KONG_NGINX_HTTP_INCLUDE"])
	if err != nil {
		t.Fatal(err)
	}
	g.settings = pluginhost.Settings{Nginx: include, RealIPHeader: env["KONG_REAL_IP_HEADER"], RealIPRecursive: env["KONG_REAL_IP_RECURSIVE"] == "on"}
	for _, cidr := range strings.Split(env["KONG_TRUSTED_IPS"], ",") {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			t.Fatalf("KONG_TRUSTED_IPS: %v", err)
		}
		g.settings.TrustedIPs = append(g.settings.TrustedIPs, prefix)
	}
	if v := env["KONG_LUA_MAX_REQ_HEADERS"]; v != "" {
		if g.settings.MaxRequestHeaders, err = strconv.Atoi(v); err != nil {
			t.Fatalf("KONG_LUA_MAX_REQ_HEADERS: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	g.host, err = pluginhost.Start(ctx, pluginhost.Options{
		Prefix: env["KONG_PREFIX"], Socket: g.socket, Env: pairs(env), Log: g.add,
		QueryCmd: env["KONG_PLUGINSERVER_WALLARM_GATE_QUERY_CMD"],
		StartCmd: env["KONG_PLUGINSERVER_WALLARM_GATE_START_CMD"],
		// Kong has no bound; a test that runs into this one has found what it looks for.
		MaxEvents: 100,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.host.Close()
		if t.Failed() {
			t.Logf("Kong, played by the plugin host:\n%s", tail(g.log(), 4000))
		}
	})
	if err := g.host.Ready(ctx); err != nil {
		t.Fatalf("%v\n%s", err, g.log())
	}
	text, err := os.ReadFile(env["KONG_DECLARATIVE_CONFIG"])
	if err != nil {
		t.Fatal(err)
	}
	if g.config, err = pluginhost.LoadDeclarative(text); err != nil {
		t.Fatalf("kong.yml: %v", err)
	}
	g.start(t)
	t.Cleanup(func() { g.kill() })
	return g
}

func (g *embedded) start(t testing.TB) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gw != nil {
		t.Fatal("the gateway runs already")
	}
	gw, err := pluginhost.NewGateway(g.host, g.config, g.settings)
	if err != nil {
		t.Fatal(err)
	}
	g.gw = gw
	for _, l := range listeners(g.env["KONG_PROXY_LISTEN"]) {
		if !l.tls {
			if _, err := gw.Listen(l.addr); err != nil {
				t.Fatal(err)
			}
			continue
		}
		pair, err := tls.LoadX509KeyPair(g.env["KONG_SSL_CERT"], g.env["KONG_SSL_CERT_KEY"])
		if err != nil {
			t.Fatal(err)
		}
		config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
		if l.http2 {
			config.NextProtos = []string{"h2", "http/1.1"}
		}
		if _, err := gw.ListenTLS(l.addr, config); err != nil {
			t.Fatal(err)
		}
	}
	if g.plain != "" {
		if _, err := gw.Listen(g.plain); err != nil {
			t.Fatal(err)
		}
	}
	// Kong's status listener.
	mux := http.NewServeMux()
	ok := func(http.ResponseWriter, *http.Request) {}
	mux.HandleFunc("/status", ok)
	mux.HandleFunc("/status/ready", ok)
	for _, l := range listeners(g.env["KONG_STATUS_LISTEN"]) {
		at, err := net.Listen("tcp", l.addr)
		if err != nil {
			t.Fatal(err)
		}
		g.status = &http.Server{Handler: mux}
		go g.status.Serve(at)
	}
}

func (g *embedded) kill() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gw == nil {
		return errDown
	}
	err := g.gw.Close()
	g.gw = nil
	if g.status != nil {
		g.status.Close()
		g.status = nil
	}
	return err
}

func (g *embedded) reload(t testing.TB, text string) {
	t.Helper()
	config, err := pluginhost.LoadDeclarative([]byte(text))
	if err != nil {
		t.Fatalf("kong.yml: %v", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gw != nil {
		if err := g.gw.Reload(config); err != nil {
			t.Fatal(err)
		}
	}
	g.config = config
}

func (g *embedded) pid() int { return 0 }
func (g *embedded) signal(syscall.Signal) error {
	return fmt.Errorf("the embedded gateway is a part of this process")
}
func (g *embedded) stop(t testing.TB) {
	t.Helper()
	if err := g.kill(); err != nil {
		t.Fatal(err)
	}
}
func (g *embedded) ready(ctx context.Context) error { return answers(ctx, g.probe, nil) }
func (g *embedded) plugin() unit                    { return hosted{g} }

// hosted is the plugin's process under the plugin host.
type hosted struct{ *embedded }

func (h hosted) pid() int                      { return h.host.Pid() }
func (h hosted) signal(s syscall.Signal) error { return h.host.Signal(s) }
func (h hosted) kill() error                   { return h.host.Kill() }

func (h hosted) stop(t testing.TB) {
	t.Helper()
	pid := h.pid()
	if err := h.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the plugin ends after SIGTERM", func() bool { return h.pid() != pid })
}

func (h hosted) start(t testing.TB) {
	t.Helper()
	eventually(t, "the gateway has started the plugin", func() bool { return h.pid() != 0 })
	waitReady(t, "plugin", h)
}

func (h hosted) ready(ctx context.Context) error {
	if err := h.host.Ready(ctx); err != nil {
		return err
	}
	return answers(ctx, h.probe, nil)
}

// readiness is the URL that the kubelet asks.
func (p *pod) readiness(t testing.TB) string {
	t.Helper()
	probe := p.kong.ReadinessProbe.HTTPGet
	return "http://" + p.address(t, probe.Port) + probe.Path
}
