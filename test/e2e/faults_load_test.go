package e2e

// A continuous load for the fault suite: honest requests through the edge, and
// beside them bad ones straight to the gateway, from inside the edge's network.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// intent is what a request of the load tries.
type intent int

const (
	honest     intent = iota
	missing           // no evidence
	altered           // the evidence of an honest request, for another target
	wrongKey          // signed by somebody else under the attester's key id
	unknownKey        // signed by somebody else under an id of their own
	replayed          // a whole honest request once more, after it was allowed
	intents
)

var intentNames = [intents]string{"honest", "missing", "altered", "wrong-key", "unknown-key", "replayed"}

// attempt is one request of the load. An outcome is an HTTP status, or 0 for a
// connection that broke or never was.
type attempt struct {
	intent  intent
	sent    time.Time
	ended   time.Time // zero: no answer yet
	outcome int
}

func (a *attempt) allowed() bool { return a.outcome == http.StatusOK }
func (a *attempt) refused() bool { return a.outcome >= 400 && a.outcome < 500 }

const (
	honestWorkers = 4
	badWorkers    = 2
	// A worker sends at most one request in this time, so that the cheap failures
	// of a dead process do not become most of the load.
	pace = 5 * time.Millisecond
	// A request without an answer for so long is an error.
	answerLimit = 15 * time.Second
)

// load is the running load.
type load struct {
	s       *system
	tap     *tap
	forger  *evidence.Signer // another key under the attester's key id
	unknown *evidence.Signer
	// hold, if there is one, makes the honest wait while it is true, as a load
	// balancer does that sees the target not ready.
	hold atomic.Pointer[func() bool]

	stop    chan struct{}
	stopped sync.Once
	workers sync.WaitGroup

	mu       sync.Mutex
	attempts []attempt
	ended    []int // of the honest, in the order of their answers
	errors   map[string]int

	// What was allowed and can be replayed. The period changes when evidence that
	// is used so far must not be replayed any more; an odd one collects nothing.
	period int
	used   [][]byte
}

func startLoad(t testing.TB, s *system, via *tap) *load {
	t.Helper()
	l := &load{s: s, tap: via, stop: make(chan struct{}), errors: map[string]int{}}
	l.forger = strangeSigner(t, s.keys.Keys()[0].ID)
	l.unknown = strangeSigner(t, "nobody-knows")
	for range honestWorkers {
		l.workers.Go(func() { l.work(&lane{dial: dialer(s.alb), addr: s.edge}, l.honestly) })
	}
	for i := range badWorkers {
		next := i // the workers do not send the same intents in step
		l.workers.Go(func() {
			l.work(&lane{dial: dialer(""), addr: s.origin}, func(c *lane) {
				next++
				l.badly(c, missing+intent(next)%(intents-missing))
			})
		})
	}
	t.Cleanup(l.end)
	return l
}

func strangeSigner(t testing.TB, id string) *evidence.Signer {
	t.Helper()
	key, err := evidence.GenerateKey(id, evidence.AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := evidence.NewSigner(key, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// end stops the load and returns when every request has come to its end.
func (l *load) end() {
	l.stopped.Do(func() { close(l.stop) })
	l.workers.Wait()
}

func (l *load) work(c *lane, send func(*lane)) {
	defer c.close()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			send(c)
		}
	}
}

// honestly sends what a client sends, by way of the load balancer.
func (l *load) honestly(c *lane) {
	if hold := l.hold.Load(); hold != nil && (*hold)() {
		return
	}
	l.mu.Lock()
	period := l.period
	l.mu.Unlock()
	n := l.begin(honest)
	trace := traceOf(honest, n)
	request := l.s.get(targetOf(n), trace)
	if n%4 == 0 {
		body := `{"n":` + strconv.Itoa(n) + `}`
		request = l.s.request("POST", targetOf(n), trace, body, "Content-Type: application/json", "Content-Length: "+strconv.Itoa(len(body)))
	}
	outcome, err := c.exchange(request)
	l.finish(n, outcome, err)
	if outcome != http.StatusOK {
		return
	}
	signed := l.tap.sent(trace)
	l.mu.Lock()
	defer l.mu.Unlock()
	if period == l.period && period%2 == 0 && len(signed) > 0 {
		l.used = append(l.used, signed[len(signed)-1])
	}
}

// badly sends one of the others. Where nothing has been used yet that could be
// sent again, it carries no evidence.
func (l *load) badly(c *lane, i intent) {
	var copied []byte
	if i == altered || i == replayed {
		l.mu.Lock()
		if len(l.used) > 0 {
			copied = l.used[len(l.used)-1]
		} else {
			i = missing
		}
		l.mu.Unlock()
	}
	if i == replayed {
		l.resend(c, copied)
		return
	}
	n := l.begin(i)
	trace := traceOf(i, n)
	request := l.s.get(targetOf(n), trace)
	switch i {
	case altered:
		original := traceIn(copied)
		_, was, _ := parseTrace(original)
		request = strings.ReplaceAll(string(copied), original, trace)
		request = strings.Replace(request, " "+targetOf(was)+" ", " "+targetOf(n)+" ", 1)
	case wrongKey, unknownKey:
		signer := l.forger
		if i == unknownKey {
			signer = l.unknown
		}
		m := l.s.statement("GET", targetOf(n))
		m.Node = l.s.taskID // an insider knows it
		if err := signer.Sign(&m, time.Now()); err != nil {
			l.finish(n, 0, err)
			return
		}
		line, rest, _ := strings.Cut(request, "\r\n")
		request = line + "\r\n" + fields(m) + rest
	}
	outcome, err := c.exchange(request)
	l.finish(n, outcome, err)
}

// resend sends a recorded request once more, under another trace.
func (l *load) resend(c *lane, request []byte) (outcome int) {
	n := l.begin(replayed)
	outcome, err := c.exchange(strings.ReplaceAll(string(request), traceIn(request), traceOf(replayed, n)))
	l.finish(n, outcome, err)
	return outcome
}

func (l *load) begin(i intent) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts = append(l.attempts, attempt{intent: i, sent: time.Now()})
	return len(l.attempts) - 1
}

func (l *load) finish(n, outcome int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := &l.attempts[n]
	a.ended, a.outcome = time.Now(), outcome
	if err != nil {
		l.errors[err.Error()]++
	}
	if a.intent == honest {
		l.ended = append(l.ended, n)
	}
}

// next is the number of the attempt that begins next.
func (l *load) next() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.attempts)
}

// count counts attempts.
func (l *load) count(is func(*attempt) bool) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.attempts {
		if is(&l.attempts[i]) {
			n++
		}
	}
	return n
}

// streak looks for n honest requests in a row that were sent after a time and
// allowed, and returns when the first of them was answered; zero: there are none.
func (l *load) streak(after time.Time, n int) (first time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	row := 0
	for _, i := range l.ended {
		switch a := &l.attempts[i]; {
		case !a.sent.After(after):
		case !a.allowed():
			row = 0
		default:
			if row++; row == 1 {
				first = a.ended
			}
			if row == n {
				return first
			}
		}
	}
	return time.Time{}
}

// summary says what became of the attempts from one on.
func (l *load) summary(from int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	became := map[string]int{}
	for _, a := range l.attempts[from:] {
		outcome := strconv.Itoa(a.outcome)
		if a.ended.IsZero() {
			outcome = "waiting"
		}
		became[intentNames[a.intent]+" "+outcome]++
	}
	return fmt.Sprintf("attempts %v, errors %v", became, l.errors)
}

// forget makes what was used up to now unknown to those who replay; nothing new
// becomes known to them until remember.
func (l *load) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.period%2 == 0 {
		l.period++
	}
	l.used = nil
}

// takeUsed forgets as well, and returns what was used.
func (l *load) takeUsed() [][]byte {
	l.mu.Lock()
	used := l.used
	l.mu.Unlock()
	l.forget()
	return used
}

func (l *load) remember() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.period%2 == 1 {
		l.period++
	}
}

// Every request has a target and a trace of its own. The trace is not signed.

func targetOf(n int) string          { return "/load/" + strconv.Itoa(n) }
func traceOf(i intent, n int) string { return intentNames[i] + "." + strconv.Itoa(n) }
func parseTrace(trace string) (i intent, n int, ok bool) {
	name, number, _ := strings.Cut(trace, ".")
	n, err := strconv.Atoi(number)
	i = intent(slices.Index(intentNames[:], name))
	return i, n, err == nil && n >= 0 && i >= 0
}

func traceIn(request []byte) (t string) {
	_, rest, _ := bytes.Cut(request, []byte("\r\n"+traceHeader+": "))
	value, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return string(value)
}

// lane is one keep-alive connection of a client that sends nothing twice by itself.
type lane struct {
	dial *net.Dialer
	addr string
	conn net.Conn
	in   *bufio.Reader
}

func (c *lane) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func (c *lane) exchange(request string) (status int, err error) {
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.conn == nil {
		if c.conn, err = c.dial.Dial("tcp", c.addr); err != nil {
			c.conn = nil
			return 0, err
		}
		c.in = bufio.NewReader(c.conn)
	}
	c.conn.SetDeadline(time.Now().Add(answerLimit))
	if _, err := io.WriteString(c.conn, request); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	if resp.Close {
		c.close()
	}
	return resp.StatusCode, nil
}

// tap stands between the attester and the gateway and listens in. It is where
// evidence for a replay would be stolen.
type tap struct {
	net.Listener
	to atomic.Pointer[string]

	mu       sync.Mutex
	requests map[string][][]byte // by trace: each time that the attester sent it
	problem  error
}

func newTap(t testing.TB) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{Listener: l, requests: map[string][][]byte{}}
	var conns sync.WaitGroup
	open := sync.Map{}
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Store(c, nil)
			conns.Go(func() {
				p.relay(c.(*net.TCPConn))
				open.Delete(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		conns.Wait()
	})
	return p
}

// environment leads the attester here.
func (p *tap) environment() map[string]string {
	return map[string]string{
		"ATTESTER_BACKEND_URL": "http://" + p.Addr().String(), "ATTESTER_ALLOW_PLAINTEXT": "true",
		"ATTESTER_BACKEND_CA": "", "ATTESTER_BACKEND_CA_FILE": "", "ATTESTER_BACKEND_SERVER_NAME": "",
	}
}

// sent is what the attester sent with this trace, each time.
func (p *tap) sent(trace string) [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests[trace]
}

func (p *tap) relay(c *net.TCPConn) {
	defer c.Close()
	to := p.to.Load()
	if to == nil {
		return
	}
	up, err := net.Dial("tcp", *to)
	if err != nil {
		c.SetLinger(0) // as near to a refused connection as a relay gets
		return
	}
	defer up.Close()
	back := make(chan struct{})
	go func() {
		defer close(back)
		io.Copy(c, up)
		c.Close()
	}()
	in := bufio.NewReader(c)
	for {
		request, err := readWhole(in)
		if err != nil {
			if err != io.EOF && len(request) > 0 {
				p.mu.Lock()
				p.problem = fmt.Errorf("the attester sent %q: %w", request, err)
				p.mu.Unlock()
			}
			break
		}
		trace := traceIn(request)
		p.mu.Lock()
		p.requests[trace] = append(p.requests[trace], request)
		p.mu.Unlock()
		if _, err := up.Write(request); err != nil {
			break
		}
	}
	up.Close()
	<-back
}

// readWhole reads one request of the load: its body has a length, if any.
func readWhole(in *bufio.Reader) (request []byte, err error) {
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		request = append(request, line...)
		if len(line) == 2 {
			break
		}
		name, value, _ := strings.Cut(string(line), ":")
		switch strings.ToLower(name) {
		case "content-length":
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil || length > 1<<20 {
				return request, fmt.Errorf("length %q", value)
			}
		case "transfer-encoding":
			return request, fmt.Errorf("the load sends no %s", name)
		}
	}
	body := make([]byte, length)
	_, err = io.ReadFull(in, body)
	return append(request, body...), err
}
