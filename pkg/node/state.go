// Package node knows this node as the kernel sees it: the links that lead away from it, the addresses it
// answers on, the ports it must keep for itself. Everything is asked of the network namespace that the
// calling thread is in.
package node

import (
	"cmp"
	"net"
	"net/netip"
	"path"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is a link of this node that packets of Services come in and leave by.
type Link struct {
	Index  int
	Name   string
	MTU    int
	Layer2 bool // frames have an Ethernet header
	// SNAT4 and SNAT6 are the sources of what leaves by the link; the zero Addr: none of that family.
	SNAT4, SNAT6 netip.Addr
}

// PodLink is the host's end of a pod's link.
type PodLink struct {
	Index  int
	Name   string
	Bridge int // the bridge it is a port of, if what is bridged passes no netfilter; else 0
	// SNAT4 and SNAT6 are the node as the pod knows it: the address of the link or its bridge, else the node's.
	SNAT4, SNAT6 netip.Addr
	NetnsCookie  uint64 // of the pod's network namespace; 0: not known

	namespace int // the id by which we know that
}

// State is what other packages need to know of the node. Receivers must not change it.
type State struct {
	Uplinks   []Link       // by index
	PodLinks  []PodLink    // by index
	Addresses []netip.Addr // local unicast ones, sorted; neither loopback nor IPv6 link-local
}

// Equal reports whether s and t say the same.
func (s State) Equal(t State) bool {
	return slices.Equal(s.Uplinks, t.Uplinks) && slices.Equal(s.PodLinks, t.PodLinks) &&
		slices.Equal(s.Addresses, t.Addresses)
}

// snapshot is one reading of the kernel.
type snapshot struct {
	links  []netlink.Link
	addrs  []netlink.Addr  // of all links; those of one link in the kernel's order
	routes []netlink.Route // unicast, of all tables
	// bridgeFilter: bridged packets pass netfilter (br_netfilter's bridge-nf-call-iptables).
	bridgeFilter bool
}

// state computes the node's state. Empty devices: uplinks are found by role; else they are the links whose
// name matches one of those patterns, and unmatched are the patterns that match none.
func (s snapshot) state(devices []string, nodeAddrs []netip.Addr) (state State, unmatched []string) {
	f := s.facts(nodeAddrs)
	matched := make([]bool, len(devices))
	var pods []netlink.Link
	for _, l := range s.links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 {
			continue
		}
		use := len(devices) == 0 && f.uplink(l)
		for i, pattern := range devices {
			if ok, _ := path.Match(pattern, a.Name); ok { // New has checked the pattern
				matched[i], use = true, true
			}
		}
		if use {
			state.Uplinks = append(state.Uplinks, Link{
				Index: a.Index, Name: a.Name, MTU: a.MTU, Layer2: a.EncapType == "ether",
				SNAT4: f.snat(l, false), SNAT6: f.snat(l, true),
			})
		} else if f.podLink(l) {
			pods = append(pods, l)
		}
	}
	slices.SortFunc(state.Uplinks, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	for _, l := range pods {
		state.PodLinks = append(state.PodLinks, f.pod(l, state.Uplinks, s.bridgeFilter))
	}
	slices.SortFunc(state.PodLinks, func(a, b PodLink) int { return cmp.Compare(a.Index, b.Index) })
	for i, ok := range matched {
		if !ok {
			unmatched = append(unmatched, devices[i])
		}
	}
	state.Addresses = s.addresses()
	return state, unmatched
}

// addresses returns what the kernel would call local in a routing decision, duplicates removed.
func (s snapshot) addresses() []netip.Addr {
	var addrs []netip.Addr
	for _, a := range s.addrs {
		addr, ok := local(a)
		switch {
		case !ok, addr.IsLoopback(), addr.IsMulticast(), addr.IsUnspecified():
		case addr.Is6() && addr.IsLinkLocalUnicast():
		case a.Flags&unix.IFA_F_DADFAILED != 0: // another host has it
		default:
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// local returns the local side of an address of a link.
func local(a netlink.Addr) (netip.Addr, bool) {
	if a.IPNet == nil {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(a.IP)
	return addr.Unmap(), ok
}
