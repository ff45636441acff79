package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
)

// fatalError holds the first error that the engine called fatal. The engine expects its
// logger to end the process then; ours must not, so Start and Health tell of it.
type fatalError struct {
	mu  sync.Mutex
	err error
}

func (f *fatalError) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *fatalError) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// logAdapter is the engine's logger: it writes to slog and keeps the first fatal error.
type logAdapter struct {
	logger *slog.Logger
	fatal  *fatalError
	hidden *strings.Replacer
	said   *repeats
	advice string // what to do when the server switches its store off
	// removed is set when it says that it was taken out of the cluster, which switches its
	// store off as well.
	removed atomic.Bool
}

func newLogAdapter(logger *slog.Logger, fatal *fatalError, advice string) *logAdapter {
	return &logAdapter{
		logger: logger, fatal: fatal, hidden: strings.NewReplacer(), advice: advice,
		said: &repeats{logger: logger, kinds: map[string]*repeat{}},
	}
}

// hide keeps secrets out of the log. The server does write the URL of a route in places, and
// the password is a part of it.
func (a *logAdapter) hide(secrets []string) {
	var pairs []string
	for _, secret := range secrets {
		pairs = append(pairs, secret, "[hidden]")
	}
	a.hidden = strings.NewReplacer(pairs...)
}

// message is what the engine says, as an attribute.
func (a *logAdapter) message(format string, values []any) slog.Attr {
	return slog.String("message", a.hidden.Replace(fmt.Sprintf(format, values...)))
}

// Noticef implements server.Logger. What the engine finds worth a notice is detail here.
func (a *logAdapter) Noticef(format string, values ...any) {
	a.logger.Debug("engine", a.message(format, values))
}

// Warnf implements server.Logger.
func (a *logAdapter) Warnf(format string, values ...any) {
	a.said.write(slog.LevelWarn, kindOf(slog.LevelWarn, format, values), a.message(format, values))
}

// switchedOff is a part of what the server says when it can no longer write, and takenOut of
// that when it was taken out of the cluster.
const (
	switchedOff = "will be DISABLED"
	takenOut    = "our server was removed from the cluster"
)

// Errorf implements server.Logger. What an operator must do is said as soon as it is known,
// whether or not somebody asks for the node's health.
func (a *logAdapter) Errorf(format string, values ...any) {
	a.said.write(slog.LevelError, kindOf(slog.LevelError, format, values), a.message(format, values))
	if strings.Contains(format, takenOut) {
		a.removed.Store(true)
	}
	if strings.Contains(format, switchedOff) {
		a.logger.Error("the store is off since a write failed; channels go on; " + a.advice)
	}
}

// Fatalf implements server.Logger. It returns; the engine is then half started at best.
func (a *logAdapter) Fatalf(format string, values ...any) {
	message := a.message(format, values)
	a.fatal.set(errors.New(message.Value.String()))
	a.logger.Error("engine", message, slog.Bool("fatal", true))
}

// Debugf implements server.Logger.
func (a *logAdapter) Debugf(format string, values ...any) {
	a.logger.Debug("engine", a.message(format, values))
}

// Tracef implements server.Logger. Tracing prints payloads and is never switched on.
func (a *logAdapter) Tracef(string, ...any) {}
