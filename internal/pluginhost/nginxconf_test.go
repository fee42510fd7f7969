package pluginhost

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestParseNginxMaps(t *testing.T) {
	t.Parallel()
	values := map[string]string{"host": "a.example", "http_x": "X"}
	for name, tt := range map[string]struct{ conf, want string }{
		"a default":              {`map "" $v { default "1 $host"; }`, "1 a.example"},
		"escaped line feeds":     {`map "" $v { default "1\n$host\t\"q\"\\"; }`, "1\na.example\t\"q\"\\"},
		"literal line feeds":     {"map \"\" $v {\n default \"1\n$host\";\n}", "1\na.example"},
		"braces":                 {`map "" $v { default "${host}x${http_x}"; }`, "a.examplexX"},
		"no quotes":              {`map "" $v { default $host; }`, "a.example"},
		"braces without quotes":  {`map "" $v { default ${host}:1; }`, "a.example:1"},
		"single quotes":          {`map '' $v { default 'a"b'; }`, `a"b`},
		"a comment":              {"# map\nmap \"\" $v { # x }\n default a; # }\n}", "a"},
		"volatile":               {`map "" $v { volatile; default a; }`, "a"},
		"an unset variable":      {`map "" $v { default "[$http_none]"; }`, "[]"},
		"a source":               {`map $host $v { default no; A.Example yes; }`, "yes"},
		"no default":             {`map $http_none $v { x yes; }`, ""},
		"nothing":                {"", ""},
		"upper-case variables":   {`map "" $V { default $HOST; }`, "a.example"},
		"another escape":         {`map "" $v { default "\d"; }`, `\d`},
		"a directive":            {`set $v 1;`, `!line 1: directive "set"`},
		"a block not closed":     {`map "" $v { default a;`, "!not closed"},
		"a quote not closed":     {"\nmap \"\" $v { default \"a; }", "!line 2: a quoted string"},
		"no variable":            {`map "" v { default a; }`, `!invalid variable name "v"`},
		"an empty variable":      {`map "" $v { default "a$"; }`, "!a '$' without"},
		"a brace not closed":     {`map "" $v { default "${host"; }`, "!closing bracket"},
		"a regular expression":   {`map $host $v { ~^a b; }`, `!map entry "~^a"`},
		"an include":             {`map $host $v { include x; }`, `!map entry "include"`},
		"two defaults":           {`map "" $v { default a; default b; }`, "!a second default"},
		"the same variable":      {`map "" $v { default a; } map "" $v { default b; }`, "!mapped twice"},
		"no block":               {`map "" $v;`, "!map takes a source"},
		"an entry without value": {`map "" $v { default; }`, "!a map entry takes"},
		"too large":              {strings.Repeat("#", maxNginxConf+1), "!larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			maps, err := parseNginxMaps([]byte(tt.conf))
			if want, bad := strings.CutPrefix(tt.want, "!"); bad || err != nil {
				if !bad || err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v want %s", err, tt.want)
				}
				return
			}
			got := ""
			if m := maps["v"]; m != nil {
				got = m.value(func(name string) (string, bool) { v, ok := values[name]; return v, ok })
			}
			if got != tt.want {
				t.Errorf("got %q want %q", got, tt.want)
			}
		})
	}
}

func evidenceConf(t testing.TB) []byte {
	conf, err := os.ReadFile(filepath.Join("testdata", "evidence.conf"))
	if err != nil {
		t.Fatal(err)
	}
	return conf
}

func TestEvidenceVariable(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{settings: Settings{Nginx: evidenceConf(t)}})
	_, body := b.raw(t, "GET /a#b?c HTTP/1.1\r\nHost: A.Example:81\r\nX_Wallarm-Mode: block\r\nX-Wallarm-Mode: off\r\nConnection: Signature\r\nSignature: \xffs\r\nX-Do: vars wallarm_evidence\r\n\r\n")
	o := b.observed(t)
	value, err := strconv.Unquote(strings.TrimSpace(strings.TrimPrefix(body, "wallarm_evidence=")))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"1", o.RequestID, "127.0.0.1", "127.0.0.1", "GET", "a.example", "A.Example:81", "/a#b?c", "", "Signature",
		"", "", "", "block, off", "", "", "", "", "\xffs",
	}
	if got := strings.Split(value, "\n"); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if o.RoundTrips != 3 { // X-Do, the variable, the exit
		t.Errorf("%d round trips: %v", o.RoundTrips, o.Calls)
	}
}

// evidenceFields asks the test plugin for $wallarm_evidence and splits it as
// wallarm-gate does.
func evidenceFields(t *testing.T, body string) []string {
	t.Helper()
	return strings.Split(variables(t, body)["wallarm_evidence"], "\n")
}

func TestHTTP2EvidenceVariable(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{settings: Settings{Nginx: evidenceConf(t)}})
	a := b.ask(t, ":authority", "A.Example:81", ":method", "GET", "x_wallarm-mode", "block", ":path", "/a#b?c", "x-wallarm-mode", "off",
		"connection", "signature", "connection", " signature-input", "upgrade", "websocket", "signature", "\xffs ", "signature-input", "a", "signature-input", "b,\tc",
		"x.wallarm.token", "dropped", "cookie", "a=1", ":scheme", "ftp", "cookie", "x-wallarm-token=1", "x-do", "vars wallarm_evidence")
	o := b.observed(t)
	want := []string{
		"1", o.RequestID, "127.0.0.1", "127.0.0.1", "GET", "a.example", "A.Example:81", "/a#b?c", "websocket", "signature,  signature-input",
		"", "", "", "block, off", "", "", "", "a, b,\tc", "\xffs ",
	}
	if got := evidenceFields(t, a.body); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if o.RoundTrips != 3 { // x-do, the variable, the exit
		t.Errorf("%d round trips: %v", o.RoundTrips, o.Calls)
	}
}

// No byte of a client moves another field of $wallarm_evidence: it is refused,
// or it stands in the field that it was sent for.
func TestEvidenceBytes(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{settings: Settings{Nginx: evidenceConf(t)}})
	const ask = "vars wallarm_evidence"
	ways := map[string]func(path, host, value string) (status int, body string){
		"HTTP/1.1": func(path, host, value string) (int, string) {
			resp, body := b.raw(t, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\nX-Do: "+ask+"\r\nSignature: "+value+"\r\n\r\n")
			return resp.StatusCode, body
		},
		"HTTP/2": func(path, host, value string) (int, string) {
			a := b.ask(t, ":method", "GET", ":scheme", "http", ":authority", host, ":path", path, "x-do", ask, "signature", value)
			status, _ := strconv.Atoi(a.status)
			return status, a.body
		},
	}
	places := map[string]struct {
		field int // of $wallarm_evidence
		put   func(s string) (path, host, value string)
	}{
		"path":  {7, func(s string) (string, string, string) { return "/x?" + s + "y", "a", "v" }},
		"host":  {6, func(s string) (string, string, string) { return "/", "a" + s + "b", "v" }},
		"value": {18, func(s string) (string, string, string) { return "/", "a", "v" + s + "w" }},
	}
	for protocol, send := range ways {
		for place, p := range places {
			for c := range 256 {
				// Over HTTP/1.1 some bytes end the value or the request: they
				// are not sent there.
				if protocol == "HTTP/1.1" && (c == '\n' || place == "path" && c == ' ') {
					continue
				}
				path, host, value := p.put(string([]byte{byte(c)}))
				status, body := send(path, host, value)
				if o := b.observed(t); o.Status != status || o.Events > 1 {
					t.Errorf("%d %+v", status, o)
				}
				if status == 400 {
					continue
				}
				got := evidenceFields(t, body)
				want := []string{path, host, value}[map[string]int{"path": 0, "host": 1, "value": 2}[place]]
				if status != 200 || len(got) != 19 || got[p.field] != want {
					t.Errorf("%s, byte %#x in the %s: %d %q", protocol, c, place, status, got)
				}
				if c == 0 || c == '\r' || c == '\n' || place != "value" && (c <= ' ' || c == 0x7f) {
					t.Errorf("%s: byte %#x in the %s passed", protocol, c, place)
				}
			}
		}
	}
}

func TestNginxUnknownVariable(t *testing.T) {
	t.Parallel()
	h, _ := startHost(t, nil)
	for conf, want := range map[string]string{
		`map "" $v { default $nope; }`: `variable "v": unknown "nope" variable`,
		`map $nope $v { default 1; }`:  `unknown "nope" variable`,
		`set $a 1;`:                    `directive "set"`,

		`proxy_ignore_headers;`:             `proxy_ignore_headers takes names`,
		`grpc_ignore_headers A`:             `grpc_ignore_headers takes names`,
		`proxy_ignore_headers A { B; }`:     `proxy_ignore_headers takes names`,
		`proxy_ignore_headers A; set $a 1;`: `directive "set"`,
		`proxy_hide_header A;`:              `directive "proxy_hide_header"`,
	} {
		if _, err := NewGateway(h, Config{}, Settings{Nginx: []byte(conf)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", conf, err)
		}
	}
	// Maps that refer to each other end somewhere.
	g, err := NewGateway(h, Config{}, Settings{Nginx: []byte(`map "" $a { default "x$b"; } proxy_ignore_headers A B; grpc_ignore_headers A; map "" $b { default "y$a"; }`)})
	if err != nil {
		t.Fatal(err)
	}
	tx := &transaction{gw: g}
	if v, _ := tx.variable("a"); v != strings.Repeat("xy", maxMapDepth/2) {
		t.Errorf("%q", v)
	}
}

func FuzzNginxMaps(f *testing.F) {
	f.Add(evidenceConf(f))
	f.Add([]byte(`map $host $v { volatile; "a" "\n${x}"; default '$y'; } # c`))
	f.Fuzz(func(t *testing.T, conf []byte) {
		maps, err := parseNginxMaps(conf)
		if err != nil {
			return
		}
		for _, m := range maps {
			if v := m.value(func(name string) (string, bool) { return "", false }); len(v) > len(conf) {
				t.Fatalf("%d bytes out of %d", len(v), len(conf))
			}
		}
	})
}
