package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// The module beside the attester, and the page that describes both.
const (
	moduleDir    = "../terraform/"
	timeoutsPage = "../../docs/timeouts.md"
)

// module evaluates what the Terraform module sets, with its defaults.
type module struct {
	t         *testing.T
	variables map[string]cty.Value
	locals    map[string]hclsyntax.Expression
}

func readModule(t *testing.T) *module {
	m := &module{t: t, variables: map[string]cty.Value{}, locals: map[string]hclsyntax.Expression{}}
	for _, name := range []string{"variables.tf", "ecs.tf"} {
		source, err := os.ReadFile(moduleDir + name)
		if err != nil {
			t.Fatal(err)
		}
		file, problems := hclsyntax.ParseConfig(source, name, hcl.InitialPos)
		if problems.HasErrors() {
			t.Fatal(problems)
		}
		for _, block := range file.Body.(*hclsyntax.Body).Blocks {
			switch block.Type {
			case "variable":
				if def := block.Body.Attributes["default"]; def != nil {
					if value, problems := def.Expr.Value(nil); !problems.HasErrors() {
						m.variables[block.Labels[0]] = value
					}
				}
			case "locals":
				for name, attribute := range block.Body.Attributes {
					m.locals[name] = attribute.Expr
				}
			}
		}
	}
	return m
}

// duration evaluates an expression to a duration; a bare number is seconds.
func (m *module) duration(what string, e hclsyntax.Expression) time.Duration {
	m.t.Helper()
	context := &hcl.EvalContext{Variables: map[string]cty.Value{"var": cty.ObjectVal(m.variables)}}
	if drain := m.locals["drain"]; drain != nil {
		value, problems := drain.Value(context)
		if problems.HasErrors() {
			m.t.Fatal(problems)
		}
		context.Variables["local"] = cty.ObjectVal(map[string]cty.Value{"drain": value})
	}
	value, problems := e.Value(context)
	if problems.HasErrors() {
		m.t.Fatalf("%s: %v", what, problems)
	}
	text, err := convert.Convert(value, cty.String)
	if err != nil {
		m.t.Fatalf("%s: %v", what, err)
	}
	s := text.AsString()
	if !strings.HasSuffix(s, "s") {
		s += "s"
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		m.t.Fatalf("%s: %v", what, err)
	}
	return d
}

func (m *module) variable(name string) time.Duration {
	m.t.Helper()
	value, ok := m.variables[name]
	if !ok {
		m.t.Fatalf("the module has no variable %q with a default", name)
	}
	return m.duration(name, &hclsyntax.LiteralValueExpr{Val: value})
}

// entry evaluates one entry of the objects that a local is made of.
func (m *module) entry(local, key string) time.Duration {
	m.t.Helper()
	var found hclsyntax.Expression
	hclsyntax.VisitAll(m.locals[local].(hclsyntax.Node), func(node hclsyntax.Node) hcl.Diagnostics {
		if object, ok := node.(*hclsyntax.ObjectConsExpr); ok {
			for _, item := range object.Items {
				if hcl.ExprAsKeyword(item.KeyExpr) == key {
					found = item.ValueExpr
				}
			}
		}
		return nil
	})
	if found == nil {
		m.t.Fatalf("local.%s of the module has no %q", local, key)
	}
	return m.duration(key, found)
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	c, err := parseSettings(nil, environ(enough(t)))
	if err != nil {
		t.Fatal(err)
	}
	s, m := c.settings, readModule(t)

	// What is not ours: nginx's and Kong's defaults, and an NLB's fixed value.
	const kongIdle, nlbIdle = 75 * time.Second, 350 * time.Second

	albIdle := m.variable("idle_timeout")
	nodeClientIdle := m.entry("nginx", "client_keepalive_timeout")
	nodeIdle := m.entry("nginx", "attester_keepalive_timeout")
	nodeRead := m.entry("nginx", "attester_read_timeout")
	nodeDrain := m.duration("drain", m.locals["drain"])
	stop := m.variable("stop_timeout")

	for _, rule := range []struct {
		name         string
		first, later time.Duration
		orEqual      bool
	}{
		{"the ALB closes before the node", albIdle, nodeClientIdle, false},
		{"the node closes before the attester", nodeIdle, s.listenIdleTimeout, false},
		{"the attester closes before Kong", s.idleTimeout, kongIdle, false},
		{"the attester closes before the NLB forgets", s.idleTimeout, nlbIdle, false},
		{"the node waits longer than the attester may take", s.dialTimeout + s.responseTimeout, nodeRead, false},
		{"the ALB waits longer than the node", nodeRead, albIdle, false},
		{"the node drains before it is killed", nodeDrain, stop, false},
		{"the attester finishes before it is killed", s.shutdownTimeout, stop, false},
		{"the node's last status is believed until it is gone", nodeDrain, s.nodeStopTimeout, false},
		{"the listener closes before the requests are cut", s.shutdownDelay, s.shutdownTimeout, false},
		{"connections follow new addresses within 30s", s.connectionMaxAge, 30 * time.Second, true},
	} {
		if rule.first > rule.later || rule.first == rule.later && !rule.orEqual {
			t.Errorf("%s: %v and %v", rule.name, rule.first, rule.later)
		}
	}

	// The module overrides some of the attester's defaults: with what it sets
	// by itself the rules hold as well.
	for _, override := range []struct {
		name       string
		module     time.Duration
		ofAttester time.Duration
	}{
		{"ATTESTER_RESPONSE_TIMEOUT", m.entry("attester_environment", "ATTESTER_RESPONSE_TIMEOUT"), s.responseTimeout},
		{"ATTESTER_SHUTDOWN_TIMEOUT", m.entry("attester_environment", "ATTESTER_SHUTDOWN_TIMEOUT"), s.shutdownTimeout},
		{"ATTESTER_NODE_STOP_TIMEOUT", m.entry("attester_environment", "ATTESTER_NODE_STOP_TIMEOUT"), s.nodeStopTimeout},
	} {
		if override.module != override.ofAttester {
			t.Errorf("%s: the module sets %v, the attester's default is %v", override.name, override.module, override.ofAttester)
		}
	}

	page, err := os.ReadFile(timeoutsPage)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []struct {
		value time.Duration
		name  string
	}{
		{albIdle, "`idle_timeout` of the module"},
		{nodeClientIdle, "`client_keepalive_timeout` of the node"},
		{nodeIdle, "`attester_keepalive_timeout` of the node"},
		{s.listenIdleTimeout, "`ATTESTER_LISTEN_IDLE_TIMEOUT`"},
		{s.idleTimeout, "`ATTESTER_IDLE_TIMEOUT`"},
		{s.connectionMaxAge, "`ATTESTER_CONNECTION_MAX_AGE`"},
		{kongIdle, "`keepalive_timeout` of Kong's nginx"},
		{s.responseTimeout, "`ATTESTER_RESPONSE_TIMEOUT`"},
		{s.dialTimeout, "`ATTESTER_DIAL_TIMEOUT`"},
		{nodeRead, "`attester_read_timeout` of the node"},
		{m.variable("deregistration_delay"), "`deregistration_delay` of the module"},
		{nodeDrain, "`worker_shutdown_timeout` of the node"},
		{s.nodeStopTimeout, "`ATTESTER_NODE_STOP_TIMEOUT`"},
		{s.shutdownTimeout, "`ATTESTER_SHUTDOWN_TIMEOUT`"},
		{s.shutdownDelay, "`ATTESTER_SHUTDOWN_DELAY`"},
		{stop, "`stop_timeout` of the module"},
	} {
		want := fmt.Sprintf("%.0fs: %s", line.value.Seconds(), line.name)
		if !strings.Contains(string(page), want) {
			t.Errorf("docs/timeouts.md does not say %q", want)
		}
	}
}
