package main

import (
	"io"
	"log"
	"log/slog"
	"sync"
	"time"
)

// The log: one JSON object a line. No line holds a key, a signature or a header
// value of a client.

func newLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}

// serverLog carries what net/http reports about single connections.
func serverLog(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelDebug) }

// throttle lets a few lines a second through and counts the others, so that a
// backend that is down does not fill the log at the rate of the requests. It is
// safe for concurrent use.
type throttle struct {
	elapsed func() time.Duration

	mu         sync.Mutex
	second     time.Duration
	used       int
	suppressed int
}

// throttledLines is how many lines a throttle lets through in one second.
const throttledLines = 5

// allow reports whether a line may be written now, and how many were left out
// since the last one that was.
func (t *throttle) allow() (ok bool, suppressed int) {
	second := t.elapsed().Truncate(time.Second)
	t.mu.Lock()
	defer t.mu.Unlock()
	if second != t.second {
		t.second, t.used = second, 0
	}
	if t.used >= throttledLines {
		t.suppressed++
		return false, 0
	}
	t.used++
	suppressed, t.suppressed = t.suppressed, 0
	return true, suppressed
}
