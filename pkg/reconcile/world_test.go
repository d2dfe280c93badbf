package reconcile

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// world is a cluster: what the model is told. Every Service has backends of its own, so an address says
// whose it is.
type world struct {
	view     *endpoints.View
	services map[endpoints.ObjectName]Change
}

func newWorld() *world {
	return &world{
		view: &endpoints.View{Node: "here", Zone: "a", NodePorts: []netip.Addr{
			netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("2001:db8::1"),
		}},
		services: make(map[endpoints.ObjectName]Change),
	}
}

// all returns the changes that make an empty model this world.
func (w *world) all() []Change {
	list := slices.Collect(maps.Values(w.services))
	slices.SortFunc(list, func(a, b Change) int { return a.Name.Compare(b.Name) })
	return list
}

func (w *world) set(c Change) {
	if c.Service == nil {
		delete(w.services, c.Name)
	} else {
		w.services[c.Name] = c
	}
}

const worldServices = 8

// randomChange returns another state of some Service; ports, addresses and NodePorts are few, so
// Services collide, and everything comes back some time.
func randomChange(rng *rand.Rand) Change {
	i := rng.IntN(worldServices)
	name := endpoints.ObjectName{Namespace: "default", Name: fmt.Sprintf("s%d", i)}
	if rng.IntN(6) == 0 {
		return Change{Name: name}
	}
	svc := &endpoints.Service{
		Name:          name,
		Created:       time.Unix(int64(1000+rng.IntN(3)), 0),
		ClusterIPs:    []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(1 + i)})},
		InternalLocal: rng.IntN(4) == 0,
		ExternalLocal: rng.IntN(3) == 0,
	}
	dual := i%2 == 0
	if dual {
		svc.ClusterIPs = append(svc.ClusterIPs, netip.MustParseAddr(fmt.Sprintf("fd00::%d", 1+i)))
	}
	if rng.IntN(3) == 0 {
		svc.ExternalIPs = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + rng.IntN(2))})}
	}
	if rng.IntN(3) == 0 {
		svc.LoadBalancerIPs = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + rng.IntN(3))})}
		if dual {
			svc.LoadBalancerIPs = append(svc.LoadBalancerIPs, netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%d", 1+rng.IntN(2))))
		}
		for _, s := range []string{"198.51.100.0/24", "198.51.0.0/16", "192.0.0.0/8", "2001:db8:2::/48", "2001:db8:2:3::/64"} {
			if rng.IntN(3) == 0 {
				svc.SourceRanges = append(svc.SourceRanges, netip.MustParsePrefix(s))
			}
		}
	}
	if rng.IntN(2) == 0 {
		svc.Affinity = 3 * time.Hour
	}
	c := Change{Name: name, Service: svc}
	var ports []endpoints.SlicePort
	names := []string{"http", "web", "dns"}
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for j := range 1 + rng.IntN(2) {
		p := endpoints.Port{Name: names[j], Protocol: endpoints.TCP, Port: uint16(80 + rng.IntN(2))}
		if rng.IntN(3) == 0 {
			p.Protocol = endpoints.UDP
		}
		if rng.IntN(2) == 0 {
			p.NodePort = uint16(30000 + rng.IntN(3))
		}
		svc.Ports = append(svc.Ports, p)
		ports = append(ports, endpoints.SlicePort{Name: p.Name, Protocol: p.Protocol, Port: uint16(8000 + rng.IntN(2))})
	}
	c.Slices = append(c.Slices, randomSlice(rng, name, i, ports, false))
	if dual {
		c.Slices = append(c.Slices, randomSlice(rng, name, i, ports, true))
	}
	return c
}

func randomSlice(rng *rand.Rand, service endpoints.ObjectName, i int, ports []endpoints.SlicePort, ipv6 bool) *endpoints.Slice {
	s := &endpoints.Slice{Name: service, Service: service, IPv6: ipv6, Ports: ports}
	for k := range 5 {
		if rng.IntN(2) == 0 {
			continue
		}
		e := endpoints.Endpoint{
			Addr:    netip.AddrFrom4([4]byte{10, 244, byte(i), byte(1 + k)}),
			Node:    []string{"here", "there"}[rng.IntN(2)],
			Ready:   rng.IntN(4) != 0,
			Serving: rng.IntN(5) != 0,
		}
		if ipv6 {
			e.Addr = netip.MustParseAddr(fmt.Sprintf("fd01::%d:%d", i, 1+k))
		}
		e.Terminating = !e.Ready && e.Serving
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func randomView(rng *rand.Rand) *endpoints.View {
	v := *newWorld().view
	v.NodePorts = v.NodePorts[:1+rng.IntN(3)]
	v.MasqueradeAll = rng.IntN(3) == 0
	if rng.IntN(3) == 0 {
		v.Primary = v.NodePorts[:1] // in one of the source ranges
	}
	return &v
}

// an expectation is what a world says of each frontend.
type expectation map[bpf.FrontendKey]expected

type expected struct {
	claim   endpoints.Claim
	sources string // that it is restricted to
	inside  endpoints.PoolName
	outside endpoints.PoolName
	others  []expected // who claim it too
}

type answer struct {
	verdict  bpf.Verdict
	backends string // sorted
}

// expect computes, by brute force, who has each frontend, and what each pool of each port answers.
func (w *world) expect() (expectation, map[poolKey]answer) {
	frontends, pools := make(expectation), make(map[poolKey]answer)
	for _, c := range w.services {
		for _, r := range endpoints.Resolve(c.Service, c.Slices, w.view) {
			for _, p := range r.Pools {
				var list []string
				for _, b := range p.Backends {
					list = append(list, r.Backends[b].Addr.String())
				}
				slices.Sort(list)
				pools[poolKey{r.Port, p.Name}] = answer{verdict(p.Verdict), strings.Join(list, " ")}
			}
			for _, f := range r.Frontends {
				key := bpf.NewFrontendKey(netip.AddrPortFrom(f.Addr, f.Port), uint8(r.Port.Protocol))
				e := expected{
					claim:   endpoints.Claim{Kind: f.Kind, Created: r.Created, Port: r.Port},
					inside:  endpoints.PoolName{IPv6: f.Addr.Is6(), Scope: f.Inside},
					outside: endpoints.PoolName{IPv6: f.Addr.Is6(), Scope: f.Outside},
					sources: join(f.SourceRanges),
				}
				if have, ok := frontends[key]; ok {
					if e.claim.Compare(have.claim) > 0 {
						e, have = have, e
					}
					e.others = append(e.others, append(have.others, have)...)
				}
				frontends[key] = e
			}
		}
	}
	return frontends, pools
}

type poolKey struct {
	port endpoints.PortName
	name endpoints.PoolName
}

// A witness checks after every write that each frontend answers as it did at some moment of the change:
// who had it before, or who has it after, with their backends of before or after. A frontend that was
// there all the time is there all the time, and is served if it was served all the time.
type witness struct {
	frontends []expectation
	pools     []map[poolKey]answer
	sources   []map[portFamily]map[string]bool
	rules     map[bpf.FrontendKey]*rule // of those; nil: not made yet
}

// a rule is what a frontend may answer.
type rule struct {
	always          bool          // wanted at every moment
	restricted      map[bool]bool // to source ranges
	inside, outside map[answer]bool
	loose           map[answer]bool // of any pool of any port that claims it
	looseRestricted map[bool]bool
}

func (ru *rule) admit(wi *witness, to map[answer]bool, port endpoints.PortName, name endpoints.PoolName) {
	for _, pools := range wi.pools {
		if a, ok := pools[poolKey{port, name}]; ok {
			to[a] = true
		}
	}
}

// add says that the tables may be anywhere between what they were and w.
func (wi *witness) add(w *world) {
	f, p := w.expect()
	wi.frontends = append(wi.frontends, f)
	wi.pools = append(wi.pools, p)
	wi.sources = append(wi.sources, w.sourcesOf())
	wi.rules = nil
}

// settled says that the tables have arrived at w.
func (wi *witness) settled(w *world) {
	wi.frontends, wi.pools, wi.sources = nil, nil, nil
	wi.add(w)
}

func (wi *witness) makeRules() {
	wi.rules = make(map[bpf.FrontendKey]*rule)
	for _, e := range wi.frontends {
		for k, x := range e {
			ru := wi.rules[k]
			if ru == nil {
				ru = &rule{inside: make(map[answer]bool), outside: make(map[answer]bool), loose: make(map[answer]bool),
					restricted: make(map[bool]bool), looseRestricted: make(map[bool]bool)}
				ru.always = !slices.ContainsFunc(wi.frontends, func(e expectation) bool { _, ok := e[k]; return !ok })
				wi.rules[k] = ru
			}
			for _, o := range append(x.others, x) {
				ru.looseRestricted[o.sources != ""] = true
			}
			ru.restricted[x.sources != ""] = true
			ru.admit(wi, ru.inside, x.claim.Port, x.inside)
			ru.admit(wi, ru.outside, x.claim.Port, x.outside)
			for _, o := range append(x.others, x) {
				for _, scope := range []endpoints.Scope{endpoints.Cluster, endpoints.Local} {
					ru.admit(wi, ru.loose, o.claim.Port, endpoints.PoolName{IPv6: x.inside.IPv6, Scope: scope})
				}
			}
		}
	}
}

func (wi *witness) look(f *fake) {
	if wi.rules == nil {
		wi.makeRules()
	}
	wi.lookSources(f)
	answers := make(map[uint32]answer)
	read := func(pool uint32) answer {
		a, ok := answers[pool]
		if !ok {
			a = f.answer(pool)
			answers[pool] = a
		}
		return a
	}
	for k, v := range f.frontends {
		if _, ok := f.services[v.Service]; !ok && f.fail == nil {
			f.violate("frontend %v is of service %d, which has no name", k.AddrPort(), v.Service)
		}
		ru := wi.rules[k]
		if ru == nil {
			f.violate("frontend %v was never wanted: %v", k.AddrPort(), v)
			continue
		}
		if _, got := restrictionOf(k, v); !ru.restricted[got] && !(f.loose && ru.looseRestricted[got]) {
			f.violate("frontend %v restricted to source ranges: %v, want one of %v", k.AddrPort(), got, ru.restricted)
		}
		if got := read(v.Inside); !ru.inside[got] && !(f.loose && ru.loose[got]) {
			f.violate("frontend %v inside answers %v, want one of %v", k.AddrPort(), got, ru.inside)
		}
		if got := read(v.Outside); !ru.outside[got] && !(f.loose && ru.loose[got]) {
			f.violate("frontend %v outside answers %v, want one of %v", k.AddrPort(), got, ru.outside)
		}
	}
	for k, ru := range wi.rules {
		// Who does not fit has none of his frontends; another's that he takes over is gone with the other.
		if _, ok := f.frontends[k]; !ok && ru.always && !f.loose {
			f.violate("frontend %v, always wanted, is gone", k.AddrPort())
		}
	}
}

// answer follows a pool as a program does.
func (f *fake) answer(id uint32) answer {
	word := f.pools[id]
	var list []string
	for _, s := range f.slots[word.Offset : word.Offset+word.Length] {
		list = append(list, f.backends[s.Backend].AddrPort().String())
	}
	slices.Sort(list)
	return answer{word.Verdict, strings.Join(list, " ")}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newReconciler(f *fake) *Reconciler { return New(f, quiet()) }

func mustApply(t testing.TB, r *Reconciler, view *endpoints.View, changes []Change) Result {
	t.Helper()
	res, err := r.Apply(view, changes)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return res
}

func mustCollect(t testing.TB, r *Reconciler) {
	t.Helper()
	for range 2 {
		if err := r.Collect(); err != nil {
			t.Fatalf("collect: %v", err)
		}
	}
}

func mustDump(t testing.TB, tables Tables) string {
	t.Helper()
	s, err := Read(tables)
	if err != nil {
		t.Fatalf("read snapshot: %v", err)
	}
	return s.Dump()
}

// scratch returns the dump of w applied to empty tables.
func (w *world) scratch(t testing.TB) string {
	t.Helper()
	f := newFake()
	mustApply(t, newReconciler(f), w.view, w.all())
	f.check(t)
	return mustDump(t, f)
}

func (f *fake) check(t testing.TB) {
	t.Helper()
	if len(f.violations) > 0 {
		n := min(len(f.violations), 5)
		t.Fatalf("%d violations, the first:\n%s", len(f.violations), strings.Join(f.violations[:n], "\n"))
	}
}

func diff(t testing.TB, want, got string) {
	t.Helper()
	if d := gocmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); d != "" {
		t.Fatalf("dump (-want +got):\n%s", d)
	}
}

// leaks checks that r holds exactly the ids and slots that the tables use.
func (r *Reconciler) leaks(t testing.TB, f *fake) {
	t.Helper()
	pools, slots, backends := 0, uint32(0), 0
	for _, p := range f.pools {
		if p != (bpf.Pool{}) {
			pools++
			slots += p.Length
		}
	}
	for _, b := range f.backends {
		if b.Generation != 0 {
			backends++
		}
	}
	free := uint32(0)
	for _, s := range r.ranges.starts {
		free += s.length
	}
	type use struct{ pools, slots, backends, services int }
	want := use{pools, int(slots), backends, len(f.services)}
	got := use{r.poolIDs.inUse(), int(r.ranges.length - free), r.backendIDs.inUse(), r.serviceIDs.inUse()}
	if got != want {
		t.Fatalf("in use: %+v, in the tables: %+v", got, want)
	}
	if n := r.Pending(); n != 0 {
		t.Fatalf("%d pending", n)
	}
}
