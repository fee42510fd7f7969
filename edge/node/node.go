// Package node renders the nginx configuration of a Wallarm node that stands
// between an ALB and the attester. The templates are Terraform's: edge/terraform
// renders the same files with templatefile, and the tests here load what this
// package renders into a real nginx.
package node

import (
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/gocty"
)

//go:embed default.conf.tftpl
var defaultTemplate string

//go:embed wallarm.conf.tftpl
var wallarmTemplate string

//go:embed wallarm_log.conf
var logConf string

// StartScript is the command of the node's container, for bash -c.
//
//go:embed start.sh
var StartScript string

// Settings are the variables of the templates. The cty tag is a variable's
// name there. The README says what each is for.
type Settings struct {
	Port        int      `cty:"port"`
	IPv6        bool     `cty:"ipv6"`
	ALBCIDRs    []string `cty:"alb_cidrs"`
	ServerNames []string `cty:"server_names"`

	Mode                    string `cty:"mode"`
	Application             int    `cty:"application"`
	ParseWebSocket          bool   `cty:"parse_websocket"`
	AnalysisTimeLimitMS     int    `cty:"analysis_time_limit_ms"`
	AnalysisTimeLimitAction string `cty:"analysis_time_limit_action"`
	AllowDotSegments        bool   `cty:"allow_dot_segments"`

	AttesterAddress          string `cty:"attester_address"`
	AttesterKeepalive        int    `cty:"attester_keepalive"`
	AttesterKeepaliveTimeout string `cty:"attester_keepalive_timeout"`
	AttesterConnectTimeout   string `cty:"attester_connect_timeout"`
	AttesterSendTimeout      string `cty:"attester_send_timeout"`
	AttesterReadTimeout      string `cty:"attester_read_timeout"`

	ClientMaxBodySize      string `cty:"client_max_body_size"`
	ClientBodyBufferSize   string `cty:"client_body_buffer_size"`
	ClientHeaderTimeout    string `cty:"client_header_timeout"`
	ClientBodyTimeout      string `cty:"client_body_timeout"`
	ClientKeepaliveTimeout string `cty:"client_keepalive_timeout"`
	SendTimeout            string `cty:"send_timeout"`

	RequestBuffering  bool `cty:"request_buffering"`
	ResponseBuffering bool `cty:"response_buffering"`

	AccessLog string `cty:"access_log"`
	LogQuery  bool   `cty:"log_query"`
}

// Default returns the documented defaults. ALBCIDRs and ServerNames have none:
// nobody can guess them.
func Default() Settings {
	return Settings{
		Port:                     8080,
		Mode:                     "monitoring",
		Application:              -1,
		ParseWebSocket:           true,
		AnalysisTimeLimitMS:      1000,
		AnalysisTimeLimitAction:  "on",
		AttesterAddress:          "127.0.0.1:8081",
		AttesterKeepalive:        64,
		AttesterKeepaliveTimeout: "50s",
		AttesterConnectTimeout:   "5s",
		AttesterSendTimeout:      "60s",
		AttesterReadTimeout:      "70s",
		ClientMaxBodySize:        "16m",
		ClientBodyBufferSize:     "128k",
		ClientHeaderTimeout:      "15s",
		ClientBodyTimeout:        "60s",
		ClientKeepaliveTimeout:   "90s",
		SendTimeout:              "60s",
		RequestBuffering:         true,
		AccessLog:                "/dev/stdout",
	}
}

var (
	nameRE     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	durationRE = regexp.MustCompile(`^[1-9][0-9]{0,5}(ms|s|m|h)$`)
	sizeRE     = regexp.MustCompile(`^(0|[1-9][0-9]{0,8}[kmg]?)$`)
	pathRE     = regexp.MustCompile(`^/[A-Za-z0-9._/-]+$`)
)

// Check returns every fault of s, joined: a value that nginx would read as
// something else than a value must not reach the template.
func (s Settings) Check() error {
	var faults []error
	fault := func(name string, value any, allowed string) {
		faults = append(faults, fmt.Errorf("%s: %q is not %s", name, fmt.Sprint(value), allowed))
	}
	if s.Port < 1 || s.Port > 65535 {
		fault("port", s.Port, "a port from 1 to 65535")
	}
	if len(s.ALBCIDRs) == 0 {
		faults = append(faults, errors.New("alb_cidrs: at least one is needed, the subnets of the load balancer"))
	}
	for _, cidr := range s.ALBCIDRs {
		if p, err := netip.ParsePrefix(cidr); err != nil || p != p.Masked() || p.Bits() == 0 ||
			p.Overlaps(netip.MustParsePrefix("127.0.0.0/8")) || p.Overlaps(netip.MustParsePrefix("::1/128")) {
			fault("alb_cidrs", cidr, "a CIDR block without host bits, other than loopback and other than everybody")
		}
	}
	if len(s.ServerNames) == 0 {
		faults = append(faults, errors.New("server_names: at least one is needed, a Host that clients send"))
	}
	seen := map[string]bool{}
	for _, name := range s.ServerNames {
		switch {
		case len(name) > 253 || !nameRE.MatchString(name) || reserved[name]:
			fault("server_names", name, "a host name in lower case, without port and wildcard (nor one of default, hostnames, include, volatile)")
		case seen[name]:
			fault("server_names", name, "listed once")
		}
		seen[name] = true
	}
	if !oneOf(s.Mode, "off", "monitoring", "safe_blocking", "block") {
		fault("mode", s.Mode, "one of off, monitoring, safe_blocking, block")
	}
	if s.Application != -1 && (s.Application < 1 || s.Application > 1<<31-1) {
		fault("application", s.Application, "-1 or an integer from 1 to 2147483647")
	}
	if s.AnalysisTimeLimitMS < 0 || s.AnalysisTimeLimitMS > 60000 {
		fault("analysis_time_limit_ms", s.AnalysisTimeLimitMS, "from 1 to 60000 milliseconds, or 0 to leave it to the cloud's rule")
	}
	if !oneOf(s.AnalysisTimeLimitAction, "on", "attack", "off") {
		fault("analysis_time_limit_action", s.AnalysisTimeLimitAction, "one of on, attack, off")
	}
	if a, err := netip.ParseAddrPort(s.AttesterAddress); err != nil || !a.Addr().IsLoopback() || a.Port() == 0 {
		fault("attester_address", s.AttesterAddress, "a loopback address and a port: evidence is not yet signed on this hop")
	}
	if s.AttesterKeepalive < 1 || s.AttesterKeepalive > 4096 {
		fault("attester_keepalive", s.AttesterKeepalive, "from 1 to 4096 connections")
	}
	for _, d := range []struct{ name, value string }{
		{"attester_keepalive_timeout", s.AttesterKeepaliveTimeout},
		{"attester_connect_timeout", s.AttesterConnectTimeout},
		{"attester_send_timeout", s.AttesterSendTimeout},
		{"attester_read_timeout", s.AttesterReadTimeout},
		{"client_header_timeout", s.ClientHeaderTimeout},
		{"client_body_timeout", s.ClientBodyTimeout},
		{"client_keepalive_timeout", s.ClientKeepaliveTimeout},
		{"send_timeout", s.SendTimeout},
	} {
		if !durationRE.MatchString(d.value) {
			fault(d.name, d.value, "a whole number with ms, s, m or h")
		}
	}
	if !sizeRE.MatchString(s.ClientMaxBodySize) {
		fault("client_max_body_size", s.ClientMaxBodySize, "bytes, or a number with k, m or g, or 0 for no limit")
	}
	if s.ClientBodyBufferSize == "0" || !sizeRE.MatchString(s.ClientBodyBufferSize) {
		fault("client_body_buffer_size", s.ClientBodyBufferSize, "bytes, or a number with k, m or g")
	}
	if !pathRE.MatchString(s.AccessLog) {
		fault("access_log", s.AccessLog, "the absolute path of a file")
	}
	return errors.Join(faults...)
}

// reserved are the names that an nginx map reads as parameters.
var reserved = map[string]bool{"default": true, "hostnames": true, "include": true, "volatile": true}

func oneOf(s string, allowed ...string) bool {
	for _, a := range allowed {
		if s == a {
			return true
		}
	}
	return false
}

// Files are the rendered files of the node.
type Files struct {
	Default []byte // http.d/default.conf
	Wallarm []byte // gate/wallarm.conf
	Log     []byte // gate/log.conf
}

// Render checks the settings and renders the files.
func (s Settings) Render() (Files, error) {
	if err := s.Check(); err != nil {
		return Files{}, err
	}
	return s.files()
}

func (s Settings) files() (Files, error) {
	var f Files
	var err error
	if f.Default, err = render("default.conf.tftpl", defaultTemplate, s); err != nil {
		return Files{}, err
	}
	if f.Wallarm, err = render("wallarm.conf.tftpl", wallarmTemplate, s); err != nil {
		return Files{}, err
	}
	f.Log = []byte(logConf)
	return f, nil
}

// render evaluates a template in HCL's own language, as templatefile does, but
// without any function: the templates use none.
func render(name, text string, s Settings) ([]byte, error) {
	vars, err := s.variables()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	expr, diags := hclsyntax.ParseTemplate([]byte(text), name, hcl.InitialPos)
	if diags.HasErrors() {
		return nil, diags
	}
	v, diags := expr.Value(&hcl.EvalContext{Variables: vars})
	if diags.HasErrors() {
		return nil, diags
	}
	if v.IsNull() || !v.IsKnown() || v.Type() != cty.String {
		return nil, fmt.Errorf("%s: the template is no text", name)
	}
	return []byte(v.AsString()), nil
}

// variables are the settings under their names in the templates.
func (s Settings) variables() (map[string]cty.Value, error) {
	v, t := reflect.ValueOf(s), reflect.TypeOf(s)
	vars := make(map[string]cty.Value, t.NumField())
	for i := range t.NumField() {
		field := v.Field(i).Interface()
		typ, err := gocty.ImpliedType(field)
		if err != nil {
			return nil, err
		}
		name := t.Field(i).Tag.Get("cty")
		if vars[name], err = gocty.ToCtyValue(field, typ); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return vars, nil
}
