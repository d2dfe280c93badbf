package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// Adopt reads what an earlier agent left in the tables; called once, before the first Apply. What the
// model then wants keeps its ids and is not written again. What nothing wants, or does not fit together,
// stays as it is until [Reconciler.Prune].
func (r *Reconciler) Adopt() error {
	// What looks free now may have been unlinked a moment before the earlier agent died.
	if err := r.tables.Quiesce(); err != nil {
		return fmt.Errorf("wait for the readers of unlinked entries: %w", err)
	}
	frontends, err := r.tables.Frontends()
	if err != nil {
		return fmt.Errorf("read frontends: %w", err)
	}
	names, err := r.tables.Services()
	if err != nil {
		return fmt.Errorf("read services: %w", err)
	}
	members, err := r.tables.Members()
	if err != nil {
		return fmt.Errorf("read members: %w", err)
	}
	sources, err := r.tables.SourceRanges()
	if err != nil {
		return fmt.Errorf("read source ranges: %w", err)
	}
	services := make(map[uint32]struct{}) // ids in use
	for key, value := range frontends {
		f := &frontend{key: key, adopted: true, kernel: []bpf.Frontend{value}, filtered: true}
		r.frontends[key] = f
		r.orphans.frontends[value.Service] = append(r.orphans.frontends[value.Service], f)
		r.tables.AddAddress(key.AddrPort().Addr())
		r.link(f, value)
		services[value.Service] = struct{}{}
	}
	for m := range members {
		r.orphans.members[m.Pool] = append(r.orphans.members[m.Pool], m)
	}
	r.slots = extend(nil, r.tables.BackendsLen())
	r.adoptPools()
	backends := r.adoptBackends(services)
	for id := range names {
		services[id] = struct{}{}
	}
	r.adoptServices(names, backends, frontends)
	r.adoptSources(services, sources)
	delete(services, 0)
	r.serviceIDs = newIDs(services, uint32(2*len(services)+minLength))
	for id := range services {
		if _, ok := names[id]; !ok {
			r.orphans.services[id] = struct{}{}
		}
	}
	return nil
}

// adoptPools makes orphans of all pools. A range is one only where the word makes sense.
func (r *Reconciler) adoptPools() {
	used := make(map[uint32]struct{})
	for id := range r.links {
		used[id] = struct{}{}
	}
	for id := range r.orphans.members {
		used[id] = struct{}{}
	}
	length, slots := r.tables.PoolsLen(), uint64(r.tables.SlotsLen())
	for id := uint32(1); id < length; id++ {
		word := r.tables.Pool(id)
		if _, ok := used[id]; !ok && word == (bpf.Pool{}) {
			continue
		}
		used[id] = struct{}{}
		p := pool{id: id, word: word}
		if word.Verdict == bpf.VerdictServe && uint64(word.Offset)+uint64(word.Length) <= slots && word.Length > 0 {
			p.slots = r.tables.Slots(word.Offset, word.Length)
			r.adoptSlots(p.slots)
		}
		r.orphans.pools[id] = p
		if r.links[id] == 0 {
			r.orphans.spare[contentsOf(&p)] = append(r.orphans.spare[contentsOf(&p)], id)
		}
	}
	delete(used, 0)
	r.poolIDs = newIDs(used, length)
	var spans []span
	spans, r.orphans.overlaps = findOverlaps(r.orphans.pools)
	r.ranges = newRanges(uint32(slots), spans)
}

func (r *Reconciler) adoptSlots(slots []bpf.Slot) {
	for i := range slots {
		s := &slots[i]
		if s.Backend >= uint32(len(r.slots)) {
			*s = bpf.Slot{} // names nobody, now and later
		}
		r.slots[s.Backend]++
		r.generations.next = max(r.generations.next, s.Generation+1)
	}
}

// adoptBackends returns the backends by service id.
func (r *Reconciler) adoptBackends(services map[uint32]struct{}) map[uint32][]backend {
	length := r.tables.BackendsLen()
	used := make(map[uint32]struct{})
	byService := make(map[uint32][]backend)
	for id := uint32(1); id < length; id++ {
		entry := r.tables.Backend(id)
		if entry.Generation == 0 {
			continue
		}
		used[id] = struct{}{}
		services[entry.Service] = struct{}{}
		byService[entry.Service] = append(byService[entry.Service], backend{id, entry})
		r.generations.next = max(r.generations.next, entry.Generation+1)
	}
	if length > 0 {
		r.generations.next = max(r.generations.next, r.tables.Backend(0).Reserved)
	}
	r.generations.limit = r.generations.next
	r.backendIDs = newIDs(used, length)
	return byService
}

// adoptServices makes a port of each service that has a name of its own, with its backends.
func (r *Reconciler) adoptServices(names map[uint32]bpf.Service, backends map[uint32][]backend, frontends map[bpf.FrontendKey]bpf.Frontend) {
	served := make(map[uint32]int)
	for _, f := range frontends {
		served[f.Service]++
	}
	ids := make([]uint32, 0, len(names))
	for id := range names {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b uint32) int { // of two with one name: who is dialled, then the older
		return cmp.Or(cmp.Compare(served[b], served[a]), cmp.Compare(a, b))
	})
	for _, id := range ids {
		name, ok := portName(names[id])
		if !ok || id == 0 || r.ports[name] != nil {
			r.orphans.services[id] = struct{}{}
			continue
		}
		p := &port{name: name, id: id, named: true, adopted: true}
		r.ports[name] = p
		r.adoptPortBackends(p, backends[id])
		delete(backends, id)
	}
	for _, list := range backends {
		r.orphans.backends = append(r.orphans.backends, list...)
	}
	slices.SortFunc(r.orphans.backends, func(a, b backend) int { return cmp.Compare(a.id, b.id) })
}

// adoptSources gives the source ranges to their ports.
func (r *Reconciler) adoptSources(services map[uint32]struct{}, sources map[bpf.SourceRange]uint32) {
	byService := make(map[uint32]listing[bpf.SourceRange])
	for s, bits := range sources {
		id, _ := s.Parse()
		services[id] = struct{}{}
		if byService[id] == nil {
			byService[id] = make(listing[bpf.SourceRange])
		}
		byService[id][s] = bits == s.Bits
	}
	for _, p := range r.ports {
		p.sources = byService[p.id]
		delete(byService, p.id)
	}
	for _, list := range byService {
		r.orphans.sources = append(r.orphans.sources, slices.Collect(maps.Keys(list))...)
	}
	slices.SortFunc(r.orphans.sources, compareSources)
}

// adoptPortBackends gives p one backend of each address: the one that slots name, then the youngest.
func (r *Reconciler) adoptPortBackends(p *port, list []backend) {
	slices.SortFunc(list, func(a, b backend) int {
		if c := a.entry.AddrPort().Compare(b.entry.AddrPort()); c != 0 {
			return c
		}
		if x, y := r.slots[a.id] > 0, r.slots[b.id] > 0; x != y {
			if x {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.entry.Generation, a.entry.Generation)
	})
	for _, b := range list {
		n := len(p.backends)
		again := n > 0 && p.backends[n-1].entry.AddrPort() == b.entry.AddrPort()
		if again || b.entry != bpf.NewBackend(b.entry.AddrPort(), uint8(p.name.Protocol), b.entry.State, p.id, b.entry.Generation) {
			r.orphans.backends = append(r.orphans.backends, b)
			continue
		}
		p.backends = append(p.backends, b)
	}
}

// takeOver gives p what the kernel's frontends say is its: the frontends themselves, and the pools they
// name.
func (r *Reconciler) takeOver(p *port) {
	p.adopted = false
	found := r.orphans.frontends[p.id]
	slices.SortFunc(found, compareFrontends)
	for _, f := range found {
		v := f.kernel[0]
		f.claims = append(f.claims, claim{port: p, value: v})
		p.frontends = append(p.frontends, f)
		if v.Service != p.id {
			continue // another port has it by now
		}
		ipv6 := f.key.AddrPort().Addr().Is6()
		r.findPool(p, poolIndex(ipv6, scope(v, bpf.FlagInsideLocal)), v.Inside)
		r.findPool(p, poolIndex(ipv6, scope(v, bpf.FlagOutsideLocal)), v.Outside)
	}
	delete(r.orphans.frontends, p.id)
}

// scope returns which set a pool of an entry is; the flag says that it is the local one.
func scope(v bpf.Frontend, flag uint16) endpoints.Scope {
	if v.Flags&flag != 0 {
		return endpoints.Local
	}
	return endpoints.Cluster
}

// findPool makes an orphan one of p's pools, with its members.
func (r *Reconciler) findPool(p *port, i int, id uint32) {
	found, ok := r.orphans.pools[id]
	if !ok || p.pools[i].id != 0 {
		return
	}
	if r.orphans.overlaps[id] != nil {
		found.word.Verdict = bpf.VerdictNone // to be published elsewhere
	}
	p.pools[i] = found
	delete(r.orphans.pools, id)
	for _, m := range r.orphans.members[id] {
		if p.members == nil {
			p.members = make(listing[bpf.Member])
		}
		p.members[m] = true
	}
	delete(r.orphans.members, id)
}

// serviceEntry returns the name that the kernel keeps for a port.
func serviceEntry(p endpoints.PortName) bpf.Service {
	return bpf.NewService(p.ObjectName.String()+":"+p.Port, uint8(p.Protocol))
}

// portName is the inverse of serviceEntry.
func portName(s bpf.Service) (endpoints.PortName, bool) {
	object, portName, ok := strings.Cut(s.String(), ":")
	namespace, name, ok2 := strings.Cut(object, "/")
	p := endpoints.PortName{
		ObjectName: endpoints.ObjectName{Namespace: namespace, Name: name},
		Port:       portName,
		Protocol:   endpoints.Protocol(s.Protocol),
	}
	return p, ok && ok2 && serviceEntry(p) == s
}
