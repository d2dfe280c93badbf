package bpf

import "testing"

const nodePort = 30080

// A client's TCP connection to a backend on this node, from SYN to the next connection from its port.
func TestLocalTCP(t *testing.T) {
	forEach(t, []uint8{tcp}, func(t *testing.T, n *node, f family, _ uint8) {
		frontend, backend := at(f.node, nodePort), at(f.pod, 8080)
		n.serve(t, frontend, tcp, backend)

		in := f.first(tcp, 40000, frontend)
		sent := n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_new forward_local"))
		n.mustBeIn(t, "embryos", in, sent)

		reply := sent.answer(syn|ack, 7000, in.seq+1, "")
		n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
		n.mustBeIn(t, "embryos", in, sent)

		in.flags, in.seq, in.ack = ack, 1001, 7001
		n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_promoted forward_local"))
		stub, record := n.mustBeIn(t, "flows", in, sent)
		if stub.Packets != 2 || record.Packets != 1 {
			t.Errorf("%d packets from the client and %d to it, want 2 and 1", stub.Packets, record.Packets)
		}

		in.flags, in.payload = ack|psh, "request"
		n.must(t, ingress(n.eth0, in, next, in.to(backend), "forward_local"))
		reply.flags, reply.seq, reply.ack, reply.payload = ack|psh, 7001, 1008, "odd answer"
		n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
		// Whatever uplink the answer leaves by.
		n.must(t, egress(n.eth1, reply, next, reply.from(frontend), "reply_local"))

		in.flags, in.payload = fin|ack, ""
		n.must(t, ingress(n.eth0, in, next, in.to(backend), "forward_local"))
		reply.flags, reply.payload = fin|ack, ""
		n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
		in.flags = ack
		n.must(t, ingress(n.eth0, in, next, in.to(backend), "forward_local"))
		stub, record = n.mustBeIn(t, "flows", in, sent)
		if stub.Flags&FlowFinClient == 0 || record.Flags&FlowFinBackend == 0 {
			t.Errorf("flags %#x and %#x, want both FINs noted", stub.Flags, record.Flags)
		}
		if want := uint64(6); stub.Packets != want-1 || record.Packets != 4 {
			t.Errorf("%d packets from the client and %d to it, want 5 and 4", stub.Packets, record.Packets)
		}

		again := f.first(tcp, 40000, frontend)
		n.must(t, ingress(n.eth0, again, next, again.to(backend), "flow_reselected flow_new forward_local"))
		n.mustBeIn(t, "embryos", again, sent)
	})
}

// A client's datagrams to a backend here: a flow is established when the client comes back after an answer.
func TestLocalUDP(t *testing.T) {
	forEach(t, []uint8{udp}, func(t *testing.T, n *node, f family, _ uint8) {
		frontend, backend := at(f.node, nodePort), at(f.pod, 53)
		n.serve(t, frontend, udp, backend)
		in := f.first(udp, 40000, frontend)
		sent := n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_new forward_local"))
		n.must(t, ingress(n.eth0, in, next, in.to(backend), "forward_local"))
		n.mustBeIn(t, "embryos", in, sent)
		reply := sent.answer(0, 0, 0, "answer")
		n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
		n.mustBeIn(t, "embryos", in, sent)
		n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_promoted forward_local"))
		n.mustBeIn(t, "flows", in, sent)
		n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
	})
}

// A UDP checksum that is not there stays so (RFC 768).
func TestNoChecksum(t *testing.T) {
	f := families[0]
	n := newNode(t)
	here, away := at(f.node, nodePort), at(f.node, nodePort+1)
	n.serve(t, here, udp, at(f.pod, 53))
	n.serve(t, away, udp, at(f.onC, 53))
	in := f.first(udp, 40000, here)
	in.noChecksum = true
	sent := n.must(t, ingress(n.eth0, in, next, in.to(at(f.pod, 53)), "flow_new forward_local"))
	reply := sent.answer(0, 0, 0, "answer")
	n.must(t, egress(n.eth0, reply, next, reply.from(here), "reply_local"))
	in.dst = away
	n.must(t, ingress(n.eth0, in, redirect, in.hop().from(at(n.eth1.addr[f.name], 0)).to(at(f.onC, 53)), "flow_new forward_redirect"))
}

// The backend is a process of this node: on the address dialled itself, and on another one.
func TestHostNetworkBackend(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		for i, host := range []*port{n.eth0, n.eth1} {
			frontend, backend := at(f.node, nodePort+uint16(i)), at(host.addr[f.name], 8080)
			n.serve(t, frontend, protocol, backend)
			in := f.first(protocol, 40000, frontend)
			sent := n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_new forward_local"))
			n.mustBeIn(t, "embryos", in, sent)
			reply := sent.answer(syn|ack, 7000, 1001, "answer")
			n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
			// What the same process says to others is its own.
			other := reply.to(at(f.client, 40001))
			n.must(t, egress(n.eth0, other, next, other, ""))
		}
	})
}

// A backend here whose MAC address is not known yet is here all the same.
func TestLocalWithoutNeighbour(t *testing.T) {
	forEach(t, []uint8{tcp}, func(t *testing.T, n *node, f family, _ uint8) {
		backend := at(nth(f.pod, 1), 8080)
		n.serve(t, at(f.node, nodePort), tcp, backend)
		in := f.first(tcp, 40000, at(f.node, nodePort))
		n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_new forward_local"))
	})
}
