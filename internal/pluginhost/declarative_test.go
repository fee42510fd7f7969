package pluginhost

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

func TestLoadDeclarative(t *testing.T) {
	t.Parallel()
	const file = `
_format_version: "3.0"
_transform: true
services:
- name: one
  url: http://127.0.0.1:8080/base
  plugins:
  - name: p
    config: {a: 1}
  routes:
  - name: r1
    paths: [/a, /b]
    hosts: [a.example]
    strip_path: false
    preserve_host: true
    plugins:
    - name: p
      instance_name: mine
      enabled: false
      config:
        list: [x, {y: z}]
- id: 5b7d0ee6-3d4a-4e35-9a8f-000000000001
  name: two
  host: up.example
  port: 8443
  protocol: https
  path: /v1
routes:
- name: r2
  paths: [/c]
  methods: [GET]
  protocols: [https]
  strip_path: false
  service: {name: two}
plugins:
- name: p
  config: {g: true}
- name: p
  route: r2
  protocols: [http, https]
- name: p
  service: {id: 5b7d0ee6-3d4a-4e35-9a8f-000000000001}
consumers:
- username: alice
  plugins:
  - name: p
`
	c, err := LoadDeclarative([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.MarshalIndent(c, "", " ")
	want, _ := json.MarshalIndent(Config{
		Services: []Service{
			{
				Name: "one", URL: "http://127.0.0.1:8080/base",
				Plugins: []Plugin{{Name: "p", Config: map[string]any{"a": 1}}},
				Routes: []Route{{
					Name: "r1", Hosts: []string{"a.example"}, Paths: []string{"/a", "/b"}, PreserveHost: true,
					Plugins: []Plugin{{Name: "p", InstanceName: "mine", Disabled: true, Config: map[string]any{"list": []any{"x", map[string]any{"y": "z"}}}}},
				}},
			},
			{
				Name: "two", URL: "https://up.example:8443/v1",
				Plugins: []Plugin{{Name: "p"}},
				Routes: []Route{{
					Name: "r2", Paths: []string{"/c"}, Methods: []string{"GET"}, Protocols: []string{"https"},
					Plugins: []Plugin{{Name: "p", Protocols: []string{"http", "https"}}},
				}},
			},
		},
		Plugins: []Plugin{{Name: "p", Consumer: "alice"}, {Name: "p", Config: map[string]any{"g": true}}},
	}, "", " ")
	if string(got) != string(want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestLoadDeclarativeRefuses(t *testing.T) {
	t.Parallel()
	v := "_format_version: '3.0'\n"
	service := v + "services:\n- name: s\n  url: http://h\n  routes:\n  - "
	for name, tt := range map[string]struct{ file, want string }{
		"empty":               {"", "the file is empty"},
		"no YAML":             {"\t", "cannot start any token"},
		"not a mapping":       {"[1]", "cannot unmarshal"},
		"no version":          {"services: []", "_format_version: expected one of"},
		"two documents":       {v + "---\n" + v, "more than one YAML document"},
		"unknown entity":      {v + "upstreams: []", "upstreams not found"},
		"unknown attribute":   {service + "expression: x", "expression not found"},
		"duplicate keys":      {v + v, "already defined"},
		"strip_path":          {service + "paths: [/]", "strip_path: must be false"},
		"path_handling":       {service + "{strip_path: false, path_handling: v1}", "path_handling"},
		"redirect":            {service + "{strip_path: false, https_redirect_status_code: 301}", "only 426"},
		"nested with service": {service + "{strip_path: false, service: s}", "cannot name a service"},
		"serviceless":         {v + "routes: [{strip_path: false, paths: [/]}]", "a route without a service"},
		"unknown service":     {v + "routes: [{strip_path: false, service: x}]", `service "x" is not in the file`},
		"unknown route":       {v + "plugins: [{name: p, route: x}]", `route "x" is not in the file`},
		"plugin's service":    {v + "plugins: [{name: p, service: x}]", `service "x" is not in the file`},
		"both":                {v + "plugins: [{name: p, service: x, route: y}]", "together is not served"},
		"no name":             {v + "plugins: [{config: {}}]", "plugins[1]: name: required field missing"},
		"a bad reference":     {v + "plugins: [{name: p, route: {x: y}}]", "a reference is a name"},
		"no host":             {v + "services: [{name: s}]", "host: required field missing"},
		"url and host":        {v + "services: [{url: http://h, host: h}]", "give it or them"},
		"same name":           {v + "services: [{name: s, url: http://h}, {name: s, url: http://h}]", "already the name or id"},
		"disabled service":    {v + "services: [{url: http://h, enabled: false}]", "not supported here"},
		"nested plugin":       {v + "services: [{url: http://h, plugins: [{name: p, route: r}]}]", "cannot name a service or a route"},
		"too large":           {strings.Repeat("#", maxDeclarative+1), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := LoadDeclarative([]byte(tt.file)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v want %s", err, tt.want)
			}
		})
	}
}

func FuzzDeclarative(f *testing.F) {
	f.Add([]byte("_format_version: '3.0'\nservices: [{name: s, url: http://h, routes: [{name: r, strip_path: false, paths: [/]}]}]\nplugins: [{name: p, route: r, config: {a: [1]}}]"))
	f.Add([]byte("!0%00"))
	f.Add([]byte(`{"_format_version":"1.1","routes":[{"service":{"name":"x"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := LoadDeclarative(data)
		if err != nil {
			for _, r := range err.Error() {
				if r != '\n' && !unicode.IsPrint(r) {
					t.Fatalf("%q", err)
				}
			}
			return
		}
		for _, s := range c.Services {
			if s.URL == "" {
				t.Fatal("a service without a URL")
			}
		}
	})
}
