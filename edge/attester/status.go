package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The node's status: read, judged, and remembered for as long as it may be
// believed.

// nodeStatus is what the attester reads of /wallarm-status; the documented
// document has more.
type nodeStatus struct {
	ProtonInstances *struct {
		Total    *int64 `json:"total"`
		Success  *int64 `json:"success"`
		Fallback *int64 `json:"fallback"`
		Failed   *int64 `json:"failed"`
	} `json:"proton_instances"`
	StalledWorkersCount    int64             `json:"stalled_workers_count"`
	StalledWorkers         []json.RawMessage `json:"stalled_workers"`
	DBID                   int64             `json:"db_id"`
	LomID                  int64             `json:"lom_id"` // up to 3.6, and beside the next one since
	CustomRulesetID        int64             `json:"custom_ruleset_id"`
	DBApplyTime            int64             `json:"db_apply_time"` // Unix seconds, as the two below
	LomApplyTime           int64             `json:"lom_apply_time"`
	CustomRulesetApplyTime int64             `json:"custom_ruleset_apply_time"`
}

// maxStatusBytes bounds a status document.
const maxStatusBytes = 64 << 10

// judgeStatus says what one status document means. An error means that it
// cannot be understood; then nothing is known about the node. maxAge 0 leaves
// the age of the rules unchecked.
func judgeStatus(document []byte, maxAge time.Duration, now time.Time) (evidence.Inspection, string, error) {
	var s nodeStatus
	if len(document) > maxStatusBytes {
		return 0, "", fmt.Errorf("status is larger than %d bytes", maxStatusBytes)
	}
	if err := json.Unmarshal(document, &s); err != nil {
		return 0, "", errors.New("status is not the JSON document of a node")
	}
	p := s.ProtonInstances
	if p == nil || p.Total == nil || p.Success == nil || p.Fallback == nil || p.Failed == nil {
		return 0, "", errors.New("status has no complete proton_instances")
	}
	if *p.Total < 0 || *p.Success < 0 || *p.Fallback < 0 || *p.Failed < 0 {
		return 0, "", errors.New("status has a negative count in proton_instances")
	}
	switch {
	case *p.Failed > 0:
		return evidence.InspectionDegraded, fmt.Sprintf("%d of %d instances failed", *p.Failed, *p.Total), nil
	case *p.Fallback > 0:
		return evidence.InspectionDegraded, fmt.Sprintf("%d of %d instances in fallback", *p.Fallback, *p.Total), nil
	case *p.Success == 0 || *p.Success < *p.Total:
		return evidence.InspectionDegraded, fmt.Sprintf("%d of %d instances work", *p.Success, *p.Total), nil
	case s.StalledWorkersCount > 0 || len(s.StalledWorkers) > 0:
		return evidence.InspectionDegraded, fmt.Sprintf("%d workers stalled", max(s.StalledWorkersCount, int64(len(s.StalledWorkers)))), nil
	case s.DBID <= 0:
		return evidence.InspectionDegraded, "no attack signatures loaded (db_id)", nil
	case max(s.LomID, s.CustomRulesetID) <= 0:
		return evidence.InspectionDegraded, "no ruleset loaded (lom_id, custom_ruleset_id)", nil
	}
	if maxAge > 0 {
		// The newest of the times: a node that still hears from the cloud gets
		// new signatures even where nobody changes the rules.
		applied := max(s.DBApplyTime, s.LomApplyTime, s.CustomRulesetApplyTime)
		if applied <= 0 {
			return evidence.InspectionStale, "the status does not say when the rules were applied", nil
		}
		if age := now.Sub(time.Unix(applied, 0)); age > maxAge {
			return evidence.InspectionStale, fmt.Sprintf("rules applied %v ago, %v allowed", age.Round(time.Second), maxAge), nil
		}
	}
	return evidence.InspectionActive, "", nil
}

// reading is the outcome of one look at the status.
type reading struct {
	inspection evidence.Inspection
	detail     string
	err        error // not read or not understood
	refused    bool  // err is "connection refused": the node has closed the port
}

// recoverAfter is how many readings in a row must be better before the better
// state is believed. A worse one is believed at once.
const recoverAfter = 2

// belief is the state machine behind X-Wallarm-Inspection. Times are monotonic.
// It is not safe for concurrent use.
type belief struct {
	maxAge      time.Duration // how long one reading counts
	stopTimeout time.Duration // how long the last one counts once the port is closed

	known  bool
	state  evidence.Inspection
	detail string
	readAt time.Duration

	better   int
	promised reading // the worst of the better readings

	draining bool
	closedAt time.Duration
}

// at returns what is believed at the time now, and why.
func (b *belief) at(now time.Duration) (evidence.Inspection, string) {
	switch {
	case !b.known:
		return evidence.InspectionUnknown, "no status read yet"
	case b.draining && now-b.closedAt > b.stopTimeout:
		return evidence.InspectionUnknown, fmt.Sprintf("status port closed for more than %v", b.stopTimeout)
	case !b.draining && now-b.readAt > b.maxAge:
		return evidence.InspectionUnknown, fmt.Sprintf("no status for more than %v", b.maxAge)
	}
	return b.state, b.detail
}

// observe takes in one reading made at the time now.
func (b *belief) observe(r reading, now time.Duration) {
	if r.err != nil {
		state, _ := b.at(now)
		switch {
		case !r.refused:
			b.draining = false
		case !b.draining && state != evidence.InspectionUnknown:
			// nginx closes the status port first and then finishes its requests:
			// those were inspected, and the last reading says how.
			b.draining, b.closedAt = true, now
		}
		return
	}

	current, detail := b.at(now)
	first := !b.known
	b.known, b.readAt, b.draining = true, now, false
	if first || r.inspection <= current {
		b.state, b.detail, b.better = r.inspection, r.detail, 0
		return
	}
	b.state, b.detail = current, detail
	if b.better == 0 || r.inspection < b.promised.inspection {
		b.promised = r
	}
	if b.better++; b.better >= recoverAfter {
		b.state, b.detail, b.better = b.promised.inspection, b.promised.detail, 0
	}
}

// watcher polls the status of the node. inspection is safe for concurrent use.
type watcher struct {
	statusURL, readyURL string
	interval            time.Duration
	rulesetMaxAge       time.Duration
	client              *http.Client
	wall                func() time.Time
	elapsed             func() time.Duration
	log                 *slog.Logger
	metrics             *metrics

	mu     sync.Mutex
	belief belief
	last   evidence.Inspection // the last state that was logged
}

func newWatcher(s *settings, log *slog.Logger, m *metrics, c clock) *watcher {
	return &watcher{
		statusURL: s.statusURL, readyURL: s.readyURL,
		interval: s.statusInterval, rulesetMaxAge: s.rulesetMaxAge,
		client: &http.Client{
			Timeout: s.statusInterval,
			Transport: &http.Transport{
				// A new connection for each reading: "connection refused" must
				// mean that the port is closed now.
				DisableKeepAlives:      true,
				DisableCompression:     true,
				MaxResponseHeaderBytes: maxStatusBytes,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		wall: c.wall, elapsed: c.elapsed, log: log, metrics: m,
		belief: belief{maxAge: s.statusMaxAge, stopTimeout: s.nodeStopTimeout},
	}
}

// inspection returns what is believed about the node now.
func (w *watcher) inspection() evidence.Inspection {
	state, _ := w.describe()
	return state
}

func (w *watcher) describe() (evidence.Inspection, string) {
	now := w.elapsed()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.belief.at(now)
}

// age returns the age of the last reading; ok is false before the first.
func (w *watcher) age() (age time.Duration, ok bool) {
	now := w.elapsed()
	w.mu.Lock()
	defer w.mu.Unlock()
	return now - w.belief.readAt, w.belief.known
}

// poll makes one reading.
func (w *watcher) poll(ctx context.Context) {
	r := w.read(ctx)
	if ctx.Err() != nil {
		return
	}
	now := w.elapsed()
	w.mu.Lock()
	w.belief.observe(r, now)
	state, detail := w.belief.at(now)
	changed := state != w.last
	w.last = state
	w.mu.Unlock()

	if r.err != nil {
		w.metrics.statusFailures.Inc()
		w.log.Debug("node status not read", "error", r.err.Error())
	}
	if changed {
		level := slog.LevelWarn
		if state == evidence.InspectionActive {
			level = slog.LevelInfo
		}
		if r.err != nil {
			w.log.Log(ctx, level, "inspection changed", "state", state.String(), "detail", detail, "error", r.err.Error())
		} else {
			w.log.Log(ctx, level, "inspection changed", "state", state.String(), "detail", detail)
		}
	}
}

func (w *watcher) read(ctx context.Context) reading {
	document, code, err := w.fetch(ctx, w.statusURL)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("status answered %d", code)
	}
	if err != nil {
		return reading{err: err, refused: errors.Is(err, syscall.ECONNREFUSED)}
	}
	state, detail, err := judgeStatus(document, w.rulesetMaxAge, w.wall())
	if err != nil {
		return reading{err: err}
	}
	if w.readyURL != "" && state > evidence.InspectionDegraded {
		_, code, err := w.fetch(ctx, w.readyURL)
		if err != nil {
			return reading{err: fmt.Errorf("ready: %w", err)}
		}
		if code != http.StatusOK {
			state, detail = evidence.InspectionDegraded, fmt.Sprintf("the node says that it is not ready (%d)", code)
		}
	}
	return reading{inspection: state, detail: detail}
}

// fetch gets at most maxStatusBytes of a document; more is an error.
func (w *watcher) fetch(ctx context.Context, url string) (document []byte, code int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, err
	}
	res, err := w.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	document, err = io.ReadAll(io.LimitReader(res.Body, maxStatusBytes+1))
	if err != nil {
		return nil, 0, err
	}
	if len(document) > maxStatusBytes {
		return nil, 0, fmt.Errorf("answer is larger than %d bytes", maxStatusBytes)
	}
	return document, res.StatusCode, nil
}

// report writes one line to log for each tick, whatever ATTESTER_LOG_LEVEL is: an
// alarm counts the lines whose active is 1, so that a task that hangs counts
// like one that does not inspect.
func (w *watcher) report(ctx context.Context, ticks <-chan time.Time, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
			state, detail := w.describe()
			active := 0
			if state == evidence.InspectionActive {
				active = 1
			}
			log.Info("inspection", "state", state.String(), "active", active, "detail", detail)
		}
	}
}
