package kongfile

// This file follows every route to its upstream and asks which instance of the
// gate, if any, Kong runs on the way.

import (
	"slices"
	"strings"
)

// scopeKey is what Kong looks a plugin's instance up by; a consumer is never
// known when the gate runs.
type scopeKey struct {
	route   *route
	service *service
}

// routes reports every route whose requests reach an upstream without an
// enforcing gate, and gates that decide for no route.
func (c *check) routes() {
	instances := map[scopeKey]*plugin{}
	disabled := map[scopeKey]*plugin{}
	for _, p := range c.pluginSet {
		if p.kind != PluginName || p.broken || p.consumer != "" {
			continue
		}
		k := scopeKey{p.route, p.service}
		if !p.enabled {
			disabled[k] = p
		} else if intersects(p.protocols, httpProtocols) {
			instances[k] = p
		}
	}
	served := 0
	for _, r := range c.routeSet {
		if r.broken || r.service != nil && !r.service.enabled {
			continue
		}
		served++
		if intersects(r.protocols, streamProtocols) {
			c.add(Open, r.where, "is a stream route (%s): no HTTP plugin runs on it, so no gate can", strings.Join(r.protocols, ", "))
		}
		if !intersects(r.protocols, httpProtocols) {
			continue
		}
		scopes := r.scopes()
		var gate, off *plugin
		for _, k := range scopes {
			if p := instances[k]; p != nil {
				gate = p
				break
			}
			if p := disabled[k]; p != nil && off == nil {
				off = p
			}
		}
		if gate == nil {
			c.ungated(r, off)
			continue
		}
		gate.used = true
		if off != nil {
			c.add(Note, r.where, "%s is disabled; Kong then takes %s", off.where, gate.where)
		}
		for _, proto := range r.protocols {
			if slices.Contains(httpProtocols, proto) && !slices.Contains(gate.protocols, proto) {
				c.add(Open, r.where, "accepts %s, which is not among the protocols of %s; Kong 3.9 runs it all the same but documents that it does not: name %s there too", proto, gate.where, proto)
			}
		}
		if gate.get("config").str("mode") == "report" {
			c.add(Open, r.where, "is behind a gate in report mode, which lets every request pass: %s", gate.where)
			c.report.Findings[len(c.report.Findings)-1].reporting = true
		}
		c.exempted(r, gate)
	}
	c.report.Routes = served
	if served == 0 {
		c.add(Note, "routes", "the file has no route that Kong would serve")
		return
	}
	for _, p := range c.pluginSet {
		if p.kind == PluginName && p.enabled && !p.used && !p.broken && p.consumer == "" && intersects(p.protocols, httpProtocols) {
			c.add(Note, p.where, "decides for no route of this file")
		}
	}
}

// scopes returns the scopes under which Kong looks for a plugin of the route,
// the winning one first (plugins_iterator.lua, without the consumer's).
func (r *route) scopes() []scopeKey {
	var list []scopeKey
	if r.service != nil {
		list = append(list, scopeKey{r, r.service})
	}
	list = append(list, scopeKey{r, nil})
	if r.service != nil {
		list = append(list, scopeKey{nil, r.service})
	}
	return append(list, scopeKey{nil, nil})
}

// selfContained are the bundled plugins that reach nothing, whatever their
// configuration: they answer, refuse or rewrite out of Kong's own memory and run
// no code of the file. With any other one a route needs no service to lead on.
var selfContained = []string{
	"acl", "basic-auth", "bot-detection", "correlation-id", "cors", "hmac-auth", "ip-restriction", "jwt", "key-auth",
	"prometheus", "redirect", "request-size-limiting", "request-termination", "response-transformer", "standard-webhooks",
}

func (c *check) ungated(r *route, off *plugin) {
	hint := ""
	if off != nil {
		hint = "; " + off.where + " is disabled"
	}
	if r.service != nil {
		c.add(Open, r.where, "reaches %s without a gate%s", r.service.where, hint)
		return
	}
	if p := c.caller(r); p != nil {
		c.add(Open, r.where, "has no service, but %s may call a backend for it without a gate%s", p.where, hint)
		return
	}
	c.add(Note, r.where, "has no gate and no service: Kong answers by itself")
}

// caller returns a plugin that may reach something for the route, nil for none.
func (c *check) caller(r *route) *plugin {
	scopes := r.scopes()
	for _, p := range c.pluginSet {
		if p.kind == PluginName || !p.enabled || slices.Contains(selfContained, p.kind) {
			continue
		}
		if p.broken || p.consumer != "" || slices.Contains(scopes, scopeKey{p.route, p.service}) {
			return p
		}
	}
	return nil
}

// bundled are the plugins of Kong 3.9; all have a lower priority than the gate.
var bundled = []string{
	"acl", "acme", "ai-prompt-decorator", "ai-prompt-guard", "ai-prompt-template", "ai-proxy", "ai-request-transformer",
	"ai-response-transformer", "aws-lambda", "azure-functions", "basic-auth", "bot-detection", "correlation-id", "cors",
	"datadog", "file-log", "grpc-gateway", "grpc-web", "hmac-auth", "http-log", "ip-restriction", "jwt", "key-auth",
	"ldap-auth", "loggly", "oauth2", "opentelemetry", "post-function", "pre-function", "prometheus", "proxy-cache",
	"rate-limiting", "redirect", "request-size-limiting", "request-termination", "request-transformer",
	"response-ratelimiting", "response-transformer", "session", "standard-webhooks", "statsd", "syslog", "tcp-log",
	"udp-log", "zipkin",
}

// others reports what else in the file could run before the gate.
func (c *check) others() {
	known := map[string]bool{}
	for _, p := range c.pluginSet {
		if p.kind == PluginName || p.kind == "" || !p.enabled {
			continue
		}
		if p.get("ordering").get("before") != nil {
			c.add(Open, p.where, "is ordered before other plugins: one that answers before the gate opens a door")
		}
		if p.kind == "pre-function" || p.kind == "post-function" {
			for _, phase := range []string{"certificate", "rewrite"} {
				if len(p.get("config").list(phase)) > 0 {
					c.add(Note, p.where, "runs code of its own in the %s phase, before the gate", phase)
				}
			}
		}
		if !slices.Contains(bundled, p.kind) && !known[p.kind] {
			known[p.kind] = true
			c.add(Note, p.where, "is not one of Kong's bundled plugins: make sure that its priority is below the gate's (%d)", Priority)
		}
	}
}

// Priority is the gate's place in Kong's order of plugins: above pre-function,
// the highest of the bundled ones.
const Priority = 1000001
