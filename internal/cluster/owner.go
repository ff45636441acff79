package cluster

import (
	"cmp"
	"slices"
)

// Owner returns the member that owns the key: of those that are eligible, the one with the
// highest weight for the key (rendezvous hashing). Every node with the same members gives the
// same answer. When a member goes, only its keys move; when one comes, it takes its share
// from all alike. A nil eligible takes everybody; Ready is the usual one. False if nobody is
// eligible. It allocates nothing.
func (v View) Owner(key string, eligible func(Member) bool) (Member, bool) {
	best, bestWeight := -1, uint64(0)
	keyHash := hash(key)
	for i := range v.Members {
		if eligible != nil && !eligible(v.Members[i]) {
			continue
		}
		// Members come in the order of their IDs, so of equal weights the smaller ID wins.
		if weight := mix(keyHash ^ v.hashes[i]); best < 0 || weight > bestWeight {
			best, bestWeight = i, weight
		}
	}
	if best < 0 {
		return Member{}, false
	}
	return v.Members[best], true
}

// Owners returns up to count eligible members in the order in which they own the key: the
// second takes over when the first goes.
func (v View) Owners(key string, count int, eligible func(Member) bool) []Member {
	keyHash := hash(key)
	type weighed struct {
		index  int
		weight uint64
	}
	var order []weighed
	for i, member := range v.Members {
		if eligible == nil || eligible(member) {
			order = append(order, weighed{i, mix(keyHash ^ v.hashes[i])})
		}
	}
	slices.SortStableFunc(order, func(a, b weighed) int { return cmp.Compare(b.weight, a.weight) })
	owners := make([]Member, 0, min(max(count, 0), len(order)))
	for _, entry := range order[:cap(owners)] {
		owners = append(owners, v.Members[entry.index])
	}
	return owners
}

// hash is FNV-1a with 64 bits. It must stay what it is: nodes of two versions must agree.
func hash(text string) uint64 {
	sum := uint64(14695981039346656037)
	for i := range len(text) {
		sum = (sum ^ uint64(text[i])) * 1099511628211
	}
	return sum
}

// mix spreads every bit over all others (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
