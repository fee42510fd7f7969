package main

// The whole way of a request on one machine: the OWASP CRS stand-in, the real
// attester, a relay that listens in, a gateway that plays Kong around the real
// plugin binary, and an upstream that records what it gets.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
	"github.com/wallarm-gate/wallarm-gate/internal/wafstandin"
)

const (
	demoHost  = "api.example"
	demoToken = "demo-token-0123456789abcdefghijkl" // worth nothing outside of one run
	module    = "github.com/wallarm-gate/wallarm-gate"
)

// site is everything that runs. Its methods are safe for concurrent use.
type site struct {
	dir     string
	logs    io.Writer // of the processes; io.Discard unless asked for
	closers []func()

	upstream *upstream
	host     *pluginhost.Host
	relay    *tap
	waf      *wafstandin.WAF

	edge, gateway, plain string // addresses; plain is a gateway without $wallarm_evidence

	attesterKeys, gatewayKeys string // files
	keys                      demoKeys

	mu           sync.Mutex
	observations []pluginhost.Observation
}

// demoKeys are the keys of the scenarios.
type demoKeys struct {
	current *evidence.Key // signs at the attester
	next    *evidence.Key // follows it in the rotation
	expired *evidence.Key // known to the gateway, no longer active
	unknown *evidence.Key // not known to the gateway
}

// startSite builds what is not given and starts it all. On an error nothing is
// left running.
func startSite(ctx context.Context, plugin, attester string, logs io.Writer) (s *site, err error) {
	s = &site{logs: logs}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "wallarm-gate-demo-"); err != nil {
		return s, err
	}
	s.closers = append(s.closers, func() { os.RemoveAll(s.dir) })
	if plugin == "" {
		if plugin, err = build(ctx, filepath.Join(s.dir, "built", "wallarm-gate"), module+"/plugin", "--plugin"); err != nil {
			return s, err
		}
	}
	if attester == "" {
		if attester, err = build(ctx, filepath.Join(s.dir, "built", "attester"), module+"/edge/attester", "--attester"); err != nil {
			return s, err
		}
	}
	if err := s.makeKeys(time.Now()); err != nil {
		return s, err
	}
	if s.upstream, err = startUpstream(); err != nil {
		return s, err
	}
	s.closers = append(s.closers, s.upstream.close)
	if err := s.startGateways(ctx, plugin); err != nil {
		return s, err
	}
	if s.relay, err = newTap(s.gateway); err != nil {
		return s, err
	}
	s.closers = append(s.closers, s.relay.close)
	return s, s.startEdge(ctx, attester)
}

// close stops everything, the last one first.
func (s *site) close() {
	for _, f := range slices.Backward(s.closers) {
		f()
	}
	s.closers = nil
}

// build compiles one of the module's commands.
func build(ctx context.Context, out, pkg, option string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
	if text, err := cmd.CombinedOutput(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return "", fmt.Errorf("go is not installed, so %s cannot be built; give a binary with %s", pkg, option)
		}
		return "", fmt.Errorf("build %s (run this inside the module, or give a binary with %s): %w: %s", pkg, option, err, bytes.TrimSpace(text))
	}
	return out, nil
}

func (s *site) makeKeys(now time.Time) error {
	for _, k := range []struct {
		id  string
		key **evidence.Key
	}{{"demo-1", &s.keys.current}, {"demo-2", &s.keys.next}, {"demo-expired", &s.keys.expired}, {"demo-unknown", &s.keys.unknown}} {
		made, err := evidence.GenerateKey(k.id, evidence.AlgEd25519)
		if err != nil {
			return err
		}
		*k.key = made
	}
	s.keys.expired.Expires = now.Add(-time.Hour).Truncate(time.Second)
	s.attesterKeys = filepath.Join(s.dir, "attester.json")
	s.gatewayKeys = filepath.Join(s.dir, "gateway.json")
	if err := writeSet(s.attesterKeys, s.keys.current); err != nil {
		return err
	}
	return s.gatewayKnows(s.keys.current, s.keys.expired)
}

// gatewayKnows gives the gateway the public parts of keys.
func (s *site) gatewayKnows(keys ...*evidence.Key) error {
	var public []*evidence.Key
	for _, k := range keys {
		p, err := k.Public()
		if err != nil {
			return err
		}
		public = append(public, p)
	}
	return writeSet(s.gatewayKeys, public...)
}

// writeSet creates or replaces a key file.
func writeSet(path string, keys ...*evidence.Key) error {
	set, err := evidence.NewKeySet(keys...)
	if err != nil {
		return err
	}
	data, err := marshalKeys(set)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return createFile(path, data, 0o600)
	}
	if err != nil {
		return err
	}
	return replaceFile(path, old, data)
}

// gatewayConfig is what the demo's Kong serves: one upstream, and a route for
// each policy.
func (s *site) gatewayConfig() pluginhost.Config {
	gate := func(changes map[string]any) pluginhost.Plugin {
		c := map[string]any{
			"jwks_file": s.gatewayKeys, "log": "all", "min_mode": "monitoring",
			"exempt": []any{map[string]any{"path": "/healthz"}},
		}
		for k, v := range changes {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		return pluginhost.Plugin{Name: "wallarm-gate", Config: c}
	}
	route := func(name, path string, changes map[string]any) pluginhost.Route {
		return pluginhost.Route{Name: name, Paths: []string{path}, PreserveHost: true, Plugins: []pluginhost.Plugin{gate(changes)}}
	}
	return pluginhost.Config{
		Plugins: []pluginhost.Plugin{gate(nil)},
		Services: []pluginhost.Service{{
			Name: "echo", URL: "http://" + s.upstream.addr,
			Routes: []pluginhost.Route{
				{Name: "api", Paths: []string{"/"}, PreserveHost: true},
				route("strict", "/strict", map[string]any{"min_mode": "block"}),
				route("report", "/report", map[string]any{"mode": "report"}),
				route("ws", "/ws", map[string]any{"allow_upgrade": true}),
				route("token", "/token", map[string]any{
					"proof": "token", "require_inspection": "any", "jwks_file": nil, "tokens": []any{demoToken},
				}),
			},
		}},
	}
}

// startGateways starts the plugin and two gateways on it: one as it should be
// installed, one without the nginx map. The binary itself says what that is.
func (s *site) startGateways(ctx context.Context, plugin string) error {
	installed := filepath.Join(s.dir, "installed")
	cmd := exec.CommandContext(ctx, plugin, "-install", installed)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s -install: %w: %s", plugin, err, bytes.TrimSpace(out))
	}
	nginx, err := os.ReadFile(filepath.Join(installed, "evidence.conf"))
	if err != nil {
		return fmt.Errorf("%s is not the plugin: -install wrote no evidence.conf", plugin)
	}
	// A folder of its own with a short name: a socket's path is short.
	prefix, err := os.MkdirTemp("", "wg-")
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() { os.RemoveAll(prefix) })
	s.host, err = pluginhost.Start(ctx, pluginhost.Options{
		Binary: filepath.Join(installed, "wallarm-gate"), Prefix: prefix,
		Log: func(level, msg string) { fmt.Fprintf(s.logs, "kong %s %s\n", level, msg) },
	})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() { s.host.Close() })
	ready, cancel := context.WithTimeout(ctx, exchangeLimit)
	defer cancel()
	if err := s.host.Ready(ready); err != nil {
		return fmt.Errorf("the plugin does not listen: %w", err)
	}
	for _, g := range []struct {
		addr  *string
		nginx []byte
	}{{&s.gateway, nginx}, {&s.plain, nil}} {
		gateway, err := pluginhost.NewGateway(s.host, s.gatewayConfig(), pluginhost.Settings{
			Nginx: g.nginx, MaxRequestHeaders: 1000, Observer: s.observe, // KONG_LUA_MAX_REQ_HEADERS, as the plugin's manual has it
		})
		if err != nil {
			return err
		}
		s.closers = append(s.closers, func() { gateway.Close() })
		addr, err := gateway.Listen("127.0.0.1:0")
		if err != nil {
			return err
		}
		*g.addr = addr.String()
	}
	return nil
}

// startEdge starts the stand-in and the attester. Each needs the other's
// address, so the stand-in's status comes first and its traffic last.
func (s *site) startEdge(ctx context.Context, attester string) error {
	forward := &url.URL{Scheme: "http", Host: "127.0.0.1"}
	waf, err := wafstandin.New(wafstandin.Options{Attester: forward, Log: log.New(s.logs, "", 0)})
	if err != nil {
		return err
	}
	s.waf = waf
	s.closers = append(s.closers, waf.Close)
	status, err := s.serve(waf.Status())
	if err != nil {
		return err
	}
	if forward.Host, err = s.startAttester(ctx, attester, status); err != nil {
		return err
	}
	if s.edge, err = s.serve(waf); err != nil {
		return err
	}
	return s.until(ctx, "the attester to see an inspecting node", func() (bool, error) {
		a, err := exchange(ctx, s.edge, head("GET", "/"))
		return err == nil && a.status == http.StatusOK, nil
	})
}

func (s *site) serve(h http.Handler) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: exchangeLimit, ErrorLog: log.New(s.logs, "", 0)}
	go server.Serve(l)
	s.closers = append(s.closers, func() { server.Close() })
	return l.Addr().String(), nil
}

// startAttester starts the process and returns the address on which it listens,
// which its first log line says.
func (s *site) startAttester(ctx context.Context, binary, status string) (string, error) {
	cmd := exec.Command(binary)
	cmd.Env = []string{
		"ATTESTER_LISTEN=127.0.0.1:0",
		"ATTESTER_HEALTH_LISTEN=127.0.0.1:0",
		"ATTESTER_BACKEND_URL=http://" + s.relay.listener.Addr().String(),
		"ATTESTER_ALLOW_PLAINTEXT=true",
		"ATTESTER_SIGNING_JWKS_FILE=" + s.attesterKeys,
		"ATTESTER_RELOAD_INTERVAL=200ms",
		"ATTESTER_NODE_NAME=owasp-crs-stand-in",
		"ATTESTER_NODE_STATUS_URL=http://" + status + "/wallarm-status",
		"ATTESTER_STATUS_INTERVAL=100ms",
		"ATTESTER_SHUTDOWN_DELAY=0s",
		"ATTESTER_SHUTDOWN_TIMEOUT=1s",
	}
	lines, out, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		lines.Close()
		return "", err
	}
	listen := make(chan string, 1)
	done := make(chan error, 1)
	var last string
	go func() {
		defer lines.Close()
		for scan := bufio.NewScanner(lines); scan.Scan(); {
			last = scan.Text()
			fmt.Fprintf(s.logs, "attester %s\n", last)
			var line struct{ Msg, Listen string }
			if json.Unmarshal(scan.Bytes(), &line) == nil && line.Msg == "serving" {
				listen <- line.Listen
			}
		}
		done <- cmd.Wait()
	}()
	s.closers = append(s.closers, func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			cmd.Process.Kill()
			<-done
		}
	})
	select {
	case addr := <-listen:
		return addr, nil
	case err := <-done:
		done <- err
		return "", fmt.Errorf("the attester ended at once (%v): %s", err, last)
	case <-time.After(exchangeLimit):
		return "", errors.New("the attester does not start")
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (s *site) observe(o pluginhost.Observation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observations = append(s.observations, o)
}

// take returns what the gateways have seen since the last call.
func (s *site) take() []pluginhost.Observation {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.observations
	s.observations = nil
	return seen
}

// waitLimit bounds the wait for something that takes a few seconds.
const waitLimit = 30 * time.Second

// until asks again and again, for as long as waitLimit.
func (s *site) until(ctx context.Context, what string, holds func() (bool, error)) error {
	limit := time.NewTimer(waitLimit)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := holds(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return fmt.Errorf("waited %v for %s", waitLimit, what)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// upstream is the API behind the gateway: it answers 200 with the request's
// body, echoes upgraded connections, and records every request.
type upstream struct {
	addr   string
	server *http.Server

	mu   sync.Mutex
	seen []*http.Request
}

func startUpstream() (*upstream, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{addr: l.Addr().String()}
	u.server = &http.Server{Handler: u, ReadHeaderTimeout: exchangeLimit, ErrorLog: log.New(io.Discard, "", 0)}
	go u.server.Serve(l)
	return u, nil
}

func (u *upstream) close() { u.server.Close() }

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.seen = append(u.seen, r)
	u.mu.Unlock()
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(exchangeLimit))
		rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		rw.Flush()
		io.Copy(conn, rw)
		return
	}
	io.Copy(w, r.Body)
}

// take returns the requests since the last call.
func (u *upstream) take() []*http.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	seen := u.seen
	u.seen = nil
	return seen
}
