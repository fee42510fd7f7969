package main

// gatectl keys: JWK Sets (RFC 7517) for the attester and, without the secrets,
// for the gateway.

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// keyOptions are the properties of a key that is made.
type keyOptions struct {
	alg, kid, nbf         string
	activateIn, expiresIn *time.Duration
}

func (o *keyOptions) register(fs *flagSet, alg string) {
	fs.StringVar(&o.alg, "alg", alg, "`algorithm`: ed25519 or hmac-sha256")
	fs.StringVar(&o.kid, "kid", "", "`id` of the key (default: the date and a random suffix)")
	fs.StringVar(&o.nbf, "nbf", "", "`time` (RFC 3339) from which the key is used")
	o.activateIn = fs.duration("activate-in", 0, "`duration` from now until the key is used, such as 10m")
	o.expiresIn = fs.duration("expires-in", 0, "`duration` from now until the key is refused (default: never)")
}

// generate makes the key. Times are whole seconds: JWK has no finer ones.
func (o *keyOptions) generate(now time.Time) (*evidence.Key, error) {
	switch evidence.Algorithm(o.alg) {
	case evidence.AlgEd25519, evidence.AlgHMACSHA256:
	default:
		return nil, usagef("--alg is %q; it must be ed25519 or hmac-sha256", o.alg)
	}
	now = now.UTC().Truncate(time.Second)
	var notBefore, expires time.Time
	switch {
	case o.nbf != "" && *o.activateIn != 0:
		return nil, usagef("--nbf and --activate-in exclude each other")
	case o.nbf != "":
		at, err := time.Parse(time.RFC3339, o.nbf)
		if err != nil || at.Unix() < 0 { // a JWK counts seconds since 1970
			return nil, usagef("--nbf is %q; it must be a time since 1970, such as 2027-01-31T12:00:00Z", o.nbf)
		}
		notBefore = at
	case *o.activateIn < 0:
		return nil, usagef("--activate-in is %v; it must not be negative", *o.activateIn)
	case *o.activateIn > 0:
		notBefore = now.Add(*o.activateIn).Truncate(time.Second)
	}
	switch {
	case *o.expiresIn < 0:
		return nil, usagef("--expires-in is %v; it must not be negative", *o.expiresIn)
	case *o.expiresIn > 0:
		expires = now.Add(*o.expiresIn).Truncate(time.Second)
		if !expires.After(now) || !expires.After(notBefore) {
			return nil, usagef("--expires-in %v ends before the key is used at all", *o.expiresIn)
		}
	}
	kid := o.kid
	if kid == "" {
		suffix := make([]byte, 4)
		rand.Read(suffix)
		kid = now.Format(time.DateOnly) + "-" + hex.EncodeToString(suffix)
	}
	k, err := evidence.GenerateKey(kid, evidence.Algorithm(o.alg))
	if err != nil {
		return nil, usagef("--kid: %w", err)
	}
	k.NotBefore, k.Expires = notBefore, expires
	return k, nil
}

func runKeysNew(_ context.Context, t *tool, args []string) error {
	flags := t.flags("keys new")
	var o keyOptions
	o.register(flags, string(evidence.AlgEd25519))
	out := flags.String("out", "-", "`file` to create, readable by its owner only, - for the standard output")
	if _, err := flags.parse(args, 0, 0, ""); err != nil {
		return err
	}
	k, err := o.generate(t.now())
	if err != nil {
		return err
	}
	set, err := evidence.NewKeySet(k)
	if err != nil {
		return err
	}
	data, err := marshalKeys(set)
	if err != nil {
		return err
	}
	if *out == "-" {
		_, err := t.stdout.Write(data)
		return err
	}
	if err := createFile(*out, data, 0o600); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists and stays as it is; gatectl keys add puts a key beside those in it", *out)
		}
		return err
	}
	_, err = fmt.Fprintf(t.stdout, "%s: new %s key %s\n", *out, k.Alg, k.ID)
	return err
}

func runKeysAdd(_ context.Context, t *tool, args []string) error {
	flags := t.flags("keys add")
	var o keyOptions
	o.register(flags, "")
	retireIn := flags.duration("retire-in", 0, "`duration` from now until the keys that are in the set now are refused (default: as they are)")
	files, err := flags.parse(args, 1, 1, "FILE")
	if err != nil {
		return err
	}
	set, old, err := t.readKeys(files[0])
	if err != nil {
		return err
	}
	keys := set.Keys()
	if !slices.ContainsFunc(keys, (*evidence.Key).CanSign) {
		return fmt.Errorf("%s holds public keys only; add to the set that signs, then gatectl keys public", display(files[0]))
	}
	if o.alg == "" { // as the newest of the set
		o.alg = string(keys[len(keys)-1].Alg)
	}
	k, err := o.generate(t.now())
	if err != nil {
		return err
	}
	if set.Lookup(k.ID) != nil {
		return fmt.Errorf("%s holds a key %q already; nothing was written", files[0], k.ID)
	}
	if *retireIn != 0 {
		now := t.now().UTC().Truncate(time.Second)
		at := now.Add(*retireIn).Truncate(time.Second)
		if !at.After(now) || !at.After(k.NotBefore) {
			return usagef("--retire-in is %v; it must end after the new key is used", *retireIn)
		}
		for _, old := range keys {
			if !old.NotBefore.Before(at) {
				return usagef("--retire-in is %v, but key %q is used from %s on; give a longer one, or drop that key first (gatectl keys prune --kid)", *retireIn, old.ID, old.NotBefore.UTC().Format(time.RFC3339))
			}
			if old.Expires.IsZero() || old.Expires.After(at) {
				old.Expires = at
			}
		}
	}
	next, err := evidence.NewKeySet(append(keys, k)...)
	if err != nil {
		return fmt.Errorf("%s: %w; gatectl keys prune drops those that have expired", files[0], err)
	}
	if err := writeKeys(files[0], old, next); err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.stdout, "%s: new %s key %s, %d in all\n", files[0], k.Alg, k.ID, len(keys)+1)
	return err
}

func runKeysPrune(_ context.Context, t *tool, args []string) error {
	flags := t.flags("keys prune")
	kid := flags.String("kid", "", "`id` of a key to drop too, expired or not")
	files, err := flags.parse(args, 1, 1, "FILE")
	if err != nil {
		return err
	}
	set, old, err := t.readKeys(files[0])
	if err != nil {
		return err
	}
	if *kid != "" && set.Lookup(*kid) == nil {
		return fmt.Errorf("%s has no key %q; nothing was written", files[0], *kid)
	}
	now := t.now()
	var kept, dropped []*evidence.Key
	secret, signs := false, false // a public set may be pruned too
	for _, k := range set.Keys() {
		secret = secret || k.CanSign()
		// A verifier may allow SkewLimit: until then evidence is accepted.
		if k.ID == *kid || !k.Expires.IsZero() && !now.Before(k.Expires.Add(evidence.SkewLimit)) {
			dropped = append(dropped, k)
			continue
		}
		kept = append(kept, k)
		signs = signs || k.CanSign() && k.ActiveAt(now, 0)
	}
	if len(dropped) == 0 {
		_, err := fmt.Fprintf(t.stdout, "%s: no key has expired\n", files[0])
		return err
	}
	if secret && !signs || len(kept) == 0 {
		return fmt.Errorf("%s would be left without a usable key; nothing was written, use gatectl keys add first", files[0])
	}
	next, err := evidence.NewKeySet(kept...)
	if err != nil {
		return err
	}
	if err := writeKeys(files[0], old, next); err != nil {
		return err
	}
	for _, k := range dropped {
		why := "no expiry"
		if !k.Expires.IsZero() {
			why = "expires " + k.Expires.UTC().Format(time.RFC3339)
		}
		if _, err := fmt.Fprintf(t.stdout, "%s: dropped %s, %s\n", files[0], k.ID, why); err != nil {
			return err
		}
	}
	return nil
}

func writeKeys(path string, old []byte, set *evidence.KeySet) error {
	if path == "-" {
		return usagef("FILE is -; a set is changed in a file only")
	}
	data, err := marshalKeys(set)
	if err != nil {
		return err
	}
	return replaceFile(path, old, data)
}

func runKeysPublic(_ context.Context, t *tool, args []string) error {
	flags := t.flags("keys public")
	out := flags.String("out", "-", "`file` to create, - for the standard output")
	files, err := flags.parse(args, 1, 1, "FILE")
	if err != nil {
		return err
	}
	set, _, err := t.readKeys(files[0])
	if err != nil {
		return err
	}
	var public []*evidence.Key
	for _, k := range set.Keys() {
		if k.Alg == evidence.AlgHMACSHA256 {
			return fmt.Errorf("%s: key %q is a shared secret (hmac-sha256) and has no public part; give the gateway the set itself, or use ed25519", display(files[0]), k.ID)
		}
		p, err := k.Public()
		if err != nil {
			return fmt.Errorf("%s: %w", display(files[0]), err)
		}
		public = append(public, p)
	}
	next, err := evidence.NewKeySet(public...)
	if err != nil {
		return err
	}
	data, err := marshalKeys(next)
	if err != nil {
		return err
	}
	if *out == "-" {
		_, err = t.stdout.Write(data)
		return err
	}
	if err := createFile(*out, data, 0o644); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists and stays as it is; leave out --out to write to the standard output", *out)
	} else if err != nil {
		return err
	}
	return nil
}
