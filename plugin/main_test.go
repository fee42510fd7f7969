package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// gateBinary is the plugin as Kong would run it, built once.
var gateBinary string

// redisPasswordEnv is where the tests' vault reference leads to.
const redisPasswordEnv = "WALLARM_GATE_TEST_REDIS_PASSWORD"

func TestMain(m *testing.M) {
	os.Exit(func() int {
		os.Setenv(redisPasswordEnv, redisPassword)
		dir, err := os.MkdirTemp("", "wallarm-gate-test")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		gateBinary = filepath.Join(dir, pluginName)
		if out, err := exec.Command("go", "build", "-o", gateBinary, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the plugin: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// command runs the binary and returns its exit code and what it printed.
func command(tb testing.TB, args ...string) (code int, stdout, stderr string) {
	tb.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.Command(gateBinary, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		tb.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open := write("open.yml", "_format_version: '3.0'\nservices:\n- name: a\n  url: http://a.internal\n  routes:\n  - paths: [/]\n")
	const gated = "_format_version: '3.0'\nservices:\n- name: a\n  url: http://a.internal\n  routes:\n  - name: r\n    paths: [/]\n" +
		"plugins:\n- name: wallarm-gate\n  config:\n    jwks_file: /etc/keys.json\n"
	closed := write("closed.yml", gated)
	reporting := write("reporting.yml", gated+"    mode: report\n")
	for _, c := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string // contained
	}{
		{"version", []string{"-version"}, 0, "wallarm-gate 0.1.0\n", ""},
		{"help", []string{"-help"}, 0, "-metrics-listen", ""},
		{"h", []string{"-h"}, 0, "-kong-prefix", ""},
		{"unknown flag", []string{"-nope"}, 2, "", "wallarm-gate: flag provided but not defined: -nope\n"},
		{"argument", []string{"dump"}, 2, "", `unexpected argument "dump": flags only`},
		{"two commands", []string{"-dump", "-version"}, 2, "", "only one of"},
		{"empty value", []string{"-install", ""}, 2, "", "-install has an empty value"},
		{"listen", []string{"-metrics-listen", "9542"}, 2, "", "want host:port"},
		{"status url", []string{"-metrics-listen", ":0", "-kong-status-url", "ftp://x"}, 2, "", "want an http or https URL"},
		{"status url with a user", []string{"-metrics-listen", ":0", "-kong-status-url", "http://a:s3cret@x/"}, 2, "", "without a user"},
		{"status url alone", []string{"-kong-status-url", "http://127.0.0.1:8100/status/ready"}, 2, "", "needs -metrics-listen"},
		{"check: open", []string{"-check", open}, 1, "", ""},
		{"check: closed", []string{"-check", closed}, 0, "", ""},
		{"check: report", []string{"-check", reporting}, 1, "", ""},
		{"check: report, allowed", []string{"-check", reporting, "-allow-report"}, 0, "", ""},
		{"check: open, report allowed", []string{"-check", open, "-allow-report"}, 1, "", ""},
		{"allowed without a check", []string{"-allow-report"}, 2, "", "-allow-report needs -check"},
		{"check: open, a copy", []string{"-check", open, "-copy", filepath.Join(dir, "open-copy.yml")}, 1, "", ""},
		{"check: nowhere to copy to", []string{"-check", closed, "-copy", filepath.Join(dir, "none", "k.yml")}, 1, "", "no door is open, but: write "},
		{"copied without a check", []string{"-copy", "k.yml"}, 2, "", "-copy needs -check"},
		{"check: no file", []string{"-check", filepath.Join(dir, "none.yml")}, 2, "", "none.yml: no such file"},
		{"check: a folder", []string{"-check", dir}, 2, "", "not a regular file"},
		{"check: no YAML", []string{"-check", write("bad.yml", "a: [")}, 2, "", "bad.yml"},
		{"install: not a folder", []string{"-install", filepath.Join(open, "x")}, 1, "", "make the folder"},
		{"no prefix to serve in", []string{"-kong-prefix", filepath.Join(dir, "none")}, 1, "", "serve the plugin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := command(t, c.args...)
			if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			if code == exitUsage && strings.Count(stderr, "\n") != 1 {
				t.Errorf("more than one sentence: %q", stderr)
			}
			if strings.Contains(stderr, "s3cret") {
				t.Errorf("a secret is in %q", stderr)
			}
		})
	}
}

// What is copied is what was checked, and nothing that was refused.
func TestCheckCopies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, to := filepath.Join(dir, "kong.yml"), filepath.Join(dir, "checked.yml")
	const closed = "_format_version: '3.0'\nplugins:\n- name: wallarm-gate\n  config:\n    jwks_file: /etc/keys.json\n"
	const open = "_format_version: '3.0'\nservices:\n- name: a\n  url: http://a.internal\n  routes:\n  - paths: [/]\n"
	for _, step := range []struct {
		name, content string
		code          int
		copied        string
	}{
		{"open at first", open, exitFailure, ""},
		{"not to be read", "a: [", exitUsage, ""},
		{"closed", closed, exitOK, closed},
		{"open afterwards", open, exitFailure, closed},
		{"closed again", closed + "# b\n", exitOK, closed + "# b\n"},
	} {
		if err := os.WriteFile(file, []byte(step.content), 0o644); err != nil {
			t.Fatal(err)
		}
		code, _, stderr := command(t, "-check", file, "-copy", to)
		content, err := os.ReadFile(to)
		if code != step.code || string(content) != step.copied || (err == nil) != (step.copied != "") {
			t.Fatalf("%s: exit code %d (%s), copied %q (%v)", step.name, code, stderr, content, err)
		}
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v (%v): want it for its owner alone", info.Mode(), err)
	}
}
