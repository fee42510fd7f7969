package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

// certificate makes a self-signed one for 127.0.0.1 and the file for --ca.
func certificate(t *testing.T, lifetime time.Duration) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "probe test"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(lifetime),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"gateway.internal"},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, path
}

// listen accepts connections until the end of the test, and waits for them.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wait.Wait()
	})
	return l.Addr().String()
}

// terminate puts TLS in front of a server, byte for byte.
func terminate(t *testing.T, c *tls.Config, target string) string {
	t.Helper()
	return listen(t, func(conn net.Conn) {
		in := tls.Server(conn, c)
		if in.Handshake() != nil {
			return
		}
		out, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		defer out.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			io.Copy(in, out)
			conn.Close()
		}()
		io.Copy(out, in)
		out.Close()
		<-done
	})
}

// closedPort is a port of 127.0.0.1 that nobody listens on, and that nobody can
// take: bound, without a listener.
func closedPort(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	addr, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(addr.(*syscall.SockaddrInet4).Port)
}

func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// installation is a site with TLS in front of its edge and its gateway.
type installation struct {
	*site
	edgeURL, originURL string
	ca                 string
	plainPort, shut    string // plain HTTP that redirects; a port that is closed
	cert               tls.Certificate
}

func install(t *testing.T) *installation {
	t.Helper()
	plugin, attester := built(t)
	s, err := startSite(t.Context(), plugin, attester, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	i := &installation{site: s, shut: closedPort(t)}
	i.cert, i.ca = certificate(t, 30*24*time.Hour+time.Hour)
	config := &tls.Config{Certificates: []tls.Certificate{i.cert}, MinVersion: tls.VersionTLS12}
	i.edgeURL = "https://" + terminate(t, config, s.edge)
	i.originURL = "https://" + terminate(t, config, s.gateway)
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, i.edgeURL+r.RequestURI, http.StatusMovedPermanently)
	}))
	t.Cleanup(plain.Close)
	i.plainPort = portOf(t, plain.Listener.Addr().String())
	return i
}

// probe runs the command; later options win over the usual ones.
func (i *installation) probe(t *testing.T, options ...string) (probeReport, int) {
	t.Helper()
	return probe(t, append([]string{"--edge", i.edgeURL, "--ca", i.ca, "--http-port", i.plainPort, "--health-port", i.shut}, options...)...)
}

func probe(t *testing.T, options ...string) (report probeReport, code int) {
	t.Helper()
	stdout, stderr, code := run(t, time.Now(), "", append([]string{"probe", "--json"}, options...)...)
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || stderr != "" {
		t.Fatalf("exit status %d, %v, standard error %q, standard output %q", code, err, stderr, stdout)
	}
	if want := map[bool]int{true: 1}[report.Failed > 0]; want == 0 && report.Undetermined > 0 && code != 3 || want == 1 && code != 1 || code == 0 && report.Failed+report.Undetermined > 0 {
		t.Errorf("exit status %d with %d failed and %d not determined", code, report.Failed, report.Undetermined)
	}
	return report, code
}

// expect compares findings: "place-prefix check" → "result" or "result: part of got".
func expect(t *testing.T, report probeReport, want map[string]string) {
	t.Helper()
	found := map[string]finding{}
	for _, f := range report.Checks {
		kind, _, _ := strings.Cut(f.Place, " ")
		found[kind+" "+f.Check] = f
	}
	for name, w := range want {
		result, part, _ := strings.Cut(w, ": ")
		if f, ok := found[name]; !ok || string(f.Result) != result || !strings.Contains(f.Got, part) {
			t.Errorf("%s: %s, got %q; want %s", name, f.Result, f.Got, w)
		}
	}
	if t.Failed() {
		var out strings.Builder
		report.table(&out)
		t.Logf("\n%s", out.String())
	}
}

var direct4 = []string{"a direct request", "made-up evidence", "a made-up signature", "a made-up token"}

// all gives several checks of the origins one expectation.
func all(want string, checks ...string) map[string]string {
	m := map[string]string{}
	for _, c := range checks {
		m["origin "+c] = want
	}
	return m
}

func TestProbe(t *testing.T) {
	t.Parallel()
	i := install(t)
	gateway := func(t *testing.T, change func(*pluginhost.Config)) string {
		t.Helper()
		c := i.gatewayConfig()
		change(&c)
		g, err := pluginhost.NewGateway(i.host, c, pluginhost.Settings{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { g.Close() })
		addr, err := g.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return "http://" + addr.String()
	}

	// The whole output of a sound installation, with a key.
	t.Run("closed", func(t *testing.T) {
		t.Parallel()
		junit := filepath.Join(t.TempDir(), "probe.xml")
		stdout, stderr, code := run(t, time.Now(), "", "probe", "--edge", i.edgeURL, "--origin", i.originURL, "--origin", "http://127.0.0.1:"+i.shut,
			"--ca", i.ca, "--http-port", i.plainPort, "--health-port", i.shut, "--with-key", i.attesterKeys, "--junit", junit)
		if code != 0 || stderr != "" {
			t.Errorf("exit status %d, standard error %q", code, stderr)
		}
		got := regexp.MustCompile(`(127\.0\.0\.1:|port )\d+`).ReplaceAllString(stdout, "${1}PORT")
		got = regexp.MustCompile(` {2,}`).ReplaceAllString(got, "  ") // the ports' widths
		const golden = "testdata/probe.golden"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want := read(t, golden); got != want {
			t.Errorf("output:\n%s\nwant:\n%s", got, want)
		}
		var suite struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Errors   int `xml:"errors,attr"`
		}
		if err := xml.Unmarshal([]byte(read(t, junit)), &suite); err != nil || suite.Tests < 20 || suite.Failures+suite.Errors != 0 {
			t.Errorf("JUnit: %+v, %v", suite, err)
		}
	})
	// Each refusal is for the reason that its line is about.
	t.Run("reasons", func(t *testing.T) {
		t.Parallel()
		var mu sync.Mutex
		var seen []string
		g, err := pluginhost.NewGateway(i.host, i.gatewayConfig(), pluginhost.Settings{Observer: func(o pluginhost.Observation) {
			decision, reason, _ := verdict(o)
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, strings.TrimSpace(decision+" "+reason))
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		addr, err := g.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if _, code := i.probe(t, "--origin", "http://"+addr.String(), "--with-key", i.attesterKeys); code != 0 {
			t.Errorf("exit status %d", code)
		}
		if _, code := i.probe(t, "--origin", "http://"+addr.String()); code != 0 {
			t.Errorf("without a key: exit status %d", code)
		}
		g.Close()
		want := []string{
			"deny missing_evidence", "deny missing_evidence", "deny bad_signature", "deny missing_evidence",
			"allow", "deny replayed", "deny replayed", "deny bad_signature", "deny bad_signature", "deny bad_signature",
			"deny missing_evidence", "deny missing_evidence", "deny unknown_key", "deny missing_evidence",
		}
		if !slices.Equal(seen, want) {
			t.Errorf("the gate said\n%q\nwant\n%q", seen, want)
		}
	})
	t.Run("proof by token", func(t *testing.T) {
		t.Parallel()
		report, _ := i.probe(t, "--origin", i.originURL, "--path", "/token")
		want := all("ok", direct4...)
		want["edge a benign request passes"] = "fail: 403 by the gate" // this edge has no token
		expect(t, report, want)
	})
	t.Run("an unknown key", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "unknown.json")
		if err := writeSet(path, i.keys.unknown); err != nil {
			t.Fatal(err)
		}
		report, code := i.probe(t, "--origin", i.originURL, "--with-key", path)
		if code != 1 {
			t.Errorf("exit status %d", code)
		}
		expect(t, report, map[string]string{
			"origin a direct request":                       "ok",
			"origin signed with the key, first time":        "fail: 403 by the gate: another key",
			"origin the same again, on the same connection": "unknown: shows nothing",
			"origin the same again, on a new connection":    "unknown: shows nothing",
			"origin signed for another target":              "unknown: shows nothing",
			"origin signed for another host":                "unknown: shows nothing",
			"origin signed for another method":              "unknown: shows nothing",
			"edge a benign request passes":                  "ok",
		})
	})
	t.Run("gate in report mode", func(t *testing.T) {
		t.Parallel()
		origin := gateway(t, func(c *pluginhost.Config) { c.Plugins[0].Config["mode"] = "report" })
		report, code := i.probe(t, "--origin", origin, "--with-key", i.attesterKeys)
		want := all("fail: 200: the door is open", append(direct4, "the same again, on the same connection", "the same again, on a new connection",
			"signed for another target", "signed for another host", "signed for another method")...)
		want["origin signed with the key, first time"] = "ok"
		want["origin certificate"] = "note: http://"
		expect(t, report, want)
		if code != 1 || report.Failed != 9 {
			t.Errorf("exit status %d, %d failed", code, report.Failed)
		}
	})
	t.Run("replays are not looked for", func(t *testing.T) {
		t.Parallel()
		origin := gateway(t, func(c *pluginhost.Config) { c.Plugins[0].Config["replay"] = map[string]any{"store": "off"} })
		report, code := i.probe(t, "--origin", origin, "--with-key", i.attesterKeys)
		want := all("ok", append(direct4, "signed for another target", "signed for another host", "signed for another method")...)
		want["origin the same again, on the same connection"] = "fail: 200"
		want["origin the same again, on a new connection"] = "fail: 200"
		expect(t, report, want)
		if code != 1 || report.Failed != 2 {
			t.Errorf("exit status %d, %d failed", code, report.Failed)
		}
	})
	t.Run("no plugin, beside a sound origin", func(t *testing.T) {
		t.Parallel()
		origin := gateway(t, func(c *pluginhost.Config) { c.Plugins = nil })
		report, code := i.probe(t, "--origin", origin, "--origin", i.originURL)
		if code != 1 || report.Failed != len(direct4) {
			t.Errorf("exit status %d, %d failed", code, report.Failed)
		}
		expect(t, probeReport{Checks: report.Checks[:len(report.Checks)-len(direct4)-1]}, all("fail: 200: the door is open", direct4...))
	})
	t.Run("no route", func(t *testing.T) {
		t.Parallel()
		origin := gateway(t, func(c *pluginhost.Config) { c.Services[0].Routes = c.Services[0].Routes[1:] })
		report, code := i.probe(t, "--origin", origin, "--with-key", i.attesterKeys)
		want := all("unknown: 404: Kong has no route", direct4...)
		want["origin signed with the key, first time"] = "unknown: 404: Kong has no route"
		expect(t, report, want)
		if code != 3 {
			t.Errorf("exit status %d", code)
		}
	})
	t.Run("exempt path", func(t *testing.T) {
		t.Parallel()
		report, code := i.probe(t, "--origin", i.originURL, "--path", "/healthz")
		if code != 1 {
			t.Errorf("exit status %d", code)
		}
		expect(t, report, all("fail: the door is open", direct4...))
	})
	t.Run("another deny_status", func(t *testing.T) {
		t.Parallel()
		origin := gateway(t, func(c *pluginhost.Config) { c.Plugins[0].Config["deny_status"] = 404 })
		report, code := i.probe(t, "--origin", origin)
		if code != 0 {
			t.Errorf("exit status %d", code)
		}
		expect(t, report, all("ok: 404 by the gate", direct4...))
	})
	t.Run("the edge is the gateway itself", func(t *testing.T) {
		t.Parallel()
		report, code := i.probe(t, "--edge", i.originURL, "--origin", i.originURL)
		if code != 1 {
			t.Errorf("exit status %d", code)
		}
		expect(t, report, map[string]string{
			"edge answers":                         "ok: 403",
			"edge a benign request passes":         "fail: 403 by the gate",
			"edge a SQL injection in an argument":  "fail: the edge let it pass",
			"edge a path traversal in an argument": "fail: the edge let it pass",
			"edge a script tag in an argument":     "fail: the edge let it pass",
		})
	})
	t.Run("certificate of another name", func(t *testing.T) {
		t.Parallel()
		addr := terminate(t, &tls.Config{Certificates: []tls.Certificate{i.cert}}, i.gateway)
		report, code := i.probe(t, "--origin", "https://"+addr, "--server-name", "other.internal")
		expect(t, report, all("unknown: --insecure", direct4...))
		if code != 3 {
			t.Errorf("exit status %d", code)
		}
		report, code = i.probe(t, "--origin", "https://"+addr, "--server-name", "other.internal", "--insecure")
		want := all("ok", direct4...)
		want["origin certificate"] = "note: not verified (--insecure)"
		expect(t, report, want)
		if code != 0 {
			t.Errorf("with --insecure: exit status %d", code)
		}
		report, code = i.probe(t, "--origin", "https://"+addr, "--server-name", "gateway.internal")
		expect(t, report, all("ok", direct4...))
		if code != 0 {
			t.Errorf("with the right name: exit status %d", code)
		}
	})
	t.Run("origin wants a client certificate", func(t *testing.T) {
		t.Parallel()
		addr := terminate(t, &tls.Config{Certificates: []tls.Certificate{i.cert}, ClientAuth: tls.RequireAnyClientCert}, i.gateway)
		report, code := i.probe(t, "--origin", "https://"+addr)
		expect(t, report, all("ok: client certificate", direct4...))
		if code != 0 {
			t.Errorf("exit status %d", code)
		}
	})
	t.Run("name that does not resolve", func(t *testing.T) {
		t.Parallel()
		report, code := i.probe(t, "--origin", "https://gateway..invalid") // no name: nobody is asked
		expect(t, report, map[string]string{"origin reachable from here": "unknown: gateway..invalid"})
		if code != 3 {
			t.Errorf("exit status %d", code)
		}
	})
	for _, tc := range []struct {
		name     string
		lifetime time.Duration
		config   *tls.Config
		options  []string
		want     map[string]string
	}{
		{"days", 5*24*time.Hour + time.Hour, &tls.Config{}, nil, map[string]string{"edge certificate": "fail: 5 days left", "edge TLS version": "ok: TLS 1.3", "edge a benign request passes": "ok"}},
		{"enough days", 5*24*time.Hour + time.Hour, &tls.Config{}, []string{"--min-days", "5"}, map[string]string{"edge certificate": "ok: 5 days left"}},
		{"expired", -time.Hour, &tls.Config{}, nil, map[string]string{
			"edge certificate": "fail: expired", "edge answers": "fail: expired", "edge a benign request passes": "unknown",
			"edge a SQL injection in an argument": "unknown", "edge /readyz through the edge": "unknown",
		}},
		{"old TLS beside new", 720 * time.Hour, &tls.Config{MinVersion: tls.VersionTLS10}, nil, map[string]string{"edge TLS 1.1 and 1.0": "fail: TLS 1.1 is accepted", "edge TLS version": "ok"}},
		{"old TLS only", 720 * time.Hour, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, nil, map[string]string{"edge TLS version": "fail: TLS 1.1", "edge answers": "fail"}},
	} {
		t.Run("edge's TLS/"+tc.name, func(t *testing.T) {
			t.Parallel()
			cert, ca := certificate(t, tc.lifetime)
			config := tc.config.Clone()
			config.Certificates = []tls.Certificate{cert}
			report, _ := i.probe(t, append([]string{"--edge", "https://" + terminate(t, config, i.edge), "--ca", ca, "--origin", "http://127.0.0.1:" + i.shut}, tc.options...)...)
			expect(t, report, tc.want)
		})
	}
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"served", func(w http.ResponseWriter, _ *http.Request) {}, "fail: 200 without TLS"},
		{"to plain", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1/", http.StatusMovedPermanently)
		}, "fail: 301"},
		{"to another host", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://other.example/", http.StatusMovedPermanently)
		}, "unknown: another host"},
		{"error", http.NotFound, "unknown: 404 without TLS"},
	} {
		t.Run("plain HTTP/"+tc.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(tc.answer)
			defer server.Close()
			report, _ := i.probe(t, "--http-port", portOf(t, server.Listener.Addr().String()), "--origin", "http://127.0.0.1:"+i.shut)
			expect(t, report, map[string]string{"edge plain HTTP": tc.want})
		})
	}
	t.Run("plain HTTP/closed", func(t *testing.T) {
		t.Parallel()
		report, code := i.probe(t, "--http-port", i.shut, "--origin", "http://127.0.0.1:"+i.shut)
		expect(t, report, map[string]string{"edge plain HTTP": "ok: closed", "origin reachable from here": "ok: no"})
		if code != 0 {
			t.Errorf("exit status %d", code)
		}
	})
	t.Run("public health listener", func(t *testing.T) {
		t.Parallel()
		for body, want := range map[string]string{`{"inspection":"active","ready":true}`: "fail: public", `hello`: "unknown: something else"} {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }))
			port := portOf(t, server.Listener.Addr().String())
			report, _ := i.probe(t, "--health-port", port, "--origin", "http://127.0.0.1:"+i.shut)
			expect(t, report, map[string]string{"edge health listener (port " + port + ")": want})
			server.Close()
		}
	})
}

// A node that only watches lets the samples through, and the gate accepts them.
func TestProbeNoticesAWatchingEdge(t *testing.T) {
	t.Parallel()
	i := install(t)
	i.waf.SetMode(evidence.ModeMonitoring)
	report, code := i.probe(t, "--origin", i.originURL)
	expect(t, report, map[string]string{
		"edge a benign request passes":         "ok",
		"edge a SQL injection in an argument":  "fail: 200: the edge let it pass",
		"edge a path traversal in an argument": "fail: 200: the edge let it pass",
		"edge a script tag in an argument":     "fail: 200: the edge let it pass",
		"origin a direct request":              "ok",
	})
	if code != 1 || report.Failed != 3 {
		t.Errorf("exit status %d, %d failed", code, report.Failed)
	}
}

// A server of any kind costs bounded time and memory, and none looks like a pass.
func TestProbeHostileServers(t *testing.T) {
	t.Parallel()
	endless := func(first, again string) func(net.Conn) {
		return func(c net.Conn) {
			io.WriteString(c, first)
			for {
				if _, err := io.WriteString(c, again); err != nil {
					return // the probe has hung up: that is the bound
				}
			}
		}
	}
	line := strings.Repeat("x", 1000)
	for _, tc := range []struct {
		name, scheme string
		slow         bool // ends at the time limit
		serve        func(net.Conn)
		want         string
	}{
		{"endless body", "http://", false, endless("HTTP/1.1 200 OK\r\n\r\n", line), "fail: the door is open"},
		{"endless refusal", "http://", false, endless("HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\n\r\n{\"status\":403,\"detail\":\""+gateDetail+"\"}", line), "unknown: 403, not by the gate"},
		{"endless head", "http://", false, endless("HTTP/1.1 200 OK\r\n", "A: "+line+"\r\n"), "unknown: longer than"},
		{"endless 100 Continue", "http://", false, endless("", "HTTP/1.1 100 Continue\r\n\r\n"), "unknown: longer than"},
		{"endless status line", "http://", false, endless("HTTP/1.1 200 ", line), "unknown: longer than"},
		{"garbage", "http://", false, endless("", "\x00\x01\x1b[2Jgarbage\r\n"), "unknown: read the answer"},
		{"garbage for a handshake", "https://", false, endless("", "\x00\x01\x1b[2Jgarbage\r\n"), "unknown: tls"},
		{"silence", "http://", true, func(c net.Conn) { io.Copy(io.Discard, c) }, "unknown: timeout"},
		{"silence for a handshake", "https://", true, func(c net.Conn) { io.Copy(io.Discard, c) }, "unknown: deadline"},
		{"half a head", "http://", true, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nA: b\r\n"); io.Copy(io.Discard, c) }, "unknown: timeout"},
		{"half a body", "http://", true, func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\nContent-Length: 999\r\n\r\n{")
			io.Copy(io.Discard, c)
		}, "unknown: 403, not by the gate"},
		{"hangs up", "http://", false, func(c net.Conn) { c.(*net.TCPConn).CloseWrite(); io.Copy(io.Discard, c) }, "unknown: closed before an answer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			timeout := "30s"
			if tc.slow {
				timeout = "500ms"
			}
			server := tc.scheme + listen(t, tc.serve)
			port := closedPort(t)
			report, code := probe(t, "--edge", server, "--origin", server, "--timeout", timeout, "--health-port", port, "--http-port", port)
			if code == 0 {
				t.Error("exit status 0")
			}
			expect(t, report, all(tc.want, direct4...))
			for _, f := range report.Checks {
				if f.Check != "reachable from here" && f.Check != "answers" && f.Result == resultOK && strings.HasPrefix(f.Place, "origin") {
					t.Errorf("%s looks like a pass: %q", f.Check, f.Got)
				}
				if strings.ContainsAny(f.Got, "\x1b\n\x00") {
					t.Errorf("%s: control characters in %q", f.Check, f.Got)
				}
			}
		})
	}
}

// What the probe sends: so many requests as its manual says, all GET, all with
// its name, none to where a redirect points.
func TestProbeIsBounded(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var edge, origin int
	count := func(n *int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			*n++
			mu.Unlock()
			if r.Method != http.MethodGet || !strings.HasPrefix(r.UserAgent(), "wallarm-gate-probe/") || r.ContentLength != 0 || r.URL.Path == "/elsewhere" {
				t.Errorf("%s %s by %q", r.Method, r.RequestURI, r.UserAgent())
			}
			if r.URL.Path == "/moved" {
				http.Redirect(w, r, "/elsewhere", http.StatusFound)
			}
		}
	}
	e, o := httptest.NewServer(count(&edge)), httptest.NewServer(count(&origin))
	defer e.Close()
	defer o.Close()
	for _, path := range []string{"/", "/moved", "/a?b=c"} {
		mu.Lock()
		edge, origin = 0, 0
		mu.Unlock()
		report, _ := probe(t, "--edge", e.URL, "--origin", o.URL, "--path", path, "--health-port", portOf(t, e.Listener.Addr().String()), "--with-key", "testdata/private.json")
		mu.Lock()
		if edge != 7 || origin != 10 || report.Requests != 17 { // and one to the plain port of an https edge
			t.Errorf("%s: %d requests to the edge, %d to the origin, %d reported", path, edge, origin, report.Requests)
		}
		mu.Unlock()
	}
	if manual := read(t, "README.md"); !strings.Contains(manual, "8 requests to the edge") || !strings.Contains(manual, "4 to each origin, 10 with `--with-key`") {
		t.Error("the manual says other numbers")
	}
}

func TestProbeVerdicts(t *testing.T) {
	t.Parallel()
	gate := func(status int) *reply {
		return &reply{status: status, contentType: "application/problem+json", body: fmt.Appendf(nil, `{"type":"about:blank","status":%d,"detail":%q}`, status, gateDetail)}
	}
	plain := func(status int) *reply { return &reply{status: status, contentType: "text/html"} }
	attester := &reply{status: 400, contentType: "application/problem+json", body: []byte(`{"status":400,"detail":"The request target is not allowed."}`)}
	lying := gate(403)
	lying.status = 402
	p := &prober{block: 403}
	for _, tc := range []struct {
		name                     string
		a, benign                *reply
		refused, passed, stopped result
	}{
		{"gate", gate(403), plain(200), resultOK, resultFail, resultFail},
		{"gate, 451", gate(451), plain(200), resultOK, resultFail, resultFail},
		{"gate's words with 200", gate(200), plain(200), resultFail, resultOK, resultFail},
		{"gate's words with another status", lying, plain(200), resultUnknown, resultUnknown, resultUnknown},
		{"attester", attester, plain(200), resultUnknown, resultUnknown, resultUnknown},
		{"204", plain(204), plain(200), resultFail, resultOK, resultFail},
		{"101", plain(101), plain(200), resultFail, resultUnknown, resultUnknown},
		{"302", &reply{status: 302, location: "/login"}, plain(200), resultUnknown, resultUnknown, resultUnknown},
		{"401", plain(401), plain(401), resultUnknown, resultUnknown, resultUnknown},
		{"403 of a WAF", plain(403), plain(200), resultUnknown, resultFail, resultOK},
		{"403 of a WAF, benign 404", plain(403), plain(404), resultUnknown, resultFail, resultOK},
		{"403 for everything", plain(403), plain(403), resultUnknown, resultFail, resultUnknown},
		{"403 of a WAF, benign refused by the gate", plain(403), gate(403), resultUnknown, resultFail, resultOK},
		{"404 of Kong", &reply{status: 404, body: []byte(`{"message":"no Route matched with those values"}`)}, plain(200), resultUnknown, resultUnknown, resultUnknown},
		{"426", plain(426), plain(200), resultUnknown, resultUnknown, resultUnknown},
		{"500", plain(500), plain(200), resultUnknown, resultFail, resultUnknown},
		{"503", plain(503), plain(200), resultUnknown, resultFail, resultUnknown},
	} {
		if got, why := refused(tc.a, nil); got != tc.refused {
			t.Errorf("%s: refused says %s, %q", tc.name, got, why)
		}
		if got, why := passed(tc.a); got != tc.passed {
			t.Errorf("%s: passed says %s, %q", tc.name, got, why)
		}
		if got, why := p.stopped(tc.benign, tc.a, nil); got != tc.stopped {
			t.Errorf("%s: stopped says %s, %q", tc.name, got, why)
		}
	}
	if got, _ := refused(nil, errors.New("x")); got != resultUnknown {
		t.Errorf("an error is %s", got)
	}
	if got, _ := private(&reply{status: 200, body: []byte(`{"proton_instances":{}}`)}, nil); got != resultFail {
		t.Errorf("the node's status is %s", got)
	}
}

func TestProbeReport(t *testing.T) {
	t.Parallel()
	var r probeReport
	r.add(finding{resultOK, "edge https://a", "answers", "an answer", "200"})
	r.add(finding{resultFail, "origin https://b", "a direct request", refusedByGate, "200: the door is open"})
	r.add(finding{resultUnknown, "origin https://b", "made-up evidence", refusedByGate, "404 \x1b[31m<\u2028" + strings.Repeat("y", 500)})
	r.add(finding{resultNote, "origin https://b", "certificate", "verified", "not verified (--insecure)"})
	r.add(finding{"", "origin https://b", "a check that forgot its result", "anything", "?"})
	var table, junit bytes.Buffer
	if err := errors.Join(r.table(&table), r.junit(&junit)); err != nil {
		t.Fatal(err)
	}
	for golden, got := range map[string]string{"testdata/probe-table.golden": table.String(), "testdata/probe-junit.golden": junit.String()} {
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want := read(t, golden); got != want {
			t.Errorf("%s:\n%s\nwant:\n%s", golden, got, want)
		}
	}
}

func TestProbeMistakes(t *testing.T) {
	t.Parallel()
	valid := []string{"--edge", "https://a.example", "--origin", "https://b.example"}
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte(`{"keys":[{"kty":"oct","kid":"a","k":"c2VjcmV0"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		code int
		want string
		args []string
	}{
		{"no edge", 2, "--edge is missing", []string{"--origin", "https://b"}},
		{"no origin", 2, "--origin is missing", []string{"--edge", "https://a"}},
		{"no scheme", 2, "it must be http:// or https://", []string{"--edge", "a.example", "--origin", "https://b"}},
		{"a path", 2, "a host and perhaps a port", []string{"--edge", "https://a/b", "--origin", "https://b"}},
		{"a user", 2, "--origin must not hold a user name", []string{"--edge", "https://a", "--origin", "https://u:c2VjcmV0@a"}},
		{"a port too large", 2, "the port must be 1 to 65535", []string{"--edge", "https://a", "--origin", "https://a:70000"}},
		{"too many origins", 2, "17 origins are too many", append(valid[:2:2], strings.Split(strings.Repeat("--origin https://b ", 17)+"--json", " ")...)},
		{"timeout", 2, "it must be 100ms to 1m", append(valid, "--timeout", "1h")},
		{"path", 2, "--path: ", append(valid, "--path", "x y")},
		{"host", 2, `--host is "a/b"`, append(valid, "--host", "a/b")},
		{"host with a line feed", 2, "--host is ", append(valid, "--host", "a\r\nX: y")},
		{"block status", 2, "--block-status is 200", append(valid, "--block-status", "200")},
		{"days", 2, "--min-days is -1", append(valid, "--min-days", "-1")},
		{"port", 2, "must be 1 to 65535", append(valid, "--http-port", "0")},
		{"two forms", 2, "exclude each other", append(valid, "--json", "--junit", "-")},
		{"operand", 2, `"x" is one argument too many`, append(valid, "x")},
		{"application", 2, `--application is "many"; it must be -1 or 1 to 2147483647`, append(valid, "--application", "many")},
		{"application 0", 2, `--application is "0"`, append(valid, "--with-key", "testdata/private.json", "--application", "0")},
		{"application with a zero", 2, `--application is "01"`, append(valid, "--application", "01")},
		{"no number", 2, `"x" for flag -min-days: it must be a whole number; see gatectl help probe`, append(valid, "--min-days", "x")},
		{"an empty origin", 2, "--origin is empty", []string{"--edge", "https://a", "--origin", ""}},
		{"a folder as CA", 1, "testdata: is a directory", append(valid, "--ca", "testdata")},
		{"no key file", 1, "no such file", append(valid, "--with-key", "testdata/absent")},
		{"garbage as key file", 1, "garbage: ", append(valid, "--with-key", garbage)},
		{"public keys only", 1, "key", append(valid, "--with-key", "testdata/keys-public.golden")},
		{"no CA file", 1, "no such file", append(valid, "--ca", "testdata/absent")},
		{"garbage as CA", 1, "holds no PEM certificate", append(valid, "--ca", garbage)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := run(t, signedAt, "", append([]string{"probe"}, tc.args...)...)
			if code != tc.code || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tc.want) || strings.Contains(stderr, "c2VjcmV0") {
				t.Errorf("exit status %d, want %d; standard output %q, standard error %q, want one line with %q", code, tc.code, stdout, stderr, tc.want)
			}
		})
	}
}

// An interrupted probe is no result.
func TestProbeInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	server := "http://" + listen(t, func(c net.Conn) { cancel(); io.Copy(io.Discard, c) })
	var stdout, stderr bytes.Buffer
	tl := &tool{strings.NewReader(""), &stdout, &stderr, time.Now}
	if code := tl.main(ctx, []string{"probe", "--edge", server, "--origin", server, "--timeout", "1m"}); code != 1 || stdout.Len() > 0 || !strings.Contains(stderr.String(), "canceled") {
		t.Errorf("exit status %d, standard output %q, standard error %q", code, stdout.String(), stderr.String())
	}
}

// Whatever a server answers, the exchange ends and no verdict breaks.
func FuzzProbeAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\nContent-Length: 72\r\n\r\n{\"status\":403,\"detail\":\"" + gateDetail + "\"}"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nLocation: https://a/\x1b\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"))
	f.Add([]byte("\x00"))
	p := &prober{block: 403, edge: &url.URL{Scheme: "https", Host: "a"}}
	f.Fuzz(func(t *testing.T, data []byte) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			server.Read(make([]byte, 1024))
			server.Write(data)
		}()
		s := newSession(client, 5*time.Second)
		defer s.close()
		a, err := s.exchange(t.Context(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		var report probeReport
		r, got := refused(a, err)
		report.add(finding{r, "origin", "refused", "", got})
		if r == resultOK && !bytes.Contains(data, []byte("application/problem+json")) && !bytes.Contains(bytes.ToLower(data), []byte("problem+json")) {
			t.Errorf("%q is a refusal by the gate", data)
		}
		if err == nil {
			_, got = passed(a)
			report.add(finding{r, "edge", "passed", "", got})
			_, got = p.stopped(a, a, nil)
			report.add(finding{r, "edge", "stopped", "", got})
			if len(a.body) > maxAnswer {
				t.Errorf("%d bytes of a body", len(a.body))
			}
		}
		for _, f := range report.Checks {
			if strings.ContainsAny(f.Got, "\n\r\x1b") || len(f.Got) > 1000 {
				t.Errorf("not one short line: %q", f.Got)
			}
		}
	})
}

// Only what the network says of an address counts as closed.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, tc := range []struct {
		name string
		err  error
		want bool
	}{
		{"refused", dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), true},
		{"no route", dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), true},
		{"time limit", dial(os.ErrDeadlineExceeded), true},
		{"no such name", dial(&net.DNSError{Err: "no such host", Name: "a", IsNotFound: true}), false},
		{"name server does not answer", dial(&net.DNSError{Err: "timeout", Name: "a", IsTimeout: true}), false},
		{"not permitted here", dial(os.NewSyscallError("connect", syscall.EPERM)), false},
		{"out of descriptors", dial(os.NewSyscallError("socket", syscall.EMFILE)), false},
		{"interrupted", dial(context.Canceled), false},
		{"reset while reading", &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, false},
		{"silence while reading", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, false},
		{"none", nil, false},
	} {
		if got := unreachable(tc.err); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
