package bpf

import (
	"strings"
	"testing"
)

func forceStack(o *Options) { o.ForceStack = true }

// through is the slow path of one packet: rewritten in part at ingress, passed on by the stack, and the
// rest at egress. half is what netfilter sees.
func (n *node) through(t testing.TB, in, out *port, p, half, whole packet, counters string) packet {
	t.Helper()
	half = n.must(t, ingress(in, p, next, half, counters)).hop()
	whole = whole.hop()
	if whole.src.Port() == 0 {
		whole.src = at(whole.src.Addr(), half.src.Port())
	}
	return n.must(t, egress(out, half, next, whole, ""))
}

// A connection to a backend on another node that must not bypass the stack.
func TestRemoteThroughTheStack(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, backend := at(f.node, nodePort), at(f.onC, 8080)
		snat := n.eth1.addr[f.name]
		n.serve(t, frontend, protocol, backend)

		in := f.first(protocol, 40000, frontend)
		sent := n.through(t, n.eth0, n.eth1, in, in.from(at(f.client, 0)).to(backend), in.from(at(snat, 0)).to(backend), "flow_new forward_stack")
		sent.ttl++ // as the entries know nothing of it
		n.mustBeIn(t, "embryos", in, sent)

		reply := sent.answer(syn|ack, 7000, 1001, "answer")
		// Netfilter sees the mirror image: backend to client, with our port.
		client := at(f.client, sent.src.Port())
		n.through(t, n.eth1, n.eth0, reply, reply.to(client), reply.from(frontend).to(in.src), "reply_stack")
		in.flags, in.seq, in.ack, in.payload = ack, 1001, 7001, "more"
		n.through(t, n.eth0, n.eth1, in, in.from(client).to(backend), in.from(sent.src).to(backend), "flow_promoted forward_stack")
		n.mustBeIn(t, "flows", in, sent)
		reply.flags, reply.payload = ack, "and more"
		n.through(t, n.eth1, n.eth0, reply, reply.to(client), reply.from(frontend).to(in.src), "reply_stack")
	}, forceStack)
}

// Packets that cannot be redirected take the stack one by one, in the same flow as those that can.
func TestDetourWhereRedirectCannot(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, backend := at(f.node, nodePort), at(f.onD, 8080)
		snat := n.eth2.addr[f.name]
		n.serve(t, frontend, protocol, backend)
		in := f.first(protocol, 40000, frontend)
		sent := n.must(t, ingress(n.eth0, in, redirect, in.hop().from(at(snat, 0)).to(backend), "flow_new forward_redirect"))
		client := at(f.client, sent.src.Port())

		t.Run("as long as the MTU", func(t *testing.T) {
			p := in
			p.payload = strings.Repeat("x", n.eth2.mtu-in.ipLength()+len(in.payload))
			n.must(t, ingress(n.eth0, p, redirect, p.hop().from(sent.src).to(backend), "forward_redirect"))
		})
		t.Run("longer than the MTU", func(t *testing.T) {
			p := in
			p.payload = strings.Repeat("x", n.eth2.mtu-in.ipLength()+len(in.payload)+1)
			n.must(t, told(ingress(n.eth0, p, 0, p, ""), n.eth2.mtu))
			if p.mayBeCut = true; p.v6() {
				return // a router never cuts it
			}
			n.through(t, n.eth0, n.eth2, p, p.from(client).to(backend), p.from(sent.src).to(backend), "forward_stack")
		})
		t.Run("segments as long as the MTU", func(t *testing.T) {
			p := in
			headers := in.ipLength() - len(in.payload)
			p.payload = strings.Repeat("x", 2000)
			s := ingress(n.eth0, p, redirect, p.hop().from(sent.src).to(backend), "forward_redirect")
			s.gso = n.eth2.mtu - headers
			n.must(t, s)
		})
		t.Run("segments longer than the MTU", func(t *testing.T) {
			p := in
			headers := in.ipLength() - len(in.payload)
			p.payload = strings.Repeat("x", 2000)
			s := told(ingress(n.eth0, p, 0, p, ""), n.eth2.mtu)
			s.gso = n.eth2.mtu - headers + 1
			n.must(t, s)
			if p.mayBeCut = true; p.v6() {
				return
			}
			s = ingress(n.eth0, p, next, p.from(client).to(backend), "forward_stack")
			s.gso = n.eth2.mtu - headers + 1
			n.must(t, s)
		})
		t.Run("at the end of its life", func(t *testing.T) {
			p := in
			p.ttl = 1
			// The stack answers this one; it never gets to egress.
			n.must(t, ingress(n.eth0, p, next, p.from(client).to(backend), "forward_stack"))
			p.ttl = 2
			n.must(t, ingress(n.eth0, p, redirect, p.hop().from(sent.src).to(backend), "forward_redirect"))
		})
		t.Run("reply at the end of its life", func(t *testing.T) {
			reply := sent.answer(syn|ack, 7000, 1001, "answer")
			reply.ttl = 1
			n.must(t, ingress(n.eth2, reply, next, reply.to(client), "reply_stack"))
		})
		t.Run("reply longer than the client's MTU", func(t *testing.T) {
			reply := sent.answer(ack, 7001, 1001, strings.Repeat("x", n.eth0.mtu))
			n.must(t, told(ingress(n.eth2, reply, 0, reply, ""), n.eth0.mtu))
			if reply.mayBeCut = true; reply.v6() {
				return
			}
			n.through(t, n.eth2, n.eth0, reply, reply.to(client), reply.from(frontend).to(in.src), "reply_stack")
		})
	})
}
