package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// offlinePatience is how long what is published waits for a connection that was lost. After
	// that, until there is one again, it is lost at once.
	offlinePatience = 2 * time.Second
	// reconnectPause and reconnectPauseMax are the first and the longest pause between two
	// attempts to connect again; it doubles from one to the next.
	reconnectPause    = 50 * time.Millisecond
	reconnectPauseMax = time.Second
	// checkInterval is between two looks whether the connection still leads to the right server.
	checkInterval = time.Second
	// resubscribeAtOnce is how many channels one command names.
	resubscribeAtOnce = 500
)

// errMoved says that another server has the hash slot, or is the master.
var errMoved = errors.New("another server has taken over")

// bus is a connection for signals, and for what wakes those who wait for something in the store.
// It both publishes and subscribes, so that the server takes all of it in one order and both
// ends are at the same server. It is apart from the connection for commands, so that a large
// value does not stand in the way of a small message.
type bus struct {
	provider  *Provider
	base      string // in a cluster: whose hash slot says which server; otherwise empty
	outbox    *outbox
	channels  *channels
	connected atomic.Bool
	settled   atomic.Int64 // UnixNano after which all publishers know of the patterns here

	// What follows is used by run alone.
	exchange     exchange
	interruption fabric.Interruption
	lostAt       time.Time // since when there has been no connection
}

func newBus(p *Provider, base string) *bus {
	b := &bus{provider: p, base: base, outbox: newOutbox(), lostAt: time.Now()}
	b.channels = newChannels(b)
	b.exchange = exchange{bus: b, interests: map[string]interest{}}
	return b
}

// isConnected says whether there is a connection. One that has just been lost may not have been
// noticed.
func (b *bus) isConnected() bool { return b.connected.Load() }

// wire is one connection of a bus.
type wire struct {
	rueidis.DedicatedClient
	release func()
	ended   <-chan error
	moved   chan struct{} // holds one token when the server ended a subscription unasked
	place   string        // of the master, behind Sentinels
}

func (w *wire) close() {
	w.DedicatedClient.Close()
	w.release()
}

// run connects, again and again, and sends what waits, until the provider is closed.
func (b *bus) run() {
	life := b.provider.life
	pause := reconnectPause
	for again := false; life.Err() == nil; {
		w, err := b.connect()
		if err == nil {
			pause = reconnectPause
			b.begin(again)
			again = true
			err = b.serve(w)
			b.connected.Store(false)
			b.lostAt = time.Now()
			w.close()
		}
		if life.Err() != nil {
			break
		}
		if _, tell := b.interruption.Failed(); tell {
			b.provider.options.Logger.Warn("signal connection lost, trying on",
				slog.String("channels", b.base), slog.Any("error", err))
		}
		b.offline(pause)
		pause = min(2*pause, reconnectPauseMax)
	}
	for _, m := range b.outbox.take(nil) {
		m.lose(b.provider, fabric.ErrClosed)
	}
}

// begin tells everybody that the subscriptions are in effect, and may have missed something.
func (b *bus) begin(again bool) {
	b.connected.Store(true)
	if lasted, was := b.interruption.Over(); was {
		b.provider.options.Logger.Info("signal connection is back", slog.String("channels", b.base),
			slog.Duration("after", lasted.Round(time.Millisecond)))
	}
	b.settled.Store(time.Now().Add(interestTime).UnixNano())
	b.channels.wakeAll()
	if again {
		b.channels.reconnected()
	}
}

// connect returns a connection with all subscriptions in effect.
func (b *bus) connect() (*wire, error) {
	p := b.provider
	w := &wire{moved: make(chan struct{}, 1), place: b.master()}
	w.DedicatedClient, w.release = p.client.Dedicate()
	w.ended = w.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: func(m rueidis.PubSubMessage) { b.channels.receive(m.Channel, m.Message) },
		OnSubscription: func(s rueidis.PubSubSubscription) {
			if s.Kind == "sunsubscribe" && !b.channels.left(s.Channel) {
				select {
				case w.moved <- struct{}{}:
				default:
				}
			}
		},
	})
	ctx, cancel := context.WithTimeout(p.life, operationTimeout)
	defer cancel()
	err := b.check(ctx, w)
	if err == nil {
		err = b.resubscribe(ctx, w)
	}
	if err != nil {
		w.close()
		return nil, fmt.Errorf("connect for signals: %w", err)
	}
	return w, nil
}

// check asks whether the connection leads to the server that it should. The first command on
// it also says which one that is.
func (b *bus) check(ctx context.Context, w *wire) error {
	if b.base != "" {
		return w.Do(ctx, w.B().Exists().Key(b.base).Build()).Error()
	}
	if b.master() != w.place {
		return errMoved
	}
	return w.Do(ctx, w.B().Ping().Build()).Error()
}

// master is the address of the master that the Sentinels name, empty without them.
func (b *bus) master() string {
	if b.provider.options.SentinelMaster == "" {
		return ""
	}
	return slices.Collect(maps.Keys(b.provider.client.Nodes()))[0]
}

func (b *bus) resubscribe(ctx context.Context, w *wire) error {
	var commands rueidis.Commands
	for names := range slices.Chunk(b.channels.begin(), resubscribeAtOnce) {
		commands = append(commands, w.B().Ssubscribe().Channel(names...).Build())
	}
	for _, result := range w.DoMulti(ctx, commands...) {
		if err := result.Error(); err != nil {
			return err
		}
	}
	return nil
}

// serve sends what waits, until the connection is of no use any more.
func (b *bus) serve(w *wire) error {
	ticker := time.NewTicker(checkInterval)
	defer ticker.Stop()
	var spare []outgoing // two slices take turns
	for {
		select {
		case <-b.provider.life.Done():
			return fabric.ErrClosed
		case err := <-w.ended:
			if err == nil {
				err = errMoved
			}
			return err
		case <-w.moved:
			return errMoved
		case <-ticker.C:
			if err := b.check(b.provider.life, w); err != nil {
				return err
			}
		case <-b.outbox.wake:
			queue := b.outbox.take(spare)
			if err := b.exchange.send(w, queue); err != nil {
				return err
			}
			if spare = queue; cap(spare) > maxSpare {
				spare = nil
			}
		}
	}
}

// offline waits before the next attempt to connect. Changes of subscriptions are noted for when
// there is a connection; frames wait for offlinePatience.
func (b *bus) offline(wait time.Duration) {
	until := time.NewTimer(wait)
	defer until.Stop()
	patience := time.NewTimer(time.Until(b.lostAt.Add(offlinePatience)))
	defer patience.Stop()
	for impatient := false; ; {
		if impatient {
			for _, m := range b.outbox.take(nil) {
				m.abandon(b.provider, errOffline)
			}
		}
		wake := b.outbox.wake
		if !impatient {
			wake = nil // it is taken when there is a connection
		}
		select {
		case <-until.C:
			b.outbox.notify() // for what still waits
			return
		case <-patience.C:
			impatient = true
		case <-wake:
		}
	}
}

// errOffline says that there has been no connection for a while.
var errOffline = fmt.Errorf("%w: no connection for signals", fabric.ErrUnavailable)

// listen has wake called for what comes on a channel, and whenever something may have been
// missed, until stop is called. It must not wait.
func (b *bus) listen(channel string, wake func(text string)) (stop func()) {
	l := &listener{wake: wake}
	b.outbox.control(outgoing{
		change: func() (string, change) { return b.channels.listen(channel, l) },
		done: func(_ int, err error) {
			if err == nil {
				wake("")
			}
		},
	})
	return func() {
		b.outbox.control(outgoing{change: func() (string, change) { return b.channels.unlisten(channel, l) }})
	}
}
