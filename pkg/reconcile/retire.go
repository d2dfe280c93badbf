package reconcile

import (
	"fmt"
	"maps"
	"slices"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// trash is what the kernel's readers may still be reading, by how far its way to reuse has come.
type trash struct {
	unlinked garbage  // nothing leads there any more
	cleared  []uint32 // backends whose generation says so to those who have kept their id
}

type garbage struct {
	spans    []span
	pools    []uint32
	backends []backend
	services []uint32
}

func (g *garbage) empty() bool {
	return len(g.spans)+len(g.pools)+len(g.backends)+len(g.services) == 0
}

func (t *trash) empty() bool { return t.unlinked.empty() && len(t.cleared) == 0 }

// Unlinked reports whether there is anything for [Reconciler.Collect] to do.
func (r *Reconciler) Unlinked() bool { return !r.trash.empty() }

// Collect waits for the kernel's readers (milliseconds, [Tables].Quiesce), and then makes what was
// unlinked before available again. A backend's id takes two calls: the first changes the generation, so
// that flows, sockets and affinity let go of it; whoever compared it before may still be reading the
// entry until the second. On error nothing has changed.
func (r *Reconciler) Collect() error {
	if r.trash.empty() {
		return nil
	}
	if err := r.tables.Quiesce(); err != nil {
		r.stats.Errors++
		return fmt.Errorf("wait for the readers of unlinked entries: %w", err)
	}
	collected := r.trash
	r.trash = trash{}
	r.release(collected)
	return nil
}

// Sweep and [Reconciler.Release] are Collect for those who cannot wait. Sweep takes what has been unlinked so far;
// Release is to be called when a [Tables].Quiesce that began afterwards, beside other work, has succeeded, and
// before the next Sweep.
func (r *Reconciler) Sweep() { r.swept, r.trash = r.trash, trash{} }

// Release makes available again what the last Sweep took.
func (r *Reconciler) Release() {
	swept := r.swept
	r.swept = trash{}
	r.release(swept)
}

func (r *Reconciler) release(swept trash) {
	for _, id := range swept.cleared {
		r.backendIDs.give(id)
	}
	g := swept.unlinked
	for _, id := range g.pools {
		r.setPool(id, bpf.Pool{})
		r.poolIDs.give(id)
	}
	for _, b := range g.backends {
		b.entry.Generation = 0
		r.setBackend(b.id, b.entry)
		r.trash.cleared = append(r.trash.cleared, b.id)
	}
	for _, s := range g.spans {
		r.ranges.give(s)
	}
	for _, id := range g.services {
		r.serviceIDs.give(id)
	}
}

// abandon takes all from p that the model gave it; the kernel's side follows when frontends have moved.
func (r *Reconciler) abandon(p *port) {
	for _, f := range p.frontends {
		r.unclaim(f, p)
	}
	p.frontends = nil
	p.affinity, p.sourcesWanted = false, nil
	p.dropped = append(p.dropped, p.backends...)
	p.backends = nil
	for i := range p.pools {
		p.pools[i].wanted = false
	}
	p.pass = 0
	r.unnamed.remove(p)
	r.retiring.add(p)
}

// retireAll unlinks what no frontend leads to any more.
func (r *Reconciler) retireAll() []error {
	errs := r.retireSources()
	if r.pruned {
		if err := r.retireOrphans(); err != nil {
			errs = append(errs, err)
		}
	}
	var gone []*port
	for _, p := range slices.Clone(r.retiring.list) {
		done, err := r.retire(p)
		if err != nil {
			errs = append(errs, err)
		}
		if !done {
			continue
		}
		if p.pass == 0 {
			gone = append(gone, p)
		} else {
			r.retiring.remove(p)
		}
	}
	return append(errs, r.unnameServices(gone)...)
}

// retire unlinks those pools and backends of p that nobody wants and nothing leads to; true if none of
// the unwanted is left. Members go before what they name.
func (r *Reconciler) retire(p *port) (done bool, err error) {
	err = r.deleteMembers(p)
	done = err == nil && len(p.sources.surplus(p.sourcesWanted, compareSources)) == 0
	for i := range p.pools {
		have := &p.pools[i]
		switch {
		case have.id == 0 || have.wanted:
		case r.links[have.id] > 0 || err != nil:
			done = false
		default:
			r.unlinkPool(have)
			*have = pool{}
		}
	}
	p.dropped = r.retireBackends(p.dropped, err != nil)
	return done && len(p.dropped) == 0, err
}

// retireBackends unlinks the backends that no slot names, and returns the others. Those that members may
// name only stop serving.
func (r *Reconciler) retireBackends(list []backend, members bool) []backend {
	keep := list[:0]
	for _, b := range list {
		if r.slots[b.id] > 0 {
			keep = append(keep, b)
			continue
		}
		// Its generation must stay until readers on their way from a slot have passed. Those who come
		// with an id they have kept ask for the state, so they need not wait.
		if b.entry.State != 0 {
			if endpoints.Protocol(b.entry.Protocol) == endpoints.UDP {
				r.stats.UDPBackendsGone++
			}
			b.entry.State = 0
			r.setBackend(b.id, b.entry)
		}
		if members {
			keep = append(keep, b)
			continue
		}
		r.trash.unlinked.backends = append(r.trash.unlinked.backends, b)
	}
	if len(keep) == 0 {
		return nil
	}
	return keep
}

// unlinkPool lets go of a pool that no frontend names.
func (r *Reconciler) unlinkPool(p *pool) {
	r.unlinkSlots(p)
	r.trash.unlinked.pools = append(r.trash.unlinked.pools, p.id)
}

// unlinkSlots lets go of a range that no pool names.
func (r *Reconciler) unlinkSlots(p *pool) {
	if len(p.slots) == 0 {
		return
	}
	for _, s := range p.slots {
		r.slots[s.Backend]--
	}
	if s, ok := r.orphans.overlaps.release(p); ok {
		r.trash.unlinked.spans = append(r.trash.unlinked.spans, s)
	}
}

// nameServices writes the names of new ports. One that has none is served all the same: the name is for
// people, and for keeping the id at a restart.
func (r *Reconciler) nameServices() []error {
	if r.unnamed.len() == 0 {
		return nil
	}
	list := slices.Clone(r.unnamed.list)
	puts := make(map[uint32]bpf.Service, len(list))
	for _, p := range list {
		puts[p.id] = serviceEntry(p.name)
	}
	r.stats.Services += uint64(len(puts))
	whole := r.tables.PutServices(puts)
	var errs []error
	for _, p := range list {
		err := whole
		if whole != nil && len(list) > 1 {
			r.stats.Services++
			err = r.tables.PutServices(map[uint32]bpf.Service{p.id: puts[p.id]})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("name service %s: %w", p.name, err))
			continue
		}
		p.named = true
		r.unnamed.remove(p)
	}
	return errs
}

// unnameServices deletes the names of ports of which nothing else is left.
func (r *Reconciler) unnameServices(gone []*port) []error {
	ports := make(map[uint32]*port, len(gone))
	for _, p := range gone {
		ports[p.id] = p
	}
	if r.pruned && len(r.orphans.pools)+len(r.orphans.backends)+len(r.orphans.sources) == 0 {
		for id := range r.orphans.services {
			ports[id] = nil
		}
	}
	if len(ports) == 0 {
		return nil
	}
	list := slices.Sorted(maps.Keys(ports))
	r.stats.Services += uint64(len(list))
	whole := r.tables.DeleteServices(list)
	var errs []error
	for i, id := range list {
		p := ports[id]
		if p != nil {
			p.named = false // perhaps; should it come back
		}
		err := whole
		if whole != nil && len(list) > 1 {
			r.stats.Services++
			err = r.tables.DeleteServices(list[i : i+1])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("delete the name of service %d: %w", id, err))
			continue
		}
		r.trash.unlinked.services = append(r.trash.unlinked.services, id)
		delete(r.orphans.services, id)
		if p != nil {
			delete(r.ports, p.name)
			r.retiring.remove(p)
		}
	}
	return errs
}
