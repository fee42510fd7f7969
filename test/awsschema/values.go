// What is planned and what "apply" invents: pure functions on the values of a block.
package awsschema

import (
	"crypto/rand"
	"encoding/hex"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// account owns everything that the stand-in invents.
const account = "123456789012"

// each applies f to every element of the nested blocks of one type and rebuilds the collection.
func (n *nestedBlock) each(v cty.Value, f func(cty.Value) cty.Value) cty.Value {
	if v.IsNull() || !v.IsKnown() || n.Nesting == "single" || v.LengthInt() == 0 {
		return v
	}
	var out []cty.Value
	for it := v.ElementIterator(); it.Next(); {
		_, e := it.Element()
		out = append(out, f(e))
	}
	if n.Nesting == "list" {
		return cty.ListVal(out)
	}
	return cty.SetVal(out)
}

// walk rebuilds a block's value, with f applied to every attribute at every depth.
func (b *block) walk(v cty.Value, f func(name string, a *attribute, v cty.Value) cty.Value) cty.Value {
	if v.IsNull() || !v.IsKnown() {
		return v
	}
	m := v.AsValueMap()
	for _, name := range sorted(b.Attributes) {
		m[name] = f(name, b.Attributes[name], m[name])
	}
	for name, n := range b.BlockTypes {
		m[name] = n.each(m[name], func(e cty.Value) cty.Value { return n.Block.walk(e, f) })
	}
	return cty.ObjectVal(m)
}

// hideWriteOnly sets every write-only attribute to null. Terraform refuses a provider that
// returns one from a plan, an apply or a read.
func (b *block) hideWriteOnly(v cty.Value) cty.Value {
	return b.walk(v, func(_ string, a *attribute, v cty.Value) cty.Value {
		if a.WriteOnly {
			return cty.NullVal(a.Type.Type)
		}
		return v
	})
}

// unknownComputed marks as unknown every computed value that the configuration leaves open.
func (b *block) unknownComputed(v cty.Value) cty.Value {
	return b.walk(v, func(_ string, a *attribute, v cty.Value) cty.Value {
		if a.Computed && v.IsNull() {
			return cty.UnknownVal(a.Type.Type)
		}
		return v
	})
}

// invent replaces every unknown value by a plausible one.
func (b *block) invent(kind, region string, v cty.Value) cty.Value {
	in := inventor{kind: kind, region: region, uid: randomHex()}
	for _, key := range []string{"name", "family", "bucket", "domain_name"} {
		if v.Type().HasAttribute(key) {
			if s, ok := text(v.GetAttr(key)); ok {
				in.name = s
				break
			}
		}
	}
	if in.name == "" {
		in.name = "tf-" + in.uid[:12]
	}
	return b.walk(v, func(name string, a *attribute, v cty.Value) cty.Value {
		if v.IsWhollyKnown() {
			return v
		}
		if !v.IsKnown() {
			return in.value(name, a.Type.Type)
		}
		known, err := cty.Transform(v, func(_ cty.Path, e cty.Value) (cty.Value, error) {
			if !e.IsKnown() {
				return in.value(name, e.Type()), nil
			}
			return e, nil
		})
		if err != nil { // the function above returns none
			panic(err)
		}
		return known
	})
}

type inventor struct{ kind, region, name, uid string }

// arns are the shapes of the ARNs that configurations take apart or that others refer to.
var arns = map[string]string{
	"aws_acm_certificate":       "acm:{region}:{account}:certificate/{uuid}",
	"aws_cloudwatch_log_group":  "logs:{region}:{account}:log-group:{name}",
	"aws_ecr_repository":        "ecr:{region}:{account}:repository/{name}",
	"aws_ecs_cluster":           "ecs:{region}:{account}:cluster/{name}",
	"aws_ecs_service":           "ecs:{region}:{account}:service/cluster/{name}",
	"aws_ecs_task_definition":   "ecs:{region}:{account}:task-definition/{name}:1",
	"aws_iam_policy":            "iam::{account}:policy/{name}",
	"aws_iam_role":              "iam::{account}:role/{name}",
	"aws_kms_key":               "kms:{region}:{account}:key/{uuid}",
	"aws_lb":                    "elasticloadbalancing:{region}:{account}:loadbalancer/app/{name}/{hash}",
	"aws_lb_listener":           "elasticloadbalancing:{region}:{account}:listener/app/lb/{hash}/{hash}",
	"aws_lb_target_group":       "elasticloadbalancing:{region}:{account}:targetgroup/{name}/{hash}",
	"aws_s3_bucket":             "s3:::{name}",
	"aws_secretsmanager_secret": "secretsmanager:{region}:{account}:secret:{name}-AbCdEf",
	"aws_sns_topic":             "sns:{region}:{account}:{name}",
	"aws_wafv2_web_acl":         "wafv2:{region}:{account}:regional/webacl/{name}/{uuid}",
}

// ids are the prefixes of ids that are neither a name nor an ARN.
var ids = map[string]string{
	"aws_eip": "eipalloc-", "aws_internet_gateway": "igw-", "aws_nat_gateway": "nat-",
	"aws_route_table": "rtb-", "aws_route_table_association": "rtbassoc-",
	"aws_security_group": "sg-", "aws_subnet": "subnet-", "aws_vpc": "vpc-",
	"aws_vpc_endpoint": "vpce-", "aws_flow_log": "fl-",
	"aws_vpc_security_group_egress_rule": "sgr-", "aws_vpc_security_group_ingress_rule": "sgr-",
}

// idIsARN are the kinds whose id is their ARN.
var idIsARN = map[string]bool{
	"aws_acm_certificate": true, "aws_ecs_cluster": true, "aws_ecs_service": true,
	"aws_iam_policy": true, "aws_lb": true, "aws_lb_listener": true,
	"aws_lb_target_group": true, "aws_secretsmanager_secret": true, "aws_sns_topic": true,
}

func (in inventor) arn() string {
	shape, ok := arns[in.kind]
	if !ok {
		shape = "standin:{region}:{account}:" + strings.TrimPrefix(in.kind, "aws_") + "/{name}"
	}
	return "arn:aws:" + strings.NewReplacer(
		"{region}", in.region, "{account}", account, "{name}", in.name,
		"{hash}", in.uid[:16], "{uuid}", in.uuid(),
	).Replace(shape)
}

func (in inventor) uuid() string {
	u := in.uid
	return u[:8] + "-" + u[8:12] + "-" + u[12:16] + "-" + u[16:20] + "-" + u[20:32]
}

func (in inventor) value(name string, t cty.Type) cty.Value {
	switch {
	case t.IsListType():
		return cty.ListValEmpty(t.ElementType())
	case t.IsSetType():
		return cty.SetValEmpty(t.ElementType())
	case t.IsMapType():
		return cty.MapValEmpty(t.ElementType())
	case t == cty.Number:
		return cty.NumberIntVal(1)
	case t == cty.Bool:
		return cty.False
	case t != cty.String:
		return cty.NullVal(t)
	}
	return cty.StringVal(in.text(name))
}

func (in inventor) text(name string) string {
	switch name {
	case "id":
		if p, ok := ids[in.kind]; ok {
			return p + in.uid[:17]
		}
		if idIsARN[in.kind] {
			return in.arn()
		}
		return in.name
	case "arn":
		return in.arn()
	case "arn_suffix":
		arn := in.arn()
		if in.kind == "aws_lb" {
			return arn[strings.Index(arn, "/")+1:]
		}
		return arn[strings.LastIndex(arn, ":")+1:]
	case "dns_name":
		return in.name + "-" + in.uid[:9] + "." + in.region + ".elb.amazonaws.com"
	case "zone_id", "hosted_zone_id":
		return "Z" + strings.ToUpper(in.uid[:13])
	case "owner_id", "account_id":
		return account
	case "key_id":
		return in.uuid()
	case "prefix_list_id":
		return "pl-" + in.uid[:17]
	case "security_group_rule_id":
		return "sgr-" + in.uid[:17]
	case "repository_url":
		return account + ".dkr.ecr." + in.region + ".amazonaws.com/" + in.name
	case "name":
		return in.name
	case "ipv6_cidr_block":
		return "2001:db8:0:ff00::/56"
	case "public_ip":
		return "203.0.113.7"
	}
	return name + "-" + in.uid[:8]
}

// text is a known, non-null string.
func text(v cty.Value) (string, bool) {
	if v.IsNull() || !v.IsKnown() || v.Type() != cty.String {
		return "", false
	}
	return v.AsString(), true
}

func randomHex() string {
	var b [20]byte
	rand.Read(b[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(b[:])
}
