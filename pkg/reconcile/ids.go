package reconcile

// ids hands out the ids of a table, from 1; 0 is nobody's.
type ids struct {
	next  uint32              // the lowest that was never in use
	free  []uint32            // below next
	alien map[uint32]struct{} // in use where no table reaches yet: somebody wrote nonsense
}

// newIDs returns an allocator that leaves out the ids in used; limit is the length of the table.
func newIDs(used map[uint32]struct{}, limit uint32) *ids {
	a := &ids{next: 1, alien: make(map[uint32]struct{})}
	for id := range used {
		if id < limit {
			a.next = max(a.next, id+1)
		} else {
			a.alien[id] = struct{}{}
		}
	}
	for id := a.next - 1; id > 0; id-- {
		if _, ok := used[id]; !ok {
			a.free = append(a.free, id)
		}
	}
	return a // the lowest last, to be taken first
}

// take returns an id that is not in use, the last given back first.
func (a *ids) take() uint32 {
	if n := len(a.free); n > 0 {
		id := a.free[n-1]
		a.free = a.free[:n-1]
		return id
	}
	for {
		id := a.next
		a.next++
		if _, ok := a.alien[id]; !ok {
			return id
		}
	}
}

// give takes id back.
func (a *ids) give(id uint32) {
	switch _, alien := a.alien[id]; {
	case alien:
		delete(a.alien, id)
	case id != 0:
		a.free = append(a.free, id)
	}
}

// room returns how many ids below length take is sure to return.
func (a *ids) room(length uint32) uint32 {
	n := uint32(len(a.free))
	if length > a.next {
		n += length - a.next
	}
	return n - min(n, uint32(len(a.alien)))
}

// inUse returns how many ids are taken.
func (a *ids) inUse() int { return int(a.next) - 1 - len(a.free) }
