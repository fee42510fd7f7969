package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func TestStatement(t *testing.T) {
	t.Parallel()
	r := start(t, options{})
	without := func(name string) string {
		var kept strings.Builder
		for line := range strings.Lines(statement) {
			if !strings.HasPrefix(line, name+":") {
				kept.WriteString(line)
			}
		}
		if kept.Len() == len(statement) {
			t.Fatalf("statement has no %s", name)
		}
		return kept.String()
	}
	tests := []struct {
		name, fields string
		code         int
	}{
		{"complete", statement, 200},
		{"other case", strings.ToLower(statement), 200},
		{"upper case names", strings.ReplaceAll(statement, "X-Wallarm-Mode", "X-WALLARM-MODE"), 200},
		{"no application", without("X-Wallarm-Application") + "X-Wallarm-Application: -1\r\n", 200},
		{"IPv6 client", without("X-Wallarm-Client-Ip") + "X-Wallarm-Client-Ip: 2001:db8::1\r\n", 200},
		{"nothing stated", "", 502},
		{"no request id", without("X-Wallarm-Request-Id"), 502},
		{"no client", without("X-Wallarm-Client-Ip"), 502},
		{"no mode", without("X-Wallarm-Mode"), 502},
		{"no application field", without("X-Wallarm-Application"), 502},
		{"mode twice", statement + "X-Wallarm-Mode: block\r\n", 502},
		{"mode twice, other spelling", statement + "X_Wallarm_Mode: block\r\n", 502},
		{"mode in another spelling beside it", statement + "x-wallarm_mode: off\r\n", 502},
		{"client twice", statement + "X-Wallarm-Client_Ip: 198.51.100.1\r\n", 502},
		{"request id twice", "x_wallarm_request_id: " + strings.Repeat("f", 32) + "\r\n" + statement, 502},
		{"application twice", statement + "X-Wallarm-Application: 4\r\n", 502},
		{"list in one field", without("X-Wallarm-Mode") + "X-Wallarm-Mode: block, off\r\n", 502},
		{"unknown mode", without("X-Wallarm-Mode") + "X-Wallarm-Mode: Block\r\n", 502},
		{"empty mode", without("X-Wallarm-Mode") + "X-Wallarm-Mode:\r\n", 502},
		{"application zero", without("X-Wallarm-Application") + "X-Wallarm-Application: 0\r\n", 502},
		{"address with port", without("X-Wallarm-Client-Ip") + "X-Wallarm-Client-Ip: 203.0.113.7:443\r\n", 502},
		{"short request id", without("X-Wallarm-Request-Id") + "X-Wallarm-Request-Id: 0123\r\n", 502},
		{"upper-case request id", without("X-Wallarm-Request-Id") + "X-Wallarm-Request-Id: " + strings.ToUpper(requestID) + "\r\n", 502},
	}
	for _, tt := range tests {
		code, body, err := r.raw("GET /a HTTP/1.1\r\nHost: api.example.com\r\n" + tt.fields + "\r\n")
		if err != nil || code != tt.code {
			t.Errorf("%s: answer %d %q, error %v; want %d", tt.name, code, body, err, tt.code)
		}
		if got := r.gateway.take(); len(got) != 0 && tt.code != 200 {
			t.Errorf("%s: was forwarded", tt.name)
		}
	}
}

// onWire sends fields to an attester and returns the request as its bytes
// reached the gateway.
func onWire(t *testing.T, fields string) (*head, *gate, *rig) {
	t.Helper()
	heads := make(chan *head, 1)
	backend := rawBackend(t, func(_ int, c net.Conn, r *bufio.Reader) {
		h, err := readHead(r)
		if err != nil {
			return
		}
		heads <- h
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	r := start(t, options{backend: backend})
	code, body, err := r.raw("GET /a HTTP/1.1\r\nHost: api.example.com\r\n" + fields + "\r\n")
	if err != nil || code != 200 {
		t.Fatalf("answer %d %q, error %v", code, body, err)
	}
	return <-heads, newGate(r.set, r.a.keys.wall), r
}

func TestEvidenceOnTheWire(t *testing.T) {
	t.Parallel()
	forged := "X-Wallarm-Node: evil\r\nx_wallarm_node: evil\r\nX-Wallarm-Inspection: active\r\nX_Wallarm-Inspection: active\r\n" +
		"Signature: wallarm=:AAAA:\r\nsignature: sig1=:BBBB:\r\nSignature-Input: wallarm=()\r\nSignature_Input: x=()\r\n" +
		"X-Wallarm-Token: guess\r\nX_WALLARM_TOKEN: guess\r\nX-wallarm_token: guess\r\n"
	h, gate, r := onWire(t, forged+statement+forged)
	for _, name := range evidence.Headers() {
		var found []string
		for _, f := range h.fields {
			if evidence.FoldHeader(f[0]) == evidence.FoldHeader(name) {
				found = append(found, f[0])
			}
		}
		want := []string{name}
		if name == evidence.HeaderToken {
			want = nil
		}
		if !slices.Equal(found, want) {
			t.Errorf("%s arrives as %q, want %q", name, found, want)
		}
	}
	m, err := h.message()
	if err != nil {
		t.Fatal(err)
	}
	a, reason := gate.verify(m, false)
	if reason != "" {
		t.Fatalf("refused: %s (%s)", reason, a.Detail)
	}
	if a.Node != "node-1" || a.Mode != evidence.ModeBlock || a.Application != 3 || a.RequestID != requestID || a.KeyID != "test-key" {
		t.Errorf("attestation %+v", a)
	}
	if got := r.metric("wallarm_attester_requests_total{code=\"200\"}"); got != "1" {
		t.Errorf("requests_total is %q, want 1", got)
	}
}

func TestConnectionField(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, fields, want string
		gone, kept         []string
	}{
		{"none", "", "Signature, Signature-Input", nil, nil},
		{"close", "Connection: close\r\n", "Signature, Signature-Input", nil, nil},
		{"keep-alive", "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n", "Signature, Signature-Input", []string{"Keep-Alive"}, nil},
		{"names evidence", "Connection: x-wallarm-mode, Signature, X-Wallarm-Client-Ip\r\n", "Signature, Signature-Input", nil,
			[]string{"X-Wallarm-Mode", "X-Wallarm-Client-Ip", "Signature"}},
		{"names forwarding fields", "Connection: X-Forwarded-For, X-Forwarded-Proto\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n",
			"Signature, Signature-Input", nil, []string{"X-Forwarded-For", "X-Forwarded-Proto"}},
		{"names a field", "Connection: x-hop\r\nX-Hop: 1\r\nX-End: 2\r\n", "Signature, Signature-Input", []string{"X-Hop"}, []string{"X-End"}},
		{"upgrade", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "Upgrade, Signature, Signature-Input", nil, []string{"Upgrade"}},
		{"upgrade among others", "Connection: keep-alive, upgrade, x-wallarm-mode\r\nUpgrade: websocket\r\n", "Upgrade, Signature, Signature-Input", nil, []string{"Upgrade"}},
		{"upgrade not named", "Upgrade: websocket\r\n", "Signature, Signature-Input", []string{"Upgrade"}, nil},
		{"trailers", "TE: trailers\r\n", "Signature, Signature-Input", nil, []string{"Te"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, gate, _ := onWire(t, tt.fields+statement)
			if got := h.all("Connection"); len(got) != 1 || got[0] != tt.want {
				t.Errorf("Connection is %q, want once %q", got, tt.want)
			}
			for _, name := range tt.gone {
				if len(h.all(name)) != 0 {
					t.Errorf("%s arrives", name)
				}
			}
			for _, name := range tt.kept {
				if len(h.all(name)) != 1 {
					t.Errorf("%s arrives %d times, want once", name, len(h.all(name)))
				}
			}
			m, err := h.message()
			if err != nil {
				t.Fatal(err)
			}
			if _, reason := gate.verify(m, len(h.all("Upgrade")) > 0); reason != "" {
				t.Errorf("refused: %s", reason)
			}
		})
	}
}

func TestOtherFieldsArriveUnchanged(t *testing.T) {
	t.Parallel()
	fields := [][2]string{
		{"X-Forwarded-For", "203.0.113.7"},
		{"X-Forwarded-Proto", "https"},
		{"X-Forwarded-Port", "443"},
		{"X-Forwarded-Host", "api.example.com"},
		{"Forwarded", `for="[2001:db8::1]";proto=https`},
		{"Cookie", "name=J\xf6rg"},
		{"Accept", "*/*"},
		{"Accept", "text/html"},
		{"X-Empty", ""},
	}
	for i := range 150 {
		fields = append(fields, [2]string{fmt.Sprintf("X-Many-%d", i), "1"})
	}
	var lines strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&lines, "%s: %s\r\n", f[0], f[1])
	}
	h, _, _ := onWire(t, lines.String()+statement)
	for _, f := range fields {
		if !slices.Contains(h.all(f[0]), f[1]) {
			t.Errorf("%s: %q arrives as %q", f[0], f[1], h.all(f[0]))
		}
	}
	// Evidence has 8 fields; and Host. With so many no Connection names them.
	if want := len(fields) + 9; len(h.fields) != want {
		t.Errorf("%d fields arrive, want %d: %q", len(h.fields), want, h.fields)
	}
}

// Kong finds the names in Connection only among the first 100 fields. Where it
// might not, nothing is named, so that the plugin does the removal.
func TestConnectionNamesTheSignature(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		extra   int
		upgrade bool
		want    []string
	}{
		{"few", 0, false, []string{connectionPlain}},
		{"as many as it may be", maxNamedFields - 8, false, []string{connectionPlain}},
		{"one more", maxNamedFields - 7, false, nil},
		{"upgrade", 0, true, []string{connectionUpgrade}},
		{"upgrade and many", 100, true, []string{upgradeOnly}},
	} {
		r := &http.Request{Method: "GET", Header: http.Header{"Connection": {"close"}}}
		for i := range tt.extra {
			r.Header.Add("Accept", strconv.Itoa(i))
		}
		if tt.upgrade {
			r.Header.Set("Upgrade", "websocket")
			r.Header.Set("Connection", "upgrade")
		}
		var x exchange
		var err error
		if x.head, err = x.appendHead(nil, r); err != nil {
			t.Fatal(err)
		}
		for range 2 { // attempts
			whole, err := x.complete()
			if err != nil {
				t.Fatal(err)
			}
			h, err := readHead(bufio.NewReader(bytes.NewReader(whole)))
			if err != nil {
				t.Fatal(err)
			}
			if got := h.all("Connection"); !slices.Equal(got, tt.want) {
				t.Errorf("%s: Connection is %q, want %q", tt.name, got, tt.want)
			}
		}
	}
}

// FuzzStatement: readStatement accepts only a header in which each of the four
// stands once over all spellings, and appendHead leaves no spelling and no line
// break.
func FuzzStatement(f *testing.F) {
	f.Add("X-Wallarm-Mode", "block", "x_wallarm-Mode", "off")
	f.Add("X-Wallarm-Token", "t", "Signature", "s")
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string) {
		h := http.Header{}
		state(h)
		h[name1] = append(h[name1], value1)
		h[name2] = append(h[name2], value2)
		var m evidence.Message
		err := readStatement(h, &m)
		extra := false
		for _, name := range []string{name1, name2} {
			for _, s := range stated {
				extra = extra || evidence.FoldHeader(name) == evidence.FoldHeader(s)
			}
		}
		if (err == nil) == extra {
			t.Fatalf("%q, %q: error %v, a second spelling: %v", name1, name2, err, extra)
		}
		if err == nil && (m.Mode != "block" || m.RequestID != requestID || m.ClientIP != "203.0.113.7" || m.Application != "3") {
			t.Fatalf("statement read as %+v", m)
		}
		x := exchange{evidence: evidence.Message{Method: "GET", Target: "/", Authority: "a"}}
		out, err := x.appendHead(nil, &http.Request{Method: "GET", Header: h})
		if err != nil || strings.ContainsAny(name1+name2, ":\r\n ") {
			return // net/http lets no such name in
		}
		if bytes.Count(out, []byte("\n")) != bytes.Count(out, []byte("\r\n")) || bytes.Contains(out, []byte("\r\n\r\n")) {
			t.Fatalf("a value breaks the line: %q", out)
		}
		for line := range strings.Lines(string(out)) {
			name, _, _ := strings.Cut(line, ":")
			if evidence.IsHeader(name) {
				t.Fatalf("%q is left", name)
			}
		}
	})
}
