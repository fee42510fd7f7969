// Package pluginhost plays Kong's side of the plugin protocol to an external
// plugin binary, and puts a small gateway for HTTP/1.x and HTTP/2 on top of it.
// It imitates Kong 3.9, its quirks included, so that a plugin can be driven end
// to end where there is no Kong. It is a gateway for tests and demonstrations,
// not for production.
package pluginhost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// maxDump bounds what a query command may print.
const maxDump = 4 << 20

// Options says how a plugin process is found, started and talked to.
type Options struct {
	// Binary is the plugin executable. Its base name names the socket.
	Binary string
	// Args follow "-kong-prefix Prefix" on the plugin's command line.
	Args []string
	// Prefix is Kong's prefix, a directory that exists.
	Prefix string
	// Socket is the plugin's socket; empty: Prefix/NAME.socket.
	Socket string
	// Env is the environment of the process, and where {vault://env/NAME}
	// references are resolved; nil: this process's environment.
	Env []string
	// QueryCmd is a shell command that prints the dump on its standard
	// output; empty: Binary -kong-prefix Prefix -dump.
	QueryCmd string
	// StartCmd is a shell command that runs the plugin; empty: Binary
	// -kong-prefix Prefix Args.
	StartCmd string
	// NoStart leaves the process to somebody else, as Kong does without a
	// start command.
	NoStart bool
	// RespawnInterval is the least time between two starts; 0: one second.
	RespawnInterval time.Duration
	// Timeout bounds every read from and write to the plugin; 0: 60 seconds.
	Timeout time.Duration
	// MaxEvents ends the re-run of one request's event with an error; 0:
	// never, as in Kong.
	MaxEvents int
	// Log gets Kong's log: level is one of "alert", "crit", "err", "warn",
	// "notice", "info", "debug". What the process prints comes at "info".
	// It is called from several goroutines at once. nil: dropped.
	Log func(level, msg string)
}

// Host is one plugin process as Kong sees it. Its methods are safe for
// concurrent use.
type Host struct {
	opts   Options
	schema *Schema
	pool   pool
	seq    atomic.Int64 // Kong's plugins_iterator:__seq__

	instances instances

	grace  time.Duration // between SIGTERM and SIGKILL
	done   chan struct{} // closed by Close
	ended  chan struct{} // closed when the process is gone for good
	closed sync.Once

	mu     sync.Mutex
	cmd    *exec.Cmd // nil while it is down
	starts int
}

// Start runs the query command and starts the plugin process, which is
// started again whenever it ends. ctx bounds the query command only. Start
// does not wait for the socket: see Ready.
func Start(ctx context.Context, o Options) (*Host, error) {
	if o.Binary == "" && (o.QueryCmd == "" || o.StartCmd == "" && !o.NoStart) {
		return nil, errors.New("start plugin: no binary given")
	}
	if o.Prefix == "" {
		return nil, errors.New("start plugin: no Kong prefix given")
	}
	if o.RespawnInterval == 0 {
		o.RespawnInterval = time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = 60 * time.Second
	}
	if o.Env == nil {
		o.Env = os.Environ()
	}
	if o.Log == nil {
		o.Log = func(string, string) {}
	}
	h := &Host{opts: o, grace: 5 * time.Second, done: make(chan struct{}), ended: make(chan struct{})}

	dump, err := h.query(ctx)
	if err != nil {
		return nil, fmt.Errorf("query plugin: %w", err)
	}
	if h.schema, err = ParseSchema(dump); err != nil {
		return nil, fmt.Errorf("query plugin: %w", err)
	}
	if h.opts.Socket == "" {
		name := h.schema.Name
		if o.Binary != "" {
			name = filepath.Base(o.Binary)
		}
		h.opts.Socket = filepath.Join(o.Prefix, name+".socket")
	}
	h.pool.init(h.opts.Socket, o.Timeout)
	if o.NoStart {
		close(h.ended)
		return h, nil
	}
	go h.respawn()
	return h, nil
}

// query runs the query command and returns what it printed.
func (h *Host) query(ctx context.Context) ([]byte, error) {
	cmd := exec.CommandContext(ctx, h.opts.Binary, "-kong-prefix", h.opts.Prefix, "-dump")
	if h.opts.QueryCmd != "" {
		cmd = exec.CommandContext(ctx, "sh", "-c", h.opts.QueryCmd)
	}
	cmd.Env = h.opts.Env
	cmd.WaitDelay = time.Second
	var out, diag capped
	out.max, diag.max = maxDump, 1024
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := cmd.Run()
	if out.over {
		return nil, fmt.Errorf("the dump is larger than %d bytes", maxDump)
	}
	// Kong reads the command's output and never looks at its exit status.
	if err != nil && len(out.buf) == 0 {
		return nil, fmt.Errorf("%w: %q", err, diag.buf)
	}
	return out.buf, nil
}

// capped keeps the first max bytes written to it.
type capped struct {
	buf  []byte
	max  int
	over bool
}

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.max-len(c.buf))
	c.buf = append(c.buf, p[:n]...)
	c.over = c.over || n < len(p)
	return len(p), nil
}

// respawn starts the process, waits for its end and starts it again, at most
// once in each interval, until the host is closed.
func (h *Host) respawn() {
	defer close(h.ended)
	for {
		next := time.NewTimer(h.opts.RespawnInterval)
		h.runOnce()
		select {
		case <-h.done:
			next.Stop()
			return
		case <-next.C:
		}
		select {
		case <-h.done:
			return
		default:
		}
	}
}

func (h *Host) runOnce() {
	cmd := exec.Command(h.opts.Binary, append([]string{"-kong-prefix", h.opts.Prefix}, h.opts.Args...)...)
	if h.opts.StartCmd != "" {
		cmd = exec.Command("sh", "-c", "exec "+h.opts.StartCmd)
	}
	cmd.Env = h.opts.Env
	cmd.WaitDelay = time.Second
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	read := make(chan struct{})
	defer func() { in.Close(); <-read }()

	h.mu.Lock()
	select {
	case <-h.done: // closed before the start: there is nobody to end it
		h.mu.Unlock()
		close(read)
		return
	default:
	}
	if err := cmd.Start(); err != nil {
		h.mu.Unlock()
		close(read)
		h.opts.Log("err", fmt.Sprintf("[pluginserver] starting %q: %v", h.schema.Name, err))
		return
	}
	h.cmd = cmd
	h.starts++
	h.mu.Unlock()
	pid := cmd.Process.Pid
	h.opts.Log("notice", fmt.Sprintf("[pluginserver] started, pid %d", pid))

	go func() {
		defer close(read)
		r := bufio.NewReaderSize(out, 4096)
		for {
			line, err := r.ReadSlice('\n')
			if text := strings.TrimRight(string(line), "\r\n"); text != "" {
				h.opts.Log("info", fmt.Sprintf("[%s:%d] %s", h.schema.Name, pid, text))
			}
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				return
			}
		}
	}()

	err := cmd.Wait()
	h.mu.Lock()
	h.cmd = nil
	h.mu.Unlock()
	h.opts.Log("notice", fmt.Sprintf("external pluginserver '%s' terminated: %v", h.schema.Name, cmd.ProcessState))
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 127 {
		h.opts.Log("err", fmt.Sprintf("[pluginserver] external pluginserver %q start command %q exited with \"command not found\"", h.schema.Name, h.opts.StartCmd))
	}
}

// Ready waits until the plugin's socket accepts a connection.
func (h *Host) Ready(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.Dial("unix", h.opts.Socket)
		if err == nil {
			c.Close()
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("plugin %q is not ready: %w", h.schema.Name, err)
		case <-h.done:
			return fmt.Errorf("plugin %q is not ready: the host is closed", h.schema.Name)
		case <-tick.C:
		}
	}
}

// Schema is what the plugin's dump declares.
func (h *Host) Schema() *Schema { return h.schema }

// Name is the plugin's name in the dump.
func (h *Host) Name() string { return h.schema.Name }

// Version is the plugin's version in the dump.
func (h *Host) Version() string { return h.schema.Version }

// Priority is the plugin's priority in the dump.
func (h *Host) Priority() int { return h.schema.Priority }

// Phases are the plugin's phases in the dump.
func (h *Host) Phases() []string { return append([]string(nil), h.schema.Phases...) }

// Pid is the process id of the plugin, 0 while it is down.
func (h *Host) Pid() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd == nil {
		return 0
	}
	return h.cmd.Process.Pid
}

// Starts counts how often the process was started.
func (h *Host) Starts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.starts
}

// Kill ends the process at once, without a chance to clean up. It is started
// again as usual.
func (h *Host) Kill() error { return h.Signal(os.Kill) }

// Signal sends sig to the process; an error when it is down.
func (h *Host) Signal(sig os.Signal) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd == nil {
		return fmt.Errorf("signal plugin %q: it is not running", h.schema.Name)
	}
	return h.cmd.Process.Signal(sig)
}

// Close asks the process to end, kills it after five seconds, and does not
// start it again. It returns when the process is gone.
func (h *Host) Close() error {
	h.closed.Do(func() {
		h.mu.Lock()
		close(h.done)
		if h.cmd != nil {
			// A process that ended meanwhile is what was asked for.
			_ = h.cmd.Process.Signal(syscall.SIGTERM)
		}
		h.mu.Unlock()
		h.pool.close()
	})
	grace := time.NewTimer(h.grace)
	defer grace.Stop()
	select {
	case <-h.ended:
		return nil
	case <-grace.C:
	}
	h.mu.Lock()
	if h.cmd != nil {
		_ = h.cmd.Process.Kill()
	}
	h.mu.Unlock()
	<-h.ended
	return nil
}
