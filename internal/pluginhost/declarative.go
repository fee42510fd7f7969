// Kong's declarative configuration, as far as a gateway here can serve it.

package pluginhost

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

const maxDeclarative = 8 << 20

// The file's shape. What is not named here is refused, so that nothing in a
// file is silently without effect.
type (
	declFile struct {
		FormatVersion string        `yaml:"_format_version"`
		Transform     *bool         `yaml:"_transform"`
		Services      []declService `yaml:"services"`
		Routes        []declRoute   `yaml:"routes"`
		Plugins       []declPlugin  `yaml:"plugins"`
		Consumers     []struct {
			ID       string       `yaml:"id"`
			Username string       `yaml:"username"`
			CustomID string       `yaml:"custom_id"`
			Tags     []string     `yaml:"tags"`
			Plugins  []declPlugin `yaml:"plugins"`
		} `yaml:"consumers"`
	}
	declService struct {
		ID             string       `yaml:"id"`
		Name           string       `yaml:"name"`
		URL            string       `yaml:"url"`
		Protocol       string       `yaml:"protocol"`
		Host           string       `yaml:"host"`
		Port           int          `yaml:"port"`
		Path           string       `yaml:"path"`
		Enabled        *bool        `yaml:"enabled"`
		Retries        *int         `yaml:"retries"`
		ConnectTimeout *int         `yaml:"connect_timeout"`
		WriteTimeout   *int         `yaml:"write_timeout"`
		ReadTimeout    *int         `yaml:"read_timeout"`
		Tags           []string     `yaml:"tags"`
		Routes         []declRoute  `yaml:"routes"`
		Plugins        []declPlugin `yaml:"plugins"`
	}
	declRoute struct {
		ID            string       `yaml:"id"`
		Name          string       `yaml:"name"`
		Hosts         []string     `yaml:"hosts"`
		Paths         []string     `yaml:"paths"`
		Methods       []string     `yaml:"methods"`
		Protocols     []string     `yaml:"protocols"`
		StripPath     *bool        `yaml:"strip_path"`
		PreserveHost  bool         `yaml:"preserve_host"`
		PathHandling  string       `yaml:"path_handling"`
		RegexPriority *int         `yaml:"regex_priority"`
		RedirectCode  *int         `yaml:"https_redirect_status_code"`
		ReqBuffering  *bool        `yaml:"request_buffering"`
		RespBuffering *bool        `yaml:"response_buffering"`
		Tags          []string     `yaml:"tags"`
		Service       reference    `yaml:"service"`
		Plugins       []declPlugin `yaml:"plugins"`
	}
	declPlugin struct {
		ID           string         `yaml:"id"`
		Name         string         `yaml:"name"`
		InstanceName string         `yaml:"instance_name"`
		Enabled      *bool          `yaml:"enabled"`
		Protocols    []string       `yaml:"protocols"`
		Tags         []string       `yaml:"tags"`
		Config       map[string]any `yaml:"config"`
		Service      reference      `yaml:"service"`
		Route        reference      `yaml:"route"`
		Consumer     reference      `yaml:"consumer"`
	}
)

// reference names another entity: by name or id, as a string or as a mapping.
type reference string

func (r *reference) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return n.Decode((*string)(r))
	}
	var m map[string]string
	if err := n.Decode(&m); err != nil {
		return err
	}
	for _, key := range []string{"id", "name", "username"} {
		if len(m) == 1 && m[key] != "" {
			*r = reference(m[key])
			return nil
		}
	}
	return fmt.Errorf("line %d: a reference is a name, or a mapping of id, name or username", n.Line)
}

// LoadDeclarative reads a declarative kong.yml, YAML or JSON, of at most
// 8 MiB. It refuses, rather than ignores, what a Gateway cannot serve:
// strip_path true, routes without a service, regular expressions, and every
// entity or attribute that it does not know.
func LoadDeclarative(data []byte) (Config, error) {
	c, err := loadDeclarative(data)
	if err != nil {
		// yaml repeats what it found as it stands.
		return Config{}, errors.New(strings.Map(printable, "declarative config: "+err.Error()))
	}
	return c, nil
}

func printable(r rune) rune {
	if r == '\n' || unicode.IsPrint(r) {
		return r
	}
	return '?'
}

func loadDeclarative(data []byte) (Config, error) {
	var c Config
	if len(data) > maxDeclarative {
		return c, fmt.Errorf("larger than %d bytes", maxDeclarative)
	}
	var f declFile
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&f); errors.Is(err, io.EOF) {
		return c, errors.New("the file is empty")
	} else if err != nil {
		return c, err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return c, errors.New("more than one YAML document")
	}
	if !slices.Contains([]string{"1.1", "2.1", "3.0"}, f.FormatVersion) {
		return c, fmt.Errorf("_format_version: expected one of: 1.1, 2.1, 3.0, not %q", f.FormatVersion)
	}

	services, routes := map[reference]int{}, map[reference][2]int{}
	for i, s := range f.Services {
		where := fmt.Sprintf("services[%d]", i+1)
		svc, err := s.convert()
		if err != nil {
			return c, fmt.Errorf("%s: %w", where, err)
		}
		for _, name := range []string{s.ID, s.Name} {
			if _, dup := services[reference(name)]; dup && name != "" {
				return c, fmt.Errorf("%s: %q is already the name or id of a service", where, name)
			}
			services[reference(name)] = i
		}
		if svc.Plugins, err = convertPlugins(where, s.Plugins, true); err != nil {
			return c, err
		}
		c.Services = append(c.Services, svc)
	}
	addRoute := func(where string, r declRoute, service int) error {
		rt, err := r.convert()
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		if rt.Plugins, err = convertPlugins(where, r.Plugins, true); err != nil {
			return err
		}
		list := &c.Services[service].Routes
		*list = append(*list, rt)
		for _, name := range []string{r.ID, r.Name} {
			if _, dup := routes[reference(name)]; dup && name != "" {
				return fmt.Errorf("%s: %q is already the name or id of a route", where, name)
			}
			routes[reference(name)] = [2]int{service, len(*list) - 1}
		}
		return nil
	}
	for i, s := range f.Services {
		for j, r := range s.Routes {
			where := fmt.Sprintf("services[%d].routes[%d]", i+1, j+1)
			if r.Service != "" {
				return c, fmt.Errorf("%s: a nested route cannot name a service", where)
			}
			if err := addRoute(where, r, i); err != nil {
				return c, err
			}
		}
	}
	for i, r := range f.Routes {
		where := fmt.Sprintf("routes[%d]", i+1)
		service, ok := services[r.Service]
		if !ok || r.Service == "" {
			return c, fmt.Errorf("%s: service %q is not in the file; a route without a service is not served here", where, string(r.Service))
		}
		if err := addRoute(where, r, service); err != nil {
			return c, err
		}
	}
	for i, cons := range f.Consumers {
		where := fmt.Sprintf("consumers[%d]", i+1)
		list, err := convertPlugins(where, cons.Plugins, true)
		if err != nil {
			return c, err
		}
		for _, p := range list {
			if p.Consumer = cons.Username; p.Consumer == "" {
				p.Consumer = cons.ID
			}
			c.Plugins = append(c.Plugins, p)
		}
	}
	for i, p := range f.Plugins {
		where := fmt.Sprintf("plugins[%d]", i+1)
		list, err := convertPlugins("", f.Plugins[i:i+1], false)
		if err != nil {
			return c, fmt.Errorf("%s%w", where, err)
		}
		list[0].Consumer = string(p.Consumer)
		switch {
		case p.Service != "" && p.Route != "":
			return c, fmt.Errorf("%s: a plugin of a service and a route together is not served here", where)
		case p.Service != "":
			s, ok := services[p.Service]
			if !ok {
				return c, fmt.Errorf("%s: service %q is not in the file", where, string(p.Service))
			}
			c.Services[s].Plugins = append(c.Services[s].Plugins, list[0])
		case p.Route != "":
			r, ok := routes[p.Route]
			if !ok {
				return c, fmt.Errorf("%s: route %q is not in the file", where, string(p.Route))
			}
			rt := &c.Services[r[0]].Routes[r[1]]
			rt.Plugins = append(rt.Plugins, list[0])
		default:
			c.Plugins = append(c.Plugins, list[0])
		}
	}
	return c, nil
}

func (s *declService) convert() (Service, error) {
	out := Service{Name: s.Name, URL: s.URL}
	if s.Enabled != nil && !*s.Enabled {
		return out, errors.New("enabled: false is not supported here")
	}
	if s.URL != "" {
		if s.Host != "" || s.Protocol != "" || s.Port != 0 || s.Path != "" {
			return out, errors.New("url stands for protocol, host, port and path: give it or them")
		}
		return out, nil
	}
	if s.Host == "" {
		return out, errors.New("host: required field missing")
	}
	u := url.URL{Scheme: s.Protocol, Host: s.Host, Path: s.Path}
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	if s.Port == 0 {
		s.Port = 80 // Kong's default, whatever the protocol
	}
	u.Host += ":" + strconv.Itoa(s.Port)
	out.URL = u.String()
	return out, nil
}

func (r *declRoute) convert() (Route, error) {
	out := Route{Name: r.Name, Hosts: r.Hosts, Paths: r.Paths, Methods: r.Methods, Protocols: r.Protocols, PreserveHost: r.PreserveHost}
	switch {
	case r.StripPath == nil || *r.StripPath:
		return out, errors.New("strip_path: must be false here (Kong's default is true)")
	case r.PathHandling != "" && r.PathHandling != "v0":
		return out, fmt.Errorf("path_handling: %q, only \"v0\" is supported here", r.PathHandling)
	case r.RedirectCode != nil && *r.RedirectCode != 426:
		return out, errors.New("https_redirect_status_code: only 426 is supported here")
	}
	return out, nil
}

// convertPlugins converts the plugins of one place. A nested one cannot name
// another place.
func convertPlugins(where string, list []declPlugin, nested bool) ([]Plugin, error) {
	var out []Plugin
	for i, p := range list {
		at := where
		if nested {
			at = fmt.Sprintf("%s.plugins[%d]", where, i+1)
		}
		if p.Name == "" {
			return nil, fmt.Errorf("%s: name: required field missing", at)
		}
		if nested && (p.Service != "" || p.Route != "") {
			return nil, fmt.Errorf("%s: a nested plugin cannot name a service or a route", at)
		}
		out = append(out, Plugin{
			Name: p.Name, InstanceName: p.InstanceName, Disabled: p.Enabled != nil && !*p.Enabled,
			Consumer: string(p.Consumer), Protocols: p.Protocols, Config: p.Config,
		})
	}
	return out, nil
}
