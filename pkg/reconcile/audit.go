package reconcile

import (
	"errors"
	"fmt"
	"iter"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// An Audit compares the tables with what the Reconciler has written there, and puts back what differs, while
// the Reconciler goes on writing: the hashes are read beside it, and each step of the comparison is short
// (DESIGN D12, drift repair). It costs changes nothing but the step they may have to wait for.
type Audit struct {
	r       *Reconciler
	written *written

	// As they were read; what has been compared is taken out.
	frontends map[bpf.FrontendKey]bpf.Frontend
	services  map[uint32]bpf.Service
	members   map[bpf.Member]uint32
	sources   map[bpf.SourceRange]uint32

	next  func() (*Drift, bool)
	stop  func()
	found []Drift
}

// A Drift is an entry that somebody else has changed, added or deleted.
type Drift struct {
	Table string
	What  string
	Err   error // of putting it right
	mend  func() error
}

// auditStep is how many entries a step looks at: some tens of microseconds.
const auditStep = 256

// Audit begins one; nil while something has failed or awaits Prune, for then the tables are not as they
// should be. It must have ended, by Step or Close, before the next begins.
func (r *Reconciler) Audit() *Audit {
	if r.Pending() > r.held.len() || !r.pruned {
		return nil
	}
	a := &Audit{r: r, written: &written{Tables: r.tables, keys: make(map[any]struct{})}}
	r.tables = a.written
	return a
}

// Read reads the hashes. It may run beside whoever uses the Reconciler.
func (a *Audit) Read() error {
	var errs [4]error
	a.frontends, errs[0] = a.written.Tables.Frontends()
	a.services, errs[1] = a.written.Tables.Services()
	a.members, errs[2] = a.written.Tables.Members()
	a.sources, errs[3] = a.written.Tables.SourceRanges()
	return errors.Join(errs[:]...)
}

// Step, after Read, compares some more; true if that was all.
func (a *Audit) Step() (done bool) {
	if a.next == nil {
		a.next, a.stop = iter.Pull(a.compare())
	}
	for range auditStep {
		drift, ok := a.next()
		if !ok {
			a.Close()
			return true
		}
		if drift != nil {
			drift.Err = drift.mend()
			a.found = append(a.found, *drift)
		}
	}
	return false
}

// Close ends the audit.
func (a *Audit) Close() {
	if a.stop != nil {
		a.stop()
	}
	a.r.tables = a.written.Tables
}

// Found returns what differed.
func (a *Audit) Found() []Drift { return a.found }

// compare yields once for each entry, nil if it is as it should be. Between two of them the Reconciler may
// have changed anything, so what it knows and what an array holds are compared within one.
func (a *Audit) compare() iter.Seq[*Drift] {
	return func(yield func(*Drift) bool) {
		for _, part := range []iter.Seq[*Drift]{a.comparePorts, a.compareFrontends, a.compareRest, a.compareArrays} {
			for drift := range part {
				if !yield(drift) {
					return
				}
			}
		}
	}
}

// comparePorts compares what is each port's own: its name and lists, its backends, its pools and their slots.
func (a *Audit) comparePorts(yield func(*Drift) bool) {
	t := a.written.Tables
	for _, p := range a.r.ports {
		if p.named {
			name := serviceEntry(p.name)
			if !yield(compareEntry(a, a.services, "services", p.id, name, p.name, func() error {
				return t.PutServices(map[uint32]bpf.Service{p.id: name})
			})) {
				return
			}
		}
		delete(a.services, p.id)
		for m, sure := range p.members {
			// What it leads to is nothing that anybody reads.
			if sure && !yield(compareEntry(a, a.members, "members", m, a.members[m], p.name, func() error {
				return t.PutMembers([]bpf.Member{m})
			})) {
				return
			}
			delete(a.members, m)
		}
		for s, sure := range p.sources {
			if sure && !yield(compareEntry(a, a.sources, "source_ranges", s, s.Bits, p.name, func() error {
				return t.PutSourceRange(s)
			})) {
				return
			}
			delete(a.sources, s)
		}
		for _, list := range [][]backend{p.backends, p.dropped} {
			for _, b := range list {
				if !yield(a.compareBackend(p, b)) {
					return
				}
			}
		}
		for i := range p.pools {
			if !yield(a.comparePool(p, &p.pools[i])) {
				return
			}
		}
	}
}

func (a *Audit) compareFrontends(yield func(*Drift) bool) {
	for key, f := range a.r.frontends {
		if len(f.kernel) == 1 && !f.absent {
			value := f.kernel[0]
			if !yield(compareEntry(a, a.frontends, "frontends", key, value, f, func() error {
				return a.written.Tables.PutFrontends(map[bpf.FrontendKey]bpf.Frontend{key: value})
			})) {
				return
			}
		}
		delete(a.frontends, key)
	}
}

// compareEntry compares an entry of a hash as it was read; one that we have written meanwhile is right.
func compareEntry[K, V comparable](a *Audit, table map[K]V, name string, key K, want V, of fmt.Stringer, put func() error) *Drift {
	if _, ok := a.written.keys[key]; ok {
		return nil
	}
	switch have, ok := table[key]; {
	case !ok:
		return &Drift{Table: name, What: "deleted: " + of.String(), mend: put}
	case have != want:
		return &Drift{Table: name, What: "changed: " + of.String(), mend: put}
	}
	return nil
}

func (a *Audit) compareBackend(p *port, b backend) *Drift {
	if a.r.tables.Backend(b.id) == b.entry {
		return nil
	}
	return &Drift{Table: "backends", What: fmt.Sprintf("changed: %s of %s", b.entry.AddrPort(), p.name), mend: func() error {
		a.r.setBackend(b.id, b.entry)
		return nil
	}}
}

// comparePool compares a pool's word and slots. The slots are put back where they are, one atomic store each:
// who reads meanwhile finds a wrong one or the right one.
func (a *Audit) comparePool(p *port, have *pool) *Drift {
	if have.id == 0 {
		return nil
	}
	word, slots := have.word, have.slots
	if word.Verdict == bpf.VerdictServe {
		for i, s := range a.r.tables.Slots(word.Offset, word.Length) {
			if s != slots[i] {
				return &Drift{Table: "slots", What: "changed: " + p.name.String(), mend: func() error {
					a.r.setSlots(word.Offset, slots)
					a.r.setPool(have.id, word)
					return nil
				}}
			}
		}
	}
	if a.r.tables.Pool(have.id) == word {
		return nil
	}
	return &Drift{Table: "pools", What: "changed: " + p.name.String(), mend: func() error {
		a.r.setPool(have.id, word)
		return nil
	}}
}

// compareRest yields what is left of the hashes as they were read: it is nobody's.
func (a *Audit) compareRest(yield func(*Drift) bool) {
	t := a.written.Tables
	for key := range a.frontends {
		what := fmt.Sprintf("added: %s/%s", key.AddrPort(), bpf.ProtocolName(key.Protocol))
		if !yield(a.foreign("frontends", key, what, func() error { return t.DeleteFrontends([]bpf.FrontendKey{key}) })) {
			return
		}
	}
	for m := range a.members {
		what := fmt.Sprintf("added: backend %d of pool %d", m.Backend, m.Pool)
		if !yield(a.foreign("members", m, what, func() error { return t.DeleteMembers([]bpf.Member{m}) })) {
			return
		}
	}
	for s := range a.sources {
		id, clients := s.Parse()
		what := fmt.Sprintf("added: %s of service %d", clients, id)
		if !yield(a.foreign("source_ranges", s, what, func() error { return t.DeleteSourceRange(s) })) {
			return
		}
	}
	for id := range a.services {
		if !yield(a.foreign("services", id, fmt.Sprintf("added: %d", id), func() error { return t.DeleteServices([]uint32{id}) })) {
			return
		}
	}
}

func (a *Audit) foreign(table string, key any, what string, remove func() error) *Drift {
	if _, ok := a.written.keys[key]; ok {
		return nil
	}
	return &Drift{Table: table, What: what, mend: remove}
}

// compareArrays yields the entries of the arrays that are in use and should not be. It looks at all of them at
// once, for which is which changes at any time; they are memory.
func (a *Audit) compareArrays(yield func(*Drift) bool) {
	r := a.r
	pools, backends := make([]bool, r.tables.PoolsLen()), make([]bool, r.tables.BackendsLen())
	for _, p := range r.ports {
		for i := range p.pools {
			pools[p.pools[i].id] = true
		}
		for _, list := range [][]backend{p.backends, p.dropped} {
			for _, b := range list {
				backends[b.id] = true
			}
		}
	}
	for _, t := range []*trash{&r.trash, &r.swept} {
		for _, id := range t.unlinked.pools {
			pools[id] = true
		}
		for _, b := range t.unlinked.backends {
			backends[b.id] = true
		}
	}
	// What differs is put right before anybody can take such an id for his own.
	var found []*Drift
	for id := uint32(1); id < uint32(len(pools)); id++ {
		if !pools[id] && r.tables.Pool(id) != (bpf.Pool{}) {
			r.setPool(id, bpf.Pool{})
			found = append(found, &Drift{Table: "pools", What: fmt.Sprintf("added: %d", id)})
		}
	}
	for id := uint32(1); id < uint32(len(backends)); id++ {
		if b := r.tables.Backend(id); !backends[id] && b.Generation != 0 {
			b.Generation = 0
			r.setBackend(id, b)
			found = append(found, &Drift{Table: "backends", What: "added: " + b.AddrPort().String()})
		}
	}
	if g := r.generations; g.next > 1 && r.tables.Backend(0).Reserved < g.next {
		r.setBackend(0, bpf.Backend{Reserved: g.limit})
		found = append(found, &Drift{Table: "backends", What: "changed: the limit of generations"})
	}
	for _, drift := range found {
		drift.mend = func() error { return nil }
		if !yield(drift) {
			return
		}
	}
}

// written notes the keys of the hashes that we write while they are read.
type written struct {
	Tables
	keys map[any]struct{}
}

func note[K comparable](w *written, keys []K) {
	for _, k := range keys {
		w.keys[k] = struct{}{}
	}
}

func noteAll[K comparable, V any](w *written, entries map[K]V) {
	for k := range entries {
		w.keys[k] = struct{}{}
	}
}

func (w *written) PutFrontends(entries map[bpf.FrontendKey]bpf.Frontend) error {
	noteAll(w, entries)
	return w.Tables.PutFrontends(entries)
}

func (w *written) DeleteFrontends(keys []bpf.FrontendKey) error {
	note(w, keys)
	return w.Tables.DeleteFrontends(keys)
}

func (w *written) PutServices(entries map[uint32]bpf.Service) error {
	noteAll(w, entries)
	return w.Tables.PutServices(entries)
}

func (w *written) DeleteServices(ids []uint32) error {
	note(w, ids)
	return w.Tables.DeleteServices(ids)
}

func (w *written) PutMembers(list []bpf.Member) error {
	note(w, list)
	return w.Tables.PutMembers(list)
}

func (w *written) DeleteMembers(list []bpf.Member) error {
	note(w, list)
	return w.Tables.DeleteMembers(list)
}

func (w *written) PutSourceRange(s bpf.SourceRange) error {
	note(w, []bpf.SourceRange{s})
	return w.Tables.PutSourceRange(s)
}

func (w *written) DeleteSourceRange(s bpf.SourceRange) error {
	note(w, []bpf.SourceRange{s})
	return w.Tables.DeleteSourceRange(s)
}
