package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The metrics. No label takes a value that a client can choose.

const metricsNamespace = "wallarm_attester"

type metrics struct {
	registry *prometheus.Registry

	requests       *prometheus.CounterVec // code
	refused        *prometheus.CounterVec // reason
	inFlight       prometheus.Gauge
	backendSeconds prometheus.Histogram
	signSeconds    prometheus.Histogram
	backendErrors  *prometheus.CounterVec // kind
	retries        prometheus.Counter
	panics         prometheus.Counter

	statusFailures prometheus.Counter

	key                       *prometheus.GaugeVec // key_id
	reloads                   *prometheus.CounterVec
	reloadedAt                prometheus.Gauge
	reloadGood                prometheus.Gauge
	certificateExpiry         prometheus.Gauge
	certificateReloadFailures prometheus.Counter
	caReloadFailures          prometheus.Counter
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: metricsNamespace, Name: name, Help: help})
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: metricsNamespace, Name: name, Help: help}, []string{label})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: metricsNamespace, Name: name, Help: help})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: metricsNamespace, Name: name, Help: help, Buckets: buckets})
	}
	m := &metrics{
		registry:       prometheus.NewRegistry(),
		requests:       counters("requests_total", "Requests, by status code of the answer.", "code"),
		refused:        counters("refused_total", "Requests that the attester refused itself, by reason.", "reason"),
		inFlight:       gauge("requests_in_flight", "Requests and upgraded connections that are being served."),
		backendSeconds: histogram("backend_seconds", "Time until the header of the gateway's response, a retry included.", prometheus.DefBuckets),
		signSeconds:    histogram("sign_seconds", "Time to sign one request.", []float64{5e-6, 1e-5, 2e-5, 4e-5, 8e-5, 16e-5, 5e-4, 2e-3, 1e-2}),
		backendErrors:  counters("backend_errors_total", "Requests that the gateway did not answer, by kind.", "kind"),
		retries:        counter("retries_total", "Requests that were signed and sent anew because an idle connection was broken."),
		panics:         counter("panics_total", "Handlers that panicked. Always a defect."),
		statusFailures: counter("status_failures_total", "Readings of the node's status that failed."),
		key: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: metricsNamespace, Name: "key_loaded",
			Help: "1 for each signing key that is loaded."}, []string{"key_id"}),
		reloads:                   counters("jwks_reload_total", "Changed key files that were looked at, by result.", "result"),
		reloadedAt:                gauge("jwks_last_reload_timestamp_seconds", "When the keys in use were loaded."),
		reloadGood:                gauge("jwks_last_reload_successful", "1 if the key file is the one in use, 0 if it could not be taken over."),
		certificateExpiry:         gauge("client_certificate_expiry_timestamp_seconds", "When the client certificate in use expires; 0 without one."),
		certificateReloadFailures: counter("client_certificate_reload_failures_total", "Changed certificate files that could not be taken over."),
		caReloadFailures:          counter("backend_ca_reload_failures_total", "Changed files of the gateway's CAs that could not be taken over."),
	}
	// A series that appears only with the first failure cannot raise an alert on it.
	for _, result := range []string{"success", "failure"} {
		m.reloads.WithLabelValues(result)
	}
	for _, kind := range []string{errorDial, errorTimeout, errorBroken, errorSign} {
		m.backendErrors.WithLabelValues(kind)
	}
	for _, reason := range []string{refusedTarget, refusedHost, refusedStatement, refusedBody} {
		m.refused.WithLabelValues(reason)
	}
	m.registry.MustRegister(m.requests, m.refused, m.inFlight, m.backendSeconds, m.signSeconds, m.backendErrors,
		m.retries, m.panics, m.statusFailures, m.key, m.reloads, m.reloadedAt, m.reloadGood, m.certificateExpiry,
		m.certificateReloadFailures, m.caReloadFailures,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// watch adds the values that are asked for at each scrape.
func (m *metrics) watch(w *watcher, k *keyring, p *pool) {
	value := func(name, help string, labels prometheus.Labels, f func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: metricsNamespace, Name: name, Help: help, ConstLabels: labels}, f))
	}
	for _, state := range []evidence.Inspection{evidence.InspectionUnknown, evidence.InspectionDegraded, evidence.InspectionStale, evidence.InspectionActive} {
		value("inspection_state", "1 for the state of the node as the evidence says it.",
			prometheus.Labels{"state": state.String()}, func() float64 {
				if w.inspection() == state {
					return 1
				}
				return 0
			})
	}
	value("status_age_seconds", "Age of the last reading of the node's status, -1 before the first.", nil, func() float64 {
		age, ok := w.age()
		if !ok {
			return -1
		}
		return age.Seconds()
	})
	value("signing_key_active", "1 if a key is active that can sign, else 0.", nil, func() float64 {
		if _, err := k.signer(); err != nil {
			return 0
		}
		return 1
	})
	value("backend_connections", "Open connections to the gateway.", nil, func() float64 { return float64(p.open.Load()) })
	m.registry.MustRegister(signingKey{k})
}

// signingKey exports which key signs now, and until when it can; it changes with
// time alone.
type signingKey struct{ keys *keyring }

var (
	signingKeyDesc = prometheus.NewDesc(metricsNamespace+"_signing_key_info", "1 for the key that signs now.", []string{"key_id"}, nil)
	// A key without exp has no series: 0 would be one that expired in 1970.
	signingKeyExpiryDesc = prometheus.NewDesc(metricsNamespace+"_signing_key_expiry_timestamp_seconds",
		"Unix time at which the key that signs now expires; a key without exp has none.", []string{"key_id"}, nil)
)

func (s signingKey) Describe(ch chan<- *prometheus.Desc) {
	ch <- signingKeyDesc
	ch <- signingKeyExpiryDesc
}

func (s signingKey) Collect(ch chan<- prometheus.Metric) {
	key, err := s.keys.signingKey()
	if err != nil {
		return
	}
	ch <- prometheus.MustNewConstMetric(signingKeyDesc, prometheus.GaugeValue, 1, key.ID)
	if !key.Expires.IsZero() {
		ch <- prometheus.MustNewConstMetric(signingKeyExpiryDesc, prometheus.GaugeValue, float64(key.Expires.Unix()), key.ID)
	}
}

func (m *metrics) keysLoaded(set *evidence.KeySet, now time.Time) {
	m.key.Reset()
	for _, k := range set.Keys() {
		if k.CanSign() {
			m.key.WithLabelValues(k.ID).Set(1)
		}
	}
	m.reloadedAt.Set(float64(now.Unix()))
	m.reloadGood.Set(1)
}

func (m *metrics) keyReload(good bool) {
	if good {
		m.reloads.WithLabelValues("success").Inc()
		return
	}
	m.reloads.WithLabelValues("failure").Inc()
	m.reloadGood.Set(0)
}

// answered counts one answer. A gateway can send any number as a code; what is
// outside of HTTP's range is one series.
func (m *metrics) answered(code int) {
	label := "other"
	if code >= 100 && code <= 599 {
		label = strconv.Itoa(code)
	}
	m.requests.WithLabelValues(label).Inc()
}

// handler serves /metrics.
func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}
