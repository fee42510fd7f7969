package main

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"
)

// TLS to the gateway.

// newPool returns the pool of the connections to the gateway. cert and ca may be nil.
func newPool(s *settings, cert *clientCertificate, ca *authorities, elapsed func() time.Duration) *pool {
	p := &pool{
		address:     s.backend.Host,
		dialTimeout: s.dialTimeout,
		idleTimeout: s.idleTimeout,
		maxAge:      s.connectionMaxAge,
		maxIdle:     s.maxIdle,
		elapsed:     elapsed,
	}
	if s.backend.Port() == "" {
		port := "443"
		if s.backend.Scheme == "http" {
			port = "80"
		}
		p.address = net.JoinHostPort(s.backend.Hostname(), port)
	}
	if s.backend.Scheme == "http" {
		return p
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: cmp.Or(s.serverName, s.backend.Hostname()),
		NextProtos: []string{"http/1.1"},
	}
	if ca != nil {
		config.RootCAs = ca.roots
	}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return cert.current.Load(), nil
		}
	}
	p.tls.Store(config)
	return p
}

// authorities are the CAs that the gateway's certificate may come from. All of it
// is for one goroutine.
type authorities struct {
	file    string // empty: by value, never re-read
	log     *slog.Logger
	metrics *metrics
	roots   *x509.CertPool // of the start
	seen    []byte         // the last content that was looked at, good or bad
	failed  string         // the last failure that was reported
}

// newAuthorities returns nil where the system's CAs count.
func newAuthorities(s *settings, log *slog.Logger, m *metrics) (*authorities, error) {
	if s.caFile == "" && s.caPEM == "" {
		return nil, nil
	}
	a := &authorities{file: s.caFile, log: log, metrics: m, seen: []byte(s.caPEM)}
	name := "ATTESTER_BACKEND_CA"
	if s.caFile != "" {
		name = "ATTESTER_BACKEND_CA_FILE"
		var err error
		if a.seen, err = readSmall(s.caFile); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	var err error
	if a.roots, err = parseAuthorities(a.seen); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return a, nil
}

// parseAuthorities reads PEM certificates. It is strict: of a file that is half
// written, or holds something else, nothing is taken.
func parseAuthorities(data []byte) (*x509.CertPool, error) {
	roots, n := x509.NewCertPool(), 0
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		// pem.Decode skips what it cannot read.
		if n++; bytes.Count(data[:len(data)-len(rest)], []byte("-----BEGIN")) != 1 {
			return nil, fmt.Errorf("PEM block %d is malformed", n)
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d is %q, only CERTIFICATE is allowed", n, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", n, err)
		}
		roots.AddCert(cert)
		data = rest
	}
	if bytes.Contains(data, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("PEM block %d is malformed", n+1)
	}
	if n == 0 {
		return nil, errors.New("holds no PEM certificate")
	}
	return roots, nil
}

// reload takes over a changed file for the connections of p; those that were
// opened under the CAs before take no further request. The last good CAs stay
// when the file cannot be read or understood.
func (a *authorities) reload(p *pool) {
	if a == nil || a.file == "" {
		return
	}
	data, err := readSmall(a.file)
	if err == nil {
		if bytes.Equal(data, a.seen) {
			return
		}
		a.seen = data
		var roots *x509.CertPool
		if roots, err = parseAuthorities(data); err == nil {
			a.failed = ""
			config := p.tls.Load().Clone()
			config.RootCAs = roots
			p.tls.Store(config)
			a.log.Info("CAs of the gateway loaded")
			return
		}
	} else {
		a.seen = nil // a file that comes back is looked at, whatever it holds
		if err.Error() == a.failed {
			return
		}
	}
	a.failed = err.Error()
	a.metrics.caReloadFailures.Inc()
	a.log.Error("CAs of the gateway not reloaded, the last good ones stay", "error", err.Error())
}

// clientCertificate is the certificate for mutual TLS. current is safe for
// concurrent use; reload is for one goroutine.
type clientCertificate struct {
	certFile, keyFile string
	log               *slog.Logger
	metrics           *metrics
	current           atomic.Pointer[tls.Certificate]
	seen              []byte
	failed            string
}

func newClientCertificate(s *settings, log *slog.Logger, m *metrics) (*clientCertificate, error) {
	if s.clientCertFile == "" {
		return nil, nil
	}
	c := &clientCertificate{certFile: s.clientCertFile, keyFile: s.clientKeyFile, log: log, metrics: m}
	cert, seen, err := c.read()
	if err != nil {
		return nil, fmt.Errorf("ATTESTER_CLIENT_CERT_FILE, ATTESTER_CLIENT_KEY_FILE: %w", err)
	}
	c.use(cert, seen)
	return c, nil
}

func (c *clientCertificate) use(cert *tls.Certificate, seen []byte) {
	c.seen, c.failed = seen, ""
	c.current.Store(cert)
	c.metrics.certificateExpiry.Set(float64(cert.Leaf.NotAfter.Unix()))
	c.log.Info("client certificate loaded", "subject", cert.Leaf.Subject.String(), "expires", cert.Leaf.NotAfter)
}

// read returns the pair that the files hold, and both contents as one.
func (c *clientCertificate) read() (*tls.Certificate, []byte, error) {
	certPEM, err := readSmall(c.certFile)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err := readSmall(c.keyFile)
	if err != nil {
		return nil, nil, err
	}
	seen := append(append(bytes.Clone(certPEM), 0), keyPEM...)
	if bytes.Equal(seen, c.seen) {
		return nil, seen, nil
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, nil, err
	}
	if cert.Leaf == nil {
		return nil, nil, errors.New("the certificate cannot be parsed")
	}
	return &cert, seen, nil
}

// reload takes over changed files. The last good pair stays when they cannot be
// read or do not fit, as for a moment while both are being replaced.
func (c *clientCertificate) reload() {
	if c == nil {
		return
	}
	cert, seen, err := c.read()
	switch {
	case err != nil:
		if err.Error() != c.failed {
			c.failed = err.Error()
			c.metrics.certificateReloadFailures.Inc()
			c.log.Error("client certificate not reloaded, the last good one stays", "error", err.Error())
		}
	case cert == nil:
		c.failed = ""
	default:
		c.use(cert, seen)
	}
}
