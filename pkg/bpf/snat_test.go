package bpf

import (
	"testing"
	"time"
)

// Two frontends that lead one client port to one backend: the second flow gets another source port, and
// each answer the right frontend.
func TestTwoFrontendsOneBackend(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		one, two := at(f.node, nodePort), at(f.node, nodePort+1)
		for name, backend := range map[string]packet{"here": {dst: at(f.pod, 8080)}, "elsewhere": {dst: at(f.onC, 8081)}} {
			t.Run(name, func(t *testing.T) {
				sport := backend.dst.Port()
				pool := n.serve(t, one, protocol, backend.dst)
				n.addFrontend(t, two, protocol, Frontend{Service: pool, Inside: pool, Outside: pool, Kind: KindNodePort})
				var sent []packet
				for i, frontend := range []packet{{dst: one}, {dst: two}} {
					in := f.first(protocol, sport, frontend.dst)
					var s step
					if name == "here" {
						src := at(f.client, sport)
						counters := "flow_new forward_local"
						if i == 1 {
							src, counters = at(f.client, 0), "flow_new forward_local snat_retry"
						}
						s = ingress(n.eth0, in, next, in.from(src).to(backend.dst), counters)
					} else {
						s = ingress(n.eth0, in, redirect, in.hop().from(at(n.eth1.addr[f.name], 0)).to(backend.dst), "flow_new forward_redirect")
					}
					out := n.must(t, s)
					n.mustBeIn(t, "embryos", in, out)
					sent = append(sent, out)
				}
				if sent[0].src == sent[1].src {
					t.Fatalf("both flows come from %s", sent[0].src)
				}
				for i, frontend := range []packet{{dst: one}, {dst: two}} {
					reply := sent[i].answer(syn|ack, 7000, 1001, "answer")
					want := reply.from(frontend.dst).to(at(f.client, sport))
					if name == "here" {
						n.must(t, egress(n.eth0, reply, next, want, "reply_local"))
					} else {
						n.must(t, ingress(n.eth1, reply, redirect, want.hop(), "reply_redirect"))
					}
				}
			})
		}
	})
}

func fewPorts(o *Options) { o.LastSNATPort = o.FirstSNATPort + 3 }

// fill begins flows from new client ports until every SNAT port is taken.
func (n *node) fill(t testing.TB, f family, first packet, use func(packet)) (ports map[uint16]bool) {
	t.Helper()
	taken := make(map[uint16]bool)
	for sport := uint16(40000); len(taken) < 4; sport++ {
		if sport > 40200 { // a free port may be missed by chance, but not that often
			t.Fatalf("ports %v of %d-%d were found, and no more", taken, n.first, n.last)
		}
		in := first
		in.src = at(f.client, sport)
		if verdict, _ := n.run(t, "ingress_l2", n.eth0, at0(n, in).bytes(), 0); verdict != redirect {
			continue
		}
		stub, _ := n.entry(t, in.tuple())
		if taken[stub.Source().Port()] {
			t.Fatalf("port %d given twice", stub.Source().Port())
		}
		taken[stub.Source().Port()] = true
		use(in)
	}
	return taken
}

func TestSNATPortsExhausted(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, backend := at(f.node, nodePort), at(f.onC, 8080)
		n.serve(t, frontend, protocol, backend)
		n.serve(t, at(f.node, nodePort+1), protocol, at(f.onC, 8081))
		var flows []Tuple
		var last packet
		n.fill(t, f, f.first(protocol, 0, frontend), func(in packet) {
			stub, _ := n.entry(t, in.tuple())
			reply := packet{src: backend, dst: stub.Source(), protocol: protocol, ttl: 64, flags: syn | ack, seq: 7000, ack: 1001}
			n.run(t, "ingress_l2", n.eth1, withMAC(reply, n.eth1).bytes(), 0)
			in.flags, in.ack = ack, 7001
			n.run(t, "ingress_l2", n.eth0, at0(n, in).bytes(), 0)
			n.mustBeIn(t, "flows", in, in.from(stub.Source()).to(backend))
			flows = append(flows, in.tuple(), reply.tuple())
			last = in
		})

		late := f.first(protocol, 50000, frontend)
		n.must(t, ingress(n.eth0, late, shot, late, "snat_retry*16 snat_exhausted"))
		if _, where := n.entry(t, late.tuple()); where != "" {
			t.Errorf("the refused client has a flow in %s", where)
		}
		stub, _ := n.entry(t, last.tuple())
		n.must(t, ingress(n.eth0, last, redirect, last.hop().from(stub.Source()).to(backend), "forward_redirect"))
		other := f.first(protocol, 50000, at(f.node, nodePort+1))
		n.must(t, ingress(n.eth0, other, redirect, other.hop().from(at(n.eth1.addr[f.name], 0)).to(at(f.onC, 8081)), "flow_new forward_redirect"))

		n.age(t, 25*time.Hour, flows...)
		n.mustCollect(t, 4)
		n.must(t, ingress(n.eth0, late, redirect, late.hop().from(at(n.eth1.addr[f.name], 0)).to(backend), "flow_new forward_redirect"))
	}, fewPorts)
}

func withMAC(p packet, to *port) packet { p.ethDst = to.mac; return p }

// Exchanges that never become established flows (a question and its answer, a client that nobody
// answers) give their ports back as well.
func TestSilentEmbryosGivePortsBack(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, backend := at(f.node, nodePort), at(f.onC, 53)
		n.serve(t, frontend, protocol, backend)
		var embryos []Tuple
		n.fill(t, f, f.first(protocol, 0, frontend), func(in packet) {
			stub, _ := n.entry(t, in.tuple())
			embryos = append(embryos, in.tuple(), NewTuple(backend, stub.Source(), protocol))
		})
		n.age(t, 10*time.Minute, embryos...)
		if _, err := n.Collect(); err != nil {
			t.Fatal(err)
		}
		late := f.first(protocol, 50000, frontend)
		before := n.counters(t)
		verdict, _ := n.run(t, "ingress_l2", n.eth0, at0(n, late).bytes(), 0)
		if verdict != redirect {
			t.Fatalf("ten minutes after the last packet a new client's verdict is %d, counters %v", verdict, delta(before, n.counters(t)))
		}
	}, fewPorts)
}
