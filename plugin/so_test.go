package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// go build -buildmode=plugin gives what the .so loader of Kong up to 2.8 looked
// up: the three symbols, with the types that it expected.
func TestPluginBuildMode(t *testing.T) {
	t.Parallel()
	enabled, err := exec.Command("go", "env", "CGO_ENABLED").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(enabled)) != "1" {
		t.Skip("LEFT OUT: -buildmode=plugin needs cgo, which is off here (no C compiler, or CGO_ENABLED=0)")
	}
	dir := t.TempDir()
	so, loader := filepath.Join(dir, "gate.so"), filepath.Join(dir, "loader")
	for _, args := range [][]string{
		{"build", "-buildmode=plugin", "-o", so, "."},
		{"build", "-o", loader, "./testdata/soloader"},
	} {
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, out)
		}
	}
	out, err := exec.Command(loader, so).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if want := "Version 0.1.0\nPriority 1000001\nNew *main.Config, decodes itself: true\n"; string(out) != want {
		t.Errorf("%q, want %q", out, want)
	}
}
