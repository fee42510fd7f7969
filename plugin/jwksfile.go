package main

// Keys from a file, shared by all configurations that name it. The file is read
// again every two seconds; the last good set stays in force while the file holds
// none, because keys that were trusted a moment ago beat an outage.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

const (
	keyFilePoll = 2 * time.Second
	maxKeyFile  = 64 << 10 // bytes, the limit of evidence.ParseKeySet
)

// keyFiles watches the key files of the process. It holds no file alive: a file
// that no configuration names any more is watched no more.
type keyFiles struct {
	now     func() time.Time
	metrics *metrics
	notice  func(line string)

	mu     sync.Mutex
	byPath map[string]weak.Pointer[keyFile]
}

// keyFile is one watched file.
type keyFile struct {
	path string
	set  atomic.Pointer[evidence.KeySet] // nil until the file was good once
	err  atomic.Pointer[string]          // of the last reading; nil: it was good

	mu      sync.Mutex
	content []byte // of the last reading
}

func (f *keyFile) keys() *evidence.KeySet { return f.set.Load() }

// problem says why there are no keys.
func (f *keyFile) problem() string {
	if p := f.err.Load(); p != nil {
		return *p
	}
	return "jwks_file " + quote(f.path) + " has not been read yet"
}

// open returns the watched file at path and has read it at least once.
func (k *keyFiles) open(path string) *keyFile {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.byPath[path].Value(); f != nil {
		return f
	}
	f := &keyFile{path: path}
	k.reload(f)
	if k.byPath == nil {
		k.byPath = make(map[string]weak.Pointer[keyFile])
	}
	k.byPath[path] = weak.Make(f)
	return f
}

// watch polls until the process ends.
func (k *keyFiles) watch() {
	go func() {
		for range time.Tick(keyFilePoll) {
			k.poll()
		}
	}()
}

// poll reads every watched file once.
func (k *keyFiles) poll() {
	k.mu.Lock()
	var files []*keyFile
	for path, pointer := range k.byPath {
		if f := pointer.Value(); f != nil {
			files = append(files, f)
		} else {
			delete(k.byPath, path)
		}
	}
	k.mu.Unlock()
	for _, f := range files {
		k.reload(f)
	}
}

// reload reads f. Every failed reading counts as one; only a change is said.
func (k *keyFiles) reload(f *keyFile) {
	f.mu.Lock()
	defer f.mu.Unlock()
	content, err := readRegular(f.path, maxKeyFile)
	if err == nil && f.set.Load() != nil && f.err.Load() == nil && bytes.Equal(content, f.content) {
		return
	}
	var set *evidence.KeySet
	if err == nil {
		set, err = evidence.ParseKeySet(content)
	}
	if err != nil {
		k.metrics.reloadFailure.Inc()
		line := fmt.Sprintf("jwks_file %s: %v", quote(f.path), err)
		if f.set.Load() != nil {
			line += "; the last good key set stays in force"
		}
		if old := f.err.Swap(&line); old == nil || *old != line {
			k.notice(line)
		}
		return
	}
	first := f.set.Swap(set) == nil
	f.err.Store(nil)
	f.content = content
	k.metrics.reloadSuccess.Inc()
	k.metrics.reloadTime.Set(float64(k.now().UnixMilli()) / 1000)
	if !first {
		k.notice(fmt.Sprintf("jwks_file %s: %d keys are in force now", quote(f.path), len(set.Keys())))
	}
}

// readRegular reads a file of at most limit bytes. It refuses what is no
// regular file: a pipe would hold up every request.
func readRegular(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, pathCause(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, pathCause(err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, pathCause(err)
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("larger than %d bytes", limit)
	}
	return content, nil
}

// pathCause takes the path off an error that is about to be given one.
func pathCause(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
