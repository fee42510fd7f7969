package node

// What the tests start ends with them, whatever ends the tests. Go kills a
// fuzzing process that hangs, and then waits for everybody who holds its pipes:
// a child that outlived it would stop the whole run.

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const (
	boundTo   = "TEST_BINARY_BOUND_TO"   // the process with which to end
	endSignal = "TEST_BINARY_END_SIGNAL" // the signal that it then gets
)

// bound returns the command line of a program that gets sig when this process
// ends, in any way. The test binary stands in for it until the kernel knows.
//
// The kernel watches the thread that started the child, not the process: no
// test may end a goroutine that is locked to its thread.
func bound(sig syscall.Signal, program string, args ...string) []string {
	return append([]string{
		"/usr/bin/env", fmt.Sprintf("%s=%d", boundTo, os.Getpid()), fmt.Sprintf("%s=%d", endSignal, sig),
		os.Args[0], program,
	}, args...)
}

// becomeBound makes this process the program of its arguments, if it was
// started with a command line of bound's.
func becomeBound() {
	parent := os.Getenv(boundTo)
	if parent == "" {
		keepFuzzingPipes()
		return
	}
	runtime.LockOSThread()
	sig, err := strconv.Atoi(os.Getenv(endSignal))
	if err == nil {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(sig), 0); errno != 0 {
			err = errno
		}
	}
	if err == nil && strconv.Itoa(os.Getppid()) != parent {
		err = fmt.Errorf("process %s has ended already", parent)
	}
	if err == nil {
		os.Unsetenv(boundTo)
		os.Unsetenv(endSignal)
		err = syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
	}
	fmt.Fprintf(os.Stderr, "start %s: %v\n", os.Args[1], err)
	os.Exit(127)
}

// keepFuzzingPipes keeps what Go hands to a fuzzing process by number, two pipes
// and shared memory, from the children.
func keepFuzzingPipes() {
	for _, arg := range os.Args[1:] {
		if strings.TrimLeft(arg, "-") == "test.fuzzworker" {
			for fd := 3; fd <= 5; fd++ {
				syscall.CloseOnExec(fd)
			}
		}
	}
}

// TestChildrenEndWithTheTests kills a test binary that has started a child.
func TestChildrenEndWithTheTests(t *testing.T) {
	const parent = "TEST_BINARY_IS_PARENT"
	if os.Getenv(parent) != "" {
		line := bound(syscall.SIGKILL, "/bin/sleep", "3600")
		child := exec.Command(line[0], line[1:]...)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Println(child.Process.Pid)
		child.Wait()
		return
	}
	t.Parallel()
	tests := exec.Command(os.Args[0], "-test.run", "^TestChildrenEndWithTheTests$")
	tests.Env = append(os.Environ(), parent+"=1")
	out, err := tests.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tests.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Fscan(out, &child); err != nil {
		t.Fatal(err)
	}
	command := func() string { // empty for a process that has ended
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child))
		return string(b)
	}
	eventually(t, "the child is the program", func() bool { return strings.HasPrefix(command(), "/bin/sleep\x00") })
	if err := tests.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	tests.Wait()
	eventually(t, "the child has ended", func() bool { return command() == "" })
}
