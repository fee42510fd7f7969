package main

// When the keys in force expire, for the metrics. Kong does not say that a
// configuration has gone, so each is asked for its keys for as long as it lives.

import (
	"cmp"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"
	"weak"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// maxKeyExpiries bounds the series: each of any number of configurations may have
// a key set of its own.
const maxKeyExpiries = 256

var keyExpiryDesc = prometheus.NewDesc("wallarm_gate_key_expiry_timestamp_seconds",
	"Unix time at which a key in force expires, the earliest where key sets differ; a key without exp has none.", []string{"key_id"}, nil)

// keysInForce are the keys of the live configurations. It keeps none of them
// alive, and is safe for concurrent use.
type keysInForce struct {
	now func() time.Time

	mu        sync.Mutex
	verifiers map[weak.Pointer[evidence.Verifier]]struct{}
}

// add makes the keys of v count until v has gone.
func (k *keysInForce) add(v *evidence.Verifier) {
	pointer := weak.Make(v)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.verifiers == nil {
		k.verifiers = make(map[weak.Pointer[evidence.Verifier]]struct{})
	}
	k.verifiers[pointer] = struct{}{}
	runtime.AddCleanup(v, k.remove, pointer)
}

func (k *keysInForce) remove(pointer weak.Pointer[evidence.Verifier]) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.verifiers, pointer)
}

// sets returns each key set in force once.
func (k *keysInForce) sets() map[*evidence.KeySet]struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	sets := make(map[*evidence.KeySet]struct{})
	for pointer := range k.verifiers {
		v := pointer.Value()
		if v == nil || v.Keys == nil {
			continue
		}
		if set := v.Keys(); set != nil { // nil: a file that was never good
			sets[set] = struct{}{}
		}
	}
	return sets
}

// expiries returns when keys expire, by id. Of more than maxKeyExpiries keys it
// returns those that expire next, and with room for more those that expired last.
func (k *keysInForce) expiries() map[string]time.Time {
	earliest := make(map[string]time.Time)
	for set := range k.sets() {
		for _, key := range set.Keys() {
			if known, ok := earliest[key.ID]; !key.Expires.IsZero() && (!ok || key.Expires.Before(known)) {
				earliest[key.ID] = key.Expires
			}
		}
	}
	if len(earliest) <= maxKeyExpiries {
		return earliest
	}
	now := k.now()
	ids := slices.SortedFunc(maps.Keys(earliest), func(a, b string) int {
		x, y := earliest[a], earliest[b]
		order := x.Compare(y)
		if !x.After(now) || !y.After(now) {
			order = -order // what has not expired first, then what has, the last first
		}
		return cmp.Or(order, cmp.Compare(a, b))
	})
	for _, id := range ids[maxKeyExpiries:] {
		delete(earliest, id)
	}
	return earliest
}

// Describe implements prometheus.Collector.
func (k *keysInForce) Describe(ch chan<- *prometheus.Desc) { ch <- keyExpiryDesc }

// Collect implements prometheus.Collector.
func (k *keysInForce) Collect(ch chan<- prometheus.Metric) {
	for id, at := range k.expiries() {
		ch <- prometheus.MustNewConstMetric(keyExpiryDesc, prometheus.GaugeValue, float64(at.Unix()), id)
	}
}
