package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// Stopping: the node in the same task gets its own SIGTERM and drains, which may
// take long and may open new connections to the attester. So the listener stays
// open until no request has come for a while.

// idleFor returns how long no request has been running, 0 while one is.
func (p *proxy) idleFor() time.Duration {
	last := time.Duration(p.lastSeen.Load())
	now := p.elapsed()
	if p.active.Load() > 0 {
		return 0
	}
	return now - last
}

// drain stops server without failing a request that the node still sends: it
// waits until none has run for delay, closes the listener, and lets what is
// left finish. At timeout it cuts. ticks sets how often it looks.
func drain(p *proxy, server *http.Server, delay, timeout time.Duration, ticks <-chan time.Time, log *slog.Logger) {
	began := p.elapsed()
	// The wait counts from now: the last request may be long ago.
	p.lastSeen.Store(int64(max(began, time.Duration(p.lastSeen.Load()))))
	for p.idleFor() < delay && p.elapsed()-began < timeout {
		<-ticks
	}
	// An upgraded connection is not net/http's any more, but it is active: the
	// loop above has waited for it.
	left := timeout - (p.elapsed() - began)
	ctx, cancel := context.WithTimeout(context.Background(), max(left, time.Second))
	defer cancel()
	if err := server.Shutdown(ctx); err != nil || p.active.Load() > 0 {
		log.Warn("requests cut at the end of the shutdown", "requests", p.active.Load())
	}
	server.Close()
}
