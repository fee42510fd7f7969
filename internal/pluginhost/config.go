// What a gateway serves: services, their routes, and plugin configurations.

package pluginhost

import (
	"crypto/sha1" // an entity's id is a name-based UUID, nothing secret
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// workspaceID is the id of the only workspace.
const workspaceID = "0dc6f45b-8f8d-40d2-a504-473544ee190b"

// Config is what a Gateway serves.
type Config struct {
	Services []Service
	Plugins  []Plugin // for every route without a plugin of its own
}

// Service is an upstream and the routes that lead to it.
type Service struct {
	Name    string
	URL     string // http or https; a path in it comes before the request's
	Routes  []Route
	Plugins []Plugin
}

// Route sends requests to its service. strip_path is always false.
type Route struct {
	Name         string
	Hosts        []string // empty: any; "*.example.com" and "example.*" as in Kong
	Paths        []string // prefixes; empty: "/"
	Methods      []string // empty: any
	Protocols    []string // "http", "https"; empty: both. Plain HTTP on an https route gets 426.
	PreserveHost bool
	Plugins      []Plugin
}

// Plugin is one configuration of the plugin. A plugin of a route is used
// instead of its service's, and that instead of a global one.
type Plugin struct {
	Name         string
	InstanceName string
	Disabled     bool
	Consumer     string   // a plugin of a consumer never runs here: nothing authenticates
	Protocols    []string // checked against the schema; Kong 3.9 does not compare them with a request's
	Config       map[string]any
}

// router is a Config that is ready to serve.
type router struct {
	routes []*route
}

type service struct {
	id, name           string
	scheme, host, path string
	port               int
}

type route struct {
	id, name                         string
	hosts, paths, methods, protocols []string
	preserveHost                     bool
	service                          *service
	conf                             *pluginConf // nil: no plugin runs
}

// newRouter checks a configuration as Kong does when it loads one, and gives
// every plugin a new sequence number.
func newRouter(h *Host, c Config, env func(string) (string, bool)) (*router, error) {
	r := new(router)
	// choose validates the plugins of one place and returns the one that runs.
	choose := func(where string, list []Plugin, routeID, serviceID string) (*pluginConf, error) {
		var chosen *pluginConf
		seen := map[string]bool{}
		for _, p := range list {
			config, err := h.schema.Validate(p)
			if err != nil {
				return nil, fmt.Errorf("%s: plugin %q: %w", where, p.Name, err)
			}
			if seen[p.Consumer] {
				return nil, fmt.Errorf("%s: plugin %q is given twice", where, p.Name)
			}
			seen[p.Consumer] = true
			if p.Disabled || p.Consumer != "" {
				continue
			}
			config = h.schema.config.resolve(config, env, func(msg string) { h.opts.Log("notice", msg) })
			key := fmt.Sprintf("plugins:%s:%s:%s:::%s", p.Name, routeID, serviceID, workspaceID)
			if chosen, err = h.newConf(config, uuidFor(key), key, routeID, serviceID, p.InstanceName); err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
		}
		return chosen, nil
	}
	global, err := choose("the global plugins", c.Plugins, "", "")
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for i, s := range c.Services {
		where := fmt.Sprintf("service %d (%q)", i+1, s.Name)
		svc, err := newService(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		svc.id = uuidFor(fmt.Sprintf("services:%d:%s", i, s.Name))
		ofService, err := choose(where, s.Plugins, "", svc.id)
		if err != nil {
			return nil, err
		}
		for j, spec := range s.Routes {
			where := fmt.Sprintf("%s, route %d (%q)", where, j+1, spec.Name)
			rt, err := newRoute(spec)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
			if spec.Name != "" && names[spec.Name] {
				return nil, fmt.Errorf("%s: another route has this name", where)
			}
			names[spec.Name] = true
			rt.id, rt.service = uuidFor(fmt.Sprintf("routes:%d:%d:%s", i, j, spec.Name)), svc
			if rt.conf, err = choose(where, spec.Plugins, rt.id, ""); err != nil {
				return nil, err
			}
			if rt.conf == nil {
				rt.conf = ofService
			}
			if rt.conf == nil {
				rt.conf = global
			}
			r.routes = append(r.routes, rt)
		}
	}
	return r, nil
}

func newService(s Service) (*service, error) {
	u, err := url.Parse(s.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("URL %q does not parse", s.URL)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("URL %q: the scheme must be http or https", s.URL)
	case u.Hostname() == "":
		return nil, fmt.Errorf("URL %q has no host", s.URL)
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("a service's URL has scheme, host, port and path only")
	}
	svc := &service{name: s.Name, scheme: u.Scheme, host: u.Hostname(), path: u.EscapedPath(), port: map[string]int{"http": 80, "https": 443}[u.Scheme]}
	if svc.path == "" {
		svc.path = "/"
	}
	if p := u.Port(); p != "" {
		if svc.port, err = strconv.Atoi(p); err != nil || svc.port < 1 || svc.port > 65535 {
			return nil, fmt.Errorf("URL %q: invalid port", s.URL)
		}
	}
	return svc, nil
}

func newRoute(s Route) (*route, error) {
	r := &route{name: s.Name, methods: s.Methods, preserveHost: s.PreserveHost, paths: s.Paths, protocols: s.Protocols}
	if len(r.paths) == 0 {
		r.paths = []string{"/"}
	}
	for _, p := range r.paths {
		if !strings.HasPrefix(p, "/") || normalPath(p) != p {
			return nil, fmt.Errorf("path %q: must begin with a '/' and be in its normal form (regular expressions are not supported here)", p)
		}
	}
	for _, host := range s.Hosts {
		if host == "" || strings.Count(host, "*") > 1 || strings.Contains(host, "*") && !strings.HasPrefix(host, "*.") && !strings.HasSuffix(host, ".*") {
			return nil, fmt.Errorf("host %q: must be a host name, *.NAME or NAME.*", host)
		}
		r.hosts = append(r.hosts, lowerASCII(host))
	}
	for _, p := range s.Protocols {
		if p != "http" && p != "https" {
			return nil, fmt.Errorf("protocol %q: only http and https are served here", p)
		}
	}
	if len(r.protocols) == 0 {
		r.protocols = []string{"http", "https"}
	}
	return r, nil
}

// addr is the host and port to connect to.
func (s *service) addr() string { return net.JoinHostPort(s.host, strconv.Itoa(s.port)) }

// hostHeader is the Host field that Kong sends by default.
func (s *service) hostHeader() string {
	host := s.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if s.scheme == "http" && s.port == 80 || s.scheme == "https" && s.port == 443 {
		return host
	}
	return host + ":" + strconv.Itoa(s.port)
}

// match finds the route of a request: the one with a host wins over one
// without, then the longest path, then the first. Kong's router takes UTF-8
// only: it finds nothing for another path, nor for another host once any route
// asks for one.
func (r *router) match(method, host, path string) *route {
	host, _ = validHost(host)
	if !utf8.ValidString(path) || !utf8.ValidString(host) && slices.ContainsFunc(r.routes, func(rt *route) bool { return len(rt.hosts) > 0 }) {
		return nil
	}
	var best *route
	bestHost, bestPath := 0, -1
	for _, rt := range r.routes {
		if len(rt.methods) > 0 && !slices.Contains(rt.methods, method) {
			continue
		}
		byHost := rt.matchHost(host)
		if byHost < 0 {
			continue
		}
		for _, p := range rt.paths {
			if strings.HasPrefix(path, p) && (byHost > bestHost || byHost == bestHost && len(p) > bestPath) {
				best, bestHost, bestPath = rt, byHost, len(p)
			}
		}
	}
	return best
}

// matchHost is -1 for no match, 0 for a route without hosts, 1 for a wildcard
// and 2 for the host itself.
func (r *route) matchHost(host string) int {
	if len(r.hosts) == 0 {
		return 0
	}
	best := -1
	for _, h := range r.hosts {
		suffix, left := strings.CutPrefix(h, "*")
		prefix, right := strings.CutSuffix(h, "*")
		switch {
		case h == host:
			return 2
		case left && len(host) > len(suffix) && strings.HasSuffix(host, suffix),
			right && len(host) > len(prefix) && strings.HasPrefix(host, prefix):
			best = 1
		}
	}
	return best
}

// uuidFor is a name-based UUID (version 5): the same entity keeps its id when
// a configuration is loaded again.
func uuidFor(name string) string {
	sum := sha1.Sum([]byte(workspaceID + name))
	sum[6], sum[8] = sum[6]&0x0f|0x50, sum[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}
