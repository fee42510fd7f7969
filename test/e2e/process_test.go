package e2e

// The processes of a system, and how a test handles them.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// unit is one of a system's processes. Its methods are safe for concurrent use
// unless two of them start or end it.
type unit interface {
	// pid is 0 while the process is down.
	pid() int
	// signal goes to the process and its children.
	signal(syscall.Signal) error
	// kill is SIGKILL for the process and its children; it returns when they are gone.
	kill() error
	// stop is graceful; it returns when the process is gone.
	stop(t testing.TB)
	// start starts it again, as it was, and returns when it is ready. The plugin
	// is started by its gateway: start waits for that.
	start(t testing.TB)
	// ready returns nil when the process serves, and waits until ctx ends for that.
	ready(ctx context.Context) error
	// log is what it printed, of all its starts.
	log() string
}

var errDown = errors.New("the process is down")

// logBook keeps what a process prints, the last megabytes of it.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

const logLimit = 8 << 20

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() > logLimit {
		l.text.Next(logLimit / 2)
	}
	return l.text.Write(p)
}

func (l *logBook) add(level, msg string) { fmt.Fprintf(l, "%s: %s\n", level, msg) }

func (l *logBook) log() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// process is a unit that this suite starts itself.
type process struct {
	logBook
	name    string
	command func() *exec.Cmd
	url     string        // answers 200 when the process is ready
	grace   time.Duration // how long a stop may take
	main    func() int    // the process that matters, where it is not the one that was started

	mu   sync.Mutex
	cmd  *exec.Cmd
	gone chan struct{}
}

func (p *process) run() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	cmd := p.command()
	cmd.Stdout, cmd.Stderr = p, p
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	p.cmd, p.gone = cmd, gone
	go func() {
		cmd.Wait()
		close(gone)
	}()
	return nil
}

// running is the process and what is closed at its end; nil while it is down.
func (p *process) running() (*exec.Cmd, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil, nil
	}
	select {
	case <-p.gone:
		return nil, nil
	default:
		return p.cmd, p.gone
	}
}

func (p *process) pid() int {
	cmd, _ := p.running()
	if cmd == nil {
		return 0
	}
	if p.main != nil {
		return p.main()
	}
	return cmd.Process.Pid
}

func (p *process) signal(s syscall.Signal) error {
	cmd, _ := p.running()
	if cmd == nil {
		return errDown
	}
	return syscall.Kill(-cmd.Process.Pid, s)
}

func (p *process) kill() error {
	cmd, gone := p.running()
	if cmd == nil {
		return errDown
	}
	err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	<-gone
	return err
}

func (p *process) stop(t testing.TB) {
	t.Helper()
	cmd, gone := p.running()
	if cmd == nil {
		t.Fatalf("%s: %v", p.name, errDown)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	select {
	case <-gone:
	case <-time.After(p.grace):
		t.Fatalf("%s still runs %v after SIGTERM", p.name, p.grace)
	}
}

func (p *process) start(t testing.TB) {
	t.Helper()
	if cmd, _ := p.running(); cmd != nil {
		t.Fatalf("%s runs already", p.name)
	}
	if err := p.run(); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	waitReady(t, p.name, p)
}

func (p *process) ready(ctx context.Context) error {
	_, gone := p.running()
	if gone == nil {
		return errDown
	}
	return answers(ctx, p.url, gone)
}

// end is the cleanup: nobody waits for a graceful stop.
func (p *process) end(t testing.TB) {
	p.kill()
	if t.Failed() {
		t.Logf("%s:\n%s", p.name, tail(p.log(), 4000))
	}
}

// startPatience is for several real Kongs that start at once.
const startPatience = 90 * time.Second

func waitReady(t testing.TB, name string, u unit) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	if err := u.ready(ctx); err != nil {
		t.Fatalf("%s does not get ready: %v\n%s", name, err, tail(u.log(), 3000))
	}
}

// answers waits until the URL answers 200, or ctx ends, or the process has gone.
func answers(ctx context.Context, url string, gone <-chan struct{}) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Second}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := client.Get(url)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s answers %d", url, resp.StatusCode)
		}
		select {
		case <-gone:
			return errDown
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// atomicWrite replaces a file in one step, as the kubelet does.
func atomicWrite(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// absent is a process that a test cannot reach on this kind of gateway.
type absent struct{ what string }

func (a absent) pid() int                    { return 0 }
func (a absent) signal(syscall.Signal) error { return errors.New(a.what) }
func (a absent) kill() error                 { return errors.New(a.what) }
func (a absent) stop(t testing.TB)           { t.Helper(); t.Fatal(a.what) }
func (a absent) start(t testing.TB)          { t.Helper(); t.Fatal(a.what) }
func (a absent) ready(context.Context) error { return nil }
func (a absent) log() string                 { return "" }
