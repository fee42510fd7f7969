package main

// The server of Kong's protocol for plugins (ProtoBuf:1). go-pdk has one too. That one
// ends the process when it cannot accept a connection, as when a flood has taken the
// last file descriptor, and what the process remembers ends with it; and it keeps the
// connection of a refused request for as long as the client takes to send its body.

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"os"
	"sync"
	"time"

	"github.com/Kong/go-pdk"
	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"google.golang.org/protobuf/proto"
)

const (
	acceptPause  = 50 * time.Millisecond // before an accept that failed is tried again
	idleInstance = time.Minute           // after which one that Kong never closed may go
	maxFrame     = 64 << 20              // bytes; the largest is a configuration
	exitMethod   = "kong.response.exit"
	phaseAccess  = "access"
)

// pluginServer answers Kong's calls. Its methods are safe for concurrent use.
type pluginServer struct {
	now func() time.Time
	say func(line string) // what an operator must see

	mu         sync.Mutex
	instances  map[int32]*instance
	unnumbered int32 // the last id that was given to an instance without a number of Kong's
}

// instance is one configuration of one of Kong's workers.
type instance struct {
	config *Config
	used   time.Time
}

// listen makes the socket. That of a process that has ended, or that is about to
// end in a reload of Kong, gives way.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// By the end of this process the path may be that of the next one.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

// serve accepts connections until l is closed. While none can be accepted they
// wait, and so do their requests.
func (s *pluginServer) serve(l net.Listener) error {
	var next time.Time
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			go s.converse(conn)
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			if now := s.now(); now.After(next) {
				next = now.Add(10 * time.Second)
				s.say("connections of Kong wait: " + err.Error())
			}
			time.Sleep(acceptPause)
		}
	}
}

// converse answers the calls of one connection, one after the other. A connection
// that is closed before its answer makes Kong call again.
func (s *pluginServer) converse(conn net.Conn) {
	defer conn.Close()
	c := &eventConn{Conn: conn}
	for {
		var err error
		if caught := contain(func() { err = s.answer(c) }); caught != nil {
			err = caught
		}
		switch {
		case err == nil:
		case c.left, errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
			return
		default:
			log.Print(err)
			return
		}
	}
}

// answer reads one call and answers it.
func (s *pluginServer) answer(c *eventConn) error {
	frame, err := receiveFrame(c)
	if err != nil {
		return err
	}
	var call kong_plugin_protocol.RpcCall
	if err := proto.Unmarshal(frame, &call); err != nil {
		return fmt.Errorf("a call of Kong: %w", err)
	}
	ret := &kong_plugin_protocol.RpcReturn{Sequence: call.Sequence}
	switch cmd := call.Call.(type) {
	case *kong_plugin_protocol.RpcCall_CmdStartInstance:
		ret.Return = status(s.start(cmd.CmdStartInstance.GetConfig()))
	case *kong_plugin_protocol.RpcCall_CmdCloseInstance:
		id := cmd.CmdCloseInstance.GetInstanceId()
		s.close(id)
		ret.Return = status(id)
	case *kong_plugin_protocol.RpcCall_CmdHandleEvent:
		config := s.find(cmd.CmdHandleEvent.GetInstanceId())
		if config == nil { // Kong starts it again
			return fmt.Errorf("no plugin instance %d", cmd.CmdHandleEvent.GetInstanceId())
		}
		if phase := cmd.CmdHandleEvent.GetEventName(); phase != phaseAccess {
			return fmt.Errorf("the phase %s, which this plugin does not have", quote(phase))
		}
		config.Access(pdk.Init(c))
		if c.left {
			return io.EOF
		}
		if err := sendFrame(c, nil); err != nil { // the event ends
			return err
		}
	default:
		return fmt.Errorf("a call of Kong that this plugin does not know (%T)", cmd)
	}
	frame, err = proto.Marshal(ret)
	if err != nil {
		return err
	}
	return sendFrame(c, frame)
}

func status(id int32) *kong_plugin_protocol.RpcReturn_InstanceStatus {
	return &kong_plugin_protocol.RpcReturn_InstanceStatus{
		InstanceStatus: &kong_plugin_protocol.InstanceStatus{Name: pluginName, InstanceId: id},
	}
}

// start compiles a configuration and returns the id of its instance: Kong's
// number of the configuration, so that one that is started twice is there once.
func (s *pluginServer) start(data []byte) int32 {
	var meta struct {
		Seq int32 `json:"__seq__"`
	}
	_ = json.Unmarshal(data, &meta) // the decoder of the configuration says what is wrong with it
	config := New().(*Config)
	_ = config.UnmarshalJSON(data) // never fails: a configuration that cannot be used refuses

	s.mu.Lock()
	defer s.mu.Unlock()
	id := meta.Seq
	if id == 0 {
		s.unnumbered--
		id = s.unnumbered
	}
	if s.instances == nil {
		s.instances = make(map[int32]*instance)
	}
	s.instances[id] = &instance{config, s.now()}
	return id
}

// find returns the configuration of an instance, nil if there is none.
func (s *pluginServer) find(id int32) *Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.instances[id]
	if in == nil {
		return nil
	}
	in.used = s.now()
	return in.config
}

// close forgets an instance, and those of workers that have ended.
func (s *pluginServer) close(id int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.instances, id)
	for other, in := range s.instances {
		if s.now().Sub(in.used) > idleInstance {
			delete(s.instances, other)
		}
	}
}

// eventConn is a connection on which nothing is awaited after kong.response.exit.
// Kong answers that call by answering the request, and lets go of the connection
// when the request has ended: with a slow client half a minute later.
type eventConn struct {
	net.Conn
	left bool
}

func (c *eventConn) Write(b []byte) (int, error) {
	if string(b) == exitMethod { // go-pdk writes the name of a method by itself
		c.left = true
	}
	return c.Conn.Write(b)
}

func (c *eventConn) Read(b []byte) (int, error) {
	if c.left {
		return 0, io.EOF
	}
	return c.Conn.Read(b)
}

// receiveFrame reads one frame: its length, then that many bytes.
func receiveFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes, at most %d are read", n, maxFrame)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, err
	}
	return frame, nil
}

func sendFrame(w io.Writer, data []byte) error {
	frame := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(data)), uint32(len(data)))
	_, err := w.Write(append(frame, data...))
	return err
}
