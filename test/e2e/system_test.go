package e2e

// A system: everything from the node's listener to the upstream.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/test/edge/plan"
)

// options change a system. The zero value is the suite's own.
type options struct {
	terraform    map[string]any    // variables of edge/terraform
	values       string            // values of the chart, YAML, the last word
	attesterEnv  map[string]string // over the task definition's
	keyFile      bool              // the attester reads s.signingFile instead of its Secret
	pluginTags   string            // go build -tags
	attesterTags string
	pluginEnv    map[string]string // further environment of Kong and the plugin
	signing      *evidence.KeySet  // of the attester; nil: the suite's
	verifying    *evidence.KeySet  // of the gateway; nil: what goes with signing
	withoutEdge  bool              // no node, no attester
	lean         bool              // the recorder keeps only requests that are not proven
}

// own reports whether a running gateway would have to be another one.
func (o options) own() bool {
	return o.values != "" || o.pluginTags != "" || len(o.pluginEnv) > 0 || o.signing != nil || o.verifying != nil
}

// system is a running one. Its fields do not change, but for keys.
type system struct {
	kind      string // embedded, kong, docker, url
	host      string // the name that clients ask for
	edge      string // address of the node, "" without
	origin    string // of the gateway, plain HTTP/1.1, "" where there is none
	originTLS string // of the gateway, TLS
	alb       string // source address that plays the load balancer
	stranger  string // source address in nobody's list

	upstream                        *recorder
	node, attester, gateway, plugin unit

	keys          *evidence.KeySet // what the attester signs with at its next start
	signingFile   string           // the attester's, with options.keyFile
	verifyingFile string           // the plugin's jwks_file
	taskID        string           // X-Wallarm-Node of what went through this edge: random
	mode          string           // as Terraform states it
	application   string

	metricsURL string
	trust      *tls.Config // of the gateway's listener
	dir        string
	net        network
	gate       gateway
	plans      task
	kongFile   string         // the declarative file
	socket     string         // the plugin's
	service    map[int]string // ports of the chart's Service and the addresses behind them
}

// What the suite tells Terraform and the chart.
const (
	tokenARN    = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:wallarm/token-AbCdEf"
	keysARN     = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:wallarm/jwks-GhIjKl"
	gatewayName = "kong.internal.example.com"
	hostName    = "api.example.com"
)

func terraformVars(t testing.TB, verifying *evidence.KeySet) map[string]any {
	return map[string]any{
		"vpc_id":         "vpc-0123456789abcdef0",
		"alb_subnet_ids": []string{"subnet-0000000000000000a", "subnet-0000000000000000b"}, "alb_subnet_cidrs": []string{albSubnet, otherALBSubnet},
		"task_subnet_ids": []string{"subnet-0000000000000000d", "subnet-0000000000000000e"}, "task_subnet_cidrs": []string{taskSubnet, otherTaskSubnet},
		"certificate_arn": "arn:aws:acm:eu-central-1:123456789012:certificate/12345678-1234-1234-1234-123456789012",
		"attester_image":  "123456789012.dkr.ecr.eu-central-1.amazonaws.com/attester:1.0.0",
		"server_names":    []string{hostName},
		"gateway_url":     "https://" + gatewayName, "gateway_cidrs": []string{"10.0.21.0/24"}, "gateway_ca_pem": string(suiteCA().pem),
		"wallarm_api_token_secret_arn": tokenARN, "signing_jwks_secret_arn": keysARN, "verification_jwks": keySetJSON(t, public(t, verifying)),
		"wallarm_mode": "block", "wallarm_application": 7,
		"node_nginx": map[string]any{"log_query": true},
		// A change of the status is news soon, and nobody waits for an idle listener.
		"attester_environment": map[string]string{"ATTESTER_STATUS_INTERVAL": "200ms", "ATTESTER_SHUTDOWN_DELAY": "0s"},
	}
}

// The values that an operator writes beside those of Terraform's output.
const chartValues = `
gate:
  image:
    repository: registry.example.com/wallarm-gate-plugin
tls:
  existingSecret: gateway-tls
networkPolicy:
  upstreams:
    - namespace: shop
      ports: [8080]
services:
  - name: app
    url: ` + appURL + `
    routes:
      - name: app
        paths: [/]
        strip_path: false
        preserve_host: true
      # Kong holds an answer back in its buffers unless it is told otherwise.
      - name: events
        paths: [/sse]
        strip_path: false
        preserve_host: true
        response_buffering: false
      - name: sockets
        paths: [/ws]
        strip_path: false
        preserve_host: true
        plugins:
          - name: wallarm-gate
            config:
              jwks_file: /etc/wallarm-gate/keys/jwks.json
              allowed_sources: [` + taskSubnet + `, ` + otherTaskSubnet + `]
              min_mode: block
              applications: [7]
              allow_upgrade: true
allowWeakerRoutes: [sockets]
`

// start runs a system until the test ends.
func start(t testing.TB, o options) *system {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e") // short: a socket's path has room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &system{
		kind: os.Getenv("GATEWAY"), host: hostName, dir: dir, net: newNetwork(t), taskID: randomHex(),
		keys: o.signing, signingFile: filepath.Join(dir, "signing.json"),
	}
	if s.kind == "" {
		s.kind = "embedded"
	}
	s.alb, s.stranger = s.net.alb(), s.net.stranger()
	if s.kind == "url" {
		return s.startURL(t, o)
	}
	if s.keys == nil {
		s.keys = suiteKeys()
	}
	verifying := o.verifying
	if verifying == nil {
		verifying = s.keys
	}
	verifying = public(t, verifying)
	s.trust = &tls.Config{RootCAs: suiteCA().pool, ServerName: gatewayName}

	vars := terraformVars(t, verifying)
	maps.Copy(vars, o.terraform)
	if shared(verifying) { // is in no output of Terraform
		delete(vars, "verification_jwks")
	}
	plans := planned(t, vars)
	s.plans = plans
	s.upstream = newRecorder(t, s.net.upstream()+":"+appPort, o.lean, s.inspected)
	s.startPod(t, o, plans, verifying)
	s.startTask(t, o, plans, s.balanced(t, plans))
	return s
}

func shared(set *evidence.KeySet) bool {
	for _, k := range set.Keys() {
		if k.Alg == evidence.AlgHMACSHA256 {
			return true
		}
	}
	return false
}

var pods = map[string]func(t testing.TB, p *pod, env map[string]string, plain string) gateway{
	"embedded": func(t testing.TB, p *pod, env map[string]string, plain string) gateway {
		return startEmbedded(t, p, env, plain)
	},
	"kong":   startKong,
	"docker": startDocker,
}

// startPod renders the chart with what Terraform says of the edge and runs the pod.
func (s *system) startPod(t testing.TB, o options, plans task, verifying *evidence.KeySet) {
	t.Helper()
	run, ok := pods[s.kind]
	if !ok {
		t.Fatalf("GATEWAY=%q is not one of embedded, kong, docker, url", s.kind)
	}
	keys := map[string]string{"jwks.json": keySetJSON(t, verifying)}
	existing := map[string]map[string]string{"gateway-tls": suiteCA().gateway, "edge-keys": keys}
	values := []string{plans.chartValues, chartValues}
	if shared(verifying) {
		values = append(values, "gate: {keys: {existingSecret: edge-keys}}")
	}
	if s.kind == "docker" {
		values = append(values, "gate: {from: image, image: {repository: "+dockerImage(t)+"}}")
	}
	text := rendered(t, append(values, o.values)...)
	p := newPod(t, s.net, filepath.Join(s.dir, "pod"), text, binary(t, "./plugin", "wallarm-gate", o.pluginTags), existing)
	p.inContainer = s.kind == "docker"
	env := p.environment(t, existing)
	maps.Copy(env, o.pluginEnv)
	env["PATH"], env["HOME"] = os.Getenv("PATH"), s.dir
	s.kongFile = p.path(&p.kong, containerPath(t, p, "KONG_DECLARATIVE_CONFIG"))
	p.prepare(t) // Kong reads what an init container has checked
	file, err := os.ReadFile(s.kongFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.kongFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.kongFile, []byte(p.here(&p.kong, string(file))), 0o644); err != nil {
		t.Fatal(err)
	}
	s.socket = p.path(&p.kong, containerPath(t, p, "KONG_PLUGINSERVER_WALLARM_GATE_SOCKET"))
	s.verifyingFile = p.path(&p.kong, "/etc/wallarm-gate/keys/jwks.json")

	plain := ""
	for _, l := range listeners(env["KONG_PROXY_LISTEN"]) {
		if l.tls {
			s.originTLS = l.addr
		} else {
			s.origin = l.addr
		}
	}
	if s.origin == "" {
		// The chart's Kong speaks TLS only. Raw bytes are easier to read without.
		plain = s.net.pod() + ":8000"
		s.origin = plain
	}
	s.gate = run(t, p, env, plain)
	s.gateway, s.plugin = s.gate, s.gate.plugin()
	s.metricsURL = "http://" + p.address(t, p.kong.ReadinessProbe.HTTPGet.Port) + "/metrics"
	s.node, s.attester = absent{"this system has no edge"}, absent{"this system has no edge"}
	s.service = p.port
	waitReady(t, "the gateway", s.gateway)
}

// containerPath is the value of a variable as the chart wrote it.
func containerPath(t testing.TB, p *pod, name string) string {
	t.Helper()
	for _, e := range p.kong.Env {
		if e.Name == name {
			return e.Value
		}
	}
	t.Fatalf("the chart does not set %s", name)
	return ""
}

// balanced plays the gateway's load balancer: Terraform's URL leads to the port of
// the chart's Service, and that to Kong's.
func (s *system) balanced(t testing.TB, plans task) string {
	t.Helper()
	u, err := url.Parse(plan.Environment(plans.attester)["ATTESTER_BACKEND_URL"])
	if err != nil {
		t.Fatal(err)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	n, _ := strconv.Atoi(port)
	backend, ok := s.service[n]
	if !ok {
		t.Fatalf("the attester connects to %s, but the chart's Service has only the ports %v", u, s.service)
	}
	return backend
}

// startTask runs the attester and, once it lives, the node.
func (s *system) startTask(t testing.TB, o options, plans task, backend string) {
	t.Helper()
	if o.withoutEdge {
		s.mode, s.application = "block", "7"
		return
	}
	s.writeKeys(t, s.signingFile, s.keys)
	node := s.newNode(t, plans)
	attester := s.newAttester(t, plans, o, backend)
	for _, p := range []*process{attester, node} {
		if err := p.run(); err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		t.Cleanup(func() { p.end(t) })
	}
	waitReady(t, "node", node)
	waitReady(t, "attester", attester)
	s.node, s.attester = node, attester
	s.edge = s.net.task() + ":" + plans.port
}

// kongYML is the declarative file that is in force.
func (s *system) kongYML(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(s.kongFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// reload puts another kong.yml into force.
func (s *system) reload(t testing.TB, text string) {
	t.Helper()
	if !s.observes(t, "process") {
		leaveToOperator(t, "GATEWAY=url: the gateway's configuration cannot be changed")
	}
	atomicWrite(t, s.kongFile, []byte(text))
	s.gate.reload(t, text)
}

func (s *system) pluginSocket() string { return s.socket }

var requestID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// inspected reports why a request at the upstream does not prove that it came
// through this system's node. No client can know the node's name: it is random,
// and no answer holds it.
func (s *system) inspected(r seen) error {
	switch {
	case r.value(evidence.HeaderNode) != s.taskID:
		return fmt.Errorf("%s %s: the node is %q, not this system's", r.method, r.target, r.values(evidence.HeaderNode))
	case !requestID.MatchString(r.value(evidence.HeaderRequestID)):
		return fmt.Errorf("%s %s: the request id is %q", r.method, r.target, r.values(evidence.HeaderRequestID))
	case r.value(evidence.HeaderMode) != s.mode || r.value(evidence.HeaderApplication) != s.application || r.value(evidence.HeaderInspection) == "":
		return fmt.Errorf("%s %s: the evidence is not what the node states", r.method, r.target)
	}
	return nil
}

// unverified are the requests at the upstream that did not prove an inspection.
func (s *system) unverified() []seen {
	s.upstream.mu.Lock()
	defer s.upstream.mu.Unlock()
	return copies(s.upstream.unverified)
}

// repeated are proven requests whose id the upstream had seen before: sent again
// on the way, or replayed.
func (s *system) repeated() []seen {
	s.upstream.mu.Lock()
	defer s.upstream.mu.Unlock()
	return copies(s.upstream.repeated)
}

// logged waits for the line of the node's access log with this request id.
func (s *system) logged(t testing.TB, id string) map[string]any {
	t.Helper()
	var entry map[string]any
	eventually(t, "a line of the access log for "+id, func() bool {
		for line := range bytes.Lines([]byte(s.node.log())) {
			var e map[string]any
			if bytes.HasPrefix(line, []byte("{")) && json.Unmarshal(line, &e) == nil && e["request_id"] == id {
				entry = e
				return true
			}
		}
		return false
	})
	return entry
}

// suiteKeys is the key set of systems that ask for no other.
var suiteKeys = sync.OnceValue(func() *evidence.KeySet {
	key, err := evidence.GenerateKey("edge-2026-11", evidence.AlgEd25519)
	if err != nil {
		panic(err)
	}
	set, err := evidence.NewKeySet(key)
	if err != nil {
		panic(err)
	}
	return set
})

// authority is a CA and the gateway's certificate of it.
type authority struct {
	pem     []byte
	pool    *x509.CertPool
	gateway map[string]string // a Secret of type kubernetes.io/tls
}

var suiteCA = sync.OnceValue(func() authority {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	must(err)
	a := authority{pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pool: x509.NewCertPool()}
	a.pool.AppendCertsFromPEM(a.pem)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: gatewayName}, DNSNames: []string{gatewayName},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err = x509.CreateCertificate(rand.Reader, leaf, ca, &leafKey.PublicKey, key)
	must(err)
	private, err := x509.MarshalPKCS8PrivateKey(leafKey)
	must(err)
	a.gateway = map[string]string{
		"tls.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"tls.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
	}
	return a
})
