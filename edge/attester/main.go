// Attester is the sidecar of a Wallarm node. It takes the requests that the node
// passed, states in each of them whether the node inspects, signs that evidence
// for this one request, and forwards the request byte for byte to the gateway.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// gcPercent makes the collector run earlier than Go's 100: the task shares its
// memory with the node, and the attester's own heap is small.
const gcPercent = 40

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program. It returns when ctx ends and the requests have
// finished, or when something that it needs cannot be had.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	c, err := parseSettings(args, environ)
	if err != nil {
		fmt.Fprintf(stderr, "attester: %v\n", err)
		return exitUsage
	}
	if c.help {
		usage(stdout)
		return exitOK
	}
	if c.healthcheck {
		if err := healthcheck(ctx, c.healthListen); err != nil {
			fmt.Fprintf(stderr, "attester: healthcheck: %v\n", err)
			return exitFailure
		}
		return exitOK
	}

	log := newLogger(stdout, c.logLevel)
	slog.SetDefault(log) // what net/http prints becomes JSON as well
	if c.nodeName == "" {
		if c.nodeName, err = ownName(ctx, environ, log); err != nil {
			fmt.Fprintf(stderr, "attester: ATTESTER_NODE_NAME: missing, and %v\n", err)
			return exitUsage
		}
	}
	a, err := newAttester(&c.settings, log, systemClock())
	if err != nil {
		fmt.Fprintf(stderr, "attester: %v\n", err)
		return exitUsage
	}
	if err = a.listen(); err == nil {
		err = a.serve(ctx, newLogger(stdout, slog.LevelInfo))
	}
	if err != nil {
		fmt.Fprintf(stderr, "attester: %v\n", err)
		return exitFailure
	}
	return exitOK
}

// clock is the time in its two kinds: what the world agrees on, for what is
// signed, and what only goes forward, for every age and interval.
type clock struct {
	wall    func() time.Time
	elapsed func() time.Duration
}

// wallClock is the system's, but in a build with -tags faults.
var wallClock = time.Now

func systemClock() clock {
	start := time.Now()
	return clock{wall: wallClock, elapsed: func() time.Duration { return time.Since(start) }}
}

// attester is one attester with all its parts.
type attester struct {
	settings  *settings
	log       *slog.Logger
	metrics   *metrics
	keys      *keyring
	cert      *clientCertificate
	ca        *authorities
	pool      *pool
	watcher   *watcher
	ready     *readiness
	proxy     *proxy
	listeners []listener
}

// listener is one address with what serves it.
type listener struct {
	name string // of the setting
	net.Listener
	server *http.Server
}

// newAttester puts the parts together. An error is a bad setting.
func newAttester(s *settings, log *slog.Logger, c clock) (*attester, error) {
	a := &attester{settings: s, log: log, metrics: newMetrics()}
	var err error
	if a.keys, err = newKeyring(s, log, a.metrics, c.wall); err != nil {
		return nil, err
	}
	if a.cert, err = newClientCertificate(s, log, a.metrics); err != nil {
		return nil, err
	}
	if a.ca, err = newAuthorities(s, log, a.metrics); err != nil {
		return nil, err
	}
	a.pool = newPool(s, a.cert, a.ca, c.elapsed)
	a.watcher = newWatcher(s, log, a.metrics, c)
	a.ready = &readiness{watcher: a.watcher, keys: a.keys}
	a.metrics.watch(a.watcher, a.keys, a.pool)
	a.proxy = newProxy(s, &sender{
		pool: a.pool, keys: a.keys, node: s.nodeName, inspection: a.watcher.inspection,
		wall: c.wall, metrics: a.metrics, responseTimeout: s.responseTimeout,
	}, log, a.metrics, c.elapsed)
	return a, nil
}

// listen opens the listeners.
func (a *attester) listen() error {
	s := a.settings
	for _, l := range []struct {
		name, addr string
		server     *http.Server
	}{
		{"health_listen", s.healthListen, a.sideServer(healthHandler(a.ready))},
		{"metrics_listen", s.metricsListen, a.sideServer(a.metrics.handler())},
		{"listen", s.listen, a.nodeServer()},
	} {
		if l.addr == "" {
			continue
		}
		opened, err := net.Listen("tcp", l.addr)
		if err != nil {
			a.closeListeners()
			return err
		}
		a.listeners = append(a.listeners, listener{l.name, opened, l.server})
	}
	return nil
}

func (a *attester) closeListeners() {
	for _, l := range a.listeners {
		l.server.Close()
		l.Close()
	}
}

// reportInterval is the time between two lines that say how the node inspects.
const reportInterval = time.Minute

// serve works until ctx ends and the requests have finished. The lines of the
// inspection report go to reports.
func (a *attester) serve(ctx context.Context, reports *slog.Logger) error {
	s := a.settings
	defer a.closeListeners()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	var working sync.WaitGroup
	defer working.Wait()
	defer stopWork()
	every := func(interval time.Duration, f func()) {
		working.Go(func() {
			ticker := time.NewTicker(interval)
			defer ticker.Stop()
			for {
				select {
				case <-work.Done():
					return
				case <-ticker.C:
					f()
				}
			}
		})
	}
	a.watcher.poll(work)
	every(s.statusInterval, func() { a.watcher.poll(work) })
	every(s.reloadInterval, func() { a.keys.reload(); a.cert.reload(); a.ca.reload(a.pool) })
	every(time.Second, a.pool.sweep)
	if s.readyChecksBackend {
		a.ready.probeBackend(work, a.pool)
		every(s.statusInterval, func() { a.ready.probeBackend(work, a.pool) })
	}
	report := time.NewTicker(reportInterval)
	defer report.Stop()
	working.Go(func() { a.watcher.report(work, report.C, reports) })

	failed := make(chan error, len(a.listeners))
	serving := []any{"backend", s.backend.String(), "node", s.nodeName}
	var nodeSide *http.Server
	for _, l := range a.listeners {
		if l.name == "listen" {
			nodeSide = l.server
		}
		serving = append(serving, l.name, l.Addr().String())
		go func() { failed <- l.server.Serve(l) }()
	}
	a.log.Info("serving", serving...)

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	a.log.Info("stopping")
	a.ready.stopping.Store(true)
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	drain(a.proxy, nodeSide, s.shutdownDelay, s.shutdownTimeout, ticks.C, a.log)
	a.pool.close()
	a.log.Info("stopped")
	return nil
}

// nodeServer returns the server of the node's side.
func (a *attester) nodeServer() *http.Server {
	return &http.Server{
		Handler:                      a.proxy,
		ReadHeaderTimeout:            30 * time.Second,
		IdleTimeout:                  a.settings.listenIdleTimeout,
		MaxHeaderBytes:               a.settings.maxHeaderBytes,
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is refused as any other target
		ErrorLog:                     serverLog(a.log),
	}
}

// sideServer returns the server of a listener that takes small requests only.
func (a *attester) sideServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       75 * time.Second, // above an ALB's health check interval
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          serverLog(a.log),
		ReadHeaderTimeout: 5 * time.Second,
	}
}

// ownName returns the id of the ECS task, or the host name outside of ECS.
func ownName(ctx context.Context, environ []string, log *slog.Logger) (string, error) {
	for _, pair := range environ {
		base, found := strings.CutPrefix(pair, "ECS_CONTAINER_METADATA_URI_V4=")
		if !found || base == "" {
			continue
		}
		name, err := taskID(ctx, base+"/task")
		if err == nil {
			return name, nil
		}
		log.Warn("the id of the ECS task cannot be read, the host name stands for it", "error", err.Error())
	}
	name, err := os.Hostname()
	if err == nil && !isNodeName(name) {
		err = fmt.Errorf("the host name %q is not 1 to 128 of A-Z a-z 0-9 . _ : / -", name)
	}
	return name, err
}

// taskID asks the ECS task metadata endpoint, version 4, for the task's ARN and
// returns the id at its end.
func taskID(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var task struct{ TaskARN string }
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("task metadata answered %d", res.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&task); err != nil {
		return "", errors.New("task metadata is no JSON")
	}
	id := task.TaskARN[strings.LastIndexByte(task.TaskARN, '/')+1:]
	if !isNodeName(id) {
		return "", errors.New("task metadata has no TaskARN")
	}
	return id, nil
}
