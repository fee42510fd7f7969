package main

// A fleet in virtual time: docs/scaling.md says what comes out, and this is what
// it comes out of.

import (
	"container/heap"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The fleet. Clocks of attesters and gateways are off by up to half of
// clock_skew each, and are set anew from time to time.
const (
	scaleReplicas  = 50
	scaleAttesters = 20
	scaleTime      = 1000                      // seconds
	scaleRate      = scaleRequests / scaleTime // a second, over all replicas
	scaleLifetime  = 30 * time.Second
	scaleMaxAge    = 30 * time.Second
	scaleSkew      = 5 * time.Second
	scaleRestart   = 200 * time.Second // each replica restarts that often, one after the other
	scaleSetClock  = 70 * time.Second  // and as often are the clocks set
	scaleNetwork   = 50 * time.Millisecond

	scaleRerun   = 100 // one of so many events is run again
	scaleCapture = 20  // one of so many requests is captured
	scaleReplays = 3   // of each captured one
	scaleDelay   = 60 * time.Second
	scaleFull    = 10 // one of so many requests is verified in full; replays always are
)

// scaleServer is the shared server: SET NX PX, then GET, by its own clock.
type scaleServer struct {
	now      *time.Time
	held     map[evidence.Nonce]string
	leave    map[int64][]evidence.Nonce // by the second in which they expire
	cleaned  int64
	most     int
	set, get int
}

func (s *scaleServer) take(n evidence.Nonce, requestID string, ttl time.Duration) (string, error) {
	for ; s.cleaned < s.now.Unix(); s.cleaned++ {
		for _, n := range s.leave[s.cleaned] {
			delete(s.held, n)
		}
		delete(s.leave, s.cleaned)
	}
	s.set++
	if holder, ok := s.held[n]; ok {
		s.get++
		return holder, nil
	}
	s.held[n] = requestID
	at := s.now.Add(ttl).Unix()
	s.leave[at] = append(s.leave[at], n)
	s.most = max(s.most, len(s.held))
	return requestID, nil
}

// scaleFleet are the replicas with one kind of store.
type scaleFleet struct {
	name     string
	server   *scaleServer // nil: each replica for itself
	replicas [scaleReplicas]scaleReplica
	accepted int // replays
	most     int // entries in the memory of one replica
}

type scaleReplica struct {
	verifier evidence.Verifier
	local    *replayMemory
	life     int // number of restarts
}

func (f *scaleFleet) restart(i int, now func() time.Time, keys *evidence.KeySet) {
	r := &f.replicas[i]
	r.life++
	r.local = &replayMemory{now: now}
	r.local.reserve(10_000)
	r.verifier = evidence.Verifier{
		Policy: evidence.Policy{MaxAge: scaleMaxAge, ClockSkew: scaleSkew, MinMode: evidence.ModeMonitoring, RequireActive: true},
		Keys:   func() *evidence.KeySet { return keys }, Now: now, Replay: r.local,
	}
	if f.server != nil {
		r.verifier.Replay = &sharedStore{shared: f.server, local: r.local}
	}
}

// scaleEvent is what will happen: an event that Kong runs again, or a replay.
type scaleEvent struct {
	at      time.Time
	request *scaleRequest
	replica int
	id      string // of the request that carries the evidence
}

// scaleRequest is a request as the attester sent it.
type scaleRequest struct {
	message          *evidence.Message // nil unless it is verified in full
	nonce            evidence.Nonce
	id               string
	created, expires time.Time
	// Which life of which replica holds the nonce, without a shared store. Only
	// captured requests have it.
	seen map[int]int
}

type scaleQueue []scaleEvent

func (q scaleQueue) Len() int           { return len(q) }
func (q scaleQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q scaleQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *scaleQueue) Push(x any)        { *q = append(*q, x.(scaleEvent)) }
func (q *scaleQueue) Pop() (x any)      { old := *q; x, *q = old[len(old)-1], old[:len(old)-1]; return x }

// fresh is the rule of evidence.Verifier in the test's own words.
func (r *scaleRequest) fresh(now time.Time) bool {
	last := r.created.Add(scaleMaxAge)
	if r.expires.Before(last) {
		last = r.expires
	}
	return !now.Before(r.created.Add(-scaleSkew)) && !now.After(last.Add(scaleSkew))
}

// accepts runs one event at a replica.
func (f *scaleFleet) accepts(t *testing.T, r *scaleRequest, replica int, id string) bool {
	v := &f.replicas[replica].verifier
	if r.message != nil {
		_, reason := v.Verify(&evidence.Request{Message: *r.message, ID: id})
		switch reason {
		case "", evidence.ReasonReplayed, evidence.ReasonStaleEvidence:
		default:
			t.Fatalf("%s: reason %s", f.name, reason)
		}
		return reason == ""
	}
	now := v.Now()
	if !r.fresh(now) {
		return false
	}
	err := v.Replay.Remember(r.nonce, id, now, r.expires.Add(evidence.SkewLimit))
	if err != nil && !errors.Is(err, evidence.ErrReplayed) {
		t.Fatalf("%s: %v", f.name, err)
	}
	return err == nil
}

// TestScale runs 1,000,000 requests over 50 replicas (a tenth of them under the
// race detector), with clocks that are off, restarts, events that are run again,
// and somebody who replays what he captured to any replica at any time. With the
// shared store no honest request is refused, and no replay is accepted. Without
// it no honest request is refused, and a replay is accepted where, and only
// where, it is fresh at a replica that has not seen it since its start.
func TestScale(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(11, 22))
	key, err := evidence.GenerateKey("edge-1", evidence.AlgHMACSHA256)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := evidence.NewKeySet(key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := evidence.NewSigner(key, scaleLifetime)
	if err != nil {
		t.Fatal(err)
	}

	start := time.Now().Truncate(time.Second) // without a monotonic reading
	now := start
	var replicaSkew [scaleReplicas]time.Duration
	var attesterSkew [scaleAttesters]time.Duration
	setClocks := func(skews []time.Duration) {
		for i := range skews {
			skews[i] = time.Duration(rnd.Int64N(int64(scaleSkew))) - scaleSkew/2
		}
	}
	setClocks(replicaSkew[:])
	setClocks(attesterSkew[:])

	shared := &scaleFleet{name: "redis", server: &scaleServer{now: &now, held: map[evidence.Nonce]string{}, leave: map[int64][]evidence.Nonce{}, cleaned: start.Unix()}}
	alone := &scaleFleet{name: "memory"}
	fleets := []*scaleFleet{shared, alone}
	restart := func(i int) {
		for _, f := range fleets {
			f.restart(i, func() time.Time { return now.Add(replicaSkew[i]) }, keys)
		}
	}
	for i := range scaleReplicas {
		restart(i)
	}

	var queue scaleQueue
	var reruns, rerunsElsewhere, captured, replays, known int
	run := func(e scaleEvent) {
		now = e.at
		r := e.request
		if e.id == r.id { // honest: the first run, or one again
			for _, f := range fleets {
				if !f.accepts(t, r, e.replica, e.id) {
					t.Fatalf("%s: an honest request is refused at replica %d, clock off by %v, evidence of %v at %v", f.name, e.replica, replicaSkew[e.replica], r.created, now)
				}
			}
			if r.seen != nil {
				r.seen[e.replica] = alone.replicas[e.replica].life
			}
			return
		}
		replays++
		fresh := r.fresh(now.Add(replicaSkew[e.replica]))
		life, seen := r.seen[e.replica]
		held := seen && life == alone.replicas[e.replica].life
		if fresh && held {
			known++
		}
		if got := alone.accepts(t, r, e.replica, e.id); got != (fresh && !held) {
			t.Fatalf("memory: a replay is accepted: %v; fresh %v, held %v", got, fresh, held)
		} else if got {
			alone.accepted++
		}
		if fresh {
			// Accepted or told apart by the shared store: it is known here from now on.
			r.seen[e.replica] = alone.replicas[e.replica].life
		}
		if shared.accepts(t, r, e.replica, e.id) {
			shared.accepted++
		}
	}

	nextRestart, nextClocks, restarted := start, start.Add(scaleSetClock), 0
	for i := range scaleRequests {
		at := start.Add(time.Duration(i) * time.Second / scaleRate)
		for len(queue) > 0 && queue[0].at.Before(at) {
			run(heap.Pop(&queue).(scaleEvent))
		}
		now = at
		for ; !nextRestart.After(now); nextRestart = nextRestart.Add(scaleRestart / scaleReplicas) {
			restart(restarted % scaleReplicas)
			restarted++
		}
		if now.After(nextClocks) {
			setClocks(replicaSkew[:])
			setClocks(attesterSkew[:])
			nextClocks = now.Add(scaleSetClock)
		}

		r := &scaleRequest{id: scaleID(rnd)}
		signedAt := now.Add(attesterSkew[rnd.IntN(scaleAttesters)])
		if i%scaleFull == 0 || i%scaleCapture == 0 {
			m := message()
			if err := signer.Sign(&m, signedAt); err != nil {
				t.Fatal(err)
			}
			r.message = &m
		} else {
			binary.LittleEndian.PutUint64(r.nonce[:], rnd.Uint64())
			binary.LittleEndian.PutUint64(r.nonce[8:], rnd.Uint64())
		}
		r.created = signedAt.Truncate(time.Second)
		r.expires = r.created.Add(scaleLifetime)

		replica := rnd.IntN(scaleReplicas)
		first := now.Add(time.Duration(rnd.Int64N(int64(scaleNetwork))))
		if i%scaleCapture == 0 {
			captured++
			r.seen = map[int]int{}
			for range scaleReplays {
				heap.Push(&queue, scaleEvent{first.Add(time.Duration(1 + rnd.Int64N(int64(scaleDelay)))), r, rnd.IntN(scaleReplicas), scaleID(rnd)})
			}
		}
		heap.Push(&queue, scaleEvent{first, r, replica, r.id})
		if i%scaleRerun == 0 {
			reruns++
			again := replica
			if i%(2*scaleRerun) == 0 {
				// The plugin's process has been replaced meanwhile: an empty memory.
				rerunsElsewhere++
				again = (replica + 1) % scaleReplicas
			}
			heap.Push(&queue, scaleEvent{first.Add(time.Millisecond), r, again, r.id})
		}
		if i%1000 == 0 {
			for _, f := range fleets {
				for j := range f.replicas {
					f.most = max(f.most, f.replicas[j].local.entries())
				}
			}
		}
	}
	for len(queue) > 0 {
		run(heap.Pop(&queue).(scaleEvent))
	}

	s := shared.server
	t.Logf("%d requests, %d run again, %d restarts; %d captured, %d replays", scaleRequests, reruns, restarted, captured, replays)
	t.Logf("redis: %d replays accepted; %d SET, %d GET, at most %d keys; at most %d entries in a replica", shared.accepted, s.set, s.get, s.most, shared.most)
	t.Logf("memory: %d replays accepted; at most %d entries in a replica", alone.accepted, alone.most)

	if shared.accepted != 0 {
		t.Errorf("%d replays accepted with a shared store", shared.accepted)
	}
	// The model of docs/scaling.md. Of the replays that a captured request has, a
	// part comes while it is fresh; each replica takes the first that it gets, but
	// the one that had the request takes none unless it was restarted in between.
	// Evidence is dated to the second before it was signed, half a second on average.
	window := min(scaleMaxAge, scaleLifetime) + scaleSkew - 500*time.Millisecond - scaleNetwork/2
	freshPart := window.Seconds() / scaleDelay.Seconds()
	restartedPart := window.Seconds() / 2 / scaleRestart.Seconds()
	model := float64(captured) * (scaleReplicas - 1 + restartedPart) * (1 - math.Pow(1-freshPart/scaleReplicas, scaleReplays))
	near := func(what string, got int, model, tolerance float64) {
		t.Helper()
		t.Logf("%s: %d, the model says %.0f", what, got, model)
		if math.Abs(float64(got)-model) > tolerance*model {
			t.Errorf("%s: %d, the model says %.0f", what, got, model)
		}
	}
	near("replays accepted without a shared store", alone.accepted, model, 0.02)
	near("keys in the shared store", s.most, scaleRate*(scaleLifetime+evidence.SkewLimit+clockMargin).Seconds(), 0.03)
	// The attacker's replays take room, too. The fullest replica at its fullest
	// moment is four standard deviations above the mean, and what has expired
	// leaves when a later nonce comes to its shard.
	entries := (scaleRate + float64(alone.accepted)/float64(scaleRequests)*scaleRate) / scaleReplicas * (scaleLifetime + evidence.SkewLimit).Seconds()
	entries += 4 * math.Sqrt(entries)
	near("entries in a replica alone", alone.most, entries, 0.25)
	near("entries in a replica beside the shared store", shared.most, entries, 0.25)

	// One command for an allowed request, and another for what another replica
	// holds: an event that is run again there, or a replay that is new here.
	if s.set != scaleRequests+s.get {
		t.Errorf("%d SET for %d requests and %d conflicts", s.set, scaleRequests, s.get)
	}
	if most := rerunsElsewhere + replays - known; s.get > most {
		t.Errorf("%d GET, want at most %d: a replica asks for what it knows", s.get, most)
	}
}

// scaleID is a request id of nginx's form.
func scaleID(rnd *rand.Rand) string {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], rnd.Uint64())
	binary.LittleEndian.PutUint64(b[8:], rnd.Uint64())
	return hex.EncodeToString(b[:])
}
