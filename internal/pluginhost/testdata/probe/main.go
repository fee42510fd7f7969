// Command probe is a plugin for the tests of pluginhost. What it does to a
// request is asked for in the request's X-Do header.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/Kong/go-pdk"
	pb "github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/Kong/go-pdk/server"
)

const schema = `{"Protocol":"ProtoBuf:1","SocketPath":"ignored","Plugins":[{"Name":"probe","Version":"1.2.3","Priority":17,"Phases":["access"],
"Schema":{"name":"probe","fields":[
 {"consumer":{"type":"foreign","reference":"consumers","eq":null}},
 {"protocols":{"type":"set","required":true,"default":["http","https"],"elements":{"type":"string","one_of":["http","https"]}}},
 {"config":{"type":"record","fields":[
  {"label":{"type":"string","default":"none"}},
  {"secret":{"type":"string","referenceable":true,"encrypted":true}},
  {"secrets":{"type":"array","elements":{"type":"string","referenceable":true}}},
  {"broken":{"type":"boolean","default":false}}
 ]}}]}}]}`

// config is one instance of the plugin. It keeps what Kong sent.
type config struct {
	raw    []byte
	Broken bool
}

func (c *config) UnmarshalJSON(data []byte) error {
	c.raw = slices.Clone(data)
	var known struct{ Broken bool }
	if err := json.Unmarshal(data, &known); err != nil {
		return err
	}
	if known.Broken {
		return fmt.Errorf("this configuration is broken")
	}
	return nil
}

var seen sync.Map // $request_id of the requests whose connection was closed once

// Access does what the request asks for.
func (c *config) Access(kong *pdk.PDK) {
	op := ask(kong, "http_x_do")
	op, arg, _ := strings.Cut(op, " ")
	text := func(format string, args ...any) {
		kong.Response.Exit(200, fmt.Appendf(nil, format, args...), map[string][]string{"Content-Type": {"text/plain"}})
	}
	switch op {
	case "":
	case "config":
		text("%s", c.raw)
	case "vars":
		var b strings.Builder
		for _, name := range strings.Split(arg, ",") {
			fmt.Fprintf(&b, "%s=%q\n", name, ask(kong, name))
		}
		text("%s", b.String())
	case "header":
		v, err := kong.Request.GetHeader(arg)
		text("%q %v", v, err)
	case "headers":
		n, _ := strconv.Atoi(arg)
		h, err := kong.Request.GetHeaders(n)
		body, _ := json.Marshal(h)
		text("%d %s %v", len(h), body, err != nil)
	case "request":
		var b strings.Builder
		for _, f := range []func() (string, error){
			kong.Request.GetMethod, kong.Request.GetScheme, kong.Request.GetHost, kong.Request.GetPath,
			kong.Request.GetPathWithQuery, kong.Request.GetRawQuery, kong.Client.GetIp, kong.Client.GetForwardedIp,
		} {
			v, err := f()
			fmt.Fprintf(&b, "%q %v\n", v, err)
		}
		v, _ := kong.Request.GetHttpVersion()
		fmt.Fprintf(&b, "%g\n", v)
		text("%s", b.String())
	case "route":
		r, err := kong.Router.GetRoute()
		s, err2 := kong.Router.GetService()
		text("%s %v %s %s %v %v", r.Name, r.Paths, s.Name, s.Protocol, err, err2)
	case "set":
		name, value, _ := strings.Cut(arg, "=")
		_ = kong.ServiceRequest.SetHeader(name, value)
	case "add":
		name, value, _ := strings.Cut(arg, "=")
		_ = kong.ServiceRequest.AddHeader(name, value)
	case "remove":
		h := map[string][]string{}
		for _, name := range strings.Split(arg, ",") {
			h[name] = []string{}
		}
		_ = kong.ServiceRequest.SetHeaders(h)
	case "clear":
		_ = kong.ServiceRequest.ClearHeader(arg)
	case "respond":
		_ = kong.Response.SetHeader("X-From-Plugin", "1")
		_ = kong.Response.AddHeader("X-From-Plugin", "2")
		_ = kong.Response.SetHeader("Transfer-Encoding", "gzip")
	case "serialize":
		v, _ := structpb.NewValue(map[string]any{"decision": "allow", "age": 3, "yes": true, "no": false, "nil": nil, "list": []any{"a"}})
		_ = kong.Log.Ask("kong.log.set_serialize_value", &pb.KV{K: "probe", V: v}, nil)
	case "log":
		_ = kong.Log.Crit("bad ", 3, " times")
		_ = kong.Log.Debug("detail")
	case "ctx":
		_ = kong.Ctx.SetShared("s", "one")
		_ = kong.Ctx.SetShared("f", false)
		_ = kong.Nginx.SetCtx("n", 2.5)
		s, err := kong.Ctx.GetSharedAny("s")
		f, _ := kong.Ctx.GetSharedAny("f")
		n, _ := kong.Nginx.GetCtxAny("n")
		text("%v %v %v %v", s, f, n, err)
	case "exit":
		status, _ := strconv.Atoi(arg)
		kong.Response.Exit(status, []byte("ended\n"), map[string][]string{"X-Reason": {"asked", "twice"}})
	case "panic":
		panic("asked to")
	case "die":
		os.Exit(3)
	case "hang":
		select {}
	case "close":
		_ = kong.Nginx.Close()
	case "close-once":
		if _, again := seen.LoadOrStore(ask(kong, "request_id"), true); !again {
			_ = kong.Nginx.Close()
		}
	case "bad-utf8":
		_ = kong.ServiceRequest.SetHeader("X-Set", "\xff")
	case "unknown":
		_ = kong.Nginx.Ask("kong.no.such_call", nil, nil)
	case "unknown-closed":
		_ = kong.Nginx.Ask("kong.closed", nil, nil)
	default:
		text("no such operation %q", op)
	}
}

// ask reads an nginx variable as bytes.
func ask(kong *pdk.PDK, name string) string {
	var out pb.ByteString
	_ = kong.Nginx.Ask("kong.nginx.get_var", &pb.String{V: name}, &out)
	return string(out.V)
}

func main() {
	if slices.Contains(os.Args[1:], "-dump") {
		fmt.Println(schema)
		return
	}
	fmt.Fprintln(os.Stderr, "probe is up")
	if err := server.StartServer(func() any { return new(config) }, "1.2.3", 17); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
