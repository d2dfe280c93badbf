package test

import (
	"context"
	"net/netip"
	"testing"

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
