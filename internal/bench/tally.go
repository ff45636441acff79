package bench

import (
	"maps"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
)

// Names under which losses are counted beside the numeric codes of the protocol.
const (
	closeAbnormal  = "1006"            // the connection ended without a close frame (RFC 6455 7.1.5)
	closeNoCode    = "1005"            // a close frame without a code
	closeMalformed = "malformed frame" // the receiver gave up
)

// tally is what all connections of a run counted. Everything in it may be used by several
// goroutines at once.
type tally struct {
	clock   clock
	payload int    // bytes of the data of an event; shorter frames are no deliveries
	stride  uint32 // deliveries to one latency sample, on average

	deliveries, bytes, pings atomic.Int64
	members                  atomic.Int64 // events of presence channels
	churning                 *churning    // nil in other modes; set before the first connection

	// Samples count when their event was due inside [from, to), in ns of the clock.
	from, to            atomic.Int64
	sinceDue, sinceSent histogram

	mu     sync.Mutex       // guards the following fields
	closes map[string]int64 // connections closed by the server, by code
	errors map[string]int64 // pusher:error events, by code
}

func newTally(clock clock, payload, stride int) *tally {
	t := &tally{
		clock: clock, payload: payload, stride: uint32(min(stride, math.MaxInt32)),
		closes: map[string]int64{}, errors: map[string]int64{},
	}
	t.from.Store(math.MaxInt64)
	t.to.Store(math.MaxInt64)
	return t
}

// sample records the latency of a delivery that was read at now.
func (t *tally) sample(due, sent, now int64) {
	if due < t.from.Load() || due >= t.to.Load() {
		return
	}
	t.sinceDue.record(now - due)
	t.sinceSent.record(now - sent)
}

func (t *tally) countClose(reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closes[reason]++
}

func (t *tally) countError(code int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.errors[strconv.Itoa(code)]++
}

// errorCount is the number of pusher:error events so far.
func (t *tally) errorCount() (n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range t.errors {
		n += v
	}
	return n
}

// losses returns copies of the counted closes and errors.
func (t *tally) losses() (closes, errors map[string]int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.closes), maps.Clone(t.errors)
}
