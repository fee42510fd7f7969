package edge

// Checks of a plan or a state that hold for every example.

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/test/edge/plan"
)

func checkWiring(t *testing.T, all []resource) {
	t.Helper()
	service := only(t, all, "aws_ecs_service")
	if got := block(t, service, "network_configuration")["assign_public_ip"]; got != false {
		t.Errorf("tasks get a public address: assign_public_ip is %v", got)
	}
	health := block(t, only(t, all, "aws_lb_target_group"), "health_check")
	if health["port"] != "8082" || health["path"] != "/readyz" {
		t.Errorf("the health check asks port %v, path %v; want the attester's 8082, /readyz", health["port"], health["path"])
	}
	lb := only(t, all, "aws_lb")
	if lb.Values["drop_invalid_header_fields"] != true || lb.Values["xff_header_processing_mode"] != "append" {
		t.Errorf("%s: invalid header fields or X-Forwarded-For are let through as they are", lb.Address)
	}
	for _, r := range plan.OfType(all, "aws_vpc_security_group_ingress_rule") {
		open := r.Values["cidr_ipv4"] == "0.0.0.0/0" || r.Values["cidr_ipv6"] == "::/0"
		if port, _ := r.Values["from_port"].(float64); open && port != 443 && port != 80 {
			t.Errorf("%s opens port %v to everybody", r.Address, port)
		}
	}
	for _, r := range plan.OfType(all, "aws_security_group") {
		for _, inline := range []string{"ingress", "egress"} {
			if rules, _ := r.Values[inline].([]any); len(rules) > 0 {
				t.Errorf("%s has inline %s rules", r.Address, inline)
			}
		}
	}
}

// wildcards are the statements of the module's roles that may hold a "*": action and resource.
var wildcards = []string{
	"ecr:GetAuthorizationToken on *",
	"ssmmessages:CreateControlChannel on *",
	"ssmmessages:CreateDataChannel on *",
	"ssmmessages:OpenControlChannel on *",
	"ssmmessages:OpenDataChannel on *",
	"logs:CreateLogStream on LOG_GROUP:log-stream:*",
	"logs:PutLogEvents on LOG_GROUP:log-stream:*",
}

type policy struct {
	Statement []struct {
		Sid, Effect      string
		Action, Resource []string
	}
}

// checkIAM holds the policies of the module's roles to what they may say.
func checkIAM(t *testing.T, all []resource, exec bool) {
	t.Helper()
	group, _ := only(t, all, "aws_cloudwatch_log_group").Values["arn"].(string)
	var stars, secrets []string
	for _, r := range plan.OfType(all, "aws_iam_role_policy") {
		text, _ := r.Values["policy"].(string)
		d := json.NewDecoder(strings.NewReader(text))
		var p policy
		if err := d.Decode(&p); err != nil {
			t.Fatalf("%s: %v", r.Address, err)
		}
		for _, s := range p.Statement {
			if s.Effect != "Allow" || len(s.Action) == 0 || len(s.Resource) == 0 {
				t.Errorf("%s: statement %q is not a list of actions allowed on a list of resources", r.Address, s.Sid)
			}
			for _, action := range s.Action {
				for _, on := range s.Resource {
					if action == "secretsmanager:GetSecretValue" {
						secrets = append(secrets, on)
					}
					if strings.Contains(action+on, "*") {
						stars = append(stars, action+" on "+strings.Replace(on, group, "LOG_GROUP", 1))
					}
				}
			}
		}
	}
	want := slices.DeleteFunc(slices.Clone(wildcards), func(s string) bool { return !exec && strings.HasPrefix(s, "ssmmessages:") })
	slices.Sort(want)
	slices.Sort(stars)
	if !slices.Equal(stars, want) {
		t.Errorf("wildcards in the policies:\n%s\nwant\n%s", strings.Join(stars, "\n"), strings.Join(want, "\n"))
	}
	if len(secrets) != 2 {
		t.Errorf("the execution role may read %q, want exactly two secrets", secrets)
	}
	for _, s := range secrets {
		if !strings.HasPrefix(s, "arn:aws:secretsmanager:eu-central-1:123456789012:secret:") {
			t.Errorf("the execution role may read %q, which is no secret", s)
		}
	}
	if roles := plan.OfType(all, "aws_iam_role"); len(roles) != 2 {
		t.Errorf("%d roles, want 2", len(roles))
	}
	for _, r := range plan.OfType(all, "aws_iam_role") {
		trust := fmt.Sprint(r.Values["assume_role_policy"])
		for _, part := range []string{`"Service":"ecs-tasks.amazonaws.com"`, `"aws:SourceAccount":"123456789012"`, `"aws:SourceArn":"arn:aws:ecs:eu-central-1:123456789012:*"`} {
			if !strings.Contains(trust, part) {
				t.Errorf("%s: the trust policy lacks %s", r.Address, part)
			}
		}
	}
}
