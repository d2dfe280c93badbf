package testenv

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// onlink: the gateway is on the link even if no address of ours says so.
const onlink = int(unix.RTNH_F_ONLINK)

// addVeth makes a pair of links, both up: name in n, peer in m. MTU 0 is the default.
func addVeth(n *Namespace, name string, m *Namespace, peer string, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(m.fd)}
	if err := n.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s: %w", name, err)
	}
	if err := n.up(name); err != nil {
		return err
	}
	return m.up(peer)
}

// addBridge makes a bridge that floods multicast: nobody here asks for groups, and IPv6 needs it.
func addBridge(n *Namespace, name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	snooping := false
	if err := n.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("add bridge %s: %w", name, err)
	}
	return n.up(name)
}

func enslave(n *Namespace, link, bridge string) error {
	l, err := n.nl.LinkByName(link)
	if err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	b, err := n.nl.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("link %s: %w", bridge, err)
	}
	if err := n.nl.LinkSetMaster(l, b); err != nil {
		return fmt.Errorf("put link %s into %s: %w", link, bridge, err)
	}
	return nil
}

func addAddrs(n *Namespace, link string, addrs ...netip.Prefix) error {
	l, err := n.nl.LinkByName(link)
	if err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	for _, a := range addrs {
		if err := n.nl.AddrAdd(l, &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("add address %s to %s: %w", a, link, err)
		}
	}
	return nil
}

// addRoute adds a route, by a link unless link is empty.
func addRoute(n *Namespace, link string, route netlink.Route) error {
	if link != "" {
		l, err := n.nl.LinkByName(link)
		if err != nil {
			return fmt.Errorf("link %s: %w", link, err)
		}
		route.LinkIndex = l.Attrs().Index
	}
	if err := n.nl.RouteAdd(&route); err != nil {
		return fmt.Errorf("add route %s: %w", route, err)
	}
	return nil
}

// addNeighbor tells n for good that addr, by link, is at mac.
func addNeighbor(n *Namespace, link string, addr netip.Addr, mac net.HardwareAddr) error {
	l, err := n.nl.LinkByName(link)
	if err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	neighbor := &netlink.Neigh{LinkIndex: l.Attrs().Index, IP: addr.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT}
	if err := n.nl.NeighSet(neighbor); err != nil {
		return fmt.Errorf("add neighbour %s: %w", addr, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// hostRoute returns the prefix that holds addr alone.
func hostRoute(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }
