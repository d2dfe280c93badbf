package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// told is s with the answer that the packet is too long.
func told(s step, mtu int) step {
	s.verdict, s.counters = redirect, "packet_too_big"
	s.frame = s.in.tooBig(mtu)
	return s
}

// complaints are the ICMP errors that quote a packet, without their checksums.
func complaints(v6 bool) [][]byte {
	if v6 {
		return [][]byte{{1, 4, 0, 0, 0, 0, 0, 0}, {2, 0, 0, 0, 0, 0, 5, 0}, {3, 0, 0, 0, 0, 0, 0, 0}, {4, 1, 0, 0, 0, 0, 0, 40}}
	}
	return [][]byte{{3, 3, 0, 0, 0, 0, 0, 0}, {3, 4, 0, 0, 0, 0, 3, 232}, {4, 0, 0, 0, 0, 0, 0, 0}, {11, 0, 0, 0, 0, 0, 0, 0}, {12, 0, 0, 0, 20, 0, 0, 0}}
}

// complaint is an ICMP error that somebody makes of p, with so much of its transport header.
func (p packet) complaint(from netip.Addr, icmp []byte, transport int) packet {
	quote := p.bytes()[14:]
	header := len(quote) - len(p.transport())
	icmp = append(append([]byte{}, icmp...), quote[:min(len(quote), header+transport)]...)
	if rest := header + transport - len(quote); rest > 0 {
		// RFC 4884: a quote filled up with zeroes, an extension behind it.
		icmp = append(append(icmp, make([]byte, rest)...), 0x20, 0, 0, 0, 0, 8, 1, 1, 1, 2, 3, 4)
	}
	e := packet{src: at(from, 0), dst: at(p.src.Addr(), 0), protocol: 1, ttl: 60, raw: true, mayBeCut: true}
	start := uint32(0)
	if p.v6() {
		e.protocol = 58
		start = e.pseudoSum(len(icmp))
	}
	binary.BigEndian.PutUint16(icmp[2:], ^sum(start, icmp))
	e.payload = string(icmp)
	return e
}

// A complaint on its way: who makes it, about which packet as that was there; and what becomes of it.
type complained struct {
	by       netip.Addr
	about    packet
	shown    netip.Addr // whom it seems to come from afterwards
	original packet     // the ends of the packet that the sender knows
	step     func(in, out packet) step
	hop      bool // we are a router to it
}

// mustTranslate sends complaints of every kind, with quotes of every length and shape, through their program.
func (n *node) mustTranslate(t *testing.T, what string, c complained) {
	t.Helper()
	t.Run(what, func(t *testing.T) {
		check := func(about packet, icmp []byte, transport int) {
			original := about.from(c.original.src).to(c.original.dst)
			in, out := about.complaint(c.by, icmp, transport), original.complaint(c.shown, icmp, transport)
			if c.hop {
				out = out.hop()
			}
			n.mustExactly(t, c.step(in, out))
		}
		about := c.about
		for _, icmp := range complaints(about.v6()) {
			check(about, icmp, 8)
			check(about, icmp, 1000)
		}
		icmp := complaints(about.v6())[0]
		// Half a checksum is left as it is, and the builder's is another.
		for _, transport := range map[uint8][]int{tcp: {9, 15, 16, 18, 19, 20, 21}, udp: {9, 11, 12, 13}, sctp: {12, 13, 19, 20}}[about.protocol] {
			check(about, icmp, transport)
		}
		options := about
		options.options, options.extension = []byte{1, 1, 1, 1, 1, 1, 1, 0}, 60
		if about.v6() {
			options.options = []byte{about.protocol, 0, 1, 4, 0, 0, 0, 0}
		}
		check(options, icmp, 30)
		if about.protocol == udp && !about.v6() {
			absent := about
			absent.noChecksum = true
			check(absent, icmp, 8)
		}
		if about.protocol != sctp { // whose checksum covers what is not there
			fragment := about
			fragment.id, fragment.payload = 7, strings.Repeat("y", 100)
			check(fragment.fragments(64)[0], icmp, 64)
		}
	})
}

// mustExactly is must, of a packet in which a port 0 is a port.
func (n *node) mustExactly(t testing.TB, s step) {
	t.Helper()
	s.frame = s.out.bytes()
	n.must(t, s)
}

// forward and back are a flow's first packet and its answer, at three places: as the sender sends it, as it leaves us.
type conversation struct{ in, sent, reply, replied packet }

// converse makes a flow's first packet and its answer.
func converse(in, sent packet) conversation {
	c := conversation{in: in, sent: sent, reply: sent.answer(syn|ack, 7000, in.seq+1, "an answer that is longer than a header")}
	if in.protocol == sctp {
		c.reply.seq, c.reply.payload = clientTag, initAck(backendTag)
	}
	c.replied = c.reply.from(in.dst).to(in.src)
	return c
}

var protocols = []uint8{tcp, udp, sctp}

// A backend on this node: complaints of the pod, of routers, of this node's own stack, to either end.
func TestErrorsLocal(t *testing.T) {
	forEach(t, protocols, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, backend := at(f.node, nodePort), at(f.pod, 8080)
		n.serve(t, frontend, protocol, backend)
		in := f.first(protocol, 40000, frontend)
		c := converse(in, n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_new forward_local")))
		out := func(in, out packet) step { return egress(n.eth0, in, next, out, "icmp_error reply_local") }
		n.mustTranslate(t, "of the pod to the client", complained{by: f.pod, about: c.sent.hop(), shown: f.node, original: in, step: out})
		n.mustTranslate(t, "of the node to the client", complained{by: f.node, about: c.sent, shown: f.node, original: in, step: func(in, out packet) step {
			return own(n.eth0, in, next, out, "icmp_error reply_local")
		}})
		n.must(t, egress(n.eth0, c.reply, next, c.replied, "reply_local"))
		back := func(in, out packet) step { return ingress(n.eth0, in, next, out, "icmp_error forward_local") }
		n.mustTranslate(t, "of the client to the pod", complained{by: f.client, about: c.replied, shown: f.client, original: c.reply, step: back})
		n.mustTranslate(t, "of a router to the pod", complained{by: f.gateway, about: c.replied.hop(), shown: f.gateway, original: c.reply, step: back})

		// None of this is a sign of the client's life.
		if stub, record := n.mustBeIn(t, "embryos", in, c.sent); stub.Packets != 1 || record.Packets != 1 {
			t.Errorf("%d and %d packets, want 1 and 1", stub.Packets, record.Packets)
		}
	})
}

// A backend on another node: the same from link to link.
func TestErrorsRemote(t *testing.T) {
	forEach(t, protocols, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, backend := at(f.node, nodePort), at(f.onC, 8080)
		snat := n.eth1.addr[f.name]
		n.serve(t, frontend, protocol, backend)
		in := f.first(protocol, 40000, frontend)
		sent := n.must(t, ingress(n.eth0, in, redirect, in.hop().from(at(snat, 0)).to(backend), "flow_new forward_redirect"))
		c := converse(in, sent)
		back := func(in, out packet) step {
			return ingress(n.eth1, in, redirect, out, "icmp_error reply_redirect")
		}
		n.mustTranslate(t, "of the pod to the client", complained{by: f.onC, about: sent, shown: f.node, original: in, step: back, hop: true})
		n.mustTranslate(t, "of a router to the client", complained{by: f.nodeC, about: sent.hop(), shown: f.node, original: in, step: back, hop: true})
		n.must(t, ingress(n.eth1, c.reply, redirect, c.replied.hop(), "reply_redirect"))
		forth := func(in, out packet) step {
			return ingress(n.eth0, in, redirect, out, "icmp_error forward_redirect")
		}
		n.mustTranslate(t, "of the client to the pod", complained{by: f.client, about: c.replied.hop(), shown: snat, original: c.reply, step: forth, hop: true})
		n.mustTranslate(t, "of a router to the pod", complained{by: f.gateway, about: c.replied.hop(), shown: snat, original: c.reply, step: forth, hop: true})

		late := c.sent.complaint(f.nodeC, complaints(in.v6())[0], 8)
		late.ttl = 1
		half := c.sent.from(at(f.client, sent.src.Port())).complaint(f.nodeC, complaints(in.v6())[0], 8)
		half.ttl = 1
		// The stack does not answer an error.
		n.mustExactly(t, ingress(n.eth1, late, next, half, "icmp_error reply_stack"))
	})
}

// By the stack: complaints that pass through it are rewritten in two halves, those that it makes in one.
func TestErrorsThroughTheStack(t *testing.T) {
	forEach(t, protocols, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, backend := at(f.node, nodePort), at(f.onC, 8080)
		snat := n.eth1.addr[f.name]
		n.serve(t, frontend, protocol, backend)
		in := f.first(protocol, 40000, frontend)
		half := n.must(t, ingress(n.eth0, in, next, in.from(at(f.client, 0)).to(backend), "flow_new forward_stack"))
		// Before any answer has gone the way of answers.
		n.mustTranslate(t, "of the node to the client", complained{by: f.node, about: half.hop(), shown: f.node, original: in, step: func(in, out packet) step {
			return own(n.eth0, in, next, out, "icmp_error")
		}})
		sent := n.must(t, egress(n.eth1, half.hop(), next, half.hop().from(at(snat, half.src.Port())), ""))
		c := converse(in, sent)
		for who, by := range map[string]netip.Addr{"the pod": f.onC, "a router": f.nodeC} {
			n.mustTranslate(t, "of "+who+", first half", complained{by: by, about: sent, shown: by, original: half, step: func(in, out packet) step {
				return ingress(n.eth1, in, next, out, "icmp_error reply_stack")
			}})
			n.mustTranslate(t, "of "+who+", second half", complained{by: by, about: half, shown: f.node, original: in, step: func(in, out packet) step {
				return egress(n.eth0, in, next, out, "")
			}})
		}
		client := at(f.client, half.src.Port())
		passing := n.must(t, ingress(n.eth1, c.reply, next, c.reply.to(client), "reply_stack"))
		n.mustTranslate(t, "of the node to the pod", complained{by: snat, about: passing.hop(), shown: snat, original: c.reply, step: func(in, out packet) step {
			return own(n.eth1, in, next, out, "icmp_error")
		}})
		n.must(t, egress(n.eth0, passing.hop(), next, c.replied.hop(), ""))
		n.mustTranslate(t, "of a router to the pod, first half", complained{by: f.gateway, about: c.replied, shown: f.gateway, original: passing, step: func(in, out packet) step {
			return ingress(n.eth0, in, next, out, "icmp_error forward_stack")
		}})
		n.mustTranslate(t, "of a router to the pod, second half", complained{by: f.gateway, about: passing, shown: snat, original: c.reply, step: func(in, out packet) step {
			return egress(n.eth1, in, next, out, "")
		}})
	}, forceStack)
}

// A pod's flow, on its own link: wherever the backend is.
func TestErrorsPod(t *testing.T) {
	forEachPodFlow(t, protocols, func(t *testing.T, n *node, f family, protocol uint8, p podFlow) {
		in := n.dialledBy(t, f, protocol, p)
		c := converse(in, n.must(t, podIngress(p.link, in, p.verdict, in.from(p.source).to(p.backend), "flow_new pod_forward")))
		answer := func(in, out packet) step { return p.answerIn(p.link, in, p.answer, out, "icmp_error "+p.reply) }
		shown := in.dst.Addr()
		for who, by := range map[string]netip.Addr{"the backend": p.backend.Addr(), "a router": f.nodeC} {
			if strings.HasPrefix(p.name, "itself") && by == f.nodeC {
				continue // there is none on the way
			}
			n.mustTranslate(t, "of "+who, complained{by: by, about: c.sent, shown: shown, original: in, step: answer})
		}
		n.must(t, p.answerIn(p.link, c.reply, p.answer, c.replied, p.reply))
		n.mustTranslate(t, "of the pod", complained{by: in.src.Addr(), about: c.replied, shown: c.sent.src.Addr(), original: c.reply, step: func(in, out packet) step {
			return podIngress(p.link, in, p.verdict, out, "icmp_error pod_forward")
		}})
	})
}

// The node's own flow, at the uplinks and pods' links that its answers come by.
func TestErrorsHost(t *testing.T) {
	forEach(t, protocols, func(t *testing.T, n *node, f family, protocol uint8) {
		n.linkPods(t)
		for i, backend := range []netip.AddrPort{at(f.pod, 8080), at(f.onC, 8080)} {
			frontend := clusterIP(f, 10+i)
			n.serve(t, frontend, protocol, backend)
			in := f.first(protocol, 40000, frontend).from(at(f.node, 40000))
			in.ethSrc, in.ethDst, in.ttl = n.eth0.mac, [6]byte(neighbourMAC), 64
			pool := n.addPool(t, VerdictServe, []Slot{n.addBackend(t, backend, protocol)})
			n.addFrontend(t, frontend, protocol, Frontend{Service: pool, Inside: pool, Kind: KindClusterIP})
			source := in.src
			if i == 1 { // by another link than the route that the node chose its source for
				source = at(n.eth1.addr[f.name], 0)
			}
			c := converse(in, n.must(t, own(n.eth0, in, redirect, in.from(source).to(backend), "flow_new host_forward")))
			answer := func(in, out packet) step { return podIngress(n.pod0, in, next, out, "icmp_error host_reply") }
			if i == 1 {
				answer = func(in, out packet) step { return ingress(n.eth1, in, next, out, "icmp_error host_reply") }
			}
			c.sent.ethSrc, c.sent.ethDst = [6]byte{}, [6]byte{}
			for who, by := range map[string]netip.Addr{"the backend": backend.Addr(), "a router": f.nodeC} {
				n.mustTranslate(t, fmt.Sprintf("of %s %d", who, i), complained{by: by, about: c.sent, shown: frontend.Addr(), original: in, step: answer})
			}
			n.must(t, answer(c.reply, c.replied).counting("host_reply"))
			n.mustTranslate(t, fmt.Sprintf("of the node %d", i), complained{by: f.node, about: c.replied, shown: c.sent.src.Addr(), original: c.reply, step: func(in, out packet) step {
				return own(n.eth0, in, redirect, out, "icmp_error host_forward")
			}})
		}
	})
}

// counting is s with other counters.
func (s step) counting(counters string) step { s.counters = counters; return s }

// The node's own packets that are too long for the way to the backend: its stack is told, and cuts the next ones.
func TestHostTooLong(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, backend := clusterIP(f, 1), at(f.onD, 8080)
		n.serve(t, frontend, protocol, backend)
		in := f.first(protocol, 40000, frontend).from(at(f.node, 40000))
		in.ethSrc, in.ethDst, in.ttl = n.eth0.mac, [6]byte(neighbourMAC), 64
		source := n.must(t, own(n.eth0, in, redirect, in.from(at(n.eth2.addr[f.name], 0)).to(backend), "flow_new host_forward")).src
		in.payload = strings.Repeat("x", n.eth2.mtu-in.ipLength()+len(in.payload))
		n.must(t, own(n.eth0, in, redirect, in.from(source).to(backend), "host_forward"))
		in.payload += "x"
		for _, in.mayBeCut = range []bool{false, true} {
			n.must(t, told(own(n.eth0, in, 0, in, ""), n.eth2.mtu))
		}
		many := own(n.eth0, in, redirect, in.from(source).to(backend), "host_forward")
		many.gso = n.eth2.mtu - (in.ipLength() - len(in.payload))
		n.must(t, many)
		many.gso++
		n.must(t, told(many, n.eth2.mtu))
	})
}

// An error that is no good, or about nothing of ours, is left alone.
func TestErrorsNotOurs(t *testing.T) {
	forEach(t, protocols, func(t *testing.T, n *node, f family, protocol uint8) {
		n.linkPods(t)
		if err := n.SetServiceRanges(serviceRanges); err != nil {
			t.Fatal(err)
		}
		frontend, backend := at(f.node, nodePort), at(f.pod, 8080)
		n.serve(t, frontend, protocol, backend)
		in := f.first(protocol, 40000, frontend)
		sent := n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_new forward_local"))
		icmp := complaints(in.v6())[0]
		alone := func(p packet) {
			t.Helper()
			n.mustExactly(t, egress(n.eth0, p, next, p, ""))
			n.mustExactly(t, ingress(n.eth0, p, next, p, ""))
			n.mustExactly(t, podIngress(n.pod0, p, next, p, ""))
			n.mustExactly(t, podEgress(n.pod0, p, next, p, ""))
		}
		good := sent.complaint(f.pod, icmp, 8)
		for length := range len(good.payload) {
			short := good
			short.payload = good.payload[:length]
			alone(short)
		}
		alone(sent.from(at(f.client, 40001)).complaint(f.pod, icmp, 8)) // another client's
		alone(sent.to(at(f.pod, 8081)).complaint(f.pod, icmp, 8))
		alone(in.complaint(f.pod, icmp, 8))                             // as the client sent it
		alone(good.to(at(nth(f.client, 1), 0)))                         // to somebody who has not sent it
		alone(sent.answer(ack, 1, 1, "x").complaint(f.client, icmp, 8)) // the answer, untranslated, told to the pod
		for _, kind := range []byte{0, 8, 13, 128, 129, 137, 255} {
			alone(sent.complaint(f.pod, []byte{kind, 0, 0, 0, 0, 0, 0, 0}, 8))
		}
		for _, kind := range []uint8{1, 58, 50} { // not what Services have
			quoted := sent
			quoted.protocol, quoted.raw, quoted.payload = kind, true, "\x9c\x40\x1f\x90 and something else"
			alone(quoted.complaint(f.pod, icmp, 30))
		}
		for _, p := range datagram(7, good) {
			p.raw = p.offset == 0
			if p.offset == 0 {
				alone(p)
			}
		}
		later := sent
		later.id, later.offset, later.payload = 7, 64, "the middle of a datagram"
		alone(later.complaint(f.pod, icmp, 24))
		n.mustExactly(t, egress(n.eth0, good, next, in.complaint(f.node, icmp, 8).ttlOf(good), "icmp_error reply_local"))

		// A router's better way is one for the translated packet: the client must not learn it.
		if !in.v6() {
			redirection := sent.complaint(f.gateway, []byte{5, 1, 0, 0, 10, 1, 0, 2}, 8)
			n.mustExactly(t, egress(n.eth0, redirection, shot, redirection, "icmp_error"))
		}
		// What nobody has translated does not leak to addresses of Services.
		stray := in.from(clusterIP(f, 9)).to(at(f.pod, 1)).complaint(f.pod, icmp, 8)
		n.mustExactly(t, podIngress(n.pod0, stray, shot, stray, "packet_unallocated"))
	})
}

func (p packet) ttlOf(other packet) packet { p.ttl = other.ttl; return p }

// Errors with random bytes in random places, cut off anywhere: nothing changes unless, by another reading, they are
// about a packet that was translated; and then only what a translation changes, and the checksum is as right as it was.
func TestErrorsMangled(t *testing.T) {
	n := newNode(t)
	random := seeded(t)
	type sample struct {
		packet packet
		at     *port
	}
	var all []sample
	// What may be quoted: translated packets, by protocol. One port more is the other flow's.
	known := make(map[Tuple]bool)
	for _, f := range families {
		for _, protocol := range protocols {
			here, away := at(f.node, nodePort), at(f.node, nodePort+1)
			n.serve(t, here, protocol, at(f.pod, 8080))
			n.serve(t, away, protocol, at(f.onC, 8080))
			in := f.first(protocol, 40000, here)
			sent := n.must(t, ingress(n.eth0, in, next, in.to(at(f.pod, 8080)), "flow_new forward_local"))
			answer := sent.answer(syn|ack, 7000, 1001, "")
			if protocol == sctp {
				answer.seq, answer.payload = clientTag, initAck(backendTag)
			}
			answer.src = here
			in.dst = away
			far := n.must(t, ingress(n.eth0, in, redirect, in.hop().from(at(n.eth1.addr[f.name], 0)).to(at(f.onC, 8080)), "flow_new forward_redirect"))
			known[answer.tuple()], known[far.tuple()] = true, true
			answered := answer
			answered.src = away
			known[answered.tuple()] = true
			for _, icmp := range complaints(in.v6()) {
				for _, size := range []int{8, 20, 60} {
					all = append(all, sample{answer.complaint(f.client, icmp, size), n.eth0}, sample{far.complaint(f.nodeC, icmp, size), n.eth1})
				}
			}
		}
	}
	translated := 0
	for range 10000 {
		s := all[random.IntN(len(all))]
		s.packet.ethDst = s.at.mac
		in := s.packet.bytes()
		for range random.IntN(4) {
			in[14+random.IntN(len(in)-14)] = byte(random.Uint32())
		}
		if random.IntN(4) == 0 {
			in = in[:15+random.IntN(len(in)-15)]
		}
		if len(in) < shortest(in) {
			continue
		}
		before := n.counters(t)
		verdict, out := n.run(t, "ingress_l2", s.at, in, 0)
		moved := delta(before, n.counters(t))
		if moved["icmp_error"] == 0 {
			// What was mangled into another protocol may be anything, but not this.
			if icmp, _, ok := quoted(in); ok && (string(in) != string(out) || verdict != next) {
				t.Fatalf("verdict %d, counters %v for\n%s% x\nbecame\n%s", verdict, moved, describe(in), in[icmp:], describe(out))
			}
			continue
		}
		translated++
		icmp, q, ok := quoted(in)
		if ok && in[14]>>4 == 4 && in[icmp] == 5 {
			if string(in) != string(out) || verdict != shot {
				t.Fatalf("verdict %d, counters %v for the redirection\n%s", verdict, moved, describe(in))
			}
			continue
		}
		after, p, stillOK := quoted(out)
		if !ok || !stillOK || icmp != after || len(in) != len(out) || !known[NewTuple(q.src, q.dst, q.protocol)] || p.src == q.src && p.dst == q.dst {
			t.Fatalf("verdict %d, counters %v for\n%s% x\nbecame\n%s% x", verdict, moved, describe(in), in[icmp:], describe(out), out[icmp:])
		}
		if a, b := icmpSum(in, icmp), icmpSum(out, icmp); a%0xffff != b%0xffff {
			t.Fatalf("the sum was %#04x and is %#04x, counters %v for\n%s% x\nbecame\n%s% x", a, b, moved, describe(in), in[icmp:], describe(out), out[icmp:])
		}
		mayDiffer := changeable(in, icmp, q)
		for i := range in {
			if in[i] != out[i] && !mayDiffer[i] {
				t.Fatalf("byte %d changed in\n%s% x\nbecame\n%s% x", i, describe(in), in, describe(out), out)
			}
		}
	}
	if translated < 2000 {
		t.Errorf("only %d errors were translated", translated)
	}
}

// quotation is where a packet is quoted in a frame, and whose it is.
type quotation struct {
	src, dst      netip.AddrPort
	l3, l4, limit int
	protocol      byte
}

// quoted reads an ICMP error: where it begins, and what it quotes.
func quoted(frame []byte) (icmp int, q quotation, ok bool) {
	icmp, protocol, end, _, _, ok := walkIP(frame, 14)
	if !ok || protocol != map[bool]byte{false: 1, true: 58}[frame[14]>>4 == 6] || end > len(frame) || icmp+8 > end {
		return 0, q, false
	}
	var src, dst netip.Addr
	q.l3 = icmp + 8
	q.l4, q.protocol, q.limit, src, dst, ok = walkIP(frame[:end], q.l3)
	q.limit = min(q.limit, end)
	if !ok || q.l4+8 > end || q.protocol != tcp && q.protocol != udp && q.protocol != sctp {
		return icmp, q, false
	}
	q.src = at(src, binary.BigEndian.Uint16(frame[q.l4:]))
	q.dst = at(dst, binary.BigEndian.Uint16(frame[q.l4+2:]))
	return icmp, q, true
}

// walkIP reads an IP header and its extensions: what follows them, and where the packet ends by its own word.
func walkIP(frame []byte, l3 int) (l4 int, protocol byte, end int, src, dst netip.Addr, ok bool) {
	if len(frame) < l3+20 {
		return
	}
	ip := frame[l3:]
	switch ip[0] >> 4 {
	case 4:
		src, _ = netip.AddrFromSlice(ip[12:16])
		dst, _ = netip.AddrFromSlice(ip[16:20])
		return l3 + int(ip[0]&15)*4, ip[9], l3 + int(binary.BigEndian.Uint16(ip[2:])), src, dst, ip[0]&15 >= 5 && binary.BigEndian.Uint16(ip[6:])&0x1fff == 0
	case 6:
		if len(ip) < 40 {
			return
		}
		src, _ = netip.AddrFromSlice(ip[8:24])
		dst, _ = netip.AddrFromSlice(ip[24:40])
		l4, protocol, end = l3+40, ip[6], l3+40+int(binary.BigEndian.Uint16(ip[4:]))
		for len(frame) >= l4+8 {
			switch protocol {
			case 0, 43, 60:
				protocol, l4 = frame[l4], l4+int(frame[l4+1])*8+8
			case 51:
				protocol, l4 = frame[l4], l4+int(frame[l4+1])*4+8
			case 44:
				if binary.BigEndian.Uint16(frame[l4+2:])>>3 != 0 {
					return
				}
				protocol, l4 = frame[l4], l4+8
			default:
				return l4, protocol, end, src, dst, true
			}
		}
	}
	return
}

// icmpSum is the sum over all that the checksum of an ICMP message covers: 0xffff if it is right.
func icmpSum(frame []byte, icmp int) uint16 {
	if frame[14]>>4 == 4 {
		return sum(0, frame[icmp:14+int(binary.BigEndian.Uint16(frame[16:]))])
	}
	_, _, end, src, dst, _ := walkIP(frame, 14)
	return sum(packet{src: at(src, 0), dst: at(dst, 0), protocol: 58}.pseudoSum(end-icmp), frame[icmp:end])
}

// changeable are the bytes that a translation may change.
func changeable(frame []byte, icmp int, q quotation) map[int]bool {
	may := make(map[int]bool)
	mark := func(from, size int) {
		for i := range size {
			may[from+i] = true
		}
	}
	for _, l3 := range []int{14, q.l3} {
		if frame[l3]>>4 == 4 {
			mark(l3+8, 1) // as a router
			mark(l3+10, 10)
		} else {
			mark(l3+7, 33)
		}
	}
	mark(icmp+2, 2)
	mark(q.l4, 4)
	switch q.protocol {
	case udp:
		mark(q.l4+6, 2)
	case tcp:
		mark(q.l4+16, 2)
	case sctp:
		mark(q.l4+8, 4)
	}
	return may
}
