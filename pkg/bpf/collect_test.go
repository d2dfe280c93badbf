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

// Each state of a flow has its own patience (parity 6.3).
func TestCollectByState(t *testing.T) {
	n := newNode(t)
	const slack = 5 * time.Second
	for i, c := range []struct {
		name     string
		protocol uint8
		client   []uint8 // flags of what the client and then the backend send at last
		backend  []uint8
		timeout  time.Duration
	}{
		{"TCP established", tcp, nil, nil, 24 * time.Hour},
		{"TCP closed by the client", tcp, []uint8{fin | ack}, nil, time.Hour},
		{"TCP closed by the backend", tcp, nil, []uint8{fin | ack}, time.Hour},
		{"TCP closed", tcp, []uint8{fin | ack}, []uint8{fin | ack}, 2 * time.Minute},
		{"TCP reset by the client", tcp, []uint8{rst}, nil, 10 * time.Second},
		{"TCP reset by the backend", tcp, nil, []uint8{rst | ack}, 10 * time.Second},
		{"UDP", udp, nil, nil, 2 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := families[i%2]
			frontend := at(f.node, uint16(30000+i))
			n.serve(t, frontend, c.protocol, at(f.onC, 8080))
			in, sent := n.establish(t, f.first(c.protocol, 40000, frontend))
			reply := sent.answer(0, 7001, 1001, "")
			for _, in.flags = range c.client {
				n.run(t, "ingress_l2", n.eth0, at0(n, in).bytes(), 0)
			}
			for _, reply.flags = range c.backend {
				n.run(t, "ingress_l2", n.eth1, withMAC(reply, n.eth1).bytes(), 0)
			}
			stub, record := in.tuple(), reply.tuple()
			n.age(t, c.timeout-slack, stub, record)
			n.mustCollect(t, 0)
			// One direction alone keeps it alive.
			n.age(t, c.timeout+slack, stub)
			n.mustCollect(t, 0)
			n.age(t, c.timeout-slack, stub)
			n.age(t, c.timeout+slack, record)
			n.mustCollect(t, 0)
			n.age(t, c.timeout+slack, stub, record)
			before := n.counters(t)
			n.mustCollect(t, 1)
			if moved := delta(before, n.counters(t)); len(moved) != 1 || moved["flow_collected"] != 1 {
				t.Errorf("counters that moved: %v", moved)
			}
			n.mustBeIn(t, "", in, sent)
		})
	}
}

// Many flows at once, and those that have moved again since are left.
func TestCollectMany(t *testing.T) {
	n := newNode(t)
	f := families[0]
	frontend, backend := at(f.node, nodePort), at(f.pod, 53)
	n.serve(t, frontend, udp, backend)
	var dead []Tuple
	for i := range 300 {
		in, sent := n.establish(t, f.first(udp, uint16(40000+i), frontend))
		keys := []Tuple{in.tuple(), sent.answer(0, 0, 0, "").tuple()}
		n.age(t, time.Hour, keys...)
		if i%3 == 0 {
			n.must(t, ingress(n.eth0, in, next, in.to(backend), "forward_local"))
			continue
		}
		dead = append(dead, keys...)
	}
	n.mustCollect(t, 200)
	for _, key := range dead {
		if _, where := n.entry(t, key); where != "" {
			t.Fatalf("%s > %s is still in %s", key.Source(), key.Destination(), where)
		}
	}
	n.mustCollect(t, 0)
}

// The filters close when neither a frontend nor a flow needs them.
func TestCollectClosesFilters(t *testing.T) {
	n := newNode(t)
	f := families[0]
	frontend, backend := at(f.node, nodePort), at(f.pod, 8080)
	n.serve(t, frontend, tcp, backend)
	open := func() (address, reply bool) {
		bit := NewAddress(frontend.Addr()).hash(addressFilterBits)
		var entry []byte
		if err := n.coll.Maps["reply_filter"].Lookup(NewAddress(backend.Addr()).hash(replyFilterBits), &entry); err != nil {
			t.Fatal(err)
		}
		return n.Tables.filter.words[bit>>6]&(1<<(bit&63)) != 0, slices.ContainsFunc(entry, func(b byte) bool { return b != 0 })
	}
	hooks := func() (at []int) {
		var entry [8]byte
		if err := n.coll.Maps["reply_filter"].Lookup(NewAddress(backend.Addr()).hash(replyFilterBits), &entry); err != nil {
			t.Fatal(err)
		}
		for i, b := range entry {
			if b != 0 {
				at = append(at, i)
			}
		}
		return at
	}
	check := func(when string, wantAddress, wantReply bool) {
		t.Helper()
		if address, reply := open(); address != wantAddress || reply != wantReply {
			t.Errorf("%s: open for the frontend %t, for replies %t, want %t and %t", when, address, reply, wantAddress, wantReply)
		}
	}
	check("before the first flow", true, false)
	n.mustCollect(t, 0)
	check("with a frontend", true, false)
	in, sent := n.establish(t, f.first(tcp, 40000, frontend))
	n.mustCollect(t, 0)
	check("with a flow", true, true)
	if at := hooks(); !slices.Equal(at, []int{1}) {
		t.Errorf("answers are looked for at the hooks %v, want only at the uplinks' egress", at)
	}
	if err := n.DeleteFrontends([]FrontendKey{NewFrontendKey(frontend, tcp)}); err != nil {
		t.Fatal(err)
	}
	n.RemoveAddress(frontend.Addr())
	n.mustCollect(t, 0)
	check("without the frontend", true, true)
	n.must(t, ingress(n.eth0, in, next, in.to(backend), "forward_local"))
	reply := sent.answer(ack, 7001, 1001, "data")
	n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))

	in.flags = rst
	n.must(t, ingress(n.eth0, in, next, in.to(backend), "forward_local"))
	n.age(t, time.Minute, in.tuple(), reply.tuple())
	n.mustCollect(t, 1)
	n.mustCollect(t, 0) // what it has removed it knows to be gone the next time
	check("without the flow", false, false)
}
