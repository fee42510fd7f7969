package bypass

// From a case to bytes on a connection, and what comes back.

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Site is what a case is run against.
type Site struct {
	Gateway string // its name in `expect@NAME`
	Host    string // {{host}}
	Token   string // {{token}}
	Keys    *Keys
}

// Run is one variant of one case with everything filled in. It is for one use:
// its evidence is fresh, and then spent.
type Run struct {
	Mark string   // no other request holds this text
	Want []Answer // in the order of the requests

	proto  string
	steps  []step
	checks []filled
}

type step struct {
	fresh  bool
	bytes  []byte   // HTTP/1.x
	frames []action // HTTP/2
	want   int
}

type filled struct {
	present bool
	text    string
}

// Prepare fills in v of c with evidence as of now.
func (c *Case) Prepare(v Variant, site *Site, now time.Time) (*Run, error) {
	var random [6]byte
	rand.Read(random[:]) // never fails
	fill := newValues("m"+hex.EncodeToString(random[:]), site.Host, site.Token)
	r := &Run{Mark: fill.mark, proto: c.Proto}
	for i := range c.signings {
		s := &c.signings[i]
		if !s.scope.has(v) {
			continue
		}
		edits := c.edits
		if v == Twin {
			edits = nil
		}
		e, err := s.make(site.Keys, edits, fill, now)
		// Not every signature has a character that the edit wants.
		for try := 0; errors.Is(err, errUnchanged) && try < 64; try++ {
			e, err = s.make(site.Keys, edits, fill, now)
		}
		if err != nil {
			return nil, fmt.Errorf("evidence %q: %w", s.name, err)
		}
		fill.evidence[s.name] = e
	}
	for i := range c.exchanges {
		x := &c.exchanges[i]
		answers := x.answers(v, site.Gateway)
		if answers == nil {
			continue
		}
		s := step{fresh: x.fresh, want: len(answers)}
		for _, l := range x.lines {
			if !l.scope.has(v) {
				continue
			}
			if c.Proto == HTTP2 {
				s.frames = append(s.frames, l.actions(fill)...)
			} else {
				s.bytes = append(s.bytes, l.text.expand(fill)...)
			}
		}
		r.steps = append(r.steps, s)
		r.Want = append(r.Want, answers...)
	}
	for _, k := range c.checks {
		if k.scope.has(v) {
			r.checks = append(r.checks, filled{k.present, k.text.expand(fill)})
		}
	}
	if *fill.left < 0 {
		return nil, fmt.Errorf("more than %d bytes", maxRun)
	}
	return r, nil
}

// Check looks for the texts of `absent` and `present`, letter case aside, in
// what the upstream received.
func (r *Run) Check(upstream string) error {
	upstream = strings.ToLower(upstream)
	for _, k := range r.checks {
		if strings.Contains(upstream, strings.ToLower(k.text)) != k.present {
			return fmt.Errorf("%q at the upstream: %t, want %t", k.text, !k.present, k.present)
		}
	}
	return nil
}

// Text is what the run sends, for a report of a failure.
func (r *Run) Text() string {
	var b strings.Builder
	for _, s := range r.steps {
		fmt.Fprintf(&b, "%q", s.bytes)
		for _, a := range s.frames {
			fmt.Fprintf(&b, "%+v ", a)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Send runs every step and returns what the client saw, one status, Closed, Raw,
// Reset or GoAway for each answer. Answers that nobody asked for are returned
// too: after the last step of a connection it says that it sends no more, and
// reads to the end. dial sets the deadline. An error is one of the network
// before the first byte.
func (r *Run) Send(dial func() (net.Conn, error)) ([]string, error) {
	var got []string
	var link interface {
		exchange(s *step) []string
		finish() []string
	}
	for i := range r.steps {
		s := &r.steps[i]
		if s.fresh || link == nil {
			if link != nil {
				got = append(got, link.finish()...)
			}
			conn, err := dial()
			if err != nil {
				return got, err
			}
			defer conn.Close()
			if r.proto == HTTP2 {
				link = newHTTP2(conn)
			} else {
				link = &link1{conn: conn, br: bufio.NewReader(conn)}
			}
		}
		got = append(got, link.exchange(s)...)
	}
	return append(got, link.finish()...), nil
}

// link1 is a connection of HTTP/1.x.
type link1 struct {
	conn net.Conn
	br   *bufio.Reader
	over bool // closed, or no longer HTTP
}

func (l *link1) exchange(s *step) []string {
	// Beside the reading: a gateway may answer and close before it has read all.
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = l.conn.Write(s.bytes) // a broken connection shows in what is read
	}()
	defer func() { <-written }()
	method := http.MethodGet
	if bytes.HasPrefix(s.bytes, []byte("HEAD ")) {
		method = http.MethodHead
	}
	var got []string
	for range s.want {
		got = append(got, l.answer(method))
		method = http.MethodGet
	}
	return got
}

func (l *link1) finish() []string {
	var got []string
	if c, ok := l.conn.(interface{ CloseWrite() error }); ok && !l.over {
		_ = c.CloseWrite()
		for len(got) < 16 {
			status := l.answer(http.MethodGet)
			if status == Closed {
				break
			}
			got = append(got, status)
		}
	}
	l.conn.Close()
	return got
}

// answer reads one answer, past informational ones.
func (l *link1) answer(method string) string {
	for !l.over {
		start, err := l.br.Peek(5)
		if err != nil && len(start) == 0 {
			break
		}
		if string(start) != "HTTP/" {
			_, _ = io.Copy(io.Discard, l.br)
			l.over = true
			return Raw
		}
		resp, err := http.ReadResponse(l.br, &http.Request{Method: method})
		if err != nil {
			break
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			l.over = true
			return "101"
		}
		if resp.StatusCode < 200 {
			continue
		}
		_, err = io.Copy(io.Discard, resp.Body)
		l.over = err != nil || resp.Close
		return strconv.Itoa(resp.StatusCode)
	}
	l.over = true
	return Closed
}
