package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
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

// usual are parts of what the engine says whenever a node starts or another one goes. It is worth
// a warning when that goes on.
var usual = []string{
	"Error trying to connect to route",
	"Waiting for routing to be established",
	"JetStream has not established contact with a meta leader",
	"JetStream is not current with the meta leader",
}

// details are parts of what the engine warns of whenever a node starts after a kill, and when one
// stops: files that it did not write to the end, which it makes anew from others; and the state
// of its metadata, which it writes, if that takes less than a second.
var details = []string{
	"Stream state outdated, ",
	"TTL state is outdated; attempting to recover",
	"Recovering stream state from index errored: prior state file",
	"Metalayer blocking snapshot starting",
	"Metalayer blocking snapshot took 0.",
}

func hasAny(text string, parts []string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
}

// complain writes a warning or an error, and no more than a detail where nothing is wrong.
func (a *logAdapter) complain(level slog.Level, format string, values []any) {
	message, kind := a.message(format, values), kindOf(level, format, values)
	switch text := message.Value.String(); {
	case hasAny(text, details):
		a.logger.Debug("engine", message)
	case hasAny(text, usual):
		a.said.writeLater(kind, message)
	default:
		a.said.write(level, kind, message)
	}
}

// Warnf implements server.Logger.
func (a *logAdapter) Warnf(format string, values ...any) { a.complain(slog.LevelWarn, format, values) }

// switchedOff is a part of what the server says when it can no longer write, and takenOut of
// that when it was taken out of the cluster.
const (
	switchedOff = "will be DISABLED"
	takenOut    = "our server was removed from the cluster"
)

// Errorf implements server.Logger. What an operator must do is said as soon as it is known,
// whether or not somebody asks for the node's health.
func (a *logAdapter) Errorf(format string, values ...any) {
	a.complain(slog.LevelError, format, values)
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
