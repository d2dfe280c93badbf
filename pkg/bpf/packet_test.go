package bpf

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strings"
)

const (
	tcp  = 6
	udp  = 17
	sctp = 132

	fin = 0x01
	syn = 0x02
	rst = 0x04
	psh = 0x08
	ack = 0x10

	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
)

// packet is an Ethernet frame with TCP, UDP or SCTP over IP, in words. bytes builds it with every checksum,
// decode reads it back and checks them; neither shares anything with the programs under test.
type packet struct {
	ethSrc, ethDst [6]byte
	src, dst       netip.AddrPort
	protocol       uint8
	ttl            uint8
	flags          uint8  // TCP
	seq, ack       uint32 // seq is SCTP's tag as well
	payload        string // SCTP: the chunks

	options    []byte // IPv4 options or IPv6 extension headers with their first type in extension
	extension  uint8
	id         uint32 // of the datagram, where fragmented
	offset     int    // in bytes; not 0: no transport header, all is payload
	more       bool
	mayBeCut   bool   // IPv4: DF is not set
	noChecksum bool   // UDP and SCTP
	raw        bool   // the payload is all there is behind the IP header: other protocols
	whole      string // a first fragment's checksum covers the payload of the whole datagram
}

func (p packet) v6() bool       { return p.src.Addr().Is6() }
func (p packet) fragment() bool { return p.more || p.offset != 0 }

// from and to change one end.
func (p packet) from(src netip.AddrPort) packet { p.src = src; return p }
func (p packet) to(dst netip.AddrPort) packet   { p.dst = dst; return p }

// hop is what a router does to it.
func (p packet) hop() packet { p.ttl--; return p }

// answer is a packet the other way round.
func (p packet) answer(flags uint8, seq, ack uint32, payload string) packet {
	p.src, p.dst = p.dst, p.src
	p.flags, p.seq, p.ack, p.payload, p.ttl = flags, seq, ack, payload, 64
	return p
}

// tuple is the key of the packet's flow.
func (p packet) tuple() Tuple { return NewTuple(p.src, p.dst, p.protocol) }

func (p packet) bytes() []byte {
	transport := p.transport()
	var ip []byte
	if p.v6() {
		ip = p.headerV6(len(transport))
	} else {
		ip = p.headerV4(len(transport))
	}
	frame := append(append([]byte{}, p.ethDst[:]...), p.ethSrc[:]...)
	ether := uint16(etherIPv4)
	if p.v6() {
		ether = etherIPv6
	}
	frame = binary.BigEndian.AppendUint16(frame, ether)
	return append(append(frame, ip...), transport...)
}

// ipLength is the length of the IP packet.
func (p packet) ipLength() int { return len(p.bytes()) - 14 }

func (p packet) headerV4(payload int) []byte {
	h := make([]byte, 20+len(p.options))
	h[0] = 0x40 | byte(len(h)/4)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+payload))
	binary.BigEndian.PutUint16(h[4:], uint16(p.id))
	fragment := uint16(p.offset / 8)
	if p.more {
		fragment |= 0x2000
	}
	if !p.mayBeCut && !p.fragment() {
		fragment |= 0x4000
	}
	binary.BigEndian.PutUint16(h[6:], fragment)
	h[8], h[9] = p.ttl, p.protocol
	copy(h[12:], p.src.Addr().AsSlice())
	copy(h[16:], p.dst.Addr().AsSlice())
	copy(h[20:], p.options)
	binary.BigEndian.PutUint16(h[10:], ^sum(0, h))
	return h
}

func (p packet) headerV6(payload int) []byte {
	var ext []byte
	next := p.protocol
	if p.fragment() {
		ext = []byte{p.protocol, 0, 0, 0}
		offset := uint16(p.offset)
		if p.more {
			offset |= 1
		}
		binary.BigEndian.PutUint16(ext[2:], offset)
		ext = binary.BigEndian.AppendUint32(ext, p.id)
		next = 44
	}
	if len(p.options) > 0 {
		ext = append(append([]byte{}, p.options...), ext...)
		next = p.extension
	}
	h := make([]byte, 40)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(len(ext)+payload))
	h[6], h[7] = next, p.ttl
	copy(h[8:], p.src.Addr().AsSlice())
	copy(h[24:], p.dst.Addr().AsSlice())
	return append(h, ext...)
}

func (p packet) transport() []byte {
	if p.offset != 0 || p.raw {
		return []byte(p.payload)
	}
	if p.protocol == sctp {
		return p.transportSCTP()
	}
	var h []byte
	h = binary.BigEndian.AppendUint16(h, p.src.Port())
	h = binary.BigEndian.AppendUint16(h, p.dst.Port())
	payload := p.payload
	if p.whole != "" {
		payload = p.whole
	}
	check := 16
	if p.protocol == tcp {
		h = binary.BigEndian.AppendUint32(h, p.seq)
		h = binary.BigEndian.AppendUint32(h, p.ack)
		h = append(h, 5<<4, p.flags, 0xfa, 0xf0, 0, 0, 0, 0)
	} else {
		h = binary.BigEndian.AppendUint16(h, uint16(8+len(payload)))
		h = append(h, 0, 0)
		check = 6
	}
	if p.protocol == tcp || !p.noChecksum {
		c := ^sum(p.pseudoSum(len(h)+len(payload)), append(append([]byte{}, h...), payload...))
		if c == 0 && p.protocol == udp {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(h[check:], c)
	}
	return append(h, p.payload...)
}

// transportSCTP is RFC 9260, 3: the checksum is the CRC of it all with the checksum zero.
func (p packet) transportSCTP() []byte {
	h := binary.BigEndian.AppendUint16(nil, p.src.Port())
	h = binary.BigEndian.AppendUint16(h, p.dst.Port())
	h = binary.BigEndian.AppendUint32(h, p.seq)
	h = append(h, 0, 0, 0, 0)
	payload := p.payload
	if p.whole != "" {
		payload = p.whole
	}
	if !p.noChecksum {
		crc := crc32.Update(crc32.Checksum(h, castagnoli), castagnoli, []byte(payload))
		binary.LittleEndian.PutUint32(h[8:], crc)
	}
	return append(h, p.payload...)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (p packet) pseudoSum(length int) uint32 {
	pseudo := append(p.src.Addr().AsSlice(), p.dst.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(length))
	return uint32(sum(0, append(pseudo, 0, 0, 0, p.protocol)))
}

// sum is the Internet checksum of RFC 1071, not yet complemented.
func sum(start uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		start += uint32(binary.BigEndian.Uint16(b))
		start = start&0xffff + start>>16
	}
	if len(b) == 1 {
		start += uint32(b[0]) << 8
	}
	start = start&0xffff + start>>16
	return uint16(start&0xffff + start>>16)
}

// fragments cuts a datagram behind size bytes of IP payload, a multiple of 8.
func (p packet) fragments(size int) []packet {
	first := p
	first.whole, first.more = p.payload, true
	first.payload = p.payload[:size-len(p.transport())+len(p.payload)]
	rest := p.payload[len(first.payload):]
	all := []packet{first}
	for offset := size; rest != ""; offset += size {
		later := p
		later.offset = offset
		later.payload = rest[:min(size, len(rest))]
		rest = rest[len(later.payload):]
		later.more = rest != ""
		all = append(all, later)
	}
	return all
}

// describe writes a frame in words, for failures: one line a header, checksums judged.
func describe(frame []byte) string {
	if len(frame) < 14 {
		return fmt.Sprintf("%d bytes", len(frame))
	}
	var s strings.Builder
	fmt.Fprintf(&s, "length %d\n% x > % x\n", len(frame), frame[6:12], frame[:6])
	ip := frame[14:]
	var payload []byte
	var src, dst netip.Addr
	var protocol byte
	later := false
	switch ether := binary.BigEndian.Uint16(frame[12:]); {
	case ether == etherIPv4 && len(ip) >= 20 && len(ip) >= int(ip[0]&15)*4 && ip[0]&15 >= 5:
		header := ip[:int(ip[0]&15)*4]
		src, _ = netip.AddrFromSlice(ip[12:16])
		dst, _ = netip.AddrFromSlice(ip[16:20])
		protocol, payload = ip[9], ip[len(header):]
		fragment := binary.BigEndian.Uint16(ip[6:])
		later = fragment&0x1fff != 0
		fmt.Fprintf(&s, "IPv4 %s > %s ttl %d length %d id %d fragment %#x options % x checksum %s\n", src, dst, ip[8],
			binary.BigEndian.Uint16(ip[2:]), binary.BigEndian.Uint16(ip[4:]), fragment, header[20:], judge(sum(0, header) == 0xffff))
	case ether == etherIPv6 && len(ip) >= 40:
		src, _ = netip.AddrFromSlice(ip[8:24])
		dst, _ = netip.AddrFromSlice(ip[24:40])
		protocol, payload = ip[6], ip[40:]
		fmt.Fprintf(&s, "IPv6 %s > %s ttl %d payload %d next %d\n", src, dst, ip[7], binary.BigEndian.Uint16(ip[4:]), protocol)
		if protocol == 44 && len(payload) >= 8 {
			fmt.Fprintf(&s, "fragment % x\n", payload[:8])
			later = binary.BigEndian.Uint16(payload[2:])&^7 != 0
			protocol, payload = payload[0], payload[8:]
		}
	}
	pseudo := packet{src: netip.AddrPortFrom(src, 0), dst: netip.AddrPortFrom(dst, 0), protocol: protocol}
	ok := !later && sum(pseudo.pseudoSum(len(payload)), payload) == 0xffff
	switch {
	case !later && protocol == tcp && len(payload) >= 20:
		fmt.Fprintf(&s, "TCP %d > %d seq %d ack %d flags %#02x checksum %#04x %s\n", binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:]),
			binary.BigEndian.Uint32(payload[4:]), binary.BigEndian.Uint32(payload[8:]), payload[13], binary.BigEndian.Uint16(payload[16:]), judge(ok))
		payload = payload[20:]
	case !later && protocol == udp && len(payload) >= 8:
		fmt.Fprintf(&s, "UDP %d > %d length %d checksum %#04x %s\n", binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:]),
			binary.BigEndian.Uint16(payload[4:]), binary.BigEndian.Uint16(payload[6:]), judge(ok))
		payload = payload[8:]
	}
	if (protocol == 1 || protocol == 58) && len(payload) >= 8 {
		fmt.Fprintf(&s, "ICMP type %d code %d checksum %#04x %s\n% x\n", payload[0], payload[1], binary.BigEndian.Uint16(payload[2:]),
			judge(ok || sum(0, payload) == 0xffff), payload[4:])
		return s.String()
	}
	if protocol == sctp && len(payload) >= 12 {
		fmt.Fprintf(&s, "SCTP %d > %d tag %#x checksum % x\n", binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:]),
			binary.BigEndian.Uint32(payload[4:]), payload[8:12])
		payload = payload[12:]
	}
	if len(payload) > 40 {
		fmt.Fprintf(&s, "payload %q… of %d\n", payload[:40], len(payload))
	} else {
		fmt.Fprintf(&s, "payload %q\n", payload)
	}
	return s.String()
}

func judge(ok bool) string {
	if ok {
		return "good"
	}
	return "bad or partial"
}
