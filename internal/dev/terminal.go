package dev

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// maxLine bounds what is kept of a line that does not end.
const maxLine = 64 << 10

// terminal is written to by all nodes, whole lines at a time.
type terminal struct {
	mu   sync.Mutex
	out  io.Writer
	gone chan struct{} // closed when out takes nothing more
	once sync.Once     // of closing it
}

func newTerminal(out io.Writer) *terminal { return &terminal{out: out, gone: make(chan struct{})} }

// say writes a line of the cluster itself.
func (t *terminal) say(format string, args ...any) {
	t.raw("===== | " + fmt.Sprintf(format, args...) + "\n")
}

func (t *terminal) raw(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := io.WriteString(t.out, text); err != nil {
		t.once.Do(func() { close(t.gone) })
	}
}

// prefixed returns a writer that puts a prefix before each line.
func (t *terminal) prefixed(prefix string) io.Writer { return &lines{terminal: t, prefix: prefix} }

type lines struct {
	terminal *terminal
	prefix   string
	rest     []byte // of a line whose end has not come yet
}

// Write implements io.Writer. One goroutine may call it at a time.
func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	var whole []byte
	for {
		end := bytes.IndexByte(l.rest, '\n')
		if end < 0 && len(l.rest) < maxLine {
			break
		}
		if end < 0 {
			end = len(l.rest) - 1
		}
		whole = append(whole, l.prefix...)
		whole = append(whole, bytes.TrimRight(l.rest[:end+1], "\r\n")...)
		whole = append(whole, '\n')
		l.rest = append(l.rest[:0], l.rest[end+1:]...)
	}
	if len(whole) > 0 {
		l.terminal.raw(string(whole))
	}
	return len(p), nil
}
