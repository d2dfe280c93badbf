package bpf

import (
	"net/netip"
	"strings"
	"testing"
)

// podFlow is a pod's conversation with a backend, seen at the pod's link.
type podFlow struct {
	name            string
	link            *port
	client, backend netip.AddrPort
	verdict         int            // of what the pod sends
	source          netip.AddrPort // as the backend sees it; port 0: any of ours
	answerIn        func(*port, packet, int, packet, string) step
	answer          int    // verdict
	reply           string // counters
}

// podFlows are the places where a backend can be, seen from a pod.
func podFlows(n *node, f family) []podFlow {
	client, bridged := at(nth(f.pod, 1), 40000), at(f.bridged, 40000)
	return []podFlow{
		{"elsewhere", n.pod0, client, at(f.onC, 8080), next, client, podEgress, next, "pod_reply"},
		{"another pod here", n.pod0, client, at(f.pod, 8080), next, client, podEgress, next, "pod_reply"},
		{"a process of the node", n.pod0, client, at(f.node, 8080), next, client, podEgress, next, "pod_reply"},
		{"a bridged pod, elsewhere", n.pod1, bridged, at(f.onC, 8080), next, bridged, podEgress, next, "pod_reply"},
		{"a bridged pod, not on the bridge", n.pod1, bridged, at(f.pod, 8080), next, bridged, podEgress, next, "pod_reply"},
		{"a neighbour on the bridge", n.pod1, bridged, at(f.neighbour, 8080), redirect, bridged, podEgress, next, "pod_reply"},
		{"itself", n.pod0, client, at(client.Addr(), 8080), redirect, at(f.node, 0), podIngress, redirect, "host_reply"},
		{"itself, bridged", n.pod1, bridged, at(f.bridged, 8080), redirect, at(f.node, 0), podIngress, redirect, "host_reply"},
	}
}

func forEachPodFlow(t *testing.T, protocols []uint8, test func(t *testing.T, n *node, f family, protocol uint8, c podFlow)) {
	forEach(t, protocols, func(t *testing.T, n *node, f family, protocol uint8) {
		n.linkPods(t)
		for i, c := range podFlows(n, f) {
			dial := clusterIP(f, i)
			pool := n.addPool(t, VerdictServe, []Slot{n.addBackend(t, c.backend, protocol)})
			// A pod's pool is the outside one, for no detector is configured.
			n.addFrontend(t, dial, protocol, Frontend{Service: pool, Outside: pool, Kind: KindClusterIP})
			t.Run(c.name, func(t *testing.T) { test(t, n, f, protocol, c) })
		}
	})
}

// dialled is the first packet of c's pod to the frontend whose backend is c's.
func (n *node) dialledBy(t testing.TB, f family, protocol uint8, c podFlow) packet {
	t.Helper()
	for i, other := range podFlows(n, f) {
		if other.name == c.name {
			return f.first(protocol, c.client.Port(), clusterIP(f, i)).from(c.client)
		}
	}
	t.Fatalf("no frontend for %s", c.name)
	return packet{}
}

// A pod's connection, translated both ways on its own link.
func TestPod(t *testing.T) {
	forEachPodFlow(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8, c podFlow) {
		in := n.dialledBy(t, f, protocol, c)
		frontend := in.dst
		sent := n.must(t, podIngress(c.link, in, c.verdict, in.from(c.source).to(c.backend), "flow_new pod_forward"))
		stub, record := n.mustBeIn(t, "embryos", in, sent)
		const ingressHere, egressHere = uint32(svcproxyFlowFlagFLOW_AT_POD_INGRESS), uint32(svcproxyFlowFlagFLOW_AT_POD_EGRESS)
		answerHere := map[bool]uint32{true: ingressHere, false: egressHere}[strings.HasPrefix(c.name, "itself")]
		at := uint32(svcproxyFlowFlagFLOW_AT | svcproxyFlowFlagFLOW_OTHER_AT)
		if stub.Flags&at != ingressHere|answerHere<<4 || record.Flags&at != answerHere|ingressHere<<4 {
			t.Errorf("entries are met at %#x and %#x", stub.Flags&at, record.Flags&at)
		}
		if stub.Ifindex != uint32(c.link.index) {
			t.Errorf("flow came by %d, want %d", stub.Ifindex, c.link.index)
		}

		reply := sent.answer(syn|ack, 7000, 1001, "answer")
		back := func() packet { return reply.from(frontend).to(c.client) }
		n.must(t, c.answerIn(c.link, reply, c.answer, back(), c.reply))
		in.flags, in.seq, in.ack, in.payload = ack, 1001, 7001, "more"
		n.must(t, podIngress(c.link, in, c.verdict, in.from(sent.src).to(c.backend), "flow_promoted pod_forward"))
		stub, record = n.mustBeIn(t, "flows", in, sent)
		if stub.Packets != 2 || record.Packets != 1 {
			t.Errorf("%d packets from the client and %d to it, want 2 and 1", stub.Packets, record.Packets)
		}
		reply.flags, reply.payload = ack, "and more"
		n.must(t, c.answerIn(c.link, reply, c.answer, back(), c.reply))

		// What the backend says to the pod, or the pod to the backend, of its own is left as it is.
		direct := in.to(c.backend)
		direct.src = netip.AddrPortFrom(c.client.Addr(), 40001)
		n.must(t, podIngress(c.link, direct, next, direct, ""))
		other := direct.answer(ack, 7000, 1001, "of its own")
		n.must(t, podEgress(c.link, other, next, other, ""))
		if protocol == udp {
			return
		}

		in.flags = fin | ack
		n.must(t, podIngress(c.link, in, c.verdict, in.from(sent.src).to(c.backend), "pod_forward"))
		again := n.dialledBy(t, f, protocol, c)
		anew := n.must(t, podIngress(c.link, again, c.verdict, again.from(c.source).to(c.backend), "flow_reselected flow_new pod_forward"))
		n.mustBeIn(t, "embryos", again, anew)
	})
}

// The parts of a pod's datagrams go where the first goes, and look alike.
func TestPodFragments(t *testing.T) {
	forEachPodFlow(t, []uint8{udp}, func(t *testing.T, n *node, f family, _ uint8, c podFlow) {
		in := n.dialledBy(t, f, udp, c)
		sent := in
		source := c.source
		for i, p := range datagram(77, in) {
			out := n.must(t, podIngress(c.link, p, c.verdict, p.from(source).to(c.backend), []string{"flow_new pod_forward", "fragment"}[min(i, 1)]))
			if i == 0 {
				sent, source = out, out.src
			}
		}
		sent.more, sent.whole = false, ""
		for i, p := range datagram(99, sent.answer(0, 0, 0, "")) {
			n.must(t, c.answerIn(c.link, p, c.answer, p.from(in.dst).to(c.client), []string{c.reply, "fragment"}[min(i, 1)]))
		}
	})
}

// One port of a pod, two frontends, one backend: the second flow gets another port, and each its answers.
func TestPodTwoFrontendsOneBackend(t *testing.T) {
	forEach(t, []uint8{tcp, udp, sctp}, func(t *testing.T, n *node, f family, protocol uint8) {
		n.linkPods(t)
		client, backend := at(nth(f.pod, 1), 40000), at(f.onC, 8080)
		pool := n.serve(t, clusterIP(f, 1), protocol, backend)
		n.addFrontend(t, clusterIP(f, 2), protocol, Frontend{Service: pool, Outside: pool, Kind: KindClusterIP})
		one, two := f.first(protocol, 40000, clusterIP(f, 1)).from(client), f.first(protocol, 40000, clusterIP(f, 2)).from(client)
		first := n.must(t, podIngress(n.pod0, one, next, one.to(backend), "flow_new pod_forward"))
		second := n.must(t, podIngress(n.pod0, two, next, two.from(at(client.Addr(), 0)).to(backend), "flow_new pod_forward snat_retry"))
		for in, sent := range map[*packet]packet{&one: first, &two: second} {
			n.mustBeIn(t, "embryos", *in, sent)
			reply := sent.answer(syn|ack, 7000, 1001, "answer")
			if protocol == sctp {
				reply.seq, reply.payload = clientTag, initAck(backendTag)
			}
			n.must(t, podEgress(n.pod0, reply, next, reply.from(in.dst).to(client), "pod_reply"))
		}
	})
}

// Two pods that dial the same frontend from the same port, on one link and on two, are told apart.
func TestTwoPods(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		n.linkPods(t)
		frontend, backend := clusterIP(f, 1), at(f.onC, 8080)
		n.serve(t, frontend, protocol, backend)
		clients := map[netip.Addr]*port{nth(f.pod, 1): n.pod0, nth(f.pod, 2): n.pod0, f.bridged: n.pod1}
		var sent []packet
		for client, link := range clients {
			in := f.first(protocol, 40000, frontend).from(at(client, 40000))
			sent = append(sent, n.must(t, podIngress(link, in, next, in.to(backend), "flow_new pod_forward")))
		}
		for _, p := range sent {
			reply := p.answer(syn|ack, 7000, 1001, "answer")
			n.must(t, podEgress(clients[p.src.Addr()], reply, next, reply.from(frontend), "pod_reply"))
		}
	})
}

// What passes a pod's link but is rewritten elsewhere: an outside client's connection to a pod, and its answers.
func TestPodLinkLeavesUplinkFlowsAlone(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		n.linkPods(t)
		frontend, backend := at(f.node, nodePort), at(f.pod, 8080)
		n.serve(t, frontend, protocol, backend)
		// The pod has flows of its own, so that its link's filter is open.
		own := f.first(protocol, 40000, frontend).from(at(nth(f.pod, 1), 40000))
		n.must(t, podIngress(n.pod0, own, next, own.to(backend), "flow_new pod_forward"))

		in := f.first(protocol, 40000, frontend)
		sent := n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_new forward_local"))
		n.must(t, podEgress(n.pod0, sent, next, sent, ""))
		reply := sent.answer(syn|ack, 7000, 1001, "answer")
		n.must(t, podIngress(n.pod0, reply, next, reply, ""))
		n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
		in.flags, in.seq, in.ack, in.payload = ack, 1001, 7001, "more"
		sent = n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_promoted forward_local"))
		n.must(t, podEgress(n.pod0, sent, next, sent, ""))
		reply.flags = ack
		n.must(t, podIngress(n.pod0, reply, next, reply, ""))
		stub, record := n.mustBeIn(t, "flows", in, sent)
		if stub.Packets != 2 || record.Packets != 1 {
			t.Errorf("%d packets from the client and %d to it, want 2 and 1", stub.Packets, record.Packets)
		}
		// Nor are the pod's own rewritten at the uplink that they leave by.
		away := at(f.onC, 8080)
		n.serve(t, at(f.node, nodePort+1), protocol, away)
		dial := f.first(protocol, 41000, at(f.node, nodePort+1)).from(at(f.pod, 41000))
		left := n.must(t, podIngress(n.pod0, dial, next, dial.to(away), "flow_new pod_forward"))
		n.must(t, egress(n.eth1, left, next, left, ""))
		answer := left.answer(syn|ack, 7000, 1001, "answer")
		n.must(t, ingress(n.eth1, answer, next, answer, ""))
		n.must(t, podEgress(n.pod0, answer, next, answer.from(dial.dst), "pod_reply"))
	})
}

// A link that is not in our table, a loopback NodePort, the middle of a connection: not ours.
func TestPodNotOurs(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend := clusterIP(f, 1)
		pool := n.serve(t, frontend, protocol, at(f.onC, 8080))
		n.addFrontend(t, clusterIP(f, 2), protocol, Frontend{Service: 2, Outside: pool, Flags: FlagHostOnly, Kind: KindNodePort})
		in := f.first(protocol, 40000, frontend).from(at(nth(f.pod, 1), 40000))
		n.must(t, podIngress(n.pod0, in, next, in, "")) // not linked
		n.linkPods(t)
		for _, p := range []packet{in.to(clusterIP(f, 2)), in.to(at(frontend.Addr(), 81)), in.to(clusterIP(f, 3)), in.to(at(f.client, n.first))} {
			n.must(t, podIngress(n.pod0, p, next, p, ""))
			n.must(t, podEgress(n.pod0, p, next, p, ""))
		}
		if protocol == tcp {
			middle := in
			middle.flags = ack
			n.must(t, podIngress(n.pod0, middle, next, middle, ""))
		}
		n.must(t, podIngress(n.pod0, in, next, in.to(at(f.onC, 8080)), "flow_new pod_forward"))
		n.mustDo(t, func() error { return n.SetLinks(n.uplinkConfigs(), nil) })
		again := in.from(at(nth(f.pod, 1), 40001))
		n.must(t, podIngress(n.pod0, again, next, again, ""))
	})
}

// A pod that cannot be answered as the node, because the link has no address of the family, is not let through.
func TestHairpinWithoutAddress(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		links := n.podConfigs()
		for i := range links {
			links[i].SNAT4, links[i].SNAT6 = netip.Addr{}, netip.Addr{}
		}
		n.mustDo(t, func() error { return n.SetLinks(n.uplinkConfigs(), links) })
		n.serve(t, clusterIP(f, 1), protocol, at(f.pod, 8080))
		in := f.first(protocol, 40000, clusterIP(f, 1)).from(at(f.pod, 40000))
		n.must(t, podIngress(n.pod0, in, shot, in, "snat_no_address"))
		if _, where := n.entry(t, in.tuple()); where != "" {
			t.Errorf("a flow is in %s", where)
		}
		other := in.from(at(nth(f.pod, 1), 40000))
		n.must(t, podIngress(n.pod0, other, next, other.to(at(f.pod, 8080)), "flow_new pod_forward"))
	})
}

// A pod whose backend is gone dials another; ABORTs and RSTs of living flows are translated as well.
func TestPodBackendGone(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		n.linkPods(t)
		frontend, before, after := clusterIP(f, 1), at(f.onC, 8080), at(f.onB, 8080)
		gone := n.addBackend(t, before, protocol)
		pool := n.addPool(t, VerdictServe, []Slot{gone})
		n.addFrontend(t, frontend, protocol, Frontend{Service: 1, Outside: pool, Kind: KindClusterIP})
		in := f.first(protocol, 40000, frontend).from(at(f.pod, 40000))
		n.must(t, podIngress(n.pod0, in, next, in.to(before), "flow_new pod_forward"))
		n.SetPool(pool, n.Pool(n.addPool(t, VerdictServe, []Slot{n.addBackend(t, after, protocol)})))
		n.SetBackend(gone.Backend, Backend{})
		sent := n.must(t, podIngress(n.pod0, in, next, in.to(after), "flow_reselected flow_new pod_forward"))
		n.mustBeIn(t, "embryos", in, sent)
		n.SetPool(pool, Pool{Verdict: VerdictReject})
		n.SetBackend(n.ids-1, Backend{})
		other := in.from(at(f.pod, 40001))
		n.must(t, rejected(podIngress(n.pod0, other, 0, other, "")))
	})
}

// The programs at their places: by the stack, back out of the same link, and onto the bridge.
func TestPodOnTheWire(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		n.linkPods(t)
		pod, away, bridged := n.mustWire(t, "pod0"), n.mustWire(t, "eth1"), n.mustWire(t, "pod1")
		client := at(f.pod, 40000)
		n.serve(t, clusterIP(f, 1), protocol, at(f.onC, 8080))
		n.serve(t, clusterIP(f, 2), protocol, at(f.pod, 8080))
		n.serve(t, clusterIP(f, 3), protocol, at(f.neighbour, 8080))
		n.serve(t, clusterIP(f, 4), protocol, at(f.bridged, 8080))

		in := withMAC(f.first(protocol, 40000, clusterIP(f, 1)).from(client), n.pod0)
		pod.mustSend(t, in.bytes())
		sent := away.mustReceive(t, n, leaving(in.hop().to(at(f.onC, 8080)), n.eth1))
		reply := sent.answer(syn|ack, 7000, 1001, "answer")
		away.mustSend(t, withMAC(reply, n.eth1).bytes())
		pod.mustReceive(t, n, leaving(reply.hop().from(in.dst), n.pod0))

		in = withMAC(f.first(protocol, 40000, clusterIP(f, 2)).from(client), n.pod0)
		pod.mustSend(t, in.bytes())
		sent = pod.mustReceive(t, n, leaving(in.from(at(f.node, 0)).to(at(f.pod, 8080)), n.pod0))
		reply = sent.answer(syn|ack, 7000, 1001, "answer")
		pod.mustSend(t, withMAC(reply, n.pod0).bytes())
		pod.mustReceive(t, n, leaving(reply.from(in.dst).to(client), n.pod0))

		// The bridge has learned nobody and has one port: its frames come out there.
		client = at(f.bridged, 40000)
		in = withMAC(f.first(protocol, 40000, clusterIP(f, 3)).from(client), n.cni0)
		bridged.mustSend(t, in.bytes())
		bridged.mustReceive(t, n, leaving(in.to(at(f.neighbour, 8080)), n.cni0))
		in = withMAC(f.first(protocol, 40000, clusterIP(f, 4)).from(client), n.cni0)
		bridged.mustSend(t, in.bytes())
		sent = bridged.mustReceive(t, n, leaving(in.from(at(f.node, 0)).to(at(f.bridged, 8080)), n.cni0))
		reply = sent.answer(syn|ack, 7000, 1001, "answer")
		bridged.mustSend(t, withMAC(reply, n.cni0).bytes())
		bridged.mustReceive(t, n, leaving(reply.from(in.dst).to(client), n.cni0))
	})
}
