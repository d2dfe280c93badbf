package bpf

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// establish runs a connection from a client port until its flow is established, and returns the client's
// first packet, and the same as the backend gets it. Replies leave where replies of the backend do.
func (n *node) establish(t testing.TB, in packet) (came, sent packet) {
	t.Helper()
	verdict, out := n.run(t, "ingress_l2", n.eth0, at0(n, in).bytes(), 0)
	if verdict != next && verdict != redirect {
		t.Fatalf("first packet of %v: verdict %d", in.src, verdict)
	}
	sent = in
	sport, _ := transportPorts(out)
	stub, where := n.entry(t, in.tuple())
	if where != "embryos" || stub.Source().Port() != sport {
		t.Fatalf("stub %+v in %q", stub, where)
	}
	sent.src, sent.dst = stub.Source(), stub.Destination()
	reply := sent.answer(syn|ack, 7000, in.seq+1, "answer")
	if stub.Flags&FlowRemote != 0 {
		n.run(t, "ingress_l2", n.eth0, at0(n, reply).bytes(), 0)
	} else {
		n.run(t, "egress_l2", n.eth0, reply.bytes(), 0)
	}
	in.flags, in.seq, in.ack = ack, in.seq+1, 7001
	n.run(t, "ingress_l2", n.eth0, at0(n, in).bytes(), 0)
	n.mustBeIn(t, "flows", in, sent)
	return in, sent
}

// at0 is the packet addressed to eth0.
func at0(n *node, p packet) packet { p.ethDst = n.eth0.mac; return p }

// age makes entries look as if they had been silent for so long.
func (n *node) age(t testing.TB, silent time.Duration, keys ...Tuple) {
	t.Helper()
	for _, key := range keys {
		flow, where := n.entry(t, key)
		if where == "" {
			t.Fatalf("no entry for %v > %v", key.Source(), key.Destination())
		}
		flow.LastSeen = Monotonic() - uint64(silent)
		if err := n.coll.Maps[where].Put(key, flow); err != nil {
			t.Fatal(err)
		}
	}
}

func (n *node) mustCollect(t testing.TB, want int) {
	t.Helper()
	if got, err := n.Collect(); err != nil || got != want {
		t.Fatalf("Collect() = %d, %v, want %d", got, err, want)
	}
}

// Whatever the backend's address, collecting leaves a living flow's way back open.
func TestCollectKeepsReplies(t *testing.T) {
	n := newNode(t)
	for i, f := range families {
		for j := range 16 {
			backend := at(nth(f.pod, j), 8080)
			frontend := at(f.node, uint16(30000+j))
			n.serve(t, frontend, tcp, backend)
			in, sent := n.establish(t, f.first(tcp, uint16(41000+100*i+j), frontend))
			n.mustCollect(t, 0)
			t.Run(fmt.Sprint(backend), func(t *testing.T) {
				reply := sent.answer(ack, 7001, in.seq, "more")
				n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
			})
		}
	}
}

// nth is the i-th address behind a.
func nth(a netip.Addr, i int) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] += byte(i)
	b[len(b)-2] += byte(i >> 8)
	a, _ = netip.AddrFromSlice(b)
	return a
}

// While the tables are walked a flow may move from embryos to flows; it must be met all the same, for
// what no walk has met loses its filter.
func TestWalkMeetsFlowThatIsPromotedMeanwhile(t *testing.T) {
	f := families[0]
	n := newNode(t)
	frontend := at(f.node, nodePort)
	n.serve(t, frontend, tcp, at(f.pod, 8080))
	n.establish(t, f.first(tcp, 40000, frontend))
	n.must(t, ingress(n.eth0, f.first(tcp, 40001, frontend), next, f.first(tcp, 40001, frontend).to(at(f.pod, 8080)), "flow_new forward_local"))
	n.must(t, ingress(n.eth0, f.first(tcp, 40002, frontend), next, f.first(tcp, 40002, frontend).to(at(f.pod, 8080)), "flow_new forward_local"))

	var met []uint16
	first := true
	err := n.Walk(func(key Tuple, flow *Flow) {
		if first {
			// The handshakes are completed once the walk has begun.
			for _, port := range []uint16{40001, 40002} {
				in := f.first(tcp, port, frontend)
				reply := in.to(at(f.pod, 8080)).answer(syn|ack, 7000, 1001, "")
				n.run(t, "egress_l2", n.eth0, reply.bytes(), 0)
				in.flags, in.ack = ack, 7001
				n.run(t, "ingress_l2", n.eth0, at0(n, in).bytes(), 0)
			}
			first = false
		}
		if flow.Flags&FlowReply == 0 {
			met = append(met, key.Source().Port())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []uint16{40000, 40001, 40002} {
		if !slices.Contains(met, port) {
			t.Errorf("the flow from port %d was not met, only those from %d", port, met)
		}
	}
}
