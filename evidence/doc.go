// Package evidence is the contract between the edge and the gateway: what a
// Wallarm node and its attester state about one request, how that statement is
// signed, and how a verifier checks and appraises it.
//
// The terms are those of RFC 9334. The attester is the sidecar of the node; the
// evidence is six header fields; the verifier and relying party is the plugin
// in front of an API. The signature is an HTTP Message Signature (RFC 9421)
// under one exact profile: label "wallarm", nine covered components, six
// parameters, nothing else. What is not exactly the profile is malformed.
//
// [Signer.Sign] makes evidence valid for one request, [Verifier.Verify] yields
// an [Attestation] or exactly one [Reason] out of a closed list. Nothing here
// knows Kong, an HTTP server or a file. All parsers are total and bounded.
package evidence
