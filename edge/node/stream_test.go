package node

// What must not be held back, and what a backend must not be able to do.

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func httpBackend(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// client sends every connection to nginx, from the ALB's address.
func (n *nginx) client() *http.Client {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(albIP)}}
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, n.addr())
		},
	}}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	var mode atomic.Value
	back := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		mode.Store(strings.Join(r.Header.Values("X-Wallarm-Mode"), "|"))
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, data, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, data); err != nil {
				return
			}
		}
	})
	n := start(t, back, false, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, "ws://"+nodeName+"/ws?x=1", &websocket.DialOptions{
		HTTPClient: n.client(), HTTPHeader: http.Header{"X-Wallarm-Mode": {"off"}},
	})
	if err != nil {
		t.Fatalf("%v (%+v)", err, resp)
	}
	defer c.CloseNow()
	for _, msg := range []string{"a", strings.Repeat("b", 20_000), ""} {
		if err := c.Write(ctx, websocket.MessageText, []byte(msg)); err != nil {
			t.Fatal(err)
		}
		_, got, err := c.Read(ctx)
		if err != nil || string(got) != msg {
			t.Fatalf("echo of %d bytes: %d bytes, %v", len(msg), len(got), err)
		}
	}
	if mode.Load() != "block" {
		t.Errorf("mode arrived as %q", mode.Load())
	}
}

// An upgrade goes on only for a WebSocket that is asked for rightly.
func TestUpgrades(t *testing.T) {
	t.Parallel()
	back := newRecorder(t)
	n := start(t, back.addr, false, nil)
	for i, c := range []struct {
		name, line, head string
		upgraded         bool
	}{
		{"websocket", "GET /x", "Upgrade: websocket\r\nConnection: Upgrade", true},
		{"among others", "GET /x", "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade", true},
		{"before others", "GET /x", "Upgrade: websocket\r\nConnection: upgrade,close", true},
		{"h2c", "GET /x", "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings", false},
		{"websocket and h2c", "GET /x", "Upgrade: websocket, h2c\r\nConnection: Upgrade", false},
		{"not in Connection", "GET /x", "Upgrade: websocket\r\nConnection: close", false},
		{"part of a word", "GET /x", "Upgrade: websocket\r\nConnection: noupgrade", false},
		{"Connection's part within Upgrade", "GET /x", "Upgrade: websocket x, upgrade", false},
		{"two Upgrade fields", "GET /x", "Upgrade: websocket\r\nUpgrade: x, upgrade", false},
		{"POST", "POST /x", "Content-Length: 0\r\nUpgrade: websocket\r\nConnection: Upgrade", false},
		{"CONNECT protocol", "GET /x", "Upgrade: connect-tcp\r\nConnection: Upgrade", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			trace := fmt.Sprintf("upgrade-%d", i)
			resp, _, err := n.exchange(t, albIP, c.line+" HTTP/1.1\r\nHost: "+nodeName+"\r\nX-Amzn-Trace-Id: "+trace+"\r\n"+c.head+"\r\n\r\n")
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("%v, %v", resp, err)
			}
			got := back.find(trace)
			if len(got) != 1 {
				t.Fatalf("sent on %d times", len(got))
			}
			upgrade, connection := strings.Join(got[0].values("upgrade"), "|"), strings.Join(got[0].values("connection"), "|")
			if c.upgraded && (upgrade != "websocket" || connection != "upgrade") || !c.upgraded && upgrade+connection != "" {
				t.Errorf("Upgrade %q, Connection %q", upgrade, connection)
			}
		})
	}
}

// Part of a response goes on when it comes: chunked, as events are, and with a
// length, which is what nginx would hold back.
func TestResponsesAreNotBuffered(t *testing.T) {
	t.Parallel()
	const events = 3
	for name, length := range map[string]string{"chunked": "", "with a length": fmt.Sprint(events * len("data: 1\n\n"))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			next := make(chan struct{})
			back := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				for i := 1; i <= events; i++ {
					fmt.Fprintf(w, "data: %d\n\n", i)
					w.(http.Flusher).Flush()
					select {
					case <-next:
					case <-r.Context().Done():
						return
					}
				}
			})
			n := start(t, back, false, nil)
			resp, err := n.client().Get("http://" + nodeName + "/events")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			br := bufio.NewReader(resp.Body)
			for i := 1; i <= events; i++ {
				// The next event is not sent before this one has arrived.
				for _, want := range []string{fmt.Sprintf("data: %d\n", i), "\n"} {
					if line, err := br.ReadString('\n'); err != nil || line != want {
						t.Fatalf("event %d: %q, %v", i, line, err)
					}
				}
				next <- struct{}{}
			}
			if rest, err := io.ReadAll(br); err != nil || len(rest) != 0 {
				t.Fatalf("after the last event: %q, %v", rest, err)
			}
		})
	}
}

// A response must not make nginx do anything: with X-Accel-Redirect it would
// send a second request, for a target that nobody inspected or signed.
func TestBackendCannotSteer(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var targets []string
	back := httpBackend(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		targets = append(targets, r.RequestURI)
		mu.Unlock()
		w.Header().Set("X-Accel-Redirect", "/adm")
		w.Header().Set("X-Accel-Limit-Rate", "1")
		w.Header().Set("Location", "http://gate_attester/here")
		fmt.Fprint(w, strings.Repeat("body", 100))
	})
	n := start(t, back, false, nil)
	resp, err := n.client().Get("http://" + nodeName + "/x")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || len(body) != 400 || resp.StatusCode != 200 {
		t.Errorf("%d, %q, %v", resp.StatusCode, body, err)
	}
	if got := resp.Header.Get("Server"); got != "nginx" {
		t.Errorf("Server is %q, with a version", got)
	}
	if got := resp.Header.Get("Location"); got != "http://gate_attester/here" {
		t.Errorf("Location was rewritten to %q", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(targets) != 1 || targets[0] != "/x" {
		t.Errorf("the backend was asked for %q", targets)
	}
}

// A backend that is gone is a 502, and its coming back is noticed at once: one
// attester is not taken out of service for ten seconds by one failure.
func TestBackendGoneAndBack(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	n := start(t, addr, false, nil)
	get := func() int {
		resp, err := n.client().Get("http://" + nodeName + "/x")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for range 3 {
		if got := get(); got != 502 {
			t.Fatalf("got %d without a backend", got)
		}
	}
	eventually(t, "the port is free again", func() bool {
		l, err = net.Listen("tcp", addr)
		return err == nil
	})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	if got := get(); got != 200 {
		t.Errorf("got %d from a backend that is back", got)
	}
}

// Connections to the attester are kept, and one that it has closed is not an
// error for the client.
func TestKeepalive(t *testing.T) {
	t.Parallel()
	var opened atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	n := start(t, s.Listener.Addr().String(), false, nil)
	client := n.client()
	get := func() {
		t.Helper()
		resp, err := client.Get("http://" + nodeName + "/x")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatalf("got %d", resp.StatusCode)
		}
	}
	for range 20 {
		get()
	}
	if got := opened.Load(); got != 1 {
		t.Errorf("20 requests, one after another, took %d connections to the attester", got)
	}
	for range 5 {
		s.CloseClientConnections()
		get()
	}
}

// The defaults keep the rule that whoever sends requests closes first.
func TestTimeoutOrder(t *testing.T) {
	t.Parallel()
	s := Default()
	parse := func(v string) time.Duration {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	const albIdle = 75 * time.Second // of edge/terraform; AWS's default is 60 s
	if parse(s.ClientKeepaliveTimeout) <= albIdle {
		t.Errorf("client_keepalive_timeout %s is not above the ALB's %v", s.ClientKeepaliveTimeout, albIdle)
	}
	// The attester's table of settings is the authority on its side.
	attester, err := os.ReadFile("../attester/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mine, theirs string
		below        bool
	}{
		{s.AttesterKeepaliveTimeout, "LISTEN_IDLE_TIMEOUT", true},
		{s.AttesterReadTimeout, "RESPONSE_TIMEOUT", false},
		{s.AttesterConnectTimeout, "RESPONSE_TIMEOUT", true},
	} {
		m := regexp.MustCompile("ATTESTER_" + c.theirs + "`[^|]*\\|[^\\n]*?`([0-9]+[a-z]+)`").FindSubmatch(attester)
		if m == nil {
			t.Fatalf("the attester's README has no default of %s", c.theirs)
		}
		if mine, theirs := parse(c.mine), parse(string(m[1])); (mine < theirs) != c.below || mine == theirs {
			t.Errorf("%v against %s %v", mine, c.theirs, theirs)
		}
	}
}
