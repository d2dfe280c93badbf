package node

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tunnels are the kinds of links that carry packets to other nodes inside other packets.
var tunnels = []string{
	"geneve", "gre", "gretap", "ip6gre", "ip6gretap", "ip6tnl", "ipip", "sit", "tuntap", "vti", "vti6",
	"vxlan", "wireguard", "xfrm",
}

// hop is one next hop of one route.
type hop struct {
	dst     netip.Prefix
	gateway bool
	kernel  bool // made by the kernel for an address of the link
	src     netip.Addr
	main    bool // of table main
	metric  int
}

func (h hop) isDefault() bool { return h.dst.Bits() == 0 }

// facts are a snapshot, ordered by link.
type facts struct {
	masters   map[int]string // link → kind of its master
	hops      map[int][]hop
	addrs     map[int][]netlink.Addr
	nodeAddrs []netip.Addr
}

func (s snapshot) facts(nodeAddrs []netip.Addr) facts {
	f := facts{masters: map[int]string{}, hops: map[int][]hop{}, addrs: map[int][]netlink.Addr{}, nodeAddrs: nodeAddrs}
	kinds := map[int]string{}
	for _, l := range s.links {
		kinds[l.Attrs().Index] = l.Type()
	}
	for _, l := range s.links {
		if a := l.Attrs(); a.MasterIndex != 0 {
			f.masters[a.Index] = cmp.Or(kinds[a.MasterIndex], "unknown")
		}
	}
	for _, a := range s.addrs {
		f.addrs[a.LinkIndex] = append(f.addrs[a.LinkIndex], a)
	}
	for _, r := range s.routes {
		f.addRoute(r)
	}
	return f
}

func (f facts) addRoute(r netlink.Route) {
	h := hop{dst: prefix(r), kernel: r.Protocol == unix.RTPROT_KERNEL, main: r.Table == unix.RT_TABLE_MAIN, metric: r.Priority}
	if !h.dst.IsValid() || h.dst.Addr().IsMulticast() || h.dst.Addr().Is6() && h.dst.Addr().IsLinkLocalUnicast() {
		return // every IPv6 link has these: they lead nowhere
	}
	if src, ok := netip.AddrFromSlice(r.Src); ok {
		h.src = src.Unmap()
	}
	if len(r.MultiPath) == 0 {
		h.gateway = r.Gw != nil || r.Via != nil
		f.hops[r.LinkIndex] = append(f.hops[r.LinkIndex], h)
	}
	for _, n := range r.MultiPath {
		h.gateway = n.Gw != nil || n.Via != nil
		f.hops[n.LinkIndex] = append(f.hops[n.LinkIndex], h)
	}
}

// prefix returns a route's destination; the zero Prefix for what is neither IPv4 nor IPv6.
func prefix(r netlink.Route) netip.Prefix {
	if r.Dst != nil {
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if !ok {
			return netip.Prefix{}
		}
		return netip.PrefixFrom(addr.Unmap(), bits)
	}
	switch r.Family {
	case unix.AF_INET:
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	case unix.AF_INET6:
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.Prefix{}
}

// uplink decides by role, never by name (DESIGN D6): in kind eth0 is a veth.
func (f facts) uplink(l netlink.Link) bool {
	index := l.Attrs().Index
	if l.Type() == "vrf" {
		return false // packets show at its ports too
	}
	if master, ok := f.masters[index]; ok && master != "vrf" {
		return false // the bridge or bond has the role, and sees the packets of all its ports
	}
	if f.has(index, f.nodeAddrs) || slices.ContainsFunc(f.hops[index], hop.isDefault) {
		return true
	}
	if f.podLink(l) {
		return false
	}
	if slices.ContainsFunc(f.hops[index], func(h hop) bool { return h.gateway }) {
		return true
	}
	return isTunnel(l) && len(f.hops[index]) > 0
}

// podLink says whether l looks like the host's end of a pod's link: its other end is in another network
// namespace, and behind it are single addresses, or nothing that l has an address to speak to with.
func (f facts) podLink(l netlink.Link) bool {
	a := l.Attrs()
	if kind := l.Type(); kind != "veth" && kind != "netkit" || a.NetNsID < 0 {
		return false
	}
	numbered := slices.ContainsFunc(f.addrs[a.Index], func(a netlink.Addr) bool {
		addr, ok := local(a)
		return ok && !addr.IsLinkLocalUnicast()
	})
	network := slices.ContainsFunc(f.hops[a.Index], func(h hop) bool { return !h.gateway && !h.dst.IsSingleIP() })
	return !numbered || !network
}

// pod describes the host's end of a pod's link.
func (f facts) pod(l netlink.Link, uplinks []Link, bridgeFilter bool) PodLink {
	a := l.Attrs()
	p := PodLink{Index: a.Index, Name: a.Name, namespace: a.NetNsID, SNAT4: f.snat(l, false), SNAT6: f.snat(l, true)}
	if f.masters[a.Index] == "bridge" {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: a.MasterIndex}}
		p.SNAT4, p.SNAT6 = f.snat(bridge, false), f.snat(bridge, true)
		if !bridgeFilter {
			p.Bridge = a.MasterIndex
		}
	}
	for _, u := range uplinks { // without a Node object, any address of the node will do
		if !p.SNAT4.IsValid() {
			p.SNAT4 = u.SNAT4
		}
		if !p.SNAT6.IsValid() {
			p.SNAT6 = u.SNAT6
		}
	}
	return p
}

// isTunnel excludes taps: those are the links of virtual machines.
func isTunnel(l netlink.Link) bool {
	if l.Type() == "tuntap" && l.Attrs().EncapType == "ether" {
		return false
	}
	return slices.Contains(tunnels, l.Type())
}

// has reports whether the link has one of addrs.
func (f facts) has(index int, addrs []netip.Addr) bool {
	return slices.ContainsFunc(f.addrs[index], func(a netlink.Addr) bool {
		addr, ok := local(a)
		return ok && slices.Contains(addrs, addr)
	})
}

// snat returns the source of what leaves by l in one family: what the administrator said in a route that
// leads away by it, else the link's own address, else (unnumbered links) the node's. Of several own
// addresses the node's is taken, if it is among them: the kernel lists IPv6 addresses newest first, and a
// VIP that came last must not become everybody's source.
func (f facts) snat(l netlink.Link, ipv6 bool) netip.Addr {
	index := l.Attrs().Index
	var best *hop
	for _, h := range f.hops[index] {
		away := h.gateway || h.isDefault() || isTunnel(l) && !h.kernel
		if away && h.src.IsValid() && h.src.Is6() == ipv6 && (best == nil || h.before(*best)) {
			best = &h
		}
	}
	if best != nil {
		return best.src
	}
	var own netip.Addr
	for _, a := range f.addrs[index] {
		addr, ok := local(a)
		if !ok || addr.Is6() != ipv6 || !primary(a) {
			continue
		}
		if slices.Contains(f.nodeAddrs, addr) {
			return addr
		}
		if !own.IsValid() {
			own = addr
		}
	}
	if own.IsValid() {
		return own
	}
	for _, addr := range f.nodeAddrs {
		if addr.Is6() == ipv6 {
			return addr
		}
	}
	return netip.Addr{}
}

// before orders routes by how much of the link's traffic takes them.
func (h hop) before(o hop) bool {
	rank := func(h hop) int {
		switch {
		case h.isDefault():
			return 0
		case h.gateway:
			return 1
		}
		return 2
	}
	mainFirst := func(h hop) int {
		if h.main {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(rank(h), rank(o)), cmp.Compare(mainFirst(h), mainFirst(o)), cmp.Compare(h.metric, o.metric)) < 0
}

// primary says whether the kernel would choose a as a source by itself.
func primary(a netlink.Addr) bool {
	const unfit = unix.IFA_F_SECONDARY | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED
	return a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&unfit == 0 && !net.IP(a.IP).IsLoopback()
}
