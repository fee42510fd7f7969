package main

// The client of one Redis server: bounded in time, connections and waiters, and
// behind a breaker, so that a server that hangs costs a few requests their time
// and the rest none.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/wallarm-gate/wallarm-gate/evidence"
)

const (
	redisDialTimeout  = time.Second      // TCP and TLS, beside the requests
	redisCheckTimeout = time.Second      // of one answer, while nobody waits for it
	redisCheckEvery   = 30 * time.Second // while all is well
	redisIdleTime     = 4 * time.Minute  // below the idle timeouts of load balancers
	redisReopenLeast  = 50 * time.Millisecond
	redisReopenMost   = time.Second
	redisMaxFailures  = 5  // in a row, then the breaker opens
	redisWaiters      = 64 // for each connection
	redisMaxRetries   = 3  // of a connection that the server closed while it was idle

	noEviction = "noeviction"
	readOnly   = "READONLY"
)

// The results of an operation, as the metric has them.
const (
	redisStored      = "stored"       // the nonce was new
	redisRerun       = "rerun"        // the same request holds it
	redisReplayed    = "replayed"     // another request holds it
	redisTimeout     = "timeout"      // no answer in time
	redisUnreachable = "unreachable"  // no connection, or it broke
	redisRefused     = "refused"      // the server answered with an error
	redisUnusable    = "unusable"     // it may evict, or is no Redis server
	redisOverload    = "overload"     // too many requests wait
	redisBreakerOpen = "breaker_open" // it was not asked
)

var redisResults = []string{redisStored, redisRerun, redisReplayed, redisTimeout, redisUnreachable,
	redisRefused, redisUnusable, redisOverload, redisBreakerOpen}

// redisError is why the server could not decide. It holds no text of the
// server's, which may repeat a password to whom it does not understand.
type redisError struct {
	result string
	why    string
	held   bool // the server has the nonce, for a request that could not be read
}

func (e *redisError) Error() string { return e.why }

// redisClient is the client of one server. Its methods are safe for concurrent use.
type redisClient struct {
	settings redisSettings
	dialer   *redisDialer
	client   *redis.Client
	metrics  *metrics
	notice   func(crit bool, line string)
	server   serverWatch

	lines    limiter
	slots    chan struct{}
	failures atomic.Int32
	down     atomic.Pointer[redisError] // not nil: the breaker is open
	wake     chan struct{}
	checked  chan struct{} // closed after the first check
	end      context.CancelFunc
}

func newRedisClient(settings redisSettings, now func() time.Time, dial func(context.Context, string, string) (net.Conn, error),
	m *metrics, notice func(crit bool, line string)) *redisClient {
	routeRedisLog()
	c := &redisClient{
		settings: settings, metrics: m, notice: notice,
		server:  serverWatch{now: now},
		slots:   make(chan struct{}, settings.poolSize*(1+redisWaiters)),
		wake:    make(chan struct{}, 1),
		checked: make(chan struct{}),
	}
	c.dialer = &redisDialer{settings: &c.settings, dial: dial}
	options := c.options(settings.poolSize)
	// No connection gets into the pool that leads to a server which may evict, or
	// to another one than was noticed.
	options.OnConnect = func(ctx context.Context, conn *redis.Conn) error { return c.look(ctx, conn) }
	c.client = redis.NewClient(options)
	ctx, end := context.WithCancel(context.Background())
	c.end = end
	go c.run(ctx)
	return c
}

func (c *redisClient) options(connections int) *redis.Options {
	settings := &c.settings
	return &redis.Options{
		Network: "tcp", Addr: settings.address, Dialer: c.dialer.connect,
		Username: settings.username, Password: settings.password, DB: settings.database,
		// What the library would send beside the commands needs rights, and
		// pushes of RESP3 have no use here.
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		// Deadlines are those of the context.
		ContextTimeoutEnabled: true, DialTimeout: redisDialTimeout,
		ReadTimeout: redisCheckTimeout, WriteTimeout: redisCheckTimeout, PoolTimeout: redisCheckTimeout,
		MaxRetries: -1, DialerRetries: 1,
		PoolSize: connections, PipelinePoolSize: -1,
		ReadBufferSize: 4 << 10, WriteBufferSize: 1 << 10, ConnMaxIdleTime: redisIdleTime,
	}
}

// look finds out which server is at the end of a connection. When it is another
// one than before, all connections are closed, this one too: some may lead to the
// old server still, and what that one takes the new one will not know.
func (c *redisClient) look(ctx context.Context, server redisAsker) error {
	identity, err := askIdentity(ctx, server)
	if err != nil {
		return err
	}
	found := c.server.meet(identity)
	if found != sightSame && identity.id == "" {
		c.notice(false, c.where()+"the server does not tell its run_id (ACL: +info): a restart or a failover that loses nonces will not be noticed")
	}
	switch found {
	case sightChanged:
		c.metrics.redisChanges.Inc()
		c.notice(false, c.where()+"another server than before (a restart or a failover): evidence from before "+
			c.server.gap.Load().since.UTC().Format(time.RFC3339)+" is stale")
		c.dialer.closeAll()
		return errServerChanged
	case sightIgnored:
		c.metrics.redisChanges.Inc()
		if suppressed, ok := c.lines.take("changes", time.Now()); ok {
			c.notice(true, c.where()+fmt.Sprintf("the address leads to another server again and again, "+
				"so that evidence can be used once at each (%d lines suppressed)", suppressed))
		}
	}
	return nil
}

func (c *redisClient) where() string { return "replay store redis " + quote(c.settings.address) + ": " }

// take puts the nonce into the store for requestID, or finds out whose it is:
// holder is requestID itself if it was new or is the same request's. All of it
// takes no longer than the timeout of the settings, and one command where the
// nonce is new.
func (c *redisClient) take(n evidence.Nonce, requestID string, ttl time.Duration) (holder string, err error) {
	holder, result, failed := c.try(n, requestID, ttl)
	if failed == nil {
		c.metrics.redisOperations[result].Inc()
		return holder, nil
	}
	c.metrics.redisOperations[failed.result].Inc()
	return "", failed
}

func (c *redisClient) try(n evidence.Nonce, requestID string, ttl time.Duration) (holder, result string, failed *redisError) {
	if down := c.down.Load(); down != nil {
		return "", "", &redisError{result: redisBreakerOpen, why: "the breaker is open: " + down.why}
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	default:
		return "", "", &redisError{result: redisOverload, why: fmt.Sprintf("%d requests wait for Redis already", cap(c.slots))}
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), c.settings.timeout)
	defer cancel()

	key := c.key(n)
	var taken bool
	err := again(ctx, func() (err error) {
		taken, err = c.client.SetNX(ctx, key, requestID, ttl).Result()
		return err
	})
	held := err == nil && !taken
	if held {
		err = again(ctx, func() (err error) {
			holder, err = c.client.Get(ctx, key).Result()
			return err
		})
	}
	c.metrics.redisSeconds.Observe(time.Since(start).Seconds())
	if held && errors.Is(err, redis.Nil) {
		// It was there a moment ago: it expired, although its evidence is fresh,
		// or was deleted. Whose it was cannot be known any more.
		c.recheck()
		return "", "", &redisError{redisUnusable, "a nonce left Redis before its time", true}
	}
	if err != nil {
		failed = c.explain(err, c.settings.timeout)
		failed.held = held
		c.failed(failed)
		return "", "", failed
	}
	if c.failures.Load() != 0 {
		c.failures.Store(0)
	}
	switch {
	case taken:
		return requestID, redisStored, nil
	case holder == requestID:
		return holder, redisRerun, nil
	}
	return holder, redisReplayed, nil
}

func (c *redisClient) key(n evidence.Nonce) string {
	return c.settings.prefix + base64.RawURLEncoding.EncodeToString(n[:])
}

// again repeats f where the connection turned out to be closed, by us or the server. A SET whose
// answer was lost this way is found as the request's own.
func again(ctx context.Context, f func() error) (err error) {
	for range 1 + redisMaxRetries {
		var (
			op   *net.OpError
			call *os.SyscallError // in an OpError, which the library takes off where a new connection breaks
		)
		err = f()
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case errors.Is(err, errServerChanged), errors.Is(err, net.ErrClosed), errors.Is(err, io.EOF),
			errors.Is(err, syscall.ECONNRESET): // before the connection was used, too
		case errors.As(err, &op) && (op.Op == "read" || op.Op == "write") && !op.Timeout():
		case errors.As(err, &call) && (call.Syscall == "read" || call.Syscall == "write") && !call.Timeout():
		default:
			return err
		}
	}
	return err
}

// failed counts a failure, and opens the breaker at the last one in a row.
func (c *redisClient) failed(why *redisError) {
	if c.failures.Add(1) >= redisMaxFailures && c.down.CompareAndSwap(nil, why) {
		c.metrics.redisOpen.Add(1)
		c.recheck()
	}
}

// recheck makes run look at the server now.
func (c *redisClient) recheck() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run checks the server from time to time, and at once and then more often while
// the breaker is open: it alone finds out whether the server is back.
func (c *redisClient) run(ctx context.Context) {
	first, wait, said := true, redisReopenLeast, ""
	for {
		failed := c.check(ctx)
		if ctx.Err() != nil {
			break
		}
		said = c.settle(failed, said, first)
		if first {
			first = false
			close(c.checked)
		}
		pause := redisCheckEvery
		if failed == nil {
			wait = redisReopenLeast
		} else {
			pause, wait = wait, min(2*wait, redisReopenMost)
		}
		timer := time.NewTimer(pause)
		// While it is down, what fails is no news.
		wake := c.wake
		if failed != nil {
			wake = nil
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	if c.down.Swap(nil) != nil {
		c.metrics.redisOpen.Add(-1)
	}
	c.client.Close()
}

// settle opens or closes the breaker after a check, and says what has changed.
func (c *redisClient) settle(failed *redisError, said string, first bool) string {
	if failed == nil {
		c.failures.Store(0)
		if c.down.Swap(nil) != nil {
			c.metrics.redisOpen.Add(-1)
		}
		if said != "" {
			c.notice(false, c.where()+"in use again")
		}
		return ""
	}
	if c.down.Swap(failed) == nil {
		c.metrics.redisOpen.Add(1)
	}
	if failed.why != said {
		c.notice(failed.result == redisUnusable || failed.result == redisRefused, c.where()+failed.why)
	}
	return failed.why
}

// check asks the server what a request would ask, in the time that a request
// has, and whether it keeps what it is given. For that it connects anew: where
// the address leads to another server, established connections do not show it
// while the old one lives.
func (c *redisClient) check(ctx context.Context) (failed *redisError) {
	defer func() {
		if p := recover(); p != nil {
			log.Printf("panic: %T\n%s", p, debug.Stack())
			failed = &redisError{result: redisUnusable, why: fmt.Sprintf("panic (%T) in the check", p)}
		}
	}()
	if err := c.dialer.load(); err != nil {
		return &redisError{result: redisUnusable, why: err.Error()}
	}
	ask, cancel := context.WithTimeout(ctx, redisDialTimeout+redisCheckTimeout)
	defer cancel()
	anew := redis.NewClient(c.options(1))
	defer anew.Close()
	err := again(ask, func() error { return c.look(ask, anew) })
	if err != nil && !errors.Is(err, errServerChanged) {
		return c.explain(err, redisCheckTimeout)
	}
	ask, cancel = context.WithTimeout(ctx, c.settings.timeout)
	defer cancel()
	err = again(ask, func() error { return c.client.Set(ask, c.settings.prefix+"check", "1", 2*redisCheckEvery).Err() })
	if err != nil {
		return c.explain(err, c.settings.timeout)
	}
	return nil
}

// evictionError says that the server may forget a nonce before its time.
type evictionError struct{ policy string }

func (e *evictionError) Error() string {
	if e.policy == "" {
		return "the server does not tell its maxmemory-policy: allow the user INFO (ACL: +info)"
	}
	return "the server's maxmemory-policy is " + quote(e.policy) + ", which forgets nonces when memory is short: want " + noEviction
}

// checkEviction returns an evictionError unless the server never evicts. The
// section memory of INFO counts first: a managed server has no CONFIG, and a user
// needs fewer rights.
func checkEviction(ctx context.Context, memory *redis.StringCmd, server redisAsker) error {
	const name = "maxmemory-policy"
	info, err := memory.Result()
	var answer redis.Error
	if err != nil && !errors.As(err, &answer) {
		return err
	}
	policy := infoField(info, "maxmemory_policy")
	if policy == "" {
		config, err := server.ConfigGet(ctx, name).Result()
		if err != nil && !errors.As(err, &answer) {
			return err
		}
		policy = config[name]
	}
	if policy == "" && answer != nil && !strings.HasPrefix(answer.Error(), "NOPERM") {
		return answer
	}
	if policy != noEviction {
		return &evictionError{policy}
	}
	return nil
}

// infoField returns the value of a field in an answer to INFO.
func infoField(info, name string) string {
	lines := bufio.NewScanner(strings.NewReader(info))
	lines.Buffer(make([]byte, 0, maxReplyLine), maxReplyBulk)
	for lines.Scan() {
		if key, value, ok := bytes.Cut(lines.Bytes(), []byte{':'}); ok && string(key) == name {
			return strings.TrimRight(string(value), "\r ")
		}
	}
	return ""
}

// redisAnswers are the errors of a server that have a cause worth a sentence.
var redisAnswers = map[string]string{
	"OOM":         "the server is out of memory",
	readOnly:      "the server is a read-only replica: want the address of the primary",
	"NOPERM":      "the user may not do what the gate needs",
	"WRONGPASS":   "the server refuses the username or the password",
	"NOAUTH":      "the server wants a password",
	"MOVED":       "the server is one of several shards: want a single endpoint",
	"CROSSSLOT":   "the server is one of several shards: want a single endpoint",
	"CLUSTERDOWN": "the server belongs to a cluster that is down",
	"LOADING":     "the server is loading its data",
	"MISCONF":     "the server cannot persist and therefore refuses writes",
	"NOREPLICAS":  "the server has too few replicas and therefore refuses writes",
	"MASTERDOWN":  "the server has lost its primary",
}

// explain says in words of its own what err is; limit is the time there was.
func (c *redisClient) explain(err error, limit time.Duration) *redisError {
	var (
		eviction  *evictionError
		record    tls.RecordHeaderError
		handshake *handshakeError
		network   net.Error
		op        *net.OpError
		answer    redis.Error
	)
	isNetwork := errors.As(err, &network) // the deadline of a context is one, too
	switch {
	case errors.As(err, &eviction):
		return &redisError{result: redisUnusable, why: eviction.Error()}
	case errors.Is(err, errReplica):
		return &redisError{result: redisRefused, why: redisAnswers[readOnly] + " (" + readOnly + ")"}
	case errors.Is(err, errServerChanged):
		return &redisError{result: redisUnreachable, why: errServerChanged.Error()}
	case errors.Is(err, errNoRedis):
		return &redisError{result: redisUnusable, why: errNoRedis.Error()}
	case errors.As(err, &record):
		return &redisError{result: redisUnusable, why: "the server does not speak TLS (replay.redis.tls.enabled)"}
	case errors.As(err, &handshake) && isNetwork && network.Timeout():
		return &redisError{result: redisUnreachable, why: "no answer to the TLS handshake (does the server speak TLS?)"}
	case errors.As(err, &handshake) && !isNetwork && !errors.Is(err, io.EOF):
		return &redisError{result: redisUnusable, why: "TLS: " + quote(handshake.err.Error())}
	case errors.As(err, &answer):
		code, _, _ := strings.Cut(answer.Error(), " ")
		why, known := redisAnswers[code]
		switch {
		case known:
			why += " (" + code + ")"
		case isErrorCode(code):
			why = "the server answers with an error (" + code + ")"
		default:
			why = "the server answers with an error"
		}
		return &redisError{result: redisRefused, why: why}
	case errors.As(err, &op) && op.Op == "remote error":
		return &redisError{result: redisUnusable, why: "TLS: the server says " + quote(op.Err.Error())}
	case errors.As(err, &op) && op.Op == "dial":
		return &redisError{result: redisUnreachable, why: "cannot connect: " + quote(op.Err.Error())}
	case isNetwork && network.Timeout(), errors.Is(err, redis.ErrPoolTimeout):
		return &redisError{result: redisTimeout, why: fmt.Sprintf("no answer within %v", limit)}
	case !isNetwork && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return &redisError{result: redisUnusable, why: errNoRedis.Error()} // the library could not read it
	}
	why := "the connection broke"
	if !c.settings.tls {
		why += " (does the server want TLS?)"
	}
	return &redisError{result: redisUnreachable, why: why}
}

// isErrorCode reports whether s has the form of Redis's error codes, and so is
// not something that a stranger wants to have in a log.
func isErrorCode(s string) bool {
	return len(s) > 0 && len(s) <= 16 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// close ends the client. Nothing may use it any more.
func (c *redisClient) close() { c.end() }

// redisLog takes what the client library logs. Its values may hold what a server
// said, so only the text around them goes on, and not often.
type redisLog struct {
	lines limiter
	print func(format string, values ...any)
}

// Printf implements the library's logger.
func (l *redisLog) Printf(_ context.Context, format string, _ ...any) {
	if suppressed, ok := l.lines.take("redis", time.Now()); ok {
		l.print("redis client: %s (%d lines suppressed)", quote(format), suppressed)
	}
}

// routeRedisLog is for the process: the library has one logger.
var routeRedisLog = sync.OnceFunc(func() { redis.SetLogger(&redisLog{print: log.Printf}) })
