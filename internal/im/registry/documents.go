package registry

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/index"
	"github.com/parleyio/parley/internal/im/message"
)

// Token is what a device of a user proves itself with.
type Token struct {
	Hash  string `json:"hash"` // SHA-256 in hex: the token itself is kept nowhere
	Level uint8  `json:"level"`
}

// Levels of devices: a login of a master ends the others with the same flag.
const (
	LevelSlave  = 0
	LevelMaster = 1
)

// User is a user with a token for each device flag.
type User struct {
	UID    string          `json:"uid"`
	Tokens map[uint8]Token `json:"tokens,omitempty"`
}

// Check tells whether a token is the user's for a device flag, and the device's level.
func (u User) Check(flag uint8, token string) (level uint8, ok bool) {
	have, found := u.Tokens[flag]
	if !found {
		return 0, false
	}
	return have.Level, subtle.ConstantTimeCompare([]byte(have.Hash), []byte(hashOf(token))) == 1
}

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func userSubject(uid string) string { return "u." + fabric.Token(uid) }

// User returns a user; one that nobody told of has no tokens.
func (r *Registry) User(uid string) (User, error) {
	u := User{UID: uid}
	value, _, err := r.document(userSubject(uid))
	if err != nil || len(value) == 0 {
		return u, err
	}
	if err := json.Unmarshal(value, &u); err != nil {
		return u, fmt.Errorf("decode user: %w", err)
	}
	return u, nil
}

// SetToken gives a user a token for a device flag. It returns the number of the entry.
func (r *Registry) SetToken(ctx context.Context, uid string, flag uint8, token string, level uint8) (uint64, error) {
	return r.changeUser(ctx, uid, func(u *User) {
		if u.Tokens == nil {
			u.Tokens = map[uint8]Token{}
		}
		u.Tokens[flag] = Token{Hash: hashOf(token), Level: level}
	})
}

// DropTokens takes a user's tokens for some device flags away.
func (r *Registry) DropTokens(ctx context.Context, uid string, flags ...uint8) (uint64, error) {
	return r.changeUser(ctx, uid, func(u *User) {
		for _, flag := range flags {
			delete(u.Tokens, flag)
		}
	})
}

func (r *Registry) changeUser(ctx context.Context, uid string, change func(*User)) (uint64, error) {
	seq, err := r.update(ctx, userSubject(uid), func(old []byte) ([]byte, error) {
		u := User{UID: uid}
		if len(old) > 0 {
			if err := json.Unmarshal(old, &u); err != nil {
				return nil, err
			}
		}
		change(&u)
		return json.Marshal(u)
	})
	if err != nil {
		return 0, fmt.Errorf("change user: %w", err)
	}
	return seq, nil
}

// Channel is what is known of a channel beside its members and messages.
type Channel struct {
	Key           string `json:"key"`
	Large         bool   `json:"large,omitempty"`
	Ban           bool   `json:"ban,omitempty"`
	Disband       bool   `json:"disband,omitempty"`
	SendBan       bool   `json:"send_ban,omitempty"`
	AllowStranger bool   `json:"allow_stranger,omitempty"`
	Created       int64  `json:"created,omitempty"` // ms since 1970
	// Floor is the number of the oldest message that is kept; those before it are removed.
	Floor uint64 `json:"floor,omitempty"`
	// Of the messages those are kept that are not older than KeepSeconds, at most KeepCount and
	// KeepBytes; 0 leaves it to the channel's type.
	KeepSeconds int64  `json:"keep_seconds,omitempty"`
	KeepCount   uint64 `json:"keep_count,omitempty"`
	KeepBytes   uint64 `json:"keep_bytes,omitempty"`
}

func channelSubject(c message.Channel) string { return "c." + fabric.Token(c.Key()) }

// Channel returns what is known of a channel, and whether it was ever made.
func (r *Registry) Channel(c message.Channel) (known Channel, exists bool, err error) {
	known.Key = c.Key()
	value, _, err := r.document(channelSubject(c))
	if err != nil || len(value) == 0 {
		return known, false, err
	}
	if err := json.Unmarshal(value, &known); err != nil {
		return known, true, fmt.Errorf("decode channel: %w", err)
	}
	return known, true, nil
}

// ChangeChannel makes a channel, or changes it.
func (r *Registry) ChangeChannel(ctx context.Context, c message.Channel, change func(*Channel)) (uint64, error) {
	seq, err := r.update(ctx, channelSubject(c), func(old []byte) ([]byte, error) {
		known := Channel{Key: c.Key()}
		if len(old) > 0 {
			if err := json.Unmarshal(old, &known); err != nil {
				return nil, err
			}
		}
		change(&known)
		return json.Marshal(known)
	})
	if err != nil {
		return 0, fmt.Errorf("change channel: %w", err)
	}
	return seq, nil
}

func isChannel(subject string) bool { return strings.HasPrefix(subject, "c.") }

// tableKept is the letter of the index's table of channels that have a limit of their own.
const tableKept = 'K'

// applyChannel notes whether a channel has a limit of its own.
func applyChannel(batch index.Batch, value []byte) {
	var known Channel
	if len(value) == 0 || json.Unmarshal(value, &known) != nil || known.Key == "" {
		return
	}
	key := index.Key(tableKept, known.Key)
	if known.KeepSeconds > 0 || known.KeepCount > 0 || known.KeepBytes > 0 {
		batch.Set(key, nil)
	} else {
		batch.Delete(key)
	}
}

// EachKept calls f with every channel that has a limit of its own for what is kept, until it returns
// false.
func (r *Registry) EachKept(f func(c message.Channel) bool) error {
	prefix := index.Key(tableKept)
	return r.options.Index.Each(prefix, index.End(prefix), false, func(key, _ []byte) bool {
		c, ok := message.ParseKey(string(key[len(prefix):]))
		return !ok || f(c)
	})
}

// floorMoved returns the channel of a document whose floor is higher than before.
func floorMoved(before, after []byte) (c message.Channel, floor uint64, moved bool) {
	var old, now Channel
	if len(after) == 0 || json.Unmarshal(after, &now) != nil || now.Floor == 0 {
		return c, 0, false
	}
	if len(before) > 0 {
		_ = json.Unmarshal(before, &old) // one that cannot be read had no floor
	}
	c, ok := message.ParseKey(now.Key)
	return c, now.Floor, ok && now.Floor > old.Floor
}

// Cursor is how far a user has read a channel.
type Cursor struct {
	UID     string `json:"uid"`
	Channel string `json:"channel"` // its key
	Read    uint64 `json:"read,omitempty"`
	// Deleted is the newest message when the user removed the conversation: it is hidden up to there.
	Deleted uint64 `json:"deleted,omitempty"`
	Version int64  `json:"version,omitempty"` // when it changed last, in ns since 1970
	// Raised says that Read is before what the user has sent, or where it joined, on purpose: it counts
	// as long as that number is Sent.
	Raised bool   `json:"raised,omitempty"`
	Sent   uint64 `json:"sent,omitempty"`
}

// tableCursor is the letter of the index's table of cursors: user, channel.
const tableCursor = 'C'

func cursorSubject(uid string, c message.Channel) string {
	return "p." + fabric.Token(uid) + "." + fabric.Token(c.Key())
}

func isCursor(subject string) bool { return strings.HasPrefix(subject, "p.") }

func (r *Registry) applyCursor(batch index.Batch, value []byte) {
	var cursor Cursor
	if json.Unmarshal(value, &cursor) == nil && cursor.UID != "" {
		batch.Set(index.Key(tableCursor, cursor.UID, cursor.Channel), value)
	}
}

// Cursor returns a user's cursor in a channel; the zero value when the user has none.
func (r *Registry) Cursor(uid string, c message.Channel) (Cursor, error) {
	cursor := Cursor{UID: uid, Channel: c.Key()}
	value, _, err := r.document(cursorSubject(uid, c))
	if err != nil || len(value) == 0 {
		return cursor, err
	}
	if err := json.Unmarshal(value, &cursor); err != nil {
		return cursor, fmt.Errorf("decode cursor: %w", err)
	}
	return cursor, nil
}

// Cursors returns all cursors of a user by the key of their channel.
func (r *Registry) Cursors(uid string) (map[string]Cursor, error) {
	cursors := map[string]Cursor{}
	prefix := index.Prefix(tableCursor, uid)
	err := r.options.Index.Each(prefix, index.End(prefix), false, func(_, value []byte) bool {
		var cursor Cursor
		if json.Unmarshal(value, &cursor) == nil {
			cursors[cursor.Channel] = cursor
		}
		return true
	})
	return cursors, err
}

// MoveCursor changes a user's cursor in a channel.
func (r *Registry) MoveCursor(ctx context.Context, uid string, c message.Channel, change func(*Cursor)) (uint64, error) {
	seq, err := r.update(ctx, cursorSubject(uid, c), func(old []byte) ([]byte, error) {
		cursor := Cursor{UID: uid, Channel: c.Key()}
		if len(old) > 0 {
			if err := json.Unmarshal(old, &cursor); err != nil {
				return nil, err
			}
		}
		before := cursor
		change(&cursor)
		if before.Version = cursor.Version; cursor == before {
			return old, nil
		}
		return json.Marshal(cursor)
	})
	if err != nil {
		return 0, fmt.Errorf("move cursor: %w", err)
	}
	return seq, nil
}

func markSubject(name string) string { return "m." + fabric.Token(name) }

// Mark returns a number that SetMark has kept under a name, and whether there is one.
func (r *Registry) Mark(name string) (mark uint64, known bool, err error) {
	value, _, err := r.document(markSubject(name))
	if err != nil || len(value) == 0 {
		return 0, false, err
	}
	if err := json.Unmarshal(value, &mark); err != nil {
		return 0, false, fmt.Errorf("decode mark: %w", err)
	}
	return mark, true, nil
}

// SetMark keeps a number under a name. It is never set back.
func (r *Registry) SetMark(ctx context.Context, name string, mark uint64) error {
	_, err := r.update(ctx, markSubject(name), func(old []byte) ([]byte, error) {
		var now uint64
		if len(old) > 0 {
			if err := json.Unmarshal(old, &now); err != nil {
				return nil, err
			}
			if now >= mark {
				return old, nil
			}
		}
		return json.Marshal(mark)
	})
	if err != nil {
		return fmt.Errorf("set mark: %w", err)
	}
	return nil
}
