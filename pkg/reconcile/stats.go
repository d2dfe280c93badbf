package reconcile

import "github.com/svcproxy/svcproxy/pkg/bpf"

// Stats counts since the start.
type Stats struct {
	Applies   uint64
	Errors    uint64 // that Apply, Retry, Prune and Collect have returned
	Conflicts uint64 // times that a port lost a frontend to another
	// UDPBackendsGone counts backends that were let go of: sockets may still be connected to them.
	UDPBackendsGone uint64

	// Entries written or deleted, by table.
	Frontends, Services, Pools, Slots, Backends, Members, Ranges uint64
}

// Stats returns the counters.
func (r *Reconciler) Stats() Stats { return r.stats }

func (s *Stats) writes() uint64 {
	return s.Frontends + s.Services + s.Pools + s.Slots + s.Backends + s.Members + s.Ranges
}

func (r *Reconciler) setPool(id uint32, p bpf.Pool) {
	r.stats.Pools++
	r.tables.SetPool(id, p)
}

func (r *Reconciler) setSlots(offset uint32, slots []bpf.Slot) {
	r.stats.Slots += uint64(len(slots))
	r.tables.SetSlots(offset, slots)
}

func (r *Reconciler) setBackend(id uint32, b bpf.Backend) {
	r.stats.Backends++
	r.tables.SetBackend(id, b)
}
