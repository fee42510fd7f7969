// Where Terraform finds the schema stand-in: a file-system mirror in the place of the registry.
package awsschema

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// Install puts the stand-in executable exe into a mirror below dir and writes a Terraform CLI
// configuration there that installs providers from that mirror only. It returns the path of
// the configuration, for TF_CLI_CONFIG_FILE.
func Install(dir, exe string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	at := filepath.Join(dir, "registry.terraform.io", "hashicorp", "aws", Version, runtime.GOOS+"_"+runtime.GOARCH)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return "", fmt.Errorf("install the schema stand-in: %w", err)
	}
	if err := copyFile(filepath.Join(at, "terraform-provider-aws_v"+Version+"_x5"), exe); err != nil {
		return "", fmt.Errorf("install the schema stand-in: %w", err)
	}
	cli := filepath.Join(dir, "terraform.rc")
	text := fmt.Sprintf("provider_installation {\n  filesystem_mirror {\n    path    = %q\n    include = [\"registry.terraform.io/*/*\"]\n  }\n}\n", filepath.ToSlash(dir))
	if err := os.WriteFile(cli, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("install the schema stand-in: %w", err)
	}
	return cli, nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
