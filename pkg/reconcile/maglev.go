package reconcile

import (
	"hash/fnv"
	"net/netip"
)

// maglevSizes are the primes that a table may have as its length. It must not change when a backend comes or goes, for
// then every slot moves: so there are only two, for up to a thousand backends and for more.
var maglevSizes = [...]int{16381, 131071}

// maglevShare is how many slots of the smaller table each backend has at least.
const maglevShare = 16

// maglev lays backends out as the lookup table of Maglev (Eisenbud et al., NSDI 2016, 3.4): each has its own order
// of preference for the slots, and they take turns. The same addresses make the same table everywhere.
func maglev(backends []int, address func(int) netip.AddrPort) []int {
	if len(backends) == 0 {
		return nil
	}
	size := maglevSizes[0]
	if size < maglevShare*len(backends) {
		size = maglevSizes[1]
	}
	type preference struct{ next, skip int }
	preferences := make([]preference, len(backends))
	for i, b := range backends {
		h := hashAddrPort(address(b))
		preferences[i] = preference{int(h >> 32 % uint64(size)), int(h&0xffffffff%uint64(size-1)) + 1}
	}
	const free = -1
	table := make([]int, size)
	for i := range table {
		table[i] = free
	}
	for taken := 0; ; {
		for i := range preferences {
			p := &preferences[i]
			for table[p.next] != free {
				p.next = (p.next + p.skip) % size
			}
			table[p.next] = backends[i]
			if taken++; taken == size {
				return table
			}
		}
	}
}

func hashAddrPort(a netip.AddrPort) uint64 {
	h := fnv.New64a()
	bytes := a.Addr().As16()
	h.Write(bytes[:])
	h.Write([]byte{byte(a.Port() >> 8), byte(a.Port())})
	// FNV leaves neighbours near each other in the upper half; the end of SplitMix64 does not.
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
