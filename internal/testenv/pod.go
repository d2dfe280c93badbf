package testenv

import (
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// Pod is a host behind its node: eth0, a default route to the node, a cgroup below the node's.
type Pod struct {
	*Host
	Node     *Node
	HostLink string // the node's end of the pod's eth0
}

// The gateways of routed pods. Nobody has these addresses: pods are told their node's MAC for them, so
// that the node's end needs no address (Calico answers for them by proxy ARP).
var routedGateways = []netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")}

// Close ends the pod's processes and removes it.
func (p *Pod) Close() error {
	p.Node.removePod(p)
	// The kernel removes the link some time after the namespace has gone; others should see it go now.
	link, err := p.Node.nl.LinkByName(p.HostLink)
	if err == nil {
		err = p.Node.nl.LinkDel(link)
	}
	if closeErr := p.close(); closeErr != nil {
		return fmt.Errorf("%s: %w", p.Name, closeErr)
	}
	if err != nil {
		return fmt.Errorf("%s: remove link %s: %w", p.Name, p.HostLink, err)
	}
	return nil
}

func (n *Node) addPod() (*Pod, error) {
	const firstAddress = 10
	n.podsMade++
	short := fmt.Sprintf("%c%d", 'a'+rune(n.number-1), n.podsMade)
	name := "pod-" + short
	host, err := newHost(name, filepath.Join(n.Cgroup, name),
		mustAddr("10.244.%d.%d", n.number, firstAddress+n.podsMade), mustAddr("fd44:%d::%d", n.number, firstAddress+n.podsMade))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := &Pod{Host: host, Node: n, HostLink: "veth-" + short}
	n.Pods = append(n.Pods, p)
	mtu := 0
	if n.cluster.options.Overlay == VXLAN {
		mtu = vxlanMTU
	}
	if err := addVeth(n.Namespace, p.HostLink, p.Namespace, "eth0", mtu); err != nil {
		return p, fmt.Errorf("%s: %w", name, err)
	}
	connect := p.route
	if n.cluster.options.PodNetwork == Bridged {
		connect = p.bridge
	}
	if err := connect(); err != nil {
		return p, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

// bridge puts the pod on its node's bridge.
func (p *Pod) bridge() error {
	if err := enslave(p.Node.Namespace, p.HostLink, podBridge); err != nil {
		return err
	}
	for i, gateway := range p.Node.gateways() {
		if err := addAddrs(p.Namespace, "eth0", netip.PrefixFrom(p.Addrs()[i], gateway.Bits())); err != nil {
			return err
		}
		if err := addRoute(p.Namespace, "eth0", netlink.Route{Gw: gateway.Addr().AsSlice()}); err != nil {
			return err
		}
	}
	return nil
}

// route gives the pod a host route on its node, and the node as its gateway.
func (p *Pod) route() error {
	hostLink, err := p.Node.nl.LinkByName(p.HostLink)
	if err != nil {
		return fmt.Errorf("link %s: %w", p.HostLink, err)
	}
	for i, addr := range p.Addrs() {
		if err := addAddrs(p.Namespace, "eth0", hostRoute(addr)); err != nil {
			return err
		}
		gateway := routedGateways[i]
		if err := addNeighbor(p.Namespace, "eth0", gateway, hostLink.Attrs().HardwareAddr); err != nil {
			return err
		}
		if err := addRoute(p.Namespace, "eth0", netlink.Route{Gw: gateway.AsSlice(), Flags: onlink}); err != nil {
			return err
		}
		route := netlink.Route{Dst: ipNet(hostRoute(addr)), Scope: netlink.SCOPE_LINK}
		if addr.Is6() {
			route.Scope = netlink.SCOPE_UNIVERSE // IPv6 routes have none
		}
		if err := addRoute(p.Node.Namespace, p.HostLink, route); err != nil {
			return err
		}
	}
	return nil
}
