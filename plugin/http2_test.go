package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

// The same decisions over HTTP/2, where the Host is :authority, names are in
// lower case, nothing is cut off a value, and a field may come in pieces.

// fields2 is s as an HTTP/2 client sends it, pseudo-headers first.
func (s *sample) fields2() []headerField {
	fields := []headerField{{":method", s.method}, {":scheme", "https"}, {":authority", s.host}, {":path", s.target}}
	for _, f := range s.header {
		fields = append(fields, headerField{strings.ToLower(f.name), f.value})
	}
	return fields
}

// send2 sends one request over an HTTP/2 connection of its own.
func (g *testGateway) send2(tb testing.TB, peer string, fields []headerField) answer {
	tb.Helper()
	var wire, block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range fields {
		if err := encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value}); err != nil {
			tb.Fatal(err)
		}
	}
	wire.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&wire, nil)
	if err := framer.WriteSettings(); err != nil {
		tb.Fatal(err)
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		tb.Fatal(err)
	}

	client, server := net.Pipe()
	defer client.Close()
	go g.gateway.ServeConn(server, netip.AddrPortFrom(netip.MustParseAddr(peer), 40000))
	if err := client.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	g.mu.Lock()
	g.last = pluginhost.Observation{}
	g.mu.Unlock()
	go client.Write(wire.Bytes())

	a := answer{header: http.Header{}}
	var body strings.Builder
	decoder := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			a.status, _ = strconv.Atoi(f.Value)
			return
		}
		a.header.Add(f.Name, f.Value)
	})
	framer = http2.NewFramer(io.Discard, client)
	for ended := false; !ended; {
		frame, err := framer.ReadFrame()
		if err != nil {
			tb.Fatalf("no answer: %v", err)
		}
		switch f := frame.(type) {
		case *http2.HeadersFrame:
			if _, err := decoder.Write(f.HeaderBlockFragment()); err != nil {
				tb.Fatal(err)
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			body.Write(f.Data())
			ended = f.StreamEnded()
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			tb.Fatalf("no answer: %v", f)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	a.body, a.Observation = body.String(), g.last
	return a
}

func TestHTTP2Decisions(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	for path, joined := range map[string]bool{"joined": true, "one by one": false} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, joined, map[string]any{"jwks": e.inline})
			for _, c := range gateCases() {
				t.Run(c.name, func(t *testing.T) {
					if err := g.gateway.Reload(g.config(c.configFor(e))); err != nil {
						t.Fatal(err)
					}
					s := c.request(t, e, time.Now())
					if s.absolute != "" {
						// A :path is no place for a host: nginx refuses it.
						s.target = "https://" + s.absolute + s.target
						if a := g.send2(t, s.peer, s.fields2()); a.status != http.StatusBadRequest || a.Events != 0 {
							t.Errorf("status %d, %d events", a.status, a.Events)
						}
						return
					}
					a := g.send2(t, s.peer, s.fields2())
					c.checkAnswer(t, a, s, joined)
					if a.Events != 0 && a.Protocol != "HTTP/2.0" {
						t.Errorf("protocol %q", a.Protocol)
					}
				})
			}
		})
	}
}

// What only HTTP/2 can say.
func TestHTTP2Requests(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	mode := strings.ToLower(evidence.HeaderMode)
	edit := func(fields []headerField, name string, change func(headerField) []headerField) []headerField {
		var out []headerField
		for _, f := range fields {
			if f.name == name {
				out = append(out, change(f)...)
			} else {
				out = append(out, f)
			}
		}
		return out
	}
	cases := []struct {
		name     string
		change   func([]headerField) []headerField
		status   int
		decision decision // "" where nginx answers
		reason   evidence.Reason
	}{
		{"as it is", func(f []headerField) []headerField { return f }, 200, allow, ""},
		{"pseudo-headers last", func(f []headerField) []headerField { return append(f[4:len(f):len(f)], f[:4]...) }, 200, allow, ""},
		{"host for :authority", func(f []headerField) []headerField {
			return edit(f, ":authority", func(f headerField) []headerField { return []headerField{{"host", f.value}} })
		}, 200, allow, ""},
		{"two cookies", func(f []headerField) []headerField {
			return append(f, headerField{"cookie", "a=1"}, headerField{"cookie", "x-wallarm-mode=off"})
		}, 200, allow, ""},
		{"host and :authority", func(f []headerField) []headerField { return append(f, headerField{"host", "api.example.com"}) }, 400, "", ""},
		{"an upper-case name", func(f []headerField) []headerField { return append(f, headerField{"X-Wallarm-Mode", "block"}) }, 400, "", ""},
		{"a line feed in evidence", func(f []headerField) []headerField {
			return edit(f, mode, func(f headerField) []headerField { return []headerField{{f.name, f.value + "\n7"}} })
		}, 400, "", ""},
		{"a space before evidence", func(f []headerField) []headerField { // over HTTP/1.1 nginx cuts it off
			return edit(f, mode, func(f headerField) []headerField { return []headerField{{f.name, " " + f.value}} })
		}, 403, deny, evidence.ReasonMalformedEvidence},
		{"evidence again as a field of its own", func(f []headerField) []headerField {
			return edit(f, mode, func(f headerField) []headerField { return []headerField{f, {"x_wallarm_mode", f.value}} })
		}, 403, deny, evidence.ReasonMalformedEvidence},
		{"an empty field beside evidence", func(f []headerField) []headerField {
			return append(f, headerField{mode, ""})
		}, 403, deny, evidence.ReasonMalformedEvidence},
		{"a signature in two fields", func(f []headerField) []headerField {
			return edit(f, "signature", func(f headerField) []headerField {
				return []headerField{{f.name, f.value[:20]}, {f.name, f.value[20:]}}
			})
		}, 403, deny, evidence.ReasonMalformedEvidence},
		{"another :authority", func(f []headerField) []headerField {
			return edit(f, ":authority", func(headerField) []headerField { return []headerField{{":authority", "api.example.com.evil"}} })
		}, 403, deny, evidence.ReasonBadSignature},
		{"user information in :authority", func(f []headerField) []headerField {
			return edit(f, ":authority", func(f headerField) []headerField { return []headerField{{":authority", "x@" + f.value}} })
		}, 403, deny, evidence.ReasonMalformedEvidence},
		{"another :scheme", func(f []headerField) []headerField { // stands for nothing
			return edit(f, ":scheme", func(headerField) []headerField { return []headerField{{":scheme", "ftp"}} })
		}, 200, allow, ""},
		{"a WebSocket of HTTP/2", func(f []headerField) []headerField {
			f = edit(f, ":method", func(headerField) []headerField { return []headerField{{":method", "CONNECT"}} })
			return append(f, headerField{":protocol", "websocket"})
		}, 400, "", ""},
		{"a WebSocket of HTTP/1.1", func(f []headerField) []headerField { return append(f, headerField{"upgrade", "websocket"}) }, 403, deny, evidence.ReasonUpgradeNotAllowed},
	}
	for path, joined := range map[string]bool{"joined": true, "one by one": false} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, joined, map[string]any{"jwks": e.inline})
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					s := signed(t, message(), e.key, time.Now())
					a := g.send2(t, s.peer, c.change(s.fields2()))
					value, _ := a.Serialized["wallarm_gate"].(map[string]any)
					reason, _ := value["reason"].(string)
					if a.status != c.status || reason != string(c.reason) || a.Proxied != (c.decision == allow) || (a.Events == 0) != (c.decision == "") {
						t.Errorf("status %d, reason %q, proxied %v, %d events: %s", a.status, reason, a.Proxied, a.Events, a.Err)
					}
				})
			}
		})
	}
}

// A request that was seen over one version is spent for the other.
func TestHTTP2Replay(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	g := startGateway(t, true, map[string]any{"jwks": e.inline})
	s := signed(t, message(), e.key, time.Now())
	if a := g.send2(t, s.peer, s.fields2()); a.status != http.StatusOK {
		t.Fatalf("status %d", a.status)
	}
	for version, a := range map[string]answer{"HTTP/1.1": g.send(t, s.peer, s.method, s.bytes()), "HTTP/2": g.send2(t, s.peer, s.fields2())} {
		value, _ := a.Serialized["wallarm_gate"].(map[string]any)
		if a.status != http.StatusForbidden || value["reason"] != string(evidence.ReasonReplayed) {
			t.Errorf("%s: status %d, %v", version, a.status, value)
		}
	}
}
