// Package edge tests the Terraform module of the edge: its examples from init to destroy on the
// schema stand-in, what the plan and the state hold, and how the module fits the attester, the
// node's nginx and the gateway's plugin.
package edge

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gruntwork-io/terratest/modules/terraform"

	"github.com/wallarm-gate/wallarm-gate/edge/node"
	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/test/edge/plan"
)

// cliConfig is the Terraform CLI configuration that installs the stand-in; empty: the registry.
var cliConfig string

// needStandIn ends a test that plans or applies: with the real provider that would call AWS.
func needStandIn(t *testing.T) {
	t.Helper()
	if cliConfig == "" {
		t.Skip("LEFT OUT: TF_PROVIDER=registry: nothing is planned or applied, it would call AWS")
	}
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("TF_PROVIDER") == "registry" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "awsschema")
	if err != nil {
		fmt.Fprintln(os.Stderr, "edge:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if cliConfig, err = plan.InstallStandIn(dir); err != nil {
		fmt.Fprintln(os.Stderr, "edge:", err)
		return 1
	}
	return m.Run()
}

// needTerraform ends a test without Terraform; TERRAFORM_REQUIRED=1 makes that a failure.
func needTerraform(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("terraform"); err == nil {
		return
	}
	const left = "no terraform is installed: the module's examples and rules were not tested"
	if os.Getenv("TERRAFORM_REQUIRED") == "1" {
		t.Fatal(left + ", and TERRAFORM_REQUIRED=1")
	}
	t.Skip("LEFT OUT: " + left)
}

const root = "../.."

// copyModule copies the module into a folder of the test and returns its own.
func copyModule(t *testing.T) string {
	t.Helper()
	dir, err := plan.CopyModule(root, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func options(dir string, secrets map[string]string) *terraform.Options {
	return plan.Options(cliConfig, dir, secrets)
}

func setVariables(t *testing.T, dir string, vars map[string]any) {
	t.Helper()
	if err := plan.SetVariables(dir, vars); err != nil {
		t.Fatal(err)
	}
}

// An example of the module and what its run needs.
type example struct {
	name    string
	vars    map[string]any
	secrets map[string]string
	hidden  []string      // must be in no plan and no state
	nginx   node.Settings // what its node must run with

	change  map[string]any    // variables of the second apply
	changes map[string]string // what it plans: address to actions
}

const (
	certificate = "arn:aws:acm:eu-central-1:123456789012:certificate/12345678-1234-1234-1234-123456789012"
	ecrImage    = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/attester:1.0.0"
)

func examples(t *testing.T) []example {
	t.Helper()
	key, err := evidence.GenerateKey("edge-2026-11", evidence.AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	private, public := jwks(t, key), publicJWKS(t, key)
	var set struct{ Keys []struct{ D string } }
	if err := json.Unmarshal([]byte(private), &set); err != nil || len(set.Keys) != 1 || set.Keys[0].D == "" {
		t.Fatalf("the private key set has no d: %v", err)
	}
	const token = "wallarm-api-token-c0ffee-c0ffee-c0ffee"

	base := func(extra map[string]any) map[string]any {
		vars := map[string]any{
			"region": "eu-central-1", "vpc_id": "vpc-0123456789abcdef0",
			"public_subnet_ids":            []string{"subnet-0000000000000000a", "subnet-0000000000000000b"},
			"private_subnet_ids":           []string{"subnet-0000000000000000d", "subnet-0000000000000000e"},
			"certificate_arn":              certificate,
			"host":                         "api.example.com",
			"attester_image":               ecrImage,
			"gateway_url":                  "https://kong.internal.example.com",
			"gateway_cidrs":                []string{"10.0.21.0/24"},
			"wallarm_api_token_secret_arn": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:wallarm/token-AbCdEf",
			"signing_jwks_secret_arn":      "arn:aws:secretsmanager:eu-central-1:123456789012:secret:wallarm/jwks-GhIjKl",
			"verification_jwks":            public,
			"deletion_protection":          false,
		}
		for k, v := range extra {
			vars[k] = v
		}
		return vars
	}
	// The module's defaults are the node's own.
	nginx := node.Default()
	nginx.ALBCIDRs = []string{"10.0.1.0/24", "10.0.2.0/24"} // as the stand-in answers
	nginx.ServerNames = []string{"api.example.com"}
	blocking := node.Default()
	blocking.ALBCIDRs = []string{"10.20.0.0/24", "10.20.1.0/24"}
	blocking.ServerNames = []string{"api.example.com", "www.example.com"}
	blocking.Mode, blocking.Application, blocking.ClientMaxBodySize = "block", 7, "32m"

	return []example{
		{
			name: "minimal", vars: base(nil), nginx: nginx,
			change: map[string]any{"host": "www.example.com"},
			changes: map[string]string{
				"module.edge.aws_ecs_task_definition.this[0]": "delete create",
				"module.edge.aws_ecs_service.this[0]":         "update",
			},
		},
		{
			name: "existing-cluster", nginx: nginx,
			vars: base(map[string]any{
				"cluster_arn":                "arn:aws:ecs:eu-central-1:123456789012:cluster/shared",
				"gateway_security_group_ids": []string{"sg-0123456789abcdef0"},
			}),
			change: map[string]any{"attester_image": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/attester:1.0.1"},
			changes: map[string]string{ // the service keeps what the other tool deployed
				"module.edge.aws_ecs_task_definition.this[0]": "delete create",
			},
		},
		{
			name: "complete", nginx: blocking,
			vars: map[string]any{
				"region": "eu-central-1", "certificate_arn": certificate,
				"additional_certificate_arns": []string{strings.Replace(certificate, "/1", "/2", 1)},
				"zone_id":                     "Z0123456789ABCDEFGHIJ", "host": "api.example.com", "further_hosts": []string{"www.example.com"},
				"access_logs_bucket": "example-logs", "attester_image": ecrImage, "alarm_email": "oncall@example.com",
				"web_acl_arn":       "arn:aws:wafv2:eu-central-1:123456789012:regional/webacl/edge/12345678-1234-1234-1234-123456789012",
				"gateway_url":       "https://kong.internal.example.com:8443",
				"verification_jwks": public,
			},
			secrets: map[string]string{"wallarm_api_token": token, "signing_jwks": private},
			hidden:  []string{token, set.Keys[0].D},
			change:  map[string]any{"deletion_protection": false, "wallarm_api_token_version": 2},
			changes: map[string]string{
				"module.edge.aws_lb.this[0]":                             "update",
				"module.edge.aws_secretsmanager_secret_version.token[0]": "update",
			},
		},
	}
}

// Every example from init to destroy, with the checks of plan and state in between.
func TestExamples(t *testing.T) {
	t.Parallel()
	needTerraform(t)
	for _, e := range examples(t) {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			dir := filepath.Join(copyModule(t), "examples", e.name)
			setVariables(t, dir, e.vars)
			o := options(dir, e.secrets)
			terraform.InitContext(t, ctx, o)
			terraform.ValidateContext(t, ctx, o)
			needStandIn(t)

			o.PlanFilePath = filepath.Join(t.TempDir(), "plan")
			terraform.PlanContext(t, ctx, o)
			planned := show(t, o)
			noSecret(t, "plan, as JSON", planned.Raw, e.hidden)
			noSecret(t, "plan file", planFile(t, o.PlanFilePath), e.hidden)
			checkWiring(t, planned.Planned)
			if actions := planned.Changes; len(actions) < 20 {
				t.Errorf("the first plan changes only %d resources", len(actions))
			}

			// The plan does not hold the ephemeral values: they are given again.
			terraform.ApplyContext(t, ctx, o)
			o.PlanFilePath = ""
			state := show(t, o)
			noSecret(t, "state, as JSON", state.Raw, e.hidden)
			noSecret(t, "state file", readFile(t, filepath.Join(dir, "terraform.tfstate")), e.hidden)
			checkWiring(t, state.State)
			checkIAM(t, state.State, e.name == "complete")
			checkContainers(t, state.State)
			checkNginx(t, state.State, e.nginx)
			checkGateway(t, output(t, state, "gate_config"), output(t, state, "chart_values"))
			if code := terraform.PlanExitCodeContext(t, ctx, o); code != 0 {
				t.Errorf("a second plan is not empty: exit code %d", code)
			}

			vars := map[string]any{}
			for _, m := range []map[string]any{e.vars, e.change} {
				for k, v := range m {
					vars[k] = v
				}
			}
			setVariables(t, dir, vars)
			o.PlanFilePath = filepath.Join(t.TempDir(), "change")
			terraform.PlanContext(t, ctx, o)
			if got, want := fmt.Sprint(show(t, o).Changes), fmt.Sprint(e.changes); got != want {
				t.Errorf("the change plans\n%s\nwant\n%s", got, want)
			}
			terraform.ApplyContext(t, ctx, o)
			o.PlanFilePath = ""
			if code := terraform.PlanExitCodeContext(t, ctx, o); code != 0 {
				t.Errorf("the plan after the change is not empty: exit code %d", code)
			}
			if e.name == "complete" {
				changeDesiredCount(t, dir)
				if code := terraform.PlanExitCodeContext(t, ctx, o); code != 0 {
					t.Errorf("another desired_count plans a change, against autoscaling: exit code %d", code)
				}
			}
			terraform.DestroyContext(t, ctx, o)
			if left := show(t, o).State; len(left) != 0 {
				t.Errorf("destroy left %d resources", len(left))
			}
		})
	}
}

func changeDesiredCount(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "main.tf")
	text := string(readFile(t, path))
	changed := regexp.MustCompile(`(?m)^(  desired_count +=) 2$`).ReplaceAllString(text, "$1 5")
	if changed == text {
		t.Fatal("the example sets no desired_count = 2")
	}
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The module's own tests, which any user can run, and the format.
func TestNative(t *testing.T) {
	t.Parallel()
	needTerraform(t)
	dir := copyModule(t)
	o := options(dir, nil)
	terraform.InitContext(t, t.Context(), o)
	out := command(t, dir, o.EnvVars, "terraform", "test", "-no-color")
	last := out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]
	var passed, failed int
	if _, err := fmt.Sscanf(last, "Success! %d passed, %d failed.", &passed, &failed); err != nil || passed < 40 || failed != 0 {
		t.Errorf("terraform test ends with %q, want at least 40 runs passed", last)
	}
	t.Logf("terraform test: %d runs passed", passed)
	command(t, dir, o.EnvVars, "terraform", "fmt", "-check", "-recursive", "-diff")
}

// Without its secrets the module must refuse to plan, with the sentence that says which.
func TestMissingSecretIsRefused(t *testing.T) {
	t.Parallel()
	needTerraform(t)
	needStandIn(t)
	e := examples(t)[2]
	dir := filepath.Join(copyModule(t), "examples", e.name)
	setVariables(t, dir, e.vars)
	o := options(dir, map[string]string{"wallarm_api_token": "", "signing_jwks": e.secrets["signing_jwks"]})
	terraform.InitContext(t, t.Context(), o)
	_, err := terraform.PlanContextE(t, t.Context(), o)
	if err == nil || !strings.Contains(strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "│", " ")), " "), "wallarm_api_token must be given") {
		t.Errorf("plan without a token: %v", err)
	}
}

// A secret in the place of what is none is refused, and no message repeats it: Terraform's own about
// a variable would.
func TestSwappedSecretIsNotShown(t *testing.T) {
	t.Parallel()
	needTerraform(t)
	needStandIn(t)
	e := examples(t)[0]
	private := examples(t)[2].secrets["signing_jwks"]
	dir := filepath.Join(copyModule(t), "examples", e.name)
	terraform.InitContext(t, t.Context(), options(dir, nil))
	for variable, want := range map[string]string{
		"verification_jwks":            "verification_jwks must be a JWK Set of public Ed25519 keys",
		"signing_jwks_secret_arn":      "signing_jwks_secret_arn must be the full ARN of a secret",
		"wallarm_api_token_secret_arn": "wallarm_api_token_secret_arn must be the full ARN of a secret",
	} {
		vars := maps.Clone(e.vars)
		vars[variable] = private
		setVariables(t, dir, vars)
		out, err := terraform.PlanContextE(t, t.Context(), options(dir, nil))
		if err == nil {
			t.Errorf("%s: the private keys were taken for it", variable)
			continue
		}
		text := strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "│", " ")), " ")
		if !strings.Contains(text, want) {
			t.Errorf("%s: want %q, got %s", variable, want, text)
		}
		var set struct{ Keys []struct{ D string } }
		if err := json.Unmarshal([]byte(private), &set); err != nil || len(set.Keys) != 1 || set.Keys[0].D == "" {
			t.Fatalf("the private key set has no d: %v", err)
		}
		if strings.Contains(text+out, set.Keys[0].D) {
			t.Errorf("%s: the message shows the private key", variable)
		}
	}
}

// The module takes the attester's settings that it does not set itself, and no others: the attester
// refuses to start with a variable that it does not know.
func TestAttesterEnvironment(t *testing.T) {
	t.Parallel()
	text := string(readFile(t, filepath.Join(root, "edge/terraform/variables.tf")))
	list := regexp.MustCompile(`contains\(\[for name in \[("[^\]]+)\] : "ATTESTER_\$\{name\}"\], k\)`).FindStringSubmatch(text)
	owned := regexp.MustCompile(`that the module does not set itself \(not ([A-Z_, ]+)\)`).FindStringSubmatch(text)
	if list == nil || owned == nil {
		t.Fatal("variables.tf does not name the settings of attester_environment")
	}
	got := strings.Split(strings.ReplaceAll(list[1], `"`, "")+", "+owned[1], ", ")
	slices.Sort(got)
	var want []string
	for _, m := range regexp.MustCompile("(?m)^\\| `ATTESTER_([A-Z_]+)`").FindAllStringSubmatch(string(readFile(t, filepath.Join(root, "edge/attester/README.md"))), -1) {
		want = append(want, m[1])
	}
	slices.Sort(want)
	if len(want) < 30 || !slices.Equal(got, want) {
		t.Errorf("the module knows the settings\n%v\nthe attester\n%v", got, want)
	}
}

// A secret made in the same configuration has no ARN at plan; the README says what to write.
func TestSecretOfTheSameApply(t *testing.T) {
	t.Parallel()
	needTerraform(t)
	needStandIn(t)
	e := examples(t)[0]
	dir := filepath.Join(copyModule(t), "examples", e.name)
	setVariables(t, dir, e.vars)
	path := filepath.Join(dir, "main.tf")
	const given = "= var.signing_jwks_secret_arn"
	text := string(readFile(t, path))
	if strings.Count(text, given) != 1 {
		t.Fatalf("main.tf does not hold %q once", given)
	}
	text = strings.Replace(text, given, `= format("%s", aws_secretsmanager_secret.own.arn)`, 1) +
		"\nresource \"aws_secretsmanager_secret\" \"own\" {\n  name = \"own\"\n}\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	secrets := plan.OfType(applied(t, options(dir, nil)), "aws_secretsmanager_secret")
	if len(secrets) != 1 || secrets[0].Address != "aws_secretsmanager_secret.own" {
		t.Errorf("secrets after apply: %d, want only the caller's", len(secrets))
	}
}

func command(t *testing.T, dir string, env map[string]string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = os.Environ()
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func jwks(t *testing.T, keys ...*evidence.Key) string {
	t.Helper()
	set, err := evidence.NewKeySet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	b, err := set.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func publicJWKS(t *testing.T, key *evidence.Key) string {
	t.Helper()
	public, err := key.Public()
	if err != nil {
		t.Fatal(err)
	}
	return jwks(t, public)
}
