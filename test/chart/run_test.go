package chart

// The rendered commands, environment and kong.yml, run with the real plugin on
// the plugin host, and the pod of `helm test` with a real curl.

import (
	"bufio"
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
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

const deadline = 20 * time.Second

var pluginDir string // set by pluginBinary, removed at the end

// pluginBinary is the plugin, built as Dockerfile.kong builds it.
var pluginBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gate")
	if err != nil {
		return "", err
	}
	pluginDir = dir
	bin := filepath.Join(dir, "wallarm-gate")
	cmd := exec.Command("go", "build", "-o", bin, "./plugin")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the plugin: %w: %s", err, out)
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if pluginDir != "" {
		os.RemoveAll(pluginDir)
	}
	os.Exit(code)
}

// pod plays a pod's file systems: each volume and each image is a folder. What
// runs in a container runs here with the container's absolute paths led there.
type pod struct {
	t     *testing.T
	m     *manifests
	dir   string
	ports map[string]string // addresses in the pod: those of this test
}

// newPod makes the pod of m. Secrets and ConfigMaps that the chart does not
// render are in existing.
func newPod(t *testing.T, m *manifests, existing map[string]map[string]string) *pod {
	t.Helper()
	dir, err := os.MkdirTemp("", "pod") // short: a socket's path has room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &pod{t: t, m: m, dir: dir, ports: map[string]string{}}
	if m.Secret != nil {
		existing = maps.Clone(existing)
		existing[m.Secret.Name] = m.Secret.StringData
	}
	if m.Keys != nil {
		existing[m.Keys.Name] = m.Keys.Data
	}
	for _, v := range m.Deployment.Spec.Template.Spec.Volumes {
		name, items := "", []corev1.KeyToPath(nil)
		switch {
		case v.Secret != nil:
			name, items = v.Secret.SecretName, v.Secret.Items
		case v.ConfigMap != nil:
			name, items = v.ConfigMap.Name, v.ConfigMap.Items
		case v.EmptyDir == nil && v.Projected == nil:
			t.Fatalf("volume %s is of a kind that is not played", v.Name)
		}
		folder := filepath.Join(dir, "v", v.Name)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if name == "" {
			continue
		}
		object, ok := existing[name]
		if !ok {
			t.Fatalf("volume %s needs %s, which this test does not have", v.Name, name)
		}
		if items == nil {
			for key := range object {
				items = append(items, corev1.KeyToPath{Key: key, Path: key})
			}
		}
		for _, item := range items {
			content, ok := object[item.Key]
			if !ok {
				t.Fatalf("volume %s needs the key %s of %s", v.Name, item.Key, name)
			}
			p.write(filepath.Join(folder, item.Path), content)
		}
	}
	return p
}

func (p *pod) write(path, content string) {
	p.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// inVolume is where a container's absolute path is, when a volume is mounted
// there.
func (p *pod) inVolume(c *corev1.Container, name string) (string, bool) {
	best := corev1.VolumeMount{}
	for _, m := range c.VolumeMounts {
		m.MountPath = path.Clean(m.MountPath)
		if (name == m.MountPath || strings.HasPrefix(name, m.MountPath+"/")) && len(m.MountPath) > len(best.MountPath) {
			best = m
		}
	}
	return filepath.Join(p.dir, "v", best.Name, strings.TrimPrefix(name, best.MountPath)), best.Name != ""
}

// path is where a container's absolute path is: in a volume, or in the image.
func (p *pod) path(c *corev1.Container, name string) string {
	if at, ok := p.inVolume(c, name); ok {
		return at
	}
	return filepath.Join(p.image(c.Image), name)
}

// image is the folder that plays an image, filled with what Dockerfile.kong
// copies into the target that the chart expects there.
func (p *pod) image(name string) string {
	p.t.Helper()
	target := ""
	switch {
	case strings.Contains(name, "/wallarm-gate-plugin"):
		target = "plugin"
	case strings.Contains(name, "/kong-wallarm-gate"):
		target = "kong"
	case name != "kong:3.9.3":
		p.t.Fatalf("the image %s is not played", name)
	}
	folder := filepath.Join(p.dir, "i"+target)
	if _, err := os.Stat(folder); err == nil || target == "" {
		return folder
	}
	for to, from := range dockerfile(p.t, target).files {
		to = filepath.Join(folder, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			p.t.Fatal(err)
		}
		from, err := filepath.Abs(from)
		if err != nil {
			p.t.Fatal(err)
		}
		// Not copied: a process that another test starts meanwhile would hold
		// the copy open for writing, and nothing could run it.
		if err := os.Symlink(from, to); err != nil {
			p.t.Fatal(err)
		}
	}
	return folder
}

var absolute = regexp.MustCompile(`(^|[\s,"])(/[A-Za-z0-9._/-]+)`)

// here is a text of the container with its paths and addresses led to this test.
func (p *pod) here(c *corev1.Container, text string) string {
	text = absolute.ReplaceAllStringFunc(text, func(s string) string {
		i := strings.Index(s, "/")
		return s[:i] + p.path(c, s[i:])
	})
	for from, to := range p.ports {
		text = strings.ReplaceAll(text, from, to)
	}
	return text
}

// mounted is a text of the container with the paths of its volumes led here,
// and no others: a kong.yml is full of paths that are none.
func (p *pod) mounted(c *corev1.Container, text string) string {
	return absolute.ReplaceAllStringFunc(text, func(s string) string {
		i := strings.Index(s, "/")
		if at, ok := p.inVolume(c, s[i:]); ok {
			return s[:i] + at
		}
		return s
	})
}

// runInit runs the init containers in their order.
func (p *pod) runInit() (output string, err error) {
	p.t.Helper()
	for _, c := range p.m.Deployment.Spec.Template.Spec.InitContainers {
		args := make([]string, 0, len(c.Command)+len(c.Args))
		for _, a := range append(slices.Clone(c.Command), c.Args...) {
			for name, value := range env(&c) { // as the kubelet does
				a = strings.ReplaceAll(a, "$("+name+")", value)
			}
			args = append(args, p.here(&c, a))
		}
		ctx, cancel := context.WithTimeout(p.t.Context(), deadline)
		defer cancel()
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = []string{}
		out, err := cmd.CombinedOutput()
		output += string(out)
		if err != nil {
			return output, fmt.Errorf("%s: %w: %s", c.Name, err, out)
		}
	}
	return output, nil
}

// loseSockets runs the loop in which the image's entrypoint deletes sockets.
func (p *pod) loseSockets(e map[string]string, c *corev1.Container) {
	p.t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		p.t.Fatal("the entrypoint of the image needs bash, which is not here")
	}
	script, err := os.ReadFile("testdata/docker-entrypoint-sockets.sh")
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(bash, "-Eeo", "pipefail", "-c", string(script))
	cmd.Env = []string{"PREFIX=" + p.path(c, e["KONG_PREFIX"]), "PATH=" + os.Getenv("PATH")}
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
}

// running is Kong, played by the plugin host.
type running struct {
	*pod
	host   *pluginhost.Host
	gw     *pluginhost.Gateway
	status *fakeStatus
	env    map[string]string
	kong   *corev1.Container
	tls    *tls.Config // of the proxy listener; nil: plain
	log    *logBook
}

// logBook is Kong's log.
type logBook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBook) add(level, msg string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, "%s: %s\n", level, msg)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// fakeStatus is Kong's status listener.
type fakeStatus struct {
	mu    sync.Mutex
	ready int
}

func (s *fakeStatus) set(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = status
}

func (s *fakeStatus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path != "/status/ready" {
		http.NotFound(w, r)
		return
	}
	w.WriteHeader(s.ready)
}

// run starts the pod: init containers, entrypoint, plugin, gateway.
func run(t *testing.T, m *manifests, existing map[string]map[string]string) *running {
	t.Helper()
	p := newPod(t, m, existing)
	if _, err := p.runInit(); err != nil {
		t.Fatal(err)
	}
	c := m.kong(t)
	r := &running{pod: p, kong: c, env: env(c), status: &fakeStatus{ready: 200}, log: &logBook{}}

	status := httptest.NewServer(r.status)
	t.Cleanup(status.Close)
	p.ports["http://127.0.0.1:8100/"] = status.URL + "/"
	p.ports["0.0.0.0:9542"] = freeAddress(t)

	for _, e := range c.Env {
		if e.ValueFrom == nil {
			continue
		}
		ref := e.ValueFrom.SecretKeyRef
		r.env[e.Name] = existing[ref.Name][ref.Key]
		if r.env[e.Name] == "" {
			t.Fatalf("%s needs the key %s of %s", e.Name, ref.Key, ref.Name)
		}
	}
	var environ []string
	for name, value := range r.env {
		environ = append(environ, name+"="+value)
	}
	// What the sockets of a container that was restarted look like.
	socket := p.path(c, r.env["KONG_PLUGINSERVER_WALLARM_GATE_SOCKET"])
	stale := filepath.Join(p.path(c, r.env["KONG_PREFIX"]), "stale.socket")
	for _, s := range []string{socket, stale} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	p.loseSockets(r.env, c)
	if _, err := os.Lstat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the entrypoint's loop left %s: it was not run over the prefix", stale)
	}
	if _, err := os.Lstat(socket); err != nil {
		t.Errorf("the entrypoint deletes the plugin's socket: %v", err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	host, err := pluginhost.Start(ctx, pluginhost.Options{
		Prefix: p.path(c, r.env["KONG_PREFIX"]), Socket: socket, Env: environ, MaxEvents: 10, Log: r.log.add,
		QueryCmd: p.here(c, r.env["KONG_PLUGINSERVER_WALLARM_GATE_QUERY_CMD"]),
		StartCmd: p.here(c, r.env["KONG_PLUGINSERVER_WALLARM_GATE_START_CMD"]),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	if err := host.Ready(ctx); err != nil {
		t.Fatalf("%v\n%s", err, r.log)
	}
	r.host = host
	// Neither does it while the plugin runs.
	p.loseSockets(r.env, c)
	if err := host.Ready(ctx); err != nil {
		t.Errorf("the entrypoint's loop cut the plugin off: %v", err)
	}

	nginx, err := os.ReadFile(p.path(c, r.env["KONG_NGINX_HTTP_INCLUDE"]))
	if err != nil {
		t.Fatal(err)
	}
	settings := pluginhost.Settings{Nginx: nginx, RealIPHeader: r.env["KONG_REAL_IP_HEADER"], RealIPRecursive: r.env["KONG_REAL_IP_RECURSIVE"] == "on"}
	for _, cidr := range strings.Split(r.env["KONG_TRUSTED_IPS"], ",") {
		settings.TrustedIPs = append(settings.TrustedIPs, netip.MustParsePrefix(cidr))
	}
	config, err := os.ReadFile(p.path(c, r.env["KONG_DECLARATIVE_CONFIG"]))
	if err != nil {
		t.Fatal(err)
	}
	file, err := pluginhost.LoadDeclarative([]byte(p.mounted(c, onlyGate(t, config))))
	if err != nil {
		t.Fatal(err)
	}
	if r.gw, err = pluginhost.NewGateway(host, file, settings); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.gw.Close() })

	if strings.Contains(r.env["KONG_PROXY_LISTEN"], " ssl") {
		pair, err := tls.LoadX509KeyPair(p.path(c, r.env["KONG_SSL_CERT"]), p.path(c, r.env["KONG_SSL_CERT_KEY"]))
		if err != nil {
			t.Fatal(err)
		}
		r.tls = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		if r.env["KONG_NGINX_PROXY_SSL_VERIFY_CLIENT"] == "on" {
			ca, err := os.ReadFile(p.path(c, r.env["KONG_NGINX_PROXY_SSL_CLIENT_CERTIFICATE"]))
			if err != nil {
				t.Fatal(err)
			}
			r.tls.ClientAuth, r.tls.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
			if !r.tls.ClientCAs.AppendCertsFromPEM(ca) {
				t.Fatal("no client CA")
			}
		}
	}
	return r
}

// onlyGate leaves out what the plugin host does not play: other plugins, and
// strip_path.
func onlyGate(t *testing.T, config []byte) string {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal(config, &doc); err != nil {
		t.Fatal(err)
	}
	plugins, _ := doc["plugins"].([]any)
	doc["plugins"] = slices.DeleteFunc(plugins, func(p any) bool { return p.(map[string]any)["name"] != "wallarm-gate" })
	for _, s := range doc["services"].([]any) {
		for _, r := range s.(map[string]any)["routes"].([]any) {
			r.(map[string]any)["strip_path"] = false
		}
	}
	out, err := yaml.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// freeAddress is an address of this machine that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// edge is the attester: it signs, and connects from an address of its own.
type edge struct {
	key    *evidence.Key
	public string // JWK Set
	cert   tls.Certificate
	ca     string // PEM
	server map[string]string
}

func newEdge(t *testing.T) *edge {
	t.Helper()
	key, err := evidence.GenerateKey("edge-1", evidence.AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	key.Expires = time.Now().Add(time.Hour)
	public, err := key.Public()
	if err != nil {
		t.Fatal(err)
	}
	set, err := evidence.NewKeySet(public)
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	e := &edge{key: key, public: string(jwks)}
	e.server, _ = selfSigned(t, "gateway.internal.example.com")
	client, pair := selfSigned(t, "attester")
	e.cert, e.ca = pair, client["tls.crt"]
	return e
}

// selfSigned is a kubernetes.io/tls Secret.
func selfSigned(t *testing.T, name string) (map[string]string, tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s := map[string]string{
		"tls.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"tls.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
	}
	pair, err := tls.X509KeyPair([]byte(s["tls.crt"]), []byte(s["tls.key"]))
	if err != nil {
		t.Fatal(err)
	}
	return s, pair
}

// request is a request of the edge, signed.
func (e *edge) request(t *testing.T, host, target string, change func(*evidence.Message)) *http.Request {
	t.Helper()
	m := &evidence.Message{
		Method: "GET", Authority: host, Target: target, RequestID: "0123456789abcdef0123456789abcdef", ClientIP: "203.0.113.7",
		Mode: "block", Application: "7", Node: "task-1", Inspection: "active",
	}
	if change != nil {
		change(m)
	}
	s, err := evidence.NewSigner(e.key, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sign(m, time.Now()); err != nil {
		t.Fatal(err)
	}
	r := plain(host, target)
	for name, value := range map[string]string{
		evidence.HeaderRequestID: m.RequestID, evidence.HeaderClientIP: m.ClientIP, evidence.HeaderMode: m.Mode, evidence.HeaderApplication: m.Application,
		evidence.HeaderNode: m.Node, evidence.HeaderInspection: m.Inspection, evidence.HeaderSignatureInput: m.SignatureInput, evidence.HeaderSignature: m.Signature,
		"Connection": "Signature, Signature-Input", "X-Forwarded-For": m.ClientIP, "X-Forwarded-Proto": "https",
	} {
		r.Header.Set(name, value)
	}
	return r
}

func plain(host, target string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Host = host
	return r
}

// send sends a request over a connection of its own that comes from peer.
func (r *running) send(peer string, req *http.Request, cert *tls.Certificate) (int, error) {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if r.tls != nil {
			conn = tls.Server(conn, r.tls)
		}
		r.gw.ServeConn(conn, netip.AddrPortFrom(netip.MustParseAddr(peer), 40000))
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		r.t.Fatal(err)
	}
	if r.tls != nil {
		config := &tls.Config{InsecureSkipVerify: true} // the attester's own tests check its check
		if cert != nil {
			config.Certificates = []tls.Certificate{*cert}
		}
		conn = tls.Client(conn, config)
	}
	if err := req.Write(conn); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// upstream records what arrives.
type upstream struct {
	*httptest.Server
	mu   sync.Mutex
	last http.Header
	n    int
}

func newUpstream(t *testing.T) *upstream {
	u := &upstream{}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.last, u.n = r.Header.Clone(), u.n+1
	}))
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) seen() (http.Header, int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last, u.n
}

const (
	edgePeer  = "10.0.16.9"
	otherPeer = "10.0.99.9"
)

// Both ways of getting the plugin into Kong, run.
func TestBothWaysRun(t *testing.T) {
	t.Parallel()
	for _, way := range []struct {
		name, host, target string
	}{
		{"minimal", "api.example.com", "/orders?x=1"}, // gate.from: init
		{"image", "shop.example.com", "/orders?x=1"},  // gate.from: image
		{"nlb", "api.example.com", "/orders?x=1"},     // init, kong.yml inline, plain listener
		{"secret", "api.example.com", "/orders?x=1"},  // init, kong.yml from a Secret
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			e, up := newEdge(t), newUpstream(t)
			m := withUpstream(t, way.name, up.URL)
			if way.name == "minimal" {
				m.Keys.Data["jwks.json"] = e.public
			}
			r := run(t, m, map[string]map[string]string{
				"edge-keys": {"keys.json": e.public, "jwks.json": e.public}, "gateway-tls": e.server, "gate-wallarm-gate-tls": e.server,
				"attester-ca": {"ca.crt": e.ca}, "upstream-ca": {}, "edge-tokens": {"current": strings.Repeat("a", 32), "next": strings.Repeat("b", 32)},
				"kong-config": {"config.yml": "_format_version: \"3.0\"\nservices:\n- {name: s, url: " + up.URL + ", routes: [{name: r, paths: [/]}]}\nplugins:\n- {name: wallarm-gate, config: {jwks: '" + e.public + "'}}\n"},
			})
			do := func(what, peer string, want int, req *http.Request) {
				t.Helper()
				_, before := up.seen()
				got, err := r.send(peer, req, &e.cert)
				if err != nil || got != want {
					t.Errorf("%s: %d (%v), want %d\n%s", what, got, err, want, r.log)
				}
				if _, after := up.seen(); (after > before) != (want == 200) {
					t.Errorf("%s: answered %d, and the upstream saw %d requests", what, got, after-before)
				}
			}
			signed := e.request(t, way.host, way.target, nil)
			do("signed", edgePeer, 200, signed)

			// The upstream sees the client and https, and no signature.
			header, _ := up.seen()
			if header.Get("X-Real-Ip") != "203.0.113.7" || header.Get("X-Forwarded-Proto") != "https" || !strings.HasPrefix(header.Get("X-Forwarded-For"), "203.0.113.7") {
				t.Errorf("the upstream sees X-Real-IP %q, X-Forwarded-Proto %q, X-Forwarded-For %q",
					header.Get("X-Real-Ip"), header.Get("X-Forwarded-Proto"), header.Get("X-Forwarded-For"))
			}
			if header.Get("Signature") != "" || header.Get("Signature-Input") != "" || header.Get(evidence.HeaderMode) != "block" {
				t.Errorf("the upstream sees %v", header)
			}
			do("replayed", edgePeer, 403, signed)
			do("direct", otherPeer, 403, plain(way.host, way.target))
			do("direct, from the edge's network", edgePeer, 403, plain(way.host, way.target))
			do("degraded", edgePeer, 403, e.request(t, way.host, way.target, func(m *evidence.Message) { m.Inspection = "degraded" }))
			do("another key", edgePeer, 403, newEdge(t).request(t, way.host, way.target, nil))
			if way.name == "image" || way.name == "nlb" {
				do("signed, from elsewhere", otherPeer, 403, e.request(t, way.host, way.target, nil))
			}
			if way.name == "image" {
				do("weaker mode", edgePeer, 403, e.request(t, way.host, way.target, func(m *evidence.Message) { m.Mode = "monitoring" }))
				do("another application", edgePeer, 403, e.request(t, way.host, way.target, func(m *evidence.Message) { m.Application = "8" }))
				do("exempt", otherPeer, 200, plain(way.host, "/healthz"))
				if _, err := r.send(edgePeer, e.request(t, way.host, way.target, nil), nil); err == nil {
					t.Error("a request without a client certificate was answered")
				}
			}
			r.checkReadiness()
		})
	}
}

// withUpstream renders a file of ci/ with the services' URL led to this test.
func withUpstream(t *testing.T, name, url string) *manifests {
	t.Helper()
	m := render(t, "", name)
	if m.Secret != nil {
		services := regexp.MustCompile(`url: http://\S+`)
		text := m.Secret.StringData["kong.yml"]
		if !services.MatchString(text) {
			t.Fatalf("no url in\n%s", text)
		}
		m.Secret.StringData["kong.yml"] = services.ReplaceAllString(text, "url: "+url)
	}
	return m
}

// checkReadiness asks the readiness probe's own URL: 200, 503 while Kong is not
// ready, no answer or 503 while the plugin is down, 200 again.
func (r *running) checkReadiness() {
	r.t.Helper()
	probe := r.kong.ReadinessProbe.HTTPGet
	if port := probe.Port.String(); port != "gate" && port != "9542" {
		r.t.Fatalf("the probe asks port %s", port)
	}
	url := "http://" + r.ports["0.0.0.0:9542"] + probe.Path
	await := func(what string, want int) {
		r.t.Helper()
		limit := time.Now().Add(deadline)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			resp, err := http.Get(url)
			status := 0
			if err == nil {
				status = resp.StatusCode
				resp.Body.Close()
			}
			if status == want {
				return
			}
			if time.Now().After(limit) {
				r.t.Fatalf("%s: %s is %d (%v), want %d\n%s", what, path.Base(url), status, err, want, r.log)
			}
			<-tick.C
		}
	}
	await("all is well", 200)
	r.status.set(503)
	await("Kong is not ready", 503)
	r.status.set(200)
	await("Kong is ready", 200)
	starts := r.host.Starts()
	if err := r.host.Kill(); err != nil {
		r.t.Fatal(err)
	}
	await("the plugin came back", 200)
	if r.host.Starts() <= starts {
		// The listener of the killed process may still answer for a moment.
		limit := time.Now().Add(deadline)
		for tick := time.NewTicker(20 * time.Millisecond); r.host.Starts() <= starts; <-tick.C {
			if time.Now().After(limit) {
				r.t.Fatal("the plugin was not started again")
			}
		}
		await("the plugin came back", 200)
	}
}

// await asks until the answer is yes.
func (r *running) await(what string, done func() bool) {
	r.t.Helper()
	limit := time.Now().Add(deadline)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(limit) {
			r.t.Fatalf("%s: not within %s\n%s", what, deadline, r.log)
		}
		<-tick.C
	}
}

// A change of the mounted keys reaches the plugin without a restart.
func TestKeysAreReadAgain(t *testing.T) {
	t.Parallel()
	old, next, up := newEdge(t), newEdge(t), newUpstream(t)
	m := withUpstream(t, "minimal", up.URL)
	m.Keys.Data["jwks.json"] = old.public
	r := run(t, m, map[string]map[string]string{"gateway-tls": old.server})
	if got, err := r.send(edgePeer, old.request(t, "a.example", "/", nil), nil); got != 200 {
		t.Fatalf("%d %v", got, err)
	}
	file := r.path(r.kong, "/etc/wallarm-gate/keys/jwks.json")
	if err := os.WriteFile(file+".new", []byte(next.public), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil { // as the kubelet does, in one step
		t.Fatal(err)
	}
	r.await("the new key is accepted", func() bool {
		got, _ := r.send(edgePeer, next.request(t, "a.example", "/", nil), nil)
		return got == 200
	})
	if got, _ := r.send(edgePeer, old.request(t, "a.example", "/", nil), nil); got != 403 {
		t.Errorf("the old key still counts: %d", got)
	}
}

// Report mode with tokens from a Secret lets everything pass; in enforce mode
// one of the tokens is needed.
func TestTokens(t *testing.T) {
	t.Parallel()
	token := strings.Repeat("t0ken-", 8)
	e, up := newEdge(t), newUpstream(t)
	existing := map[string]map[string]string{"gateway-tls": e.server, "edge-tokens": {"current": token}}
	for mode, want := range map[string]int{"report": 200, "enforce": 403} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			m := render(t, fmt.Sprintf("{gate: {config: {mode: %s}}, services: [{name: s, url: %q, routes: [{name: r, paths: [/]}]}]}", mode, up.URL), "report")
			r := run(t, m, maps.Clone(existing))
			if got, err := r.send(edgePeer, plain("a.example", "/"), nil); got != want {
				t.Errorf("without a token: %d (%v), want %d", got, err, want)
			}
			req := e.request(t, "a.example", "/", nil)
			req.Header.Set(evidence.HeaderToken, token)
			if got, err := r.send(edgePeer, req, nil); got != 200 {
				t.Errorf("with the token: %d (%v)\n%s", got, err, r.log)
			}
			if header, _ := up.seen(); header.Get(evidence.HeaderToken) != "" {
				t.Error("the upstream sees the token")
			}
		})
	}
}

// An existing Secret with an open door keeps the pod from starting.
func TestCheckRefusesToStart(t *testing.T) {
	t.Parallel()
	const head = "_format_version: \"3.0\"\nservices:\n- {name: s, url: http://u, routes: [{name: r, paths: [/]%s}]}\n"
	const gate = "plugins:\n- {name: wallarm-gate, config: {jwks_file: /k}}\n"
	for name, c := range map[string]struct{ file, extra, want string }{
		"closed":                   {fmt.Sprintf(head, "") + gate, "", ""},
		"no gate":                  {fmt.Sprintf(head, ""), "", "open"},
		"report mode on one route": {fmt.Sprintf(head, ", plugins: [{name: wallarm-gate, config: {mode: report, jwks_file: /k}}]") + gate, "", "open"},
		"no kong.yml":              {"hello", "", "not a declarative configuration"},
		"report mode, declared":    {fmt.Sprintf(head, "") + strings.Replace(gate, "{jwks", "{mode: report, jwks", 1), "gate: {config: {mode: report}}", ""},
	} {
		for _, way := range []string{"init", "image"} {
			t.Run(name+", "+way, func(t *testing.T) {
				t.Parallel()
				files := []string{values("secret")}
				if way == "image" {
					files = append(files, "testdata/from-image-values.yaml")
				}
				text, err := template(t, c.extra, files...)
				if err != nil {
					t.Fatal(err)
				}
				p := newPod(t, decode(t, text), map[string]map[string]string{"kong-config": {"config.yml": c.file}, "gateway-tls": {}})
				out, err := p.runInit()
				if (err != nil) != (c.want != "") || !strings.Contains(out, c.want) {
					t.Errorf("error %v, output %s", err, out)
				}
			})
		}
	}
}

// A container of Kong that starts again does not come by the check: it must not read
// what somebody has put into the Secret since.
func TestKongReadsWhatWasChecked(t *testing.T) {
	t.Parallel()
	const closed = "_format_version: \"3.0\"\nplugins:\n- {name: wallarm-gate, config: {jwks_file: /k}}\n"
	const open = "_format_version: \"3.0\"\nservices:\n- {name: s, url: http://u, routes: [{name: r, paths: [/]}]}\n"
	m := render(t, "", "secret")
	p := newPod(t, m, map[string]map[string]string{"kong-config": {"config.yml": closed}, "gateway-tls": {}})
	if out, err := p.runInit(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	checks := m.Deployment.Spec.Template.Spec.InitContainers
	p.write(p.path(&checks[len(checks)-1], "/etc/wallarm-gate/declarative/kong.yml"), open) // as the kubelet does
	if out, err := p.runInit(); err == nil {
		t.Fatalf("an open door: %s", out)
	}
	kong := m.kong(t)
	got, err := os.ReadFile(p.path(kong, env(kong)["KONG_DECLARATIVE_CONFIG"]))
	if err != nil || string(got) != closed {
		t.Errorf("Kong would read %q (%v), want what was checked", got, err)
	}
	if slices.ContainsFunc(kong.VolumeMounts, func(v corev1.VolumeMount) bool { return v.Name == "declarative" }) {
		t.Error("Kong sees what nobody has checked")
	}
}

// The pod of helm test, with a real curl.
func TestDirectRequestPod(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("CURL_REQUIRED") == "1" {
			t.Fatal(err)
		}
		t.Skip("NOT RUN: the script of the helm test pod needs curl")
	}
	e, up := newEdge(t), newUpstream(t)
	minimal := withUpstream(t, "minimal", up.URL)
	minimal.Keys.Data["jwks.json"] = e.public
	r := run(t, minimal, map[string]map[string]string{"gateway-tls": e.server})
	closed, err := r.gw.ListenTLS("127.0.0.1:0", r.tls)
	if err != nil {
		t.Fatal(err)
	}
	open := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(open.Close)
	nowhere := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(nowhere.Close)
	broken := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	t.Cleanup(broken.Close)
	byMode := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(evidence.HeaderMode) == "" { // believes what is made up
			w.WriteHeader(403)
		}
	}))
	t.Cleanup(byMode.Close)
	for name, c := range map[string]struct {
		url, policy, want string
		ok                bool
	}{
		"the gate":                      {"https://" + closed.String() + "/", "false", "closed: ", true},
		"an open door":                  {open.URL, "true", "OPEN: ", false},
		"made-up evidence is believed":  {byMode.URL, "true", "OPEN: ", false},
		"no such route":                 {nowhere.URL, "true", "set tests.path", false},
		"a plugin that is down":         {broken.URL, "true", "answered 500", false},
		"kept away by the policy":       {"https://" + freeAddress(t), "true", "cannot be reached", true},
		"kept away by nobody":           {"https://" + freeAddress(t), "false", "unknown: ", false},
		"no such name":                  {"https://name.invalid/", "true", "unknown: ", false},
		"an answer that is not HTTPS's": {strings.Replace(up.URL, "http:", "https:", 1), "true", "unknown: ", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := minimal.Test.Spec.Containers[0]
			cmd := exec.Command(pod.Command[0], pod.Command[1:]...)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "NO_PROXY=*"}
			for name, value := range env(&pod) {
				switch name {
				case "URL":
					value = c.url
				case "NETWORK_POLICY":
					value = c.policy
				}
				cmd.Env = append(cmd.Env, name+"="+value)
			}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); (err == nil) != c.ok || !strings.Contains(out.String(), c.want) {
				t.Errorf("%v: %s", err, &out)
			}
		})
	}
	if pod := env(&render(t, "", "image").Test.Spec.Containers[0]); pod["REFUSED"] != "400" || pod["HOST"] != "shop.example.com" {
		t.Errorf("with client certificates: %v", pod)
	}
	if pod := env(&render(t, "", "nlb").Test.Spec.Containers[0]); pod["URL"] != "http://gate-wallarm-gate:443/orders" || pod["REFUSED"] != "403" {
		t.Errorf("behind the NLB's TLS: %v", pod)
	}
}
