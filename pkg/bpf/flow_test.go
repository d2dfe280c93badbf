package bpf

import (
	"testing"
	"time"
)

// A backend that refuses, and accepts the next attempt from the same client port: the connection lives as
// long as any other.
func TestResetByBackendIsForgotten(t *testing.T) {
	forEach(t, []uint8{tcp}, func(t *testing.T, n *node, f family, _ uint8) {
		frontend, backend := at(f.node, nodePort), at(f.pod, 8080)
		n.serve(t, frontend, tcp, backend)
		in := f.first(tcp, 40000, frontend)
		sent := n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_new forward_local"))
		reply := sent.answer(rst|ack, 0, 1001, "")
		n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))

		n.run(t, "ingress_l2", n.eth0, at0(n, in).bytes(), 0)
		reply = sent.answer(syn|ack, 7000, 1001, "")
		n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
		in.flags, in.ack = ack, 7001
		n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_promoted forward_local"))
		n.mustBeIn(t, "flows", in, sent)

		n.age(t, time.Minute, in.tuple(), reply.tuple())
		n.mustCollect(t, 0)
		n.mustBeIn(t, "flows", in, sent)
	})
}

// Who has not seen the backend's SYN-ACK cannot get past the embryos.
func TestPromotionNeedsProof(t *testing.T) {
	forEach(t, []uint8{tcp}, func(t *testing.T, n *node, f family, _ uint8) {
		frontend, backend := at(f.node, nodePort), at(f.pod, 8080)
		n.serve(t, frontend, tcp, backend)
		in := f.first(tcp, 40000, frontend)
		sent := n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_new forward_local"))
		stays := func(what string, p packet) {
			t.Helper()
			t.Log(what)
			n.must(t, ingress(n.eth0, p, next, p.to(backend), "forward_local"))
			n.mustBeIn(t, "embryos", in, sent)
		}
		client := in
		client.flags, client.ack = ack, 7001
		stays("before the answer", client)
		reply := sent.answer(syn|ack, 7000, 1001, "")
		n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))

		for name, wrong := range map[string]packet{
			"before the answer's": {flags: ack, ack: 7000},
			"far behind":          {flags: ack, ack: 7000 + 1<<31},
			"far beyond":          {flags: ack, ack: 7001 + 65536},
			"zero":                {flags: ack},
			"a SYN":               {flags: syn, ack: 7001},
			"no ACK":              {flags: psh, ack: 7001},
		} {
			p := in
			p.flags, p.ack = wrong.flags, wrong.ack
			stays(name, p)
		}
		// The answer again, and data that arrives before the first acknowledgment does.
		n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
		client.flags, client.ack, client.payload = ack|psh, 7001+65535, "data"
		n.must(t, ingress(n.eth0, client, next, client.to(backend), "flow_promoted forward_local"))
		n.mustBeIn(t, "flows", in, sent)
	})
}

// A flow whose backend is gone: a datagram, or a SYN, is given to another; a living TCP connection is left.
func TestBackendGone(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, before, after := at(f.node, nodePort), at(f.pod, 8080), at(f.pod, 8081)
		gone := n.addBackend(t, before, protocol)
		pool := n.addPool(t, VerdictServe, []Slot{gone})
		n.addFrontend(t, frontend, protocol, Frontend{Service: 1, Outside: pool, Kind: KindNodePort})
		in, sent := n.establish(t, f.first(protocol, 40000, frontend))

		// No longer chosen, but it still serves: the flow stays.
		other := n.addPool(t, VerdictServe, []Slot{n.addBackend(t, after, protocol)})
		n.SetPool(pool, n.Pool(other))
		n.must(t, ingress(n.eth0, in, next, in.to(before), "forward_local"))
		n.mustBeIn(t, "flows", in, sent)

		n.SetBackend(gone.Backend, Backend{})
		begin := f.first(protocol, 40000, frontend)
		if protocol == tcp {
			n.must(t, ingress(n.eth0, in, next, in.to(before), "forward_local"))
			reply := sent.answer(ack, 7001, 1001, "still here")
			n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
		}
		anew := n.must(t, ingress(n.eth0, begin, next, begin.to(after), "flow_reselected flow_new forward_local"))
		n.mustBeIn(t, "embryos", begin, anew)
		if _, where := n.entry(t, sent.answer(0, 0, 0, "").tuple()); where != "" {
			t.Errorf("the old record is still in %s", where)
		}
	})
}

// A client that resets and dials again begins a new flow.
func TestResetByClient(t *testing.T) {
	forEach(t, []uint8{tcp}, func(t *testing.T, n *node, f family, _ uint8) {
		frontend, backend := at(f.node, nodePort), at(f.pod, 8080)
		n.serve(t, frontend, tcp, backend)
		in, _ := n.establish(t, f.first(tcp, 40000, frontend))
		in.flags = rst
		n.must(t, ingress(n.eth0, in, next, in.to(backend), "forward_local"))
		again := f.first(tcp, 40000, frontend)
		n.must(t, ingress(n.eth0, again, next, again.to(backend), "flow_reselected flow_new forward_local"))
		n.mustBeIn(t, "embryos", again, again.to(backend))
	})
}

// Whichever half of an embryo the flood has evicted, the other puts it back.
func TestEmbryoRepaired(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, backend := at(f.node, nodePort), at(f.onC, 8080)
		n.serve(t, frontend, protocol, backend)
		in := f.first(protocol, 40000, frontend)
		sent := n.must(t, ingress(n.eth0, in, redirect, in.hop().from(at(n.eth1.addr[f.name], 0)).to(backend), "flow_new forward_redirect"))
		reply := sent.answer(syn|ack, 7000, 1001, "answer")

		n.evict(t, in.tuple())
		n.must(t, ingress(n.eth1, reply, redirect, reply.hop().from(frontend).to(in.src), "reply_redirect"))
		n.mustBeIn(t, "embryos", in, sent)

		n.evict(t, reply.tuple())
		if protocol == tcp { // again: the client has not seen the answer
			n.must(t, ingress(n.eth0, in, redirect, in.hop().from(sent.src).to(backend), "forward_redirect"))
			n.mustBeIn(t, "embryos", in, sent)
			n.evict(t, reply.tuple())
		}
		in.flags, in.ack = ack, 7001
		n.must(t, ingress(n.eth0, in, redirect, in.hop().from(sent.src).to(backend), "flow_promoted forward_redirect"))
		n.mustBeIn(t, "flows", in, sent)
	})
}

func (n *node) evict(t testing.TB, key Tuple) {
	t.Helper()
	if err := n.coll.Maps["embryos"].Delete(key); err != nil {
		t.Fatal(err)
	}
}

// One flow's evicted record whose place another flow has taken since: the first must not live on in it.
func TestEvictedRecordTakenByAnother(t *testing.T) {
	f := families[0]
	n := newNode(t)
	one, two, backend := at(f.node, nodePort), at(f.node, nodePort+1), at(f.pod, 8080)
	pool := n.serve(t, one, tcp, backend)
	n.addFrontend(t, two, tcp, Frontend{Service: pool, Outside: pool, Kind: KindNodePort})
	in := f.first(tcp, 40000, one)
	n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_new forward_local"))
	n.evict(t, NewTuple(backend, in.src, tcp))
	n.establish(t, f.first(tcp, 40000, two))

	// The first client tries again. Its packets must not be mixed with the second's connection.
	_, out := n.run(t, "ingress_l2", n.eth0, at0(n, in).bytes(), 0)
	if sport, _ := transportPorts(out); sport == 40000 {
		stub, _ := n.entry(t, in.tuple())
		t.Errorf("packets of two connections reach %s from %s: stub %+v", backend, in.src, stub)
	}
}

// 200,000 connections that nobody means harm only each other.
func TestSYNFlood(t *testing.T) {
	n := newNode(t)
	f := families[0]
	frontend, backend := at(f.node, nodePort), at(f.pod, 8080)
	n.serve(t, frontend, tcp, backend)
	in, sent := n.establish(t, f.first(tcp, 40000, frontend))

	flood := f.first(tcp, 1, frontend)
	flood.ethDst = n.eth0.mac
	const spoofed = 200_000
	before := n.counters(t)
	n.mustDo(t, func() error {
		for i := range spoofed {
			flood.src = at(nth(addr("172.16.0.0"), i>>8), uint16(1024+i&255))
			if _, err := n.coll.Programs["ingress_l2"].Run(n.options(flood.bytes(), n.eth0)); err != nil {
				return err
			}
		}
		return nil
	})
	if got := delta(before, n.counters(t))["flow_new"]; got != spoofed {
		t.Fatalf("%d flows began, want %d", got, spoofed)
	}

	n.must(t, ingress(n.eth0, in, next, in.to(backend), "forward_local"))
	reply := sent.answer(ack, 7001, 1001, "data")
	n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
	n.establish(t, f.first(tcp, 40001, frontend))
}
