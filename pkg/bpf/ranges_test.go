package bpf

import (
	"net/netip"
	"testing"
)

// Source ranges admit who is in one of them, wherever the packet is met.
func TestSourceRanges(t *testing.T) {
	for _, c := range []struct {
		name           string
		ranges         []string
		admits, denies []string
	}{
		{"a prefix", []string{"100.64.0.0/16", "2001:db8:c::/48"},
			[]string{"100.64.0.0", "100.64.255.255", "2001:db8:c::", "2001:db8:c:ffff:ffff:ffff:ffff:ffff"},
			[]string{"100.63.255.255", "100.65.0.0", "2001:db8:b:ffff::1", "2001:db8:d::"}},
		{"one host", []string{"100.64.7.9/32", "2001:db8:c::9/128"},
			[]string{"100.64.7.9", "2001:db8:c::9"},
			[]string{"100.64.7.8", "100.64.7.10", "2001:db8:c::8", "2001:db8:c::a"}},
		{"bits behind the prefix", []string{"100.64.7.9/20", "2001:db8:c::9/49"},
			[]string{"100.64.0.1", "100.64.15.255", "2001:db8:c:7fff::1"},
			[]string{"100.64.16.0", "2001:db8:c:8000::"}},
		{"nearly all", []string{"0.0.0.0/1", "8000::/1"},
			[]string{"1.2.3.4", "127.255.255.255", "c000::1", "8000::1"},
			[]string{"128.0.0.0", "224.1.2.3", "7fff::1", "2001:db8:c::9"}},
		{"all of one family", []string{"0.0.0.0/0", "2001:db8:c::9/128"},
			[]string{"1.2.3.4", "255.1.2.3", "2001:db8:c::9"},
			[]string{"2001:db8:c::8", "::2"}},
		{"several", []string{"100.64.7.0/24", "100.64.9.0/24", "100.64.9.128/25"},
			[]string{"100.64.7.1", "100.64.9.1", "100.64.9.200"},
			[]string{"100.64.8.1", "2001:db8:c::9"}},
		{"a prefix of IPv6 that IPv4 is mapped into", []string{"::/1"},
			[]string{"2001:db8:c::9", "64:ff9b::1"},
			[]string{"100.64.7.9", "1.2.3.4", "8000::1"}},
		{"none", nil, nil, []string{"100.64.7.9", "2001:db8:c::9"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			n.linkPods(t)
			const service, another = 0x01020304, 0x04030201
			for _, r := range c.ranges {
				if err := n.PutSourceRange(NewSourceRange(service, prefix(r))); err != nil {
					t.Fatal(err)
				}
			}
			// Another Service's ranges, in whose stead ours must not be asked.
			for _, r := range []string{"0.0.0.0/0", "::/0"} {
				if err := n.PutSourceRange(NewSourceRange(another, prefix(r))); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range families {
				pool := n.addPool(t, VerdictServe, []Slot{n.addBackend(t, at(f.pod, 8080), udp)})
				n.addFrontend(t, at(f.node, nodePort), udp, Frontend{Service: service, Inside: pool, Outside: pool, Kind: KindLoadBalancer, Flags: FlagRanges})
				n.addFrontend(t, at(f.node, nodePort+1), udp, Frontend{Service: service, Inside: pool, Outside: pool, Kind: KindNodePort})
			}
			sport := uint16(20000)
			dial := func(client string, admitted bool) {
				t.Helper()
				f := families[0]
				if addr(client).Is6() {
					f = families[1]
				}
				sport++
				in := f.first(udp, sport, at(f.node, nodePort)).from(at(addr(client), sport))
				sent := in.to(at(f.pod, 8080))
				if !admitted {
					n.must(t, ingress(n.eth0, in, shot, in, "packet_range"))
					n.must(t, podIngress(n.pod0, in, shot, in, "packet_range"))
					n.must(t, own(n.eth0, in, shot, in, "packet_range"))
					if _, where := n.entry(t, in.tuple()); where != "" {
						t.Errorf("a flow is in %s", where)
					}
				} else {
					n.must(t, ingress(n.eth0, in, next, sent, "flow_new forward_local"))
					sport++
					in, sent = in.from(at(addr(client), sport)), sent.from(at(addr(client), sport))
					n.must(t, podIngress(n.pod0, in, next, sent, "flow_new pod_forward"))
				}
				sport++
				in = in.from(at(addr(client), sport)).to(at(f.node, nodePort+1)) // a NodePort has no ranges
				n.must(t, podIngress(n.pod0, in, next, in.to(at(f.pod, 8080)), "flow_new pod_forward"))
			}
			for _, client := range c.admits {
				dial(client, true)
			}
			for _, client := range c.denies {
				dial(client, false)
			}
			// What is taken back holds no more.
			for _, r := range c.ranges {
				for range 2 {
					if err := n.DeleteSourceRange(NewSourceRange(service, prefix(r))); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, client := range c.admits {
				dial(client, false)
			}
		})
	}
}

// A flow that was admitted lives on when its range is taken back; only new ones are asked.
func TestSourceRangeTakenBack(t *testing.T) {
	forEach(t, []uint8{tcp}, func(t *testing.T, n *node, f family, _ uint8) {
		frontend := at(f.node, nodePort)
		pool := n.addPool(t, VerdictServe, []Slot{n.addBackend(t, at(f.pod, 8080), tcp)})
		n.addFrontend(t, frontend, tcp, Frontend{Service: 7, Outside: pool, Kind: KindLoadBalancer, Flags: FlagRanges})
		admitted := NewSourceRange(7, netip.PrefixFrom(f.client, f.client.BitLen()))
		if err := n.PutSourceRange(admitted); err != nil {
			t.Fatal(err)
		}
		in, _ := n.establish(t, f.first(tcp, 40000, frontend))
		if err := n.DeleteSourceRange(admitted); err != nil {
			t.Fatal(err)
		}
		n.must(t, ingress(n.eth0, in, next, in.to(at(f.pod, 8080)), "forward_local"))
		another := f.first(tcp, 40001, frontend)
		n.must(t, ingress(n.eth0, another, shot, another, "packet_range"))
	})
}
