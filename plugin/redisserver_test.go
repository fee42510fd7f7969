package main

// A real Redis server for the tests, and what can go wrong on the way to it.

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	redisPassword = "s3cret-of-the-user-gate"
	redisAdmin    = "s3cret-of-the-administrator"

	// The ACL that README.md gives: what the gate needs, and nothing else.
	redisACL = "user gate on >" + redisPassword + " resetchannels -@all +set +get +info ~wallarm-gate:*"
)

// redisServer is one redis-server process on an address that stays the same
// when it is started again.
type redisServer struct {
	addr  string
	admin *redis.Client

	dir  string
	args []string
	cmd  *exec.Cmd
}

// startRedis starts redis-server with further arguments. Without the program the
// test is skipped, or fails if REDIS_REQUIRED is 1.
func startRedis(tb testing.TB, args ...string) *redisServer {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		const missing = "redis-server is not installed (Debian: redis-server)"
		if os.Getenv("REDIS_REQUIRED") == "1" {
			tb.Fatal(missing + ", and REDIS_REQUIRED=1")
		}
		tb.Skip("LEFT OUT: " + missing)
	}
	s := &redisServer{dir: tb.TempDir()}
	acl := filepath.Join(s.dir, "users.acl")
	if err := os.WriteFile(acl, []byte("user default off\nuser admin on >"+redisAdmin+" ~* &* +@all\n"+redisACL+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s.addr = l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(s.addr)
	s.args = append([]string{"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.dir, "--aclfile", acl}, args...)
	plain := port
	if strings.Contains(strings.Join(args, " "), "--tls-cert-file") {
		s.args = append(s.args, "--tls-port", port, "--tls-auth-clients", "no")
		plain = "0"
	}
	s.args = append(s.args, "--port", plain, "--unixsocket", filepath.Join(s.dir, "s"))
	s.admin = redis.NewClient(&redis.Options{Network: "unix", Addr: filepath.Join(s.dir, "s"), Username: "admin", Password: redisAdmin})
	tb.Cleanup(func() { s.admin.Close() })
	tb.Cleanup(s.kill)
	s.start(tb)
	return s
}

// start starts the server again.
func (s *redisServer) start(tb testing.TB) {
	tb.Helper()
	var said strings.Builder
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.Stdout, s.cmd.Stderr = &said, &said
	s.cmd.Dir = s.dir
	if err := startBound(s.cmd); err != nil {
		tb.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := s.admin.Ping(context.Background()).Err()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.kill()
			tb.Fatalf("redis-server does not answer: %v\n%s", err, said.String())
		}
		pause()
	}
}

// pause is the time between two looks at something that will happen.
func pause() { <-time.After(2 * time.Millisecond) }

// kill ends the server as a crash does.
func (s *redisServer) kill() {
	s.signal(syscall.SIGCONT)
	s.signal(syscall.SIGKILL)
	s.cmd.Wait()
}

func (s *redisServer) signal(sig syscall.Signal) { s.cmd.Process.Signal(sig) }

func (s *redisServer) do(tb testing.TB, args ...any) {
	tb.Helper()
	if err := s.admin.Do(context.Background(), args...).Err(); err != nil {
		tb.Fatalf("%v: %v", args, err)
	}
}

// record is config.replay for a server without TLS, with changes.
func (s *redisServer) record(changes map[string]any) map[string]any {
	return redisRecord(s.addr, changes)
}

func redisRecord(addr string, changes map[string]any) map[string]any {
	r := map[string]any{
		"address": addr, "username": "gate", "password": redisPassword,
		"tls": map[string]any{"enabled": false}, "timeout": 1000,
	}
	for name, value := range changes {
		if r[name] = value; value == nil {
			delete(r, name)
		}
	}
	return map[string]any{"store": "redis", "capacity": 1000, "redis": r}
}

// eventually waits for something that another process or goroutine does.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s", what)
		}
		pause()
	}
}

// proxy stands between a gate and its server.
type proxy struct {
	addr   string
	delay  atomic.Int64 // of each piece of an answer
	lost   atomic.Bool  // answers do not arrive
	breaks atomic.Int32 // the connection breaks at the next request: before or after the server has it

	mu     sync.Mutex
	target string
	conns  map[net.Conn]bool
	sent   [][]string // the commands
}

const (
	breaksBefore = iota + 1
	breaksAfter
)

func startProxy(tb testing.TB, target string) *proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), target: target, conns: map[net.Conn]bool{}}
	tb.Cleanup(func() { l.Close(); p.reset() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(conn)
		}
	}()
	return p
}

func (p *proxy) serve(client net.Conn) {
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	go func() {
		defer server.Close()
		defer client.Close()
		r := bufio.NewReader(client)
		for {
			command, wire, err := readCommand(r)
			if err != nil {
				return
			}
			p.mu.Lock()
			p.sent = append(p.sent, command)
			p.mu.Unlock()
			if !isCheck(command) {
				switch p.breaks.Swap(0) {
				case breaksBefore:
					return
				case breaksAfter:
					client.Close()
				}
			}
			if _, err := server.Write(wire); err != nil {
				return
			}
		}
	}()
	defer server.Close()
	defer client.Close()
	buffer := make([]byte, 4096)
	for {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		if d := p.delay.Load(); d > 0 {
			<-time.After(time.Duration(d))
		}
		if p.lost.Load() {
			continue
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// readCommand reads one command in RESP.
func readCommand(r *bufio.Reader) (args []string, wire []byte, err error) {
	line := func(kind byte) (n int, err error) {
		s, err := r.ReadString('\n')
		wire = append(wire, s...)
		if err == nil && (s[0] != kind) {
			err = fmt.Errorf("line %q", s)
		}
		if err == nil {
			_, err = fmt.Sscanf(s[1:], "%d\r\n", &n)
		}
		return n, err
	}
	count, err := line('*')
	for range count {
		if err != nil {
			return nil, nil, err
		}
		var n int
		if n, err = line('$'); err != nil {
			return nil, nil, err
		}
		arg := make([]byte, n+2)
		_, err = io.ReadFull(r, arg)
		wire = append(wire, arg...)
		args = append(args, strings.ToLower(string(arg[:n])))
	}
	return args, wire, err
}

// reset breaks all connections with a TCP reset.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
	clear(p.conns)
}

// turn leads new connections to another server, and breaks the old ones.
func (p *proxy) turn(target string) {
	p.lead(target)
	p.reset()
}

// lead leads new connections to another server, and leaves the old ones.
func (p *proxy) lead(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// commands returns what was sent since the last call, without the checks.
func (p *proxy) commands() (names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.sent {
		if !isCheck(c) {
			names = append(names, c[0])
		}
	}
	p.sent = nil
	return names
}

// isCheck reports whether a command is the gate's own, not a request's.
func isCheck(c []string) bool {
	return c[0] == "hello" || c[0] == "info" || c[0] == "set" && strings.HasSuffix(c[1], ":check")
}

// certificates writes a CA, and a certificate of it for 127.0.0.1 and
// redis.internal, into dir.
func certificates(tb testing.TB, dir string) (ca, cert, key string) {
	tb.Helper()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			tb.Fatal(err)
		}
		return path
	}
	make := func(t, parent *x509.Certificate, signer *ecdsa.PrivateKey) (der []byte, key *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
		if err == nil {
			if signer == nil {
				signer = key
			}
			der, err = x509.CreateCertificate(crand.Reader, t, parent, &key.PublicKey, signer)
		}
		if err != nil {
			tb.Fatal(err)
		}
		return der, key
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA of the tests"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, rootKey := make(root, root, nil)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: root.NotBefore, NotAfter: root.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		DNSNames: []string{"redis.internal"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, leafKey := make(leaf, root, rootKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		tb.Fatal(err)
	}
	return write("ca.pem", "CERTIFICATE", rootDER), write("cert.pem", "CERTIFICATE", leafDER), write("key.pem", "PRIVATE KEY", keyDER)
}

// answering is a server that gives the same answer to everything.
func answering(tb testing.TB, text string) (addr string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for {
					if _, err := conn.Read(make([]byte, 4096)); err != nil {
						return
					}
					if _, err := io.WriteString(conn, text); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}
