// Package bench generates load for a server that speaks the Pusher protocol or that of WuKongIM, and
// measures what comes back. It knows the server only through the wire: WebSocket subscribers, the
// signed HTTP API, client events, clients of messaging over TCP, and (on linux) the server's figures
// below /proc.
//
// The generator usually shares its machine with the server, so its own cost per received
// frame decides what can be measured at all: frames are cut and counted without being
// decoded, and only a sample of them is searched for its send time.
//
// It may import the standard library, gobwas/ws and gnet. It must never import another
// room of Parley: a benchmark that shares code with its subject shares its mistakes.
package bench

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Run executes the benchmark that cfg describes and reports what it measured. Progress of
// long steps is written to progress as lines of text.
//
// When ctx ends during a measurement the report covers the part that was measured and says
// so in Interrupted. When it ends earlier, or when too many connections fail, Run returns
// an error.
func Run(ctx context.Context, cfg Config, progress io.Writer) (*Report, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r, err := newRunner(cfg, progress)
	if err != nil {
		return nil, err
	}
	defer r.close()
	switch {
	case cfg.Idle:
		err = r.idle(ctx)
	case cfg.Drop:
		err = r.drop(ctx)
	case cfg.Churn:
		err = r.churn(ctx)
	default:
		err = r.throughput(ctx)
	}
	if err != nil {
		return nil, err
	}
	r.finishReport()
	return r.report, nil
}

// runner is the state of one run.
type runner struct {
	cfg      Config
	clock    clock
	dial     *dialer
	tally    *tally
	loops    []receiver // the subscribers' connections
	channels []string   // names, unique to this run
	members  []int64    // subscribers per channel, written atomically while connecting
	sockets  []*socket  // with Churn, by number, nil where the connect failed
	server   *process   // nil without process ids
	rss      int64      // bytes of resident memory of the server before the first connection
	progress *progress
	report   *Report
}

func newRunner(cfg Config, out io.Writer) (*runner, error) {
	clock := newClock()
	dial, err := newDialer(cfg)
	if err != nil {
		return nil, err
	}
	r := &runner{
		cfg: cfg, clock: clock, dial: dial,
		tally:    newTally(clock, cfg.Payload, cfg.sampleStride()),
		channels: channelNames(cfg),
		members:  make([]int64, cfg.Channels),
		progress: &progress{out: out},
		report:   newReport(cfg),
	}
	if len(cfg.PIDs) > 0 {
		r.server = &process{pids: cfg.PIDs}
		usage, err := r.server.usage()
		if err != nil {
			return nil, err
		}
		r.rss = usage.rss
	}
	r.loops, err = newReceivers(cfg.Loops)
	if err != nil {
		return nil, fmt.Errorf("start event loops: %w", err)
	}
	return r, nil
}

// channelNames makes names that no other run uses: events of another benchmark would be
// counted as deliveries of this one.
func channelNames(cfg Config) []string {
	names := make([]string, cfg.Channels)
	run := rand.Uint32()
	for i := range names {
		prefix := cfg.channelPrefix()
		if cfg.presence(i) {
			prefix = presencePrefix + prefix
		}
		names[i] = fmt.Sprintf("%s%08x-%d", prefix, run, i)
	}
	return names
}

// close drops every connection that is still open.
func (r *runner) close() {
	for _, l := range r.loops {
		l.close()
	}
	r.loops = nil
}

// finishReport copies what the receivers counted over the whole run.
func (r *runner) finishReport() {
	r.report.Closes, r.report.Errors = r.tally.losses()
	r.report.Pings = r.tally.pings.Load()
}

// clock counts nanoseconds from the start of the run, monotonically.
type clock struct{ start time.Time }

func newClock() clock { return clock{start: time.Now()} }

func (c clock) now() int64 { return int64(time.Since(c.start)) }

// sleepUntil waits until the clock shows due. It is false when ctx ended first. In an idle
// process it may be a millisecond late: the runtime's timers round up to that.
func (c clock) sleepUntil(ctx context.Context, due int64) bool {
	const short = int64(2 * time.Millisecond) // not worth a timer that ctx can interrupt
	ahead := due - c.now()
	if ahead > 0 && ahead <= short {
		time.Sleep(time.Duration(ahead))
	}
	if ahead > short {
		timer := time.NewTimer(time.Duration(ahead))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return ctx.Err() == nil
}
