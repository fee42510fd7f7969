package chart

// What the chart refuses, and what its schema refuses.

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/wallarm-gate/wallarm-gate/internal/kongfile"
	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

// inline is a kong.yml with a global gate of config and further text.
func inline(config, more string) string {
	text := fmt.Sprintf(`_format_version: "3.0"
services:
- name: s
  url: http://u
  routes:
  - {name: r, paths: [/]}
  - {name: r2, paths: [/2]}
plugins:
- {name: wallarm-gate, config: %s}
%s`, config, more)
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return "declarative: {inline: " + string(quoted) + "}\nservices: []\n"
}

const strong = "{jwks_file: /k, allowed_sources: [10.0.0.0/8], min_mode: block, applications: [1], max_age: 20, clock_skew: 2}"

// instance is a gate of a route, as strict as strong but for what change says.
func instance(change string) string {
	c := map[string]any{"jwks_file": "/k", "allowed_sources": []string{"10.0.0.0/8"}, "min_mode": "block", "applications": []int{1}, "max_age": 20, "clock_skew": 2}
	var overrides map[string]any
	if err := yaml.Unmarshal([]byte(change), &overrides); err != nil {
		panic(err)
	}
	for k, v := range overrides {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func onRoute(change string) string {
	return inline(strong, "- {name: wallarm-gate, route: r, config: "+instance(change)+"}")
}

// refusals: each changes ci/minimal-values.yaml in one respect and is refused
// for that alone.
var refusals = map[string]struct{ values, want string }{
	"no image":                 {"gate: {image: {repository: ''}}", "gate.image.repository is empty: set it to the image that you built from Dockerfile.kong (target plugin)"},
	"no image, in Kong's":      {"gate: {from: image, image: {repository: ''}}", "(target kong)"},
	"Kong 3.7":                 {"kong: {version: '3.7.1'}", "kong.version is 3.7.1: Kong before 3.8 proxies the request when a plugin breaks"},
	"Kong 3.7 by its tag":      {"kong: {image: {tag: 3.7-ubuntu}}", "kong.image.tag is 3.7-ubuntu: Kong before 3.8"},
	"Kong 2.8 by its tag":      {"kong: {image: {tag: '2.8'}}", "kong.image.tag is 2.8: Kong before 3.8"},
	"no keys":                  {"gate: {keys: {jwks: ''}}", "gate.keys is empty"},
	"no keys in report mode":   {"gate: {keys: {jwks: ''}, config: {mode: report}}", "gate.keys is empty"},
	"two sources of keys":      {"gate: {keys: {existingSecret: k}}", "gate.keys has 2 sources"},
	"three sources of keys":    {"gate: {keys: {existingSecret: k, existingConfigMap: c}}", "gate.keys has 3 sources"},
	"keys that are none":       {"gate: {keys: {jwks: hello}}", "gate.keys.jwks is no JWK Set"},
	"a key alone":              {`gate: {keys: {jwks: '{"kty":"OKP"}'}}`, "gate.keys.jwks is no JWK Set"},
	"a set without keys":       {`gate: {keys: {jwks: '{"keys":[]}'}}`, "gate.keys.jwks holds no key: the gate would refuse every request"},
	"a private key":            {`gate: {keys: {jwks: '{"keys":[{"kty":"OKP","kid":"k1","d":"AA","x":"AA"}]}'}}`, "gate.keys.jwks holds a secret or private key (k1)"},
	"a shared key":             {`gate: {keys: {jwks: '{"keys":[{"kty":"oct","kid":"k2","k":"AA"}]}'}}`, "gate.keys.jwks holds a secret or private key (k2)"},
	"token without tokens":     {"gate: {keys: {jwks: ''}, config: {proof: token, require_inspection: any}}", "gate.config.proof is token: set gate.tokens.existingSecret and gate.tokens.keys, or gate.tokens.externalSecrets"},
	"token without their keys": {"gate: {keys: {jwks: ''}, config: {proof: token, require_inspection: any}, tokens: {existingSecret: s}}", "gate.config.proof is token: set gate.tokens"},
	"token and inspection":     {"gate: {keys: {jwks: ''}, config: {proof: token}, tokens: {existingSecret: s, keys: [a]}}", "gate.config.require_inspection is active, which a token cannot state"},
	"token and keys":           {"gate: {config: {proof: token, require_inspection: any}, tokens: {existingSecret: s, keys: [a]}}", "gate.keys is set, but gate.config.proof is token"},
	"signature and tokens":     {"gate: {tokens: {existingSecret: s, keys: [a]}}", "gate.tokens is set, but gate.config.proof is signature"},
	"keys in two stores":       {"gate: {keys: {externalSecret: {key: k}}}\nexternalSecrets: {secretStoreRef: {name: s}}", "gate.keys has 2 sources: set one of jwks, existingConfigMap, existingSecret and externalSecret"},
	"keys of no store":         {"gate: {keys: {jwks: '', externalSecret: {key: k}}}", "gate.keys.externalSecret would be read from no store: set externalSecrets.secretStoreRef.name"},
	"a store for nothing":      {"externalSecrets: {secretStoreRef: {name: s}}", "externalSecrets.secretStoreRef is set, but nothing is read from that store"},
	"tokens of two sources":    {"gate: {keys: {jwks: ''}, config: {proof: token, require_inspection: any}, tokens: {existingSecret: s, keys: [a], externalSecrets: [{key: k}]}}\nexternalSecrets: {secretStoreRef: {name: s}}", "gate.tokens has two sources"},
	"signature and others":     {"gate: {tokens: {externalSecrets: [{key: k}]}}\nexternalSecrets: {secretStoreRef: {name: s}}", "gate.tokens is set, but gate.config.proof is signature"},
	"nothing to serve":         {"services: []", "Kong has nothing to serve"},
	"two sources":              {"declarative: {existingSecret: {name: s}}", "services and declarative.existingSecret.name are set"},
	"plugins without services": {"plugins: [{name: cors}]\nservices: []\ndeclarative: {existingSecret: {name: s}}", "plugins is set without services"},
	"a second global gate":     {"plugins: [{name: wallarm-gate, enabled: false}]", "plugins holds wallarm-gate"},
	"weaker in a Secret":       {"services: []\nallowWeakerRoutes: [r]\ndeclarative: {existingSecret: {name: s}}", "allowWeakerRoutes is for services and declarative.inline"},
	"production reports":       {"production: true\ngate: {config: {mode: report}}", "production is true, but the gate only reports"},
	"production reports, Secret": {"production: true\ngate: {config: {mode: report}}\nservices: []\ndeclarative: {existingSecret: {name: s}}",
		"production is true, but the gate only reports"},
	"production reports, inline": {"production: true\n" + inline("{mode: report, jwks_file: /k}", ""), "production is true, but the gate only reports"},

	"no edge":                   {"edgeCidrs: []", "edgeCidrs is empty"},
	"everybody is the edge":     {"edgeCidrs: [10.0.0.0/8, 0.0.0.0/0]", "edgeCidrs holds 0.0.0.0/0"},
	"everybody is the edge, v6": {"edgeCidrs: ['::/0']", "edgeCidrs holds ::/0"},
	"half of everybody":         {"edgeCidrs: [10.0.0.0/8, 128.0.0.0/1]", "edgeCidrs holds 128.0.0.0/1: Kong would believe everybody's X-Forwarded-For"},
	"an address in a network":   {"edgeCidrs: [10.200.31.7/20]", "edgeCidrs holds 10.200.31.7/20, an address in a network: name the network, 10.200.16.0/20"},
	"an NLB that is no network": {"loadBalancerCidrs: [10.0.0.0/24, 300.1.2.0/24]", "loadBalancerCidrs holds 300.1.2.0/24, which is no CIDR such as 10.0.0.0/16"},
	"too many bits":             {"edgeCidrs: [10.0.0.0/33]", "edgeCidrs holds 10.0.0.0/33, which is no CIDR"},
	"too few numbers":           {"edgeCidrs: [10.0/16]", "edgeCidrs holds 10.0/16, which is no CIDR"},
	"too many bits, v6":         {"edgeCidrs: ['2001:db8::/129']", "edgeCidrs holds 2001:db8::/129, which is no CIDR such as 2001:db8::/32"},
	"sources that are none":     {"gate: {config: {allowed_sources: [10.0.16.5/20]}}", "gate.config.allowed_sources holds 10.0.16.5/20, an address in a network: name the network, 10.0.16.0/20"},
	"sources of an exemption":   {"gate: {config: {exempt: [{path: /healthz}, {path: /a, sources: [10.0.0.0/8, 10.0.0.1/31]}]}}", "gate.config.exempt.sources holds 10.0.0.1/31, an address in a network"},
	"an upstream that is none":  {"networkPolicy: {upstreams: [{cidr: 10.1.2.3/16, ports: [1]}]}", "networkPolicy.upstreams holds 10.1.2.3/16, an address in a network"},
	"all sources of the NLB":    {"service: {loadBalancerSourceRanges: [1.2.3.4/31, 1.2.3.5/31]}", "service.loadBalancerSourceRanges holds 1.2.3.5/31"},
	"everything is exempt":      {"gate: {config: {exempt: [{path: '/*'}]}}", "gate.config.exempt has the path /*: it must be such as /healthz"},
	"an exempt dot segment":     {"gate: {config: {exempt: [{path: /a/../b}]}}", "gate.config.exempt has the path /a/../b"},
	"an exempt escape":          {"gate: {config: {exempt: [{path: /a%2fb}]}}", "gate.config.exempt has the path /a%2fb"},
	"no load balancer":          {"loadBalancerCidrs: []", "loadBalancerCidrs is empty"},
	"no upstream":               {"networkPolicy: {upstreams: []}", "networkPolicy.upstreams is empty"},
	"a peer of two kinds":       {"networkPolicy: {upstreams: [{cidr: 10.0.0.0/8, namespace: shop, ports: [1]}]}", "networkPolicy has the peer"},
	"a peer of no kind":         {"networkPolicy: {metricsFrom: [{}]}", "networkPolicy has the peer {}"},

	"a monitor without a way":  {"monitoring: {podMonitor: {enabled: true}}", "networkPolicy.metricsFrom is empty: Prometheus could not reach what monitoring.podMonitor names"},
	"Kong's metrics alone":     {"monitoring: {podMonitor: {kong: true}}", "monitoring.podMonitor.kong is true, but monitoring.podMonitor.enabled is false"},
	"a scrape beyond the next": {"monitoring: {podMonitor: {scrapeTimeout: 1m}}", "monitoring.podMonitor.scrapeTimeout is 1m, longer than its interval (30s)"},

	"a store without address":     {"gate: {config: {replay: {store: redis}}}", "gate.config.replay.store is redis: set gate.redis.address"},
	"an address without store":    {"gate: {redis: {address: 'r:6379'}}", "gate.redis.address is set, but gate.config.replay.store is memory"},
	"a user without password":     {"gate: {redis: {username: u}}", "gate.redis.username is set without a password"},
	"two sources of the password": {"gate: {redis: {password: {existingSecret: s, externalSecret: {key: k}}}}\nexternalSecrets: {secretStoreRef: {name: s}}", "gate.redis.password has two sources: set existingSecret or externalSecret"},
	"two CAs of the store":        {"gate: {redis: {tls: {ca: {existingConfigMap: c, existingSecret: s}}}}", "gate.redis.tls.ca has two sources"},
	"a CA without TLS":            {"gate: {redis: {tls: {enabled: false, serverName: r}}}", "gate.redis.tls.enabled is false, but its serverName or ca is set"},
	"no way to the store":         {"gate: {config: {replay: {store: redis}}, redis: {address: 'r:6379'}}", "networkPolicy.redis lets Kong reach no port 6379, where the replay store of the gate in the global plugins is"},
	"another way to the store":    {"gate: {config: {replay: {store: redis}}, redis: {address: 'r:6380'}}\nnetworkPolicy: {redis: [{namespace: cache, ports: [6379]}]}", "networkPolicy.redis lets Kong reach no port 6380"},
	"a store of two kinds":        {"networkPolicy: {redis: [{cidr: 10.0.0.0/8, namespace: cache, ports: [6379]}]}", "networkPolicy has the peer"},
	"inline: no way to the store": {inline("{jwks_file: /k, replay: {store: redis, redis: {address: 'r:6379'}}}", ""), "networkPolicy.redis lets Kong reach no port 6379"},
	"inline: the store's password": {"networkPolicy: {redis: [{namespace: cache, ports: [6379]}]}\n" + inline("{jwks_file: /k, replay: {store: redis, redis: {address: 'r:6379', password: secret}}}", ""),
		"the gate in the global plugins holds the password of its replay store in clear"},
	"inline: the store's CA": {"networkPolicy: {redis: [{namespace: cache, ports: [6379]}]}\n" + inline("{jwks_file: /k, replay: {store: redis, redis: {address: 'r:6379', tls: {ca_file: /etc/wallarm-gate/redis/ca.crt}}}}", ""),
		"reads /etc/wallarm-gate/redis/ca.crt, which is not mounted: set gate.redis.tls.ca"},
	"inline: a store that is text": {inline("{jwks_file: /k, replay: {store: redis, redis: 'r:6379'}}", ""), "plugins[0].config.replay.redis is no mapping"},
	"a route without the store": {"networkPolicy: {redis: [{namespace: cache, ports: [6379]}]}\n" + inline("{jwks_file: /k, replay: {store: redis, redis: {address: 'r:6379'}}}", "- {name: wallarm-gate, route: r, config: {jwks_file: /k}}"),
		"is weaker than the global one, which it replaces (replay.store)"},
	"a route that goes on without": {"networkPolicy: {redis: [{namespace: cache, ports: [6379]}]}\n" + inline("{jwks_file: /k, replay: {store: redis, redis: {address: 'r:6379'}}}", "- {name: wallarm-gate, route: r, config: {jwks_file: /k, replay: {store: redis, redis: {address: 'r:6379', on_error: local}}}}"),
		"is weaker than the global one, which it replaces (replay.redis.on_error)"},

	"no certificate":            {"tls: {existingSecret: ''}", "tls has no certificate"},
	"two certificates":          {"tls: {certManager: {enabled: true, issuerRef: {name: i}, dnsNames: [a]}}", "tls.existingSecret and tls.certManager.enabled are both set"},
	"no issuer":                 {"tls: {existingSecret: '', certManager: {enabled: true, dnsNames: [a]}}", "tls.certManager needs issuerRef.name and dnsNames"},
	"no name":                   {"tls: {existingSecret: '', certManager: {enabled: true, issuerRef: {name: i}}}", "tls.certManager needs issuerRef.name and dnsNames"},
	"an ARN without the NLB":    {"tls: {nlbCertificateArn: 'arn:aws:acm:eu:1:certificate/x'}", "tls.nlbCertificateArn is set, but tls.terminatedAt is kong"},
	"the NLB without an ARN":    {"tls: {terminatedAt: nlb, existingSecret: ''}", "tls.terminatedAt is nlb: set tls.nlbCertificateArn"},
	"the NLB and a certificate": {"tls: {terminatedAt: nlb, nlbCertificateArn: 'arn:aws:acm:eu:1:certificate/x'}", "but Kong is given a certificate too"},
	"the NLB and a client CA":   {"tls: {terminatedAt: nlb, existingSecret: '', nlbCertificateArn: 'arn:aws:acm:eu:1:certificate/x', clientCA: {existingSecret: c}}", "tls.clientCA cannot be checked when tls.terminatedAt is nlb"},
	"the NLB that is not made":  {"service: {type: ClusterIP}\ntls: {terminatedAt: nlb, existingSecret: '', nlbCertificateArn: 'arn:aws:acm:eu:1:certificate/x'}", "no NLB would be made"},

	"the only lock":         {"service: {scheme: internet-facing}", "service.scheme is internet-facing and the gate has no allowed_sources"},
	"the only lock, Secret": {"service: {scheme: internet-facing}\nservices: []\ndeclarative: {existingSecret: {name: s}}", "allowed_sources in an existing Secret cannot be seen here"},
	"the only lock, inline": {"service: {scheme: internet-facing}\n" + inline("{jwks_file: /k}", ""), "service.scheme is internet-facing and the gate has no allowed_sources"},

	"Kong ends too early": {"shutdown: {waitSeconds: 30}", "shutdown.waitSeconds is 30: it must be more than shutdown.deregistrationSeconds (30)"},
	"more than most":      {"autoscaling: {enabled: true, minReplicas: 7}", "autoscaling.minReplicas is 7, more than maxReplicas (6)"},
	"a volume of ours":    {"extraVolumes: [{name: gate, emptyDir: {}}]", "extraVolumes has the name gate"},
	"a mount over ours":   {"extraVolumeMounts: [{name: x, mountPath: /opt/wallarm-gate/}]", "extraVolumeMounts covers /opt/wallarm-gate with /opt/wallarm-gate"},
	"a mount in ours":     {"extraVolumeMounts: [{name: x, mountPath: /usr/local/share/lua/5.1/kong}]", "extraVolumeMounts covers /usr/local/share/lua with"},

	"inline: no YAML":                  {"services: []\ndeclarative: {inline: 'a: [b'}", "declarative.inline is no YAML mapping"},
	"inline: two documents":            {"services: []\ndeclarative: {inline: \"_format_version: '3.0'\\nplugins: [{name: wallarm-gate, config: {jwks_file: /k}}]\\n---\\na: b\\n\"}", "more than one YAML document"},
	"inline: a list":                   {"services: []\ndeclarative: {inline: '[1, 2]'}", "declarative.inline is no YAML mapping"},
	"inline: services as text":         {"services: []\ndeclarative: {inline: '{_format_version: \"3.0\", services: hello}'}", "services is no list"},
	"inline: plugins by name":          {"services: []\ndeclarative: {inline: '{_format_version: \"3.0\", plugins: {name: wallarm-gate}}'}", "plugins is no list"},
	"inline: a number":                 {inline("{jwks_file: /k}", "- 5"), "plugins[1] is no mapping"},
	"inline: a route as text":          {"services: []\ndeclarative: {inline: '{_format_version: \"3.0\", services: [{name: s, routes: [r]}]}'}", "services[0].routes[0] is no mapping"},
	"inline: config as text":           {inline("hello", ""), "plugins[0].config is no mapping"},
	"inline: replay as text":           {inline("{jwks_file: /k, replay: memory}", ""), "plugins[0].config.replay is no mapping"},
	"weaker: with empty fields":        {inline(strong, "- {name: wallarm-gate, route: r, config: {jwks_file: /k, max_age: null, replay: null, exempt: null, mode: null}}"), "(max_age, clock_skew, min_mode, applications, allowed_sources)"},
	"inline: no version":               {"services: []\ndeclarative: {inline: 'plugins: [{name: wallarm-gate, config: {jwks_file: /k}}]'}", "has no _format_version"},
	"inline: a number for the version": {"services: []\ndeclarative: {inline: '{_format_version: 3.0, plugins: [{name: wallarm-gate, config: {jwks_file: /k}}]}'}", "has no _format_version"},
	"inline: no gate":                  {"services: []\ndeclarative: {inline: '_format_version: \"3.0\"'}", "has 0 global, enabled instances"},
	"inline: a disabled gate":          {"services: []\ndeclarative: {inline: '{_format_version: \"3.0\", plugins: [{name: wallarm-gate, enabled: false, config: {jwks_file: /k}}]}'}", "has 0 global, enabled instances"},
	"inline: off":                      {"services: []\ndeclarative: {inline: '{_format_version: \"3.0\", plugins: [{name: wallarm-gate, enabled: off, config: {jwks_file: /k}}]}'}", "has 0 global, enabled instances"},
	"inline: two gates":                {inline("{jwks_file: /k}", "- {name: wallarm-gate, config: {jwks_file: /k}}"), "has 2 global, enabled instances"},
	"inline: only a route's":           {"services: []\ndeclarative: {inline: '{_format_version: \"3.0\", plugins: [{name: wallarm-gate, route: r, config: {jwks_file: /k}}]}'}", "has 0 global, enabled instances"},
	"inline: protocols":                {inline("{jwks_file: /k}", "- {name: wallarm-gate, route: r, protocols: [http], config: {jwks_file: /k}}"), "has protocols: leave them out"},
	"inline: no keys":                  {inline("{mode: enforce}", ""), "has no keys"},
	"inline: keys not there":           {"gate: {keys: {jwks: ''}}\n" + inline("{jwks_file: /etc/wallarm-gate/keys/jwks.json}", ""), "which is not mounted: set gate.keys"},
	"inline: a consumer": {inline("{jwks_file: /k}", "- {name: wallarm-gate, consumer: c, config: {jwks_file: /k}}\nconsumers: [{username: c}]"),
		`the gate in a plugin of consumer "c" never runs`},
	"inline: a nested consumer": {inline("{jwks_file: /k}", "consumers: [{username: c, plugins: [{name: wallarm-gate, config: {jwks_file: /k}}]}]"), `the gate in consumer "c" never runs`},
	"inline: a consumer group":  {inline("{jwks_file: /k}", "consumer_groups: [{name: g, plugins: [{name: wallarm-gate, config: {jwks_file: /k}}]}]"), `the gate in consumer_group "g" never runs`},
	"inline: allowed for naught": {"allowWeakerRoutes: [r]\n" + inline("{jwks_file: /k}", ""),
		"allowWeakerRoutes names r, which no gate of a route or service decides for"},

	"production reports, on a route": {"production: true\nallowWeakerRoutes: [r]\n" + onRoute("{mode: report}"), `production is true, but the gate in a plugin of route "r" only reports`},
	"inline: a token":                {inline("{proof: token, require_inspection: any, tokens: [aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]}", ""), "the gate in the global plugins holds a token in clear"},
	"inline: a shared key":           {inline(`{jwks: '{"keys":[{"kty":"oct","kid":"k2","k":"AA"}]}'}`, ""), "the gate in the global plugins holds a secret or private key (k2)"},
	"inline: a private key of a route": {inline("{jwks_file: /k}", `- {name: wallarm-gate, route: r, config: {jwks: '{"keys":[{"kty":"OKP","kid":"k1","d":"AA"}]}'}}`),
		`the gate in a plugin of route "r" holds a secret or private key (k1)`},

	"weaker: mode":               {onRoute("{mode: report}"), `the gate in a plugin of route "r" is weaker than the global one, which it replaces (mode)`},
	"weaker: proof":              {onRoute("{proof: token}"), "(proof)"},
	"weaker: max_age":            {onRoute("{max_age: 21}"), "(max_age)"},
	"weaker: max_age by default": {onRoute("{max_age: null}"), "(max_age)"},
	"weaker: clock_skew":         {onRoute("{clock_skew: 3}"), "(clock_skew)"},
	"weaker: min_mode":           {onRoute("{min_mode: safe_blocking}"), "(min_mode)"},
	"weaker: inspection":         {onRoute("{require_inspection: any}"), "(require_inspection)"},
	"weaker: applications":       {onRoute("{applications: [1, 2]}"), "(applications)"},
	"weaker: any application":    {onRoute("{applications: null}"), "(applications)"},
	"weaker: sources":            {onRoute("{allowed_sources: [0.0.0.0/0]}"), "(allowed_sources)"},
	"weaker: any source":         {onRoute("{allowed_sources: []}"), "(allowed_sources)"},
	"weaker: upgrade":            {onRoute("{allow_upgrade: true}"), "(allow_upgrade)"},
	"weaker: exempt":             {onRoute("{exempt: [{path: /x}]}"), "(exempt)"},
	"weaker: replay":             {onRoute("{replay: {store: 'off'}}"), "(replay.store)"},
	"weaker: two fields":         {onRoute("{mode: report, max_age: 300}"), "(mode, max_age)"},
	"weaker: by id": {inline(strong, "- {name: wallarm-gate, route: {id: 6f2}, config: "+instance("{mode: report}")+"}"),
		`the gate in a plugin of route "6f2" is weaker`},
	"weaker: of a service": {inline(strong, "- {name: wallarm-gate, service: {name: s}, config: "+instance("{mode: report}")+"}"), "or name r, r2 in allowWeakerRoutes"},
	"weaker: of a service, one route allowed": {"allowWeakerRoutes: [r]\n" + inline(strong, "- {name: wallarm-gate, service: s, config: "+instance("{mode: report}")+"}"),
		`the gate in a plugin of service "s" is weaker`},
	"weaker: a flat route": {inline(strong, "routes: [{name: flat, service: s, paths: [/f], plugins: [{name: wallarm-gate, config: "+instance("{mode: report}")+"}]}]"),
		`the gate in route "flat" is weaker`},
	"weaker: nested in a service": {"services: [{name: s, url: http://u, plugins: [{name: wallarm-gate, config: {jwks_file: /k, mode: report}}], routes: [{name: r, paths: [/]}]}]", `the gate in service "s" is weaker`},
	"weaker: nested in a route":   {"services: [{name: s, url: http://u, routes: [{name: r, paths: [/], plugins: [{name: wallarm-gate, config: {jwks_file: /k, min_mode: 'off'}}]}]}]", `the gate in route "r" is weaker`},
	"weaker: not quite disabled": {inline(strong, "- {name: wallarm-gate, enabled: null, route: r, config: "+instance("{mode: report}")+"}"),
		`the gate in a plugin of route "r" is weaker`},
}

// Environment that would open a door, or that the chart sets itself.
var ownedEnvironment = []string{
	"KONG_PLUGINS", "KONG_PLUGINSERVER_NAMES", "KONG_PLUGINSERVER_WALLARM_GATE_START_CMD", "KONG_ADMIN_LISTEN", "KONG_ADMIN_GUI_LISTEN",
	"KONG_PROXY_LISTEN", "KONG_STATUS_LISTEN", "KONG_STREAM_LISTEN", "KONG_DECLARATIVE_CONFIG", "KONG_DECLARATIVE_CONFIG_STRING", "KONG_PREFIX",
	"KONG_NGINX_HTTP_INCLUDE", "KONG_NGINX_PROXY_PROXY_BIND", "kong_plugins", "KONG_DATABASE", "KONG_TRUSTED_IPS", "KONG_REAL_IP_HEADER",
	"KONG_PLUGINS_FILE", "KONG_ADMIN_LISTEN_FILE", "KONG_SSL_CERT", "KONG_SSL_CERT_KEY_FILE", "KONG_PORT_MAPS", "KONG_ROLE", "KONG_LUA_MAX_REQ_HEADERS", "WALLARM_GATE_TOKEN_1", "LD_PRELOAD",
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ values, want string }{}
	for name, c := range refusals {
		cases[name] = c
	}
	for _, name := range ownedEnvironment {
		cases["environment "+name] = struct{ values, want string }{fmt.Sprintf("extraEnv: [{name: %s, value: x}]", name), "extraEnv sets " + name + ", which the chart owns"}
	}
	// Every sentence of the templates, as a pattern, has a case.
	tpl, err := os.ReadFile(filepath.Join(chartDir, "templates", "_validate.tpl"))
	if err != nil {
		t.Fatal(err)
	}
	kong, err := os.ReadFile(filepath.Join(chartDir, "templates", "_kong.tpl"))
	if err != nil {
		t.Fatal(err)
	}
	tpl = append(tpl, kong...)
	var sentences []*regexp.Regexp
	for _, m := range regexp.MustCompile(`(?m)^- (.*)$`).FindAllStringSubmatch(string(tpl), -1) {
		var pattern strings.Builder
		for i, part := range regexp.MustCompile(`\{\{.*?\}\}`).Split(m[1], -1) {
			if i > 0 {
				pattern.WriteString(".*")
			}
			pattern.WriteString(regexp.QuoteMeta(part))
		}
		sentences = append(sentences, regexp.MustCompile("^"+pattern.String()+"$"))
	}
	if len(sentences) < 40 {
		t.Fatalf("only %d sentences in _validate.tpl", len(sentences))
	}
	seen := make(chan string, len(cases))
	t.Run("each", func(t *testing.T) {
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				_, err := template(t, c.values, values("minimal"))
				if err == nil {
					t.Fatal("not refused")
				}
				lines := regexp.MustCompile(`(?m)^- (.*)$`).FindAllStringSubmatch(err.Error(), -1)
				if len(lines) != 1 || !strings.Contains(lines[0][1], c.want) {
					t.Fatalf("want one sentence with %q, got: %v", c.want, err)
				}
				seen <- lines[0][1]
			})
		}
	})
	close(seen)
	var shown []string
	for s := range seen {
		shown = append(shown, s)
	}
	if t.Failed() {
		return
	}
	for _, s := range sentences {
		if !slices.ContainsFunc(shown, s.MatchString) {
			t.Errorf("no case is refused with: %s", s)
		}
	}
}

// What looks like a refusal and is none.
func TestAccepted(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"the only lock, known":    "service: {scheme: internet-facing}\niKnowTheGateIsTheOnlyLock: true",
		"internet-facing, locked": "service: {scheme: internet-facing}\ngate: {config: {allowed_sources: [10.0.16.0/20]}}",
		"production":              "production: true",
		"Kong 3.8":                "kong: {version: '3.8', image: {tag: 3.8-ubuntu}}",
		"a tag without a version": "kong: {image: {tag: our-build}}",
		"keys of a ConfigMap":     "gate: {keys: {jwks: '', existingConfigMap: c}}",
		"keys of a store":         "gate: {keys: {jwks: '', externalSecret: {key: k}}}\nexternalSecrets: {secretStoreRef: {name: s, kind: SecretStore}}",
		"keys of a store, inline": "gate: {keys: {jwks: '', externalSecret: {key: k}}}\nexternalSecrets: {secretStoreRef: {name: s}}\n" + inline("{jwks_file: /etc/wallarm-gate/keys/jwks.json}", ""),
		"tokens of a store":       "gate: {keys: {jwks: ''}, config: {proof: token, require_inspection: any}, tokens: {externalSecrets: [{key: k}]}}\nexternalSecrets: {secretStoreRef: {name: s}}",
		"a monitor, no policy":    "monitoring: {podMonitor: {enabled: true, interval: 1m, scrapeTimeout: 60s}}\nnetworkPolicy: {enabled: false}",
		"no policy":               "networkPolicy: {enabled: false, upstreams: []}\nloadBalancerCidrs: []",
		"inside the cluster":      "service: {type: ClusterIP}\nloadBalancerCidrs: []",
		"as strict":               onRoute("{}"),
		"stricter":                onRoute("{max_age: 5, clock_skew: 0, require_inspection: active}"),
		"one of the sources":      inline("{jwks_file: /k, allowed_sources: [10.0.0.0/8, 10.9.0.0/16]}", "- {name: wallarm-gate, route: r, config: {jwks_file: /k, allowed_sources: [10.9.0.0/16]}}"),
		"the same exemption":      inline("{jwks_file: /k, exempt: [{path: /x}]}", "- {name: wallarm-gate, route: r, config: {jwks_file: /k, exempt: [{path: /x}]}}"),
		"disabled on a route":     inline(strong, "- {name: wallarm-gate, enabled: false, route: r, config: {jwks_file: /k, mode: report}}"),
		"references":              inline("{jwks: '{vault://env/edge-keys}'}", "- {name: wallarm-gate, route: r, config: {jwks: '{\"keys\":[]}'}}"),
		"referenced tokens":       inline("{proof: token, require_inspection: any, tokens: ['{vault://env/wallarm-gate-token-1}']}", ""),
		"weaker, allowed":         "allowWeakerRoutes: [r]\n" + onRoute("{mode: report}"),
		"a weaker service":        "allowWeakerRoutes: [r, r2]\n" + inline(strong, "- {name: wallarm-gate, service: s, config: {jwks_file: /k, mode: report}}"),
		"all weak":                inline("{jwks_file: /k, mode: report, min_mode: 'off', require_inspection: any}", "- {name: wallarm-gate, route: r, config: {jwks_file: /k, mode: report}}"),
		"a store that pods share": "gate: {config: {replay: {store: redis}}, redis: {address: 'r:6379'}}\nnetworkPolicy: {redis: [{namespace: cache, ports: [6379]}]}",
		"a store, no policy":      "gate: {config: {replay: {store: redis}}, redis: {address: '[fd00::1]:6379', tls: {enabled: false}}}\nnetworkPolicy: {enabled: false}",
		"a store, inline":         "gate: {redis: {password: {existingSecret: s}, tls: {ca: {existingSecret: s}}}}\nnetworkPolicy: {redis: [{namespace: cache, ports: [6379]}]}\n" + inline("{jwks_file: /k, replay: {store: redis, redis: {address: 'r:6379', password: '{vault://env/wallarm-gate-redis-password}', tls: {ca_file: /etc/wallarm-gate/redis/ca.crt}}}}", "- {name: wallarm-gate, route: r, config: {jwks_file: /k, replay: {store: redis, redis: {address: 'r:6379'}}}}"),
		"a route with the store":  "networkPolicy: {redis: [{namespace: cache, ports: [6379]}]}\n" + inline("{jwks_file: /k}", "- {name: wallarm-gate, route: r, config: {jwks_file: /k, replay: {store: redis, redis: {address: 'r:6379', on_error: local}}}}"),
		"environment of others":   "extraEnv: [{name: KONG_LUA_SSL_TRUSTED_CERTIFICATE, value: system}, {name: DB_PASSWORD, valueFrom: {secretKeyRef: {name: s, key: k}}}]",
		"a mount of one's own":    "extraVolumes: [{name: ca, secret: {secretName: ca}}]\nextraVolumeMounts: [{name: ca, mountPath: /etc/kong-ca, readOnly: true}]",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := template(t, text, values("minimal"))
			if err != nil {
				t.Fatal(err)
			}
			decode(t, text)
		})
	}
}

// checkAtStart runs the check of the init container that refuses open doors.
func checkAtStart(t *testing.T, m *manifests) *kongfile.Report {
	t.Helper()
	containers := m.Deployment.Spec.Template.Spec.InitContainers
	i := slices.IndexFunc(containers, func(c corev1.Container) bool { return slices.Contains(c.Command, "-check") })
	if i < 0 {
		t.Fatal("no init container checks the configuration")
	}
	report, err := kongfile.Check([]byte(m.Secret.StringData["kong.yml"]))
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(containers[i].Command, "-allow-report") {
		report.AllowReport()
	}
	return report
}

// The chart's own judgement and that of the check at start agree: what renders
// has no open door, but for report mode where that is declared.
func TestTheCheckAgrees(t *testing.T) {
	t.Parallel()
	for name, extra := range map[string]string{
		"minimal": "", "nlb": "", "image": "", "weaker, allowed": "allowWeakerRoutes: [r]\n" + onRoute("{min_mode: 'off', allow_upgrade: true}"), "strict": onRoute("{}"), "stricter": onRoute("{max_age: 5}"),
		"disabled": inline(strong, "- {name: wallarm-gate, enabled: false, route: r, config: {jwks_file: /k, mode: report}}"),
		"report":   "", "a route reports": "allowWeakerRoutes: [r]\n" + onRoute("{mode: report}"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := "minimal"
			if name == "nlb" || name == "image" || name == "report" {
				file = name
			}
			m := render(t, extra, file)
			if report := checkAtStart(t, m); report.Open() {
				t.Errorf("%+v\n%s", report, m.Secret.StringData["kong.yml"])
			}
		})
	}
	// Report mode that is not declared, and doors beside one that is.
	for name, c := range map[string]struct {
		extra, file string
		allowed     bool
	}{
		"enforce": {"", "minimal", false}, "a Secret": {"", "secret", false},
		"report": {"", "report", true}, "a Secret in report mode": {"gate: {config: {mode: report}}", "secret", true},
	} {
		for _, container := range render(t, c.extra, c.file).Deployment.Spec.Template.Spec.InitContainers {
			if slices.Contains(container.Command, "-check") && slices.Contains(container.Command, "-allow-report") != c.allowed {
				t.Errorf("%s: %v, want -allow-report: %v", name, container.Command, c.allowed)
			}
		}
	}
	open := "plugins: [{name: some-login}]\nservices: [{name: s, url: http://s, routes: [{name: admin-api, paths: [/x]}]}, {name: admin, url: 'http://127.0.0.1:8001', routes: [{name: r, paths: [/r]}]}]"
	if report := checkAtStart(t, render(t, open, "report")); !report.Open() {
		t.Errorf("report mode hides a way to the admin API: %+v", report)
	}
}

// The schema refuses what is misspelt or out of bounds, and says where.
func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	proxyProtocol := func(name, value string) string {
		return fmt.Sprintf("service: {annotations: {%q: %q}}", aws+name, value)
	}
	for name, c := range map[string]struct{ values, want string }{
		"a misspelt key":                {"replicas: 3", "replicas"},
		"a misspelt key inside":         {"gate: {config: {modus: report}}", "modus"},
		"proxy protocol":                {proxyProtocol("proxy-protocol", "*"), "proxy-protocol"},
		"proxy protocol, target group":  {proxyProtocol("target-group-attributes", "proxy_protocol_v2.enabled=true"), "target-group-attributes"},
		"another scheme":                {proxyProtocol("scheme", "internet-facing"), "aws-load-balancer-scheme"},
		"another health check":          {proxyProtocol("healthcheck-port", "8443"), "healthcheck-port"},
		"a mode that is none":           {"gate: {config: {mode: observe}}", "/gate/config/mode"},
		"a status that lets pass":       {"gate: {config: {deny_status: 200}}", "/gate/config/deny_status"},
		"a max_age without end":         {"gate: {config: {max_age: 301}}", "/gate/config/max_age"},
		"a status that hangs up":        {"gate: {config: {deny_status: 444}}", "/gate/config/deny_status"},
		"a revision that is a list":     {"configRevision: [1]", "/configRevision"},
		"application 0":                 {"gate: {config: {applications: [0]}}", "/gate/config/applications"},
		"an address for a CIDR":         {"edgeCidrs: [10.0.0.1]", "/edgeCidrs/0"},
		"a stream route":                {"services: [{name: s, url: http://u, routes: [{name: r, protocols: [tcp]}]}]", "/services/0/routes/0/protocols/0"},
		"a name that is a number":       {"fullnameOverride: 'Gate!'", "/fullnameOverride"},
		"a ConfigMap under a wrong key": {"extraVolumes: [{name: x, hostPath: {path: /}}]", "hostPath"},
		"five tokens of a store":        {"gate: {tokens: {externalSecrets: [{key: a}, {key: b}, {key: c}, {key: d}, {key: e}]}}", "/gate/tokens/externalSecrets"},
		"a store of another kind":       {"externalSecrets: {secretStoreRef: {kind: Vault}}", "/externalSecrets/secretStoreRef/kind"},
		"an interval without a unit":    {"monitoring: {podMonitor: {interval: '30'}}", "/monitoring/podMonitor/interval"},
		"a URL for an address":          {"gate: {redis: {address: 'rediss://u:p@r:6379'}}", "/gate/redis/address"},
		"a password in the values":      {"gate: {redis: {password: secret}}", "/gate/redis/password"},
		"a prefix that is a pattern":    {"gate: {redis: {prefix: 'a*'}}", "/gate/redis/prefix"},
		"five tokens":                   {"gate: {tokens: {keys: [a, b, c, d, e]}}", "/gate/tokens/keys"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := template(t, c.values, values("minimal"))
			// Helm before 3.18 writes services.0.routes, later ones /services/0/routes.
			dots := strings.NewReplacer("/", ".")
			if err == nil || !strings.Contains(err.Error(), "schema") || !strings.Contains(dots.Replace(err.Error()), dots.Replace(strings.TrimPrefix(c.want, "/"))) {
				t.Errorf("want the schema to speak of %s, got %v", c.want, err)
			}
		})
	}
}

// property is a part of values.schema.json.
type property struct {
	Description          string               `json:"description"`
	Type                 any                  `json:"type"`
	Properties           map[string]*property `json:"properties"`
	AdditionalProperties json.RawMessage      `json:"additionalProperties"`
	Items                *property            `json:"items"`
	Enum                 []any                `json:"enum"`
	Minimum              *float64             `json:"minimum"`
	Maximum              *float64             `json:"maximum"`
	MaxItems             *int                 `json:"maxItems"`
	Required             []string             `json:"required"`
}

func valuesSchema(t *testing.T) *property {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(chartDir, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s property
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// Each key has a description, the one of values.yaml; no object takes unknown
// keys but those whose keys are the user's; no top-level key is required.
func TestSchema(t *testing.T) {
	t.Parallel()
	s := valuesSchema(t)
	comments := map[string]string{}
	for _, v := range documented(t) {
		comments[v.path] = v.comment
	}
	open := map[string]bool{ // objects of others: their own schema is elsewhere
		"global": true, "affinity.nodeAffinity": true, "affinity.podAffinity": true, "affinity.podAntiAffinity": true,
		"plugins[].config": true, "services[].plugins[].config": true, "services[].routes[].plugins[].config": true,
	}
	n := 0
	var walk func(path string, p *property)
	walk = func(path string, p *property) {
		if len(p.Required) > 0 && !strings.Contains(path, "[]") && !strings.Contains(path, "valueFrom") {
			t.Errorf("%s: what is missing is a sentence of the chart, not of the schema", path)
		}
		if p.Type == "object" {
			extra := string(p.AdditionalProperties)
			switch {
			case len(p.Properties) > 0 && extra != "false":
				t.Errorf("%s takes unknown keys", path)
			case len(p.Properties) == 0 && extra == "" && !open[path]:
				t.Errorf("%s takes anything", path)
			}
		}
		for name, child := range p.Properties {
			n++
			key := strings.TrimPrefix(path+"."+name, ".")
			if child.Description == "" {
				t.Errorf("%s has no description", key)
			}
			if c, ok := comments[key]; ok && c != child.Description {
				t.Errorf("%s is described as %q, in values.yaml as %q", key, child.Description, c)
			}
			walk(key, child)
		}
		if p.Items != nil {
			walk(path+"[]", p.Items)
		}
	}
	walk("", s)
	if n < 150 {
		t.Errorf("only %d keys were checked", n)
	}
	for path := range comments {
		p := s
		for _, name := range strings.Split(path, ".") {
			if p = p.Properties[name]; p == nil {
				t.Fatalf("%s is not in the schema", path)
			}
		}
	}
}

// gate.config is the plugin's configuration: the same fields, defaults, choices
// and bounds as the plugin's own schema.
func TestGateConfigIsThePlugins(t *testing.T) {
	t.Parallel()
	bin, err := pluginBinary()
	if err != nil {
		t.Fatal(err)
	}
	host, err := pluginhost.Start(t.Context(), pluginhost.Options{Binary: bin, Prefix: t.TempDir(), NoStart: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	defaults, err := host.Schema().Validate(pluginhost.Plugin{Name: "wallarm-gate", Config: map[string]any{}})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Gate struct{ Config map[string]any }
	}
	if err := yaml.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	fields := map[string]bool{}
	for _, f := range kongfile.Fields() {
		fields[f] = true
	}
	for _, owned := range []string{"jwks", "jwks_file", "tokens"} {
		if !fields[owned] {
			t.Errorf("the plugin has no field %s any more", owned)
		}
		delete(fields, owned)
	}
	schema := valuesSchema(t).Properties["gate"].Properties["config"]
	for f := range fields {
		if strings.Contains(f, ".") {
			continue
		}
		if _, ok := v.Gate.Config[f]; !ok || schema.Properties[f] == nil {
			t.Errorf("the plugin's field %s is no value of the chart", f)
		}
	}
	for f, value := range v.Gate.Config {
		if !fields[f] {
			t.Errorf("gate.config.%s is no field of the plugin", f)
		}
		want := defaults[f]
		if record, ok := want.(map[string]any); ok { // an optional record in it is absent
			maps.DeleteFunc(record, func(_ string, v any) bool { return v == nil })
		}
		if want == nil { // an optional list
			want = []any{}
		}
		got, err1 := json.Marshal(value)
		plugin, err2 := json.Marshal(want)
		if err1 != nil || err2 != nil || string(got) != string(plugin) {
			t.Errorf("gate.config.%s is %s by default, in the plugin %s", f, got, plugin)
		}
	}
	// What the chart's schema takes the plugin's takes, and one beyond neither.
	try := func(path string, value any, want bool) {
		t.Helper()
		config := map[string]any{}
		last := config
		names := strings.Split(path, ".")
		for _, n := range names[:len(names)-1] {
			inner := map[string]any{}
			last[n], last = inner, inner
		}
		last[names[len(names)-1]] = value
		if _, err := host.Schema().Validate(pluginhost.Plugin{Name: "wallarm-gate", Config: config}); (err == nil) != want {
			t.Errorf("%s %v: the plugin's schema says %v", path, value, err)
		}
	}
	tried := 0
	var walk func(path string, p *property)
	walk = func(path string, p *property) {
		for _, e := range p.Enum {
			tried++
			try(path, e, true)
			try(path, fmt.Sprint(e, "x"), false)
		}
		if p.MaxItems != nil {
			tried++
			entry := map[string]any{"applications": 1, "allowed_sources": "10.0.0.0/8", "exempt": map[string]any{"path": "/a"}}[path]
			try(path, slices.Repeat([]any{entry}, *p.MaxItems), true)
			try(path, slices.Repeat([]any{entry}, *p.MaxItems+1), false)
		}
		if p.Minimum != nil && p.Maximum != nil {
			tried++
			try(path, *p.Minimum, true)
			try(path, *p.Minimum-1, false)
			try(path, *p.Maximum, true)
			try(path, *p.Maximum+1, false)
		}
		for name, child := range p.Properties {
			walk(strings.TrimPrefix(path+"."+name, "."), child)
		}
	}
	walk("", schema)
	if tried < 12 {
		t.Errorf("only %d choices and bounds were tried", tried)
	}
}
