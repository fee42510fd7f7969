package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// authority is a certificate authority of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{}
	certPEM, keyPEM := a.issue(t, name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key, a.pem = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey), certPEM
	return a
}

// issue returns a certificate and its key as PEM, self-signed if a is empty.
func (a *authority) issue(t *testing.T, name string, c *x509.Certificate) (certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.Subject = serial, pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// tlsGateway starts a gateway whose certificate is for gateway.internal. It
// answers with the protocol and the client's certificate. change may be nil.
func tlsGateway(t *testing.T, ca *authority, change func(*tls.Config)) string {
	t.Helper()
	certPEM, keyPEM := ca.issue(t, "gateway", &x509.Certificate{DNSNames: []string{"gateway.internal"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			client = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		fmt.Fprintf(w, "%s %s %s", r.Proto, client, r.TLS.ServerName)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	if change != nil {
		change(s.TLS)
	}
	s.EnableHTTP2 = true // offered, not taken
	s.Config.ErrorLog = serverLog(newLogger(&logBuffer{}, nil))
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	caFile := t.TempDir() + "/ca.pem"
	writeFile(t, caFile, ca.pem)
	tests := []struct {
		name   string
		env    map[string]string
		change func(*tls.Config)
		code   int
		body   string
	}{
		{"CA by value", map[string]string{"BACKEND_CA": ca.pem}, nil, 200, "HTTP/1.1 nobody "},
		{"CA by file", map[string]string{"BACKEND_CA_FILE": caFile}, nil, 200, "HTTP/1.1 nobody "},
		{"two CAs", map[string]string{"BACKEND_CA": other.pem + ca.pem}, nil, 200, "HTTP/1.1 nobody "},
		{"server name", map[string]string{"BACKEND_CA": ca.pem, "BACKEND_SERVER_NAME": "gateway.internal"}, nil, 200, "HTTP/1.1 nobody gateway.internal"},
		{"TLS 1.2", map[string]string{"BACKEND_CA": ca.pem}, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, 200, "HTTP/1.1"},
		{"another CA", map[string]string{"BACKEND_CA": other.pem}, nil, 502, "problem"},
		{"the system's CAs", nil, nil, 502, "problem"},
		{"another name", map[string]string{"BACKEND_CA": ca.pem, "BACKEND_SERVER_NAME": "elsewhere.internal"}, nil, 502, "problem"},
		{"TLS 1.1", map[string]string{"BACKEND_CA": ca.pem}, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, 502, "problem"},
		{"certificate asked for, none set", map[string]string{"BACKEND_CA": ca.pem}, func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, 502, "problem"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, options{backend: tlsGateway(t, ca, tt.change), env: tt.env})
			res, body := r.get("/")
			if tt.body == "problem" {
				tt.body = "{"
			}
			if res.StatusCode != tt.code || !strings.HasPrefix(body, tt.body) {
				t.Errorf("answer %d %q, want %d %q", res.StatusCode, body, tt.code, tt.body)
			}
		})
	}
}

// TestClientCertificate: a new certificate is used for new connections without a
// restart; a pair that does not fit leaves the old one in place.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	var handshakes atomic.Int64
	backend := tlsGateway(t, ca, func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pool
		c.VerifyConnection = func(tls.ConnectionState) error { handshakes.Add(1); return nil }
	})
	client := func(name string) (certPEM, keyPEM string) {
		return ca.issue(t, name, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	}
	dir := t.TempDir()
	cert1, key1 := client("edge-1")
	writeFile(t, dir+"/cert.pem", cert1)
	writeFile(t, dir+"/key.pem", key1)
	r := start(t, options{backend: backend, env: map[string]string{"BACKEND_CA": ca.pem, "CONNECTION_MAX_AGE": "1ns",
		"CLIENT_CERT_FILE": dir + "/cert.pem", "CLIENT_KEY_FILE": dir + "/key.pem"}})
	known := func(name string) error {
		if res, body := r.get("/"); res.StatusCode != 200 || !strings.HasPrefix(body, "HTTP/1.1 "+name) {
			return fmt.Errorf("answer %d %q, want %s", res.StatusCode, body, name)
		}
		return nil
	}
	if err := known("edge-1"); err != nil {
		t.Error(err)
	}
	cert2, key2 := client("edge-2")
	writeFile(t, dir+"/cert.pem", cert2)
	eventually(t, func() error {
		if got := r.metric("wallarm_attester_client_certificate_reload_failures_total"); got == "0" {
			return fmt.Errorf("%s failures while certificate and key do not fit", got)
		}
		return nil
	})
	if err := known("edge-1"); err != nil {
		t.Error(err)
	}
	writeFile(t, dir+"/key.pem", key2)
	eventually(t, func() error { return known("edge-2") })
	if strings.Contains(r.log.String(), strings.Split(key2, "\n")[1]) {
		t.Error("the log holds a private key")
	}
	if handshakes.Load() < 3 {
		t.Errorf("%d handshakes", handshakes.Load())
	}
}
