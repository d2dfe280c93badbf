package reconcile

import "slices"

// A span is a range of slots.
type span struct{ start, length uint32 }

// ranges hands out spans of a growing array: the smallest free one that fits, neighbours joined when
// they come back. Free spans of one length are kept together, so a search is a binary search among the
// lengths that occur; of n slots those are fewer than √(2n).
type ranges struct {
	length  uint32              // of the array
	starts  map[uint32]freeSpan // of the free spans, by where they start
	ends    map[uint32]uint32   // where a free span ends → where it starts
	lengths []uint32            // that free spans have, ascending
	free    map[uint32][]uint32 // length → where free spans of it start
}

type freeSpan struct {
	length uint32
	index  int // in free[length]
}

// newRanges returns an allocator for an array of that length; used is sorted, disjoint and inside.
func newRanges(length uint32, used []span) *ranges {
	r := &ranges{starts: make(map[uint32]freeSpan), ends: make(map[uint32]uint32), free: make(map[uint32][]uint32)}
	for _, s := range used {
		r.grow(s.start)
		r.length = s.start + s.length
	}
	r.grow(length)
	return r
}

// grow makes the array length long.
func (r *ranges) grow(length uint32) {
	if length > r.length {
		s := span{r.length, length - r.length}
		r.length = length
		r.give(s)
	}
}

// take returns a span of length n; false if there is none.
func (r *ranges) take(n uint32) (span, bool) {
	i, _ := slices.BinarySearch(r.lengths, n)
	if i == len(r.lengths) {
		return span{}, false
	}
	length := r.lengths[i]
	starts := r.free[length]
	s := span{starts[len(starts)-1], length}
	r.remove(s)
	if length > n {
		r.insert(span{s.start + n, length - n})
	}
	return span{s.start, n}, true
}

// tail returns the length of the free span at the end, which growth makes longer.
func (r *ranges) tail() uint32 {
	if start, ok := r.ends[r.length]; ok {
		return r.length - start
	}
	return 0
}

// give takes back a span, or part of one, that take has returned.
func (r *ranges) give(s span) {
	if start, ok := r.ends[s.start]; ok {
		before := span{start, s.start - start}
		r.remove(before)
		s = span{before.start, before.length + s.length}
	}
	if after, ok := r.starts[s.start+s.length]; ok {
		r.remove(span{s.start + s.length, after.length})
		s.length += after.length
	}
	r.insert(s)
}

func (r *ranges) insert(s span) {
	starts := r.free[s.length]
	if len(starts) == 0 {
		i, _ := slices.BinarySearch(r.lengths, s.length)
		r.lengths = slices.Insert(r.lengths, i, s.length)
	}
	r.starts[s.start] = freeSpan{s.length, len(starts)}
	r.ends[s.start+s.length] = s.start
	r.free[s.length] = append(starts, s.start)
}

func (r *ranges) remove(s span) {
	starts := r.free[s.length]
	i, last := r.starts[s.start].index, len(starts)-1
	starts[i] = starts[last]
	r.starts[starts[i]] = freeSpan{s.length, i}
	r.free[s.length] = starts[:last]
	delete(r.starts, s.start)
	delete(r.ends, s.start+s.length)
	if last == 0 {
		delete(r.free, s.length)
		i, _ := slices.BinarySearch(r.lengths, s.length)
		r.lengths = slices.Delete(r.lengths, i, i+1)
	}
}
