package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The signing keys, and how they follow their file.

// keyring holds the signing keys. signer is safe for concurrent use; reload is
// for one goroutine.
type keyring struct {
	lifetime time.Duration
	file     string // empty: by value, never re-read
	log      *slog.Logger
	metrics  *metrics
	wall     func() time.Time

	current atomic.Pointer[keys]
	seen    []byte // the last content of file that was looked at, good or bad
	failed  string // the last failure that was reported
}

// keys is one immutable state of the ring.
type keys struct {
	set     *evidence.KeySet
	signers map[*evidence.Key]*evidence.Signer
}

func newKeys(jwks []byte, lifetime time.Duration) (*keys, error) {
	set, err := evidence.ParseKeySet(jwks)
	if err != nil {
		return nil, err
	}
	k := &keys{set: set, signers: make(map[*evidence.Key]*evidence.Signer)}
	for _, key := range set.Keys() {
		if !key.CanSign() {
			continue
		}
		if k.signers[key], err = evidence.NewSigner(key, lifetime); err != nil {
			return nil, err
		}
	}
	if len(k.signers) == 0 {
		return nil, errors.New("JWK Set: no key has a private part, so none can sign")
	}
	return k, nil
}

// newKeyring reads the keys for the first time. Its errors name the setting.
func newKeyring(s *settings, log *slog.Logger, m *metrics, wall func() time.Time) (*keyring, error) {
	r := &keyring{lifetime: s.lifetime, file: s.jwksFile, log: log, metrics: m, wall: wall}
	name, jwks := "ATTESTER_SIGNING_JWKS", []byte(s.jwks)
	if s.jwksFile != "" {
		name = "ATTESTER_SIGNING_JWKS_FILE"
		var err error
		if jwks, err = readSmall(s.jwksFile); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	k, err := newKeys(jwks, s.lifetime)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r.seen = jwks
	r.use(k)
	return r, nil
}

func (r *keyring) use(k *keys) {
	r.current.Store(k)
	r.metrics.keysLoaded(k.set, r.wall())
	ids := make([]string, 0, len(k.signers))
	for _, key := range k.set.Keys() {
		if key.CanSign() {
			ids = append(ids, key.ID)
		}
	}
	r.log.Info("signing keys loaded", "key_ids", ids)
}

// signer returns the signer of the newest key that is active now.
func (r *keyring) signer() (*evidence.Signer, error) {
	k := r.current.Load()
	key, err := k.set.SigningKey(r.wall())
	if err != nil {
		return nil, err
	}
	return k.signers[key], nil
}

// signingKey returns the key of that signer.
func (r *keyring) signingKey() (*evidence.Key, error) {
	return r.current.Load().set.SigningKey(r.wall())
}

// reload takes over a changed file. The last good keys stay when it cannot be
// read or understood; each such failure is counted and reported once.
func (r *keyring) reload() {
	if r.file == "" {
		return
	}
	jwks, err := readSmall(r.file)
	if err == nil {
		if bytes.Equal(jwks, r.seen) {
			return
		}
		r.seen = jwks
		var k *keys
		if k, err = newKeys(jwks, r.lifetime); err == nil {
			r.failed = ""
			r.metrics.keyReload(true)
			r.use(k)
			return
		}
	} else {
		r.seen = nil // a file that comes back is looked at, whatever it holds
		if err.Error() == r.failed {
			return
		}
	}
	r.failed = err.Error()
	r.metrics.keyReload(false)
	r.log.Error("signing keys not reloaded, the last good ones stay", "error", err.Error())
}

// maxSmallFile bounds a key or certificate file, in bytes.
const maxSmallFile = 256 << 10

// readSmall reads a file of at most maxSmallFile bytes. Its errors name the file.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSmallFile {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, maxSmallFile)
	}
	return data, nil
}
