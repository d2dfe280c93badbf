package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// orphans is what Adopt found and nothing has claimed yet.
type orphans struct {
	frontends map[uint32][]*frontend // by service id
	pools     map[uint32]pool
	backends  []backend
	spare     map[contents][]uint32   // the pools that no frontend names
	members   map[uint32][]bpf.Member // by pool id
	sources   []bpf.SourceRange
	services  map[uint32]struct{} // without a name, or with one that another has
	overlaps  overlaps
}

func newOrphans() orphans {
	return orphans{
		frontends: make(map[uint32][]*frontend),
		pools:     make(map[uint32]pool),
		spare:     make(map[contents][]uint32),
		members:   make(map[uint32][]bpf.Member),
		services:  make(map[uint32]struct{}),
	}
}

func (o *orphans) len() int {
	return len(o.pools) + len(o.backends) + len(o.members) + len(o.sources) + len(o.services)
}

// Prune deletes what was adopted and nothing wants: called when the model is complete and has
// been applied. What cannot be deleted yet is left to [Reconciler.Retry].
func (r *Reconciler) Prune() (Result, error) {
	writes := r.begin()
	r.pruned = true
	var unwanted []*port
	for _, p := range r.ports {
		if p.pass == 0 && p.adopted {
			unwanted = append(unwanted, p)
		}
	}
	slices.SortFunc(unwanted, func(a, b *port) int { return cmp.Compare(a.id, b.id) })
	for _, p := range unwanted {
		r.takeOver(p)
		r.abandon(p)
	}
	r.orphans.frontends, r.orphans.spare = nil, nil
	for _, f := range r.frontends {
		if len(f.claims) == 0 {
			r.touch(f)
		}
	}
	slices.SortFunc(r.touched, compareFrontends)
	return r.end(writes, 0, r.settle())
}

// retireOrphans unlinks the orphans that nothing leads to, but for what members may name.
func (r *Reconciler) retireOrphans() error {
	var members []bpf.Member
	for _, list := range r.orphans.members {
		members = append(members, list...)
	}
	if len(members) > 0 {
		slices.SortFunc(members, compareMembers)
		r.stats.Members += uint64(len(members))
		if err := r.tables.DeleteMembers(members); err != nil {
			return fmt.Errorf("delete members of nobody: %w", err)
		}
		clear(r.orphans.members)
	}
	for _, id := range slices.Sorted(maps.Keys(r.orphans.pools)) {
		if p := r.orphans.pools[id]; r.links[id] == 0 {
			r.unlinkPool(&p)
			delete(r.orphans.pools, id)
		}
	}
	r.orphans.backends = r.retireBackends(r.orphans.backends, false)
	return nil
}

// contents is enough of what a pool holds to find few others that hold the same.
type contents struct {
	verdict bpf.Verdict
	length  int
	first   bpf.Slot
}

func contentsOf(p *pool) contents {
	c := contents{verdict: p.word.Verdict, length: len(p.slots)}
	if len(p.slots) > 0 {
		c.first = p.slots[0]
	}
	return c
}

// findSpare gives p a pool that holds the verdict and slots already and that no frontend names: it was
// p's when all frontends that would name it were another's.
func (r *Reconciler) findSpare(p *port, i int, v bpf.Verdict, slots []bpf.Slot) {
	like := pool{word: bpf.Pool{Verdict: v}, slots: slots}
	for _, id := range r.orphans.spare[contentsOf(&like)] {
		if slices.Equal(r.orphans.pools[id].slots, slots) {
			r.findPool(p, i, id)
		}
	}
}

// overlaps is the pools whose ranges are not theirs alone, which is somebody's mistake: such a range
// comes free when the last of them has let go of it.
type overlaps map[uint32]*overlap

type overlap struct {
	span
	pools int
}

// release returns the range that nobody has any more when p gives up its own.
func (o overlaps) release(p *pool) (span, bool) {
	common := o[p.id]
	if common == nil {
		return span{p.word.Offset, p.word.Length}, true
	}
	delete(o, p.id)
	common.pools--
	return common.span, common.pools == 0
}

// findOverlaps returns the ranges in use, sorted and disjoint, and who shares which.
func findOverlaps(pools map[uint32]pool) ([]span, overlaps) {
	list := make([]pool, 0, len(pools))
	for _, p := range pools {
		if len(p.slots) > 0 {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b pool) int {
		return cmp.Or(cmp.Compare(a.word.Offset, b.word.Offset), cmp.Compare(a.id, b.id))
	})
	var used []span
	shared := make(overlaps)
	for i := 0; i < len(list); {
		s := span{list[i].word.Offset, list[i].word.Length}
		n := 1
		for ; i+n < len(list) && list[i+n].word.Offset < s.start+s.length; n++ {
			w := list[i+n].word
			s.length = max(s.length, w.Offset+w.Length-s.start)
		}
		if n > 1 {
			common := &overlap{span: s, pools: n}
			for _, p := range list[i : i+n] {
				shared[p.id] = common
			}
		}
		used = append(used, s)
		i += n
	}
	return used, shared
}
