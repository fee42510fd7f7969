package main

import (
	"fmt"
	"net/http"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The header: what the node stated is taken in, every other field of the
// contract is thrown away, and the evidence is put in its place.

// readStatement fills m with the four values that the node states. Each must be
// there exactly once, counted over every spelling that a gateway reads as the
// same name.
func readStatement(h http.Header, m *evidence.Message) error {
	var seen [4]int
	for name, values := range h {
		if !evidence.IsHeader(name) {
			continue
		}
		for _, value := range values {
			var dst *string
			var i int
			switch evidence.FoldHeader(name) {
			case "x-wallarm-request-id":
				i, dst = 0, &m.RequestID
			case "x-wallarm-client-ip":
				i, dst = 1, &m.ClientIP
			case "x-wallarm-mode":
				i, dst = 2, &m.Mode
			case "x-wallarm-application":
				i, dst = 3, &m.Application
			default:
				continue
			}
			*dst = value
			seen[i]++
		}
	}
	for i, name := range stated {
		if seen[i] != 1 {
			return fmt.Errorf("%s stands %d times, the node states it once", name, seen[i])
		}
	}
	return m.CheckStatement()
}

// stated are the fields that the node states, in the order of readStatement.
var stated = [4]string{evidence.HeaderRequestID, evidence.HeaderClientIP, evidence.HeaderMode, evidence.HeaderApplication}

// removeEvidence deletes every field of the contract, in every spelling.
func removeEvidence(h http.Header) {
	for name := range h {
		if evidence.IsHeader(name) {
			delete(h, name)
		}
	}
}

// The Connection field that goes to the gateway. Kong drops the fields that it
// names before it forwards: an upstream never sees a signature that it could
// replay. A client's own Connection field ends here.
var (
	connectionPlain   = []string{"Signature, Signature-Input"}
	connectionUpgrade = []string{"Upgrade, Signature, Signature-Input"}
	upgradeOnly       = []string{"Upgrade"}
)

// maxNamedFields is the number of header fields up to which the signature is
// named in Connection. Kong looks for that among the first 100 fields only
// (lua_max_req_headers), while the plugin sees it anywhere and leaves the removal
// to Kong. Beyond it nothing is named, and the plugin removes the signature itself.
const maxNamedFields = 80

// writeEvidence puts the signed values of m into h.
func writeEvidence(h http.Header, m *evidence.Message) {
	values := []string{
		m.RequestID, m.ClientIP, m.Mode, m.Application, m.Node, m.Inspection, m.SignatureInput, m.Signature,
	}
	for i, name := range evidenceFields {
		h[name] = values[i : i+1 : i+1]
	}
	delete(h, "Connection")
	fields := 0
	for _, values := range h {
		fields += len(values)
	}
	switch upgrade, few := h["Upgrade"] != nil, fields <= maxNamedFields; {
	case upgrade && few:
		h["Connection"] = connectionUpgrade
	case upgrade:
		h["Connection"] = upgradeOnly
	case few:
		h["Connection"] = connectionPlain
	}
}

// evidenceFields are the fields of a signed request, in the order of writeEvidence.
var evidenceFields = [8]string{
	evidence.HeaderRequestID, evidence.HeaderClientIP, evidence.HeaderMode, evidence.HeaderApplication,
	evidence.HeaderNode, evidence.HeaderInspection, evidence.HeaderSignatureInput, evidence.HeaderSignature,
}

// forwardingFields are fields that httputil.ReverseProxy strips; the node has
// set them from what the load balancer said, and the gateway is to see that.
var forwardingFields = [4]string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}
