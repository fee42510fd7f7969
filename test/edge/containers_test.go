package edge

// The container definitions, in the ECS API's own types, and what runs from them.

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/wallarm-gate/wallarm-gate/edge/node"
	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/test/edge/plan"
)

// maxTaskDefinition is the limit of a task definition, in bytes.
const maxTaskDefinition = 64 << 10

func definitions(t *testing.T, all []resource) map[string]types.ContainerDefinition {
	t.Helper()
	task := only(t, all, "aws_ecs_task_definition")
	text, _ := task.Values["container_definitions"].(string)
	if len(text) == 0 || len(text) > maxTaskDefinition*3/4 {
		t.Errorf("the container definitions take %d bytes; want at most three quarters of the %d that a task definition may have", len(text), maxTaskDefinition)
	}
	out, err := plan.Containers(all)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func checkContainers(t *testing.T, all []resource) {
	t.Helper()
	def := definitions(t, all)
	n, a := def["node"], def["attester"]
	if len(n.DependsOn) != 1 || *n.DependsOn[0].ContainerName != "attester" || n.DependsOn[0].Condition != types.ContainerConditionHealthy || len(a.DependsOn) != 0 {
		t.Errorf("dependencies: node %v, attester %v; want the node after a healthy attester and nothing else", n.DependsOn, a.DependsOn)
	}
	if a.ReadonlyRootFilesystem == nil || !*a.ReadonlyRootFilesystem {
		t.Error("the attester's file system can be written")
	}
	for name, c := range def {
		if len(c.Secrets) != 1 || !strings.HasPrefix(*c.Secrets[0].ValueFrom, "arn:aws:secretsmanager:") {
			t.Errorf("%s: secrets %v, want one from Secrets Manager", name, c.Secrets)
		}
		if c.StopTimeout == nil || *c.StopTimeout > 120 || c.HealthCheck == nil || *c.HealthCheck.StartPeriod > 300 || *c.HealthCheck.Timeout > 60 || *c.HealthCheck.Interval < 5 {
			t.Errorf("%s: stop timeout or health check beyond the limits of ECS", name)
		}
		if c.LogConfiguration == nil || c.LogConfiguration.LogDriver != types.LogDriverAwslogs {
			t.Errorf("%s: no log", name)
		}
		if !slices.Contains(types.LogDriverAwslogs.Values(), c.LogConfiguration.LogDriver) {
			t.Errorf("%s: log driver %q is unknown to ECS", name, c.LogConfiguration.LogDriver)
		}
	}
}

// checkNginx runs the node's own start script with the environment of the task definition, the
// OWASP CRS stand-in in the place of the Wallarm module and nginx -t in the place of init.
func checkNginx(t *testing.T, all []resource, want node.Settings) {
	t.Helper()
	def := definitions(t, all)["node"]
	env := plan.Environment(def)
	decode := func(name string) string {
		b, err := base64.StdEncoding.DecodeString(env[name])
		if err != nil || len(b) == 0 {
			t.Fatalf("%s: %v", name, err)
		}
		return string(b)
	}
	checkSameTemplate(t, want, decode("GATE_DEFAULT_CONF"), decode("GATE_WALLARM_CONF"), decode("GATE_LOG_CONF"))
	if !slices.Equal(def.Command, []string{"bash", "-c", node.StartScript}) {
		t.Error("the node's command is not edge/node/start.sh")
	}

	nginx := lookNginx(t)
	if nginx == "" {
		return
	}
	dir := t.TempDir()
	standIn, standInLog, err := plan.StandIn(root, dir, "block", "7")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("nginx.conf", "### Wallarm default ###\nload_module "+plan.ModSecurity+";\ninclude modules/*.conf;\npid nginx.pid;\nerror_log stderr;\nevents {\n    worker_connections 768;\n}\nhttp { include http.d/*.conf; }\n")
	init := write("init", "#!/bin/sh\nexec "+nginx+" -t -q -p "+dir+" -c "+dir+"/nginx.conf\n")

	cmd := exec.CommandContext(t.Context(), def.Command[0], def.Command[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GATE_NGINX_DIR=" + dir, "GATE_INIT=" + init}
	encode := base64.StdEncoding.EncodeToString
	for name, value := range env {
		switch name {
		case "GATE_WALLARM_CONF":
			value = encode(standIn)
		case "GATE_LOG_CONF":
			value = encode(standInLog)
		}
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("nginx refuses the node's configuration, with the OWASP CRS stand-in: %v\n%s", err, out)
	}
	if conf := string(readFile(t, filepath.Join(dir, "nginx.conf"))); !strings.Contains(conf, "worker_connections "+env["GATE_WORKER_CONNECTIONS"]+";") {
		t.Error("the start script did not raise worker_connections")
	}
}

// lookNginx is the path of nginx, or "" after a loud word; NGINX_REQUIRED=1 makes that a failure.
func lookNginx(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if _, err := os.Stat(plan.ModSecurity); err == nil {
			return path
		}
	}
	const left = "no nginx with ModSecurity is installed: the rendered configuration was not loaded"
	if os.Getenv("NGINX_REQUIRED") == "1" {
		t.Fatal(left + ", and NGINX_REQUIRED=1")
	}
	t.Log("LEFT OUT: " + left)
	return ""
}

// checkSameTemplate renders the files as the tests of edge/node do and compares: what Terraform
// puts into the task is what they prove.
func checkSameTemplate(t *testing.T, want node.Settings, conf, wallarm, log string) {
	t.Helper()
	files, err := want.Render()
	if err != nil {
		t.Fatalf("edge/node refuses the settings of the example: %v", err)
	}
	for name, pair := range map[string][2]string{"default.conf": {conf, string(files.Default)}, "wallarm.conf": {wallarm, string(files.Wallarm)}, "log.conf": {log, string(files.Log)}} {
		if pair[0] != pair[1] {
			t.Errorf("%s as Terraform renders it is not the file that the tests of edge/node run:\n%s", name, firstDifference(pair[0], pair[1]))
		}
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "got  " + g[i] + "\nwant " + w[i]
		}
	}
	return "one ends before the other"
}

// The real attester takes the environment of the task definition, and the metric filter finds
// the line that it then writes. It writes one a minute, so this test takes that long.
func TestAttesterRunsAndItsLineIsCounted(t *testing.T) {
	t.Parallel()
	needTerraform(t)
	needStandIn(t)
	e := examples(t)[0]
	dir := filepath.Join(copyModule(t), "examples", e.name)
	setVariables(t, dir, e.vars)
	o := options(dir, nil)
	all := applied(t, o)
	filter := only(t, all, "aws_cloudwatch_log_metric_filter")
	pattern, _ := filter.Values["pattern"].(string)
	metric := block(t, filter, "metric_transformation")

	binary := filepath.Join(t.TempDir(), "attester")
	command(t, root, nil, "go", "build", "-o", binary, "./edge/attester")
	status := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"db_id":71,"lom_id":102,"custom_ruleset_id":102,"proton_instances":{"total":2,"success":2,"fallback":0,"failed":0},"stalled_workers":[]}`))
	}))
	t.Cleanup(status.Close)
	key, err := evidence.GenerateKey("test", evidence.AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	// A flag beats its variable: only the addresses of this machine differ from the task.
	cmd := exec.CommandContext(t.Context(), binary, "-listen", "127.0.0.1:0", "-health-listen", "127.0.0.1:0", "-node-status-url", status.URL)
	cmd.Env = []string{"ATTESTER_SIGNING_JWKS=" + jwks(t, key)}
	for name, value := range plan.Environment(definitions(t, all)["attester"]) {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var problems bytes.Buffer
	cmd.Stderr = &problems
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	found := make(chan string, 1)
	go func() {
		defer close(found)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if matches(t, pattern, lines.Bytes()) {
				found <- lines.Text()
				return
			}
		}
	}()
	select {
	case line, ok := <-found:
		if !ok {
			t.Fatalf("the attester ended: %s", problems.String())
		}
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		field := strings.TrimPrefix(metric["value"].(string), "$.")
		if v, ok := fields[field].(float64); !ok || v != 1 {
			t.Errorf("the metric would be %v, want 1 while the node inspects: %s", fields[field], line)
		}
	case <-time.After(90 * time.Second):
		t.Fatal("no line that the metric filter counts within 90 s")
	}
	if matches(t, pattern, []byte(`{"msg":"start","active":1}`)) {
		t.Error("the metric filter counts other lines too")
	}
}

// matches evaluates the part of CloudWatch's filter syntax that the module uses:
// { $.name = "text" }
func matches(t *testing.T, pattern string, line []byte) bool {
	parts := regexp.MustCompile(`^\{ \$\.(\w+) = "(\w+)" \}$`).FindStringSubmatch(pattern)
	if parts == nil {
		t.Errorf("pattern %q is not of the form { $.name = \"text\" }", pattern)
		return false
	}
	var fields map[string]any
	return json.Unmarshal(line, &fields) == nil && fields[parts[1]] == parts[2]
}
