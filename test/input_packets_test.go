package test

import (
	"context"
	endian "encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// wireTap sends frames to a node as they are, from a client's eth0.
type wireTap struct {
	fd       int
	to       *unix.SockaddrLinklayer
	ethernet [12]byte // both addresses
}

func newWireTap(t *testing.T, from *testenv.Client, to *testenv.Node) *wireTap {
	t.Helper()
	ours, theirs := linkOf(t, from.Namespace, "eth0"), linkOf(t, to.Namespace, "eth0")
	w := &wireTap{to: &unix.SockaddrLinklayer{Ifindex: ours.Attrs().Index}}
	copy(w.ethernet[:6], theirs.Attrs().HardwareAddr)
	copy(w.ethernet[6:], ours.Attrs().HardwareAddr)
	err := from.Do(func() (err error) {
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatalf("packet socket: %v", err)
	}
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

func (w *wireTap) send(t *testing.T, protocol uint16, packet []byte) {
	t.Helper()
	frame := endian.BigEndian.AppendUint16(append([]byte(nil), w.ethernet[:]...), protocol)
	if err := unix.Sendto(w.fd, append(frame, packet...), 0, w.to); err != nil {
		t.Fatalf("send %d bytes: %v", len(packet), err)
	}
}

// synV4 is a good TCP SYN, without checksums: who looks at headers alone does not miss them.
func synV4(from, to net.IP, port uint16) []byte {
	p := make([]byte, 40)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_TCP
	endian.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], from.To4())
	copy(p[16:], to.To4())
	tcpSyn(p[20:], port)
	return p
}

func synV6(from, to net.IP, port uint16) []byte {
	p := make([]byte, 60)
	p[0], p[6], p[7] = 0x60, unix.IPPROTO_TCP, 64
	endian.BigEndian.PutUint16(p[4:], 20)
	copy(p[8:], from)
	copy(p[24:], to)
	tcpSyn(p[40:], port)
	return p
}

func tcpSyn(p []byte, port uint16) {
	const offset, syn = 5 << 4, 2
	endian.BigEndian.PutUint16(p, 33333)
	endian.BigEndian.PutUint16(p[2:], port)
	p[12], p[13] = offset, syn
}

// packetEvents are the data path's counters, but for that of old flows, which are collected at any time.
func packetEvents(t *testing.T, a *agent) map[string]uint64 {
	t.Helper()
	m := commandJSON[struct{ Events map[string]uint64 }](t, a.node, "status").Events
	delete(m, "flow_collected")
	return m
}

// quietEvents waits until they stand still: the last packets of connections may be on their way.
func quietEvents(t *testing.T, a *agent) (m map[string]uint64) {
	t.Helper()
	eventually(t, "counters", func(context.Context) error {
		before := m
		if m = packetEvents(t, a); !maps.Equal(before, m) {
			return errors.New("move")
		}
		return nil
	})
	return m
}

// Frames from outside that are shorter than they say, or say nonsense: counted, not forwarded, and no flow begins.
func TestMalformedPackets(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node, client := c.Nodes[0], c.Clients[0]
	a := startAgent(t, node, "--manifests", dir)
	both := []string{c.Nodes[0].Pods[0].Name, c.Nodes[1].Pods[0].Name}
	for _, addr := range nodeAddrs(node, 30080) {
		answered(t, client, "tcp", addr, both...)
	}
	tap := newWireTap(t, client, node)
	const v4, v6 = unix.ETH_P_IP, unix.ETH_P_IPV6
	syn4 := synV4(client.IPv4.AsSlice(), node.IPv4.AsSlice(), 30080)
	syn6 := synV6(client.IPv6.AsSlice(), node.IPv6.AsSlice(), 30080)
	edit := func(p []byte, f func([]byte)) []byte {
		p = append([]byte(nil), p...)
		f(p)
		return p
	}
	udp := func(p []byte) { p[9] = unix.IPPROTO_UDP }
	for _, tt := range []struct {
		name     string
		protocol uint16
		packet   []byte
	}{
		{"nothing", v4, nil},
		{"one byte", v4, syn4[:1]},
		{"half an IPv4 header", v4, syn4[:10]},
		{"IPv4 header alone", v4, syn4[:20]},
		{"IPv4 without room for ports", v4, syn4[:22]},
		{"half a TCP header", v4, syn4[:30]},
		{"TCP header less one byte", v4, syn4[:39]},
		{"length of the frame less one", v4, edit(syn4, func(p []byte) { p[3] = 41 })},
		{"length of the header less one", v4, edit(syn4, func(p []byte) { p[3] = 19 })},
		{"length 0", v4, edit(syn4, func(p []byte) { p[3] = 0 })},
		{"length that ends in the TCP header", v4, edit(syn4, func(p []byte) { p[3] = 39 })},
		{"header of four words", v4, edit(syn4, func(p []byte) { p[0] = 0x44 })},
		{"header longer than the packet", v4, edit(syn4, func(p []byte) { p[0] = 0x4f })},
		{"version 6 in IPv4", v4, edit(syn4, func(p []byte) { p[0] = 0x65 })},
		{"version 0 in IPv4", v4, edit(syn4, func(p []byte) { p[0] = 0x05 })},
		{"TCP header of four words", v4, edit(syn4, func(p []byte) { p[32] = 4 << 4 })},
		{"TCP header longer than the packet", v4, edit(syn4, func(p []byte) { p[32] = 6 << 4 })},
		{"UDP length beyond the packet", v4, edit(syn4[:28], func(p []byte) { udp(p); p[3], p[24], p[25] = 28, 0, 9 })},
		{"UDP length less than its header", v4, edit(syn4[:28], func(p []byte) { udp(p); p[3], p[24], p[25] = 28, 0, 7 })},
		{"UDP without room for its header", v4, edit(syn4[:27], func(p []byte) { udp(p); p[3] = 27 })},
		{"half an IPv6 header", v6, syn6[:20]},
		{"IPv6 header alone", v6, syn6[:40]},
		{"IPv6, half a TCP header", v6, syn6[:50]},
		{"version 4 in IPv6", v6, edit(syn6, func(p []byte) { p[0] = 0x40 })},
		{"payload longer than the frame", v6, edit(syn6, func(p []byte) { p[5] = 21 })},
		{"payload 0", v6, edit(syn6, func(p []byte) { p[5] = 0 })},
		{"extension header that is not there", v6, edit(syn6[:40], func(p []byte) { p[6], p[5] = unix.IPPROTO_DSTOPTS, 0 })},
		{"extension header longer than the packet", v6, edit(syn6, func(p []byte) { p[6], p[40], p[41] = unix.IPPROTO_DSTOPTS, unix.IPPROTO_TCP, 200 })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := quietEvents(t, a)
			tap.send(t, tt.protocol, tt.packet)
			eventually(t, "counters", func(context.Context) error {
				if maps.Equal(before, packetEvents(t, a)) {
					return errors.New("do not move")
				}
				return nil
			})
			want := maps.Clone(before)
			want["packet_malformed"]++
			if diff := cmp.Diff(want, quietEvents(t, a)); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}

	// And by chance, under load.
	var l loads
	l.startAll(t, client.Host, nodeAddrs(node, 30080)...)
	l.startAll(t, node.Pods[1].Host, webAddrs()...)
	l.each(t, 3)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	before := a.event(t, "packet_malformed")
	for range 20000 {
		protocol, packet := uint16(v4), syn4
		if random.IntN(2) == 0 {
			protocol, packet = v6, syn6
		}
		packet = append(append([]byte(nil), packet...), make([]byte, random.IntN(40))...)
		for range random.IntN(6) {
			packet[random.IntN(len(packet))] = byte(random.Uint32())
		}
		tap.send(t, protocol, packet[:random.IntN(len(packet)+1)])
	}
	if n := a.event(t, "packet_malformed") - before; n == 0 {
		t.Error("no malformed packet counted")
	}
	l.each(t, 3)
	l.stop(t)
	for _, addr := range nodeAddrs(node, 30080) {
		answered(t, client, "tcp", addr, both...)
	}
	if err := a.ready(t.Context()); err != nil {
		t.Error(err)
	}
}
