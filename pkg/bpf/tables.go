package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The most entries each table may grow to. They bound kernel memory, not a cluster anyone has.
const (
	maxPools    = 1 << 21
	maxSlots    = 1 << 24
	maxBackends = 1 << 22
)

// Tables is what the reconciler writes (reconcile.Tables) and the command line reads. One goroutine uses
// it, but for what is said otherwise.
type Tables struct {
	maps     map[string]*ebpf.Map
	specs    map[string]*ebpf.MapSpec
	pools    *table[uint64]
	slots    *table[Slot]
	backends *table[Backend]
	filter   *addressFilter
	barrier  *barrier
}

func openTables(maps map[string]*ebpf.Map, specs map[string]*ebpf.MapSpec) (t *Tables, err error) {
	t = &Tables{maps: maps, specs: specs}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.pools, err = openTable[uint64](maps["pools"], specs["pools"], maxPools); err != nil {
		return t, err
	}
	if t.slots, err = openTable[Slot](maps["slots"], specs["slots"], maxSlots); err != nil {
		return t, err
	}
	if t.backends, err = openTable[Backend](maps["backends"], specs["backends"], maxBackends); err != nil {
		return t, err
	}
	if t.filter, err = openAddressFilter(maps["address_filter"]); err != nil {
		return t, err
	}
	t.barrier, err = newBarrier()
	return t, err
}

func (t *Tables) close() error {
	var errs []error
	if t.pools != nil {
		errs = append(errs, t.pools.close())
	}
	if t.slots != nil {
		errs = append(errs, t.slots.close())
	}
	if t.backends != nil {
		errs = append(errs, t.backends.close())
	}
	if t.filter != nil {
		errs = append(errs, t.filter.close())
	}
	if t.barrier != nil {
		errs = append(errs, t.barrier.close())
	}
	return errors.Join(errs...)
}

// Frontends returns what clients can dial now.
func (t *Tables) Frontends() (map[FrontendKey]Frontend, error) {
	return dump[FrontendKey, Frontend](t.maps["frontends"])
}

// Services returns the names of service ids.
func (t *Tables) Services() (map[uint32]Service, error) {
	return dump[uint32, Service](t.maps["services"])
}

// PutFrontends writes frontends in batches.
func (t *Tables) PutFrontends(entries map[FrontendKey]Frontend) error {
	return put(t.maps["frontends"], entries, func(k FrontendKey) string {
		return k.AddrPort().String() + "/" + ProtocolName(k.Protocol)
	})
}

// DeleteFrontends removes frontends in batches; those that are not there are skipped.
func (t *Tables) DeleteFrontends(keys []FrontendKey) error {
	return remove(t.maps["frontends"], keys)
}

// PutServices names service ids.
func (t *Tables) PutServices(entries map[uint32]Service) error {
	return put(t.maps["services"], entries, func(id uint32) string { return fmt.Sprint(id) })
}

// DeleteServices forgets service ids.
func (t *Tables) DeleteServices(ids []uint32) error { return remove(t.maps["services"], ids) }

// PutMembers notes which backends pools hold, for session affinity.
func (t *Tables) PutMembers(list []Member) error {
	entries := make(map[Member]uint32, len(list))
	for _, m := range list {
		entries[m] = 1
	}
	return put(t.maps["members"], entries, func(m Member) string { return fmt.Sprintf("backend %d of pool %d", m.Backend, m.Pool) })
}

// DeleteMembers takes members back; those that are not there are skipped.
func (t *Tables) DeleteMembers(list []Member) error { return remove(t.maps["members"], list) }

// Members returns which backends pools hold.
func (t *Tables) Members() (map[Member]uint32, error) { return dump[Member, uint32](t.maps["members"]) }

// SourceRanges returns who is admitted to what.
func (t *Tables) SourceRanges() (map[SourceRange]uint32, error) {
	// A trie has no batches everywhere; there are few ranges.
	all := make(map[SourceRange]uint32)
	var key SourceRange
	var value uint32
	entries := t.maps["source_ranges"].Iterate()
	for entries.Next(&key, &value) {
		all[key] = value
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read source_ranges: %w", err)
	}
	return all, nil
}

// PutSourceRange admits clients.
func (t *Tables) PutSourceRange(key SourceRange) error {
	if err := t.maps["source_ranges"].Put(key, key.Bits); err != nil {
		return fmt.Errorf("put range of service %d into source_ranges: %w", swap32(key.Service), err)
	}
	return nil
}

// DeleteSourceRange takes an admission back; one that is not there is no error.
func (t *Tables) DeleteSourceRange(key SourceRange) error {
	if err := t.maps["source_ranges"].Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete range of service %d from source_ranges: %w", swap32(key.Service), err)
	}
	return nil
}

// SetServiceRanges says which addresses ClusterIPs are allocated from, so that those that nobody has do not
// leak out of the node. What does not fit is left out, with an error.
func (t *Tables) SetServiceRanges(prefixes []netip.Prefix) error {
	var list serviceRangeList
	var err error
	for _, p := range prefixes {
		if int(list.Count) == len(list.Range) {
			err = fmt.Errorf("service range %s: %w", p, ErrFull)
			break
		}
		list.Range[list.Count] = newRange(p)
		list.Count++
	}
	if e := t.maps["service_ranges"].Put(uint32(0), list); e != nil {
		return fmt.Errorf("put service ranges: %w", e)
	}
	return err
}

// Pool returns the pool as it is now.
func (t *Tables) Pool(id uint32) Pool {
	return PoolFromWord(atomic.LoadUint64(&t.pools.entries()[id]))
}

// SetPool publishes the pool with one atomic store.
func (t *Tables) SetPool(id uint32, p Pool) {
	atomic.StoreUint64(&t.pools.entries()[id], p.Word())
}

// Slots returns a copy of a range of slots.
func (t *Tables) Slots(offset, length uint32) []Slot {
	return slices.Clone(t.slots.entries()[offset : offset+length])
}

// SetSlots writes a range of slots that no published pool names.
func (t *Tables) SetSlots(offset uint32, s []Slot) { copy(t.slots.entries()[offset:], s) }

// Backend returns the entry as it is now.
func (t *Tables) Backend(id uint32) Backend { return t.backends.entries()[id] }

// SetBackend writes the entry so that its generation vouches for the rest: it is stored last, and
// generation 0 takes nothing but the generation away, for a program may be reading the address. Entry 0 is
// nobody's: the reconciler keeps its Reserved.
func (t *Tables) SetBackend(id uint32, b Backend) {
	e := &t.backends.entries()[id]
	if id == 0 {
		atomic.StoreUint32(&e.Reserved, b.Reserved)
		return
	}
	if b.Generation != 0 {
		if e.Generation != b.Generation {
			atomic.StoreUint32(&e.Generation, 0)
		}
		e.Addr, e.Port, e.Protocol, e.State, e.Service, e.Reserved = b.Addr, b.Port, b.Protocol, b.State, b.Service, b.Reserved
	}
	atomic.StoreUint32(&e.Generation, b.Generation)
}

// PoolsLen returns the table's present length.
func (t *Tables) PoolsLen() uint32 { return t.pools.len() }

// SlotsLen returns the table's present length.
func (t *Tables) SlotsLen() uint32 { return t.slots.len() }

// BackendsLen returns the table's present length.
func (t *Tables) BackendsLen() uint32 { return t.backends.len() }

// GrowPools makes the table at least n entries long; ErrFull beyond its limit.
func (t *Tables) GrowPools(n uint32) error { return t.pools.grow(t.specs["pools"], n) }

// GrowSlots makes the table at least n entries long; ErrFull beyond its limit.
func (t *Tables) GrowSlots(n uint32) error { return t.slots.grow(t.specs["slots"], n) }

// GrowBackends makes the table at least n entries long; ErrFull beyond its limit.
func (t *Tables) GrowBackends(n uint32) error { return t.backends.grow(t.specs["backends"], n) }

// AddAddress lets packets to addr through the packet path's filter. Counted; safe for concurrent use.
func (t *Tables) AddAddress(addr netip.Addr) { t.filter.add(addr) }

// RemoveAddress takes one AddAddress back. The filter closes when no flow needs it any more.
func (t *Tables) RemoveAddress(addr netip.Addr) { t.filter.remove(addr) }

// Quiesce returns when every program that was running has ended. Safe for concurrent use.
func (t *Tables) Quiesce() error { return t.barrier.wait() }

// Fill says how full a table is.
type Fill struct{ Entries, Limit uint64 }

// FillByTable counts the entries of the tables that can run full. It walks the hashes: not for a hot path.
func (t *Tables) FillByTable() (map[string]Fill, error) {
	fill := map[string]Fill{
		"pools":    {uint64(t.pools.len()), maxPools},
		"slots":    {uint64(t.slots.len()), maxSlots},
		"backends": {uint64(t.backends.len()), maxBackends},
	}
	for name, count := range map[string]func(*ebpf.Map) (uint64, error){
		"members":   countEntries[Member, uint32],
		"affinity":  countEntries[svcproxyAffinityKey, svcproxyAffinityEntry],
		"frontends": countEntries[FrontendKey, Frontend],
		"services":  countEntries[uint32, Service],
		"flows":     countEntries[Tuple, Flow],
	} {
		n, err := count(t.maps[name])
		if err != nil {
			return nil, err
		}
		fill[name] = Fill{n, uint64(t.maps[name].MaxEntries())}
	}
	return fill, nil
}

const batchSize = 4096

// dump reads a whole hash. What is added or removed meanwhile may or may not be in it.
func dump[K comparable, V any](m *ebpf.Map) (map[K]V, error) {
	all := make(map[K]V)
	err := walk(m, func(k K, v *V) { all[k] = *v })
	return all, err
}

// walk calls f for each entry of a hash, in batches.
func walk[K comparable, V any](m *ebpf.Map, f func(K, *V)) error {
	keys, values := make([]K, batchSize), make([]V, batchSize)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			f(keys[i], &values[i])
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", m, err)
		}
	}
}

func countEntries[K comparable, V any](m *ebpf.Map) (n uint64, err error) {
	err = walk(m, func(K, *V) { n++ })
	return n, err
}

func put[K comparable, V any](m *ebpf.Map, entries map[K]V, name func(K) string) error {
	keys, values := make([]K, 0, len(entries)), make([]V, 0, len(entries))
	for k, v := range entries {
		keys, values = append(keys, k), append(values, v)
	}
	for len(keys) > 0 {
		n, err := m.BatchUpdate(keys, values, nil)
		if err != nil {
			if errors.Is(err, unix.E2BIG) {
				err = ErrFull
			}
			return fmt.Errorf("put %s into %s: %w", name(keys[min(n, len(keys)-1)]), m, err)
		}
		keys, values = keys[n:], values[n:]
	}
	return nil
}

func remove[K comparable](m *ebpf.Map, keys []K) error {
	for len(keys) > 0 {
		n, err := m.BatchDelete(keys, nil)
		switch {
		case err == nil:
		case errors.Is(err, ebpf.ErrKeyNotExist) && n < len(keys):
			n++ // the batch stops at a key that is not there: go on behind it
		default:
			return fmt.Errorf("delete %v from %s: %w", keys[min(n, len(keys)-1)], m, err)
		}
		keys = keys[n:]
	}
	return nil
}
