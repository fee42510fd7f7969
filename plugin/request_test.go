package main

import (
	"net/netip"
	"strings"
	"testing"
)

func TestCheckHost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, field, host string // host as nginx has it
		ok                bool
	}{
		{"same", "example.com", "example.com", true},
		{"case", "Example.COM", "example.com", true},
		{"port", "example.com:8443", "example.com", true},
		{"empty port", "example.com:", "example.com", true},
		{"final dot", "example.com.", "example.com", true},
		{"final dot and port", "example.com.:80", "example.com", true},
		{"address", "192.0.2.1:80", "192.0.2.1", true},
		{"IPv6", "[2001:db8::1]", "[2001:db8::1]", true},
		{"IPv6 and port", "[2001:DB8::1]:8443", "[2001:db8::1]", true},

		{"empty", "", "", false},
		{"empty, with the server's name", "", "localhost", false},
		{"absolute-form target", "good.example", "evil.example", false},
		{"port only", ":80", "", false},
		{"dot only", ".", "", false},
		{"two final dots", "example.com..", "example.com", false},
		{"port is no number", "example.com:80x", "example.com", false},
		{"port is too long", "example.com:000080", "example.com", false},
		{"two ports", "example.com:80:81", "example.com", false},
		{"user", "a@example.com", "example.com", false},
		{"joined duplicates", "example.com, example.com", "example.com", false},
		{"space", "example.com ", "example.com", false},
		{"NUL", "example.com\x00", "example.com", false},
		{"not ASCII", "ex\xe4mple.com", "ex\xe4mple.com", false},
		{"unclosed IPv6", "[2001:db8::1", "[2001:db8::1", false},
		{"something behind IPv6", "[2001:db8::1]x", "[2001:db8::1]", false},
		{"host in upper case is not nginx's", "Example.com", "Example.com", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if err := checkHost(c.field, c.host); (err == nil) != c.ok {
				t.Errorf("checkHost(%q, %q) = %v", c.field, c.host, err)
			}
		})
	}
}

func FuzzHostAgreement(f *testing.F) {
	f.Add("Example.com.:80", "example.com")
	f.Add("[::1]:80", "[::1]")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, field, host string) {
		if checkHost(field, host) != nil {
			return
		}
		// What agrees is the field itself but for case, a final dot and a port.
		if host == "" || !strings.HasPrefix(strings.ToLower(field), host) {
			t.Fatalf("%q agrees with %q", field, host)
		}
		rest := strings.TrimPrefix(field[len(host):], ".")
		if port, ok := strings.CutPrefix(rest, ":"); rest != "" && (!ok || strings.Trim(port, "0123456789") != "") {
			t.Fatalf("%q agrees with %q", field, host)
		}
		if strings.ContainsAny(host, "/\\ \t\r\n\x00") {
			t.Fatalf("host %q", host)
		}
	})
}

func TestSource(t *testing.T) {
	t.Parallel()
	for peer, want := range map[string]netip.Addr{
		"10.0.0.1":        netip.MustParseAddr("10.0.0.1"),
		"::ffff:10.0.0.1": netip.MustParseAddr("10.0.0.1"),
		"2001:db8::1":     netip.MustParseAddr("2001:db8::1"),
		"unix:":           {},
		"":                {},
		"10.0.0.1, 1.1":   {},
	} {
		v := variables{varPeer: peer}
		if got := v.source(); got != want {
			t.Errorf("peer %q is %v, want %v", peer, got, want)
		}
	}
}

func TestAsksUpgrade(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		upgrade, connection string
		want                bool
	}{
		{"", "", false},
		{"", "keep-alive, Signature", false},
		{"", "upgraded", false},
		{"", "x-upgrade", false},
		{"websocket", "", true},
		{"h2c", "Upgrade", true},
		{"", "Upgrade", true},
		{"", "keep-alive,\tuPgRaDe ", true},
		{"", ",,upgrade", true},
	} {
		v := variables{varUpgrade: c.upgrade, varConnection: c.connection}
		if got := v.asksUpgrade(); got != c.want {
			t.Errorf("Upgrade %q, Connection %q: %v", c.upgrade, c.connection, got)
		}
	}
}
