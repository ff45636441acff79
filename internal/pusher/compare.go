package pusher

import (
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/pusher/webhook"
)

// Reported is what the hub needs of a ledger of webhooks; *webhook.Emitter has it.
type Reported interface {
	// Reported returns the channels of which webhooks were told something.
	Reported() []webhook.Place
	// Compare reports the difference between what was told of a channel and what is so.
	Compare(appID, channel string, occupied bool, members []string)
}

// Compare holds the channels that this node reports against what webhooks were told of them,
// and reports the difference. It is for when this node may have missed something: it became
// the one to report, it was paused, or it was cut off.
func (h *Hub) Compare() {
	if h.cluster == nil || h.cluster.Reported == nil {
		return
	}
	for _, r := range h.all() {
		if len(r.app.Load().Webhooks) > 0 {
			r.rooms.each(r.compare)
		}
	}
	for _, place := range h.cluster.Reported.Reported() {
		h.compareReported(place)
	}
}

// Holds tells whether a channel is occupied, as this node sees it, or with a user whether that
// is a member of it.
func (h *Hub) Holds(appID, channel, userID string) bool {
	r := h.find(appID)
	if r == nil {
		return false
	}
	room := r.rooms.find(channel)
	if room == nil {
		return false
	}
	defer r.rooms.release(room)
	if userID != "" {
		return room.HasAnywhere(userID)
	}
	return room.Count() > 0
}

// compareReported compares a channel that is known to webhooks and may be empty.
func (h *Hub) compareReported(place webhook.Place) {
	if !h.cluster.Owns(ChannelKey(place.AppID, place.Channel)) {
		return
	}
	h.mu.RLock()
	r := h.realms[place.AppID]
	if r == nil { // and none comes while it is compared
		h.cluster.Reported.Compare(place.AppID, place.Channel, false, nil)
	}
	h.mu.RUnlock()
	if r == nil {
		return
	}
	room := r.rooms.acquire(place.Channel)
	defer r.rooms.release(room)
	if room.Empty() {
		r.compare(room)
	}
}

// compare holds a room against what webhooks were told of it. The room is locked.
func (r *realm) compare(room *room) {
	if room.Kind.Has(protocol.UserOnly) || !r.hub.cluster.Owns(ChannelKey(r.id, room.Channel)) {
		return
	}
	var users []string
	for _, m := range room.MemberList() {
		users = append(users, m.UserID)
	}
	r.hub.cluster.Reported.Compare(r.id, room.Channel, room.Count() > 0, users)
}
