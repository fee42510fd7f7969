package main

// Which Redis server is it, and since when does it remember? One that restarted
// empty, or a replica that was promoted without the last writes, lets evidence be
// used once more that another node accepted. Such a server is not the one that
// was there before, and says so in INFO: evidence from before it was noticed is
// refused.
//
// That holds if the old server takes no more writes by then: a server that is
// dead, or demoted. It needs no agreement between nodes. Each looks at every
// connection before the first request uses it, so that nothing is decided by a
// server that was not noticed, and what another node has had decided by the new
// server meanwhile, the new server knows.

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// Changes of the server that are taken for what they are, in a row and then
	// each half minute. Behind an address that leads to several servers, or a
	// proxy that makes up identities, each would cost the rest of a second.
	redisChanges     = 5
	redisChangeEvery = 30 * time.Second
)

var (
	errReplica = errors.New("the server is a replica")
	// errServerChanged is why a connection was closed on which another server
	// was found: the next one is asked once more.
	errServerChanged = errors.New("the address leads to another server")
)

// redisIdentity is what a server says about itself.
type redisIdentity struct {
	// id is another one after a restart (run_id), and after a promotion
	// (master_replid), also if the same server is demoted and promoted again.
	// Empty if it does not tell.
	id     string
	uptime time.Duration // in whole seconds; negative: not told
}

type redisAsker interface {
	Pipelined(ctx context.Context, f func(redis.Pipeliner) error) ([]redis.Cmder, error)
	ConfigGet(ctx context.Context, parameter string) *redis.MapStringStringCmd
}

// askIdentity asks which server it is, in one round trip, and returns an error
// for one that cannot keep what it is given: it may evict, or is a replica. A
// replica has to be refused here and not by its answer to the first write: when
// it is promoted its connections stay, and nobody would look at them again.
func askIdentity(ctx context.Context, server redisAsker) (redisIdentity, error) {
	var memory, process, replication *redis.StringCmd
	// Redis 6.2 takes one section at a time, and all of them may be too large.
	_, err := server.Pipelined(ctx, func(p redis.Pipeliner) error {
		memory, process, replication = p.Info(ctx, "memory"), p.Info(ctx, "server"), p.Info(ctx, "replication")
		return nil
	})
	// The server may answer one with an error; the library returns the first.
	if answer := redis.Error(nil); err != nil && !errors.As(err, &answer) {
		return redisIdentity{}, err
	}
	if err := checkEviction(ctx, memory, server); err != nil {
		return redisIdentity{}, err
	}
	return readIdentity(process.Val(), replication.Val())
}

// readIdentity reads the sections server and replication of INFO.
func readIdentity(process, replication string) (redisIdentity, error) {
	if infoField(replication, "role") == "slave" {
		return redisIdentity{}, errReplica
	}
	r := redisIdentity{uptime: -1}
	run, history := infoField(process, "run_id"), infoField(replication, "master_replid")
	if run != "" || history != "" {
		r.id = run + " " + history
	}
	// More does not matter, and would not fit.
	if n, err := strconv.ParseUint(infoField(process, "uptime_in_seconds"), 10, 32); err == nil {
		r.uptime = time.Duration(n) * time.Second
	}
	return r, nil
}

// memoryGap is what the present server may have lost.
type memoryGap struct {
	since   time.Time // evidence created before may have been used
	noticed time.Time
}

// serverWatch knows which server a client has to do with. Its methods are safe
// for concurrent use.
type serverWatch struct {
	now func() time.Time
	gap atomic.Pointer[memoryGap] // nil: nothing is lost

	mu    sync.Mutex
	seen  bool
	known string    // the id of the server that was seen last
	spent time.Time // until when changes are spent, at one each redisChangeEvery
}

// The findings of a look at a server.
type sight int

const (
	sightSame    sight = iota
	sightFirst         // the client has met no server before
	sightChanged       // connections to another server must not be used any more
	sightIgnored       // it changed, but too often
)

// meet is told about the server at the end of a new connection. When it returns
// the gap is that of this server, so that what it decides later is held to it.
func (w *serverWatch) meet(r redisIdentity) sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	switch {
	case !w.seen:
		w.seen, w.known = true, r.id
		// What the last server knew, before this one started, is lost. The
		// start lies up to a second after what whole seconds of uptime say.
		if r.uptime >= 0 {
			w.widen(now, now.Add(-max(r.uptime-time.Second, 0)))
		}
		return sightFirst
	case r.id == w.known:
		return sightSame
	}
	w.known = r.id
	if g := w.gap.Load(); g != nil && g.since.Equal(forgottenUntil(now)) {
		return sightSame // in the same second there is nothing more to refuse
	}
	switch left := w.spent.Sub(now); {
	case left < 0 || left > redisChanges*redisChangeEvery: // or the clock was set back
		w.spent = now
	case left > (redisChanges-1)*redisChangeEvery:
		return sightIgnored
	}
	w.spent = w.spent.Add(redisChangeEvery)
	w.widen(now, now)
	return sightChanged
}

// widen takes what was created until lost for lost.
func (w *serverWatch) widen(now, lost time.Time) {
	w.gap.Store(&memoryGap{since: forgottenUntil(lost), noticed: now})
}

// forgotten reports whether evidence of that creation time may have been used
// without the server's knowledge. It has to be asked after the server, which may
// have been found to be another one for the question. A gap is forgotten when
// what is in it is too old for any policy: a clock that was ahead when it was
// noticed, and is set back, must not refuse for as long as it was ahead.
func (w *serverWatch) forgotten(created time.Time) bool {
	g := w.gap.Load()
	return g != nil && created.Before(g.since) && w.now().Sub(g.noticed) <= replayHorizon
}
