package node

// Whatever bytes a client sends: what nginx sends on is a request that the
// attester takes, with the node's own statement in it.

import (
	"io"
	"reflect"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
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
	f.Fuzz(func(t *testing.T, raw []byte) {
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
	})
}
