package main

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

var strangeReplies = map[string]string{
	"HTTP":                   "HTTP/1.1 400 Bad Request\r\n\r\n",
	"one byte":               "H",
	"TLS alert":              "\x15\x03\x01\x00\x02\x02\x46",
	"empty line":             "\r\n",
	"line feed only":         "+OK\n",
	"huge string":            "$536870912\r\n",
	"string over the limit":  "$16385\r\n",
	"length beyond int":      "$9223372036854775807\r\n",
	"negative length":        "$-2\r\n",
	"length with a sign":     "$+5\r\n",
	"empty length":           "$\r\n",
	"huge array":             "*2147483647\r\n",
	"array over the limit":   "*257\r\n",
	"line without end":       "+" + strings.Repeat("x", 2*maxReplyLine),
	"many answers":           strings.Repeat("+OK\r\n", maxReply),
	"arrays in arrays":       strings.Repeat("*256\r\n", maxReply),
	"RESP3 map":              "%1\r\n+a\r\n+b\r\n",
	"RESP3 push":             ">1\r\n+a\r\n",
	"RESP3 blob error":       "!5\r\nERR x\r\n",
	"RESP3 verbatim":         "=5\r\ntxt:x\r\n",
	"string in a huge array": "*1\r\n$999999\r\n",
}

func TestReplyCheck(t *testing.T) {
	t.Parallel()
	type reply struct {
		text string
		good bool
	}
	replies := map[string]reply{
		"status":     {"+OK\r\n", true},
		"error":      {"-OOM command not allowed\r\n", true},
		"integer":    {":7\r\n", true},
		"nil":        {"$-1\r\n", true},
		"nil array":  {"*-1\r\n", true},
		"string":     {"$5\r\nab\r\nc\r\n+OK\r\n", true},
		"empty":      {"$0\r\n\r\n+OK\r\n", true},
		"array":      {"*3\r\n$1\r\na\r\n:1\r\n*1\r\n+x\r\n", true},
		"longest":    {"$16384\r\n" + strings.Repeat("x", 16384) + "\r\n", true},
		"looks like": {"$9\r\n$99999999\r\n", true},
	}
	for name, text := range strangeReplies {
		replies[name] = reply{text, false}
	}
	for name, r := range replies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 7, len(r.text)} {
				if err := checkInPieces([]byte(r.text), size); (err == nil) != r.good {
					t.Errorf("in pieces of %d: %v", size, err)
				}
			}
		})
	}
}

func checkInPieces(text []byte, size int) error {
	var c replyCheck
	for len(text) > 0 {
		n := min(size, len(text))
		if err := c.read(text[:n]); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// The bytes of one command's answers are bounded, those of a connection are not.
func TestReplyCheckBeginsAnew(t *testing.T) {
	t.Parallel()
	var c replyCheck
	for range 100 {
		c.sent()
		if err := c.read([]byte("$10000\r\n" + strings.Repeat("x", 10000) + "\r\n")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCheckedConnCloses(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe()
	go func() {
		server.Write([]byte("HTTP/1.1 400 Bad Request\r\n"))
		server.Close()
	}()
	c := &checkedConn{Conn: client}
	buffer := make([]byte, 100)
	if n, err := c.Read(buffer); n != 0 || !errors.Is(err, errNoRedis) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := c.Read(buffer); !errors.Is(err, errNoRedis) {
		t.Errorf("forgiven: %v", err)
	}
	if _, err := client.Write(buffer); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("still open: %v", err)
	}
}

// The pieces in which a reply arrives do not matter, and what passes announces
// nothing that is larger than the bounds.
func FuzzReplyCheck(f *testing.F) {
	for _, text := range strangeReplies {
		f.Add([]byte(text[:min(len(text), 64)]), 3)
	}
	f.Add([]byte("*2\r\n$5\r\nhello\r\n:1\r\n-ERR x\r\n$-1\r\n"), 1)
	f.Fuzz(func(t *testing.T, text []byte, size int) {
		whole, pieces := checkInPieces(text, len(text)), checkInPieces(text, min(max(size, 1), 1<<16))
		if (whole == nil) != (pieces == nil) {
			t.Fatalf("whole %v, in pieces %v", whole, pieces)
		}
		if whole != nil {
			return
		}
		for rest := text; len(rest) > 0; {
			line, after, ended := bytes.Cut(rest, []byte("\r\n"))
			if !ended {
				return
			}
			n, isLength := replyLength(line[1:])
			switch {
			case line[0] != '$' && line[0] != '*':
				n = -1
			case !isLength || line[0] == '$' && n > maxReplyBulk || line[0] == '*' && n > maxReplyList:
				t.Fatalf("passed: %q", line)
			}
			if line[0] == '$' && n >= 0 {
				after = after[min(n+2, len(after)):]
			}
			rest = after
		}
	})
}

func FuzzInfoField(f *testing.F) {
	f.Add("# Memory\r\nused_memory:1\r\nmaxmemory_policy:noeviction\r\n")
	f.Add("maxmemory_policy:a:b\n")
	f.Add("# Server\r\nrun_id:0123456789abcdef\r\nuptime_in_seconds:75\r\nrole:master\r\nmaster_replid:fedcba9876543210\r\n")
	f.Add("role:slave\r\nuptime_in_seconds:4294967295\nuptime_in_seconds:1\n")
	f.Add("role:slave \nrun_id: \n")
	f.Add("run_id: a b\nmaster_replid:c")
	f.Fuzz(func(t *testing.T, info string) {
		if v := infoField(info, "maxmemory_policy"); v != "" && !strings.Contains(info, "maxmemory_policy:"+v) {
			t.Fatalf("%q", v)
		}
		r, err := readIdentity(info, info)
		invented := func(word string) bool { return !strings.Contains(info, word) }
		switch {
		case (err != nil) != (infoField(info, "role") == "slave"):
			t.Fatalf("%v", err)
		case r.uptime < -1 || r.uptime > math.MaxUint32*time.Second || err == nil && r.uptime >= 0 && !strings.Contains(info, "uptime_in_seconds:"):
			t.Fatalf("%v", r.uptime)
		case slices.ContainsFunc(strings.Fields(r.id), invented):
			t.Fatalf("%q", r.id)
		}
	})
}
