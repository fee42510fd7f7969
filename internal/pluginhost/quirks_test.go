package pluginhost

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPass(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	resp, body, o := b.do(t, "")
	if resp.StatusCode != 200 || !strings.HasPrefix(body, "GET /x host=127.0.0.1:") || resp.Header.Get("X-Upstream") != "echo" {
		t.Fatalf("%d %q %v", resp.StatusCode, body, resp.Header)
	}
	if o.Events != 1 || o.RoundTrips != 1 || !slices.Equal(o.Calls, []string{"kong.nginx.get_var"}) || !o.Proxied || o.Exited || o.Route != "all" || o.Err != "" {
		t.Errorf("observation %+v", o)
	}
	if len(o.RequestID) != 32 {
		t.Errorf("request id %q", o.RequestID)
	}
}

func TestVariables(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	tests := []struct{ name, request, variable, want string }{
		{"duplicates are joined", "X-A: 1\r\nX-A: 2\r\n", "http_x_a", "1, 2"},
		{"every mix of _ and - fills a variable", "X_A-b: 1\r\nx-a_B: 2\r\nX-A-B: 3\r\n", "http_x_a_b", "1, 2, 3"},
		{"Host takes its exact name only", "", "http_host", "A.Example:80"},
		{"$host is lower case without port", "", "host", "a.example"},
		{"cookies are joined with ;", "Cookie: a=1\r\nCookie: b=2\r\n", "http_cookie", "a=1; b=2"},
		{"User_Agent is no User-Agent", "User_Agent: x\r\n", "http_user_agent", ""},
		{"latin-1 stays as it is", "X-A: caf\xe9\r\n", "http_x_a", "caf\xe9"},
		{"the raw target", "", "request_uri", "/a%2Fb/../c?x=1&y=%20"},
		{"the decoded path", "", "uri", "/a/c"},
		{"the arguments", "", "args", "x=1&y=%20"},
		{"is_args", "", "is_args", "?"},
		{"the method", "", "request_method", "GET"},
		{"the protocol", "", "server_protocol", "HTTP/1.1"},
		{"the scheme", "", "scheme", "http"},
		{"the peer", "", "realip_remote_addr", "127.0.0.1"},
		{"variable names fold their case", "X-A: 1\r\n", "HTTP_X_A", "1"},
		{"no such variable", "", "wallarm_evidence", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, body := b.raw(t, "GET /a%2Fb/../c?x=1&y=%20 HTTP/1.1\r\nHost: A.Example:80\r\nX-Do: vars "+tt.variable+"\r\n"+tt.request+"\r\n")
			if want := fmt.Sprintf("%s=%q\n", tt.variable, tt.want); body != want {
				t.Errorf("got %s want %s", body, want)
			}
		})
	}
	t.Run("request_length is the head's", func(t *testing.T) {
		request := "GET / HTTP/1.1\r\nHost: a\r\nX-Do: vars request_length\r\n\r\n"
		if _, body := b.raw(t, request); body != fmt.Sprintf("request_length=%q\n", fmt.Sprint(len(request))) {
			t.Error(body)
		}
	})
}

func TestAbsoluteForm(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	_, body := b.raw(t, "GET http://One.example:8080/p?q HTTP/1.1\r\nHost: two.example\r\nX-Do: vars host,http_host,request_uri\r\n\r\n")
	if want := "host=\"one.example\"\nhttp_host=\"two.example\"\nrequest_uri=\"/p?q\"\n"; body != want {
		t.Errorf("got %q want %q", body, want)
	}
}

func TestGetHeader(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	many := slices.Repeat([]string{"X-Fill: y"}, 120)
	tests := []struct {
		name, ask, want string
		fields          []string
	}{
		{"the first of duplicates", "x-a", `"1" <nil>`, []string{"X-A: 1", "X-A: 2"}},
		{"another spelling", "x-a", `"1" <nil>`, []string{"X_A: 1"}},
		{"absent", "x-a", `"" <nil>`, nil},
		{"empty", "x-a", `"" <nil>`, []string{"X-A:"}},
		{"a comma in another spelling is not found", "x-a", `"" <nil>`, []string{"X_A: 1, 2"}},
		{"a comma beyond the first 100 fields is not found", "x-a", `"" <nil>`, append(slices.Clone(many), "X-A: 1, 2")},
		{"beyond the first 100 fields without a comma", "x-a", `"1" <nil>`, append(slices.Clone(many), "X-A: 1")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, body, _ := b.do(t, "header "+tt.ask, tt.fields...); body != tt.want {
				t.Errorf("got %s want %s", body, tt.want)
			}
		})
	}
}

func TestGetHeaders(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	var many []string
	for i := range 150 {
		many = append(many, fmt.Sprintf("X-%d: y", i))
	}
	if _, body, _ := b.do(t, "headers -1", many...); !strings.HasPrefix(body, "100 ") {
		t.Errorf("the default is not 100 headers: %.20q", body)
	}
	if _, body, _ := b.do(t, "headers 1000", many...); !strings.HasPrefix(body, "152 ") {
		t.Errorf("not all 152 headers: %.20q", body)
	}
	if resp, _, o := b.do(t, "headers 1001"); resp.StatusCode != 500 || !strings.Contains(o.Err, "max_headers") {
		t.Errorf("more than 1000 asked for: %d %s", resp.StatusCode, o.Err)
	}
	if _, body, _ := b.do(t, "headers -1", "X-A: caf\xe9"); !strings.HasSuffix(body, " true") {
		t.Errorf("go-pdk took a header that is not UTF-8: %q", body)
	}
	if _, body, _ := b.do(t, "headers -1", "X-A: 1", "X-A: 2"); !strings.Contains(body, `"x-a":["1","2"]`) {
		t.Errorf("duplicates are not a list: %q", body)
	}
}

func TestRequestCalls(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{settings: Settings{TrustedIPs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}})
	_, body := b.raw(t, "POST /a/%2e%2e//b%2fc?d#e HTTP/1.1\r\nHost: H:1\r\nX-Real-IP: 192.0.2.7\r\nX-Do: request\r\n\r\n")
	want := "\"POST\" <nil>\n\"http\" <nil>\n\"h\" <nil>\n\"/b%2Fc\" <nil>\n\"/a/%2e%2e//b%2fc?d#e\" <nil>\n\"d\" <nil>\n\"127.0.0.1\" <nil>\n\"192.0.2.7\" <nil>\n1.1\n"
	if body != want {
		t.Errorf("got\n%swant\n%s", body, want)
	}
}

func TestRouter(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	if _, body, _ := b.do(t, "route"); body != "all [/] up http <nil> <nil>" {
		t.Error(body)
	}
}

func TestUpstreamHeaders(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	hundred := slices.Repeat([]string{"X-Fill: y"}, 100)
	tests := []struct {
		name, op string
		fields   []string
		header   string
		want     []string
	}{
		{"set replaces all of one spelling", "set X-A=9", []string{"x-a: 1", "X-A: 2"}, "X-A", []string{"9"}},
		{"set leaves another spelling", "set X-A=9", []string{"X_A: 1"}, "X_A", []string{"1"}},
		{"set makes a space of nothing", "set X-A=", nil, "X-A", []string{""}}, // the reader trims it
		{"add keeps what is there", "add X-A=9", []string{"X-A: 1"}, "X-A", []string{"1", "9"}},
		{"an empty list removes", "remove X-A,x-b", []string{"X-A: 1", "X-B: 1", "X-B: 2"}, "X-B", nil},
		{"an empty list leaves another spelling", "remove X-A", []string{"X_A: 1"}, "X_A", []string{"1"}},
		{"clear removes", "clear x-a", []string{"X-A: 1", "X-A: 2"}, "X-A", nil},
		{"clear leaves another spelling", "clear x-a", []string{"X_A: 1"}, "X_A", []string{"1"}},
		{"what Connection names goes after the plugin", "set X-A=9", []string{"Connection: close, X-A", "X-A: 1"}, "X-A", nil},
		{"Connection names one spelling", "", []string{"Connection: X-A", "X_A: 1"}, "X_A", []string{"1"}},
		{"only the first Connection counts", "", []string{"Connection: x-b", "Connection: X-A", "X-A: 1"}, "X-A", []string{"1"}},
		{"Connection counts among the first 100 fields only", "", append(slices.Clone(hundred), "Connection: X-A", "X-A: 1"), "X-A", []string{"1"}},
		{"a single token close names nothing", "", []string{"Connection: close"}, "Connection", []string{"keep-alive"}},
		{"Host is the upstream's", "", nil, "Host", nil},
		{"the plugin may name the upstream's Host", "set Host=other", nil, "Host", []string{"other"}},
		{"hop-by-hop headers stay", "", []string{"Keep-Alive: 5", "Proxy-Connection: x", "TE: gzip"}, "Keep-Alive", nil},
		{"TE trailers pass", "", []string{"TE: gzip, trailers"}, "TE", []string{"trailers"}},
		{"Proxy stays", "", []string{"Proxy: x"}, "Proxy", nil},
		{"Upgrade h2c stays", "", []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAA"}, "Upgrade", nil},
		{"HTTP2-Settings stays with it", "", []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAA"}, "HTTP2-Settings", nil},
		{"the client's address", "", nil, "X-Real-IP", []string{"127.0.0.1"}},
		{"a client cannot set X-Real-IP", "", []string{"X-Real-IP: 1.2.3.4"}, "X-Real-IP", []string{"127.0.0.1"}},
		{"a client cannot set X-Forwarded-Proto", "", []string{"X-Forwarded-Proto: https"}, "X-Forwarded-Proto", []string{"http"}},
		{"a tab in Connection is a part of the name", "", []string{"Connection: X-A\t, X-B", "X-A: 1", "X-B: 1"}, "X-A", []string{"1"}},
		{"another spelling of X-Forwarded-For counts first", "", []string{"X-Forwarded-For: 1.2.3.4", "X_Forwarded_For: 5.6.7.8"}, "X-Forwarded-For", []string{"5.6.7.8, 127.0.0.1"}},
		{"X-Forwarded-For grows", "", []string{"X-Forwarded-For: 1.2.3.4"}, "X-Forwarded-For", []string{"1.2.3.4, 127.0.0.1"}},
		{"X-Forwarded-Host", "", nil, "X-Forwarded-Host", []string{"a.example"}},
		{"X-Forwarded-Path", "", nil, "X-Forwarded-Path", []string{"/x"}},
		{"Via", "", nil, "Via", []string{"1.1 kong/3.9.3"}},
		{"Latin-1 passes", "", []string{"Cookie: caf\xe9"}, "Cookie", []string{"caf\xe9"}},
		{"a control character passes", "", []string{"X-A: a\x01b"}, "X-A", []string{"a\x01b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, o := b.do(t, tt.op, tt.fields...)
			got := o.values(tt.header)
			if tt.header == "Host" && tt.want == nil {
				tt.want = []string{b.router.Load().routes[0].service.hostHeader()}
			}
			for i := range got {
				got[i] = strings.Trim(got[i], " ")
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%s: got %q want %q (status %d %s)", tt.header, got, tt.want, o.Status, o.Err)
			}
		})
	}
	t.Run("150 headers pass", func(t *testing.T) {
		resp, _, o := b.do(t, "", slices.Repeat([]string{"X-Fill: y"}, 150)...)
		if resp.StatusCode != 200 || len(o.values("X-Fill")) != 150 {
			t.Errorf("%d with %d headers", resp.StatusCode, len(o.values("X-Fill")))
		}
	})
}

func TestMaxRequestHeaders(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{settings: Settings{MaxRequestHeaders: 1000}})
	_, _, o := b.do(t, "", append(slices.Repeat([]string{"X-Fill: y"}, 150), "Connection: X-A", "X-A: 1")...)
	if got := o.values("X-A"); got != nil {
		t.Errorf("what Connection names went on: %q", got)
	}
	if _, err := NewGateway(b.host, Config{}, Settings{MaxRequestHeaders: 1001}); err == nil {
		t.Error("more than 1000 was taken")
	}
}

func TestTrustedPeer(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{settings: Settings{
		TrustedIPs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}, RealIPHeader: "X-Forwarded-For", RealIPRecursive: true,
	}})
	_, _, o := b.do(t, "", "X-Forwarded-For: 9.9.9.9, 192.0.2.1, 10.1.1.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: h", "X-Forwarded-Port: 8443")
	for name, want := range map[string]string{
		"X-Real-IP": "192.0.2.1", "X-Forwarded-For": "9.9.9.9, 192.0.2.1, 10.1.1.1, 127.0.0.1",
		"X-Forwarded-Proto": "https", "X-Forwarded-Host": "h", "X-Forwarded-Port": "8443",
	} {
		if got := o.values(name); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %q want %q", name, got, want)
		}
	}
}

func TestUpstreamTarget(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	for target, want := range map[string]string{
		"/a":                       "/a",
		"/a/%2e%2e/adm":            "/adm",
		"//x/y":                    "/x/y",
		"/a#frag/../z":             "/z",
		"/public#?q=1":             "/public#",
		"/a?":                      "/a?",
		"/a?b#c":                   "/a?b",
		"/a%2fb?x=%2f":             "/a%2Fb?x=%2f",
		"/%61%20b":                 "/a%20b",
		"/caf\u00e9":               "/caf%C3%A9",
		"/a?caf\xe9":               "/a?caf\xe9",
		`/p"%2f..%2fadm`:           "/p%22%2F..%2Fadm",
		"/x;/..;/y":                "/x;/..;/y",
		"http://other.example/a/b": "/a/b",
	} {
		b.raw(t, "GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n")
		if o := b.observed(t); o.UpstreamTarget != want {
			t.Errorf("%s: got %s want %s (%s)", target, o.UpstreamTarget, want, o.Err)
		}
	}
}

func TestExit(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	resp, body, o := b.do(t, "exit 403")
	if resp.StatusCode != 403 || body != "ended\n" || !slices.Equal(resp.Header["X-Reason"], []string{"asked", "twice"}) {
		t.Errorf("%d %q %v", resp.StatusCode, body, resp.Header)
	}
	if !o.Exited || o.Proxied || o.Events != 1 || o.Status != 403 || o.UpstreamHeader != nil {
		t.Errorf("%+v", o)
	}
	b.host.pool.mu.Lock()
	idle := len(b.host.pool.idle)
	b.host.pool.mu.Unlock()
	if idle != 0 { // the event took the one that started the instance
		t.Errorf("%d idle connections: the event's one must be given up", idle)
	}
	for _, status := range []string{"444", "499"} {
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(deadline))
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\nX-Do: exit "+status+"\r\n\r\n")
		if answer, err := io.ReadAll(c); err != nil || len(answer) > 0 {
			t.Errorf("exit %s: %q %v, want the end of the connection", status, answer, err)
		}
		c.Close()
		if o := b.observed(t); !o.Exited || o.Proxied || o.Status != 0 {
			t.Errorf("exit %s: %+v", status, o)
		}
	}
	if resp, _, o := b.do(t, "exit 99"); resp.StatusCode != 500 || !strings.Contains(o.Err, "between 100 and 599") {
		t.Errorf("%d %s", resp.StatusCode, o.Err)
	}
	if resp, body := b.raw(t, "HEAD / HTTP/1.1\r\nHost: a\r\nX-Do: exit 403\r\n\r\n"); resp.StatusCode != 403 || body != "" || resp.ContentLength != 6 {
		t.Errorf("HEAD: %d %q %d", resp.StatusCode, body, resp.ContentLength)
	}
}

func TestResponseHeaders(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	resp, _, _ := b.do(t, "respond")
	if !slices.Equal(resp.Header["X-From-Plugin"], []string{"1", "2"}) || resp.Header.Get("X-Upstream") != "echo" {
		t.Errorf("%v", resp.Header)
	}
}

func TestSerialize(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	_, _, o := b.do(t, "serialize")
	got, _ := json.Marshal(o.Serialized)
	// false is lost and null becomes a name: Kong reads protobuf so.
	if want := `{"probe":{"age":3,"decision":"allow","list":["a"],"nil":"NULL_VALUE","yes":true}}`; string(got) != want {
		t.Errorf("got %s want %s", got, want)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	_, _, o := b.do(t, "log")
	if want := []LogLine{{"crit", "bad 3 times"}, {"debug", "detail"}}; !slices.Equal(o.Logs, want) {
		t.Errorf("%v", o.Logs)
	}
	b.log.wait(t, "crit: [probe] bad 3 times")
	b.log.wait(t, "probe is up")
}

func TestContext(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	if _, body, _ := b.do(t, "ctx"); body != "one <nil> 2.5 <nil>" {
		t.Error(body)
	}
}

func TestFailClosed(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{options: func(o *Options) { o.Timeout = 300 * time.Millisecond }})
	tests := []struct {
		op, why string
		events  int
	}{
		{"hang", "timeout", 1},
		{"bad-utf8", "invalid header value", 1}, // go-pdk loses step: the argument never comes
		{"unknown", `method "kong.no.such_call" not found`, 1},
		{"close", "run 50 times", 50},
		{"unknown-closed", "run 50 times", 50}, // Kong looks for the word in any error
	}
	for _, tt := range tests {
		t.Run(tt.op, func(t *testing.T) {
			resp, body, o := b.do(t, tt.op)
			if resp.StatusCode != 500 || o.Proxied || !strings.Contains(o.Err, tt.why) || o.Events != tt.events {
				t.Errorf("%d %q %+v", resp.StatusCode, body, o)
			}
		})
	}
	if resp, _, o := b.do(t, ""); resp.StatusCode != 200 {
		t.Errorf("after all that: %d %s", resp.StatusCode, o.Err)
	}
}

func TestRerun(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{options: func(o *Options) { o.MaxEvents = 0 }})
	resp, _, o := b.do(t, "close-once")
	if resp.StatusCode != 200 || o.Events != 2 || !o.Proxied {
		t.Errorf("%d %+v", resp.StatusCode, o)
	}
	b.log.wait(t, "warn: closed")
}

// TestRerunUnbounded shows that nothing but the end of the gateway stops the
// re-run when no limit is set.
func TestRerunUnbounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{options: func(o *Options) { o.MaxEvents = 0 }})
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\nX-Do: close\r\n\r\n")
	limit := time.After(deadline)
	for {
		b.log.mu.Lock()
		n := len(b.log.lines)
		b.log.mu.Unlock()
		if n > 300 {
			break
		}
		select {
		case <-b.log.news:
		case <-limit:
			t.Fatalf("only %d lines", n)
		}
	}
	b.Close()
	if o := b.observed(t); o.Events < 100 || o.Status != 500 {
		t.Errorf("%+v", o)
	}
}

func TestBrokenConfiguration(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{config: func(c *Config) { c.Plugins[0].Config = map[string]any{"broken": true} }})
	resp, _, o := b.do(t, "")
	if resp.StatusCode != 500 || o.Events != 0 || !strings.Contains(o.Err, "starting instance: closed") {
		t.Errorf("%d %+v", resp.StatusCode, o)
	}
}

func TestPluginDies(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"panic", "die"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, benchSetup{})
			b.do(t, "") // the instance runs
			resp, _, o := b.do(t, op)
			if resp.StatusCode != 500 || o.Proxied || o.Events == 0 {
				t.Errorf("%d %+v", resp.StatusCode, o)
			}
			b.recovers(t)
			if n := b.host.Starts(); n < 2 {
				t.Errorf("started %d times", n)
			}
		})
	}
}

// recovers waits until requests pass again; until then only 500 will do.
func (b *bench) recovers(t *testing.T) {
	t.Helper()
	limit := time.Now().Add(deadline)
	for {
		resp, _, o := b.do(t, "")
		if resp.StatusCode == 200 {
			return
		}
		if resp.StatusCode != 500 || o.Proxied {
			t.Fatalf("%d %+v", resp.StatusCode, o)
		}
		if time.Now().After(limit) {
			t.Fatal("no request passes")
		}
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	b.do(t, "")
	before := b.host.Pid()
	if err := b.host.Kill(); err != nil {
		t.Fatal(err)
	}
	b.log.wait(t, "terminated: signal: killed")
	b.recovers(t)
	if after := b.host.Pid(); after == before || after == 0 {
		t.Errorf("pid %d, then %d", before, after)
	}
}

func TestInstanceConfiguration(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{
		options: func(o *Options) { o.Env = append(os.Environ(), "PROBE_SECRET=s3cret") },
		config: func(c *Config) {
			c.Services[0].Routes[0].Plugins = []Plugin{{Name: "probe", InstanceName: "mine", Config: map[string]any{
				"secret": "{vault://env/probe-secret}", "secrets": []string{"plain", "{vault://env/not-there}"},
			}}}
		},
	})
	_, body, _ := b.do(t, "config")
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"__plugin_id", "__key__", "__ws_id", "route_id"} {
		if s, _ := got[key].(string); s == "" {
			t.Errorf("%s is missing in %s", key, body)
		}
		delete(got, key)
	}
	first := got["__seq__"].(float64)
	delete(got, "__seq__")
	rest, _ := json.Marshal(got)
	want := `{"$refs":{"secret":"{vault://env/probe-secret}","secrets":{"2":"{vault://env/not-there}"}},"broken":false,"label":"none","plugin_instance_name":"mine","secret":"s3cret","secrets":["plain",""]}`
	if string(rest) != want {
		t.Errorf("got  %s\nwant %s", rest, want)
	}
	b.log.wait(t, "notice: unable to resolve reference {vault://env/not-there}")

	// A route's configuration beats the global one; a reload gives a new
	// sequence number and leaves out what is unset.
	if err := b.Reload(Config{
		Services: []Service{{Name: "up", URL: "http://127.0.0.1:1", Routes: []Route{{Name: "all"}}}},
		Plugins:  []Plugin{{Name: "probe"}},
	}); err != nil {
		t.Fatal(err)
	}
	_, body, _ = b.do(t, "config")
	got = nil
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if got["__seq__"].(float64) <= first {
		t.Errorf("__seq__ %v after %v", got["__seq__"], first)
	}
	for _, key := range []string{"secret", "secrets", "$refs", "route_id"} {
		if _, there := got[key]; there {
			t.Errorf("%s is in %s", key, body)
		}
	}
}

func TestReloadClosesOldInstance(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	b.do(t, "")
	c := Config{Services: []Service{{URL: echo(t).URL, Routes: []Route{{}}}}, Plugins: []Plugin{{Name: "probe"}}}
	if err := b.Reload(c); err != nil {
		t.Fatal(err)
	}
	if resp, _, o := b.do(t, ""); resp.StatusCode != 200 || o.Events != 1 {
		t.Errorf("%d %+v", resp.StatusCode, o)
	}
	b.log.wait(t, "closed instance")
	c.Plugins[0].Config = map[string]any{"label": 3}
	if err := b.Reload(c); err == nil || !strings.Contains(err.Error(), "schema violation (config.label: expected a string)") {
		t.Errorf("%v", err)
	}
	if resp, _, _ := b.do(t, ""); resp.StatusCode != 200 {
		t.Error("a refused configuration took the old one away")
	}
}
