package bpf

import (
	"strings"
	"testing"
)

func datagram(id uint32, dst packet) []packet {
	dst.id, dst.payload = id, strings.Repeat("0123456789", 120)
	return dst.fragments(560)
}

// The parts of a datagram go where its first went: to a backend here, and the answer's parts back.
func TestFragmentsLocal(t *testing.T) {
	forEach(t, []uint8{udp, tcp}, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, backend := at(f.node, nodePort), at(f.pod, 53)
		n.serve(t, frontend, protocol, backend)
		var sent packet
		for i, p := range datagram(77, f.first(protocol, 40000, frontend)) {
			out := n.must(t, ingress(n.eth0, p, next, p.to(backend), []string{"flow_new forward_local", "fragment"}[min(i, 1)]))
			if i == 0 {
				sent = out
			}
		}
		sent.more, sent.whole = false, ""
		for i, p := range datagram(99, sent.answer(syn|ack, 7000, 1001, "")) {
			n.must(t, egress(n.eth0, p, next, p.from(frontend), []string{"reply_local", "fragment"}[min(i, 1)]))
		}
	})
}

func TestFragmentsRedirected(t *testing.T) {
	forEach(t, []uint8{udp}, func(t *testing.T, n *node, f family, _ uint8) {
		frontend, backend := at(f.node, nodePort), at(f.onC, 53)
		n.serve(t, frontend, udp, backend)
		var sent packet
		for i, p := range datagram(77, f.first(udp, 40000, frontend)) {
			snat := at(n.eth1.addr[f.name], sent.src.Port())
			out := n.must(t, ingress(n.eth0, p, redirect, p.hop().from(snat).to(backend), []string{"flow_new forward_redirect", "fragment"}[min(i, 1)]))
			if i == 0 {
				sent = out
			}
		}
		sent.more, sent.whole = false, ""
		for i, p := range datagram(99, sent.answer(0, 0, 0, "")) {
			n.must(t, ingress(n.eth1, p, redirect, p.hop().from(frontend).to(at(f.client, 40000)), []string{"reply_redirect", "fragment"}[min(i, 1)]))
		}
	})
}

func TestFragmentsThroughTheStack(t *testing.T) {
	forEach(t, []uint8{udp}, func(t *testing.T, n *node, f family, _ uint8) {
		frontend, backend := at(f.node, nodePort), at(f.onC, 53)
		n.serve(t, frontend, udp, backend)
		client, snat := at(f.client, 0), at(n.eth1.addr[f.name], 0)
		for i, p := range datagram(77, f.first(udp, 40000, frontend)) {
			half := n.must(t, ingress(n.eth0, p, next, p.from(client).to(backend), []string{"flow_new forward_stack", "fragment"}[min(i, 1)])).hop()
			if i == 0 {
				client, snat = half.src, at(snat.Addr(), half.src.Port())
			}
			n.must(t, egress(n.eth1, half, next, half.from(snat), []string{"", "fragment"}[min(i, 1)]))
		}
		reply := packet{src: backend, dst: snat, protocol: udp, ttl: 64}
		for i, p := range datagram(99, reply) {
			half := n.must(t, ingress(n.eth1, p, next, p.to(client), []string{"reply_stack", "fragment"}[min(i, 1)])).hop()
			n.must(t, egress(n.eth0, half, next, half.from(frontend).to(at(f.client, 40000)), []string{"", "fragment"}[min(i, 1)]))
		}
	}, forceStack)
}

func TestFragmentWithoutFirst(t *testing.T) {
	forEach(t, []uint8{udp}, func(t *testing.T, n *node, f family, _ uint8) {
		frontend := at(f.node, nodePort)
		n.serve(t, frontend, udp, at(f.pod, 53))
		later := datagram(77, f.first(udp, 40000, frontend))[1]
		n.must(t, ingress(n.eth0, later, next, later, "fragment_orphan"))
		n.must(t, egress(n.eth1, later, next, later, "fragment_orphan"))
		// What goes from others to others is no concern of ours.
		foreign := later.to(at(f.onB, 40000))
		n.must(t, ingress(n.eth0, foreign, next, foreign, ""))
		n.must(t, egress(n.eth1, foreign, next, foreign, ""))
	})
}

// A sender's datagram ids come round again. A datagram that is not ours keeps all its parts, though one
// with its id was ours before.
func TestFragmentIDComesRound(t *testing.T) {
	forEach(t, []uint8{udp}, func(t *testing.T, n *node, f family, _ uint8) {
		frontend := at(f.node, nodePort)
		n.serve(t, frontend, udp, at(f.pod, 53))
		for _, p := range datagram(77, f.first(udp, 40000, frontend)) {
			n.run(t, "ingress_l2", n.eth0, at0(n, p).bytes(), 0)
		}
		parts := datagram(77, f.first(udp, 40000, at(f.node, 514)))
		n.must(t, ingress(n.eth0, parts[0], next, parts[0], ""))
		n.must(t, ingress(n.eth0, parts[1], next, parts[1], ""))
		// Nor do its parts follow it where it was never seen.
		n.must(t, egress(n.eth0, parts[1], next, parts[1], "fragment_orphan"))
	})
}

// The answer goes to a client on the link whose MAC address is not known yet, all parts of it.
func TestFragmentsToUnknownNeighbour(t *testing.T) {
	forEach(t, []uint8{udp}, func(t *testing.T, n *node, f family, _ uint8) {
		frontend, backend := at(f.node, nodePort), at(f.onC, 53)
		n.serve(t, frontend, udp, backend)
		in := f.first(udp, 40000, frontend)
		in.src = at(nth(f.nodeB, 66), 40000)
		sent := n.must(t, ingress(n.eth0, in, redirect, in.hop().from(at(n.eth1.addr[f.name], 0)).to(backend), "flow_new forward_redirect"))
		for i, p := range datagram(99, sent.answer(0, 0, 0, "")) {
			n.must(t, ingress(n.eth1, p, redirect, p.hop().from(frontend).to(in.src), []string{"reply_redirect", "fragment"}[min(i, 1)]))
		}
	})
}
