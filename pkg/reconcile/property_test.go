package reconcile

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestRandomChanges: whatever the changes, failing writes and restarts, the tables end up as a fresh
// computation has them, nothing leaks, and nobody ever read anything wrong on the way.
func TestRandomChanges(t *testing.T) {
	for _, tc := range []struct {
		name    string
		fail    float64 // of the calls that can
		restart float64 // after a step
	}{
		{"plain", 0, 0},
		{"failing writes", 0.1, 0},
		{"restarts", 0, 0.2},
		{"failing writes and restarts", 0.1, 0.2},
		{"half of the writes fail", 0.5, 0.1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i := range 7 {
				seed := rand.Uint64()
				switch i {
				case 0:
					seed = 12902529248686052188 // its last retry names two Services, of which one is dialled already
				case 1:
					seed = 3576215768995837081 // one Service goes, and another that has its frontend does not fit
				}
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
					randomChanges(t, rand.New(rand.NewPCG(seed, 1)), tc.fail, tc.restart)
				})
			}
		})
	}
}

func randomChanges(t *testing.T, rng *rand.Rand, fail, restart float64) {
	f, w, wi := newFake(), newWorld(), &witness{}
	f.wrote = func() { wi.look(f) }
	adopting := false
	f.fail = func(op string) error {
		if rng.Float64() < fail && !adopting {
			return fmt.Errorf("%s: %w", op, errInjected)
		}
		return nil
	}
	wi.settled(w)
	r := newReconciler(f)
	view := w.view
	for step := range 40 {
		var changes []Change
		if rng.IntN(8) == 0 {
			w.view = randomView(rng)
			view = w.view
			wi.add(w)
		}
		for range 1 + rng.IntN(4) {
			c := randomChange(rng)
			w.set(c)
			changes = append(changes, c)
			wi.add(w) // a Service may be named twice: the first of its changes may be seen too
		}
		_, err := r.Apply(view, changes)
		view = nil
		if fail == 0 && err != nil {
			t.Fatal(err)
		}
		if rng.Float64() < restart {
			f.restart()
			r = newReconciler(f)
			adopting = true
			if err := r.Adopt(); err != nil {
				t.Fatal(err)
			}
			adopting = false
			_, _ = r.Apply(w.view, w.all())
			_, _ = r.Prune()
		}
		if rng.IntN(2) == 0 {
			_ = r.Collect()
		}
		if step%3 == 0 { // the wait of the last sweep ends, another begins
			f.mustQuiesce(t)
			r.Release()
			r.Sweep()
		}
		if rng.IntN(3) == 0 {
			_, _ = r.Retry()
		} else {
			for r.Pending() > 0 {
				_, _ = r.Retry()
			}
		}
		f.check(t)
		if r.Pending() > 0 {
			continue // the next change meets what failed
		}
		wi.settled(w)
		f.loose = false
		f.checkFilter()
		f.checkLists(t, w)
		f.check(t)
	}
	// What failed before is made up for only now: a frontend may have been put before its Service had a name.
	f.fail = func(string) error { return nil }
	if _, err := r.Retry(); err != nil {
		t.Fatal(err)
	}
	f.fail = nil
	f.mustQuiesce(t)
	r.Release()
	mustCollect(t, r)
	diff(t, w.scratch(t), mustDump(t, f))
	f.checkLists(t, w)
	r.leaks(t, f)
	f.check(t)

	before := f.totalWrites()
	if res := mustApply(t, r, w.view, w.all()); res.Writes != 0 || f.totalWrites() != before {
		t.Fatalf("applied again: %+v and %d writes, want none", res, f.totalWrites()-before)
	}
}
