package test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

const (
	protocolMPTCP   = 262
	protocolUDPLite = 136
	protocolPrivate = 253 // for experiments (RFC 3692)
)

// Which sockets are translated. Somebody outside has the Service's address too: it gets what is not.
func TestSocketKinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	decoy := w.client.Host
	beDecoy(t, w, clusterForms(60))
	// The backend's pod takes data with the SYN: 1 client, 2 server, 0x400 every listener (from now on).
	if err := w.b2.Sysctl("net.ipv4.tcp_fastopen", "1027"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.b2.ServeAll(t.Context(), serverPort+1); err != nil {
		t.Fatal(err)
	}
	s := service("web", 60, 30060)
	for i := range s.Spec.Ports {
		s.Spec.Ports[i].TargetPort.IntVal = serverPort + 1
	}
	w.put(t, s, apiserver.PodBackend(w.b2))
	w.start(t, nil, w.a)

	for _, f := range clusterForms(60) {
		to := netip.AddrPortFrom(f.addr, 80)
		t.Run("MPTCP/"+f.name, func(t *testing.T) {
			c := openSocket(t, w.a1.Host, f.addr, unix.SOCK_STREAM, protocolMPTCP)
			if err := c.Connect(t.Context(), to); err != nil {
				t.Fatal(err)
			}
			checkGreeting(t, c, w.b2.Name)
		})
		t.Run("TCP Fast Open/"+f.name, func(t *testing.T) {
			before := netstat(t, w.a1.Host, "TcpExt", "TCPFastOpenActive")
			for range 2 { // for the cookie, and with it
				c := openSocket(t, w.a1.Host, f.addr, unix.SOCK_STREAM, 0)
				if err := c.SetOption(t.Context(), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(c.Connect(t.Context(), to), c.Send(t.Context(), "who\n")); err != nil {
					t.Fatal(err)
				}
				checkGreeting(t, c, w.b2.Name)
				if peer, err := c.GetPeerName(t.Context()); peer != to || err != nil {
					t.Errorf("getpeername: %s, %v, want %s", peer, err, to)
				}
			}
			if after := netstat(t, w.a1.Host, "TcpExt", "TCPFastOpenActive"); after == before {
				t.Error("no connection carried data with its SYN: this tested nothing")
			}
		})
		t.Run("UDP-Lite/"+f.name, func(t *testing.T) {
			testUntouched(t, w, f, unix.SOCK_DGRAM, protocolUDPLite, 80)
		})
		t.Run("raw/"+f.name, func(t *testing.T) {
			if f.name != "mapped" { // raw sockets know no mapped addresses
				testUntouched(t, w, f, unix.SOCK_RAW, protocolPrivate, 0)
			}
		})
		t.Run("ping/"+f.name, func(t *testing.T) {
			if f.name != "mapped" { // nor do ping sockets
				testPing(t, w, f)
			}
		})
		t.Run("another cgroup/"+f.name, func(t *testing.T) {
			for _, from := range []*testenv.Host{w.b1.Host, w.b.Host} {
				for _, network := range networks {
					exchange{from: from, network: network, to: to, backend: decoy.Name, source: from.Addrs()[f.i]}.check(t)
				}
			}
		})
	}
}

// beDecoy makes the client a host that has these addresses and serves on port 80, and the nodes' way to
// all of their kind.
func beDecoy(t *testing.T, w *world, addrs []form) {
	t.Helper()
	lo, err := w.client.Netlink().LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range addrs[:2] {
		host, err := netlink.ParseAddr(netip.PrefixFrom(f.addr, f.addr.BitLen()).String())
		if err != nil {
			t.Fatal(err)
		}
		host.Flags = unix.IFA_F_NODAD
		if err := w.client.Netlink().AddrAdd(lo, host); err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"tcp", "udp"} {
			if _, err := w.client.Serve(t.Context(), network, netip.AddrPortFrom(f.addr, 80).String()); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range w.Nodes {
			err := errors.Join(n.AddRoute(netip.PrefixFrom(f.addr, f.addr.BitLen()), w.client.Addrs()[i]),
				w.client.AddRoute(n.PodCIDRs[i], n.Addrs()[i]))
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func checkGreeting(t *testing.T, s *hand.Socket, backend string) {
	t.Helper()
	if line, err := s.Recv(t.Context()); !strings.HasPrefix(line, backend+" ") || err != nil {
		t.Errorf("greeted with %q, %v, want %s", line, err, backend)
	}
}

// testUntouched sends from a pod to the Service's address and back, through a socket that is none of ours.
func testUntouched(t *testing.T, w *world, f form, kind, protocol int, port uint16) {
	to := netip.AddrPortFrom(f.addr, port)
	server := openSocket(t, w.client.Host, f.addr.Unmap(), kind, protocol)
	if err := server.Bind(t.Context(), netip.AddrPortFrom(f.addr.Unmap(), port)); err != nil {
		t.Fatal(err)
	}
	before := counters(t, w.agents[0])
	c := openSocket(t, w.a1.Host, f.addr, kind, protocol)
	if err := c.Connect(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	if err := c.SendTo(t.Context(), "ping", netip.AddrPort{}); err != nil {
		t.Fatal(err)
	}
	// A raw IPv4 socket is given the header too.
	payload, from, err := server.RecvFrom(t.Context())
	if !strings.HasSuffix(payload, "ping") || from.Addr() != w.a1.Addrs()[f.i] || err != nil {
		t.Fatalf("who really has the address received %q from %s, %v", payload, from, err)
	}
	if err := server.SendTo(t.Context(), "pong", from); err != nil {
		t.Fatal(err)
	}
	if payload, from, err := c.RecvFrom(t.Context()); !strings.HasSuffix(payload, "pong") || from != to || err != nil {
		t.Errorf("answer %q from %s, %v, want it from %s", payload, from, err, to)
	}
	checkMoved(t, w.agents[0], before, untouched)
}

// untouched are the counters of the socket hooks, none of which moved.
var untouched = map[string]uint64{"connect": 0, "connect_reject": 0, "sendmsg": 0, "recvmsg": 0, "getpeername": 0}

func testPing(t *testing.T, w *world, f form) {
	if err := w.a1.Sysctl("net.ipv4.ping_group_range", "0 0"); err != nil {
		t.Fatal(err)
	}
	protocol, request, reply := unix.IPPROTO_ICMP, "\x08", "\x00"
	if f.addr.Is6() {
		protocol, request, reply = unix.IPPROTO_ICMPV6, "\x80", "\x81"
	}
	before := counters(t, w.agents[0])
	c := openSocket(t, w.a1.Host, f.addr, unix.SOCK_DGRAM, protocol)
	if err := c.Connect(t.Context(), netip.AddrPortFrom(f.addr, 80)); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(t.Context(), request+"\x00\x00\x00\x00\x00\x00\x01hello"); err != nil {
		t.Fatal(err)
	}
	answer, from, err := c.RecvFrom(t.Context())
	if !strings.HasPrefix(answer, reply) || !strings.HasSuffix(answer, "hello") || from.Addr() != f.addr || err != nil {
		t.Errorf("echo %q from %s, %v, want one from %s", answer, from, err, f.addr)
	}
	checkMoved(t, w.agents[0], before, untouched)
}

// netstat reads a counter of a host's network namespace, as nstat(8) does.
func netstat(t *testing.T, h *testenv.Host, protocol, name string) (value uint64) {
	t.Helper()
	if err := h.Do(func() error {
		var text []byte
		for _, file := range []string{"netstat", "snmp", "snmp6"} {
			part, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			text = append(text, part...)
		}
		var names []string
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			switch {
			case words[0] == protocol+name: // one a line: IPv6
				_, err := fmt.Sscan(words[1], &value)
				return err
			case words[0] != protocol+":":
			case names == nil:
				names = words
			default:
				for i := range words {
					if names[i] == name {
						_, err := fmt.Sscan(words[i], &value)
						return err
					}
				}
			}
		}
		return fmt.Errorf("no counter %s of %s", name, protocol)
	}); err != nil {
		t.Fatal(err)
	}
	return value
}
