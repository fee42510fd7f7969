package evidence

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// The replay store: a nonce is good for one request.

// The two refusals of a ReplayStore that are not failures of the store itself.
var (
	ErrReplayed  = errors.New("the nonce has been used by another request")
	ErrStoreFull = errors.New("the replay store is full")
)

// Nonce identifies a nonce under its key.
type Nonce [16]byte

// NonceOf returns the first 128 bits of SHA-256 over the key id, a zero byte
// and the nonce. Neither can hold a zero byte.
func NonceOf(keyID, nonce string) Nonce {
	b := make([]byte, 0, maxKeyID+1+maxNonce)
	b = append(b, keyID...)
	b = append(b, 0)
	b = append(b, nonce...)
	sum := sha256.Sum256(b)
	return Nonce(sum[:16])
}

// ReplayStore remembers nonces. Remember returns nil if n is new or is held by
// the same requestID (the gateway ran the same request again), ErrReplayed if
// another request holds it, ErrStoreFull if it cannot be held until the given
// time, or another error. Implementations are safe for concurrent use.
type ReplayStore interface {
	Remember(n Nonce, requestID string, now, until time.Time) error
}

const (
	shardCount = 64
	chunkSize  = 256 // entries
	// wheelSize is larger than any window in seconds, so that a slot of the
	// wheel holds entries of one second.
	wheelSize = 512
	// freeBatch bounds the expired entries that one call frees. It is larger
	// than the one entry that a call adds, so that a backlog shrinks.
	freeBatch = 8
)

// MemoryStore is a ReplayStore in the memory of one process, for its lifetime.
// It holds at most its capacity of entries, about 50 bytes each, and refuses
// rather than forgets. Every call is O(1): expired entries leave a few at a time.
//
// An entry leaves only when both the wall clock is past its time and that long
// has really passed, so a clock that is stepped forward, or forward and back, does
// not open a window. A clock that goes back to before the time of an entry that
// has left makes its evidence fresh again, and it can be used once more: to refuse
// that would refuse every honest request until the clock is past that time.
type MemoryStore struct {
	capacity int64
	count    atomic.Int64
	base     time.Time
	shards   [shardCount]shard
}

// NewMemoryStore returns a store for at most capacity entries, at least 1.
func NewMemoryStore(capacity int) *MemoryStore {
	s := &MemoryStore{capacity: int64(max(capacity, 1)), base: time.Now()}
	for i := range s.shards {
		s.shards[i].init(bucketCount(capacity))
	}
	return s
}

// bucketCount returns the hash buckets of each shard: about one for an entry, a
// power of two, from 16 to 2^20.
func bucketCount(capacity int) int {
	n := 16
	for n*shardCount < capacity && n < 1<<20 {
		n *= 2
	}
	return n
}

// Len returns the number of entries that are held, expired ones included until
// they have left.
func (s *MemoryStore) Len() int { return int(s.count.Load()) }

// Remember implements ReplayStore.
func (s *MemoryStore) Remember(n Nonce, requestID string, now, until time.Time) error {
	holder := holderOf(requestID)
	t := s.instant(now)
	wall := clamp(until.Round(0).Sub(s.base.Round(0)))
	elapsed := t.last(wall)

	sh := &s.shards[n[0]%shardCount]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.count.Add(-int64(sh.free(t, freeBatch)))
	if i := sh.find(n); i >= 0 {
		e := sh.at(i)
		if e.live(t) {
			if e.holder == holder {
				return nil
			}
			return ErrReplayed
		}
		// Its place in the wheel is that of the old time; free moves it on.
		e.holder, e.elapsed, e.wall = holder, elapsed, wall
		return nil
	}
	if s.count.Add(1) > s.capacity {
		s.count.Add(-1)
		if !s.makeRoom(sh, t) {
			return ErrStoreFull
		}
	}
	sh.insert(n, holder, elapsed, wall)
	return nil
}

// Find reports whether s holds n for this request, and returns ErrReplayed if it
// holds it for another. It changes nothing: a store that is shared with other
// processes has to be asked before a nonce is remembered here.
func (s *MemoryStore) Find(n Nonce, requestID string, now time.Time) (held bool, err error) {
	t := s.instant(now)
	sh := &s.shards[n[0]%shardCount]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i := sh.find(n)
	if i < 0 || !sh.at(i).live(t) {
		return false, nil
	}
	if sh.at(i).holder != holderOf(requestID) {
		return false, ErrReplayed
	}
	return true, nil
}

// makeRoom looks for an expired entry in the other shards and takes its place in
// the count. It frees a bounded number of entries, and waits for no other shard.
func (s *MemoryStore) makeRoom(own *shard, t instant) bool {
	for i := range s.shards {
		other := &s.shards[i]
		if other == own || !other.mu.TryLock() {
			continue
		}
		freed := other.free(t, freeBatch)
		other.mu.Unlock()
		if freed > 0 {
			if s.count.Add(-int64(freed)+1) <= s.capacity {
				return true
			}
			s.count.Add(-1)
		}
	}
	return false
}

// instant is a moment in seconds since the store was made, by both clocks.
type instant struct{ elapsed, wall int32 }

// last returns the second of elapsed time that an entry has to outlive so that
// the wall clock's second could be reached in real time. The two clocks' seconds
// do not begin together: late by one, never early.
func (t instant) last(wall int32) int32 { return t.elapsed + max(wall-t.wall, 0) + 1 }

func (s *MemoryStore) instant(now time.Time) instant {
	return instant{elapsed: clamp(now.Sub(s.base)), wall: clamp(now.Round(0).Sub(s.base.Round(0)))}
}

// clamp converts to seconds, rounded down, within what arithmetic on int32 bears.
func clamp(d time.Duration) int32 {
	n := int64(d / time.Second)
	if d < 0 && d%time.Second != 0 {
		n--
	}
	return int32(min(max(n, -1<<29), 1<<29))
}

// holderOf packs a request id. nginx's are 32 hex digits; any other is hashed.
func holderOf(requestID string) (h [16]byte) {
	if len(requestID) == requestIDLen {
		if _, err := hex.Decode(h[:], []byte(requestID)); err == nil {
			return h
		}
	}
	sum := sha256.Sum256([]byte(requestID))
	return [16]byte(sum[:16])
}

// entry holds no pointer, so that the collector does not look at a million of them.
type entry struct {
	nonce         Nonce
	holder        [16]byte
	elapsed, wall int32 // it may leave when both are past
	next          int32 // in its hash bucket, or in the free list
	later         int32 // in its slot of the wheel
}

func (e *entry) live(t instant) bool { return t.elapsed <= e.elapsed || t.wall <= e.wall }

// shard is a chained hash table over chunks of entries that never move, and a
// timing wheel through the same entries.
type shard struct {
	mu      sync.Mutex
	buckets []int32
	chunks  [][]entry
	unused  int32 // free list
	used    int32 // entries ever taken from the chunks
	wheel   [wheelSize]int32
	tick    int32 // the first second whose slot may hold entries
}

const none int32 = -1

func (s *shard) init(buckets int) {
	s.buckets = make([]int32, buckets)
	for i := range s.buckets {
		s.buckets[i] = none
	}
	for i := range s.wheel {
		s.wheel[i] = none
	}
	s.unused = none
}

func (s *shard) at(i int32) *entry { return &s.chunks[i/chunkSize][i%chunkSize] }

func (s *shard) bucket(n Nonce) *int32 {
	return &s.buckets[binary.LittleEndian.Uint32(n[1:5])&uint32(len(s.buckets)-1)]
}

// slot returns the wheel's slot of a second, which may be before the store's start.
func (s *shard) slot(second int32) *int32 { return &s.wheel[uint32(second)%wheelSize] }

func (s *shard) find(n Nonce) int32 {
	i := *s.bucket(n)
	for i != none {
		e := s.at(i)
		if e.nonce == n {
			return i
		}
		i = e.next
	}
	return none
}

func (s *shard) insert(n Nonce, holder [16]byte, elapsed, wall int32) {
	i := s.unused
	if i != none {
		s.unused = s.at(i).next
	} else {
		i = s.used
		s.used++
		if i%chunkSize == 0 {
			s.chunks = append(s.chunks, make([]entry, chunkSize))
		}
	}
	b := s.bucket(n)
	*s.at(i) = entry{nonce: n, holder: holder, elapsed: elapsed, wall: wall, next: *b}
	*b = i
	s.schedule(i, elapsed)
}

// schedule puts an entry into the slot of the given second, or into the last
// one of this revolution: a slot that stands for two seconds would hold up those
// that free looks at while tick lags behind.
func (s *shard) schedule(i, second int32) {
	slot := s.slot(min(second, s.tick+wheelSize-1))
	s.at(i).later = *slot
	*slot = i
}

// free takes out at most limit entries that have expired, and moves on at most
// as many whose time was put off, and returns how many it took out.
func (s *shard) free(t instant, limit int) (freed int) {
	switch {
	case s.tick > t.elapsed:
		// A clock without a monotonic reading went back.
		s.tick = t.elapsed
	case s.tick < t.elapsed-wheelSize:
		// One revolution visits every slot.
		s.tick = t.elapsed - wheelSize
	}
	for moves := 0; s.tick < t.elapsed && moves < limit; {
		slot := s.slot(s.tick)
		i := *slot
		if i == none {
			s.tick++
			continue
		}
		moves++
		e := s.at(i)
		*slot = e.later
		if e.live(t) {
			s.schedule(i, max(e.elapsed, t.elapsed+e.wall-t.wall)+1)
			continue
		}
		s.remove(i)
		freed++
	}
	return freed
}

// remove takes an entry out of its bucket; it has left the wheel.
func (s *shard) remove(i int32) {
	e := s.at(i)
	link := s.bucket(e.nonce)
	for *link != i {
		link = &s.at(*link).next
	}
	*link = e.next
	e.next, s.unused = s.unused, i
}
