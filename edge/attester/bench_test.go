package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// What the attester costs, beside proxies that sign nothing. Client, gateway and
// each proxy are processes of their own: a figure is of one proxy alone. The
// figures of one run are of one machine and of one minute: compare the ratios.

// shape is one kind of request and answer.
type shape struct {
	name    string
	tls     bool // to the gateway
	request string
	answer  string
}

const (
	tinyRequest = "GET /api/v1/orders?id=7 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n" +
		"Cookie: session=0123456789abcdef\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n" + statement + "\r\n"
	tinyAnswer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"

	// What a browser sends, as an ALB and the node leave it.
	browserFields = "Host: api.example.com\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n" +
		"X-Amzn-Trace-Id: Root=1-67891233-abcdef012345678912345678\r\n" + statement +
		"User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n" +
		"Accept: application/json, text/plain, */*\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
		"sec-ch-ua: \"Chromium\";v=\"142\", \"Google Chrome\";v=\"142\", \"Not_A Brand\";v=\"99\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Windows\"\r\n" +
		"Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nReferer: https://shop.example.com/\r\n" +
		"Authorization: Bearer 0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz\r\n" +
		"Cookie: session=0123456789abcdef0123456789abcdef; consent=yes; theme=dark; _ga=GA1.1.1234567890.1234567890\r\n"
	gatewayFields = "Date: Sun, 22 Nov 2026 12:00:00 GMT\r\nContent-Type: application/json; charset=utf-8\r\nConnection: keep-alive\r\n" +
		"Cache-Control: no-store\r\nVary: Accept-Encoding, Origin\r\nETag: W/\"1000-0123456789abcdef\"\r\n" +
		"Access-Control-Allow-Origin: https://shop.example.com\r\nStrict-Transport-Security: max-age=31536000\r\n" +
		"X-Content-Type-Options: nosniff\r\nSet-Cookie: session=0123456789abcdef; Path=/; Secure; HttpOnly\r\n" +
		"X-Kong-Upstream-Latency: 3\r\nX-Kong-Proxy-Latency: 1\r\nVia: 1.1 kong/3.9.3\r\nX-Kong-Request-Id: 0123456789abcdef0123456789abcdef\r\n"
)

// shapes are all that is measured. The targets are judged on the GET over TLS.
var shapes = []shape{
	{"plain-tiny", false, tinyRequest, tinyAnswer},
	{"tls-get", true, "GET /api/v1/orders?customer=4711&page=2&sort=-created HTTP/1.1\r\n" + browserFields + "\r\n",
		"HTTP/1.1 200 OK\r\n" + gatewayFields + "Content-Length: 4096\r\n\r\n" + strings.Repeat("x", 4096)},
	{"tls-post", true, "POST /api/v1/orders HTTP/1.1\r\n" + browserFields + "Content-Type: application/json\r\nContent-Length: 1500\r\n\r\n" + strings.Repeat("x", 1500),
		"HTTP/1.1 201 Created\r\n" + gatewayFields + "Content-Length: 2048\r\n\r\n" + strings.Repeat("x", 2048)},
}

// The roles in which the test binary runs beside the benchmark; see TestMain.
const (
	asGateway   = "TEST_BINARY_IS_GATEWAY"
	asBareProxy = "TEST_BINARY_IS_BARE_PROXY"
)

// beGateway gives every request the answer in the file ANSWER, and looks at
// nothing. With CERT and KEY it speaks TLS. It prints its address.
func beGateway() error {
	answer, err := os.ReadFile(os.Getenv("ANSWER"))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	if os.Getenv("CERT") != "" {
		pair, err := tls.LoadX509KeyPair(os.Getenv("CERT"), os.Getenv("KEY"))
		if err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}})
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			in := bufio.NewReader(c)
			for {
				length, err := skipHead(in)
				if err != nil {
					return
				}
				if _, err := in.Discard(length); err != nil {
					return
				}
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}()
	}
}

// beBareProxy is httputil.ReverseProxy with a transport of the attester's
// settings, to BACKEND. It prints its address.
func beBareProxy() error {
	target, err := url.Parse(os.Getenv("BACKEND"))
	if err != nil {
		return err
	}
	c, err := parseSettings(nil, []string{"ATTESTER_BACKEND_URL=https://gateway.internal", "ATTESTER_SIGNING_JWKS=-"})
	if err != nil {
		return err
	}
	transport := &http.Transport{ResponseHeaderTimeout: c.responseTimeout, IdleConnTimeout: c.idleTimeout,
		MaxIdleConnsPerHost: c.maxIdle, MaxResponseHeaderBytes: maxResponseHeader, DisableCompression: true}
	if file := os.Getenv("CA"); file != "" {
		ca, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
		transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(ca)
	}
	debug.SetGCPercent(gcPercent) // as the attester's main
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return http.Serve(l, &httputil.ReverseProxy{
		Rewrite:    func(pr *httputil.ProxyRequest) { pr.SetURL(target) },
		Transport:  transport,
		BufferPool: bufferPool{},
	})
}

// bufferPool lends httputil.ReverseProxy the attester's buffers.
type bufferPool struct{}

func (bufferPool) Get() []byte  { return copyBuffers.Get().(*[copyBufferSize]byte)[:] }
func (bufferPool) Put(p []byte) { copyBuffers.Put((*[copyBufferSize]byte)(p)) }

// contender is one proxy to be measured.
type contender struct {
	name, addr string
	pid        int
}

// site is where the contenders stand: one gateway, one node's status.
type site struct {
	b       testing.TB
	dir     string
	backend string // URL
	ca      string // file; empty: no TLS
	status  string
}

func newSite(b testing.TB, s shape) *site {
	if runtime.GOOS != "linux" {
		b.Skip("reads /proc")
	}
	st := &site{b: b, dir: b.TempDir(), status: startNode(b).URL}
	writeFile(b, st.dir+"/answer", s.answer)
	env := []string{asGateway + "=1", "ANSWER=" + st.dir + "/answer"}
	scheme := "http://"
	if s.tls {
		scheme = "https://"
		ca := newAuthority(b, "ca")
		cert, key := ca.issue(b, "gateway", &x509.Certificate{DNSNames: []string{"gateway.internal"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
		st.ca = st.dir + "/ca.pem"
		writeFile(b, st.ca, ca.pem)
		writeFile(b, st.dir+"/cert.pem", cert)
		writeFile(b, st.dir+"/key.pem", key)
		env = append(env, "CERT="+st.dir+"/cert.pem", "KEY="+st.dir+"/key.pem")
	}
	_, addr := st.run(exec.Command(os.Args[0]), env, func(line string) (string, bool) { return line, true })
	st.backend = scheme + addr
	return st
}

// run starts a process and returns its id, and the address that one of its lines holds.
func (st *site) run(cmd *exec.Cmd, env []string, find func(line string) (string, bool)) (pid int, addr string) {
	st.b.Helper()
	cmd.Env = env
	endWithTests(cmd)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		st.b.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		st.b.Fatal(err)
	}
	st.b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if addr, ok := find(lines.Text()); ok {
			go io.Copy(io.Discard, stdout)
			return cmd.Process.Pid, addr
		}
	}
	cmd.Wait()
	st.b.Fatalf("%s does not serve: %s", cmd.Path, &stderr)
	return 0, ""
}

func (st *site) bare() contender {
	pid, addr := st.run(exec.Command(os.Args[0]), []string{asBareProxy + "=1", "BACKEND=" + st.backend, "CA=" + st.ca},
		func(line string) (string, bool) { return line, true })
	return contender{"bare", addr, pid}
}

// builtDir holds what the benchmarks have built, until TestMain removes it.
var builtDir string

// attesterBinary builds the real binary: the one of the tests holds much more.
var attesterBinary = sync.OnceValues(func() (string, error) {
	var err error
	if builtDir, err = os.MkdirTemp("", "attester"); err != nil {
		return "", err
	}
	binary := filepath.Join(builtDir, "attester")
	out, err := exec.Command("go", "build", "-trimpath", "-o", binary, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, nil
})

func (st *site) attester(name string, alg evidence.Algorithm) contender {
	binary, err := attesterBinary()
	if err != nil {
		st.b.Fatal(err)
	}
	_, jwks := keySet(st.b, "bench-key", alg)
	env := map[string]string{"LISTEN": "127.0.0.1:0", "HEALTH_LISTEN": "127.0.0.1:0", "METRICS_LISTEN": "127.0.0.1:0",
		"BACKEND_URL": st.backend, "SIGNING_JWKS": jwks, "NODE_NAME": "0123456789abcdef0123456789abcdef", "NODE_STATUS_URL": st.status}
	if st.ca != "" {
		env["BACKEND_CA_FILE"] = st.ca
	} else {
		env["ALLOW_PLAINTEXT"] = "true"
	}
	pid, addr := st.run(exec.Command(binary), environ(env), func(line string) (string, bool) {
		_, rest, ok := strings.Cut(line, `"listen":"`)
		addr, _, _ := strings.Cut(rest, `"`)
		return addr, ok
	})
	return contender{name, addr, pid}
}

// nginx is nginx's proxy_pass with keepalive, in one process.
func (st *site) nginx() (contender, error) {
	binary, err := exec.LookPath("nginx")
	if err != nil {
		return contender{}, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return contender{}, err
	}
	addr := l.Addr().String()
	l.Close()
	backend, err := url.Parse(st.backend)
	if err != nil {
		return contender{}, err
	}
	verify := ""
	if st.ca != "" {
		verify = "proxy_ssl_verify on; proxy_ssl_name gateway.internal; proxy_ssl_protocols TLSv1.2 TLSv1.3; proxy_ssl_trusted_certificate " + st.ca + ";"
	}
	config := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  upstream gateway { server %[2]s; keepalive 256; keepalive_requests 1000000000; }
  server { listen %[3]s; location / { proxy_pass %[4]s://gateway; proxy_http_version 1.1; proxy_set_header Connection ""; %[5]s } } }`,
		st.dir, backend.Host, addr, backend.Scheme, verify)
	writeFile(st.b, st.dir+"/nginx.conf", config)
	cmd := exec.Command(binary, "-c", st.dir+"/nginx.conf", "-p", st.dir, "-e", st.dir+"/error.log")
	endWithTests(cmd)
	if err := cmd.Start(); err != nil {
		return contender{}, err
	}
	st.b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	eventually(st.b, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
	return contender{"nginx", addr, cmd.Process.Pid}, nil
}

// contenders starts all of them; the first is the one that the others are
// compared with.
func (st *site) contenders() []contender {
	list := []contender{st.bare(), st.attester("hmac", evidence.AlgHMACSHA256), st.attester("ed25519", evidence.AlgEd25519)}
	if c, err := st.nginx(); err == nil {
		list = append(list, c)
	} else {
		st.b.Logf("nginx is left out of the comparison: %v", err)
	}
	return list
}

// lane is one keep-alive connection of a load generator that costs little.
type lane struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
	code    string
	length  int
}

func openLane(b testing.TB, addr string, s shape) *lane {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	head, body, _ := strings.Cut(s.answer, "\r\n\r\n")
	return &lane{conn: conn, in: bufio.NewReader(conn), request: []byte(s.request), code: head[:len("HTTP/1.1 200")], length: len(body)}
}

// exchange sends one request and reads its answer.
func (l *lane) exchange() error {
	if _, err := l.conn.Write(l.request); err != nil {
		return err
	}
	if line, err := l.in.Peek(len(l.code)); err != nil || string(line) != l.code {
		return fmt.Errorf("answer %q, %v; want %s", line, err, l.code)
	}
	length, err := skipHead(l.in)
	if err != nil {
		return err
	}
	if length != l.length {
		return fmt.Errorf("answer of %d bytes, want %d", length, l.length)
	}
	_, err = l.in.Discard(length)
	return err
}

// drive sends each requests over every lane, width at a time.
func drive(b testing.TB, name string, lanes []*lane, width, each int) {
	b.Helper()
	var wg sync.WaitGroup
	failed := make(chan error, len(lanes))
	for part := range slices.Chunk(lanes, (len(lanes)+width-1)/width) {
		wg.Go(func() {
			for range each {
				for _, l := range part {
					if err := l.exchange(); err != nil {
						failed <- err
						return
					}
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		b.Fatalf("%s: %v", name, err)
	default:
	}
}

// skipHead reads a head and returns the length of the body that follows it.
func skipHead(in *bufio.Reader) (length int, err error) {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) == 2 {
			return length, nil
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return 0, err
			}
		}
		if bytes.HasPrefix(line, []byte("Transfer-Encoding:")) {
			return 0, errors.New("chunks, which nobody has sent")
		}
	}
}

// processorTime returns the processor time that a process has used, to the
// nanosecond: what the machine is busy with otherwise does not count.
func processorTime(b testing.TB, pid int) time.Duration {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		b.Skipf("the processor time of a process cannot be read here: %v", err)
	}
	var sum time.Duration
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		used, _, _ := strings.Cut(string(data), " ")
		n, err := strconv.ParseInt(used, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(n)
	}
	return sum
}

// rawSign returns the processor time of one bare signature in µs, over a base
// of the usual length.
func rawSign(b testing.TB, alg evidence.Algorithm) float64 {
	base, secret := make([]byte, 700), make([]byte, 32)
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	own := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	const n = 5000
	began := own()
	for range n {
		if alg == evidence.AlgEd25519 {
			ed25519.Sign(private, base)
		} else {
			mac := hmac.New(sha256.New, secret)
			mac.Write(base)
			mac.Sum(nil)
		}
	}
	return float64((own() - began).Nanoseconds()) / 1000 / n
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// BenchmarkThroughput prints, for each shape and each proxy at concurrency 16:
// the processor time of a request, the bare proxy's over it (which is the ratio of
// the throughputs where the proxy's processor is the limit; goal: 0.85 at least),
// and the requests/s of this machine, which client and gateway share with the
// proxy. A ceiling is the ratio of a bare proxy that would do nothing more than
// sign. The rounds of the proxies alternate, so that a busy moment of the machine
// hits all alike.
func BenchmarkThroughput(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			const width, rounds, each = 16, 9, 100
			list := newSite(b, s).contenders()
			lanes := make([][]*lane, len(list))
			for i, c := range list {
				for range width {
					lanes[i] = append(lanes[i], openLane(b, c.addr, s))
				}
			}
			round := func(i, requests int) (rate, cost float64) {
				before, began := processorTime(b, list[i].pid), time.Now()
				drive(b, list[i].name, lanes[i], width, requests)
				n := float64(requests * width)
				return n / time.Since(began).Seconds(), float64((processorTime(b, list[i].pid) - before).Nanoseconds()) / 1000 / n
			}
			for i := range list {
				round(i, 50) // warm
			}
			for b.Loop() {
				rates, costs, ratios := make([][]float64, len(list)), make([][]float64, len(list)), make([][]float64, len(list))
				for n := range rounds {
					for i := range list {
						rate, cost := round(i, each)
						rates[i], costs[i] = append(rates[i], rate), append(costs[i], cost)
						ratios[i] = append(ratios[i], costs[0][n]/cost)
					}
				}
				bare := median(costs[0])
				for i, c := range list {
					b.ReportMetric(median(costs[i]), c.name+"-µs/req")
					b.ReportMetric(median(rates[i]), c.name+"-req/s")
					if i > 0 {
						b.ReportMetric(median(ratios[i]), c.name+"/bare")
					}
				}
				b.ReportMetric(bare/(bare+rawSign(b, evidence.AlgHMACSHA256)), "hmac-ceiling")
				b.ReportMetric(bare/(bare+rawSign(b, evidence.AlgEd25519)), "ed25519-ceiling")
			}
		})
	}
}

// BenchmarkLatency prints the median time of a request at concurrency 1, and what
// the others add to the bare proxy's. Goal: 80 µs at most with Ed25519.
func BenchmarkLatency(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			list := newSite(b, s).contenders()
			lanes := make([]*lane, len(list))
			for i, c := range list {
				lanes[i] = openLane(b, c.addr, s)
			}
			for b.Loop() {
				times := make([][]float64, len(list))
				for n := range 2000 {
					for i, l := range lanes {
						began := time.Now()
						if err := l.exchange(); err != nil {
							b.Fatal(err)
						}
						if n >= 200 { // warm
							times[i] = append(times[i], float64(time.Since(began).Nanoseconds())/1000)
						}
					}
				}
				bare := median(times[0])
				b.ReportMetric(bare, "bare-µs")
				for i, c := range list[1:] {
					b.ReportMetric(median(times[i+1])-bare, c.name+"-added-µs")
				}
			}
		})
	}
}

// resident returns the resident memory of a process in MB.
func resident(b *testing.B, pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Skipf("resident memory cannot be read here: %v", err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kb, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kb / 1024
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

// BenchmarkMemory prints the resident memory of an attester's process with 1,000
// open connections that have each served requests (goal: 40 MB at most), and
// after each 50,000 of 200,000 further requests (goal: no growth).
func BenchmarkMemory(b *testing.B) {
	for _, s := range shapes[:2] {
		b.Run(s.name, func(b *testing.B) {
			for b.Loop() {
				c := newSite(b, s).attester("ed25519", evidence.AlgEd25519)
				lanes := make([]*lane, 1000)
				for i := range lanes {
					lanes[i] = openLane(b, c.addr, s)
				}
				drive(b, c.name, lanes, 16, 1)
				b.ReportMetric(resident(b, c.pid), "MB-at-1000-conns")
				for i := 1; i <= 4; i++ {
					drive(b, c.name, lanes, 16, 50)
					b.ReportMetric(resident(b, c.pid), fmt.Sprintf("MB-after-%dk", i*50))
				}
			}
		})
	}
}

// BenchmarkSign is the attester's own part of a request: read the statement,
// check the target, sign, write the header.
func BenchmarkSign(b *testing.B) {
	for _, alg := range []evidence.Algorithm{evidence.AlgEd25519, evidence.AlgHMACSHA256} {
		b.Run(string(alg), func(b *testing.B) {
			key, err := evidence.GenerateKey("k", alg)
			if err != nil {
				b.Fatal(err)
			}
			signer, err := evidence.NewSigner(key, 30*time.Second)
			if err != nil {
				b.Fatal(err)
			}
			target := "/api/v1/orders?id=7"
			u, err := url.ParseRequestURI(target)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			head := make([]byte, 0, 4<<10)
			for b.Loop() {
				r := &http.Request{Method: "GET", RequestURI: target, URL: u, Host: "api.example.com", Header: http.Header{}}
				state(r.Header)
				var m evidence.Message
				if err := readStatement(r.Header, &m); err != nil {
					b.Fatal(err)
				}
				if err := checkTarget(r); err != nil {
					b.Fatal(err)
				}
				m.Method, m.Authority, m.Target, m.Node, m.Inspection = r.Method, r.Host, target, "node-1", "active"
				if err := signer.Sign(&m, time.Now()); err != nil {
					b.Fatal(err)
				}
				x := exchange{evidence: m}
				if x.head, err = x.appendHead(head[:0], r); err != nil {
					b.Fatal(err)
				}
				if _, err := x.complete(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
