package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func TestJudgeStatus(t *testing.T) {
	t.Parallel()
	now := time.Unix(1598525870, 0).Add(time.Hour) // an hour after goodStatus's rules
	with := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(goodStatus) }
	tests := []struct {
		name, document string
		maxAge         time.Duration
		want           evidence.Inspection
		detail         string // part of it, or of the error
		bad            bool
	}{
		{"documented", goodStatus, 0, evidence.InspectionActive, "", false},
		{"with unknown members", `{"new":{"x":[1]},` + goodStatus[1:], 0, evidence.InspectionActive, "", false},
		{"lom_id only, as before 4.0", with(`"custom_ruleset_id":102,`, ``), 0, evidence.InspectionActive, "", false},
		{"custom_ruleset_id only", with(`"lom_id":102,`, ``), 0, evidence.InspectionActive, "", false},
		{"failed", with(`"success":3,"fallback":0,"failed":0`, `"success":2,"fallback":0,"failed":1`), 0, evidence.InspectionDegraded, "1 of 3 instances failed", false},
		{"fallback", with(`"fallback":0`, `"fallback":1`), 0, evidence.InspectionDegraded, "in fallback", false},
		{"no success", with(`"total":3,"success":3`, `"total":0,"success":0`), 0, evidence.InspectionDegraded, "0 of 0", false},
		{"fewer than all", with(`"success":3`, `"success":2`), 0, evidence.InspectionDegraded, "2 of 3", false},
		{"stalled count", with(`"stalled_workers_count":0`, `"stalled_workers_count":2`), 0, evidence.InspectionDegraded, "2 workers stalled", false},
		{"stalled list", with(`"stalled_workers":[]`, `"stalled_workers":[{"pid":7}]`), 0, evidence.InspectionDegraded, "1 workers stalled", false},
		{"no signatures", with(`"db_id":73`, `"db_id":0`), 0, evidence.InspectionDegraded, "db_id", false},
		{"signatures missing", with(`"db_id":73,`, ``), 0, evidence.InspectionDegraded, "db_id", false},
		{"no ruleset", with(`"lom_id":102,"custom_ruleset_id":102,`, ``), 0, evidence.InspectionDegraded, "no ruleset", false},
		{"young enough", goodStatus, time.Hour, evidence.InspectionActive, "", false},
		{"too old", goodStatus, time.Hour - time.Second, evidence.InspectionStale, "rules applied 1h0m0s ago", false},
		{"one time is young", with(`"db_apply_time":1598525865`, `"db_apply_time":1598529470`), time.Minute, evidence.InspectionActive, "", false},
		{"no times, asked for", with(`"db_apply_time":1598525865,"lom_apply_time":1598525870,"custom_ruleset_apply_time":1598525870,`, ``), time.Hour, evidence.InspectionStale, "does not say", false},
		{"no times, not asked for", with(`"db_apply_time":1598525865,"lom_apply_time":1598525870,"custom_ruleset_apply_time":1598525870,`, ``), 0, evidence.InspectionActive, "", false},
		{"degraded beats stale", with(`"failed":0`, `"failed":1`), time.Second, evidence.InspectionDegraded, "failed", false},
		{"empty", ``, 0, 0, "not the JSON", true},
		{"no JSON", `requests 0`, 0, 0, "not the JSON", true},
		{"cut off", goodStatus[:100], 0, 0, "not the JSON", true},
		{"two documents", goodStatus + goodStatus, 0, 0, "not the JSON", true},
		{"array", `[` + goodStatus + `]`, 0, 0, "not the JSON", true},
		{"null", `null`, 0, 0, "proton_instances", true},
		{"wrong type", with(`"total":3`, `"total":"3"`), 0, 0, "not the JSON", true},
		{"no instances", `{"db_id":73,"lom_id":102}`, 0, 0, "proton_instances", true},
		{"instances null", `{"db_id":73,"lom_id":102,"proton_instances":null}`, 0, 0, "proton_instances", true},
		{"failed missing", with(`,"failed":0`, ``), 0, 0, "proton_instances", true},
		{"negative", with(`"failed":0`, `"failed":-1`), 0, 0, "negative", true},
		{"huge", goodStatus + strings.Repeat(" ", maxStatusBytes), 0, 0, "larger", true},
		{"deep", strings.Repeat("[", 60000), 0, 0, "not the JSON", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, detail, err := judgeStatus([]byte(tt.document), tt.maxAge, now)
			if (err != nil) != tt.bad {
				t.Fatalf("error %v, want one: %v", err, tt.bad)
			}
			if err != nil {
				detail = err.Error()
			}
			if got != tt.want || !strings.Contains(detail, tt.detail) {
				t.Errorf("%s (%q), want %s (%q)", got, detail, tt.want, tt.detail)
			}
		})
	}
}

// FuzzStatus: judgeStatus is total, and calls nothing active without instances
// that all work.
func FuzzStatus(f *testing.F) {
	f.Add([]byte(goodStatus))
	f.Add([]byte(`{"proton_instances":{"total":1,"success":1,"fallback":0,"failed":0},"db_id":1,"lom_id":1}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, document []byte) {
		state, _, err := judgeStatus(document, time.Hour, time.Unix(1598525870, 0))
		if err != nil && state != evidence.InspectionUnknown {
			t.Fatalf("%s with the error %v", state, err)
		}
		if state == evidence.InspectionActive && !strings.Contains(strings.ToLower(string(document)), "proton") && !strings.Contains(string(document), `\u`) {
			t.Fatalf("active without instances: %q", document)
		}
	})
}

func TestBelief(t *testing.T) {
	t.Parallel()
	const (
		unknown  = evidence.InspectionUnknown
		degraded = evidence.InspectionDegraded
		stale    = evidence.InspectionStale
		active   = evidence.InspectionActive
	)
	type step struct {
		after int // seconds since the step before
		see   reading
		want  evidence.Inspection
	}
	is := func(state evidence.Inspection) reading { return reading{inspection: state, detail: state.String()} }
	lost := reading{err: errors.New("timeout")}
	refused := reading{err: errors.New("connection refused"), refused: true}
	tests := []struct {
		name  string
		steps []step
	}{
		{"first reading counts at once", []step{{0, is(active), active}}},
		{"nothing read", []step{{0, lost, unknown}, {2, refused, unknown}, {200, lost, unknown}}},
		{"worse counts at once", []step{{0, is(active), active}, {2, is(stale), stale}, {2, is(degraded), degraded}}},
		{"better counts the second time", []step{{0, is(degraded), degraded}, {2, is(active), degraded}, {2, is(active), active}}},
		{"flapping stays worse", []step{{0, is(active), active}, {2, is(degraded), degraded}, {2, is(active), degraded},
			{2, is(degraded), degraded}, {2, is(active), degraded}, {2, is(degraded), degraded}}},
		{"the worst of the better ones", []step{{0, is(degraded), degraded}, {2, is(stale), degraded}, {2, is(active), stale},
			{2, is(active), stale}, {2, is(active), active}}},
		{"one reading lost", []step{{0, is(active), active}, {2, lost, active}, {2, is(active), active}}},
		{"lost for too long", []step{{0, is(active), active}, {5, lost, active}, {5, lost, active}, {1, lost, unknown}}},
		{"back from unknown", []step{{0, is(active), active}, {11, lost, unknown}, {2, is(active), unknown}, {2, is(active), active}}},
		{"back from unknown, degraded", []step{{0, is(active), active}, {11, lost, unknown}, {2, is(degraded), unknown}, {2, is(degraded), degraded}}},
		{"drains", []step{{0, is(active), active}, {2, refused, active}, {60, refused, active}, {60, refused, active}, {1, refused, unknown}}},
		{"drains as degraded", []step{{0, is(degraded), degraded}, {2, refused, degraded}, {100, refused, degraded}}},
		{"refused after it was lost", []step{{0, is(active), active}, {11, lost, unknown}, {2, refused, unknown}}},
		{"refused shortly after it was lost", []step{{0, is(active), active}, {6, lost, active}, {2, refused, active}, {100, refused, active}}},
		{"hangs while draining", []step{{0, is(active), active}, {2, refused, active}, {20, lost, unknown}, {2, refused, unknown}}},
		{"restarts", []step{{0, is(active), active}, {2, refused, active}, {20, is(degraded), degraded}, {2, is(active), degraded}, {2, is(active), active}}},
		{"restarts and drains again", []step{{0, is(active), active}, {2, refused, active}, {50, is(active), active}, {2, refused, active},
			{120, refused, active}, {1, refused, unknown}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := belief{maxAge: 10 * time.Second, stopTimeout: 120 * time.Second}
			now := time.Duration(0)
			if state, detail := b.at(now); state != unknown || detail == "" {
				t.Errorf("before the first reading: %s (%q)", state, detail)
			}
			for i, s := range tt.steps {
				now += time.Duration(s.after) * time.Second
				b.observe(s.see, now)
				state, detail := b.at(now)
				if state != s.want {
					t.Errorf("step %d: %s (%q), want %s", i+1, state, detail, s.want)
				}
				if state != active && detail == "" {
					t.Errorf("step %d: %s without a reason", i+1, state)
				}
			}
		})
	}
}

// testWatcher returns a watcher of the given status server and its log.
func testWatcher(statusURL, readyURL string, interval time.Duration) (*watcher, *testClock, *logBuffer) {
	c, log := newTestClock(), &logBuffer{}
	s := &settings{statusURL: statusURL, readyURL: readyURL, statusInterval: interval, statusMaxAge: 10 * time.Second, nodeStopTimeout: time.Minute}
	return newWatcher(s, newLogger(log, slog.LevelDebug), newMetrics(), c.clock()), c, log
}

func TestWatcherReads(t *testing.T) {
	t.Parallel()
	answers := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	good := answers(200, goodStatus)
	tests := []struct {
		name          string
		status, ready http.HandlerFunc
		want          evidence.Inspection
		problem       string // in the error or the detail
	}{
		{"good", good, nil, evidence.InspectionActive, ""},
		{"404", answers(404, goodStatus), nil, 0, "answered 404"},
		{"403", answers(403, ""), nil, 0, "answered 403"},
		{"Prometheus format", answers(200, "# HELP wallarm_requests x\nwallarm_requests 0\n"), nil, 0, "not the JSON"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				http.Redirect(w, r, "/elsewhere", http.StatusFound)
				return
			}
			good(w, r)
		}, nil, 0, "answered 302"},
		{"huge", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, nil, 0, "larger than"},
		{"hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, nil, 0, "deadline exceeded"},
		{"hangs in the body", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, goodStatus[:10])
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, nil, 0, "deadline exceeded"},
		{"breaks", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil, 0, "EOF"},
		{"ready", good, answers(200, "ok"), evidence.InspectionActive, ""},
		{"not ready", good, answers(503, "starting"), evidence.InspectionDegraded, "not ready (503)"},
		{"readiness hangs", good, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0, "ready: "},
		{"degraded anyway", answers(200, strings.Replace(goodStatus, `"failed":0`, `"failed":1`, 1)), answers(200, "ok"), evidence.InspectionDegraded, "failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			quiet := func(h http.HandlerFunc) string {
				if h == nil {
					return ""
				}
				s := httptest.NewServer(h)
				t.Cleanup(s.Close)
				return s.URL
			}
			interval := patience
			if strings.Contains(tt.name, "hangs") {
				interval = 50 * time.Millisecond
			}
			w, _, _ := testWatcher(quiet(tt.status)+"/", quiet(tt.ready), interval)
			r := w.read(t.Context())
			got := r.detail
			if r.err != nil {
				got = r.err.Error()
			}
			if r.inspection != tt.want || !strings.Contains(strings.ToLower(got), strings.ToLower(tt.problem)) || r.refused {
				t.Errorf("read %s (%q), refused %v; want %s (%q)", r.inspection, got, r.refused, tt.want, tt.problem)
			}
			if tt.want == evidence.InspectionUnknown && r.err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestWatcherLogsChanges(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	w, c, log := testWatcher(n.URL, "", patience)
	w.poll(t.Context())
	w.poll(t.Context())
	n.set(strings.Replace(goodStatus, `"fallback":0`, `"fallback":2`, 1))
	w.poll(t.Context())
	n.set("<html>")
	c.advance(11 * time.Second)
	w.poll(t.Context())
	n.Close()
	w.poll(t.Context())
	var got []string
	for _, line := range log.lines(t, "inspection changed") {
		got = append(got, fmt.Sprint(line["level"], " ", line["state"], " ", line["detail"]))
	}
	want := []string{"INFO active ", "WARN degraded 2 of 3 instances in fallback", "WARN unknown no status for more than 10s"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("log says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if r := w.read(t.Context()); !r.refused {
		t.Errorf("a closed port is read as %+v", r)
	}
}

// TestInspectionReport: one line a tick, which an alarm can count, at any level.
func TestInspectionReport(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	w, c, _ := testWatcher(n.URL, "", patience)
	w.poll(t.Context())
	reports := &logBuffer{}
	ticks := make(chan time.Time)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.report(ctx, ticks, newLogger(reports, slog.LevelInfo))
	}()
	ticks <- time.Time{}
	ticks <- time.Time{}
	eventually(t, func() error {
		if got := len(reports.lines(t, "inspection")); got != 2 {
			return fmt.Errorf("%d lines", got)
		}
		return nil
	})
	c.advance(11 * time.Second)
	ticks <- time.Time{}
	cancel()
	<-done
	got := reports.lines(t, "inspection")
	if len(got) != 3 {
		t.Fatalf("%d lines, want 3", len(got))
	}
	for i, want := range []struct {
		state  string
		active float64
	}{{"active", 1}, {"active", 1}, {"unknown", 0}} {
		if got[i]["state"] != want.state || got[i]["active"] != want.active {
			t.Errorf("line %d: %v, want %+v", i+1, got[i], want)
		}
	}
	if !strings.Contains(reports.String(), `"msg":"inspection","state":"active","active":1`) {
		t.Errorf("a metric filter finds nothing in %s", reports)
	}
}

func TestHealthServesTwoPathsOnly(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	for _, tt := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/livez", 200}, {"HEAD", "/livez", 200}, {"GET", "/readyz", 200}, {"GET", "/livez?verbose", 200},
		{"GET", "/", 404}, {"GET", "/metrics", 404}, {"GET", "/livez/", 404}, {"GET", "/debug/pprof/", 404},
		{"POST", "/livez", 405}, {"DELETE", "/readyz", 405},
	} {
		req, err := http.NewRequest(tt.method, "http://"+r.addr("health_listen")+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, body := r.do(req); res.StatusCode != tt.code {
			t.Errorf("%s %s: %d %q, want %d", tt.method, tt.path, res.StatusCode, body, tt.code)
		}
	}
	if _, body := r.health("/readyz"); body != `{"inspection":"active","ready":true}`+"\n" {
		t.Errorf("/readyz says %q", body)
	}
	// The node's side has no path of its own: all of them are the upstream's.
	if res, _ := r.get("/livez"); res.StatusCode != 200 || len(r.gateway.take()) != 1 {
		t.Errorf("/livez of the node's side: %d, not forwarded", res.StatusCode)
	}
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	if err := healthcheck(t.Context(), r.addr("health_listen")); err != nil {
		t.Error(err)
	}
	_, port, _ := cutLast(r.addr("health_listen"), ":")
	for _, addr := range []string{":" + port, "0.0.0.0:" + port} {
		if err := healthcheck(t.Context(), addr); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	if err := healthcheck(t.Context(), other.Listener.Addr().String()); err == nil {
		t.Error("a server without /livez passes")
	}
	if err := healthcheck(t.Context(), "127.0.0.1:1"); err == nil {
		t.Error("a closed port passes")
	}
}

func TestOwnName(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:ecs:eu-central-1:111122223333:task/edge/158d1c8083dd49d6b527399fd6414f5c"
	tests := []struct {
		name, answer string
		code         int
		want         string // empty: the host name
	}{
		{"task", `{"Cluster":"edge","TaskARN":"` + arn + `","Family":"x"}`, 200, "158d1c8083dd49d6b527399fd6414f5c"},
		{"old ARN", `{"TaskARN":"arn:aws:ecs:eu-central-1:111122223333:task/abc-1"}`, 200, "abc-1"},
		{"no JSON", `x`, 200, ""},
		{"no ARN", `{}`, 200, ""},
		{"bad id", `{"TaskARN":"a/b c"}`, 200, ""},
		{"failure", `{"TaskARN":"` + arn + `"}`, 500, ""},
	}
	host, err := os.Hostname()
	if err != nil || !isNodeName(host) {
		t.Fatalf("the host has no usable name: %q, %v", host, err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v4/x/task" {
					t.Errorf("asked for %s", r.URL.Path)
				}
				w.WriteHeader(tt.code)
				io.WriteString(w, tt.answer)
			}))
			defer s.Close()
			want := tt.want
			if want == "" {
				want = host
			}
			log := &logBuffer{}
			got, err := ownName(t.Context(), []string{"A=b", "ECS_CONTAINER_METADATA_URI_V4=" + s.URL + "/v4/x"}, newLogger(log, slog.LevelInfo))
			if err != nil || got != want {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
			if (tt.want == "") != strings.Contains(log.String(), "cannot be read") {
				t.Errorf("log: %s", log)
			}
		})
	}
	if got, err := ownName(t.Context(), nil, newLogger(io.Discard, slog.LevelInfo)); err != nil || got != host {
		t.Errorf("outside of ECS: %q, %v", got, err)
	}
}
