package main

// Did the last process end, or did it crash? One that crashed has taken with it
// what it remembered of used evidence. Each process leaves a locked file beside its
// socket and removes it when it is told to end: a file that nobody holds any more
// is that of a crash. During a reload of Kong two processes live for a moment.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const lifeFiles = pluginName + ".*.alive"

// life is the file of this process. It must be kept: its lock goes with it.
type life struct{ file *os.File }

// begin opens the file of this process in dir, and reports whether an earlier one
// crashed. With an error crashed is true: what is not known is not trusted.
func begin(dir string) (l *life, crashed bool, err error) {
	// Two processes that begin at once must not take each other's file for that of a crash.
	gatekeeper, err := os.Open(dir)
	if err != nil {
		return nil, true, err
	}
	defer gatekeeper.Close()
	if err := unix.Flock(int(gatekeeper.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, true, fmt.Errorf("lock %s: %w", quote(dir), err)
	}
	names, err := filepath.Glob(filepath.Join(dir, lifeFiles))
	if err != nil {
		return nil, true, err
	}
	for _, name := range names {
		dead, err := abandoned(name)
		if err != nil {
			return nil, true, err
		}
		crashed = crashed || dead
	}
	file, err := os.CreateTemp(dir, lifeFiles)
	if err != nil {
		return nil, true, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, true, fmt.Errorf("lock %s: %w", quote(file.Name()), err)
	}
	return &life{file}, crashed, nil
}

// abandoned reports whether nobody holds the file, and removes it then.
func abandoned(name string) (bool, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // its process has just ended
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	switch err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("lock %s: %w", quote(name), err)
	}
	if err := os.Remove(name); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, nil
}

// end says that the process was told to end.
func (l *life) end() { os.Remove(l.file.Name()) }

// forgottenUntil is the first second in which no evidence can have been created
// that a process which crashed before now has seen. A creation time has whole seconds.
func forgottenUntil(now time.Time) time.Time { return now.Truncate(time.Second).Add(time.Second) }
