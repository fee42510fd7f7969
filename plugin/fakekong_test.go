package main

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/Kong/go-pdk"
	"github.com/Kong/go-pdk/bridge"
	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// fakeKong answers the PDK calls of one event in the wire format, from a table
// of nginx variables.
type fakeKong struct {
	vars    map[string]string
	breaks  string // the connection breaks at this method
	garbage string // the answer to this method is no protobuf
}

// outcome is what one event led to.
type outcome struct {
	calls   []string
	removed []string // from the upstream's request
	lines   []string // "level: text"
	value   map[string]any
	exited  bool
	status  int
	body    string
	header  map[string][]string
}

// access runs one access event of c.
func (k *fakeKong) access(tb testing.TB, c *Config) *outcome {
	tb.Helper()
	plugin, kong := net.Pipe()
	done := make(chan *outcome, 1)
	go func() { done <- k.serve(tb, kong) }()
	c.Access(pdk.Init(plugin))
	plugin.Close()
	return <-done
}

func (k *fakeKong) serve(tb testing.TB, conn net.Conn) *outcome {
	defer conn.Close()
	o := new(outcome)
	for {
		method, err := readFrame(conn)
		if err != nil {
			return o
		}
		args, err := readFrame(conn)
		if err != nil {
			return o
		}
		o.calls = append(o.calls, string(method))
		if string(method) == k.breaks {
			return o
		}
		reply, done := k.reply(tb, o, string(method), args)
		if done {
			return o // as Kong: the connection is abandoned
		}
		if string(method) == k.garbage {
			reply = []byte{0xff}
		}
		if err := writeFrame(conn, reply); err != nil {
			return o
		}
	}
}

func (k *fakeKong) reply(tb testing.TB, o *outcome, method string, args []byte) (reply []byte, done bool) {
	decode := func(m proto.Message) {
		if err := proto.Unmarshal(args, m); err != nil {
			tb.Errorf("%s: %v", method, err)
		}
	}
	switch method {
	case "kong.nginx.get_var":
		var name kong_plugin_protocol.String
		decode(&name)
		reply, _ = proto.Marshal(&kong_plugin_protocol.ByteString{V: []byte(k.vars[name.V])})
	case "kong.service.request.set_headers":
		var headers structpb.Struct
		decode(&headers)
		for name, values := range bridge.UnwrapHeaders(&headers) {
			if len(values) != 0 {
				tb.Errorf("header %s is set, not removed", name)
			}
			o.removed = append(o.removed, name)
		}
	case "kong.log.warn", "kong.log.err", "kong.log.crit":
		var list structpb.ListValue
		decode(&list)
		for _, v := range list.Values {
			o.lines = append(o.lines, strings.TrimPrefix(method, "kong.log.")+": "+v.GetStringValue())
		}
	case "kong.log.set_serialize_value":
		var kv kong_plugin_protocol.KV
		decode(&kv)
		if kv.K != "wallarm_gate" {
			tb.Errorf("serialized value %q", kv.K)
		}
		o.value = kv.V.GetStructValue().AsMap()
	case "kong.response.exit":
		var exit kong_plugin_protocol.ExitArgs
		decode(&exit)
		o.exited, o.status, o.body = true, int(exit.Status), string(exit.Body)
		o.header = bridge.UnwrapHeaders(exit.Headers)
		return nil, true
	default:
		tb.Errorf("unknown PDK method %q", method)
		return nil, true
	}
	return reply, false
}

func readFrame(r io.Reader) ([]byte, error) {
	var size uint32
	if err := binary.Read(r, binary.LittleEndian, &size); err != nil {
		return nil, err
	}
	data := make([]byte, size)
	_, err := io.ReadFull(r, data)
	return data, err
}

func writeFrame(w io.Writer, data []byte) error {
	_, err := w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}
