package e2e

// Mutations that nobody wrote down: of one valid request, every single change of
// a kind. Each is refused, or means the same.

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// mutation is one change of the header of a valid request.
type mutation struct {
	what   string
	change func(header [][2]string) [][2]string
	equal  bool // the request means the same: nginx reads the same values
	either bool // nginx reads the same values, or refuses
	alone  bool // it may end the head early, so its connection is not used again
}

// spellingsOf are all mixes of '-' and '_' in a name.
func spellingsOf(name string) []string {
	all := []string{""}
	for _, c := range name {
		for i := range all {
			if c == '-' {
				all = append(all, all[i]+"_")
			}
			all[i] += string(c)
		}
	}
	return all
}

// insertedBytes are the classes of bytes that a parser may treat in its own way.
var insertedBytes = []byte{0, '\t', '\n', '\v', '\r', ' ', '"', '(', ')', ',', '0', ':', ';', '=', 'a', '\\', 0x7f, 0xa0}

// mutations of a header whose fields are in the order of evidence.Headers.
func mutations(header [][2]string) (all []mutation) {
	names := evidence.Headers()
	input := slices.Index(names, evidence.HeaderSignatureInput)
	for i, name := range names {
		if name == evidence.HeaderToken {
			for _, spelling := range spellingsOf(name) {
				all = append(all, mutation{what: "a token as " + spelling, change: func(h [][2]string) [][2]string {
					return append(h, [2]string{spelling, "forged"})
				}, equal: true})
			}
			continue
		}
		rename := func(to string) func([][2]string) [][2]string {
			return func(h [][2]string) [][2]string { h[i][0] = to; return h }
		}
		all = append(all, mutation{what: "without " + name, change: func(h [][2]string) [][2]string { return slices.Delete(h, i, i+1) }})
		for at := range name {
			if c := name[at] | 0x20; 'a' <= c && c <= 'z' {
				flipped := name[:at] + string(name[at]^0x20) + name[at+1:]
				all = append(all, mutation{what: name + " as " + flipped, change: rename(flipped), equal: true})
			}
			gone := name[:at] + name[at+1:]
			all = append(all, mutation{what: name + " as " + gone, change: rename(gone)})
		}
		for _, spelling := range spellingsOf(name) {
			all = append(all, mutation{what: name + " as " + spelling, change: rename(spelling), equal: true})
			for _, value := range []string{header[i][1], "off", ""} {
				all = append(all,
					mutation{what: fmt.Sprintf("%s: %q behind %s", spelling, value, name), change: func(h [][2]string) [][2]string {
						return append(h, [2]string{spelling, value})
					}},
					mutation{what: fmt.Sprintf("%s: %q before %s", spelling, value, name), change: func(h [][2]string) [][2]string {
						return slices.Insert(h, 0, [2]string{spelling, value})
					}})
			}
		}
		for at := range header[i][1] {
			all = append(all, mutation{what: fmt.Sprintf("%s without byte %d", name, at), change: func(h [][2]string) [][2]string {
				h[i][1] = h[i][1][:at] + h[i][1][at+1:]
				return h
			}})
		}
	}
	last := len(header[input][1])
	for at := range last + 1 {
		for _, b := range insertedBytes {
			all = append(all, mutation{
				what: fmt.Sprintf("byte 0x%02x in front of byte %d of Signature-Input", b, at),
				change: func(h [][2]string) [][2]string {
					h[input][1] = h[input][1][:at] + string([]byte{b}) + h[input][1][at:]
					return h
				},
				equal:  b == ' ' && (at == 0 || at == last),
				either: b == '\r' && at == last, // CR CR LF
				alone:  b == '\n' || b == '\r' || b == 0,
			})
		}
	}
	return all
}

// mutator sends mutations over one connection for as long as it lasts.
type mutator struct {
	s      *system
	signer *evidence.Signer
	conn   net.Conn
	br     *bufio.Reader
}

// header is that of a fresh and valid request.
func (m *mutator) header() ([][2]string, error) {
	msg := m.s.statement("GET", "/mutation")
	if err := m.signer.Sign(&msg, time.Now()); err != nil {
		return nil, err
	}
	return [][2]string{
		{evidence.HeaderRequestID, msg.RequestID}, {evidence.HeaderClientIP, msg.ClientIP}, {evidence.HeaderMode, msg.Mode},
		{evidence.HeaderApplication, msg.Application}, {evidence.HeaderNode, msg.Node}, {evidence.HeaderInspection, msg.Inspection},
		{evidence.HeaderSignatureInput, msg.SignatureInput}, {evidence.HeaderSignature, msg.Signature},
	}, nil
}

// send returns the status of the answer.
func (m *mutator) send(change *mutation) (int, error) {
	header, err := m.header()
	if err != nil {
		return 0, err
	}
	if m.conn == nil {
		if m.conn, err = dialer("").Dial("tcp", m.s.origin); err != nil {
			return 0, err
		}
		m.br = bufio.NewReader(m.conn)
	}
	m.conn.SetDeadline(time.Now().Add(patience))
	var raw strings.Builder
	raw.WriteString("GET /mutation HTTP/1.1\r\nHost: " + m.s.host + "\r\n")
	for _, f := range change.change(header) {
		raw.WriteString(f[0] + ": " + f[1] + "\r\n")
	}
	raw.WriteString("\r\n")
	if _, err := io.WriteString(m.conn, raw.String()); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(m.br, nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if resp.Body.Close(); resp.Close || change.alone || err != nil {
		m.close()
	}
	return resp.StatusCode, err
}

func (m *mutator) close() {
	if m.conn != nil {
		m.conn.Close()
		m.conn = nil
	}
}

// Each single change of a valid request is refused or means the same, and of what
// passes the upstream never sees a signature or a token.
func TestBypassMutations(t *testing.T) {
	t.Parallel()
	p := newProwler(t, options{withoutEdge: true})
	key, err := p.keys.SigningKey(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := evidence.NewSigner(key, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	// The lengths of all values but the nonce's text are the same every time.
	sample, err := (&mutator{s: p.system, signer: signer}).header()
	if err != nil {
		t.Fatal(err)
	}
	all := mutations(sample)
	var next, passed atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			m := &mutator{s: p.system, signer: signer}
			defer m.close()
			for {
				i := int(next.Add(1)) - 1
				if i >= len(all) {
					return
				}
				status, err := m.send(&all[i])
				switch {
				case err != nil:
					t.Errorf("%s: %v", all[i].what, err)
					m.close()
				case all[i].equal != (status == http.StatusOK) && !all[i].either:
					t.Errorf("%s: got %d, the same meaning: %t", all[i].what, status, all[i].equal)
				case status != http.StatusOK && status != http.StatusForbidden && status != http.StatusBadRequest:
					t.Errorf("%s: got %d, want a refusal", all[i].what, status)
				}
				if status == http.StatusOK {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d mutations, %d of the same meaning", len(all), passed.Load())

	arrived := p.upstream.take()
	if len(arrived) != int(passed.Load()) {
		t.Errorf("the upstream got %d requests, %d were answered", len(arrived), passed.Load())
	}
	for _, r := range arrived {
		for _, name := range []string{evidence.HeaderSignatureInput, evidence.HeaderSignature, evidence.HeaderToken} {
			if v := r.values(name); len(v) > 0 {
				t.Errorf("%s at the upstream: %q", name, v)
			}
		}
	}
	for d, n := range p.decisionsNow(t) {
		switch {
		case d == allowed && int(n) == int(passed.Load()):
		case d.decision == "deny" && slices.Contains([]string{"missing_evidence", "malformed_evidence", "unknown_key", "bad_signature"}, d.reason):
		default:
			t.Errorf("%g times %v", n, d)
		}
	}
}
