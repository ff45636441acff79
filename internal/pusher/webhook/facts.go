package webhook

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
)

// fact is something that is so until a leave ends it: with a user, that the user is a member
// of the presence channel; without, that the channel is occupied.
type fact struct {
	appID, channel, userID string
}

// Place is a channel of an app.
type Place struct {
	AppID, Channel string
}

func (f fact) place() Place { return Place{f.appID, f.channel} }

// Keys in the ledger's collection. That of a fact is a hash, as channels and users may have
// any character and length; 18 bytes of it are too many for two facts to share.
const (
	factPrefix   = "fact/"
	outboxPrefix = "outbox/"
	factHash     = 18
)

func (f fact) key() string {
	sum := sha256.Sum256([]byte(f.appID + "\x00" + f.channel + "\x00" + f.userID))
	return factPrefix + base64.RawURLEncoding.EncodeToString(sum[:factHash])
}

// factValue is the content of a fact's document.
type factValue struct {
	AppID   string `json:"app"`
	Channel string `json:"channel"`
	UserID  string `json:"user,omitempty"`
}

func (f fact) encode() []byte { return encodeJSON(factValue{f.appID, f.channel, f.userID}) }

// errUnreadableFact says that a document of the ledger is none.
var errUnreadableFact = errors.New("unreadable document in the webhook ledger")

func decodeFact(value []byte) (fact, error) {
	var v factValue
	if json.Unmarshal(value, &v) != nil || v.AppID == "" || v.Channel == "" {
		return fact{}, errUnreadableFact
	}
	return fact{v.AppID, v.Channel, v.UserID}, nil
}

// facts is what is known of the ledger's facts: what the watch told, and what this node wrote
// and the watch has yet to tell.
type facts struct {
	mu       sync.Mutex
	byKey    map[string]*entry
	channels map[Place]map[string]*entry // by user
	gone     map[string]uint64           // revisions of own deletions that the watch has yet to tell
	writing  map[string]struct{}         // keys of the commit that is under way
	mark     uint64                      // revision of this node's outbox that the watch has told
}

type entry struct {
	fact
	revision uint64
}

func newFacts() *facts {
	return &facts{
		byKey:    make(map[string]*entry),
		channels: make(map[Place]map[string]*entry),
		gone:     make(map[string]uint64),
		writing:  make(map[string]struct{}),
	}
}

// revision returns that of a fact's document, 0 if there is none.
func (f *facts) revision(about fact) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.channels[about.place()][about.userID]; e != nil {
		return e.revision
	}
	return 0
}

// users returns whose presence on a channel was reported, in order; "" stands for the channel
// being occupied and comes first.
func (f *facts) users(place Place) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.channels[place]))
}

// places returns the channels of which something was reported.
func (f *facts) places() []Place {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.channels))
}

// put records a fact at its revision, unless something newer is known. It tells whether that
// was news.
func (f *facts) put(key string, about fact, revision uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.byKey[key]; e != nil && e.revision >= revision || f.gone[key] >= revision {
		return false
	}
	delete(f.gone, key)
	e := &entry{about, revision}
	f.byKey[key] = e
	users := f.channels[about.place()]
	if users == nil {
		users = make(map[string]*entry, 1)
		f.channels[about.place()] = users
	}
	users[about.userID] = e
	return !f.isOwn(key)
}

// drop records that a fact's document went, and whose it was if that was news. A deletion of
// this node's own is remembered until the watch has told it: older news may come before.
func (f *facts) drop(key string, revision uint64, own bool) (fact, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.byKey[key]
	if e != nil && e.revision >= revision {
		return fact{}, false
	}
	switch {
	case own:
		f.gone[key] = revision
	case f.gone[key] <= revision:
		delete(f.gone, key)
	}
	if e == nil {
		return fact{}, false
	}
	delete(f.byKey, key)
	users := f.channels[e.place()]
	if delete(users, e.userID); len(users) == 0 {
		delete(f.channels, e.place())
	}
	return e.fact, !f.isOwn(key)
}

// isOwn tells whether this node is writing the key. f.mu is held.
func (f *facts) isOwn(key string) bool {
	_, own := f.writing[key]
	return own
}

// write notes which keys a commit is about to change; none when it is over.
func (f *facts) write(keys ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.writing)
	for _, key := range keys {
		f.writing[key] = struct{}{}
	}
}

// pass notes that the watch has come to a revision of this node's outbox.
func (f *facts) pass(revision uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mark = max(f.mark, revision)
}

// passed tells whether the watch has come to a revision of this node's outbox: what was
// changed before it is known.
func (f *facts) passed(revision uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mark >= revision
}

// isFact tells whether a document's key is that of a fact.
func isFact(key string) bool { return strings.HasPrefix(key, factPrefix) }
