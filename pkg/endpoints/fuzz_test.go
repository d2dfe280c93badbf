package endpoints

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

// FuzzResolve: whatever the objects say, Resolve does not panic, keeps what the types promise, agrees
// with parity §2.2 taken literally, and cares neither for order nor changes its arguments.
func FuzzResolve(f *testing.F) {
	seed := rand.New(rand.NewPCG(2, 3))
	for range 3000 {
		b := make([]byte, seed.IntN(600))
		for i := range b {
			b[i] = byte(seed.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		choose := choices(data)
		svc, all, view := choose.service(), choose.slices(), choose.view()
		before := copyOf(svc, all, view)
		got := Resolve(svc, all, view)

		if after := copyOf(svc, all, view); !reflect.DeepEqual(after, before) {
			t.Fatal("Resolve changed its arguments")
		}
		for i := range got {
			checkShape(t, &got[i])
			checkSets(t, &got[i], svc, all, view)
			checkAnswers(t, &got[i], &choose)
		}
		checkLocal(t, got, svc, all, view)

		choose.shuffle(all)
		if shuffled := Resolve(svc, all, view); !reflect.DeepEqual(shuffled, got) {
			t.Fatalf("in another order:\n%+v\nwas:\n%+v", shuffled, got)
		}
	})
}

// checkShape checks what the types promise.
func checkShape(t *testing.T, r *Resolved) {
	if !slices.IsSortedFunc(r.Backends, func(a, b Backend) int { return a.Addr.Compare(b.Addr) }) {
		t.Errorf("backends not sorted: %v", r.Backends)
	}
	for i, b := range r.Backends {
		if !b.Ready && !b.Serving {
			t.Errorf("backend %v is neither ready nor serving", b)
		}
		if i > 0 && b.Addr == r.Backends[i-1].Addr {
			t.Errorf("backend %v twice", b)
		}
		if a := b.Addr.Addr(); b.Addr.Port() == 0 || a.Is4In6() || a.Zone() != "" || !(a.IsPrivate() || a.IsGlobalUnicast()) {
			t.Errorf("backend at %v", b.Addr)
		}
	}

	named := map[PoolName]bool{}
	dials := map[netip.AddrPort]bool{}
	for _, f := range r.Frontends {
		named[PoolName{f.Addr.Is6(), f.Inside}] = true
		named[PoolName{f.Addr.Is6(), f.Outside}] = true
		dial := netip.AddrPortFrom(f.Addr, f.Port)
		if dials[dial] {
			t.Errorf("frontend %v twice", dial)
		}
		dials[dial] = true
		if f.Port == 0 || !f.Addr.IsValid() || f.Addr.Is4In6() || f.Addr.Zone() != "" || f.Addr.IsUnspecified() || f.Addr.IsMulticast() {
			t.Errorf("frontend at %v", dial)
		}
		for _, p := range f.SourceRanges {
			if f.Kind != LoadBalancer || !f.NoSocket || p.Addr().Is6() != f.Addr.Is6() || p != p.Masked() || p.Bits() == 0 {
				t.Errorf("%v %v has source range %v", f.Kind, dial, p)
			}
		}
	}
	if !slices.IsSortedFunc(r.Frontends, func(a, b Frontend) int {
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return netip.AddrPortFrom(a.Addr, a.Port).Compare(netip.AddrPortFrom(b.Addr, b.Port))
	}) {
		t.Errorf("frontends not sorted: %v", r.Frontends)
	}

	last := -1
	for _, p := range r.Pools {
		if !named[p.Name] {
			t.Errorf("pool %v is named by no frontend, or twice there", p.Name)
		}
		delete(named, p.Name)
		order := int(p.Name.Scope)
		if p.Name.IPv6 {
			order += 2
		}
		if order <= last {
			t.Errorf("pools not sorted: %v", r.Pools)
		}
		last = order
		if (p.Verdict == Serve) != (len(p.Backends) > 0) {
			t.Errorf("pool %v: %v with %d backends", p.Name, p.Verdict, len(p.Backends))
		}
		for i, b := range p.Backends {
			if b < 0 || b >= len(r.Backends) || (i > 0 && b <= p.Backends[i-1]) || r.Backends[b].Addr.Addr().Is6() != p.Name.IPv6 {
				t.Errorf("pool %v: bad indexes %v of %v", p.Name, p.Backends, r.Backends)
			}
		}
	}
	if len(named) > 0 {
		t.Errorf("frontends name pools that do not exist: %v", named)
	}
}

// checkSets checks the pools against CategorizeEndpoints (parity §2.2) written down as it stands there.
func checkSets(t *testing.T, r *Resolved, svc *Service, all []*Slice, view *View) {
	for _, p := range r.Pools {
		var endpoints []candidate
		fam := familiesOf(svc, view)
		for _, c := range gather(nil, &r.Port, &fam, all, view) {
			if c.Addr.Addr().Is6() == p.Name.IPv6 {
				endpoints = append(endpoints, c)
			}
		}
		external := slices.ContainsFunc(r.Frontends, func(f Frontend) bool { return f.Kind != ClusterIP && f.Addr.Is6() == p.Name.IPv6 })
		cluster, local, hasAny := categorizeLiterally(endpoints, svc, external, view)
		set, empty := cluster, Reject
		if p.Name.Scope == Local {
			set, empty = local, Drop
		}
		var want, got []netip.AddrPort
		for _, c := range set {
			want = append(want, c.Addr)
		}
		for _, i := range p.Backends {
			got = append(got, r.Backends[i].Addr)
		}
		verdict := Serve
		if !hasAny {
			verdict = Reject
		} else if len(want) == 0 {
			verdict = empty
		}
		if !slices.Equal(got, want) || p.Verdict != verdict {
			t.Errorf("%v pool %+v: %v %v, want %v %v", r.Port, p.Name, p.Verdict, got, verdict, want)
		}
	}
}

func categorizeLiterally(endpoints []candidate, svc *Service, external bool, view *View) (cluster, local []candidate, hasAny bool) {
	filter := func(keep func(candidate) bool) (out []candidate) {
		for _, c := range endpoints {
			if keep(c) {
				out = append(out, c)
			}
		}
		return out
	}
	ready := filter(func(c candidate) bool { return c.Ready })
	last := func(c candidate) bool { return c.Serving && c.Terminating }
	every := func(keep func(candidate) bool) bool {
		return !slices.ContainsFunc(ready, func(c candidate) bool { return !keep(c) })
	}
	forNode := func(c candidate) bool { return view.Node != "" && slices.Contains(c.endpoint.Nodes, view.Node) }
	forZone := func(c candidate) bool { return view.Zone != "" && slices.Contains(c.endpoint.Zones, view.Zone) }

	if !svc.InternalLocal || external {
		available := func(candidate) bool { return true }
		if every(func(c candidate) bool { return len(c.endpoint.Nodes) > 0 }) && slices.ContainsFunc(ready, forNode) {
			available = forNode
		} else if every(func(c candidate) bool { return len(c.endpoint.Zones) > 0 }) && slices.ContainsFunc(ready, forZone) {
			available = forZone
		}
		if cluster = filter(func(c candidate) bool { return c.Ready && available(c) }); len(cluster) == 0 {
			cluster = filter(last)
		}
		hasAny = len(cluster) > 0
	}
	if !svc.InternalLocal && !(svc.ExternalLocal && external) {
		return cluster, nil, hasAny
	}
	hasAny = hasAny || len(ready) > 0 || slices.ContainsFunc(endpoints, last)
	if local = filter(func(c candidate) bool { return c.Local && c.Ready }); len(local) == 0 {
		local = filter(func(c candidate) bool { return c.Local && last(c) })
	}
	return cluster, local, hasAny
}

// checkAnswers dials every frontend from everywhere.
func checkAnswers(t *testing.T, r *Resolved, choose *choices) {
	for _, f := range r.Frontends {
		for _, origin := range []Origin{FromHost, FromInside, FromOutside} {
			client := Client{Origin: origin, Addr: choose.addr()}
			a, ours := r.Answer(client, netip.AddrPortFrom(f.Addr, f.Port))
			if wantOurs := !f.HostOnly || origin == FromHost; ours != wantOurs {
				t.Errorf("%v dials %v:%d: ours %v, want %v", origin, f.Addr, f.Port, ours, wantOurs)
			}
			if !ours {
				continue
			}
			if (a.Verdict == Serve) != (len(a.Backends) > 0) || a.Port != r.Port {
				t.Errorf("%v dials %v:%d: %+v", origin, f.Addr, f.Port, a)
			}
		}
	}
}

func checkLocal(t *testing.T, got []Resolved, svc *Service, all []*Slice, view *View) {
	want := map[netip.Addr]bool{}
	want4 := 0
	for _, r := range got {
		for _, b := range r.Backends {
			if addr := b.Addr.Addr(); b.Local && b.Ready && !want[addr] {
				want[addr] = true
				if addr.Is4() {
					want4++
				}
			}
		}
	}
	if ipv4, ipv6 := LocalEndpoints(svc, all, view); ipv4 != want4 || ipv6 != len(want)-want4 {
		t.Errorf("local endpoints %d and %d, want %d and %d", ipv4, ipv6, want4, len(want)-want4)
	}
}

func copyOf(svc *Service, all []*Slice, view *View) any {
	type snapshot struct {
		svc   Service
		all   []Slice
		view  View
		lists [][]netip.Addr
		ports []Port
		from  []netip.Prefix
	}
	s := snapshot{svc: *svc, view: *view, ports: slices.Clone(svc.Ports), from: slices.Clone(svc.SourceRanges)}
	for _, list := range [][]netip.Addr{svc.ClusterIPs, svc.ExternalIPs, svc.LoadBalancerIPs, view.NodePorts, view.Primary} {
		s.lists = append(s.lists, slices.Clone(list))
	}
	for _, sl := range all {
		c := *sl
		c.Ports, c.Endpoints = slices.Clone(sl.Ports), slices.Clone(sl.Endpoints)
		s.all = append(s.all, c)
	}
	return s
}

// choices makes objects out of the fuzzer's bytes; when they are used up, everything is the first of its
// kind. The kinds are few, so that things collide.
type choices []byte

func (c *choices) next(n int) int {
	if len(*c) == 0 {
		return 0
	}
	b := (*c)[0]
	*c = (*c)[1:]
	return int(b) % n
}

func (c *choices) yes() bool { return c.next(2) == 1 }

func pick[T any](c *choices, from ...T) T { return from[c.next(len(from))] }

func some[T any](c *choices, most int, one func() T) []T {
	var list []T
	for range c.next(most + 1) {
		list = append(list, one())
	}
	return list
}

var fuzzAddrs = append(mustAddrs(
	"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "fd00::1", "fd00::2", "fd00::3",
	"::ffff:10.0.0.1", "::ffff:10.0.0.2%eth0", "0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1",
	"169.254.0.1", "fe80::1", "fe80::1%eth0", "255.255.255.255",
), netip.Addr{})

func (c *choices) addr() netip.Addr {
	if c.next(4) > 0 {
		return fuzzAddrs[c.next(7)]
	}
	return fuzzAddrs[c.next(len(fuzzAddrs))]
}

func (c *choices) protocol() Protocol { return pick(c, TCP, TCP, UDP, SCTP, Protocol(0)) }
func (c *choices) portName() string   { return pick(c, "", "", "a", "b") }
func (c *choices) port() uint16       { return pick[uint16](c, 80, 80, 443, 30080, 0) }
func (c *choices) nodeName() string   { return pick(c, "here", "n2", "n3", "") }
func (c *choices) zoneName() string   { return pick(c, "a", "b", "c", "") }

func (c *choices) service() *Service {
	return &Service{
		Name:    web,
		Created: time.Unix(int64(c.next(9)), 0),
		Ports: some(c, 3, func() Port {
			return Port{Name: c.portName(), Protocol: c.protocol(), Port: c.port(), NodePort: c.port()}
		}),
		ClusterIPs:      append(some(c, 3, c.addr), pick(c, mustAddrs("10.0.0.9", "fd00::9"), nil)...),
		ExternalIPs:     some(c, 3, c.addr),
		LoadBalancerIPs: some(c, 3, c.addr),
		SourceRanges: some(c, 3, func() netip.Prefix {
			return netip.PrefixFrom(c.addr(), pick(c, 32, 128, 24, 8, 96, 100, 0, 200))
		}),
		InternalLocal: c.yes(),
		ExternalLocal: c.yes(),
		Affinity:      pick(c, 0, time.Hour, -time.Hour),
	}
}

func (c *choices) slices() []*Slice {
	return some(c, 4, func() *Slice {
		return &Slice{
			Name:    ObjectName{web.Namespace, "web-" + c.portName()},
			Service: pick(c, web, web, web, ObjectName{"shop", "api"}),
			IPv6:    c.yes(),
			Ports: some(c, 3, func() SlicePort {
				return SlicePort{Name: c.portName(), Protocol: c.protocol(), Port: c.port()}
			}),
			Endpoints: some(c, 6, func() Endpoint {
				e := Endpoint{Addr: c.addr(), Node: c.nodeName(), Ready: c.yes(), Serving: c.yes(), Terminating: c.yes()}
				if c.next(4) > 0 {
					e.Zones = some(c, 3, c.zoneName)
					e.Nodes = some(c, 3, c.nodeName)
				}
				return e
			}),
		}
	})
}

func (c *choices) view() *View {
	return &View{Node: c.nodeName(), Zone: c.zoneName(), Primary: some(c, 2, c.addr), NodePorts: some(c, 4, c.addr), MasqueradeAll: c.yes()}
}

func (c *choices) shuffle(all []*Slice) {
	r := rand.New(rand.NewPCG(uint64(len(*c)), 1))
	swap := func(n int, swap func(i, j int)) { r.Shuffle(n, swap) }
	swap(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, s := range all {
		swap(len(s.Endpoints), func(i, j int) { s.Endpoints[i], s.Endpoints[j] = s.Endpoints[j], s.Endpoints[i] })
		swap(len(s.Ports), func(i, j int) { s.Ports[i], s.Ports[j] = s.Ports[j], s.Ports[i] })
	}
}
