package reconcile

import (
	"errors"
	"fmt"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// commit writes what pl says, up to the pools. Memory takes writes without fail; what they need has been
// reserved. Each is seen at once, so a pool follows its slots and those follow their backends.
func (r *Reconciler) commit(pl *plan) {
	p := pl.port
	if p.id == 0 {
		p.id = r.serviceIDs.take()
		r.ports[p.name] = p
	}
	if !p.named {
		r.unnamed.add(p)
	}
	p.pass = r.pass
	r.slots = extend(r.slots, r.tables.BackendsLen())
	r.writeBackends(pl)
	for i := range pl.pools {
		have, pp := &p.pools[i], &pl.pools[i]
		have.wanted = pp.wanted
		if pp.publish {
			r.publish(have, pl, pp)
		}
		if have.id != 0 && !have.wanted {
			r.retiring.add(p)
		}
	}
	if len(pl.dropped) > 0 {
		p.dropped = append(p.dropped, pl.dropped...)
		r.retiring.add(p)
	}
	p.affinity = pl.want.Affinity > 0
	p.sourcesWanted = p.sourceList(pl.want)
	if p.affinity || len(p.sourcesWanted) > 0 {
		r.unlisted.add(p)
	}
	if len(p.members) > 0 || len(p.sources) > 0 {
		r.retiring.add(p)
	}
	r.claim(p, pl.want)
}

// writeBackends writes the entries that are new or have another state.
func (r *Reconciler) writeBackends(pl *plan) {
	if pl.fresh == 0 && !pl.states {
		pl.port.backends = pl.backends
		return
	}
	known := pl.port.backends
	for i := range pl.backends {
		b := &pl.backends[i]
		if b.id == 0 {
			b.id = r.backendIDs.take()
			b.entry.Service = pl.port.id
			b.entry.Generation = r.generation()
			r.setBackend(b.id, b.entry)
			continue
		}
		for known[0].id != b.id {
			known = known[1:]
		}
		if known[0].entry.State != b.entry.State {
			r.setBackend(b.id, b.entry)
		}
	}
	pl.port.backends = pl.backends
}

// publish writes the slots of a pool to a range that nobody reads and then, at once for all readers,
// makes it the pool's.
func (r *Reconciler) publish(p *pool, pl *plan, pp *poolPlan) {
	word := bpf.Pool{Verdict: pp.verdict}
	var slots []bpf.Slot
	if n := len(pp.choices); n > 0 {
		slots = make([]bpf.Slot, n)
		for i, choice := range pp.choices {
			b := &pl.backends[choice]
			slots[i] = bpf.Slot{Backend: b.id, Generation: b.entry.Generation}
			r.slots[b.id]++
		}
		word.Offset, word.Length = pp.span.start, pp.span.length
		r.setSlots(word.Offset, slots)
	}
	if p.id == 0 {
		p.id = r.poolIDs.take()
	}
	r.setPool(p.id, word)
	r.unlinkSlots(p)
	p.word, p.slots = word, slots
}

// reserve finds room for all that plans need, or for nothing.
func (r *Reconciler) reserve(plans []plan) error {
	var backends, pools uint32
	for i := range plans {
		backends += uint32(plans[i].fresh)
		for j := range plans[i].pools {
			if pp := &plans[i].pools[j]; pp.publish && plans[i].port.pools[j].id == 0 {
				pools++
			}
		}
	}
	if err := r.roomForIDs(&r.arrays.backends, r.backendIDs, backends); err != nil {
		return err
	}
	if err := r.roomForIDs(&r.arrays.pools, r.poolIDs, pools); err != nil {
		return err
	}
	for i := range plans {
		for j := range plans[i].pools {
			pp := &plans[i].pools[j]
			n := uint32(len(pp.choices))
			if !pp.publish || n == 0 {
				continue
			}
			err := r.room(&r.arrays.slots, func() uint32 {
				r.ranges.grow(r.tables.SlotsLen())
				if s, ok := r.ranges.take(n); ok {
					pp.span = s
					return 0
				}
				return n - r.ranges.tail()
			})
			if err != nil {
				r.giveBack(plans)
				return err
			}
		}
	}
	return nil
}

// extend returns counts for ids below length.
func extend(counts []uint32, length uint32) []uint32 {
	if n := int(length) - len(counts); n > 0 {
		return append(counts, make([]uint32, n)...)
	}
	return counts
}

// giveBack returns the ranges of plans, which nobody has read.
func (r *Reconciler) giveBack(plans []plan) {
	for i := range plans {
		for j := range plans[i].pools {
			if pp := &plans[i].pools[j]; pp.span.length > 0 {
				r.ranges.give(pp.span)
				pp.span = span{}
			}
		}
	}
}

func (r *Reconciler) roomForIDs(a *array, free *ids, n uint32) error {
	return r.room(a, func() uint32 { return n - min(n, free.room(a.length())) })
}

// room makes lack return 0: by collecting what was unlinked, else by growing the array by what it says.
func (r *Reconciler) room(a *array, lack func() uint32) error {
	for n := lack(); n > 0; n = lack() {
		if r.trash.empty() || r.Collect() != nil {
			if err := a.grow(n); err != nil {
				return fmt.Errorf("make room for %d more %s: %w", n, a.name, err)
			}
		}
	}
	return nil
}

// anticipate grows arrays and maps once for what a large set of new Services will need, instead of step by
// step: each step of an array waits for the kernel's readers. That it fails is no harm here.
func (r *Reconciler) anticipate(changes []Change) {
	if len(changes) < 2 {
		return
	}
	var ports, backends uint32
	for _, c := range changes {
		if c.Service == nil || r.services[c.Name] != nil {
			continue
		}
		for _, s := range c.Slices {
			backends += uint32(len(s.Endpoints) * len(s.Ports))
		}
		ports += uint32(len(c.Service.Ports))
	}
	if len(r.ports) > 0 || ports < minLength {
		return // adopted arrays have their size; a few Services can grow theirs by doubling
	}
	if len(r.services) == 0 {
		r.services = make(map[endpoints.ObjectName]*service, len(changes))
	}
	r.ports = make(map[endpoints.PortName]*port, ports)
	_ = r.arrays.pools.grow(ports)
	_ = r.arrays.backends.grow(backends)
	_ = r.arrays.slots.grow(backends)
}

// An array is one of the three tables that grow.
type array struct {
	name     string
	length   func() uint32
	lengthen func(uint32) error
}

type arrays struct{ pools, slots, backends array }

func newArrays(t Tables) arrays {
	return arrays{
		pools:    array{"pools", t.PoolsLen, t.GrowPools},
		slots:    array{"slots", t.SlotsLen, t.GrowSlots},
		backends: array{"backends", t.BackendsLen, t.GrowBackends},
	}
}

// minLength is how long arrays are at first.
const minLength = 1024

// grow makes the array longer by n or more: twice as long, unless the table's limit is nearer.
func (a *array) grow(n uint32) error {
	length := uint64(a.length())
	want := max(2*length, minLength)
	for want < length+uint64(n) {
		want *= 2
	}
	err := error(bpf.ErrFull)
	for _, want := range []uint64{want, length + uint64(n)} {
		if want > 1<<32-1 {
			continue
		}
		if err = a.lengthen(uint32(want)); !errors.Is(err, bpf.ErrFull) {
			break
		}
	}
	return err
}
