package main

// Requests as bytes. The demo must send what no HTTP client would: raw targets,
// forged fields, captured heads.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// answer is one response.
type answer struct {
	status int
	body   string
}

// exchangeLimit bounds one request and its answer.
const exchangeLimit = 15 * time.Second

// exchange sends one request over a connection of its own.
func exchange(ctx context.Context, addr, request string) (answer, error) {
	conn, r, res, err := send(ctx, addr, request)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		return echoed(conn, r)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return answer{}, fmt.Errorf("read the answer: %w", err)
	}
	return answer{res.StatusCode, string(body)}, nil
}

func send(ctx context.Context, addr, request string) (net.Conn, *bufio.Reader, *http.Response, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, nil, err
	}
	conn.SetDeadline(time.Now().Add(exchangeLimit))
	if _, err := io.WriteString(conn, request); err != nil {
		conn.Close()
		return nil, nil, nil, err
	}
	method, _, _ := strings.Cut(request, " ")
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		conn.Close()
		return nil, nil, nil, fmt.Errorf("read the answer: %w", err)
	}
	return conn, r, res, nil
}

// echoed proves that an upgraded connection carries bytes both ways.
func echoed(conn net.Conn, r io.Reader) (answer, error) {
	const ping = "over the upgraded connection"
	if _, err := io.WriteString(conn, ping); err != nil {
		return answer{}, err
	}
	got := make([]byte, len(ping))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != ping {
		return answer{}, fmt.Errorf("echo %q: %w", got, err)
	}
	return answer{http.StatusSwitchingProtocols, ""}, nil
}

// head writes the head of a request. Each field is one line.
func head(method, target string, fields ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: gatectl-demo\r\nAccept: */*\r\n", method, target, demoHost)
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	b.WriteString("\r\n")
	return b.String()
}

// tap is a TCP relay between the attester and the gateway that keeps the head
// of marked requests: what somebody who reads that traffic would have.
type tap struct {
	listener net.Listener
	target   string
	wait     sync.WaitGroup

	mu    sync.Mutex
	open  map[net.Conn]bool // nil once closed
	heads map[string]string // by the value of captureField
}

const captureField = "X-Demo-Capture"

func newTap(target string) (*tap, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &tap{listener: l, target: target, open: map[net.Conn]bool{}, heads: map[string]string{}}
	t.wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.wait.Go(func() { t.relay(c) })
		}
	})
	return t, nil
}

func (t *tap) close() {
	t.listener.Close()
	t.mu.Lock()
	for c := range t.open {
		c.Close()
	}
	t.open = nil
	t.mu.Unlock()
	t.wait.Wait()
}

// hold makes close close c; false means that the tap is closed already.
func (t *tap) hold(c net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		c.Close()
		return false
	}
	t.open[c] = true
	return true
}

func (t *tap) drop(c net.Conn) {
	c.Close()
	t.mu.Lock()
	delete(t.open, c)
	t.mu.Unlock()
}

func (t *tap) relay(in net.Conn) {
	if !t.hold(in) {
		return
	}
	defer t.drop(in)
	out, err := net.Dial("tcp", t.target)
	if err != nil || !t.hold(out) {
		return
	}
	defer t.drop(out)
	back := make(chan struct{})
	go func() {
		defer close(back)
		io.Copy(in, out)
		in.Close()
	}()
	io.Copy(out, io.TeeReader(in, &heads{tap: t}))
	out.Close()
	<-back
}

// heads is what one connection has sent and is not yet a head.
type heads struct {
	tap  *tap
	rest []byte
}

func (h *heads) Write(p []byte) (int, error) {
	h.rest = append(h.rest, p...)
	for {
		end := bytes.Index(h.rest, []byte("\r\n\r\n"))
		if end < 0 {
			break
		}
		text := string(h.rest[:end+4])
		h.rest = h.rest[end+4:]
		if _, after, ok := strings.Cut(text, "\r\n"+captureField+": "); ok {
			mark, _, _ := strings.Cut(after, "\r\n")
			h.tap.mu.Lock()
			h.tap.heads[mark] = text
			h.tap.mu.Unlock()
		}
	}
	if len(h.rest) > 256<<10 { // a body, or what follows an upgrade
		h.rest = nil
	}
	return len(p), nil
}

// captured returns the head of the request with the given mark. The relay has
// read it before the gateway could answer.
func (t *tap) captured(mark string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if text := t.heads[mark]; text != "" {
		return text, nil
	}
	return "", errors.New("the request did not come by between attester and gateway")
}
