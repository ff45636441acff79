package engine

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	// repeatFirst and repeatMax are the shortest and the longest time between two lines that
	// say the same; it doubles from one to the next.
	repeatFirst = 10 * time.Second
	repeatMax   = 10 * time.Minute
	// repeatQuiet is how long something was not said when it counts as over.
	repeatQuiet = 15 * time.Second
	// usualPatience is how long the engine may say what it says whenever a node starts or another one
	// goes, before that is worth a warning.
	usualPatience = 5 * time.Second
	// repeatKinds bounds what is remembered. Beyond it, lines are written as they come.
	repeatKinds = 64
)

// repeats keeps the engine from writing the same line again and again: while a node is down
// each of the others says so four times a second.
type repeats struct {
	logger *slog.Logger

	mu     sync.Mutex // guards kinds, and all of each
	kinds  map[string]*repeat
	closed bool
}

// repeat is something that the engine says again and again.
type repeat struct {
	level   slog.Level
	message slog.Attr // as it was said last
	first   time.Time
	next    time.Time     // when it is written again
	wait    time.Duration // between the last line and the next
	left    int           // not written since the last line
	total   int
	early   bool          // not written but as a detail
	quiet   time.Duration // after which it counts as over
	over    *time.Timer
}

// kindOf is what two lines have in common that say the same: all but numbers.
func kindOf(level slog.Level, format string, values []any) string {
	var kind strings.Builder
	fmt.Fprint(&kind, level, " ", format)
	for _, value := range values {
		switch value.(type) {
		case int, int32, int64, uint, uint32, uint64, float64, time.Duration:
		default:
			fmt.Fprint(&kind, "\x00", value)
		}
	}
	return kind.String()
}

// write writes a line, unless one of its kind was written not long ago.
func (r *repeats) write(level slog.Level, kind string, message slog.Attr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.again(kind, message) {
		r.log(level, message)
		r.remember(kind, repeat{level: level, message: message, wait: repeatFirst, quiet: repeatQuiet})
	}
}

// writeLater writes a line as a detail, and as a warning if it is still said after usualPatience.
func (r *repeats) writeLater(kind string, message slog.Attr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.again(kind, message) {
		r.log(slog.LevelDebug, message)
		r.remember(kind, repeat{level: slog.LevelWarn, message: message, wait: usualPatience, quiet: usualPatience, early: true})
	}
}

// remember keeps a kind of line that was written for the first time, unless there are too many.
func (r *repeats) remember(kind string, said repeat) {
	if len(r.kinds) >= repeatKinds || r.closed {
		return
	}
	said.first, said.total = time.Now(), 1
	said.next = said.first.Add(said.wait)
	said.over = time.AfterFunc(said.quiet, func() { r.end(kind) })
	r.kinds[kind] = &said
}

// again counts a line of a kind that was said before, writes it if it is time to, and tells
// whether it is one.
func (r *repeats) again(kind string, message slog.Attr) bool {
	said := r.kinds[kind]
	if said == nil {
		return false
	}
	said.message = message
	said.left++
	said.total++
	if now := time.Now(); !now.Before(said.next) {
		r.log(said.level, message, slog.Int("repeated", said.left))
		said.left, said.early, said.quiet = 0, false, repeatQuiet
		said.wait = min(2*said.wait, repeatMax)
		said.next = now.Add(said.wait)
	}
	said.over.Reset(said.quiet)
	return true
}

// end tells that a kind of line was not said any more.
func (r *repeats) end(kind string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	said := r.kinds[kind]
	if said == nil || r.closed {
		return
	}
	delete(r.kinds, kind)
	if said.total > 1 && !said.early {
		r.log(slog.LevelInfo, said.message, slog.Bool("over", true), slog.Int("repeated", said.left),
			slog.Int("total", said.total), slog.Duration("lasted", time.Since(said.first)-repeatQuiet))
	}
}

func (r *repeats) log(level slog.Level, attributes ...slog.Attr) {
	r.logger.LogAttrs(context.Background(), level, "engine", attributes...)
}

// close ends what runs. Lines are written as they come from then on.
func (r *repeats) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, said := range r.kinds {
		said.over.Stop()
	}
	clear(r.kinds)
}
