package reconcile

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

type crash struct{}

// crashAfter makes the agent die after its nth write; true if it did.
func (f *fake) crashAfter(n int, look func(), run func()) (died bool) {
	f.wrote = func() {
		look()
		if n--; n == 0 {
			panic(crash{})
		}
	}
	defer func() {
		f.wrote = look
		if e := recover(); e != nil {
			if _, ok := e.(crash); !ok {
				panic(e)
			}
			died = true
		}
	}()
	run()
	return false
}

// TestCrash: the agent dies after each write of a batch in turn. The next one arrives where a fresh
// computation does, with nothing leaked, and readers never noticed.
func TestCrash(t *testing.T) {
	for range 2 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			for n := 1; ; n++ {
				if !crashOnce(t, rand.New(rand.NewPCG(seed, 1)), n) {
					if n < 20 {
						t.Fatalf("the batch has only %d writes", n-1)
					}
					return
				}
			}
		})
	}
}

func crashOnce(t *testing.T, rng *rand.Rand, n int) bool {
	f, w, wi := newFake(), newWorld(), &witness{}
	for range 12 {
		w.set(randomChange(rng))
	}
	r := newReconciler(f)
	mustApply(t, r, w.view, w.all())
	mustCollect(t, r)
	wi.settled(w)

	var changes []Change
	for range 6 {
		c := randomChange(rng)
		w.set(c)
		changes = append(changes, c)
		wi.add(w)
	}
	w.view = randomView(rng)
	wi.add(w)
	look := func() { wi.look(f) }
	died := f.crashAfter(n, look, func() {
		mustApply(t, r, w.view, changes)
		mustCollect(t, r)
	})
	f.check(t)
	if !died {
		return false
	}

	f.restart()
	r = newReconciler(f)
	if err := r.Adopt(); err != nil {
		t.Fatal(err)
	}
	mustApply(t, r, w.view, w.all())
	if _, err := r.Prune(); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, r)
	f.checkFilter()
	f.check(t)
	diff(t, w.scratch(t), mustDump(t, f))
	f.checkLists(t, w)
	r.leaks(t, f)
	return true
}
