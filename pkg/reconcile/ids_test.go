package reconcile

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestIDs(t *testing.T) {
	a := newIDs(map[uint32]struct{}{2: {}, 4: {}, 7: {}, 4000000000: {}}, 6)
	if n := a.room(9); n < 2 || n > 5 { // 1, 3, 5, 6, 8; two are in use where the table did not reach
		t.Errorf("room for %d", n)
	}
	var got []uint32
	for range 5 {
		got = append(got, a.take())
	}
	a.give(3)
	got = append(got, a.take())
	if want := "[1 3 5 6 8 3]"; fmt.Sprint(got) != want {
		t.Errorf("took %v, want %v", got, want)
	}
}

// TestRanges compares with an array of owners.
func TestRanges(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	const length = 600
	used := []span{{0, 3}, {10, 5}, {15, 1}, {99, 1}}
	r := newRanges(100, used)
	owner := make([]int, length)
	held := make(map[int]span)
	own := func(s span, id int) {
		for i := s.start; i < s.start+s.length; i++ {
			if owner[i] != 0 && id != 0 {
				t.Fatalf("slot %d was given to %d while %d has it", i, id, owner[i])
			}
			owner[i] = id
		}
	}
	for i, s := range used {
		held[1+i] = s
		own(s, 1+i)
	}
	for id := 10; id < 5000; id++ {
		if id == 200 {
			r.grow(length)
		}
		if rng.IntN(2) == 0 {
			n := 1 + uint32(rng.IntN(40))
			s, ok := r.take(n)
			if ok != (longest(owner[:r.length]) >= n) {
				t.Fatalf("take %d: %v, the longest free range is %d", n, ok, longest(owner[:r.length]))
			}
			if ok {
				own(s, id)
				held[id] = s
			}
			continue
		}
		for id, s := range held {
			own(s, 0)
			r.give(s)
			delete(held, id)
			break
		}
	}
	for _, s := range held {
		r.give(s)
	}
	if s, ok := r.take(length); !ok || s != (span{0, length}) || len(r.starts)+len(r.ends)+len(r.free)+len(r.lengths) != 0 {
		t.Fatalf("after all was given back: took %v, left %+v", s, r)
	}
}

func longest(owner []int) uint32 {
	var best, run uint32
	for _, o := range owner {
		if run++; o != 0 {
			run = 0
		}
		best = max(best, run)
	}
	return best
}
