package main

// gatectl probe: what an installation does with a handful of harmless requests,
// asked from outside, through the edge and around it.

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

const probeSynopsis = "--edge URL --origin URL [--origin URL]… [--host HOST] [--path PATH] [--with-key FILE] [--ca FILE] [--json | --junit FILE]"

// maxOrigins bounds how much one probe sends.
const maxOrigins = 16

// errUndetermined is a probe that found no open door and could not look behind
// each of them: exit status 3.
var errUndetermined = errors.New("undetermined")

// prober is one run.
type prober struct {
	now                  func() time.Time
	timeout              time.Duration
	agent                string
	path                 string // path and query of the benign request
	host                 string // Host field of what goes to the origins
	roots                *x509.CertPool
	insecure             bool
	name                 string // in the origins' certificates; empty: their own hosts
	signer               *evidence.Signer
	app                  string
	block                int // status of the edge's own refusal
	minDays              int
	httpPort, healthPort int

	edge    *url.URL
	origins []*url.URL
	report  probeReport
}

func runProbe(ctx context.Context, t *tool, args []string) error {
	flags := t.flags("probe")
	p := &prober{now: t.now, agent: "wallarm-gate-probe/" + strings.Trim(version(), "()")}
	edge := flags.String("edge", "", "`URL` of the edge: scheme, host and port")
	var origins list
	flags.Var(&origins, "origin", "`URL` of a gateway behind the edge, again for each")
	flags.StringVar(&p.host, "host", "", "`host` field of the requests to the origins (default: that of the edge)")
	flags.StringVar(&p.path, "path", "/", "`path` that answers 2xx to a plain GET through the edge, and has a gate")
	keyFile := flags.String("with-key", "", "`file` with a JWK Set that the gateways trust: asks for replays too; - for the standard input")
	flags.StringVar(&p.app, "application", "-1", "`id` of the Wallarm application in what --with-key signs, -1 for none")
	caFile := flags.String("ca", "", "`file` with PEM certificates to trust beside the system's")
	flags.StringVar(&p.name, "server-name", "", "`name` in the origins' certificates (default: the host of each URL)")
	flags.BoolVar(&p.insecure, "insecure", false, "do not verify the origins' certificates; the edge's always is")
	timeout := flags.duration("timeout", 5*time.Second, "`duration` that a connection, and then an answer, may take: 100ms to 1m")
	block := flags.number("block-status", http.StatusForbidden, "`status` with which the edge stops an attack")
	minDays := flags.number("min-days", 14, "least number of `days` that the edge's certificate must be valid for")
	httpPort := flags.number("http-port", 80, "`port` of the edge for plain HTTP")
	healthPort := flags.number("health-port", 8082, "`port` of the attester's health listener, which must not be public")
	asJSON := flags.Bool("json", false, "print the findings as JSON")
	junit := flags.String("junit", "", "`file` for the findings as JUnit XML; - for the standard output, in place of the table")
	if _, err := flags.parse(args, 0, 0, ""); err != nil {
		return err
	}
	p.timeout, p.block, p.minDays, p.httpPort, p.healthPort = *timeout, *block, *minDays, *httpPort, *healthPort
	switch {
	case *edge == "":
		return usagef("--edge is missing; see gatectl help probe")
	case len(origins) == 0:
		return usagef("--origin is missing; see gatectl help probe")
	case len(origins) > maxOrigins:
		return usagef("%d origins are too many; at most %d", len(origins), maxOrigins)
	case p.timeout < 100*time.Millisecond || p.timeout > time.Minute:
		return usagef("--timeout is %v; it must be 100ms to 1m", p.timeout)
	case p.block < 300 || p.block > 599:
		return usagef("--block-status is %d; it must be 300 to 599", p.block)
	case p.minDays < 0 || p.minDays > 3650:
		return usagef("--min-days is %d; it must be 0 to 3650", p.minDays)
	case !isPort(p.httpPort) || !isPort(p.healthPort):
		return usagef("--http-port and --health-port must be 1 to 65535")
	case !isApplication(p.app):
		return usagef("--application is %q; it must be -1 or 1 to 2147483647", p.app)
	case *asJSON && *junit == "-":
		return usagef("--json and --junit - exclude each other")
	}
	var err error
	if p.edge, err = baseURL("--edge", *edge); err != nil {
		return err
	}
	for _, s := range origins {
		u, err := baseURL("--origin", s)
		if err != nil {
			return err
		}
		p.origins = append(p.origins, u)
	}
	if err := evidence.CheckTarget(p.path); err != nil {
		return usagef("--path: %w", err)
	}
	if p.host == "" {
		p.host = authority(p.edge)
	} else if u, err := baseURL("--host", "http://"+p.host); err != nil || u.Host != p.host {
		return usagef("--host is %q; it must be a host name or address, with or without a port", p.host)
	}
	if err := p.readFiles(t, *keyFile, *caFile); err != nil {
		return err
	}
	p.run(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := p.write(t.stdout, *asJSON, *junit); err != nil {
		return err
	}
	switch {
	case p.report.Failed > 0:
		return errSilent
	case p.report.Undetermined > 0:
		return errUndetermined
	}
	return nil
}

// readFiles reads what the options name, before the first request.
func (p *prober) readFiles(t *tool, keyFile, caFile string) error {
	if caFile != "" {
		pem, err := t.readLimited(caFile, 1<<20)
		if err != nil {
			return err
		}
		if p.roots, err = x509.SystemCertPool(); err != nil {
			p.roots = x509.NewCertPool()
		}
		if !p.roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s holds no PEM certificate", display(caFile))
		}
	}
	if keyFile == "" {
		return nil
	}
	set, _, err := t.readKeys(keyFile)
	if err != nil {
		return err
	}
	key, err := set.SigningKey(p.now())
	if err != nil {
		return fmt.Errorf("%s: %w", display(keyFile), err)
	}
	if p.signer, err = evidence.NewSigner(key, 15*time.Second); err != nil {
		return err
	}
	_, err = p.signed(nil) // a --host that no evidence can name
	return err
}

func (p *prober) write(stdout io.Writer, asJSON bool, junit string) error {
	if junit != "" {
		var out bytes.Buffer
		if err := p.report.junit(&out); err != nil {
			return err
		}
		if junit == "-" {
			_, err := out.WriteTo(stdout)
			return err
		}
		if err := os.WriteFile(junit, out.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if asJSON {
		return p.report.json(stdout)
	}
	return p.report.table(stdout)
}

// isApplication reports whether evidence can hold s as the Wallarm application.
func isApplication(s string) bool {
	n, err := strconv.ParseInt(s, 10, 32)
	return err == nil && (n == -1 || n >= 1) && s == strconv.FormatInt(n, 10)
}

func isPort(n int) bool { return n >= 1 && n <= 65535 }

// baseURL reads a URL that names a server and nothing on it.
func baseURL(option, s string) (*url.URL, error) {
	if strings.Contains(s, "@") { // not repeated: a password may stand there
		return nil, usagef("%s must not hold a user name", option)
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
		u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, usagef("%s is %q; it must be http:// or https://, a host and perhaps a port", option, s)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || !isPort(n) {
			return nil, usagef("%s is %q; the port must be 1 to 65535", option, s)
		}
	}
	return u, nil
}

func address(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// authority is the Host field of requests to u, without the scheme's own port.
func authority(u *url.URL) string {
	if u.Scheme == "http" {
		return strings.TrimSuffix(u.Host, ":80")
	}
	return strings.TrimSuffix(u.Host, ":443")
}

func (p *prober) run(ctx context.Context) {
	p.probeEdge(ctx)
	for _, u := range p.origins {
		p.probeOrigin(ctx, u)
	}
}

// head is a request. It names the probe, and asks for no connection to be kept
// unless fields say so.
func (p *prober) head(host, target string, fields ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nAccept: */*\r\n", target, host, p.agent)
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	b.WriteString("\r\n")
	return b.String()
}

// ask sends one request over a connection of its own.
func (p *prober) ask(ctx context.Context, e endpoint, request string) (*reply, error) {
	s, err := open(ctx, e, p.timeout)
	if err != nil {
		return nil, err
	}
	defer s.close()
	p.report.Requests++
	return s.exchange(ctx, request)
}

// with appends an argument to the benign path.
func (p *prober) with(argument string) string {
	if strings.Contains(p.path, "?") {
		return p.path + "&gatectl-probe=" + argument
	}
	return p.path + "?gatectl-probe=" + argument
}

// attacks are what every WAF knows. None of them changes or reads anything of
// value even where nothing stops it.
var attacks = []struct{ name, argument string }{
	{"a SQL injection in an argument", "1%27%20UNION%20SELECT%201,2,3--"},
	{"a path traversal in an argument", "../../../../etc/passwd"},
	{"a script tag in an argument", "%3Cscript%3Ealert(1)%3C/script%3E"},
}

func (p *prober) probeEdge(ctx context.Context) {
	place := "edge " + p.edge.Scheme + "://" + p.edge.Host
	add := func(check, expected string, r result, got string) {
		p.report.add(finding{r, place, check, expected, got})
	}
	e, host := endpoint{addr: address(p.edge)}, authority(p.edge)
	if p.edge.Scheme == "https" {
		e.tls = &tls.Config{ServerName: p.edge.Hostname(), RootCAs: p.roots, Time: p.now, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	}
	benign, err := p.ask(ctx, e, p.head(host, p.path, "Connection: close"))
	if err != nil {
		add("answers", "an answer", resultFail, err.Error())
	} else {
		add("answers", "an answer", resultOK, strconv.Itoa(benign.status))
	}
	p.probeTLS(ctx, e, add)
	p.probeRedirect(ctx, add)

	const passes = "2xx"
	if benign == nil {
		add("a benign request passes", passes, resultUnknown, "the edge does not answer")
	} else {
		r, got := passed(benign)
		add("a benign request passes", passes, r, got)
	}
	for _, a := range attacks {
		r, got := resultUnknown, "not sent: the edge does not answer"
		if benign != nil {
			answer, err := p.ask(ctx, e, p.head(host, p.with(a.argument), "Connection: close"))
			r, got = p.stopped(benign, answer, err)
		}
		add(a.name, fmt.Sprintf("%d at the edge", p.block), r, got)
	}

	for _, path := range []string{"/readyz", "/wallarm-status"} {
		r, got := resultUnknown, "not sent: the edge does not answer"
		if benign != nil {
			answer, err := p.ask(ctx, e, p.head(host, path, "Connection: close"))
			r, got = private(answer, err)
		}
		add(path+" through the edge", "not the edge's own state", r, got)
	}
	health := endpoint{addr: net.JoinHostPort(p.edge.Hostname(), strconv.Itoa(p.healthPort))}
	answer, err := p.ask(ctx, health, p.head(health.addr, "/readyz", "Connection: close"))
	r, got := private(answer, err)
	switch {
	case unreachable(err):
		r, got = resultOK, "closed"
	case answer != nil && r == resultOK:
		r, got = resultUnknown, got+": something else listens there"
	}
	add(fmt.Sprintf("health listener (port %d)", p.healthPort), "closed", r, got)
}

// private judges what came from a path of the edge's own state.
func private(a *reply, err error) (result, string) {
	if err != nil {
		return resultUnknown, err.Error()
	}
	var state map[string]json.RawMessage
	if json.Unmarshal(a.body, &state) == nil {
		if _, ok := state["inspection"]; ok && state["ready"] != nil {
			return resultFail, fmt.Sprintf("%d: the attester's health is public", a.status)
		}
		if _, ok := state["proton_instances"]; ok {
			return resultFail, fmt.Sprintf("%d: the node's status is public", a.status)
		}
	}
	return resultOK, fmt.Sprintf("%d, not the edge's own", a.status)
}

// passed judges a request that must get through edge and gate. Only 2xx shows
// that it did: any other status may be the answer of something in front of the API.
func passed(a *reply) (result, string) {
	const path = "; give a --path that answers 2xx"
	switch {
	case a.status/100 == 2:
		return resultOK, strconv.Itoa(a.status)
	case a.gate():
		return resultFail, fmt.Sprintf("%d by the gate", a.status)
	case a.status == http.StatusForbidden:
		return resultFail, "403, not by the gate"
	case a.status >= 500:
		return resultFail, strconv.Itoa(a.status)
	case a.noRoute():
		return resultUnknown, "404: Kong has no route for it" + path
	case a.status/100 == 3:
		return resultUnknown, fmt.Sprintf("%d to %q, not followed%s", a.status, cut(a.location), path)
	}
	return resultUnknown, strconv.Itoa(a.status) + path
}

// stopped judges an attack sample beside the benign request's answer.
func (p *prober) stopped(benign, a *reply, err error) (result, string) {
	switch {
	case err != nil:
		return resultUnknown, err.Error()
	case a.gate():
		return resultFail, fmt.Sprintf("%d by the gate: the edge let it pass", a.status)
	case a.status == p.block && benign.status == a.status && !benign.gate():
		return resultUnknown, fmt.Sprintf("%d, as for the benign request: it shows nothing", a.status)
	case a.status == p.block:
		return resultOK, strconv.Itoa(a.status)
	case a.status/100 == 2:
		return resultFail, fmt.Sprintf("%d: the edge let it pass", a.status)
	case a.status == benign.status:
		return resultUnknown, fmt.Sprintf("%d, as for the benign request: give a --path that answers 2xx", a.status)
	}
	return resultUnknown, fmt.Sprintf("%d: it may come from the API; if the edge blocks with it, give --block-status %[1]d", a.status)
}

// probeTLS looks at the edge's certificate and versions of TLS.
func (p *prober) probeTLS(ctx context.Context, e endpoint, add func(string, string, result, string)) {
	const version, modern, old, certificate = "TLS version", "1.2 or later", "TLS 1.1 and 1.0", "certificate"
	valid := fmt.Sprintf("valid, %d days or more", p.minDays)
	if e.tls == nil {
		add(version, modern, resultFail, "none: --edge is http://")
		return
	}
	// Nothing is sent on these connections, so the certificate can be looked at
	// before it is judged.
	look := e.tls.Clone()
	look.InsecureSkipVerify, look.MinVersion = true, tls.VersionTLS10
	s, err := open(ctx, endpoint{e.addr, look}, p.timeout)
	if err != nil {
		add(version, modern, resultUnknown, err.Error())
		add(old, "refused", resultUnknown, err.Error())
		add(certificate, valid, resultUnknown, err.Error())
		return
	}
	state := s.conn.(*tls.Conn).ConnectionState()
	s.close()
	r := resultOK
	if state.Version < tls.VersionTLS12 {
		r = resultFail
	}
	add(version, modern, r, tls.VersionName(state.Version))

	look.MaxVersion = tls.VersionTLS11
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		look.CipherSuites = append(look.CipherSuites, suite.ID)
	}
	s, err = open(ctx, endpoint{e.addr, look}, p.timeout)
	var network net.Error
	switch {
	case err == nil:
		add(old, "refused", resultFail, tls.VersionName(s.conn.(*tls.Conn).ConnectionState().Version)+" is accepted")
		s.close()
	case unreachable(err) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network) && network.Timeout():
		add(old, "refused", resultUnknown, err.Error())
	default:
		add(old, "refused", resultOK, "refused")
	}

	leaf, rest := state.PeerCertificates[0], x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		rest.AddCert(c)
	}
	days := int(leaf.NotAfter.Sub(p.now()) / (24 * time.Hour))
	_, err = leaf.Verify(x509.VerifyOptions{DNSName: e.tls.ServerName, Roots: p.roots, Intermediates: rest, CurrentTime: p.now()})
	switch {
	case err != nil:
		add(certificate, valid, resultFail, err.Error())
	case days < p.minDays:
		add(certificate, valid, resultFail, fmt.Sprintf("%d days left", days))
	default:
		add(certificate, valid, resultOK, fmt.Sprintf("%d days left", days))
	}
}

func (p *prober) probeRedirect(ctx context.Context, add func(string, string, result, string)) {
	if p.edge.Scheme != "https" {
		return // said already
	}
	host := p.edge.Hostname()
	plain := &url.URL{Scheme: "http", Host: net.JoinHostPort(host, strconv.Itoa(p.httpPort))}
	a, err := p.ask(ctx, endpoint{addr: plain.Host}, p.head(authority(plain), p.path, "Connection: close"))
	r, got := resultUnknown, ""
	switch {
	case unreachable(err):
		r, got = resultOK, "closed"
	case err != nil:
		got = err.Error()
	case a.status/100 == 2:
		r, got = resultFail, fmt.Sprintf("%d without TLS", a.status)
	case a.status/100 == 3 && a.location != "":
		got = fmt.Sprintf("%d to %q", a.status, cut(a.location))
		switch to, err := url.Parse(a.location); {
		case err != nil:
		case to.Scheme == "https" && strings.EqualFold(to.Hostname(), host):
			r = resultOK
		case to.Scheme == "https":
			got += ", which is another host"
		default:
			r = resultFail
		}
	default:
		got = fmt.Sprintf("%d without TLS: neither served nor redirected", a.status)
	}
	add("plain HTTP", "redirected to https, or closed", r, got)
}

func (p *prober) probeOrigin(ctx context.Context, u *url.URL) {
	place := "origin " + u.Scheme + "://" + u.Host
	add := func(check, expected string, r result, got string) {
		p.report.add(finding{r, place, check, expected, got})
	}
	e := endpoint{addr: address(u)}
	s, err := open(ctx, e, p.timeout)
	switch {
	case unreachable(err):
		add("reachable from here", "no", resultOK, "no, so nothing was sent: "+err.Error())
		return
	case err != nil:
		add("reachable from here", "no", resultUnknown, err.Error())
		return
	}
	s.close()
	add("reachable from here", "better not", resultNote, "yes: only the gate refuses")
	if u.Scheme == "https" {
		e.tls = &tls.Config{ServerName: u.Hostname(), RootCAs: p.roots, Time: p.now, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, InsecureSkipVerify: p.insecure}
		set(&e.tls.ServerName, p.name)
		if p.insecure {
			add("certificate", "verified", resultNote, "not verified (--insecure)")
		}
	} else {
		add("certificate", "verified", resultNote, "none: --origin is http://")
	}

	for _, c := range []struct {
		name   string
		fields []string
	}{
		{"a direct request", nil},
		{"made-up evidence", forgedEvidence},
		{"a made-up signature", append(p.forgedSignature(), forgedEvidence...)},
		{"a made-up token", []string{evidence.HeaderToken + ": " + randomID() + randomID()}},
	} {
		a, err := p.ask(ctx, e, p.head(p.host, p.path, append([]string{"Connection: close"}, c.fields...)...))
		r, got := refused(a, err)
		add(c.name, refusedByGate, r, got)
	}
	if p.signer != nil {
		p.probeSigned(ctx, e, add)
	}
}

const refusedByGate = "4xx by the gate"

// forgedEvidence is what somebody would send who has read the manual.
var forgedEvidence = []string{
	evidence.HeaderRequestID + ": 00000000000000000000000000000000", evidence.HeaderClientIP + ": 192.0.2.1",
	evidence.HeaderMode + ": block", evidence.HeaderApplication + ": -1",
	evidence.HeaderNode + ": forged", evidence.HeaderInspection + ": active",
}

// forgedSignature is well-formed and fresh, and by no key: it names the one of
// --with-key, which the gate knows.
func (p *prober) forgedSignature() []string {
	m, id := p.message(), "forged"
	if p.signer != nil {
		id = p.signer.KeyID()
	}
	key, err := evidence.GenerateKey(id, evidence.AlgEd25519)
	if err == nil {
		var signer *evidence.Signer
		if signer, err = evidence.NewSigner(key, 15*time.Second); err == nil {
			err = signer.Sign(m, p.now())
		}
	}
	if err != nil { // --host or --path that no evidence can cover: any signature will do
		m.SignatureInput = "wallarm=();tag=\"wallarm-gate\""
	}
	return []string{
		evidence.HeaderSignatureInput + ": " + m.SignatureInput,
		evidence.HeaderSignature + ": wallarm=:" + base64.StdEncoding.EncodeToString(make([]byte, 64)) + ":",
	}
}

// message is the benign request with evidence as an attester would state it.
func (p *prober) message() *evidence.Message {
	return &evidence.Message{
		Method: http.MethodGet, Authority: p.host, Target: p.path, RequestID: randomID(), ClientIP: "192.0.2.1",
		Mode: evidence.ModeBlock.String(), Application: p.app, Node: "gatectl-probe", Inspection: evidence.InspectionActive.String(),
	}
}

// signed returns the benign request with evidence for what change makes of it.
func (p *prober) signed(change func(*evidence.Message)) (string, error) {
	m := p.message()
	if change != nil {
		change(m)
	}
	if err := p.signer.Sign(m, p.now()); err != nil {
		return "", err
	}
	lines := []string{"Connection: Signature, Signature-Input"} // as the attester: Kong then drops both
	for _, f := range fields(m) {
		lines = append(lines, f[0]+": "+f[1])
	}
	return p.head(p.host, p.path, lines...), nil
}

// probeSigned asks with a real key: once is right, and everything else is not.
func (p *prober) probeSigned(ctx context.Context, e endpoint, add func(string, string, result, string)) {
	const once = "signed with the key, first time"
	again := []string{"the same again, on the same connection", "the same again, on a new connection"}
	request, err := p.signed(nil)
	if err != nil {
		add(once, "2xx", resultUnknown, err.Error())
		return
	}
	s, err := open(ctx, e, p.timeout)
	if err != nil {
		add(once, "2xx", resultUnknown, err.Error())
		return
	}
	defer s.close()
	p.report.Requests++
	first, err := s.exchange(ctx, request)
	r, got := resultUnknown, ""
	if err != nil {
		got = err.Error()
	} else if r, got = passed(first); first.gate() {
		got += ": another key, another clock or another policy"
	}
	add(once, "2xx", r, got)
	// What follows shows something only beside a request that was let through.
	accepted := err == nil && !first.gate() && !first.noRoute() && first.status != http.StatusForbidden && first.status < 500
	judge := func(a *reply, err error) (result, string) {
		r, got := refused(a, err)
		if r == resultOK && !accepted {
			return resultUnknown, got + ", and so may be every request: it shows nothing"
		}
		return r, got
	}
	if s.reuse {
		p.report.Requests++
		r, got = judge(s.exchange(ctx, request))
	} else { // the next one tells
		r, got = resultNote, "not sent: the first answer ended the connection, or is too long"
	}
	add(again[0], refusedByGate, r, got)
	sameRefused := r == resultOK
	if r, got = judge(p.ask(ctx, e, request)); r == resultFail && sameRefused {
		got += ": gateways behind this origin do not share a replay store"
	}
	add(again[1], refusedByGate, r, got)
	for _, c := range []struct {
		name   string
		change func(*evidence.Message)
	}{
		{"signed for another target", func(m *evidence.Message) { m.Target = p.with("other") }},
		{"signed for another host", func(m *evidence.Message) { m.Authority = "other.invalid" }},
		{"signed for another method", func(m *evidence.Message) { m.Method = http.MethodOptions }},
	} {
		request, err := p.signed(c.change)
		if err != nil {
			add(c.name, refusedByGate, resultUnknown, err.Error())
			continue
		}
		r, got := judge(p.ask(ctx, e, request))
		add(c.name, refusedByGate, r, got)
	}
}

// refused judges a request that the gate must refuse. Only the gate's own words
// show that there is a gate.
func refused(a *reply, err error) (result, string) {
	switch {
	case clientCertificateWanted(err):
		return resultOK, "refused in the TLS handshake: it wants a client certificate"
	case err != nil:
		var unverified *tls.CertificateVerificationError
		if errors.As(err, &unverified) {
			return resultUnknown, unverified.Err.Error() + " (--ca, --server-name or --insecure)"
		}
		return resultUnknown, err.Error()
	case a.gate():
		return resultOK, fmt.Sprintf("%d by the gate", a.status)
	case a.status/100 == 2 || a.status == http.StatusSwitchingProtocols:
		return resultFail, fmt.Sprintf("%d: the door is open", a.status)
	case a.noRoute():
		return resultUnknown, "404: Kong has no route for it, which says nothing of a gate; see --host and --path"
	case a.status/100 == 3:
		return resultUnknown, fmt.Sprintf("%d to %q, not by the gate", a.status, cut(a.location))
	}
	return resultUnknown, fmt.Sprintf("%d, not by the gate: it may be the API's own", a.status)
}
