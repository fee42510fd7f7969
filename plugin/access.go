package main

// The access phase: read the request, decide, act. Whatever goes wrong on the
// way is a denial with a reason, and never a closed connection: Kong runs an
// event whose connection closed again, without bound.

import (
	"errors"
	"fmt"
	"log"
	"runtime/debug"
	"time"

	"github.com/Kong/go-pdk"
	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// decision is what the gate does with a request.
type decision string

const (
	allow  decision = "allow"
	deny   decision = "deny"
	exempt decision = "exempt"
	report decision = "report" // enforce mode would deny it
)

// verdict is one decision and what led to it.
type verdict struct {
	decision decision
	reason   evidence.Reason // empty for allow and exempt
	detail   string          // why, in words; no secret
	vars     variables
	read     bool // vars could be read
	byToken  bool
	verified bool // att is verified, not only read
	att      evidence.Attestation
}

// Access implements the access phase of Kong.
func (c *Config) Access(kong *pdk.PDK) {
	g := c.gate
	if g == nil {
		g = shared()
	}
	start := time.Now()
	var v verdict
	if err := contain(func() { v = c.judge(g, kong.Nginx) }); err != nil {
		v = verdict{decision: deny, reason: evidence.ReasonInternalError, detail: err.Error()}
	}
	if v.decision == deny && c.mode == modeReport {
		v.decision = report
	}
	g.metrics.decided(time.Since(start))

	if v.decision != deny {
		var err error
		if caught := contain(func() { err = c.pass(g, kong, &v) }); caught != nil {
			err = caught
		}
		if err == nil {
			g.metrics.count(&v, g.now())
			return
		}
		// What must not reach the upstream may still be in the request.
		v.decision, v.reason, v.detail = deny, evidence.ReasonInternalError, err.Error()
	}
	g.metrics.count(&v, g.now())
	// A refusal does not depend on what is logged of it. exit comes from outside of
	// what could panic, so that there is always an answer.
	_ = contain(func() { _ = c.record(g, kong, &v) })
	_ = contain(func() { _ = v.hideProof(kong) })
	exit(kong, c.denyStatus(), v.vars[varRequestID])
}

// contain calls f and returns a panic of it as an error. The panic's value goes
// to the standard error, the error holds only its type.
func contain(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Printf("panic: %v\n%s", p, debug.Stack())
			err = fmt.Errorf("panic (%T)", p)
		}
	}()
	f()
	return nil
}

// judge takes the decision of enforce mode.
func (c *Config) judge(g *gate, kong asker) verdict {
	v := verdict{decision: deny}
	vars, joined, err := readVariables(kong)
	v.vars, v.read = vars, err == nil
	if v.read && !joined {
		g.sayJoinedMissing()
	}
	var layout *layoutError
	switch {
	case c.verifier == nil:
		v.reason, v.detail = evidence.ReasonMisconfigured, c.problem
		return v
	case errors.As(err, &layout):
		v.reason, v.detail = evidence.ReasonMisconfigured, err.Error()
		return v
	case err != nil:
		v.reason, v.detail = evidence.ReasonInternalError, err.Error()
		return v
	}

	r, hostErr := v.vars.request()
	if hostErr == nil && exempted(c.exempt, &r, v.vars[varHost]) {
		v.decision = exempt
		return v
	}
	if c.keyFile != nil && c.keyFile.keys() == nil {
		v.reason, v.detail = evidence.ReasonMisconfigured, c.keyFile.problem()
		return v
	}
	v.byToken = c.verifier.Tokens != nil
	v.att, v.reason = c.verifier.Verify(&r)
	if store, ok := c.verifier.Replay.(*sharedStore); ok && v.reason == "" && store.forgotten(v.att.Created) {
		v.reason, v.att.Detail = evidence.ReasonStaleEvidence, "created before the shared replay store began to remember"
	}
	v.detail = v.att.Detail
	if v.byToken { // a token does not vouch for what only an attester states
		v.att.Node, v.att.Inspection = "", evidence.InspectionUnknown
	}
	switch {
	case hostErr != nil && v.reason == "":
		v.reason = evidence.ReasonMalformedEvidence
		fallthrough
	case hostErr != nil && v.reason == evidence.ReasonMalformedEvidence:
		v.detail = hostErr.Error()
	case v.reason == "":
		v.decision, v.verified = allow, true
	}
	return v
}

// pass lets a request go on, without what must not reach the upstream.
func (c *Config) pass(g *gate, kong *pdk.PDK, v *verdict) error {
	if headers := v.removalFor(); headers != nil {
		if err := kong.ServiceRequest.Ask("kong.service.request.set_headers", headers, nil); err != nil {
			return fmt.Errorf("remove header fields: %w", err)
		}
	}
	return c.record(g, kong, v)
}
