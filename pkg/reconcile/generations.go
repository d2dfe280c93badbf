package reconcile

import "github.com/svcproxy/svcproxy/pkg/bpf"

// generations counts the uses of backend ids. A generation may be stored in flows and sockets when the
// entry it came from is long gone, so a restart must not begin below it: backend 0, which is nobody,
// holds in Reserved a number that no generation has reached.
type generations struct{ next, limit uint32 }

// generationBlock is how many generations one write of the limit is good for.
const generationBlock = 4096

// generation returns one that was not used before; never 0.
func (r *Reconciler) generation() uint32 {
	g := &r.generations
	if g.next == g.limit {
		g.limit += generationBlock
		r.setBackend(0, bpf.Backend{Reserved: g.limit})
	}
	id := g.next
	g.next++
	if id == 0 {
		return r.generation()
	}
	return id
}
