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
