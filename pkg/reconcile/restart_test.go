package reconcile

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// filled returns tables that a reconciler has made say what the world says.
func filled(t *testing.T) (*fake, *world) {
	t.Helper()
	f, w := newFake(), newWorld()
	rng := rand.New(rand.NewPCG(7, 7))
	r := newReconciler(f)
	mustApply(t, r, w.view, nil)
	for range 30 {
		c := randomChange(rng)
		w.set(c)
		mustApply(t, r, nil, []Change{c})
	}
	mustCollect(t, r)
	f.check(t)
	return f, w
}

func mustAdopt(t *testing.T, f *fake) *Reconciler {
	t.Helper()
	f.restart()
	r := newReconciler(f)
	if err := r.Adopt(); err != nil {
		t.Fatalf("adopt: %v", err)
	}
	return r
}

func TestRestartWritesNothing(t *testing.T) {
	f, w := filled(t)
	before, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	writes := f.totalWrites()

	r := mustAdopt(t, f)
	mustApply(t, r, w.view, w.all())
	if _, err := r.Prune(); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, r)

	if n := f.totalWrites() - writes; n != 0 {
		t.Errorf("%d writes, want none", n)
	}
	after, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	if d := gocmp.Diff(before, after, gocmp.AllowUnexported(FrontendEntry{}), gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), gocmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("snapshot with ids (-before +after):\n%s", d)
	}
	r.leaks(t, f)
	f.checkFilter()
	f.checkLists(t, w)
	f.check(t)
}

func TestRestartKeepsGenerationsApart(t *testing.T) {
	f, w := filled(t)
	var highest uint32
	for use := range f.uses {
		highest = max(highest, use[1])
	}
	// The backend with the highest generation goes, and the agent restarts: nothing in the tables has it.
	r := mustAdopt(t, f)
	mustApply(t, r, w.view, nil)
	if _, err := r.Prune(); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, r)
	r = mustAdopt(t, f)
	mustApply(t, r, w.view, w.all())
	for _, b := range f.backends[1:] {
		if b.Generation != 0 && b.Generation <= highest {
			t.Fatalf("backend %v has a generation that was in use before (up to %d)", b, highest)
		}
	}
	f.check(t)
}

func TestPruneWaits(t *testing.T) {
	f, w := filled(t)
	dump := mustDump(t, f)
	r := mustAdopt(t, f)
	mustApply(t, r, w.view, nil)
	diff(t, dump, mustDump(t, f))
	if _, err := r.Prune(); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, r)
	diff(t, "", mustDump(t, f))
	r.leaks(t, f)
	f.check(t)
}

// TestRestartMovesAddress: while no agent ran, an address went from one Service to another, and the new
// agent hears of the old one first.
func TestRestartMovesAddress(t *testing.T) {
	a, b := web(1, 1), web(2, 1)
	vip := netip.MustParseAddr("203.0.113.1")
	key := bpf.NewFrontendKey(netip.AddrPortFrom(vip, 80), 6)
	a.Service.ExternalIPs = []netip.Addr{vip}
	f := newFake()
	mustApply(t, newReconciler(f), nil, []Change{a, b})
	before := f.frontends[key]

	a, b = web(1, 1), web(2, 1)
	b.Service.ExternalIPs = []netip.Addr{vip}
	r := mustAdopt(t, f)
	mustApply(t, r, nil, []Change{a})
	if got := f.frontends[key]; got != before {
		t.Errorf("frontend is %v before its new Service is known, want %v", got, before)
	}
	mustApply(t, r, nil, []Change{b})
	if _, err := r.Prune(); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, r)
	diff(t, dumpOf(t, a, b), mustDump(t, f))
	r.leaks(t, f)
	f.check(t)
}

// TestRestartChangesPolicy: while no agent ran, one of two frontends that share a pool became local, and
// there is no local backend. The other is served throughout.
func TestRestartChangesPolicy(t *testing.T) {
	c := web(1, 3)
	c.Service.ExternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	f, w, wi := newFake(), newWorld(), &witness{}
	w.set(c)
	wi.settled(w)
	mustApply(t, newReconciler(f), w.view, w.all())

	local := *c.Service
	local.InternalLocal = true
	c.Service = &local
	w.set(c)
	wi.add(w)
	f.wrote = func() { wi.look(f) }
	r := mustAdopt(t, f)
	mustApply(t, r, w.view, w.all())
	if _, err := r.Prune(); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, r)
	diff(t, w.scratch(t), mustDump(t, f))
	r.leaks(t, f)
	f.check(t)
}

// TestAdoptGarbage: whatever is in the tables, the model's state comes out of it.
func TestAdoptGarbage(t *testing.T) {
	anyFrontend := func(f *fake) bpf.FrontendKey {
		for k := range f.frontends {
			return k
		}
		panic("no frontend")
	}
	anyPool := func(f *fake) uint32 { return f.frontends[anyFrontend(f)].Inside }
	serving := func(f *fake) uint32 {
		for id, p := range f.pools {
			if p.Verdict == bpf.VerdictServe {
				return uint32(id)
			}
		}
		panic("no pool serves")
	}
	for _, tc := range []struct {
		name    string
		corrupt func(f *fake)
	}{
		{"pool outside of the slots", func(f *fake) { f.pools[serving(f)].Offset = 1<<32 - 2 }},
		{"pool without slots", func(f *fake) { f.pools[serving(f)].Length = 0 }},
		{"pool too long", func(f *fake) { f.pools[serving(f)].Length = bpf.MaxPoolLength }},
		{"pool with an unknown verdict", func(f *fake) { f.pools[anyPool(f)].Verdict = 9 }},
		{"pool cleared", func(f *fake) { f.pools[anyPool(f)] = bpf.Pool{} }},
		{"pool of nobody", func(f *fake) { f.pools[100] = bpf.Pool{Offset: 500, Length: 4, Verdict: bpf.VerdictServe} }},
		{"pools share slots", func(f *fake) {
			for id := uint32(100); id < 103; id++ {
				f.pools[id] = bpf.Pool{Offset: f.pools[serving(f)].Offset, Length: id - 98, Verdict: bpf.VerdictServe}
			}
		}},
		{"frontend names no pool", func(f *fake) {
			k := anyFrontend(f)
			v := f.frontends[k]
			v.Inside, v.Outside = 0, 1<<32-1
			f.frontends[k] = v
		}},
		{"frontends name one pool", func(f *fake) {
			id := anyPool(f)
			for k, v := range f.frontends {
				v.Inside = id
				f.frontends[k] = v
			}
		}},
		{"frontend of nobody", func(f *fake) {
			f.frontends[bpf.NewFrontendKey(netip.MustParseAddrPort("198.18.0.1:9"), 6)] = bpf.Frontend{Service: 4000000000, Inside: 1000, Outside: 70000}
		}},
		{"slot names a backend that is not there", func(f *fake) { f.slots[f.pools[serving(f)].Offset] = bpf.Slot{Backend: 1 << 31, Generation: 1} }},
		{"slot names nobody", func(f *fake) { f.slots[f.pools[serving(f)].Offset] = bpf.Slot{} }},
		{"slot names a free backend", func(f *fake) { f.slots[f.pools[serving(f)].Offset] = bpf.Slot{Backend: 900, Generation: 77} }},
		{"backend of an unknown service", func(f *fake) { f.backends[1].Service = 999 }},
		{"backend twice", func(f *fake) {
			f.backends[800], f.backends[801] = f.backends[1], f.backends[1]
			f.backends[801].Generation++
		}},
		{"backend freed", func(f *fake) {
			for id := range f.backends[1:] {
				f.backends[1+id].Generation = 0
			}
		}},
		{"backend's reserved field set", func(f *fake) { f.backends[1].Reserved = 1 }},
		{"no generation limit", func(f *fake) { f.backends[0] = bpf.Backend{} }},
		{"generations at their end", func(f *fake) { f.backends[0].Reserved = 1<<32 - 2 }},
		{"no names", func(f *fake) { clear(f.services) }},
		{"service named twice", func(f *fake) {
			for _, s := range f.services {
				f.services[500] = s
				break
			}
		}},
		{"names that are none", func(f *fake) {
			f.services[500] = bpf.NewService("nonsense", 6)
			f.services[0] = bpf.NewService("a/b:c", 6)
			f.services[1<<32-1] = bpf.NewService("a/b:c", 99)
		}},
		{"no members", func(f *fake) { clear(f.members) }},
		{"members that are none", func(f *fake) {
			f.members[bpf.Member{Pool: serving(f), Backend: 999}] = 1
			f.members[bpf.Member{Pool: 0, Backend: 1}] = 1
			f.members[bpf.Member{Pool: 77, Backend: 1}] = 1
			f.members[bpf.Member{Pool: 1<<32 - 1, Backend: 1<<32 - 1}] = 1
		}},
		{"no source ranges", func(f *fake) { clear(f.sources) }},
		{"source ranges of nobody", func(f *fake) {
			for _, id := range []uint32{0, 1, 2, 888, 1<<32 - 1} {
				f.sources[bpf.NewSourceRange(id, netip.MustParsePrefix("192.168.7.0/24"))] = 1
			}
			f.sources[bpf.SourceRange{Bits: 7}] = 1
			f.sources[bpf.SourceRange{Bits: 1<<32 - 1, Service: 1}] = 1
		}},
		{"restricted without source ranges", func(f *fake) {
			for k, v := range f.frontends {
				v.Flags |= bpf.FlagRanges
				f.frontends[k] = v
			}
		}},
		{"sets mixed up", func(f *fake) {
			for k, v := range f.frontends {
				v.Flags ^= bpf.FlagInsideLocal
				f.frontends[k] = v
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, w := filled(t)
			f.readers = nil // what they find is broken until Prune has passed
			tc.corrupt(f)
			if _, err := Read(f); err != nil {
				t.Fatal(err)
			}
			r := mustAdopt(t, f)
			mustApply(t, r, w.view, w.all())
			if _, err := r.Prune(); err != nil {
				t.Fatal(err)
			}
			f.readers = newReaders()
			f.readers.look(f)
			mustCollect(t, r)
			diff(t, w.scratch(t), mustDump(t, f))
			r.leaks(t, f)
			f.checkFilter()
			f.checkLists(t, w)
			f.check(t)
		})
	}
}
