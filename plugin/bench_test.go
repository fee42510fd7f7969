package main

import (
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
