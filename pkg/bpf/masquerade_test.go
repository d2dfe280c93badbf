package bpf

import (
	"net/netip"
	"testing"
)

func masqueradeAll(o *Options) { o.MasqueradeAll = true }

// hook is a program at a link, as a step.
type hook func(p packet, verdict int, out packet, counters string) step

func hooked(program func(*port, packet, int, packet, string) step, at *port) hook {
	return func(in packet, verdict int, out packet, counters string) step {
		return program(at, in, verdict, out, counters)
	}
}

// Whoever dials a ClusterIP, its backend sees the node's address on the link to the backend; netfilter sees client
// and backend, both ways.
func TestMasqueradeAll(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		links := n.podConfigs()
		onPod0, onPod1 := addr(map[string]string{"IPv4": "192.0.2.77", "IPv6": "2001:db8:2::77"}[f.name]), addr(map[string]string{"IPv4": "10.5.0.1", "IPv6": "fd00:5::1"}[f.name])
		links[0].SNAT4, links[0].SNAT6, links[1].SNAT4, links[1].SNAT6 = onPod0, onPod0, onPod1, onPod1
		n.mustDo(t, func() error { return n.SetLinks(n.uplinkConfigs(), links) })
		pod, bridged := at(nth(f.pod, 1), 40000), at(f.bridged, 40000)
		for i, c := range []struct {
			name            string
			client, backend netip.AddrPort
			source          netip.Addr
			in, out         hook // of what the client says
			back, home      hook // of the answer
		}{
			{"pod to another node's", pod, at(f.onC, 8080), n.eth1.addr[f.name],
				hooked(podIngress, n.pod0), hooked(egress, n.eth1), hooked(ingress, n.eth1), hooked(podEgress, n.pod0)},
			{"pod to pod", pod, at(f.pod, 8080), onPod0,
				hooked(podIngress, n.pod0), hooked(podEgress, n.pod0), hooked(podIngress, n.pod0), hooked(podEgress, n.pod0)},
			{"bridged pod to its neighbour", bridged, at(f.neighbour, 8080), onPod1,
				hooked(podIngress, n.pod1), hooked(podEgress, n.pod1), hooked(podIngress, n.pod1), hooked(podEgress, n.pod1)},
			{"bridged pod to another node's", bridged, at(f.onC, 8080), n.eth1.addr[f.name],
				hooked(podIngress, n.pod1), hooked(egress, n.eth1), hooked(ingress, n.eth1), hooked(podEgress, n.pod1)},
			{"bridged pod to one that is not", bridged, at(f.pod, 8080), onPod0,
				hooked(podIngress, n.pod1), hooked(podEgress, n.pod0), hooked(podIngress, n.pod0), hooked(podEgress, n.pod1)},
			{"client outside to pod", at(f.client, 40000), at(f.pod, 8080), onPod0,
				hooked(ingress, n.eth0), hooked(podEgress, n.pod0), hooked(podIngress, n.pod0), hooked(egress, n.eth0)},
			{"client outside to bridged pod", at(f.client, 40000), at(f.neighbour, 8080), f.node,
				hooked(ingress, n.eth0), hooked(podEgress, n.pod1), hooked(podIngress, n.pod1), hooked(egress, n.eth0)},
		} {
			t.Run(c.name, func(t *testing.T) {
				frontend := clusterIP(f, 10+i)
				pool := n.addPool(t, VerdictServe, []Slot{n.addBackend(t, c.backend, protocol)})
				n.addFrontend(t, frontend, protocol, Frontend{Service: pool, Inside: pool, Outside: pool, Kind: KindClusterIP, Flags: FlagNoSocket})
				pass := func(in, out hook, p, half, whole packet, counters string) packet {
					half = n.must(t, in(p, next, half, counters)).hop()
					return n.must(t, out(half, next, whole.hop().from(at(whole.src.Addr(), half.src.Port())), ""))
				}
				answer := func(p packet, port uint16) {
					t.Helper()
					half := n.must(t, c.back(p, next, p.to(at(c.client.Addr(), port)), "reply_stack")).hop()
					n.must(t, c.home(half, next, p.hop().from(frontend).to(c.client), ""))
				}
				in := f.first(protocol, 40000, frontend).from(c.client)
				sent := pass(c.in, c.out, in, in.from(at(c.client.Addr(), 0)).to(c.backend), in.from(at(c.source, 0)).to(c.backend), "flow_new forward_stack")
				sent.ttl++ // as the entries know nothing of it
				n.mustBeIn(t, "embryos", in, sent)
				reply := sent.answer(syn|ack, 7000, 1001, "answer")
				answer(reply, sent.src.Port())
				in.flags, in.seq, in.ack, in.payload = ack, 1001, 7001, "more"
				pass(c.in, c.out, in, in.from(at(c.client.Addr(), sent.src.Port())).to(c.backend), in.from(sent.src).to(c.backend), "flow_promoted forward_stack")
				n.mustBeIn(t, "flows", in, sent)
				reply.flags = ack
				answer(reply, sent.src.Port())
				if protocol != udp {
					return
				}
				for i, p := range datagram(77, in) {
					counters := []string{"forward_stack", "fragment"}[min(i, 1)]
					half := n.must(t, c.in(p, next, p.from(at(c.client.Addr(), sent.src.Port())).to(c.backend), counters)).hop()
					n.must(t, c.out(half, next, p.hop().from(sent.src).to(c.backend), []string{"", "fragment"}[min(i, 1)]))
				}
			})
		}
	}, masqueradeAll)
}

// What backends see otherwise is as it is without it: other nodes' backends, pods that reach themselves, processes of
// the node, and frontends that are no ClusterIP.
func TestMasqueradeAllLeaves(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		n.linkPods(t)
		pod := at(nth(f.pod, 1), 40000)
		serve := func(i int, kind uint8, backend netip.AddrPort) (frontend netip.AddrPort) {
			frontend = clusterIP(f, i)
			pool := n.addPool(t, VerdictServe, []Slot{n.addBackend(t, backend, protocol)})
			n.addFrontend(t, frontend, protocol, Frontend{Service: pool, Inside: pool, Outside: pool, Kind: kind})
			return frontend
		}
		in := f.first(protocol, 40000, serve(1, KindClusterIP, at(f.onC, 8080)))
		n.must(t, ingress(n.eth0, in, redirect, in.hop().from(at(n.eth1.addr[f.name], 0)).to(at(f.onC, 8080)), "flow_new forward_redirect"))
		in = in.from(pod).to(serve(2, KindClusterIP, at(pod.Addr(), 8080)))
		n.must(t, podIngress(n.pod0, in, redirect, in.from(at(f.node, 0)).to(at(pod.Addr(), 8080)), "flow_new pod_forward"))
		in = in.to(serve(3, KindClusterIP, at(f.node, 8080)))
		n.must(t, podIngress(n.pod0, in, next, in.to(at(f.node, 8080)), "flow_new pod_forward"))
		in = in.to(serve(4, KindExternalIP, at(f.onC, 8080)))
		n.must(t, podIngress(n.pod0, in, next, in.to(at(f.onC, 8080)), "flow_new pod_forward"))
		in = in.to(serve(5, KindClusterIP, at(f.onB, 8080)))
		in.ttl, in.src = 64, at(f.node, 40000)
		n.must(t, own(n.eth0, in, redirect, in.to(at(f.onB, 8080)), "flow_new host_forward"))
	}, masqueradeAll)
}

// Without an address of the family the node cannot be in anybody's place.
func TestMasqueradeWithoutAddress(t *testing.T) {
	forEach(t, []uint8{tcp}, func(t *testing.T, n *node, f family, protocol uint8) {
		links := n.podConfigs()
		for i := range links {
			links[i].SNAT4, links[i].SNAT6 = netip.Addr{}, netip.Addr{}
		}
		n.mustDo(t, func() error { return n.SetLinks(n.uplinkConfigs(), links) })
		pool := n.addPool(t, VerdictServe, []Slot{n.addBackend(t, at(f.pod, 8080), protocol)})
		n.addFrontend(t, clusterIP(f, 1), protocol, Frontend{Service: pool, Outside: pool, Kind: KindClusterIP})
		in := f.first(protocol, 40000, clusterIP(f, 1)).from(at(nth(f.pod, 1), 40000))
		n.must(t, podIngress(n.pod0, in, shot, in, "snat_no_address"))
		if _, where := n.entry(t, in.tuple()); where != "" {
			t.Errorf("a flow is in %s", where)
		}
	}, masqueradeAll)
}
