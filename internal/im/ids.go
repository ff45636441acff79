package im

import (
	"sync"
	"time"
)

// Message IDs are snowflakes: milliseconds since idEpoch, the node, a count.
const (
	idEpoch    = 1288834974657 // ms since 1970, as in the original
	idNodeBits = 10
	idStepBits = 12
	// MaxNodeID is the largest number of a node.
	MaxNodeID = 1<<idNodeBits - 1
)

// idMaker makes message IDs that grow on one node and that no other makes.
type idMaker struct {
	node int64

	mu   sync.Mutex
	last int64 // ms since idEpoch, never back
	step int64
}

func newIDMaker(node uint16) *idMaker { return &idMaker{node: int64(node) & MaxNodeID} }

// next returns an ID. When a millisecond has used up its count, or the clock goes back, it goes on
// from the newest time it has used.
func (m *idMaker) next(now time.Time) int64 {
	ms := now.UnixMilli() - idEpoch
	m.mu.Lock()
	defer m.mu.Unlock()
	if ms > m.last {
		m.last, m.step = ms, 0
	} else if m.step++; m.step >= 1<<idStepBits {
		m.last, m.step = m.last+1, 0
	}
	return m.last<<(idNodeBits+idStepBits) | m.node<<idStepBits | m.step
}
