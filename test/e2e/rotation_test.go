package e2e

// docs/rotation.md and docs/rollout.md, done with their own commands while
// clients go on asking.

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// traffic is honest requests through the edge, one after the other on each of a
// few connections.
type traffic struct {
	answered, failed atomic.Int64
	stop             chan struct{}
	clients          sync.WaitGroup

	mu    sync.Mutex
	first string // failure
}

func (s *system) traffic(t *testing.T) *traffic {
	t.Helper()
	tr := &traffic{stop: make(chan struct{})}
	c := s.client()
	for range 4 {
		tr.clients.Go(func() {
			for {
				select {
				case <-tr.stop:
					return
				default:
					tr.ask(c, "http://"+s.host+"/v1/orders")
				}
			}
		})
	}
	t.Cleanup(tr.end)
	return tr
}

func (tr *traffic) ask(c *http.Client, url string) {
	said := ""
	resp, err := c.Get(url)
	if err != nil {
		said = err.Error()
	} else {
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			said = fmt.Sprintf("%s: %s (%v)", resp.Status, body, err)
		}
	}
	if said != "" {
		tr.failed.Add(1)
		tr.mu.Lock()
		if tr.first == "" {
			tr.first = said
		}
		tr.mu.Unlock()
	}
	tr.answered.Add(1)
}

// more waits for that many answers from now on.
func (tr *traffic) more(t *testing.T, n int64) {
	t.Helper()
	want := tr.answered.Load() + n
	eventually(t, fmt.Sprintf("%d more answers", n), func() bool { return tr.answered.Load() >= want })
}

func (tr *traffic) end() {
	select {
	case <-tr.stop:
	default:
		close(tr.stop)
	}
	tr.clients.Wait()
}

func (tr *traffic) wantNoFailure(t *testing.T) {
	t.Helper()
	tr.end()
	if n := tr.failed.Load(); n > 0 {
		t.Errorf("%d of %d honest requests failed; the first one: %s", n, tr.answered.Load(), tr.first)
	}
	t.Logf("%d honest requests, %d failed", tr.answered.Load(), tr.failed.Load())
}

// keyring runs gatectl keys on a signing file.
type keyring struct {
	t    *testing.T
	ctl  string
	path string
}

func newKeyring(t *testing.T, args ...string) keyring {
	t.Helper()
	k := keyring{t: t, ctl: binary(t, "./cmd/gatectl", "gatectl", ""), path: filepath.Join(t.TempDir(), "edge.jwks")}
	k.run(append([]string{"keys", "new", "--out", k.path}, args...)...)
	return k
}

func (k keyring) run(args ...string) []byte {
	k.t.Helper()
	cmd := exec.Command(k.ctl, args...)
	out, err := cmd.Output()
	if err != nil {
		k.t.Fatalf("gatectl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (k keyring) set() *evidence.KeySet {
	k.t.Helper()
	set, err := evidence.ParseKeySet(k.private())
	if err != nil {
		k.t.Fatal(err)
	}
	return set
}

func (k keyring) private() []byte {
	k.t.Helper()
	data, err := os.ReadFile(k.path)
	if err != nil {
		k.t.Fatal(err)
	}
	return data
}

// rotating starts a system whose attester reads the keyring's file.
func rotating(t *testing.T, k keyring) *system {
	t.Helper()
	s := start(t, options{signing: k.set(), keyFile: true, attesterEnv: map[string]string{"ATTESTER_RELOAD_INTERVAL": "1s"}})
	if !s.observes(t, "process") || !s.observes(t, "reason") {
		leaveToOperator(t, "the keys of a running gateway are its operator's")
	}
	return s
}

// toVerifier gives the gateway the public set, and returns when it is in force.
func (k keyring) toVerifier(s *system) {
	k.t.Helper()
	const reloads = "wallarm_gate_jwks_reload_success_total"
	before := s.metric(k.t, reloads)
	atomicWrite(k.t, s.verifyingFile, k.run("keys", "public", k.path))
	eventually(k.t, "the gateway reads the new keys", func() bool { return s.metric(k.t, reloads) > before })
}

func (s *system) keyUses(t *testing.T, id string) float64 {
	t.Helper()
	return s.samples(t)[`wallarm_gate_key_uses_total{key_id="`+id+`"}`]
}

func TestRotation(t *testing.T) {
	t.Parallel()
	k := newKeyring(t, "--kid", "old")
	s := rotating(t, k)
	refused := s.decisionsOf(t, func() {
		tr := s.traffic(t)
		tr.more(t, 100)

		k.run("keys", "add", k.path, "--kid", "new", "--activate-in", "2s")
		k.toVerifier(s)
		tr.more(t, 50)
		atomicWrite(t, s.signingFile, k.private())
		eventually(t, "the attester signs with the new key", func() bool { return s.keyUses(t, "new") > 0 })

		tr.more(t, 50) // what was signed with the old one has arrived
		idle := s.keyUses(t, "old")
		tr.more(t, 200)
		if now := s.keyUses(t, "old"); now != idle {
			t.Errorf("the old key was used %g more times", now-idle)
		}

		k.run("keys", "prune", k.path, "--kid", "old")
		atomicWrite(t, s.signingFile, k.private())
		k.toVerifier(s)
		tr.more(t, 200)
		tr.wantNoFailure(t)
	})
	if delete(refused, allowed); len(refused) > 0 {
		t.Errorf("the gateway decided %v", show(refused))
	}
	if u := s.unverified(); len(u) > 0 {
		t.Errorf("%d requests reached the upstream unverified", len(u))
	}

	// s.keys is still the old set.
	s.wantDenied(t, evidence.ReasonUnknownKey, func() {
		if a := exchange(t, s.dialOrigin(t), s.signed(t, s.get("/v1/orders", newTrace()))); a.status != http.StatusForbidden {
			t.Errorf("signed with the old key: answer %d", a.status)
		}
	})
}

// revocationLimit is what docs/rotation.md promises from the change of the file.
const revocationLimit = 10 * time.Second

func TestRevocation(t *testing.T) {
	t.Parallel()
	leaked := newKeyring(t, "--kid", "leaked")
	s := rotating(t, leaked)
	attack := func() answered {
		return exchange(t, s.dialOrigin(t), s.signed(t, s.get("/v1/orders", newTrace())))
	}
	if a := attack(); a.status != http.StatusOK {
		t.Fatalf("the leaked key does not open the door: answer %d", a.status)
	}

	fresh := newKeyring(t, "--kid", "fresh")
	atomicWrite(t, s.verifyingFile, fresh.run("keys", "public", fresh.path))
	changed := time.Now()
	eventually(t, "the leaked key is refused", func() bool { return attack().status == http.StatusForbidden })
	if took := time.Since(changed); took > revocationLimit {
		t.Errorf("the leaked key worked for %v after the change of the file, want at most %v", took, revocationLimit)
	} else {
		t.Logf("refused %v after the change of the file", took.Round(time.Millisecond))
	}
	s.wantDenied(t, evidence.ReasonUnknownKey, func() { attack() })

	atomicWrite(t, s.signingFile, fresh.private())
	eventually(t, "the edge signs with the fresh key", func() bool {
		return exchange(t, s.dialEdge(t), s.get("/v1/orders", newTrace())).status == http.StatusOK
	})
}

var minMode = regexp.MustCompile(`min_mode: "?[a-z_]+"?`)

// The node's mode is raised before the gate's least mode: nobody is refused on
// the way, and everybody is in the wrong order.
func TestRolloutOfTheMode(t *testing.T) {
	t.Parallel()
	modes := []string{"monitoring", "safe_blocking", "block"}
	for i, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := start(t, options{terraform: map[string]any{"wallarm_mode": mode}})
			if !s.observes(t, "process") {
				leaveToOperator(t, "the configuration of a running gateway is its operator's")
			}
			for j, least := range modes {
				s.reload(t, minMode.ReplaceAllString(s.kongYML(t), "min_mode: "+least))
				want := allowed
				if j > i {
					want = decision{"deny", string(evidence.ReasonModeNotAllowed)}
				}
				s.wantDecision(t, want, func() {
					a := exchange(t, s.dialEdge(t), s.get("/v1/orders", newTrace()))
					if ok := a.status == http.StatusOK; ok != (want == allowed) {
						t.Errorf("mode %s, min_mode %s: answer %d", mode, least, a.status)
					}
				})
			}
		})
	}
}

// From report mode everywhere, by one enforcing route, to enforcing everywhere.
func TestRollout(t *testing.T) {
	t.Parallel()
	const admin = `
services:
  - name: app
    url: ` + appURL + `
    routes:
      - {name: app, paths: [/], strip_path: false, preserve_host: true}
      - name: admin
        paths: [/admin]
        strip_path: false
        preserve_host: true
        plugins: [{name: wallarm-gate, config: {jwks_file: /etc/wallarm-gate/keys/jwks.json, mode: enforce,
          min_mode: block, applications: [7], allowed_sources: [` + taskSubnet + `, ` + otherTaskSubnet + `]}}]
allowWeakerRoutes: [admin]
`
	for _, step := range []struct {
		name, values string
		open         []string // paths that a direct request reaches
		closed       []string
	}{
		{"report", "gate: {config: {mode: report}}", []string{"/v1/orders", "/admin"}, nil},
		{"one route", "gate: {config: {mode: report}}" + admin, []string{"/v1/orders"}, []string{"/admin"}},
		{"global", "production: true", nil, []string{"/v1/orders", "/admin"}},
	} {
		t.Run(step.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, options{values: step.values, withoutEdge: true})
			if !s.observes(t, "process") {
				leaveToOperator(t, "the configuration of a running gateway is its operator's")
			}
			ask := func(path string, want decision, status int) {
				t.Helper()
				s.wantDecision(t, want, func() {
					if a := exchange(t, s.dialOrigin(t), s.get(path, newTrace())); a.status != status {
						t.Errorf("a direct request for %s: answer %d, want %d", path, a.status, status)
					}
				})
			}
			for _, path := range step.open {
				ask(path, decision{"report", string(evidence.ReasonMissingEvidence)}, http.StatusOK)
			}
			for _, path := range step.closed {
				ask(path, decision{"deny", string(evidence.ReasonMissingEvidence)}, http.StatusForbidden)
			}
			for _, path := range append(step.open, step.closed...) {
				s.wantDecision(t, allowed, func() {
					if a := exchange(t, s.dialOrigin(t), s.signed(t, s.get(path, newTrace()))); a.status != http.StatusOK {
						t.Errorf("with evidence for %s: answer %d", path, a.status)
					}
				})
			}
		})
	}
}
