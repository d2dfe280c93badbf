package bpf

import (
	"net/netip"
	"testing"
)

// A connection to a backend on another node: translated both ways and sent from link to link.
func TestRemoteRedirected(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		for name, link := range map[string]*port{"out of another uplink": n.eth1, "back out of the same uplink": n.eth0} {
			t.Run(name, func(t *testing.T) {
				frontend, backend := at(f.node, nodePort), at(f.onC, 8080)
				if link == n.eth0 {
					frontend, backend = at(f.node, nodePort+1), at(f.onB, 8080)
				}
				snat := link.addr[f.name]
				n.serve(t, frontend, protocol, backend)

				in := f.first(protocol, 40000, frontend)
				sent := n.must(t, ingress(n.eth0, in, redirect, in.hop().from(at(snat, 0)).to(backend), "flow_new forward_redirect"))
				stub, record := n.mustBeIn(t, "embryos", in, sent)
				if stub.Ifindex != uint32(n.eth0.index) || record.Ifindex != uint32(n.eth0.index) {
					t.Errorf("flow came by %d and %d, want %d", stub.Ifindex, record.Ifindex, n.eth0.index)
				}
				// Both come in at uplinks.
				const ingressBoth = uint32(svcproxyFlowFlagFLOW_AT_UPLINK_INGRESS) * (1 + 1<<4)
				if stub.Flags != FlowRemote|ingressBoth || record.Flags != FlowRemote|FlowReply|ingressBoth {
					t.Errorf("flags %#x and %#x", stub.Flags, record.Flags)
				}

				reply := sent.answer(syn|ack, 7000, 1001, "answer")
				back := func() packet { return reply.hop().from(frontend).to(in.src) }
				n.must(t, ingress(link, reply, redirect, back(), "reply_redirect"))
				in.flags, in.seq, in.ack, in.payload = ack, 1001, 7001, "more"
				n.must(t, ingress(n.eth0, in, redirect, in.hop().from(sent.src).to(backend), "flow_promoted forward_redirect"))
				n.mustBeIn(t, "flows", in, sent)
				reply.flags, reply.payload = ack, "and more"
				n.must(t, ingress(link, reply, redirect, back(), "reply_redirect"))
				if protocol == udp {
					return
				}

				in.flags = fin | ack
				n.must(t, ingress(n.eth0, in, redirect, in.hop().from(sent.src).to(backend), "forward_redirect"))
				reply.flags = fin | ack
				n.must(t, ingress(link, reply, redirect, back(), "reply_redirect"))
				again := f.first(tcp, 40000, frontend)
				anew := n.must(t, ingress(n.eth0, again, redirect, again.hop().from(at(snat, 0)).to(backend), "flow_reselected flow_new forward_redirect"))
				n.mustBeIn(t, "embryos", again, anew)
				if _, where := n.entry(t, reply.tuple()); anew.src != sent.src && where != "" {
					t.Errorf("the old record is still in %s", where)
				}
			})
		}
	})
}

// What the translated packet carries in the way of options is left as it is.
func TestOptionsAreKept(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		here, away := at(f.node, nodePort), at(f.node, nodePort+1)
		n.serve(t, here, protocol, at(f.pod, 8080))
		n.serve(t, away, protocol, at(f.onC, 8080))
		in := f.first(protocol, 40000, here)
		in.options, in.extension = []byte{1, 1, 1, 0}, 60 // no operation, end of list
		if in.v6() {
			in.options = []byte{protocol, 0, 1, 4, 0, 0, 0, 0} // destination options: padding
		}
		n.must(t, ingress(n.eth0, in, next, in.to(at(f.pod, 8080)), "flow_new forward_local"))
		if in.v6() {
			// The fixture's check of ports expects none before the transport header.
			return
		}
		in.dst = away
		n.must(t, ingress(n.eth0, in, redirect, in.hop().from(at(n.eth1.addr[f.name], 0)).to(at(f.onC, 8080)), "flow_new forward_redirect"))
	})
}

// An uplink without an address of the family cannot be SNATed out of.
func TestNoSNATAddress(t *testing.T) {
	forEach(t, []uint8{tcp}, func(t *testing.T, n *node, f family, _ uint8) {
		n.serve(t, at(f.node, nodePort), tcp, at(f.onC, 8080))
		links := n.uplinkConfigs()
		for i := range links {
			links[i].SNAT4, links[i].SNAT6 = netip.Addr{}, netip.Addr{}
		}
		n.mustDo(t, func() error { return n.SetLinks(links, nil) })
		in := f.first(tcp, 40000, at(f.node, nodePort))
		n.must(t, ingress(n.eth0, in, shot, in, "snat_no_address"))
		if _, where := n.entry(t, in.tuple()); where != "" {
			t.Errorf("a flow is in %s", where)
		}
	})
}
