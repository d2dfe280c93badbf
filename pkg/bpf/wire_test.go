package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wire is the far end of one of the node's links: what is sent goes through the programs where they are
// attached, and the node's stack.
type wire struct{ fd int }

func (n *node) mustWire(t testing.TB, name string) *wire {
	t.Helper()
	w := &wire{}
	n.mustDo(t, func() (err error) {
		l, err := n.ns.Netlink().LinkByName(name + "-peer")
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		tv := unix.NsecToTimeval(int64(10 * time.Millisecond))
		return errors.Join(unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
			unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}))
	})
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

func (w *wire) mustSend(t testing.TB, frame []byte) {
	t.Helper()
	if _, err := unix.Write(w.fd, frame); err != nil {
		t.Fatalf("send %d bytes: %v", len(frame), err)
	}
}

// mustReceiveFrame waits for exactly this frame.
func (w *wire) mustReceiveFrame(t testing.TB, want []byte) {
	t.Helper()
	w.mustReceiveThat(t, describe(want), func(frame []byte) bool { return string(frame) == string(want) })
}

// mustReceiveWith waits for a frame that ends in payload.
func (w *wire) mustReceiveWith(t testing.TB, payload string) []byte {
	t.Helper()
	return w.mustReceiveThat(t, payload, func(frame []byte) bool { return strings.HasSuffix(string(frame), payload) })
}

// mustReceiveThat waits for a frame that is wanted.
func (w *wire) mustReceiveThat(t testing.TB, what string, wanted func([]byte) bool) []byte {
	t.Helper()
	var seen []string
	buffer := make([]byte, 1<<17)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		size, err := unix.Read(w.fd, buffer)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if wanted(buffer[:size]) {
			return buffer[:size]
		}
		seen = append(seen, describe(buffer[:size]))
	}
	t.Fatalf("did not see\n%s\nbut\n%s", what, strings.Join(seen, "\n"))
	return nil
}

// mustReceive waits for exactly this packet; SNAT port 0 is any. It returns the packet with its port.
func (w *wire) mustReceive(t testing.TB, n *node, want packet) packet {
	t.Helper()
	w.mustReceiveThat(t, describe(want.bytes()), func(got []byte) bool {
		candidate := want
		if len(got) >= 14 && want.offset == 0 && want.src.Port() == 0 {
			if sport, _ := transportPorts(got); sport >= n.first && sport <= n.last {
				candidate.src = at(want.src.Addr(), sport)
			}
		}
		if string(got) != string(candidate.bytes()) {
			return false
		}
		want = candidate
		return true
	})
	return want
}

// leaving is a packet as the node sends it out of a link.
func leaving(p packet, out *port) packet {
	p.ethSrc, p.ethDst = out.mac, [6]byte(neighbourMAC)
	return p
}

// The programs at their places, with the kernel's own redirects and the stack between them: a question to
// a backend elsewhere and its answer, by both ways.
func TestRemoteOnTheWire(t *testing.T) {
	for name, configure := range map[string]func(*Options){"redirect": func(*Options) {}, "stack": forceStack, "clsact": func(o *Options) { o.Features.TCX = false }} {
		t.Run(name, func(t *testing.T) {
			forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
				frontend, backend := at(f.node, nodePort), at(f.onC, 8080)
				n.serve(t, frontend, protocol, backend)
				outside, inside := n.mustWire(t, "eth0"), n.mustWire(t, "eth1")
				in := at0(n, f.first(protocol, 40000, frontend))
				outside.mustSend(t, in.bytes())
				sent := inside.mustReceive(t, n, leaving(in.hop().from(at(n.eth1.addr[f.name], 0)).to(backend), n.eth1))
				reply := sent.answer(syn|ack, 7000, 1001, "answer")
				inside.mustSend(t, withMAC(reply, n.eth1).bytes())
				outside.mustReceive(t, n, leaving(reply.hop().from(frontend).to(in.src), n.eth0))
			}, configure)
		})
	}
}

func TestLocalOnTheWire(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, backend := at(f.node, nodePort), at(f.pod, 8080)
		n.serve(t, frontend, protocol, backend)
		outside, pod := n.mustWire(t, "eth0"), n.mustWire(t, "pod0")
		in := at0(n, f.first(protocol, 40000, frontend))
		outside.mustSend(t, in.bytes())
		sent := pod.mustReceive(t, n, leaving(in.hop().to(backend), n.pod0))
		reply := sent.answer(syn|ack, 7000, 1001, "answer")
		pod.mustSend(t, withMAC(reply, n.pod0).bytes())
		outside.mustReceive(t, n, leaving(reply.hop().from(frontend), n.eth0))
	})
}

// Frames too short for a test run of the kernel's, and a VLAN tag that the kernel takes off before us.
func TestTruncatedOnTheWire(t *testing.T) {
	n := newNode(t)
	outside := n.mustWire(t, "eth0")
	before := n.counters(t)
	malformed := uint64(0)
	for _, f := range families {
		n.serve(t, at(f.node, nodePort), udp, at(f.pod, 53))
		in := at0(n, f.first(udp, 40000, at(f.node, nodePort))).bytes()
		tagged := append(append(in[:12:12], 0x81, 0, 0, 5), in[12:]...)
		outside.mustSend(t, tagged)
		for length := 14; length < len(in); length++ {
			outside.mustSend(t, in[:length])
			malformed++
		}
	}
	mustEventually(t, func() error {
		moved := delta(before, n.counters(t))
		if len(moved) != 1 || moved["packet_malformed"] != malformed {
			return fmt.Errorf("counters %v, want packet_malformed %d alone", moved, malformed)
		}
		return nil
	})
}

func mustEventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}
