// Package directory is replicated soft state: who is connected where, which channel is
// occupied by whom. Each node owns its rows and tells the others what changes; every node
// holds everybody's rows and answers from memory.
//
// It may import fabric for the signal that carries changes. It must never import a surface,
// the cluster or the engine: it is told which nodes are gone.
//
// # Flow
//
// A node numbers its changes and sends them in batches, at most BatchInterval apart, on one
// subject. Every DigestInterval it sends a digest: the number of its last change and a hash
// over its rows. A receiver that missed a change, or whose hash differs, asks for a
// snapshot, which the owner sends in numbered parts on the asker's own subject. The rows of a
// node that is gone are dropped at once, by every survivor for itself.
//
// Nothing is stored: a node that starts has no rows, and a new incarnation of a node replaces
// the old one's rows.
package directory

import (
	"maps"
	"slices"
)

// Row is one entry that a node has under a key.
type Row struct {
	Key   string // what it is about, such as a channel
	Entry string // which of the node's entries there, such as a user
	Value []byte // never nil; must not be changed
}

// Change is a row of another node that came, changed or went.
type Change struct {
	Node   string
	Key    string
	Entry  string
	Before []byte // nil when it is new
	After  []byte // nil when it went
}

// rows are those of one node: entries by key.
type rows struct {
	byKey map[string]map[string][]byte
	count int
	hash  uint64 // XOR of the hashes of all rows, so that order does not matter
}

func newRows() *rows { return &rows{byKey: make(map[string]map[string][]byte)} }

// set stores a row, or removes it when value is nil, and returns what was there.
func (r *rows) set(key, entry string, value []byte) (before []byte) {
	entries := r.byKey[key]
	before = entries[entry]
	if before != nil {
		r.count--
		r.hash ^= hashRow(key, entry, before)
	}
	if value == nil {
		if before != nil {
			if delete(entries, entry); len(entries) == 0 {
				delete(r.byKey, key)
			}
		}
		return before
	}
	if entries == nil {
		entries = make(map[string][]byte, 1)
		r.byKey[key] = entries
	}
	entries[entry] = value
	r.count++
	r.hash ^= hashRow(key, entry, value)
	return before
}

// all returns every row by key and entry.
func (r *rows) all() []Row {
	list := make([]Row, 0, r.count)
	for _, key := range slices.Sorted(maps.Keys(r.byKey)) {
		for _, entry := range slices.Sorted(maps.Keys(r.byKey[key])) {
			list = append(list, Row{key, entry, r.byKey[key][entry]})
		}
	}
	return list
}

// FNV-1a, 64 bits: every node must compute the same, so no seed.
const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func hashRow(key, entry string, value []byte) uint64 {
	h := uint64(fnvOffset)
	h = hashText(h, key)
	h = hashText(h, entry)
	for _, b := range value {
		h = (h ^ uint64(b)) * fnvPrime
	}
	// XOR of many FNV values cancels in their low bits; a finaliser spreads them.
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return h
}

func hashText(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return (h ^ 0xff) * fnvPrime // ends a text, as no UTF-8 text has this byte
}
