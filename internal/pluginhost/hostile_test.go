package pluginhost

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// frames are the bytes of frames.
func frames(list ...string) string {
	var b []byte
	for _, f := range list {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	return string(b)
}

func message(m proto.Message) string {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// A plugin that is no go-pdk plugin may send anything. Whatever it is, the
// request does not pass.
func TestHostilePlugin(t *testing.T) {
	t.Parallel()
	const badText = "\x0a\x01\xff" // field 1, one byte that is no UTF-8
	header := func(v *structpb.Value) string {
		return message(&structpb.Struct{Fields: map[string]*structpb.Value{"X": v}})
	}
	list := structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewNumberValue(1)}})
	tests := []struct{ name, event, why string }{
		{"text that is no UTF-8 for get_var", frames("kong.nginx.get_var", badText), "UTF-8"},
		{"text that is no UTF-8 for set_header", frames("kong.service.request.set_header", badText), "UTF-8"},
		{"text that is no UTF-8 for set_headers", frames("kong.service.request.set_headers", "\x0a\x05\x0a\x01\xff\x12\x00"), "UTF-8"},
		{"an argument that is no message", frames("kong.response.exit", "\xff"), "kong.response.exit"},
		{"a log that is no message", frames("kong.log.err", "\xff"), "kong.log.err"},
		{"a number that is no message", frames("kong.request.get_headers", "\xff"), "kong.request.get_headers"},
		{"a header that is a list of numbers", frames("kong.service.request.set_headers", header(list)), "expected string"},
		{"a header that is false", frames("kong.response.set_headers", header(structpb.NewBoolValue(false))), "invalid header value"},
		{"an exit with such a header", frames("kong.response.exit", message(&pb.ExitArgs{Status: 200, Headers: &structpb.Struct{Fields: map[string]*structpb.Value{"X": list}}})), "expected string"},
		{"a null added", frames("kong.service.request.add_header", message(&pb.KV{K: "X"})), "invalid header value"},
		{"a null for the answer", frames("kong.response.add_header", message(&pb.KV{K: "X"})), "invalid header value"},
		{"a method that is no text", frames("\xff\xfe", ""), "not found"},
		{"a frame that is too long", "\xff\xff\xff\xff", "at most"},
		{"no status of the instance", "", "no instance status"},
		{"an end without an answer", frames(""), "timeout"},
		{"half a frame", "\x05\x00\x00\x00ab", "timeout"},
		{"an answer that is no message", frames("", "\xff"), "cannot parse"},
		{"an answer to another call", frames("", message(&pb.RpcReturn{Sequence: 77})), "answer to call 77"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			dump := filepath.Join(dir, "dump.json")
			if err := os.WriteFile(dump, []byte(strings.Replace(string(dumpOf("")), `"Name":"p"`, `"Name":"probe"`, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", filepath.Join(dir, "probe.socket"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			go servePlugin(l, tt.event)
			b := newBench(t, benchSetup{options: func(o *Options) {
				*o = Options{Prefix: dir, QueryCmd: "cat '" + dump + "'", NoStart: true, Timeout: 200 * time.Millisecond, MaxEvents: 3, Log: o.Log}
			}})
			resp, _, o := b.do(t, "")
			events := 1
			if tt.event == "" {
				events = 0
			}
			if resp.StatusCode != 500 || o.Proxied || o.Events != events || !strings.Contains(o.Err, tt.why) {
				t.Errorf("%d %+v", resp.StatusCode, o)
			}
		})
	}
}

// servePlugin starts every instance and answers every event with the same
// bytes, then stays silent. Without bytes it does not say what it started.
func servePlugin(l net.Listener, event string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			for {
				var head [4]byte
				if _, err := io.ReadFull(r, head[:]); err != nil {
					return
				}
				data := make([]byte, binary.LittleEndian.Uint32(head[:]))
				var call pb.RpcCall
				if _, err := io.ReadFull(r, data); err != nil || proto.Unmarshal(data, &call) != nil {
					return
				}
				answer := event
				if call.GetCmdStartInstance() != nil {
					started := &pb.RpcReturn{Sequence: call.Sequence}
					if event != "" {
						started.Return = &pb.RpcReturn_InstanceStatus{InstanceStatus: &pb.InstanceStatus{InstanceId: 1}}
					}
					answer = frames(message(started))
				}
				if _, err := io.WriteString(c, answer); err != nil {
					return
				}
			}
		}()
	}
}

// FuzzAnswer gives any method and argument to the PDK: it must not panic, and
// what it answers must be a frame or an error.
func FuzzAnswer(f *testing.F) {
	for method := range pdk {
		f.Add(method, []byte("\x0a\x01a\x12\x03\x1a\x01b"))
	}
	g := &Gateway{host: &Host{schema: &Schema{Name: "p"}, opts: Options{Log: func(string, string) {}}}}
	f.Fuzz(func(t *testing.T, method string, arg []byte) {
		tx := &transaction{
			gw: g, head: &requestHead{target: "/x", fields: []Field{{"A", "1"}, {"a", "\xff"}}}, fields: []Field{{"A", "1"}, {"a", "\xff"}},
			ctx: map[string]any{"k": []any{"x", 1.0, true, nil}}, shared: map[string]any{},
			route: &route{service: &service{}}, obs: Observation{Serialized: map[string]any{}},
		}
		if _, err := tx.answer(method, arg); err != nil && tx.exit == nil && err.Error() == "" {
			t.Fatal("an error without words")
		}
		for _, fd := range append(tx.fields, tx.responseFields...) {
			if strings.ContainsAny(fd.Name+fd.Value, "\r\n\x00") {
				t.Fatalf("%q ends its line", fd)
			}
		}
	})
}
