package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// kongNode is a Kong node: a process with a gate, in this process.
type kongNode struct {
	t      *testing.T
	gate   *gate
	config *Config
	edge   *edge
	count  int
}

func newNode(t *testing.T, e *edge, replay map[string]any) *kongNode {
	t.Helper()
	return newNodeAt(t, e, replay, time.Now)
}

func newNodeAt(t *testing.T, e *edge, replay map[string]any, now func() time.Time) *kongNode {
	t.Helper()
	n := newNodeOn(t, e, replay, newGate(now))
	n.forgetStart()
	return n
}

func newNodeOn(t *testing.T, e *edge, replay map[string]any, g *gate) *kongNode {
	t.Helper()
	config := configure(t, g, map[string]any{"jwks": e.inline, "replay": replay, "max_age": 300, "clock_skew": 60})
	if config.problem != "" {
		t.Fatal(config.problem)
	}
	n := &kongNode{t: t, gate: g, config: config, edge: e}
	<-n.client().checked // on a busy machine later than the first request
	return n
}

// forgetStart makes a server that was started for the test pass for an old one,
// which no evidence of the test's is older than. TestRedisStart is about the rest.
func (n *kongNode) forgetStart() { n.client().server.gap.Store(nil) }

// client is the node's client of its server.
func (n *kongNode) client() *redisClient {
	return n.config.verifier.Replay.(*sharedStore).keepAlive.client
}

// send runs the access event of s as the request id.
func (n *kongNode) send(s *sample, id string) *outcome {
	n.t.Helper()
	own := *s
	own.id = id
	o := (&fakeKong{vars: own.nginx(true)}).access(n.t, n.config)
	for _, line := range append(slices.Clone(o.lines), o.body) {
		for _, secret := range []string{redisPassword, redisAdmin} {
			if strings.Contains(line, secret) {
				n.t.Errorf("a password is in %q", line)
			}
		}
	}
	return o
}

// want sends s and compares the outcome; an empty reason is an allow.
func (n *kongNode) want(what string, s *sample, id string, reason evidence.Reason) *outcome {
	n.t.Helper()
	o := n.send(s, id)
	if got, _ := o.value["reason"].(string); got != string(reason) || o.exited != (reason != "") {
		n.t.Errorf("%s: exited %v, reason %q, want %q: %q", what, o.exited, got, reason, o.lines)
	}
	return o
}

// fresh returns new evidence with a request id of its own.
func (n *kongNode) fresh() (s *sample, id string) {
	n.count++
	return signed(n.t, message(), n.edge.key, n.gate.now()), fmt.Sprintf("%032x", n.count)
}

// passes reports whether a new request passes, and with which reason not.
func (n *kongNode) passes() (bool, *outcome) {
	n.t.Helper()
	s, id := n.fresh()
	o := n.send(s, id)
	return !o.exited, o
}

func (n *kongNode) eventuallyPasses(what string) {
	n.t.Helper()
	eventually(n.t, what, func() bool { ok, _ := n.passes(); return ok })
}

func (n *kongNode) results() map[string]float64 {
	got := counters(n.t, n.gate, "wallarm_gate_redis_operations_total")
	maps.DeleteFunc(got, func(_ string, v float64) bool { return v == 0 })
	return got
}

func (n *kongNode) open() float64 {
	return counters(n.t, n.gate, "wallarm_gate_redis_breaker_open")[""]
}

func (n *kongNode) fallbacks() float64 {
	return counters(n.t, n.gate, "wallarm_gate_redis_local_fallbacks_total")[""]
}

var (
	requestA = strings.Repeat("a", 32)
	requestB = strings.Repeat("b", 32)
	requestC = strings.Repeat("c", 32)
)

// fakeTaker is the shared part of a store; it says what it is told to.
type fakeTaker struct {
	holders map[evidence.Nonce]string
	fails   error
	asked   int
	ttl     time.Duration
	during  func() // runs while the question is under way
}

func (f *fakeTaker) take(n evidence.Nonce, requestID string, ttl time.Duration) (string, error) {
	f.asked++
	f.ttl = ttl
	if f.during != nil {
		f.during()
	}
	if f.fails != nil {
		return "", f.fails
	}
	if _, ok := f.holders[n]; !ok {
		f.holders[n] = requestID
	}
	return f.holders[n], nil
}

func TestSharedStore(t *testing.T) {
	t.Parallel()
	down := &redisError{result: redisTimeout, why: "no answer"}
	held := &redisError{result: redisTimeout, why: "no answer", held: true}
	type step struct {
		nonce byte
		id    string
		fails error // of the server
		want  error
		asked int // questions to the server
	}
	for name, c := range map[string]struct {
		fallback  bool
		holders   map[evidence.Nonce]string
		steps     []step
		fallbacks int
	}{
		"new, run again, replayed": {steps: []step{
			{1, "a", nil, nil, 1}, {1, "a", nil, nil, 0}, {1, "b", nil, evidence.ErrReplayed, 0}, {1, "a", nil, nil, 0},
		}},
		"used at another node": {holders: map[evidence.Nonce]string{{1}: "x"}, steps: []step{
			{1, "a", nil, evidence.ErrReplayed, 1}, {1, "a", nil, evidence.ErrReplayed, 0}, {1, "b", nil, evidence.ErrReplayed, 0},
		}},
		"run again at another node": {holders: map[evidence.Nonce]string{{1}: "a"}, steps: []step{{1, "a", nil, nil, 1}, {1, "b", nil, evidence.ErrReplayed, 0}}},
		"deny: an error is no use": {steps: []step{
			{1, "a", down, down, 1}, {1, "a", nil, nil, 1}, {1, "b", nil, evidence.ErrReplayed, 0},
		}},
		"deny: another request after an error": {steps: []step{
			{1, "a", down, down, 1}, {1, "b", nil, nil, 1}, {1, "a", nil, evidence.ErrReplayed, 0},
		}},
		"deny: what this process knows needs no server": {steps: []step{
			{1, "a", nil, nil, 1}, {1, "a", down, nil, 0}, {1, "b", down, evidence.ErrReplayed, 0}, {2, "a", down, down, 1},
		}},
		"local: falls back": {fallback: true, fallbacks: 1, steps: []step{
			{1, "a", down, nil, 1}, {1, "a", down, nil, 0}, {1, "b", down, evidence.ErrReplayed, 0}, {1, "b", nil, evidence.ErrReplayed, 0},
		}},
		"local: never for a nonce that is held": {fallback: true, steps: []step{
			{1, "a", held, held, 1}, {1, "a", nil, nil, 1},
		}},
		"local: full": {fallback: true, fallbacks: 2, steps: []step{
			{1, "a", down, nil, 1}, {2, "a", nil, nil, 1}, {3, "a", down, evidence.ErrStoreFull, 1},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			local := &replayMemory{now: func() time.Time { return now }}
			local.reserve(1)
			if name != "local: full" {
				local.reserve(10)
			}
			taker := &fakeTaker{holders: map[evidence.Nonce]string{}}
			maps.Copy(taker.holders, c.holders)
			fallbacks := 0
			s := &sharedStore{shared: taker, local: local, fallback: c.fallback, fellBack: func() { fallbacks++ }}
			for i, st := range c.steps {
				taker.fails, taker.asked = st.fails, 0
				if err := s.Remember(evidence.Nonce{st.nonce}, st.id, now, now.Add(time.Minute)); !errors.Is(err, st.want) {
					t.Fatalf("step %d: %v, want %v", i+1, err, st.want)
				}
				if taker.asked != st.asked {
					t.Fatalf("step %d: the server was asked %d times, want %d", i+1, taker.asked, st.asked)
				}
			}
			if fallbacks != c.fallbacks {
				t.Errorf("%d fallbacks, want %d", fallbacks, c.fallbacks)
			}
			if taker.ttl != 0 && taker.ttl != time.Minute+2*evidence.SkewLimit {
				t.Errorf("ttl %v", taker.ttl)
			}
		})
	}
}

// One request waits for the server, another has been accepted without it in the
// meantime: only one of them passes.
func TestSharedStoreFallbackRace(t *testing.T) {
	t.Parallel()
	now := time.Now()
	local := &replayMemory{now: func() time.Time { return now }}
	local.reserve(10)
	taker := &fakeTaker{holders: map[evidence.Nonce]string{}}
	s := &sharedStore{shared: taker, local: local, fallback: true, fellBack: func() {}}
	taker.during = func() {
		if err := local.Remember(evidence.Nonce{1}, "b", now, now.Add(time.Minute)); err != nil {
			t.Error(err)
		}
	}
	if err := s.Remember(evidence.Nonce{1}, "a", now, now.Add(time.Minute)); !errors.Is(err, evidence.ErrReplayed) {
		t.Errorf("%v", err)
	}
}

func TestRedisDecisions(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	pa, pb := startProxy(t, s.addr), startProxy(t, s.addr)
	e := newEdge(t)
	a, b := newNode(t, e, redisRecord(pa.addr, nil)), newNode(t, e, redisRecord(pb.addr, nil))
	captured, _ := a.fresh()
	other, _ := a.fresh()
	for _, step := range []struct {
		what     string
		node     *kongNode
		proxy    *proxy
		s        *sample
		id       string
		reason   evidence.Reason
		commands []string
	}{
		{"new", a, pa, captured, requestA, "", []string{"set"}},
		{"Kong runs it again", a, pa, captured, requestA, "", nil},
		{"replayed at the same node", a, pa, captured, requestB, evidence.ReasonReplayed, nil},
		{"replayed at another node", b, pb, captured, requestB, evidence.ReasonReplayed, []string{"set", "get"}},
		{"and again there", b, pb, captured, requestC, evidence.ReasonReplayed, nil},
		{"new at the other node", b, pb, other, requestC, "", []string{"set"}},
		{"the same event in another process", a, pa, other, requestC, "", []string{"set", "get"}},
		{"and replayed there", a, pa, other, requestA, evidence.ReasonReplayed, nil},
	} {
		step.proxy.commands()
		step.node.want(step.what, step.s, step.id, step.reason)
		if got := step.proxy.commands(); !slices.Equal(got, step.commands) {
			t.Errorf("%s: commands %q, want %q", step.what, got, step.commands)
		}
	}
	if got, want := a.results(), map[string]float64{redisStored: 1, redisRerun: 1}; !maps.Equal(got, want) {
		t.Errorf("results %v, want %v", got, want)
	}
	if got, want := b.results(), map[string]float64{redisStored: 1, redisReplayed: 1}; !maps.Equal(got, want) {
		t.Errorf("results %v, want %v", got, want)
	}

	keys, err := s.admin.Keys(context.Background(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	keys = slices.DeleteFunc(keys, func(k string) bool { return k == "wallarm-gate:check" })
	if len(keys) != 2 {
		t.Fatalf("keys %q", keys)
	}
	for _, key := range keys {
		if len(key) != len("wallarm-gate:")+22 {
			t.Errorf("key %q", key)
		}
		value, err := s.admin.Get(context.Background(), key).Result()
		if err != nil || value != requestA && value != requestC {
			t.Errorf("value %q, %v", value, err)
		}
		// The attester signs for 60 s.
		if ttl := s.admin.PTTL(context.Background(), key).Val(); ttl > 60*time.Second+evidence.SkewLimit+clockMargin || ttl < time.Minute+clockMargin {
			t.Errorf("ttl %v", ttl)
		}
	}
}

// The nodes' clocks differ as much as the schema allows: no key leaves while a
// node may take its evidence for fresh.
func TestRedisClocks(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	e := newEdge(t)
	for _, ahead := range []time.Duration{0, 30 * time.Second, 60 * time.Second, -60 * time.Second} {
		for _, other := range []time.Duration{0, -30 * time.Second, -60 * time.Second, 60 * time.Second} {
			t.Run(fmt.Sprintf("%v and %v", ahead, other), func(t *testing.T) {
				now := time.Now()
				at := func(d time.Duration) func() time.Time { return func() time.Time { return now.Add(d) } }
				a, b := newNodeAt(t, e, s.record(nil), at(ahead)), newNodeAt(t, e, s.record(nil), at(other))
				s.do(t, "FLUSHALL")
				captured := signed(t, message(), e.key, now)
				a.want("new", captured, requestA, "")
				b.want("replayed", captured, requestB, evidence.ReasonReplayed)

				// The last moment at which b would accept, in real time from now.
				last := 60*time.Second + 60*time.Second - other
				keys := s.admin.Keys(context.Background(), "wallarm-gate:?????*").Val()
				for _, key := range keys {
					if key == "wallarm-gate:check" {
						continue
					}
					if ttl := s.admin.PTTL(context.Background(), key).Val(); ttl < last-time.Second {
						t.Errorf("%s leaves in %v, accepted for %v", key, ttl, last)
					}
				}
			})
		}
	}
}

// Two processes, one nonce, at the same moment: one of them accepts.
func TestBinaryRedis(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	e := newEdge(t)
	p := startProxy(t, s.addr)
	config := map[string]any{"jwks": e.inline, "replay": redisRecord(p.addr, map[string]any{"password": "{vault://env/" + redisPasswordEnv + "}"})}
	gateways := []*testGateway{startGateway(t, true, config), startGateway(t, true, config)}

	for _, g := range gateways {
		// An instance of the configuration, and the end of the second in which the server was started.
		eventually(t, "a request passes", func() bool {
			return g.send(t, testPeer, "GET", signed(t, message(), e.key, time.Now()).bytes()).Proxied
		})
	}
	p.commands()
	const requests = 20
	trips := 0
	for range requests {
		a := gateways[0].send(t, testPeer, "GET", signed(t, message(), e.key, time.Now()).bytes())
		if !a.Proxied {
			t.Fatalf("refused: %v %v", a.Serialized, a.Logs)
		}
		trips += a.RoundTrips
	}
	if commands := p.commands(); trips != requests || len(commands) != requests {
		t.Errorf("%d requests: %d PDK calls, commands %q", requests, trips, commands)
	}

	for range 50 {
		wire := signed(t, message(), e.key, time.Now()).bytes()
		var answers [2]answer
		var done sync.WaitGroup
		for i, g := range gateways {
			done.Go(func() { answers[i] = g.send(t, testPeer, "GET", wire) })
		}
		done.Wait()
		if answers[0].Proxied == answers[1].Proxied {
			t.Fatalf("accepted %v and %v", answers[0].Proxied, answers[1].Proxied)
		}
		for _, a := range answers {
			value, _ := a.Serialized["wallarm_gate"].(map[string]any)
			if !a.Proxied && value["reason"] != string(evidence.ReasonReplayed) {
				t.Fatalf("%v", value)
			}
		}
	}
	for _, g := range gateways {
		g.mu.Lock()
		if text := strings.Join(g.logs, "\n"); strings.Contains(text, redisPassword) {
			t.Errorf("the password is in %s", text)
		}
		g.mu.Unlock()
	}
}

func TestRedisKilled(t *testing.T) {
	t.Parallel()
	for _, onError := range []string{onErrorDeny, onErrorLocal} {
		t.Run(onError, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			e := newEdge(t)
			n := newNode(t, e, s.record(map[string]any{"on_error": onError}))
			before, id := n.fresh()
			n.want("before", before, id, "")
			s.kill()

			n.want("replayed without the server", before, requestB, evidence.ReasonReplayed)
			n.want("run again without the server", before, id, "")
			during, duringID := n.fresh()
			if onError == onErrorDeny {
				o := n.want("down", during, duringID, evidence.ReasonReplayStoreError)
				if len(o.lines) == 0 || !strings.HasPrefix(o.lines[len(o.lines)-1], "err: decision=deny reason=replay_store_error detail=") {
					t.Errorf("lines %q", o.lines)
				}
			} else {
				n.want("down", during, duringID, "")
				n.want("replayed while down", during, requestB, evidence.ReasonReplayed)
				if n.fallbacks() != 1 {
					t.Errorf("%v fallbacks", n.fallbacks())
				}
			}
			eventually(t, "the breaker opens", func() bool { n.passes(); return n.open() == 1 })
			s.start(t)
			if onError == onErrorDeny {
				n.eventuallyPasses("the server is back")
				n.want("from before the start of the new server", during, duringID, evidence.ReasonStaleEvidence)
				n.want("replayed after that", during, requestC, evidence.ReasonReplayed)
			} else {
				eventually(t, "the server decides again", func() bool {
					was := n.results()[redisStored]
					n.passes()
					return n.results()[redisStored] > was
				})
			}
			eventually(t, "the breaker closes", func() bool { return n.open() == 0 })
		})
	}
}

// A server that hangs costs as many requests their time as open the breaker.
func TestRedisHangs(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	n := newNode(t, newEdge(t), s.record(map[string]any{"timeout": 50}))
	n.eventuallyPasses("the server answers in time")
	s.signal(syscall.SIGSTOP)
	hung, id := n.fresh()
	n.want("hangs", hung, id, evidence.ReasonReplayStoreError)
	eventually(t, "the breaker opens", func() bool { n.passes(); return n.open() == 1 })
	was := n.results()[redisTimeout]
	if was > redisMaxFailures {
		t.Errorf("%v requests waited", was)
	}
	for range 100 {
		if ok, o := n.passes(); ok || o.value["reason"] != string(evidence.ReasonReplayStoreError) {
			t.Fatalf("%+v", o)
		}
	}
	if got := n.results(); got[redisTimeout] != was || got[redisBreakerOpen] < 100 {
		t.Errorf("results %v, %v timeouts before", got, was)
	}
	s.signal(syscall.SIGCONT)
	n.eventuallyPasses("the server goes on")
	// The server had the question, and may have taken it.
	n.want("run again", hung, id, "")
	n.want("replayed", hung, requestB, evidence.ReasonReplayed)
}

func TestRedisSlow(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	p := startProxy(t, s.addr)
	n := newNode(t, newEdge(t), redisRecord(p.addr, map[string]any{"timeout": 200}))
	p.delay.Store(int64(20 * time.Millisecond))
	n.eventuallyPasses("slow, but in time")
	p.delay.Store(int64(400 * time.Millisecond))
	if ok, o := n.passes(); ok || !strings.Contains(strings.Join(o.lines, " "), "no answer within 200ms") {
		t.Errorf("too slow: %+v", o)
	}
	eventually(t, "the breaker opens", func() bool { n.passes(); return n.open() == 1 })
	p.delay.Store(0)
	n.eventuallyPasses("fast again")
}

// The server takes the nonce, and the answer is lost.
func TestRedisLostAnswer(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	p := startProxy(t, s.addr)
	n := newNode(t, newEdge(t), redisRecord(p.addr, map[string]any{"timeout": 300}))
	n.eventuallyPasses("before")
	for _, rerunFirst := range []bool{true, false} {
		captured, id := n.fresh()
		p.lost.Store(true)
		n.want("lost", captured, id, evidence.ReasonReplayStoreError)
		p.lost.Store(false)
		n.eventuallyPasses("afterwards")
		if rerunFirst {
			n.want("run again", captured, id, "")
		}
		n.want("replayed", captured, requestB, evidence.ReasonReplayed)
		n.want("run again in the end", captured, id, "")
	}
}

// A connection breaks under a request: it is asked once more, on another one.
func TestRedisBreaksOnce(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	p := startProxy(t, s.addr)
	n := newNode(t, newEdge(t), redisRecord(p.addr, nil))
	for _, c := range []struct {
		what     string
		breaks   int32
		commands []string
		result   string
	}{
		{"before the server has it", breaksBefore, []string{"set", "set"}, redisStored},
		{"before it answers", breaksAfter, []string{"set", "set", "get"}, redisRerun},
	} {
		captured, id := n.fresh()
		was := n.results()[c.result]
		p.commands()
		p.breaks.Store(c.breaks)
		n.want(c.what, captured, id, "")
		if got := p.commands(); !slices.Equal(got, c.commands) {
			t.Errorf("%s: commands %q, want %q", c.what, got, c.commands)
		}
		if n.results()[c.result] != was+1 {
			t.Errorf("%s: results %v", c.what, n.results())
		}
		n.want(c.what+", replayed", captured, requestB, evidence.ReasonReplayed)
	}
}

// brokenConn is a connection that breaks when it is made, or at the first read or write.
type brokenConn struct {
	net.Conn
	dial, read, write error
}

func (c brokenConn) Read([]byte) (int, error)    { return 0, c.read }
func (c brokenConn) Write(b []byte) (int, error) { return len(b), c.write }

// A connection that breaks while the library makes it ready is one that was
// closed: another one is tried.
func TestRedisBreaksAtItsStart(t *testing.T) {
	t.Parallel()
	broken := func(call string, err error) error {
		return &net.OpError{Op: call, Net: "tcp", Err: os.NewSyscallError(call, err)}
	}
	for name, c := range map[string]struct {
		conn brokenConn
		want int
	}{
		"reset at once":      {brokenConn{dial: broken("connect", syscall.ECONNRESET)}, 1 + redisMaxRetries},
		"nobody listens":     {brokenConn{dial: broken("connect", syscall.ECONNREFUSED)}, 1},
		"a read is reset":    {brokenConn{read: broken("read", syscall.ECONNRESET)}, 1 + redisMaxRetries},
		"a write is reset":   {brokenConn{write: broken("write", syscall.ECONNRESET)}, 1 + redisMaxRetries},
		"a broken pipe":      {brokenConn{write: broken("write", syscall.EPIPE)}, 1 + redisMaxRetries},
		"closed by the peer": {brokenConn{read: io.EOF}, 1 + redisMaxRetries},
		"closed here":        {brokenConn{read: &net.OpError{Op: "read", Net: "tcp", Err: net.ErrClosed}}, 1 + redisMaxRetries},
		"gone":               {brokenConn{read: broken("read", syscall.ETIMEDOUT)}, 1},
		"no Redis":           {brokenConn{read: errNoRedis}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &redisClient{settings: redisSettings{address: "redis.internal:6379", username: "gate", password: redisPassword}}
			r.dialer = &redisDialer{settings: &r.settings, dial: func(context.Context, string, string) (net.Conn, error) {
				conn := c.conn
				if conn.dial != nil {
					return nil, conn.dial
				}
				conn.Conn, _ = net.Pipe()
				return conn, nil
			}}
			client := redis.NewClient(r.options(1))
			t.Cleanup(func() { client.Close() })
			got := 0
			err := again(context.Background(), func() error {
				got++
				return client.Ping(context.Background()).Err()
			})
			if err == nil || got != c.want {
				t.Errorf("%d times (%v), want %d", got, err, c.want)
			}
		})
	}
}

func TestRedisResets(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	p := startProxy(t, s.addr)
	n := newNode(t, newEdge(t), redisRecord(p.addr, nil))
	for i := range 30 {
		captured, id := n.fresh()
		p.reset()
		n.want(fmt.Sprintf("request %d", i), captured, id, "")
		n.want(fmt.Sprintf("replay %d", i), captured, requestB, evidence.ReasonReplayed)
	}

	// Connections break all the time: some requests are refused, none is accepted twice.
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				p.reset()
				pause()
			}
		}
	})
	for range 100 {
		captured, id := n.fresh()
		n.send(captured, id)
		// The node's own memory must not be what refuses.
		n.config.verifier.Replay.(*sharedStore).local = emptyMemory()
		if o := n.send(captured, requestB); !o.exited {
			if o := n.send(captured, id); !o.exited {
				t.Fatal("accepted twice")
			}
		}
	}
	close(stop)
	done.Wait()
	n.eventuallyPasses("the connections are whole")
}

func emptyMemory() *replayMemory {
	m := &replayMemory{now: time.Now}
	m.reserve(1000)
	return m
}

func TestRedisEvicts(t *testing.T) {
	t.Parallel()
	s := startRedis(t, "--maxmemory-policy", "allkeys-lru")
	n := newNode(t, newEdge(t), s.record(nil))
	ok, o := n.passes()
	if ok || len(o.lines) != 2 || !strings.HasPrefix(o.lines[0], "crit: replay store redis ") ||
		!strings.Contains(o.lines[0], `the server's maxmemory-policy is "allkeys-lru"`) {
		t.Errorf("evicting: %+v", o)
	}
	s.do(t, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	n.eventuallyPasses("no longer evicting")

	s.do(t, "CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
	n.client().recheck() // what the clock does every half minute
	eventually(t, "evicting again", func() bool { ok, _ := n.passes(); return !ok })
	if n.open() != 1 {
		t.Error("the breaker is closed")
	}
}

func TestCheckEviction(t *testing.T) {
	t.Parallel()
	denied := redis.NewStringResult("", respError("NOPERM this user has no permissions"))
	for name, c := range map[string]struct {
		info   *redis.StringCmd
		config map[string]string
		want   string
	}{
		"INFO says it":             {redis.NewStringResult("# Memory\r\nmaxmemory_policy:noeviction\r\n", nil), nil, ""},
		"INFO says otherwise":      {redis.NewStringResult("maxmemory_policy:volatile-lru\r\n", nil), map[string]string{"maxmemory-policy": noEviction}, `"volatile-lru"`},
		"INFO does not say it":     {redis.NewStringResult("used_memory:1\r\n", nil), map[string]string{"maxmemory-policy": noEviction}, ""},
		"INFO is not allowed":      {denied, map[string]string{"maxmemory-policy": noEviction}, ""},
		"CONFIG says otherwise":    {denied, map[string]string{"maxmemory-policy": "allkeys-lfu"}, `"allkeys-lfu"`},
		"neither":                  {denied, nil, "does not tell its maxmemory-policy"},
		"a policy with line feeds": {redis.NewStringResult("maxmemory_policy:noeviction \x00\n", nil), nil, "noeviction \\x00"},
		"broken":                   {redis.NewStringResult("", net.ErrClosed), nil, "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := checkEviction(context.Background(), c.info, fakeAsker{c.config})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v", err)
			}
		})
	}
}

type respError string

func (e respError) Error() string { return string(e) }
func (respError) RedisError()     {}

type fakeAsker struct{ config map[string]string }

func (f fakeAsker) Pipelined(context.Context, func(redis.Pipeliner) error) ([]redis.Cmder, error) {
	panic("not asked")
}

func (f fakeAsker) ConfigGet(context.Context, string) *redis.MapStringStringCmd {
	if f.config == nil {
		return redis.NewMapStringStringResult(nil, respError("NOPERM this user has no permissions"))
	}
	return redis.NewMapStringStringResult(f.config, nil)
}

// Memory is used up: a nonce that cannot be kept is not accepted.
func TestRedisOutOfMemory(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	n := newNode(t, newEdge(t), s.record(nil))
	n.eventuallyPasses("with memory")
	s.do(t, "CONFIG", "SET", "maxmemory", "1")
	captured, id := n.fresh()
	o := n.want("without memory", captured, id, evidence.ReasonReplayStoreError)
	if !strings.Contains(strings.Join(o.lines, " "), "the server is out of memory (OOM)") {
		t.Errorf("lines %q", o.lines)
	}
	s.do(t, "CONFIG", "SET", "maxmemory", "0")
	n.eventuallyPasses("with memory again")
	n.want("run again", captured, id, "")
}

// What the gate needs of the server, and what it says if it does not get it.
func TestRedisRights(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	e := newEdge(t)
	for name, c := range map[string]struct {
		change []any // ACL of the user u-NAME, after the documented one
		record map[string]any
		want   string // in the log; empty: passes
	}{
		"documented":      {nil, nil, ""},
		"without SET":     {[]any{"-set"}, nil, "may not do what the gate needs (NOPERM)"},
		"without INFO":    {[]any{"-info"}, nil, "allow the user INFO"},
		"CONFIG for INFO": {[]any{"-info", "+config|get"}, nil, ""},
		"another prefix":  {nil, map[string]any{"prefix": "other:"}, "may not do what the gate needs (NOPERM)"},
		"a database":      {[]any{"+select"}, map[string]any{"database": 3}, ""},
		"wrong password":  {nil, map[string]any{"password": "s3cret-of-nobody"}, "refuses the username or the password (WRONGPASS)"},
		"no password":     {nil, map[string]any{"password": nil, "username": nil}, "the server wants a password (NOAUTH)"},
		"unknown user":    {nil, map[string]any{"username": "nobody"}, "refuses the username or the password (WRONGPASS)"},
		"user is off":     {[]any{"off"}, nil, "refuses the username or the password (WRONGPASS)"},
	} {
		t.Run(name, func(t *testing.T) {
			user := "u-" + strings.ReplaceAll(name, " ", "-")
			acl := strings.Fields(strings.TrimPrefix(redisACL, "user gate "))
			args := []any{"ACL", "SETUSER", user}
			for _, rule := range acl {
				args = append(args, rule)
			}
			s.do(t, append(args, c.change...)...)
			record := map[string]any{"username": user}
			maps.Copy(record, c.record)
			n := newNode(t, e, s.record(record))
			ok, o := n.passes()
			lines := strings.Join(o.lines, "\n")
			if ok != (c.want == "") || !strings.Contains(lines, c.want) {
				t.Errorf("passes %v: %s", ok, lines)
			}
			if strings.Contains(lines, "s3cret") {
				t.Errorf("a secret is in %s", lines)
			}
			if !ok && (!strings.HasPrefix(lines, "crit: ") || o.value["reason"] != string(evidence.ReasonReplayStoreError)) {
				t.Errorf("%v: %s", o.value, lines)
			}
		})
	}

	// A right that is missing where the first check does not look.
	s.do(t, "ACL", "SETUSER", "gate", "-get")
	a, b := newNode(t, e, s.record(nil)), newNode(t, e, s.record(map[string]any{"on_error": "local"}))
	captured, id := a.fresh()
	a.want("new", captured, id, "")
	b.want("replayed, but nobody knows", captured, requestB, evidence.ReasonReplayStoreError)
	if b.fallbacks() != 0 {
		t.Error("a nonce that is held was decided here")
	}
}

func TestRedisTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, cert, key := certificates(t, dir)
	otherCA, _, _ := certificates(t, t.TempDir())
	late := filepath.Join(dir, "late.pem")
	s := startRedis(t, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca)
	plain := startRedis(t)
	e := newEdge(t)
	for name, c := range map[string]struct {
		addr string
		tls  map[string]any
		want string
	}{
		"right CA":             {s.addr, map[string]any{"ca_file": ca}, ""},
		"by another name":      {s.addr, map[string]any{"ca_file": ca, "server_name": "redis.internal"}, ""},
		"wrong CA":             {s.addr, map[string]any{"ca_file": otherCA}, "unknown authority"},
		"no CA":                {s.addr, nil, "unknown authority"},
		"wrong name":           {s.addr, map[string]any{"ca_file": ca, "server_name": "other.internal"}, "other.internal"},
		"no file":              {s.addr, map[string]any{"ca_file": filepath.Join(dir, "none.pem")}, "no such file or directory"},
		"no certificate in it": {s.addr, map[string]any{"ca_file": key}, "no certificate in PEM form"},
		"server without TLS":   {plain.addr, map[string]any{"ca_file": ca}, ""},
		"client without TLS":   {s.addr, map[string]any{"enabled": false}, "does the server want TLS?"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, e, redisRecord(c.addr, map[string]any{"tls": c.tls}))
			ok, o := n.passes()
			lines := strings.Join(o.lines, "\n")
			if name == "server without TLS" {
				// Redis waits for the end of what it takes for a command.
				if ok || !strings.Contains(lines, "does the server speak TLS?") {
					t.Errorf("passes %v: %s", ok, lines)
				}
				return
			}
			if ok != (c.want == "") || !strings.Contains(lines, c.want) {
				t.Errorf("passes %v: %s", ok, lines)
			}
		})
	}
	t.Run("the CA comes later", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, e, redisRecord(s.addr, map[string]any{"tls": map[string]any{"ca_file": late}}))
		if ok, _ := n.passes(); ok {
			t.Error("accepted without a CA")
		}
		content, err := os.ReadFile(ca)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(late, content, 0o600); err != nil {
			t.Fatal(err)
		}
		n.eventuallyPasses("with the CA")
		// The server closes what is idle: the next request does not pay for it.
		s.do(t, "CLIENT", "KILL", "USER", "gate")
		n.eventuallyPasses("on a new connection")
		if got := n.results()[redisUnreachable]; got != 0 {
			t.Errorf("%v requests met a closed connection", got)
		}
	})
}

// What is no Redis server is found out, and costs neither memory nor time.
func TestRedisStrangers(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	for name, text := range strangeReplies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, e, redisRecord(answering(t, text), nil))
			ok, o := n.passes()
			if lines := strings.Join(o.lines, "\n"); ok || o.value["reason"] != string(evidence.ReasonReplayStoreError) ||
				!strings.Contains(lines, errNoRedis.Error()) {
				t.Errorf("passes %v, %v: %s", ok, o.value, lines)
			}
		})
	}
	t.Run("repeats what it was sent", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, e, redisRecord(answering(t, "-ERR unknown command, with args beginning with: `"+redisPassword+"`\r\n"), nil))
		if ok, o := n.passes(); ok || !strings.Contains(strings.Join(o.lines, "\n"), "answers with an error (ERR)") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("a code that is none", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, e, redisRecord(answering(t, "-"+redisPassword+"\r\n"), nil))
		if ok, o := n.passes(); ok || !strings.Contains(strings.Join(o.lines, "\n"), "answers with an error") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("nothing there", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		n := newNode(t, e, redisRecord(l.Addr().String(), nil))
		if ok, o := n.passes(); ok || !strings.Contains(strings.Join(o.lines, "\n"), "connection refused") {
			t.Errorf("%+v", o)
		}
	})
}

func TestRedisReplica(t *testing.T) {
	t.Parallel()
	primary := startRedis(t)
	_, port, _ := net.SplitHostPort(primary.addr)
	replica := startRedis(t, "--replicaof", "127.0.0.1 "+port, "--masteruser", "admin", "--masterauth", redisAdmin)
	n := newNode(t, newEdge(t), replica.record(nil))
	ok, o := n.passes()
	if ok || !strings.Contains(strings.Join(o.lines, "\n"), "want the address of the primary (READONLY)") {
		t.Errorf("%+v", o)
	}
	// One that takes writes loses them as soon as it follows its primary again.
	replica.do(t, "CONFIG", "SET", "replica-read-only", "no")
	if ok, o := newNode(t, newEdge(t), replica.record(nil)).passes(); ok || !strings.Contains(strings.Join(o.lines, "\n"), "(READONLY)") {
		t.Errorf("a replica that takes writes: %+v", o)
	}
	replica.do(t, "REPLICAOF", "NO", "ONE")
	n.eventuallyPasses("promoted")
}

// A failover to a server without the last writes: nothing that was used before is
// accepted again, at whatever node. To one that evicts: nothing passes.
func TestRedisFailover(t *testing.T) {
	t.Parallel()
	first, second, evicting := startRedis(t), startRedis(t), startRedis(t, "--maxmemory-policy", "allkeys-random")
	p := startProxy(t, first.addr)
	e := newEdge(t)
	a, b := newNode(t, e, redisRecord(p.addr, nil)), newNode(t, e, redisRecord(p.addr, map[string]any{"pool_size": 3}))
	captured, id := a.fresh()
	a.want("new", captured, id, "")
	b.eventuallyPasses("b is connected")

	p.turn(second.addr)
	a.want("replayed at its node", captured, requestB, evidence.ReasonReplayed)
	a.eventuallyPasses("a is connected again")
	b.want("replayed at another node", captured, requestB, evidence.ReasonStaleEvidence)
	b.want("run again there", captured, requestB, evidence.ReasonStaleEvidence)
	b.want("replayed there", captured, requestC, evidence.ReasonReplayed)
	b.eventuallyPasses("b is connected again")
	for _, n := range []*kongNode{a, b} {
		if changes := counters(t, n.gate, "wallarm_gate_redis_server_changes_total")[""]; changes != 1 {
			t.Errorf("%v changes of the server are counted, want 1", changes)
		}
	}

	p.turn(evicting.addr)
	for range 10 {
		if ok, o := a.passes(); ok || o.value["reason"] != string(evidence.ReasonReplayStoreError) {
			t.Fatalf("accepted by a server that evicts: %+v", o)
		}
	}
}

// A server forgets a nonce between the two commands: refused, whatever on_error is.
func TestRedisForgets(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	p := startProxy(t, s.addr)
	e := newEdge(t)
	n := newNode(t, e, redisRecord(p.addr, map[string]any{"on_error": "local"}))
	captured, id := n.fresh()
	n.want("new", captured, id, "")
	// SET finds it, GET does not: the command is renamed on the way.
	n.config.verifier.Replay.(*sharedStore).local = emptyMemory()
	s.do(t, "ACL", "SETUSER", "gate", "resetkeys", "%W~wallarm-gate:*")
	n.want("unreadable", captured, requestB, evidence.ReasonReplayStoreError)
	if n.fallbacks() != 0 {
		t.Error("decided here")
	}
}

// Configurations with the same settings share a client, and the last one that
// goes takes it along.
func TestRedisClientsAreShared(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	e := newEdge(t)
	g := testGate()
	connections := func() int {
		list, err := s.admin.ClientList(context.Background()).Result()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(list, "user=gate ")
	}
	func() {
		config := func(changes map[string]any) *Config {
			c := configure(t, g, map[string]any{"jwks": e.inline, "replay": s.record(changes)})
			if c.problem != "" {
				t.Fatal(c.problem)
			}
			return c
		}
		client := func(c *Config) *redisClient { return c.verifier.Replay.(*sharedStore).keepAlive.client }
		one, two := config(nil), config(nil)
		local, prefix := config(map[string]any{"on_error": "local"}), config(map[string]any{"prefix": "wallarm-gate:b:"})
		if client(one) != client(two) || client(one) != client(local) {
			t.Error("equal settings have two clients")
		}
		if client(one) == client(prefix) {
			t.Error("two prefixes share a client")
		}
		// Those of the checks end.
		eventually(t, "two connections", func() bool { return connections() == 2 })
		for _, c := range []*Config{one, two, local, prefix} {
			runtime.KeepAlive(c)
		}
	}()
	eventually(t, "the clients are closed", func() bool { runtime.GC(); return connections() == 0 })
}

func TestRedisOverload(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	n := newNode(t, newEdge(t), s.record(map[string]any{"pool_size": 1}))
	c := n.client()
	if cap(c.slots) != 1+redisWaiters {
		t.Errorf("%d slots", cap(c.slots))
	}
	for range cap(c.slots) {
		c.slots <- struct{}{}
	}
	if ok, o := n.passes(); ok || !strings.Contains(strings.Join(o.lines, "\n"), "65 requests wait for Redis already") {
		t.Errorf("%+v", o)
	}
	<-c.slots
	if ok, o := n.passes(); !ok {
		t.Errorf("%+v", o)
	}
	if got := n.results(); got[redisOverload] != 1 || n.open() != 0 {
		t.Errorf("results %v", got)
	}
}

// All requests at once, over few connections.
func TestRedisConcurrent(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	e := newEdge(t)
	nodes := []*kongNode{newNode(t, e, s.record(map[string]any{"pool_size": 2})), newNode(t, e, s.record(map[string]any{"pool_size": 3}))}
	now := time.Now()
	const nonces, each = 40, 4
	var mu sync.Mutex
	accepted := map[int]int{}
	var done sync.WaitGroup
	for i := range nonces {
		captured := evidence.NonceOf("k", strconv.Itoa(i))
		for j := range each {
			done.Go(func() {
				store := nodes[j%2].config.verifier.Replay
				switch err := store.Remember(captured, fmt.Sprintf("%032x", j), now, now.Add(time.Minute)); {
				case err == nil:
					mu.Lock()
					accepted[i]++
					mu.Unlock()
				case !errors.Is(err, evidence.ErrReplayed):
					t.Error(err)
				}
			})
		}
	}
	done.Wait()
	for i := range nonces {
		if accepted[i] != 1 {
			t.Errorf("nonce %d was accepted %d times", i, accepted[i])
		}
	}
}

// The library's own lines keep what a server said to themselves.
func TestRedisLogHidesValues(t *testing.T) {
	t.Parallel()
	var said []string
	l := &redisLog{print: func(format string, values ...any) { said = append(said, fmt.Sprintf(format, values...)) }}
	for range 3 {
		l.Printf(context.Background(), "failed to dial after %d attempts: %v", 1, redisPassword)
	}
	if len(said) != 1 || said[0] != `redis client: "failed to dial after %d attempts: %v" (0 lines suppressed)` {
		t.Errorf("%q", said)
	}
}

func TestRedisSettings(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	redisWith := func(changes map[string]any) map[string]any { return redisRecord("redis.internal:6379", changes) }
	long := strings.Repeat("s3cret", 100)
	for _, c := range []struct {
		name   string
		replay map[string]any
		want   string
	}{
		{"no record", map[string]any{"store": "redis"}, "config.replay.redis is not set, but config.replay.store is redis"},
		{"no object", map[string]any{"store": "redis", "redis": "redis://s3cret@x"}, "config.replay.redis is not an object"},
		{"record for memory", map[string]any{"redis": map[string]any{"address": "a:1"}}, "config.replay.redis is set, but config.replay.store is memory"},
		{"no address", redisWith(map[string]any{"address": nil}), "config.replay.redis.address is no host:port"},
		{"address without port", redisWith(map[string]any{"address": "redis.internal"}), "config.replay.redis.address is no host:port"},
		{"address is a URL", redisWith(map[string]any{"address": "rediss://gate:s3cret@redis.internal:6379"}), "config.replay.redis.address is no host:port"},
		{"address with a user", redisWith(map[string]any{"address": "s3cret@redis.internal:6379"}), "config.replay.redis.address is no host:port"},
		{"port 0", redisWith(map[string]any{"address": "redis.internal:0"}), "config.replay.redis.address is no host:port"},
		{"port too large", redisWith(map[string]any{"address": "redis.internal:65536"}), "config.replay.redis.address is no host:port"},
		{"no host", redisWith(map[string]any{"address": ":6379"}), "config.replay.redis.address is no host:port"},
		{"empty vault reference", redisWith(map[string]any{"password": ""}), "config.replay.redis.password is empty (does the vault reference exist?)"},
		{"password is a number", redisWith(map[string]any{"password": 7}), "config.replay.redis.password is not a string"},
		{"long password", redisWith(map[string]any{"password": long}), "config.replay.redis.password has 600 bytes: want at most 512"},
		{"user without password", redisWith(map[string]any{"password": nil}), "config.replay.redis.username is set without a password"},
		{"database", redisWith(map[string]any{"database": -1}), "config.replay.redis.database is"},
		{"timeout 0", redisWith(map[string]any{"timeout": 0}), `config.replay.redis.timeout is "0": want an integer from 1 to 1000`},
		{"timeout", redisWith(map[string]any{"timeout": 1001}), "config.replay.redis.timeout is"},
		{"pool_size", redisWith(map[string]any{"pool_size": 257}), "config.replay.redis.pool_size is"},
		{"empty prefix", redisWith(map[string]any{"prefix": ""}), `config.replay.redis.prefix is ""`},
		{"prefix with a pattern", redisWith(map[string]any{"prefix": "a*"}), `config.replay.redis.prefix is "a*": want 1 to 64 of`},
		{"on_error", redisWith(map[string]any{"on_error": "allow"}), `config.replay.redis.on_error is "allow": want one of deny, local`},
		{"tls", redisWith(map[string]any{"tls": true}), "config.replay.redis.tls is not an object"},
		{"tls.enabled", redisWith(map[string]any{"tls": map[string]any{"enabled": "no"}}), "config.replay.redis.tls.enabled is"},
		{"relative CA", redisWith(map[string]any{"tls": map[string]any{"ca_file": "ca.pem"}}), `config.replay.redis.tls.ca_file is "ca.pem": want an absolute path`},
		{"server name", redisWith(map[string]any{"tls": map[string]any{"server_name": "a b"}}), `config.replay.redis.tls.server_name is "a b"`},
		{"CA without TLS", redisWith(map[string]any{"tls": map[string]any{"enabled": false, "ca_file": "/ca.pem"}}), "config.replay.redis.tls.enabled is false, but ca_file or server_name is set"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := testGate()
			g.redis.dial = func(context.Context, string, string) (net.Conn, error) {
				t.Error("connects with a configuration that cannot be used")
				return nil, net.ErrClosed
			}
			config := configure(t, g, map[string]any{"jwks": e.inline, "replay": c.replay})
			if config.verifier != nil || !strings.Contains(config.problem, c.want) {
				t.Errorf("problem is %q, want %q", config.problem, c.want)
			}
			if strings.Contains(config.problem, "s3cret") {
				t.Errorf("a secret is in %q", config.problem)
			}
		})
	}
}

// The defaults, and what Kong sends for a record: null for what is not set.
func TestRedisSettingsDefaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		record string
		want   redisSettings
		local  bool
	}{
		"least": {`{"address":"redis.internal:6379"}`, redisSettings{
			address: "redis.internal:6379", tls: true, serverName: "redis.internal", timeout: 20 * time.Millisecond, poolSize: 16, prefix: "wallarm-gate:"}, false},
		"as Kong sends it": {`{"address":"[fd00::1]:6379","username":null,"password":null,"database":0,
			"tls":{"enabled":true,"ca_file":null,"server_name":null},"timeout":20,"pool_size":16,"prefix":"wallarm-gate:","on_error":"deny"}`, redisSettings{
			address: "[fd00::1]:6379", tls: true, serverName: "fd00::1", timeout: 20 * time.Millisecond, poolSize: 16, prefix: "wallarm-gate:"}, false},
		"all": {`{"address":"10.0.0.7:6380","username":"u","password":"p","database":2,
			"tls":{"enabled":true,"ca_file":"/ca.pem","server_name":"redis"},"timeout":1000.0,"pool_size":256,"prefix":"p:","on_error":"local"}`, redisSettings{
			address: "10.0.0.7:6380", username: "u", password: "p", database: 2, tls: true, caFile: "/ca.pem", serverName: "redis",
			timeout: time.Second, poolSize: 256, prefix: "p:"}, true},
		"without TLS": {`{"address":"a:1","tls":{"enabled":false}}`, redisSettings{
			address: "a:1", timeout: 20 * time.Millisecond, poolSize: 16, prefix: "wallarm-gate:"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := decoder{name: "config.replay", fields: map[string]json.RawMessage{"redis": json.RawMessage(c.record)}}
			got, local := d.redis()
			if got != c.want || local != c.local || len(d.problems) > 0 {
				t.Errorf("%+v, %v, %q", got, local, d.problems)
			}
		})
	}
}
