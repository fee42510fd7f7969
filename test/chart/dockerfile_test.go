package chart

// Dockerfile.kong against the chart: every file, user and variable that the
// chart relies on, so that they cannot drift apart.

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// stage is a target of Dockerfile.kong.
type stage struct {
	from, user string
	entrypoint string
	env        map[string]string
	files      map[string]string // path in the image: file that plays it
}

// dockerfile reads one target. It knows the few forms that the file has and
// fails on any other.
func dockerfile(t *testing.T, target string) stage {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "Dockerfile.kong"))
	if err != nil {
		t.Fatal(err)
	}
	s := stage{env: map[string]string{}, files: map[string]string{}}
	inside := false
	var lines []string
	for _, l := range strings.Split(string(data), "\n") {
		if !strings.HasPrefix(strings.TrimSpace(l), "#") {
			lines = append(lines, l)
		}
	}
	text := strings.ReplaceAll(strings.Join(lines, "\n"), "\\\n", " ")
	for _, l := range strings.Split(text, "\n") {
		f := strings.Fields(l)
		if len(f) == 0 {
			continue
		}
		if f[0] == "FROM" {
			inside = f[len(f)-1] == target
			if inside {
				s.from = f[len(f)-3]
			}
			continue
		}
		if !inside {
			continue
		}
		switch f[0] {
		case "USER":
			s.user = f[1]
		case "ENTRYPOINT":
			s.entrypoint = strings.TrimSpace(strings.TrimPrefix(l, "ENTRYPOINT"))
		case "COPY":
			from, mode := "", ""
			args := f[1:]
			for ; strings.HasPrefix(args[0], "--"); args = args[1:] {
				if v, ok := strings.CutPrefix(args[0], "--from="); ok {
					from = v
				}
				if v, ok := strings.CutPrefix(args[0], "--chmod="); ok {
					mode = v
				}
			}
			switch {
			case len(args) != 2:
				t.Fatalf("Dockerfile.kong: %s: not understood", l)
			case from == "build" && args[0] == "/out/wallarm-gate":
				bin, err := pluginBinary()
				if err != nil {
					t.Fatal(err)
				}
				if mode != "0755" {
					t.Errorf("Dockerfile.kong: %s: not executable for uid 1000", l)
				}
				s.files[args[1]] = bin
			case from == "":
				if mode != "0644" && mode != "0755" {
					t.Errorf("Dockerfile.kong: %s: not readable for uid 1000", l)
				}
				s.files[args[1]] = filepath.Join(root, args[0])
			default:
				t.Fatalf("Dockerfile.kong: %s: not understood", l)
			}
		case "ENV":
			for _, kv := range quoted(strings.TrimPrefix(strings.TrimSpace(l), "ENV ")) {
				name, value, _ := strings.Cut(kv, "=")
				s.env[name] = value
			}
		default:
			t.Fatalf("Dockerfile.kong: %s: not understood", l)
		}
	}
	if s.from == "" {
		t.Fatalf("Dockerfile.kong has no target %s", target)
	}
	return s
}

// quoted splits NAME="a b" NAME="c".
func quoted(s string) (out []string) {
	var word strings.Builder
	inside := false
	for _, r := range s + " " {
		switch {
		case r == '"':
			inside = !inside
		case r == ' ' && !inside:
			if word.Len() > 0 {
				out = append(out, word.String())
				word.Reset()
			}
		default:
			word.WriteRune(r)
		}
	}
	return out
}

func TestDockerfile(t *testing.T) {
	t.Parallel()
	plugin, kong := dockerfile(t, "plugin"), dockerfile(t, "kong")
	if plugin.from != "scratch" || kong.from != "kong:${KONG_VERSION}" {
		t.Errorf("the targets are made from %s and %s", plugin.from, kong.from)
	}
	if plugin.user != "1000:1000" || plugin.entrypoint != `["/wallarm-gate"]` {
		t.Errorf("plugin: user %s, entrypoint %s", plugin.user, plugin.entrypoint)
	}
	// The chart runs Kong as uid 1000; the image must not ask for root.
	if kong.user != "kong" {
		t.Errorf("kong: user %s", kong.user)
	}

	// gate.from: init takes the executable of the target plugin, and nothing
	// else can be in that image.
	for _, c := range render(t, "", "minimal").Deployment.Spec.Template.Spec.InitContainers {
		if len(plugin.files) != 1 || plugin.files[c.Command[0]] == "" {
			t.Errorf("%s runs %s; the image holds %v", c.Name, c.Command[0], plugin.files)
		}
	}

	// gate.from: image takes executable and nginx map of the target kong.
	m := render(t, "gate: {from: image, image: {repository: registry.example.com/kong-wallarm-gate}}", "secret")
	e := env(m.kong(t))
	binary, _, _ := strings.Cut(e["KONG_PLUGINSERVER_WALLARM_GATE_START_CMD"], " ")
	for _, path := range []string{binary, e["KONG_NGINX_HTTP_INCLUDE"], m.Deployment.Spec.Template.Spec.InitContainers[0].Command[0]} {
		if kong.files[path] == "" {
			t.Errorf("the chart uses %s; the image holds %v", path, kong.files)
		}
	}
	if q := e["KONG_PLUGINSERVER_WALLARM_GATE_QUERY_CMD"]; q != kong.env["KONG_PLUGINSERVER_WALLARM_GATE_QUERY_CMD"] {
		t.Errorf("query command %q, in the image %q", q, kong.env["KONG_PLUGINSERVER_WALLARM_GATE_QUERY_CMD"])
	}
	// What the image sets is set by the chart too: with the same value, or with
	// one that only moves the socket.
	for name, image := range kong.env {
		chart, ok := e[name]
		if !ok {
			t.Errorf("the image sets %s, the chart does not", name)
		}
		switch name {
		case "KONG_PLUGINSERVER_WALLARM_GATE_SOCKET":
			if filepath.Base(chart) != filepath.Base(image) {
				t.Errorf("%s is %q, in the image %q", name, chart, image)
			}
		case "KONG_PLUGINSERVER_WALLARM_GATE_START_CMD":
			if b, _, _ := strings.Cut(image, " "); b != binary {
				t.Errorf("%s is %q, in the image %q", name, chart, image)
			}
		default:
			if chart != image {
				t.Errorf("%s is %q, in the image %q", name, chart, image)
			}
		}
	}
	if len(kong.env) < 9 {
		t.Errorf("the image's environment was not read: %v", kong.env)
	}
}
