package main

// From nginx's variables to the request that is judged.

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// request returns v as the verifier sees it. Where nginx routed by another host
// than the Host field names, the authority is left empty: that is malformed
// evidence, in the place that malformed evidence has in the order of reasons.
func (v *variables) request() (evidence.Request, error) {
	r := evidence.Request{
		Message: evidence.Message{
			Method:         v[varMethod],
			Authority:      v[varHostField],
			Target:         v[varTarget],
			RequestID:      v[varEvidenceID],
			ClientIP:       v[varClientIP],
			Mode:           v[varMode],
			Application:    v[varApplication],
			Node:           v[varNode],
			Inspection:     v[varInspection],
			SignatureInput: v[varSignatureInput],
			Signature:      v[varSignature],
		},
		ID:      v[varRequestID],
		Source:  v.source(),
		Upgrade: v.asksUpgrade(),
		Token:   v[varToken],
	}
	err := checkHost(v[varHostField], v[varHost])
	if err != nil {
		r.Authority = ""
	}
	return r, err
}

// source is the TCP peer. It is the zero Addr, which no prefix contains, for a
// unix socket.
func (v *variables) source() netip.Addr {
	addr, err := netip.ParseAddr(v[varPeer])
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}

// asksUpgrade is wide on purpose: whatever nginx or an upstream could take for
// a protocol upgrade is one.
func (v *variables) asksUpgrade() bool {
	return v[varUpgrade] != "" || connectionNames(v[varConnection], "upgrade")
}

// carriesEvidence reports whether any of the nine header fields has a value.
func (v *variables) carriesEvidence() bool {
	for i := varToken; i < variableCount; i++ {
		if v[i] != "" {
			return true
		}
	}
	return false
}

// connectionNames reports whether a Connection field lists option, which is in
// lower case (RFC 9110, section 7.6.1: options are case-insensitive).
func connectionNames(field, option string) bool {
	for field != "" {
		var token string
		token, field, _ = strings.Cut(field, ",")
		if strings.EqualFold(strings.Trim(token, " \t"), option) {
			return true
		}
	}
	return false
}

// checkHost reports why the Host field does not name the host that nginx took
// the request for, which is in lower case, without port and final dot. They
// differ for an absolute-form target.
func checkHost(field, host string) error {
	name, ok := hostName(field)
	if !ok {
		return fmt.Errorf("the Host field %s is not a host with an optional port", quote(field))
	}
	if name != host {
		return fmt.Errorf("the Host field %s and the host %s of the request differ", quote(field), quote(host))
	}
	return nil
}

// hostName takes the port and one final dot off a Host field and folds its
// case, as nginx does for $host.
func hostName(field string) (string, bool) {
	name, port, hasPort := field, "", false
	if strings.HasPrefix(field, "[") {
		end := strings.IndexByte(field, ']')
		if end < 0 {
			return "", false
		}
		name, port = field[:end+1], field[end+1:]
		if port != "" {
			if port[0] != ':' {
				return "", false
			}
			port, hasPort = port[1:], true
		}
	} else {
		name, port, hasPort = strings.Cut(field, ":")
		name = strings.TrimSuffix(name, ".")
	}
	if hasPort && (len(port) > 5 || strings.Trim(port, "0123456789") != "") {
		return "", false
	}
	if name == "" {
		return "", false
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; c <= ' ' || c >= 0x7f || c == '/' || c == '\\' {
			return "", false
		}
	}
	return lowerASCII(name), true
}

// lowerASCII leaves every byte but A to Z alone.
func lowerASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if c := b[i]; 'A' <= c && c <= 'Z' {
					b[i] = c + ('a' - 'A')
				}
			}
			return string(b)
		}
	}
	return s
}
