package main

// gatectl verify: what a verifier says about one request, and why.

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

const verifySynopsis = "--keys FILE [--url URL | --method M --authority HOST --target TARGET] [--base] … [HEAD]"

func runVerify(_ context.Context, t *tool, args []string) error {
	flags := t.flags("verify")
	var o requestOptions
	o.register(flags.FlagSet, "")
	keyFile := flags.String("keys", "", "`file` with the JWK Set to verify with, public or private")
	maxAge := flags.duration("max-age", 30*time.Second, "largest age of the evidence (`duration`, at most 5m)")
	skew := flags.duration("clock-skew", 5*time.Second, "tolerated difference of clocks (`duration`, at most 1m)")
	minMode := flags.String("min-mode", evidence.ModeMonitoring.String(), "weakest `mode` that passes")
	anyInspection := flags.Bool("any-inspection", false, "accept evidence of a node that does not inspect")
	allowUpgrade := flags.Bool("allow-upgrade", false, "accept a request for a protocol upgrade")
	at := flags.String("at", "", "`time` (RFC 3339) to judge at (default: now)")
	base := flags.Bool("base", false, "print the signature base too")
	operands, err := flags.parse(args, 0, 1, "")
	if err != nil {
		return err
	}
	if *keyFile == "" {
		return usagef("--keys is missing; see gatectl help verify")
	}
	head := "-"
	if len(operands) == 1 {
		head = operands[0]
	}
	if head == "-" && *keyFile == "-" {
		return usagef("the keys and the head cannot both come from the standard input")
	}
	now := t.now()
	if *at != "" {
		if now, err = time.Parse(time.RFC3339, *at); err != nil {
			return usagef("--at is %q; it must be a time such as 2027-01-31T12:00:00Z", *at)
		}
	}
	mode, err := evidence.ParseMode(*minMode)
	if err != nil {
		return usagef("--min-mode: %w", err)
	}
	v := evidence.Verifier{
		Policy: evidence.Policy{MaxAge: *maxAge, ClockSkew: *skew, MinMode: mode, RequireActive: !*anyInspection, AllowUpgrade: *allowUpgrade},
		Now:    func() time.Time { return now },
	}
	if err := v.Policy.Check(); err != nil {
		return usageError{err}
	}
	keys, _, err := t.readKeys(*keyFile)
	if err != nil {
		return err
	}
	v.Keys = func() *evidence.KeySet { return keys }
	data, err := t.readLimited(head, maxHead)
	if err != nil {
		return err
	}
	var r evidence.Request
	if err := readRequest(data, &r); err != nil {
		return fmt.Errorf("%s: %w", display(head), err)
	}
	if err := o.apply(&r.Message); err != nil {
		return err
	}
	if r.Method == "" { // as sign
		r.Method = "GET"
	}
	switch {
	case r.Authority == "":
		return usagef("the authority is not known: give --authority, --url or a head with a Host field")
	case r.Target == "":
		return usagef("the target is not known: give --target, --url or a head with its request line")
	}
	attestation, reason := v.Verify(&r)
	if err := t.explain(&r, attestation, reason, keys, now, *base); err != nil {
		return err
	}
	if reason != "" {
		return errSilent
	}
	return nil
}

// explain prints the decision and what the signature covers. Values come from
// the head that was given, so they are quoted.
func (t *tool) explain(r *evidence.Request, a evidence.Attestation, reason evidence.Reason, keys *evidence.KeySet, now time.Time, base bool) error {
	w := tabwriter.NewWriter(t.stdout, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	if reason == "" {
		row("decision", "accepted")
	} else {
		row("decision", "refused")
		row("reason", "%s", reason)
		if a.Detail != "" {
			row("detail", "%s", a.Detail)
		}
	}
	in, err := evidence.ParseSignatureInput(r.SignatureInput)
	if err != nil {
		return w.Flush()
	}
	known := "not in the set"
	if k := keys.Lookup(in.KeyID); k != nil {
		known = string(k.Alg)
	}
	row("key", "%q (%s)", in.KeyID, known)
	row("algorithm", "%s", in.Algorithm)
	row("created", "%s (%s)", utc(in.Created), ago(now.Sub(time.Unix(in.Created, 0))))
	row("expires", "%s (%s)", utc(in.Expires), ago(now.Sub(time.Unix(in.Expires, 0))))
	row("nonce", "%q", in.Nonce)
	for _, line := range strings.Split(string(in.AppendBase(nil, &r.Message)), "\n") {
		if strings.HasPrefix(line, `"@signature-params": `) {
			break
		}
		name, value, _ := strings.Cut(line, ": ")
		row("covered", "%s %q", name, value)
	}
	if err := w.Flush(); err != nil || !base {
		return err
	}
	_, err = fmt.Fprintf(t.stdout, "\n%s\n", in.AppendBase(nil, &r.Message))
	return err
}

func utc(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

// ago says a distance in time in words.
func ago(d time.Duration) string {
	d = d.Truncate(time.Second)
	if d < 0 {
		return fmt.Sprintf("in %v", -d)
	}
	return fmt.Sprintf("%v ago", d)
}
