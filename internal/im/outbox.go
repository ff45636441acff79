package im

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// maxParcel is how many bytes go to one node in one piece, but for a record that is larger.
const maxParcel = 128 << 10

// parcelPause is between two rounds of parcels.
const parcelPause = 4 * time.Millisecond

// outbox collects records for other nodes for a few milliseconds after earlier ones were sent, so that
// many go together when there is much to do and one goes at once when there is not: between nodes the
// price is by the piece, not by the byte.
type outbox struct {
	signal fabric.Signal
	lost   func(records int, err error)

	mu      sync.Mutex
	some    *sync.Cond
	parcels map[string]*parcel // by subject
	order   []string           // subjects of parcels, oldest first
	closed  bool
	running sync.WaitGroup
}

// parcel is the records that wait for one subject.
type parcel struct {
	data    []byte
	records int
}

func newOutbox(signal fabric.Signal, lost func(records int, err error)) *outbox {
	o := &outbox{signal: signal, lost: lost, parcels: map[string]*parcel{}}
	o.some = sync.NewCond(&o.mu)
	o.running.Go(o.run)
	return o
}

// add puts a record, which write appends, into the next parcel for a subject.
func (o *outbox) add(subject string, write func(dst []byte) []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.parcels[subject]
	if p == nil {
		p = &parcel{}
		o.parcels[subject] = p
		o.order = append(o.order, subject)
	}
	at := len(p.data)
	p.data = write(append(p.data, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(p.data[at:], uint32(len(p.data)-at-4))
	p.records++
	if at > 0 && len(p.data) > maxParcel { // a large one goes alone, and what is before it first
		next := &parcel{data: append([]byte{}, p.data[at:]...), records: 1}
		o.publish(subject, &parcel{data: p.data[:at:at], records: p.records - 1})
		o.parcels[subject] = next
	}
	o.some.Signal()
}

// publish sends a parcel. The caller holds o.mu, which keeps the order.
func (o *outbox) publish(subject string, p *parcel) {
	if err := o.signal.Publish(context.Background(), subject, p.data); err != nil {
		o.lost(p.records, err)
	}
}

func (o *outbox) run() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		for len(o.order) == 0 && !o.closed {
			o.some.Wait()
		}
		if len(o.order) == 0 {
			return
		}
		for _, subject := range o.order {
			o.publish(subject, o.parcels[subject])
		}
		o.order = o.order[:0]
		clear(o.parcels)
		if !o.closed {
			o.mu.Unlock()
			time.Sleep(parcelPause)
			o.mu.Lock()
		}
	}
}

// close sends what waits and ends.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.some.Broadcast()
	o.running.Wait()
}

// eachRecord calls f with the records of a parcel. It returns false when the parcel is damaged.
func eachRecord(data []byte, f func(record []byte) bool) bool {
	for len(data) > 0 {
		if len(data) < 4 {
			return false
		}
		n := int(binary.BigEndian.Uint32(data))
		if n > len(data)-4 || !f(data[4:4+n:4+n]) {
			return false
		}
		data = data[4+n:]
	}
	return true
}
