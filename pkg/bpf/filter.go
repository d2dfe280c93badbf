package bpf

import (
	"fmt"
	"math/bits"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const (
	addressFilterBits = 20 // bpf/maps.h ADDRESS_FILTER_BITS
	replyFilterBits   = 15 // REPLY_FILTER_BITS
)

// hash is the place of an address in a filter of 1<<bits entries: the twin of hash_address in bpf/lookup.h.
func (a Address) hash(bits int) uint32 {
	h := a.Word[3] ^ a.Word[2]*0x85ebca6b ^ a.Word[1]*0xc2b2ae35 ^ a.Word[0]*0x27d4eb2f
	return h * 0x9e3779b1 >> (32 - bits)
}

// addressFilter is the bit map of frontend addresses (bpf/maps.h). A bit outlives its frontends while
// flows to it live, so it is cleared only after a walk over the flows. Safe for concurrent use.
type addressFilter struct {
	mem   []byte
	words []uint64

	mu     sync.Mutex
	counts map[uint32]int // by bit; bits without a count are leftovers
}

func openAddressFilter(m *ebpf.Map) (*addressFilter, error) {
	mem, err := mapMemory[uint64]("address_filter", m)
	if err != nil {
		return nil, err
	}
	f := &addressFilter{mem: mem, counts: make(map[uint32]int)}
	f.words = (&table[uint64]{mem: mem}).entries()
	if got, want := len(f.words), 1<<(addressFilterBits-6); got != want {
		unix.Munmap(mem)
		return nil, fmt.Errorf("%s has %d words, want %d: another version's table", m, got, want)
	}
	return f, nil
}

func (f *addressFilter) close() error { return unix.Munmap(f.mem) }

func (f *addressFilter) add(addr netip.Addr) {
	bit := NewAddress(addr).hash(addressFilterBits)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[bit]++
	word := &f.words[bit>>6]
	if old := atomic.LoadUint64(word); old&(1<<(bit&63)) == 0 {
		atomic.StoreUint64(word, old|1<<(bit&63))
	}
}

func (f *addressFilter) remove(addr netip.Addr) {
	bit := NewAddress(addr).hash(addressFilterBits)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counts[bit]--; f.counts[bit] <= 0 {
		delete(f.counts, bit)
	}
}

// unwanted returns the bits that are set for no frontend.
func (f *addressFilter) unwanted() map[uint32]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	set := make(map[uint32]bool)
	for i, w := range f.words {
		for ; w != 0; w &= w - 1 {
			if bit := uint32(i<<6 + bits.TrailingZeros64(w)); f.counts[bit] == 0 {
				set[bit] = true
			}
		}
	}
	return set
}

// clear clears those bits that are still unwanted.
func (f *addressFilter) clear(set map[uint32]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for bit := range set {
		if f.counts[bit] == 0 {
			word := &f.words[bit>>6]
			atomic.StoreUint64(word, atomic.LoadUint64(word)&^(1<<(bit&63)))
		}
	}
}
