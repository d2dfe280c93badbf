package bpf

import (
	"fmt"
	"net/netip"
	"testing"
)

func clusterCIDR(o *Options) {
	o.ClusterCIDRs = []netip.Prefix{families[0].podsB, families[1].podsB}
}

func podsInside(o *Options) { o.PodsInside = true }

// Which of a frontend's pools answers whom (DESIGN D4, parity 4.2).
func TestInsideAndOutside(t *testing.T) {
	onlyV6 := func(o *Options) { o.ClusterCIDRs = []netip.Prefix{families[1].podsB} }
	for _, c := range []struct {
		name      string
		configure []func(*Options)
		pods      bool            // that pods are inside clients
		cluster   map[string]bool // that clients of the cluster's CIDR are, by family
	}{
		{"no detector", nil, false, nil},
		{"ClusterCIDR", []func(*Options){clusterCIDR}, false, map[string]bool{"IPv4": true, "IPv6": true}},
		{"pods inside, ClusterCIDR of one family", []func(*Options){podsInside, onlyV6}, true, map[string]bool{"IPv6": true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
				n.linkPods(t)
				frontend := at(f.node, nodePort)
				inside, outside := at(f.pod, 8001), at(f.pod, 8002)
				n.addFrontend(t, frontend, protocol, Frontend{Service: 1, Kind: KindNodePort,
					Inside:  n.addPool(t, VerdictServe, []Slot{n.addBackend(t, inside, protocol)}),
					Outside: n.addPool(t, VerdictServe, []Slot{n.addBackend(t, outside, protocol)}),
				})
				backend := func(isInside bool) netip.AddrPort {
					if isInside {
						return inside
					}
					return outside
				}
				first := f.first(protocol, 40000, frontend)
				below, above := lastBefore(f.podsB), firstAfter(f.podsB)
				for i, client := range []struct {
					addr   netip.Addr
					inside bool
				}{
					{f.client, false}, {f.onB, c.cluster[f.name]}, {f.podsB.Masked().Addr(), c.cluster[f.name]},
					{lastBefore(netip.PrefixFrom(above, f.podsB.Bits())), c.cluster[f.name]}, {below, false}, {above, false}, {f.onC, false},
				} {
					in := first.from(at(client.addr, uint16(40000+i)))
					n.must(t, ingress(n.eth0, in, next, in.to(backend(client.inside)), "flow_new forward_local"))
				}
				pod := first.from(at(nth(f.pod, 1), 40000))
				n.must(t, podIngress(n.pod0, pod, next, pod.to(backend(c.pods)), "flow_new pod_forward"))
				ours := first.from(at(f.onB, 41000)) // a pod of the CIDR on this node
				n.must(t, podIngress(n.pod0, ours, next, ours.to(backend(c.pods || c.cluster[f.name])), "flow_new pod_forward"))
				host := first.from(at(f.node, 40000))
				n.must(t, own(n.eth0, host, redirect, host.to(inside), "flow_new host_forward"))
			}, c.configure...)
		})
	}
}

func lastBefore(p netip.Prefix) netip.Addr { return p.Masked().Addr().Prev() }

func firstAfter(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits()/8 - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			break
		}
	}
	a, ok := netip.AddrFromSlice(b)
	if !ok || p.Bits()%8 != 0 {
		panic(fmt.Sprintf("no address after %s", p))
	}
	return a
}
