package main

import (
	"os/exec"
	"syscall"
)

// endWithTests makes the kernel kill cmd, which has not been started, when the
// tests end without having stopped it: at their time limit, for one. The kernel
// watches the thread that starts cmd: no test may end a goroutine that is locked
// to its thread.
func endWithTests(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
