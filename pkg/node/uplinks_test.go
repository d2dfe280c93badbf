package node

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kinds that this machine's kernel cannot make are tested on readings written down here.

func attrs(index int, name, encap string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Index, a.Name, a.EncapType, a.MTU = index, name, encap, 1500
	return a
}

func ether(index int, name string) *netlink.Device {
	return &netlink.Device{LinkAttrs: attrs(index, name, "ether")}
}

func veth(index int, name string) *netlink.Veth { // the peer is in another netns
	l := &netlink.Veth{LinkAttrs: attrs(index, name, "ether")}
	l.NetNsID = 0
	return l
}

func port[L netlink.Link](l L, master int) L {
	l.Attrs().MasterIndex = master
	return l
}

func addr(link int, cidr string, flags ...int) netlink.Addr {
	ip, ipNet, err := net.ParseCIDR(cidr)
	if err != nil {
		panic(err)
	}
	a := netlink.Addr{LinkIndex: link, IPNet: &net.IPNet{IP: ip, Mask: ipNet.Mask}}
	if ip4 := ip.To4(); ip4 != nil {
		a.IP = ip4
	}
	if ip.IsLinkLocalUnicast() {
		a.Scope = unix.RT_SCOPE_LINK
	}
	for _, f := range flags {
		a.Flags |= f
	}
	return a
}

type routeOption func(*netlink.Route)

func via(gw string) routeOption    { return func(r *netlink.Route) { r.Gw = net.ParseIP(gw) } }
func src(ip string) routeOption    { return func(r *netlink.Route) { r.Src = net.ParseIP(ip) } }
func metric(n int) routeOption     { return func(r *netlink.Route) { r.Priority = n } }
func table(n int) routeOption      { return func(r *netlink.Route) { r.Table = n } }
func kernelRoute(r *netlink.Route) { r.Protocol = unix.RTPROT_KERNEL }

func route(link int, dst string, options ...routeOption) netlink.Route {
	_, ipNet, err := net.ParseCIDR(dst)
	if err != nil {
		panic(err)
	}
	r := netlink.Route{LinkIndex: link, Dst: ipNet, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
	for _, o := range options {
		o(&r)
	}
	return r
}

func ips(addrs ...string) []netip.Addr {
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

func lo() *netlink.Device {
	l := &netlink.Device{LinkAttrs: attrs(1, "lo", "loopback")}
	l.Flags = net.FlagLoopback | net.FlagUp
	return l
}

func TestUplinksByRole(t *testing.T) {
	tests := []struct {
		name  string
		snap  snapshot
		nodes []netip.Addr
		want  []string
	}{
		{name: "default route", snap: snapshot{
			links:  []netlink.Link{lo(), ether(2, "ens5"), ether(3, "ens6")},
			addrs:  []netlink.Addr{addr(2, "10.0.0.1/24"), addr(3, "10.0.1.1/24")},
			routes: []netlink.Route{route(2, "0.0.0.0/0", via("10.0.0.254")), route(3, "10.0.1.0/24", kernelRoute)},
		}, want: []string{"ens5"}},
		{name: "default route without a gateway", snap: snapshot{
			links:  []netlink.Link{&netlink.GenericLink{LinkAttrs: attrs(2, "ppp0", "ppp"), LinkType: "ppp"}},
			routes: []netlink.Route{{LinkIndex: 2, Family: unix.AF_INET}},
		}, want: []string{"ppp0"}},
		{name: "default route of another table", snap: snapshot{
			links:  []netlink.Link{ether(2, "eth0"), ether(3, "eth1")},
			routes: []netlink.Route{route(3, "0.0.0.0/0", via("10.0.1.254"), table(2))},
		}, want: []string{"eth1"}},
		{name: "both links of a multipath default", snap: snapshot{
			links: []netlink.Link{ether(2, "eth0"), ether(3, "eth1")},
			routes: []netlink.Route{{Family: unix.AF_INET, MultiPath: []*netlink.NexthopInfo{
				{LinkIndex: 2, Gw: net.IP{10, 0, 0, 254}}, {LinkIndex: 3, Gw: net.IP{10, 0, 1, 254}}}}},
		}, want: []string{"eth0", "eth1"}},
		{name: "IPv4 route by an IPv6 neighbour", snap: snapshot{
			links: []netlink.Link{ether(2, "swp1")},
			routes: []netlink.Route{route(2, "10.244.2.0/24", func(r *netlink.Route) {
				r.Via = &netlink.Via{AddrFamily: unix.AF_INET6, Addr: net.ParseIP("fe80::1")}
			})},
		}, want: []string{"swp1"}},
		{name: "node address on a bond, not on its ports", snap: snapshot{
			links: []netlink.Link{port(ether(2, "eth0"), 4), port(ether(3, "eth1"), 4), netlink.NewLinkBond(attrs(4, "bond0", "ether"))},
			addrs: []netlink.Addr{addr(4, "10.0.0.1/24")},
		}, nodes: ips("10.0.0.1"), want: []string{"bond0"}},
		{name: "enslaved link that has the default route", snap: snapshot{
			links:  []netlink.Link{port(ether(2, "eth0"), 3), &netlink.Bridge{LinkAttrs: attrs(3, "br0", "ether")}},
			routes: []netlink.Route{route(2, "0.0.0.0/0", via("10.0.0.254"))},
		}},
		{name: "port of a VRF, not the VRF", snap: snapshot{
			links: []netlink.Link{port(ether(2, "eth0"), 3), &netlink.Vrf{LinkAttrs: attrs(3, "blue", "ether")}},
			routes: []netlink.Route{route(2, "0.0.0.0/0", via("10.0.0.254"), table(10)),
				route(3, "0.0.0.0/0", via("10.0.0.254"))},
		}, want: []string{"eth0"}},
		{name: "tunnels with a route through them", snap: snapshot{
			links: []netlink.Link{&netlink.Iptun{LinkAttrs: attrs(2, "tunl0", "ipip")}, &netlink.Wireguard{LinkAttrs: attrs(3, "wg0", "none")},
				&netlink.Sittun{LinkAttrs: attrs(4, "sit0", "sit")}, &netlink.Gretun{LinkAttrs: attrs(5, "gre1", "gre")},
				&netlink.Ip6tnl{LinkAttrs: attrs(6, "ip6tnl1", "tunnel6")}},
			routes: []netlink.Route{route(2, "10.244.2.0/24", via("10.0.0.2")), route(3, "10.244.3.0/24"),
				route(4, "fe80::/64", kernelRoute), route(4, "ff00::/8"), route(5, "10.244.4.0/24"), route(6, "fd00:2::/64")},
		}, want: []string{"tunl0", "wg0", "gre1", "ip6tnl1"}},
		{name: "tap of a virtual machine", snap: snapshot{
			links:  []netlink.Link{&netlink.Tuntap{LinkAttrs: attrs(2, "tap0", "ether")}},
			routes: []netlink.Route{route(2, "10.244.1.9/32")},
		}},
		{name: "pod links, also with routes by the pod", snap: snapshot{
			links: []netlink.Link{veth(2, "cali1"), veth(3, "veth2"), veth(4, "veth3"), veth(5, "veth4")},
			addrs: []netlink.Addr{addr(2, "fe80::1/64"), addr(3, "10.244.1.1/32")},
			routes: []netlink.Route{route(2, "10.244.1.5/32"), route(2, "fe80::/64", kernelRoute),
				route(3, "10.244.1.6/32"), route(3, "192.168.0.0/24", via("10.244.1.6")),
				route(4, "192.168.1.0/24", via("10.244.1.7")),
				route(5, "10.244.1.64/26"), route(5, "192.168.2.0/24", via("10.244.1.65"))},
		}},
		{name: "veth that is the node's", snap: snapshot{
			links: []netlink.Link{veth(2, "eth0"), veth(3, "veth1")},
			addrs: []netlink.Addr{addr(2, "172.18.0.2/16"), addr(3, "10.244.1.1/32")},
			routes: []netlink.Route{route(2, "172.18.0.0/16", kernelRoute), route(2, "10.244.2.0/24", via("172.18.0.3")),
				route(3, "10.244.1.5/32")},
		}, want: []string{"eth0"}},
		{name: "unnumbered veth with the default route", snap: snapshot{
			links:  []netlink.Link{veth(2, "eth0")},
			routes: []netlink.Route{route(2, "::/0", via("fe80::1"))},
		}, want: []string{"eth0"}},
		{name: "bridge of the pods", snap: snapshot{
			links:  []netlink.Link{&netlink.Bridge{LinkAttrs: attrs(2, "cni0", "ether")}, port(veth(3, "veth1"), 2)},
			addrs:  []netlink.Addr{addr(2, "10.244.1.1/24")},
			routes: []netlink.Route{route(2, "10.244.1.0/24", kernelRoute)},
		}},
		{name: "bridge with the node's address", snap: snapshot{
			links: []netlink.Link{port(ether(3, "eth0"), 2), &netlink.Bridge{LinkAttrs: attrs(2, "br0", "ether")}},
			addrs: []netlink.Addr{addr(2, "10.0.0.1/24")},
		}, nodes: ips("10.0.0.1"), want: []string{"br0"}},
		{name: "node address on the loopback", snap: snapshot{
			links: []netlink.Link{lo()},
			addrs: []netlink.Addr{addr(1, "10.9.9.9/32")},
		}, nodes: ips("10.9.9.9")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			state, _ := tt.snap.state(nil, tt.nodes)
			var got []string
			for _, l := range state.Uplinks {
				got = append(got, l.Name)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("uplinks (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUplinksByPattern(t *testing.T) {
	s := snapshot{
		links:  []netlink.Link{ether(3, "eth1"), lo(), ether(2, "eth0"), ether(4, "dummy0")},
		routes: []netlink.Route{route(4, "0.0.0.0/0", via("10.0.0.254"))},
	}
	state, unmatched := s.state([]string{"eth*", "wl*", "lo"}, nil)
	want := []Link{{Index: 2, Name: "eth0", MTU: 1500, Layer2: true}, {Index: 3, Name: "eth1", MTU: 1500, Layer2: true}}
	if diff := cmp.Diff(want, state.Uplinks, compareAddrs); diff != "" {
		t.Errorf("uplinks (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"wl*", "lo"}, unmatched); diff != "" {
		t.Errorf("unmatched (-want +got):\n%s", diff)
	}
}

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestSNAT(t *testing.T) {
	defaultRoute := route(2, "0.0.0.0/0", via("10.0.0.254"))
	tests := []struct {
		name         string
		addrs        []netlink.Addr
		routes       []netlink.Route
		nodes        []netip.Addr
		want4, want6 string
	}{
		{name: "first primary address",
			addrs:  []netlink.Addr{addr(2, "169.254.3.3/16"), addr(2, "10.0.0.1/24"), addr(2, "10.0.0.2/24", unix.IFA_F_SECONDARY), addr(2, "10.7.0.1/24"), addr(2, "fd00::1/64")},
			routes: []netlink.Route{defaultRoute}, want4: "10.0.0.1", want6: "fd00::1"},
		{name: "source of the default route",
			addrs:  []netlink.Addr{addr(2, "10.0.0.1/24"), addr(2, "10.0.0.9/32"), addr(2, "fd00::1/64")},
			routes: []netlink.Route{route(2, "0.0.0.0/0", via("10.0.0.254"), src("10.0.0.9"))}, want4: "10.0.0.9", want6: "fd00::1"},
		{name: "default before gateway, low metric before high, main before others",
			addrs: []netlink.Addr{addr(2, "10.0.0.1/24")},
			routes: []netlink.Route{
				route(2, "10.244.2.0/24", via("10.0.0.2"), src("10.0.0.4")),
				route(2, "0.0.0.0/0", via("10.0.0.254"), src("10.0.0.5"), table(7)),
				route(2, "0.0.0.0/0", via("10.0.0.254"), src("10.0.0.6"), metric(200)),
				route(2, "0.0.0.0/0", via("10.0.0.253"), src("10.0.0.7"), metric(100)),
			}, want4: "10.0.0.7"},
		{name: "source of a gateway route",
			addrs:  []netlink.Addr{addr(2, "10.0.0.1/24"), addr(2, "fd00::1/64")},
			routes: []netlink.Route{route(2, "fd00:2::/64", via("fd00::2"), src("fd00::9"))}, want4: "10.0.0.1", want6: "fd00::9"},
		{name: "sources of pod routes do not count",
			addrs:  []netlink.Addr{addr(2, "10.0.0.1/24")},
			routes: []netlink.Route{defaultRoute, route(2, "10.244.1.5/32", src("10.244.1.1"))}, want4: "10.0.0.1"},
		{name: "the node's address before newer ones",
			addrs:  []netlink.Addr{addr(2, "fd00::99/128"), addr(2, "fd00::1/64")},
			routes: []netlink.Route{defaultRoute}, nodes: ips("10.0.0.1", "fd00::1"), want4: "10.0.0.1", want6: "fd00::1"},
		{name: "unusable IPv6 addresses",
			addrs: []netlink.Addr{addr(2, "fe80::1/64"), addr(2, "fd00::2/64", unix.IFA_F_TENTATIVE), addr(2, "fd00::3/64", unix.IFA_F_DEPRECATED),
				addr(2, "fd00::4/64", unix.IFA_F_TEMPORARY), addr(2, "fd00::5/64", unix.IFA_F_DADFAILED), addr(2, "fd00::6/64")},
			routes: []netlink.Route{defaultRoute}, want6: "fd00::6"},
		{name: "unnumbered", routes: []netlink.Route{defaultRoute}, nodes: ips("10.9.9.9", "fd09::9"), want4: "10.9.9.9", want6: "fd09::9"},
		{name: "nothing known", routes: []netlink.Route{defaultRoute}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := snapshot{links: []netlink.Link{ether(2, "eth0")}, addrs: tt.addrs, routes: tt.routes}
			state, _ := s.state([]string{"eth0"}, tt.nodes)
			got := state.Uplinks[0]
			var want4, want6 netip.Addr
			if tt.want4 != "" {
				want4 = netip.MustParseAddr(tt.want4)
			}
			if tt.want6 != "" {
				want6 = netip.MustParseAddr(tt.want6)
			}
			if got.SNAT4 != want4 || got.SNAT6 != want6 {
				t.Errorf("got %s and %s, want %s and %s", got.SNAT4, got.SNAT6, want4, want6)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	s := snapshot{addrs: []netlink.Addr{
		addr(1, "127.0.0.1/8"), addr(1, "::1/128"), addr(1, "10.9.9.9/32"), addr(2, "10.0.0.2/24", unix.IFA_F_SECONDARY), addr(2, "10.0.0.1/24"),
		addr(3, "10.0.0.1/24"), addr(2, "fe80::1/64"), addr(2, "169.254.1.1/16"), addr(2, "fd00::1/64"), addr(2, "fd00::2/64", unix.IFA_F_DADFAILED), {LinkIndex: 4},
	}}
	state, _ := s.state(nil, nil)
	want := ips("10.0.0.1", "10.0.0.2", "10.9.9.9", "169.254.1.1", "fd00::1")
	if diff := cmp.Diff(want, state.Addresses, compareAddrs); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}
