package pusher

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/pusher/webhook"
)

// The last events of cache channels are in a cache that all nodes share, and in the hub's own
// for channels that have subscribers here. The first subscriber on a node has the event looked
// up there; from then on the channel is followed, and the hub's own memory of it is fresh.

// look is a look into the shared cache that is under way. It is guarded by its room's lock.
type look struct {
	clients []*client // who waits for the result
}

// remove takes out a client that has left. There may be no look.
func (l *look) remove(c *client) {
	if l != nil {
		l.clients = slices.DeleteFunc(l.clients, func(waiting *client) bool { return waiting == c })
	}
}

// cached notes that the channel's last event is in the hub's cache and went to every
// subscriber: what a look finds now is older. The room is locked.
func (r *room) cached() {
	r.fresh, r.look = r.interest != nil, nil
}

// got tells whether the event of that number, which comes live, went to every subscriber before:
// a look found it. The room is locked.
func (r *room) got(number uint64) bool {
	again := number != 0 && number == r.looked
	r.looked = 0
	return again
}

const (
	// cacheTimeout bounds one operation of the shared cache.
	cacheTimeout = 2 * time.Second
	// lookTimeout bounds a look with its repetitions. A cache that has lost its leader has another
	// within 2.5 s, or a few more when it loses that too.
	lookTimeout = 6 * time.Second
	lookPause   = 250 * time.Millisecond // between two tries
)

// cacheKey is the key of a channel in the shared cache.
func (r *realm) cacheKey(channel string) string {
	if key := r.id + "\x00" + channel; len(key) <= fabric.MaxKeySize {
		return key
	}
	sum := sha256.Sum256([]byte(channel))
	return r.id + "\x00\x00" + hex.EncodeToString(sum[:])
}

// What is before an event's frame text in the shared cache: when it expires, in milliseconds of
// Unix time, and its number.
const (
	expirySize = 8 // bytes
	headSize   = expirySize + numberSize
)

// missMark is in the shared cache after a miss was reported.
var missMark = make([]byte, headSize)

// shareCached puts a channel's last event into the shared cache, later if that does not take it.
func (r *realm) shareCached(channel string, number uint64, payload []byte) {
	o := r.hub.options
	value := binary.BigEndian.AppendUint64(make([]byte, 0, headSize+len(payload)),
		uint64(o.Now().Add(o.CacheTTL).UnixMilli()))
	value = append(binary.BigEndian.AppendUint64(value, number), payload...)
	key, err := r.cacheKey(channel), error(nil)
	if !r.hub.unshared.waits() {
		ctx, cancel := context.WithTimeout(context.Background(), cacheTimeout)
		defer cancel()
		if err = r.hub.cluster.Cache.Set(ctx, key, value, o.CacheTTL); err == nil {
			return
		}
		r.hub.metrics.rejected("cache_failed")
		o.Logger.Warn("event of a cache channel not cached yet", "app_id", r.id, "error", err)
	}
	if !r.hub.unshared.put(key, value) {
		r.hub.metrics.rejected("cache_backlog")
		o.Logger.Warn("event of a cache channel not cached", "app_id", r.id, "error", err)
	}
}

// lookCached returns the last events of channels from the shared cache, those that have one:
// without payload when it was marked as missing. That of a single channel is never stale.
func (r *realm) lookCached(channels ...string) (map[string]cachedEvent, error) {
	ctx, cancel := context.WithTimeout(context.Background(), cacheTimeout)
	defer cancel()
	keys := make([]string, len(channels))
	for i, channel := range channels {
		keys[i] = r.cacheKey(channel)
	}
	var values map[string][]byte
	var err error
	if len(keys) == 1 {
		var value []byte
		value, err = r.hub.cluster.Cache.Get(ctx, keys[0])
		if err == nil {
			values = map[string][]byte{keys[0]: value}
		} else if errors.Is(err, fabric.ErrNotFound) {
			err = nil
		}
	} else {
		values, err = r.hub.cluster.Cache.GetMany(ctx, keys)
	}
	if err != nil {
		r.hub.metrics.rejected("cache_failed")
		return nil, err
	}
	events := make(map[string]cachedEvent, len(values))
	for i, channel := range channels {
		if value, ok := values[keys[i]]; ok {
			events[channel] = r.decodeCached(value)
		}
	}
	return events, nil
}

// decodeCached reads what shareCached or reportMiss wrote.
func (r *realm) decodeCached(value []byte) cachedEvent {
	now := r.hub.options.Now()
	event := cachedEvent{expires: now.Add(r.hub.options.CacheTTL)}
	if len(value) <= headSize {
		return event
	}
	// The clock of the node that wrote it may be another.
	expires := time.UnixMilli(int64(binary.BigEndian.Uint64(value)))
	if expires.Before(event.expires) {
		event.expires = expires
	}
	if event.expires.Before(now) {
		event.expires = now.Add(time.Second)
	}
	var ok bool
	if _, event.data, ok = protocol.EventOf(value[headSize:]); ok {
		event.payload = value[headSize:]
		event.number = binary.BigEndian.Uint64(value[expirySize:])
	}
	return event
}

// reportMiss marks a channel as missing and tells whether this node was the first to do so.
func (r *realm) reportMiss(channel string) (first bool) {
	ctx, cancel := context.WithTimeout(context.Background(), cacheTimeout)
	defer cancel()
	return r.hub.cluster.Cache.CompareAndSwap(ctx, r.cacheKey(channel), nil, missMark, r.hub.options.CacheTTL) == nil
}

// fetchCached looks up a channel's last event in the shared cache, beside the event loop,
// and gives it to those who subscribe until then, unless a live event is earlier. The room
// is locked.
func (r *realm) fetchCached(c *client, room *room) {
	if room.look != nil {
		room.look.clients = append(room.look.clients, c)
		return
	}
	l := &look{clients: []*client{c}}
	if !r.hub.beside(func() { r.fetch(room, l) }) {
		r.hub.metrics.rejected("cache_busy") // they have no cached event until the next one
		return
	}
	room.look = l
}

// fetch is what fetchCached does beside the event loop.
func (r *realm) fetch(room *room, l *look) {
	ctx, cancel := context.WithTimeout(context.Background(), cacheTimeout)
	defer cancel()
	// What is published after the look must reach this node.
	_ = r.hub.cluster.Signal.Flush(ctx) // without a bus there is nothing to miss
	events, err := r.lookPatiently(room, l)
	event, there := events[room.Channel]
	known := err == nil
	first := known && !there && r.reportMiss(room.Channel)
	room.mu.Lock()
	defer room.mu.Unlock()
	if room.look != l {
		return // a live event came, or everybody left
	}
	room.look = nil
	if known {
		if event.expires.IsZero() {
			event.expires = r.hub.options.Now().Add(r.hub.options.CacheTTL)
		}
		r.cache.add(room.Channel, event)
		room.fresh, room.looked = room.interest != nil, event.number
	} else {
		event.payload, _ = r.cache.read(room.Channel) // better than nothing
	}
	if event.payload == nil {
		event.payload = protocol.CacheMiss(room.Channel)
	}
	for _, c := range l.clients {
		c.reply(event.payload)
	}
	if first {
		r.emit(room, webhook.CacheMiss(room.Channel))
	}
}

// lookPatiently looks again while the shared cache cannot be asked and somebody waits.
func (r *realm) lookPatiently(room *room, l *look) (events map[string]cachedEvent, err error) {
	for begin := time.Now(); ; r.hub.pause(lookPause) {
		events, err = r.lookCached(room.Channel)
		if err == nil || errors.Is(err, fabric.ErrClosed) || time.Since(begin) > lookTimeout || r.hub.ends() {
			return events, err
		}
		room.mu.Lock()
		waits := room.look == l && len(l.clients) > 0
		room.mu.Unlock()
		if !waits {
			return nil, err
		}
	}
}

// maxLooks bounds the looks that run beside the event loops.
const maxLooks = 256

// Wait returns when what runs beside the event loops has ended, which takes a few times
// cacheTimeout at most; nothing begins afterwards. It is for the end of the hub and may be
// called once.
func (h *Hub) Wait() {
	close(h.ending)
	for range maxLooks {
		h.looks <- struct{}{}
	}
}

// ends says whether the hub ends.
func (h *Hub) ends() bool {
	select {
	case <-h.ending:
		return true
	default:
		return false
	}
}

// pause waits, not beyond the end of the hub.
func (h *Hub) pause(d time.Duration) {
	select {
	case <-h.ending:
	case <-time.After(d):
	}
}

// beside runs f beside the event loop, unless too much runs there or the hub has ended.
func (h *Hub) beside(f func()) bool {
	select {
	case h.looks <- struct{}{}:
	default:
		return false
	}
	go func() {
		defer func() { <-h.looks }()
		f()
	}()
	return true
}
