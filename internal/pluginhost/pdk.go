// The PDK calls that Kong answers for a plugin.

package pluginhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	pb "github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// answer does one PDK call. Errors are Kong's: a call that does not exist is
// returned, anything else is thrown, and every one of them ends in a 500.
func (tx *transaction) answer(method string, arg []byte) ([]byte, error) {
	tx.obs.RoundTrips++
	tx.obs.Calls = append(tx.obs.Calls, strings.ToValidUTF8(method, "\uFFFD"))
	f := pdk[method]
	if f == nil {
		return nil, fmt.Errorf("method %q not found", method)
	}
	reply, err := f(tx, arg)
	if err != nil && !errors.Is(err, errExit) {
		err = thrown{fmt.Errorf("%s: %w", method, err)}
	}
	return reply, err
}

// pdk are the calls that are played here. Kong has more; see the README.
var pdk = map[string]func(tx *transaction, arg []byte) ([]byte, error){
	"kong.nginx.get_var": withString(func(tx *transaction, name string) ([]byte, error) {
		v, _ := tx.variable(name)
		return stringReply(v), nil
	}),
	"kong.nginx.get_ctx": withString(func(tx *transaction, key string) ([]byte, error) {
		return valueReply(tx.ctx[key]), nil
	}),
	"kong.nginx.set_ctx": withKV(func(tx *transaction, key string, v any) error { return setKey(tx.ctx, key, v) }),
	"kong.nginx.get_subsystem": func(*transaction, []byte) ([]byte, error) {
		return stringReply("http"), nil
	},
	"kong.ctx.shared.get": withString(func(tx *transaction, key string) ([]byte, error) {
		return valueReply(tx.shared[key]), nil
	}),
	"kong.ctx.shared.set": withKV(func(tx *transaction, key string, v any) error { return setKey(tx.shared, key, v) }),

	"kong.client.get_ip":           variableCall("realip_remote_addr"),
	"kong.client.get_forwarded_ip": variableCall("remote_addr"),

	"kong.request.get_scheme":          variableCall("scheme"),
	"kong.request.get_host":            variableCall("host"),
	"kong.request.get_method":          variableCall("request_method"),
	"kong.request.get_path_with_query": variableCall("request_uri"),
	"kong.request.get_raw_query":       variableCall("args"),
	"kong.request.get_path": func(tx *transaction, _ []byte) ([]byte, error) {
		return stringReply(normalPath(pathOf(tx.head.target))), nil
	},
	"kong.request.get_http_version": func(tx *transaction, _ []byte) ([]byte, error) {
		bits := math.Float64bits(tx.head.version())
		return binary.LittleEndian.AppendUint64(protowire.AppendTag(nil, 1, protowire.Fixed64Type), bits), nil
	},
	"kong.request.get_header": withString(func(tx *transaction, name string) ([]byte, error) {
		return stringReply(tx.getHeader(name)), nil
	}),
	"kong.request.get_headers": getHeaders,

	"kong.service.request.set_header": withKV(func(tx *transaction, name string, v any) error {
		values, err := headerValues(name, v)
		if err != nil {
			return err
		}
		tx.setUpstream(name, values)
		return nil
	}),
	"kong.service.request.add_header": withKV(func(tx *transaction, name string, v any) error {
		values, err := headerValues(name, v)
		if err != nil {
			return err
		}
		there := lookup(tx.fields, name, tx.gw.maxHeaders())
		tx.setUpstream(name, append(there, values...))
		return nil
	}),
	"kong.service.request.clear_header": withString(func(tx *transaction, name string) ([]byte, error) {
		tx.fields = setField(tx.fields, name)
		return nil, nil
	}),
	"kong.service.request.set_headers": withStruct((*transaction).setUpstream),

	"kong.response.set_header": withKV(func(tx *transaction, name string, v any) error {
		values, err := headerValues(name, v)
		if err != nil {
			return err
		}
		tx.setResponse(name, values)
		return nil
	}),
	"kong.response.add_header": withKV(func(tx *transaction, name string, v any) error {
		values, err := headerValues(name, v)
		if err != nil {
			return err
		}
		for _, value := range values {
			tx.responseFields = append(tx.responseFields, newField(name, value))
		}
		return nil
	}),
	"kong.response.clear_header": withString(func(tx *transaction, name string) ([]byte, error) {
		tx.setResponse(name, nil)
		return nil, nil
	}),
	"kong.response.set_headers": withStruct((*transaction).setResponse),
	"kong.response.exit":        exitCall,

	"kong.log.alert":  logCall("alert"),
	"kong.log.crit":   logCall("crit"),
	"kong.log.err":    logCall("err"),
	"kong.log.warn":   logCall("warn"),
	"kong.log.notice": logCall("notice"),
	"kong.log.info":   logCall("info"),
	"kong.log.debug":  logCall("debug"),
	"kong.log.set_serialize_value": withKV(func(tx *transaction, key string, v any) error {
		return setKey(tx.obs.Serialized, key, v)
	}),

	"kong.router.get_route": func(tx *transaction, _ []byte) ([]byte, error) {
		r := tx.route
		return proto.Marshal(&pb.Route{
			Id: r.id, Name: r.name, Hosts: r.hosts, Paths: r.paths, Methods: r.methods, Protocols: r.protocols,
			PreserveHost: r.preserveHost, HttpsRedirectStatusCode: 426, Service: &pb.ServiceKey{Id: r.service.id},
		})
	},
	"kong.router.get_service": func(tx *transaction, _ []byte) ([]byte, error) {
		s := tx.route.service
		return proto.Marshal(&pb.Service{
			Id: s.id, Name: s.name, Protocol: s.scheme, Host: s.host, Port: int32(s.port), Path: s.path,
			Retries: 5, ConnectTimeout: 60000, WriteTimeout: 60000, ReadTimeout: 60000,
		})
	},
}

// withString decodes a String argument. Kong would take any bytes; a string
// that is not UTF-8 ends in a 500 here, which no go-pdk plugin can send.
func withString(f func(tx *transaction, s string) ([]byte, error)) func(*transaction, []byte) ([]byte, error) {
	return func(tx *transaction, arg []byte) ([]byte, error) {
		var s pb.String
		if err := proto.Unmarshal(arg, &s); err != nil {
			return nil, err
		}
		return f(tx, s.V)
	}
}

func withKV(f func(tx *transaction, key string, v any) error) func(*transaction, []byte) ([]byte, error) {
	return func(tx *transaction, arg []byte) ([]byte, error) {
		var kv pb.KV
		if err := proto.Unmarshal(arg, &kv); err != nil {
			return nil, err
		}
		return nil, f(tx, kv.K, luaValue(kv.V))
	}
}

// withStruct decodes a Struct of headers and calls f for each name, in order.
func withStruct(f func(tx *transaction, name string, values []string)) func(*transaction, []byte) ([]byte, error) {
	return func(tx *transaction, arg []byte) ([]byte, error) {
		var s structpb.Struct
		if err := proto.Unmarshal(arg, &s); err != nil {
			return nil, err
		}
		fields, err := headerStruct(&s)
		if err != nil {
			return nil, err
		}
		for _, h := range fields {
			f(tx, h.name, h.values)
		}
		return nil, nil
	}
}

func variableCall(name string) func(*transaction, []byte) ([]byte, error) {
	return func(tx *transaction, _ []byte) ([]byte, error) {
		v, _ := tx.variable(name)
		return stringReply(v), nil
	}
}

// getHeader is Kong's get_header: the joined variable, and where that has a
// ", " in it the first that Lua's lookup finds, which goes by another rule.
func (tx *transaction) getHeader(name string) string {
	v, _ := tx.header(strings.ReplaceAll(lowerASCII(name), "-", "_"))
	if !strings.Contains(v, ", ") {
		return v
	}
	if found := lookup(tx.fields, name, tx.gw.maxHeaders()); found != nil {
		return found[0]
	}
	return ""
}

func getHeaders(tx *transaction, arg []byte) ([]byte, error) {
	var n pb.Int
	if err := proto.Unmarshal(arg, &n); err != nil {
		return nil, err
	}
	if n.V < 1 || n.V > 1000 {
		return nil, fmt.Errorf("max_headers must be between 1 and 1000, not %d", n.V)
	}
	values := map[string][]string{}
	for _, f := range tx.fields[:min(len(tx.fields), int(n.V))] {
		key := lowerASCII(f.Name)
		values[key] = append(values[key], f.Value)
	}
	var out []byte
	for _, key := range slices.Sorted(maps.Keys(values)) {
		var v any = values[key][0]
		if list := values[key]; len(list) > 1 {
			all := make([]any, len(list))
			for i := range list {
				all[i] = list[i]
			}
			v = all
		}
		out = appendEntry(out, key, v)
	}
	return out, nil
}

func logCall(level string) func(*transaction, []byte) ([]byte, error) {
	return func(tx *transaction, arg []byte) ([]byte, error) {
		var list structpb.ListValue
		if err := proto.Unmarshal(arg, &list); err != nil {
			return nil, err
		}
		var b strings.Builder
		for _, v := range list.Values {
			b.WriteString(luaString(luaValue(v)))
		}
		tx.obs.Logs = append(tx.obs.Logs, LogLine{level, b.String()})
		tx.gw.host.opts.Log(level, "["+tx.gw.host.schema.Name+"] "+b.String())
		return nil, nil
	}
}

func exitCall(tx *transaction, arg []byte) ([]byte, error) {
	var e pb.ExitArgs
	if err := proto.Unmarshal(arg, &e); err != nil {
		return nil, err
	}
	if e.Status < 100 || e.Status > 599 {
		return nil, fmt.Errorf("code must be a number between 100 and 599, not %d", e.Status)
	}
	fields, err := headerStruct(e.Headers)
	if err != nil {
		return nil, err
	}
	tx.exit = &exitAnswer{status: int(e.Status), body: e.Body}
	for _, h := range fields {
		for _, v := range h.values {
			tx.exit.fields = append(tx.exit.fields, newField(h.name, v))
		}
	}
	return nil, errExit
}

// setUpstream sets a header of the request. Host also names the upstream host.
func (tx *transaction) setUpstream(name string, values []string) {
	tx.fields = setField(tx.fields, name, values...)
	if lowerASCII(name) == "host" && len(values) > 0 {
		tx.upstreamHost = values[0]
	}
}

// setResponse sets a header of the answer. Kong ignores Transfer-Encoding.
func (tx *transaction) setResponse(name string, values []string) {
	if strings.ReplaceAll(lowerASCII(name), "_", "-") != "transfer-encoding" {
		tx.responseFields = setField(tx.responseFields, name, values...)
	}
}

func setKey(m map[string]any, key string, v any) error {
	if v == nil {
		delete(m, key)
	} else {
		m[key] = v
	}
	return nil
}

// headerValues are the values of a header as the PDK takes them.
func headerValues(name string, v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return []string{spaced(v)}, nil
	case float64, bool:
		return []string{luaString(v)}, nil
	case []any:
		var out []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("invalid header value in array %q: expected string", name)
			}
			out = append(out, spaced(s))
		}
		return out, nil
	case map[string]any:
		return nil, nil // a Lua table without a sequence: no value
	}
	return nil, fmt.Errorf("invalid header value for %q: expected array of string, string, number or boolean", name)
}

// spaced is a header's value: Kong writes a space for an empty one.
func spaced(s string) string {
	if s == "" {
		return " "
	}
	return s
}

type headerSet struct {
	name   string
	values []string
}

// headerStruct reads a Struct of headers, all of it valid or none of it used.
func headerStruct(s *structpb.Struct) ([]headerSet, error) {
	var out []headerSet
	for _, name := range slices.Sorted(maps.Keys(s.GetFields())) {
		values, err := headerValues(name, luaValue(s.Fields[name]))
		if err != nil {
			return nil, err
		}
		out = append(out, headerSet{name, values})
	}
	return out, nil
}

// luaValue is a protobuf value as Kong's Lua sees it: false becomes nil, and
// null the name of protobuf's enumeration value.
func luaValue(v *structpb.Value) any {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return k.StringValue
	case *structpb.Value_NumberValue:
		return k.NumberValue
	case *structpb.Value_BoolValue:
		if k.BoolValue {
			return true
		}
		return nil
	case *structpb.Value_NullValue:
		return "NULL_VALUE"
	case *structpb.Value_ListValue:
		list := []any{}
		for _, e := range k.ListValue.GetValues() {
			list = append(list, luaValue(e))
		}
		return list
	case *structpb.Value_StructValue:
		m := map[string]any{}
		for key, e := range k.StructValue.GetFields() {
			if value := luaValue(e); value != nil {
				m[key] = value
			}
		}
		return m
	}
	return nil
}

// The replies are encoded by hand: Kong sends a header's bytes as they are,
// where the protobuf package refuses a string that is not UTF-8.

// stringReply is a String or ByteString message, empty for "".
func stringReply(s string) []byte {
	if s == "" {
		return nil
	}
	return protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), s)
}

// valueReply is a google.protobuf.Value.
func valueReply(v any) []byte { return appendValue(nil, v) }

func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), v)
	case float64:
		return protowire.AppendFixed64(protowire.AppendTag(b, 2, protowire.Fixed64Type), math.Float64bits(v))
	case bool:
		return protowire.AppendVarint(protowire.AppendTag(b, 4, protowire.VarintType), protowire.EncodeBool(v))
	case []any:
		var list []byte
		for _, e := range v {
			list = protowire.AppendBytes(protowire.AppendTag(list, 1, protowire.BytesType), appendValue(nil, e))
		}
		return protowire.AppendBytes(protowire.AppendTag(b, 6, protowire.BytesType), list)
	case map[string]any:
		var st []byte
		for _, key := range slices.Sorted(maps.Keys(v)) {
			st = appendEntry(st, key, v[key])
		}
		return protowire.AppendBytes(protowire.AppendTag(b, 5, protowire.BytesType), st)
	}
	return protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), 1) // Kong's null_value = 1
}

// appendEntry appends one field of a google.protobuf.Struct.
func appendEntry(b []byte, key string, v any) []byte {
	var entry []byte
	entry = protowire.AppendString(protowire.AppendTag(entry, 1, protowire.BytesType), key)
	entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), appendValue(nil, v))
	return protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), entry)
}
