package awsschema

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/zclconf/go-cty/cty"
)

func load(t *testing.T) *server {
	t.Helper()
	s, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return newServer(s)
}

// fill builds a value of a block: the given attributes and nested blocks, null for the rest.
func fill(t *testing.T, b *block, given map[string]any) cty.Value {
	t.Helper()
	m := map[string]cty.Value{}
	for name, a := range b.Attributes {
		m[name] = cty.NullVal(a.Type.Type)
	}
	for name, n := range b.BlockTypes {
		switch nt := n.Block.value(); n.Nesting {
		case "list":
			m[name] = cty.ListValEmpty(nt)
		case "set":
			m[name] = cty.SetValEmpty(nt)
		default:
			m[name] = cty.NullVal(nt)
		}
	}
	for name, v := range given {
		if _, ok := m[name]; !ok {
			t.Fatalf("the schema has no %q", name)
		}
		switch v := v.(type) {
		case string:
			m[name] = cty.StringVal(v)
		case int:
			m[name] = cty.NumberIntVal(int64(v))
		case bool:
			m[name] = cty.BoolVal(v)
		case cty.Value:
			m[name] = v
		case map[string]any:
			n := b.BlockTypes[name]
			e := fill(t, &n.Block, v)
			if n.Nesting == "set" {
				m[name] = cty.SetVal([]cty.Value{e})
			} else {
				m[name] = cty.ListVal([]cty.Value{e})
			}
		default:
			t.Fatalf("%s: %T", name, v)
		}
	}
	return cty.ObjectVal(m)
}

func dynamic(t *testing.T, v cty.Value, ty cty.Type) *tfprotov5.DynamicValue {
	t.Helper()
	d, err := encode(v, ty)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func value(t *testing.T, d *tfprotov5.DynamicValue, ty cty.Type) cty.Value {
	t.Helper()
	v, err := decode(d, ty)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func strset(s ...string) cty.Value {
	var v []cty.Value
	for _, x := range s {
		v = append(v, cty.StringVal(x))
	}
	return cty.SetVal(v)
}

func TestRules(t *testing.T) {
	t.Parallel()
	s := load(t)
	const lb = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/a/0123456789abcdef"
	const cert = "arn:aws:acm:eu-central-1:123456789012:certificate/12345678-1234-1234-1234-123456789012"
	type attrs = map[string]any
	alarm := func(a attrs) attrs {
		for k, v := range (attrs{"alarm_name": "a", "comparison_operator": "LessThanThreshold", "evaluation_periods": 3, "metric_name": "m"}) {
			if _, ok := a[k]; !ok {
				a[k] = v
			}
		}
		return a
	}
	task := func(cpu, memory string) attrs {
		return attrs{"family": "f", "container_definitions": "[]", "cpu": cpu, "memory": memory, "requires_compatibilities": strset("FARGATE")}
	}
	rule := func(a attrs) attrs { a["security_group_id"] = "sg-1"; return a }
	for _, c := range []struct {
		name, kind string
		attrs      attrs
		refused    string // part of the sentence; empty: accepted
	}{
		{"log retention", "aws_cloudwatch_log_group", attrs{"name": "a", "retention_in_days": 30}, ""},
		{"log retention of 31 days", "aws_cloudwatch_log_group", attrs{"name": "a", "retention_in_days": 31}, "retention_in_days 31"},
		{"log group with a space", "aws_cloudwatch_log_group", attrs{"name": "a b"}, "does not match"},
		{"Fargate pair", "aws_ecs_task_definition", task("2048", "4096"), ""},
		{"smallest Fargate pair", "aws_ecs_task_definition", task("256", "512"), ""},
		{"Fargate 256 with 1536", "aws_ecs_task_definition", task("256", "1536"), "no task size of 256"},
		{"Fargate 1024 with 1024", "aws_ecs_task_definition", task("1024", "1024"), "no task size of 1024"},
		{"Fargate 8192 off its step", "aws_ecs_task_definition", task("8192", "17408"), "no task size of 8192"},
		{"Fargate 3000", "aws_ecs_task_definition", task("3000", "6144"), "no task size of 3000"},
		{"Fargate on a bridge", "aws_ecs_task_definition", attrs{"family": "f", "container_definitions": "[]", "network_mode": "bridge", "requires_compatibilities": strset("FARGATE")}, "needs awsvpc"},
		{"container definitions", "aws_ecs_task_definition", attrs{"family": "f", "container_definitions": "[{]"}, "is not JSON"},
		{"HTTPS listener", "aws_lb_listener", attrs{"load_balancer_arn": lb, "protocol": "HTTPS", "certificate_arn": cert}, ""},
		{"HTTPS listener without certificate", "aws_lb_listener", attrs{"load_balancer_arn": lb, "protocol": "HTTPS"}, "needs certificate_arn"},
		{"HTTP listener with certificate", "aws_lb_listener", attrs{"load_balancer_arn": lb, "protocol": "HTTP", "certificate_arn": cert}, "takes neither"},
		{"certificate unknown yet", "aws_lb_listener", attrs{"load_balancer_arn": lb, "protocol": "HTTPS", "certificate_arn": cty.UnknownVal(cty.String)}, ""},
		{"certificate that is no ARN", "aws_lb_listener", attrs{"load_balancer_arn": lb, "protocol": "HTTPS", "certificate_arn": "my-cert"}, "is no ARN"},
		{"listener protocol", "aws_lb_listener", attrs{"load_balancer_arn": lb, "protocol": "HTTP2"}, "is none of"},
		{"balancer name of 33", "aws_lb", attrs{"name": strings.Repeat("a", 33)}, "at most 32"},
		{"balancer name and prefix", "aws_lb", attrs{"name": "a", "name_prefix": "b"}, "cannot both be set"},
		{"balancer name with _", "aws_lb", attrs{"name": "a_b"}, "does not match"},
		{"balancer name internal-", "aws_lb", attrs{"name": "internal-a"}, "must not begin"},
		{"balancer ARN set", "aws_lb", attrs{"arn": lb}, "decided by AWS"},
		{"idle timeout", "aws_lb", attrs{"idle_timeout": 4001}, "within 1 and 4000"},
		{"desync mode", "aws_lb", attrs{"desync_mitigation_mode": "loose"}, "is none of"},
		{"health check", "aws_lb_target_group", attrs{"health_check": attrs{"interval": 10, "timeout": 5}}, ""},
		{"health check timeout", "aws_lb_target_group", attrs{"health_check": attrs{"interval": 10, "timeout": 10}}, "below the interval"},
		{"rule with one peer", "aws_vpc_security_group_ingress_rule", rule(attrs{"ip_protocol": "tcp", "from_port": 443, "to_port": 443, "cidr_ipv4": "0.0.0.0/0"}), ""},
		{"rule with two peers", "aws_vpc_security_group_ingress_rule", rule(attrs{"ip_protocol": "tcp", "cidr_ipv4": "0.0.0.0/0", "cidr_ipv6": "::/0"}), "not 2"},
		{"rule with no peer", "aws_vpc_security_group_egress_rule", rule(attrs{"ip_protocol": "tcp"}), "not 0"},
		{"rule with peers unknown yet", "aws_vpc_security_group_ingress_rule", rule(attrs{"ip_protocol": "tcp", "cidr_ipv4": cty.UnknownVal(cty.String), "cidr_ipv6": cty.UnknownVal(cty.String)}), ""},
		{"rule description", "aws_vpc_security_group_egress_rule", rule(attrs{"ip_protocol": "-1", "cidr_ipv4": "0.0.0.0/0", "description": "it's"}), "does not match"},
		{"alarm", "aws_cloudwatch_metric_alarm", alarm(attrs{"datapoints_to_alarm": 2}), ""},
		{"alarm that can never fire", "aws_cloudwatch_metric_alarm", alarm(attrs{"datapoints_to_alarm": 4}), "more than evaluation_periods"},
		{"alarm period", "aws_cloudwatch_metric_alarm", alarm(attrs{"period": 45}), "multiple of 60"},
		{"two secrets", "aws_secretsmanager_secret_version", attrs{"secret_id": "s", "secret_string": "a", "secret_string_wo": "b", "secret_string_wo_version": 1}, "only one of"},
		{"write-only secret without version", "aws_secretsmanager_secret_version", attrs{"secret_id": "s", "secret_string_wo": "b"}, "needs secret_string_wo_version"},
		{"role policy", "aws_iam_role_policy", attrs{"role": "r", "policy": "{"}, "is not JSON"},
		{"scaling bounds", "aws_appautoscaling_target", attrs{"min_capacity": 3, "max_capacity": 2, "resource_id": "r", "scalable_dimension": "d", "service_namespace": "ecs"}, "above max_capacity"},
		{"service percentages", "aws_ecs_service", attrs{"name": "s", "deployment_minimum_healthy_percent": 100, "deployment_maximum_percent": 100}, "leaves no room"},
		{"zone rebalancing without room", "aws_ecs_service", attrs{"name": "s", "deployment_maximum_percent": 100, "availability_zone_rebalancing": "ENABLED"}, "above 100"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, ty, err := s.resource(c.kind)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := s.ValidateResourceTypeConfig(context.Background(), &tfprotov5.ValidateResourceTypeConfigRequest{
				TypeName: c.kind, Config: dynamic(t, fill(t, b, c.attrs), ty),
			})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range resp.Diagnostics {
				got = append(got, d.Detail)
			}
			text := strings.Join(got, "\n")
			if (c.refused == "") != (text == "") || !strings.Contains(text, c.refused) {
				t.Errorf("diagnostics %q, want %q", text, c.refused)
			}
		})
	}
}

// One resource from plan to read, with the write-only value given each time.
func TestWriteOnlyIsNeverReturned(t *testing.T) {
	t.Parallel()
	s := load(t)
	ctx := context.Background()
	const kind = "aws_secretsmanager_secret_version"
	b, ty, err := s.resource(kind)
	if err != nil {
		t.Fatal(err)
	}
	proposed := fill(t, b, map[string]any{"secret_id": "s", "secret_string_wo": "hidden", "secret_string_wo_version": 1})
	plan, err := s.PlanResourceChange(ctx, &tfprotov5.PlanResourceChangeRequest{
		TypeName: kind, PriorState: dynamic(t, cty.NullVal(ty), ty),
		ProposedNewState: dynamic(t, proposed, ty), Config: dynamic(t, proposed, ty),
	})
	if err != nil {
		t.Fatal(err)
	}
	planned := value(t, plan.PlannedState, ty)
	if planned.GetAttr("arn").IsKnown() {
		t.Error("a computed attribute is known at plan")
	}
	apply, err := s.ApplyResourceChange(ctx, &tfprotov5.ApplyResourceChangeRequest{
		TypeName: kind, PriorState: dynamic(t, cty.NullVal(ty), ty), PlannedState: plan.PlannedState, Config: dynamic(t, proposed, ty),
	})
	if err != nil {
		t.Fatal(err)
	}
	read, err := s.ReadResource(ctx, &tfprotov5.ReadResourceRequest{TypeName: kind, CurrentState: dynamic(t, proposed, ty)})
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]*tfprotov5.DynamicValue{"plan": plan.PlannedState, "apply": apply.NewState, "read": read.NewState} {
		if v := value(t, d, ty).GetAttr("secret_string_wo"); !v.IsNull() {
			t.Errorf("%s returned the write-only value", name)
		}
	}
	if v := value(t, apply.NewState, ty); !v.IsWhollyKnown() {
		t.Errorf("apply left unknown values: %#v", v)
	}
}

func TestPlanOfAnUnchangedResourceIsEmpty(t *testing.T) {
	t.Parallel()
	s := load(t)
	ctx := context.Background()
	b, ty, err := s.resource("aws_lb")
	if err != nil {
		t.Fatal(err)
	}
	plan := func(prior, proposed cty.Value) *tfprotov5.PlanResourceChangeResponse {
		t.Helper()
		r, err := s.PlanResourceChange(ctx, &tfprotov5.PlanResourceChangeRequest{TypeName: "aws_lb", PriorState: dynamic(t, prior, ty), ProposedNewState: dynamic(t, proposed, ty)})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := plan(cty.NullVal(ty), fill(t, b, map[string]any{"name": "edge", "enable_deletion_protection": true}))
	applied, err := s.ApplyResourceChange(ctx, &tfprotov5.ApplyResourceChangeRequest{TypeName: "aws_lb", PlannedState: first.PlannedState})
	if err != nil {
		t.Fatal(err)
	}
	state := value(t, applied.NewState, ty)
	if got := value(t, plan(state, state).PlannedState, ty); !got.RawEquals(state) {
		t.Errorf("an unchanged resource plans a change: %#v", got)
	}
	m := state.AsValueMap()
	m["name"] = cty.StringVal("other")
	if r := plan(state, cty.ObjectVal(m)); len(r.RequiresReplace) != 1 {
		t.Errorf("a new name requires %d replacements, want 1", len(r.RequiresReplace))
	}
	gone, err := s.ApplyResourceChange(ctx, &tfprotov5.ApplyResourceChangeRequest{TypeName: "aws_lb", PriorState: dynamic(t, state, ty), PlannedState: dynamic(t, cty.NullVal(ty), ty)})
	if err != nil {
		t.Fatal(err)
	}
	if len(gone.Diagnostics) == 0 {
		t.Error("a protected load balancer was deleted")
	}
}

func TestDataSourceWithoutAnAnswerIsRefused(t *testing.T) {
	t.Parallel()
	s := load(t)
	ask := func(kind string) *tfprotov5.ReadDataSourceResponse {
		t.Helper()
		b := &s.schema.Data[kind].Block
		r, err := s.ReadDataSource(context.Background(), &tfprotov5.ReadDataSourceRequest{TypeName: kind, Config: dynamic(t, fill(t, b, nil), b.value())})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := ask("aws_region"); len(r.Diagnostics) != 0 || r.State == nil {
		t.Errorf("aws_region: %v", r.Diagnostics)
	}
	if r := ask("aws_ip_ranges"); len(r.Diagnostics) == 0 {
		t.Error("aws_ip_ranges was answered with invented values")
	}
}
