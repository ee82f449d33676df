package routing

// Key is what ties a client to a backend: a hash of its address, of a header
// or of a cookie. It is the same on every router and over restarts.
type Key uint64

// KeyOf hashes the value (FNV-1a). Values come from clients, who may choose
// them so that they fall on one backend: that gains them nothing that one
// header sent over and over would not.
func KeyOf(value string) Key {
	h := uint64(14695981039346656037)
	for i := range len(value) {
		h = (h ^ uint64(value[i])) * 1099511628211
	}
	return Key(h)
}

// Weight is how strongly a key is drawn to a backend, by its instance ID
// alone: a backend that comes back at another address keeps its clients.
func Weight(key Key, instanceID string) uint64 {
	return mix(uint64(key) ^ mix(uint64(KeyOf(instanceID))))
}

// Sticky picks the backend for the key by rendezvous hashing: the usable
// backend of the greatest weight. When a backend leaves (or is not usable)
// only its own keys move, each to its own second choice; when one joins, the
// only keys that move are the ones it takes over. It returns an index into
// backends, -1 when none is usable; a nil usable means all are.
func Sticky(key Key, backends []Backend, usable func(i int) bool) int {
	best, bestWeight := -1, uint64(0)
	for i := range backends {
		if usable != nil && !usable(i) {
			continue
		}
		w := Weight(key, backends[i].InstanceID)
		// Equal weights go to the lower ID, so that order in the slice does
		// not decide.
		if best < 0 || w > bestWeight || w == bestWeight && backends[i].InstanceID < backends[best].InstanceID {
			best, bestWeight = i, w
		}
	}
	return best
}

// Spread maps an ID to a fraction in [0, 1), evenly: what comes in sequence
// lands far apart. It stands in for a random number where a decision must be
// repeatable.
func Spread(id uint64) float64 {
	return float64(mix(id)>>11) / (1 << 53)
}

// mix is the finalizer of splitmix64 (Steele, Lea, Flood 2014): every input
// bit changes every output bit with a probability near one half.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
