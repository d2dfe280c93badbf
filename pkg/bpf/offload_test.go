package bpf

import (
	"encoding/binary"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mustHaveMTU sets the MTU of links and their far ends until the test ends.
func (n *node) mustHaveMTU(t testing.TB, mtu int, links ...string) {
	t.Helper()
	for _, name := range links {
		for _, end := range []string{name, name + "-peer"} {
			l, err := n.ns.Netlink().LinkByName(end)
			if err == nil {
				err = n.ns.Netlink().LinkSetMTU(l, mtu)
			}
			if err != nil {
				t.Fatalf("set MTU of %s: %v", end, err)
			}
			t.Cleanup(func() {
				if err := n.ns.Netlink().LinkSetMTU(l, l.Attrs().MTU); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// mustFillChecksums makes a link fill checksums in before it sends, as a network card's driver would that
// cannot leave it to the hardware; until the test ends.
func (n *node) mustFillChecksums(t testing.TB, link string) {
	t.Helper()
	set := func(on uint32) error {
		return n.ns.Do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			value := struct{ cmd, data uint32 }{unix.ETHTOOL_STXCSUM, on}
			request := struct {
				name [unix.IFNAMSIZ]byte
				data unsafe.Pointer
				_    [16]byte
			}{data: unsafe.Pointer(&value)}
			copy(request.name[:], link)
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
			runtime.KeepAlive(&value)
			if errno != 0 {
				return errno
			}
			return nil
		})
	}
	if err := set(0); err != nil {
		t.Fatalf("switch checksums in hardware off at %s: %v", link, err)
	}
	t.Cleanup(func() {
		if err := set(1); err != nil {
			t.Error(err)
		}
	})
}

// mustSendOffloaded sends a TCP or UDP packet as a virtual machine does: with a checksum to be filled in
// behind us, and to be cut into segments if size is not 0.
func (w *wire) mustSendOffloaded(t testing.TB, p packet, size int) {
	t.Helper()
	const needsChecksum = 1
	// struct virtio_net_hdr
	header := []byte{needsChecksum, 0}
	frame := p.bytes()
	start := 14 + p.ipLength() - len(p.transport())
	length := 20
	field := 16
	if p.protocol == udp {
		length, field = 8, 6
	}
	if size != 0 {
		header[1] = map[uint8]byte{udp: 5, tcp: map[bool]byte{false: 1, true: 4}[p.v6()]}[p.protocol]
	}
	header = binary.NativeEndian.AppendUint16(header, uint16(start+length))
	header = binary.NativeEndian.AppendUint16(header, uint16(size))
	header = binary.NativeEndian.AppendUint16(header, uint16(start))
	header = binary.NativeEndian.AppendUint16(header, uint16(field))
	// What is there until then: the sum of the pseudo-header.
	binary.BigEndian.PutUint16(frame[start+field:], sum(0, binary.BigEndian.AppendUint32(nil, p.pseudoSum(len(p.transport())))))
	if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		t.Fatal(err)
	}
	w.mustSend(t, append(header, frame...))
	if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 0); err != nil {
		t.Fatal(err)
	}
}

// offloaded are the packets that mustSendOffloaded is good for.
func offloaded(in packet) map[string]struct {
	in   packet
	size int
} {
	long := in
	long.payload = strings.Repeat("0123456789", 500)
	return map[string]struct {
		in   packet
		size int
	}{"one packet": {in, 0}, "many segments": {long, 1000}}
}

// A packet whose checksum is not there yet, and one that is to be cut into many, are answered with a good error,
// whether the link that it leaves by fills checksums in or not.
func TestRejectOffloaded(t *testing.T) {
	for name, fill := range map[string]bool{"not filled in": false, "filled in": true} {
		t.Run(name, func(t *testing.T) {
			forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
				n.linkPods(t)
				if fill {
					n.mustFillChecksums(t, "pod0")
				}
				w := n.mustWire(t, "pod0")
				for name, c := range offloaded(n.refuse(t, f, protocol, nodePort)) {
					t.Run(name, func(t *testing.T) {
						c.in.ethDst = n.pod0.mac
						w.mustSendOffloaded(t, c.in, c.size)
						w.mustReceiveError(t, c.in)
					})
				}
			})
		})
	}
}

// mustReceiveError waits for a good error about a packet, whose quoted checksum may be any.
func (w *wire) mustReceiveError(t testing.TB, about packet) {
	t.Helper()
	want := about.unreachable()
	icmp := 14 + 20
	if about.v6() {
		icmp = 14 + 40
	}
	quoted := about.ipLength() - len(about.transport())
	checksum := icmp + 8 + quoted + map[uint8]int{tcp: 16, udp: 6}[about.protocol]
	blank := func(frame []byte) string {
		b := append([]byte{}, frame...)
		copy(b[icmp+2:], "..")
		copy(b[checksum:], "..")
		return string(b)
	}
	w.mustReceiveThat(t, describe(want), func(frame []byte) bool {
		start := uint32(0)
		if about.v6() {
			start = packet{src: about.dst, dst: about.src, protocol: 58}.pseudoSum(len(frame) - icmp)
		}
		return len(frame) == len(want) && blank(frame) == blank(want) && sum(start, frame[icmp:]) == 0xffff
	})
}
