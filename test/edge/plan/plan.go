// Package plan runs Terraform on the edge module with the schema stand-in, and
// reads what a plan or a state holds: for the tests that look at the module, and
// for those that run what it describes.
package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/gruntwork-io/terratest/modules/logger"
	"github.com/gruntwork-io/terratest/modules/terraform"
)

// InstallStandIn builds the schema stand-in of the aws provider into dir and
// returns the Terraform CLI configuration that installs it from there.
func InstallStandIn(dir string) (cliConfig string, err error) {
	var out, problems bytes.Buffer
	cmd := exec.Command("go", "run", "github.com/wallarm-gate/wallarm-gate/test/awsschema/standin", "-install", dir)
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("install the schema stand-in: %w\n%s", err, problems.Bytes())
	}
	return strings.TrimSpace(out.String()), nil
}

// CopyModule copies edge/terraform of the repository at root, and the files of
// edge/node that it reads, into dir, without what an earlier init left there. It
// returns the module's folder.
func CopyModule(root, dir string) (module string, err error) {
	for _, part := range []string{"terraform", "node"} {
		src := filepath.Join(root, "edge", part)
		err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(src, path)
			if err != nil {
				return err
			}
			to := filepath.Join(dir, part, rel)
			switch name := d.Name(); {
			case d.IsDir() && (name == ".terraform" || name == "testdata"):
				return fs.SkipDir
			case d.IsDir():
				return os.MkdirAll(to, 0o755)
			case name == ".terraform.lock.hcl" || strings.Contains(name, ".tfstate") || strings.HasSuffix(name, ".go"):
				return nil
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(to, b, 0o644)
		})
		if err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "terraform"), nil
}

// Options runs Terraform in dir. Without a CLI configuration the providers come
// from the registry. Secrets are ephemeral variables, given by the environment.
func Options(cliConfig, dir string, secrets map[string]string) *terraform.Options {
	env := map[string]string{"TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", "AWS_EC2_METADATA_DISABLED": "true"}
	if cliConfig != "" {
		env["TF_CLI_CONFIG_FILE"] = cliConfig
	}
	for name, value := range secrets {
		env["TF_VAR_"+name] = value
	}
	return &terraform.Options{TerraformBinary: "terraform", TerraformDir: dir, EnvVars: env, NoColor: true, Logger: logger.Discard}
}

// SetVariables writes the variables of the configuration in dir.
func SetVariables(dir string, vars map[string]any) error {
	b, err := json.Marshal(vars)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "terraform.tfvars.json"), b, 0o600)
}
