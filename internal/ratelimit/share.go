package ratelimit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// Cluster is what a Keyed needs to count together with those of other nodes.
type Cluster[K comparable] struct {
	// Nodes returns how many there are. It is called by Allow and must not wait.
	Nodes func() int
	// Append writes a key into a message, and Read reads it, without keeping text.
	Append func(message []byte, key K) []byte
	Read   func(text []byte) (K, error)
}

// Bounds of what is told.
const (
	maxQueued  = 1 << 16  // keys that wait to be told of
	maxMessage = 32 << 10 // bytes of a message, exceeded by at most one key
)

// messageVersion is the first byte of a message. Then for each key: its size and text, the
// amount, and the age of the window in milliseconds, numbers as uvarints.
const messageVersion = 1

// ErrMalformed says that a message from another node cannot be read.
var ErrMalformed = errors.New("malformed message of a rate limit")

// sharing is the part of a Keyed that tells other nodes what it counts.
type sharing[K comparable] struct {
	cluster Cluster[K]    // without functions when nothing is shared
	queue   []*entry[K]   // keys to tell of, in order
	wake    chan struct{} // holds one token while there are some
	untold  int           // keys that found the queue full
}

// Share has the Keyed count together with those of other nodes from now on, whose messages
// Tell writes and Hear reads. It returns a channel that has a token when there is something
// to tell.
func (k *Keyed[K]) Share(cluster Cluster[K]) (waiting <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	wake := make(chan struct{}, 1)
	k.sharing.cluster, k.sharing.wake = cluster, wake
	return wake
}

// used notes that a key was used. One that is far below its limit and of which no other node
// has told is kept to oneself: if that is so on all nodes, all together are below half of the
// limit.
func (s *sharing[K]) used(e *entry[K], limit int) {
	if s.cluster.Nodes == nil || e.told == e.own {
		return
	}
	if nodes := s.cluster.Nodes(); nodes > 1 && (e.others > 0 || e.own > limit/(2*nodes)) {
		s.put(e)
	}
}

func (s *sharing[K]) put(e *entry[K]) {
	switch {
	case e.queued:
		return
	case len(s.queue) == maxQueued:
		s.untold++ // it is tried again when the key is used again
		return
	}
	e.queued = true
	s.queue = append(s.queue, e)
	select {
	case s.wake <- struct{}{}:
	default: // there is one
	}
}

// Tell returns a message for all other nodes, nil when there is nothing to tell; until then it
// is to be called again. Untold counts uses of keys since the last call of which nothing is
// told because too many were to be told of.
func (k *Keyed[K]) Tell() (message []byte, untold int) { return k.tell(time.Now()) }

func (k *Keyed[K]) tell(now time.Time) (message []byte, untold int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := &k.sharing
	untold, s.untold = s.untold, 0
	done := 0
	var text []byte
	for ; done < len(s.queue) && len(message) < maxMessage; done++ {
		e := s.queue[done]
		e.queued = false
		n, age := e.tell(now, k.window)
		if n <= 0 && age <= 0 {
			continue // its window has ended
		}
		if message == nil {
			message = append(message, messageVersion)
		}
		text = s.cluster.Append(text[:0], e.key)
		message = append(binary.AppendUvarint(message, uint64(len(text))), text...)
		message = binary.AppendUvarint(message, uint64(n))
		message = binary.AppendUvarint(message, uint64(age.Milliseconds()))
	}
	rest := copy(s.queue, s.queue[done:])
	clear(s.queue[rest:]) // lets go of the entries
	s.queue = s.queue[:rest]
	return message, untold
}

// Hear counts what another node tells. The error wraps ErrMalformed; what comes before the
// fault counts.
func (k *Keyed[K]) Hear(message []byte) error { return k.hear(time.Now(), message) }

func (k *Keyed[K]) hear(now time.Time, message []byte) error {
	if len(message) == 0 || message[0] != messageVersion {
		return fmt.Errorf("%w: version", ErrMalformed)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for rest := message[1:]; len(rest) > 0; {
		text, n, age, after, ok := readTelling(rest)
		if !ok {
			return fmt.Errorf("%w: %d bytes left", ErrMalformed, len(rest))
		}
		rest = after
		key, err := k.sharing.cluster.Read(text)
		if err != nil {
			return fmt.Errorf("%w: key: %w", ErrMalformed, err)
		}
		if age >= k.window {
			continue // it ended on the way
		}
		e := k.entry(key)
		if answer := e.hear(now, n, age, k.window); answer || e.told < e.own {
			k.sharing.put(e)
		}
	}
	return nil
}

// readTelling reads what is told of one key.
func readTelling(b []byte) (key []byte, n int, age time.Duration, rest []byte, ok bool) {
	size, used := binary.Uvarint(b)
	if used <= 0 || size > uint64(len(b)-used) {
		return nil, 0, 0, nil, false
	}
	key, b = b[used:used+int(size)], b[used+int(size):]
	amount, used := binary.Uvarint(b)
	if used <= 0 || amount > math.MaxInt32 {
		return nil, 0, 0, nil, false
	}
	b = b[used:]
	milliseconds, used := binary.Uvarint(b)
	if used <= 0 || milliseconds > math.MaxInt32 {
		return nil, 0, 0, nil, false
	}
	return key, int(amount), time.Duration(milliseconds) * time.Millisecond, b[used:], true
}
