package bpf

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// unreachable is the ICMP error that a client gets about its packet p, if nobody serves where it goes.
func (p packet) unreachable() []byte {
	return p.refusal(map[bool][]byte{false: {3, 3, 0, 0, 0, 0, 0, 0}, true: {1, 4, 0, 0, 0, 0, 0, 0}}[p.v6()])
}

// tooBig is the one that it gets if p is longer than mtu, the most that the way on takes.
func (p packet) tooBig(mtu int) []byte {
	icmp := map[bool][]byte{false: {3, 4, 0, 0, 0, 0}, true: {2, 0, 0, 0, 0, 0}}[p.v6()]
	return p.refusal(binary.BigEndian.AppendUint16(icmp, uint16(mtu)))
}

// refusal is an ICMP error of ours about a packet p: from the address that was dialled, to where p's frame came from.
func (p packet) refusal(icmp []byte) []byte {
	frame := p.bytes()
	quoted := frame[14:]
	// Linux finds an SCTP client that has sent an INIT by the tag in it (sctp_err_lookup).
	transport := map[bool]int{true: 20, false: 8}[p.protocol == tcp || p.protocol == sctp]
	if p.v6() {
		quoted = quoted[:min(len(quoted), len(p.headerV6(0))+transport)]
	} else {
		quoted = quoted[:min(len(quoted), len(p.headerV4(0))+transport)]
	}
	e := packet{ethSrc: p.ethDst, ethDst: p.ethSrc, src: p.dst, dst: p.src, protocol: 1, ttl: 64, raw: true, mayBeCut: true}
	start := uint32(0)
	if p.v6() {
		e.protocol = 58
		start = e.pseudoSum(len(icmp) + len(quoted))
	}
	icmp = append(icmp, quoted...)
	binary.BigEndian.PutUint16(icmp[2:], ^sum(start, icmp))
	e.payload = string(icmp)
	return e.bytes()
}

// rejected is s with an error for an answer.
func rejected(s step) step {
	s.verdict, s.counters = redirect, "packet_reject"
	s.frame = s.in.unreachable()
	return s
}

// silent is s with no answer: the packet is dropped as it is.
func silent(s step) step {
	s.verdict, s.out, s.counters = shot, s.in, "packet_reject"
	return s
}

// refuse makes a frontend that nobody serves.
func (n *node) refuse(t testing.TB, f family, protocol uint8, port uint16) packet {
	t.Helper()
	dst := at(f.node, port)
	pool := n.addPool(t, VerdictReject, nil)
	n.addFrontend(t, dst, protocol, Frontend{Service: pool, Inside: pool, Outside: pool, Kind: KindNodePort})
	in := f.first(protocol, 40000, dst)
	in.ethSrc = [6]byte(neighbourMAC)
	return in
}

// linkPods puts the programs on the pods' links.
func (n *node) linkPods(t testing.TB) {
	t.Helper()
	n.mustDo(t, func() error { return n.SetLinks(n.uplinkConfigs(), n.podConfigs()) })
}

const podCookie = 0x7700000042

func (n *node) podConfigs() []PodLinkConfig {
	snat4, snat6 := n.eth0.addr["IPv4"], n.eth0.addr["IPv6"]
	return []PodLinkConfig{
		{Index: n.pod0.index, Name: "pod0", SNAT4: snat4, SNAT6: snat6, NetnsCookie: podCookie},
		{Index: n.pod1.index, Name: "pod1", SNAT4: snat4, SNAT6: snat6, Bridge: n.cni0.index},
	}
}

// where are the places that clients without a backend are told so.
var where = map[string]func(n *node, in packet) step{
	"uplink ingress": func(n *node, in packet) step { return ingress(n.eth0, in, 0, in, "") },
	"pod ingress":    func(n *node, in packet) step { return podIngress(n.pod0, in, 0, in, "") },
	"uplink egress": func(n *node, in packet) step {
		in.ethSrc, in.ethDst = n.eth0.mac, [6]byte(neighbourMAC)
		return own(n.eth0, in, 0, in, "")
	},
}

// Who dials what nobody serves gets port unreachable, byte for byte, wherever it is met.
func TestReject(t *testing.T) {
	forEach(t, []uint8{tcp, udp, sctp}, func(t *testing.T, n *node, f family, protocol uint8) {
		n.linkPods(t)
		in := n.refuse(t, f, protocol, nodePort)
		long := in
		long.payload += strings.Repeat("x", 1400)
		huge := in
		huge.payload += strings.Repeat("x", 3000)
		options := in
		options.options, options.extension = []byte{1, 1, 1, 1, 1, 1, 1, 0}, 60
		if in.v6() {
			options.options = []byte{protocol, 0, 1, 4, 0, 0, 0, 0}
		}
		padded := in
		padded.payload = "odd"
		if protocol == sctp {
			padded.payload = in.payload
		}
		first := in
		first.payload += strings.Repeat("x", 800)
		first = first.fragments(560)[0]
		for place, make := range where {
			t.Run(place, func(t *testing.T) {
				for name, c := range map[string]struct {
					in  packet
					gso int
				}{
					"first packet":              {in, 0},
					"odd length":                {padded, 0},
					"long":                      {long, 0},
					"many segments":             {huge, 1300},
					"options":                   {options, 0},
					"first fragment":            {first, 0},
					"hop limit at its end":      {func() packet { p := in; p.ttl = 1; return p }(), 0},
					"without transport's check": {func() packet { p := in; p.noChecksum = true; return p }(), 0},
				} {
					t.Run(name, func(t *testing.T) {
						s := rejected(make(n, c.in))
						s.gso = c.gso
						n.must(t, s)
						if _, where := n.entry(t, c.in.tuple()); where != "" {
							t.Errorf("a flow is in %s", where)
						}
					})
				}
			})
		}
	})
}

// Extension headers: all that fits into a quote is quoted. Beyond that, nothing is answered.
func TestRejectExtensionHeaders(t *testing.T) {
	n := newNode(t)
	f := families[1]
	for _, protocol := range []uint8{tcp, udp} {
		for _, extension := range []uint8{0, 43, 51, 60} {
			for _, length := range []int{8, 16, 24, 32, 40} {
				in := n.refuse(t, f, protocol, nodePort)
				in.options, in.extension = make([]byte, length), extension
				in.options[0], in.options[1] = protocol, byte(length/8-1)
				in.payload = "enough to be cut"
				if extension == 51 {
					in.options[1] = byte(length/4 - 2)
				}
				quoted := 40 + length + map[uint8]int{tcp: 20, udp: 8}[protocol]
				s := ingress(n.eth0, in, 0, in, "")
				t.Run(fmt.Sprintf("%s/header %d/%d bytes", ProtocolName(protocol), extension, length), func(t *testing.T) {
					if quoted <= 80 {
						n.must(t, rejected(s))
					} else {
						n.must(t, silent(s))
					}
				})
			}
		}
	}
}

// What must not be answered (RFC 1122, 3.2.2; RFC 4443, 2.4): it is dropped.
func TestRejectIsSilent(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			n := newNode(t)
			n.linkPods(t)
			if err := n.SetServiceRanges(serviceRanges); err != nil {
				t.Fatal(err)
			}
			in := n.refuse(t, f, tcp, nodePort)
			dst := clusterIP(f, 10)
			n.serve(t, dst, tcp, at(f.pod, 8080))
			in.dst = at(dst.Addr(), 81)
			t.Run("reset", func(t *testing.T) {
				p := in
				p.flags = rst
				n.must(t, silent(podIngress(n.pod0, p, 0, p, "")))
				n.must(t, silent(own(n.eth0, p, 0, p, "")))
				p.flags = rst | ack
				n.must(t, silent(podIngress(n.pod0, p, 0, p, "")))
			})
			t.Run("SCTP ABORT", func(t *testing.T) {
				p := in
				p.protocol, p.payload = sctp, chunk(6, "")
				n.must(t, silent(podIngress(n.pod0, p, 0, p, "")))
			})
			t.Run("ICMP errors", func(t *testing.T) {
				errs, questions := []byte{3, 4, 5, 11, 12}, []byte{0, 8, 13, 14}
				if in.v6() {
					errs, questions = []byte{1, 2, 3, 4, 100, 127}, []byte{128, 129, 133, 139}
				}
				for _, kind := range errs {
					p := ping(in, kind)
					n.must(t, silent(podIngress(n.pod0, p, 0, p, "")))
					n.must(t, silent(own(n.eth0, p, 0, p, "")))
				}
				for _, kind := range questions {
					p := ping(in, kind)
					n.must(t, rejected(podIngress(n.pod0, p, 0, p, "")))
				}
			})
			t.Run("later fragments of ICMP", func(t *testing.T) {
				p := ping(in, map[bool]byte{false: 8, true: 128}[in.v6()])
				p.id, p.offset, p.payload = 77, 800, "the rest of a long question"
				n.must(t, silent(podIngress(n.pod0, p, 0, p, "")))
				n.must(t, silent(own(n.eth0, p, 0, p, "")))
			})
		})
	}
}

// A flood is answered at a bounded rate; who comes after it is answered again.
func TestRejectRate(t *testing.T) {
	forEach(t, []uint8{udp}, func(t *testing.T, n *node, f family, _ uint8) {
		in := at0(n, n.refuse(t, f, udp, nodePort))
		frame, want := in.bytes(), string(in.unreachable())
		before := n.counters(t)
		const burst = 1000
		answers, begun := 0, time.Now()
		n.mustDo(t, func() error {
			for range burst {
				opts := n.options(frame, n.eth0)
				verdict, err := n.coll.Programs["ingress_l2"].Run(opts)
				if err != nil {
					return err
				}
				switch {
				case verdict == redirect && string(opts.DataOut) == want:
					answers++
				case verdict == shot && string(opts.DataOut) == string(frame):
				default:
					return fmt.Errorf("verdict %d, packet\n%s", verdict, describe(opts.DataOut))
				}
			}
			return nil
		})
		// The clock may be coarse, and each CPU that the loop has run on grants a burst of its own.
		cpus := ebpf.MustPossibleCPU()
		spent := time.Since(begun) + 10*time.Millisecond
		if most := 50*cpus + int(spent.Milliseconds())*cpus; answers < 50 || answers > most {
			t.Errorf("%d errors in %s on %d CPUs, want 50 to %d", answers, spent, cpus, most)
		}
		moved := delta(before, n.counters(t))
		if len(moved) != 1 || moved["packet_reject"] != burst {
			t.Errorf("counters %v, want packet_reject %d alone", moved, burst)
		}
		mustEventually(t, func() error {
			if verdict, _ := n.run(t, "ingress_l2", n.eth0, frame, 0); verdict != redirect {
				return fmt.Errorf("verdict %d after the flood", verdict)
			}
			return nil
		})
	})
}

// The error at its places: back out to the client, and up to the node's own stack.
func TestRejectOnTheWire(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		n.linkPods(t)
		for name, p := range map[string]*port{"eth0": n.eth0, "pod0": n.pod0} {
			w := n.mustWire(t, name)
			in := n.refuse(t, f, protocol, nodePort)
			in.ethDst = p.mac
			w.mustSend(t, in.bytes())
			w.mustReceiveFrame(t, in.unreachable())
		}
	})
}
