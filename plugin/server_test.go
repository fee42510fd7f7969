package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"google.golang.org/protobuf/proto"
)

// rawKong is one connection of Kong's to the plugin's socket.
type rawKong struct {
	testing.TB
	net.Conn
}

func dialPlugin(tb testing.TB, socket string) *rawKong {
	tb.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &rawKong{tb, conn}
}

func (k *rawKong) send(m proto.Message) {
	k.Helper()
	frame, err := proto.Marshal(m)
	if err == nil {
		err = writeFrame(k, frame)
	}
	if err != nil {
		k.Fatal(err)
	}
}

func (k *rawKong) receive() string {
	k.Helper()
	frame, err := readFrame(k)
	if err != nil {
		k.Fatal(err)
	}
	return string(frame)
}

// start starts an instance and returns its id.
func (k *rawKong) start(config map[string]any) int32 {
	k.Helper()
	data, err := json.Marshal(config)
	if err != nil {
		k.Fatal(err)
	}
	k.send(&kong_plugin_protocol.RpcCall{Sequence: 2, Call: &kong_plugin_protocol.RpcCall_CmdStartInstance{
		CmdStartInstance: &kong_plugin_protocol.CmdStartInstance{Name: pluginName, Config: data}}})
	var ret kong_plugin_protocol.RpcReturn
	if err := proto.Unmarshal([]byte(k.receive()), &ret); err != nil || ret.Sequence != 2 {
		k.Fatalf("%v (%v)", &ret, err)
	}
	return ret.GetInstanceStatus().GetInstanceId()
}

func (k *rawKong) event(id int32, phase string) {
	k.Helper()
	k.send(&kong_plugin_protocol.RpcCall{Sequence: 2, Call: &kong_plugin_protocol.RpcCall_CmdHandleEvent{
		CmdHandleEvent: &kong_plugin_protocol.CmdHandleEvent{InstanceId: id, EventName: phase}}})
}

// refuse answers an event with nothing that could be evidence until the plugin
// ends the request.
func (k *rawKong) refuse() {
	k.Helper()
	for {
		method := k.receive()
		k.receive() // the argument
		switch method {
		case "kong.response.exit":
			return
		case "": // the event ended
			k.Fatal("the request was not refused")
		}
		if err := writeFrame(k, nil); err != nil {
			k.Fatal(err)
		}
	}
}

// closed waits until the plugin has closed the connection.
func (k *rawKong) closed() {
	k.Helper()
	if n, err := k.Read(make([]byte, 1)); err != io.EOF {
		k.Fatalf("%d bytes more (%v), want the end of the connection", n, err)
	}
}

var testConfig = map[string]any{"proof": proofToken, "require_inspection": "any", "tokens": []string{strings.Repeat("t", minToken)}, "__seq__": 7}

// startBinary runs the binary in a folder of its own, after a command of the shell.
func startBinary(t *testing.T, shell string) (socket string, cmd *exec.Cmd) {
	t.Helper()
	dir := t.TempDir()
	socket = filepath.Join(dir, pluginName+".socket")
	ctx, cancel := context.WithCancel(context.Background())
	cmd = exec.CommandContext(ctx, "sh", "-c", shell+`; exec "$0" "$@"`, gateBinary, "-kong-prefix", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); cmd.Wait() })
	for deadline := time.Now().Add(30 * time.Second); ; {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return socket, cmd
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestServer(t *testing.T) {
	t.Parallel()
	socket, _ := startBinary(t, ":")
	t.Run("a refusal awaits nothing", func(t *testing.T) {
		// Kong holds on to the connection until the client has sent its body.
		k := dialPlugin(t, socket)
		k.event(k.start(testConfig), "access")
		k.refuse()
		k.closed()
	})
	t.Run("the number is Kong's", func(t *testing.T) {
		k := dialPlugin(t, socket)
		if a, b := k.start(testConfig), k.start(testConfig); a != 7 || b != 7 {
			t.Errorf("instances %d and %d, want 7", a, b)
		}
		if a, b := k.start(map[string]any{}), k.start(map[string]any{}); a == b || a > 0 || b > 0 {
			t.Errorf("without a number %d and %d: want two that Kong does not give", a, b)
		}
	})
	t.Run("what is no configuration refuses", func(t *testing.T) {
		for _, data := range []string{"", "{", "[]", "null", `{"__seq__":"x"}`} {
			k := dialPlugin(t, socket)
			k.send(&kong_plugin_protocol.RpcCall{Call: &kong_plugin_protocol.RpcCall_CmdStartInstance{
				CmdStartInstance: &kong_plugin_protocol.CmdStartInstance{Config: []byte(data)}}})
			var ret kong_plugin_protocol.RpcReturn
			if err := proto.Unmarshal([]byte(k.receive()), &ret); err != nil {
				t.Fatal(err)
			}
			k.event(ret.GetInstanceStatus().GetInstanceId(), "access")
			k.refuse()
		}
	})
	t.Run("closed instances", func(t *testing.T) {
		k := dialPlugin(t, socket)
		config := map[string]any{"__seq__": 9}
		id := k.start(config)
		k.send(&kong_plugin_protocol.RpcCall{Call: &kong_plugin_protocol.RpcCall_CmdCloseInstance{
			CmdCloseInstance: &kong_plugin_protocol.CmdCloseInstance{InstanceId: id}}})
		k.receive()
		k.event(id, "access")
		k.closed()
	})
	for name, frame := range map[string]string{
		"no protobuf": "\xff", "no call": "", "no frame": "\xff\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			k := dialPlugin(t, socket)
			if name == "no frame" {
				io.WriteString(k, frame)
			} else if err := writeFrame(k, []byte(frame)); err != nil {
				t.Fatal(err)
			}
			k.closed()
		})
	}
	t.Run("another phase", func(t *testing.T) {
		k := dialPlugin(t, socket)
		k.event(k.start(testConfig), "log")
		k.closed()
	})
}

// A flood takes the last file descriptor: the process, and what it remembers,
// outlives it, and those that waited are served.
func TestServerOutOfFiles(t *testing.T) {
	t.Parallel()
	socket, cmd := startBinary(t, "ulimit -n 48")
	var flood []net.Conn
	for range 100 {
		flood = append(flood, dialPlugin(t, socket))
	}
	// The last one has not been accepted; the files that it waits for are these.
	last := &rawKong{t, flood[len(flood)-1]}
	for _, conn := range flood[:len(flood)-1] {
		conn.Close()
	}
	last.event(last.start(testConfig), "access")
	last.refuse()
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Error(err)
	}
}

// brokenListener cannot accept at first.
type brokenListener struct {
	net.Listener
	fails int
	conn  chan net.Conn
}

func (l *brokenListener) Accept() (net.Conn, error) {
	if l.fails > 0 {
		l.fails--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	conn, ok := <-l.conn
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func TestServerAcceptsAgain(t *testing.T) {
	t.Parallel()
	var said []string
	s := &pluginServer{now: time.Now, say: func(line string) { said = append(said, line) }}
	l := &brokenListener{fails: 3, conn: make(chan net.Conn, 1)}
	plugin, kong := net.Pipe()
	l.conn <- plugin
	ended := make(chan error, 1)
	go func() { ended <- s.serve(l) }()
	k := &rawKong{t, kong}
	if id := k.start(map[string]any{"__seq__": 3}); id != 3 {
		t.Errorf("instance %d", id)
	}
	close(l.conn)
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if want := "connections of Kong wait: accept: accept4: too many open files"; len(said) != 1 || said[0] != want {
		t.Errorf("said %q, want %q once", said, want)
	}
}

// Instances of workers that have ended are closed by nobody.
func TestServerForgetsInstances(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := &pluginServer{now: func() time.Time { return now }}
	config := func(seq int) []byte { return fmt.Appendf(nil, `{"__seq__":%d}`, seq) }
	for seq := range 4 {
		s.start(config(seq + 1))
	}
	now = now.Add(idleInstance + time.Second)
	if s.find(2) == nil { // used
		t.Fatal("an instance is gone that nobody closed")
	}
	s.start(config(5))
	s.close(4)
	for id, want := range map[int32]bool{1: false, 2: true, 3: false, 4: false, 5: true} {
		if got := s.find(id) != nil; got != want {
			t.Errorf("instance %d: %v, want %v", id, got, want)
		}
	}
}

// bytesConn is a connection on which Kong has said everything, and then went.
type bytesConn struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (c *bytesConn) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c *bytesConn) Write(b []byte) (int, error) { return c.out.Write(b) }
func (c *bytesConn) Close() error                { return nil }

// Whatever stands on the socket: the conversation ends, all that was said is whole
// frames, and no request is accepted without evidence.
func FuzzServer(f *testing.F) {
	frames := func(calls ...any) (b []byte) {
		for _, call := range calls {
			var frame []byte
			switch call := call.(type) {
			case []byte:
				frame = call
			case proto.Message:
				var err error
				if frame, err = proto.Marshal(call); err != nil {
					f.Fatal(err)
				}
			}
			b = append(binary.LittleEndian.AppendUint32(b, uint32(len(frame))), frame...)
		}
		return b
	}
	config, err := json.Marshal(testConfig)
	if err != nil {
		f.Fatal(err)
	}
	start := &kong_plugin_protocol.RpcCall{Sequence: 1, Call: &kong_plugin_protocol.RpcCall_CmdStartInstance{
		CmdStartInstance: &kong_plugin_protocol.CmdStartInstance{Name: pluginName, Config: config}}}
	event := &kong_plugin_protocol.RpcCall{Call: &kong_plugin_protocol.RpcCall_CmdHandleEvent{
		CmdHandleEvent: &kong_plugin_protocol.CmdHandleEvent{InstanceId: 7, EventName: phaseAccess}}}
	closing := &kong_plugin_protocol.RpcCall{Call: &kong_plugin_protocol.RpcCall_CmdCloseInstance{
		CmdCloseInstance: &kong_plugin_protocol.CmdCloseInstance{InstanceId: 7}}}
	f.Add(frames(start, event, []byte{}, []byte{}))
	f.Add(frames(start, closing, event))
	f.Add(frames(start, event, []byte("\x0a\x03x\ny"), []byte{}, []byte{}, event))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, said []byte) {
		c := &bytesConn{in: bytes.NewReader(said)}
		s := &pluginServer{now: time.Now, say: func(string) {}}
		s.converse(c)
		exit := bytes.Contains(c.out.Bytes(), []byte(exitMethod))
		for c.out.Len() > 0 {
			frame, err := receiveFrame(&c.out)
			if err != nil {
				t.Fatal(err)
			}
			if string(frame) == exitMethod {
				if _, err := receiveFrame(&c.out); err != nil || c.out.Len() > 0 {
					t.Fatalf("after the answer %q (%v)", c.out.Bytes(), err)
				}
			} else if len(frame) == 0 && !exit {
				t.Fatal("an event ended without an answer to the request")
			}
		}
	})
}
