package bench

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram has 128 linear buckets for each power of two, so that a percentile is at
// most 0.8 % too high.
const (
	subBits   = 7
	subCount  = 1 << subBits
	topShift  = 36 // 2^44 ns, nearly five hours; longer values count as that
	histSlots = (topShift + 2) * subCount
)

// histogram counts durations. Its methods may be called by several goroutines at once.
type histogram struct {
	slots [histSlots]atomic.Int64
	count atomic.Int64
	max   atomic.Int64 // ns
}

// record counts a duration in ns; a negative one counts as zero.
func (h *histogram) record(ns int64) {
	ns = max(ns, 0)
	h.slots[slotOf(ns)].Add(1)
	h.count.Add(1)
	for {
		seen := h.max.Load()
		if ns <= seen || h.max.CompareAndSwap(seen, ns) {
			return
		}
	}
}

func slotOf(ns int64) int {
	shift := max(bits.Len64(uint64(ns))-subBits-1, 0)
	if shift > topShift {
		return histSlots - 1
	}
	return shift*subCount + int(ns>>shift)
}

// highest returns the longest duration in ns that falls into a slot.
func highest(slot int) int64 {
	shift := max(slot/subCount-1, 0)
	return int64(slot-shift*subCount+1)<<shift - 1
}

// quantile returns the duration in ns that a fraction q of all recorded ones do not exceed.
func (h *histogram) quantile(q float64) int64 {
	rank := int64(q * float64(h.count.Load()))
	for slot := range h.slots {
		rank -= h.slots[slot].Load()
		if rank < 0 {
			return min(highest(slot), h.max.Load())
		}
	}
	return h.max.Load()
}

// Latency summarises measured durations, in milliseconds.
type Latency struct {
	Samples int64   `json:"samples"`
	P50     float64 `json:"p50_ms"`
	P95     float64 `json:"p95_ms"`
	P99     float64 `json:"p99_ms"`
	Max     float64 `json:"max_ms"`
}

// latency summarises the histogram; nil when nothing was recorded.
func (h *histogram) latency() *Latency {
	if h.count.Load() == 0 {
		return nil
	}
	return &Latency{
		Samples: h.count.Load(),
		P50:     milliseconds(h.quantile(0.50)),
		P95:     milliseconds(h.quantile(0.95)),
		P99:     milliseconds(h.quantile(0.99)),
		Max:     milliseconds(h.max.Load()),
	}
}

func milliseconds(ns int64) float64 { return float64(ns) / float64(time.Millisecond) }
