package reconcile

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// A listing is what the kernel holds for a port in a table that is a set. false: perhaps, for a write of
// it has failed.
type listing[K comparable] map[K]bool

// missing returns those of want that are not certain to be there.
func (l listing[K]) missing(want []K) []K {
	var list []K
	for _, k := range want {
		if !l[k] {
			list = append(list, k)
		}
	}
	return list
}

// surplus returns those that may be there and are not in want, sorted. So is want.
func (l listing[K]) surplus(want []K, compare func(a, b K) int) []K {
	var list []K
	for k := range l {
		if _, ok := slices.BinarySearchFunc(want, k, compare); !ok {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, compare)
	return list
}

// listAll puts what ports lack of source ranges and members. The pools are there by now, the frontends
// that ask for either are not.
func (r *Reconciler) listAll() []error {
	var errs []error
	for _, p := range slices.Clone(r.unlisted.list) {
		failed := len(errs)
		if err := r.putSources(p); err != nil {
			errs = append(errs, err)
		}
		if err := r.putMembers(p); err != nil {
			errs = append(errs, err)
		}
		if len(errs) == failed {
			r.unlisted.remove(p)
		}
	}
	return errs
}

// memberList returns the members that p should have, sorted: the backends of all its pools that are
// wanted or that a frontend still names, if it has session affinity.
func (r *Reconciler) memberList(p *port) []bpf.Member {
	if !p.affinity {
		return nil
	}
	var list []bpf.Member
	for i := range p.pools {
		have := &p.pools[i]
		if have.id == 0 || !have.wanted && r.links[have.id] == 0 {
			continue
		}
		for _, s := range have.slots {
			if s.Backend != 0 { // an adopted slot may name nobody
				list = append(list, bpf.Member{Pool: have.id, Backend: s.Backend})
			}
		}
	}
	slices.SortFunc(list, compareMembers)
	return slices.Compact(list)
}

func (r *Reconciler) putMembers(p *port) error {
	list := p.members.missing(r.memberList(p))
	if len(list) == 0 {
		return nil
	}
	if p.members == nil {
		p.members = make(listing[bpf.Member])
	}
	for _, m := range list {
		p.members[m] = false
	}
	r.stats.Members += uint64(len(list))
	if err := r.tables.PutMembers(list); err != nil {
		return fmt.Errorf("put members of %s: %w", p.name, err)
	}
	for _, m := range list {
		p.members[m] = true
	}
	return nil
}

// deleteMembers takes back the members that p should not have. A client whose backend is one of them
// would stay with it.
func (r *Reconciler) deleteMembers(p *port) error {
	if len(p.members) == 0 {
		return nil
	}
	list := p.members.surplus(r.memberList(p), compareMembers)
	if len(list) == 0 {
		return nil
	}
	for _, m := range list {
		p.members[m] = false
	}
	r.stats.Members += uint64(len(list))
	if err := r.tables.DeleteMembers(list); err != nil {
		return fmt.Errorf("delete members of %s: %w", p.name, err)
	}
	for _, m := range list {
		delete(p.members, m)
	}
	return nil
}

func compareMembers(a, b bpf.Member) int {
	return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Backend, b.Backend))
}
