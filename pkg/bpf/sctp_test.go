package bpf

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
)

const (
	clientTag  = 0x1234567
	backendTag = 0x89abcdef
)

// chunk is one SCTP chunk (RFC 9260, 3.2), padded.
func chunk(kind byte, value string) string {
	b := binary.BigEndian.AppendUint16([]byte{kind, 0}, uint16(4+len(value)))
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return string(b)
}

// initChunk is an INIT that asks for packets with this tag.
func initChunk(tag uint32) string {
	value := binary.BigEndian.AppendUint32(nil, tag)
	value = binary.BigEndian.AppendUint32(value, 1<<16)
	return chunk(1, string(append(value, 0, 10, 0, 10, 0, 0, 0, 1)))
}

func initAck(tag uint32) string {
	return string(append([]byte{2}, initChunk(tag)[1:]...))
}

// association runs an SCTP association through the node, by the client's and the backend's ways.
type association struct {
	name     string
	n        *node
	f        family
	frontend netip.AddrPort
	backend  netip.AddrPort
	client   netip.AddrPort // as the backend sees it; port 0: any of ours
	verdict  int
	forward  string // counters
	reply    string
}

// sends is a packet of the client.
func (a *association) sends(t testing.TB, tag uint32, chunks, counters string) packet {
	t.Helper()
	in := packet{src: at(a.f.client, 40000), dst: a.frontend, protocol: sctp, ttl: 63, seq: tag, payload: chunks}
	out := in.from(a.client).to(a.backend)
	if a.verdict == redirect {
		out = out.hop()
	}
	out = a.n.must(t, ingress(a.n.eth0, in, a.verdict, out, strings.TrimSpace(counters+" "+a.forward)))
	a.client = out.src
	return in
}

// answers is a packet of the backend.
func (a *association) answers(t testing.TB, tag uint32, chunks string) {
	t.Helper()
	p := packet{src: a.backend, dst: a.client, protocol: sctp, ttl: 64, seq: tag, payload: chunks}
	out := p.from(a.frontend).to(at(a.f.client, 40000))
	if a.verdict == redirect {
		a.n.must(t, ingress(a.n.eth1, p, redirect, out.hop(), a.reply))
	} else {
		a.n.must(t, egress(a.n.eth0, p, next, out, a.reply))
	}
}

func (a *association) mustBeIn(t testing.TB, where string) {
	t.Helper()
	in := packet{src: at(a.f.client, 40000), dst: a.frontend, protocol: sctp}
	a.n.mustBeIn(t, where, in, in.from(a.client).to(a.backend))
}

// associations are the shapes that an association's way can have.
func associations(t testing.TB, n *node, f family) (all []*association) {
	for i, a := range []association{
		{name: "here, same port", backend: at(f.pod, nodePort)},
		{name: "here, other port", backend: at(f.pod, 3868)},
		{name: "elsewhere, same port", backend: at(f.onC, nodePort+2)},
		{name: "elsewhere, other port", backend: at(f.onC, 3868)},
	} {
		a.n, a.f = n, f
		a.frontend = at(f.node, nodePort+uint16(i))
		a.client, a.verdict, a.forward, a.reply = at(f.client, 40000), next, "forward_local", "reply_local"
		if f.podsC.Contains(a.backend.Addr()) {
			a.client, a.verdict, a.forward, a.reply = at(n.eth1.addr[f.name], 0), redirect, "forward_redirect", "reply_redirect"
		} else if i == 0 {
			a.frontend = at(f.node, a.backend.Port())
		}
		n.serve(t, a.frontend, sctp, a.backend)
		all = append(all, &a)
	}
	return all
}

func forEachAssociation(t *testing.T, test func(t *testing.T, a *association)) {
	for _, f := range families {
		n := newNode(t)
		for _, a := range associations(t, n, f) {
			t.Run(f.name+"/"+a.name, func(t *testing.T) { test(t, a) })
		}
	}
}

// An association from INIT to SHUTDOWN COMPLETE, and the next from the same port.
func TestSCTP(t *testing.T) {
	forEachAssociation(t, func(t *testing.T, a *association) {
		a.sends(t, 0, initChunk(clientTag), "flow_new")
		a.mustBeIn(t, "embryos")
		a.sends(t, 0, initChunk(clientTag), "") // again
		a.answers(t, clientTag, initAck(backendTag))
		a.mustBeIn(t, "embryos")
		for _, wrong := range []uint32{0, clientTag, backendTag + 1} {
			a.sends(t, wrong, chunk(10, "a guessed cookie"), "")
			a.mustBeIn(t, "embryos")
		}
		a.sends(t, backendTag, chunk(10, "cookie"), "flow_promoted")
		a.mustBeIn(t, "flows")
		a.answers(t, clientTag, chunk(11, ""))
		a.sends(t, backendTag, chunk(0, "data")+chunk(0, "and more data"), "")
		a.answers(t, clientTag, chunk(3, "the acknowledgment"))

		a.sends(t, backendTag, chunk(7, "abcd"), "")
		a.answers(t, clientTag, chunk(8, ""))
		a.sends(t, backendTag, chunk(14, ""), "")
		a.mustBeIn(t, "flows")
		before := a.client
		if a.verdict == redirect {
			a.client = at(a.client.Addr(), 0)
		}
		a.sends(t, 0, initChunk(clientTag+1), "flow_reselected flow_new")
		a.mustBeIn(t, "embryos")
		if before != a.client {
			if _, where := a.n.entry(t, NewTuple(a.backend, before, sctp)); where != "" {
				t.Errorf("the old record is still in %s", where)
			}
		}
	})
}

// An ABORT ends it; one that is followed by data was not the client's.
func TestSCTPAbort(t *testing.T) {
	forEachAssociation(t, func(t *testing.T, a *association) {
		establish := func(counters string) {
			t.Helper()
			a.sends(t, 0, initChunk(clientTag), counters)
			a.answers(t, clientTag, initAck(backendTag))
			a.sends(t, backendTag, chunk(10, "cookie"), "flow_promoted")
		}
		establish("flow_new")
		a.sends(t, backendTag+7, chunk(6, ""), "")
		a.sends(t, backendTag, chunk(0, "still here"), "")
		a.sends(t, 0, initChunk(clientTag), "") // a restart (RFC 9260, 5.2.2): of the same association
		a.mustBeIn(t, "flows")

		a.sends(t, backendTag, chunk(6, ""), "")
		if a.verdict == redirect {
			a.client = at(a.client.Addr(), 0)
		}
		establish("flow_reselected flow_new")
		a.mustBeIn(t, "flows")
	})
}

// INIT ACK without a tag, and what is shorter than a chunk, is malformed.
func TestSCTPMalformed(t *testing.T) {
	forEachAssociation(t, func(t *testing.T, a *association) {
		in := packet{src: at(a.f.client, 40000), dst: a.frontend, protocol: sctp, ttl: 63}
		for _, short := range []string{"", "\x01", "\x01\x00\x00", chunk(2, ""), "\x02\x00\x00\x07abc"} {
			in.payload = short
			a.n.must(t, ingress(a.n.eth0, in, next, in, "packet_malformed"))
		}
		for _, other := range []string{chunk(0, "data"), chunk(10, "cookie"), chunk(6, ""), chunk(14, ""), initAck(7)} {
			in.payload = other // no INIT: not ours
			a.n.must(t, ingress(a.n.eth0, in, next, in, ""))
		}
	})
}

// The CRC holds for every length there is a packet of. Every other packet of this file is checked as well.
func TestSCTPChecksum(t *testing.T) {
	forEachAssociation(t, func(t *testing.T, a *association) {
		a.sends(t, 0, initChunk(clientTag), "flow_new")
		a.answers(t, clientTag, initAck(backendTag))
		a.sends(t, backendTag, chunk(10, "cookie"), "flow_promoted")
		random := seeded(t)
		lengths := []int{0, 4, 8, 1000, 1400}
		for range 20 {
			lengths = append(lengths, 4*random.IntN(360))
		}
		if a.verdict == next { // to a link of 1500 bytes no more is redirected
			lengths = append(lengths, 2000, 3000)
		}
		for _, length := range lengths {
			data := make([]byte, length)
			for i := range data {
				data[i] = byte(random.Uint32())
			}
			a.sends(t, backendTag, chunk(0, string(data)), "")
			a.answers(t, clientTag, chunk(0, string(data)))
		}
	})
}

// A checksum that the sender's kernel leaves to its network card (a pod's veth claims to be able) is zero until
// then, and computed over the zero: it must stay so.
func TestSCTPChecksumLeftToHardware(t *testing.T) {
	forEachAssociation(t, func(t *testing.T, a *association) {
		in := packet{src: at(a.f.client, 40000), dst: a.frontend, protocol: sctp, ttl: 63, payload: initChunk(clientTag), noChecksum: true}
		out := in.from(a.client).to(a.backend)
		if a.verdict == redirect {
			out = out.hop()
		}
		a.n.must(t, ingress(a.n.eth0, in, a.verdict, out, "flow_new "+a.forward))
	})
}

// A part of a packet whose checksum would have to change cannot be translated: nobody gets it.
func TestSCTPFragments(t *testing.T) {
	forEachAssociation(t, func(t *testing.T, a *association) {
		in := packet{src: at(a.f.client, 40000), dst: a.frontend, protocol: sctp, ttl: 63, id: 77, mayBeCut: true,
			payload: initChunk(clientTag) + chunk(0, strings.Repeat("0123456789", 120))}
		for i, p := range in.fragments(560) {
			counters := "flow_new " + a.forward
			if i > 0 {
				counters = "fragment"
			}
			if a.name == "here, same port" {
				a.n.must(t, ingress(a.n.eth0, p, next, p.to(a.backend), counters))
				continue
			}
			verdict, _ := a.n.run(t, "ingress_l2", a.n.eth0, at0(a.n, p).bytes(), 0)
			if i == 0 && verdict != shot {
				t.Errorf("verdict %d for the first fragment", verdict)
			}
		}
	})
}

// The longest packets there are, which only a link of a pod can carry.
func TestSCTPChecksumOfLongPackets(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			n := newNode(t)
			n.mustHaveMTU(t, 65535, "eth0", "pod0")
			frontend, backend := at(f.node, nodePort), at(f.pod, 3868)
			n.serve(t, frontend, sctp, backend)
			outside, pod := n.mustWire(t, "eth0"), n.mustWire(t, "pod0")
			in := at0(n, f.first(sctp, 40000, frontend))
			outside.mustSend(t, in.bytes())
			pod.mustReceive(t, n, leaving(in.hop().to(backend), n.pod0))
			longest := 65535 - in.ipLength() + len(in.payload) // of the chunks
			for _, length := range []int{1<<12 - 4, 1 << 13, 1<<15 - 4, 1 << 15, 50000, longest &^ 3} {
				in.seq, in.payload = backendTag, chunk(0, strings.Repeat("12345678", length/8)[:length-4])
				outside.mustSend(t, in.bytes())
				pod.mustReceive(t, n, leaving(in.hop().to(backend), n.pod0))
				reply := in.to(backend).answer(0, clientTag, 0, in.payload)
				pod.mustSend(t, withMAC(reply, n.pod0).bytes())
				outside.mustReceive(t, n, leaving(reply.hop().from(frontend), n.eth0))
			}
		})
	}
}
