package main

// The listener for metrics and probes. It is not Kong's: Kong's own readiness
// says nothing about the plugin, without which every request is answered 500.

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	probeTimeout  = time.Second
	bindInterval  = 500 * time.Millisecond
	maxStatusBody = 64 << 10
)

// probes answers /livez and /readyz.
type probes struct {
	socket    string // the plugin's own
	statusURL string // Kong's /status/ready; empty: not asked
	client    *http.Client
}

func newProbes(socket, statusURL string) *probes {
	return &probes{socket: socket, statusURL: statusURL, client: &http.Client{
		Timeout: probeTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a redirect is not the answer
		},
	}}
}

// check returns why the gate is not ready: Kong cannot reach the plugin, or Kong
// itself is not ready.
func (p *probes) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", p.socket)
	if err != nil {
		return fmt.Errorf("the plugin's socket: %w", err)
	}
	conn.Close()
	if p.statusURL == "" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.statusURL, nil)
	if err != nil {
		return fmt.Errorf("the status of Kong: %w", err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return fmt.Errorf("the status of Kong: %w", err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxStatusBody)); err != nil {
		return fmt.Errorf("the status of Kong: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the status of Kong is %d", resp.StatusCode)
	}
	return nil
}

// handler serves /metrics, /livez and /readyz, and nothing else.
func handler(m *metrics, p *probes) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := p.check(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// serveProbes listens on addr until ctx is done. A reload of Kong runs two
// processes for a moment, so a bind that fails is tried again.
func serveProbes(ctx context.Context, addr string, h http.Handler, retry <-chan time.Time) {
	for failed := false; ; {
		l, err := net.Listen("tcp", addr)
		if err == nil {
			if failed {
				log.Printf("metrics: listening on %s", l.Addr())
			}
			s := &http.Server{
				Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
				WriteTimeout: 15 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
			}
			stop := context.AfterFunc(ctx, func() { s.Close() })
			err = s.Serve(l)
			stop()
		}
		if ctx.Err() != nil {
			return
		}
		if !failed {
			log.Printf("metrics: %v; trying again", err)
			failed = true
		}
		select {
		case <-ctx.Done():
			return
		case <-retry:
		}
	}
}
