package main

// -check: the doors that a declarative configuration leaves open, before Kong
// loads it.

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/wallarm-gate/wallarm-gate/internal/kongfile"
)

var (
	errOpen      = errors.New("a door is open")
	errNotCopied = errors.New("no door is open, but")
)

// checkFile writes the findings about the declarative file at path to w. It
// returns errOpen for a way to an upstream that does not pass the gate, and
// another error for a file that it cannot judge. With allowReport a gate in
// report mode is no open door. What has none goes to copyTo, if that is set: Kong
// may read its file again, after somebody has changed it.
func checkFile(path, copyTo string, allowReport bool, w io.Writer) error {
	data, err := readRegular(path, kongfile.MaxSize)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	r, err := kongfile.Check(data)
	if err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	if allowReport {
		r.AllowReport()
	}
	r.Fprint(w)
	if r.Open() {
		return errOpen
	}
	if copyTo == "" {
		return nil
	}
	if err := replaceFile(copyTo, bytes.NewReader(data), 0o600); err != nil { // it may hold secrets
		return fmt.Errorf("%w: %w", errNotCopied, err)
	}
	return nil
}
