package node

// The rendering: defaults, bounds, and the templates held to what the README
// and the design say of them, without an nginx.

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func exampleSettings() Settings {
	s := Default()
	s.ALBCIDRs = []string{"10.0.0.0/24", "10.0.1.0/24", "2001:db8:1::/64"}
	s.ServerNames = []string{"api.example.com", "shop.example.com"}
	return s
}

func TestRenderGolden(t *testing.T) {
	t.Parallel()
	everything := exampleSettings()
	everything.IPv6 = true
	everything.Mode = "block"
	everything.Application = 7
	everything.ParseWebSocket = false
	everything.AnalysisTimeLimitMS = 0
	everything.AllowDotSegments = true
	everything.RequestBuffering = false
	everything.ResponseBuffering = true
	everything.LogQuery = true
	for name, s := range map[string]Settings{"defaults": exampleSettings(), "everything": everything} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := s.Render()
			if err != nil {
				t.Fatal(err)
			}
			for suffix, got := range map[string][]byte{"default.conf": f.Default, "wallarm.conf": f.Wallarm} {
				golden := filepath.Join("testdata", "golden", name+"."+suffix)
				if *update {
					if err := os.WriteFile(golden, got, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%s differs from what is rendered; read the difference, then go test -update", golden)
				}
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	if s := exampleSettings(); s.Check() != nil {
		t.Fatalf("the example is refused: %v", s.Check())
	}
	for _, c := range []struct {
		name string
		set  func(*Settings)
		want string // in the error
	}{
		{"port 0", func(s *Settings) { s.Port = 0 }, `port: "0"`},
		{"port above", func(s *Settings) { s.Port = 65536 }, `port: "65536"`},
		{"no balancer", func(s *Settings) { s.ALBCIDRs = nil }, "alb_cidrs"},
		{"everybody", func(s *Settings) { s.ALBCIDRs = []string{"0.0.0.0/0"} }, "0.0.0.0/0"},
		{"everybody, IPv6", func(s *Settings) { s.ALBCIDRs = []string{"::/0"} }, "::/0"},
		{"loopback", func(s *Settings) { s.ALBCIDRs = []string{"127.0.0.0/8"} }, "loopback"},
		{"around loopback", func(s *Settings) { s.ALBCIDRs = []string{"126.0.0.0/7"} }, "loopback"},
		{"host bits", func(s *Settings) { s.ALBCIDRs = []string{"10.0.0.1/24"} }, "10.0.0.1/24"},
		{"a directive in a CIDR", func(s *Settings) { s.ALBCIDRs = []string{"10.0.0.0/24; deny all"} }, "alb_cidrs"},
		{"no name", func(s *Settings) { s.ServerNames = nil }, "server_names"},
		{"wildcard", func(s *Settings) { s.ServerNames = []string{"*.example.com"} }, "wildcard"},
		{"upper case", func(s *Settings) { s.ServerNames = []string{"API.example.com"} }, "lower case"},
		{"port in a name", func(s *Settings) { s.ServerNames = []string{"api.example.com:443"} }, "without port"},
		{"trailing dot", func(s *Settings) { s.ServerNames = []string{"api.example.com."} }, "server_names"},
		{"twice", func(s *Settings) { s.ServerNames = []string{"a.example", "a.example"} }, "once"},
		{"map parameter", func(s *Settings) { s.ServerNames = []string{"default"} }, "default"},
		{"a directive in a name", func(s *Settings) { s.ServerNames = []string{"a;b"} }, "server_names"},
		{"mode", func(s *Settings) { s.Mode = "blocking" }, `mode: "blocking"`},
		{"application 0", func(s *Settings) { s.Application = 0 }, "application"},
		{"application -2", func(s *Settings) { s.Application = -2 }, "application"},
		{"time limit", func(s *Settings) { s.AnalysisTimeLimitMS = -1 }, "analysis_time_limit_ms"},
		{"time limit action", func(s *Settings) { s.AnalysisTimeLimitAction = "block" }, "analysis_time_limit_action"},
		{"attester elsewhere", func(s *Settings) { s.AttesterAddress = "10.0.0.9:8081" }, "loopback"},
		{"attester without port", func(s *Settings) { s.AttesterAddress = "127.0.0.1" }, "attester_address"},
		{"keepalive", func(s *Settings) { s.AttesterKeepalive = 0 }, "attester_keepalive"},
		{"duration without unit", func(s *Settings) { s.SendTimeout = "60" }, "send_timeout"},
		{"duration zero", func(s *Settings) { s.ClientHeaderTimeout = "0s" }, "client_header_timeout"},
		{"size", func(s *Settings) { s.ClientMaxBodySize = "10 MB" }, "client_max_body_size"},
		{"buffer of nothing", func(s *Settings) { s.ClientBodyBufferSize = "0" }, "client_body_buffer_size"},
		{"log to a pipe", func(s *Settings) { s.AccessLog = "syslog:server=10.0.0.1" }, "access_log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := exampleSettings()
			c.set(&s)
			err := s.Check()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
			if _, rerr := s.Render(); rerr == nil {
				t.Error("Render took what Check refuses")
			}
		})
	}
	several := Settings{}
	if got := strings.Count(several.Check().Error(), "\n"); got < 10 {
		t.Errorf("only %d faults of an empty value are reported at once", got+1)
	}
}

// The templates and Settings name the same variables, and each is used.
func TestVariables(t *testing.T) {
	t.Parallel()
	vars, err := exampleSettings().variables()
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for name, text := range map[string]string{"default.conf.tftpl": defaultTemplate, "wallarm.conf.tftpl": wallarmTemplate} {
		expr, diags := hclsyntax.ParseTemplate([]byte(text), name, hcl.InitialPos)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		for _, traversal := range expr.Variables() {
			used[traversal.RootName()] = true
		}
	}
	for name := range used {
		if _, ok := vars[name]; !ok {
			t.Errorf("a template uses %s, which Settings does not have", name)
		}
	}
	for name := range vars {
		if !used[name] {
			t.Errorf("no template uses the setting %s", name)
		}
	}
}

// A plain nginx loads everything but the two files that name the module.
func TestModuleOnlyInItsIncludes(t *testing.T) {
	t.Parallel()
	f, err := exampleSettings().Render()
	if err != nil {
		t.Fatal(err)
	}
	comment := regexp.MustCompile(`(?m)^\s*#.*$`)
	if m := regexp.MustCompile(`\$?wallarm_\w+`).FindAll(comment.ReplaceAll(f.Default, nil), -1); m != nil {
		t.Errorf("default.conf needs the module: %q", m)
	}
	for _, want := range []string{
		"wallarm_mode monitoring; set $gate_mode monitoring;", "wallarm_mode_allow_override strict;",
		"wallarm_fallback off;", "wallarm_parse_websocket on;", "wallarm_process_time_limit_block on;",
	} {
		if !bytes.Contains(f.Wallarm, []byte(want)) {
			t.Errorf("wallarm.conf lacks %q", want)
		}
	}
	if bytes.Contains(f.Wallarm, []byte("wallarm_application")) {
		t.Error("wallarm_application is set where none is configured")
	}
}

// The README's table of settings lists the variables with their types and defaults.
func TestReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][2]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| (\\w+(?:\\(\\w+\\))?) \\| `?([^|`]+?)`? \\|").FindAllStringSubmatch(string(text), -1) {
		rows[m[1]] = [2]string{m[2], m[3]}
	}
	v := reflect.ValueOf(Default())
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("cty")
		want := [2]string{map[reflect.Kind]string{reflect.Int: "number", reflect.Bool: "bool", reflect.String: "string", reflect.Slice: "list(string)"}[v.Field(i).Kind()], fmt.Sprint(v.Field(i).Interface())}
		if v.Field(i).Kind() == reflect.Slice {
			want[1] = "required"
		}
		if rows[name] != want {
			t.Errorf("%s: the README says %q, the code %q", name, rows[name], want)
		}
		delete(rows, name)
	}
	for name := range rows {
		t.Errorf("the README lists %s, which is no setting", name)
	}
}
