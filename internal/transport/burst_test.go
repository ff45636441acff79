package transport

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/transport/websocket"
)

// A client that asks for much at once, in one packet, gets all of it: the answers to its own
// messages may take more than what may wait for a consumer that does not read.
func TestBurstOfAnswers(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		const questions = 150
		answer := strings.Repeat("a", 10_000)
		reply := func(c *Conn, _ []byte) { c.Send(websocket.NewFrame([]byte(answer))) }
		r := newRig(t, m, setup{hooks: hooks{message: reply}, Options: Options{MaxQueue: 512 << 10}})
		c, _ := r.connect()
		c.send([]byte(strings.Repeat(string(text("?")), questions)))
		for range questions {
			c.expectText(answer)
		}
		if n := r.drops(DropSlowConsumer); n != 0 {
			t.Errorf("%s was counted %d times", DropSlowConsumer, n)
		}
	})
}

// A publisher that waits for the backlog, as the HTTP API does, floods a few subscribers at
// the speed of the slowest and loses none of them.
func TestFloodOfFewSubscribers(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		const events = 1500
		r := newRig(t, m, setup{Options: Options{MaxQueue: 1 << 20, MaxBacklog: 64 << 20}})
		f := websocket.NewFrame([]byte(strings.Repeat("e", 10_000)))
		clients := make([]*client, 3)
		sessions := make([]*session, len(clients))
		for i := range clients {
			clients[i], sessions[i] = r.connect()
		}
		published := make(chan error, 1)
		go func() {
			for range events {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				done, err := r.server.Admit(ctx)
				cancel()
				if err != nil {
					published <- err
					return
				}
				for _, s := range sessions {
					s.conn.Send(f)
				}
				done()
			}
			published <- nil
		}()
		for range events {
			for _, c := range clients {
				c.expectText(string(f.Payload()))
			}
		}
		if err := <-published; err != nil {
			t.Error(err)
		}
	})
}
