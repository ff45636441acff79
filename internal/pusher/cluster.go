package pusher

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/parleyio/parley/internal/directory"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/pusher/webhook"
	"github.com/parleyio/parley/internal/transport/websocket"
)

// Cluster is what connects the hubs of several nodes.
type Cluster struct {
	// Node is the id of this node, as in the directory.
	Node string
	// Signal carries events to the nodes that have subscribers of their channel.
	Signal fabric.Signal
	// Set makes value this node's row in the directory; nil removes it.
	Set func(key, entry string, value []byte)
	// Flush tells the others at once what was set, where that cannot wait for a batch.
	Flush func()
	// Owns tells whether this node reports the changes of a key to webhooks.
	Owns func(key string) bool
	// Reported says what webhooks were told of, for Compare; nil for nobody knows.
	Reported Reported
	// Cache keeps the last events of cache channels beyond this node.
	Cache fabric.Cache
	// App returns an app that other nodes speak of.
	App func(id string) (*apps.App, bool)
}

// Subjects on the signal. Events of a channel go to events.<app>.<channel>, which a node
// subscribes to while it has subscribers, so no other node receives them.
const (
	subjectEvents    = "events."
	subjectTerminate = "terminate."
)

// Rows in the directory. The key of a channel is channelRow, app, 0, channel; its entries are
// the number of subscriptions under "", and for each member "m" and the user's id. The key of
// a user is userRow, app, 0, user with an entry "" while signed in. The key of an app is
// appRow and its id, with the number of connections under "".
const (
	channelRow = "c"
	userRow    = "u"
	appRow     = "a"

	countEntry   = ""
	memberPrefix = "m"
)

// ChannelKey is the key of a channel in the directory, by which its owner is found.
func ChannelKey(appID, channel string) string { return channelRow + appID + "\x00" + channel }

// Join connects the hub with others. It must be called before the first client connects.
func (h *Hub) Join(c Cluster) error {
	h.cluster = &c
	_, err := c.Signal.Subscribe(subjectTerminate+"*", func(m fabric.Message) {
		app, user, found := strings.Cut(string(m.Payload), "\x00")
		if !found {
			h.metrics.rejected("malformed_signal")
			return
		}
		h.terminate(app, user)
	}, fabric.SkipSelf())
	if err != nil {
		return fmt.Errorf("subscribe to terminations: %w", err)
	}
	return nil
}

func (h *Hub) terminateElsewhere(appID, userID string) {
	h.signal(subjectTerminate+fabric.Token(appID), []byte(appID+"\x00"+userID))
}

// signal sends without waiting; a loss is counted.
func (h *Hub) signal(subject string, payload []byte) {
	if err := h.cluster.Signal.Publish(context.Background(), subject, payload); err != nil {
		h.metrics.rejected("signal_failed")
		h.options.Logger.Debug("signal not sent", "subject", subject, "error", err)
	}
}

// eventsSubject is where a channel's events go.
func (r *realm) eventsSubject(channel string) string {
	return subjectEvents + fabric.Token(r.id) + "." + fabric.Token(channel)
}

// The first byte of an event between nodes.
const (
	fromBackend byte = 1 // then the length of the socket id that is left out, and that id
	fromClient  byte = 2
	forCache    byte = 3 // from a backend to a cache channel: its number, then as fromBackend
)

// numberSize is the size in bytes of the number of an event on a cache channel, random and not
// 0. By it, who got the event from the shared cache does not get it live once more.
const numberSize = 8

// sendElsewhere sends a frame's text to the nodes with subscribers of a channel, behind its
// source and what belongs to that.
func (r *realm) sendElsewhere(channel string, source byte, head, payload []byte) {
	r.stats.toNodes.Add(1)
	message := make([]byte, 0, 1+len(head)+len(payload))
	message = append(append(message, source), head...)
	r.hub.signal(r.eventsSubject(channel), append(message, payload...))
}

// sentEvent is an event of another node.
type sentEvent struct {
	source  byte
	number  uint64 // on a cache channel
	except  string
	payload []byte
}

// readEvent takes apart what sendElsewhere put together.
func readEvent(message []byte) (e sentEvent, ok bool) {
	if len(message) == 0 {
		return e, false
	}
	e.source, e.payload = message[0], message[1:]
	if e.source == forCache && len(e.payload) >= numberSize {
		e.number, e.payload = binary.BigEndian.Uint64(e.payload), e.payload[numberSize:]
	} else if e.source != fromBackend {
		return e, e.source == fromClient
	}
	if len(e.payload) == 0 || len(e.payload) < 1+int(e.payload[0]) {
		return e, false
	}
	end := 1 + int(e.payload[0])
	e.except, e.payload = string(e.payload[1:end]), e.payload[end:]
	return e, true
}

// publishElsewhere brings a backend's event to the other nodes and, on a cache channel, into
// the cache that they share, under the number that it returns. It may wait for the cache, as
// the HTTP API calls it.
func (r *realm) publishElsewhere(e Event, payload []byte) (number uint64) {
	source, head := fromBackend, make([]byte, 0, 32)
	if protocol.KindOf(e.Channel).Has(protocol.Cached) {
		number = max(1, rand.Uint64())
		source, head = forCache, binary.BigEndian.AppendUint64(head, number)
		r.shareCached(e.Channel, number, payload)
	}
	except := e.SocketID[:min(len(e.SocketID), 255)] // no socket has a longer one
	r.sendElsewhere(e.Channel, source, append(append(head, byte(len(except))), except...), payload)
	return number
}

// follow keeps the interest in a channel's events true to whether it has subscribers here.
// The room is locked.
func (r *realm) follow(room *room) {
	switch {
	case room.Len() > 0 && room.interest == nil:
		interest, err := r.hub.cluster.Signal.Subscribe(r.eventsSubject(room.Channel), func(m fabric.Message) {
			r.receive(room, m.Payload)
		}, fabric.SkipSelf())
		if err != nil {
			r.hub.metrics.rejected("signal_failed")
			r.hub.options.Logger.Error("no events from other nodes", "app_id", r.id, "error", err)
			return
		}
		room.interest = interest
	case room.Len() == 0 && room.interest != nil:
		_ = room.interest.Unsubscribe() // fails only when the signal is closed
		room.interest, room.fresh, room.look, room.looked = nil, false, nil, 0
	}
}

// receive delivers what another node published.
func (r *realm) receive(room *room, message []byte) {
	e, ok := readEvent(message)
	if !ok {
		r.hub.metrics.rejected("malformed_signal")
		return
	}
	r.stats.fromNodes.Add(1)
	room.mu.Lock()
	defer room.mu.Unlock()
	if e.source == forCache {
		if _, data, ok := protocol.EventOf(e.payload); ok {
			r.cache.write(room.Channel, data, e.payload)
			room.cached()
		}
		if room.got(e.number) {
			return
		}
	}
	r.broadcast(room, websocket.NewFrame(e.payload), r.session(e.except))
}

// tellRoom writes what a client's coming or going changed into the directory, and follows
// the channel's events while there are subscribers. The room is locked.
func (r *realm) tellRoom(room *room, change protocol.Change) {
	if r.hub.cluster == nil {
		return
	}
	r.follow(room)
	if room.Kind.Has(protocol.UserOnly) {
		return
	}
	key, set := ChannelKey(r.id, room.Channel), r.hub.cluster.Set
	m := change.Here
	if m != nil && !room.Has(m.UserID) {
		set(key, memberPrefix+m.UserID, nil)
	}
	// Members come after the channel is occupied and go before it is vacated, as on one node.
	set(key, countEntry, encodeCount(room.Len()))
	if m != nil && room.Has(m.UserID) {
		set(key, memberPrefix+m.UserID, append([]byte{memberVersion}, m.Info...))
	}
}

// memberVersion begins a member's row, so that one without user_info is not empty.
const memberVersion = 1

func encodeCount(n int) []byte {
	if n == 0 {
		return nil
	}
	return binary.AppendUvarint(nil, uint64(n))
}

func decodeCount(value []byte) int {
	n, _ := binary.Uvarint(value)
	return int(n)
}

func (r *realm) tellUser(id string, online bool) {
	if r.hub.cluster == nil {
		return
	}
	var value []byte
	if online {
		value = []byte{1}
	}
	r.hub.cluster.Set(userRow+r.id+"\x00"+id, "", value)
}

// Changed applies what the directory tells of other nodes. Clients hear of it as they hear of
// changes on their own node: both are transitions of this node's view.
func (h *Hub) Changed(changes []directory.Change) {
	for _, c := range changes {
		kind, rest := c.Key[:min(1, len(c.Key))], c.Key[min(1, len(c.Key)):]
		id, name, _ := strings.Cut(rest, "\x00")
		r := h.find(id)
		if r == nil && c.After == nil {
			continue // what goes from an app that was deleted
		}
		if r == nil {
			// Its record may come later; nobody can connect until then. The realm is there before
			// it is asked for, so that AppChanged finds it.
			unknown := &apps.App{ID: id}
			r = h.realm(unknown)
			if app, known := h.cluster.App(id); known {
				r.adopt(unknown, app)
			}
		}
		switch kind {
		case channelRow:
			r.channelChanged(name, c)
		case userRow:
			r.users.setElsewhere(c.Node, name, c.After != nil)
		case appRow:
			r.connectionsChanged(c.Node, decodeCount(c.After))
		}
	}
}

func (r *realm) channelChanged(channel string, c directory.Change) {
	room := r.rooms.acquire(channel)
	defer r.rooms.release(room)
	if c.Entry == countEntry {
		change := room.SetRemoteCount(c.Node, decodeCount(c.After))
		if change.Occupied {
			r.emitChange(room, webhook.ChannelOccupied(channel))
		}
		if change.Vacated {
			r.emitChange(room, webhook.ChannelVacated(channel))
		}
		r.countChanged(room)
		return
	}
	user := strings.TrimPrefix(c.Entry, memberPrefix)
	if c.Before != nil { // also when somebody went and came with another user_info meanwhile
		if m := room.RemoveRemoteMember(c.Node, user).Member; m != nil {
			r.broadcast(room, websocket.NewFrame(protocol.MemberRemoved(channel, user)), nil)
			r.emitChange(room, webhook.MemberRemoved(channel, user))
		}
	}
	if c.After == nil {
		return
	}
	member := &protocol.Member{UserID: user}
	if len(c.After) > 1 {
		member.Info = c.After[1:]
	}
	if m := room.AddRemoteMember(c.Node, member).Member; m != nil {
		r.broadcast(room, websocket.NewFrame(protocol.MemberAdded(channel, *m)), nil)
		r.emitChange(room, webhook.MemberAdded(channel, user))
	}
}
