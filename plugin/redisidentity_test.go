package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func TestReadIdentity(t *testing.T) {
	t.Parallel()
	const run, history = "e2f1c3a4b5d6978877665544332211ffeeddccbb", "8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb"
	for name, c := range map[string]struct {
		process, replication string
		want                 redisIdentity
		replica              bool
	}{
		"Redis": {
			"# Server\r\nredis_version:7.0.15\r\nprocess_id:1\r\nrun_id:" + run + "\r\ntcp_port:6379\r\nuptime_in_seconds:75\r\nuptime_in_days:0\r\n",
			"# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\nmaster_replid:" + history +
				"\r\nmaster_replid2:0000000000000000000000000000000000000000\r\n",
			redisIdentity{run + " " + history, 75 * time.Second}, false},
		"Valkey": {"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\nrun_id:" + run + "\r\nuptime_in_seconds:0\r\n",
			"role:master\r\nmaster_replid:" + history + "\r\n", redisIdentity{run + " " + history, 0}, false},
		"a replica":            {"run_id:" + run + "\r\n", "role:slave\r\nmaster_replid:" + history + "\r\n", redisIdentity{}, true},
		"an active replica":    {"run_id:" + run + "\r\n", "role:active-replica\r\n", redisIdentity{run + " ", -1}, false},
		"no run_id":            {"uptime_in_seconds:5\r\n", "role:master\r\nmaster_replid:" + history + "\r\n", redisIdentity{" " + history, 5 * time.Second}, false},
		"a proxy":              {"# Server\r\nproxy_version:1.0\r\nuptime_in_seconds:295\r\n", "", redisIdentity{"", 295 * time.Second}, false},
		"INFO refused":         {"", "", redisIdentity{"", -1}, false},
		"a negative uptime":    {"run_id:a\r\nuptime_in_seconds:-1\r\n", "", redisIdentity{"a ", -1}, false},
		"an uptime like words": {"run_id:a\r\nuptime_in_seconds:long\r\n", "", redisIdentity{"a ", -1}, false},
		"a huge uptime":        {"run_id:a\r\nuptime_in_seconds:9223372036854775807\r\n", "", redisIdentity{"a ", -1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := readIdentity(c.process, c.replication)
			if got != c.want || (err == errReplica) != c.replica {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// wholeSecond is a moment at which a second begins.
var wholeSecond = time.Unix(1800000000, 0)

// What a look at a server finds, and the first second of evidence that passes.
func TestServerWatch(t *testing.T) {
	t.Parallel()
	type step struct {
		at     time.Duration // since wholeSecond
		id     string
		uptime time.Duration
		want   sight
		since  time.Duration // -1: nothing is lost
	}
	for name, steps := range map[string][]step{
		"an old server":             {{300 * time.Millisecond, "a", time.Hour, sightFirst, -time.Hour + 2*time.Second}},
		"a young server":            {{300 * time.Millisecond, "a", 9 * time.Second, sightFirst, -7 * time.Second}},
		"a server of this second":   {{300 * time.Millisecond, "a", 0, sightFirst, time.Second}},
		"a server of the last":      {{300 * time.Millisecond, "a", time.Second, sightFirst, time.Second}},
		"a server without uptime":   {{0, "a", -1, sightFirst, -1}},
		"nothing happens":           {{0, "a", -1, sightFirst, -1}, {time.Hour, "a", 0, sightSame, -1}},
		"another server":            {{0, "a", -1, sightFirst, -1}, {1500 * time.Millisecond, "b", time.Hour, sightChanged, 2 * time.Second}},
		"at the start of a second":  {{0, "a", -1, sightFirst, -1}, {time.Second, "b", time.Hour, sightChanged, 2 * time.Second}},
		"another and back":          {{0, "a", -1, sightFirst, -1}, {0, "b", 0, sightChanged, time.Second}, {9 * time.Second, "a", time.Hour, sightChanged, 10 * time.Second}},
		"one that does not tell":    {{0, "a", -1, sightFirst, -1}, {0, "", -1, sightChanged, time.Second}, {9 * time.Second, "", -1, sightSame, time.Second}},
		"one that tells again":      {{0, "", -1, sightFirst, -1}, {0, "a", time.Hour, sightChanged, time.Second}},
		"a clock that was set back": {{0, "a", -1, sightFirst, -1}, {time.Hour, "b", 0, sightChanged, time.Hour + time.Second}, {0, "c", 0, sightChanged, time.Second}},
		"again and again": {{0, "a", -1, sightFirst, -1},
			{0, "b", 0, sightChanged, time.Second}, {500 * time.Millisecond, "a", 0, sightSame, time.Second}, // the same second
			{1 * time.Second, "b", 0, sightChanged, 2 * time.Second}, {2 * time.Second, "a", 0, sightChanged, 3 * time.Second},
			{3 * time.Second, "b", 0, sightChanged, 4 * time.Second}, {4 * time.Second, "a", 0, sightChanged, 5 * time.Second},
			{5 * time.Second, "b", 0, sightIgnored, 5 * time.Second}, {5 * time.Second, "b", 0, sightSame, 5 * time.Second},
			{29 * time.Second, "a", 0, sightIgnored, 5 * time.Second}, {30 * time.Second, "b", 0, sightChanged, 31 * time.Second},
			{31 * time.Second, "a", 0, sightIgnored, 31 * time.Second}, {60 * time.Second, "b", 0, sightChanged, 61 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := wholeSecond
			w := &serverWatch{now: func() time.Time { return now }}
			for i, s := range steps {
				now = wholeSecond.Add(s.at)
				if got := w.meet(redisIdentity{s.id, s.uptime}); got != s.want {
					t.Fatalf("step %d: %v, want %v", i+1, got, s.want)
				}
				switch g := w.gap.Load(); {
				case s.since == -1:
					if g != nil || w.forgotten(wholeSecond.Add(-time.Hour)) {
						t.Fatalf("step %d: %+v", i+1, g)
					}
				case g == nil || !g.since.Equal(wholeSecond.Add(s.since)):
					t.Fatalf("step %d: %+v, want %v", i+1, g, s.since)
				case !w.forgotten(g.since.Add(-time.Second)) || w.forgotten(g.since):
					t.Fatalf("step %d: the gap is not what is forgotten", i+1)
				}
			}
		})
	}
}

// A clock that was an hour ahead when the server changed, and is set back, refuses
// for as long as that evidence could be fresh, and not for an hour. Here time
// passes as the clock says, which a clock that is set does not show.
func TestServerWatchEnds(t *testing.T) {
	t.Parallel()
	now := wholeSecond
	w := &serverWatch{now: func() time.Time { return now }}
	w.meet(redisIdentity{"a", -1})
	w.meet(redisIdentity{"b", -1})
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {replayHorizon, true}, {replayHorizon + time.Second, false}} {
		now = wholeSecond.Add(c.after)
		if got := w.forgotten(wholeSecond); got != c.want {
			t.Errorf("after %v: %v", c.after, got)
		}
	}
}

// Servers that take turns, at any rate, cost a bounded part of the time.
func TestServerWatchTakesTurns(t *testing.T) {
	t.Parallel()
	for _, every := range []time.Duration{10 * time.Millisecond, 700 * time.Millisecond, 5 * time.Second, 40 * time.Second} {
		now := wholeSecond
		w := &serverWatch{now: func() time.Time { return now }}
		w.meet(redisIdentity{"a", -1})
		const length = 1200 // seconds
		refused, next, id := 0, wholeSecond, 0
		for ; now.Before(wholeSecond.Add(length * time.Second)); now = now.Add(10 * time.Millisecond) {
			if !now.Before(next) {
				next, id = next.Add(every), id+1
				w.meet(redisIdentity{fmt.Sprint(id % 2), -1})
			}
			if w.forgotten(now.Truncate(time.Second)) {
				refused++
			}
		}
		share := float64(refused) / (length * 100)
		t.Logf("a change every %v: %.1f %% refused", every, 100*share)
		if most := (redisChanges + length/redisChangeEvery.Seconds()) / length; share == 0 || share > most+1e-9 {
			t.Errorf("a change every %v: %.3f of the time refused, want at most %.3f", every, share, most)
		}
	}
}

// A fleet in virtual time, whose server is replaced again and again by one that
// knows nothing, or lacks the last writes. Each node notices at its own next
// question. Somebody replays everything, to any node at any time. What clocks may
// differ by, attester and node together, is how long a failover takes: below that
// no replay is accepted.
func TestServerWatchFleet(t *testing.T) {
	t.Parallel()
	const (
		nodes, attesters = 20, 10
		failovers        = 60
		every            = 40*time.Second + 370*time.Millisecond
		rate             = 100 // a second
		fresh            = 15 * time.Second
	)
	for _, c := range []struct {
		name   string
		outage time.Duration // nobody gets an answer
		apart  time.Duration // each clock by up to half of it
		lost   time.Duration // of the last writes; all in every second failover
		sound  bool
	}{
		{"at once, clocks in step", 0, 0, 300 * time.Millisecond, true},
		{"in 50 ms, clocks 50 ms apart", 50 * time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond, true},
		{"in 2 s, clocks 2 s apart", 2 * time.Second, 2 * time.Second, time.Second, true},
		{"at once, clocks 2 s apart", 0, 2 * time.Second, time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(3, 7))
			now := wholeSecond
			offsets := func(n int) []time.Duration {
				o := make([]time.Duration, n)
				for i := range o {
					o[i] = time.Duration(rnd.Int64N(int64(c.apart)+1)) - c.apart/2
				}
				return o
			}
			nodeClock, attesterClock := offsets(nodes), offsets(attesters)
			type use struct {
				created time.Time
				at      time.Time
				node    int
			}
			server, incarnation := map[int]time.Time{}, 0 // nonce to the time it was taken
			var watches []*serverWatch
			for i := range nodes {
				watches = append(watches, &serverWatch{now: func() time.Time { return now.Add(nodeClock[i]) }})
			}
			// decides runs a question to the server; first is whether the evidence is new.
			decides := func(node, nonce int, created time.Time) (accepted, stale bool) {
				watches[node].meet(redisIdentity{fmt.Sprint(incarnation), time.Hour})
				if _, held := server[nonce]; held {
					return false, false
				}
				server[nonce] = now
				if watches[node].forgotten(created) {
					return false, true
				}
				return true, false
			}
			var uses []use
			var down time.Time
			replayed, refused, honest, next := 0, 0, 0, wholeSecond.Add(every)
			for step := range failovers * int(every*rate/time.Second) {
				now = wholeSecond.Add(time.Duration(step) * time.Second / rate)
				if !now.Before(next) {
					next, down = next.Add(every), now.Add(c.outage)
					if incarnation++; incarnation%2 == 0 {
						clear(server)
					}
					for nonce, at := range server {
						if now.Sub(at) <= c.lost {
							delete(server, nonce)
						}
					}
				}
				if now.Before(down) {
					uses = append(uses, use{}) // refused, and not used
					continue
				}
				u := use{now.Add(attesterClock[rnd.IntN(attesters)]).Truncate(time.Second), now, rnd.IntN(nodes)}
				accepted, stale := decides(u.node, step, u.created)
				honest++
				if stale {
					refused++
				}
				if !accepted {
					u = use{}
				}
				uses = append(uses, u)
				// A replay of something fresh at another node.
				back := rnd.IntN(int(fresh.Seconds()*rate)) + 1
				if back > step || uses[step-back].at.IsZero() {
					continue
				}
				node := rnd.IntN(nodes)
				if u := uses[step-back]; node != u.node {
					if accepted, _ := decides(node, step-back, u.created); accepted {
						replayed++
					}
				}
			}
			t.Logf("%d failovers: %d replays accepted; %d of %d honest requests refused, %.2f s of them for each failover",
				failovers, replayed, refused, honest, float64(refused)/failovers/rate)
			if c.sound && replayed != 0 {
				t.Errorf("%d replays were accepted", replayed)
			}
			if !c.sound && replayed == 0 {
				t.Error("no replay was accepted: the test shows nothing")
			}
			if most := failovers * rate * (1 + c.apart.Seconds()); float64(refused) > most {
				t.Errorf("%d honest requests were refused, want at most %v", refused, most)
			}
		})
	}
}

// clock is one that a test sets.
type clock struct{ at atomic.Pointer[time.Time] }

func newClock(at time.Time) *clock {
	c := new(clock)
	c.set(at)
	return c
}

func (c *clock) set(at time.Time)         { c.at.Store(&at) }
func (c *clock) now() time.Time           { return *c.at.Load() }
func (c *clock) advance(by time.Duration) { c.set(c.now().Add(by)) }

// The server restarts empty. Nothing that any node accepted before passes again,
// and of the honest requests those of the second in which a node noticed.
func TestRedisRestart(t *testing.T) {
	t.Parallel()
	for _, onError := range []string{onErrorDeny, onErrorLocal} {
		t.Run(onError, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			e := newEdge(t)
			c := newClock(time.Now().Truncate(time.Second))
			record := s.record(map[string]any{"on_error": onError})
			a, b, late := newNodeAt(t, e, record, c.now), newNodeAt(t, e, record, c.now), newNodeAt(t, e, record, c.now)
			var used []*sample
			for range 20 {
				captured, id := a.fresh()
				a.want("new", captured, id, "")
				used = append(used, captured)
				c.advance(50 * time.Millisecond)
			}
			for _, n := range []*kongNode{b, late} {
				captured, _ := n.fresh()
				n.want("new", captured, requestC, "") // it has met the server
			}
			c.advance(300 * time.Millisecond) // into the second after the last use
			s.kill()
			s.start(t)

			refused := 0
			const step, requests = 10 * time.Millisecond, 300
			for i := range requests {
				created := c.now().Truncate(time.Second)
				o := b.decides(b.fresh)
				switch reason := o.value["reason"]; {
				case !o.exited:
				case reason == string(evidence.ReasonStaleEvidence) && created.Before(b.remembers()):
					refused++
				default:
					t.Fatalf("request %d: %v: %q", i, reason, o.lines)
				}
				c.advance(step)
			}
			t.Logf("%d of %d honest requests refused, at %d a second", refused, requests, time.Second/step)
			want := 70 // the rest of the second
			if onError == onErrorLocal {
				want = 0
			}
			if refused != want {
				t.Errorf("%d honest requests were refused, want %d", refused, want)
			}

			// The third node meets the new server only now, and refuses no less.
			for i, captured := range used {
				for _, n := range []*kongNode{b, late} {
					o := n.send(captured, fmt.Sprintf("%032x", 1<<20+i))
					if reason := o.value["reason"]; onError == onErrorDeny && reason != string(evidence.ReasonStaleEvidence) && reason != string(evidence.ReasonReplayed) {
						t.Fatalf("used evidence %d: %v", i, reason)
					}
				}
			}
			if onError == onErrorLocal && b.fallbacks() == 0 {
				t.Error("what this process decided alone is not counted")
			}
		})
	}
}

// decides sends what next returns until the server has answered: on a busy machine
// it may take its time.
func (n *kongNode) decides(next func() (*sample, string)) (o *outcome) {
	n.t.Helper()
	eventually(n.t, "the server answers", func() bool {
		late := func() float64 { return n.results()[redisTimeout] + n.results()[redisBreakerOpen] }
		was := late()
		o = n.send(next())
		return late() == was
	})
	return o
}

// remembers is the first second of evidence that the node accepts.
func (n *kongNode) remembers() time.Time { return n.client().server.gap.Load().since }

// A server that a process has not seen before remembers since its start: what the
// last one knew is lost.
func TestRedisStart(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	before := signed(t, message(), e.key, time.Now())
	s := startRedis(t)
	started := time.Now()
	young := newNodeOn(t, e, s.record(nil), newGate(time.Now))
	if since := young.remembers(); since.Before(started.Add(-time.Second)) || since.After(time.Now().Add(time.Second)) {
		t.Errorf("started before %v, remembers since %v", started, since)
	}
	young.eventuallyPasses("from after the start")
	stale := func(n *kongNode, s *sample) {
		t.Helper()
		if o := n.decides(func() (*sample, string) { return s, requestA }); o.value["reason"] != string(evidence.ReasonStaleEvidence) {
			t.Errorf("from before the start: %v: %q", o.value, o.lines)
		}
	}
	stale(young, before)

	eventually(t, "the server is no longer young", func() bool { return time.Since(started) > 2500*time.Millisecond })
	old := newNodeOn(t, e, s.record(nil), newGate(time.Now))
	if o := old.decides(old.fresh); o.exited {
		t.Errorf("an honest request, and the server was there before: %v: %q", o.value, o.lines)
	}
	stale(old, signed(t, message(), e.key, started.Add(-2*time.Second)))
}

// A server is demoted and promoted again: it is the same process, but no longer
// the same history.
func TestRedisPromotedAgain(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	e := newEdge(t)
	c := newClock(time.Now())
	a, b := newNodeAt(t, e, s.record(nil), c.now), newNodeAt(t, e, s.record(nil), c.now)
	b.eventuallyPasses("b is connected")
	captured, id := a.fresh()
	a.want("new", captured, id, "")
	s.do(t, "REPLICAOF", "127.0.0.1", "1")
	s.do(t, "REPLICAOF", "NO", "ONE")
	s.do(t, "FLUSHALL") // what the primary of the time in between did not have
	s.do(t, "CLIENT", "KILL", "USER", "gate")
	b.want("replayed", captured, requestB, evidence.ReasonStaleEvidence)
	c.advance(time.Second)
	b.eventuallyPasses("afterwards")
}

// A failover under load: requests that were on their way are asked again, and are
// refused as stale, not with an error.
func TestRedisFailoverUnderLoad(t *testing.T) {
	t.Parallel()
	first, second := startRedis(t), startRedis(t)
	p := startProxy(t, first.addr)
	c := newClock(time.Now().Truncate(time.Second))
	n := newNodeAt(t, newEdge(t), redisRecord(p.addr, nil), c.now)
	n.eventuallyPasses("before")
	var done sync.WaitGroup
	var reasons sync.Map
	const senders, each = 16, 20
	count := new(atomic.Int32)
	for range senders {
		var samples []*sample
		for range each {
			s, _ := n.fresh()
			samples = append(samples, s)
		}
		done.Go(func() {
			for _, s := range samples {
				i := count.Add(1)
				if i == senders*each/4 {
					p.turn(second.addr)
				}
				o := n.send(s, fmt.Sprintf("%032x", 1<<30+i))
				times, _ := reasons.LoadOrStore(o.value["reason"], new(atomic.Int32))
				times.(*atomic.Int32).Add(1)
			}
		})
	}
	done.Wait()
	stale := int32(0)
	reasons.Range(func(reason, times any) bool {
		switch reason {
		case nil, "":
		case string(evidence.ReasonStaleEvidence):
			stale = times.(*atomic.Int32).Load()
		default:
			// On a busy machine a server takes its time.
			if got := n.results(); got[redisTimeout] == 0 {
				t.Errorf("%v times %v: %v", times.(*atomic.Int32).Load(), reason, got)
			}
		}
		return true
	})
	if stale == 0 {
		t.Error("nothing was stale")
	}
	c.advance(time.Second)
	n.eventuallyPasses("in the next second")
}

// The address leads to another server, and the old one lives: a node that has
// connections to it finds out at the next check, and uses them no longer.
func TestRedisMoves(t *testing.T) {
	t.Parallel()
	first, second := startRedis(t), startRedis(t)
	p := startProxy(t, first.addr)
	e := newEdge(t)
	c := newClock(time.Now())
	a, b := newNodeAt(t, e, redisRecord(p.addr, nil), c.now), newNodeAt(t, e, redisRecord(p.addr, nil), c.now)
	// Several connections each.
	for _, n := range []*kongNode{a, b} {
		var done sync.WaitGroup
		for i := range 20 {
			s, _ := n.fresh()
			done.Go(func() { n.send(s, fmt.Sprintf("%032x", 1<<30+i)) })
		}
		done.Wait()
	}
	captured, id := a.fresh()
	a.want("new", captured, id, "")
	p.lead(second.addr)
	keys := func(s *redisServer) int64 { return s.admin.DBSize(context.Background()).Val() }
	for _, n := range []*kongNode{a, b} {
		n.client().recheck() // what the clock does every half minute
		eventually(t, "the move is noticed", func() bool { return n.client().server.gap.Load() != nil })
	}
	was := keys(first)
	b.want("replayed at the other node", captured, requestB, evidence.ReasonStaleEvidence)
	c.advance(time.Second)
	for _, n := range []*kongNode{a, b} {
		for range 20 {
			if ok, o := n.passes(); !ok {
				t.Fatalf("%+v", o)
			}
		}
	}
	if keys(first) != was || keys(second) < 40 {
		t.Errorf("%d keys more in the old server, %d in the new one", keys(first)-was, keys(second))
	}
}

// Each connection leads to another of two servers that both take writes: this
// costs a bounded time, is said at level crit, and passes then as it did before.
func TestRedisTakesTurns(t *testing.T) {
	t.Parallel()
	servers := []*redisServer{startRedis(t), startRedis(t)}
	e := newEdge(t)
	c := newClock(time.Now().Truncate(time.Second))
	g := newGate(c.now)
	var dialed atomic.Int32
	g.redis.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return plainDialer.DialContext(ctx, network, servers[dialed.Add(1)%2].addr)
	}
	n := newNodeOn(t, e, servers[0].record(nil), g)
	var lines strings.Builder
	refused, last := 0, 0
	for i := range 600 { // a minute
		ok, o := n.passes()
		for _, line := range o.lines {
			fmt.Fprintln(&lines, line)
		}
		if !ok {
			refused, last = refused+1, i
		}
		c.advance(100 * time.Millisecond)
		if i%10 == 9 {
			n.client().dialer.closeAll() // connections come and go
		}
	}
	t.Logf("%d of 600 requests refused, the last one as number %d", refused, last)
	if refused == 0 || refused > 10*(redisChanges+3) {
		t.Errorf("%d of 600 requests were refused:\n%s", refused, lines.String())
	}
	if !strings.Contains(lines.String(), "crit: replay store redis") || !strings.Contains(lines.String(), "leads to another server again and again") {
		t.Errorf("nobody was told:\n%s", lines.String())
	}
}

// A server that does not say which one it is works as before, and the log says so.
func TestRedisWithoutIdentity(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.do(t, "ACL", "SETUSER", "gate", "-info", "+config|get")
	p := startProxy(t, s.addr)
	e := newEdge(t)
	n := newNode(t, e, redisRecord(p.addr, nil))
	ok, o := n.passes()
	if !ok || !strings.Contains(strings.Join(o.lines, "\n"), "err: replay store redis") || !strings.Contains(strings.Join(o.lines, "\n"), "does not tell its run_id (ACL: +info)") {
		t.Errorf("passes %v: %q", ok, o.lines)
	}
	p.reset()
	if ok, o := n.passes(); !ok || len(o.lines) != 0 {
		t.Errorf("passes %v: %q", ok, o.lines)
	}
}
