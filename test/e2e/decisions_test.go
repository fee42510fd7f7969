package e2e

// What the plugin decided, from its metrics listener.

import (
	"bufio"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// decision is a label pair of wallarm_gate_decisions_total.
type decision struct{ decision, reason string }

var allowed = decision{"allow", ""}

// unobserved are the things that this gateway did not show, said once each and
// again at the end.
var unobserved sync.Map

// observes reports whether this kind of gateway shows a thing, and says so when
// it does not.
func (s *system) observes(t testing.TB, what string) bool {
	t.Helper()
	shown := true
	switch what {
	case "reason":
		shown = s.metricsURL != ""
	case "source":
		shown = s.kind != "url" // who may connect is its own configuration
	case "process":
		shown = s.kind != "url"
	default:
		t.Fatalf("%q is nothing to observe", what)
	}
	if !shown {
		line := fmt.Sprintf("%s on GATEWAY=%s", what, s.kind)
		unobserved.Store(line, true)
		t.Logf("NOT OBSERVED: %s", line)
	}
	return shown
}

// leaveToOperator ends a case that a running gateway cannot be asked for, and says
// so again at the end of the run.
func leaveToOperator(t testing.TB, why string) {
	t.Helper()
	unobserved.Store(t.Name()+": "+why, true)
	t.Skip("NOT OBSERVED: " + why)
}

func sayUnobserved() {
	unobserved.Range(func(line, _ any) bool {
		fmt.Fprintf(os.Stdout, "NOT OBSERVED in this run: %s\n", line)
		return true
	})
}

// samples are all samples of the metrics listener, by their exact names.
func (s *system) samples(t testing.TB) map[string]float64 {
	t.Helper()
	resp, err := http.Get(s.metricsURL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		i := strings.LastIndexByte(lines.Text(), ' ')
		if i < 0 || strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		if v, err := strconv.ParseFloat(lines.Text()[i+1:], 64); err == nil {
			all[lines.Text()[:i]] = v
		}
	}
	return all
}

// metric is one sample by its exact name, labels included.
func (s *system) metric(t testing.TB, name string) float64 {
	t.Helper()
	v, ok := s.samples(t)[name]
	if !ok {
		t.Fatalf("%s has no sample %s", s.metricsURL, name)
	}
	return v
}

// decisions are the plugin's counters.
func (s *system) decisions(t testing.TB) map[decision]float64 {
	t.Helper()
	const prefix = `wallarm_gate_decisions_total{decision="`
	out := map[decision]float64{}
	known := false // no counter of decisions exists before the first one
	for name, v := range s.samples(t) {
		known = known || strings.HasPrefix(name, "wallarm_gate_")
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			d, reason, _ := strings.Cut(strings.TrimSuffix(rest, `"}`), `",reason="`)
			out[decision{d, reason}] = v
		}
	}
	if !known {
		t.Fatalf("%s is not the plugin's", s.metricsURL)
	}
	return out
}

// decisionsOf are the decisions that fell while do ran. A plugin that was started
// again meanwhile counts from zero.
func (s *system) decisionsOf(t testing.TB, do func()) map[decision]float64 {
	t.Helper()
	before := s.decisions(t)
	do()
	out := map[decision]float64{}
	for d, n := range s.decisions(t) {
		if n < before[d] {
			before[d] = 0
		}
		if n > before[d] {
			out[d] = n - before[d]
		}
	}
	return out
}

// wantDenied holds do to one denial for this reason and nothing else. No other
// request may run meanwhile.
func (s *system) wantDenied(t testing.TB, reason evidence.Reason, do func()) {
	t.Helper()
	s.wantDecision(t, decision{"deny", string(reason)}, do)
}

func (s *system) wantDecision(t testing.TB, want decision, do func()) {
	t.Helper()
	if !s.observes(t, "reason") {
		do()
		return
	}
	got := s.decisionsOf(t, do)
	if len(got) != 1 || got[want] != 1 {
		t.Errorf("the plugin decided %v, want %v once", show(got), want)
	}
}

func show(m map[decision]float64) []string {
	var out []string
	for d, n := range maps.All(m) {
		out = append(out, fmt.Sprintf("%s %s: %g", d.decision, d.reason, n))
	}
	slices.Sort(out)
	return out
}
