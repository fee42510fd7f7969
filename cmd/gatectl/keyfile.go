package main

// Key files: JWK Sets that hold secrets. They are created with mode 0600 and
// never over another file, and replaced in one step, so that an error at any
// point leaves the old file as it was.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// maxKeyFile is the largest JWK Set that package evidence reads.
const maxKeyFile = 64 << 10

// readKeys reads a JWK Set from a file, "-" for the standard input.
func (t *tool) readKeys(path string) (*evidence.KeySet, []byte, error) {
	data, err := t.readLimited(path, maxKeyFile)
	if err != nil {
		return nil, nil, err
	}
	set, err := evidence.ParseKeySet(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", display(path), err)
	}
	return set, data, nil
}

// marshalKeys returns the set as indented JSON with a final line feed. A set
// that no part of the product could read is refused.
func marshalKeys(set *evidence.KeySet) ([]byte, error) {
	compact, err := set.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, compact, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	if out.Len() > maxKeyFile {
		return nil, fmt.Errorf("the set would be larger than %d bytes", maxKeyFile)
	}
	if _, err := evidence.ParseKeySet(out.Bytes()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// createFile writes a new file, never over one that is there.
func createFile(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return cause(path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(path)
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// replaceFile puts data in the place of the file at path, whose content was old
// when it was read. Nobody sees a part of it; the mode becomes 0600.
func replaceFile(path string, old, data []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if st, err := os.Stat(path); err != nil {
		return err
	} else if !st.Mode().IsRegular() {
		return &fs.PathError{Op: "replace", Path: path, Err: errors.New("not a regular file")}
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	// Two keys added at once must not lose one of them.
	if now, err := os.ReadFile(path); err != nil {
		return err
	} else if !bytes.Equal(now, old) {
		return fmt.Errorf("%s was changed by somebody else meanwhile; nothing was written, run the command again", path)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
