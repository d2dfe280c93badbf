package test

import (
	"cmp"
	"fmt"
	"net/netip"
	goslices "slices"
	"strings"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
	"github.com/svcproxy/svcproxy/pkg/reconcile"
)

// agreeCase is a client that dials an address.
type agreeCase struct {
	from    *agreeClient
	network string // tcp or udp
	to      netip.AddrPort
}

func (c agreeCase) String() string {
	return fmt.Sprintf("%s (%s) dials %s/%s", c.from.Name, c.from.kind, c.to, c.network)
}

func (c agreeCase) protocol() endpoints.Protocol {
	if c.network == "udp" {
		return endpoints.UDP
	}
	return endpoints.TCP
}

// source is the client's address of the family that it dials in.
func (c agreeCase) source() netip.Addr { return familyAddr(c.from.Host.Addrs(), c.to.Addr()) }

func familyAddr(addrs []netip.Addr, like netip.Addr) netip.Addr {
	if like.Is4() {
		return addrs[0]
	}
	return addrs[1]
}

// outcome is what a client notices, or what becomes of a packet at a program.
type outcome string

const (
	isServed      outcome = "served"
	isRefused     outcome = "refused"
	isDropped     outcome = "dropped"
	isUnreachable outcome = "unreachable" // as the way to everywhere says of all that nobody translates
	isPassed      outcome = "passed"      // by a program, as it came
	isDetoured    outcome = "detoured"    // by a program, half translated
)

// expectation is the model's word on a case.
type expectation struct {
	outcome outcome
	sees    map[string]netip.Addr // who may answer, and whom each sees
	hops    []hop
	late    bool // the address was a Service's not long ago: refused or dropped
}

// hop is a node that the first packet comes to, and what its programs must do with it.
type hop struct {
	node     int
	origin   endpoints.Origin
	outcome  outcome
	backends []netip.AddrPort
	source   func(backend netip.AddrPort) netip.Addr
	late     bool   // see expectation
	affinity string // of its Service port; "" if it has none
	noPacket bool   // it stays on the host: no program of a link sees it
}

func (w *agreeWorld) resolve(n *agreeNode) {
	view := &endpoints.View{Node: n.Name, Zone: n.zone, Primary: n.Addrs(), NodePorts: n.Addrs()}
	if n.loopback {
		view.NodePorts = append(view.NodePorts, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback())
	}
	n.resolved = nil
	for _, c := range w.services {
		if c.Service != nil {
			for _, addr := range c.Service.ClusterIPs {
				w.former[addr] = true
			}
			n.resolved = append(n.resolved, endpoints.Resolve(c.Service, c.Slices, view)...)
		}
	}
}

// expect walks the nodes that the first packet comes to until one takes it for a Service's.
func (w *agreeWorld) expect(c agreeCase) expectation {
	at := w.node(c.to.Addr())
	var hops []hop
	switch {
	case c.from.kind != outside:
		origin := w.nodes[c.from.node].pods
		if c.from.kind == hostClient {
			origin = endpoints.FromHost
		}
		own := at == c.from.node && c.from.kind == hostClient
		hops = []hop{{node: c.from.node, origin: origin, noPacket: own || c.to.Addr().IsLoopback()}}
		if at >= 0 && at != c.from.node {
			hops = append(hops, hop{node: at, origin: w.nodes[at].remote(c.from)})
		}
	case at >= 0:
		hops = []hop{{node: at, origin: endpoints.FromOutside}}
	default:
		hops = []hop{{node: c.from.node, origin: endpoints.FromOutside}}
	}
	for i := range hops {
		h := &hops[i]
		h.outcome = isPassed
		answer, ok := endpoints.Dial(w.nodes[h.node].resolved, endpoints.Client{Origin: h.origin, Addr: c.source()}, c.protocol(), c.to)
		if !ok {
			continue
		}
		e := expectation{sees: map[string]netip.Addr{}, hops: hops[:i+1]}
		e.outcome = map[endpoints.Verdict]outcome{endpoints.Serve: isServed, endpoints.Reject: isRefused, endpoints.Drop: isDropped}[answer.Verdict]
		h.outcome = e.outcome
		arrived := i > 0 || c.from.kind == outside
		hooked := !arrived && (c.from.kind == hookedPod || c.from.kind == hostClient) && !answer.Frontend.NoSocket
		h.source = func(backend netip.AddrPort) netip.Addr { return w.packetSource(c, h.node, arrived, backend.Addr()) }
		for _, b := range answer.Backends {
			h.backends = append(h.backends, b.Addr)
			e.sees[w.host(b.Addr.Addr()).Name] = h.source(b.Addr)
			if hooked { // its packets are its own from the beginning
				e.sees[w.host(b.Addr.Addr()).Name] = c.source()
			}
			// What a process sends to its own node leaves by no link, or is turned round at an uplink with the
			// frontend's address on both ways: a node takes no packet of its own address from a link.
			if h.origin == endpoints.FromHost && w.node(b.Addr.Addr()) == h.node {
				h.noPacket = true
				if !hooked {
					e.sees[w.host(b.Addr.Addr()).Name] = c.to.Addr()
				}
			}
		}
		for _, r := range w.nodes[h.node].resolved {
			if r.Port == answer.Port && r.Affinity > 0 {
				h.affinity = r.Port.String()
			}
		}
		return e
	}
	return w.untouched(c, hops)
}

// packetSource is whom a backend sees when packets are translated: the client itself, unless its answer would not
// come back by the node that has translated (DESIGN D6), or would not leave the pod that has asked.
func (w *agreeWorld) packetSource(c agreeCase, node int, arrived bool, backend netip.Addr) netip.Addr {
	if elsewhere := w.host(backend).node != node; arrived && elsewhere || !arrived && backend == c.source() {
		return familyAddr(w.nodes[node].Addrs(), backend)
	}
	return c.source()
}

// untouched is what becomes of what is no Service's: nobody listens on loopback addresses and nodes where tests dial,
// and what ClusterIPs are taken from does not leave a node.
func (w *agreeWorld) untouched(c agreeCase, hops []hop) expectation {
	addr, last := c.to.Addr(), &hops[len(hops)-1]
	e := expectation{outcome: isUnreachable, hops: hops}
	switch {
	case addr.IsLoopback() || w.node(addr) >= 0:
		e.outcome = isRefused
	case goslices.ContainsFunc(w.ranges, func(p netip.Prefix) bool { return p.Contains(addr) }):
		e.outcome = isDropped
		for _, r := range w.nodes[last.node].resolved {
			if goslices.ContainsFunc(r.Frontends, func(f endpoints.Frontend) bool { return f.Addr == addr }) {
				e.outcome = isRefused
			}
		}
		e.late = e.outcome == isDropped && w.former[addr]
		if c.from.kind != outside { // those come in by an uplink and are stopped where they leave again
			last.outcome, last.late = e.outcome, e.late
		}
	}
	return e
}

// modelLines and tableLines say what each frontend means, as the model has it and as the kernel's tables do.
func modelLines(resolved []endpoints.Resolved) map[string]string {
	lines, claims := map[string]string{}, map[string]endpoints.Claim{}
	for i := range resolved {
		r := &resolved[i]
		for _, f := range r.Frontends {
			key := fmt.Sprintf("%s/%s", netip.AddrPortFrom(f.Addr, f.Port), r.Port.Protocol)
			claim := endpoints.Claim{Kind: f.Kind, Created: r.Created, Port: r.Port}
			if other, ok := claims[key]; ok && other.Compare(claim) < 0 {
				continue
			}
			claims[key] = claim
			lines[key] = frontendLine(r.Port.String(), f.Kind.String(), modelPool(r, f, f.Inside), modelPool(r, f, f.Outside),
				uint32(r.Affinity.Seconds()), f.HostOnly, f.NoSocket, f.SourceRanges)
		}
	}
	return lines
}

func modelPool(r *endpoints.Resolved, f endpoints.Frontend, scope endpoints.Scope) string {
	for _, p := range r.Pools {
		if p.Name == (endpoints.PoolName{IPv6: f.Addr.Is6(), Scope: scope}) {
			var list []netip.AddrPort
			for _, i := range p.Backends {
				list = append(list, r.Backends[i].Addr)
			}
			return poolText(p.Verdict.String(), list)
		}
	}
	return "no pool"
}

func tableLines(root string) (map[string]string, error) {
	view, err := bpf.Open(root)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	snapshot, err := reconcile.Read(view)
	if err != nil {
		return nil, err
	}
	lines := map[string]string{}
	for _, s := range snapshot.Services {
		for _, f := range s.Frontends {
			lines[fmt.Sprintf("%s/%s", f.Address, f.Protocol)] = frontendLine(s.Name+"/"+s.Protocol, f.Kind,
				poolText(f.Inside.Verdict, f.Inside.Backends), poolText(f.Outside.Verdict, f.Outside.Backends),
				f.AffinitySeconds, f.HostOnly, f.NoSocket, f.SourceRanges)
		}
	}
	return lines, nil
}

func poolText(verdict string, backends []netip.AddrPort) string {
	backends = goslices.SortedFunc(goslices.Values(backends), netip.AddrPort.Compare)
	return strings.TrimSpace(fmt.Sprint(verdict, " ", backends))
}

func frontendLine(service, kind, inside, outside string, affinity uint32, hostOnly, noSocket bool, ranges []netip.Prefix) string {
	ranges = goslices.Compact(goslices.SortedFunc(goslices.Values(ranges), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	}))
	return fmt.Sprintf("%s %s inside=%s outside=%s affinity=%d hostOnly=%t noSocket=%t from=%v",
		service, kind, inside, outside, affinity, hostOnly, noSocket, ranges)
}
