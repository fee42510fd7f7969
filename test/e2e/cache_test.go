package e2e

// What is slow is done once in a test process: terraform plan, helm template and
// go build.

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/gruntwork-io/terratest/modules/logger"
	"github.com/gruntwork-io/terratest/modules/terraform"

	"github.com/wallarm-gate/wallarm-gate/test/edge/plan"
)

const root = "../.."

// scratch is the folder of the process, removed at its end.
var scratch string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "e2e"); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(scratch)
	defer sayUnobserved()
	logger.Default = logger.Discard // terratest tells every command
	return m.Run()
}

// once remembers the outcome of a slow step for each of its inputs.
type once[T any] struct {
	mu   sync.Mutex
	done map[string]func() (T, error)
}

func (o *once[T]) do(key string, step func() (T, error)) (T, error) {
	o.mu.Lock()
	if o.done == nil {
		o.done = map[string]func() (T, error){}
	}
	f, ok := o.done[key]
	if !ok {
		f = sync.OnceValues(step)
		o.done[key] = f
	}
	o.mu.Unlock()
	return f()
}

// leaveOut ends a test that lacks a program. The variable makes that a failure,
// so that a run which must prove something cannot skip it in silence.
func leaveOut(t testing.TB, variable, what string) {
	t.Helper()
	if os.Getenv(variable) == "1" {
		t.Fatalf("%s, and %s=1", what, variable)
	}
	t.Skip("LEFT OUT: " + what)
}

var binaries once[string]

// binary builds a command of the repository, as its Dockerfile does.
func binary(t testing.TB, pkg, name, tags string) string {
	t.Helper()
	path, err := binaries.do(pkg+" "+tags, func() (string, error) {
		dir, err := os.MkdirTemp(scratch, "bin")
		if err != nil {
			return "", err
		}
		path := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-trimpath", "-tags", tags, "-o", path, pkg)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
		return path, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// task is what Terraform says of the edge.
type task struct {
	node, attester types.ContainerDefinition
	port           string // to which the load balancer sends requests
	health         string // port and path of its health check, ":8082/readyz"
	chartValues    string // the values that fit this edge
	resources      []plan.Resource
}

var (
	module sync.Mutex // one terraform runs in it at a time
	edge   once[string]
	plans  once[task]
)

// planned plans the edge with these variables on the schema stand-in.
func planned(t testing.TB, vars map[string]any) task {
	t.Helper()
	if _, err := exec.LookPath("terraform"); err != nil {
		leaveOut(t, "TERRAFORM_REQUIRED", "no terraform is installed: the edge cannot be planned")
	}
	if os.Getenv("TF_PROVIDER") == "registry" {
		leaveOut(t, "TERRAFORM_REQUIRED", "TF_PROVIDER=registry: a plan would call AWS")
	}
	key, err := json.Marshal(vars)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plans.do(string(key), func() (task, error) { return planNow(t, vars) })
	if err != nil {
		t.Fatalf("the edge's plan: %v", err)
	}
	return p
}

func planNow(t testing.TB, vars map[string]any) (p task, err error) {
	module.Lock()
	defer module.Unlock()
	dir, err := edge.do("", func() (string, error) { return initialised(t) })
	if err != nil {
		return p, err
	}
	if err := plan.SetVariables(dir, vars); err != nil {
		return p, err
	}
	o := plan.Options(filepath.Join(scratch, "provider", "terraform.rc"), dir, nil)
	o.PlanFilePath = filepath.Join(dir, "plan")
	if _, err := terraform.PlanContextE(t, t.Context(), o); err != nil {
		return p, err
	}
	raw, err := terraform.ShowContextE(t, t.Context(), o)
	if err != nil {
		return p, err
	}
	shown, err := plan.Parse([]byte(raw))
	if err != nil {
		return p, err
	}
	containers, err := plan.Containers(shown.Planned)
	if err != nil {
		return p, err
	}
	target, err := plan.Only(shown.Planned, "aws_lb_target_group")
	if err != nil {
		return p, err
	}
	health, err := target.Block("health_check")
	if err != nil {
		return p, err
	}
	p = task{
		node: containers["node"], attester: containers["attester"],
		port: fmt.Sprint(target.Values["port"]), health: fmt.Sprintf(":%v%v", health["port"], health["path"]),
		resources: shown.Planned,
	}
	var ok bool
	if p.chartValues, ok = shown.Outputs["chart_values"].(string); !ok {
		return p, errors.New("the output chart_values is not known")
	}
	return p, nil
}

// initialised is the module, as a root of its own, after terraform init.
func initialised(t testing.TB) (dir string, err error) {
	rc, err := plan.InstallStandIn(filepath.Join(scratch, "provider"))
	if err != nil {
		return "", err
	}
	if dir, err = plan.CopyModule(root, filepath.Join(scratch, "module")); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "provider.tf"), []byte("provider \"aws\" {\n  region = \"eu-central-1\"\n}\n"), 0o644); err != nil {
		return "", err
	}
	_, err = terraform.InitContextE(t, t.Context(), plan.Options(rc, dir, nil))
	return dir, err
}

var charts once[string]

// rendered renders the chart with these texts of values, the last one winning.
func rendered(t testing.TB, values ...string) string {
	t.Helper()
	helm := helmBinary()
	if helm == "" {
		leaveOut(t, "HELM_REQUIRED", "no helm: build it (see tools/helm/README.md), or name one in HELM")
	}
	text, err := charts.do(strings.Join(values, "\n---\n"), func() (string, error) {
		home, err := os.MkdirTemp(scratch, "helm")
		if err != nil {
			return "", err
		}
		args := []string{"template", "gate", filepath.Join(root, "charts/wallarm-gate"), "--namespace", "gateway", "--kube-version", "1.28.0"}
		for i, v := range values {
			file := filepath.Join(home, fmt.Sprintf("%d.yaml", i))
			if err := os.WriteFile(file, []byte(v), 0o600); err != nil {
				return "", err
			}
			args = append(args, "--values", file)
		}
		cmd := exec.Command(helm, args...)
		cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+filepath.Join(home, "none"))
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("helm template: %w: %s", err, stderr.String())
		}
		return string(out), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// helmBinary is $HELM, what the tools' module built, or that of the PATH.
func helmBinary() string {
	if h := os.Getenv("HELM"); h != "" {
		return h
	}
	for _, p := range []string{root + "/bin/helm", root + "/tools/helm/bin/helm"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	path, err := exec.LookPath("helm")
	if err != nil {
		return ""
	}
	return path
}

// eventually polls until ok or until patience runs out.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	within(t, patience, what, ok)
}

func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s", limit, what)
		case <-tick.C:
		}
	}
}

const patience = 20 * time.Second
