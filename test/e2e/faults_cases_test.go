package e2e

// The faults of the plugin, the gateway and the edge.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// faults are all of them, in the order of the report.
func faults() []fault {
	all := pluginFaults()
	all = append(all, gatewayFaults()...)
	all = append(all, edgeFaults()...)
	all = append(all, keyFaults()...)
	all = append(all, clockFaults()...)
	all = append(all, replayFaults()...)
	return append(all, redisFaults()...)
}

// onDemand is the file that a plugin or an attester built with -tags faults reads.
func (x *trial) onDemand() string { return filepath.Join(x.dir, "faults") }

// demand writes it; nil removes it.
func (x *trial) demand(content any) {
	x.t.Helper()
	if content == nil {
		x.must(os.Remove(x.onDemand()))
		return
	}
	data, err := json.Marshal(content)
	x.must(err)
	atomicWrite(x.t, x.onDemand(), data)
}

const onDemandVariable = "WALLARM_GATE_FAULTS"

func faultyPlugin(x *trial) options {
	return options{pluginTags: "faults", pluginEnv: map[string]string{
		onDemandVariable:      x.onDemand(),
		"KONG_NGINX_MAIN_ENV": onDemandVariable + "=" + x.onDemand(), // nginx passes on what it is told to
	}}
}

func faultyAttester(x *trial) options {
	return options{attesterTags: "faults", attesterEnv: map[string]string{onDemandVariable: x.onDemand()}}
}

// pluginFault is what plugin/faults.go reads.
type pluginFault struct {
	ClockSeconds      int64 `json:",omitempty"`
	DelayMilliseconds int64 `json:",omitempty"`
	Panic             bool  `json:",omitempty"`
	Crash             bool  `json:",omitempty"`
}

const terminated = "external pluginserver 'wallarm-gate' terminated"

// another waits until the gateway runs another plugin process, which serves.
func (x *trial) another(pid int) {
	x.t.Helper()
	x.saw("another plugin process", func() bool {
		now := x.s.plugin.pid()
		return now != 0 && now != pid && ready(x.s.plugin)
	})
}

// replayAll sends recorded requests straight to the gateway once more, and
// returns how many were allowed.
func (x *trial) replayAll(used [][]byte) (allowed int) {
	x.t.Helper()
	c := &lane{dial: dialer(""), addr: x.s.origin}
	defer c.close()
	x.saw("requests to replay", func() bool { return len(used) > 0 })
	for _, request := range used {
		switch status := x.l.resend(c, request); status {
		case http.StatusOK:
			allowed++
		case http.StatusForbidden:
		default:
			x.t.Errorf("a replay was answered %d", status)
		}
	}
	return allowed
}

// crashed is what the new process says.
var crashed = sign{log: "gateway", line: "the last process of the plugin crashed: evidence from before"}

func pluginFaults() []fault {
	return []fault{
		{
			name: "plugin killed",
			what: "SIGKILL to the plugin's process, and once more to the next one as soon as that serves.",
			result: "The gateway answers 500 until it has started the process again, at most once a second. The new process does not know what evidence was " +
				"used before: it refuses evidence from before its start with `stale_evidence`, for up to a second.",
			signs: []sign{{log: "gateway", line: terminated}, crashed},
			run: func(x *trial) {
				pid := x.s.plugin.pid()
				x.begin(func() { x.must(x.s.plugin.kill()) })
				x.another(pid)
				x.during()
				x.end(func() {
					pid = x.s.plugin.pid()
					x.must(x.s.plugin.kill())
					x.another(pid)
					x.saw("an answer 500", x.answered(http.StatusInternalServerError))
				})
			},
		},
		{
			name: "plugin killed, used evidence",
			what: "SIGKILL to the plugin's process. Then every request that was allowed shortly before is sent straight to the gateway once more.",
			result: "As before: nothing is accepted again. Only evidence of an edge whose clock is ahead of the gateway's could be, for as long as it is ahead, " +
				"at most `clock_skew`.",
			signs: []sign{{log: "gateway", line: terminated}, crashed},
			run: func(x *trial) {
				pid := x.s.plugin.pid()
				var used [][]byte
				x.begin(func() {
					used = x.l.takeUsed()
					x.must(x.s.plugin.kill())
				})
				x.another(pid)
				x.replayAll(used)
				x.during()
				x.end(nil)
				x.l.remember()
			},
		},
		{
			name:     "plugin stopped",
			what:     "SIGSTOP to the plugin's process until every client waits, then SIGCONT.",
			result:   "No request is answered. Kong waits for 60 s, then it answers 500; here the process goes on before that, and the requests that waited are judged.",
			operator: "nothing but requests without an answer: the plugin's `/readyz` does not answer either, so the pod is taken out of service",
			run: func(x *trial) {
				x.begin(func() { x.must(x.s.plugin.signal(syscall.SIGSTOP)) })
				const clients = honestWorkers + badWorkers
				x.saw("every client waits", func() bool {
					return x.l.count(func(a *attempt) bool { return a.ended.IsZero() && time.Since(a.sent) > time.Second }) == clients
				})
				x.saw("the plugin's /readyz is silent", func() bool { return !ready(x.s.plugin) })
				x.end(func() { x.must(x.s.plugin.signal(syscall.SIGCONT)) })
			},
		},
		{
			name:    "plugin panics in a request",
			what:    "A panic in the verifier, for every request whose evidence is well-formed.",
			result:  "The plugin contains the panic and refuses that request. The process lives; requests without evidence are refused as ever.",
			signs:   []sign{denied(evidence.ReasonInternalError), {log: "gateway", line: "reason=internal_error"}},
			options: faultyPlugin,
			run: func(x *trial) {
				pid := x.s.plugin.pid()
				x.begin(func() { x.demand(pluginFault{Panic: true}) })
				x.during()
				x.saw("honest requests are refused", x.answered(http.StatusForbidden))
				if now := x.s.plugin.pid(); now != pid {
					x.t.Errorf("process %d has become %d", pid, now)
				}
				x.end(func() { x.demand(nil) })
			},
		},
		{
			name:    "plugin crashes",
			what:    "A panic outside of any request, with the first request that each new process gets.",
			result:  "The process ends, the gateway answers 500 and starts it again once a second, for as long as it crashes. Nothing passes.",
			signs:   []sign{{log: "gateway", line: terminated}},
			options: faultyPlugin,
			run: func(x *trial) {
				pid := x.s.plugin.pid()
				x.begin(func() { x.demand(pluginFault{Crash: true}) })
				x.saw("a second process has crashed", func() bool {
					return strings.Count(x.s.gateway.log(), terminated) >= x.logs[terminated]+2
				})
				x.saw("an answer 500", x.answered(http.StatusInternalServerError))
				x.during()
				x.end(func() {
					x.demand(nil)
					x.another(pid)
				})
			},
		},
		{
			name: "plugin's socket removed",
			what: "The plugin's unix socket is removed; later its process is killed, as an operator or a liveness probe would.",
			result: "Connections that the gateway has open go on and judge. For a new one it answers 500. The process itself does not notice, " +
				"so that only a restart makes a new socket.",
			operator: "the plugin's `/readyz` turns 503, so the pod is taken out of service",
			signs:    []sign{{log: "gateway", line: "wallarm-gate.socket"}},
			run: func(x *trial) {
				pid := x.s.plugin.pid()
				x.begin(func() { x.must(os.Remove(x.s.pluginSocket())) })
				x.saw("an answer 500", func() bool {
					return x.l.count(func(a *attempt) bool { return a.outcome == http.StatusInternalServerError }) > 0
				})
				x.saw("the plugin's /readyz is not 200", func() bool { return !ready(x.s.plugin) })
				x.during()
				x.end(func() {
					x.must(x.s.plugin.kill())
					x.another(pid)
				})
			},
		},
		{
			name:     "plugin slow",
			what:     "Each look of the plugin at its clock takes 100 ms, which is several for each request.",
			result:   "Requests take that much longer.",
			operator: "the metric `wallarm_gate_decision_seconds`",
			options:  faultyPlugin,
			unharmed: true,
			run: func(x *trial) {
				x.begin(func() { x.demand(pluginFault{DelayMilliseconds: 100}) })
				x.during()
				x.saw("an honest request took 100 ms", func() bool {
					return x.l.count(func(a *attempt) bool {
						return a.intent == honest && a.allowed() && a.sent.After(x.began) && a.ended.Sub(a.sent) >= 100*time.Millisecond
					}) > 0
				})
				x.saw("the metric wallarm_gate_decision_seconds", func() bool {
					now := x.samples()
					slow := now["wallarm_gate_decision_seconds_sum"] - x.metrics["wallarm_gate_decision_seconds_sum"]
					return slow > 0.05*(now["wallarm_gate_decision_seconds_count"]-x.metrics["wallarm_gate_decision_seconds_count"])
				})
				x.end(func() { x.demand(nil) })
			},
		},
	}
}

// reloading runs a fault that reloads the gateway. A real Kong then starts another
// plugin process, which knows nothing of what was used before: that is not replayed
// here, but in a fault of its own.
func (x *trial) reloading(fault func()) {
	if x.s.kind == "embedded" {
		fault()
		return
	}
	x.l.forget()
	fault()
	x.onePlugin()
	x.l.remember()
}

// onePlugin waits until the process of before a reload has ended.
func (x *trial) onePlugin() {
	x.t.Helper()
	if k, ok := x.s.gate.(interface{ plugins() []int }); ok {
		x.wait("one plugin process", func() bool { return len(k.plugins()) == 1 })
	}
}

// edited is the declarative file in force with the configurations of the gate
// changed: the global one first, then those of routes.
func (x *trial) edited(change func(config map[string]any, global bool)) string {
	x.t.Helper()
	var file map[string]any
	x.must(yaml.Unmarshal([]byte(x.s.kongYML(x.t)), &file))
	var walk func(v any, depth int)
	walk = func(v any, depth int) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e, depth)
			}
		case map[string]any:
			if config, ok := v["config"].(map[string]any); ok && v["name"] == "wallarm-gate" {
				change(config, depth == 1)
				return
			}
			for _, e := range v {
				walk(e, depth+1)
			}
		}
	}
	walk(file, 0)
	text, err := yaml.Marshal(file)
	x.must(err)
	return string(text)
}

func gatewayFaults() []fault {
	return []fault{
		{
			name:     "gateway reloaded",
			what:     "The gateway loads its file again five times; each time another route's gate has another `deny_status`, by which the reload is seen.",
			result:   "Requests under way are finished under the old configuration, later ones are judged under the new one.",
			operator: "nothing",
			unharmed: true,
			reloads:  true,
			run: func(x *trial) {
				c := &lane{dial: dialer(""), addr: x.s.origin}
				defer c.close()
				x.reloading(func() {
					x.begin(func() {})
					for i := range 5 {
						x.s.reload(x.t, x.edited(func(config map[string]any, global bool) {
							if !global {
								config["deny_status"] = 430 + i
							}
						}))
						x.saw(fmt.Sprintf("reload %d", i), func() bool {
							status, err := c.exchange(x.s.get("/ws", "reload"))
							return err == nil && status == 430+i
						})
					}
					x.during()
					x.end(nil)
				})
			},
		},
		{
			name:     "configuration changed",
			what:     "The gate's own configuration is changed to `deny_status: 451` and back, three times.",
			result:   "Later requests are judged under the new configuration.",
			operator: "refusals with the new status",
			unharmed: true,
			reloads:  true,
			run: func(x *trial) {
				status := func(n int) string {
					return x.edited(func(config map[string]any, global bool) {
						if global {
							config["deny_status"] = n
						}
					})
				}
				last := func(n int) func() bool {
					at := time.Now()
					return func() bool {
						return x.l.count(func(a *attempt) bool { return a.intent == missing && a.sent.After(at) && a.outcome == n }) > 0
					}
				}
				x.reloading(func() {
					x.begin(func() {})
					for range 3 {
						x.s.reload(x.t, status(451))
						x.saw("a refusal with 451", last(451))
						x.s.reload(x.t, status(403))
						x.saw("a refusal with 403", last(403))
					}
					x.during()
					x.end(nil)
				})
			},
		},
		{
			name: "gateway reloaded, used evidence",
			what: "The gateway loads its file again. Then every request that was allowed shortly before is sent straight to it once more, and once more again.",
			result: "A real Kong ends the plugin's process with the reload and starts another. The replay store `memory` starts empty, and because the old process did not " +
				"crash, evidence from before is not refused, so that no honest request suffers: evidence that is younger than `max_age` is accepted a second time. " +
				"This is the number under *unverified*. A third time it is `replayed`. The replay store `redis` knows it, see below.",
			operator: "nothing: the replays look like honest requests",
			only:     []string{"kong", "docker"},
			unharmed: true,
			reloads:  true,
			reopens:  true,
			run: func(x *trial) {
				var used [][]byte
				x.begin(func() {
					used = x.l.takeUsed()
					x.s.reload(x.t, x.s.kongYML(x.t))
				})
				x.onePlugin()
				again := x.replayAll(used)
				x.saw("used evidence was accepted again", func() bool { return again > 0 })
				if n := x.replayAll(used); n > 0 {
					x.t.Errorf("%d requests were accepted a third time", n)
				}
				x.during()
				x.end(nil)
				x.l.remember()
			},
		},
		{
			name:     "gateway killed",
			what:     "The gateway is killed, and started again.",
			result:   "The attester answers 502.",
			operator: "502 at the load balancer",
			signs:    []sign{{log: "attester", line: `"msg":"request failed"`}},
			run: func(x *trial) {
				x.begin(func() { x.must(x.s.gateway.kill()) })
				x.saw("an answer 502", x.answered(http.StatusBadGateway))
				x.during()
				x.end(func() { x.s.gateway.start(x.t) })
			},
		},
	}
}

// soonUnknown shortens the time for which an old reading of the status counts.
func soonUnknown(*trial) options {
	return options{attesterEnv: map[string]string{"ATTESTER_STATUS_MAX_AGE": "1s"}}
}

const statusGarbage = "<html>It works!</html>"

func edgeFaults() []fault {
	inspection := func(document string) func(x *trial) {
		return func(x *trial) {
			x.begin(func() { x.s.setStatus(x.t, document) })
			x.saw("honest requests are refused", x.answered(http.StatusForbidden))
			x.saw("the attester's /readyz is not 200", func() bool { return !ready(x.s.attester) })
			x.during()
			x.end(func() { x.s.setStatus(x.t, statusActive) })
		}
	}
	changed := func(state string) []sign {
		return []sign{{log: "attester", line: `"msg":"inspection changed","state":"` + state + `"`}, denied(evidence.ReasonNotInspected)}
	}
	return []fault{
		{
			name:     "attester killed",
			what:     "SIGKILL to the attester, which is started again.",
			result:   "The node answers 502: it has no way to the gateway but through the attester.",
			operator: "502 at the load balancer, a stopped task",
			signs:    []sign{{log: "node", line: "connect() failed (111: Connection refused) while connecting to upstream"}},
			run: func(x *trial) {
				x.begin(func() { x.must(x.s.attester.kill()) })
				x.saw("an answer 502", x.answered(http.StatusBadGateway))
				x.during()
				x.end(func() { x.s.attester.start(x.t) })
			},
		},
		{
			name:     "attester stopped",
			what:     "SIGTERM to the attester under load, from clients that ask `/readyz` before each request, as a load balancer does. It is started again.",
			result:   "`/readyz` turns 503, requests under way and those that still come are served, and the attester ends.",
			operator: "a target that drains",
			signs:    []sign{{log: "attester", line: `"msg":"stopped"`}},
			unharmed: true,
			options: func(*trial) options {
				return options{attesterEnv: map[string]string{"ATTESTER_SHUTDOWN_DELAY": "500ms"}}
			},
			run: func(x *trial) {
				url := x.s.attester.(*process).url
				client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: honestWorkers}, Timeout: patience}
				defer client.CloseIdleConnections()
				hold := func() bool {
					resp, err := client.Get(url)
					if err != nil {
						return true
					}
					resp.Body.Close()
					return resp.StatusCode != http.StatusOK
				}
				x.l.hold.Store(&hold)
				x.l.passed(duringHonest, x) // no request is under way that did not ask
				pid := x.s.attester.pid()
				x.begin(func() { x.s.attester.stop(x.t) })
				x.saw("the attester is gone", func() bool { return x.s.attester.pid() != pid })
				x.end(func() { x.s.attester.start(x.t) })
			},
		},
		{
			name:     "node killed",
			what:     "SIGKILL to nginx, which is started again.",
			result:   "Nobody answers at the edge.",
			operator: "503 at the load balancer, a stopped task",
			run: func(x *trial) {
				x.begin(func() { x.must(x.s.node.kill()) })
				x.saw("no answer", x.answered(0))
				x.during()
				x.end(func() { x.s.node.start(x.t) })
			},
		},
		{
			name:     "node degraded",
			what:     "The node's status says that an instance is in fallback.",
			result:   "The attester states it, and the gateway refuses with `not_inspected`.",
			operator: "the attester's `/readyz` turns 503, so the load balancer takes the task out of service",
			signs:    changed("degraded"),
			run:      inspection(statusDegraded),
		},
		{
			name:     "node status missing",
			what:     "The node's status answers 404.",
			result:   "After `ATTESTER_STATUS_MAX_AGE` (here 1 s) the attester states `unknown`, and the gateway refuses with `not_inspected`.",
			operator: "the attester's `/readyz` turns 503",
			signs:    changed("unknown"),
			options:  soonUnknown,
			run:      inspection(""),
		},
		{
			name:     "node status garbage",
			what:     "The node's status answers 200 with something else.",
			result:   "The same as for a missing one.",
			operator: "the attester's `/readyz` turns 503",
			signs:    changed("unknown"),
			options:  soonUnknown,
			run:      inspection(statusGarbage),
		},
	}
}

// passed waits until n more honest requests were allowed.
func (l *load) passed(n int, x *trial) {
	x.t.Helper()
	from := time.Now()
	x.wait("honest requests", func() bool {
		return l.count(func(a *attempt) bool { return a.intent == honest && a.allowed() && a.sent.After(from) }) >= n
	})
}

func clockFaults() []fault {
	gateway := func(name string, seconds int64, reason evidence.Reason, result string) fault {
		return fault{
			name: name, result: result,
			what:    fmt.Sprintf("The wall clock of the plugin is stepped by %+d s, and later back.", seconds),
			signs:   []sign{denied(reason), {log: "gateway", line: "reason=" + string(reason)}},
			options: faultyPlugin,
			run: func(x *trial) {
				x.begin(func() { x.demand(pluginFault{ClockSeconds: seconds}) })
				x.saw("honest requests are refused", x.answered(http.StatusForbidden))
				x.during()
				x.end(func() { x.demand(nil) })
			},
		}
	}
	edge := func(name string, seconds int64, reason evidence.Reason) fault {
		return fault{
			name:    name,
			result:  fmt.Sprintf("The gateway refuses with `%s`. Every task signs by its own clock.", reason),
			what:    fmt.Sprintf("The wall clock of the attester is stepped by %+d s, and later back.", seconds),
			signs:   []sign{denied(reason), {log: "gateway", line: "reason=" + string(reason)}},
			options: faultyAttester,
			run: func(x *trial) {
				x.begin(func() { x.demand(seconds) })
				x.saw("honest requests are refused", x.answered(http.StatusForbidden))
				x.during()
				x.end(func() { x.demand(nil) })
			},
		}
	}
	const remembers = "The gateway refuses with `%s`. What was used before the step is still known to be used after it."
	return []fault{
		gateway("gateway's clock one hour ahead", 3600, evidence.ReasonStaleEvidence, fmt.Sprintf(remembers, evidence.ReasonStaleEvidence)),
		gateway("gateway's clock one hour behind", -3600, evidence.ReasonFutureEvidence, fmt.Sprintf(remembers, evidence.ReasonFutureEvidence)),
		edge("edge's clock one hour ahead", 3600, evidence.ReasonFutureEvidence),
		edge("edge's clock one hour behind", -3600, evidence.ReasonStaleEvidence),
	}
}

func replayFaults() []fault {
	return []fault{
		{
			name:     "replay store full",
			what:     "The store has room for 1000 requests. More come than that within the time for which it remembers; later the capacity is raised.",
			result:   "The gateway refuses with `replay_store_full` what it could not remember.",
			operator: "the metric `wallarm_gate_replay_entries` at `replay.capacity`; a reload with a larger one takes effect at once",
			signs:    []sign{denied(evidence.ReasonReplayStoreFull), {log: "gateway", line: "reason=" + string(evidence.ReasonReplayStoreFull)}},
			options:  func(*trial) options { return options{values: "gate: {config: {replay: {capacity: 1000}}}"} },
			run: func(x *trial) {
				x.begin(func() {}) // the load itself is the fault
				x.saw("honest requests are refused", x.answered(http.StatusForbidden))
				x.saw("the store holds what it can", func() bool { return x.samples()["wallarm_gate_replay_entries"] == 1000 })
				x.during()
				x.reloading(func() {
					x.end(func() {
						x.s.reload(x.t, x.edited(func(config map[string]any, _ bool) {
							config["replay"] = map[string]any{"store": "memory", "capacity": 100_000}
						}))
					})
				})
			},
		},
	}
}
