package test

import (
	"fmt"
	"net/netip"
	gosslices "slices"
	"testing"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// TestMasqueradeAll: backends of ClusterIPs see the node on which the client is, or by which it came, whoever dials
// those of NodePorts see pods as without it.
func TestMasqueradeAll(t *testing.T) {
	t.Parallel()
	for _, o := range []testenv.Options{
		{PodNetwork: testenv.Routed}, {PodNetwork: testenv.Bridged, Overlay: testenv.VXLAN},
	} {
		t.Run(o.PodNetwork.String()+" "+o.Overlay.String(), func(t *testing.T) {
			w := newWorld(t, o)
			backends := []apiserver.Backend{apiserver.PodBackend(w.a1), apiserver.PodBackend(w.a2), apiserver.PodBackend(w.b1)}
			for i, b := range backends {
				w.put(t, service(fmt.Sprintf("svc-%d", i), uint8(60+i), int32(30060+i)), b)
			}
			for _, route := range []string{"10.96.0.0/16", "fd96::/64"} {
				prefix := netip.MustParsePrefix(route)
				for from, via := range map[*testenv.Host]*testenv.Host{w.client.Host: w.a.Host, w.a.Host: w.b.Host} {
					if err := from.AddRoute(prefix, gateway(via, prefix)); err != nil {
						t.Fatal(err)
					}
				}
			}
			w.start(t, []string{"--masquerade-all"}, w.a)

			// How node-a is known to those who are behind its links: by its own address, or its bridge's or its tunnel's.
			node := func(family int) []netip.Addr {
				known := []netip.Addr{w.a.Addrs()[family]}
				if o.PodNetwork == testenv.Bridged {
					known = append(known, w.a.PodCIDRs[family].Addr().Next())
				}
				if o.Overlay == testenv.VXLAN {
					known = append(known, w.a.PodCIDRs[family].Addr())
				}
				return known
			}
			ask := func(from *testenv.Host, network string, to netip.AddrPort, backend *testenv.Host, masked bool) {
				t.Helper()
				r, err := from.Request(t.Context(), network, to.String())
				if err != nil {
					t.Errorf("%s to %s over %s: %v", from.Name, to, network, err)
					return
				}
				family := 0
				if to.Addr().Is6() {
					family = 1
				}
				if isNode := gosslices.Contains(node(family), r.Source.Addr()); r.Backend != backend.Name || r.Peer != to || isNode != masked {
					t.Errorf("%s to %s over %s: %+v, want %s, the source the node: %v", from.Name, to, network, r, backend.Name, masked)
				}
			}
			for i, backend := range []*testenv.Host{w.a1.Host, w.a2.Host, w.b1.Host} {
				for family, form := range clusterForms(uint8(60 + i))[:2] {
					for _, network := range []string{"tcp", "udp"} {
						dial := netip.AddrPortFrom(form.addr, 80)
						for _, from := range []*testenv.Host{w.a1.Host, w.a.Host, w.client.Host} {
							ask(from, network, dial, backend, true)
						}
						if backend != w.a1.Host { // itself
							ask(w.a1.Host, network, netip.AddrPortFrom(w.a.Addrs()[family], uint16(30060+i)), backend, false)
						}
						// The node's own connections that no hook has seen.
						if got := unhookedRequest(t, w.a.Host, network, dial); got != backend.Name {
							t.Errorf("%s answers %s over %s by packets, want %s", got, w.a.Name, network, backend.Name)
						}
					}
				}
			}
			if t.Failed() {
				t.Log("\n" + command(t, w.a, "status", "-o", "wide"))
				t.Log("\n" + command(t, w.a, "flows", "-o", "wide"))
			}
		})
	}
}

// TestNodeWithItself: a process of the node that no hook sees dials a ClusterIP whose backend is on the host network of
// that node.
func TestNodeWithItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	w.put(t, service("here", 70, 30070), apiserver.NodeBackend(w.a))
	for _, route := range []string{"10.96.0.0/16", "fd96::/64"} {
		prefix := netip.MustParsePrefix(route)
		if err := w.a.AddRoute(prefix, gateway(w.b.Host, prefix)); err != nil {
			t.Fatal(err)
		}
	}
	w.start(t, nil, w.a)
	for _, form := range clusterForms(70)[:2] {
		for _, network := range []string{"tcp", "udp"} {
			if got := unhookedRequest(t, w.a.Host, network, netip.AddrPortFrom(form.addr, 80)); got != w.a.Name {
				t.Errorf("%s answers over %s, want %s", got, network, w.a.Name)
			}
		}
	}
}
