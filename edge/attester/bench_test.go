package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// What the attester costs, beside proxies that sign nothing. The figures of one
// run are of one machine and of one minute: compare the ratios.

// benchGateway answers each request with a short body, and looks at nothing.
func benchGateway(b *testing.B) string {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "hello")
	}))
	s.Config.ErrorLog = serverLog(newLogger(io.Discard, slog.LevelError))
	s.Start()
	b.Cleanup(s.Close)
	return s.URL
}

// bareProxy is httputil.ReverseProxy with a transport of the attester's settings.
func bareProxy(b *testing.B, backend string) string {
	target, err := url.Parse(backend)
	if err != nil {
		b.Fatal(err)
	}
	s, err := parseSettings(nil, append(environ(enough(b)), "ATTESTER_LOG_LEVEL=error"))
	if err != nil {
		b.Fatal(err)
	}
	transport := &http.Transport{ResponseHeaderTimeout: s.responseTimeout, IdleConnTimeout: s.idleTimeout,
		MaxIdleConnsPerHost: s.maxIdle, MaxResponseHeaderBytes: maxResponseHeader, DisableCompression: true}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:    func(pr *httputil.ProxyRequest) { pr.SetURL(target) },
		Transport:  transport,
		BufferPool: bufferPool{},
	})
	b.Cleanup(proxy.Close)
	b.Cleanup(transport.CloseIdleConnections)
	return proxy.Listener.Addr().String()
}

// bufferPool lends httputil.ReverseProxy the attester's buffers.
type bufferPool struct{}

func (bufferPool) Get() []byte  { return copyBuffers.Get().(*[copyBufferSize]byte)[:] }
func (bufferPool) Put(p []byte) { copyBuffers.Put((*[copyBufferSize]byte)(p)) }

// nginxProxy is nginx's proxy_pass with keepalive; "" where there is no nginx.
func nginxProxy(b *testing.B, backend string) string {
	binary, err := exec.LookPath("nginx")
	if err != nil {
		return ""
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := b.TempDir()
	config := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  upstream gateway { server %[2]s; keepalive 256; keepalive_requests 1000000000; }
  server { listen %[3]s; location / { proxy_pass http://gateway; proxy_http_version 1.1; proxy_set_header Connection ""; } } }`,
		dir, strings.TrimPrefix(backend, "http://"), addr)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", file, "-p", dir, "-e", filepath.Join(dir, "error.log"))
	endWithTests(cmd)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	eventually(b, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
	return addr
}

// lane is one keep-alive connection of a load generator that costs little.
type lane struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
}

func openLane(b *testing.B, addr string) *lane {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return &lane{conn: conn, in: bufio.NewReader(conn), request: []byte("GET /api/v1/orders?id=7 HTTP/1.1\r\nHost: api.example.com\r\n" +
		"User-Agent: bench\r\nAccept: */*\r\nCookie: session=0123456789abcdef\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n" +
		statement + "\r\n")}
}

// exchange sends one request and reads its answer.
func (l *lane) exchange() error {
	if _, err := l.conn.Write(l.request); err != nil {
		return err
	}
	line, err := l.in.ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "HTTP/1.1 200 ") {
		return fmt.Errorf("answer %q", line)
	}
	length := -1
	for {
		line, err := l.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
		if v, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			if length, err = strconv.Atoi(strings.TrimSpace(v)); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("no Content-Length")
	}
	_, err = l.in.Discard(length)
	return err
}

// contender is one proxy to be measured.
type contender struct{ name, addr string }

func contenders(b *testing.B) []contender {
	backend := benchGateway(b)
	quiet := map[string]string{"LOG_LEVEL": "error", "STATUS_INTERVAL": "2s", "RELOAD_INTERVAL": "10s"} // as in production
	list := []contender{
		{"bare", bareProxy(b, backend)},
		{"ed25519", start(b, options{backend: backend, env: quiet}).addr("listen")},
		{"hmac", start(b, options{backend: backend, env: quiet, alg: evidence.AlgHMACSHA256}).addr("listen")},
	}
	if addr := nginxProxy(b, backend); addr != "" {
		list = append(list, contender{"nginx", addr})
	} else {
		b.Log("no nginx here: it is left out of the comparison")
	}
	return list
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// cpuTime returns the processor time that this process has used: client, proxy
// and gateway together, but nothing else that the machine is busy with.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkThroughput prints requests/s of each proxy at concurrency 16, and the
// attester's share of the bare proxy's. Goal: 0.85 at least. The rounds of the
// proxies alternate, so that a busy moment of the machine hits all alike. On a
// machine that is busy otherwise look at the ratio of the processor times, which
// is the same ratio where the processor is the limit.
func BenchmarkThroughput(b *testing.B) {
	const width, rounds = 16, 7
	list := contenders(b)
	lanes := make([][]*lane, len(list))
	for i, c := range list {
		for range width {
			lanes[i] = append(lanes[i], openLane(b, c.addr))
		}
	}
	round := func(i, requests int) float64 {
		var wg sync.WaitGroup
		began := time.Now()
		for _, l := range lanes[i] {
			wg.Go(func() {
				for range requests {
					if err := l.exchange(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		return float64(requests*width) / time.Since(began).Seconds()
	}
	for i := range list {
		round(i, 50) // warm
	}
	for b.Loop() {
		rates, costs := make([][]float64, len(list)), make([][]float64, len(list))
		ratios, costRatios := make([][]float64, len(list)), make([][]float64, len(list))
		for n := range rounds {
			for i := range list {
				before := cpuTime(b)
				rates[i] = append(rates[i], round(i, 200))
				costs[i] = append(costs[i], float64((cpuTime(b)-before).Nanoseconds())/1000/(200*width))
				ratios[i] = append(ratios[i], rates[i][n]/rates[0][n])
				costRatios[i] = append(costRatios[i], costs[0][n]/costs[i][n])
			}
		}
		for i, c := range list {
			b.ReportMetric(median(rates[i]), c.name+"-req/s")
			if i > 0 {
				b.ReportMetric(median(ratios[i]), c.name+"/bare")
			}
			if c.name != "nginx" { // a process of its own
				b.ReportMetric(median(costs[i]), c.name+"-cpu-µs/req")
				b.ReportMetric(median(costRatios[i]), c.name+"-cpu/bare")
			}
		}
	}
}

// BenchmarkLatency prints the median time of a request at concurrency 1, and what
// the attester adds to the bare proxy's. Goal: 80 µs at most with Ed25519.
func BenchmarkLatency(b *testing.B) {
	list := contenders(b)
	lanes := make([]*lane, len(list))
	for i, c := range list {
		lanes[i] = openLane(b, c.addr)
	}
	for b.Loop() {
		times := make([][]float64, len(list))
		for n := range 3000 {
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
	if runtime.GOOS != "linux" {
		b.Skip("reads /proc")
	}
	_, jwks := keySet(b, "k", evidence.AlgEd25519)
	status := startNode(b)
	// The real binary: the one of the tests holds much more.
	binary := filepath.Join(b.TempDir(), "attester")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", binary, ".").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	for b.Loop() {
		cmd := exec.Command(binary)
		endWithTests(cmd)
		cmd.Env = environ(map[string]string{
			"LISTEN": "127.0.0.1:0", "HEALTH_LISTEN": "127.0.0.1:0", "BACKEND_URL": benchGateway(b), "ALLOW_PLAINTEXT": "true",
			"SIGNING_JWKS": jwks, "NODE_NAME": "n", "NODE_STATUS_URL": status.URL,
		})
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		var addr string
		lines := bufio.NewScanner(stdout)
		for addr == "" && lines.Scan() {
			if _, rest, ok := strings.Cut(lines.Text(), `"listen":"`); ok {
				addr, _, _ = strings.Cut(rest, `"`)
			}
		}
		go io.Copy(io.Discard, stdout)
		lanes := make([]*lane, 1000)
		for i := range lanes {
			lanes[i] = openLane(b, addr)
		}
		all := func(each int) {
			var wg sync.WaitGroup
			for part := range slices.Chunk(lanes, len(lanes)/16+1) {
				wg.Go(func() {
					for range each {
						for _, l := range part {
							if err := l.exchange(); err != nil {
								b.Error(err)
								return
							}
						}
					}
				})
			}
			wg.Wait()
		}
		all(1)
		b.ReportMetric(resident(b, cmd.Process.Pid), "MB-at-1000-conns")
		for i := 1; i <= 4; i++ {
			all(50)
			b.ReportMetric(resident(b, cmd.Process.Pid), fmt.Sprintf("MB-after-%dk", i*50))
		}
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
