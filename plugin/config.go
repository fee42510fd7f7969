package main

// One configuration of the plugin, as Kong gives it. Decoding never fails: Kong
// would answer every request with a 500 whose cause is in no log that is shown.
// A configuration that cannot be used says why at each refusal instead.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

type (
	gateMode string
	logScope string
)

const (
	modeEnforce gateMode = "enforce"
	modeReport  gateMode = "report"

	logDenied logScope = "denied"
	logAll    logScope = "all"
	logOff    logScope = "off"

	proofSignature = "signature"
	proofToken     = "token"

	inspectionActive = "active"
	inspectionAny    = "any"

	storeMemory = "memory"
	storeRedis  = "redis"
	storeOff    = "off"
)

// The allowed values, lowest and highest included, and the defaults. The schema
// that Kong checks and the decoder here both read them.
var (
	modes       = []string{string(modeEnforce), string(modeReport)}
	proofs      = []string{proofSignature, proofToken}
	minModes    = []string{"off", "monitoring", "safe_blocking", "block"}
	inspections = []string{inspectionActive, inspectionAny}
	stores      = []string{storeMemory, storeRedis, storeOff}
	logScopes   = []string{string(logDenied), string(logAll), string(logOff)}
	methods     = []string{http.MethodGet, http.MethodHead}

	maxAgeRange      = bounds{1, int(evidence.MaxAgeLimit / time.Second)}
	skewRange        = bounds{0, int(evidence.SkewLimit / time.Second)}
	applicationRange = bounds{evidence.NoApplication, math.MaxInt32}
	capacityRange    = bounds{1_000, 10_000_000}
	statusRange      = bounds{400, 499}
	silentStatus     = []int{444, 499} // nginx closes the connection without an answer
)

const (
	defaultMaxAge   = 30
	defaultSkew     = 5
	defaultMinMode  = "monitoring"
	defaultCapacity = 1_000_000
	defaultStatus   = http.StatusForbidden

	maxTokens       = 4
	minToken        = 32 // bytes
	maxToken        = 256
	maxExemptions   = 32
	maxApplications = 256
	maxSources      = 256
	maxHosts        = 32
)

type bounds struct{ least, most int }

// Config is one configuration, compiled. Kong makes one for each of its workers
// and each plugin entity. It is read-only once decoded, and safe for concurrent
// use. The zero value refuses every request. It holds no secret as text.
type Config struct {
	gate *gate

	mode     gateMode
	status   int // of a denial
	logged   logScope
	exempt   []exemption
	verifier *evidence.Verifier // nil: misconfigured
	problem  string             // why, as sentences divided by semicolons
	keyFile  *keyFile           // nil: the keys are in the configuration

	lines limiter
}

// denyStatus is total, for a Config that was never decoded.
func (c *Config) denyStatus() int {
	if c.status == 0 {
		return defaultStatus
	}
	return c.status
}

// String keeps a Config out of a log that prints it.
func (c *Config) String() string { return "wallarm-gate configuration (" + string(c.mode) + ")" }

// UnmarshalJSON compiles the configuration that Kong sends. It returns no error.
func (c *Config) UnmarshalJSON(data []byte) error {
	g := c.gate
	if g == nil {
		g = shared()
	}
	*c = Config{gate: g, mode: modeEnforce, status: defaultStatus, logged: logDenied}
	if err := contain(func() { c.compile(data) }); err != nil {
		c.verifier, c.problem = nil, "the configuration cannot be read: "+err.Error()
	}

	live := g.metrics.modes[c.mode]
	live.Add(1)
	// Kong does not say that a configuration has gone; the collector does.
	runtime.AddCleanup(c, func(live *atomic.Int64) { live.Add(-1) }, live)
	return nil
}

// compile reads the mode before all else: report mode never refuses.
func (c *Config) compile(data []byte) {
	d := decoder{name: "config"}
	if json.Unmarshal(data, &d.fields) != nil {
		d.fail("", "is not a JSON object")
	}
	c.mode = gateMode(d.oneOf("mode", string(modeEnforce), modes))
	if c.status = d.integer("deny_status", defaultStatus, statusRange); slices.Contains(silentStatus, c.status) {
		d.fail("deny_status", fmt.Sprintf("is %d, at which nginx closes the connection without an answer: choose another one", c.status))
		c.status = defaultStatus
	}
	c.logged = logScope(d.oneOf("log", string(logDenied), logScopes))
	c.exempt = d.exemptions()

	v := &evidence.Verifier{Now: c.gate.now}
	v.Policy = evidence.Policy{
		MaxAge:         time.Duration(d.integer("max_age", defaultMaxAge, maxAgeRange)) * time.Second,
		ClockSkew:      time.Duration(d.integer("clock_skew", defaultSkew, skewRange)) * time.Second,
		RequireActive:  d.oneOf("require_inspection", inspectionActive, inspections) == inspectionActive,
		Applications:   d.applications(),
		AllowUpgrade:   d.boolean("allow_upgrade"),
		AllowedSources: d.sources("allowed_sources"),
	}
	v.Policy.MinMode, _ = evidence.ParseMode(d.oneOf("min_mode", defaultMinMode, minModes))

	switch d.oneOf("proof", proofSignature, proofs) {
	case proofSignature:
		c.keys(&d, v)
	case proofToken:
		c.tokens(&d, v)
	}
	c.replay(&d, v)
	if len(d.problems) == 0 {
		if err := v.Policy.Check(); err != nil {
			d.problems = append(d.problems, err.Error())
		}
	}
	if c.problem = strings.Join(d.problems, "; "); c.problem == "" {
		c.verifier = v
		c.gate.metrics.keys.add(v)
	}
}

func (c *Config) keys(d *decoder, v *evidence.Verifier) {
	if d.has("tokens") {
		d.fail("tokens", "is set, but proof is signature: set proof to token, or remove the tokens")
	}
	switch inline, file := d.has("jwks"), d.has("jwks_file"); {
	case inline == file:
		d.fail("jwks", "or config.jwks_file is wanted for proof signature: exactly one of them")
	case inline:
		text := d.text("jwks")
		if text == "" {
			d.fail("jwks", "is empty: want a JWK Set (does the vault reference exist?)")
			return
		}
		set, err := evidence.ParseKeySet([]byte(text))
		if err != nil {
			d.fail("jwks", "is no usable JWK Set: "+err.Error())
			return
		}
		v.Keys = func() *evidence.KeySet { return set }
	case file:
		path := d.text("jwks_file")
		if !filepath.IsAbs(path) {
			d.fail("jwks_file", "is "+quote(path)+": want an absolute path")
			return
		}
		c.keyFile = c.gate.files.open(path)
		v.Keys = c.keyFile.keys
	}
}

func (c *Config) tokens(d *decoder, v *evidence.Verifier) {
	if d.has("jwks") || d.has("jwks_file") {
		d.fail("proof", "is token, but jwks or jwks_file is set: set proof to signature, or remove the keys")
	}
	if v.Policy.RequireActive {
		d.fail("require_inspection", "is active, which a token cannot prove: want any for proof token")
	}
	var tokens []string
	for i, raw := range d.list("tokens", maxTokens) {
		token, ok := asString(raw)
		if !ok || len(token) < minToken || len(token) > maxToken {
			d.fail(fmt.Sprintf("tokens[%d]", i+1), fmt.Sprintf(
				"has %d bytes: want a string of %d to %d (does the vault reference exist?)", len(token), minToken, maxToken))
			return
		}
		tokens = append(tokens, token)
	}
	if len(tokens) == 0 {
		d.fail("tokens", "is empty: want 1 to 4 for proof token")
		return
	}
	set, err := evidence.NewTokenSet(tokens...)
	if err != nil {
		d.fail("tokens", "cannot be used: "+err.Error())
		return
	}
	v.Tokens = set
}

func (c *Config) replay(d *decoder, v *evidence.Verifier) {
	r := d.record("replay")
	store, capacity := r.oneOf("store", storeMemory, stores), r.integer("capacity", defaultCapacity, capacityRange)
	var settings redisSettings
	fallback := false
	switch {
	case store == storeRedis:
		settings, fallback = r.redis()
	case r.has("redis"):
		r.fail("redis", "is set, but "+r.name+".store is "+store+": set that to redis, or remove the record")
	}
	d.problems = append(d.problems, r.problems...)
	if store == storeOff || len(d.problems) > 0 || v.Tokens != nil {
		return
	}
	c.gate.replay.reserve(capacity)
	v.Replay = c.gate.replay
	if store == storeMemory || fallback { // a server has not forgotten
		v.Since = c.gate.since
	}
	if store == storeRedis {
		handle := c.gate.redis.open(settings)
		v.Replay = &sharedStore{
			shared: handle.client, local: c.gate.replay, fallback: fallback,
			fellBack: c.gate.metrics.redisFallbacks.Inc, keepAlive: handle,
		}
	}
}

// decoder reads the members of one JSON object, and collects what is wrong with
// them. Kong has checked them against the schema; a plugin that trusted it would
// be open wherever the schema of an older dump is still in use. Members that it
// does not know are Kong's own (__seq__, route_id and others).
type decoder struct {
	name     string
	fields   map[string]json.RawMessage
	problems []string
}

func (d *decoder) fail(field, what string) {
	where := d.name
	if field != "" {
		where += "." + field
	}
	d.problems = append(d.problems, where+" "+what)
}

func isNull(raw json.RawMessage) bool {
	return len(raw) == 0 || string(raw) == "null"
}

func (d *decoder) has(field string) bool { return !isNull(d.fields[field]) }

func asString(raw json.RawMessage) (s string, ok bool) {
	return s, len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &s) == nil
}

// text returns a string whose content must not be repeated in a message.
func (d *decoder) text(field string) string {
	if !d.has(field) {
		return ""
	}
	s, ok := asString(d.fields[field])
	if !ok {
		d.fail(field, "is not a string")
	}
	return s
}

// shown is how a value that is no secret appears in a message.
func shown(raw json.RawMessage) string {
	if s, ok := asString(raw); ok {
		return quote(s)
	}
	return quote(string(raw))
}

func (d *decoder) oneOf(field, standard string, allowed []string) string {
	if !d.has(field) {
		return standard
	}
	s, ok := asString(d.fields[field])
	if !ok || !slices.Contains(allowed, s) {
		d.fail(field, "is "+shown(d.fields[field])+": want one of "+strings.Join(allowed, ", "))
		return standard
	}
	return s
}

// asInteger accepts 30 and 30.0: Lua has one type of number.
func asInteger(raw json.RawMessage, b bounds) (int, bool) {
	var f float64
	if json.Unmarshal(raw, &f) != nil || f != math.Trunc(f) || f < float64(b.least) || f > float64(b.most) {
		return 0, false
	}
	return int(f), true
}

func (d *decoder) integer(field string, standard int, b bounds) int {
	if !d.has(field) {
		return standard
	}
	n, ok := asInteger(d.fields[field], b)
	if !ok {
		d.fail(field, fmt.Sprintf("is %s: want an integer from %d to %d", shown(d.fields[field]), b.least, b.most))
		return standard
	}
	return n
}

func (d *decoder) boolean(field string) (b bool) {
	if d.has(field) && json.Unmarshal(d.fields[field], &b) != nil {
		d.fail(field, "is "+shown(d.fields[field])+": want true or false")
	}
	return b
}

// list accepts {} for no elements: that is what an empty Lua table becomes.
func (d *decoder) list(field string, most int) (list []json.RawMessage) {
	raw := d.fields[field]
	if isNull(raw) || len(raw) >= 2 && raw[0] == '{' && len(bytes.TrimSpace(raw[1:len(raw)-1])) == 0 {
		return nil
	}
	if json.Unmarshal(raw, &list) != nil {
		d.fail(field, "is not a list")
		return nil
	}
	if len(list) > most {
		d.fail(field, fmt.Sprintf("has %d elements: want at most %d", len(list), most))
		return nil
	}
	return list
}

func (d *decoder) record(field string) decoder {
	r := decoder{name: d.name + "." + field}
	if d.has(field) && json.Unmarshal(d.fields[field], &r.fields) != nil {
		d.fail(field, "is not an object")
	}
	return r
}

func (d *decoder) applications() (ids []int32) {
	for i, raw := range d.list("applications", maxApplications) {
		n, ok := asInteger(raw, applicationRange)
		if !ok || n == 0 {
			d.fail(fmt.Sprintf("applications[%d]", i+1),
				fmt.Sprintf("is %s: want -1, or an integer from 1 to %d", shown(raw), applicationRange.most))
			continue
		}
		ids = append(ids, int32(n))
	}
	return ids
}

func (d *decoder) sources(field string) (prefixes []netip.Prefix) {
	for i, raw := range d.list(field, maxSources) {
		s, _ := asString(raw)
		p, err := parseSource(s)
		if err != nil {
			d.fail(fmt.Sprintf("%s[%d]", field, i+1), fmt.Sprintf("is %s: %v", shown(raw), err))
			continue
		}
		prefixes = append(prefixes, p)
	}
	return prefixes
}

// parseSource reads an address or a CIDR.
func parseSource(s string) (netip.Prefix, error) {
	errForm := errors.New("want an IP address or a CIDR such as 10.0.0.0/16")
	p, err := netip.ParsePrefix(s)
	if err != nil {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, errForm
		}
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	switch {
	case p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("want the IPv4 form of this address")
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("has bits set behind the prefix; %v is the network", p.Masked())
	}
	return p, nil
}

func (d *decoder) exemptions() (list []exemption) {
	for i, raw := range d.list("exempt", maxExemptions) {
		r := decoder{name: fmt.Sprintf("%s.exempt[%d]", d.name, i+1)}
		if json.Unmarshal(raw, &r.fields) != nil || r.fields == nil {
			r.fail("", "is not an object")
		} else if e := r.exemption(); len(r.problems) == 0 {
			list = append(list, e)
		}
		d.problems = append(d.problems, r.problems...)
	}
	return list
}

func (d *decoder) exemption() (e exemption) {
	var err error
	if e.path, e.prefix, err = parseExemptPath(d.text("path")); err != nil {
		d.fail("", "has "+err.Error())
	}
	for _, raw := range d.list("methods", len(methods)) {
		s, _ := asString(raw)
		if !slices.Contains(methods, s) {
			d.fail("methods", "has "+shown(raw)+": want GET, HEAD or both")
		}
		e.methods = append(e.methods, s)
	}
	if len(e.methods) == 0 {
		e.methods = methods
	}
	for _, raw := range d.list("hosts", maxHosts) {
		s, _ := asString(raw)
		if name, ok := hostName(s); !ok || name != s {
			d.fail("hosts", "has "+shown(raw)+": want a host in lower case, without port and final dot")
		}
		e.hosts = append(e.hosts, s)
	}
	e.sources = d.sources("sources")
	return e
}
