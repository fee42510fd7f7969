package main

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"
)

// TLS to the gateway.

// newPool returns the pool of the connections to the gateway. cert may be nil.
func newPool(s *settings, cert *clientCertificate, elapsed func() time.Duration) (*pool, error) {
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
	if s.backend.Scheme == "https" {
		config, err := newTLSConfig(s, cert)
		if err != nil {
			return nil, err
		}
		p.tls.Store(config)
	}
	return p, nil
}

func newTLSConfig(s *settings, cert *clientCertificate) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: cmp.Or(s.serverName, s.backend.Hostname()),
		NextProtos: []string{"http/1.1"},
	}
	name, pem := "ATTESTER_BACKEND_CA", []byte(s.caPEM)
	if s.caFile != "" {
		name = "ATTESTER_BACKEND_CA_FILE"
		var err error
		if pem, err = readSmall(s.caFile); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if s.caFile != "" || s.caPEM != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: holds no PEM certificate", name)
		}
	}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return cert.current.Load(), nil
		}
	}
	return config, nil
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
