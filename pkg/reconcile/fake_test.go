package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// fake is the kernel's tables in memory. It holds the writer to the contract of Tables, counts what it
// does, and lets readers look after every single write. Violations are collected, not returned.
type fake struct {
	frontends map[bpf.FrontendKey]bpf.Frontend
	services  map[uint32]bpf.Service
	members   map[bpf.Member]uint32
	sources   map[bpf.SourceRange]uint32
	pools     []bpf.Pool
	slots     []bpf.Slot
	backends  []bpf.Backend
	filter    map[netip.Addr]int
	limit     uint32                       // of each array; 0: none
	uses      map[[2]uint32]netip.AddrPort // of each backend id and generation there ever was

	// Who answers may be less exact until the test resets it: somebody did not fit, so who loses to him
	// has his frontends for now.
	loose bool

	invalid map[uint32]bool // backends invalidated since the last Quiesce
	readers *readers        // nil: none

	writes     map[string]int
	fail       func(op string) error // of calls that can fail
	wrote      func()                // after every single write
	violations []string
}

func newFake() *fake {
	return &fake{
		frontends: make(map[bpf.FrontendKey]bpf.Frontend),
		services:  make(map[uint32]bpf.Service),
		members:   make(map[bpf.Member]uint32),
		sources:   make(map[bpf.SourceRange]uint32),
		pools:     make([]bpf.Pool, 1),
		slots:     make([]bpf.Slot, 1),
		backends:  make([]bpf.Backend, 1),
		filter:    make(map[netip.Addr]int),
		uses:      make(map[[2]uint32]netip.AddrPort),
		invalid:   make(map[uint32]bool),
		readers:   newReaders(),
		writes:    make(map[string]int),
	}
}

func (f *fake) violate(format string, args ...any) {
	f.violations = append(f.violations, fmt.Sprintf(format, args...))
}

func (f *fake) count(table string) {
	f.writes[table]++
	if f.readers != nil {
		f.readers.look(f)
	}
	if f.wrote != nil {
		f.wrote()
	}
}

func (f *fake) totalWrites() int {
	n := 0
	for _, w := range f.writes {
		n += w
	}
	return n
}

// call fails if the test wants that: before the first entry, or after some.
func (f *fake) call(op string) error {
	if f.fail == nil {
		return nil
	}
	return f.fail(op)
}

func (f *fake) Frontends() (map[bpf.FrontendKey]bpf.Frontend, error) {
	return maps.Clone(f.frontends), f.call("Frontends")
}

func (f *fake) Services() (map[uint32]bpf.Service, error) {
	return maps.Clone(f.services), f.call("Services")
}

func (f *fake) PutFrontends(puts map[bpf.FrontendKey]bpf.Frontend) error {
	keys := slices.SortedFunc(maps.Keys(puts), compareKeys)
	err := f.call("PutFrontends")
	if err != nil {
		keys = keys[:len(keys)/2]
	}
	for _, k := range keys {
		if f.filter[k.AddrPort().Addr()] <= 0 && f.readers != nil {
			f.violate("put frontend %v before its address is in the filter", k.AddrPort())
		}
		f.frontends[k] = puts[k]
		f.count("frontends")
	}
	return err
}

func (f *fake) DeleteFrontends(keys []bpf.FrontendKey) error {
	keys = slices.SortedFunc(slices.Values(keys), compareKeys)
	err := f.call("DeleteFrontends")
	if err != nil {
		keys = keys[:(len(keys)+1)/2]
	}
	for _, k := range keys {
		delete(f.frontends, k)
		f.count("frontends")
	}
	return err
}

func (f *fake) PutServices(puts map[uint32]bpf.Service) error {
	ids := slices.Sorted(maps.Keys(puts))
	err := f.call("PutServices")
	if err != nil {
		ids = ids[:len(ids)/2]
	}
	for _, id := range ids {
		if id == 0 {
			f.violate("service 0 was named")
		}
		f.services[id] = puts[id]
		f.count("services")
	}
	return err
}

func (f *fake) DeleteServices(ids []uint32) error {
	ids = slices.Sorted(slices.Values(ids))
	err := f.call("DeleteServices")
	if err != nil {
		ids = ids[:(len(ids)+1)/2]
	}
	for _, id := range ids {
		for s := range f.sources {
			if service, clients := s.Parse(); service == id && f.readers != nil {
				f.violate("service %d was forgotten while it admits %s", id, clients)
			}
		}
		delete(f.services, id)
		f.count("services")
	}
	return err
}

func (f *fake) Members() (map[bpf.Member]uint32, error) {
	return maps.Clone(f.members), f.call("Members")
}

func (f *fake) SourceRanges() (map[bpf.SourceRange]uint32, error) {
	return maps.Clone(f.sources), f.call("SourceRanges")
}

func (f *fake) PutMembers(list []bpf.Member) error {
	err := f.call("PutMembers")
	if err != nil {
		list = list[:len(list)/2]
	}
	for _, m := range list {
		p := f.pools[m.Pool]
		if f.readers != nil && !slices.ContainsFunc(f.slots[p.Offset:p.Offset+p.Length], func(s bpf.Slot) bool { return s.Backend == m.Backend }) {
			f.violate("backend %d became a member of pool %d, which does not hold it", m.Backend, m.Pool)
		}
		f.members[m] = 1
		f.count("members")
	}
	return err
}

func (f *fake) DeleteMembers(list []bpf.Member) error {
	err := f.call("DeleteMembers")
	if err != nil {
		list = list[:(len(list)+1)/2]
	}
	for _, m := range list {
		delete(f.members, m)
		f.count("members")
	}
	return err
}

// PutSourceRange fails without or, as if the error came from somewhere later, with effect.
func (f *fake) PutSourceRange(s bpf.SourceRange) error {
	err := f.call("PutSourceRange")
	if err == nil || f.totalWrites()%2 == 0 {
		f.sources[s] = s.Bits
		f.count("ranges")
	}
	return err
}

func (f *fake) DeleteSourceRange(s bpf.SourceRange) error {
	err := f.call("DeleteSourceRange")
	if err == nil || f.totalWrites()%2 == 0 {
		delete(f.sources, s)
		f.count("ranges")
	}
	return err
}

func (f *fake) Pool(id uint32) bpf.Pool { return f.pools[id] }

func (f *fake) SetPool(id uint32, p bpf.Pool) {
	if id == 0 {
		f.violate("pool 0 was written")
	}
	if f.readers != nil && f.readers.pools[id] && p == (bpf.Pool{}) {
		f.violate("pool %d was cleared while readers may be on their way to it", id)
	}
	for m := range f.members {
		if m.Pool == id && p == (bpf.Pool{}) && f.readers != nil {
			f.violate("pool %d was cleared while backend %d is its member", id, m.Backend)
		}
	}
	f.pools[id] = p
	f.count("pools")
}

func (f *fake) Slots(offset, length uint32) []bpf.Slot {
	return slices.Clone(f.slots[offset : offset+length])
}

func (f *fake) SetSlots(offset uint32, slots []bpf.Slot) {
	end := offset + uint32(len(slots))
	if f.readers != nil {
		for id, p := range f.pools {
			if p.Length > 0 && p.Offset < end && offset < p.Offset+p.Length {
				f.violate("slots %d-%d were written while pool %d has %d-%d", offset, end, id, p.Offset, p.Offset+p.Length)
			}
		}
	}
	for i, s := range slots {
		at := offset + uint32(i)
		if f.readers != nil && f.readers.slotRead[at] {
			f.violate("slot %d was written while readers may be on their way to it", at)
		}
		f.slots[at] = s
		f.count("slots")
	}
}

func (f *fake) Backend(id uint32) bpf.Backend { return f.backends[id] }

func (f *fake) SetBackend(id uint32, b bpf.Backend) {
	old := f.backends[id]
	rest := b
	rest.State = old.State
	switch {
	case f.readers == nil:
	case id == 0:
		if b != (bpf.Backend{Reserved: b.Reserved}) || b.Reserved <= old.Reserved {
			f.violate("backend 0 was written: %v", b)
		}
	case old.Generation != 0 && b.Generation == 0:
		if f.readers.backends[id] {
			f.violate("backend %d was invalidated while readers may be on their way to it", id)
		}
		for m := range f.members {
			if m.Backend == id && f.readers.pools[m.Pool] {
				f.violate("backend %d was invalidated while a member of pool %d", id, m.Pool)
			}
		}
		f.invalid[id] = true
	case old.Generation != 0 && rest != old:
		f.violate("backend %d, which was in use, became another: %v → %v", id, old, b)
	case old.Generation == 0:
		if f.invalid[id] {
			f.violate("backend %d was reused while readers may be reading what it was", id)
		}
		if was, ok := f.uses[[2]uint32{id, b.Generation}]; ok || b.Generation == 0 {
			f.violate("backend %d has generation %d again: it was %v", id, b.Generation, was)
		}
		f.uses[[2]uint32{id, b.Generation}] = b.AddrPort()
	}
	f.backends[id] = b
	f.count("backends")
}

func (f *fake) PoolsLen() uint32    { return uint32(len(f.pools)) }
func (f *fake) SlotsLen() uint32    { return uint32(len(f.slots)) }
func (f *fake) BackendsLen() uint32 { return uint32(len(f.backends)) }

func (f *fake) GrowPools(n uint32) error    { return growFake(f, "GrowPools", &f.pools, n) }
func (f *fake) GrowSlots(n uint32) error    { return growFake(f, "GrowSlots", &f.slots, n) }
func (f *fake) GrowBackends(n uint32) error { return growFake(f, "GrowBackends", &f.backends, n) }

func growFake[T any](f *fake, op string, table *[]T, n uint32) error {
	if err := f.call(op); err != nil {
		f.loose = true
		return err
	}
	if f.limit != 0 && n > f.limit {
		f.loose = true
		return fmt.Errorf("%s to %d: %w", op, n, bpf.ErrFull)
	}
	if more := int(n) - len(*table); more > 0 {
		*table = append(*table, make([]T, more)...)
	}
	return nil
}

func (f *fake) AddAddress(a netip.Addr) { f.filter[a]++ }

func (f *fake) RemoveAddress(a netip.Addr) {
	if f.filter[a]--; f.filter[a] < 0 {
		f.violate("%v was removed from the filter more often than added", a)
	}
	if f.filter[a] == 0 {
		delete(f.filter, a)
	}
}

func (f *fake) Quiesce() error {
	if err := f.call("Quiesce"); err != nil {
		return err
	}
	clear(f.invalid)
	if f.readers != nil {
		f.readers = newReaders()
		f.readers.look(f)
	}
	return nil
}

// restart is what a new agent finds: the tables, but not the counts of the address filter.
func (f *fake) restart() {
	clear(f.filter)
}

// checkFilter compares the filter with the frontends.
func (f *fake) checkFilter() {
	want := make(map[netip.Addr]int)
	for k := range f.frontends {
		want[k.AddrPort().Addr()]++
	}
	if !maps.Equal(want, f.filter) {
		f.violate("filter is %v, want %v", f.filter, want)
	}
}

func compareKeys(a, b bpf.FrontendKey) int {
	return cmp.Or(a.AddrPort().Compare(b.AddrPort()), cmp.Compare(a.Protocol, b.Protocol))
}

var errInjected = errors.New("injected")
