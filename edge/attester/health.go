package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The health listener: whether the process lives, and whether the load balancer
// may send it requests.

// readiness decides /readyz. It is safe for concurrent use.
type readiness struct {
	watcher  *watcher
	keys     *keyring
	stopping atomic.Bool
	backend  atomic.Pointer[string] // nil: not asked or good; else why not
}

// check returns nil while requests should come. A stale node still inspects, and
// replacing it gains nothing while the cloud cannot be reached: it stays ready,
// and the policy at the gateway decides about its evidence.
func (r *readiness) check() error {
	if r.stopping.Load() {
		return errors.New("stopping")
	}
	if state, detail := r.watcher.describe(); state < evidence.InspectionStale {
		return fmt.Errorf("inspection is %s: %s", state, detail)
	}
	if _, err := r.keys.signer(); err != nil {
		return err
	}
	if why := r.backend.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}

// probeBackend asks whether the gateway accepts connections, for /readyz.
func (r *readiness) probeBackend(ctx context.Context, p *pool) {
	if err := p.probe(ctx); err != nil {
		why := "the gateway accepts no connection: " + err.Error()
		r.backend.Store(&why)
		return
	}
	r.backend.Store(nil)
}

// healthHandler serves /livez and /readyz, and nothing else.
func healthHandler(r *readiness) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeHealth(w, http.StatusOK, map[string]any{"live": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		state := r.watcher.inspection().String()
		if err := r.check(); err != nil {
			writeHealth(w, http.StatusServiceUnavailable, map[string]any{"ready": false, "inspection": state, "reason": err.Error()})
			return
		}
		writeHealth(w, http.StatusOK, map[string]any{"ready": true, "inspection": state})
	})
	return mux
}

func writeHealth(w http.ResponseWriter, code int, body map[string]any) {
	document, err := json.Marshal(body)
	if err != nil {
		code, document = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(document)+1))
	w.WriteHeader(code)
	w.Write(append(document, '\n'))
}

// healthcheckTimeout bounds -healthcheck; ECS's own default is 5 s.
const healthcheckTimeout = 3 * time.Second

// healthcheck asks the attester that listens on addr whether it lives.
func healthcheck(ctx context.Context, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if err == nil && ip.Is6() {
			host = "::1"
		}
	}
	ctx, cancel := context.WithTimeout(ctx, healthcheckTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/livez", nil)
	if err != nil {
		return err
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	io.Copy(io.Discard, io.LimitReader(res.Body, 4<<10))
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("/livez answered %d", res.StatusCode)
	}
	return nil
}
