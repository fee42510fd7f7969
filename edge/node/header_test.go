package node

// Who the client was, and who may say so; evidence that a client forges.

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func TestForwarded(t *testing.T) {
	t.Parallel()
	back := newRecorder(t)
	n := start(t, back.addr, false, nil)
	direct := strangeIP
	for i, c := range []struct {
		name   string
		from   string
		header string
		client string // what the node states
		proto  string
		port   string
	}{
		{"through the ALB", albIP, "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443", "198.51.100.7", "https", "443"},
		{"forged before the ALB", albIP, "X-Forwarded-For: 10.9.9.9, 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443", "198.51.100.7", "https", "443"},
		{"forged loopback before the ALB", albIP, "X-Forwarded-For: 127.0.0.1, 198.51.100.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 80", "198.51.100.7", "http", "80"},
		{"through two balancers", albIP, "X-Forwarded-For: 198.51.100.7, 127.0.0.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443", "198.51.100.7", "https", "443"},
		{"two header lines", albIP, "X-Forwarded-For: 10.9.9.9\r\nX-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443", "198.51.100.7", "https", "443"},
		{"with a port", albIP, "X-Forwarded-For: 198.51.100.7:51234\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443", "198.51.100.7", "https", "443"},
		{"IPv6", albIP, "X-Forwarded-For: 2001:db8::7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443", "2001:db8::7", "https", "443"},
		{"IPv6 with a port", albIP, "X-Forwarded-For: [2001:db8::7]:51234\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443", "2001:db8::7", "https", "443"},
		{"no address at all", albIP, "X-Forwarded-For: unknown\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443", albIP, "https", "443"},
		{"nothing from the ALB", albIP, "X-Plain: 1", albIP, "http", ""},
		{"another scheme", albIP, "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: javascript\r\nX-Forwarded-Port: 4e3", "198.51.100.7", "http", ""},
		{"two schemes", albIP, "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https, http\r\nX-Forwarded-Port: 443, 80", "198.51.100.7", "http", ""},
		{"outside the ALB's range", direct, "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443", direct, "http", ""},
		{"outside, several", direct, "X-Forwarded-For: 198.51.100.7, 127.0.0.2\r\nX-Forwarded-Proto: https", direct, "http", ""},
		{"outside, X-Real-IP", direct, "X-Real-IP: 198.51.100.7\r\nForwarded: for=198.51.100.7;proto=https", direct, "http", ""},
		{"outside, underscores", direct, "X_Forwarded_For: 198.51.100.7\r\nX-Forwarded_Proto: https", direct, "http", ""},
		{"what Kong believes too", albIP, "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Path: /adm\r\nX-Forwarded-Prefix: /adm\r\nForwarded: host=evil.example", "198.51.100.7", "https", "443"},
	} {
		t.Run(c.name, func(t *testing.T) {
			trace := fmt.Sprintf("forwarded-%d", i)
			resp, _, err := n.exchange(t, c.from, "GET /x HTTP/1.1\r\nHost: "+nodeName+"\r\nX-Amzn-Trace-Id: "+trace+"\r\n"+c.header+"\r\nConnection: close\r\n\r\n")
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("%v, %v", resp, err)
			}
			got := back.find(trace)
			if len(got) != 1 {
				t.Fatalf("sent on %d times", len(got))
			}
			port := c.port
			if port == "" {
				port = fmt.Sprint(n.port)
			}
			for name, want := range map[string]string{
				"X-Wallarm-Client-Ip": c.client, "X-Real-IP": c.client, "X-Forwarded-For": c.client,
				"X-Forwarded-Proto": c.proto, "X-Forwarded-Port": port, "X-Forwarded-Host": nodeName,
			} {
				if v := got[0].values(name); len(v) != 1 || v[0] != want {
					t.Errorf("%s: sent on as %q, want %q once", name, v, want)
				}
			}
			for _, name := range []string{"X-Forwarded-Path", "X-Forwarded-Prefix", "Forwarded"} {
				if v := got[0].values(name); len(v) != 0 {
					t.Errorf("%s: sent on as %q", name, v)
				}
			}
			if e := n.logged(t, trace); e["client_ip"] != c.client || e["peer"] != c.from {
				t.Errorf("logged client %v and peer %v", e["client_ip"], e["peer"])
			}
		})
	}
}

var requestID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// Whatever a client sends under one of the nine names, in any spelling, the
// four that the node states arrive once and as stated, the others not at all.
func TestForgedEvidence(t *testing.T) {
	t.Parallel()
	back := newRecorder(t)
	n := start(t, back.addr, false, func(s *Settings) { s.Application = 7 })
	spellings := map[string]func(string) string{
		"canonical":   func(s string) string { return s },
		"lower":       strings.ToLower,
		"upper":       strings.ToUpper,
		"underscores": func(s string) string { return strings.ReplaceAll(s, "-", "_") },
		"mixed":       func(s string) string { return strings.Replace(s, "-", "_", 1) },
		"twice":       func(s string) string { return s + ": forged\r\n" + s },
		"both":        func(s string) string { return s + ": forged\r\n" + strings.ReplaceAll(s, "-", "_") },
		// A byte that nginx does not take for a name's, or a space before the colon.
		"dot":   func(s string) string { return strings.Replace(s, "-", ".", 1) },
		"space": func(s string) string { return s + " " },
	}
	for spelling, spell := range spellings {
		t.Run(spelling, func(t *testing.T) {
			trace := "forged-" + spelling
			raw := "GET /x HTTP/1.1\r\nHost: " + nodeName + "\r\nX-Amzn-Trace-Id: " + trace + "\r\n"
			for _, name := range evidence.Headers() {
				raw += spell(name) + ": forged\r\n"
			}
			resp, _, err := n.exchange(t, albIP, raw+"X-Forwarded-For: 198.51.100.7\r\nConnection: close\r\n\r\n")
			if err != nil {
				t.Fatal(err)
			}
			got := back.find(trace)
			if spelling == "space" && resp.StatusCode == 400 && len(got) == 0 {
				return
			}
			if resp.StatusCode != 200 || len(got) != 1 {
				t.Fatalf("got %d, sent on %d times", resp.StatusCode, len(got))
			}
			e := n.logged(t, trace)
			for _, name := range evidence.Headers() {
				v := got[0].values(name)
				var want []string
				switch name {
				case evidence.HeaderRequestID:
					want = []string{e["request_id"].(string)}
					if !requestID.MatchString(want[0]) {
						t.Errorf("request id %q", want[0])
					}
				case evidence.HeaderClientIP:
					want = []string{"198.51.100.7"}
				case evidence.HeaderMode:
					want = []string{"block"}
				case evidence.HeaderApplication:
					want = []string{"7"}
				}
				if !reflect.DeepEqual(v, want) {
					t.Errorf("%s: sent on as %q, want %q", name, v, want)
				}
			}
			for _, f := range got[0].fields {
				if f[1] == "forged" && !strings.Contains(f[0], ".") {
					t.Errorf("%s: sent on as the client forged it", f[0])
				}
			}
			// What arrives is what the attester wants of a node.
			m := evidence.Message{
				RequestID: got[0].values(evidence.HeaderRequestID)[0], ClientIP: got[0].values(evidence.HeaderClientIP)[0],
				Mode: got[0].values(evidence.HeaderMode)[0], Application: got[0].values(evidence.HeaderApplication)[0],
			}
			if err := m.CheckStatement(); err != nil {
				t.Errorf("the attester will not take the node's statement: %v", err)
			}
		})
	}
}

// The client's Connection header is the client's: it must not take away what
// the node states.
func TestConnectionHeader(t *testing.T) {
	t.Parallel()
	back := newRecorder(t)
	n := start(t, back.addr, false, nil)
	for i, value := range []string{"x-wallarm-mode, close", "X-Wallarm-Request-Id, close", "close, X-Forwarded-For, Host"} {
		trace := fmt.Sprintf("connection-%d", i)
		resp, _, err := n.exchange(t, albIP, "GET /x HTTP/1.1\r\nHost: "+nodeName+"\r\nX-Amzn-Trace-Id: "+trace+"\r\nConnection: "+value+"\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nTE: trailers\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\n\r\n")
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%q: %v, %v", value, resp, err)
		}
		got := back.find(trace)
		if len(got) != 1 {
			t.Fatalf("%q: sent on %d times", value, len(got))
		}
		for _, name := range []string{"X-Wallarm-Mode", "X-Wallarm-Request-Id", "X-Forwarded-For", "Host"} {
			if v := got[0].values(name); len(v) != 1 {
				t.Errorf("Connection: %s: %s arrives as %q", value, name, v)
			}
		}
		for _, name := range []string{"Connection", "Upgrade", "TE", "Keep-Alive"} {
			if v := got[0].values(name); len(v) != 0 {
				t.Errorf("Connection: %s: %s goes on as %q", value, name, v)
			}
		}
	}
}

// The statement holds for every client address that nginx can write.
func TestClientAddressForms(t *testing.T) {
	t.Parallel()
	back := newRecorder(t)
	n := start(t, back.addr, false, nil)
	for i, address := range []string{"::ffff:198.51.100.7", "2001:DB8:0:0::1", "fe80::1%eth0", "0.0.0.0", "255.255.255.255", "198.51.100.07", "198.51.100.7,", " 198.51.100.7 "} {
		trace := fmt.Sprintf("address-%d", i)
		resp, _, err := n.exchange(t, albIP, "GET /x HTTP/1.1\r\nHost: "+nodeName+"\r\nX-Amzn-Trace-Id: "+trace+"\r\nX-Forwarded-For: "+address+"\r\nConnection: close\r\n\r\n")
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%q: %v, %v", address, resp, err)
		}
		got := back.find(trace)
		if len(got) != 1 {
			t.Fatalf("%q: sent on %d times", address, len(got))
		}
		v := got[0].values(evidence.HeaderClientIP)
		if len(v) != 1 {
			t.Fatalf("%q: stated as %q", address, v)
		}
		if _, err := netip.ParseAddr(v[0]); err != nil {
			t.Errorf("%q: stated as %q", address, v[0])
		}
	}
}
