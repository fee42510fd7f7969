package main

// The settings of the shared replay store: config.replay.redis.

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	onErrorDeny  = "deny"
	onErrorLocal = "local"

	defaultRedisTimeout = 20 // ms
	defaultRedisPool    = 16
	defaultRedisPrefix  = "wallarm-gate:"

	maxRedisText   = 512 // bytes of a username, a password or an address
	maxRedisPrefix = 64
	maxCAFile      = 1 << 20
)

var (
	onErrors          = []string{onErrorDeny, onErrorLocal}
	redisTimeoutRange = bounds{1, 1000}
	redisPoolRange    = bounds{1, 256}
	redisDBRange      = bounds{0, 1 << 14}
)

// redisSettings are what makes two clients the same one.
type redisSettings struct {
	address            string // host:port
	username, password string
	database           int
	tls                bool
	caFile, serverName string
	timeout            time.Duration // of one request
	poolSize           int
	prefix             string
}

// redisFields declares config.replay.redis.
func redisFields() []named {
	return []named{
		{"address": {Type: "string", Required: true, Description: "Where the server is: host:port of a single endpoint, the primary."}},
		{"username": {Type: "string", Referenceable: true, Description: "User of the server's ACL; without one it is the user default."}},
		{"password": {Type: "string", Referenceable: true, Encrypted: true, Description: "Password of the user. Open-source Kong shows it in clear: use a vault reference."}},
		{"database": number(0, redisDBRange, "Number of the database.")},
		{"tls": {Type: "record", Required: true, Description: "How the connection is protected.", Fields: []named{
			{"enabled": {Type: "boolean", Required: true, Default: true, Description: "Whether the connection is encrypted and the server's certificate checked."}},
			{"ca_file": {Type: "string", StartsWith: "/", Description: "Path of a PEM file with the CA of the server's certificate; without one the system's."}},
			{"server_name": {Type: "string", Description: "Name in the server's certificate; without one the host of the address."}},
		}}},
		{"timeout": number(defaultRedisTimeout, redisTimeoutRange, "Milliseconds that one request waits for the server, all steps together.")},
		{"pool_size": number(defaultRedisPool, redisPoolRange, "Connections of this Kong node at most.")},
		{"prefix": {Type: "string", Required: true, Default: defaultRedisPrefix, LenMin: 1, LenMax: maxRedisPrefix,
			Description: "What the keys begin with; another one for each environment that shares the server."}},
		{"on_error": choice(onErrorDeny, onErrors, "What happens while the server cannot answer: refuse, or go on with the store of this node.")},
	}
}

// redis reads the record; local is whether on_error says so.
func (d *decoder) redis() (s redisSettings, local bool) {
	if !d.has("redis") {
		d.fail("redis", "is not set, but "+d.name+".store is redis: want a record with at least address")
		return s, false
	}
	r := d.record("redis")
	defer func() { d.problems = append(d.problems, r.problems...) }()
	if len(r.fields) == 0 && len(d.problems) > 0 {
		return s, false
	}
	s = redisSettings{
		address:  r.text("address"),
		username: r.secret("username"), password: r.secret("password"),
		database: r.integer("database", 0, redisDBRange),
		timeout:  time.Duration(r.integer("timeout", defaultRedisTimeout, redisTimeoutRange)) * time.Millisecond,
		poolSize: r.integer("pool_size", defaultRedisPool, redisPoolRange),
		prefix:   defaultRedisPrefix,
	}
	local = r.oneOf("on_error", onErrorDeny, onErrors) == onErrorLocal
	host, port, err := net.SplitHostPort(s.address)
	if n, bad := strconv.Atoi(port); err != nil || host == "" || bad != nil || n < 1 || n > 65535 || !printable(host) || strings.ContainsAny(host, "/@") || len(s.address) > maxRedisText {
		// Not shown: somebody may have put a URL with a password there.
		r.fail("address", "is no host:port, such as redis.example.com:6379")
	}
	if s.username != "" && s.password == "" {
		r.fail("username", "is set without a password")
	}
	if r.has("prefix") {
		if s.prefix = r.text("prefix"); !isRedisPrefix(s.prefix) {
			r.fail("prefix", "is "+shown(r.fields["prefix"])+": want 1 to 64 of A-Z a-z 0-9 . _ : -")
		}
	}

	t := r.record("tls")
	defer func() { r.problems = append(r.problems, t.problems...) }()
	s.tls = !t.has("enabled") || t.boolean("enabled")
	if s.caFile = t.text("ca_file"); t.has("ca_file") && !filepath.IsAbs(s.caFile) {
		t.fail("ca_file", "is "+shown(t.fields["ca_file"])+": want an absolute path")
	}
	if s.serverName = t.text("server_name"); t.has("server_name") && (!printable(s.serverName) || len(s.serverName) > maxRedisText) {
		t.fail("server_name", "is "+shown(t.fields["server_name"])+": want a host name")
	}
	switch {
	case !s.tls && (t.has("ca_file") || t.has("server_name")):
		t.fail("enabled", "is false, but ca_file or server_name is set: set it to true, or remove them")
	case s.tls && s.serverName == "":
		s.serverName = host
	}
	return s, local
}

// secret returns a string that is not empty if it is set: a vault reference that
// could not be resolved arrives empty, and must not pass for no password.
func (d *decoder) secret(field string) string {
	if !d.has(field) {
		return ""
	}
	before := len(d.problems)
	s := d.text(field)
	switch {
	case len(d.problems) > before:
	case s == "":
		d.fail(field, "is empty (does the vault reference exist?)")
	case len(s) > maxRedisText:
		d.fail(field, "has "+strconv.Itoa(len(s))+" bytes: want at most "+strconv.Itoa(maxRedisText))
	}
	return s
}

// printable reports whether s is not empty and has visible ASCII only.
func printable(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// isRedisPrefix allows what has no meaning in the patterns of an ACL.
func isRedisPrefix(s string) bool {
	return len(s) > 0 && len(s) <= maxRedisPrefix && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == ':' || r == '-')
	})
}
