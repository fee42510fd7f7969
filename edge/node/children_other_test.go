//go:build !linux

package node

import "syscall"

// Where no kernel call binds a child to its parent, a fuzzing process that is
// killed leaves its children behind.

func bound(_ syscall.Signal, program string, args ...string) []string {
	return append([]string{program}, args...)
}

func becomeBound() {}
