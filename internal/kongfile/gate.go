package kongfile

// This file judges the instances of the gate one by one: what Kong's schema
// would refuse, what makes the gate deny everything, and what is set wide.

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// Fields returns the names of the gate's configuration fields that Check knows,
// with a dot before the fields of a record.
func Fields() []string {
	return slices.Clone(gateFields)
}

// What the gate takes at the most, in entries of a list.
const (
	maxTokens       = 4
	maxApplications = 256
	maxSources      = 256
	maxHosts        = 32
)

var gateFields = []string{
	"mode", "proof", "jwks", "jwks_file", "tokens", "max_age", "clock_skew", "min_mode", "require_inspection",
	"applications", "allowed_sources", "allow_upgrade",
	"exempt", "exempt.path", "exempt.methods", "exempt.hosts", "exempt.sources",
	"replay", "replay.store", "replay.capacity",
	"replay.redis", "replay.redis.address", "replay.redis.username", "replay.redis.password", "replay.redis.database",
	"replay.redis.tls", "replay.redis.tls.enabled", "replay.redis.tls.ca_file", "replay.redis.tls.server_name",
	"replay.redis.timeout", "replay.redis.pool_size", "replay.redis.prefix", "replay.redis.on_error",
	"deny_status", "log",
}

// gates judges every instance of the gate and counts those that can run.
func (c *check) gates() {
	type scope struct {
		route    *route
		service  *service
		consumer string
	}
	taken := map[scope]string{}
	for _, p := range c.pluginSet {
		if p.kind != PluginName || !p.enabled {
			continue
		}
		c.report.Gates++
		c.gateConfig(p)
		if p.get("_config") != nil {
			c.add(Open, p.where, "takes fields from _plugin_configs, which decK writes into its config and which are not applied here; write them out, or check what is in force (deck gateway dump)")
		}
		if p.get("ordering") != nil {
			c.add(Open, p.where, "has an ordering of its own: only the gate's own priority is known to run before every other plugin")
		}
		if p.consumer != "" {
			c.add(Open, p.where, "is bound to the %s and never runs: a consumer is known only after authentication, which the gate runs before", p.consumer)
			continue
		}
		if len(p.protocols) > 0 && !intersects(p.protocols, httpProtocols) {
			c.add(Open, p.where, "never runs: its protocols (%s) are all stream protocols", strings.Join(p.protocols, ", "))
			continue
		}
		s := scope{p.route, p.service, p.consumer}
		if first, dup := taken[s]; dup && !p.broken {
			c.add(Open, p.where, "has the scope of %s: which of the two decides is not defined", first)
		} else if !p.broken {
			taken[s] = p.where
		}
	}
}

// config reads the fields of one record and reports those that Kong refuses.
type config struct {
	c     *check
	where string
	path  string // "config" or a record in it
	n     *node
}

func (g config) refuse(field, format string, args ...any) {
	g.c.add(Open, g.where, "%s.%s %s; Kong would refuse the file", g.path, quoteName(field), fmt.Sprintf(format, args...))
}

func (g config) denyAll(format string, args ...any) {
	g.c.add(Note, g.where, "%s: the gate denies every request (misconfigured)", fmt.Sprintf(format, args...))
}

// known reports the fields of n that the gate's schema does not have.
func (g config) known() {
	prefix := strings.TrimPrefix(strings.TrimPrefix(g.path, "config"), ".")
	if prefix != "" {
		prefix += "."
	}
	if g.n == nil {
		return
	}
	for _, k := range g.n.keys {
		if !slices.Contains(gateFields, prefix+k) || strings.Contains(k, ".") {
			g.refuse(k, "is no field of %s", PluginName)
		}
	}
}

func (g config) oneOf(field, absent string, allowed ...string) string {
	v := g.n.get(field)
	if v == nil {
		return absent
	}
	if v.kind != kindString || !slices.Contains(allowed, v.text) {
		g.refuse(field, "is %s; it must be one of %s", quote(v.text), strings.Join(allowed, ", "))
		return ""
	}
	return v.text
}

func (g config) integer(field string, lo, hi int64) {
	v := g.n.get(field)
	if v == nil {
		return
	}
	i, ok := integer(v)
	if !ok {
		g.refuse(field, "is %s; it must be an integer from %d to %d", quote(v.text), lo, hi)
	} else if i < lo || i > hi {
		g.refuse(field, "is %d; it must be from %d to %d", i, lo, hi)
	}
}

func integer(v *node) (int64, bool) {
	if v.kind != kindNumber {
		return 0, false
	}
	if i, err := strconv.ParseInt(v.text, 0, 64); err == nil {
		return i, true
	}
	f, err := strconv.ParseFloat(v.text, 64)
	i := int64(f)
	return i, err == nil && float64(i) == f
}

func (g config) boolean(field string, absent bool) bool {
	v := g.n.get(field)
	if v == nil {
		return absent
	}
	if v.kind != kindBool {
		g.refuse(field, "is %s; it must be true or false", v.kind)
		return absent
	}
	return v.truth
}

func (g config) text(field string) string {
	v := g.n.get(field)
	if v != nil && v.kind != kindString {
		g.refuse(field, "is %s; it must be a string", v.kind)
	}
	return g.n.str(field)
}

// atMost reports a list that has more entries than the gate takes.
func (g config) atMost(field string, most int) {
	if n := len(g.n.list(field)); n > most {
		g.refuse(field, "has %d entries; at most %d are allowed", n, most)
	}
}

func (g config) strings(field string) []string {
	v := g.n.get(field)
	if v == nil {
		return nil
	}
	list := []string{}
	for _, item := range v.items {
		if item.kind == kindString {
			list = append(list, item.text)
		}
	}
	if v.kind != kindList || len(list) != len(v.items) {
		g.refuse(field, "must be a list of strings")
	}
	return list
}

// prefixes reports addresses that the gate cannot read, and says whether the
// list leaves every source in.
func (g config) prefixes(field string) (wide bool) {
	list := g.strings(field)
	g.atMost(field, maxSources)
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if a, err2 := netip.ParseAddr(s); err != nil && err2 == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			g.denyAll("%s.%s holds %s, which is no CIDR such as 10.0.0.0/16", g.path, field, quote(s))
			continue
		}
		wide = wide || p.Bits() == 0
	}
	return wide || len(list) == 0
}

// external reports whether a value comes from outside the file: a vault of Kong
// or a variable of decK.
func external(s string) bool {
	return strings.HasPrefix(s, "{vault://") && strings.HasSuffix(s, "}") || strings.Contains(s, "${{")
}

// gateConfig reports on one instance's configuration.
func (c *check) gateConfig(p *plugin) {
	g := config{c, p.where, "config", p.get("config")}
	if g.n != nil && g.n.kind != kindMap {
		c.add(Open, p.where, "config is %s where Kong expects a mapping, and would refuse the file", g.n.kind)
		return
	}
	g.known()
	g.oneOf("mode", "enforce", "enforce", "report")
	proof := g.oneOf("proof", "signature", "signature", "token")
	inspection := g.oneOf("require_inspection", "active", "active", "any")
	minMode := g.oneOf("min_mode", "monitoring", "off", "monitoring", "safe_blocking", "block")
	g.oneOf("log", "denied", "denied", "all", "off")
	g.integer("max_age", 1, 300)
	g.integer("clock_skew", 0, 60)
	g.integer("deny_status", 400, 499)
	if v := g.n.get("deny_status"); v != nil {
		if i, ok := integer(v); ok && (i == 444 || i == 499) {
			g.refuse("deny_status", "is %d, at which nginx closes the connection without an answer", i)
		}
	}
	wide := g.prefixes("allowed_sources")
	c.gateKeys(g, proof)
	if proof == "token" {
		c.add(Note, p.where, "proof is token: a static secret that anyone who sees it can use, and that says nothing about the request")
		if wide {
			c.add(Note, p.where, "allowed_sources lets every peer present the token; list the addresses of the edge")
		}
		if inspection == "active" {
			g.denyAll("proof token needs require_inspection any, since a token cannot state that the node inspects")
		}
	} else if wide && g.n.get("allowed_sources") != nil && len(g.n.list("allowed_sources")) > 0 {
		c.add(Note, p.where, "allowed_sources holds a /0 and so lets every peer in")
	}
	if inspection == "any" {
		c.add(Note, p.where, "require_inspection is any: evidence of a node that is degraded or whose rules are old is accepted")
	}
	if minMode == "off" {
		c.add(Note, p.where, "min_mode is off: requests that the node was told not to analyse are accepted")
	}
	if g.boolean("allow_upgrade", false) {
		c.add(Note, p.where, "allow_upgrade is true: after the handshake a WebSocket's messages carry no evidence")
	}
	if v := g.n.get("applications"); v != nil {
		g.atMost("applications", maxApplications)
		bad := v.kind != kindList
		for _, item := range v.items {
			i, ok := integer(item)
			bad = bad || !ok || i < evidence.NoApplication || i == 0 || i > math.MaxInt32
		}
		if bad {
			g.refuse("applications", "must be a list of integers: -1, or 1 to %d", math.MaxInt32)
		}
	}
	c.gateReplay(g, proof)
	p.exempt = c.gateExempt(g)
}

// record returns a reader of the record in field, and whether there is one.
func (g config) record(field string) (config, bool) {
	n := g.n.get(field)
	if n == nil {
		return config{}, false
	}
	if n.kind != kindMap {
		g.refuse(field, "is %s; it must be a mapping", n.kind)
		return config{}, false
	}
	r := config{g.c, g.where, g.path + "." + field, n}
	r.known()
	return r, true
}

// gateReplay reports on the replay store.
func (c *check) gateReplay(g config, proof string) {
	r, ok := g.record("replay")
	if !ok {
		return
	}
	r.integer("capacity", 1000, 10_000_000)
	store := r.oneOf("store", "memory", "memory", "redis", "off")
	if store == "off" && proof != "token" {
		c.add(Note, g.where, "replay.store is off: captured evidence can be used again until it is older than max_age")
	}
	switch given := r.n.get("redis") != nil; {
	case given && store != "redis" && store != "":
		g.denyAll("replay.redis is set, but replay.store is %s", store)
	case !given && store == "redis":
		g.denyAll("replay.store is redis, but replay.redis is not set")
	}
	redis, ok := r.record("redis")
	if !ok {
		return
	}
	if redis.n.get("address") == nil {
		redis.refuse("address", "is missing")
	}
	if a := redis.text("address"); a != "" && !external(a) {
		host, port, err := net.SplitHostPort(a)
		if n, bad := strconv.Atoi(port); err != nil || host == "" || bad != nil || n < 1 || n > math.MaxUint16 || strings.ContainsAny(host, "/@") {
			g.denyAll("replay.redis.address is no host:port, such as redis.example.com:6379")
		}
	}
	if p := redis.text("password"); p != "" && !external(p) {
		c.add(Note, g.where, "replay.redis.password is a secret in clear; use a vault reference such as {vault://env/wallarm-gate-redis-password}")
	} else if p == "" && redis.text("username") != "" {
		g.denyAll("replay.redis.username is set without a password")
	}
	redis.integer("database", 0, 16384)
	redis.integer("timeout", 1, 1000)
	redis.integer("pool_size", 1, 256)
	if p := redis.text("prefix"); len(p) > 64 || redis.n.get("prefix") != nil && p == "" {
		redis.refuse("prefix", "has %d characters; 1 to 64 are allowed", len(p))
	}
	if redis.oneOf("on_error", "deny", "deny", "local") == "local" {
		c.add(Note, g.where, "replay.redis.on_error is local: while the server is down, captured evidence can be used once at each node")
	}
	if tls, ok := redis.record("tls"); ok {
		tls.text("server_name")
		if file := tls.text("ca_file"); file != "" && file[0] != '/' {
			tls.refuse("ca_file", "is %s; it must be an absolute path", quote(file))
		}
		if !tls.boolean("enabled", true) {
			c.add(Note, g.where, "replay.redis.tls.enabled is false: the password and the nonces can be read, and changed, on the way")
		}
	}
}

// gateKeys reports where the gate has nothing to verify with, and secrets that
// stand in the file.
func (c *check) gateKeys(g config, proof string) {
	jwks, file := g.text("jwks"), g.text("jwks_file")
	tokens := g.strings("tokens")
	switch {
	case proof == "signature" && jwks == "" && file == "":
		g.denyAll("neither jwks nor jwks_file is set")
	case proof == "signature" && jwks != "" && file != "":
		g.denyAll("both jwks and jwks_file are set")
	case proof == "signature" && g.n.get("tokens") != nil:
		g.denyAll("tokens is set, but proof is signature")
	case proof == "token" && len(tokens) == 0:
		g.denyAll("tokens is empty")
	case proof == "token" && (jwks != "" || file != ""):
		g.denyAll("jwks or jwks_file is set, but proof is token")
	}
	if file != "" && file[0] != '/' {
		g.denyAll("jwks_file is %s, which is no absolute path", quote(file))
	}
	g.atMost("tokens", maxTokens)
	for _, t := range tokens {
		switch {
		case external(t):
		case len(t) < 32 || len(t) > 256:
			g.refuse("tokens", "holds a token of %d characters; 32 to 256 are allowed", len(t))
		default:
			c.add(Note, g.where, "tokens holds a secret in clear; use a vault reference such as {vault://env/wallarm-token}")
		}
	}
	if jwks != "" && !external(jwks) {
		c.inlineKeys(g, jwks)
	}
}

// inlineKeys judges a JWK Set that stands in the file.
func (c *check) inlineKeys(g config, jwks string) {
	set, err := evidence.ParseKeySet([]byte(jwks))
	if err != nil {
		g.denyAll("jwks is no usable JWK Set (%v)", err)
		return
	}
	for _, k := range set.Keys() {
		switch {
		case k.Alg == evidence.AlgHMACSHA256:
			c.add(Note, g.where, "jwks holds the shared secret of key %s in clear; use jwks_file, a vault reference, or Ed25519", quote(k.ID))
		case k.CanSign():
			c.add(Note, g.where, "jwks holds the private part of key %s; the gateway needs the public part only (gatectl keys public)", quote(k.ID))
		}
	}
}

func mapped(list []string, f func(string) string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = f(s)
	}
	return out
}

func intersects(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}
