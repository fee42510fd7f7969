package kongfile

// This file collects the entities of a configuration and resolves what they
// refer to, nested or flat, as Kong's declarative loader does.

import (
	"fmt"
	"slices"
	"strings"
)

// entity is what services, routes, plugins and upstreams have in common.
type entity struct {
	*node
	where string
}

type service struct {
	entity
	enabled bool
}

type route struct {
	entity
	service   *service
	protocols []string
	broken    bool // its reference leads nowhere
}

type plugin struct {
	entity
	kind      string // the plugin's name
	enabled   bool
	protocols []string
	route     *route
	service   *service
	consumer  string // what it is bound to besides, "" for nothing
	broken    bool   // a reference leads nowhere: it covers nothing
	used      bool   // some route's requests meet it
	exempt    []exemption
}

type target struct {
	entity
	upstream string
}

// owner is what an entity is nested under.
type owner struct {
	service  *service
	route    *route
	consumer string
	upstream string
}

type check struct {
	report     Report
	serviceSet []*service
	routeSet   []*route
	pluginSet  []*plugin
	targetSet  []*target
	unresolved []func() // references, once all entities are known

	serviceIndex index[service]
	routeIndex   index[route]
}

func (c *check) add(s Severity, where, format string, args ...any) {
	c.report.Findings = append(c.report.Findings, Finding{Severity: s, Where: where, What: fmt.Sprintf(format, args...)})
}

// sections are the entities that Kong 3.9 and its bundled plugins know and that
// open no way to an upstream by themselves.
var sections = []string{
	"_format_version", "_transform", "_comment", "_ignore",
	"services", "routes", "plugins", "consumers", "upstreams", "targets", "certificates", "ca_certificates", "snis",
	"vaults", "keys", "key_sets", "parameters", "tags", "workspaces", "filter_chains", "clustering_data_planes",
	"acls", "acme_storage", "basicauth_credentials", "hmacauth_credentials", "jwt_secrets", "keyauth_credentials",
	"oauth2_authorization_codes", "oauth2_credentials", "oauth2_tokens", "ratelimiting_metrics", "sessions",
}

// walk collects the entities under n. Kong nests an entity under any other that
// it has a reference to (a service under a certificate, say), so every list is
// looked into, whatever its name.
func (c *check) walk(n *node, path string, o owner) {
	for _, key := range n.keys {
		v := n.get(key)
		if v == nil || key == "_ignore" || key == "_comment" { // Kong skips the two as well
			continue
		}
		if path == "" && !slices.Contains(sections, key) && key != "consumer_groups" {
			c.add(Note, quoteName(key)+at(v), "a section that the open-source Kong does not know; services, routes and plugins in it were looked at, nothing else")
		}
		if path == "" && key == "_info" && v.get("defaults") != nil {
			c.add(Open, quoteName(key)+at(v), "has defaults, which decK writes into the entities and which are not applied here; check what is in force (deck gateway dump)")
		}
		collected := key == "services" || key == "routes" || key == "plugins" || key == "targets" && (path == "" || o.upstream != "")
		if v.kind != kindList {
			if collected {
				c.add(Open, join(path, key)+at(v), "is %s where Kong expects a list, and would refuse the file", v.kind)
			}
			continue
		}
		for i, item := range v.items {
			here := fmt.Sprintf("%s[%d]", join(path, key), i)
			if item.kind != kindMap {
				if collected {
					c.add(Open, here+at(item), "is %s where Kong expects a mapping, and would refuse the file", item.kind)
				}
				continue
			}
			if _, there := item.fields["ws_id"]; there {
				c.add(Open, here+at(item), "has the field ws_id, which a declarative file does not know; Kong would refuse the file")
			}
			inner := owner{}
			switch key {
			case "services":
				s := c.addService(item, here)
				inner.service = s
			case "routes":
				inner.route = c.addRoute(item, here, o)
			case "plugins":
				c.addPlugin(item, here, o)
				continue
			case "consumers", "consumer_groups":
				inner.consumer = describe(strings.TrimSuffix(key, "s"), here, item, "username", "name", "custom_id")
			case "upstreams":
				inner.upstream = item.str("name")
			case "targets":
				c.targetSet = append(c.targetSet, &target{entity{item, describe("target", here, item, "target")}, firstOf(o.upstream, reference(item.get("upstream")))})
			}
			c.walk(item, here, inner)
		}
	}
}

func (c *check) entity(kind, here string, n *node, names ...string) entity {
	return entity{n, describe(kind, here, n, names...)}
}

func (c *check) addService(n *node, here string) *service {
	s := &service{entity: c.entity("service", here, n, "name")}
	s.enabled = c.flag(s.entity, "enabled", true, true)
	c.serviceSet = append(c.serviceSet, s)
	return s
}

func (c *check) addRoute(n *node, here string, o owner) *route {
	r := &route{entity: c.entity("route", here, n, "name"), service: o.service}
	r.protocols = c.protocols(r.entity, []string{"http", "https"})
	if ref := n.get("service"); ref != nil && o.service == nil {
		c.unresolved = append(c.unresolved, func() {
			r.service = lookup(c, r.entity, "service", ref, c.serviceIndex)
			r.broken = r.service == nil
		})
	}
	c.routeSet = append(c.routeSet, r)
	return r
}

func (c *check) addPlugin(n *node, here string, o owner) {
	p := &plugin{kind: n.str("name"), route: o.route, service: o.service, consumer: o.consumer}
	name := "plugin"
	if p.kind != "" {
		name += " " + quoteName(p.kind)
	}
	p.entity = c.entity(name, here, n, "instance_name")
	if p.kind == "" {
		c.add(Open, p.where, "has no name; Kong would refuse the file")
	}
	// Kong knows no plugins elsewhere; such a one must not count as global.
	if o.service == nil && o.route == nil && o.consumer == "" && !strings.HasPrefix(here, "plugins[") {
		c.add(Open, p.where, "is nested in %s, where Kong has no plugins; Kong would refuse the file", here[:strings.LastIndexByte(here, '.')])
		p.broken = true
	}
	// Whatever is no boolean is no working gate here, and a finding.
	p.enabled = c.flag(p.entity, "enabled", true, false)
	p.protocols = c.protocols(p.entity, []string{"grpc", "grpcs", "http", "https"})
	if ref := n.get("route"); ref != nil && o.route == nil {
		c.unresolved = append(c.unresolved, func() {
			p.route = lookup(c, p.entity, "route", ref, c.routeIndex)
			p.broken = p.broken || p.route == nil
		})
	}
	if ref := n.get("service"); ref != nil && o.service == nil {
		c.unresolved = append(c.unresolved, func() {
			p.service = lookup(c, p.entity, "service", ref, c.serviceIndex)
			p.broken = p.broken || p.service == nil
		})
	}
	for _, key := range []string{"consumer", "consumer_group"} {
		if ref := n.get(key); ref != nil && p.consumer == "" {
			p.consumer = key + " " + quoteName(reference(ref))
		}
	}
	c.pluginSet = append(c.pluginSet, p)
}

// resolve follows the references. It also refuses two entities of one name:
// Kong would refuse them, and a reference to one of them would mean either.
func (c *check) resolve() {
	c.serviceIndex = indexOf(c.serviceSet, func(s *service) *node { return s.node })
	c.routeIndex = indexOf(c.routeSet, func(r *route) *node { return r.node })
	for _, f := range c.unresolved {
		f()
	}
	seen := map[string]string{}
	once := func(kind string, e entity) {
		for _, key := range []string{"name", "id"} {
			v := e.str(key)
			if v == "" {
				continue
			}
			k := kind + "\x00" + key + "\x00" + v
			if first, dup := seen[k]; dup {
				c.add(Open, e.where, "has the %s of %s; Kong would refuse the file", key, first)
			} else {
				seen[k] = e.where
			}
		}
	}
	for _, s := range c.serviceSet {
		once("service", s.entity)
	}
	for _, r := range c.routeSet {
		once("route", r.entity)
	}
}

// index finds entities by what refers to them.
type index[E any] struct{ name, id map[string]*E }

func indexOf[E any](set []*E, of func(*E) *node) index[E] {
	x := index[E]{map[string]*E{}, map[string]*E{}}
	for _, e := range set {
		n := of(e)
		if v := n.str("name"); v != "" && x.name[v] == nil {
			x.name[v] = e
		}
		if v := n.str("id"); v != "" && x.id[v] == nil {
			x.id[v] = e
		}
	}
	return x
}

// lookup finds the entity that ref names: by name, then by id, as Kong does.
func lookup[E any](c *check, from entity, kind string, ref *node, x index[E]) *E {
	key := reference(ref)
	if e := x.name[key]; e != nil {
		return e
	}
	if e := x.id[key]; e != nil {
		return e
	}
	c.add(Open, from.where, "refers to the %s %s, which the file does not have; Kong would refuse the file", kind, quote(key))
	return nil
}

// reference returns the name or id in a reference: a string, or a mapping with
// one of the two, as decK writes it.
func reference(n *node) string {
	if n == nil {
		return ""
	}
	if n.kind == kindString {
		return n.text
	}
	return firstOf(n.str("id"), n.str("name"), n.str("username"))
}

func (c *check) flag(e entity, key string, absent, invalid bool) bool {
	v := e.get(key)
	switch {
	case v == nil:
		return absent
	case v.kind == kindBool:
		return v.truth
	}
	c.add(Open, e.where, "%s is %s where Kong expects true or false, and would refuse the file", key, v.kind)
	return invalid
}

var (
	httpProtocols   = []string{"http", "https", "grpc", "grpcs"}
	streamProtocols = []string{"tcp", "tls", "udp", "tls_passthrough"}
)

func (c *check) protocols(e entity, absent []string) []string {
	v := e.get("protocols")
	if v == nil {
		return absent
	}
	var list []string
	for _, item := range v.items {
		if item.kind == kindString && (slices.Contains(httpProtocols, item.text) || slices.Contains(streamProtocols, item.text)) {
			list = append(list, item.text)
		}
	}
	if len(list) == 0 || len(list) != len(v.items) {
		c.add(Open, e.where, "protocols must be a list out of http, https, grpc, grpcs, tcp, tls, udp, tls_passthrough; Kong would refuse the file")
	}
	return list
}

// describe names an entity for a reader of the file.
func describe(kind, here string, n *node, names ...string) string {
	for _, key := range names {
		if v := n.str(key); v != "" {
			return kind + " " + quoteName(v) + at(n)
		}
	}
	if kind == "service" || kind == "route" {
		return here + at(n)
	}
	return kind + ", " + here + at(n)
}

// quoteName writes plain names bare and quotes the rest.
func quoteName(s string) string {
	plain := s != "" && len(s) <= 80
	for i := 0; i < len(s) && plain; i++ {
		ch := s[i]
		plain = ch == '-' || ch == '_' || ch == '.' || '0' <= ch && ch <= '9' || 'a' <= ch && ch <= 'z' || 'A' <= ch && ch <= 'Z'
	}
	if plain {
		return s
	}
	return quote(s)
}

func at(n *node) string {
	if n.line == 0 {
		return ""
	}
	return fmt.Sprintf(" (line %d)", n.line)
}

func join(path, key string) string {
	if path == "" {
		return quoteName(key)
	}
	return path + "." + quoteName(key)
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
