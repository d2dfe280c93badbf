package bpf

import (
	"net/netip"
	"testing"
)

var serviceRanges = []netip.Prefix{prefix("10.96.0.0/16"), prefix("fd96::/112"), prefix("10.97.128.9/20")}

// clusterIP is an address and port of the Service ranges.
func clusterIP(f family, i int) netip.AddrPort {
	if f.node.Is6() {
		return at(nth(addr("fd96::"), i), 80)
	}
	return at(nth(addr("10.96.0.0"), i), 80)
}

// ping is an ICMP message of this kind to where p goes.
func ping(p packet, kind byte) packet {
	p.protocol, p.raw = 1, true
	start := uint32(0)
	message := append([]byte{kind, 0, 0, 0, 0, 1, 0, 1}, "abcdefghijklm"...)
	if p.v6() {
		p.protocol = 58
		start = p.pseudoSum(len(message))
	}
	check := ^sum(start, message)
	message[2], message[3] = byte(check>>8), byte(check)
	p.payload = string(message)
	return p
}

// Addresses of the Service ranges do not leak out of the node.
func TestServiceRanges(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			n := newNode(t)
			n.linkPods(t)
			dial := clusterIP(f, 10)
			n.serve(t, dial, tcp, at(f.pod, 8080))
			echo := byte(8)
			if f.node.Is6() {
				echo = 128
			}
			to := func(protocol uint8, dst netip.AddrPort) packet {
				p := f.first(protocol, 40000, dst)
				p.ethSrc = [6]byte(neighbourMAC)
				return p
			}
			unknown := to(udp, dial)
			unknown.protocol, unknown.raw, unknown.payload = 253, true, "an experiment (RFC 3692)"
			used := []packet{to(tcp, at(dial.Addr(), 81)), to(udp, dial), to(sctp, dial), ping(to(tcp, dial), echo), unknown}
			ackOnly := to(tcp, at(dial.Addr(), 81))
			ackOnly.flags = ack
			used = append(used, ackOnly)
			nobody := clusterIP(f, 11)
			unallocated := []packet{to(tcp, nobody), to(udp, nobody), ping(to(tcp, nobody), echo), ping(to(tcp, nobody), 3)}
			beyond := at(nth(dial.Addr(), -10+1<<16-1), 80) // 10.96.255.255, fd96::ffff
			unallocated = append(unallocated, to(tcp, beyond))
			outside := []netip.Addr{addr("10.95.255.255"), addr("10.97.0.0"), addr("10.97.127.255"), addr("10.97.144.0"), f.client}
			inside := []netip.Addr{addr("10.97.128.0"), addr("10.97.143.255")}
			if f.node.Is6() {
				outside = []netip.Addr{addr("fd95:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), addr("fd96::1:0"), f.client}
				inside = nil
			}
			for _, a := range inside {
				unallocated = append(unallocated, to(tcp, at(a, 80)))
			}
			leave := func(p packet) {
				t.Helper()
				n.must(t, ingress(n.eth0, p, next, p, ""))
				n.must(t, podIngress(n.pod0, p, next, p, ""))
				n.must(t, own(n.eth0, p, next, p, ""))
				n.must(t, egress(n.eth0, p, next, p, ""))
			}
			for _, p := range append(used, unallocated...) {
				leave(p) // no ranges are known
			}
			if err := n.SetServiceRanges(serviceRanges); err != nil {
				t.Fatal(err)
			}
			t.Run("of a Service", func(t *testing.T) {
				for _, p := range used {
					n.must(t, rejected(podIngress(n.pod0, p, 0, p, "")))
					n.must(t, rejected(own(n.eth0, p, 0, p, "")))
					n.must(t, ingress(n.eth0, p, next, p, ""))
				}
			})
			t.Run("of nobody", func(t *testing.T) {
				for _, p := range unallocated {
					n.must(t, podIngress(n.pod0, p, shot, p, "packet_unallocated"))
					n.must(t, own(n.eth0, p, shot, p, "packet_unallocated"))
					// Forwarded by the stack, wherever it came in.
					n.must(t, egress(n.eth0, p, shot, p, "packet_unallocated"))
					n.must(t, ingress(n.eth0, p, next, p, ""))
				}
			})
			t.Run("forwarded from outside", func(t *testing.T) {
				for _, p := range used {
					n.must(t, rejected(egress(n.eth0, p, 0, p, "")))
				}
			})
			t.Run("others", func(t *testing.T) {
				for _, a := range outside {
					leave(to(tcp, at(a, 80)))
					leave(ping(to(tcp, at(a, 80)), echo))
				}
			})
			// And the frontend itself is served.
			in := to(tcp, dial)
			n.must(t, podIngress(n.pod0, in.from(at(nth(f.pod, 1), 40000)), next, in.from(at(nth(f.pod, 1), 40000)).to(at(f.pod, 8080)), "flow_new pod_forward"))
		})
	}
}

// More ranges than the programs know are reported, and the ones that fit hold.
func TestTooManyServiceRanges(t *testing.T) {
	n := newNode(t)
	f := families[0]
	var many []netip.Prefix
	for i := range len(serviceRangeList{}.Range) + 1 {
		many = append(many, netip.PrefixFrom(nth(addr("10.200.0.0"), i<<8), 24))
	}
	if err := n.SetServiceRanges(many[:len(many)-1]); err != nil {
		t.Fatal(err)
	}
	if err := n.SetServiceRanges(many); err == nil {
		t.Error("17 ranges are no error")
	}
	for i, p := range many {
		in := f.first(tcp, 40000, at(p.Addr(), 80))
		if i < len(many)-1 {
			n.must(t, own(n.eth0, in, shot, in, "packet_unallocated"))
		} else {
			n.must(t, own(n.eth0, in, next, in, ""))
		}
	}
}
