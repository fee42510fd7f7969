package e2e

// The faults of a replay store that several Kong nodes share.

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// redisServer is a real one, without persistence, behind a relay that can be slow.
type redisServer struct {
	*process
	relay *slowRelay
}

func startRedis(x *trial) *redisServer {
	x.t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		leaveOut(x.t, "REDIS_REQUIRED", "redis-server is not installed: apt-get install redis-server")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	x.must(err)
	addr := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	r := &redisServer{relay: newSlowRelay(x.t, addr), process: &process{
		name: "redis", grace: patience,
		command: func() *exec.Cmd {
			return exec.Command(path, "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", x.dir)
		},
	}}
	x.must(r.run())
	x.t.Cleanup(func() { r.end(x.t) })
	// To a gateway that meets a server younger than two seconds, the evidence of
	// this second may be from before its start, and is stale.
	old := time.After(2100 * time.Millisecond)
	r.wait(x)
	<-old
	return r
}

func (r *redisServer) wait(x *trial) {
	x.t.Helper()
	eventually(x.t, "redis-server answers", func() bool {
		c, err := net.Dial("tcp", r.relay.to)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second))
		io.WriteString(c, "PING\r\n")
		answer := make([]byte, len("+PONG\r\n"))
		_, err = io.ReadFull(c, answer)
		return err == nil && string(answer) == "+PONG\r\n"
	})
}

// slowRelay passes connections on, and each answer later by a delay.
type slowRelay struct {
	net.Listener
	to    string
	delay atomic.Int64 // time.Duration
}

func newSlowRelay(t testing.TB, to string) *slowRelay {
	t.Helper()
	// 127.0.0.1 is the pod itself in what the chart renders.
	l, err := net.Listen("tcp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &slowRelay{Listener: l, to: to}
	var conns sync.WaitGroup
	var open sync.Map
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Store(c, nil)
			conns.Go(func() {
				r.pass(c)
				open.Delete(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		conns.Wait()
	})
	return r
}

func (r *slowRelay) pass(c net.Conn) {
	defer c.Close()
	server, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	var done sync.WaitGroup
	done.Go(func() {
		io.Copy(server, c)
		server.Close()
	})
	done.Go(func() {
		defer c.Close()
		buf := make([]byte, 4096)
		for {
			n, err := server.Read(buf)
			if n > 0 {
				<-time.After(time.Duration(r.delay.Load()))
				if _, err := c.Write(buf[:n]); err != nil {
					break
				}
			}
			if err != nil {
				break
			}
		}
		server.Close()
	})
	done.Wait()
}

func redisFaults() []fault {
	const (
		open      = "wallarm_gate_redis_breaker_open"
		fallbacks = "wallarm_gate_redis_local_fallbacks_total"
	)
	operations := func(result string) sign {
		return sign{metric: fmt.Sprintf("wallarm_gate_redis_operations_total{result=%q}", result)}
	}
	// The server is there before the system, and the run gets at it.
	shared := func(onError string, timeout int, run func(x *trial, r *redisServer)) (func(x *trial) options, func(x *trial)) {
		servers := map[*trial]*redisServer{}
		return func(x *trial) options {
				servers[x] = startRedis(x)
				return options{values: fmt.Sprintf(`
gate:
  config: {replay: {store: redis}}
  redis: {address: %q, tls: {enabled: false}, timeout: %d, onError: %s}
networkPolicy: {redis: [{cidr: 127.0.0.9/32, ports: [%d]}]}
`, servers[x].relay.Addr(), timeout, onError, servers[x].relay.Addr().(*net.TCPAddr).Port)}
			}, func(x *trial) {
				x.wait("the server is in use", func() bool {
					now := x.samples()
					return now[operations("stored").metric] > 0 && now[open] == 0
				})
				run(x, servers[x])
			}
	}
	// Timeouts in milliseconds, above the default of 20: a busy machine is no slow server.
	const patient, strict = 1000, 200

	killed := func(x *trial, r *redisServer) {
		x.begin(func() { x.must(r.kill()) })
		x.saw("redis-server is gone", func() bool { return r.pid() == 0 })
		x.during()
		x.end(func() {
			x.must(r.run())
			r.wait(x)
		})
	}
	hung := func(x *trial, r *redisServer) {
		x.begin(func() { x.must(r.signal(syscall.SIGSTOP)) })
		x.during()
		x.end(func() { x.must(r.signal(syscall.SIGCONT)) })
	}
	slow := func(x *trial, r *redisServer) {
		x.begin(func() { r.relay.delay.Store(int64(time.Duration(2*strict) * time.Millisecond)) })
		x.during()
		x.end(func() { r.relay.delay.Store(0) })
	}
	restarted := func(x *trial, _ *redisServer) {
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
	}
	reloaded := func(x *trial, _ *redisServer) {
		var used [][]byte
		x.begin(func() {
			used = x.l.takeUsed()
			x.s.reload(x.t, x.s.kongYML(x.t))
		})
		x.onePlugin()
		x.replayAll(used)
		x.during()
		x.end(nil)
		x.l.remember()
	}

	one := func(f fault, onError string, timeout int, run func(x *trial, r *redisServer)) fault {
		f.options, f.run = shared(onError, timeout, run)
		return f
	}
	storeError := []sign{denied(evidence.ReasonReplayStoreError), {metric: open}, {log: "gateway", line: "reason=replay_store_error"}}
	return []fault{
		one(fault{
			name:   "plugin killed, used evidence, redis",
			what:   "As \"plugin killed, used evidence\", with the replay store `redis`.",
			result: "The server knows what was used before: nothing is accepted again, and no honest request has to be refused for that.",
			signs:  []sign{{log: "gateway", line: terminated}, operations("replayed")},
		}, "deny", patient, restarted),
		one(fault{
			name:     "gateway reloaded, used evidence, redis",
			what:     "As \"gateway reloaded, used evidence\", with the replay store `redis`.",
			result:   "The server knows what was used before: nothing is accepted again.",
			signs:    []sign{operations("replayed")},
			only:     []string{"kong", "docker"},
			unharmed: true,
			reloads:  true,
		}, "deny", patient, reloaded),
		one(fault{
			name: "redis killed, on_error deny",
			what: "SIGKILL to the server of the replay store `redis`, which keeps nothing on disk, and a new one later.",
			result: "The gateway refuses with `replay_store_error`, after the fifth failure without asking. What was used before is known to each node for itself, " +
				"and not to the new server: a node that meets it refuses what was created in that second or earlier as `stale_evidence`.",
			signs: append([]sign{operations("unreachable")}, storeError...),
		}, "deny", patient, killed),
		one(fault{
			name:     "redis killed, on_error local",
			what:     "The same, with `on_error: local`.",
			result:   "Each node goes on for itself: evidence that was captured can be used once at each of them.",
			signs:    []sign{operations("unreachable"), {metric: open}, {metric: fallbacks}},
			unharmed: true,
		}, "local", patient, killed),
		one(fault{
			name:   "redis hung, on_error deny",
			what:   "SIGSTOP to the server, later SIGCONT.",
			result: "The first requests wait for `timeout` (here 200 ms), the others are refused with `replay_store_error` at once.",
			signs:  append([]sign{operations("timeout")}, storeError...),
		}, "deny", strict, hung),
		one(fault{
			name:     "redis hung, on_error local",
			what:     "The same, with `on_error: local`.",
			result:   "The first requests wait for `timeout`, then each node goes on for itself.",
			signs:    []sign{operations("timeout"), {metric: open}, {metric: fallbacks}},
			unharmed: true,
		}, "local", strict, hung),
		one(fault{
			name:   "redis slow, on_error deny",
			what:   "Each answer of the server comes after twice `timeout` (here 200 ms).",
			result: "As for a server that hangs.",
			signs:  append([]sign{operations("timeout")}, storeError...),
		}, "deny", strict, slow),
	}
}
