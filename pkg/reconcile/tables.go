package reconcile

import (
	"net/netip"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// Tables is the kernel's side: pkg/bpf implements it on maps, the tests on memory. One goroutine uses it.
//
// Pools, slots and backends are memory that programs read at any moment: each Set is one visible write,
// and publishing a pool is one atomic store. Ids and offsets are below the table's length; the caller
// grows a table before it uses more. Id 0 is nobody's in services, pools and backends; the entry of
// backend 0 has generation 0 and keeps in Reserved where the generations of the next agent begin.
type Tables interface {
	// What is in the kernel now; read once, at start.
	Frontends() (map[bpf.FrontendKey]bpf.Frontend, error)
	Services() (map[uint32]bpf.Service, error)
	Members() (map[bpf.Member]uint32, error)
	SourceRanges() (map[bpf.SourceRange]uint32, error)

	// Batched writes. On error some may have been made; the error names map and key. Deleting what is
	// not there is no error.
	PutFrontends(map[bpf.FrontendKey]bpf.Frontend) error
	DeleteFrontends([]bpf.FrontendKey) error
	PutServices(map[uint32]bpf.Service) error
	DeleteServices([]uint32) error
	PutMembers([]bpf.Member) error
	DeleteMembers([]bpf.Member) error
	PutSourceRange(bpf.SourceRange) error // one by one: a trie knows no batches
	DeleteSourceRange(bpf.SourceRange) error

	Pool(id uint32) bpf.Pool
	SetPool(id uint32, p bpf.Pool)
	Slots(offset, length uint32) []bpf.Slot // a copy
	SetSlots(offset uint32, slots []bpf.Slot)
	Backend(id uint32) bpf.Backend
	SetBackend(id uint32, b bpf.Backend)

	// The lengths of the arrays, and making one longer: at least n entries, contents kept, readers
	// undisturbed. ErrFull if n is beyond the table's limit.
	PoolsLen() uint32
	SlotsLen() uint32
	BackendsLen() uint32
	GrowPools(n uint32) error
	GrowSlots(n uint32) error
	GrowBackends(n uint32) error

	// AddAddress and RemoveAddress keep the packet path's filter of frontend addresses. They are counted:
	// an address is in the filter while more have been added than removed (or a flow still has it).
	AddAddress(netip.Addr)
	RemoveAddress(netip.Addr)

	// Quiesce returns when no program that was running when it was called still runs: what was unlinked
	// before may be reused. Takes milliseconds; alone among these it may be called by another goroutine.
	Quiesce() error
}
