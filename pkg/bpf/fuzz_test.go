package bpf

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// seeded is a random source whose seed is printed; SVCPROXY_TEST_SEED repeats a run.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SVCPROXY_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SVCPROXY_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// kinds are packets to a frontend of every shape that the parser knows.
func kinds(f family, frontend netip.AddrPort) (all []packet) {
	for _, protocol := range []uint8{tcp, udp} {
		plain := f.first(protocol, 40000, frontend)
		plain.payload = "some payload, but not too much"
		all = append(all, plain)
		options := plain
		options.options, options.extension = []byte{1, 1, 1, 1, 1, 1, 1, 0}, 60
		if plain.v6() {
			for _, extension := range []uint8{0, 43, 60} {
				options.options, options.extension = []byte{protocol, 0, 1, 4, 0, 0, 0, 0}, extension
				all = append(all, options)
			}
			options.options, options.extension = append([]byte{protocol, 4}, make([]byte, 22)...), 51
		}
		all = append(all, options)
		plain.payload = strings.Repeat("x", 80)
		all = append(all, plain.fragments(56)...)
	}
	return all
}

// shortest is the length of a frame below which the kernel refuses to run programs on it as a test; on
// the wire there are shorter ones (TestTruncatedOnTheWire).
func shortest(frame []byte) int {
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherIPv4:
		return 14 + 20
	case etherIPv6:
		return 14 + 40
	}
	return 15
}

// Every packet cut off at every length: not ours, whatever it was before.
func TestTruncated(t *testing.T) {
	n := newNode(t)
	for _, f := range families {
		frontend := at(f.node, nodePort)
		n.serve(t, frontend, tcp, at(f.pod, 8080))
		n.serve(t, frontend, udp, at(f.onC, 8080))
		for _, p := range kinds(f, frontend) {
			whole := at0(n, p).bytes()
			for length := shortest(whole); length < len(whole); length++ {
				for _, program := range []string{"ingress_l2", "egress_l2"} {
					n.mustLeaveAlone(t, program, whole[:length:length], map[string]uint64{"packet_malformed": 1})
				}
			}
			if t.Failed() {
				t.Fatalf("cut from:\n%s", describe(whole))
			}
		}
	}
}

// Packets with random bytes in random places: nothing changes unless they are, by another reading of
// their headers, dialled to the frontend; and then only addresses, ports, checksums and the TTL do.
func TestMangled(t *testing.T) {
	n := newNode(t)
	random := seeded(t)
	var all []packet
	frontends := make(map[netip.AddrPort]bool)
	for _, f := range families {
		here, away := at(f.node, nodePort), at(f.node, nodePort+1)
		for _, protocol := range []uint8{tcp, udp} {
			n.serve(t, here, protocol, at(f.pod, 8080))
			n.serve(t, away, protocol, at(f.onC, 8080))
		}
		frontends[here], frontends[away] = true, true
		all = append(all, append(kinds(f, here), kinds(f, away)...)...)
	}
	served := 0
	for range 20000 {
		p := all[random.IntN(len(all))]
		in := at0(n, p).bytes()
		for range 1 + random.IntN(3) {
			// Mostly in the headers; the first 12 bytes say whose the frame is.
			at := 12 + random.IntN(min(len(in)-12, 80))
			in[at] = byte(random.Uint32())
		}
		if random.IntN(8) == 0 {
			in = in[:15+random.IntN(len(in)-15)]
		}
		if len(in) < shortest(in) {
			continue
		}
		before := n.counters(t)
		verdict, out := n.run(t, "ingress_l2", n.eth0, in, 0)
		moved := delta(before, n.counters(t))
		dialled, later := destination(in)
		switch {
		case !bytes.Equal(in, out) || verdict != next:
			served++
			if len(in) != len(out) || !(frontends[dialled] || later && moved["fragment"] == 1) {
				t.Fatalf("verdict %d, counters %v for\n%s% x\nbecame\n%s", verdict, moved, describe(in), in, describe(out))
			}
		case !frontends[dialled]:
			delete(moved, "packet_malformed")
			delete(moved, "fragment_orphan")
			if len(moved) != 0 && !later {
				t.Fatalf("counters %v for\n%s% x", moved, describe(in), in)
			}
		}
	}
	if served < 500 {
		t.Errorf("only %d of the packets were served", served)
	}
	// And after all that the frontends still serve.
	for i, f := range families {
		in := f.first(udp, uint16(50000+i), at(f.node, nodePort))
		n.must(t, ingress(n.eth0, in, next, in.to(at(f.pod, 8080)), "flow_new forward_local"))
	}
}

// destination reads where a frame goes to: its own parser, written after the RFCs.
func destination(frame []byte) (dst netip.AddrPort, laterFragment bool) {
	if len(frame) < 14 {
		return
	}
	ip := frame[14:]
	var a netip.Addr
	var protocol byte
	var rest []byte
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherIPv4:
		if len(ip) < 20 || ip[0]>>4 != 4 || ip[0]&15 < 5 || len(ip) < int(ip[0]&15)*4 {
			return
		}
		a, _ = netip.AddrFromSlice(ip[16:20])
		protocol, rest = ip[9], ip[int(ip[0]&15)*4:]
		laterFragment = binary.BigEndian.Uint16(ip[6:])&0x1fff != 0
	case etherIPv6:
		if len(ip) < 40 || ip[0]>>4 != 6 {
			return
		}
		a, _ = netip.AddrFromSlice(ip[24:40])
		protocol, rest = ip[6], ip[40:]
		for !laterFragment {
			size := 8
			switch protocol {
			case 0, 43, 60:
				if len(rest) >= 2 {
					size = (int(rest[1]) + 1) * 8
				}
			case 51:
				if len(rest) >= 2 {
					size = (int(rest[1]) + 2) * 4
				}
			case 44:
				laterFragment = len(rest) >= 4 && binary.BigEndian.Uint16(rest[2:])>>3 != 0
			default:
				size = 0
			}
			if size == 0 {
				break
			}
			if len(rest) < size || len(rest) < 8 {
				return
			}
			protocol, rest = rest[0], rest[size:]
		}
	}
	if protocol != tcp && protocol != udp || len(rest) < 4 || laterFragment {
		return netip.AddrPort{}, laterFragment && (protocol == tcp || protocol == udp)
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(rest[2:])), false
}

// Random tables and random clients against a model that fits in one line: who is dialled answers with one
// of its own backends. And the choice is even.
func TestChoiceIsAllowedAndEven(t *testing.T) {
	n := newNode(t)
	random := seeded(t)
	f := families[0]
	model := make(map[netip.AddrPort]map[netip.AddrPort]bool)
	var dialled []netip.AddrPort
	for i := range 60 {
		frontend := at(f.node, uint16(30000+i))
		allowed := make(map[netip.AddrPort]bool)
		var backends []netip.AddrPort
		for range random.IntN(12) {
			b := at(nth(f.pod, random.IntN(200)), uint16(1+random.IntN(65535)))
			if random.IntN(3) == 0 {
				b = at(nth(f.onC, random.IntN(200)), b.Port())
			}
			if !allowed[b] {
				allowed[b], backends = true, append(backends, b)
			}
		}
		pool := n.serve(t, frontend, udp, backends...)
		if len(backends) == 0 {
			n.SetPool(pool, Pool{Verdict: VerdictReject})
		}
		model[frontend], dialled = allowed, append(dialled, frontend)
	}
	for range 5000 {
		frontend := dialled[random.IntN(len(dialled))]
		in := f.first(udp, uint16(1+random.IntN(60000)), frontend)
		before := n.counters(t)
		verdict, out := n.run(t, "ingress_l2", n.eth0, at0(n, in).bytes(), 0)
		got, _ := destination(out)
		switch {
		case len(model[frontend]) == 0:
			// An error as long as they are granted, or nothing.
			want := at0(n, in).unreachable()
			moved := delta(before, n.counters(t))
			if !(verdict == redirect && bytes.Equal(out, want) || verdict == shot) || len(moved) != 1 || moved["packet_reject"] != 1 {
				t.Fatalf("%s rejects, but verdict is %d, counters %v, packet\n%s", frontend, verdict, moved, describe(out))
			}
		case !model[frontend][got]:
			t.Fatalf("%s went to %s (%d), want one of %v", frontend, got, verdict, model[frontend])
		case (verdict == redirect) != f.podsC.Contains(got.Addr()):
			t.Fatalf("verdict %d for backend %s", verdict, got)
		}
	}

	const backends, clients = 8, 8000
	frontend := at(f.node, 29999)
	var set []netip.AddrPort
	for i := range backends {
		set = append(set, at(f.pod, uint16(9000+i)))
	}
	n.serve(t, frontend, udp, set...)
	hits := make(map[netip.AddrPort]int)
	for i := range clients {
		_, out := n.run(t, "ingress_l2", n.eth0, at0(n, f.first(udp, uint16(1000+i), frontend)).bytes(), 0)
		got, _ := destination(out)
		hits[got]++
	}
	chi := 0.0
	for _, b := range set {
		d := float64(hits[b]) - clients/backends
		chi += d * d / (clients / backends)
	}
	if chi > 40 { // seven degrees of freedom: one run in a million
		t.Errorf("chi² %.1f, hits %v", chi, hits)
	}
}
