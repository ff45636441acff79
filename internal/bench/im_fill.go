package bench

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"sync"
	"time"
)

// fill sends as many messages to each channel as the configuration says, and waits until all are
// acknowledged. It goes around the channels, so that the messages of one are spread over the logs.
// Refusals are counted; that an answer is missing is an error.
func (r *imRun) fill(ctx context.Context, server *process) (begun, ended usage, err error) {
	if begun, err = server.usage(); err != nil {
		return begun, ended, err
	}
	stop := r.progress.during(func() string {
		return fmt.Sprintf("%d of %d messages acknowledged", r.acked.Load(), r.cfg.Channels*r.cfg.Fill)
	})
	r.from, r.to = r.clock.now(), math.MaxInt64
	var reading, sending sync.WaitGroup
	for i, c := range r.conns {
		s := &imSender{run: r, conn: c, slots: make(chan struct{}, r.cfg.Window), at: map[uint32]int64{}, number: i}
		reading.Go(s.read)
		sending.Go(func() { s.fill(ctx) })
	}
	sending.Wait()
	stop()
	to := r.clock.now()
	if ended, err = server.usage(); err != nil {
		return begun, ended, err
	}
	r.close()
	reading.Wait()
	r.to = to
	switch answered := r.answered(); {
	case ctx.Err() != nil:
		err = ctx.Err()
	case answered < int64(r.cfg.Channels*r.cfg.Fill):
		err = fmt.Errorf("only %d of %d messages were answered", answered, r.cfg.Channels*r.cfg.Fill)
	}
	return begun, ended, err
}

// answered is how many messages were acknowledged or refused.
func (r *imRun) answered() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.acked.Load()
	for _, count := range r.refused {
		n += count
	}
	return n
}

// fill sends to the sender's share of the channels, and waits for the answers.
func (s *imSender) fill(ctx context.Context) {
	payload := make([]byte, s.run.cfg.Payload)
	channels := s.channels()
	seq := uint32(0)
	for range s.run.cfg.Fill {
		for _, channel := range channels {
			seq++
			if !s.sendOne(ctx, seq, channel, payload, 0) {
				return
			}
		}
	}
	late := time.NewTimer(cmp.Or(s.run.cfg.ackTimeout, s.run.cfg.Timeout))
	defer late.Stop()
	for range cap(s.slots) { // all slots are free when all is answered
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return
		case <-late.C:
			return
		}
	}
}
