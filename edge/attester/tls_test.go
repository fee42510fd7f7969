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
	"os"
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

func newAuthority(t testing.TB, name string) *authority {
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
func (a *authority) issue(t testing.TB, name string, c *x509.Certificate) (certPEM, keyPEM string) {
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

// TestAuthorities: a changed file of CAs counts from the next request on, old
// connections included; garbage does not, and says so.
func TestAuthorities(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	file := t.TempDir() + "/ca.pem"
	writeFile(t, file, ca.pem)
	r := start(t, options{backend: tlsGateway(t, ca, nil), env: map[string]string{"BACKEND_CA_FILE": file, "CONNECTION_MAX_AGE": "0"}})
	answers := func(code int) {
		t.Helper()
		if res, body := r.get("/"); res.StatusCode != code {
			t.Errorf("answer %d %q, want %d", res.StatusCode, body, code)
		}
	}
	failures := func(want string) {
		t.Helper()
		eventually(t, func() error {
			if got := r.metric("wallarm_attester_backend_ca_reload_failures_total"); got != want {
				return fmt.Errorf("%s failures, want %s", got, want)
			}
			return nil
		})
		answers(200)
	}
	loaded := func(n int) {
		t.Helper()
		eventually(t, func() error {
			if got := len(r.log.lines(t, "CAs of the gateway loaded")); got != n {
				return fmt.Errorf("loaded %d times, want %d", got, n)
			}
			return nil
		})
	}
	failures("0")
	_, key := ca.issue(t, "key", &x509.Certificate{})
	for i, garbage := range []string{"garbage", "", ca.pem + other.pem[:len(other.pem)/2], ca.pem + key} {
		writeFile(t, file, garbage)
		failures(fmt.Sprint(i + 1))
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	failures("5")
	if lines := r.log.lines(t, "CAs of the gateway not reloaded, the last good ones stay"); len(lines) != 5 {
		t.Errorf("%d log lines about the failures, want 5: %v", len(lines), lines)
	}
	writeFile(t, file, other.pem) // the gateway's own is trusted no more
	loaded(1)
	answers(502)
	if n := r.a.pool.open.Load(); n != 0 {
		t.Errorf("%d connections of the old CAs are open", n)
	}
	writeFile(t, file, other.pem+ca.pem)
	loaded(2)
	answers(200)
}

func TestParseAuthorities(t *testing.T) {
	t.Parallel()
	a, b := newAuthority(t, "a"), newAuthority(t, "b")
	_, key := a.issue(t, "key", &x509.Certificate{})
	broken := strings.Replace(b.pem, "\n", "\n!", 2)
	tests := []struct{ name, pem, want string }{
		{"one", a.pem, ""},
		{"two", a.pem + b.pem, ""},
		{"text between", "# a\n" + a.pem + "\n# b\n" + b.pem + "end\n", ""},
		{"nothing", "", "holds no PEM certificate"},
		{"text", "text", "holds no PEM certificate"},
		{"cut", a.pem[:len(a.pem)-20], "PEM block 1 is malformed"},
		{"second cut", a.pem + b.pem[:40], "PEM block 2 is malformed"},
		{"first broken", broken + a.pem, "PEM block 1 is malformed"},
		{"between broken", a.pem + broken + a.pem, "PEM block 2 is malformed"},
		{"a key", a.pem + key, `PEM block 2 is "PRIVATE KEY", only CERTIFICATE is allowed`},
		{"no certificate in it", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "PEM block 1: x509: "},
	}
	for _, tt := range tests {
		roots, err := parseAuthorities([]byte(tt.pem))
		if tt.want == "" && (err != nil || roots.Equal(x509.NewCertPool())) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// FuzzAuthorities: what is taken holds a certificate in every block.
func FuzzAuthorities(f *testing.F) {
	a, b := newAuthority(f, "a"), newAuthority(f, "b")
	_, key := a.issue(f, "key", &x509.Certificate{})
	for _, seed := range []string{"", a.pem, a.pem + b.pem, a.pem + key, a.pem[:100] + b.pem, strings.ReplaceAll(a.pem, "\n", "\r\n")} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		roots, err := parseAuthorities(data)
		if (roots == nil) == (err == nil) {
			t.Fatalf("%v with error %v", roots, err)
		}
		if err == nil && strings.Count(string(data), "-----BEGIN") != strings.Count(string(data), "-----BEGIN CERTIFICATE-----") {
			t.Fatalf("another block is taken: %q", data)
		}
	})
}
