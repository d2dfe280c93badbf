package bpf

import (
	"bytes"
	"net/netip"
	"testing"
)

// Frontends that no backend answers, and tables that contradict themselves.
func TestVerdicts(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		gone := n.addBackend(t, at(f.pod, 8080), protocol)
		n.SetBackend(gone.Backend, Backend{})
		reused := n.addBackend(t, at(f.pod, 8080), protocol)
		reused.Generation--
		pool := func(p Pool) uint32 {
			id := n.addPool(t, p.Verdict, nil)
			n.SetPool(id, p)
			return id
		}
		for i, c := range []struct {
			name     string
			pool     uint32
			verdict  int
			counters string
		}{
			{"drop", pool(Pool{Verdict: VerdictDrop}), shot, "packet_drop"},
			{"never published", pool(Pool{}), next, ""},
			{"pool out of range", 1 << 30, next, ""},
			{"no slots", pool(Pool{Verdict: VerdictServe}), next, "bad_backend"},
			{"slots out of range", pool(Pool{Offset: 1 << 30, Length: 7, Verdict: VerdictServe}), next, "bad_backend"},
			{"slots beyond 32 bits", pool(Pool{Offset: 1<<32 - 1, Length: MaxPoolLength, Verdict: VerdictServe}), next, "bad_backend"},
			{"unknown verdict", pool(Pool{Verdict: 9, Length: 1}), next, ""},
			{"backend gone", n.addPool(t, VerdictServe, []Slot{gone}), next, "bad_backend"},
			{"backend reused", n.addPool(t, VerdictServe, []Slot{reused}), next, "bad_backend"},
			{"backend out of range", n.addPool(t, VerdictServe, []Slot{{Backend: 1 << 30, Generation: 1}}), next, "bad_backend"},
			{"backend 0", n.addPool(t, VerdictServe, []Slot{{}}), next, "bad_backend"},
		} {
			t.Run(c.name, func(t *testing.T) {
				frontend := at(f.node, nodePort+uint16(i))
				n.addFrontend(t, frontend, protocol, Frontend{Service: 1, Inside: 0, Outside: c.pool, Kind: KindNodePort})
				in := f.first(protocol, 40000, frontend)
				n.must(t, ingress(n.eth0, in, c.verdict, in, c.counters))
				if _, where := n.entry(t, in.tuple()); where != "" {
					t.Errorf("a flow is in %s", where)
				}
			})
		}
	})
}

// What is not dialled to a frontend goes its way unchanged and uncounted.
func TestNotOurs(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend := at(f.node, nodePort)
		n.serve(t, frontend, protocol, at(f.pod, 8080))
		n.addFrontend(t, at(f.node, nodePort+9), protocol, Frontend{Outside: n.ids, Flags: FlagHostOnly, Kind: KindNodePort})
		hello := f.first(protocol, 40000, frontend)
		hello.ethDst, hello.payload = n.eth0.mac, "long enough for a header of either family"
		change := func(f func(*packet)) []byte { p := hello; f(&p); return p.bytes() }
		frame := func(f func([]byte)) []byte { b := hello.bytes(); f(b); return b }
		other := map[uint8]uint8{tcp: udp, udp: tcp}
		cases := map[string][]byte{
			"other address":     change(func(p *packet) { p.dst = at(nth(f.node, 3), nodePort) }),
			"other port":        change(func(p *packet) { p.dst = at(f.node, nodePort+1) }),
			"other protocol":    change(func(p *packet) { p.protocol, p.flags = other[protocol], syn }),
			"in our SNAT range": change(func(p *packet) { p.dst = at(f.node, n.first) }),
			"loopback frontend": change(func(p *packet) { p.dst = at(f.node, nodePort+9) }),
			"other host":        change(func(p *packet) { p.ethDst = [6]byte{2, 1, 1, 1, 1, 1} }),
			"broadcast":         change(func(p *packet) { p.ethDst = [6]byte{255, 255, 255, 255, 255, 255} }),
			"ARP":               frame(func(b []byte) { b[12], b[13] = 8, 6 }),
			"VLAN tag inside":   append(append(hello.bytes()[:12:12], 0x81, 0, 0, 5), hello.bytes()[12:]...),
			"ICMP":              change(func(p *packet) { p.protocol = map[bool]uint8{false: 1, true: 58}[p.v6()] }),
			"SCTP":              change(func(p *packet) { p.protocol = 132 }),
			"other family": frame(func(b []byte) {
				b[12], b[13] = map[bool]byte{false: 0x86, true: 8}[hello.v6()], map[bool]byte{false: 0xdd, true: 0}[hello.v6()]
			}),
		}
		if protocol == tcp {
			for name, flags := range map[string]uint8{"ack": ack, "syn ack": syn | ack, "rst": rst, "syn rst": syn | rst, "fin": fin | ack, "no flag": 0} {
				cases["without flow: "+name] = change(func(p *packet) { p.flags = flags })
			}
		}
		for name, in := range cases {
			t.Run(name, func(t *testing.T) {
				counters := map[string]uint64{}
				if name == "other family" {
					counters["packet_malformed"] = 1
				}
				n.mustLeaveAlone(t, "ingress_l2", in, counters)
				n.mustLeaveAlone(t, "egress_l2", in, counters)
			})
		}
		// That the packet the cases are made of would have been served.
		n.must(t, ingress(n.eth0, hello, next, hello.to(at(f.pod, 8080)), "flow_new forward_local"))
	})
}

// mustLeaveAlone checks that a frame at eth0 comes through unchanged, with no other counters than these.
func (n *node) mustLeaveAlone(t testing.TB, program string, in []byte, counters map[string]uint64) {
	t.Helper()
	before := n.counters(t)
	verdict, out := n.run(t, program, n.eth0, in, 0)
	moved := delta(before, n.counters(t))
	same := len(moved) == len(counters)
	for name, count := range counters {
		same = same && moved[name] == count
	}
	if verdict != next || !bytes.Equal(in, out) || !same {
		t.Errorf("%s: verdict %d, counters %v, want %d, %v; packet before and after:\n%s%s", program, verdict, moved, next, counters, describe(in), describe(out))
	}
}

// A frontend is let through by its bit of the filter alone: our hash_address is the twin of the programs'.
func TestFilterLetsThrough(t *testing.T) {
	n := newNode(t)
	backend := map[bool]netip.AddrPort{false: at(families[0].pod, 8080), true: at(families[1].pod, 8080)}
	pools := make(map[bool]uint32)
	for v6, b := range backend {
		pools[v6] = n.addPool(t, VerdictServe, []Slot{n.addBackend(t, b, udp)})
	}
	random := seeded(t)
	for i := range 500 {
		f := families[random.IntN(2)]
		b := f.node.AsSlice()
		for j := range b {
			b[j] = byte(random.Uint32())
		}
		if b[0] = 0x20; !f.node.Is6() {
			b[0] = 30
		}
		a, _ := netip.AddrFromSlice(b)
		if bit := NewAddress(a).hash(addressFilterBits); n.Tables.filter.words[bit>>6]&(1<<(bit&63)) != 0 {
			continue // shares its bit with another
		}
		frontend := at(a, nodePort)
		key := NewFrontendKey(frontend, udp)
		if err := n.PutFrontends(map[FrontendKey]Frontend{key: {Outside: pools[a.Is6()], Kind: KindExternalIP}}); err != nil {
			t.Fatal(err)
		}
		in := f.first(udp, uint16(10000+i), frontend)
		n.must(t, ingress(n.eth0, in, next, in, ""))
		n.AddAddress(a)
		n.must(t, ingress(n.eth0, in, next, in.to(backend[a.Is6()]), "flow_new forward_local"))
	}
}
