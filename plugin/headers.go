package main

// Which header fields a request loses on its way to the upstream. nginx fills
// $http_x_wallarm_mode from every mix of '-' and '_', and forwards each of them
// as it came, while Kong removes exactly the name that it is given. So a removal
// lists all spellings.

import (
	"slices"
	"strings"

	"github.com/Kong/go-pdk"
	"github.com/wallarm-gate/wallarm-gate/evidence"
	"google.golang.org/protobuf/types/known/structpb"
)

// spellings returns name with every mix of '-' and '_'.
func spellings(name string) []string {
	head, tail, found := strings.Cut(name, "-")
	if !found {
		return []string{name}
	}
	var all []string
	for _, rest := range spellings(tail) {
		all = append(all, head+"-"+rest, head+"_"+rest)
	}
	return all
}

// removal is the argument of kong.service.request.set_headers that removes
// names in every spelling: a field with an empty list of values is removed. It
// is made once and only read afterwards.
func removal(names ...string) *structpb.Struct {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, name := range names {
		for _, spelling := range spellings(name) {
			s.Fields[spelling] = structpb.NewListValue(&structpb.ListValue{})
		}
	}
	return s
}

// namesProof are the Connection fields of an attester. Kong reads other forms of the
// same list in ways of its own, so that any other one costs a call.
var namesProof = []string{"Signature, Signature-Input", "Upgrade, Signature, Signature-Input"}

var (
	// What nobody verified: all of it.
	removeAll = removal(evidence.Headers()...)
	// After an exemption also that by which an upstream could take the request for
	// another one than the exemption matched: a framing that nginx does not read,
	// so that a body holds a second request, another method, another target.
	removeExempt = removal(append(evidence.Headers(), "Transfer_Encoding", "Content_Length",
		"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL")...)
	// After a verified signature the six values may go on; the proof may not.
	removeProof = removal(evidence.HeaderSignatureInput, evidence.HeaderSignature, evidence.HeaderToken)
	// A token vouches for what the node states, not for the attester's part.
	removeTokenProof = removal(evidence.HeaderSignatureInput, evidence.HeaderSignature, evidence.HeaderToken,
		evidence.HeaderNode, evidence.HeaderInspection)
)

// removalFor returns what must go before the request may pass, nil for nothing.
func (v *verdict) removalFor() *structpb.Struct {
	switch {
	case v.decision == exempt:
		return removeExempt
	case v.decision != allow:
		if v.read && !v.vars.carriesEvidence() {
			return nil
		}
		return removeAll
	case v.byToken:
		return removeTokenProof
	case v.vars[varToken] == "" && slices.Contains(namesProof, v.vars[varConnection]):
		return nil // Kong drops what Connection names, after this phase and at no cost
	}
	return removeProof
}

// hideProof takes the proof off a request that is refused: Kong's log plugins write
// the fields of the request, and a token is good for other requests.
func (v *verdict) hideProof(kong *pdk.PDK) error {
	if v.read && v.vars[varToken] == "" && v.vars[varSignatureInput] == "" && v.vars[varSignature] == "" {
		return nil
	}
	return kong.ServiceRequest.Ask("kong.service.request.set_headers", removeProof, nil)
}
