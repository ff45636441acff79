package cluster

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
