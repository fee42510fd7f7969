package pluginhost

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestRoutes(t *testing.T) {
	t.Parallel()
	one, two := httptest.NewServer(named("one")), httptest.NewServer(named("two"))
	t.Cleanup(one.Close)
	t.Cleanup(two.Close)
	b := newBench(t, benchSetup{config: func(c *Config) {
		c.Services = []Service{
			{Name: "one", URL: one.URL, Routes: []Route{
				{Name: "root", Paths: []string{"/a"}},
				{Name: "long", Paths: []string{"/a/b"}, Methods: []string{"GET"}},
				{Name: "host", Hosts: []string{"h.example"}, Paths: []string{"/a"}},
				{Name: "wild", Hosts: []string{"*.example"}, Paths: []string{"/a"}},
				{Name: "tls", Paths: []string{"/tls"}, Protocols: []string{"https"}},
			}},
			{Name: "two", URL: two.URL + "/base", Routes: []Route{
				{Name: "based", Paths: []string{"/c"}},
				{Name: "keeps", Paths: []string{"/keep"}, PreserveHost: true},
			}},
		}
	}})
	for _, tt := range []struct{ method, target, host, route, upstream string }{
		{"GET", "/a", "x", "root", "/a"},
		{"GET", "/ab", "x", "root", "/ab"}, // a prefix of bytes, as in Kong
		{"GET", "/a/b/c?d", "x", "long", "/a/b/c?d"},
		{"POST", "/a/b/c", "x", "root", "/a/b/c"},
		{"GET", "/a/b", "H.example:8000", "host", "/a/b"},
		{"GET", "/a/b", "q.example", "wild", "/a/b"},
		{"GET", "/x/../a", "x", "root", "/a"},
		{"GET", "/%61", "x", "root", "/a"},
		{"GET", "/c/d", "x", "based", "/base/c/d"},
		{"GET", "/", "x", "", ""},
		{"GET", "/A", "x", "", ""},
		{"GET", "http://h.example/a", "x", "root", "/a"}, // routed by the field
		{"GET", "/a/\xff", "x", "", ""},                  // no UTF-8, no route
		{"GET", "/a/%ff", "x", "", ""},
		{"GET", "/a?\xff", "x", "root", "/a?\xff"},
		{"GET", "/a", "x\xff", "", ""}, // once there are routes with hosts
	} {
		resp, body := b.raw(t, tt.method+" "+tt.target+" HTTP/1.1\r\nHost: "+tt.host+"\r\nContent-Length: 0\r\n\r\n")
		o := b.observed(t)
		if o.Route != tt.route || o.UpstreamTarget != tt.upstream {
			t.Errorf("%s %s %s: route %q target %q", tt.method, tt.host, tt.target, o.Route, o.UpstreamTarget)
		}
		if tt.route == "" && (resp.StatusCode != 404 || o.Events != 0 || !strings.Contains(body, "no Route matched")) {
			t.Errorf("%s: %d %q, %d events", tt.target, resp.StatusCode, body, o.Events)
		}
	}
	b.raw(t, "GET /keep HTTP/1.1\r\nHost: Kept:1\r\n\r\n")
	if o := b.observed(t); o.values("Host")[0] != "Kept:1" {
		t.Errorf("preserve_host: %v", o.UpstreamHeader)
	}
	if resp, _ := b.raw(t, "GET /tls HTTP/1.1\r\nHost: x\r\n\r\n"); resp.StatusCode != 426 {
		t.Errorf("plain HTTP on an https route: %d", resp.StatusCode)
	}
}

func named(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name) })
}

func TestPluginPrecedence(t *testing.T) {
	t.Parallel()
	label := func(s string) []Plugin { return []Plugin{{Name: "probe", Config: map[string]any{"label": s}}} }
	off := label("off")
	off[0].Disabled = true
	b := newBench(t, benchSetup{config: func(c *Config) {
		up := c.Services[0].URL
		c.Plugins = label("global")
		c.Services = []Service{
			{Name: "plain", URL: up, Routes: []Route{{Paths: []string{"/a"}}, {Paths: []string{"/b"}, Plugins: label("route")}, {Paths: []string{"/c"}, Plugins: off}}},
			{Name: "own", URL: up, Plugins: label("service"), Routes: []Route{{Paths: []string{"/d"}}, {Paths: []string{"/e"}, Plugins: label("route")}}},
		}
	}})
	for path, want := range map[string]string{"/a": "global", "/b": "route", "/c": "global", "/d": "service", "/e": "route"} {
		_, body := b.raw(t, "GET "+path+" HTTP/1.1\r\nHost: a\r\nX-Do: config\r\n\r\n")
		if !strings.Contains(body, `"label":"`+want+`"`) {
			t.Errorf("%s: want %s in %s", path, want, body)
		}
	}
}

func TestConfigRefused(t *testing.T) {
	t.Parallel()
	h, _ := startHost(t, nil)
	ok := func(c *Config) {
		c.Services = []Service{{Name: "s", URL: "http://h", Routes: []Route{{Name: "r", Paths: []string{"/"}}}}}
	}
	for name, tt := range map[string]struct {
		change func(c *Config)
		want   string
	}{
		"schema":            {func(c *Config) { c.Plugins = []Plugin{{Name: "probe", Config: map[string]any{"x": 1}}} }, "schema violation (config.x: unknown field)"},
		"a consumer's gate": {func(c *Config) { c.Plugins = []Plugin{{Name: "probe", Consumer: "c"}} }, "consumer: value must be null"},
		"another plugin":    {func(c *Config) { c.Plugins = []Plugin{{Name: "other"}} }, "plugin 'other' not enabled"},
		"twice":             {func(c *Config) { c.Plugins = []Plugin{{Name: "probe"}, {Name: "probe"}} }, "given twice"},
		"a route's plugin": {func(c *Config) {
			c.Services[0].Routes[0].Plugins = []Plugin{{Name: "probe", Config: map[string]any{"label": 1}}}
		}, `route 1 ("r"): plugin "probe"`},
		"a service's":    {func(c *Config) { c.Services[0].Plugins = []Plugin{{Name: "x"}} }, `service 1 ("s"): plugin "x"`},
		"a scheme":       {func(c *Config) { c.Services[0].URL = "grpc://h" }, "the scheme must be http or https"},
		"no host":        {func(c *Config) { c.Services[0].URL = "http://" }, "has no host"},
		"a query":        {func(c *Config) { c.Services[0].URL = "http://h/?q" }, "scheme, host, port and path only"},
		"a port":         {func(c *Config) { c.Services[0].URL = "http://h:99999" }, "invalid port"},
		"a regex":        {func(c *Config) { c.Services[0].Routes[0].Paths = []string{"~/a"} }, `path "~/a"`},
		"a path to tidy": {func(c *Config) { c.Services[0].Routes[0].Paths = []string{"/a//b"} }, "normal form"},
		"a host pattern": {func(c *Config) { c.Services[0].Routes[0].Hosts = []string{"a*b"} }, `host "a*b"`},
		"a protocol":     {func(c *Config) { c.Services[0].Routes[0].Protocols = []string{"grpc"} }, `protocol "grpc"`},
		"a route's name": {func(c *Config) { c.Services[0].Routes = append(c.Services[0].Routes, Route{Name: "r"}) }, "another route has this name"},
	} {
		t.Run(name, func(t *testing.T) {
			var c Config
			ok(&c)
			tt.change(&c)
			if _, err := NewGateway(h, c, Settings{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v want %s", err, tt.want)
			}
		})
	}
}

func TestRefusedHeads(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	for request, want := range map[string]int{
		"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 4000)+"\r\n", 12) + "\r\n": 400,
		"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n":                                405,
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n":                              400,
		"GET /" + strings.Repeat("a", 9000) + " HTTP/1.1\r\nHost: a\r\n\r\n": 414,
		"GET / HTTP/1.1\r\n\r\n":                                             400,
		"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n":                       400,
		"GET / HTTP/1.1\r\nHost:\r\n\r\n":                                    400,
	} {
		resp, _ := b.raw(t, request)
		if o := b.observed(t); resp.StatusCode != want || o.Status != want || o.Proxied || o.Events != 0 || !resp.Close {
			t.Errorf("%.40q: %d want %d, %+v", request, resp.StatusCode, want, o)
		}
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(deadline))
	br := bufio.NewReader(c)
	// All on one connection: a body that is not read must not become a request.
	for _, tt := range []struct{ request, want string }{
		{"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "200 body=hello"},
		{"POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: x\r\n\r\n", "200 body=abcde"},
		{"POST /3 HTTP/1.1\r\nHost: a\r\nX-Do: exit 403\r\nContent-Length: 26\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", "403 ended"},
		{"POST /4 HTTP/1.1\r\nHost: a\r\nX-Do: exit 403\r\nTransfer-Encoding: chunked\r\n\r\n1a\r\nGET /smuggled HTTP/1.1\r\n\r\n\r\n0\r\n\r\n", "403 ended"},
		{"GET /5 HTTP/1.1\r\nHost: a\r\n\r\n", "200 body="},
		{"HEAD /6 HTTP/1.1\r\nHost: a\r\n\r\n", "200 "},
		{"GET /7 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "200 body="},
	} {
		if _, err := io.WriteString(c, tt.request); err != nil {
			t.Fatal(err)
		}
		method, _, _ := strings.Cut(tt.request, " ")
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%.20q: %v", tt.request, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%d %s", resp.StatusCode, body[max(0, strings.LastIndex(string(body), "body=")):]); strings.TrimSpace(got) != strings.TrimSpace(tt.want) {
			t.Errorf("%.20q: got %q want %q", tt.request, got, tt.want)
		}
	}
	if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection stays open after Connection: close: %v", err)
	}
}

func TestBrokenBody(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
	c.Close()
	// The upstream must see a body that was cut, not one that ended.
	if o := b.observed(t); o.Status != 400 {
		t.Errorf("%+v", o)
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(deadline))
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	br := bufio.NewReader(c)
	if line, err := br.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q %v", line, err)
	}
	_, _ = br.ReadString('\n')
	fmt.Fprint(c, "ok")
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); !strings.HasSuffix(string(body), "body=ok") {
		t.Errorf("%q", body)
	}
	if o := b.observed(t); o.values("Expect") != nil {
		t.Error("Expect went on")
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		buf := make([]byte, 1)
		for range 3 {
			if _, err := io.ReadFull(r.Body, buf); err != nil {
				t.Errorf("upstream: %v", err)
				return
			}
			fmt.Fprintf(w, "data: %s\n\n", buf)
			w.(http.Flusher).Flush()
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	t.Cleanup(up.Close)
	b := newBench(t, benchSetup{upstream: up.URL})
	r, w := io.Pipe()
	resp := make(chan *http.Response, 1)
	go func() {
		req, _ := http.NewRequest("POST", "http://"+b.addr+"/", r)
		got, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Error(err)
		}
		resp <- got
	}()
	_, _ = io.WriteString(w, "a")
	got := <-resp
	if got == nil {
		t.FailNow()
	}
	br := bufio.NewReader(got.Body)
	for i, want := range []string{"a", "b", "c"} {
		if i > 0 {
			_, _ = io.WriteString(w, want)
		}
		line, err := br.ReadString('\n')
		if err != nil || line != "data: "+want+"\n" {
			t.Fatalf("%q %v", line, err)
		}
		_, _ = br.ReadString('\n')
	}
	w.Close()
	if rest, err := io.ReadAll(br); err != nil || len(rest) > 0 {
		t.Errorf("%q %v", rest, err)
	}
}

func TestUpstreamFails(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	l.Close()
	b := newBench(t, benchSetup{upstream: "http://" + gone})
	if resp, body, o := b.do(t, ""); resp.StatusCode != 502 || o.Proxied || !strings.Contains(body, "invalid response") {
		t.Errorf("%d %q %+v", resp.StatusCode, body, o)
	}
	garbage, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer garbage.Close()
	go func() {
		for {
			c, err := garbage.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(c).ReadString('\n')
			fmt.Fprint(c, "nonsense\r\n\r\n")
			c.Close()
		}
	}()
	b = newBench(t, benchSetup{upstream: "http://" + garbage.Addr().String()})
	if resp, _, o := b.do(t, ""); resp.StatusCode != 502 || !o.Proxied {
		t.Errorf("%d %+v", resp.StatusCode, o)
	}
}

func TestHopByHopResponse(t *testing.T) {
	t.Parallel()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("X-End", "1")
		w.WriteHeader(204)
	}))
	t.Cleanup(up.Close)
	b := newBench(t, benchSetup{upstream: up.URL})
	resp, _, _ := b.do(t, "")
	if resp.StatusCode != 204 || resp.Header.Get("X-Hop") != "" || resp.Header.Get("X-End") != "1" || resp.Header.Get("Content-Length") != "" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer c.CloseNow()
		for {
			kind, msg, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, append([]byte("echo "), msg...)); err != nil {
				return
			}
		}
	}))
	t.Cleanup(up.Close)
	b := newBench(t, benchSetup{upstream: up.URL})
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+b.addr+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range []string{"one", "two"} {
		if err := c.Write(ctx, websocket.MessageText, []byte(msg)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != "echo "+msg {
			t.Fatalf("%q %v", got, err)
		}
	}
	o := b.observed(t)
	if o.Status != 101 || fmt.Sprint(o.values("Connection"), o.values("Upgrade")) != "[keep-alive, Upgrade] [websocket]" {
		t.Errorf("%d %v", o.Status, o.UpstreamHeader)
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestUnaskedUpgrade(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = http.ReadRequest(bufio.NewReader(c))
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	}()
	b := newBench(t, benchSetup{upstream: "http://" + l.Addr().String()})
	if resp, _, _ := b.do(t, "", "Upgrade: x", "Connection: Upgrade"); resp.StatusCode != 502 {
		t.Errorf("%d", resp.StatusCode)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	up := httptest.NewTLSServer(named("secure")) // its certificate serves the gateway, too
	t.Cleanup(up.Close)
	pool := x509.NewCertPool()
	pool.AddCert(up.Certificate())
	b := newBench(t, benchSetup{upstream: up.URL, settings: Settings{UpstreamTLS: &tls.Config{RootCAs: pool}}})
	addr, err := b.ListenTLS("127.0.0.1:0", &tls.Config{
		Certificates: up.TLS.Certificates, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool,
	})
	if err != nil {
		t.Fatal(err)
	}
	get := func(c *tls.Config, op string) string {
		tr := &http.Transport{TLSClientConfig: c}
		defer tr.CloseIdleConnections()
		req, _ := http.NewRequest("GET", "https://"+addr.String()+"/", nil)
		if op != "" {
			req.Header.Set("X-Do", op)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	trust := &tls.Config{RootCAs: pool}
	if got := get(trust, ""); got != "secure" {
		t.Errorf("%q", got)
	}
	if got := get(trust.Clone(), "vars scheme,https,ssl_client_verify"); got != "scheme=\"https\"\nhttps=\"on\"\nssl_client_verify=\"NONE\"\n" {
		t.Errorf("%q", got)
	}
	if o := b.observed(t); o.values("X-Forwarded-Proto")[0] != "https" {
		t.Errorf("%v", o.UpstreamHeader)
	}
	if got := get(&tls.Config{}, ""); !strings.Contains(got, "certificate") {
		t.Errorf("an unknown authority was taken: %q", got)
	}
}

func TestServeConn(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	server, client := net.Pipe()
	defer client.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.ServeConn(server, netip.MustParseAddrPort("192.0.2.9:1234"))
	}()
	_ = client.SetDeadline(time.Now().Add(deadline))
	fmt.Fprint(client, "GET / HTTP/1.1\r\nHost: a\r\nX-Do: vars realip_remote_addr,realip_remote_port\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); string(body) != "realip_remote_addr=\"192.0.2.9\"\nrealip_remote_port=\"1234\"\n" {
		t.Errorf("%q", body)
	}
	b.Close() // ends the connection
	<-done
}

// TestLoad runs requests side by side, with a reload and a kill among them:
// every answer is the upstream's or a 500, and 500s come only with the kill.
func TestLoad(t *testing.T) {
	t.Parallel()
	b := newBench(t, benchSetup{})
	config := Config{Services: []Service{{URL: echo(t).URL, Routes: []Route{{}}}}, Plugins: []Plugin{{Name: "probe"}}}
	run := func() (bad int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 25 {
					resp, body := b.raw(t, "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
					if resp.StatusCode == 500 {
						mu.Lock()
						bad++
						mu.Unlock()
					} else if resp.StatusCode != 200 || !strings.HasPrefix(body, "GET /x") {
						t.Errorf("%d %q", resp.StatusCode, body)
					}
				}
			})
		}
		wg.Wait()
		return bad
	}
	reloads := make(chan error, 1)
	go func() { reloads <- b.Reload(config) }()
	if bad := run(); bad != 0 {
		t.Errorf("%d requests failed without a kill", bad)
	}
	if err := <-reloads; err != nil {
		t.Fatal(err)
	}
	if err := b.host.Kill(); err != nil {
		t.Fatal(err)
	}
	run()
	for len(b.obs) > 0 {
		if o := <-b.obs; o.Status == 500 && o.Proxied {
			t.Errorf("%+v", o)
		}
	}
	b.recovers(t)
}

func TestProcess(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)

	t.Run("the query command may be anything", func(t *testing.T) {
		t.Parallel()
		h, _ := startHost(t, func(o *Options) { o.QueryCmd = "'" + probeBinary + "' -dump | cat; exit 3" })
		if h.Name() != "probe" || h.Version() != "1.2.3" || h.Priority() != 17 || strings.Join(h.Phases(), " ") != "access" {
			t.Errorf("%s %s %d %v", h.Name(), h.Version(), h.Priority(), h.Phases())
		}
	})
	t.Run("the start command may be anything", func(t *testing.T) {
		t.Parallel()
		h, _ := startHost(t, func(o *Options) {
			o.StartCmd = "/usr/bin/env A=1 '" + probeBinary + "' -kong-prefix '" + o.Prefix + "'"
		})
		if h.Pid() == 0 || h.Starts() != 1 {
			t.Errorf("pid %d, %d starts", h.Pid(), h.Starts())
		}
	})
	t.Run("a process of somebody else", func(t *testing.T) {
		t.Parallel()
		other, _ := startHost(t, nil)
		h, _ := startHost(t, func(o *Options) { o.Prefix, o.NoStart = other.opts.Prefix, true })
		if h.Pid() != 0 || h.Kill() == nil {
			t.Error("it claims a process")
		}
	})
	t.Run("a command that is not there", func(t *testing.T) {
		t.Parallel()
		book := &logBook{news: make(chan struct{}, 1)}
		h, err := Start(ctx, Options{
			Binary: probeBinary, Prefix: t.TempDir(), StartCmd: "/nowhere/probe", RespawnInterval: time.Millisecond, Log: book.add,
		})
		if err != nil {
			t.Fatal(err)
		}
		book.wait(t, `exited with "command not found"`)
		h.Close()
	})
	t.Run("it is not started again too soon", func(t *testing.T) {
		t.Parallel()
		h, book := startHost(t, func(o *Options) { o.RespawnInterval = time.Hour })
		if err := h.Kill(); err != nil {
			t.Fatal(err)
		}
		book.wait(t, "terminated")
		if h.Starts() != 1 || h.Pid() != 0 {
			t.Errorf("%d starts, pid %d", h.Starts(), h.Pid())
		}
		h.Close() // does not wait for the hour
	})
	t.Run("close ends it", func(t *testing.T) {
		t.Parallel()
		h, _ := startHost(t, nil)
		if err := h.Close(); err != nil || h.Pid() != 0 {
			t.Errorf("%v, pid %d", err, h.Pid())
		}
		if err := h.Ready(ctx); err == nil {
			t.Error("ready after close")
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("close does not wait for ever", func(t *testing.T) {
		t.Parallel()
		h, book := startHost(t, func(o *Options) {
			o.StartCmd = "sh -c \"trap '' TERM; '" + probeBinary + "' -kong-prefix '" + o.Prefix + "'; exit 7\""
		})
		h.grace = time.Millisecond
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		book.wait(t, "terminated: signal: killed")
	})
	for name, tt := range map[string]struct {
		o    Options
		want string
	}{
		"no binary":      {Options{Prefix: "/"}, "no binary given"},
		"no prefix":      {Options{Binary: probeBinary}, "no Kong prefix given"},
		"no such binary": {Options{Binary: "/nowhere/p", Prefix: "/"}, "no such file"},
		"no dump":        {Options{Binary: probeBinary, Prefix: "/", QueryCmd: "echo oops >&2; exit 1"}, `exit status 1: "oops\n"`},
		"a bad dump":     {Options{Binary: probeBinary, Prefix: "/", QueryCmd: "echo '{}'"}, "only \"ProtoBuf:1\""},
		"a large dump":   {Options{Binary: probeBinary, Prefix: "/", QueryCmd: "head -c 5000000 /dev/zero"}, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Start(ctx, tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v want %s", err, tt.want)
			}
		})
	}
}

// fuzzGateway serves an upstream with the test plugin before it. The function
// returns the observations since its last call.
func fuzzGateway(f *testing.F) (addr string, seen func() []Observation) {
	f.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	h, err := Start(ctx, Options{Binary: probeBinary, Prefix: f.TempDir(), MaxEvents: 3})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { h.Close() })
	if err := h.Ready(ctx); err != nil {
		f.Fatal(err)
	}
	up := httptest.NewServer(named("up"))
	f.Cleanup(up.Close)
	var mu sync.Mutex
	var list []Observation
	g, err := NewGateway(h, Config{Services: []Service{{URL: up.URL, Routes: []Route{{}}}}, Plugins: []Plugin{{Name: "probe"}}}, Settings{
		Nginx: evidenceConf(f),
		Observer: func(o Observation) {
			mu.Lock()
			list = append(list, o)
			mu.Unlock()
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { g.Close() })
	l, err := g.Listen("127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	return l.String(), func() []Observation {
		mu.Lock()
		defer mu.Unlock()
		out := list
		list = nil
		return out
	}
}

// FuzzGateway sends any bytes through the gateway and the plugin: it must
// answer or close, run the event once at most, and never answer 500.
func FuzzGateway(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nGET http://b/x HTTP/1.1\r\nHost: c\r\nX_Y: \xff\r\n\r\n"))
	f.Add([]byte("GET / HTTP/1.0\r\nConnection: x-do, close\r\nX-Do: headers 1\r\n\r\n"))
	fuzzConnection(f, "")
}

// fuzzConnection fuzzes what comes behind the first bytes of a connection.
func fuzzConnection(f *testing.F, first string) {
	addr, seen := fuzzGateway(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.Contains(bytes.ToLower(data), []byte("x-do")) || bytes.Contains(bytes.ToLower(data), []byte("x_do")) {
			return // the plugin would do as it is told
		}
		seen() // forget
		client, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		_ = client.SetDeadline(time.Now().Add(deadline))
		go func() {
			_, _ = io.WriteString(client, first)
			_, _ = client.Write(data)
			_ = client.(*net.TCPConn).CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, client); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%q: no end", data)
		}
		for _, o := range seen() {
			if o.Events > 1 || o.Status == 500 {
				t.Fatalf("%q: %+v", data, o)
			}
		}
	})
}

// BenchmarkRequest is one request through gateway, plugin (one PDK call) and
// upstream, connections to the gateway kept alive.
func BenchmarkRequest(b *testing.B) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	h, err := Start(ctx, Options{Binary: probeBinary, Prefix: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	if err := h.Ready(ctx); err != nil {
		b.Fatal(err)
	}
	up := httptest.NewServer(named("up"))
	defer up.Close()
	g, err := NewGateway(h, Config{Services: []Service{{URL: up.URL, Routes: []Route{{}}}}, Plugins: []Plugin{{Name: "probe"}}}, Settings{})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	addr, err := g.Listen("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		resp, err := http.Get("http://" + addr.String() + "/")
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 {
			b.Fatal(resp.Status)
		}
	}
}
