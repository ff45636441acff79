package pusher

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/pusher/webhook"
	"github.com/parleyio/parley/internal/transport/websocket"
)

// room is a channel with the lock that guards it. Everything that concerns one channel
// happens under its lock, so all subscribers see one order of events.
type room struct {
	mu sync.Mutex
	protocol.Room
	gone bool // it became empty and left the table

	countSent  time.Time // when subscription_count was sent last
	countTimer bool      // a later one is on its way

	interest fabric.Subscription // to what other nodes publish, while there are subscribers here
	fresh    bool                // the hub's cache has the channel's last event, if there is one
	look     *look               // into the shared cache, under way
	looked   uint64              // number of the event that the last look gave to all, 0 when another came since
}

// tableShards spreads the channels of an app over independent locks.
const tableShards = 32

// roomTable finds rooms by channel. A room is in it while it has subscribers on any node or a
// caller holds its lock.
type roomTable struct {
	seed   maphash.Seed
	shards [tableShards]struct {
		mu    sync.RWMutex
		rooms map[string]*room
	}
}

func (t *roomTable) init() {
	t.seed = maphash.MakeSeed()
	for i := range t.shards {
		t.shards[i].rooms = make(map[string]*room)
	}
}

func (t *roomTable) shard(channel string) int {
	return int(maphash.String(t.seed, channel) % tableShards)
}

// acquire returns the channel's room, locked, making it when there is none.
func (t *roomTable) acquire(channel string) *room {
	s := &t.shards[t.shard(channel)]
	for {
		s.mu.Lock()
		r := s.rooms[channel]
		if r == nil {
			r = &room{Room: *protocol.NewRoom(channel)}
			s.rooms[channel] = r
		}
		s.mu.Unlock()
		r.mu.Lock()
		if !r.gone {
			return r
		}
		r.mu.Unlock() // it became empty meanwhile; the next look makes a new one
	}
}

// find returns the channel's room, locked, or nil when it has no subscriber anywhere.
func (t *roomTable) find(channel string) *room {
	s := &t.shards[t.shard(channel)]
	s.mu.RLock()
	r := s.rooms[channel]
	s.mu.RUnlock()
	if r == nil {
		return nil
	}
	r.mu.Lock()
	if r.gone {
		r.mu.Unlock()
		return nil
	}
	return r
}

// release unlocks a room and drops it from the table when it is empty.
func (t *roomTable) release(r *room) {
	defer r.mu.Unlock()
	if !r.Empty() {
		return
	}
	r.gone = true
	s := &t.shards[t.shard(r.Channel)]
	s.mu.Lock()
	delete(s.rooms, r.Channel)
	s.mu.Unlock()
}

// each calls f for every room, locked, in no order.
func (t *roomTable) each(f func(*room)) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		rooms := make([]*room, 0, len(s.rooms))
		for _, r := range s.rooms {
			rooms = append(rooms, r)
		}
		s.mu.RUnlock()
		for _, r := range rooms {
			r.mu.Lock()
			if !r.gone && !r.Empty() { // one that a caller made just now may be empty
				f(r)
			}
			r.mu.Unlock()
		}
	}
}

// join subscribes a client to a channel and tells everybody concerned.
func (r *realm) join(c *client, channel string, member *protocol.Member) {
	if already := c.session.Subscription(channel); already != nil {
		room := r.rooms.acquire(channel)
		c.reply(succeeded(&room.Room))
		r.rooms.release(room)
		return
	}
	room := r.rooms.acquire(channel)
	defer r.rooms.release(room)
	if max := r.policy.Load().MaxMembers; room.Full(member, max) {
		c.apply(protocol.RoomFull(channel, max))
		return
	}
	subscription := &protocol.Subscription{Session: &c.session, Member: member}
	change := room.Join(subscription)
	c.session.Add(subscription)
	r.tellRoom(room, change)
	r.stats.subscribed(room.Kind)
	if room.Kind.Signed() {
		c.authorized.Store(true)
	}
	c.reply(succeeded(&room.Room))
	if change.Occupied {
		r.emitChange(room, webhook.ChannelOccupied(channel))
	}
	if room.Kind.Has(protocol.Cached) {
		r.sendCached(c, room)
	}
	if m := change.Member; m != nil {
		r.broadcast(room, websocket.NewFrame(protocol.MemberAdded(channel, *m)), &c.session)
		r.emitChange(room, webhook.MemberAdded(channel, m.UserID))
	}
	r.countChanged(room)
}

func succeeded(room *protocol.Room) []byte {
	if room.Kind.Has(protocol.Presence) {
		return protocol.PresenceSucceeded(room.Channel, room.MemberList())
	}
	return protocol.SubscriptionSucceeded(room.Channel)
}

// sendCached gives a new subscriber the channel's last event.
func (r *realm) sendCached(c *client, room *room) {
	if r.hub.cluster != nil && !room.fresh {
		r.fetchCached(c, room)
		return
	}
	payload, first := r.cache.read(room.Channel)
	if payload != nil {
		c.reply(payload)
		return
	}
	c.reply(protocol.CacheMiss(room.Channel))
	if first {
		r.emit(room, webhook.CacheMiss(room.Channel))
	}
}

// leave ends a subscription and tells everybody concerned.
func (r *realm) leave(c *client, subscription *protocol.Subscription) {
	room := r.rooms.acquire(subscription.Room.Channel)
	defer r.rooms.release(room)
	change := room.Leave(subscription)
	c.session.Remove(subscription)
	room.look.remove(c)
	r.tellRoom(room, change)
	r.stats.unsubscribed(room.Kind)
	if m := change.Member; m != nil {
		r.broadcast(room, websocket.NewFrame(protocol.MemberRemoved(room.Channel, m.UserID)), nil)
		r.emitChange(room, webhook.MemberRemoved(room.Channel, m.UserID))
	}
	if change.Vacated {
		r.emitChange(room, webhook.ChannelVacated(room.Channel))
	}
	r.countChanged(room)
}

// Above countThreshold subscribers, the count is told at most once in countInterval, as at
// Pusher.
const (
	countThreshold = 100
	countInterval  = 5 * time.Second
)

// countChanged tells the number of subscribers, now or when the last telling is long
// enough ago. The room is locked.
func (r *realm) countChanged(room *room) {
	if !r.app.Load().EnableSubscriptionCount || room.Kind.Has(protocol.Presence) || room.Kind.Has(protocol.UserOnly) {
		return
	}
	// The end is told at once: the room may be gone when the timer goes off.
	if room.countTimer && room.Count() > 0 {
		return
	}
	wait := countInterval - r.hub.options.Now().Sub(room.countSent)
	if room.Count() <= countThreshold || wait <= 0 {
		r.sendCount(room)
		return
	}
	room.countTimer = true
	time.AfterFunc(wait, func() {
		room.mu.Lock()
		defer room.mu.Unlock()
		room.countTimer = false
		if !room.gone {
			r.sendCount(room)
		}
	})
}

func (r *realm) sendCount(room *room) {
	room.countSent = r.hub.options.Now()
	r.broadcast(room, websocket.NewFrame(protocol.SubscriptionCount(room.Channel, room.Count())), nil)
	r.emitChange(room, webhook.SubscriptionCount(room.Channel, room.Count()))
}
