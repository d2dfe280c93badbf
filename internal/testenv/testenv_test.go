package testenv_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

func TestMain(m *testing.M) {
	testenv.Main()
	if os.Getenv(ownerVariable) != "" {
		beOwner()
	}
	os.Exit(m.Run())
}

var networks = []string{"tcp", "udp", "udp-unconnected"}

// Every host asks every other one that it should reach, over both families; no address is rewritten on
// the way, so both ends must see each other as they are.
func TestReach(t *testing.T) {
	for _, network := range []testenv.PodNetwork{testenv.Routed, testenv.Bridged} {
		for _, overlay := range []testenv.Overlay{testenv.Direct, testenv.VXLAN} {
			t.Run(fmt.Sprintf("%s/%s", network, overlay), func(t *testing.T) {
				begin := time.Now()
				c := testenv.MustNew(t, testenv.Options{Nodes: 2, PodsPerNode: 2, Clients: 1, PodNetwork: network, Overlay: overlay})
				t.Logf("cluster of 2 nodes, 4 pods, 1 client: %v", time.Since(begin))
				for _, h := range c.Hosts() {
					mustServeAll(t, h, 8080)
				}
				a, b, client := c.Nodes[0], c.Nodes[1], c.Clients[0]
				pairs := [][2]*testenv.Host{
					{a.Pods[0].Host, a.Pods[1].Host},
					{a.Pods[0].Host, b.Pods[0].Host},
					{b.Pods[1].Host, a.Pods[1].Host},
					{a.Pods[0].Host, a.Pods[0].Host},
					{client.Host, a.Host},
					{client.Host, b.Host},
					{a.Host, client.Host},
					{a.Host, b.Host},
				}
				for _, pair := range pairs {
					from, to := pair[0], pair[1]
					for i, addr := range to.Addrs() {
						for _, network := range networks {
							checkRequest(t, network, from, netip.AddrPortFrom(addr, 8080), hand.Reply{
								Backend: to.Name,
								Source:  netip.AddrPortFrom(from.Addrs()[i], 0),
								Peer:    netip.AddrPortFrom(addr, 8080),
								Local:   netip.AddrPortFrom(from.Addrs()[i], 0),
							})
						}
					}
				}
				// Which address a node uses towards pods is the pod network's affair; that it arrives is not.
				for _, pod := range []*testenv.Pod{a.Pods[0], b.Pods[0]} {
					for _, addr := range pod.Addrs() {
						reply, err := a.Request(t.Context(), "tcp", netip.AddrPortFrom(addr, 8080).String())
						if err != nil || reply.Backend != pod.Name {
							t.Errorf("%s asks %s at %s: answered by %q, %v", a.Name, pod.Name, addr, reply.Backend, err)
						}
					}
				}
				checkUnreachable(t, client.Host, a.Pods[0].Host)
			})
		}
	}
}

// checkRequest makes one request; ports of want that are 0 may be any.
func checkRequest(t *testing.T, network string, from *testenv.Host, to netip.AddrPort, want hand.Reply) {
	t.Helper()
	got, err := from.Request(t.Context(), network, to.String())
	if err != nil {
		t.Errorf("%s asks %s over %s: %v", from.Name, to, network, err)
		return
	}
	if want.Local.Port() == 0 && got.Local.Port() == got.Source.Port() {
		got.Local = netip.AddrPortFrom(got.Local.Addr(), 0)
		got.Source = netip.AddrPortFrom(got.Source.Addr(), 0)
	}
	if network == "udp-unconnected" { // bound to no address
		want.Local = netip.AddrPortFrom(got.Local.Addr(), 0)
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("%s asks %s over %s (-want +got):\n%s", from.Name, to, network, diff)
	}
}

var compareAddrs = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

// checkUnreachable: an outside client has no route to a pod, and says so at once.
func checkUnreachable(t *testing.T, from, to *testenv.Host) {
	t.Helper()
	for _, addr := range to.Addrs() {
		_, err := from.Request(t.Context(), "tcp", netip.AddrPortFrom(addr, 8080).String())
		if !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("%s asks %s: %v, want ENETUNREACH", from.Name, addr, err)
		}
	}
}

func mustServeAll(t *testing.T, h *testenv.Host, port uint16) {
	t.Helper()
	if _, err := h.ServeAll(t.Context(), port); err != nil {
		t.Fatalf("serve on %s: %v", h.Name, err)
	}
}

// A route is all that an outside client lacks, and what a pod sends to nowhere ends at its node.
func TestRoutes(t *testing.T) {
	c := testenv.MustNew(t, testenv.Options{Nodes: 1, PodsPerNode: 1, Clients: 1})
	node, pod, client := c.Nodes[0], c.Nodes[0].Pods[0], c.Clients[0]
	mustServeAll(t, pod.Host, 80)
	for i, cidr := range node.PodCIDRs {
		if err := client.AddRoute(cidr, node.Addrs()[i]); err != nil {
			t.Fatal(err)
		}
		checkRequest(t, "tcp", client.Host, netip.AddrPortFrom(pod.Addrs()[i], 80), hand.Reply{
			Backend: pod.Name,
			Source:  netip.AddrPortFrom(client.Addrs()[i], 0),
			Peer:    netip.AddrPortFrom(pod.Addrs()[i], 80),
			Local:   netip.AddrPortFrom(client.Addrs()[i], 0),
		})
	}
	for _, clusterIP := range []string{"10.96.0.1:80", "[fd96::1]:80"} {
		if _, err := pod.Request(t.Context(), "tcp", clusterIP); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("pod asks %s: %v, want ENETUNREACH from its node", clusterIP, err)
		}
		if _, err := node.Request(t.Context(), "tcp", clusterIP); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("node asks %s: %v, want ENETUNREACH", clusterIP, err)
		}
	}
}

func TestSockets(t *testing.T) {
	ctx := t.Context()
	c := testenv.MustNew(t, testenv.Options{Nodes: 1, PodsPerNode: 2})
	server, client := c.Nodes[0].Pods[0], c.Nodes[0].Pods[1]
	mustServeAll(t, server.Host, 53)
	v4 := netip.AddrPortFrom(server.IPv4, 53)
	mapped := netip.AddrPortFrom(netip.AddrFrom16(server.IPv4.As16()), 53)
	closed := netip.AddrPortFrom(server.IPv4, 54)

	t.Run("refused", func(t *testing.T) {
		s := mustSocket(t, client.Host, unix.AF_INET, unix.SOCK_STREAM)
		if err := s.Connect(ctx, closed); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("TCP connect to a closed port: %v, want ECONNREFUSED", err)
		}
		s = mustSocket(t, client.Host, unix.AF_INET, unix.SOCK_DGRAM)
		if err := errors.Join(s.Connect(ctx, closed), s.Send(ctx, "x")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(ctx); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("UDP receive from a closed port: %v, want ECONNREFUSED", err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		s := mustSocket(t, client.Host, unix.AF_INET, unix.SOCK_DGRAM)
		if err := s.Bind(ctx, netip.AddrPortFrom(client.IPv4, 1000)); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err := s.Recv(short)
		if !errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, new(unix.Errno)) {
			t.Errorf("receive of nothing: %v, want a deadline and no errno", err)
		}
	})
	t.Run("v4-mapped", func(t *testing.T) {
		s := mustSocket(t, client.Host, unix.AF_INET6, unix.SOCK_DGRAM)
		if err := s.SendTo(ctx, "a b", v4); err != nil {
			t.Fatal(err)
		}
		answer, from, err := s.RecvFrom(ctx)
		local, _ := s.GetSockName(ctx)
		want := fmt.Sprintf("%s %s:%d a b\n", server.Name, client.IPv4, local.Port())
		if answer != want || from != mapped || err != nil {
			t.Errorf("answer %q from %s, %v, want %q from %s", answer, from, err, want, mapped)
		}
	})
	t.Run("disconnect", func(t *testing.T) {
		s := mustSocket(t, client.Host, unix.AF_INET, unix.SOCK_DGRAM)
		if err := s.Connect(ctx, v4); err != nil {
			t.Fatal(err)
		}
		if peer, err := s.GetPeerName(ctx); peer != v4 || err != nil {
			t.Errorf("getpeername: %s, %v, want %s", peer, err, v4)
		}
		if err := s.Disconnect(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := s.GetPeerName(ctx); !errors.Is(err, unix.ENOTCONN) {
			t.Errorf("getpeername after disconnect: %v, want ENOTCONN", err)
		}
		if err := s.Send(ctx, "x"); !errors.Is(err, unix.EDESTADDRREQ) {
			t.Errorf("send after disconnect: %v, want EDESTADDRREQ", err)
		}
	})
	t.Run("stream", func(t *testing.T) {
		s := mustSocket(t, client.Host, unix.AF_INET, unix.SOCK_STREAM)
		if err := s.Connect(ctx, v4); err != nil {
			t.Fatal(err)
		}
		local, err := s.GetSockName(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"", " one", " two"} {
			if line != "" {
				if err := s.Send(ctx, line[1:]+"\n"); err != nil {
					t.Fatal(err)
				}
			}
			want := fmt.Sprintf("%s %s%s\n", server.Name, local, line)
			if got, err := s.Recv(ctx); got != want || err != nil {
				t.Errorf("received %q, %v, want %q", got, err, want)
			}
		}
	})
	t.Run("options", func(t *testing.T) {
		s := mustSocket(t, client.Host, unix.AF_INET6, unix.SOCK_STREAM)
		if err := s.SetOption(ctx, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			t.Fatal(err)
		}
		if v, err := s.GetOption(ctx, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY); v != 1 || err != nil {
			t.Errorf("IPV6_V6ONLY is %d, %v", v, err)
		}
		if err := s.Connect(ctx, v4); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("connect of a v6-only socket to IPv4: %v, want ENETUNREACH", err)
		}
	})
}

func mustSocket(t *testing.T, h *testenv.Host, family, kind int) *hand.Socket {
	t.Helper()
	s, err := h.Socket(t.Context(), family, kind, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("close socket: %v", err)
		}
	})
	return s
}

// A stopped server refuses, a removed pod is gone; the others stay.
func TestTakeAway(t *testing.T) {
	ctx := t.Context()
	c := testenv.MustNew(t, testenv.Options{Nodes: 1, PodsPerNode: 1})
	node := c.Nodes[0]
	pod, err := node.AddPod(ctx)
	if err != nil {
		t.Fatal(err)
	}
	server, err := pod.Serve(ctx, "tcp", netip.AddrPortFrom(pod.IPv4, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	client := node.Pods[0]
	if reply, err := client.Request(ctx, "tcp", server.Addr.String()); reply.Backend != pod.Name || err != nil {
		t.Fatalf("answered by %q, %v, want %s", reply.Backend, err, pod.Name)
	}
	if err := server.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Request(ctx, "tcp", server.Addr.String()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a stopped server: %v, want ECONNREFUSED", err)
	}
	if err := pod.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(pod.Cgroup); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cgroup of a removed pod: %v", err)
	}
	if _, err := node.Netlink().LinkByName(pod.HostLink); err == nil {
		t.Errorf("link %s of a removed pod is still there", pod.HostLink)
	}
	if len(node.Pods) != 1 || node.Pods[0] != client {
		t.Errorf("node has %d pods, want the one that stayed", len(node.Pods))
	}
}

// Hands are in the cgroup they should be in: what is attached to a node's sees its pods.
func TestCgroups(t *testing.T) {
	c := testenv.MustNew(t, testenv.Options{Nodes: 1, PodsPerNode: 1, Clients: 1})
	for _, h := range c.Hosts() {
		procs, err := os.ReadFile(filepath.Join(h.Cgroup, "cgroup.procs"))
		if want := fmt.Sprintln(h.HandPID()); string(procs) != want || err != nil {
			t.Errorf("cgroup of %s holds %q, %v, want %q", h.Name, procs, err, want)
		}
	}
	node := c.Nodes[0]
	if dir := filepath.Dir(node.Pods[0].Cgroup); dir != node.Cgroup {
		t.Errorf("cgroup of the pod is in %s, want %s", dir, node.Cgroup)
	}
	if dir := filepath.Dir(node.Cgroup); dir != filepath.Dir(c.Clients[0].Cgroup) {
		t.Errorf("cgroup of the node is in %s, not beside the client's", dir)
	}
}
