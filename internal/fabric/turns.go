package fabric

import (
	"context"
	"sync"
)

// Turns lets one caller at a time proceed for each key, in the order of their calls, for
// drivers. The zero value is ready.
type Turns struct {
	mu    sync.Mutex                 // guards lines
	lines map[string][]chan struct{} // by key: who has the turn, then who waits for it
}

// Take waits for the turn of key and returns what ends it. ErrFull when limit callers have it
// or wait already, and the error of a ctx that ended.
func (t *Turns) Take(ctx context.Context, key string, limit int) (end func(), err error) {
	mine := make(chan struct{})
	t.mu.Lock()
	if t.lines == nil {
		t.lines = map[string][]chan struct{}{}
	}
	line := t.lines[key]
	if len(line) >= limit {
		t.mu.Unlock()
		return nil, ErrFull
	}
	t.lines[key] = append(line, mine)
	if len(line) == 0 {
		close(mine)
	}
	t.mu.Unlock()
	end = sync.OnceFunc(func() { t.leave(key, mine) })
	select {
	case <-mine:
		return end, nil
	case <-ctx.Done():
		end()
		return nil, ctx.Err()
	}
}

// leave takes one out of the line; when it was the first, the next has the turn.
func (t *Turns) leave(key string, mine chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := t.lines[key]
	for i, each := range line {
		if each != mine {
			continue
		}
		line = append(line[:i:i], line[i+1:]...)
		if i == 0 && len(line) > 0 {
			close(line[0])
		}
		break
	}
	if len(line) == 0 {
		delete(t.lines, key)
		return
	}
	t.lines[key] = line
}
