package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The settings: one table holds every name, default, meaning and check.

// envPrefix begins the name of every environment variable of the attester.
const envPrefix = "ATTESTER_"

// settings are the parsed and checked settings of one attester.
type settings struct {
	listen        string
	allowRemote   bool
	healthListen  string
	metricsListen string

	backend        *url.URL
	allowPlaintext bool
	caFile         string
	caPEM          string
	serverName     string
	clientCertFile string
	clientKeyFile  string

	jwks     string
	jwksFile string
	lifetime time.Duration

	nodeName        string
	statusURL       string
	readyURL        string
	statusInterval  time.Duration
	statusMaxAge    time.Duration
	rulesetMaxAge   time.Duration
	nodeStopTimeout time.Duration

	dialTimeout       time.Duration
	responseTimeout   time.Duration
	idleTimeout       time.Duration
	connectionMaxAge  time.Duration
	maxIdle           int
	earlyHints        bool
	listenIdleTimeout time.Duration
	maxHeaderBytes    int
	reloadInterval    time.Duration

	shutdownDelay      time.Duration
	shutdownTimeout    time.Duration
	readyChecksBackend bool
	logLevel           slog.Level
}

// setting is one row of the table. A secret has no flag: the arguments of a
// process can be read by every user of its host.
type setting struct {
	env    string // without envPrefix
	def    string
	help   string
	secret bool
	parse  func(s *settings, value string) error
}

// flag returns the name of the flag: LOG_LEVEL is -log-level.
func (d setting) flag() string { return strings.ToLower(strings.ReplaceAll(d.env, "_", "-")) }

// definitions is the table. The README's is checked against it by a test.
var definitions = []setting{
	{env: "LISTEN", def: "127.0.0.1:8081", help: "address on which the node reaches the attester",
		parse: func(s *settings, v string) error { return required(address(&s.listen, v), v) }},
	{env: "ALLOW_REMOTE", def: "false", help: "let LISTEN be an address other than loopback; whoever reaches it gets signatures",
		parse: func(s *settings, v string) error { return boolean(&s.allowRemote, v) }},
	{env: "HEALTH_LISTEN", def: ":8082", help: "address of /livez and /readyz",
		parse: func(s *settings, v string) error { return required(address(&s.healthListen, v), v) }},
	{env: "METRICS_LISTEN", def: "", help: "address of /metrics; empty: off",
		parse: func(s *settings, v string) error { return address(&s.metricsListen, v) }},

	{env: "BACKEND_URL", def: "", help: "the gateway, https://host[:port]; required",
		parse: func(s *settings, v string) error { return backendURL(&s.backend, v) }},
	{env: "ALLOW_PLAINTEXT", def: "false", help: "let BACKEND_URL be http://, without TLS",
		parse: func(s *settings, v string) error { return boolean(&s.allowPlaintext, v) }},
	{env: "BACKEND_CA_FILE", def: "", help: "PEM file of the CAs that the gateway's certificate may come from, re-read on change; empty: the system's",
		parse: func(s *settings, v string) error { return text(&s.caFile, v) }},
	{env: "BACKEND_CA", def: "", help: "the same by value",
		parse: func(s *settings, v string) error { return text(&s.caPEM, v) }},
	{env: "BACKEND_SERVER_NAME", def: "", help: "name in the gateway's certificate; empty: the host of BACKEND_URL",
		parse: func(s *settings, v string) error { return serverName(&s.serverName, v) }},
	{env: "CLIENT_CERT_FILE", def: "", help: "PEM file of the client certificate for mutual TLS, re-read on change",
		parse: func(s *settings, v string) error { return text(&s.clientCertFile, v) }},
	{env: "CLIENT_KEY_FILE", def: "", help: "PEM file of its private key",
		parse: func(s *settings, v string) error { return text(&s.clientKeyFile, v) }},

	{env: "SIGNING_JWKS", def: "", help: "the signing keys, a JWK Set (RFC 7517) by value", secret: true,
		parse: func(s *settings, v string) error { return text(&s.jwks, v) }},
	{env: "SIGNING_JWKS_FILE", def: "", help: "file of the signing keys, re-read on change",
		parse: func(s *settings, v string) error { return text(&s.jwksFile, v) }},
	{env: "EVIDENCE_LIFETIME", def: "30s", help: "validity of the evidence of one request, whole seconds",
		parse: func(s *settings, v string) error { return duration(&s.lifetime, v, time.Second, evidence.MaxAgeLimit) }},

	{env: "NODE_NAME", def: "", help: "value of X-Wallarm-Node; empty: the id of the ECS task, else the host name",
		parse: func(s *settings, v string) error { return nodeName(&s.nodeName, v) }},
	{env: "NODE_STATUS_URL", def: "http://127.0.0.8:8080/wallarm-status", help: "the node's status, JSON",
		parse: func(s *settings, v string) error { return required(pollURL(&s.statusURL, v), v) }},
	{env: "NODE_READY_URL", def: "", help: "readiness of a 7.1 node (http://127.0.0.1:9446/ready); empty: not asked",
		parse: func(s *settings, v string) error { return pollURL(&s.readyURL, v) }},
	{env: "STATUS_INTERVAL", def: "2s", help: "time between two readings of the status, and the limit of each",
		parse: func(s *settings, v string) error {
			return duration(&s.statusInterval, v, 10*time.Millisecond, time.Minute)
		}},
	{env: "STATUS_MAX_AGE", def: "10s", help: "age at which the last reading counts as unknown, at least twice STATUS_INTERVAL",
		parse: func(s *settings, v string) error {
			return duration(&s.statusMaxAge, v, 20*time.Millisecond, 10*time.Minute)
		}},
	{env: "RULESET_MAX_AGE", def: "0", help: "age at which the node's rules count as stale; 0: not checked",
		parse: func(s *settings, v string) error { return duration(&s.rulesetMaxAge, v, 0, 366*24*time.Hour) }},
	{env: "NODE_STOP_TIMEOUT", def: "120s", help: "how long the last reading stays valid once the status port is closed: the node drains",
		parse: func(s *settings, v string) error { return duration(&s.nodeStopTimeout, v, 0, 10*time.Minute) }},

	{env: "DIAL_TIMEOUT", def: "5s", help: "limit of connect and TLS handshake to the gateway",
		parse: func(s *settings, v string) error {
			return duration(&s.dialTimeout, v, 10*time.Millisecond, time.Minute)
		}},
	{env: "RESPONSE_TIMEOUT", def: "60s", help: "limit of the wait for the response's header",
		parse: func(s *settings, v string) error {
			return duration(&s.responseTimeout, v, 10*time.Millisecond, time.Hour)
		}},
	{env: "IDLE_TIMEOUT", def: "55s", help: "idle time after which a connection to the gateway is closed, below the gateway's own (Kong: 75s)",
		parse: func(s *settings, v string) error {
			return duration(&s.idleTimeout, v, 10*time.Millisecond, 5*time.Minute)
		}},
	{env: "CONNECTION_MAX_AGE", def: "30s", help: "age after which a connection takes no further request; 0: no limit",
		parse: func(s *settings, v string) error { return duration(&s.connectionMaxAge, v, 0, time.Hour) }},
	{env: "MAX_IDLE_CONNECTIONS", def: "256", help: "idle connections to the gateway that are kept",
		parse: func(s *settings, v string) error { return integer(&s.maxIdle, v, 0, 65536) }},
	{env: "EARLY_HINTS", def: "false", help: "pass interim answers 103 of the gateway on; only behind nginx 1.29 or later",
		parse: func(s *settings, v string) error { return boolean(&s.earlyHints, v) }},
	{env: "LISTEN_IDLE_TIMEOUT", def: "90s", help: "idle time after which a connection from the node is closed, above the node's own",
		parse: func(s *settings, v string) error {
			return duration(&s.listenIdleTimeout, v, 10*time.Millisecond, time.Hour)
		}},
	{env: "MAX_HEADER_BYTES", def: "131072", help: "size of the request line and header together, in bytes",
		parse: func(s *settings, v string) error { return integer(&s.maxHeaderBytes, v, 8<<10, 1<<20) }},
	{env: "RELOAD_INTERVAL", def: "10s", help: "time between two looks at the key, certificate and CA files",
		parse: func(s *settings, v string) error {
			return duration(&s.reloadInterval, v, 10*time.Millisecond, time.Hour)
		}},

	{env: "SHUTDOWN_DELAY", def: "5s", help: "after SIGTERM: time without a request after which the listener closes",
		parse: func(s *settings, v string) error { return duration(&s.shutdownDelay, v, 0, 10*time.Minute) }},
	{env: "SHUTDOWN_TIMEOUT", def: "110s", help: "after SIGTERM: time after which running requests are cut",
		parse: func(s *settings, v string) error { return duration(&s.shutdownTimeout, v, 0, 10*time.Minute) }},
	{env: "READY_CHECKS_BACKEND", def: "false", help: "let /readyz also ask whether the gateway accepts connections",
		parse: func(s *settings, v string) error { return boolean(&s.readyChecksBackend, v) }},
	{env: "LOG_LEVEL", def: "info", help: "debug, info, warn or error",
		parse: func(s *settings, v string) error { return level(&s.logLevel, v) }},
}

// command is what the arguments ask for besides serving.
type command struct {
	settings
	healthcheck bool
	help        bool
}

// parseSettings reads the settings: a flag beats its variable, an empty variable
// counts as absent. environ has the form of os.Environ. Every error is one
// sentence that names the setting.
func parseSettings(args, environ []string) (command, error) {
	var c command
	values := make(map[string]string, len(definitions))
	for _, d := range definitions {
		values[d.env] = d.def
	}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		name, ours := strings.CutPrefix(name, envPrefix)
		if !ours {
			continue
		}
		if _, known := values[name]; !known {
			return c, fmt.Errorf("%s%s: no such setting; -help lists them", envPrefix, name)
		}
		if value != "" {
			values[name] = value
		}
	}

	flags := flag.NewFlagSet("attester", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	flags.BoolVar(&c.healthcheck, "healthcheck", false, "ask the running attester's /livez; exit 0 or 1")
	fromFlag := make(map[string]bool)
	for _, d := range definitions {
		if d.secret {
			continue
		}
		keep := func(v string) error { values[d.env], fromFlag[d.env] = v, true; return nil }
		if d.def == "false" {
			flags.BoolFunc(d.flag(), d.help, keep)
		} else {
			flags.Func(d.flag(), d.help, keep)
		}
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			c.help = true
			return c, nil
		}
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q; only flags are allowed, -help lists them", flags.Arg(0))
	}

	for _, d := range definitions {
		if err := d.parse(&c.settings, values[d.env]); err != nil {
			name := envPrefix + d.env
			if fromFlag[d.env] {
				name = "-" + d.flag()
			}
			return c, fmt.Errorf("%s: %w", name, err)
		}
	}
	if c.healthcheck {
		return c, nil // needs no more than the health listener's address
	}
	return c, c.settings.check()
}

// check holds the settings to the rules between two of them.
func (s *settings) check() error {
	switch {
	case s.backend == nil:
		return errors.New("ATTESTER_BACKEND_URL: missing; it is the gateway's https://host[:port]")
	case s.backend.Scheme == "http" && !s.allowPlaintext:
		return errors.New("ATTESTER_BACKEND_URL: http:// sends evidence in clear; use https://, or set ATTESTER_ALLOW_PLAINTEXT=true")
	case s.backend.Scheme == "http" && cmp.Or(s.caFile, s.caPEM, s.serverName, s.clientCertFile) != "":
		return errors.New("ATTESTER_BACKEND_URL: http:// and settings for TLS (CA, server name, client certificate) exclude each other")
	case s.caFile != "" && s.caPEM != "":
		return errors.New("ATTESTER_BACKEND_CA_FILE and ATTESTER_BACKEND_CA: set one of the two")
	case (s.clientCertFile == "") != (s.clientKeyFile == ""):
		return errors.New("ATTESTER_CLIENT_CERT_FILE and ATTESTER_CLIENT_KEY_FILE: set both or none")
	case s.jwks == "" && s.jwksFile == "":
		return errors.New("ATTESTER_SIGNING_JWKS or ATTESTER_SIGNING_JWKS_FILE: missing; there is no key to sign with")
	case s.jwks != "" && s.jwksFile != "":
		return errors.New("ATTESTER_SIGNING_JWKS and ATTESTER_SIGNING_JWKS_FILE: set one of the two")
	case s.statusMaxAge < 2*s.statusInterval:
		return fmt.Errorf("ATTESTER_STATUS_MAX_AGE: %v is below twice ATTESTER_STATUS_INTERVAL (%v): one late reading would count as unknown", s.statusMaxAge, s.statusInterval)
	case s.shutdownTimeout < s.shutdownDelay:
		return fmt.Errorf("ATTESTER_SHUTDOWN_TIMEOUT: %v is below ATTESTER_SHUTDOWN_DELAY (%v)", s.shutdownTimeout, s.shutdownDelay)
	case !s.allowRemote && !isLoopback(s.listen):
		return fmt.Errorf("ATTESTER_LISTEN: %q is not a loopback address such as 127.0.0.1:8081: whoever reaches it gets signatures; ATTESTER_ALLOW_REMOTE=true allows it", s.listen)
	}
	used := map[string]string{}
	for _, l := range []struct{ name, addr string }{
		{"ATTESTER_LISTEN", s.listen}, {"ATTESTER_HEALTH_LISTEN", s.healthListen}, {"ATTESTER_METRICS_LISTEN", s.metricsListen},
	} {
		if l.addr == "" || strings.HasSuffix(l.addr, ":0") {
			continue
		}
		if other, ok := used[l.addr]; ok {
			return fmt.Errorf("%s: %q is the address of %s already", l.name, l.addr, other)
		}
		used[l.addr] = l.name
	}
	return nil
}

// usage writes the settings as -help shows them.
func usage(w io.Writer) {
	fmt.Fprintf(w, "attester: signs evidence for each request that a Wallarm node passed, and forwards it to Kong.\n\n"+
		"usage: attester [flags]          serve; every flag is also a variable: -log-level is %sLOG_LEVEL\n"+
		"       attester -healthcheck     ask the running attester's /livez; exit 0 or 1\n\n", envPrefix)
	for _, d := range definitions {
		name := "-" + d.flag()
		if d.secret {
			name = envPrefix + d.env + " (no flag)"
		}
		def := ""
		if d.def != "" {
			def = " [" + d.def + "]"
		}
		fmt.Fprintf(w, "  %s\n        %s%s\n", name, d.help, def)
	}
}

// The parsers of single values.

func text(dst *string, v string) error { *dst = v; return nil }

// serverName takes what a certificate can name: a host name or an address.
func serverName(dst *string, v string) error {
	_, err := netip.ParseAddr(v)
	if err != nil && (len(v) > 253 || strings.ContainsFunc(v, func(r rune) bool {
		return !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || strings.ContainsRune("-._", r))
	})) {
		return fmt.Errorf("%q is not a host name such as kong.internal.example.com, without scheme and port", v)
	}
	*dst = v
	return nil
}

// required refuses the empty value that err, of the value's own parser, lets pass.
func required(err error, v string) error {
	if v == "" {
		return errors.New("must not be empty")
	}
	return err
}

func boolean(dst *bool, v string) error {
	switch v {
	case "true", "1":
		*dst = true
	case "false", "0":
		*dst = false
	default:
		return fmt.Errorf("%q is not true or false", v)
	}
	return nil
}

func integer(dst *int, v string, low, high int) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		return fmt.Errorf("%q is not an integer from %d to %d", v, low, high)
	}
	*dst = n
	return nil
}

func duration(dst *time.Duration, v string, low, high time.Duration) error {
	d, err := time.ParseDuration(v)
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 30s or 2m", v)
	}
	if d < low || d > high {
		return fmt.Errorf("%v is out of bounds, allowed are %v to %v", d, low, high)
	}
	*dst = d
	return nil
}

func level(dst *slog.Level, v string) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	l, ok := levels[v]
	if !ok {
		return fmt.Errorf("%q is not debug, info, warn or error", v)
	}
	*dst = l
	return nil
}

// address takes host:port with a numeric port; the host may be empty.
func address(dst *string, v string) error {
	if v == "" {
		*dst = ""
		return nil
	}
	_, port, err := net.SplitHostPort(v)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%q is not host:port with a port from 0 to 65535", v)
	}
	*dst = v
	return nil
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback() || host == "localhost"
}

// backendURL takes a scheme, a host and a port: the rest of the target is the
// client's, byte for byte. Errors do not quote it, it may hold a password.
func backendURL(dst **url.URL, v string) error {
	if v == "" {
		return nil
	}
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
		u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return errors.New("not of the form https://host[:port], without user, path or query")
	}
	*dst = &url.URL{Scheme: u.Scheme, Host: u.Host}
	return nil
}

func pollURL(dst *string, v string) error {
	if v == "" {
		*dst = ""
		return nil
	}
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return errors.New("not a URL such as http://127.0.0.8:8080/wallarm-status, without a user")
	}
	*dst = v
	return nil
}

func nodeName(dst *string, v string) error {
	if v != "" && !isNodeName(v) {
		return fmt.Errorf("%q is not 1 to 128 of A-Z a-z 0-9 . _ : / -", v)
	}
	*dst = v
	return nil
}

// isNodeName is the form that the contract gives X-Wallarm-Node.
func isNodeName(v string) bool {
	return len(v) >= 1 && len(v) <= 128 && !slices.ContainsFunc([]byte(v), func(c byte) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._:/-", c) >= 0)
	})
}
