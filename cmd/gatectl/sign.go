package main

// gatectl sign: evidence for one request, as an attester would make it.

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

const signSynopsis = "--keys FILE (--url URL | --authority HOST --target TARGET) [--method M] [--mode MODE] … [--curl | --plain]"

func runSign(_ context.Context, t *tool, args []string) error {
	flags := t.flags("sign")
	var o requestOptions
	var m evidence.Message
	o.register(flags.FlagSet, "GET")
	keyFile := flags.String("keys", "", "`file` with the JWK Set to sign with, - for the standard input")
	kid := flags.String("kid", "", "`id` of the key (default: the newest active one)")
	lifetime := flags.duration("lifetime", 30*time.Second, "`duration` until the evidence expires: whole seconds, at most 5m")
	curl := flags.Bool("curl", false, "print a curl configuration, for curl -K -")
	plain := flags.Bool("plain", false, "print Name: value lines")
	flags.StringVar(&m.RequestID, "request-id", "", "32 hex `digits` (default: random)")
	flags.StringVar(&m.ClientIP, "client-ip", "127.0.0.1", "`address` of the client")
	flags.StringVar(&m.Mode, "mode", evidence.ModeBlock.String(), "the node's `mode`: off, monitoring, safe_blocking or block")
	flags.StringVar(&m.Application, "application", "-1", "`id` of the Wallarm application, -1 for none")
	flags.StringVar(&m.Node, "node", "gatectl", "`name` of the node")
	flags.StringVar(&m.Inspection, "inspection", evidence.InspectionActive.String(), "`state` of the node: active, stale, degraded or unknown")
	if _, err := flags.parse(args, 0, 0, ""); err != nil {
		return err
	}
	switch {
	case *keyFile == "":
		return usagef("--keys is missing; see gatectl help sign")
	case o.url == "" && (o.authority == "" || o.target == ""):
		return usagef("--url, or --authority and --target, must name the request; see gatectl help sign")
	case *curl && *plain:
		return usagef("--curl and --plain exclude each other")
	}
	if err := o.apply(&m); err != nil {
		return err
	}
	if m.RequestID == "" {
		var id [16]byte
		rand.Read(id[:])
		m.RequestID = hex.EncodeToString(id[:])
	}
	if *lifetime < time.Second || *lifetime > evidence.MaxAgeLimit || *lifetime%time.Second != 0 {
		return usagef("--lifetime is %v; it must be whole seconds from 1s to %v", *lifetime, evidence.MaxAgeLimit)
	}
	set, _, err := t.readKeys(*keyFile)
	if err != nil {
		return err
	}
	now := t.now()
	var key *evidence.Key
	if *kid == "" {
		key, err = set.SigningKey(now)
		if err != nil {
			return fmt.Errorf("%s: %w", display(*keyFile), err)
		}
	} else if key = set.Lookup(*kid); key == nil {
		return fmt.Errorf("%s holds no key %q", display(*keyFile), *kid)
	}
	signer, err := evidence.NewSigner(key, *lifetime)
	if err != nil {
		return err
	}
	if err := signer.Sign(&m, now); err != nil {
		return usageError{errors.Unwrap(err)} // "sign" stands before it already
	}
	var out strings.Builder
	if *curl {
		if o.url != "" {
			fmt.Fprintf(&out, "url = %s\npath-as-is\n", curlQuote(o.url))
		}
		fmt.Fprintf(&out, "request = %s\n", curlQuote(m.Method))
	}
	for _, f := range fields(&m) {
		switch line := f[0] + ": " + f[1]; {
		case *plain:
			fmt.Fprintln(&out, line)
		case *curl:
			fmt.Fprintf(&out, "header = %s\n", curlQuote(line))
		default: // no value of the contract holds a single quote
			fmt.Fprintf(&out, "-H '%s'\n", line)
		}
	}
	_, err = fmt.Fprint(t.stdout, out.String())
	return err
}

// curlQuote quotes a value for a curl configuration file.
func curlQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// curlUnquote is the value that curlQuote quoted, from behind its first quote.
func curlUnquote(s string) string {
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(strings.TrimSuffix(s, `"`))
}
