package main

// The scenarios of the demo: what must pass, and every way around the gate that
// must not. They run in this order, one at a time.

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

// scenario is one row of the table.
type scenario struct {
	name string
	want string // outcome.String, or for a refusal at the edge its beginning
	run  func(ctx context.Context, s *site) (outcome, error)
}

// outcome is what came of a scenario. The reason is the gate's own, as its log
// serializer has it: a reason of the closed list behind the decision deny or
// report, else the decision. "edge" and a sentence means that the request never
// came to the gateway.
type outcome struct {
	got, reason string
	detail      string // for the reader only
}

func (o outcome) String() string { return strings.TrimSpace(o.got + " " + o.reason) }

func (sc *scenario) holds(o outcome) bool {
	return o.String() == sc.want || strings.HasSuffix(sc.want, " edge") && strings.HasPrefix(o.String(), sc.want+": ")
}

// fake are evidence headers that a client made up, in spellings that Kong reads
// as the same names.
var fake = []string{
	"X-Wallarm-Request-Id: 00000000000000000000000000000000", "X_Wallarm_Client_Ip: 192.0.2.1", "X-Wallarm-Mode: block",
	"x_wallarm-application: -1", "X-Wallarm-Node: forged", "X-Wallarm_Inspection: active", "X_Wallarm-Token: forged",
}

func scenarios() []scenario {
	const script = "%3Cscript%3Ealert(1)%3C/script%3E"
	// The attester writes them in front of Connection, which Kong must still
	// see to drop the signature.
	var many []string
	for i := range 150 {
		many = append(many, fmt.Sprintf("A-Field-%d: %d", i, i))
	}
	return []scenario{
		{"a request through the edge", "200 allow", edge("GET", "/orders?page=2")},
		{"its signature is not seen by the upstream", "200 allow", signatureGone},
		{"nor one that Connection does not name", "200 allow", signed(time.Now, func(d *draft) { d.unnamed = true })},
		{"the same request straight to the gateway", "403 missing_evidence", direct("GET", "/orders?page=2")},
		{"with made-up evidence headers", "403 missing_evidence", direct("GET", "/orders", fake...)},
		{"with a made-up signature", "403 bad_signature", signed(time.Now, func(d *draft) { d.signature = "wallarm=:" + strings.Repeat("A", 86) + "==:" })},

		{"captured evidence sent again", "403 replayed", captured(func(h string) string { return h })},
		{"captured evidence on another path", "403 bad_signature", captured(func(h string) string { return strings.Replace(h, " /captured ", " /admin ", 1) })},
		{"captured evidence with another method", "403 bad_signature", captured(func(h string) string { return strings.Replace(h, "GET ", "DELETE ", 1) })},
		{"captured evidence for another host", "403 bad_signature", captured(func(h string) string { return strings.Replace(h, "Host: "+demoHost, "Host: other.example", 1) })},
		{"evidence older than max_age", "403 stale_evidence", signed(func() time.Time { return time.Now().Add(-time.Minute) }, nil)},
		{"evidence from the future", "403 future_evidence", signed(func() time.Time { return time.Now().Add(time.Minute) }, nil)},
		{"signed with an unknown key", "403 unknown_key", signed(time.Now, func(d *draft) { d.key = d.keys.unknown })},
		{"signed with an expired key", "403 key_not_active", signed(time.Now, func(d *draft) { d.key = d.keys.expired })},

		{"proof by token, the right one", "200 allow", direct("GET", "/token", slices.Concat(stated, []string{"X-Wallarm-Token: " + demoToken})...)},
		{"proof by token, a wrong one", "403 token_mismatch", direct("GET", "/token", slices.Concat(stated, []string{"X-Wallarm-Token: " + strings.Repeat("x", 32)})...)},

		{"a SQL injection through the edge", "403 edge", edge("GET", "/orders?id=1%27%20union%20select%20password%20from%20users--")},
		{"a path traversal through the edge", "403 edge", edge("GET", "/orders?file=../../../../etc/passwd")},
		{"a script injection through the edge", "403 edge", edge("GET", "/orders?q="+script)},
		{"an attack behind #, which ends nginx's URI", "400 edge", edge("GET", "/public#?q=<script>alert(1)</script>")},
		{"a quote that makes Go decode %2f", "400 edge", edge("GET", `/p"%2f..%2fadm`)},

		{"the node is degraded", "403 not_inspected", degraded},
		{"the node's mode is below min_mode", "403 mode_not_allowed", monitoring},
		{"that mode where min_mode allows it", "200 allow", monitoringAllowed},

		{"an exempt path", "200 exempt", direct("GET", "/healthz")},
		{"an exempt path with made-up evidence", "200 exempt", direct("GET", "/healthz", fake...)},
		{"an exempt path, another method", "403 missing_evidence", direct("POST", "/healthz", "Content-Length: 0")},
		{"/healthz/../admin", "403 missing_evidence", direct("GET", "/healthz/../admin")},
		{"/healthz%2f..", "403 missing_evidence", direct("GET", "/healthz%2f..")},
		{"/healthz/;/..;/admin", "403 missing_evidence", direct("GET", "/healthz/;/..;/admin")},
		{"an upgrade on an exempt path", "403 missing_evidence", direct("GET", "/healthz", "Connection: Upgrade", "Upgrade: websocket")},

		{"an upgrade where it is not allowed", "403 upgrade_not_allowed", edge("GET", "/chat", "Connection: Upgrade", "Upgrade: websocket")},
		{"an upgrade where it is allowed", "101 allow", edge("GET", "/ws", "Connection: Upgrade", "Upgrade: websocket")},

		{"a Latin-1 cookie", "200 allow", edge("GET", "/orders", "Cookie: name=Jos\xe9")},
		{"150 header fields", "200 allow", edge("GET", "/orders", many...)},
		{"Connection: x-wallarm-mode", "200 allow", edge("GET", "/orders", "Connection: x-wallarm-mode, x-wallarm-inspection, signature")},
		{"made-up evidence through the edge", "200 allow", edge("GET", "/orders", fake...)},

		{"report mode: passes, says why, strips", "200 missing_evidence", direct("GET", "/report", fake...)},
		{"$wallarm_evidence missing: same decisions", "same", withoutVariable},

		{"key rotated under load", "0 refused", rotation},
		{"plugin killed under load", "0 unverified, recovered", killed},
	}
}

// stated is what a node without an attester sends beside its token.
var stated = []string{
	"X-Wallarm-Request-Id: 0123456789abcdef0123456789abcdef", "X-Wallarm-Client-Ip: 192.0.2.1",
	"X-Wallarm-Mode: block", "X-Wallarm-Application: -1",
}

// edge sends a request through the stand-in.
func edge(method, target string, fields ...string) func(context.Context, *site) (outcome, error) {
	return func(ctx context.Context, s *site) (outcome, error) {
		return s.observed(ctx, s.edge, head(method, target, fields...))
	}
}

// direct sends a request around the edge.
func direct(method, target string, fields ...string) func(context.Context, *site) (outcome, error) {
	return func(ctx context.Context, s *site) (outcome, error) {
		return s.observed(ctx, s.gateway, head(method, target, fields...))
	}
}

// observed sends one request and says what came of it, from the answer and what
// the gateway saw. It also holds the upstream to what it may get: one request
// if the gate let it pass, else none, and never a signature, a token or evidence
// that was not verified.
func (s *site) observed(ctx context.Context, addr, request string) (outcome, error) {
	s.take()
	s.upstream.take()
	a, err := exchange(ctx, addr, request)
	if err != nil {
		return outcome{}, err
	}
	seen, got := s.take(), s.upstream.take()
	o := outcome{got: fmt.Sprint(a.status)}
	switch len(seen) {
	case 0:
		if addr != s.edge {
			return o, errors.New("the gateway did not see the request")
		}
		o.reason = "edge: " + strings.TrimSpace(a.body)
		if len(got) > 0 {
			return o, errors.New("the upstream got a request that the gateway did not see")
		}
		return o, nil
	case 1:
	default:
		return o, fmt.Errorf("the gateway saw %d requests", len(seen))
	}
	decision, reason, err := verdict(seen[0])
	if err != nil {
		return o, err
	}
	if o.reason = reason; reason == "" {
		o.reason = decision
	}
	if seen[0].Events > 1 {
		return o, fmt.Errorf("the event ran %d times", seen[0].Events)
	}
	passes := decision != "deny"
	if passes != (len(got) == 1) || len(got) > 1 {
		return o, fmt.Errorf("the decision is %s, and the upstream got %d requests", decision, len(got))
	}
	if passes {
		return o, upstreamClean(got[0], decision == "allow")
	}
	return o, nil
}

// verdict reads the gate's own words about a request.
func verdict(o pluginhost.Observation) (decision, reason string, err error) {
	v, ok := o.Serialized["wallarm_gate"].(map[string]any)
	if !ok {
		return "", "", fmt.Errorf("status %d, and the gate said nothing (%s)", o.Status, o.Err)
	}
	decision, _ = v["decision"].(string)
	reason, _ = v["reason"].(string)
	if decision == "" {
		return "", "", fmt.Errorf("the gate's value has no decision: %v", v)
	}
	return decision, reason, nil
}

// upstreamClean reports a header that an upstream must not get.
func upstreamClean(r *http.Request, verified bool) error {
	for name := range r.Header {
		switch folded := evidence.FoldHeader(name); {
		case folded == "signature" || folded == "signature-input" || folded == "x-wallarm-token":
			return fmt.Errorf("the upstream got the header %s", name)
		case !verified && evidence.IsHeader(name):
			return fmt.Errorf("the upstream got the unverified header %s", name)
		}
	}
	return nil
}

// signatureGone shows that there is a signature between attester and gateway,
// and none behind it.
func signatureGone(ctx context.Context, s *site) (outcome, error) {
	text, o, err := s.capture(ctx)
	if err == nil && !strings.Contains(text, "\r\n"+evidence.HeaderSignature+": ") {
		err = errors.New("there was no signature in front of the gateway")
	}
	return o, err // observed has looked at the upstream
}

// capture sends a request through the edge and returns its head as it came by
// between attester and gateway.
func (s *site) capture(ctx context.Context) (string, outcome, error) {
	mark := randomID()
	o, err := s.observed(ctx, s.edge, head("GET", "/captured", captureField+": "+mark))
	if err != nil || o.reason != "allow" {
		return "", o, err
	}
	text, err := s.relay.captured(mark)
	return text, o, err
}

// captured captures evidence, changes the request and sends it to the gateway.
func captured(change func(head string) string) func(context.Context, *site) (outcome, error) {
	return func(ctx context.Context, s *site) (outcome, error) {
		text, o, err := s.capture(ctx)
		if err != nil || text == "" {
			return o, err
		}
		return s.observed(ctx, s.gateway, change(text))
	}
}

// draft is what can be changed about evidence that is made here.
type draft struct {
	key       *evidence.Key
	keys      *demoKeys
	signature string // in the place of the true one
	unnamed   bool   // leave out the Connection field, by which Kong drops the signature
}

// signed sends a request with evidence of its own making to the gateway.
func signed(at func() time.Time, change func(*draft)) func(context.Context, *site) (outcome, error) {
	return func(ctx context.Context, s *site) (outcome, error) {
		text, err := s.sign(at(), change)
		if err != nil {
			return outcome{}, err
		}
		return s.observed(ctx, s.gateway, text)
	}
}

// sign returns the head of a request with fresh evidence.
func (s *site) sign(at time.Time, change func(*draft)) (string, error) {
	d := draft{key: s.keys.current, keys: &s.keys}
	m := evidence.Message{
		Method: "GET", Authority: demoHost, Target: "/orders", RequestID: randomID(), ClientIP: "192.0.2.1",
		Mode: "block", Application: "-1", Node: "demo", Inspection: "active",
	}
	if change != nil {
		change(&d)
	}
	signer, err := evidence.NewSigner(d.key, 30*time.Second)
	if err != nil {
		return "", err
	}
	if err := signer.Sign(&m, at); err != nil {
		return "", err
	}
	set(&m.Signature, d.signature)
	var lines []string
	if !d.unnamed {
		lines = append(lines, "Connection: Signature, Signature-Input")
	}
	for _, f := range fields(&m) {
		lines = append(lines, f[0]+": "+f[1])
	}
	return head(m.Method, m.Target, lines...), nil
}

func randomID() string {
	var id [16]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// degraded lets an instance of the node fail, and heals it.
func degraded(ctx context.Context, s *site) (outcome, error) {
	s.waf.SetDegraded(true)
	o, err := s.settled(ctx, "/orders", "not_inspected")
	s.waf.SetDegraded(false)
	if err != nil {
		return o, err
	}
	_, err = s.settled(ctx, "/orders", "allow")
	return o, err
}

// settled sends requests through the edge until one has the given reason: the
// attester polls the node's status.
func (s *site) settled(ctx context.Context, target, reason string) (o outcome, err error) {
	err = s.until(ctx, reason, func() (bool, error) {
		var err error
		o, err = s.observed(ctx, s.edge, head("GET", target))
		return o.reason == reason, err
	})
	return o, err
}

// monitoring asks a strict route through a node that only watches.
func monitoring(ctx context.Context, s *site) (outcome, error) {
	s.waf.SetMode(evidence.ModeMonitoring)
	defer s.waf.SetMode(evidence.ModeBlock)
	return edge("GET", "/strict")(ctx, s)
}

func monitoringAllowed(ctx context.Context, s *site) (outcome, error) {
	s.waf.SetMode(evidence.ModeMonitoring)
	defer s.waf.SetMode(evidence.ModeBlock)
	return edge("GET", "/orders")(ctx, s)
}

// withoutVariable puts one table of requests before both gateways.
func withoutVariable(ctx context.Context, s *site) (outcome, error) {
	old := func() time.Time { return time.Now().Add(-time.Minute) }
	makers := []func() (string, error){
		func() (string, error) { return s.sign(time.Now(), nil) },
		func() (string, error) { return s.sign(old(), nil) },
		func() (string, error) { return s.sign(time.Now(), func(d *draft) { d.key = d.keys.unknown }) },
		func() (string, error) {
			text, err := s.sign(time.Now(), nil)
			return strings.Replace(text, " /orders ", " /admin ", 1), err
		},
		func() (string, error) {
			text, err := s.sign(time.Now(), nil)
			return strings.Replace(text, "X-Wallarm-Mode: block", "X-Wallarm-Mode: block\r\nX_Wallarm_Mode: off", 1), err
		},
		func() (string, error) { return head("GET", "/orders"), nil },
		func() (string, error) { return head("GET", "/orders", fake...), nil },
		func() (string, error) { return head("GET", "/orders", "Cookie: name=Jos\xe9"), nil },
		func() (string, error) { return head("GET", "/healthz"), nil },
		func() (string, error) { return head("GET", "/report", fake...), nil },
		func() (string, error) {
			text, _, err := s.capture(ctx)
			return text, err
		},
	}
	reasons := map[string]bool{}
	for i, next := range makers {
		var outcomes [2]outcome
		for j, addr := range []string{s.gateway, s.plain} {
			text, err := next()
			if err != nil {
				return outcome{}, err
			}
			if outcomes[j], err = s.observed(ctx, addr, text); err != nil {
				return outcome{}, err
			}
		}
		if outcomes[0] != outcomes[1] {
			return outcome{got: fmt.Sprintf("request %d: %v and %v", i+1, outcomes[0], outcomes[1])}, nil
		}
		reasons[outcomes[0].reason] = true
	}
	if len(reasons) < 6 {
		return outcome{got: "too few different decisions to compare"}, nil
	}
	return outcome{got: "same"}, nil
}

// load sends requests from several goroutines until stop is called, which
// returns how often each status came.
func load(ctx context.Context, workers int, request func(context.Context) (int, error)) (stop func() map[int]int) {
	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex
	var wait sync.WaitGroup
	statuses := map[int]int{}
	for range workers {
		wait.Go(func() {
			for ctx.Err() == nil {
				// A request that has begun ends, whatever happens meanwhile.
				status, err := request(context.WithoutCancel(ctx))
				if err != nil {
					status = 0
				}
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	return sync.OnceValue(func() map[int]int {
		cancel()
		wait.Wait()
		return statuses
	})
}

func total(statuses map[int]int) (n int) {
	for _, count := range statuses {
		n += count
	}
	return n
}

// through is one request through the edge, for load.
func (s *site) through(ctx context.Context) (int, error) {
	a, err := exchange(ctx, s.edge, head("GET", "/orders"))
	return a.status, err
}

// rotation replaces the signing key while requests flow, in the order that the
// manual gives: the gateway learns the new key, the attester signs with it, the
// gateway forgets the old one.
func rotation(ctx context.Context, s *site) (outcome, error) {
	s.take()
	stop := load(ctx, 3, s.through)
	defer stop()
	becomes := func(key *evidence.Key, status int) error {
		return s.until(ctx, "the gateway to read its keys anew", func() (bool, error) {
			text, err := s.sign(time.Now(), func(d *draft) { d.key = key })
			if err != nil {
				return false, err
			}
			a, err := exchange(ctx, s.gateway, text)
			return a.status == status, err
		})
	}
	old, next := s.keys.current, s.keys.next
	if err := s.gatewayKnows(old, next, s.keys.expired); err != nil {
		return outcome{}, err
	}
	if err := becomes(next, http.StatusOK); err != nil {
		return outcome{}, err
	}
	if err := writeSet(s.attesterKeys, old, next); err != nil {
		return outcome{}, err
	}
	count := map[string]int{}
	tally := func() {
		for _, o := range s.take() {
			if v, ok := o.Serialized["wallarm_gate"].(map[string]any); ok && v["node"] == "owasp-crs-stand-in" {
				id, _ := v["key_id"].(string)
				count[id]++
			}
		}
	}
	// The evidence of the old key is used up long before the gateway forgets it.
	if err := s.until(ctx, "the attester to sign with the new key", func() (bool, error) {
		before := count[old.ID]
		tally()
		return count[next.ID] > 100 && count[old.ID] == before, nil
	}); err != nil {
		return outcome{}, err
	}
	if err := s.gatewayKnows(next, s.keys.expired); err != nil {
		return outcome{}, err
	}
	if err := becomes(old, http.StatusForbidden); err != nil {
		return outcome{}, err
	}
	statuses := stop()
	tally()
	s.keys.current, s.keys.next = next, old
	if statuses[http.StatusOK] == 0 || count[old.ID] == 0 || count[next.ID] == 0 {
		return outcome{}, fmt.Errorf("no load: statuses %v, keys %v", statuses, count)
	}
	return outcome{
		got:    fmt.Sprintf("%d refused", total(statuses)-statuses[http.StatusOK]),
		detail: fmt.Sprintf("of %d requests, %s then %s", total(statuses), old.ID, next.ID),
	}, nil
}

// killed kills the plugin while requests flow, good ones through the edge and
// forged ones around it.
func killed(ctx context.Context, s *site) (outcome, error) {
	const mark = "X-Demo-Forged"
	s.take()
	s.upstream.take()
	good := load(ctx, 3, s.through)
	defer good()
	forged := load(ctx, 2, func(ctx context.Context) (int, error) {
		a, err := exchange(ctx, s.gateway, head("GET", "/orders", append([]string{mark + ": 1"}, fake...)...))
		return a.status, err
	})
	defer forged()
	warm := func(least int) func() (bool, error) {
		return func() (bool, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.observations) >= least, nil
		}
	}
	if err := s.until(ctx, "the load", warm(200)); err != nil {
		return outcome{}, err
	}
	starts := s.host.Starts()
	if err := s.host.Kill(); err != nil {
		return outcome{}, err
	}
	if err := s.until(ctx, "the plugin's new process", func() (bool, error) { return s.host.Starts() > starts, nil }); err != nil {
		return outcome{}, err
	}
	s.mu.Lock()
	more := len(s.observations) + 200
	s.mu.Unlock()
	if err := s.until(ctx, "the load after the kill", warm(more)); err != nil {
		return outcome{}, err
	}
	goodStatuses, forgedStatuses := good(), forged()
	unverified := 0
	for _, r := range s.upstream.take() {
		if r.Header.Get(mark) != "" || r.Header.Get(evidence.HeaderNode) != "owasp-crs-stand-in" {
			unverified++
		}
	}
	for status, n := range forgedStatuses {
		if status/100 == 2 {
			unverified += n
		}
	}
	// A plugin that comes after a crash refuses, for a second, what the crashed one could have seen.
	stale := 0
	for _, o := range s.take() {
		if _, reason, err := verdict(o); err == nil && reason == string(evidence.ReasonStaleEvidence) {
			stale++
		}
	}
	for status, n := range goodStatuses {
		if status != http.StatusOK && status/100 != 5 && !(status == http.StatusForbidden && n <= stale) {
			return outcome{}, fmt.Errorf("a good request got %d", status)
		}
	}
	if forgedStatuses[http.StatusForbidden] == 0 || goodStatuses[http.StatusOK] == 0 {
		return outcome{}, fmt.Errorf("no load: statuses %v and %v", goodStatuses, forgedStatuses)
	}
	o := outcome{
		got:    fmt.Sprintf("%d unverified", unverified),
		detail: fmt.Sprintf("%d of %d got 200, %d stale_evidence, the rest 5xx; %d forged", goodStatuses[http.StatusOK], total(goodStatuses), stale, total(forgedStatuses)),
	}
	after, err := s.settled(ctx, "/orders", "allow")
	if err == nil && after.got == "200" {
		o.got += ", recovered"
	}
	return o, err
}
