// Package bypass reads and runs the bypass corpus: raw requests that try to get
// past the gate. ../testdata/bypass/README.md describes the format.
//
// A case is written as a diff from an honest request to an attack. Parse reads
// it, Case.Steps fills in fresh evidence for one of the two variants, and
// Exchange puts the bytes on a connection and reads what comes back. The honest
// variant (the twin) must pass, so that an attack is never refused for another
// reason than the one that the case is about.
//
// The signer here is written from RFC 9421 and not with package evidence: it
// signs what that package would not, and it must agree with it where both sign.
package bypass
