package main

// What is said about a request: a line in Kong's log for a refusal, at most one
// a second for each reason, and a value for Kong's log serializer. Values of the
// client's are quoted and cut; secrets and signatures are never among them.

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Kong/go-pdk"
	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"github.com/wallarm-gate/wallarm-gate/evidence"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	maxLogged   = 128         // bytes of one value in a log line
	logInterval = time.Second // for lines of one kind
)

// quote makes any bytes fit for a log line: ASCII, quoted, cut.
func quote(s string) string {
	if len(s) > maxLogged {
		return strconv.QuoteToASCII(s[:maxLogged]) + "..."
	}
	return strconv.QuoteToASCII(s)
}

// limiter lets one line of a kind through in each interval. The kinds are few:
// reasons, which are a closed list. The zero value is ready.
type limiter struct {
	mu    sync.Mutex
	kinds map[evidence.Reason]*lineKind
}

type lineKind struct {
	next       time.Time
	suppressed int
}

// take reports whether a line may be written, and how many could not since the
// last one.
func (l *limiter) take(kind evidence.Reason, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kinds == nil {
		l.kinds = make(map[evidence.Reason]*lineKind)
	}
	k := l.kinds[kind]
	if k == nil {
		k = new(lineKind)
		l.kinds[kind] = k
	}
	// A clock that was set back must not silence the log.
	if now.Before(k.next) && k.next.Sub(now) <= logInterval {
		k.suppressed++
		return 0, false
	}
	suppressed, k.suppressed, k.next = k.suppressed, 0, now.Add(logInterval)
	return suppressed, true
}

// record writes what config.log asks for, and the lines that wait.
func (c *Config) record(g *gate, kong *pdk.PDK, v *verdict) error {
	select {
	case n := <-g.notices:
		write := kong.Log.Err
		if n.crit {
			write = kong.Log.Crit
		}
		if err := write(n.line); err != nil {
			return fmt.Errorf("write to the log: %w", err)
		}
	default:
	}
	if err := c.writeLine(g, kong, v); err != nil {
		return fmt.Errorf("write to the log: %w", err)
	}
	if c.logged == logOff || c.logged == logDenied && v.decision == allow {
		return nil
	}
	value := kong_plugin_protocol.KV{K: "wallarm_gate", V: structpb.NewStructValue(v.serialized(g.now()))}
	if err := kong.Log.Ask("kong.log.set_serialize_value", &value, nil); err != nil {
		return fmt.Errorf("set the serialized value: %w", err)
	}
	return nil
}

// writeLine writes the line about a refusal. What is wrong with the gate itself
// is said whatever config.log is.
func (c *Config) writeLine(g *gate, kong *pdk.PDK, v *verdict) error {
	if v.decision == allow || v.decision == exempt {
		return nil
	}
	write, own := kong.Log.Warn, false
	switch v.reason {
	case evidence.ReasonMisconfigured:
		write, own = kong.Log.Crit, true
	case evidence.ReasonInternalError, evidence.ReasonReplayStoreFull, evidence.ReasonReplayStoreError:
		write, own = kong.Log.Err, true
	}
	if c.logged == logOff && !own {
		return nil
	}
	lines := &g.lines
	if v.reason == evidence.ReasonMisconfigured {
		lines = &c.lines // each configuration says its own mistake
	}
	suppressed, ok := lines.take(v.reason, g.now())
	if !ok {
		return nil
	}
	return write(v.line(suppressed))
}

// line is the log line. The query is left out: it may hold a client's secret.
func (v *verdict) line(suppressed int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "decision=%s reason=%s", v.decision, v.reason)
	if v.detail != "" {
		b.WriteString(" detail=")
		b.WriteString(strconv.QuoteToASCII(v.detail))
	}
	path, _, _ := strings.Cut(v.vars[varTarget], "?")
	for _, field := range []struct{ name, value string }{
		{"request_id", v.vars[varRequestID]}, {"source", v.vars[varPeer]}, {"method", v.vars[varMethod]},
		{"host", v.vars[varHostField]}, {"path", path}, {"key_id", v.att.KeyID}, {"node", v.att.Node},
		{"evidence_id", v.att.RequestID},
	} {
		if field.value != "" {
			b.WriteByte(' ')
			b.WriteString(field.name)
			b.WriteByte('=')
			b.WriteString(quote(field.value))
		}
	}
	if suppressed > 0 {
		fmt.Fprintf(&b, " suppressed=%d", suppressed)
	}
	return b.String()
}

// serialized is the value of wallarm_gate in Kong's log serializer. Unverified
// values have been found well-formed by the verifier, or are not in it.
func (v *verdict) serialized(now time.Time) *structpb.Struct {
	fields := map[string]*structpb.Value{"decision": structpb.NewStringValue(string(v.decision))}
	text := func(name, value string) {
		if value != "" {
			if q := quote(value); q != `"`+value+`"` {
				value = q // not plain ASCII: log pipelines get it as text all the same
			}
			fields[name] = structpb.NewStringValue(value)
		}
	}
	text("reason", string(v.reason))
	text("key_id", v.att.KeyID)
	text("request_id", v.att.RequestID)
	text("node", v.att.Node)
	if v.att.RequestID != "" { // the statement was well-formed
		text("mode", v.att.Mode.String())
		if !v.byToken {
			text("inspection", v.att.Inspection.String())
		}
	}
	if !v.att.Created.IsZero() {
		fields["age"] = structpb.NewNumberValue(now.Sub(v.att.Created).Seconds())
	}
	return &structpb.Struct{Fields: fields}
}
