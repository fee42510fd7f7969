package main

// The replay store that several Kong nodes share. What this process knows
// already it answers itself; what is new the server decides.

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"time"
	"weak"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

const (
	// firstCheckWait bounds how long the first request of a configuration waits
	// for the first answer of its server.
	firstCheckWait = time.Second
	// clockMargin is how much longer than this node's clock says a nonce is kept:
	// the nodes that share the store may each differ by the largest skew.
	clockMargin = 2 * evidence.SkewLimit
)

// nonceTaker decides for all nodes whose a nonce is. An error that is a
// *redisError with held means that it is not the caller's, as far as it knows.
type nonceTaker interface {
	take(n evidence.Nonce, requestID string, ttl time.Duration) (holder string, err error)
}

// sharedStore is the replay store of configurations with store redis.
type sharedStore struct {
	shared    nonceTaker
	local     *replayMemory
	fallback  bool   // on_error: local
	fellBack  func() // counts
	keepAlive *redisHandle
}

// Remember implements evidence.ReplayStore.
func (s *sharedStore) Remember(n evidence.Nonce, requestID string, now, until time.Time) error {
	// The handle's end closes the client.
	defer runtime.KeepAlive(s.keepAlive)
	// Held for this request: it was accepted here, and Kong runs it again.
	if held, err := s.local.find(n, requestID, now); held || err != nil {
		return err
	}
	holder, err := s.shared.take(n, requestID, until.Sub(now)+clockMargin)
	if err != nil {
		var failed *redisError
		if !s.fallback || errors.As(err, &failed) && failed.held {
			// Nothing is remembered here: the request was not accepted. If the
			// server has it all the same, it has it for this request.
			return err
		}
		s.fellBack()
		return s.local.Remember(n, requestID, now, until)
	}
	// A full store of this process only costs a question to the server the next
	// time. But during an outage it may have accepted another request.
	if err := s.local.Remember(n, holder, now, until); errors.Is(err, evidence.ErrReplayed) {
		return err
	}
	if holder != requestID {
		return evidence.ErrReplayed
	}
	return nil
}

// forgotten reports whether evidence of that creation time, which Remember has
// taken for new, has to be refused: it may have been used at another node, and
// the server have lost it. That is one of the cases in which the server cannot
// decide, so with on_error local this process has.
func (s *sharedStore) forgotten(created time.Time) bool {
	if !s.keepAlive.client.server.forgotten(created) {
		return false
	}
	if s.fallback {
		s.fellBack()
	}
	return !s.fallback
}

// redisHandle is what configurations hold of a client: when the last one has
// gone, so has the handle, and the client is closed.
type redisHandle struct{ client *redisClient }

// redisClients are the clients of the process, one for equal settings.
type redisClients struct {
	now     func() time.Time
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	metrics *metrics
	notice  func(crit bool, line string)

	mu         sync.Mutex
	bySettings map[redisSettings]weak.Pointer[redisHandle]
}

// open returns the client for the settings. A new one has been checked once, or
// was given the time for it.
func (r *redisClients) open(settings redisSettings) *redisHandle {
	h := r.find(settings)
	timer := time.NewTimer(firstCheckWait)
	defer timer.Stop()
	select {
	case <-h.client.checked:
	case <-timer.C:
	}
	return h
}

func (r *redisClients) find(settings redisSettings) *redisHandle {
	r.mu.Lock()
	defer r.mu.Unlock()
	for old, pointer := range r.bySettings {
		if h := pointer.Value(); h == nil {
			delete(r.bySettings, old)
		} else if old == settings {
			return h
		}
	}
	h := &redisHandle{newRedisClient(settings, r.now, r.dial, r.metrics, r.notice)}
	runtime.AddCleanup(h, (*redisClient).close, h.client)
	if r.bySettings == nil {
		r.bySettings = make(map[redisSettings]weak.Pointer[redisHandle])
	}
	r.bySettings[settings] = weak.Make(h)
	return h
}
