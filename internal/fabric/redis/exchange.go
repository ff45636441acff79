package redis

import (
	"strings"
	"time"

	"github.com/redis/rueidis"
)

const (
	// exchangeCommands and exchangeBytes bound what is sent before the answers are read.
	exchangeCommands = 8192
	exchangeBytes    = 4 << 20
	// interestTime is for how long it is taken for true that nobody subscribes to patterns.
	interestTime = 25 * time.Millisecond
	// maxInterests bounds the channels of patterns that are remembered. Beyond it all are
	// forgotten and learnt anew.
	maxInterests = 1024
)

// interest is what is known of a channel for patterns.
type interest struct {
	asked time.Time // before the server was asked
	there bool      // somebody subscribed
}

// exchange sends what waits in one go and reads the answers. It is used by one goroutine.
//
// Redis has no patterns on the channels of a shard. So each message goes to the channel of its
// subject, and besides to two that those with patterns subscribe to: that of its first token,
// and that of patterns which leave the first token open. It goes there only when somebody does,
// or when that was not asked within interestTime; each exchange asks.
type exchange struct {
	bus       *bus
	interests map[string]interest

	commands rueidis.Commands
	steps    []step
	asks     []string // channels of patterns that the last command asks for
	bytes    int
	began    time.Time
}

// step is what a command is for.
type step struct {
	item    int    // in the queue
	pattern string // the channel of patterns that the frame also goes to; empty otherwise
}

// send sends a queue, in pieces. After an error nothing of it is left to do.
func (x *exchange) send(w *wire, queue []outgoing) error {
	for len(queue) > 0 {
		n := x.build(w, queue)
		results := w.DoMulti(x.bus.provider.life, x.commands...)
		err := x.settle(queue[:n], results)
		clear(queue[:n])
		queue = queue[n:]
		if err != nil {
			for i := range queue {
				queue[i].abandon(x.bus.provider, err)
			}
			clear(queue)
			return err
		}
	}
	return nil
}

// build makes commands of the first items and returns how many they are.
func (x *exchange) build(w *wire, queue []outgoing) (n int) {
	clear(x.commands)
	x.commands, x.steps, x.asks, x.bytes = x.commands[:0], x.steps[:0], x.asks[:0], 0
	x.began = time.Now()
	if len(x.interests) > maxInterests {
		clear(x.interests)
	}
	for n < len(queue) && len(x.commands) < exchangeCommands && x.bytes < exchangeBytes {
		x.add(w, n, &queue[n])
		n++
	}
	if len(x.asks) > 0 {
		x.commands = append(x.commands, w.B().PubsubShardnumsub().Channel(x.asks...).Build())
	}
	if len(x.commands) == 0 { // nothing to tell, but somebody wants to know that all was sent
		x.commands = append(x.commands, w.B().Ping().Build())
	}
	return n
}

// add makes commands of one item.
func (x *exchange) add(w *wire, i int, m *outgoing) {
	m.gone()
	switch {
	case m.change != nil:
		name, change := m.change()
		switch change {
		case subscribe:
			x.command(i, w.B().Ssubscribe().Channel(name).Build())
		case unsubscribe:
			x.bus.channels.asked(name)
			x.command(i, w.B().Sunsubscribe().Channel(name).Build())
		}
	case m.kind == frameAnswer || m.kind == frameNobody:
		f := frame{kind: m.kind, number: m.number}
		x.publish(w, step{item: i}, m.channel, f.encode(m.payload))
	case m.kind != 0:
		f := frame{kind: m.kind, sender: m.from.id, number: m.from.next(m)}
		x.publish(w, step{item: i}, m.channel, f.encode(m.payload))
		first, _, _ := strings.Cut(m.subject, ".")
		f.subject = m.subject
		for _, token := range [2]string{first, "*"} {
			if channel := m.from.patterns + token; x.wanted(channel) {
				x.publish(w, step{i, channel}, channel, f.encode(m.payload))
			}
		}
	}
}

func (x *exchange) publish(w *wire, s step, channel string, text []byte) {
	x.bytes += len(text)
	x.steps = append(x.steps, s)
	x.commands = append(x.commands, w.B().Spublish().Channel(channel).Message(rueidis.BinaryString(text)).Build())
}

func (x *exchange) command(item int, command rueidis.Completed) {
	x.steps = append(x.steps, step{item: item})
	x.commands = append(x.commands, command)
}

// wanted says whether a channel of patterns is to be served, and has it asked for when it is not.
func (x *exchange) wanted(channel string) bool {
	known, ok := x.interests[channel]
	if !ok || known.there || x.began.Sub(known.asked) > interestTime || x.bus.channels.has(channel) {
		return true
	}
	for _, asked := range x.asks {
		if asked == channel {
			return false
		}
	}
	x.asks = append(x.asks, channel)
	return false
}

// settle reads the answers. The error is that of the connection, or says that the server is no
// longer the right one.
func (x *exchange) settle(queue []outgoing, results []rueidis.RedisResult) (broken error) {
	for n, s := range x.steps {
		m := &queue[s.item]
		err := results[n].Error()
		if err != nil {
			m.err, broken = err, err
			continue
		}
		if m.change != nil {
			continue
		}
		count, _ := results[n].AsInt64() // is one
		m.receivers += int(count)
		if s.pattern != "" {
			x.interests[s.pattern] = interest{x.began, count > 0}
		}
	}
	if len(x.asks) > 0 {
		counts, err := results[len(x.steps)].AsIntMap()
		if err != nil {
			broken = err
		}
		for _, channel := range x.asks {
			x.interests[channel] = interest{x.began, err != nil || counts[channel] > 0}
		}
	}
	if len(x.steps) == 0 && len(x.asks) == 0 {
		broken = results[0].Error()
	}
	if broken != nil {
		clear(x.interests) // the next server may have others
	}
	for i := range queue {
		queue[i].settle(x.bus.provider, broken)
	}
	return broken
}
