package node

// start.sh, with a fake init that becomes the real nginx, as the image's does.

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary stand in for an nginx that is still loading (see
// TestStopWhileNginxLoads), and for a program that ends with the tests.
func TestMain(m *testing.M) {
	becomeBound()
	if dir := os.Getenv("FAKE_NGINX"); dir != "" {
		os.Exit(loadingNginx(dir))
	}
	code := m.Run()
	os.RemoveAll(built)
	os.Exit(code)
}

func loadingNginx(dir string) int {
	signal.Ignore(syscall.SIGQUIT) // as inherited from bash
	if err := os.WriteFile(filepath.Join(dir, "loading"), nil, 0o644); err != nil {
		return 90
	}
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	for {
		if _, err := os.Stat(filepath.Join(dir, "loaded")); err == nil {
			break
		}
		select {
		case <-deadline:
			return 91
		case <-tick.C:
		}
	}
	quit := make(chan os.Signal, 1)
	signal.Notify(quit, syscall.SIGQUIT)
	select {
	case <-quit:
		return 0
	case <-deadline:
		return 92
	}
}

// task is a running start.sh.
type task struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  string
	done chan error
}

func bash(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("bash")
	if err != nil {
		leaveOut(t, "no bash is installed")
	}
	return path
}

// environment is what a task definition gives the container.
func (p prefix) environment(init string) map[string]string {
	return map[string]string{
		"PATH":              os.Getenv("PATH"),
		"NGINX_PORT":        fmt.Sprint(p.port),
		"GATE_NGINX_DIR":    p.dir,
		"GATE_INIT":         init,
		"GATE_DEFAULT_CONF": base64.StdEncoding.EncodeToString(p.files.Default),
		"GATE_WALLARM_CONF": base64.StdEncoding.EncodeToString(p.files.Wallarm),
		"GATE_LOG_CONF":     base64.StdEncoding.EncodeToString(p.files.Log),
	}
}

// run starts a script the way a container's command does.
func run(t testing.TB, dir, script string, env map[string]string) *task {
	t.Helper()
	k := &task{t: t, cmd: exec.Command(bash(t), "-c", script), log: filepath.Join(dir, "start.log"), done: make(chan error, 1)}
	for name, value := range env {
		k.cmd.Env = append(k.cmd.Env, name+"="+value)
	}
	// A file, not a pipe: what init leaves behind must not keep Wait waiting.
	log, err := os.Create(k.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	k.cmd.Stdout, k.cmd.Stderr = log, log
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { k.done <- k.cmd.Wait() }()
	t.Cleanup(func() {
		// A container's processes end with its first one; here they are a group.
		syscall.Kill(-k.cmd.Process.Pid, syscall.SIGKILL)
		if t.Failed() {
			t.Logf("start.sh:\n%s", k.output())
		}
	})
	return k
}

func (k *task) output() string {
	b, _ := os.ReadFile(k.log)
	return string(b)
}

// exit waits for the end and returns the exit code, as a container's.
func (k *task) exit() int {
	k.t.Helper()
	select {
	case err := <-k.done:
		k.done <- err
		if ee, ok := errors.AsType[*exec.ExitError](err); ok {
			if ws := ee.Sys().(syscall.WaitStatus); ws.Signaled() {
				return 128 + int(ws.Signal())
			}
			return ee.ExitCode()
		}
		if err != nil {
			k.t.Fatal(err)
		}
		return 0
	case <-time.After(patience):
		k.t.Fatalf("not over within %v", patience)
		return -1
	}
}

func (k *task) ended() bool {
	select {
	case err := <-k.done:
		k.done <- err
		return true
	default:
		return false
	}
}

func (p prefix) script(t testing.TB, name, text string) string {
	t.Helper()
	p.write(t, name, []byte("#!"+bash(t)+"\n"+text))
	path := filepath.Join(p.dir, name)
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// A download that runs when the task is stopped is not cut. The control shows
// that the image's own command cuts it, so that this test can fail.
func TestStopDoesNotCutADownload(t *testing.T) {
	t.Parallel()
	binary := nginxBinary(t)
	for _, c := range []struct {
		name   string
		script string
		signal syscall.Signal
		whole  bool
	}{
		{"SIGTERM", StartScript, syscall.SIGTERM, true},
		{"SIGINT", StartScript, syscall.SIGINT, true},
		{"control: the image's own command", `exec "$GATE_INIT"`, syscall.SIGTERM, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{})
			const part = 100_000
			back := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(2*part))
				io.WriteString(w, strings.Repeat("a", part))
				w.(http.Flusher).Flush()
				select {
				case <-release:
				case <-r.Context().Done():
				}
				io.WriteString(w, strings.Repeat("b", part))
			})
			p := newPrefix(t, back, false, nil)
			if c.script != StartScript {
				p.install(t)
			}
			init := p.script(t, "init", fmt.Sprintf("exec %s -c %s/nginx.conf\n", binary, p.dir))
			k := run(t, p.dir, c.script, p.environment(init))
			n := &nginx{prefix: p}
			listening := func() bool {
				conn, err := net.Dial("tcp", n.addr())
				if err == nil {
					conn.Close()
				}
				return err == nil
			}
			eventually(t, "nginx listens", func() bool { return listening() || k.ended() })
			resp, err := n.client().Get("http://" + nodeName + "/download")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if _, err := io.ReadFull(resp.Body, make([]byte, part)); err != nil {
				t.Fatal(err)
			}
			k.cmd.Process.Signal(c.signal)
			eventually(t, "nginx takes no new connections", func() bool { return !listening() })
			if c.whole && k.ended() {
				t.Fatal("ended with a download running")
			}
			close(release)
			rest, err := io.ReadAll(resp.Body)
			if whole := err == nil && len(rest) == part; whole != c.whole {
				t.Fatalf("the rest of the download: %d of %d bytes, %v", len(rest), part, err)
			}
			if code := k.exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// Init can wait for minutes; a stop then is at once, and nginx never starts.
func TestStopWhileInitWaits(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			p := newPrefix(t, "127.0.0.1:1", false, nil)
			init := p.script(t, "init", fmt.Sprintf(": >%[1]s/waiting\nsleep 300\n: >%[1]s/nginx-started\n", p.dir))
			k := run(t, p.dir, StartScript, p.environment(init))
			eventually(t, "init waits", func() bool { return exists(p.dir+"/waiting") || k.ended() })
			k.cmd.Process.Signal(s)
			if code := k.exit(); code != 143 {
				t.Errorf("exit code %d, want 143", code)
			}
			if exists(p.dir + "/nginx-started") {
				t.Error("nginx was started after the stop")
			}
		})
	}
}

// nginx ignores SIGQUIT until it has loaded its configuration and the ruleset.
func TestStopWhileNginxLoads(t *testing.T) {
	t.Parallel()
	p := newPrefix(t, "127.0.0.1:1", false, nil)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(p.dir, "nginx")); err != nil {
		t.Fatal(err)
	}
	init := p.script(t, "init", fmt.Sprintf("FAKE_NGINX=%[1]s exec %[1]s/nginx\n", p.dir))
	k := run(t, p.dir, StartScript, p.environment(init))
	eventually(t, "nginx loads", func() bool { return exists(p.dir+"/loading") || k.ended() })
	k.cmd.Process.Signal(syscall.SIGTERM)
	eventually(t, "the stop is under way", func() bool { return strings.Contains(k.output(), "stopping") })
	p.write(t, "loaded", nil)
	if code := k.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestStartWritesTheFiles(t *testing.T) {
	t.Parallel()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, connections := range []uint64{4096, 999_999} { // the second is above most hard limits
		t.Run(fmt.Sprint(connections), func(t *testing.T) {
			t.Parallel()
			p := newPrefix(t, "127.0.0.1:1", false, nil)
			stock, err := os.ReadFile(p.dir + "/nginx.conf")
			if err != nil {
				t.Fatal(err)
			}
			if first, _, _ := strings.Cut(string(stock), "\n"); first != "### Wallarm default ###" {
				t.Fatalf("the test's nginx.conf begins with %q", first)
			}
			env := p.environment(p.script(t, "init", "exit 0\n"))
			env["GATE_WORKER_CONNECTIONS"] = fmt.Sprint(connections)
			env["GATE_WORKER_SHUTDOWN_TIMEOUT"] = "90s"
			k := run(t, p.dir, StartScript, env)
			if code := k.exit(); code != 0 {
				t.Fatalf("exit code %d: %s", code, k.output())
			}
			for name, want := range map[string]string{
				"http.d/default.conf":  string(p.files.Default),
				"gate/wallarm.conf":    string(p.files.Wallarm),
				"gate/log.conf":        string(p.files.Log),
				"modules/99-gate.conf": fmt.Sprintf("worker_rlimit_nofile %d;\nworker_shutdown_timeout 90s;\n", min(limit.Max, 3*connections)),
				"nginx.conf":           strings.Replace(string(stock), "worker_connections  768;", fmt.Sprintf("worker_connections %d;", connections), 1),
			} {
				got, err := os.ReadFile(filepath.Join(p.dir, name))
				if err != nil || string(got) != want {
					t.Errorf("%s: %v\n%s", name, err, got)
				}
			}
			// And a real nginx takes them.
			if out, err := exec.Command(nginxBinary(t), "-t", "-c", p.dir+"/nginx.conf").CombinedOutput(); err != nil {
				t.Errorf("nginx -t: %v\n%s", err, out)
			}
		})
	}
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, variable, value string
		code                  int
		says                  string
	}{
		{"another backend", "NGINX_BACKEND", "kong:8000", 2, "NGINX_BACKEND"},
		{"external configuration", "NGINX_EXTERNAL_CONFIG", "1", 2, "NGINX_EXTERNAL_CONFIG"},
		{"another port", "NGINX_PORT", "1", 2, "NGINX_PORT is '1'"},
		{"port unset", "NGINX_PORT", "", 2, "NGINX_PORT is '80'"},
		{"no configuration", "GATE_DEFAULT_CONF", "", 2, "GATE_DEFAULT_CONF is not set"},
		{"no module configuration", "GATE_WALLARM_CONF", "", 2, "GATE_WALLARM_CONF is not set"},
		{"no log configuration", "GATE_LOG_CONF", "", 2, "GATE_LOG_CONF is not set"},
		{"no base64", "GATE_WALLARM_CONF", "%%%", 1, "GATE_WALLARM_CONF is not the base64"},
		{"connections", "GATE_WORKER_CONNECTIONS", "many", 2, "GATE_WORKER_CONNECTIONS is 'many'"},
		{"no connections", "GATE_WORKER_CONNECTIONS", "0", 2, "GATE_WORKER_CONNECTIONS is '0'"},
		{"too many connections", "GATE_WORKER_CONNECTIONS", "1000000", 2, "from 1 to 999999"},
		{"timeout", "GATE_WORKER_SHUTDOWN_TIMEOUT", "2m; load_module x", 2, "GATE_WORKER_SHUTDOWN_TIMEOUT"},
		{"init is missing", "GATE_INIT", "/nowhere/init", 127, "/nowhere/init"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPrefix(t, "127.0.0.1:1", false, nil)
			env := p.environment(p.script(t, "init", ": >"+p.dir+"/init-ran\n"))
			env[c.variable] = c.value
			k := run(t, p.dir, StartScript, env)
			if code := k.exit(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if !strings.Contains(k.output(), c.says) {
				t.Errorf("says %q", k.output())
			}
			if exists(p.dir + "/init-ran") {
				t.Error("init ran")
			}
		})
	}
}

// The task ends as init ends, so that an orchestrator sees why.
func TestStartPassesTheExitCode(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -KILL $$": 137} {
		p := newPrefix(t, "127.0.0.1:1", false, nil)
		k := run(t, p.dir, StartScript, p.environment(p.script(t, "init", text+"\n")))
		if code := k.exit(); code != want {
			t.Errorf("init: %s: exit code %d, want %d", text, code, want)
		}
	}
}

// A stock nginx.conf without the line that is to be raised is left alone, and
// that is said.
func TestStartSaysWhatItLeavesAlone(t *testing.T) {
	t.Parallel()
	p := newPrefix(t, "127.0.0.1:1", false, nil)
	p.write(t, "nginx.conf", []byte("### Wallarm default ###\nevents {}\n"))
	k := run(t, p.dir, StartScript, p.environment(p.script(t, "init", "exit 0\n")))
	if code := k.exit(); code != 0 || !strings.Contains(k.output(), "no worker_connections") {
		t.Errorf("exit code %d, says %q", code, k.output())
	}
}
