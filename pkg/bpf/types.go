package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"
)

// The structs that the C programs share with us, generated from bpf/types.h. Ports and addresses in
// them are in network byte order: make them with the functions of this file and read them with the
// methods, so that no other file of the project swaps a byte.
type (
	Address     = svcproxyAddress
	FrontendKey = svcproxyFrontendKey
	Frontend    = svcproxyFrontend
	Slot        = svcproxySlot
	Backend     = svcproxyBackend
	Service     = svcproxyService
	Tuple       = svcproxyTuple
	Flow        = svcproxyFlow
	Uplink      = svcproxyUplink
	PodLink     = svcproxyPodLink
	Member      = svcproxyMember
	SourceRange = svcproxySourceRange
	// ServiceRange is a prefix: an address and a mask.
	ServiceRange     = svcproxyServiceRange
	serviceRangeList = svcproxyServiceRangeList
	Stat             = svcproxyStat
	Verdict          = svcproxyVerdict
)

// Kinds and flags of a [Frontend].
const (
	KindClusterIP    = uint8(svcproxyFrontendKindFRONTEND_CLUSTER_IP)
	KindNodePort     = uint8(svcproxyFrontendKindFRONTEND_NODE_PORT)
	KindExternalIP   = uint8(svcproxyFrontendKindFRONTEND_EXTERNAL_IP)
	KindLoadBalancer = uint8(svcproxyFrontendKindFRONTEND_LOAD_BALANCER)

	FlagHostOnly = uint16(svcproxyFrontendFlagFRONTEND_HOST_ONLY)
	FlagNoSocket = uint16(svcproxyFrontendFlagFRONTEND_NO_SOCKET)
	FlagRanges   = uint16(svcproxyFrontendFlagFRONTEND_RANGES)
	// Which of a Service's sets the pools are; the programs do not ask.
	FlagInsideLocal  = uint16(svcproxyFrontendFlagFRONTEND_INSIDE_LOCAL)
	FlagOutsideLocal = uint16(svcproxyFrontendFlagFRONTEND_OUTSIDE_LOCAL)
	FlagMaglev       = uint16(svcproxyFrontendFlagFRONTEND_MAGLEV)
)

// Verdicts of a [Pool].
const (
	VerdictNone   = svcproxyVerdictVERDICT_NONE
	VerdictServe  = svcproxyVerdictVERDICT_SERVE
	VerdictReject = svcproxyVerdictVERDICT_REJECT
	VerdictDrop   = svcproxyVerdictVERDICT_DROP
)

// States of a [Backend], any number of them at once.
const (
	BackendLocal       = uint8(svcproxyBackendStateBACKEND_LOCAL)
	BackendReady       = uint8(svcproxyBackendStateBACKEND_READY)
	BackendServing     = uint8(svcproxyBackendStateBACKEND_SERVING)
	BackendTerminating = uint8(svcproxyBackendStateBACKEND_TERMINATING)
)

// Flags of a [Flow].
const (
	FlowReply       = uint32(svcproxyFlowFlagFLOW_REPLY)
	FlowRemote      = uint32(svcproxyFlowFlagFLOW_REMOTE)
	FlowReplied     = uint32(svcproxyFlowFlagFLOW_REPLIED)
	FlowFinClient   = uint32(svcproxyFlowFlagFLOW_FIN_CLIENT)
	FlowFinBackend  = uint32(svcproxyFlowFlagFLOW_FIN_BACKEND)
	FlowRst         = uint32(svcproxyFlowFlagFLOW_RST)
	FlowEstablished = uint32(svcproxyFlowFlagFLOW_ESTABLISHED)
)

// NewAddress returns the kernel's form of addr; the zero Addr gives all zeroes.
func NewAddress(addr netip.Addr) Address {
	if !addr.IsValid() {
		return Address{}
	}
	b := addr.As16()
	var a Address
	for i := range a.Word {
		a.Word[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return a
}

// Addr returns the address, IPv4 where it is v4-mapped.
func (a Address) Addr() netip.Addr {
	var b [16]byte
	for i, w := range a.Word {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

// NewPort returns port in network byte order.
func NewPort(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

func hostPort(port uint16) uint16 { return NewPort(port) } // the swap is its own inverse

// NewFrontendKey returns the key for what a client dials; protocol is an IP protocol number.
func NewFrontendKey(dial netip.AddrPort, protocol uint8) FrontendKey {
	return FrontendKey{Addr: NewAddress(dial.Addr()), Port: NewPort(dial.Port()), Protocol: protocol}
}

// AddrPort returns what the client dials.
func (k FrontendKey) AddrPort() netip.AddrPort {
	return netip.AddrPortFrom(k.Addr.Addr(), hostPort(k.Port))
}

// NewBackend returns a backend entry; state is any number of Backend* states.
func NewBackend(addr netip.AddrPort, protocol, state uint8, service, generation uint32) Backend {
	return Backend{Addr: NewAddress(addr.Addr()), Port: NewPort(addr.Port()), Protocol: protocol,
		State: state, Service: service, Generation: generation}
}

// AddrPort returns where the backend listens.
func (b Backend) AddrPort() netip.AddrPort {
	return netip.AddrPortFrom(b.Addr.Addr(), hostPort(b.Port))
}

// A Pool is a range of slots and what to do: one 64-bit word in the kernel (bpf/types.h, enum verdict).
type Pool struct {
	Offset  uint32
	Length  uint32 // below 1<<28
	Verdict Verdict
}

// MaxPoolLength is the most slots a pool can have.
const MaxPoolLength = 1<<28 - 1

// Word returns the pool as the kernel holds it.
func (p Pool) Word() uint64 {
	return uint64(p.Offset) | uint64(p.Length)<<32 | uint64(p.Verdict)<<60
}

// PoolFromWord is the inverse of [Pool.Word].
func PoolFromWord(w uint64) Pool {
	return Pool{Offset: uint32(w), Length: uint32(w>>32) & MaxPoolLength, Verdict: Verdict(w >> 60)}
}

// NewService returns the entry that names a service id. The API server admits no name longer than the
// field (three of 63 bytes, two separators).
func NewService(name string, protocol uint8) Service {
	s := Service{Protocol: protocol}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&s.Name[0])), len(s.Name)-1), name)
	return s
}

// String returns namespace/name:port.
func (s Service) String() string {
	b := make([]byte, 0, len(s.Name))
	for _, c := range s.Name {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}

// NewSourceRange returns the key that admits the clients of a prefix to a service id's frontends.
func NewSourceRange(service uint32, clients netip.Prefix) SourceRange {
	clients = clients.Masked()
	bits := clients.Bits()
	if clients.Addr().Is4() {
		bits += 96
	}
	return SourceRange{Bits: 32 + uint32(bits), Service: swap32(service), Client: NewAddress(clients.Addr())}
}

// Parse returns what the key was made of. A prefix that ends within ::ffff:0:0/96 is an IPv6 one.
func (r SourceRange) Parse() (service uint32, clients netip.Prefix) {
	bits, addr := int(r.Bits)-32, r.Client.Addr()
	if addr.Is4() && bits >= 96 {
		return swap32(r.Service), netip.PrefixFrom(addr, bits-96)
	}
	return swap32(r.Service), netip.PrefixFrom(netip.AddrFrom16(addr.As16()), bits)
}

func swap32(n uint32) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return binary.NativeEndian.Uint32(b[:])
}

// newRange returns a prefix as address and mask, IPv4 as v4-mapped.
func newRange(p netip.Prefix) ServiceRange {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	var mask [16]byte
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	r := ServiceRange{Addr: NewAddress(p.Masked().Addr())}
	for i := range r.Mask.Word {
		r.Mask.Word[i] = binary.NativeEndian.Uint32(mask[4*i:])
	}
	return r
}

// NewTuple returns a packet's flow key; protocol is an IP protocol number.
func NewTuple(src, dst netip.AddrPort, protocol uint8) Tuple {
	return Tuple{Src: NewAddress(src.Addr()), Dst: NewAddress(dst.Addr()),
		Sport: NewPort(src.Port()), Dport: NewPort(dst.Port()), Protocol: protocol}
}

// Source returns the sender of a packet with this tuple.
func (t Tuple) Source() netip.AddrPort {
	return netip.AddrPortFrom(t.Src.Addr(), hostPort(t.Sport))
}

// Destination returns the receiver of a packet with this tuple.
func (t Tuple) Destination() netip.AddrPort {
	return netip.AddrPortFrom(t.Dst.Addr(), hostPort(t.Dport))
}

// Source returns the rewritten packet's sender.
func (f Flow) Source() netip.AddrPort { return netip.AddrPortFrom(f.Src.Addr(), hostPort(f.Sport)) }

// Destination returns the rewritten packet's receiver.
func (f Flow) Destination() netip.AddrPort {
	return netip.AddrPortFrom(f.Dst.Addr(), hostPort(f.Dport))
}

// ProtocolName returns tcp, udp or sctp, else the number.
func ProtocolName(protocol uint8) string {
	switch protocol {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return fmt.Sprint(protocol)
}
