package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestProbes(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	release := make(chan struct{})
	kong := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ready":
			w.Write(make([]byte, 2*maxStatusBody))
		case "/redirect":
			http.Redirect(w, r, "/ready", http.StatusFound)
		case "/hangs":
			<-release
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer kong.Close()
	defer close(release)
	for _, c := range []struct {
		name, socket, url, path string
		status                  int
		body                    string
	}{
		{"ready", socket, "", "/readyz", 200, "ok"},
		{"no socket", socket + "x", "", "/readyz", 503, "the plugin's socket"},
		{"alive without a socket", socket + "x", "", "/livez", 200, "ok"},
		{"Kong is ready", socket, kong.URL + "/ready", "/readyz", 200, "ok"},
		{"Kong is not", socket, kong.URL + "/not", "/readyz", 503, "the status of Kong is 503"},
		{"Kong redirects", socket, kong.URL + "/redirect", "/readyz", 503, "the status of Kong is 302"},
		{"Kong hangs", socket, kong.URL + "/hangs", "/readyz", 503, "the status of Kong"},
		{"Kong is down", socket, "http://127.0.0.1:1/", "/readyz", 503, "the status of Kong"},
		{"metrics", socket, "", "/metrics", 200, "wallarm_gate_replay_entries 0"},
		{"nothing else", socket, "", "/", 404, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := handler(testGate().metrics, newProbes(c.socket, c.url))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", c.path, nil))
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
				t.Errorf("status %d: %s", w.Code, w.Body)
			}
		})
	}
}

// A bind that fails, because the process before still listens, is tried again.
func TestServeProbesRetries(t *testing.T) {
	t.Parallel()
	before, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := before.Addr().String()
	retry := make(chan time.Time)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveProbes(ctx, addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "new") }), retry)
	}()
	retry <- time.Now() // it waits, so it could not bind
	before.Close()
	deadline := time.Now().Add(20 * time.Second)
	for {
		select {
		case retry <- time.Now():
		default: // it is binding, or listens already
		}
		resp, err := http.Get("http://" + addr)
		if err == nil {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(body) != "new" {
				t.Fatalf("body %q", body)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	cancel()
	<-done
}
