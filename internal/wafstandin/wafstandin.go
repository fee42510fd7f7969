// Package wafstandin puts a free WAF in the place of a Wallarm node: the OWASP
// Core Rule Set (CRS) on Coraza, as a reverse proxy in front of the attester.
//
// It is a stand-in for demonstrations and tests. It shows what the gate needs
// from a node: it refuses ambiguous requests as the node's nginx does, stops
// attacks, overwrites the four evidence headers that a node states, and serves
// a status document. It does not imitate how Wallarm detects attacks.
package wafstandin

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"

	coreruleset "github.com/corazawaf/coraza-coreruleset/v4"
	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/types"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// Options are the settings of a WAF.
type Options struct {
	Attester    *url.URL // where requests go, scheme and host only
	Application int32    // what the node states; 0 stands for none (-1)
	Log         *log.Logger
}

// WAF is the stand-in. It is an http.Handler for the traffic, and safe for
// concurrent use.
type WAF struct {
	engine      coraza.WAF
	proxy       *httputil.ReverseProxy
	application string
	started     time.Time

	mode     atomic.Uint32 // evidence.Mode
	degraded atomic.Bool

	requests, attacks, blocked atomic.Int64
}

// directives are CRS as it ships, at its default paranoia level 1, blocking,
// with the methods of an API allowed and without an audit log. Responses are
// not looked at.
const directives = `
Include @coraza.conf-recommended
Include @crs-setup.conf.example
SecAction "id:900200,phase:1,pass,t:none,nolog,setvar:'tx.allowed_methods=GET HEAD POST PUT PATCH DELETE OPTIONS'"
Include @owasp_crs/*.conf
SecRuleEngine On
SecAuditEngine Off
SecResponseBodyAccess Off
`

// New compiles the rules, which takes about half a second. The mode is block.
func New(o Options) (*WAF, error) {
	if o.Attester == nil || o.Attester.Host == "" {
		return nil, errors.New("the URL of the attester is missing")
	}
	engine, err := coraza.NewWAF(coraza.NewWAFConfig().WithRootFS(coreruleset.FS).WithDirectives(directives))
	if err != nil {
		return nil, fmt.Errorf("compile the OWASP CRS: %w", err)
	}
	w := &WAF{engine: engine, application: strconv.Itoa(int(cmp.Or(o.Application, evidence.NoApplication))), started: time.Now()}
	w.SetMode(evidence.ModeBlock)
	w.proxy = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { w.rewrite(r, o.Attester) },
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
		FlushInterval: -1,
		ErrorLog:      o.Log,
		ErrorHandler: func(rw http.ResponseWriter, _ *http.Request, err error) {
			if o.Log != nil {
				o.Log.Printf("OWASP CRS stand-in: %v", err)
			}
			http.Error(rw, "the attester does not answer", http.StatusBadGateway)
		},
	}
	return w, nil
}

// SetMode sets the filtration mode. Attacks are stopped in mode block only: the
// stand-in has no graylist that would make safe_blocking differ from monitoring.
func (w *WAF) SetMode(m evidence.Mode) { w.mode.Store(uint32(m)) }

// SetDegraded makes the status say whether an instance has failed.
func (w *WAF) SetDegraded(yes bool) { w.degraded.Store(yes) }

// Close closes the idle connections to the attester.
func (w *WAF) Close() {
	w.proxy.Transport.(*http.Transport).CloseIdleConnections()
}

// ServeHTTP inspects a request and proxies it to the attester, or answers 400
// to an ambiguous request, 403 to an attack, 500 if it could not inspect.
func (w *WAF) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.requests.Add(1)
	if err := checkRequest(r); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	mode := evidence.Mode(w.mode.Load())
	if mode != evidence.ModeOff {
		tx := w.engine.NewTransaction()
		defer func() {
			tx.ProcessLogging()
			tx.Close()
		}()
		stop, err := inspect(tx, r)
		if err != nil {
			http.Error(rw, "the request could not be inspected", http.StatusInternalServerError)
			return
		}
		if stop != nil {
			w.attacks.Add(1)
			if mode == evidence.ModeBlock {
				w.blocked.Add(1)
				http.Error(rw, "stopped by the OWASP CRS stand-in", cmp.Or(stop.Status, http.StatusForbidden))
				return
			}
		}
	}
	w.proxy.ServeHTTP(rw, r.WithContext(context.WithValue(r.Context(), modeKey{}, mode)))
}

// modeKey carries the mode under which a request was inspected: the evidence
// must not state one that was set later.
type modeKey struct{}

// The paths that the node's nginx refuses, since what is behind it turns them
// into others: NUL and backslash, an empty segment, a dot segment with or
// without parameters, each also percent-encoded.
var ambiguousPath = regexp.MustCompile(`(?i)^[^?]*(%(00|5c)|(/|%2f)(/|%2f)|(/|%2f)(\.|%2e){1,2}(/|%2f|;|%3b|\?|$))`)

func checkRequest(r *http.Request) error {
	if err := evidence.CheckTarget(r.RequestURI); err != nil {
		return err
	}
	if ambiguousPath.MatchString(r.RequestURI) {
		return errors.New("the path is ambiguous")
	}
	// net/http writes the target anew; it must come out as it came in.
	if r.URL.Opaque != "" || r.URL.RequestURI() != r.RequestURI {
		return errors.New("the target would change when forwarded")
	}
	return nil
}

// rewrite makes the request to the attester.
func (w *WAF) rewrite(r *httputil.ProxyRequest, attester *url.URL) {
	r.Out.URL.Scheme, r.Out.URL.Host = attester.Scheme, attester.Host
	// ReverseProxy drops parameters that it cannot parse; the WAF saw them all.
	r.Out.URL.RawQuery, r.Out.URL.ForceQuery = r.In.URL.RawQuery, r.In.URL.ForceQuery
	r.Out.Host = r.In.Host
	for name := range r.Out.Header {
		if evidence.IsHeader(name) {
			delete(r.Out.Header, name)
		}
	}
	var id [16]byte
	rand.Read(id[:])
	client, _, _ := net.SplitHostPort(r.In.RemoteAddr)
	mode, _ := r.In.Context().Value(modeKey{}).(evidence.Mode)
	r.Out.Header.Set(evidence.HeaderRequestID, hex.EncodeToString(id[:]))
	r.Out.Header.Set(evidence.HeaderClientIP, client)
	r.Out.Header.Set(evidence.HeaderMode, mode.String())
	r.Out.Header.Set(evidence.HeaderApplication, w.application)
	r.Out.Header.Set("X-Forwarded-For", client)
	r.Out.Header.Set("X-Forwarded-Proto", "http")
	if r.Out.Header["User-Agent"] == nil {
		r.Out.Header["User-Agent"] = nil // or net/http would make one up
	}
}

// inspect runs the request phases of the rules. What has been read of the body
// is put back.
func inspect(tx types.Transaction, r *http.Request) (*types.Interruption, error) {
	host, port, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	tx.ProcessConnection(host, n, "", 0)
	tx.ProcessURI(r.RequestURI, r.Method, r.Proto)
	tx.SetServerName(r.Host)
	tx.AddRequestHeader("Host", r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			tx.AddRequestHeader(name, v)
		}
	}
	for _, te := range r.TransferEncoding {
		tx.AddRequestHeader("Transfer-Encoding", te)
	}
	if stop := tx.ProcessRequestHeaders(); stop != nil {
		return stop, nil
	}
	if r.Body != nil && r.Body != http.NoBody && tx.IsRequestBodyAccessible() {
		stop, _, err := tx.ReadRequestBodyFrom(r.Body)
		if stop != nil || err != nil {
			return stop, err
		}
		read, err := tx.RequestBodyReader()
		if err != nil {
			return nil, err
		}
		r.Body = body{io.MultiReader(read, r.Body), r.Body}
	}
	return tx.ProcessRequestBody()
}

type body struct {
	io.Reader
	io.Closer
}

// Status serves the node's status document, at the path /wallarm-status only.
// The names are those that Wallarm documents; the counts of attacks are CRS's.
func (w *WAF) Status() http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/wallarm-status" {
			http.NotFound(rw, r)
			return
		}
		now := time.Now()
		instances := map[string]int64{"total": 2, "success": 2, "fallback": 0, "failed": 0}
		if w.degraded.Load() {
			instances["success"], instances["failed"] = 1, 1
		}
		rw.Header().Set("Content-Type", "application/json")
		json.NewEncoder(rw).Encode(map[string]any{
			"requests": w.requests.Load(), "attacks": w.attacks.Load(), "blocked": w.blocked.Load(),
			"blocked_by_acl": 0, "abnormal": 0, "tnt_errors": 0, "api_errors": 0, "requests_lost": 0,
			"segfaults": 0, "memfaults": 0, "time_detect": 0,
			"db_id": 1, "lom_id": 1, "custom_ruleset_id": 1, "custom_ruleset_ver": 1,
			"db_apply_time": w.started.Unix(), "lom_apply_time": w.started.Unix(), "custom_ruleset_apply_time": w.started.Unix(),
			"proton_instances": instances, "stalled_workers_count": 0, "stalled_workers": []any{},
			"startid": w.started.UnixNano(), "timestamp": now.Unix(), "split": map[string]any{"clients": []any{}},
		})
	})
}
