// One request on its way through the gateway: what arrived, what the plugin
// changes, what is observed about it.

package pluginhost

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// defaultHeaders is Kong's default of lua_max_req_headers.
const defaultHeaders = 100

// origin is where a connection comes from, the same for all of its requests.
type origin struct {
	peer   netip.AddrPort // $realip_remote_addr
	local  string         // $server_port
	tls    bool
	verify string // $ssl_client_verify
}

// transaction is the state of one request. One goroutine uses it.
type transaction struct {
	origin
	gw     *Gateway
	down   downstream
	head   *requestHead
	client string // $remote_addr, after realip

	requestID, kongRequestID string

	fields []Field // the request's header as the plugin may change it
	cached []Field // the same as it was before the plugin ran
	route  *route

	upstreamHost   string  // Host for the upstream where the plugin or the route says so
	responseFields []Field // set by kong.response.*
	exit           *exitAnswer
	ctx, shared    map[string]any
	events         int

	obs Observation
}

// exitAnswer is what the plugin gave to kong.response.exit.
type exitAnswer struct {
	status int
	body   []byte
	fields []Field
}

// realIP applies nginx's realip module: a trusted peer's header replaces the
// client address.
func (g *Gateway) realIP(peer netip.Addr, fields []Field) string {
	addr := peer
	if g.trusted(peer) {
		name := "x-real-ip"
		if g.settings.RealIPHeader != "" {
			name = lowerASCII(g.settings.RealIPHeader)
		}
		var list []string
		for _, f := range fields {
			if f.is(name) {
				list = append(list, f.Value)
			}
		}
		if len(list) > 0 && name != "x-forwarded-for" {
			list = list[:1]
		}
		elements := strings.FieldsFunc(strings.Join(list, ","), func(c rune) bool { return c == ',' || c == ' ' })
		for _, e := range slices.Backward(elements) {
			next, ok := parseClientAddr(e)
			if !ok {
				break
			}
			if addr = next; !g.settings.RealIPRecursive || !g.trusted(addr) {
				break
			}
		}
	}
	return addr.String()
}

// parseClientAddr reads an address with or without a port.
func parseClientAddr(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a, true
	}
	if host, _, err := net.SplitHostPort(s); err == nil {
		if a, err := netip.ParseAddr(host); err == nil {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func (g *Gateway) trusted(a netip.Addr) bool {
	return slices.ContainsFunc(g.settings.TrustedIPs, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
}

// lookup are the values of a header as Lua's get_headers() of the first max
// fields finds them: those of the name as spelled, in lower case; else of the
// name with '-' for '_'.
func lookup(fields []Field, name string, max int) []string {
	var values []string
	for _, key := range []string{lowerASCII(name), strings.ReplaceAll(lowerASCII(name), "_", "-")} {
		for _, f := range fields[:min(len(fields), max)] {
			if f.is(key) {
				values = append(values, f.Value)
			}
		}
		if values != nil {
			break
		}
	}
	return values
}

// early is a header as Kong's own code sees it: of the fields that Lua reads,
// as they were before the plugin ran, the first of duplicates.
func (tx *transaction) early(name string) (string, bool) {
	if v := lookup(tx.cached, name, tx.gw.maxHeaders()); v != nil {
		return v[0], true
	}
	return "", false
}

// maxHeaders is how many fields Lua reads where the caller does not say.
func (g *Gateway) maxHeaders() int {
	if n := g.settings.MaxRequestHeaders; n > 0 {
		return n
	}
	return defaultHeaders
}

// setField does what ngx.req.set_header does: the first field of exactly that
// name (letter case aside) takes the value, others of it go, no value removes
// them all.
func setField(fields []Field, name string, values ...string) []Field {
	key := lowerASCII(name)
	at := slices.IndexFunc(fields, func(f Field) bool { return f.is(key) })
	fields = slices.DeleteFunc(fields, func(f Field) bool { return f.is(key) })
	if at < 0 {
		at = len(fields)
	}
	var put []Field
	for _, v := range values {
		put = append(put, newField(name, v))
	}
	return slices.Insert(fields, min(at, len(fields)), put...)
}

// newField is a field that a plugin sets. It cannot end its line.
func newField(name, value string) Field {
	return Field{oneLine.Replace(name), oneLine.Replace(value)}
}

// oneLine encodes what would end a line, as OpenResty does.
var oneLine = strings.NewReplacer("\r", "%0D", "\n", "%0A", "\x00", "%00")

// builtin are the $http_ variables that nginx takes from its own parsed
// fields: only the exact name counts, and each joins duplicates its own way.
var builtin = map[string]string{
	"host": "", "user_agent": "", "referer": "", "x_forwarded_for": ", ", "cookie": "; ", "via": ", ",
}

// header is $http_NAME: every field whose name, '-' as '_', is NAME, joined.
func (tx *transaction) header(name string) (string, bool) {
	sep, exact := builtin[name]
	var values []string
	for _, f := range tx.fields {
		key := lowerASCII(f.Name)
		if exact && strings.Contains(key, "_") || strings.ReplaceAll(key, "-", "_") != name {
			continue
		}
		values = append(values, f.Value)
		if exact && sep == "" {
			break
		}
	}
	if !exact {
		sep = ", "
	}
	return strings.Join(values, sep), values != nil
}

// plainVariables are nginx's variables that need no lookup by name.
var plainVariables = map[string]func(tx *transaction) string{
	"args":               func(tx *transaction) string { return tx.head.args },
	"document_uri":       func(tx *transaction) string { return tx.head.path },
	"host":               func(tx *transaction) string { return tx.head.host },
	"https":              func(tx *transaction) string { return ifTLS(tx, "on", "") },
	"is_args":            func(tx *transaction) string { return isArgs(tx.head.args) },
	"kong_request_id":    func(tx *transaction) string { return tx.kongRequestID },
	"query_string":       func(tx *transaction) string { return tx.head.args },
	"realip_remote_addr": func(tx *transaction) string { return tx.peer.Addr().String() },
	"realip_remote_port": func(tx *transaction) string { return strconv.Itoa(int(tx.peer.Port())) },
	"remote_addr":        func(tx *transaction) string { return tx.client },
	"request":            func(tx *transaction) string { return tx.head.line },
	"request_id":         func(tx *transaction) string { return tx.requestID },
	"request_length":     func(tx *transaction) string { return strconv.Itoa(tx.head.size) },
	"request_method":     func(tx *transaction) string { return tx.head.method },
	"request_uri":        func(tx *transaction) string { return tx.head.target },
	"scheme":             func(tx *transaction) string { return ifTLS(tx, "https", "http") },
	"server_name":        func(tx *transaction) string { return serverName },
	"server_port":        func(tx *transaction) string { return tx.local },
	"server_protocol":    func(tx *transaction) string { return tx.head.protocol() },
	"ssl_client_verify":  func(tx *transaction) string { return tx.verify },
	"uri":                func(tx *transaction) string { return tx.head.path },
}

func ifTLS(tx *transaction, yes, no string) string {
	if tx.tls {
		return yes
	}
	return no
}

func isArgs(args string) string {
	if args == "" {
		return ""
	}
	return "?"
}

// knownVariable reports whether nginx could load a file that uses the
// variable.
func (g *Gateway) knownVariable(name string) bool {
	return plainVariables[name] != nil || g.maps[name] != nil || strings.HasPrefix(name, "http_") ||
		name == "content_length" || name == "content_type"
}

// variable is ngx.var[name]: false where there is no such variable or it has
// no value.
func (tx *transaction) variable(name string) (string, bool) {
	return tx.variableAt(lowerASCII(name), 0)
}

func (tx *transaction) variableAt(name string, depth int) (string, bool) {
	if f := plainVariables[name]; f != nil {
		return f(tx), true
	}
	if h, ok := strings.CutPrefix(name, "http_"); ok {
		return tx.header(h)
	}
	switch name {
	case "content_length", "content_type":
		if v := lookup(tx.fields, strings.ReplaceAll(name, "_", "-"), len(tx.fields)); v != nil {
			return v[0], true
		}
	}
	if m := tx.gw.maps[name]; m != nil && depth < maxMapDepth {
		return m.value(func(n string) (string, bool) { return tx.variableAt(n, depth+1) }), true
	}
	return "", false
}
