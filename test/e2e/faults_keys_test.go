package e2e

// The faults of keys and of the files that hold them.

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

func keyFaults() []fault {
	const (
		reloadFailed = "wallarm_gate_jwks_reload_failure_total"
		lastGood     = "the last good key set stays in force"
	)
	verifierFile := func(name, what string, content []byte) fault {
		return fault{
			name: name, what: what,
			result:   "The last good keys stay in force.",
			unharmed: true,
			signs:    []sign{{metric: reloadFailed}, {log: "gateway", line: lastGood}},
			run: func(x *trial) {
				x.begin(func() {
					if content == nil {
						x.must(os.Remove(x.s.verifyingFile))
						return
					}
					atomicWrite(x.t, x.s.verifyingFile, content)
				})
				x.during()
				x.end(func() { x.s.writeKeys(x.t, x.s.verifyingFile, x.s.keys) })
			},
		}
	}
	return []fault{
		{
			name:   "key removed from the gateway",
			what:   "The gateway's `jwks_file` gets a good set without the attester's key; later the key is put back.",
			result: "The gateway refuses with `unknown_key`, at most 2 s after the file has changed, and allows again as soon after it has changed back.",
			signs:  []sign{denied(evidence.ReasonUnknownKey), {metric: "wallarm_gate_jwks_reload_success_total"}, {log: "gateway", line: "reason=unknown_key"}},
			run: func(x *trial) {
				other := newKeySet(x.t, "another-key")
				x.begin(func() { x.s.writeKeys(x.t, x.s.verifyingFile, other) })
				x.saw("honest requests are refused", x.answered(403))
				x.during()
				x.end(func() { x.s.writeKeys(x.t, x.s.verifyingFile, x.s.keys) })
			},
		},
		verifierFile("gateway's key file garbage", "The gateway's `jwks_file` is replaced by something that is no JWK Set.", []byte("{\"keys\": [}\n")),
		verifierFile("gateway's key file missing", "The gateway's `jwks_file` is removed.", nil),
		{
			name:     "attester's key file garbage",
			what:     "The attester's key file is replaced by something that is no JWK Set.",
			result:   "The last good keys sign.",
			operator: "the attester's metric `wallarm_attester_jwks_last_reload_successful` is 0",
			signs:    []sign{{log: "attester", line: `"msg":"signing keys not reloaded, the last good ones stay"`}},
			unharmed: true,
			options: func(*trial) options {
				return options{keyFile: true, attesterEnv: map[string]string{"ATTESTER_METRICS_LISTEN": "127.0.0.1:0"}}
			},
			run: func(x *trial) {
				x.begin(func() { atomicWrite(x.t, x.s.signingFile, []byte("{\"keys\": [}\n")) })
				x.during()
				_, rest, _ := strings.Cut(x.s.attester.log(), `"metrics_listen":"`)
				addr, _, _ := strings.Cut(rest, `"`)
				x.saw("the attester's metric wallarm_attester_jwks_last_reload_successful is 0", func() bool {
					successful, ok := samplesOf("http://" + addr + "/metrics")["wallarm_attester_jwks_last_reload_successful"]
					return ok && successful == 0
				})
				x.end(func() { x.s.writeKeys(x.t, x.s.signingFile, x.s.keys) })
			},
		},
		{
			name:     "disk full for the key file",
			what:     "The file system of the attester's key file is full, and `gatectl keys add` is to put a key into it.",
			result:   "`gatectl` fails, says why, and leaves the file as it was, to the last byte, and nothing beside it. With room again it adds the key.",
			operator: "`no space left on device` and exit status 1 of `gatectl`",
			unharmed: true,
			options:  func(*trial) options { return options{keyFile: true} },
			run:      diskFull,
		},
	}
}

func diskFull(x *trial) {
	gatectl := binary(x.t, "./cmd/gatectl", "gatectl", "")
	dir := filepath.Join(x.dir, "full")
	x.must(os.Mkdir(dir, 0o700))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
			leaveOut(x.t, "FAULTS_REQUIRED", "no file system can be mounted without root: the full disk of the key file")
		}
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { syscall.Unmount(dir, 0) })
	file := filepath.Join(dir, "signing.json")
	old, err := os.ReadFile(x.s.signingFile)
	x.must(err)
	x.must(os.WriteFile(file, old, 0o600))
	x.must(os.Symlink(file, x.s.signingFile+".link"))
	x.must(os.Rename(x.s.signingFile+".link", x.s.signingFile))

	filler := filepath.Join(dir, "filler")
	x.begin(func() {
		f, err := os.Create(filler)
		x.must(err)
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			x.t.Fatalf("the file system does not get full: %v", err)
		}
	})
	add := func() (string, int) {
		cmd := exec.Command(gatectl, "keys", "add", "--activate-in", "1h", "--kid", "next", x.s.signingFile)
		out, err := cmd.CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return string(out), exit.ExitCode()
		}
		x.must(err)
		return string(out), 0
	}
	out, code := add()
	x.saw("gatectl says that the disk is full", func() bool { return code == 1 && strings.Contains(out, "no space left on device") })
	if strings.Count(out, "\n") != 1 {
		x.t.Errorf("gatectl printed %q, want one line", out)
	}
	now, err := os.ReadFile(file)
	x.must(err)
	if !bytes.Equal(now, old) {
		x.t.Errorf("the key file was %d bytes and is %d bytes", len(old), len(now))
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		x.t.Errorf("beside the key file is %v (%v), want the filler only", left, err)
	}
	x.during()
	x.end(func() { x.must(os.Remove(filler)) })
	if out, code := add(); code != 0 {
		x.t.Errorf("with room again gatectl ends with %d: %s", code, out)
	}
	data, err := os.ReadFile(file)
	x.must(err)
	set, err := evidence.ParseKeySet(data)
	x.must(err)
	if set.Lookup("next") == nil || len(set.Keys()) != len(x.s.keys.Keys())+1 {
		x.t.Errorf("with room again the file holds %v", set.Keys())
	}
	x.wait("the attester has taken the new set over", func() bool {
		return strings.Contains(x.s.attester.log(), `"key_ids":["`+x.s.keys.Keys()[0].ID+`","next"]`)
	})
}
