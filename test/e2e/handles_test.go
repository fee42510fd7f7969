package e2e

// What the other suites rely on: that each process can be ended, stopped for a
// while and started again, that the gateway can be reloaded and its keys changed.

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func TestHandles(t *testing.T) {
	t.Parallel()
	s := start(t, options{keyFile: true, attesterEnv: map[string]string{"ATTESTER_RELOAD_INTERVAL": "50ms"}})
	if !s.observes(t, "process") {
		leaveToOperator(t, "GATEWAY=url: the gateway's processes are not this suite's")
	}
	send := func() answered { return exchange(t, s.dialEdge(t), s.get("/v1/orders", newTrace())) }
	passes := func(when string) {
		t.Helper()
		if a := send(); a.status != http.StatusOK {
			t.Fatalf("%s: answer %d %v", when, a.status, a.err)
		}
	}
	// A plugin that was killed refuses for up to a second what it may have seen.
	recovers := func(when string) {
		t.Helper()
		eventually(t, when+": a request passes", func() bool { return send().status == http.StatusOK })
	}
	refused := func(when string) {
		t.Helper()
		before := s.upstream.count()
		if a := send(); a.err == nil && a.status < 400 {
			t.Errorf("%s: answer %d", when, a.status)
		}
		if s.upstream.count() != before {
			t.Errorf("%s: it came to the upstream", when)
		}
	}
	passes("at first")

	for name, u := range map[string]unit{"node": s.node, "attester": s.attester, "gateway": s.gateway} {
		if u == s.gateway && s.kind == "embedded" {
			if u.pid() != 0 || u.signal(syscall.SIGSTOP) == nil {
				t.Error("the embedded gateway is a part of this process: it has no pid and takes no signal")
			}
		} else if u.pid() == 0 {
			t.Errorf("%s has no pid", name)
		}
		if err := u.kill(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if u.pid() != 0 {
			t.Errorf("%s still has the pid %d", name, u.pid())
		}
		if name == "node" {
			if c, err := dialer(s.alb).Dial("tcp", s.edge); err == nil {
				c.Close()
				t.Error("a killed node still listens")
			}
		} else {
			refused("without the " + name)
		}
		u.start(t)
		s.plugin.start(t) // Kong's plugin goes with Kong
		recovers(name + ", killed and started again")
		u.stop(t)
		u.start(t)
		s.plugin.start(t)
		passes(name + ", stopped and started again")
	}

	pid := s.plugin.pid()
	if err := s.plugin.kill(); err != nil {
		t.Fatal(err)
	}
	s.plugin.start(t)
	if s.plugin.pid() == pid || pid == 0 {
		t.Errorf("the plugin's pid is still %d", pid)
	}
	recovers("the plugin, killed and started again")
	if err := s.plugin.signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	done := make(chan answered)
	go func() { done <- exchange(t, s.dialEdge(t), s.get("/v1/orders", "frozen")) }()
	select {
	case a := <-done:
		t.Errorf("the plugin is frozen, and the answer is %d %v", a.status, a.err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := s.plugin.signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-done:
		if a.status != http.StatusOK {
			t.Errorf("the plugin went on, and the answer is %d %v", a.status, a.err)
		}
	case <-time.After(2 * patience): // exchange has ended its goroutine
		t.Fatal("the plugin went on, and there is no answer")
	}

	// Another kong.yml.
	first := s.kongYML(t)
	teapot := strings.Replace(first, "deny_status: 403", "deny_status: 418", 1)
	if teapot == first {
		t.Fatalf("no deny_status in\n%s", first)
	}
	s.reload(t, teapot)
	s.wantDenied(t, evidence.ReasonMissingEvidence, func() {
		if a := exchange(t, s.dialOriginTLS(t), s.get("/v1/orders", newTrace())); a.status != http.StatusTeapot {
			t.Errorf("after a reload: answer %d, want 418", a.status)
		}
	})
	s.reload(t, first)
	passes("after two reloads")

	// Other keys: first at the gateway, both, then at the edge.
	next := newKeySet(t, "edge-next")
	both, err := evidence.NewKeySet(append(s.keys.Keys(), next.Keys()...)...)
	if err != nil {
		t.Fatal(err)
	}
	s.writeKeys(t, s.verifyingFile, both)
	eventually(t, "the gateway takes the new key", func() bool {
		return exchange(t, s.dialOriginTLS(t), signedBy(t, s, next)).status == http.StatusOK
	})
	s.writeKeys(t, s.signingFile, next)
	eventually(t, "the attester signs with the new key", func() bool {
		return strings.Contains(s.attester.log(), `"key_ids":["edge-next"]`)
	})
	s.writeKeys(t, s.verifyingFile, next)
	eventually(t, "the gateway forgets the old key", func() bool {
		return exchange(t, s.dialOriginTLS(t), signedBy(t, s, s.keys)).status == http.StatusForbidden
	})
	passes("after a rotation of the keys")
}

func signedBy(t *testing.T, s *system, set *evidence.KeySet) string {
	t.Helper()
	m := signWith(t, s.statement("GET", "/v1/orders"), set.Keys()[0], time.Now(), 30*time.Second)
	return s.get("/v1/orders", newTrace(), lines(m)...)
}
