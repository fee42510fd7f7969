package evidence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

func nonce(i int) Nonce {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(i))
	return NonceOf("k", string(b[:]))
}

const holder, other = "00000000000000000000000000000001", "00000000000000000000000000000002"

// newStore returns a store whose clock began at noon, without a monotonic part:
// the tests step it.
func newStore(capacity int) *MemoryStore {
	s := NewMemoryStore(capacity)
	s.base = noon
	return s
}

func TestMemoryStore(t *testing.T) {
	t.Parallel()
	const window = 95 * time.Second
	type step struct {
		at     time.Duration
		nonce  int
		holder string
		want   error
	}
	for name, steps := range map[string][]step{
		"another request":    {{0, 1, holder, nil}, {0, 1, other, ErrReplayed}},
		"re-run":             {{0, 1, holder, nil}, {time.Second, 1, holder, nil}, {time.Second, 1, other, ErrReplayed}},
		"last moment":        {{0, 1, holder, nil}, {window, 1, other, ErrReplayed}},
		"last of a fraction": {{900 * time.Millisecond, 1, holder, nil}, {window + 900*time.Millisecond, 1, other, ErrReplayed}},
		"before the start":   {{-1500 * time.Millisecond, 1, holder, nil}, {window - 1500*time.Millisecond, 1, other, ErrReplayed}, {window + 2*time.Second, 1, other, nil}},
		"forgotten":          {{0, 1, holder, nil}, {window + 3*time.Second, 1, other, nil}, {window + 3*time.Second, 1, holder, ErrReplayed}},
		"ids not hex":        {{0, 1, "a", nil}, {0, 1, "b", ErrReplayed}, {0, 1, "a", nil}},
		"full":               {{0, 1, holder, nil}, {0, 2, holder, nil}, {0, 3, holder, ErrStoreFull}, {0, 1, other, ErrReplayed}},
		"room again":         {{0, 1, holder, nil}, {0, 2, holder, nil}, {window + 3*time.Second, 3, holder, nil}, {window + 3*time.Second, 4, holder, nil}, {window + 3*time.Second, 5, holder, ErrStoreFull}},
		"clock goes back":    {{0, 1, holder, nil}, {-time.Hour, 1, other, ErrReplayed}, {-time.Hour, 2, holder, nil}, {0, 1, other, ErrReplayed}},
		"after a long idle":  {{0, 1, holder, nil}, {240 * time.Hour, 1, other, nil}, {240 * time.Hour, 2, other, nil}, {240 * time.Hour, 3, other, ErrStoreFull}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(2)
			for i, st := range steps {
				now := noon.Add(st.at)
				if err := s.Remember(nonce(st.nonce), st.holder, now, now.Add(window)); !errors.Is(err, st.want) {
					t.Fatalf("step %d: %v, want %v", i+1, err, st.want)
				}
			}
		})
	}
}

func TestMemoryStoreFind(t *testing.T) {
	t.Parallel()
	const window = 95 * time.Second
	s := newStore(1)
	find := func(name string, n int, id string, at time.Duration, held bool, want error) {
		t.Helper()
		if got, err := s.Find(nonce(n), id, noon.Add(at)); got != held || !errors.Is(err, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	find("before", 1, holder, 0, false, nil)
	if err := s.Remember(nonce(1), holder, noon, noon.Add(window)); err != nil {
		t.Fatal(err)
	}
	find("its request", 1, holder, 0, true, nil)
	find("another request", 1, other, window, false, ErrReplayed)
	find("another nonce", 2, other, 0, false, nil)
	find("expired", 1, other, window+3*time.Second, false, nil)
	if s.Len() != 1 {
		t.Errorf("finding left %d entries", s.Len())
	}
}

// A step of the wall clock forward and back must not forget a nonce: what it
// held is fresh again afterwards. Only a clock with a monotonic reading tells
// the two apart, so the store's own instant is driven here.
func TestMemoryStoreSteppedClock(t *testing.T) {
	t.Parallel()
	var sh shard
	sh.init(16)
	sh.free(instant{0, 0}, freeBatch)
	sh.insert(nonce(1), [16]byte{}, 96, 96)
	if n := sh.free(instant{elapsed: 10, wall: 3610}, freeBatch); n != 0 || sh.find(nonce(1)) < 0 {
		t.Error("forgotten when the wall clock went an hour forward")
	}
	for second := int32(11); second < 200; second++ {
		sh.free(instant{elapsed: second, wall: second - 3600}, freeBatch)
	}
	if sh.find(nonce(1)) < 0 {
		t.Error("forgotten while the wall clock stands an hour back")
	}
	freed := 0
	for second := int32(3600); second < 3600+2*wheelSize; second++ {
		freed += sh.free(instant{elapsed: second, wall: second}, freeBatch)
	}
	if freed != 1 || sh.find(nonce(1)) >= 0 {
		t.Errorf("freed %d, want 1, when both clocks are past", freed)
	}
}

// 9.9 s have passed and the wall clock says 20.0: what is good until 50.99 is so
// until 40.89 s have passed, and the wall clock may be stepped before.
func TestMemoryStoreLast(t *testing.T) {
	t.Parallel()
	now := instant{elapsed: 9, wall: 20}
	for wall, want := range map[int32]int32{50: 40, 21: 11, 20: 10, 19: 10, -300: 10} {
		if got := now.last(wall); got != want {
			t.Errorf("until %d: %d, want %d", wall, got, want)
		}
	}
}

func TestMemoryStoreSize(t *testing.T) {
	t.Parallel()
	for capacity, want := range map[int]int{
		-1: 16, 0: 16, 1: 16, 1024: 16, 1025: 32, 2048: 32, 2049: 64, 1 << 25: 1 << 19, 1<<25 + 1: 1 << 20, 1 << 26: 1 << 20, 1 << 40: 1 << 20,
	} {
		if got := bucketCount(capacity); got != want {
			t.Errorf("%d buckets in each shard for %d entries, want %d", got, capacity, want)
		}
	}
	for _, capacity := range []int{-1, 0, 1} {
		s := newStore(capacity)
		if err := s.Remember(nonce(1), holder, noon, noon); err != nil {
			t.Errorf("capacity %d: %v for the first entry", capacity, err)
		}
		if err := s.Remember(nonce(2), holder, noon, noon); !errors.Is(err, ErrStoreFull) {
			t.Errorf("capacity %d: %v for the second entry", capacity, err)
		}
	}
}

// in returns a nonce of the given shard.
func in(shard byte, i int) Nonce {
	n := nonce(i)
	n[0] = shard
	return n
}

func TestMemoryStoreMakeRoom(t *testing.T) {
	t.Parallel()
	const past = 3 * time.Second
	s := newStore(1)
	if err := s.Remember(in(1, 1), holder, noon, noon); err != nil {
		t.Fatal(err)
	}
	if err := s.Remember(in(2, 2), holder, noon.Add(past), noon.Add(past)); err != nil || s.Len() != 1 {
		t.Errorf("%v, %d entries: the one place is that of an expired entry in another shard", err, s.Len())
	}
	// A call that has claimed a place and not yet given it back.
	s.count.Add(1)
	if err := s.Remember(in(3, 3), holder, noon.Add(2*past), noon.Add(2*past)); !errors.Is(err, ErrStoreFull) {
		t.Errorf("%v while another call holds the only place", err)
	}
	if s.count.Add(-1); s.Len() != 0 {
		t.Errorf("%d entries are counted, none is held", s.Len())
	}
}

// Entries that end far from now must not stand where free looks while a backlog
// of expired ones holds tick back.
func TestMemoryStoreBacklog(t *testing.T) {
	t.Parallel()
	const backlog = 100
	s := newStore(10 * backlog)
	for i := range backlog {
		if err := s.Remember(in(1, i), holder, noon, noon.Add(5*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	now := noon.Add(300 * time.Second)
	for i := range backlog {
		if err := s.Remember(in(1, backlog+i), holder, now, now.Add(420*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if s.Len() != backlog {
		t.Errorf("%d entries, %d are alive", s.Len(), backlog)
	}
}

func TestMemoryStoreClock(t *testing.T) {
	t.Parallel()
	const second = int64(time.Second)
	for d, want := range map[int64]int32{
		-2 * second: -2, -second - 1: -2, -second: -1, -second + 1: -1, -1: -1, 0: 0, 1: 0, second - 1: 0, second: 1, second + 1: 1,
		1 << 29 * second: 1 << 29, (1<<29 - 1) * second: 1<<29 - 1, (1<<29 + 1) * second: 1 << 29, 1<<63 - 1: 1 << 29,
		-1 << 29 * second: -1 << 29, (-1<<29 + 1) * second: -1<<29 + 1, (-1<<29 - 1) * second: -1 << 29, -1 << 63: -1 << 29,
	} {
		if got := clamp(time.Duration(d)); got != want {
			t.Errorf("%v is second %d, want %d", time.Duration(d), got, want)
		}
	}
	e := entry{elapsed: 10, wall: 20}
	for at, want := range map[instant]bool{
		{10, 20}: true, {10, 21}: true, {11, 20}: true, {11, 21}: false, {11, 19}: true, {9, 21}: true,
	} {
		if e.live(at) != want {
			t.Errorf("at %+v: live %v", at, !want)
		}
	}
}

func TestHolderOf(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"00112233445566778899aabbccddeeff":   "00112233445566778899aabbccddeeff",
		"":                                   "e3b0c44298fc1c149afbf4c8996fb924", // sha256sum
		"00112233445566778899aabbccddeefg":   "a4eed26de52a2a8118c414277891b10e",
		"00112233445566778899aabbccddeeff00": "59349ae95559b16c95b97eb2d9e01b26",
		"0011":                               "a8d0b6f0939cfd883251f62b265f971e",
	} {
		if got := fmt.Sprintf("%x", holderOf(id)); got != want {
			t.Errorf("%q: %s, want %s", id, got, want)
		}
	}
}

func TestNonceOf(t *testing.T) {
	t.Parallel()
	// printf 'k1\0AAAAAAAAAAAAAAAAAAAAAA' | sha256sum | cut -c -32
	if got, want := fmt.Sprintf("%x", NonceOf("k1", "AAAAAAAAAAAAAAAAAAAAAA")), "54e2efb5e83f556a3ef6b3ed386853de"; got != want {
		t.Errorf("%s, want %s: replicas of two versions share one store", got, want)
	}
}

// Against a plain map as the model: random times, windows, idle gaps and
// collisions of slots must never lose a live nonce and always free dead ones.
func TestMemoryStoreModel(t *testing.T) {
	t.Parallel()
	s := newStore(4000)
	type held struct {
		holder string
		until  time.Time
	}
	model := make(map[int]held)
	seed := uint32(1)
	random := func(n int) int { seed = seed*1664525 + 1013904223; return int(seed>>8) % n }
	now := noon
	for i := range 200_000 {
		switch random(400) {
		case 0:
			now = now.Add(time.Duration(random(700)) * time.Second)
		case 1, 2, 3, 4, 5, 6, 7, 8:
			now = now.Add(time.Duration(random(1500)) * time.Millisecond)
		}
		id := random(30_000)
		who := []string{holder, other}[random(2)]
		until := now.Add(time.Duration(random(430_000)) * time.Millisecond)
		err := s.Remember(nonce(id), who, now, until)
		if h, ok := model[id]; ok && !now.After(h.until) {
			want := error(nil)
			if h.holder != who {
				want = ErrReplayed
			}
			if !errors.Is(err, want) {
				t.Fatalf("turn %d: %v for a live nonce, want %v", i, err, want)
			}
			continue
		}
		if err == nil {
			model[id] = held{who, until}
		} else if errors.Is(err, ErrStoreFull) {
			live := 0
			for _, h := range model {
				if !now.After(h.until.Add(3 * time.Second)) {
					live++
				}
			}
			if live < 4000*9/10 {
				t.Fatalf("turn %d: full with %d live of 4000", i, live)
			}
		} else if h := model[id]; now.After(h.until.Add(3 * time.Second)) {
			t.Fatalf("turn %d: %v for a nonce that ended %v ago", i, err, now.Sub(h.until))
		}
	}
	if s.Len() > 4000 {
		t.Errorf("%d entries, the capacity is 4000", s.Len())
	}
}

func TestMemoryStoreConcurrent(t *testing.T) {
	t.Parallel()
	const workers, nonces, capacity = 8, 2000, 1500
	s := NewMemoryStore(capacity)
	now := time.Now()
	accepted := make([]int, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			id := fmt.Sprintf("%032x", w)
			for i := range nonces {
				if s.Remember(nonce(i), id, now, now.Add(time.Minute)) == nil {
					accepted[w]++
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range accepted {
		total += n
	}
	if total != s.Len() || total > capacity || total < capacity-workers {
		t.Errorf("%d accepted, %d held, capacity %d", total, s.Len(), capacity)
	}
}
