package main

// What the plugin reads of a request: nginx variables, all in one where Kong
// includes nginx/evidence.conf, one by one where it does not. Both ways give the
// same values, so there is one decision. kong.request.get_header is not used: it
// gives the first of duplicate fields, where nginx joins them.

import (
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/Kong/go-pdk/bridge"
	"github.com/Kong/go-pdk/server/kong_plugin_protocol"
	"google.golang.org/protobuf/proto"
)

// evidenceConf is the nginx file that -install writes beside the binary.
//
//go:embed nginx/evidence.conf
var evidenceConf []byte

const (
	layoutVersion  = "1"
	joinedVariable = "wallarm_evidence"
)

// A variable is an index into variables.
type variable int

const (
	varRequestID variable = iota
	varPeer
	varRemoteAddr
	varMethod
	varHost
	varHostField
	varTarget
	varUpgrade
	varConnection
	varToken
	varEvidenceID
	varClientIP
	varMode
	varApplication
	varNode
	varInspection
	varSignatureInput
	varSignature
	variableCount
)

// variableNames are nginx's names, in the order of nginx/evidence.conf.
var variableNames = [variableCount]string{
	"request_id", "realip_remote_addr", "remote_addr", "request_method", "host", "http_host",
	"request_uri", "http_upgrade", "http_connection", "http_x_wallarm_token",
	"http_x_wallarm_request_id", "http_x_wallarm_client_ip", "http_x_wallarm_mode",
	"http_x_wallarm_application", "http_x_wallarm_node", "http_x_wallarm_inspection",
	"http_signature_input", "http_signature",
}

// variables are the values of one request, as nginx has them: any byte but LF.
type variables [variableCount]string

// layoutError says that Kong includes an evidence.conf of another release.
type layoutError struct{ version string }

func (e *layoutError) Error() string {
	return fmt.Sprintf("$%s has layout %s, this plugin reads layout %q: include the evidence.conf that `wallarm-gate -install` writes",
		joinedVariable, quote(e.version), layoutVersion)
}

var errFields = errors.New("$" + joinedVariable + " does not have " + strconv.Itoa(int(variableCount)+1) + " fields")

// parseJoined divides the value of $wallarm_evidence.
func parseJoined(s string) (v variables, err error) {
	version, rest, _ := strings.Cut(s, "\n")
	if version != layoutVersion {
		return v, &layoutError{version}
	}
	if strings.Count(rest, "\n") != int(variableCount)-1 {
		return v, errFields
	}
	for i := range v {
		v[i], rest, _ = strings.Cut(rest, "\n")
	}
	return v, nil
}

// asker is the one primitive of the PDK: a call of a method of Kong's.
type asker interface {
	Ask(method string, args, out proto.Message) error
}

// The arguments never change, so they are made once.
var (
	joinedArgument    = bridge.WrapString(joinedVariable)
	variableArguments = func() (args [variableCount]*kong_plugin_protocol.String) {
		for i, name := range variableNames {
			args[i] = bridge.WrapString(name)
		}
		return args
	}()
)

// readVariable reads bytes and not a string: go-pdk's string results must be
// UTF-8, and an honest client may send a Latin-1 cookie.
func readVariable(kong asker, name *kong_plugin_protocol.String) (string, error) {
	var out kong_plugin_protocol.ByteString
	if err := kong.Ask("kong.nginx.get_var", name, &out); err != nil {
		return "", fmt.Errorf("read $%s: %w", name.V, err)
	}
	return string(out.V), nil
}

// readVariables makes one call where $wallarm_evidence exists, and one for each
// variable where it does not; joined says which.
func readVariables(kong asker) (v variables, joined bool, err error) {
	s, err := readVariable(kong, joinedArgument)
	if err != nil {
		return v, false, err
	}
	if s != "" {
		v, err = parseJoined(s)
		return v, true, err
	}
	for i := range v {
		if v[i], err = readVariable(kong, variableArguments[i]); err != nil {
			return v, false, err
		}
		if strings.IndexByte(v[i], '\n') >= 0 {
			return v, false, fmt.Errorf("$%s holds a line feed", variableNames[i])
		}
	}
	return v, false, nil
}
