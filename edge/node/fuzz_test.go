package node

// Whatever bytes a client sends: what nginx sends on is a request that the
// attester takes, with the node's own statement in it, and what the attester
// sends on is a request that the plugin accepts.

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
	"github.com/wallarm-gate/wallarm-gate/internal/pluginhost"
)

func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET /x?a=b HTTP/1.1\r\nHost: good.example\r\n\r\n",
		"GET /x HTTP/1.0\r\nHost: OTHER.example:443\r\n\r\n",
		"POST /a;b/c HTTP/1.1\r\nHost: good.example\r\nContent-Length: 2\r\n\r\n{}",
		"POST /a HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: good.example\r\nX_Wallarm_Mode: off\r\nx-wallarm-mode: off\r\nSignature: a\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: good.example\r\nX-Forwarded-For: 1.2.3.4, ::1\r\nForwarded: for=1.1.1.1\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: good.example\r\nConnection: x-wallarm-mode, upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET /public#?q=<script> HTTP/1.1\r\nHost: good.example\r\n\r\n",
		"GET http://evil.example/x HTTP/1.1\r\nHost: good.example\r\n\r\n",
		"GET /a/%2e%2e/adm HTTP/1.1\r\nHost: good.example\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: good.example\r\nX-A: b\r\n c: d\r\n\r\n",
		"GET /1 HTTP/1.1\r\nHost: good.example\r\n\r\nGET /2 HTTP/1.1\r\nHost: good.example\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	back := newRecorder(f)
	n := start(f, back.addr, false, func(s *Settings) {
		s.ClientHeaderTimeout, s.ClientBodyTimeout, s.ClientKeepaliveTimeout = "100ms", "100ms", "1ms"
	})
	one := func(t *testing.T, raw []byte) {
		c := n.dial(t, strangeIP)
		c.Write(raw)
		// nginx answers, or closes when it has waited. With an answer out it may
		// linger for seconds; what it then still sends on is seen next time.
		if _, err := c.Read(make([]byte, 1)); err == nil {
			c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			io.Copy(io.Discard, c)
		}
		c.Close()
		for _, s := range back.take() {
			if err := evidence.CheckTarget(s.target()); err != nil {
				t.Errorf("sent on %q: %v", s.line, err)
			}
			if v := s.values("host"); len(v) != 1 || v[0] != nodeName && v[0] != "other.example" {
				t.Errorf("sent on for %q", v)
			}
			for _, name := range evidence.Headers() {
				v := s.values(name)
				switch name {
				case evidence.HeaderRequestID:
					if len(v) != 1 || !requestID.MatchString(v[0]) {
						t.Errorf("request id %q", v)
					}
				case evidence.HeaderClientIP:
					if !reflect.DeepEqual(v, []string{strangeIP}) {
						t.Errorf("client %q", v)
					}
				case evidence.HeaderMode:
					if !reflect.DeepEqual(v, []string{"block"}) {
						t.Errorf("mode %q", v)
					}
				case evidence.HeaderApplication:
					if !reflect.DeepEqual(v, []string{"-1"}) {
						t.Errorf("application %q", v)
					}
				default:
					if len(v) != 0 {
						t.Errorf("%s goes on as %q", name, v)
					}
				}
			}
			if len(s.values("content-length"))+len(s.values("transfer-encoding")) > 1 {
				t.Errorf("two framings: %+v", s.fields)
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) { limited(t, func() { one(t, raw) }) })
}

// FuzzAttesterToPlugin leaves nginx out, so that any bytes reach the attester, and
// holds it to the real plugin: what it forwards has evidence that is accepted,
// which means that the gateway read the very method, host and target that were
// signed. Only the policy on upgrades may still refuse.
func FuzzAttesterToPlugin(f *testing.F) {
	const statement = "X-Wallarm-Request-Id: 0123456789abcdef0123456789abcdef\r\nX-Wallarm-Client-Ip: 198.51.100.7\r\n" +
		"X-Wallarm-Mode: block\r\nX-Wallarm-Application: -1\r\n"
	for _, seed := range [][2]string{
		{"GET /x?a=b HTTP/1.1\r\nHost: good.example\r\n", ""},
		{"GET /x HTTP/1.1\r\nHost: GOOD.example:443\r\n", ""},
		{"GET /x HTTP/1.1\r\nHost: good.example.\r\n", ""},
		{"GET /x HTTP/1.1\r\nHost: [::1]:8080\r\n", ""},
		{"GET /x HTTP/1.0\r\nHost: good.example\r\n", ""},
		{"GET /a/%2e%2e/adm?x=%zz;y HTTP/1.1\r\nHost: good.example\r\n", ""},
		{"GET /a//b;c/..;/d?{|}^` HTTP/1.1\r\nHost: good.example\r\n", ""},
		{"GET /p\"%2f..%2fadm HTTP/1.1\r\nHost: good.example\r\n", ""},
		{"GET /public#?q=1 HTTP/1.1\r\nHost: good.example\r\n", ""},
		{"GET http://evil.example/x HTTP/1.1\r\nHost: good.example\r\n", ""},
		{"GET /x HTTP/1.1\r\nHost: good.example\r\nX_Wallarm_Token: t\r\nsignature: s\r\nConnection: x-wallarm-mode\r\n", ""},
		{"GET /x HTTP/1.1\r\nHost: good.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n", ""},
		{"POST /x HTTP/1.1\r\nHost: good.example\r\nContent-Length: 2\r\n", "{}"},
		{"POST /x HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-Wallarm-Mode\r\n", "1\r\na\r\n0\r\nX-Wallarm-Mode: off\r\n\r\n"},
		{"POST /x HTTP/1.1\r\nHost: good.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nGET /y HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"m-x /x HTTP/1.1\r\nHost: good.example\r\n", ""},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	c := &chain{upstream: newRecorder(f)}
	signing := c.startGateway(f, "block")
	status := httpBackend(f, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, statusActive) })
	listen := fmt.Sprintf("127.0.0.1:%d", freePort(f))
	c.startAttester(f, listen, signing, "http://"+status)

	send := func(t testing.TB, head, body []byte) pluginhost.Observation {
		conn, err := net.DialTimeout("tcp", listen, fuzzLimit/2)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// An input may leave a request unfinished; then nothing answers.
		conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
		conn.Write(head)
		io.WriteString(conn, statement+"Connection: close\r\n\r\n")
		conn.Write(body)
		io.Copy(io.Discard, conn)
		return c.take()
	}
	eventually(f, "an honest request is allowed", func() bool {
		gate, _ := send(f, []byte("GET /x HTTP/1.1\r\nHost: good.example\r\n"), nil).Serialized["wallarm_gate"].(map[string]any)
		return gate["decision"] == "allow"
	})

	one := func(t *testing.T, head, body []byte) {
		o := send(t, head, body)
		if o.RequestID == "" {
			return // refused, and the gateway has seen nothing
		}
		gate, _ := o.Serialized["wallarm_gate"].(map[string]any)
		switch {
		case gate["decision"] == "allow" || gate["reason"] == "upgrade_not_allowed":
		case gate == nil && !o.Proxied && o.Route == "":
			// The gateway itself refused it before any plugin ran.
		default:
			t.Errorf("%q for %q: the gateway decided %v (%s)", o.Target, o.Host, gate, o.Err)
		}
		for _, field := range o.UpstreamHeader {
			switch fold(field.Name) {
			case "signature", "signature-input", "x-wallarm-token":
				t.Errorf("the upstream got %s", field.Name)
			case "x-wallarm-mode":
				if field.Value != "block" {
					t.Errorf("the upstream got the mode %q", field.Value)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, head, body []byte) { limited(t, func() { one(t, head, body) }) })
}

// fuzzLimit is shorter than the ten seconds after which Go ends a fuzzing process
// without a word.
const fuzzLimit = 8 * time.Second

// limited runs one input of a fuzz target, and fails it with the stacks of all
// goroutines if it does not come to an end.
func limited(t *testing.T, one func()) {
	done := make(chan struct{})
	go func() {
		defer close(done) // also where a helper ends this goroutine with t.Fatal
		one()
	}()
	limit := time.NewTimer(fuzzLimit)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		stacks := make([]byte, 1<<20)
		t.Fatalf("not over within %v:\n%s", fuzzLimit, stacks[:runtime.Stack(stacks, true)])
	}
}
