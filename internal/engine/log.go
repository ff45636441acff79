package engine

import (
	"fmt"
	"log/slog"
	"sync"
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
}

// Noticef implements server.Logger. What the engine finds worth a notice is detail here.
func (a *logAdapter) Noticef(format string, values ...any) {
	a.logger.Debug("engine", slog.String("message", fmt.Sprintf(format, values...)))
}

// Warnf implements server.Logger.
func (a *logAdapter) Warnf(format string, values ...any) {
	a.logger.Warn("engine", slog.String("message", fmt.Sprintf(format, values...)))
}

// Errorf implements server.Logger.
func (a *logAdapter) Errorf(format string, values ...any) {
	a.logger.Error("engine", slog.String("message", fmt.Sprintf(format, values...)))
}

// Fatalf implements server.Logger. It returns; the engine is then half started at best.
func (a *logAdapter) Fatalf(format string, values ...any) {
	err := fmt.Errorf(format, values...)
	a.fatal.set(err)
	a.logger.Error("engine", slog.String("message", err.Error()), slog.Bool("fatal", true))
}

// Debugf implements server.Logger.
func (a *logAdapter) Debugf(format string, values ...any) {
	a.logger.Debug("engine", slog.String("message", fmt.Sprintf(format, values...)))
}

// Tracef implements server.Logger. Tracing prints payloads and is never switched on.
func (a *logAdapter) Tracef(string, ...any) {}
