package evidence

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// The gateway's side: verification of the evidence, then its appraisal against
// the policy of the route, in the one order of the contract.

// The largest values that a Policy may have. The replay store remembers by them
// and not by the policy at hand, because routes with different policies share it.
const (
	MaxAgeLimit = 300 * time.Second
	SkewLimit   = 60 * time.Second
)

// Policy is an appraisal policy for evidence (RFC 9334, section 8.5).
type Policy struct {
	MaxAge         time.Duration  // 1 s to MaxAgeLimit
	ClockSkew      time.Duration  // 0 to SkewLimit
	MinMode        Mode           // the weakest mode that passes
	RequireActive  bool           // refuse evidence of a node that did not inspect
	Applications   []int32        // empty: any
	AllowUpgrade   bool           // protocol upgrades pass
	AllowedSources []netip.Prefix // of the TCP peer; empty: any
}

// Check reports a value that is out of its bounds.
func (p *Policy) Check() error {
	switch {
	case p.MaxAge < time.Second || p.MaxAge > MaxAgeLimit:
		return fmt.Errorf("max_age is %v, allowed are 1s to %v", p.MaxAge, MaxAgeLimit)
	case p.ClockSkew < 0 || p.ClockSkew > SkewLimit:
		return fmt.Errorf("clock_skew is %v, allowed are 0s to %v", p.ClockSkew, SkewLimit)
	case p.MinMode > ModeBlock:
		return errors.New("min_mode is not one of off, monitoring, safe_blocking, block")
	}
	for _, prefix := range p.AllowedSources {
		// An IPv4-mapped prefix would never match: peers are compared unmapped.
		if !prefix.IsValid() || prefix.Addr().Is4In6() {
			return fmt.Errorf("allowed_sources holds %q, allowed are IPv4 and IPv6 prefixes such as 10.0.0.0/16", prefix)
		}
	}
	return nil
}

// allowsSource is total: an address that could not be read is the zero Addr,
// which no prefix contains.
func (p *Policy) allowsSource(source netip.Addr) bool {
	if len(p.AllowedSources) == 0 {
		return true
	}
	source = source.Unmap().WithZone("")
	for _, prefix := range p.AllowedSources {
		if prefix.Contains(source) {
			return true
		}
	}
	return false
}

// appraise asks what the evidence says; it has been verified.
func (p *Policy) appraise(a *Attestation, upgrade bool) Reason {
	switch {
	case p.RequireActive && a.Inspection != InspectionActive:
		return ReasonNotInspected
	case a.Mode < p.MinMode:
		return ReasonModeNotAllowed
	case len(p.Applications) > 0 && !slices.Contains(p.Applications, a.Application):
		return ReasonApplicationNotAllowed
	case upgrade && !p.AllowUpgrade:
		return ReasonUpgradeNotAllowed
	}
	return ""
}

// Request is a request as the verifier received it.
type Request struct {
	Message
	ID      string     // the verifier's own id of the request: tells a re-run from a replay
	Source  netip.Addr // the TCP peer; zero where it could not be read
	Upgrade bool       // the request asks for a protocol upgrade
	Token   string     // X-Wallarm-Token
}

// Attestation is the result of Verify. With a Reason only Detail is meant for
// more than a log line: the other fields hold what had been read by then, and
// are verified only if the Reason stands behind bad_signature in the order.
type Attestation struct {
	KeyID            string
	Mode             Mode
	Inspection       Inspection
	Application      int32
	Node, RequestID  string
	Created, Expires time.Time
	Detail           string // why, in words, without any secret; empty where the reason says it all
}

// Verifier decides about requests. Its fields must not change while it is used;
// it is then safe for concurrent use.
type Verifier struct {
	Policy Policy
	Keys   func() *KeySet   // the keys in force; required for proof by signature
	Tokens *TokenSet        // not nil: proof by token, which cannot prove inspection
	Replay ReplayStore      // nil: replays are not looked for
	Since  time.Time        // since when Replay remembers; evidence from before may have been used, and is stale. Zero: always
	Now    func() time.Time // required
}

// Check reports why v could accept nothing, or something that it cannot know.
func (v *Verifier) Check() error {
	if err := v.Policy.Check(); err != nil {
		return err
	}
	if v.Now == nil {
		return errors.New("the verifier has no clock")
	}
	if v.Tokens == nil {
		if v.Keys == nil || v.Keys() == nil {
			return errors.New("the verifier has no keys")
		}
		return nil
	}
	if v.Policy.RequireActive {
		return errors.New("a token cannot prove that the node inspected: require_inspection must be any")
	}
	return nil
}

// Verify returns the attestation of an accepted request, or exactly one Reason.
func (v *Verifier) Verify(r *Request) (a Attestation, reason Reason) {
	if err := v.Check(); err != nil {
		a.Detail = err.Error()
		return a, ReasonMisconfigured
	}
	if !v.Policy.allowsSource(r.Source) {
		return a, ReasonSourceNotAllowed
	}
	if v.Tokens != nil {
		reason = v.verifyToken(r, &a)
		return a, reason
	}

	keys := v.Keys()
	if keys == nil { // taken away since Check
		return a, ReasonMisconfigured
	}
	input, now, reason := v.verifySignature(r, keys, &a)
	if reason != "" {
		return a, reason
	}
	if reason = v.Policy.appraise(&a, r.Upgrade); reason != "" {
		return a, reason
	}
	reason = v.remember(r, input, now, &a)
	return a, reason
}

func (v *Verifier) verifyToken(r *Request, a *Attestation) Reason {
	if r.Token == "" || r.RequestID == "" || r.ClientIP == "" || r.Mode == "" || r.Application == "" {
		a.Detail = missing(r, true)
		return ReasonMissingEvidence
	}
	if err := r.CheckStatement(); err != nil {
		a.Detail = err.Error()
		return ReasonMalformedEvidence
	}
	a.read(&r.Message)
	if !v.Tokens.Match(r.Token) {
		return ReasonTokenMismatch
	}
	return v.Policy.appraise(a, r.Upgrade)
}

// verifySignature verifies; on success a holds the verified evidence.
func (v *Verifier) verifySignature(r *Request, keys *KeySet, a *Attestation) (in SignatureInput, now time.Time, reason Reason) {
	m := &r.Message
	if m.RequestID == "" || m.ClientIP == "" || m.Mode == "" || m.Application == "" || m.Node == "" ||
		m.Inspection == "" || m.SignatureInput == "" || m.Signature == "" {
		a.Detail = missing(r, false)
		return in, now, ReasonMissingEvidence
	}
	// Each of these looks at the length first: what a stranger sends must not
	// cost more than what the attester sends.
	in, err := ParseSignatureInput(m.SignatureInput)
	if err == nil {
		err = m.check()
	}
	if err != nil {
		a.Detail = err.Error()
		return in, now, ReasonMalformedEvidence
	}
	var room [64]byte
	sig := room[:in.Algorithm.signatureSize()]
	if err := parseSignature(sig, m.Signature); err != nil {
		a.Detail = err.Error()
		return in, now, ReasonMalformedEvidence
	}
	a.read(m)
	a.KeyID = in.KeyID
	a.Created, a.Expires = time.Unix(in.Created, 0), time.Unix(in.Expires, 0)

	key := keys.Lookup(in.KeyID)
	if key == nil {
		return in, now, ReasonUnknownKey
	}
	// The algorithm is the key's, whatever the message says: else a public key
	// could be taken for a shared secret.
	if key.Alg != in.Algorithm {
		a.Detail = "alg is not the key's"
		return in, now, ReasonMalformedEvidence
	}
	now = v.Now()
	if !key.ActiveAt(now, v.Policy.ClockSkew) {
		return in, now, ReasonKeyNotActive
	}
	base := in.AppendBase(make([]byte, 0, 1024), m)
	if !key.verify(base, sig) {
		return in, now, ReasonBadSignature
	}

	last := a.Created.Add(v.Policy.MaxAge)
	if a.Expires.Before(last) {
		last = a.Expires
	}
	if now.After(last.Add(v.Policy.ClockSkew)) {
		return in, now, ReasonStaleEvidence
	}
	if now.Before(a.Created.Add(-v.Policy.ClockSkew)) {
		return in, now, ReasonFutureEvidence
	}
	if v.Replay != nil && a.Created.Before(v.Since) {
		a.Detail = "created before the replay store began to remember"
		return in, now, ReasonStaleEvidence
	}
	return in, now, ""
}

// read copies the values that check or CheckStatement has found well-formed.
func (a *Attestation) read(m *Message) {
	a.RequestID, a.Node = m.RequestID, m.Node
	a.Mode, _ = ParseMode(m.Mode)
	a.Inspection, _ = ParseInspection(m.Inspection)
	a.Application, _ = parseApplication(m.Application)
}

// remember refuses the second request with one nonce.
func (v *Verifier) remember(r *Request, in SignatureInput, now time.Time, a *Attestation) Reason {
	if v.Replay == nil {
		return ""
	}
	if r.ID == "" {
		a.Detail = "the request has no id of the verifier's own"
		return ReasonInternalError
	}
	until := a.Created.Add(MaxAgeLimit)
	if a.Expires.Before(until) {
		until = a.Expires
	}
	err := v.Replay.Remember(NonceOf(in.KeyID, in.Nonce), r.ID, now, until.Add(SkewLimit))
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrReplayed):
		return ReasonReplayed
	case errors.Is(err, ErrStoreFull):
		return ReasonReplayStoreFull
	}
	a.Detail = err.Error()
	return ReasonReplayStoreError
}

// missing names the first header that is missing.
func missing(r *Request, token bool) string {
	fields := []struct{ name, value string }{
		{HeaderRequestID, r.RequestID}, {HeaderClientIP, r.ClientIP}, {HeaderMode, r.Mode}, {HeaderApplication, r.Application},
		{HeaderNode, r.Node}, {HeaderInspection, r.Inspection}, {HeaderSignatureInput, r.SignatureInput}, {HeaderSignature, r.Signature},
	}
	if token {
		fields = append(fields[:4], struct{ name, value string }{HeaderToken, r.Token})
	}
	for _, f := range fields {
		if f.value == "" {
			return f.name + " is missing"
		}
	}
	return ""
}
