//go:build !linux

package main

import "os/exec"

func startBound(cmd *exec.Cmd) error { return cmd.Start() }
