// Package image holds the Dockerfiles to what the rest of the product relies on,
// with BuildKit's own parser. Nothing is built: that needs a Docker engine.
package image

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher/ignorefile"
)

const root = "../.."

func parse(t *testing.T, name string) []instructions.Stage {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	result, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, w := range result.Warnings {
		t.Errorf("%s: %s", name, w.Short)
	}
	stages, _, err := instructions.Parse(result.AST, nil)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return stages
}

func commands[T any](s instructions.Stage) (found []T) {
	for _, c := range s.Commands {
		if c, ok := c.(T); ok {
			found = append(found, c)
		}
	}
	return found
}

// Every COPY source exists: in the build context, or in the stage it is taken
// from as the output of a RUN there.
func TestCopySources(t *testing.T) {
	t.Parallel()
	allowed := allowedByIgnoreFile(t)
	for _, name := range []string{"Dockerfile.kong", "Dockerfile.attester"} {
		stages := parse(t, name)
		copies := 0
		for i, stage := range stages {
			for _, c := range commands[*instructions.CopyCommand](stage) {
				for _, source := range c.SourcePaths {
					copies++
					switch {
					case c.From == "":
						if _, err := os.Stat(filepath.Join(root, source)); err != nil {
							t.Errorf("%s: COPY %s: %v", name, source, err)
						}
						if !allowed(source) {
							t.Errorf("%s: COPY %s: .dockerignore leaves it out", name, source)
						}
					case strings.HasPrefix(source, "/out/"):
						from := slices.IndexFunc(stages[:i], func(s instructions.Stage) bool { return s.Name == c.From })
						if from < 0 {
							t.Errorf("%s: COPY --from=%s: no such stage before it", name, c.From)
						} else if !runsMention(stages[from], source) {
							t.Errorf("%s: COPY --from=%s %s: no RUN there makes it", name, c.From, source)
						}
					case source != "/etc/ssl/certs/ca-certificates.crt": // of the base image
						t.Errorf("%s: COPY --from=%s %s: where does it come from?", name, c.From, source)
					}
				}
			}
		}
		if copies == 0 {
			t.Errorf("%s has no COPY", name)
		}
	}
}

func runsMention(s instructions.Stage, path string) bool {
	for _, r := range commands[*instructions.RunCommand](s) {
		if slices.Contains(strings.Fields(strings.Join(r.CmdLine, " ")), path) {
			return true
		}
	}
	return false
}

// allowedByIgnoreFile knows the one form that our .dockerignore has: everything
// is left out but what a line with '!' names.
func allowedByIgnoreFile(t *testing.T) func(string) bool {
	t.Helper()
	f, err := os.Open(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(patterns) == 0 || patterns[0] != "*" {
		t.Fatal(".dockerignore does not begin by leaving everything out: a secret beside the sources would enter the context")
	}
	return func(path string) bool {
		for _, p := range patterns {
			if name, ok := strings.CutPrefix(p, "!"); ok && (path == name || strings.HasPrefix(path, name+"/")) {
				return true
			}
		}
		return false
	}
}

// The stages that ship do not run as root, hold no shell of ours and no secret.
func TestFinalStages(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ file, stage, user, base string }{
		{"Dockerfile.kong", "kong", "kong", "kong:3.9"},
		{"Dockerfile.kong", "plugin", "1000:1000", "scratch"},
		{"Dockerfile.attester", "", "65532:65532", "scratch"},
	} {
		stages := parse(t, tt.file)
		i := slices.IndexFunc(stages, func(s instructions.Stage) bool { return s.Name == tt.stage && s.Name != "build" })
		if i < 0 {
			t.Errorf("%s has no stage %q", tt.file, tt.stage)
			continue
		}
		stage := stages[i]
		if base := resolve(t, tt.file, stage.BaseName); !strings.HasPrefix(base, tt.base) {
			t.Errorf("%s: stage %q is from %s, want %s", tt.file, tt.stage, base, tt.base)
		}
		users := commands[*instructions.UserCommand](stage)
		if len(users) == 0 || users[len(users)-1].User != tt.user {
			t.Errorf("%s: stage %q does not end as user %s", tt.file, tt.stage, tt.user)
		}
		for _, c := range commands[*instructions.RunCommand](stage) {
			t.Errorf("%s: stage %q runs %v", tt.file, tt.stage, c.CmdLine)
		}
	}
	stages := parse(t, "Dockerfile.kong")
	if stages[len(stages)-1].Name != "kong" {
		t.Error("Dockerfile.kong: the default target is not kong")
	}
}

// resolve fills in the defaults of the build arguments before the first stage.
func resolve(t *testing.T, file, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	result, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	_, args, err := instructions.Parse(result.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range args {
		for _, kv := range a.Args {
			if kv.Value != nil {
				name = strings.ReplaceAll(name, "${"+kv.Key+"}", *kv.Value)
			}
		}
	}
	return name
}

// The environment turns the plugin on: each path in it is one that a COPY makes.
func TestKongEnvironment(t *testing.T) {
	t.Parallel()
	stages := parse(t, "Dockerfile.kong")
	kong := stages[len(stages)-1]
	env := make(map[string]string)
	for _, e := range commands[*instructions.EnvCommand](kong) {
		for _, kv := range e.Env {
			env[kv.Key] = strings.Trim(kv.Value, `"`)
		}
	}
	var made []string
	for _, c := range commands[*instructions.CopyCommand](kong) {
		made = append(made, c.DestPath)
	}
	const binary, conf = "/usr/local/bin/wallarm-gate", "/etc/kong/wallarm-gate/evidence.conf"
	for _, path := range []string{binary, conf} {
		if !slices.Contains(made, path) {
			t.Errorf("no COPY makes %s", path)
		}
	}
	for name, want := range map[string]string{
		"KONG_PLUGINS":                             "bundled,wallarm-gate",
		"KONG_PLUGINSERVER_NAMES":                  "wallarm-gate",
		"KONG_PLUGINSERVER_WALLARM_GATE_SOCKET":    "/usr/local/kong/wallarm-gate.socket",
		"KONG_PLUGINSERVER_WALLARM_GATE_START_CMD": binary + " -kong-prefix /usr/local/kong",
		"KONG_PLUGINSERVER_WALLARM_GATE_QUERY_CMD": binary + " -dump",
		"KONG_NGINX_HTTP_INCLUDE":                  conf,
		"KONG_LUA_MAX_REQ_HEADERS":                 "1000",
		"KONG_ADMIN_LISTEN":                        "off",
		"KONG_ADMIN_GUI_LISTEN":                    "off",
	} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
}

// What the Terraform module and the attester's manual say of its image.
func TestAttesterImage(t *testing.T) {
	t.Parallel()
	stages := parse(t, "Dockerfile.attester")
	last := stages[len(stages)-1]
	entry := commands[*instructions.EntrypointCommand](last)
	if len(entry) != 1 || entry[0].PrependShell || !slices.Equal(entry[0].CmdLine, []string{"/attester"}) {
		t.Errorf("the entry point is not exactly /attester without a shell: %+v", entry)
	}
}
