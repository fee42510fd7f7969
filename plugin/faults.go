//go:build faults

package main

// Faults on demand, for the tests of what stands around the plugin. Only a
// binary built with -tags faults has them, and only while WALLARM_GATE_FAULTS
// names a file. It is read each time the gate asks for the time, which is at
// least once for each request.

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
	"unsafe"
)

// faults is the content of the file, JSON. No file: no fault.
type faults struct {
	ClockSeconds      int64 // added to the wall clock, as by an operator: no time passes
	DelayMilliseconds int64 // each look at the clock takes that much longer
	Panic             bool  // in the verifier, where the gate contains it
	Crash             bool  // outside of a handler, where nothing does
}

func init() {
	log.Print("built with -tags faults: for tests only")
	file := os.Getenv("WALLARM_GATE_FAULTS")
	if file == "" {
		return
	}
	if now := time.Now(); step(now, -3600).Sub(now) != 0 || step(now, 3600).Round(0).Sub(now.Round(0)) != time.Hour {
		panic("package time has another layout than this file takes it to have")
	}
	shared = sync.OnceValue(func() *gate {
		g := newGate(func() time.Time { return faultyNow(file) })
		g.files.watch()
		return g
	})
}

func faultyNow(file string) time.Time {
	f := readFaults(file)
	if f.Crash {
		go panic("a fault on demand")
		select {}
	}
	if f.Panic && askedByVerifier() {
		panic("a fault on demand")
	}
	if f.DelayMilliseconds > 0 {
		time.Sleep(time.Duration(f.DelayMilliseconds) * time.Millisecond)
	}
	return step(time.Now(), f.ClockSeconds)
}

// readFaults reads the file. What it cannot read is a mistake of the test's.
func readFaults(file string) (f faults) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return f
	}
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		log.Fatalf("WALLARM_GATE_FAULTS: %v", err)
	}
	return f
}

// askedByVerifier reports whether the verifier asks for the time, or the gate.
func askedByVerifier() bool {
	callers := make([]uintptr, 8)
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers)])
	for {
		frame, more := frames.Next()
		if strings.Contains(frame.Function, "/evidence.(*Verifier).") {
			return true
		}
		if !more {
			return false
		}
	}
}

// step moves the wall clock of t and leaves its monotonic clock alone, as a
// step of the system's clock does. Package time has no function for that: the
// seconds stand above 30 bits of nanoseconds in the first word, where t has a
// monotonic reading.
func step(t time.Time, seconds int64) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) += uint64(seconds) << 30
	return t
}
