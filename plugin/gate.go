package main

// What all configurations in the process share. Kong runs one process for all
// of its workers, and an instance for each worker and configuration, which it
// may drop at any time: so nothing that must last belongs to an instance.

import (
	"log"
	"sync"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

type gate struct {
	now     func() time.Time
	replay  *replayMemory
	since   time.Time // when replay began to remember, if there was something before; set before the first request
	redis   *redisClients
	files   *keyFiles
	metrics *metrics
	lines   limiter

	joinedMissing sync.Once
	notices       chan notice
}

// notice is a line that waits for a request to carry it to Kong's log.
type notice struct {
	crit bool // else err
	line string
}

func newGate(now func() time.Time) *gate {
	g := &gate{now: now, notices: make(chan notice, 16)}
	g.replay = &replayMemory{now: now}
	g.metrics = newMetrics(now, g.replay)
	g.redis = &redisClients{now: now, dial: plainDialer.DialContext, metrics: g.metrics, notice: g.say}
	g.files = &keyFiles{now: now, metrics: g.metrics, notice: g.notice}
	return g
}

// shared is the gate of the process.
var shared = sync.OnceValue(func() *gate {
	g := newGate(time.Now)
	g.files.watch()
	return g
})

// notice hands a line to Kong's log. Only a request can write there, at a level
// that Kong shows; what the process prints is logged as info.
func (g *gate) notice(line string) { g.say(false, line) }

func (g *gate) say(crit bool, line string) {
	log.Print(line)
	select {
	case g.notices <- notice{crit, line}:
	default: // the standard error has it
	}
}

func (g *gate) sayJoinedMissing() {
	g.joinedMissing.Do(func() {
		g.notice("$" + joinedVariable + " does not exist, so each request costs 19 calls instead of one: " +
			"include evidence.conf with nginx_http_include")
	})
}

// How long the replay store may need to remember a nonce: from the earliest
// moment at which evidence is accepted to the last.
const replayHorizon = evidence.MaxAgeLimit + 2*evidence.SkewLimit

// replayMemory is the replay store of the process. Its capacity is the largest
// that a configuration asked for. A store cannot grow, so a larger one is put
// beside it, and both are asked until the smaller holds nothing of its own.
type replayMemory struct {
	now func() time.Time

	mu       sync.Mutex
	capacity int
	current  *evidence.MemoryStore
	previous []outgrown
}

type outgrown struct {
	store *evidence.MemoryStore
	until time.Time // the current store knows all that it knows
}

// reserve makes room for capacity nonces.
func (m *replayMemory) reserve(capacity int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if capacity <= m.capacity {
		return
	}
	if m.current != nil {
		m.previous = append(m.previous, outgrown{m.current, m.now().Add(replayHorizon)})
	}
	m.capacity, m.current = capacity, evidence.NewMemoryStore(capacity)
}

// Remember implements evidence.ReplayStore.
func (m *replayMemory) Remember(n evidence.Nonce, requestID string, now, until time.Time) error {
	m.mu.Lock()
	for len(m.previous) > 0 && now.After(m.previous[0].until) {
		m.previous = m.previous[1:]
	}
	current, previous := m.current, m.previous
	m.mu.Unlock()

	for _, p := range previous {
		// A full store refuses only what it does not hold: the next one decides.
		if err := p.store.Remember(n, requestID, now, until); err != nil && err != evidence.ErrStoreFull {
			return err
		}
	}
	return current.Remember(n, requestID, now, until)
}

// find is evidence.MemoryStore.Find over all that the process remembers.
func (m *replayMemory) find(n evidence.Nonce, requestID string, now time.Time) (held bool, err error) {
	m.mu.Lock()
	current, previous := m.current, m.previous
	m.mu.Unlock()
	if held, err = current.Find(n, requestID, now); held || err != nil {
		return held, err
	}
	for _, p := range previous {
		if held, err = p.store.Find(n, requestID, now); held || err != nil {
			return held, err
		}
	}
	return false, nil
}

// size returns the capacity, 0 before the first reserve.
func (m *replayMemory) size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.capacity
}

func (m *replayMemory) entries() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current == nil {
		return 0
	}
	return m.current.Len()
}
