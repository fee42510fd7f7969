package node

// A real nginx under test, with the OWASP CRS stand-in or with no WAF at all in
// the place of the Wallarm module.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// The addresses of a test are all loopback: who is who is told by the source.
const (
	albIP     = "127.0.0.2" // in alb_cidrs
	strangeIP = "127.0.0.3" // not in alb_cidrs
	nodeName  = "good.example"
)

const patience = 20 * time.Second

// leaveOut ends a test whose program is missing; NGINX_REQUIRED=1 makes that a
// failure, so that a run which must prove something cannot skip it in silence.
func leaveOut(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("NGINX_REQUIRED") == "1" {
		t.Fatalf("%s, and NGINX_REQUIRED=1", what)
	}
	t.Skipf("LEFT OUT: %s; apt-get install nginx libnginx-mod-http-modsecurity modsecurity-crs", what)
}

func nginxBinary(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	leaveOut(t, "no nginx is installed")
	return ""
}

const modsecurity = "/usr/lib/nginx/modules/ngx_http_modsecurity_module.so"

func needModSecurity(t testing.TB) {
	t.Helper()
	for _, path := range []string{modsecurity, "/usr/share/modsecurity-crs/rules", "/etc/modsecurity/crs/crs-setup.conf"} {
		if _, err := os.Stat(path); err != nil {
			leaveOut(t, "no "+path+": the OWASP CRS stand-in cannot run")
		}
	}
}

// eventually polls until ok or until patience runs out.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		case <-tick.C:
		}
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// evaluate renders a template of testdata.
func evaluate(t testing.TB, path string, vars map[string]string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	expr, diags := hclsyntax.ParseTemplate(text, path, hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	ctx := &hcl.EvalContext{Variables: map[string]cty.Value{}}
	for k, v := range vars {
		ctx.Variables[k] = cty.StringVal(v)
	}
	v, diags := expr.Value(ctx)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return []byte(v.AsString())
}

// prefix is a configuration on disk, laid out as in the node's image.
type prefix struct {
	dir   string
	port  int
	files Files
}

// newPrefix writes what the image has, and around it what a test needs. With
// waf the OWASP CRS stand-in takes the place of the Wallarm module; otherwise
// nothing does. The files of the node are returned, not yet written.
func newPrefix(t testing.TB, backend string, waf bool, change func(*Settings)) prefix {
	t.Helper()
	p := prefix{dir: t.TempDir(), port: freePort(t)}
	s := exampleSettings()
	s.Port = p.port
	// Settings.Check refuses loopback here, rightly; a test has nothing else.
	s.ALBCIDRs = []string{albIP + "/32"}
	s.ServerNames = []string{nodeName, "other.example"}
	s.AttesterAddress = backend
	s.Mode = "block"
	s.LogQuery = true
	s.AccessLog = filepath.Join(p.dir, "access.log")
	if change != nil {
		change(&s)
	}
	var err error
	if p.files, err = s.files(); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{
		"mode": s.Mode, "application": strconv.Itoa(s.Application),
		"dir": p.dir, "rules": filepath.Join(p.dir, "crs.conf"),
	}
	load := ""
	if waf {
		needModSecurity(t)
		load = "load_module " + modsecurity + ";\n"
		p.write(t, "crs.conf", evaluate(t, "testdata/crs.conf.tftpl", vars))
		p.files.Wallarm = evaluate(t, "testdata/standin.conf.tftpl", vars)
	} else {
		p.files.Wallarm = fmt.Appendf(nil, "set $gate_mode %s; set $gate_application %d;\n", s.Mode, s.Application)
	}
	if p.files.Log, err = os.ReadFile("testdata/standin_log.conf"); err != nil {
		t.Fatal(err)
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;\n" // the workers must reach the temporary directory
	}
	p.write(t, "nginx.conf", fmt.Appendf(nil, `### Wallarm default ###
%[1]s%[2]sdaemon off;
worker_processes 1;
pid %[3]s/nginx.pid;
error_log %[3]s/error.log info;
include %[3]s/modules/*.conf;

events {
    worker_connections  768;
}

http {
    client_body_temp_path %[3]s/body;
    proxy_temp_path       %[3]s/proxy;
    fastcgi_temp_path     %[3]s/fastcgi;
    uwsgi_temp_path       %[3]s/uwsgi;
    scgi_temp_path        %[3]s/scgi;
    keepalive_timeout 65;
    access_log off;
    gzip on;
    include %[3]s/conf.d/*.conf;
    include %[3]s/http.d/*;
}
`, load, user, p.dir))
	// Where the image has the status of the node.
	p.write(t, "conf.d/wallarm-status.conf", fmt.Appendf(nil, `server {
    listen 127.0.0.8:%d;
    server_name localhost;
    allow 127.0.0.0/8;
    deny all;
    default_type application/json;
    location ~/wallarm-status$ { alias %s/status.json; }
}
`, p.port, p.dir))
	return p
}

func (p prefix) write(t testing.TB, name string, data []byte) {
	t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// install writes the node's files where start.sh would.
func (p prefix) install(t testing.TB) {
	t.Helper()
	p.write(t, "http.d/default.conf", p.files.Default)
	p.write(t, "gate/wallarm.conf", p.files.Wallarm)
	p.write(t, "gate/log.conf", p.files.Log)
}

func (p prefix) errorLog() string {
	b, _ := os.ReadFile(filepath.Join(p.dir, "error.log"))
	return string(b)
}

// nginx is a running nginx.
type nginx struct {
	prefix
	cmd *exec.Cmd
}

// start runs nginx with the node's configuration in front of backend until the
// test ends. A port that somebody took in between is given up for another one.
func start(t testing.TB, backend string, waf bool, change func(*Settings)) *nginx {
	t.Helper()
	binary := nginxBinary(t)
	for attempt := 1; ; attempt++ {
		n := &nginx{prefix: newPrefix(t, backend, waf, change)}
		n.install(t)
		var output bytes.Buffer
		// SIGTERM, not SIGKILL: nginx's workers outlive a killed master.
		line := bound(syscall.SIGTERM, binary, "-c", filepath.Join(n.dir, "nginx.conf"))
		n.cmd = exec.Command(line[0], line[1:]...)
		n.cmd.Stdout, n.cmd.Stderr = &output, &output
		if err := n.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- n.cmd.Wait() }()
		ready := false
		eventually(t, "nginx answers or ends", func() bool {
			select {
			case err := <-done:
				done <- err
				return true
			default:
			}
			c, err := net.Dial("tcp", n.addr())
			if err == nil {
				c.Close()
				ready = true
			}
			return ready
		})
		if ready {
			t.Cleanup(func() {
				n.cmd.Process.Signal(syscall.SIGTERM)
				<-done
				if t.Failed() {
					t.Logf("error.log:\n%s", tail(n.errorLog(), 3000))
				}
			})
			return n
		}
		if attempt == 3 || !strings.Contains(n.errorLog()+output.String(), "Address already in use") {
			t.Fatalf("nginx ended: %v\n%s\n%s", <-done, output.String(), tail(n.errorLog(), 3000))
		}
	}
}

// Every kind of setting loads, with the stand-in in the module's place.
func TestConfigurationLoads(t *testing.T) {
	t.Parallel()
	binary := nginxBinary(t)
	for name, change := range map[string]func(*Settings){
		"defaults":    nil,
		"relaxed":     func(s *Settings) { s.AllowDotSegments = true },
		"buffering":   func(s *Settings) { s.RequestBuffering, s.ResponseBuffering = false, true },
		"no query":    func(s *Settings) { s.LogQuery = false },
		"application": func(s *Settings) { s.Application = 1<<31 - 1 },
		"long names": func(s *Settings) {
			long := strings.Repeat(strings.Repeat("a", 59)+".", 4)
			s.ServerNames = []string{long + "example", long + "test"}
		},
		"many names": func(s *Settings) {
			for i := range 500 {
				s.ServerNames = append(s.ServerNames, fmt.Sprintf("api-%d.example.com", i))
			}
		},
		"IPv6 balancer": func(s *Settings) { s.ALBCIDRs = []string{"2001:db8::/64", "10.0.0.0/8"} },
		"IPv6": func(s *Settings) {
			l, err := net.Listen("tcp6", "[::]:0")
			s.IPv6 = err == nil // a machine without IPv6 cannot listen there
			if err == nil {
				l.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPrefix(t, "127.0.0.1:1", true, change)
			p.install(t)
			if out, err := exec.Command(binary, "-t", "-c", filepath.Join(p.dir, "nginx.conf")).CombinedOutput(); err != nil || bytes.Contains(out, []byte("[warn]")) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

func (n *nginx) addr() string { return "127.0.0.1:" + strconv.Itoa(n.port) }

// dial connects to nginx from the given loopback address.
func (n *nginx) dial(t testing.TB, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	c, err := d.Dial("tcp", n.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// errClosed says that nginx closed the connection without an answer.
var errClosed = errors.New("closed without an answer")

// exchange sends raw bytes and reads one response, skipping interim ones.
func (n *nginx) exchange(t testing.TB, from, raw string) (*http.Response, string, error) {
	t.Helper()
	c := n.dial(t, from)
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(raw, " ")
	return readResponse(t, bufio.NewReader(c), method)
}

func readResponse(t testing.TB, br *bufio.Reader, method string) (*http.Response, string, error) {
	t.Helper()
	if _, err := br.Peek(1); err != nil {
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			t.Fatalf("no answer within %v", patience)
		}
		return nil, "", errClosed
	}
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("response: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("response body: %v", err)
	}
	return resp, string(body), nil
}

// logged waits for the access log's line of the request with this trace id.
func (n *nginx) logged(t testing.TB, trace string) map[string]any {
	t.Helper()
	var entry map[string]any
	eventually(t, "a line of the access log for "+trace, func() bool {
		data, err := os.ReadFile(filepath.Join(n.dir, "access.log"))
		if err != nil {
			return false
		}
		for line := range bytes.Lines(data) {
			if !bytes.HasSuffix(line, []byte("\n")) {
				return false // being written
			}
			var e map[string]any
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatalf("the access log is not JSON: %v: %q", err, line)
			}
			if e["trace"] == trace {
				entry = e
				return true
			}
		}
		return false
	})
	return entry
}
