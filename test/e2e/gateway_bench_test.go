package e2e

// What the gate costs: one gateway, one route for each variant, interleaved
// rounds of the same requests. The ratios are of one run.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

const (
	benchConnections = 16
	benchRequests    = 2000 // in a round of one variant
	benchRounds      = 7
)

// variant is one way of the same request through a gateway.
type variant struct {
	name    string
	addr    string
	from    string // source address, empty: any
	status  int
	request func(target string) string // with its own evidence; called before the clock runs
}

// answerAll plays the upstream: the least that is an answer.
func answerAll(t testing.TB) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					for {
						line, err := r.ReadSlice('\n')
						if err != nil {
							return
						}
						if len(line) == 2 {
							break
						}
					}
					if _, err := c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// ask sends one request and reads its answer, as cheaply as it can be done.
func ask(c net.Conn, r *bufio.Reader, request string) (status int, err error) {
	if _, err := c.Write([]byte(request)); err != nil {
		return 0, err
	}
	length := -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		switch name, value, ok := bytes.Cut(line, []byte(":")); {
		case status == 0:
			if len(line) < 12 {
				return 0, fmt.Errorf("status line %q", line)
			}
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, err
			}
		case ok && bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
		if len(line) == 2 {
			break
		}
	}
	if length < 0 {
		return 0, errors.New("an answer without a length")
	}
	_, err = r.Discard(length)
	return status, err
}

// round sends a variant's requests over a few connections and returns how long
// that took. A gateway closes the connection of a request that a plugin ended:
// that is part of what a denial costs.
func round(b *testing.B, v variant, n int) time.Duration {
	b.Helper()
	queue := make(chan string, n)
	for i := range n {
		queue <- v.request("/" + v.name + "/" + strconv.Itoa(i))
	}
	close(queue)
	var clients sync.WaitGroup
	failed := make(chan error, benchConnections)
	begin := time.Now()
	for range benchConnections {
		clients.Go(func() {
			var c net.Conn
			var r *bufio.Reader
			defer func() {
				if c != nil {
					c.Close()
				}
			}()
			for request := range queue {
				for tries := 0; ; tries++ {
					var err error
					if c == nil {
						if c, err = dialer(v.from).Dial("tcp", v.addr); err != nil {
							failed <- err
							return
						}
						c.SetDeadline(time.Now().Add(3 * patience))
						r = bufio.NewReaderSize(c, 8<<10)
					}
					status, err := ask(c, r, request)
					if err == nil && status != v.status {
						err = fmt.Errorf("answer %d, want %d", status, v.status)
						tries = 1
					}
					if err == nil {
						break
					}
					c.Close()
					if c = nil; tries > 0 {
						failed <- fmt.Errorf("%s: %w", v.name, err)
						return
					}
				}
			}
		})
	}
	clients.Wait()
	took := time.Since(begin)
	select {
	case err := <-failed:
		b.Fatal(err)
	default:
	}
	return took
}

// compare runs the rounds and reports requests a second, and each variant's share
// of the baselines'.
func compare(b *testing.B, variants []variant, baselines ...string) {
	b.Helper()
	rates := map[string][]float64{}
	for b.Loop() {
		for _, v := range variants {
			round(b, v, benchConnections) // connections, caches, instances
		}
		for range benchRounds {
			for _, i := range rand.Perm(len(variants)) { // no variant has always the same one before it
				v := variants[i]
				rates[v.name] = append(rates[v.name], benchRequests/round(b, v, benchRequests).Seconds())
			}
		}
	}
	median := func(name string) float64 {
		all := slices.Sorted(slices.Values(rates[name]))
		return all[len(all)/2]
	}
	b.ReportMetric(0, "ns/op")
	for _, v := range variants {
		b.ReportMetric(median(v.name), v.name+"-req/s")
		for _, base := range baselines {
			if v.name != base {
				b.ReportMetric(median(v.name)/median(base), v.name+"/"+base)
			}
		}
	}
}

// gateVariants are the requests of every gateway: addr is where routes of these
// names are.
func gateVariants(b *testing.B, keys *evidence.KeySet, addr string) []variant {
	b.Helper()
	plain := func(lines string) func(string) string {
		return func(target string) string {
			return "GET " + target + " HTTP/1.1\r\nHost: " + hostName + "\r\nUser-Agent: bench\r\nAccept: */*\r\n" + lines + "\r\n"
		}
	}
	signed := func(id string) func(string) string {
		signer, err := evidence.NewSigner(keys.Lookup(id), evidence.MaxAgeLimit)
		if err != nil {
			b.Fatal(err)
		}
		return func(target string) string {
			m := benchStatement(target)
			if err := signer.Sign(&m, time.Now()); err != nil {
				b.Fatal(err)
			}
			return plain(fields(m))(target)
		}
	}
	token := func(target string) string {
		m := benchStatement(target)
		return plain(evidence.HeaderRequestID + ": " + m.RequestID + "\r\n" + evidence.HeaderClientIP + ": " + m.ClientIP + "\r\n" +
			evidence.HeaderMode + ": " + m.Mode + "\r\n" + evidence.HeaderApplication + ": " + m.Application + "\r\n" +
			evidence.HeaderToken + ": " + benchToken + "\r\n")(target)
	}
	// The baselines carry the same evidence: what it costs Kong to read and forward
	// nine more fields is not the plugin's.
	return []variant{
		{"none", addr, "", http.StatusOK, signed("hmac")},
		{"no-call", addr, "", http.StatusOK, signed("hmac")},
		{"one-call", addr, "", http.StatusOK, signed("hmac")},
		{"allow-hmac", addr, "", http.StatusOK, signed("hmac")},
		{"allow-ed25519", addr, "", http.StatusOK, signed("ed25519")},
		{"allow-token", addr, "", http.StatusOK, token},
		{"deny-direct", addr, "", http.StatusForbidden, plain("")},
		{"deny-forged", addr, "", http.StatusForbidden, func(target string) string {
			m := benchStatement(target)
			m.SignatureInput, m.Signature = "wallarm=()", "wallarm=:AA==:"
			return plain(fields(m))(target)
		}},
	}
}

func benchStatement(target string) evidence.Message {
	return evidence.Message{
		Method: "GET", Authority: hostName, Target: target, RequestID: randomHex(), ClientIP: clientIP,
		Mode: "block", Application: "7", Node: directNode, Inspection: "active",
	}
}

const benchToken = "0123456789abcdef0123456789abcdef"

func benchKeys(b *testing.B) *evidence.KeySet {
	b.Helper()
	var keys []*evidence.Key
	for id, alg := range map[string]evidence.Algorithm{"hmac": evidence.AlgHMACSHA256, "ed25519": evidence.AlgEd25519} {
		key, err := evidence.GenerateKey(id, alg)
		if err != nil {
			b.Fatal(err)
		}
		keys = append(keys, key)
	}
	set, err := evidence.NewKeySet(keys...)
	if err != nil {
		b.Fatal(err)
	}
	return set
}

// BenchmarkEmbedded is the gateway that internal/pluginhost plays. It has one
// plugin, so the baselines run in a gateway of their own.
func BenchmarkEmbedded(b *testing.B) {
	keys, upstream := benchKeys(b), answerAll(b)
	serve := func(program string, nginx []byte, configs map[string]map[string]any) string {
		host, err := pluginhost.Start(b.Context(), pluginhost.Options{Binary: program, Prefix: shortDir(b)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { host.Close() })
		ctx, cancel := context.WithTimeout(b.Context(), patience)
		defer cancel()
		if err := host.Ready(ctx); err != nil {
			b.Fatal(err)
		}
		service := pluginhost.Service{Name: "app", URL: "http://" + upstream}
		for route, config := range configs {
			r := pluginhost.Route{Name: route, Paths: []string{"/" + route}, PreserveHost: true}
			if config != nil {
				r.Plugins = []pluginhost.Plugin{{Name: host.Name(), Config: config}}
			}
			service.Routes = append(service.Routes, r)
		}
		gw, err := pluginhost.NewGateway(host, pluginhost.Config{Services: []pluginhost.Service{service}}, pluginhost.Settings{Nginx: nginx, MaxRequestHeaders: 1000})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { gw.Close() })
		addr, err := gw.Listen("127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		return addr.String()
	}
	nginx, err := os.ReadFile(root + "/plugin/nginx/evidence.conf")
	if err != nil {
		b.Fatal(err)
	}
	gate := serve(binary(b, "./plugin", "wallarm-gate", ""), nginx, gateConfigs(b, keys))
	base := serve(baseline(b), nil, map[string]map[string]any{
		"none": nil, "no-call": {"calls": 0}, "one-call": {"calls": 1},
	})
	variants := gateVariants(b, keys, gate)
	for i := range variants[:3] {
		variants[i].addr = base
	}
	compare(b, variants, "none", "one-call")
}

// gateConfigs are the plugin's configurations by route.
func gateConfigs(b *testing.B, keys *evidence.KeySet) map[string]map[string]any {
	signature := map[string]any{"jwks": keySetJSON(b, keys), "max_age": 300}
	return map[string]map[string]any{
		"allow-hmac": signature, "allow-ed25519": signature, "deny-direct": signature, "deny-forged": signature,
		"allow-token": {"proof": "token", "tokens": []any{benchToken}, "require_inspection": "any"},
	}
}

// baseline builds the plugin that does nothing. It is not in the product's module.
func baseline(b *testing.B) string {
	b.Helper()
	path := filepath.Join(shortDir(b), "baseline")
	if out, err := exec.Command("go", "build", "-o", path, "./baseline").CombinedOutput(); err != nil {
		b.Fatalf("build the baseline: %v: %s", err, out)
	}
	return path
}

func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "b") // a socket's path has room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// BenchmarkKong is a real Kong, one nginx worker, with its own key-auth and
// hmac-auth beside the gate.
func BenchmarkKong(b *testing.B) {
	command := strings.Fields(os.Getenv("KONG_BIN"))
	if len(command) == 0 {
		b.Skip("LEFT OUT: KONG_BIN names no Kong")
	}
	keys, upstream, dir := benchKeys(b), answerAll(b), shortDir(b)
	base, gate := baseline(b), binary(b, "./plugin", "wallarm-gate", "")
	n := newNetwork(b)
	addr := n.pod() + ":8000"

	routes := map[string][]map[string]any{
		"none":      nil,
		"no-call":   {{"name": "baseline", "config": map[string]any{"calls": 0}}},
		"one-call":  {{"name": "baseline", "config": map[string]any{"calls": 1}}},
		"key-auth":  {{"name": "key-auth"}},
		"hmac-auth": {{"name": "hmac-auth"}},
	}
	for route, config := range gateConfigs(b, keys) {
		routes[route] = []map[string]any{{"name": "wallarm-gate", "config": config}}
	}
	var list []map[string]any
	for name, plugins := range routes {
		list = append(list, map[string]any{"name": name, "paths": []string{"/" + name}, "strip_path": false, "preserve_host": true, "plugins": plugins})
	}
	kongYML, err := json.Marshal(map[string]any{
		"_format_version": "3.0",
		"services":        []map[string]any{{"name": "app", "url": "http://" + upstream, "routes": list}},
		"consumers": []map[string]any{{
			"username": "bench", "keyauth_credentials": []map[string]any{{"key": benchToken}},
			"hmacauth_credentials": []map[string]any{{"username": "bench", "secret": benchToken}},
		}},
	})
	if err != nil {
		b.Fatal(err)
	}
	declarative := filepath.Join(dir, "kong.json")
	if err := os.WriteFile(declarative, kongYML, 0o600); err != nil {
		b.Fatal(err)
	}
	include, err := filepath.Abs(root + "/plugin/nginx/evidence.conf")
	if err != nil {
		b.Fatal(err)
	}
	prefix := filepath.Join(dir, "p")
	env := map[string]string{
		"KONG_PREFIX": prefix, "KONG_DATABASE": "off", "KONG_DECLARATIVE_CONFIG": declarative,
		"KONG_PLUGINS": "bundled,wallarm-gate,baseline", "KONG_PLUGINSERVER_NAMES": "wallarm-gate,baseline",
		"KONG_PROXY_LISTEN": addr, "KONG_ADMIN_LISTEN": "off", "KONG_ADMIN_GUI_LISTEN": "off", "KONG_STATUS_LISTEN": n.pod() + ":8100",
		"KONG_NGINX_HTTP_INCLUDE": include, "KONG_NGINX_WORKER_PROCESSES": "1", "KONG_LUA_MAX_REQ_HEADERS": "1000", "KONG_PROXY_ACCESS_LOG": "off",
		"KONG_UPSTREAM_KEEPALIVE_MAX_REQUESTS": "0", "KONG_NGINX_HTTP_KEEPALIVE_REQUESTS": "1000000", "KONG_ANONYMOUS_REPORTS": "off",
	}
	for name, path := range map[string]string{"WALLARM_GATE": gate, "BASELINE": base} {
		env["KONG_PLUGINSERVER_"+name+"_SOCKET"] = filepath.Join(prefix, filepath.Base(path)+".socket")
		env["KONG_PLUGINSERVER_"+name+"_START_CMD"] = path + " -kong-prefix " + prefix
		env["KONG_PLUGINSERVER_"+name+"_QUERY_CMD"] = path + " -kong-prefix " + prefix + " -dump"
	}
	if os.Geteuid() == 0 {
		env["KONG_NGINX_USER"] = "root root" // its workers must reach the temporary folder
	}
	conf := filepath.Join(dir, "kong.conf")
	if err := os.WriteFile(conf, []byte(confFile(env, os.Getenv("KONG_CONF_EXTRA"))), 0o600); err != nil {
		b.Fatal(err)
	}
	kong := func(args ...string) {
		cmd := exec.Command(command[0], append(slices.Clone(command[1:]), args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("kong %s: %v: %s", args[0], err, out)
		}
	}
	kong("start", "--conf", conf, "--prefix", prefix)
	b.Cleanup(func() { kong("stop", "--prefix", prefix) })

	variants := gateVariants(b, keys, addr)
	plain := variants[6].request // a direct one
	with := func(lines string) func(string) string {
		return func(target string) string {
			return strings.TrimSuffix(plain(target), "\r\n") + lines + "\r\n"
		}
	}
	variants = append(variants,
		variant{"key-auth", addr, "", http.StatusOK, with("apikey: " + benchToken + "\r\n")},
		variant{"hmac-auth", addr, "", http.StatusOK, func(target string) string {
			date := time.Now().UTC().Format(http.TimeFormat)
			mac := hmac.New(sha256.New, []byte(benchToken))
			fmt.Fprintf(mac, "x-date: %s\nGET %s HTTP/1.1", date, target)
			return with("X-Date: " + date + "\r\nAuthorization: hmac username=\"bench\", algorithm=\"hmac-sha256\", headers=\"x-date request-line\", signature=\"" +
				base64.StdEncoding.EncodeToString(mac.Sum(nil)) + "\"\r\n")(target)
		}},
	)
	eventually(b, "Kong answers with its plugins", func() bool {
		for _, v := range variants {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				return false
			}
			status, err := ask(c, bufio.NewReader(c), v.request("/"+v.name+"/"))
			c.Close()
			if err != nil || status != v.status {
				return false
			}
		}
		return true
	})
	compare(b, variants, "none", "one-call")
}

// BenchmarkWholeWay is the way from the load balancer to the upstream: node,
// attester, gateway and plugin, and the gateway alone with the same evidence.
func BenchmarkWholeWay(b *testing.B) {
	for _, alg := range []evidence.Algorithm{evidence.AlgHMACSHA256, evidence.AlgEd25519} {
		b.Run(string(alg), func(b *testing.B) {
			key, err := evidence.GenerateKey("bench", alg)
			if err != nil {
				b.Fatal(err)
			}
			set, err := evidence.NewKeySet(key)
			if err != nil {
				b.Fatal(err)
			}
			s := start(b, options{signing: set, lean: true})
			get := func(target string) string { return s.get(target, "bench") }
			compare(b, []variant{
				{"gateway", s.origin, "", http.StatusOK, func(target string) string { return s.signed(b, get(target)) }},
				{"whole-way", s.edge, s.alb, http.StatusOK, get},
			}, "gateway")
		})
	}
}
