package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// asAttester makes the test binary be the attester: the process of these tests
// is the real one.
const asAttester = "TEST_BINARY_IS_ATTESTER"

func TestMain(m *testing.M) {
	if os.Getenv(asAttester) != "" {
		os.Unsetenv(asAttester)
		main()
		return
	}
	for role, be := range map[string]func() error{asGateway: beGateway, asBareProxy: beBareProxy} {
		if os.Getenv(role) != "" {
			fmt.Fprintln(os.Stderr, be())
			os.Exit(1)
		}
	}
	code := m.Run()
	if builtDir != "" {
		os.RemoveAll(builtDir)
	}
	os.Exit(code)
}

// process starts an attester as a process of its own, and returns it with the
// line that it logs when it serves.
func process(t *testing.T, env map[string]string, args ...string) (*exec.Cmd, map[string]any, *bytes.Buffer, <-chan struct{}) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(environ(env), asAttester+"=1")
	endWithTests(cmd)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	serving := make(chan map[string]any, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(serving)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			var line map[string]any
			if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
				t.Errorf("log line is no JSON: %q", lines.Text())
			}
			if line["msg"] == "serving" {
				serving <- line
			}
		}
	}()
	line, ok := <-serving
	if !ok {
		cmd.Wait()
		t.Fatalf("the attester does not serve: %s", stderr)
	}
	return cmd, line, stderr, read
}

// TestProcess: start, health check, SIGTERM under load, exit code.
func TestProcess(t *testing.T) {
	t.Parallel()
	set, jwks := keySet(t, "k", evidence.AlgEd25519)
	gateway := &gateway{gate: newGate(set, systemClock().wall)}
	gateway.Server = httptest.NewServer(gateway)
	defer gateway.Close()
	status := startNode(t)
	env := map[string]string{
		"LISTEN": "127.0.0.1:0", "HEALTH_LISTEN": "127.0.0.1:0", "BACKEND_URL": gateway.URL, "ALLOW_PLAINTEXT": "true",
		"SIGNING_JWKS": jwks, "NODE_NAME": "n", "NODE_STATUS_URL": status.URL, "SHUTDOWN_DELAY": "200ms", "SHUTDOWN_TIMEOUT": "10s",
	}
	cmd, serving, stderr, read := process(t, env)
	health := serving["health_listen"].(string)

	check := exec.Command(os.Args[0], "-healthcheck")
	check.Env = []string{asAttester + "=1", "ATTESTER_HEALTH_LISTEN=" + health}
	if out, err := check.CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("-healthcheck: %v, %q", err, out)
	}

	var failed, done atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for {
				req, err := http.NewRequest("GET", "http://"+serving["listen"].(string)+"/a", nil)
				if err != nil {
					t.Error(err)
					return
				}
				state(req.Header)
				res, err := client.Do(req)
				if err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != 200 {
					failed.Add(1)
				}
				if done.Add(1) == 50 {
					cmd.Process.Signal(syscall.SIGTERM)
				}
				ready, err := client.Get("http://" + health + "/readyz")
				if err != nil {
					t.Error(err)
					return
				}
				ready.Body.Close()
				if ready.StatusCode != 200 {
					return // as the balancer does
				}
			}
		})
	}
	wg.Wait()
	<-read
	if err := cmd.Wait(); err != nil || stderr.Len() != 0 {
		t.Errorf("exit: %v, stderr %q; want 0 and nothing", err, stderr)
	}
	if failed.Load() != 0 || done.Load() < 50 {
		t.Errorf("%d of %d requests failed", failed.Load(), done.Load())
	}
	check = exec.Command(os.Args[0], "-healthcheck", "-health-listen", health)
	check.Env = []string{asAttester + "=1"}
	if out, err := check.CombinedOutput(); err == nil || check.ProcessState.ExitCode() != exitFailure {
		t.Errorf("-healthcheck of an attester that has ended: %v, %q; want exit code 1", err, out)
	}
}

// TestSIGTERMWithoutLoad ends soon after the delay.
func TestSIGTERMWithoutLoad(t *testing.T) {
	t.Parallel()
	env := enough(t)
	env["LISTEN"], env["HEALTH_LISTEN"], env["SHUTDOWN_DELAY"] = "127.0.0.1:0", "127.0.0.1:0", "0s"
	env["NODE_STATUS_URL"] = "http://127.0.0.1:1/"
	cmd, _, stderr, read := process(t, env)
	cmd.Process.Signal(syscall.SIGTERM)
	<-read
	if err := cmd.Wait(); err != nil {
		t.Errorf("exit: %v, stderr %q", err, stderr)
	}
}

func TestListenerTaken(t *testing.T) {
	t.Parallel()
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	for _, name := range []string{"LISTEN", "HEALTH_LISTEN", "METRICS_LISTEN"} {
		env := enough(t)
		env["LISTEN"], env["HEALTH_LISTEN"], env["NODE_STATUS_URL"] = "127.0.0.1:0", "127.0.0.1:0", "http://127.0.0.1:1/"
		env[name] = taken.Listener.Addr().String()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(environ(env), asAttester+"=1")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); cmd.ProcessState.ExitCode() != exitFailure || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%s taken: %v, stderr %q; want exit code 1 and one line", name, err, &stderr)
		}
	}
}
