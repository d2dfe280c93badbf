package reconcile

import (
	"net/netip"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// readers stands for all the programs that run at a moment: one that began any time since the last
// Quiesce may be at any step of frontend → pool → slot → backend, with what it has read so far in hand.
type readers struct {
	values map[heldFrontend]uint8 // read from the frontends table → protocol
	words  map[heldWord]bool      // read from a pool
	held   map[heldSlot]netip.AddrPort

	// Where they may read next.
	pools    map[uint32]bool
	slotRead map[uint32]bool
	backends map[uint32]bool
}

type heldFrontend struct {
	value bpf.Frontend
	ipv6  bool // the family, which says with which source ranges the client is compared
}

type heldWord struct {
	service  uint32
	protocol uint8
	word     bpf.Pool
}

type heldSlot struct {
	service  uint32
	protocol uint8
	slot     bpf.Slot
}

func newReaders() *readers {
	return &readers{
		values: make(map[heldFrontend]uint8), words: make(map[heldWord]bool), held: make(map[heldSlot]netip.AddrPort),
		pools: make(map[uint32]bool), slotRead: make(map[uint32]bool), backends: make(map[uint32]bool),
	}
}

// look lets new readers start, and every reader take its next step.
func (r *readers) look(f *fake) {
	for k, v := range f.frontends {
		r.values[heldFrontend{v, k.AddrPort().Addr().Is6()}] = k.Protocol
	}
	for h, protocol := range r.values {
		v := h.value
		for _, id := range [...]uint32{v.Inside, v.Outside} {
			r.pools[id] = true
			if id == 0 || id >= f.PoolsLen() {
				f.violate("frontend %v names pool %d of %d", v, id, f.PoolsLen())
				continue
			}
			r.words[heldWord{v.Service, protocol, f.pools[id]}] = true
		}
	}
	for h := range r.words {
		w := h.word
		switch {
		case w.Verdict == bpf.VerdictNone || w.Verdict > bpf.VerdictDrop:
			f.violate("service %d: a frontend led to a pool without a verdict: %v", h.service, w)
			continue
		case w.Verdict != bpf.VerdictServe:
			continue
		case w.Length == 0 || w.Offset+w.Length > f.SlotsLen():
			f.violate("service %d: a pool serves from slots that are not there: %v", h.service, w)
			continue
		}
		for at := w.Offset; at < w.Offset+w.Length; at++ {
			r.slotRead[at] = true
			s := heldSlot{h.service, h.protocol, f.slots[at]}
			if _, ok := r.held[s]; !ok {
				r.held[s] = netip.AddrPort{}
			}
		}
	}
	for h, addr := range r.held {
		if h.slot.Backend == 0 || h.slot.Backend >= f.BackendsLen() {
			f.violate("service %d: a slot names backend %d", h.service, h.slot.Backend)
			continue
		}
		r.backends[h.slot.Backend] = true
		b := f.backends[h.slot.Backend]
		switch {
		case b.Generation != h.slot.Generation || b.Generation == 0:
			f.violate("service %d: slot %v led to backend %v of another generation", h.service, h.slot, b)
		case b.Service != h.service || b.Protocol != h.protocol:
			f.violate("service %d: slot %v led to backend %v of another service", h.service, h.slot, b)
		case addr.IsValid() && b.AddrPort() != addr:
			f.violate("service %d: slot %v led to %v and now to %v", h.service, h.slot, addr, b.AddrPort())
		}
		r.held[h] = b.AddrPort()
	}
}
