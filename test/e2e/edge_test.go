package e2e

// The task: the node's start script and the attester, with the environment of
// the planned container definitions.

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/wallarm-gate/wallarm-gate/test/edge/plan"
)

// The documents that the node's status listener serves.
const (
	statusActive   = `{"requests":1,"db_id":71,"lom_id":102,"custom_ruleset_id":102,"proton_instances":{"total":2,"success":2,"fallback":0,"failed":0},"stalled_workers_count":0,"stalled_workers":[]}`
	statusDegraded = `{"requests":1,"db_id":71,"lom_id":102,"custom_ruleset_id":102,"proton_instances":{"total":2,"success":1,"fallback":1,"failed":0},"stalled_workers_count":0,"stalled_workers":[]}`
)

// setStatus replaces the node's status; an empty one is a 404.
func (s *system) setStatus(t testing.TB, document string) {
	t.Helper()
	path := filepath.Join(s.dir, "node", "status.json")
	if document == "" {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	atomicWrite(t, path, []byte(document))
}

func nginxBinary(t testing.TB) string {
	t.Helper()
	const missing = "no nginx with ModSecurity and the OWASP CRS is installed: apt-get install nginx libnginx-mod-http-modsecurity modsecurity-crs"
	for _, path := range []string{plan.ModSecurity, "/usr/share/modsecurity-crs/rules", "/etc/modsecurity/crs/crs-setup.conf"} {
		if _, err := os.Stat(path); err != nil {
			leaveOut(t, "NGINX_REQUIRED", missing)
		}
	}
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	leaveOut(t, "NGINX_REQUIRED", missing)
	return ""
}

var modeLines = regexp.MustCompile(`(?m)^wallarm_mode (\w+); set \$gate_mode (\w+);$[^$]*set \$gate_application (-?\d+);$`)

// newNode runs the node's container: its command with its environment, nginx with
// the OWASP CRS stand-in in the place of the image's init.
func (s *system) newNode(t testing.TB, plans task) *process {
	t.Helper()
	nginx := nginxBinary(t)
	dir := filepath.Join(s.dir, "node")
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := plan.Environment(plans.node)
	wallarm, err := base64.StdEncoding.DecodeString(env["GATE_WALLARM_CONF"])
	if err != nil {
		t.Fatalf("GATE_WALLARM_CONF: %v", err)
	}
	words := modeLines.FindStringSubmatch(string(wallarm))
	if words == nil || words[1] != words[2] {
		t.Fatalf("the planned wallarm.conf states no mode and application, or another mode than it sets:\n%s", wallarm)
	}
	s.mode, s.application = words[2], words[3]
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	standIn, standInLog, err := plan.StandIn(root, dir, s.mode, s.application)
	if err != nil {
		t.Fatal(err)
	}

	// What the image has. The first line is the one that its init looks for.
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;\n" // the workers must reach the temporary folder
	}
	write("nginx.conf", fmt.Sprintf(`### Wallarm default ###
%[1]sload_module %[2]s;
daemon off;
worker_processes 2;
pid %[3]s/nginx.pid;
error_log stderr;
include %[3]s/modules/*.conf;
events {
    worker_connections 768;
}
http {
    client_body_temp_path %[3]s/body;
    proxy_temp_path       %[3]s/proxy;
    fastcgi_temp_path     %[3]s/fastcgi;
    uwsgi_temp_path       %[3]s/uwsgi;
    scgi_temp_path        %[3]s/scgi;
    access_log off;
    server {
        listen %[4]s:%[5]s;
        default_type application/json;
        location = /wallarm-status { alias %[3]s/status.json; }
    }
    include %[3]s/http.d/*.conf;
}
`, user, plan.ModSecurity, dir, s.net.status(), env["NGINX_PORT"]))
	s.setStatus(t, statusActive)
	// Led to this system after the start script has checked the file.
	var here strings.Builder
	for _, pair := range [][2]string{
		{"listen " + env["NGINX_PORT"] + " ", "listen " + s.net.task() + ":" + env["NGINX_PORT"] + " "},
		{"127.0.0.1:", s.net.task() + ":"}, {albSubnet, s.net.alb() + "/32"}, {otherALBSubnet, string(s.net) + "11/32"},
	} {
		fmt.Fprintf(&here, "s|%s|%s|g\n", regexp.QuoteMeta(pair[0]), pair[1])
	}
	write("here.sed", here.String())
	write("init", "#!/bin/sh\nset -e\nsed -i -f "+dir+"/here.sed "+dir+"/http.d/default.conf\nexec "+nginx+" -p "+dir+" -c "+dir+"/nginx.conf\n")

	env["GATE_WALLARM_CONF"] = base64.StdEncoding.EncodeToString(standIn)
	env["GATE_LOG_CONF"] = base64.StdEncoding.EncodeToString(standInLog)
	env["GATE_NGINX_DIR"], env["GATE_INIT"], env["PATH"] = dir, filepath.Join(dir, "init"), os.Getenv("PATH")
	secrets(t, plans.node, env, map[string]string{"WALLARM_API_TOKEN": "unused"})
	return &process{
		name: "node", grace: patience, url: "http://" + s.net.status() + ":" + env["NGINX_PORT"] + "/wallarm-status",
		command: func() *exec.Cmd {
			cmd := exec.Command(plans.node.Command[0], plans.node.Command[1:]...)
			cmd.Env = pairs(env)
			return cmd
		},
		main: func() int {
			text, err := os.ReadFile(filepath.Join(dir, "nginx.pid"))
			if err != nil {
				return 0
			}
			pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
			return pid
		},
	}
}

// newAttester runs the attester's container before the gateway at backend, an
// address that plays DNS and the load balancer of gateway_url.
func (s *system) newAttester(t testing.TB, plans task, o options, backend string) *process {
	t.Helper()
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"TaskARN":"arn:aws:ecs:eu-central-1:123456789012:task/edge/%s"}`, s.taskID)
	}))
	t.Cleanup(metadata.Close)
	env := plan.Environment(plans.attester)
	here := s.net.inTask()
	for name, value := range env {
		env[name] = here.Replace(value)
	}
	port, path := cutPort(plans.health)
	if listen := env["ATTESTER_HEALTH_LISTEN"]; listen != ":"+port {
		t.Fatalf("the load balancer asks port %s, the attester's health listener is %s", port, listen)
	}
	env["ATTESTER_HEALTH_LISTEN"] = s.net.task() + ":" + port
	env["ECS_CONTAINER_METADATA_URI_V4"] = metadata.URL
	u, err := url.Parse(env["ATTESTER_BACKEND_URL"])
	if err != nil {
		t.Fatal(err)
	}
	if backend != "" {
		if u.Scheme == "https" && env["ATTESTER_BACKEND_SERVER_NAME"] == "" {
			env["ATTESTER_BACKEND_SERVER_NAME"] = u.Hostname()
		}
		env["ATTESTER_BACKEND_URL"] = u.Scheme + "://" + backend
	}
	secrets(t, plans.attester, env, map[string]string{"ATTESTER_SIGNING_JWKS": keySetJSON(t, s.keys)})
	if o.keyFile {
		delete(env, "ATTESTER_SIGNING_JWKS")
		env["ATTESTER_SIGNING_JWKS_FILE"] = s.signingFile
	}
	for name, value := range o.attesterEnv {
		env[name] = value
	}
	program := binary(t, "./edge/attester", "attester", o.attesterTags)
	return &process{
		name: "attester", grace: patience, url: "http://" + s.net.task() + ":" + port + path,
		command: func() *exec.Cmd {
			if !o.keyFile { // the Secret's value at this start
				env["ATTESTER_SIGNING_JWKS"] = keySetJSON(t, s.keys)
			}
			cmd := exec.Command(program)
			cmd.Env = pairs(env)
			return cmd
		},
	}
}

// secrets plays Secrets Manager: it holds two secrets, under the ARNs that
// Terraform was given.
func secrets(t testing.TB, c types.ContainerDefinition, env, values map[string]string) {
	t.Helper()
	arns := map[string]string{"WALLARM_API_TOKEN": tokenARN, "ATTESTER_SIGNING_JWKS": keysARN}
	for _, secret := range c.Secrets {
		value, ok := values[*secret.Name]
		if !ok || *secret.ValueFrom != arns[*secret.Name] {
			t.Fatalf("the container %s takes %s from %s, want one of %v", *c.Name, *secret.Name, *secret.ValueFrom, arns)
		}
		env[*secret.Name] = value
	}
}

func pairs(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	return list
}

// cutPort splits ":8082/readyz".
func cutPort(s string) (port, path string) {
	port, path, _ = strings.Cut(strings.TrimPrefix(s, ":"), "/")
	return port, "/" + path
}
