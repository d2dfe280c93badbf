package bpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// Verdicts of tc programs.
const (
	next     = -1 // TCX_NEXT
	shot     = 2  // TC_ACT_SHOT
	redirect = 7  // TC_ACT_REDIRECT
)

// port is a link of the fixture's node.
type port struct {
	index int
	mac   [6]byte
	mtu   int
	// addresses of the node on it, by family
	addr map[string]netip.Addr
}

// node is a node of a cluster seen by the programs: a network namespace with three uplinks and pods.
//
//	client ── gateway ── eth0 ┐       ┌ pod0 ── pod
//	   pods of node B ── eth0 ┤ node  ┼ cni0 ── pod1 ── bridged
//	   pods of node C ── eth1 ┤       │     └── its neighbour
//	   pods of node D ── eth2 ┘       └ the node's own processes
//	    (a smaller MTU)
//
// Programs sit on the uplinks, but tests run them on packets of their own.
type node struct {
	*Datapath
	ns               *testenv.Namespace
	root             string
	eth0, eth1, eth2 *port
	pod0, pod1, cni0 *port
	first, last      uint16 // SNAT ports
	ids              uint32 // of services, pools and backends given so far
	slots            uint32
	dialled          []FrontendKey // put so far
}

// family is the addresses of the picture above.
type family struct {
	name                          string
	client, gateway               netip.Addr
	node                          netip.Addr // eth0
	pod, onB, onC, onD            netip.Addr
	nodeB, nodeC, nodeD           netip.Addr
	prefix0, prefix1, prefix2     netip.Prefix
	podsHere, podsB, podsC, podsD netip.Prefix
	bridged, neighbour            netip.Addr
	podsBridged                   netip.Prefix
	unrelated                     netip.Prefix // clients that are none of these
}

var families = []family{{
	name: "IPv4", client: addr("100.64.7.9"), gateway: addr("192.0.2.254"), node: addr("192.0.2.1"),
	pod: addr("10.1.0.2"), onB: addr("10.2.0.2"), onC: addr("10.3.0.2"), onD: addr("10.4.0.2"),
	nodeB: addr("192.0.2.2"), nodeC: addr("198.51.100.3"), nodeD: addr("203.0.113.4"),
	prefix0: prefix("192.0.2.1/24"), prefix1: prefix("198.51.100.1/24"), prefix2: prefix("203.0.113.1/24"),
	podsHere: prefix("10.1.0.0/16"), podsB: prefix("10.2.0.0/16"), podsC: prefix("10.3.0.0/16"), podsD: prefix("10.4.0.0/16"),
	bridged: addr("10.5.0.2"), neighbour: addr("10.5.0.3"), podsBridged: prefix("10.5.0.0/16"), unrelated: prefix("172.20.0.0/16"),
}, {
	name: "IPv6", client: addr("2001:db8:c::9"), gateway: addr("2001:db8:2::fe"), node: addr("2001:db8:2::1"),
	pod: addr("fd00:1::2"), onB: addr("fd00:2::2"), onC: addr("fd00:3::2"), onD: addr("fd00:4::2"),
	nodeB: addr("2001:db8:2::2"), nodeC: addr("2001:db8:51::3"), nodeD: addr("2001:db8:113::4"),
	prefix0: prefix("2001:db8:2::1/64"), prefix1: prefix("2001:db8:51::1/64"), prefix2: prefix("2001:db8:113::1/64"),
	podsHere: prefix("fd00:1::/64"), podsB: prefix("fd00:2::/64"), podsC: prefix("fd00:3::/64"), podsD: prefix("fd00:4::/64"),
	bridged: addr("fd00:5::2"), neighbour: addr("fd00:5::3"), podsBridged: prefix("fd00:5::/64"), unrelated: prefix("2001:db8:77::/64"),
}}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// at is an address and port.
func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

var neighbourMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}

// makeNode makes a node. The error of closing what is returned goes to whoever closes it.
func makeNode(t testing.TB, opts Options) (n *node, closeNode func() error) {
	t.Helper()
	ns, err := testenv.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.default.forwarding"} {
		if err := ns.Sysctl(name, "1"); err != nil {
			t.Fatal(err)
		}
	}
	n = &node{ns: ns, first: opts.FirstSNATPort, last: opts.LastSNATPort}
	n.eth0 = mustPort(t, ns, "eth0", 1500)
	n.eth1 = mustPort(t, ns, "eth1", 1500)
	n.eth2 = mustPort(t, ns, "eth2", 1280)
	n.pod0 = mustPort(t, ns, "pod0", 1500)
	n.pod1 = mustPort(t, ns, "pod1", 1500)
	n.cni0 = mustBridge(t, ns, "cni0", "pod1")
	for _, f := range families {
		mustAddress(t, n.eth0, ns, f.name, f.prefix0)
		mustAddress(t, n.eth1, ns, f.name, f.prefix1)
		mustAddress(t, n.eth2, ns, f.name, f.prefix2)
		mustRoute(t, ns, n.pod0, f.podsHere, netip.Addr{})
		mustRoute(t, ns, n.cni0, f.podsBridged, netip.Addr{})
		mustRoute(t, ns, n.eth0, f.podsB, f.nodeB)
		mustRoute(t, ns, n.eth1, f.podsC, f.nodeC)
		mustRoute(t, ns, n.eth2, f.podsD, f.nodeD)
		mustRoute(t, ns, n.eth0, netip.PrefixFrom(addr(map[string]string{"IPv4": "0.0.0.0", "IPv6": "::"}[f.name]), 0), f.gateway)
		mustNeighbour(t, ns, n.pod0, f.pod)
		mustNeighbour(t, ns, n.cni0, f.bridged)
		mustNeighbour(t, ns, n.cni0, f.neighbour)
		mustNeighbour(t, ns, n.eth0, f.gateway)
		mustNeighbour(t, ns, n.eth0, f.nodeB)
		mustNeighbour(t, ns, n.eth1, f.nodeC)
		mustNeighbour(t, ns, n.eth2, f.nodeD)
	}
	n.root = mustRoot(t)
	opts.Root = n.root
	n.mustDo(t, func() (err error) {
		if n.Datapath, err = Load(opts); err != nil {
			return err
		}
		return n.SetLinks(n.uplinkConfigs(), nil)
	})
	return n, func() error {
		return errors.Join(n.Datapath.Close(), ns.Do(func() error { return Cleanup(n.root) }), ns.Close(), os.RemoveAll(filepath.Dir(n.root)))
	}
}

func (n *node) uplinkConfigs() (links []UplinkConfig) {
	for name, p := range map[string]*port{"eth0": n.eth0, "eth1": n.eth1, "eth2": n.eth2} {
		links = append(links, UplinkConfig{Index: p.index, Name: name, SNAT4: p.addr["IPv4"], SNAT6: p.addr["IPv6"]})
	}
	return links
}

// mustRoot returns a directory on bpffs for one test.
func mustRoot(t testing.TB) string {
	t.Helper()
	const bpffs = "/sys/fs/bpf"
	var s unix.Statfs_t
	if err := unix.Statfs(bpffs, &s); err != nil || uint32(s.Type) != unix.BPF_FS_MAGIC {
		if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
			t.Fatalf("mount bpffs: %v", err)
		}
	}
	root, err := os.MkdirTemp(bpffs, "svcproxy-test-")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "root")
}

// mustDo runs f in the node's network namespace.
func (n *node) mustDo(t testing.TB, f func() error) {
	t.Helper()
	if err := n.ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

func mustPort(t testing.TB, ns *testenv.Namespace, name string, mtu int) *port {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	nl := ns.Netlink()
	if err := nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "-peer"}); err != nil {
		t.Fatalf("add %s: %v", name, err)
	}
	var p port
	for _, end := range []string{name + "-peer", name} {
		l, err := nl.LinkByName(end)
		if err == nil {
			err = nl.LinkSetUp(l)
		}
		if err != nil {
			t.Fatalf("set up %s: %v", end, err)
		}
		p = port{index: l.Attrs().Index, mac: [6]byte(l.Attrs().HardwareAddr), mtu: mtu, addr: make(map[string]netip.Addr)}
	}
	return &p
}

// mustBridge makes a bridge with these ports.
func mustBridge(t testing.TB, ns *testenv.Namespace, name string, ports ...string) *port {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	nl := ns.Netlink()
	if err := nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatalf("add %s: %v", name, err)
	}
	bridge, err := nl.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ports {
		l, err := nl.LinkByName(p)
		if err == nil {
			err = nl.LinkSetMaster(l, bridge)
		}
		if err != nil {
			t.Fatalf("add %s to %s: %v", p, name, err)
		}
	}
	if err := nl.LinkSetUp(bridge); err != nil {
		t.Fatalf("set up %s: %v", name, err)
	}
	if bridge, err = nl.LinkByName(name); err != nil {
		t.Fatal(err)
	}
	return &port{index: bridge.Attrs().Index, mac: [6]byte(bridge.Attrs().HardwareAddr), mtu: 1500, addr: make(map[string]netip.Addr)}
}

func mustAddress(t testing.TB, p *port, ns *testenv.Namespace, family string, a netip.Prefix) {
	t.Helper()
	l, err := ns.Netlink().LinkByIndex(p.index)
	if err == nil {
		err = ns.Netlink().AddrAdd(l, &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD})
	}
	if err != nil {
		t.Fatalf("add address %s: %v", a, err)
	}
	if _, ok := p.addr[family]; !ok {
		p.addr[family] = a.Addr()
	}
}

func mustRoute(t testing.TB, ns *testenv.Namespace, p *port, to netip.Prefix, via netip.Addr) {
	t.Helper()
	if err := ns.Netlink().RouteReplace(&netlink.Route{LinkIndex: p.index, Dst: ipNet(to), Gw: via.AsSlice()}); err != nil {
		t.Fatalf("add route to %s: %v", to, err)
	}
}

func mustNeighbour(t testing.TB, ns *testenv.Namespace, p *port, a netip.Addr) {
	t.Helper()
	neigh := &netlink.Neigh{LinkIndex: p.index, IP: a.AsSlice(), HardwareAddr: neighbourMAC, State: netlink.NUD_PERMANENT}
	if err := ns.Netlink().NeighSet(neigh); err != nil {
		t.Fatalf("add neighbour %s: %v", a, err)
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// serve makes a Service with one frontend and these backends, and returns its pool.
func (n *node) serve(t testing.TB, frontend netip.AddrPort, protocol uint8, backends ...netip.AddrPort) uint32 {
	t.Helper()
	var slots []Slot
	for _, b := range backends {
		slots = append(slots, n.addBackend(t, b, protocol))
	}
	pool := n.addPool(t, VerdictServe, slots)
	n.addFrontend(t, frontend, protocol, Frontend{Service: pool, Inside: pool, Outside: pool, Kind: KindNodePort})
	return pool
}

func (n *node) addBackend(t testing.TB, b netip.AddrPort, protocol uint8) Slot {
	t.Helper()
	n.ids++
	if err := n.GrowBackends(n.ids + 1); err != nil {
		t.Fatal(err)
	}
	n.SetBackend(n.ids, NewBackend(b, protocol, BackendReady|BackendServing, 1, n.ids+1000))
	return Slot{Backend: n.ids, Generation: n.ids + 1000}
}

func (n *node) addPool(t testing.TB, verdict Verdict, slots []Slot) uint32 {
	t.Helper()
	n.ids++
	if err := n.GrowPools(n.ids + 1); err != nil {
		t.Fatal(err)
	}
	if err := n.GrowSlots(n.slots + uint32(len(slots))); err != nil {
		t.Fatal(err)
	}
	n.SetSlots(n.slots, slots)
	n.SetPool(n.ids, Pool{Offset: n.slots, Length: uint32(len(slots)), Verdict: verdict})
	n.slots += uint32(len(slots))
	return n.ids
}

func (n *node) addFrontend(t testing.TB, dial netip.AddrPort, protocol uint8, f Frontend) {
	t.Helper()
	if err := n.PutFrontends(map[FrontendKey]Frontend{NewFrontendKey(dial, protocol): f}); err != nil {
		t.Fatal(err)
	}
	n.AddAddress(dial.Addr())
}

// entry looks a key up where flows are: its flow, and "flows", "embryos" or "".
func (n *node) entry(t testing.TB, key Tuple) (Flow, string) {
	t.Helper()
	for _, name := range []string{"flows", "embryos"} {
		var f Flow
		if n.coll.Maps[name].Lookup(key, &f) == nil {
			return f, name
		}
	}
	return Flow{}, ""
}

// mustBeIn checks in which map both entries of a flow are, and returns them. stub is the client's packet
// as it came, sent the same as the backend gets it.
func (n *node) mustBeIn(t testing.TB, where string, came, sent packet) (stub, record Flow) {
	t.Helper()
	stub, stubIn := n.entry(t, came.tuple())
	record, recordIn := n.entry(t, NewTuple(sent.dst, sent.src, sent.protocol))
	if stubIn != where || recordIn != where {
		t.Fatalf("stub is in %q, record in %q, want both in %q", stubIn, recordIn, where)
	}
	if where == "" {
		return
	}
	if stub.Source() != sent.src || stub.Destination() != sent.dst {
		t.Fatalf("stub says %s > %s, want %s > %s", stub.Source(), stub.Destination(), sent.src, sent.dst)
	}
	if record.Source() != came.dst || record.Destination() != came.src {
		t.Fatalf("record says %s > %s, want %s > %s", record.Source(), record.Destination(), came.dst, came.src)
	}
	if stub.Nonce != record.Nonce || stub.Flags&FlowReply != 0 || record.Flags&FlowReply == 0 {
		t.Fatalf("entries are no pair: %+v and %+v", stub, record)
	}
	if _, ok := n.entry(t, came.tuple()); where == "flows" && ok == "flows" {
		var f Flow
		if n.coll.Maps["embryos"].Lookup(came.tuple(), &f) == nil {
			t.Fatal("promoted stub is still an embryo")
		}
	}
	return stub, record
}

// forEach runs a test for both families and the given protocols, each on a node that knows nothing.
func forEach(t *testing.T, protocols []uint8, test func(t *testing.T, n *node, f family, protocol uint8), configure ...func(*Options)) {
	t.Helper()
	for _, f := range families {
		for _, protocol := range protocols {
			t.Run(fmt.Sprintf("%s/%s", f.name, ProtocolName(protocol)), func(t *testing.T) {
				test(t, newNode(t, configure...), f, protocol)
			})
		}
	}
}

// first is the first packet of a client, as it comes in at eth0.
func (f family) first(protocol uint8, sport uint16, dst netip.AddrPort) packet {
	p := packet{src: at(f.client, sport), dst: dst, protocol: protocol, ttl: 63, payload: "hello"}
	switch protocol {
	case tcp:
		p.flags, p.seq, p.payload = syn, 1000, ""
	case sctp:
		p.seq, p.payload = 0, initChunk(clientTag)
	}
	return p
}
