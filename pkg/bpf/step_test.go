package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// skb is struct __sk_buff (linux/bpf.h): what the kernel lets a test run set, and holes.
type skb struct {
	_              [36]byte
	IngressIfindex uint32
	Ifindex        uint32
	_              [132]byte
	GSOSize        uint32
	_              [12]byte
}

// run runs a program once on a frame at a link.
func (n *node) run(t testing.TB, program string, p *port, frame []byte, gsoSize int) (int, []byte) {
	t.Helper()
	return n.runFrom(t, program, p, p.index, frame, gsoSize)
}

// runFrom is run on a frame that came by the link with index from; 0: the node has made it.
func (n *node) runFrom(t testing.TB, program string, p *port, from int, frame []byte, gsoSize int) (int, []byte) {
	t.Helper()
	opts := n.options(frame, p)
	opts.Context = skb{Ifindex: uint32(p.index), IngressIfindex: uint32(from), GSOSize: uint32(gsoSize)}
	var verdict uint32
	n.mustDo(t, func() (err error) {
		verdict, err = n.coll.Programs[program].Run(opts)
		return err
	})
	return int(int32(verdict)), opts.DataOut
}

// options are those of running a program on a frame at a link.
func (n *node) options(frame []byte, p *port) *ebpf.RunOptions {
	return &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256),
		Context: skb{Ifindex: uint32(p.index), IngressIfindex: uint32(p.index)}}
}

// A step is one packet through one program, and what must come of it.
type step struct {
	program string
	at      *port
	in      packet
	verdict int
	// out is the packet afterwards. Port 0 of its source or destination stands for any SNAT port.
	out packet
	// counters that move, by one or by the number behind an asterisk: "flow_new snat_retry*2".
	counters string
	gso      int    // gso_size
	own      bool   // the packet is made by the node itself
	frame    []byte // what comes out, in the place of out
}

func ingress(p *port, in packet, verdict int, out packet, counters string) step {
	in.ethDst = p.mac
	out.ethDst = p.mac
	return step{program: "ingress_l2", at: p, in: in, verdict: verdict, out: out, counters: counters}
}

func egress(p *port, in packet, verdict int, out packet, counters string) step {
	out.ethDst = in.ethDst
	return step{program: "egress_l2", at: p, in: in, verdict: verdict, out: out, counters: counters}
}

// own is egress of what the node itself has made.
func own(p *port, in packet, verdict int, out packet, counters string) step {
	s := egress(p, in, verdict, out, counters)
	s.own = true
	return s
}

// podIngress is a packet that a pod sends.
func podIngress(p *port, in packet, verdict int, out packet, counters string) step {
	s := ingress(p, in, verdict, out, counters)
	s.program = "pod_ingress_l2"
	return s
}

// podEgress is a packet that a pod gets.
func podEgress(p *port, in packet, verdict int, out packet, counters string) step {
	s := egress(p, in, verdict, out, counters)
	s.program = "pod_egress_l2"
	return s
}

// must runs the step, and returns the packet that comes out.
func (n *node) must(t testing.TB, s step) packet {
	t.Helper()
	before := n.counters(t)
	from := s.at.index
	if s.own {
		from = 0
	}
	verdict, out := n.runFrom(t, s.program, s.at, from, s.in.bytes(), s.gso)
	after := n.counters(t)
	want := s.out
	if s.frame == nil && want.offset == 0 && len(out) >= 14 {
		sport, dport := transportPorts(out)
		want.src = n.anySNATPort(t, want.src, sport)
		want.dst = n.anySNATPort(t, want.dst, dport)
	}
	var wrong []string
	if verdict != s.verdict {
		wrong = append(wrong, fmt.Sprintf("verdict %d, want %d", verdict, s.verdict))
	}
	frame := s.frame
	if frame == nil {
		frame = want.bytes()
	}
	if !bytes.Equal(out, frame) {
		wrong = append(wrong, "packet -want +got:\n"+difference(frame, out))
	}
	if diff := cmp.Diff(parseCounters(t, s.counters), delta(before, after)); diff != "" {
		wrong = append(wrong, "counters that moved -want +got:\n"+diff)
	}
	if wrong != nil {
		t.Fatalf("%s: %s\nof the packet\n%s", s.program, strings.Join(wrong, "\n"), describe(s.in.bytes()))
	}
	return want
}

// difference shows two frames in words, line by line.
func difference(want, got []byte) string {
	var s strings.Builder
	wants, gots := strings.Split(describe(want), "\n"), strings.Split(describe(got), "\n")
	for i := range max(len(wants), len(gots)) {
		var w, g string
		if i < len(wants) {
			w = wants[i]
		}
		if i < len(gots) {
			g = gots[i]
		}
		if w == g {
			fmt.Fprintf(&s, "  %s\n", w)
		} else {
			fmt.Fprintf(&s, "- %s\n+ %s\n", w, g)
		}
	}
	return s.String()
}

// anySNATPort puts the port got in the place of port 0.
func (n *node) anySNATPort(t testing.TB, want netip.AddrPort, got uint16) netip.AddrPort {
	t.Helper()
	if want.Port() != 0 {
		return want
	}
	if got < n.first || got > n.last {
		t.Errorf("port %d is outside of the SNAT ports %d-%d", got, n.first, n.last)
	}
	return netip.AddrPortFrom(want.Addr(), got)
}

// transportPorts reads the ports of a packet without options.
func transportPorts(frame []byte) (src, dst uint16) {
	at := 14 + 20
	if binary.BigEndian.Uint16(frame[12:]) == etherIPv6 {
		at = 14 + 40
		if frame[14+6] == 44 {
			at += 8
		}
	} else {
		at = 14 + int(frame[14]&15)*4
	}
	if len(frame) < at+4 {
		return 0, 0
	}
	return binary.BigEndian.Uint16(frame[at:]), binary.BigEndian.Uint16(frame[at+2:])
}

func (n *node) counters(t testing.TB) map[string]uint64 {
	t.Helper()
	c, err := n.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// delta is what has moved.
func delta(before, after map[string]uint64) map[string]uint64 {
	moved := make(map[string]uint64)
	for name, value := range after {
		if d := value - before[name]; d != 0 {
			moved[name] = d
		}
	}
	return moved
}

func parseCounters(t testing.TB, text string) map[string]uint64 {
	t.Helper()
	counters := make(map[string]uint64)
	for _, word := range strings.Fields(text) {
		name, number, many := strings.Cut(word, "*")
		counters[name] = 1
		if many {
			n, err := strconv.ParseUint(number, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			counters[name] = n
		}
	}
	return counters
}
