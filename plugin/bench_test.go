package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"github.com/wallarm-gate/wallarm-gate/evidence"
	"google.golang.org/protobuf/proto"
)

// oneAnswer answers every variable with one value, without a wire.
type oneAnswer string

func (a oneAnswer) Ask(_ string, _, out proto.Message) error {
	out.(*kong_plugin_protocol.ByteString).V = []byte(a)
	return nil
}

// BenchmarkAccessDecision is the decision alone: no socket, no Kong.
func BenchmarkAccessDecision(b *testing.B) {
	e := newEdge(b)
	// The same request again is a re-run to the replay store, not a replay.
	config := map[string]any{"jwks": e.inline, "max_age": 300}
	for _, c := range []struct {
		name string
		s    *sample
		want decision
	}{
		{"allow ed25519", signed(b, message(), e.key, time.Now()), allow},
		{"allow hmac-sha256", signed(b, message(), e.hmac, time.Now()), allow},
		{"deny direct", plain("GET", "/api/x"), deny},
		{"deny hostile", func() *sample {
			s := signed(b, message(), e.key, time.Now())
			s.set(evidence.HeaderSignatureInput, strings.Repeat(`wallarm=("@method"`, 400))
			return s
		}(), deny},
	} {
		b.Run(c.name, func(b *testing.B) {
			now := time.Now()
			config := configure(b, newGate(func() time.Time { return now }), config)
			kong := oneAnswer(c.s.nginx(true)["wallarm_evidence"])
			b.ReportAllocs()
			for b.Loop() {
				if v := config.judge(config.gate, kong); v.decision != c.want {
					b.Fatalf("%s: %s", v.decision, v.reason)
				}
			}
		})
	}
}

// BenchmarkReplayStores asks the memory of this process and a Redis server on
// this machine in turn, for new nonces, and gives the ratio; then what the server
// needs for a nonce, and what it takes from many requests at once.
func BenchmarkReplayStores(b *testing.B) {
	s := startRedis(b)
	e := newEdge(b)
	now := time.Now()
	request := func() (n evidence.Nonce, id string) {
		rand.Read(n[:])
		return n, hex.EncodeToString(n[:])
	}
	remember := func(b *testing.B, store evidence.ReplayStore) {
		n, id := request()
		if err := store.Remember(n, id, now, now.Add(90*time.Second)); err != nil {
			b.Fatal(err)
		}
	}
	newStore := func(b *testing.B, poolSize int) evidence.ReplayStore {
		record := s.record(map[string]any{"pool_size": poolSize})
		record["capacity"] = capacityRange.most
		config := configure(b, newGate(time.Now), map[string]any{"jwks": e.inline, "replay": record})
		if config.problem != "" {
			b.Fatal(config.problem)
		}
		return config.verifier.Replay
	}
	b.Run("one at a time", func(b *testing.B) {
		memory := &replayMemory{now: time.Now}
		memory.reserve(capacityRange.most)
		shared := newStore(b, 1)
		const batch = 16
		var base, own time.Duration
		for b.Loop() {
			start := time.Now()
			for range batch {
				remember(b, memory)
			}
			middle := time.Now()
			for range batch {
				remember(b, shared)
			}
			base += middle.Sub(start)
			own += time.Since(middle)
		}
		b.ReportMetric(0, "ns/op") // a batch of both: says nothing
		b.ReportMetric(float64(base.Nanoseconds())/float64(b.N*batch), "ns/memory")
		b.ReportMetric(float64(own.Nanoseconds())/float64(b.N*batch), "ns/redis")
		b.ReportMetric(float64(own)/float64(base), "x-memory")
	})
	b.Run("many at once", func(b *testing.B) {
		shared := newStore(b, 16)
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				remember(b, shared)
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	})
	b.Run("memory of the server", func(b *testing.B) {
		used := func() (bytes int) {
			info, err := s.admin.Info(context.Background(), "memory").Result()
			if err != nil {
				b.Fatal(err)
			}
			fmt.Sscan(infoField(info, "used_memory"), &bytes)
			return bytes
		}
		s.do(b, "FLUSHALL")
		const nonces = 200_000
		before := used()
		pipe := s.admin.Pipeline()
		client := &redisClient{settings: redisSettings{prefix: defaultRedisPrefix}}
		for i := range nonces {
			n, id := request()
			pipe.SetNX(context.Background(), client.key(n), id, time.Hour)
			if i%1000 == 999 {
				if _, err := pipe.Exec(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(used()-before)/nonces, "bytes/nonce")
	})
}
