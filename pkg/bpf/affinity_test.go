package bpf

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/svcproxy/svcproxy/internal/namespaces"
)

// sticky is a Service with session affinity: two frontends with a pool each, of which the second has the
// odd backends only.
type sticky struct {
	*node
	f        family
	service  uint32
	one, two netip.AddrPort
	backends []Slot
	poolOne  uint32
	poolTwo  uint32
	sport    uint16
	addrs    map[netip.AddrPort]int // index of a backend
}

const (
	stickyBackends = 8
	stickyTimeout  = 100 * time.Second
)

func newSticky(t testing.TB, n *node, f family, service uint32) *sticky {
	t.Helper()
	n.linkPods(t)
	s := &sticky{node: n, f: f, service: service, one: at(f.node, nodePort), two: at(f.node, nodePort+1), sport: 20000, addrs: make(map[netip.AddrPort]int)}
	var odd []Slot
	for i := range stickyBackends {
		a := at(f.pod, uint16(8000+i))
		s.addrs[a] = i
		s.backends = append(s.backends, n.addBackend(t, a, udp))
		if i%2 == 1 {
			odd = append(odd, s.backends[i])
		}
	}
	s.poolOne, s.poolTwo = s.pool(t, s.backends), s.pool(t, odd)
	for dial, pool := range map[netip.AddrPort]uint32{s.one: s.poolOne, s.two: s.poolTwo} {
		n.addFrontend(t, dial, udp, Frontend{Service: service, Inside: pool, Outside: pool, Kind: KindNodePort, Affinity: uint32(stickyTimeout.Seconds())})
	}
	return s
}

func (s *sticky) pool(t testing.TB, slots []Slot) uint32 {
	t.Helper()
	pool := s.addPool(t, VerdictServe, slots)
	var members []Member
	for _, slot := range slots {
		members = append(members, Member{Pool: pool, Backend: slot.Backend})
	}
	if err := s.PutMembers(members); err != nil {
		t.Fatal(err)
	}
	return pool
}

// dial makes a new connection, and returns which backend it is given. counter is what moves beside those of a new flow.
func (s *sticky) dial(t testing.TB, client netip.Addr, frontend netip.AddrPort, counter string) int {
	t.Helper()
	s.sport++
	in := s.f.first(udp, s.sport, frontend).from(at(client, s.sport))
	return s.choice(t, ingress(s.eth0, in, next, in, "flow_new forward_local "+counter))
}

// choice runs a step whose backend is not known before.
func (s *sticky) choice(t testing.TB, want step) int {
	t.Helper()
	before := s.counters(t)
	from := want.at.index
	if want.own {
		from = 0
	}
	verdict, out := s.runFrom(t, want.program, want.at, from, want.in.bytes(), 0)
	if diff := cmp.Diff(parseCounters(t, want.counters), delta(before, s.counters(t))); diff != "" || verdict != want.verdict {
		t.Fatalf("%s from %s: verdict %d, want %d; counters -want +got:\n%s", want.program, want.in.src, verdict, want.verdict, diff)
	}
	got, _ := destination(out)
	i, ok := s.addrs[got]
	if !ok {
		t.Fatalf("%s was sent to %s", want.in.src, got)
	}
	return i
}

func (s *sticky) key(client Address) svcproxyAffinityKey {
	key := svcproxyAffinityKey{Service: s.service, Client: client}
	if s.f.node.Is6() {
		key.V6 = 1
	}
	return key
}

// remembered is the entry of a client.
func (s *sticky) remembered(t testing.TB, client Address) svcproxyAffinityEntry {
	t.Helper()
	var e svcproxyAffinityEntry
	if err := s.coll.Maps["affinity"].Lookup(s.key(client), &e); err != nil {
		t.Fatalf("look up what is remembered of %v: %v", client.Addr(), err)
	}
	return e
}

// rest makes a client look as if it had not dialled for so long.
func (s *sticky) rest(t testing.TB, client netip.Addr, d time.Duration) {
	t.Helper()
	e := s.remembered(t, NewAddress(client))
	e.LastUsed = Monotonic() - uint64(d)
	if err := s.coll.Maps["affinity"].Put(s.key(NewAddress(client)), e); err != nil {
		t.Fatal(err)
	}
}

func forEachSticky(t *testing.T, test func(t *testing.T, s *sticky)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { test(t, newSticky(t, newNode(t), f, 77)) })
	}
}

// A client keeps its backend, others have theirs.
func TestAffinity(t *testing.T) {
	forEachSticky(t, func(t *testing.T, s *sticky) {
		used := make(map[int]bool)
		for i := range 64 {
			client := nth(s.f.client, i)
			first := s.dial(t, client, s.one, "affinity_new")
			used[first] = true
			for range 5 {
				if again := s.dial(t, client, s.one, "affinity"); again != first {
					t.Fatalf("%s was given backend %d, and then %d", client, first, again)
				}
			}
		}
		if len(used) < stickyBackends-2 { // all of them but for one run in thousands
			t.Errorf("64 clients share the backends %v", used)
		}
	})
}

// The choice is the Service port's: another frontend follows it where its pool has the backend, and is
// followed where it has not.
func TestAffinityOverFrontends(t *testing.T) {
	forEachSticky(t, func(t *testing.T, s *sticky) {
		odd, even := 0, 0
		for i := range 64 {
			client := nth(s.f.client, i)
			first := s.dial(t, client, s.one, "affinity_new")
			if first%2 == 1 {
				odd++
				if got := s.dial(t, client, s.two, "affinity"); got != first {
					t.Errorf("backend %d, want %d", got, first)
				}
				continue
			}
			even++
			second := s.dial(t, client, s.two, "affinity_new")
			if second%2 == 0 {
				t.Fatalf("backend %d is not in the pool", second)
			}
			if got := s.dial(t, client, s.one, "affinity"); got != second {
				t.Errorf("backend %d, want what the other frontend has chosen: %d", got, second)
			}
		}
		if odd == 0 || even == 0 {
			t.Errorf("%d odd choices and %d even", odd, even)
		}
		// Another Service port knows nothing of it.
		other := at(s.f.node, nodePort+2)
		s.addFrontend(t, other, udp, Frontend{Service: 78, Outside: s.poolOne, Kind: KindNodePort, Affinity: 100})
		s.dial(t, s.f.client, other, "affinity_new")
		plain := at(s.f.node, nodePort+3)
		s.addFrontend(t, plain, udp, Frontend{Service: 77, Outside: s.poolOne, Kind: KindNodePort})
		s.dial(t, s.f.client, plain, "")
	})
}

// The time between connections counts, not that since the first; packets of a connection do not.
func TestAffinityTimeout(t *testing.T) {
	forEachSticky(t, func(t *testing.T, s *sticky) {
		client, slack := s.f.client, 2*time.Second
		first := s.dial(t, client, s.one, "affinity_new")
		for range 5 {
			s.rest(t, client, stickyTimeout-slack)
			before := Monotonic()
			if got := s.dial(t, client, s.one, "affinity"); got != first {
				t.Fatalf("backend %d, want %d", got, first)
			}
			if used := s.remembered(t, NewAddress(client)).LastUsed; int64(before-used) > int64(slack) {
				t.Fatalf("the connection did not refresh the entry, which is %s old", time.Duration(before-used))
			}
		}
		s.rest(t, client, stickyTimeout-slack)
		again := s.f.first(udp, s.sport, s.one)
		s.choice(t, ingress(s.eth0, again, next, again, "forward_local"))
		if used := s.remembered(t, NewAddress(client)).LastUsed; Monotonic()-used < uint64(stickyTimeout-slack) {
			t.Error("a packet of a living flow has refreshed the entry")
		}
		choices := make(map[int]bool)
		for range 64 {
			s.rest(t, client, stickyTimeout+slack)
			choices[s.dial(t, client, s.one, "affinity_new")] = true
		}
		if len(choices) < stickyBackends/2 {
			t.Errorf("64 choices after the timeout are %v", choices)
		}
	})
}

// What is remembered does not outlive the backend, nor its membership; the next choice is remembered.
func TestAffinityBackendGone(t *testing.T) {
	for name, lose := range map[string]func(t testing.TB, s *sticky, gone Slot){
		"let go": func(t testing.TB, s *sticky, gone Slot) {
			b := s.Backend(gone.Backend)
			b.State = 0
			s.SetBackend(gone.Backend, b)
		},
		"its place given to another": func(t testing.TB, s *sticky, gone Slot) {
			b := s.Backend(gone.Backend)
			b.Generation++
			s.SetBackend(gone.Backend, b)
		},
		"free": func(t testing.TB, s *sticky, gone Slot) { s.SetBackend(gone.Backend, Backend{}) },
		"not in the pool any more": func(t testing.TB, s *sticky, gone Slot) {
			if err := s.DeleteMembers([]Member{{Pool: s.poolOne, Backend: gone.Backend}}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			forEachSticky(t, func(t *testing.T, s *sticky) {
				client := s.f.client
				first := s.dial(t, client, s.one, "affinity_new")
				gone := s.backends[first]
				rest := slices.Delete(slices.Clone(s.backends), first, first+1)
				other := s.addPool(t, VerdictServe, rest)
				s.SetPool(s.poolOne, s.Pool(other))
				if got := s.dial(t, client, s.one, "affinity"); got != first {
					t.Fatalf("backend %d, want %d, that still serves", got, first)
				}
				lose(t, s, gone)
				second := s.dial(t, client, s.one, "affinity_new")
				if second == first {
					t.Fatal("was given the backend that is gone")
				}
				if got := s.remembered(t, NewAddress(client)); got.Backend != s.backends[second].Backend || got.Generation != s.backends[second].Generation {
					t.Errorf("remembered is %+v, want %+v", got, s.backends[second])
				}
				for range 5 {
					if got := s.dial(t, client, s.one, "affinity"); got != second {
						t.Fatalf("backend %d, want %d", got, second)
					}
				}
			})
		})
	}
}

// Without its members a pool keeps nobody, but serves.
func TestAffinityWithoutMembers(t *testing.T) {
	forEachSticky(t, func(t *testing.T, s *sticky) {
		members, err := s.Members()
		if err != nil || len(members) != stickyBackends+stickyBackends/2 {
			t.Fatalf("members %v, %v", members, err)
		}
		var all []Member
		for m := range members {
			all = append(all, m)
		}
		if err := s.DeleteMembers(all); err != nil {
			t.Fatal(err)
		}
		choices := make(map[int]bool)
		for range 64 {
			choices[s.dial(t, s.f.client, s.one, "affinity_new")] = true
		}
		if len(choices) < stickyBackends/2 {
			t.Errorf("64 choices are %v", choices)
		}
	})
}

// No backend, no memory; and what is remembered outlasts that.
func TestAffinityWithoutBackends(t *testing.T) {
	forEachSticky(t, func(t *testing.T, s *sticky) {
		first := s.dial(t, s.f.client, s.two, "affinity_new")
		before := s.remembered(t, NewAddress(s.f.client))
		stranger := nth(s.f.client, 1)
		pool := s.Pool(s.poolOne)
		s.SetPool(s.poolOne, Pool{Verdict: VerdictDrop})
		in := s.f.first(udp, 40000, s.one).from(at(stranger, 40000))
		s.must(t, ingress(s.eth0, in, shot, in, "packet_drop"))
		var e svcproxyAffinityEntry
		if s.coll.Maps["affinity"].Lookup(s.key(NewAddress(stranger)), &e) == nil {
			t.Errorf("remembered is %+v", e)
		}
		s.SetPool(s.poolOne, pool)
		if got := s.remembered(t, NewAddress(s.f.client)); got != before {
			t.Errorf("remembered is %+v, want %+v", got, before)
		}
		if got := s.dial(t, s.f.client, s.one, "affinity"); got != first {
			t.Errorf("backend %d, want %d", got, first)
		}
	})
}

// Who the client is: of a pod and of the node its network namespace, as at its sockets; otherwise the address.
// The families of a Service are apart.
func TestAffinityClients(t *testing.T) {
	n := newNode(t)
	var host uint64
	n.mustDo(t, func() (err error) { host, err = namespaces.Cookie(); return err })
	choices := make(map[string][]int)
	for _, f := range families {
		s := newSticky(t, n, f, 77)
		sport := uint16(30000)
		dial := func(name string, client Address, make func(p packet) step) {
			t.Helper()
			for i := range 3 {
				sport++
				in := f.first(udp, sport, s.one).from(at(nth(f.pod, i+1), sport))
				want := make(in)
				if i == 0 {
					want.counters += " affinity_new"
				} else {
					want.counters += " affinity"
				}
				choices[f.name+name] = append(choices[f.name+name], s.choice(t, want))
			}
			if got := s.remembered(t, client); got.Backend != s.backends[choices[f.name+name][0]].Backend {
				t.Errorf("%s %s: remembered is %+v", f.name, name, got)
			}
		}
		namespace := func(cookie uint64) (a Address) {
			a = NewAddress(addr("100::"))
			a.Word[2], a.Word[3] = uint32(cookie>>32), uint32(cookie)
			return a
		}
		dial("pod", namespace(podCookie), func(p packet) step {
			return podIngress(n.pod0, p, next, p, "flow_new pod_forward")
		})
		dial("host", namespace(host), func(p packet) step {
			p.src = at(f.node, p.src.Port())
			return own(n.eth0, p, redirect, p, "flow_new host_forward")
		})
		dial("pod without a cookie", NewAddress(f.bridged), func(p packet) step {
			p.src = at(f.bridged, p.src.Port())
			return podIngress(n.pod1, p, next, p, "flow_new pod_forward")
		})
	}
	for name, list := range choices {
		if list[0] != list[1] || list[0] != list[2] {
			t.Errorf("%s was given the backends %v", name, list)
		}
	}
}
