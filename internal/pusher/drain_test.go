package pusher

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/transport/websocket"
)

// leaving is a client's connection that goes when it is told to, and tells after how long that was.
type leaving struct {
	client *client
	begin  time.Time
	ends   chan<- time.Duration
	t      *testing.T
}

func (l *leaving) Send(*websocket.Frame) bool { return true }
func (l *leaving) SetTimer(time.Duration)     {}
func (l *leaving) Idle() time.Duration        { return 0 }

func (l *leaving) Close(code int, reason string) {
	if code != protocol.CodeReconnect {
		l.t.Errorf("closed with %d %s", code, reason)
	}
	l.ends <- time.Since(l.begin)
	go l.client.closed()
}

// Clients that are sent away do not all come back at once.
func TestDrainIsSpread(t *testing.T) {
	const clients = 40
	for spread, step := range map[time.Duration]time.Duration{
		time.Minute:                    drainStep, // few clients do not keep the node for long
		clients * 4 * time.Millisecond: 4 * time.Millisecond,
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(t)
			ends := make(chan time.Duration, clients)
			for range clients {
				c := &leaving{client: s.hub.Connection(s.app, "").(handler).client, begin: time.Now(), ends: ends, t: t}
				c.client.open(c)
			}
			s.hub.Drain(t.Context(), spread)
			for i := range clients {
				if after := <-ends; after != time.Duration(i)*step {
					t.Errorf("spread over %v: number %d is sent away after %v", spread, i+1, after)
				}
			}
		})
	}
}
