package reconcile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// audit runs one, calling between after each of its steps.
func audit(t testing.TB, r *Reconciler, between func()) []Drift {
	t.Helper()
	a := r.Audit()
	if a == nil {
		t.Fatalf("no audit: %d pending", r.Pending())
	}
	between()
	if err := a.Read(); err != nil {
		t.Fatal(err)
	}
	between()
	for !a.Step() {
		between()
	}
	return a.Found()
}

// anyKey returns one of a map's keys.
func anyKey[K comparable, V any](rng *rand.Rand, m map[K]V, compare func(a, b K) int) (k K, ok bool) {
	if len(m) == 0 {
		return k, false
	}
	keys := slices.SortedFunc(maps.Keys(m), compare)
	return keys[rng.IntN(len(keys))], true
}

func compareIDs(a, b uint32) int { return int(int64(a) - int64(b)) }

// corruptions change something that the tables are about, or add or delete it; false: there was nothing.
var corruptions = []struct {
	name string
	do   func(*rand.Rand, *fake) bool
}{
	{"frontend deleted", func(rng *rand.Rand, f *fake) bool {
		k, ok := anyKey(rng, f.frontends, compareKeys)
		delete(f.frontends, k)
		return ok
	}},
	{"frontend changed", func(rng *rand.Rand, f *fake) bool {
		k, ok := anyKey(rng, f.frontends, compareKeys)
		if v := f.frontends[k]; ok {
			switch rng.IntN(4) {
			case 0:
				v.Inside++
			case 1:
				v.Service ^= 1 << rng.IntN(5)
			case 2:
				v.Flags ^= 1 << rng.IntN(5)
			default:
				v.Affinity += 7
			}
			f.frontends[k] = v
		}
		return ok
	}},
	{"frontend added", func(rng *rand.Rand, f *fake) bool {
		k := bpf.NewFrontendKey(netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(rng.IntN(9))}), 80), 6)
		_, ok := f.frontends[k]
		f.frontends[k] = bpf.Frontend{Service: rng.Uint32N(9), Inside: rng.Uint32N(9), Outside: 1 + rng.Uint32N(9)}
		return !ok
	}},
	{"service deleted", func(rng *rand.Rand, f *fake) bool {
		id, ok := anyKey(rng, f.services, compareIDs)
		delete(f.services, id)
		return ok
	}},
	{"services swapped", func(rng *rand.Rand, f *fake) bool {
		a, ok := anyKey(rng, f.services, compareIDs)
		b, _ := anyKey(rng, f.services, compareIDs)
		f.services[a], f.services[b] = f.services[b], f.services[a]
		return ok && a != b
	}},
	{"service added", func(rng *rand.Rand, f *fake) bool {
		f.services[1000+rng.Uint32N(9)] = bpf.NewService("default/s1:nobody", 6)
		return true
	}},
	{"member deleted", func(rng *rand.Rand, f *fake) bool {
		m, ok := anyKey(rng, f.members, compareMembers)
		delete(f.members, m)
		return ok
	}},
	{"member added", func(rng *rand.Rand, f *fake) bool {
		m := bpf.Member{Pool: rng.Uint32N(40), Backend: 5000 + rng.Uint32N(9)}
		f.members[m] = 1
		return true
	}},
	{"range deleted", func(rng *rand.Rand, f *fake) bool {
		s, ok := anyKey(rng, f.sources, compareSources)
		delete(f.sources, s)
		return ok
	}},
	{"range changed", func(rng *rand.Rand, f *fake) bool {
		s, ok := anyKey(rng, f.sources, compareSources)
		if ok {
			f.sources[s]++
		}
		return ok
	}},
	{"range added", func(rng *rand.Rand, f *fake) bool {
		f.sources[bpf.NewSourceRange(rng.Uint32N(9), netip.MustParsePrefix("192.168.0.0/24"))] = 1
		return true
	}},
	{"pool changed", func(rng *rand.Rand, f *fake) bool {
		id := 1 + rng.IntN(len(f.pools)-1)
		if f.pools[id] == (bpf.Pool{}) {
			return false
		}
		switch rng.IntN(4) {
		case 0:
			f.pools[id] = bpf.Pool{}
		case 1:
			f.pools[id].Offset += 3
		case 2:
			f.pools[id].Length++
		default:
			f.pools[id].Verdict = (f.pools[id].Verdict + 1) % 5
		}
		return true
	}},
	{"pool added", func(rng *rand.Rand, f *fake) bool {
		id := len(f.pools) - 1 - rng.IntN(9)
		f.pools[id] = bpf.Pool{Offset: rng.Uint32N(400), Length: 1 + rng.Uint32N(9), Verdict: bpf.VerdictServe}
		return true
	}},
	{"slot changed", func(rng *rand.Rand, f *fake) bool {
		id := rng.IntN(len(f.pools))
		p := f.pools[id]
		if p.Verdict != bpf.VerdictServe || p.Length == 0 || p.Offset+p.Length > uint32(len(f.slots)) {
			return false
		}
		s := &f.slots[p.Offset+rng.Uint32N(p.Length)]
		if rng.IntN(2) == 0 {
			s.Backend ^= 1
		} else {
			s.Generation++
		}
		return true
	}},
	{"backend changed", func(rng *rand.Rand, f *fake) bool {
		id, ok := anyBackend(rng, f)
		if b := &f.backends[id]; ok {
			switch rng.IntN(6) {
			case 0:
				b.Generation = 0
			case 1:
				b.Generation++
			case 2:
				b.Service++
			case 3:
				b.State ^= 4
			case 4:
				b.Port++
			default:
				b.Reserved = 1
			}
		}
		return ok
	}},
	{"backend copied", func(rng *rand.Rand, f *fake) bool {
		id, ok := anyBackend(rng, f)
		if ok {
			f.backends[len(f.backends)-1-rng.IntN(9)] = f.backends[id]
		}
		return ok
	}},
	{"generations forgotten", func(rng *rand.Rand, f *fake) bool {
		was := f.backends[0]
		f.backends[0] = bpf.Backend{}
		return was != f.backends[0]
	}},
}

func anyBackend(rng *rand.Rand, f *fake) (uint32, bool) {
	var used []uint32
	for id, b := range f.backends {
		if b.Generation != 0 {
			used = append(used, uint32(id))
		}
	}
	if len(used) == 0 {
		return 0, false
	}
	return used[rng.IntN(len(used))], true
}

// audited is tables with a random world in them, by a reconciler that runs.
func audited(t *testing.T, rng *rand.Rand) (*fake, *world, *Reconciler) {
	t.Helper()
	f, w := newFake(), newWorld()
	for range 25 {
		w.set(randomChange(rng))
	}
	r := newReconciler(f)
	mustApply(t, r, w.view, w.all())
	if _, err := r.Prune(); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, r)
	f.check(t)
	return f, w, r
}

func (f *fake) contents() string {
	return fmt.Sprint(f.frontends, f.services, f.members, f.sources, f.pools, f.slots, f.backends)
}

// answers says what a program makes of each frontend: who answers, or that nobody can.
func (f *fake) answers() map[bpf.FrontendKey]string {
	all := make(map[bpf.FrontendKey]string)
	for k, v := range f.frontends {
		var text strings.Builder
		for _, id := range []uint32{v.Inside, v.Outside} {
			if id == 0 || id >= f.PoolsLen() {
				text.WriteString("nothing;")
				continue
			}
			p := f.pools[id]
			fmt.Fprintf(&text, "%d", p.Verdict)
			if p.Verdict == bpf.VerdictServe {
				var list []string
				for at := p.Offset; at < p.Offset+p.Length; at++ {
					line := "nobody"
					if at < f.SlotsLen() {
						if s := f.slots[at]; s.Backend < f.BackendsLen() && f.backends[s.Backend].Generation == s.Generation && s.Generation != 0 {
							line = f.backends[s.Backend].AddrPort().String()
						}
					}
					list = append(list, line)
				}
				slices.Sort(list)
				fmt.Fprint(&text, list)
			}
			text.WriteString(";")
		}
		all[k] = text.String()
	}
	return all
}

// TestAuditMends: whatever somebody has done to the tables while the agent runs and changes come, an audit
// finds it and makes of the tables what a fresh computation is; whoever was served meanwhile is served.
func TestAuditMends(t *testing.T) {
	for i := range 60 {
		seed, busy := rand.Uint64(), i%3 == 0
		t.Run(fmt.Sprintf("changes=%v seed=%d", busy, seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			f, w, r := audited(t, rng)
			right := f.answers()
			f.readers = nil // what they find is broken from now on
			before := f.contents()
			var done []string
			for len(done) < 1+rng.IntN(4) {
				if c := corruptions[rng.IntN(len(corruptions))]; c.do(rng, f) {
					done = append(done, c.name)
				}
			}
			t.Log(done)
			corrupted := f.contents() != before // what one does another may undo
			intact := f.answers()
			maps.DeleteFunc(intact, func(k bpf.FrontendKey, a string) bool { return right[k] != a })
			f.wrote = func() {
				now := f.answers()
				for k, a := range intact {
					if now[k] != a {
						f.violate("%v, which was intact, answers %q, not %q", k.AddrPort(), now[k], a)
					}
				}
			}
			between := func() {}
			if busy {
				f.wrote = nil
				between = func() {
					c := randomChange(rng)
					w.set(c)
					mustApply(t, r, nil, []Change{c})
					if err := r.Collect(); err != nil {
						t.Error(err)
					}
				}
			}
			if found := audit(t, r, between); len(found) == 0 && corrupted && !busy {
				t.Error("the audit has found nothing")
			}
			f.wrote = nil
			mustCollect(t, r)
			f.check(t)
			if found := audit(t, r, func() {}); len(found) > 0 {
				t.Errorf("found again: %v", found)
			}
			diff(t, w.scratch(t), mustDump(t, f))
			f.checkFilter()
			f.checkLists(t, w)
			r.leaks(t, f)

			f.readers = newReaders() // from here on everything is as it always was
			f.readers.look(f)
			for range 10 {
				c := randomChange(rng)
				w.set(c)
				mustApply(t, r, nil, []Change{c})
				mustCollect(t, r)
			}
			f.check(t)
			diff(t, w.scratch(t), mustDump(t, f))
			r.leaks(t, f)
		})
	}
}

// TestAuditEachCorruption: none of them escapes on its own.
func TestAuditEachCorruption(t *testing.T) {
	for _, c := range corruptions {
		t.Run(c.name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 2))
			f, w, r := audited(t, rng)
			f.readers = nil
			for tries := 0; !c.do(rng, f); tries++ {
				if tries > 100 {
					f, w, r = audited(t, rng)
					f.readers, tries = nil, 0
				}
			}
			if found := audit(t, r, func() {}); len(found) == 0 {
				t.Error("the audit has found nothing")
			}
			mustCollect(t, r)
			diff(t, w.scratch(t), mustDump(t, f))
			if found := audit(t, r, func() {}); len(found) > 0 {
				t.Errorf("found again: %v", found)
			}
		})
	}
}

// TestAuditFindsNothing: changes that come while an audit is on, some of whose writes fail, are not drift.
func TestAuditFindsNothing(t *testing.T) {
	for _, fail := range []float64{0, 0.2} {
		for range 15 {
			seed := rand.Uint64()
			t.Run(fmt.Sprintf("fail=%v seed=%d", fail, seed), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1))
				f, w, r := audited(t, rng)
				for range 10 {
					found := audit(t, r, func() {
						f.fail = func(op string) error {
							if op != "Frontends" && op != "Services" && op != "Members" && op != "SourceRanges" && rng.Float64() < fail {
								return errInjected
							}
							return nil
						}
						for range rng.IntN(4) {
							c := randomChange(rng)
							w.set(c)
							_, _ = r.Apply(nil, []Change{c})
							if rng.IntN(2) == 0 {
								_ = r.Collect()
							}
						}
						f.fail = nil
					})
					if len(found) > 0 {
						t.Fatalf("found %v", found)
					}
					for r.Pending() > 0 {
						if _, err := r.Retry(); err != nil {
							t.Fatal(err)
						}
					}
				}
				mustCollect(t, r)
				f.check(t)
				r.leaks(t, f)
				f.checkFilter()
			})
		}
	}
}
