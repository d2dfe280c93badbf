package bpf

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// What no socket hook of this node has translated is caught on its way out, and answered.
func TestHost(t *testing.T) {
	forEach(t, []uint8{tcp, udp, sctp}, func(t *testing.T, n *node, f family, protocol uint8) {
		for i, c := range []struct {
			name    string
			backend packet
			answer  func(packet, packet) step
		}{
			{"here", packet{dst: at(f.pod, 8080)}, func(p, out packet) step { return podIngress(n.pod0, p, next, out, "host_reply") }},
			{"on the bridge", packet{dst: at(f.neighbour, 8080)}, func(p, out packet) step { return podIngress(n.pod1, p, next, out, "host_reply") }},
			{"by another uplink", packet{dst: at(f.onC, 8080)}, func(p, out packet) step { return ingress(n.eth1, p, next, out, "host_reply") }},
			{"by the same uplink", packet{dst: at(f.onB, 8080)}, func(p, out packet) step { return ingress(n.eth0, p, next, out, "host_reply") }},
		} {
			t.Run(c.name, func(t *testing.T) {
				n.linkPods(t)
				frontend, backend := clusterIP(f, 10+i), c.backend.dst
				pool := n.addPool(t, VerdictServe, []Slot{n.addBackend(t, backend, protocol)})
				n.addFrontend(t, frontend, protocol, Frontend{Service: pool, Inside: pool, Kind: KindClusterIP})
				in := f.first(protocol, 40000, frontend).from(at(f.node, 40000))
				in.ethSrc, in.ethDst, in.ttl = n.eth0.mac, [6]byte(neighbourMAC), 64
				out := in.to(backend)
				if backend.Addr() == f.onC {
					out = out.from(at(n.eth1.addr[f.name], 0)) // that link's address
				}
				sent := n.must(t, own(n.eth0, in, redirect, out, "flow_new host_forward"))
				stub, record := n.mustBeIn(t, "embryos", in, sent)
				const from = uint32(svcproxyFlowFlagFLOW_AT_UPLINK_EGRESS)
				const back = uint32(svcproxyFlowFlagFLOW_AT_UPLINK_INGRESS | svcproxyFlowFlagFLOW_AT_POD_INGRESS)
				if got := stub.Flags & 0xff00; got != from|back<<4 {
					t.Errorf("the stub is met at %#x", got)
				}
				if got := record.Flags & 0xff00; got != back|from<<4 {
					t.Errorf("the record is met at %#x", got)
				}
				reply := sent.answer(syn|ack, 7000, 1001, "answer")
				if protocol == sctp {
					reply.seq, reply.payload = clientTag, initAck(backendTag)
				}
				n.must(t, c.answer(reply, reply.from(frontend).to(in.src)))
				in.flags, in.ack, in.payload = ack, 7001, "more"
				if protocol == sctp {
					in.seq, in.payload = backendTag, chunk(10, "cookie")
				}
				n.must(t, own(n.eth0, in, redirect, in.to(backend).from(sent.src), "flow_promoted host_forward"))
				stub, record = n.mustBeIn(t, "flows", in, sent)
				if stub.Packets != 2 || record.Packets != 1 {
					t.Errorf("%d packets from the node and %d to it, want 2 and 1", stub.Packets, record.Packets)
				}
				n.must(t, c.answer(reply, reply.from(frontend).to(in.src)))
				// Translated, its packets pass the uplink that they leave by as they are.
				n.must(t, own(n.eth1, sent, next, sent, ""))
				// And forwarded packets with the frontend's address are another's business.
				other := in.from(at(f.client, 40000))
				n.must(t, egress(n.eth0, other, next, other, ""))
			})
		}
	})
}

// The node is a backend as well as a client: its packets are counted once all the same.
func TestHostThatIsABackend(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		n.serve(t, at(f.node, nodePort), protocol, at(f.node, 8080))
		in := f.first(protocol, 40000, at(f.node, nodePort))
		n.must(t, ingress(n.eth0, in, next, in.to(at(f.node, 8080)), "flow_new forward_local"))

		frontend, backend := clusterIP(f, 1), at(f.onB, 8080)
		n.serve(t, frontend, protocol, backend)
		dial := f.first(protocol, 41000, frontend).from(at(f.node, 41000))
		sent := n.must(t, own(n.eth0, dial, redirect, dial.to(backend), "flow_new host_forward"))
		n.must(t, own(n.eth0, dial, redirect, dial.to(backend), "host_forward"))
		n.must(t, own(n.eth0, dial, redirect, dial.to(backend), "host_forward"))
		if stub, _ := n.mustBeIn(t, "embryos", dial, sent); stub.Packets != 3 || stub.Bytes != 3*uint64(dial.ipLength()) {
			t.Errorf("%d packets of %d bytes, want 3 of %d", stub.Packets, stub.Bytes, 3*dial.ipLength())
		}
	})
}

// The node is the only one there: its packets come back by the link that they were leaving by, and so do its answers.
// Each side sees the frontend.
func TestHostWithItself(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		back := func(p packet) packet { p.ethSrc, p.ethDst = p.ethDst, p.ethSrc; return p }
		turned := func(in, out packet, counters string) step {
			s := own(n.eth0, in, redirect, out, counters)
			s.out.ethDst = out.ethDst
			return s
		}
		frontend, backend := clusterIP(f, 1), at(n.eth1.addr[f.name], 8080)
		n.serve(t, frontend, protocol, backend)
		in := f.first(protocol, 40000, frontend).from(at(f.node, 40000))
		in.ethSrc, in.ethDst, in.ttl = n.eth0.mac, [6]byte(neighbourMAC), 64
		got := n.must(t, turned(in, back(in.to(backend).from(at(frontend.Addr(), 0))), "flow_new host_forward"))
		n.mustBeIn(t, "embryos", in, got)
		n.must(t, ingress(n.eth0, got, next, got, ""))
		reply := back(got).answer(syn|ack, 7000, 1001, "answer")
		n.must(t, turned(reply, back(reply.from(frontend).to(in.src)), "host_reply"))
		in.flags, in.seq, in.ack, in.payload = ack, 1001, 7001, "more"
		n.must(t, turned(in, back(in.to(backend).from(got.src)), "flow_promoted host_forward"))
		n.must(t, turned(reply, back(reply.from(frontend).to(in.src)), "host_reply"))
		if protocol == udp {
			for i, p := range datagram(77, in) {
				n.must(t, turned(p, back(p.to(backend).from(got.src)), []string{"host_forward", "fragment"}[min(i, 1)]))
			}
		}
	})
}

// All parts of the node's own datagrams leave for the backend, and those of the answer come back.
func TestHostFragments(t *testing.T) {
	forEach(t, []uint8{udp}, func(t *testing.T, n *node, f family, _ uint8) {
		n.linkPods(t)
		frontend, backend := clusterIP(f, 1), at(f.pod, 53)
		n.serve(t, frontend, udp, backend)
		in := f.first(udp, 40000, frontend).from(at(f.node, 40000))
		in.ttl = 64
		for i, p := range datagram(77, in) {
			n.must(t, own(n.eth0, p, redirect, p.to(backend), []string{"flow_new host_forward", "fragment"}[min(i, 1)]))
		}
		for i, p := range datagram(99, in.to(backend).answer(0, 0, 0, "")) {
			n.must(t, podIngress(n.pod0, p, next, p.from(frontend), []string{"host_reply", "fragment"}[min(i, 1)]))
		}
	})
}

// A backend that no route leads to is not asked, and the packet does not leak.
func TestHostWithoutRoute(t *testing.T) {
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		frontend, backend := clusterIP(f, 1), at(f.unrelated.Addr(), 8080)
		nowhere := &netlink.Route{Dst: ipNet(f.unrelated), Type: unix.RTN_UNREACHABLE}
		if err := n.ns.Netlink().RouteAdd(nowhere); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.ns.Netlink().RouteDel(nowhere); err != nil {
				t.Error(err)
			}
		})
		n.serve(t, frontend, protocol, backend)
		in := f.first(protocol, 40000, frontend).from(at(f.node, 40000))
		n.must(t, own(n.eth0, in, shot, in, "flow_new"))
	})
}

// A process of the node, its kernel and the programs at their places: a datagram to a frontend reaches the
// backend, and the answer the process.
func TestHostOnTheWire(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			n := newNode(t)
			n.linkPods(t)
			for name, c := range map[string]struct {
				backend packet
				out     *port
			}{"pod0": {packet{dst: at(f.pod, 53)}, n.pod0}, "eth1": {packet{dst: at(f.onC, 53)}, n.eth1}, "pod1": {packet{dst: at(f.neighbour, 53)}, n.cni0}} {
				t.Run(name, func(t *testing.T) {
					frontend, backend := clusterIP(f, int(c.out.index)), c.backend.dst
					n.serve(t, frontend, udp, backend)
					w := n.mustWire(t, name)
					conn := mustDial(t, n.ns, frontend.String())
					question := fmt.Sprintf("what do you say, %s?", name)
					if _, err := conn.Write([]byte(question)); err != nil {
						t.Fatal(err)
					}
					frame := w.mustReceiveWith(t, question)
					dst, _ := destination(frame)
					sport, _ := transportPorts(frame)
					if dst != backend || [6]byte(frame) != [6]byte(neighbourMAC) || [6]byte(frame[6:]) != c.out.mac {
						t.Fatalf("went to %s, want %s:\n%s", dst, backend, describe(frame))
					}
					local := conn.LocalAddr().(*net.UDPAddr).AddrPort()
					client := at(local.Addr().Unmap(), local.Port())
					if c.out == n.eth1 {
						client = n.anySNATPort(t, at(n.eth1.addr[f.name], 0), sport)
					}
					if sport != client.Port() {
						t.Errorf("comes from port %d, want %d", sport, client.Port())
					}
					reply := packet{src: backend, dst: client, protocol: udp, ttl: 60, payload: "nothing"}
					reply.ethSrc = [6]byte(neighbourMAC)
					w.mustSend(t, withMAC(reply, c.out).bytes())
					buffer := make([]byte, 100)
					size, err := conn.Read(buffer)
					if got := string(buffer[:size]); err != nil || got != reply.payload {
						t.Fatalf("read %q, %v, want %q", got, err, reply.payload)
					}
				})
			}
			t.Run("refused", func(t *testing.T) {
				dial := clusterIP(f, 200)
				n.addFrontend(t, dial, udp, Frontend{Service: 9, Inside: n.addPool(t, VerdictReject, nil), Kind: KindClusterIP})
				conn := mustDial(t, n.ns, dial.String())
				if _, err := conn.Write([]byte("anybody there?")); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "connection refused") {
					t.Errorf("error %v, want connection refused", err)
				}
			})
		})
	}
}

// mustDial makes a UDP socket of the node that is connected to addr, with a deadline.
func mustDial(t testing.TB, ns *testenv.Namespace, addr string) net.Conn {
	t.Helper()
	conn, err := ns.DialContext(t.Context(), "udp", addr)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(5 * time.Second))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
