// Rules of AWS that the schema does not hold, as the real provider or the API states them.
// Each is a function on a configuration; a value that is unknown or null is never judged.
package awsschema

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/zclconf/go-cty/cty"
)

// check returns everything wrong with a configuration of one resource.
func check(kind string, b *block, c cty.Value) []*tfprotov5.Diagnostic {
	if c.IsNull() || !c.IsKnown() {
		return nil
	}
	out := unconfigurable(b, c, "")
	for _, name := range sorted(b.Attributes) {
		s, ok := text(c.GetAttr(name))
		if !ok {
			continue
		}
		if d := checkText(kind, name, s); d != "" {
			out = append(out, problem("invalid "+name, d, name))
		}
		if alias := name + "_prefix"; b.Attributes[alias] != nil && set(c.GetAttr(alias)) {
			out = append(out, problem("conflicting arguments", name+" and "+alias+" cannot both be set", name))
		}
	}
	if rule, ok := rules[kind]; ok {
		if d := rule(config{c}); d != "" {
			out = append(out, problem(kind, d))
		}
	}
	return out
}

// unconfigurable finds computed attributes that the configuration sets.
func unconfigurable(b *block, c cty.Value, at string) []*tfprotov5.Diagnostic {
	var out []*tfprotov5.Diagnostic
	if c.IsNull() || !c.IsKnown() {
		return nil
	}
	for _, name := range sorted(b.Attributes) {
		if a := b.Attributes[name]; a.Computed && !a.Optional && set(c.GetAttr(name)) {
			out = append(out, problem("value for unconfigurable attribute", fmt.Sprintf("%q is decided by AWS and cannot be set", at+name)))
		}
	}
	for _, name := range sorted(b.BlockTypes) {
		n := b.BlockTypes[name]
		n.each(c.GetAttr(name), func(e cty.Value) cty.Value {
			out = append(out, unconfigurable(&n.Block, e, at+name+".")...)
			return e
		})
	}
	return out
}

var (
	longest = map[string]int{
		"aws_lb.name": 32, "aws_lb.name_prefix": 6,
		"aws_lb_target_group.name": 32, "aws_lb_target_group.name_prefix": 6,
		"aws_iam_role.name": 64, "aws_iam_role.name_prefix": 38, "aws_iam_role_policy.name": 128,
		"aws_iam_role_policy.policy": 10240, "aws_iam_role.assume_role_policy": 2048,
		"aws_security_group.name": 255, "aws_security_group.description": 255,
		"aws_ecs_cluster.name": 255, "aws_ecs_service.name": 255, "aws_ecs_task_definition.family": 255,
		"aws_ecs_task_definition.container_definitions": 65536,
		"aws_cloudwatch_log_group.name":                 512, "aws_cloudwatch_metric_alarm.alarm_name": 255,
		"aws_cloudwatch_log_metric_filter.pattern": 1024, "aws_secretsmanager_secret.name": 512,
		"aws_sns_topic.name": 256, "aws_vpc_security_group_ingress_rule.description": 255,
		"aws_vpc_security_group_egress_rule.description": 255,
	}
	oneOf = map[string][]string{
		"aws_lb.desync_mitigation_mode":                 {"monitor", "defensive", "strictest"},
		"aws_lb.ip_address_type":                        {"ipv4", "dualstack", "dualstack-without-public-ipv4"},
		"aws_lb.load_balancer_type":                     {"application", "network", "gateway"},
		"aws_lb.xff_header_processing_mode":             {"append", "preserve", "remove"},
		"aws_lb_listener.protocol":                      {"HTTP", "HTTPS", "TCP", "TLS", "UDP", "TCP_UDP", "GENEVE"},
		"aws_lb_target_group.protocol":                  {"HTTP", "HTTPS", "TCP", "TLS", "UDP", "TCP_UDP", "GENEVE"},
		"aws_lb_target_group.target_type":               {"instance", "ip", "lambda", "alb"},
		"aws_ecs_service.availability_zone_rebalancing": {"ENABLED", "DISABLED"},
		"aws_ecs_service.launch_type":                   {"EC2", "FARGATE", "EXTERNAL"},
		"aws_ecs_service.propagate_tags":                {"SERVICE", "TASK_DEFINITION", "NONE"},
		"aws_ecs_task_definition.network_mode":          {"bridge", "host", "awsvpc", "none"},
		"aws_cloudwatch_metric_alarm.treat_missing_data": {
			"missing", "ignore", "breaching", "notBreaching",
		},
		"aws_cloudwatch_metric_alarm.comparison_operator": {
			"GreaterThanOrEqualToThreshold", "GreaterThanThreshold", "LessThanThreshold", "LessThanOrEqualToThreshold",
		},
	}
	shapes = map[string]*regexp.Regexp{
		"aws_lb.name":                                     regexp.MustCompile(`^[0-9A-Za-z]([0-9A-Za-z-]*[0-9A-Za-z])?$`),
		"aws_lb_target_group.name":                        regexp.MustCompile(`^[0-9A-Za-z]([0-9A-Za-z-]*[0-9A-Za-z])?$`),
		"aws_ecs_cluster.name":                            regexp.MustCompile(`^[0-9A-Za-z_-]+$`),
		"aws_ecs_service.name":                            regexp.MustCompile(`^[0-9A-Za-z_-]+$`),
		"aws_ecs_task_definition.family":                  regexp.MustCompile(`^[0-9A-Za-z_-]+$`),
		"aws_iam_role.name":                               regexp.MustCompile(`^[0-9A-Za-z_+=,.@-]+$`),
		"aws_iam_role.path":                               regexp.MustCompile(`^/([!-~]*/)?$`),
		"aws_cloudwatch_log_group.name":                   regexp.MustCompile(`^[.\-_/#0-9A-Za-z]+$`),
		"aws_secretsmanager_secret.name":                  regexp.MustCompile(`^[0-9A-Za-z/_+=.@-]+$`),
		"aws_security_group.name":                         regexp.MustCompile(sgText),
		"aws_security_group.description":                  regexp.MustCompile(sgText),
		"aws_vpc_security_group_ingress_rule.description": regexp.MustCompile(sgText),
		"aws_vpc_security_group_egress_rule.description":  regexp.MustCompile(sgText),
	}
	arn = regexp.MustCompile(`^arn:[a-z-]+:[a-z0-9-]+:[a-z0-9-]*:([0-9]{12}|aws)?:.+`)
)

const sgText = `^[0-9A-Za-z_ .:/()#,@\[\]+=&;{}!$*-]*$`

func checkText(kind, name, s string) string {
	key := kind + "." + name
	if n, ok := longest[key]; ok && len(s) > n {
		return fmt.Sprintf("%d characters; at most %d are allowed", len(s), n)
	}
	if l, ok := oneOf[key]; ok && !slices.Contains(l, s) {
		return fmt.Sprintf("%q is none of %s", s, strings.Join(l, ", "))
	}
	if re, ok := shapes[key]; ok && !re.MatchString(s) {
		return fmt.Sprintf("%q does not match %s", s, re)
	}
	if strings.HasSuffix(name, "_arn") && !arn.MatchString(s) {
		return fmt.Sprintf("%q is no ARN (arn:partition:service:region:account:resource)", s)
	}
	switch name {
	case "policy", "assume_role_policy", "container_definitions":
		if !json.Valid([]byte(s)) {
			return name + " is not JSON"
		}
	}
	return ""
}

// config reads the known values of a configuration; what is unknown reads as absent.
type config struct{ v cty.Value }

func set(v cty.Value) bool { return !v.IsKnown() || !v.IsNull() }

func (c config) has(name string) bool { return set(c.v.GetAttr(name)) }

// count returns how many of the attributes are set, and how many of them nobody can know yet.
func (c config) count(names ...string) (given, unknown int) {
	for _, name := range names {
		switch v := c.v.GetAttr(name); {
		case !v.IsKnown():
			unknown++
		case !v.IsNull():
			given++
		}
	}
	return given, unknown
}

func (c config) text(name string) string {
	s, _ := text(c.v.GetAttr(name))
	return s
}

func (c config) number(name string) (int, bool) {
	v := c.v.GetAttr(name)
	if v.IsNull() || !v.IsKnown() {
		return 0, false
	}
	if s, ok := text(v); ok {
		n, err := strconv.Atoi(s)
		return n, err == nil
	}
	f, _ := v.AsBigFloat().Int64()
	return int(f), true
}

func (c config) contains(name, want string) bool {
	v := c.v.GetAttr(name)
	if v.IsNull() || !v.IsKnown() {
		return false
	}
	for it := v.ElementIterator(); it.Next(); {
		if _, e := it.Element(); e.IsKnown() && !e.IsNull() && e.AsString() == want {
			return true
		}
	}
	return false
}

// blocks are the known nested blocks of one type.
func (c config) blocks(name string) []config {
	v := c.v.GetAttr(name)
	if v.IsNull() || !v.IsKnown() {
		return nil
	}
	var out []config
	for it := v.ElementIterator(); it.Next(); {
		if _, e := it.Element(); e.IsKnown() && !e.IsNull() {
			out = append(out, config{e})
		}
	}
	return out
}

var retentions = []int{0, 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653}

// onFargate reports whether Fargate has a task size of that many CPU units and MiB.
func onFargate(cpu, memory int) bool {
	in := func(from, to, step int) bool { return memory >= from && memory <= to && memory%step == 0 }
	switch cpu {
	case 256:
		return memory == 512 || memory == 1024 || memory == 2048
	case 512:
		return in(1024, 4096, 1024)
	case 1024:
		return in(2048, 8192, 1024)
	case 2048:
		return in(4096, 16384, 1024)
	case 4096:
		return in(8192, 30720, 1024)
	case 8192:
		return in(16384, 61440, 4096)
	case 16384:
		return in(32768, 122880, 8192)
	}
	return false
}

// rules answer with what is wrong, or "".
var rules = map[string]func(config) string{
	"aws_cloudwatch_log_group": func(c config) string {
		if n, ok := c.number("retention_in_days"); ok && !slices.Contains(retentions, n) {
			return fmt.Sprintf("retention_in_days %d is not one of %v", n, retentions)
		}
		return ""
	},
	"aws_cloudwatch_metric_alarm": func(c config) string {
		n, okN := c.number("datapoints_to_alarm")
		m, okM := c.number("evaluation_periods")
		if okN && okM && n > m {
			return fmt.Sprintf("datapoints_to_alarm %d is more than evaluation_periods %d", n, m)
		}
		if p, ok := c.number("period"); ok && p != 10 && p != 20 && p != 30 && (p <= 0 || p%60 != 0) {
			return fmt.Sprintf("period %d is not 10, 20, 30 or a multiple of 60", p)
		}
		if !c.has("metric_name") && len(c.blocks("metric_query")) == 0 && c.v.GetAttr("metric_query").IsKnown() {
			return "needs metric_name or metric_query"
		}
		return ""
	},
	"aws_ecs_task_definition": func(c config) string {
		if !c.contains("requires_compatibilities", "FARGATE") {
			return ""
		}
		cpu, okC := c.number("cpu")
		memory, okM := c.number("memory")
		if okC && okM && !onFargate(cpu, memory) {
			return fmt.Sprintf("Fargate has no task size of %d CPU units and %d MiB", cpu, memory)
		}
		if m := c.text("network_mode"); m != "" && m != "awsvpc" {
			return fmt.Sprintf("network_mode %q: Fargate needs awsvpc", m)
		}
		return ""
	},
	"aws_ecs_service": func(c config) string {
		if c.text("launch_type") == "FARGATE" && len(c.blocks("ordered_placement_strategy")) > 0 {
			return "placement strategies are not supported on Fargate"
		}
		lo, okLo := c.number("deployment_minimum_healthy_percent")
		hi, okHi := c.number("deployment_maximum_percent")
		if okLo && okHi && lo >= hi {
			return fmt.Sprintf("deployment_minimum_healthy_percent %d leaves no room below deployment_maximum_percent %d", lo, hi)
		}
		if c.text("availability_zone_rebalancing") == "ENABLED" && okHi && hi <= 100 {
			return "availability_zone_rebalancing needs deployment_maximum_percent above 100"
		}
		return ""
	},
	"aws_lb": func(c config) string {
		if n, ok := c.number("idle_timeout"); ok && (n < 1 || n > 4000) {
			return fmt.Sprintf("idle_timeout %d is not within 1 and 4000", n)
		}
		if strings.HasPrefix(c.text("name"), "internal-") {
			return "name must not begin with internal-"
		}
		return ""
	},
	"aws_lb_listener": func(c config) string {
		cert := c.has("certificate_arn")
		switch c.text("protocol") {
		case "HTTPS", "TLS":
			if !cert {
				return "an HTTPS listener needs certificate_arn"
			}
		case "HTTP":
			if cert || c.has("ssl_policy") {
				return "an HTTP listener takes neither certificate_arn nor ssl_policy"
			}
		}
		return ""
	},
	"aws_lb_target_group": func(c config) string {
		if n, ok := c.number("deregistration_delay"); ok && (n < 0 || n > 3600) {
			return fmt.Sprintf("deregistration_delay %d is not within 0 and 3600", n)
		}
		for _, h := range c.blocks("health_check") {
			t, okT := h.number("timeout")
			i, okI := h.number("interval")
			if okT && okI && t >= i {
				return fmt.Sprintf("health_check timeout %d must be below the interval %d", t, i)
			}
		}
		return ""
	},
	"aws_appautoscaling_target": func(c config) string {
		lo, okLo := c.number("min_capacity")
		hi, okHi := c.number("max_capacity")
		if okLo && okHi && lo > hi {
			return fmt.Sprintf("min_capacity %d is above max_capacity %d", lo, hi)
		}
		return ""
	},
	"aws_secretsmanager_secret_version": func(c config) string {
		if n, _ := c.count("secret_string", "secret_string_wo", "secret_binary"); n > 1 {
			return "only one of secret_string, secret_string_wo and secret_binary can be set"
		}
		if c.has("secret_string_wo") && !c.has("secret_string_wo_version") {
			return "secret_string_wo needs secret_string_wo_version"
		}
		return ""
	},
	"aws_vpc_security_group_ingress_rule": peer,
	"aws_vpc_security_group_egress_rule":  peer,
}

// peer: a security-group rule names exactly one other side, and a port range that fits.
func peer(c config) string {
	n, open := c.count("cidr_ipv4", "cidr_ipv6", "prefix_list_id", "referenced_security_group_id")
	if n > 1 || n+open == 0 {
		return fmt.Sprintf("exactly one of cidr_ipv4, cidr_ipv6, prefix_list_id and referenced_security_group_id must be set, not %d", n)
	}
	from, okF := c.number("from_port")
	to, okT := c.number("to_port")
	if p := c.text("ip_protocol"); (p == "tcp" || p == "udp") && c.v.IsWhollyKnown() && (!okF || !okT || from > to) {
		return p + " needs from_port and to_port, in that order"
	}
	return ""
}

// checkDestroy refuses what AWS refuses to delete.
func checkDestroy(kind string, prior cty.Value) *tfprotov5.Diagnostic {
	if kind == "aws_lb" && prior.GetAttr("enable_deletion_protection").RawEquals(cty.True) {
		return problem("OperationNotPermitted", "the load balancer cannot be deleted while deletion protection is on")
	}
	return nil
}
