package e2e

import (
	"os/exec"
	"syscall"
)

// ownGroup gives cmd, which has not been started, a process group of its own, so
// that a signal reaches its children too. A test process that is killed leaves
// nothing behind: the start script ends its nginx on SIGTERM.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
