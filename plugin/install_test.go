package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func TestInstall(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "folder")
	for range 2 { // the second run replaces what the first one wrote
		if code, stdout, stderr := command(t, "-install", dir, "-kong-prefix", "/kong_prefix"); code != 0 || stdout+stderr != "" {
			t.Fatalf("exit code %d: %s%s", code, stdout, stderr)
		}
	}
	want, err := os.ReadFile(gateBinary)
	if err != nil {
		t.Fatal(err)
	}
	_, description, _ := command(t, "-kong-prefix", "/kong_prefix", "-dump")
	files := map[string]struct {
		content []byte
		mode    os.FileMode
	}{
		"wallarm-gate":      {want, 0o755},
		"evidence.conf":     {evidenceConf, 0o644},
		"wallarm-gate.json": {[]byte(description), 0o644},
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(files) {
		t.Errorf("%d files: %v", len(entries), entries)
	}
	for name, f := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, f.content) || info.Mode() != f.mode {
			t.Errorf("%s: %d bytes, mode %v", name, len(got), info.Mode())
		}
	}
	var d serverDump
	if err := json.Unmarshal([]byte(description), &d); err != nil || d.SocketPath != "/kong_prefix/wallarm-gate.socket" {
		t.Errorf("socket %q, %v", d.SocketPath, err)
	}
}
