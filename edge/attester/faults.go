//go:build faults

package main

// A clock that can be stepped, for the tests of what stands around the attester.
// Only a binary built with -tags faults has it, and only while WALLARM_GATE_FAULTS
// names a file: its one number is added to the wall clock, in seconds.

import (
	"errors"
	"io/fs"
	"log"
	"os"
	"strconv"
	"strings"
	"time"
)

func init() {
	log.Print("built with -tags faults: for tests only")
	file := os.Getenv("WALLARM_GATE_FAULTS")
	if file == "" {
		return
	}
	wallClock = func() time.Time {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return time.Now()
		}
		var seconds int64
		if err == nil {
			seconds, err = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		}
		if err != nil {
			log.Fatalf("WALLARM_GATE_FAULTS: %v", err)
		}
		return time.Now().Add(time.Duration(seconds) * time.Second)
	}
}
