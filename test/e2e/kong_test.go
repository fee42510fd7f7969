package e2e

// A real Kong as the gateway: an installed one, its image, or one that runs
// somewhere already.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// kong is a Kong in a prefix of its own, in the foreground.
type kong struct {
	*process
	command []string // KONG_BIN
	conf    string
	prefix  string
	program string // the plugin that it starts
	probe   string
}

var kongVersion = regexp.MustCompile(`\b(\d+)\.(\d+)\.\d+`)

// checkVersion refuses a Kong that proxies requests when the plugin breaks, and
// one that nobody has looked at.
func checkVersion(output string) error {
	v := kongVersion.FindStringSubmatch(output)
	if v == nil {
		return fmt.Errorf("it prints %q, which is no version of Kong", strings.TrimSpace(output))
	}
	major, _ := strconv.Atoi(v[1])
	minor, _ := strconv.Atoi(v[2])
	if major != 3 || minor < 8 {
		return fmt.Errorf("it is Kong %s, allowed is 3.8 or later and below 4", v[0])
	}
	return nil
}

// confFile is kong.conf with these variables, the names without KONG_ in lower case.
func confFile(env map[string]string, extra string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if key, ok := strings.CutPrefix(name, "KONG_"); ok {
			fmt.Fprintf(&b, "%s = %s\n", strings.ToLower(key), strings.ReplaceAll(env[name], "#", `\#`))
		}
	}
	return b.String() + extra + "\n"
}

func startKong(t testing.TB, p *pod, env map[string]string, plain string) gateway {
	t.Helper()
	command := strings.Fields(os.Getenv("KONG_BIN"))
	if len(command) == 0 {
		t.Fatal("GATEWAY=kong, and KONG_BIN names no Kong: the path of its kong command")
	}
	out, err := exec.Command(command[0], append(slices.Clone(command[1:]), "version")...).CombinedOutput()
	if err == nil {
		err = checkVersion(string(out))
	}
	if err != nil {
		t.Fatalf("KONG_BIN=%s: %v", os.Getenv("KONG_BIN"), err)
	}
	env = maps.Clone(env)
	if plain != "" {
		env["KONG_PROXY_LISTEN"] += ", " + plain
	}
	env["KONG_NGINX_DAEMON"] = "off"
	if os.Geteuid() == 0 {
		env["KONG_NGINX_USER"] = "root root" // its workers must reach the temporary folder
	}
	conf := filepath.Join(p.dir, "kong.conf")
	if err := os.WriteFile(conf, []byte(confFile(env, os.Getenv("KONG_CONF_EXTRA"))), 0o600); err != nil {
		t.Fatal(err)
	}
	for name := range env { // they are in the file
		if strings.HasPrefix(name, "KONG_") {
			delete(env, name)
		}
	}
	k := &kong{command: command, conf: conf, prefix: p.path(&p.kong, containerPath(t, p, "KONG_PREFIX")), probe: p.readiness(t)}
	k.program = p.path(&p.kong, strings.Fields(containerPath(t, p, "KONG_PLUGINSERVER_WALLARM_GATE_START_CMD"))[0])
	k.process = &process{
		name: "kong", grace: startPatience, url: k.probe,
		command: func() *exec.Cmd {
			// The kong command takes no notice of SIGTERM; the chart's pod calls kong quit.
			cmd := exec.Command("sh", append([]string{"-c", `trap 'kill -QUIT "$(cat "$PIDFILE")"' TERM; "$@" & wait; wait`, "sh"}, k.run("start").Args...)...)
			cmd.Env = append(pairs(env), "PIDFILE="+filepath.Join(k.prefix, "pids", "nginx.pid"))
			return cmd
		},
		main: k.master,
	}
	if err := k.process.run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.killPlugins()
		k.end(t)
	})
	return k
}

func (k *kong) run(verb string) *exec.Cmd {
	return exec.Command(k.command[0], append(slices.Clone(k.command[1:]), verb, "--conf", k.conf, "--prefix", k.prefix)...)
}

func (k *kong) master() int {
	text, err := os.ReadFile(filepath.Join(k.prefix, "pids", "nginx.pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// workers are nginx's, without those that are ending.
func (k *kong) workers() (pids []int) {
	master := k.master()
	for pid, p := range processes() {
		if p.parent == master && master != 0 && strings.Contains(p.title, "worker process") && !strings.Contains(p.title, "shutting down") {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

func (k *kong) reload(t testing.TB, _ string) {
	t.Helper()
	before, plugins := k.workers(), k.plugins()
	if out, err := k.run("reload").CombinedOutput(); err != nil {
		t.Fatalf("kong reload: %v: %s", err, out)
	}
	fresh := func(now, old []int, n int) bool {
		return len(now) >= n && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(old, pid) })
	}
	within(t, startPatience, "kong reload: new workers and a new plugin", func() bool {
		return fresh(k.workers(), before, len(before)) && fresh(k.plugins(), plugins, 1)
	})
	waitReady(t, "kong", k)
}

// kill ends the workers and the plugin with Kong, whatever groups they are in.
func (k *kong) kill() error {
	pids := append(k.workers(), k.plugins()...)
	if master := k.master(); master != 0 && k.pid() != 0 {
		pids = append(pids, master)
	}
	err := k.process.kill()
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGKILL)
		waitGone(pid)
	}
	// A container's start does not look at it; kong start does, and takes a
	// process that nobody has reaped for one that runs.
	os.Remove(filepath.Join(k.prefix, "pids", "nginx.pid"))
	return err
}

func (k *kong) signal(s syscall.Signal) error {
	err := k.process.signal(s)
	for _, pid := range append(k.workers(), k.plugins()...) {
		syscall.Kill(pid, s)
	}
	return err
}

func (k *kong) plugin() unit { return spawned{k} }

// plugins are the processes that run the plugin's program: during a reload two.
func (k *kong) plugins() (pids []int) {
	for pid, p := range processes() {
		if p.program == k.program {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

func (k *kong) killPlugins() {
	for _, pid := range k.plugins() {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// spawned is the plugin's process under Kong.
type spawned struct{ k *kong }

func (s spawned) pid() int {
	pids := s.k.plugins()
	if len(pids) == 0 {
		return 0
	}
	return pids[len(pids)-1]
}

func (s spawned) signal(sig syscall.Signal) error {
	pids := s.k.plugins()
	if len(pids) == 0 {
		return errDown
	}
	var errs []error
	for _, pid := range pids {
		errs = append(errs, syscall.Kill(pid, sig))
	}
	return errors.Join(errs...)
}

func (s spawned) kill() error {
	pids := s.k.plugins()
	err := s.signal(syscall.SIGKILL)
	for _, pid := range pids {
		waitGone(pid)
	}
	return err
}

func (s spawned) stop(t testing.TB) {
	t.Helper()
	pid := s.pid()
	if err := s.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the plugin ends after SIGTERM", func() bool { return s.pid() != pid })
}

func (s spawned) start(t testing.TB) {
	t.Helper()
	within(t, startPatience, "Kong has started the plugin", func() bool { return s.pid() != 0 })
	waitReady(t, "plugin", s)
}

func (s spawned) ready(ctx context.Context) error { return answers(ctx, s.k.probe, nil) }
func (s spawned) log() string                     { return s.k.log() }

// proc is a line of the process table.
type proc struct {
	parent         int
	title, program string
}

func processes() map[int]proc {
	all := map[int]proc{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return all
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// PID (COMM) STATE PPID …; the name may hold anything.
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(f) < 2 || f[0] == "Z" {
			continue
		}
		title, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		program, _ := os.Readlink("/proc/" + e.Name() + "/exe")
		p := proc{title: string(title), program: strings.TrimSuffix(program, " (deleted)")}
		p.parent, _ = strconv.Atoi(f[1])
		all[pid] = p
	}
	return all
}

// waitGone waits for the end of a process that has been killed.
func waitGone(pid int) {
	for range 500 {
		if _, ok := processes()[pid]; !ok {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
}

// Docker.

var images once[string]

// dockerImage builds Dockerfile.kong, once.
func dockerImage(t testing.TB) string {
	t.Helper()
	image, err := images.do("", func() (string, error) {
		const name = "wallarm-gate/kong-wallarm-gate"
		cmd := exec.Command("docker", "build", "--file", "Dockerfile.kong", "--tag", name+":e2e", ".")
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("docker build: %w: %s", err, tail(string(out), 2000))
		}
		return name, nil
	})
	if err != nil {
		t.Fatalf("GATEWAY=docker: %v", err)
	}
	return image
}

// container runs Kong's image.
type dockerised struct {
	*process
	name  string
	probe string
}

func startDocker(t testing.TB, p *pod, env map[string]string, plain string) gateway {
	t.Helper()
	env = maps.Clone(env)
	if plain != "" {
		env["KONG_PROXY_LISTEN"] += ", " + plain
	}
	delete(env, "PATH")
	delete(env, "HOME")
	d := &dockerised{name: "wallarm-gate-e2e-" + strings.ReplaceAll(strings.TrimSuffix(string(p.net), "."), ".", "-"), probe: p.readiness(t)}
	args := []string{"run", "--rm", "--name", d.name, "--network", "host", "--user", "1000:1000"}
	for _, m := range p.kong.VolumeMounts {
		at := p.path(&p.kong, m.MountPath)
		if err := os.Chmod(at, 0o777); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--volume", at+":"+m.MountPath)
	}
	if err := os.Chmod(filepath.Dir(p.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	// Names only: the values are in the client's environment, not in its arguments.
	for _, name := range slices.Sorted(maps.Keys(env)) {
		args = append(args, "--env", name)
	}
	args = append(args, p.kong.Image)
	d.process = &process{
		name: "docker", grace: 2 * patience, url: d.probe,
		command: func() *exec.Cmd {
			cmd := exec.Command("docker", args...)
			cmd.Env = append(os.Environ(), pairs(env)...)
			return cmd
		},
	}
	if err := d.process.run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("docker", "rm", "--force", d.name).Run()
		d.end(t)
	})
	return d
}

func (d *dockerised) docker(args ...string) error {
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("docker %s: %w: %s", args[0], err, out)
	}
	return nil
}

func (d *dockerised) signal(s syscall.Signal) error {
	return d.docker("kill", "--signal", strconv.Itoa(int(s)), d.name)
}

func (d *dockerised) kill() error {
	_, gone := d.running()
	if gone == nil {
		return errDown
	}
	err := d.docker("kill", d.name)
	<-gone
	return err
}

func (d *dockerised) reload(t testing.TB, _ string) {
	t.Helper()
	if err := d.docker("exec", d.name, "kong", "reload"); err != nil {
		t.Fatal(err)
	}
	waitReady(t, "kong", d)
}

func (d *dockerised) plugin() unit { return contained{d} }

// contained is the plugin's process in the container.
type contained struct{ *dockerised }

func (c contained) pid() int {
	out, err := exec.Command("docker", "exec", c.name, "pidof", "wallarm-gate").Output()
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(out)))
	return pid
}

func (c contained) signal(s syscall.Signal) error {
	pid := c.pid()
	if pid == 0 {
		return errDown
	}
	return c.docker("exec", c.name, "kill", "-"+strconv.Itoa(int(s)), strconv.Itoa(pid))
}

func (c contained) kill() error { return c.signal(syscall.SIGKILL) }

func (c contained) stop(t testing.TB) {
	t.Helper()
	pid := c.pid()
	if err := c.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the plugin ends after SIGTERM", func() bool { return c.pid() != pid })
}

func (c contained) start(t testing.TB) {
	t.Helper()
	eventually(t, "Kong has started the plugin", func() bool { return c.pid() != 0 })
	waitReady(t, "plugin", c)
}

// A running gateway.

// startURL puts the edge before a gateway that runs already.
func (s *system) startURL(t testing.TB, o options) *system {
	t.Helper()
	if o.own() {
		leaveToOperator(t, "GATEWAY=url: this case needs a gateway with a configuration of its own")
	}
	need := func(name string) string {
		v := os.Getenv(name)
		if v == "" {
			t.Fatalf("GATEWAY=url needs %s; test/e2e/README.md says what it is", name)
		}
		return v
	}
	u, err := url.Parse(need("GATEWAY_URL"))
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" {
		t.Fatalf("GATEWAY_URL=%q is not https://host[:port]", os.Getenv("GATEWAY_URL"))
	}
	keys, err := os.ReadFile(need("GATEWAY_SIGNING_JWKS"))
	if err != nil {
		t.Fatal(err)
	}
	if s.keys, err = evidence.ParseKeySet(keys); err != nil {
		t.Fatalf("GATEWAY_SIGNING_JWKS: %v", err)
	}
	s.host = need("GATEWAY_HOST")
	vars := terraformVars(t, suiteKeys())
	vars["server_names"], vars["gateway_url"] = []string{s.host}, u.String()
	delete(vars, "gateway_ca_pem")
	s.trust = &tls.Config{ServerName: u.Hostname()}
	if file := os.Getenv("GATEWAY_CA"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		vars["gateway_ca_pem"], s.trust.RootCAs = string(pem), x509.NewCertPool()
		if !s.trust.RootCAs.AppendCertsFromPEM(pem) {
			t.Fatalf("GATEWAY_CA: no certificate in %s", file)
		}
	}
	if name := os.Getenv("GATEWAY_SERVER_NAME"); name != "" {
		vars["gateway_server_name"], s.trust.ServerName = name, name
	}
	maps.Copy(vars, o.terraform)
	if s.originTLS = u.Host; u.Port() == "" {
		s.originTLS += ":443"
	}
	s.origin, s.metricsURL = os.Getenv("GATEWAY_PLAIN"), os.Getenv("GATEWAY_METRICS_URL")
	s.upstream = newRecorder(t, need("GATEWAY_UPSTREAM_LISTEN"), o.lean, s.inspected)
	const none = "GATEWAY=url: this process is not the suite's"
	s.node, s.attester, s.gateway, s.plugin = absent{"this system has no edge"}, absent{"this system has no edge"}, absent{none}, absent{none}
	s.plans = planned(t, vars)
	s.startTask(t, o, s.plans, "")
	return s
}
