package main

// The plugin's own metrics, on a listener of their own. Labels come from closed
// lists, or are ids of keys: those that have verified a request, and a bounded
// number of those that expire.

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

type metrics struct {
	registry      *prometheus.Registry
	decisions     *prometheus.CounterVec
	keyUses       *prometheus.CounterVec
	seconds       prometheus.Histogram
	age           prometheus.Histogram
	reloadSuccess prometheus.Counter
	reloadFailure prometheus.Counter
	reloadTime    prometheus.Gauge
	modes         map[gateMode]*atomic.Int64 // live configurations
	keys          keysInForce

	redisOperations map[string]prometheus.Counter // by result
	redisSeconds    prometheus.Histogram
	redisFallbacks  prometheus.Counter
	redisChanges    prometheus.Counter
	redisOpen       atomic.Int64 // clients whose breaker is open
}

func newMetrics(now func() time.Time, replay *replayMemory) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wallarm_gate_decisions_total",
			Help: "Requests by decision (allow, deny, exempt, report) and reason; the reason is empty for allow and exempt.",
		}, []string{"decision", "reason"}),
		keyUses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wallarm_gate_key_uses_total",
			Help: "Requests allowed, by the key that verified them: a key without uses can be removed.",
		}, []string{"key_id"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "wallarm_gate_decision_seconds",
			Help:    "Time from the start of the access phase to the decision, reading the request from Kong included.",
			Buckets: []float64{.00005, .0001, .0002, .0005, .001, .002, .005, .01, .05, .1, 1},
		}),
		age: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "wallarm_gate_evidence_age_seconds",
			Help:    "Age of the evidence of allowed requests; below 0: the attester's clock is ahead.",
			Buckets: []float64{-5, -1, 0, 1, 2, 5, 10, 20, 30, 60, 120, 300},
		}),
		reloadSuccess: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "wallarm_gate_jwks_reload_success_total",
			Help: "Readings of a jwks_file that put a key set into force.",
		}),
		reloadFailure: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "wallarm_gate_jwks_reload_failure_total",
			Help: "Readings of a jwks_file that failed; the last good key set stays in force.",
		}),
		reloadTime: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "wallarm_gate_jwks_last_reload_timestamp_seconds",
			Help: "Unix time at which a key set from a jwks_file came into force last.",
		}),
		modes: map[gateMode]*atomic.Int64{modeEnforce: {}, modeReport: {}},
		keys:  keysInForce{now: now},
		redisSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "wallarm_gate_redis_seconds",
			Help:    "Time that a request waited for the shared replay store, failed ones included.",
			Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, 1},
		}),
		redisFallbacks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "wallarm_gate_redis_local_fallbacks_total",
			Help: "Requests that the store of this node decided alone, because the shared one could not (on_error local).",
		}),
		redisChanges: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "wallarm_gate_redis_server_changes_total",
			Help: "Times that the shared replay store was found to be another server than before: a restart or a failover.",
		}),
		redisOperations: make(map[string]prometheus.Counter),
	}
	operations := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wallarm_gate_redis_operations_total",
		Help: "Questions to the shared replay store by result; breaker_open and overload were not asked.",
	}, []string{"result"})
	for _, result := range redisResults {
		m.redisOperations[result] = operations.WithLabelValues(result)
	}
	m.registry.MustRegister(operations, m.redisSeconds, m.redisFallbacks, m.redisChanges, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "wallarm_gate_redis_breaker_open",
		Help: "Shared replay stores that are not asked at the moment: they failed, or may evict.",
	}, func() float64 { return float64(m.redisOpen.Load()) }))
	m.registry.MustRegister(m.decisions, m.keyUses, m.seconds, m.age, m.reloadSuccess, m.reloadFailure, m.reloadTime, &m.keys,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "wallarm_gate_replay_entries",
			Help: "Nonces that the replay store holds.",
		}, func() float64 { return float64(replay.entries()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "wallarm_gate_replay_capacity",
			Help: "Nonces that the replay store can hold; 0 before a configuration asks for it.",
		}, func() float64 { return float64(replay.size()) }),
		// Kong's container runs other processes: what this one takes is seen nowhere else.
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for mode, live := range m.modes {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "wallarm_gate_mode",
			Help:        "1 while a configuration in this mode is live, else 0.",
			ConstLabels: prometheus.Labels{"mode": string(mode)},
		}, func() float64 { return min(1, float64(live.Load())) }))
	}
	return m
}

func (m *metrics) decided(d time.Duration) { m.seconds.Observe(d.Seconds()) }

// count counts a decision that stands.
func (m *metrics) count(v *verdict, now time.Time) {
	m.decisions.WithLabelValues(string(v.decision), string(v.reason)).Inc()
	if v.decision == allow && v.verified && !v.byToken {
		m.keyUses.WithLabelValues(v.att.KeyID).Inc()
		m.age.Observe(now.Sub(v.att.Created).Seconds())
	}
}
