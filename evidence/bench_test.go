package evidence

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"runtime"
	"strings"
	"testing"
	"time"
)

// compare runs a subject and its baseline in turn, so that both see the same
// machine, and reports the subject's time over the baseline's as a metric.
func compare(b *testing.B, metric string, baseline, subject func()) {
	b.Helper()
	const batch = 32
	var base, own time.Duration
	n := 0
	for b.Loop() {
		start := time.Now()
		for range batch {
			baseline()
		}
		middle := time.Now()
		for range batch {
			subject()
		}
		base += middle.Sub(start)
		own += time.Since(middle)
		n += batch
	}
	b.ReportMetric(0, "ns/op") // a batch of both: says nothing
	b.ReportMetric(float64(own.Nanoseconds())/float64(n), "ns/subject")
	b.ReportMetric(float64(base.Nanoseconds())/float64(n), "ns/baseline")
	b.ReportMetric(float64(own)/float64(base), metric)
	b.ReportMetric(testing.AllocsPerRun(100, subject), "allocs/subject")
}

func BenchmarkVerifyOverRaw(b *testing.B) {
	setup := func(b *testing.B, alg Algorithm) (*Verifier, *Request, []byte, []byte, *Key) {
		key := newKey(b, "k1", alg)
		r := received(signed(b, key, honest(), noon))
		in, err := ParseSignatureInput(r.SignatureInput)
		if err != nil {
			b.Fatal(err)
		}
		sig := make([]byte, alg.signatureSize())
		if err := parseSignature(sig, r.Signature); err != nil {
			b.Fatal(err)
		}
		v := verifier(keySet(b, key), noon)
		v.Replay = NewMemoryStore(10)
		return v, r, in.AppendBase(nil, &r.Message), sig, key
	}
	check := func(b *testing.B, v *Verifier, r *Request) func() {
		return func() {
			if _, reason := v.Verify(r); reason != "" {
				b.Fatal(reason)
			}
		}
	}
	b.Run("hmac-sha256", func(b *testing.B) {
		v, r, base, sig, key := setup(b, AlgHMACSHA256)
		compare(b, "x-raw-hmac", func() {
			mac := hmac.New(sha256.New, key.secret)
			mac.Write(base)
			if !hmac.Equal(mac.Sum(nil), sig) {
				b.Fatal("baseline")
			}
		}, check(b, v, r))
	})
	b.Run("ed25519", func(b *testing.B) {
		v, r, base, sig, key := setup(b, AlgEd25519)
		compare(b, "x-raw-ed25519", func() {
			if !ed25519.Verify(key.public, base, sig) {
				b.Fatal("baseline")
			}
		}, check(b, v, r))
	})
	b.Run("hostile-8kB-input", func(b *testing.B) {
		v, r, _, _, _ := setup(b, AlgHMACSHA256)
		hostile := *r
		hostile.SignatureInput = strings.Repeat(goodInput+", ", 8192/len(goodInput)+1)[:8192]
		compare(b, "x-honest", check(b, v, r), func() {
			if _, reason := v.Verify(&hostile); reason != ReasonMalformedEvidence {
				b.Fatal(reason)
			}
		})
	})
}

func BenchmarkSignOverRaw(b *testing.B) {
	for _, alg := range []Algorithm{AlgHMACSHA256, AlgEd25519} {
		b.Run(string(alg), func(b *testing.B) {
			key := newKey(b, "k1", alg)
			s, err := NewSigner(key, 30*time.Second)
			if err != nil {
				b.Fatal(err)
			}
			m := signed(b, key, honest(), noon)
			in, err := ParseSignatureInput(m.SignatureInput)
			if err != nil {
				b.Fatal(err)
			}
			base := in.AppendBase(nil, &m)
			compare(b, "x-raw", func() { key.sign(base) }, func() {
				if err := s.Sign(&m, noon); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// BenchmarkReplayInsert inserts into a store that holds a million live nonces
// and reports its memory. Expired ones leave on the way.
func BenchmarkReplayInsert(b *testing.B) {
	const live = 1_000_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := NewMemoryStore(live + live/10)
	var n Nonce
	now := noon
	insert := func() {
		rand.Read(n[:])
		if err := s.Remember(n, holder, now, now.Add(95*time.Second)); err != nil {
			b.Fatal(err)
		}
	}
	// A window of 97 s at this rate is a million.
	const step = 97 * time.Second / live
	for range live {
		insert()
		now = now.Add(step)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	held := s.Len()
	b.ResetTimer()
	for b.Loop() {
		insert()
		now = now.Add(step)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB/million")
	b.ReportMetric(float64(held), "live")
	runtime.KeepAlive(s)
}
