package test

import (
	endian "encoding/binary"
	"fmt"
	"net/netip"
	"path/filepath"
	goslices "slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// agreeKernel runs the programs that a node's agent has attached, on its live tables (BPF_PROG_RUN). What that
// leaves behind in the tables of flows is nobody else's: no socket has such a source port.
type agreeKernel struct {
	node  *testenv.Node
	links map[string]agreeLink // by name
	view  *bpf.View            // for counters
	ports map[netip.Addr]uint16
}

// agreeLink is a link of the node and the programs on it.
type agreeLink struct {
	index           uint32
	mac             []byte
	ingress, egress *ebpf.Program
}

func newAgreeKernel(t *testing.T, n *testenv.Node) *agreeKernel {
	t.Helper()
	k := &agreeKernel{node: n, links: map[string]agreeLink{}, ports: map[netip.Addr]uint16{}}
	var err error
	if k.view, err = bpf.Open(n.BPFRoot); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.view.Close() })
	names := []string{"eth0"}
	for _, p := range n.Pods {
		names = append(names, p.HostLink)
	}
	for _, name := range names {
		l, err := n.Netlink().LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		attrs := l.Attrs()
		k.links[name] = agreeLink{
			index: uint32(attrs.Index), mac: attrs.HardwareAddr,
			ingress: attachedProgram(t, n, attrs.Index, "ingress"), egress: attachedProgram(t, n, attrs.Index, "egress"),
		}
	}
	return k
}

// attachedProgram is the one behind the link that the agent has pinned.
func attachedProgram(t *testing.T, n *testenv.Node, index int, direction string) *ebpf.Program {
	t.Helper()
	l, err := link.LoadPinnedLink(filepath.Join(n.BPFRoot, "links", fmt.Sprintf("%d-%s", index, direction)), nil)
	if err != nil {
		t.Fatalf("%s: link %d: %v", n.Name, index, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		t.Fatal(err)
	}
	program, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return program
}

// ask runs the program that the first packet of a case meets at this node.
func (k *agreeKernel) ask(c agreeCase, arrived bool) (outcome, packetEnds, error) {
	l, program := k.links["eth0"], k.links["eth0"].ingress
	context := skBuff{Ifindex: l.index, IngressIfindex: l.index}
	switch {
	case arrived:
	case c.from.kind == hostClient:
		program, context.IngressIfindex = l.egress, 0
	default:
		l = k.links[c.from.pod.HostLink]
		program, context = l.ingress, skBuff{Ifindex: l.index, IngressIfindex: l.index}
	}
	sent := packetEnds{netip.AddrPortFrom(c.source(), k.port(c.source())), c.to}
	frame := agreeFrame(l.mac, c.network, sent)
	options := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: context}
	before, err := k.view.Counters()
	if err != nil {
		return "", packetEnds{}, err
	}
	returned, err := program.Run(options)
	if err != nil {
		return "", packetEnds{}, err
	}
	const next, drop, redirect = -1, 2, 7
	out, icmp := parseEnds(options.DataOut)
	switch verdict := int32(returned); {
	case verdict == drop: // an error that is not sent, for too many are, is still a rejection
		after, err := k.view.Counters()
		if err == nil && after["packet_reject"] > before["packet_reject"] {
			return isRefused, out, nil
		}
		return isDropped, out, err
	case verdict == redirect && icmp:
		return isRefused, out, nil
	case verdict == next && out == sent:
		return isPassed, out, nil
	case verdict == next && out.to != sent.to && out.from.Port() != sent.from.Port():
		return isDetoured, out, nil
	case (verdict == next || verdict == redirect) && out.to != sent.to:
		return isServed, out, nil
	default:
		return "", out, fmt.Errorf("the program returns %d and makes %v of %v", verdict, out, sent)
	}
}

// port is a source port that the client's sockets do not take, nor SNAT.
func (k *agreeKernel) port(addr netip.Addr) uint16 {
	const first, count = 1024, 9900
	k.ports[addr]++
	return first + k.ports[addr]%count
}

// agree checks what the programs of the case's hops do, several times where there is a choice. Remembered is whom
// session affinity has given to whom.
func (k *agreeKernel) agree(c agreeCase, h hop, arrived bool, remembered map[string]netip.AddrPort) error {
	tries := 1
	if len(h.backends) > 1 {
		tries = 3
	}
	for range tries {
		got, ends, err := k.ask(c, arrived)
		if err != nil {
			return err
		}
		// A next hop has been forgotten: by the stack, which finds it, and egress translates the source.
		detoured := got == isDetoured
		if detoured {
			got = isServed
		}
		if got != h.outcome && !(h.late && got == isRefused) {
			return fmt.Errorf("%s says %s, want %s", k.node.Name, got, h.outcome)
		}
		if got != isServed {
			continue
		}
		if !goslices.Contains(h.backends, ends.to) {
			return fmt.Errorf("%s chooses %s, want one of %v", k.node.Name, ends.to, h.backends)
		}
		if want := h.source(ends.to); ends.from.Addr() != want && !detoured {
			return fmt.Errorf("%s sends to %s from %s, want %s", k.node.Name, ends.to, ends.from, want)
		}
		if h.affinity == "" {
			continue
		}
		who := fmt.Sprint(k.node.Name, h.affinity, c.source(), c.from.kind == hostClient && !arrived)
		if before, ok := remembered[who]; ok && before != ends.to && goslices.Contains(h.backends, before) {
			return fmt.Errorf("%s chooses %s, but has given the client %s before", k.node.Name, ends.to, before)
		}
		remembered[who] = ends.to
	}
	return nil
}

// skBuff is struct __sk_buff, as far as a test run may set it.
type skBuff struct {
	_              [36]byte
	IngressIfindex uint32
	Ifindex        uint32
	_              [148]byte
}

// packetEnds are a packet's source and destination.
type packetEnds struct{ from, to netip.AddrPort }

// agreeFrame is a SYN or a datagram, without checksums, which no program looks at.
func agreeFrame(mac []byte, network string, ends packetEnds) []byte {
	transport, protocol := make([]byte, 20), byte(unix.IPPROTO_TCP)
	if network == "udp" {
		transport, protocol = make([]byte, 12), unix.IPPROTO_UDP
		transport[5] = 12
	} else {
		const offset, syn = 5 << 4, 2
		transport[12], transport[13] = offset, syn
	}
	endian.BigEndian.PutUint16(transport, ends.from.Port())
	endian.BigEndian.PutUint16(transport[2:], ends.to.Port())
	frame := append(append([]byte{}, mac...), 2, 0, 0, 0, 0, 1)
	if ends.to.Addr().Is4() {
		header := make([]byte, 20)
		header[0], header[8], header[9], header[3] = 0x45, 64, protocol, byte(20+len(transport))
		copy(header[12:], ends.from.Addr().AsSlice())
		copy(header[16:], ends.to.Addr().AsSlice())
		return append(append(append(frame, 8, 0), header...), transport...)
	}
	header := make([]byte, 40)
	header[0], header[5], header[6], header[7] = 0x60, byte(len(transport)), protocol, 64
	copy(header[8:], ends.from.Addr().AsSlice())
	copy(header[24:], ends.to.Addr().AsSlice())
	return append(append(append(frame, 0x86, 0xdd), header...), transport...)
}

// parseEnds reads a frame that a program has returned, and whether it is an ICMP error.
func parseEnds(frame []byte) (ends packetEnds, icmp bool) {
	p := frame[14:]
	var from, to netip.Addr
	var protocol byte
	if endian.BigEndian.Uint16(frame[12:]) == unix.ETH_P_IP {
		from, to, protocol = netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:])), p[9]
		p = p[20:]
	} else {
		from, to, protocol = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:])), p[6]
		p = p[40:]
	}
	ends.from = netip.AddrPortFrom(from, endian.BigEndian.Uint16(p))
	ends.to = netip.AddrPortFrom(to, endian.BigEndian.Uint16(p[2:]))
	return ends, protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_ICMPV6
}
