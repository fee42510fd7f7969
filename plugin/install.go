package main

// -install: what an init container needs to put the plugin into a stock Kong
// image, which has neither the binary nor a shell that could copy it.

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const pluginName = "wallarm-gate"

// install writes the binary, the nginx map and the dump into dir. Each file is
// replaced in one step, so that a second run, or one that was interrupted, leaves
// either the old file or the new one.
func install(dir, prefix string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own executable: %w", err)
	}
	binary, err := os.Open(exe)
	if err != nil {
		return fmt.Errorf("read the own executable: %w", err)
	}
	defer binary.Close()
	var description bytes.Buffer
	if err := dump(pluginName, prefix).write(&description); err != nil {
		return fmt.Errorf("describe the plugin: %w", err)
	}

	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	for _, f := range []struct {
		name    string
		content io.Reader
		mode    os.FileMode
	}{
		{pluginName, binary, 0o755},
		{"evidence.conf", bytes.NewReader(evidenceConf), 0o644},
		{pluginName + ".json", &description, 0o644},
	} {
		if err := replaceFile(filepath.Join(dir, f.name), f.content, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// replaceFile writes content beside path and renames it to path.
func replaceFile(path string, content io.Reader, mode os.FileMode) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if _, err = io.Copy(tmp, content); err != nil {
		return err
	}
	if err = tmp.Chmod(mode); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
