package bench

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progressInterval is the time between two lines of a long step.
const progressInterval = 2 * time.Second

// progress tells a person what a run is doing. Failures to write are ignored: progress is
// not a result.
type progress struct {
	mu  sync.Mutex // guards out
	out io.Writer
}

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// during repeats line while a step lasts. The caller must call the returned function once,
// which waits until the last line is written.
func (p *progress) during(line func() string) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(progressInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p.say("%s", line())
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}
