package test

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// TestAffinity: a client keeps its backend, whichever frontend of the Service port it dials.
func TestAffinity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	s := service("sticky", 40, 30040)
	s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	w.put(t, s, apiserver.PodBackend(w.a1), apiserver.PodBackend(w.a2), apiserver.PodBackend(w.b1), apiserver.PodBackend(w.b2))
	w.start(t, nil)

	kept := func(t *testing.T, from *testenv.Host, network string, frontends ...string) string {
		t.Helper()
		first := ""
		for range 6 {
			for _, addr := range frontends {
				r, err := from.Request(t.Context(), network, addr)
				if err != nil {
					t.Fatalf("%s to %s: %v", from.Name, addr, err)
				}
				if first == "" {
					first = r.Backend
				}
				if r.Backend != first {
					t.Fatalf("%s over %s: %s answered on %s, before that %s", from.Name, network, r.Backend, addr, first)
				}
			}
		}
		return first
	}
	v4, v6 := clusterForms(40)[0].addr, clusterForms(40)[1].addr
	for _, network := range []string{"tcp", "udp"} {
		for i, service := range []netip.Addr{v4, v6} {
			for _, from := range []*testenv.Host{w.a1.Host, w.a.Host} {
				kept(t, from, network, netip.AddrPortFrom(service, 80).String(), netip.AddrPortFrom(w.a.Addrs()[i], 30040).String())
			}
			kept(t, w.client.Host, network, netip.AddrPortFrom(w.a.Addrs()[i], 30040).String())
		}
	}

	// A backend that is gone is no longer kept, and what replaces it is.
	addr := netip.AddrPortFrom(v4, 80).String()
	before := kept(t, w.a1.Host, "tcp", addr)
	var others []apiserver.Backend
	for _, p := range []*testenv.Pod{w.a1, w.a2, w.b1, w.b2} {
		if p.Name != before {
			others = append(others, apiserver.PodBackend(p))
		}
	}
	w.put(t, s, others...)
	if after := kept(t, w.a1.Host, "tcp", addr); after == before {
		t.Errorf("%s still answers", before)
	}

	// Without affinity choices are made anew, from the next connection on.
	s.Spec.SessionAffinity = corev1.ServiceAffinityNone
	w.put(t, s, others...)
	seen := map[string]bool{}
	eventually(t, "answer", func(context.Context) error {
		r, err := w.a1.Request(t.Context(), "tcp", addr)
		seen[r.Backend] = true
		if err == nil && len(seen) < len(others) {
			err = difference("not all of the backends have answered yet")
		}
		return err
	})
}

// TestAffinityByNamespace: a pod, and the node, is one client, whether its processes are in the hooked cgroup or send
// packets that no hook has seen; clients outside are their addresses.
func TestAffinityByNamespace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	var sticky []*corev1.Service
	for i := range 4 {
		s := service(fmt.Sprintf("sticky-%d", i), uint8(50+i), int32(30050+i))
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		sticky = append(sticky, s)
		w.put(t, s, apiserver.PodBackend(w.a1), apiserver.PodBackend(w.a2), apiserver.PodBackend(w.b1), apiserver.PodBackend(w.b2))
	}
	for _, prefix := range []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd96::/64")} {
		if err := w.a.AddRoute(prefix, gateway(w.b.Host, prefix)); err != nil {
			t.Fatal(err)
		}
	}
	w.start(t, nil)
	for _, from := range []*testenv.Host{w.a1.Host, w.a.Host} {
		for i := range sticky {
			for family, addr := range []netip.Addr{clusterForms(uint8(50 + i))[0].addr, clusterForms(uint8(50 + i))[1].addr} {
				for _, network := range []string{"tcp", "udp"} {
					frontends := []netip.AddrPort{netip.AddrPortFrom(addr, 80)}
					if from == w.a1.Host { // the node's own packets to its own address leave by no link
						frontends = append(frontends, netip.AddrPortFrom(w.a.Addrs()[family], uint16(30050+i)))
					}
					hooked, err := from.Request(t.Context(), network, frontends[0].String())
					if err != nil {
						t.Fatalf("%s to %s: %v", from.Name, frontends[0], err)
					}
					for _, frontend := range frontends {
						if got := unhookedRequest(t, from, network, frontend); got != hooked.Backend {
							t.Errorf("%s over %s: by packets to %s %s answers, by sockets %s", from.Name, network, frontend, got, hooked.Backend)
						}
					}
				}
			}
		}
	}
	// Others are remembered by themselves.
	since := counters(t, w.agents[0])
	for i := range sticky {
		if _, err := w.client.Request(t.Context(), "udp", netip.AddrPortFrom(w.a.IPv4, uint16(30050+i)).String()); err != nil {
			t.Fatal(err)
		}
	}
	checkMoved(t, w.agents[0], since, map[string]uint64{"affinity_new": uint64(len(sticky)), "affinity": 0})
}

// unhookedRequest asks frontend who it is by a socket of a host's network namespace that is not in the host's cgroup,
// so that no hook sees it.
func unhookedRequest(t *testing.T, from *testenv.Host, network string, frontend netip.AddrPort) (backend string) {
	t.Helper()
	conn, err := from.DialContext(t.Context(), network, frontend.String())
	if err == nil {
		defer conn.Close()
		err = conn.SetDeadline(time.Now().Add(patience))
	}
	if err == nil {
		_, err = conn.Write([]byte("who\n"))
	}
	var line string
	if err == nil {
		line, err = bufio.NewReader(conn).ReadString('\n')
	}
	if err != nil {
		t.Fatalf("%s over %s to %s by packets: %v", from.Name, network, frontend, err)
	}
	return strings.Fields(line)[0]
}
