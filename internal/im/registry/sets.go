package registry

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/index"
	"github.com/parleyio/parley/internal/im/message"
)

// Kind is which list of a channel a set is.
type Kind string

// The lists.
const (
	Members Kind = "member"
	Deny    Kind = "deny"
	Allow   Kind = "allow"
	System  Kind = "system" // of no channel: accounts that may do everything
)

// SystemChannel stands for no channel.
var SystemChannel = message.Channel{ID: "system"}

// A set of up to splitAt is one document. A larger one is in buckets, by the hash of the uid, each
// with a document of its own, so that a change of one rewrites a small part; the first document says
// then that it is split. It stays so.
const (
	splitAt = 256
	buckets = 256
)

// Tables of the index.
const (
	tableSet     = 'S' // kind, channel, uid: number of the channel's newest message at that time
	tableReverse = 'R' // uid, channel, of members
)

// Member is one entry of a set.
type Member struct {
	UID string
	// Joined is the number of the channel's newest message when the user came: unread counts from it.
	Joined uint64
}

// part is a document of a set.
type part struct {
	kind    Kind
	channel string // its key
	split   bool
	members []Member // sorted by UID
}

func isSet(subject string) bool { return strings.HasPrefix(subject, "s.") }

func setSubject(kind Kind, c message.Channel) string {
	return "s." + string(kind) + "." + fabric.Token(c.Key())
}

func bucketSubject(kind Kind, c message.Channel, bucket int) string {
	return setSubject(kind, c) + "." + strconv.Itoa(bucket)
}

func bucketOf(uid string) int { return int(crc32.ChecksumIEEE([]byte(uid)) % buckets) }

// setEncoding is the version of encode's format.
const setEncoding = 1

func (p part) encode() []byte {
	split := byte(0)
	if p.split {
		split = 1
	}
	out := append(make([]byte, 0, 64+16*len(p.members)), setEncoding, split)
	out = appendText(appendText(out, string(p.kind)), p.channel)
	for _, m := range p.members {
		out = binary.AppendUvarint(appendText(out, m.UID), m.Joined)
	}
	return out
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

var errSet = errors.New("not an encoded set")

func decodePart(data []byte) (p part, err error) {
	if len(data) == 0 {
		return p, nil
	}
	if len(data) < 2 || data[0] != setEncoding {
		return p, errSet
	}
	p.split = data[1] == 1
	rest := data[2:]
	text := func() string {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) {
			err = errSet
			return ""
		}
		s := string(rest[size : size+int(n)])
		rest = rest[size+int(n):]
		return s
	}
	p.kind, p.channel = Kind(text()), text()
	for err == nil && len(rest) > 0 {
		m := Member{UID: text()}
		if err != nil {
			break
		}
		joined, n := binary.Uvarint(rest)
		if n <= 0 {
			return part{}, errSet
		}
		m.Joined, rest = joined, rest[n:]
		p.members = append(p.members, m)
	}
	return p, err
}

// setChange is what a new entry changed.
type setChange struct {
	kind           Kind
	channel        message.Channel
	added, removed []string
}

// applySet writes the rows of a part that replaces another.
func (r *Registry) applySet(batch index.Batch, subject string, before, after []byte) (change setChange, err error) {
	old, err := decodePart(before)
	if err != nil {
		return change, err
	}
	now, err := decodePart(after)
	if err != nil {
		return change, err
	}
	c, ok := message.ParseKey(now.channel)
	if !ok {
		return change, errSet
	}
	change.kind, change.channel = now.kind, c
	first := setSubject(now.kind, c)
	switch {
	case subject != first:
		whole, err := r.part(first)
		if err != nil {
			return change, err
		}
		if !whole.split {
			return change, nil // a part of what is about to be split
		}
	case now.split && !old.split:
		if now.members, err = r.bucketMembers(now.kind, c); err != nil {
			return change, err
		}
	}
	key := now.channel
	have := make(map[string]uint64, len(old.members))
	for _, m := range old.members {
		have[m.UID] = m.Joined
	}
	for _, m := range now.members {
		joined, known := have[m.UID]
		delete(have, m.UID)
		if known && joined == m.Joined {
			continue
		}
		batch.Set(index.Key(tableSet, string(now.kind), key, m.UID), binary.AppendUvarint(nil, m.Joined))
		if now.kind == Members {
			batch.Set(index.Key(tableReverse, m.UID, key), binary.AppendUvarint(nil, m.Joined))
		}
		if !known {
			change.added = append(change.added, m.UID)
		}
	}
	for uid := range have {
		batch.Delete(index.Key(tableSet, string(now.kind), key, uid))
		if now.kind == Members {
			batch.Delete(index.Key(tableReverse, uid, key))
		}
		change.removed = append(change.removed, uid)
	}
	return change, nil
}

func (r *Registry) part(subject string) (part, error) {
	value, _, err := r.document(subject)
	if err != nil {
		return part{}, err
	}
	return decodePart(value)
}

// bucketMembers reads all buckets of a set.
func (r *Registry) bucketMembers(kind Kind, c message.Channel) ([]Member, error) {
	var all []Member
	for b := range buckets {
		p, err := r.part(bucketSubject(kind, c, b))
		if err != nil {
			return nil, err
		}
		all = append(all, p.members...)
	}
	return all, nil
}

// Has tells whether a user is in a set, and since which message of the channel.
func (r *Registry) Has(kind Kind, c message.Channel, uid string) (joined uint64, ok bool, err error) {
	row, err := r.options.Index.Get(index.Key(tableSet, string(kind), c.Key(), uid))
	if err != nil || row == nil {
		return 0, false, err
	}
	joined, _ = binary.Uvarint(row)
	return joined, true, nil
}

// Empty tells whether a set has nobody.
func (r *Registry) Empty(kind Kind, c message.Channel) (bool, error) {
	empty := true
	err := r.Each(kind, c, func(Member) bool { empty = false; return false })
	return empty, err
}

// Each calls f with each entry of a set, sorted by UID, until it returns false.
func (r *Registry) Each(kind Kind, c message.Channel, f func(Member) bool) error {
	prefix := index.Prefix(tableSet, string(kind), c.Key())
	return r.options.Index.Each(prefix, index.End(prefix), false, func(key, value []byte) bool {
		joined, _ := binary.Uvarint(value)
		return f(Member{UID: string(key[len(prefix):]), Joined: joined})
	})
}

// List returns the uids of a set.
func (r *Registry) List(kind Kind, c message.Channel) ([]string, error) {
	list := []string{}
	err := r.Each(kind, c, func(m Member) bool { list = append(list, m.UID); return true })
	return list, err
}

// Membership is a channel that a user is a member of.
type Membership struct {
	Channel message.Channel
	Joined  uint64
}

// ChannelsOf returns the channels that a user is a member of.
func (r *Registry) ChannelsOf(uid string) ([]Membership, error) {
	var list []Membership
	prefix := index.Prefix(tableReverse, uid)
	err := r.options.Index.Each(prefix, index.End(prefix), false, func(key, value []byte) bool {
		if c, ok := message.ParseKey(string(key[len(prefix):])); ok {
			joined, _ := binary.Uvarint(value)
			list = append(list, Membership{c, joined})
		}
		return true
	})
	return list, err
}

// Add puts users into a set. Those who are in it stay as they are. It returns the number of the last
// entry, 0 when there was nothing to do.
func (r *Registry) Add(ctx context.Context, kind Kind, c message.Channel, members []Member) (uint64, error) {
	return r.changeSet(ctx, kind, c, members, func(have, given []Member) []Member {
		for _, m := range given {
			if i, found := slices.BinarySearchFunc(have, m, byUID); !found {
				have = slices.Insert(have, i, m)
			}
		}
		return have
	}, false)
}

// Remove takes users out of a set.
func (r *Registry) Remove(ctx context.Context, kind Kind, c message.Channel, uids []string) (uint64, error) {
	members := make([]Member, len(uids))
	for i, uid := range uids {
		members[i].UID = uid
	}
	return r.changeSet(ctx, kind, c, members, func(have, given []Member) []Member {
		return slices.DeleteFunc(have, func(m Member) bool {
			_, found := slices.BinarySearchFunc(given, m, byUID)
			return found
		})
	}, false)
}

// Replace makes a set have exactly these users; those who were in it before keep when they came.
func (r *Registry) Replace(ctx context.Context, kind Kind, c message.Channel, members []Member) (uint64, error) {
	return r.changeSet(ctx, kind, c, members, func(have, given []Member) []Member {
		now := slices.Clone(given)
		for i, m := range now {
			if at, found := slices.BinarySearchFunc(have, m, byUID); found {
				now[i] = have[at]
			}
		}
		return now
	}, true)
}

func byUID(a, b Member) int { return cmp.Compare(a.UID, b.UID) }

// setWriters bounds the buckets of one set that are written at once.
const setWriters = 16

// changeSet changes a set by a function of what a part has and what is given for it, both sorted. With
// all, the function is called for the parts for which nothing is given as well.
func (r *Registry) changeSet(
	ctx context.Context, kind Kind, c message.Channel, given []Member,
	change func(have, given []Member) []Member, all bool,
) (uint64, error) {
	given = slices.Clone(given)
	slices.SortStableFunc(given, byUID)
	given = slices.CompactFunc(given, func(a, b Member) bool { return a.UID == b.UID })
	fail := func(err error) (uint64, error) {
		return 0, fmt.Errorf("change the %s list of %s: %w", kind, c.Key(), err)
	}
	seq, split, err := r.changeWhole(ctx, kind, c, given, change)
	if err != nil {
		return fail(err)
	}
	if !split {
		return seq, nil
	}
	var byBucket [buckets][]Member
	for _, m := range given {
		b := bucketOf(m.UID)
		byBucket[b] = append(byBucket[b], m)
	}
	last, err := r.eachBucket(func(b int) (uint64, error) {
		if len(byBucket[b]) == 0 && !all {
			return 0, nil
		}
		return r.update(ctx, bucketSubject(kind, c, b), func(old []byte) ([]byte, error) {
			return changePart(old, part{kind: kind, channel: c.Key()}, byBucket[b], change)
		})
	})
	if err != nil {
		return fail(err)
	}
	return max(seq, last), nil
}

// changePart changes the encoded part of a set.
func changePart(old []byte, empty part, given []Member, change func(have, given []Member) []Member) ([]byte, error) {
	p, err := decodePart(old)
	if err != nil {
		return nil, err
	}
	if len(old) == 0 {
		p = empty
	}
	p.members = change(p.members, given)
	if len(old) == 0 && len(p.members) == 0 {
		return old, nil
	}
	value := p.encode()
	if len(value) > fabric.MaxValueSize {
		return nil, ErrTooMany
	}
	return value, nil
}

// eachBucket runs f for all buckets, some at once, and returns the largest number.
func (r *Registry) eachBucket(f func(bucket int) (uint64, error)) (uint64, error) {
	var seqs [buckets]uint64
	var errs [buckets]error
	slots := make(chan struct{}, setWriters)
	var writing sync.WaitGroup
	for b := range buckets {
		slots <- struct{}{}
		writing.Go(func() {
			defer func() { <-slots }()
			seqs[b], errs[b] = f(b)
		})
	}
	writing.Wait()
	return slices.Max(seqs[:]), errors.Join(errs[:]...)
}

// errSplit ends an update of a set that has to be split.
var errSplit = errors.New("the set has to be split")

// changeWhole changes a set that is one document, and splits it when that makes it too large. It
// returns whether the set is split and the change is still to be made.
func (r *Registry) changeWhole(
	ctx context.Context, kind Kind, c message.Channel, given []Member,
	change func(have, given []Member) []Member,
) (seq uint64, split bool, err error) {
	first := setSubject(kind, c)
	for range maxTries {
		seq, err = r.update(ctx, first, func(old []byte) ([]byte, error) {
			p, err := decodePart(old)
			if err != nil {
				return nil, err
			}
			if split = p.split; split {
				return old, nil
			}
			if len(change(slices.Clone(p.members), given)) > splitAt {
				return nil, errSplit
			}
			return changePart(old, part{kind: kind, channel: c.Key()}, given, change)
		})
		if !errors.Is(err, errSplit) {
			return seq, split, err
		}
		if err = r.split(ctx, kind, c); err != nil && !errors.Is(err, fabric.ErrConflict) {
			return 0, false, err
		}
		if err := r.CatchUp(ctx); err != nil {
			return 0, false, err
		}
	}
	return 0, false, ErrContended
}

// split puts the members of a set into buckets, and says so in its first document last. Nothing shows
// before that.
func (r *Registry) split(ctx context.Context, kind Kind, c message.Channel) error {
	first := setSubject(kind, c)
	value, seq, err := r.document(first)
	if err != nil {
		return err
	}
	whole, err := decodePart(value)
	if err != nil || whole.split {
		return err
	}
	var byBucket [buckets][]Member
	for _, m := range whole.members {
		b := bucketOf(m.UID)
		byBucket[b] = append(byBucket[b], m)
	}
	_, err = r.eachBucket(func(b int) (uint64, error) {
		return r.update(ctx, bucketSubject(kind, c, b), func(old []byte) ([]byte, error) {
			// Another may have changed the set, or split it and changed this bucket since: a write is tried
			// again only when this node has all that went before.
			if _, now, err := r.document(first); err != nil || now != seq {
				return nil, errors.Join(fabric.ErrConflict, err)
			}
			if len(old) == 0 && len(byBucket[b]) == 0 {
				return old, nil
			}
			return part{kind: kind, channel: c.Key(), members: byBucket[b]}.encode(), nil
		})
	})
	if err != nil {
		return err
	}
	marker := part{kind: kind, channel: c.Key(), split: true}.encode()
	stored, err := r.log.Append(ctx, first, marker, fabric.ExpectLastOfSubject(seq))
	if err != nil {
		return err
	}
	return r.Await(ctx, stored)
}
