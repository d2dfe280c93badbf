package watch

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
	"github.com/svcproxy/svcproxy/pkg/reconcile"
)

// memory is the kernel's tables; nobody reads beside us.
type memory struct {
	frontends map[bpf.FrontendKey]bpf.Frontend
	services  map[uint32]bpf.Service
	members   map[bpf.Member]uint32
	sources   map[bpf.SourceRange]uint32
	pools     []bpf.Pool
	slots     []bpf.Slot
	backends  []bpf.Backend
}

func newMemory() *memory {
	return &memory{
		frontends: make(map[bpf.FrontendKey]bpf.Frontend), services: make(map[uint32]bpf.Service),
		members: make(map[bpf.Member]uint32), sources: make(map[bpf.SourceRange]uint32),
	}
}

func (m *memory) Frontends() (map[bpf.FrontendKey]bpf.Frontend, error) { return m.frontends, nil }
func (m *memory) Services() (map[uint32]bpf.Service, error)            { return m.services, nil }
func (m *memory) Members() (map[bpf.Member]uint32, error)              { return m.members, nil }
func (m *memory) SourceRanges() (map[bpf.SourceRange]uint32, error)    { return m.sources, nil }

func (m *memory) PutFrontends(entries map[bpf.FrontendKey]bpf.Frontend) error {
	maps.Copy(m.frontends, entries)
	return nil
}

func (m *memory) PutServices(entries map[uint32]bpf.Service) error {
	maps.Copy(m.services, entries)
	return nil
}

func (m *memory) PutMembers(list []bpf.Member) error {
	for _, k := range list {
		m.members[k] = 1
	}
	return nil
}

func (m *memory) PutSourceRange(s bpf.SourceRange) error { m.sources[s] = s.Bits; return nil }

func (m *memory) DeleteFrontends(keys []bpf.FrontendKey) error { return remove(m.frontends, keys) }
func (m *memory) DeleteServices(ids []uint32) error            { return remove(m.services, ids) }
func (m *memory) DeleteMembers(list []bpf.Member) error        { return remove(m.members, list) }
func (m *memory) DeleteSourceRange(s bpf.SourceRange) error {
	return remove(m.sources, []bpf.SourceRange{s})
}

func remove[K comparable, V any](from map[K]V, keys []K) error {
	for _, k := range keys {
		delete(from, k)
	}
	return nil
}

func (m *memory) Pool(id uint32) bpf.Pool                 { return m.pools[id] }
func (m *memory) SetPool(id uint32, p bpf.Pool)           { m.pools[id] = p }
func (m *memory) Slots(offset, n uint32) []bpf.Slot       { return slices.Clone(m.slots[offset : offset+n]) }
func (m *memory) SetSlots(offset uint32, list []bpf.Slot) { copy(m.slots[offset:], list) }
func (m *memory) Backend(id uint32) bpf.Backend           { return m.backends[id] }
func (m *memory) SetBackend(id uint32, b bpf.Backend)     { m.backends[id] = b }
func (m *memory) PoolsLen() uint32                        { return uint32(len(m.pools)) }
func (m *memory) SlotsLen() uint32                        { return uint32(len(m.slots)) }
func (m *memory) BackendsLen() uint32                     { return uint32(len(m.backends)) }
func (m *memory) GrowPools(n uint32) error                { return lengthen(&m.pools, n) }
func (m *memory) GrowSlots(n uint32) error                { return lengthen(&m.slots, n) }
func (m *memory) GrowBackends(n uint32) error             { return lengthen(&m.backends, n) }
func (m *memory) AddAddress(netip.Addr)                   {}
func (m *memory) RemoveAddress(netip.Addr)                {}
func (m *memory) Quiesce() error                          { return nil }

func lengthen[T any](table *[]T, n uint32) error {
	*table = append(*table, make([]T, int(n)-len(*table))...)
	return nil
}

// chain is what stands between events and tables.
type chain struct {
	t          *testing.T
	source     *apiSource
	stores     map[string]*store
	state      *State
	tables     *memory
	reconciler *reconcile.Reconciler
	node       *Node
	cidrs      []netip.Prefix
}

func newChain(t *testing.T) *chain {
	log := slog.New(slog.DiscardHandler)
	state := NewState()
	c := &chain{t: t, state: state, tables: newMemory(), stores: make(map[string]*store),
		source: &apiSource{log: log, sink: sink{state: state, report: newReporter(state, log), node: "node-a"}, interner: newInterner()}}
	for _, kind := range []string{kindService, kindSlice, kindNode, kindServiceCIDR} {
		c.stores[kind] = c.source.store(kind)
	}
	c.reconciler = reconcile.New(c.tables, log)
	return c
}

func (c *chain) must(err error) {
	if err != nil {
		c.t.Fatal(err)
	}
}

// list tells all objects of a kind, in any order, some of them converted while they were streamed.
func (c *chain) list(rng *rand.Rand, kind string, objects map[int]runtime.Object, kinds map[int]string) {
	var list []any
	for _, number := range rng.Perm(orderObjects) {
		o := objects[number]
		if o == nil || kinds[number] != kind {
			continue
		}
		var item any = o
		if rng.IntN(2) == 0 {
			var err error
			item, err = c.stores[kind].Transformer()(o)
			c.must(err)
		}
		list = append(list, item)
	}
	c.must(c.stores[kind].Replace(list, "1"))
}

// take does with an update what the agent does.
func (c *chain) take() {
	u := c.state.Take()
	var view *endpoints.View
	if u.Node != nil {
		c.node = u.Node
		view = &endpoints.View{Node: u.Node.Name, Zone: u.Node.Zone, NodePorts: u.Node.Addresses}
	}
	if u.ServiceCIDRs != nil {
		c.cidrs = u.ServiceCIDRs
	}
	var changes []reconcile.Change
	for _, change := range u.Changes {
		changes = append(changes, reconcile.Change{Name: change.Name, Service: change.Service, Slices: change.Slices})
	}
	if _, err := c.reconciler.Apply(view, changes); err != nil {
		c.t.Fatal(err)
	}
	if err := c.reconciler.Collect(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chain) dump() string {
	s, err := reconcile.Read(c.tables)
	if err != nil {
		c.t.Fatal(err)
	}
	return s.Dump()
}

// randomVersion is some state of the object that a number stands for: the first are Services, then slices,
// ServiceCIDRs, our Node and another one. nil: it does not exist.
func randomVersion(rng *rand.Rand, number int) (kind string, o runtime.Object) {
	gone := rng.IntN(4) == 0
	switch {
	case number < 4:
		kind = kindService
		o = web(func(s *corev1.Service) {
			s.Name = fmt.Sprintf("s%d", number)
			s.Spec.ClusterIP = fmt.Sprintf("10.96.0.%d", 1+rng.IntN(4)) // they collide
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
			s.CreationTimestamp = metav1.Unix(int64(1000+rng.IntN(2)), 0)
			if rng.IntN(2) == 0 {
				s.Spec.Type = corev1.ServiceTypeNodePort
				s.Spec.Ports[0].NodePort = int32(30000 + rng.IntN(2))
			}
			if rng.IntN(3) == 0 {
				s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			}
			if rng.IntN(5) == 0 {
				s.Labels = map[string]string{labelProxyName: "another"}
			}
			if rng.IntN(3) == 0 {
				s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			}
		})
	case number < 12:
		kind = kindSlice
		o = webSlice(func(s *discoveryv1.EndpointSlice) {
			s.Name = fmt.Sprintf("slice-%d", number)
			s.Labels = map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("s%d", rng.IntN(4))} // they move
			s.Endpoints = nil
			for i := range rng.IntN(4) {
				s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
					Addresses:  []string{fmt.Sprintf("10.0.%d.%d", number%3, i)}, // they overlap
					NodeName:   ptr([]string{"node-a", "node-b"}[rng.IntN(2)]),
					Conditions: discoveryv1.EndpointConditions{Ready: ptr(rng.IntN(3) > 0), Serving: ptr(rng.IntN(3) > 0), Terminating: ptr(rng.IntN(3) == 0)},
				})
			}
		})
	case number < 15:
		kind = kindServiceCIDR
		o = serviceCIDR(fmt.Sprintf("cidr-%d", number), fmt.Sprintf("10.%d.0.0/16", 96+rng.IntN(4)))
	case number == 15: // once gone its last state is kept: so that the end says it all, it is there
		kind, gone = kindNode, false
		o = nodeA(func(n *corev1.Node) {
			n.Labels[corev1.LabelTopologyZone] = fmt.Sprintf("z%d", rng.IntN(3))
			n.Status.Addresses = n.Status.Addresses[:2+rng.IntN(3)]
		})
	default:
		kind = kindNode
		o = nodeA(func(n *corev1.Node) { n.Name = "node-b" })
	}
	if gone {
		o = nil
	}
	return kind, o
}

const orderObjects = 17

// TestEventOrder: events of many objects in any order, some twice, some left out by a list, deletions told with
// some state of the object or found by a list, taken whenever: the tables are those of the objects as they are in the end.
func TestEventOrder(t *testing.T) {
	frontends := 0
	for range 150 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { frontends += eventOrder(t, rand.New(rand.NewPCG(seed, 1))) })
	}
	if frontends == 0 {
		t.Error("there was never anything in the tables")
	}
}

// eventOrder returns how many frontends there were in the end.
func eventOrder(t *testing.T, rng *rand.Rand) int {
	c := newChain(t)
	present := make(map[int]runtime.Object) // as the store was told
	kinds := make(map[int]string)
	cidrsSynced := false
	synced := false
	for range 200 {
		number := rng.IntN(orderObjects)
		kind, o := randomVersion(rng, number)
		s, before := c.stores[kind], present[number]
		kinds[number] = kind
		switch {
		case o != nil:
			present[number] = o
			for range 1 + rng.IntN(2) { // told again: the watch began anew
				if before == nil {
					c.must(s.Add(o))
				} else {
					c.must(s.Update(o))
				}
			}
		case before != nil:
			delete(present, number)
			switch rng.IntN(3) {
			case 0:
				c.must(s.Delete(before))
			case 1:
				c.must(s.Delete(lastKnown(rng, number))) // not the state that we were told last
			case 2:
				c.list(rng, kind, present, kinds)
			}
		}
		switch rng.IntN(12) {
		case 0:
			c.take()
		case 1:
			c.list(rng, kind, present, kinds)
		case 2:
			if !synced {
				synced = true
				c.state.sync()
			}
		case 3:
			if !cidrsSynced {
				cidrsSynced = true
				c.state.syncServiceCIDRs()
			}
		}
	}
	if !synced {
		c.state.sync()
	}
	if !cidrsSynced {
		c.state.syncServiceCIDRs()
	}
	c.take()
	c.take()

	fresh := newChain(t)
	for number, o := range present {
		fresh.must(fresh.stores[kinds[number]].Add(o))
	}
	fresh.state.sync()
	fresh.state.syncServiceCIDRs()
	fresh.take()
	if d := cmp.Diff(fresh.dump(), c.dump()); d != "" {
		t.Errorf("tables (-of the objects alone +of the events):\n%s", d)
	}
	if d := cmp.Diff(fresh.node, c.node, compareAddrs); d != "" {
		t.Errorf("node (-of the objects alone +of the events):\n%s", d)
	}
	if !slices.Equal(fresh.cidrs, c.cidrs) {
		t.Errorf("ServiceCIDRs %v, want %v", c.cidrs, fresh.cidrs)
	}
	if n := c.reconciler.Pending(); n != 0 {
		t.Errorf("%d pending", n)
	}
	return len(c.tables.frontends)
}

func lastKnown(rng *rand.Rand, number int) runtime.Object {
	for {
		if _, o := randomVersion(rng, number); o != nil {
			return o
		}
	}
}
