package test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// unhooked makes the agents of a cluster serve a cgroup in which nobody is: everything must go by packets.
func unhooked(t *testing.T, n *testenv.Node) string {
	t.Helper()
	dir := filepath.Join(n.Cgroup, "nobody")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	return dir
}

// TestPodsWithoutHooks: what no socket hook sees is served at the pods' links.
func TestPodsWithoutHooks(t *testing.T) {
	for _, network := range []testenv.PodNetwork{testenv.Routed, testenv.Bridged} {
		t.Run(network.String(), func(t *testing.T) {
			c := testenv.MustNew(t, testenv.Options{Nodes: 2, PodsPerNode: 2, PodNetwork: network})
			servePods(t, c)
			dir := t.TempDir()
			a1, a2, b1 := c.Nodes[0].Pods[0], c.Nodes[0].Pods[1], c.Nodes[1].Pods[0]
			var objects []any
			for i, pods := range [][]*testenv.Pod{{a1}, {a2}, {b1}, {}} {
				s := service(fmt.Sprintf("svc-%d", i), uint8(10+i), int32(30080+i))
				var backends []apiserver.Backend
				for _, p := range pods {
					backends = append(backends, apiserver.PodBackend(p))
				}
				objects = append(objects, s)
				objects = append(objects, slices(s, backends...)...)
			}
			manifest(t, dir, "services.yaml", objects...)
			for _, n := range c.Nodes {
				startAgent(t, n, "--manifests", dir, "--cgroup-root", unhooked(t, n))
			}
			for _, tc := range []struct {
				name    string
				number  uint8
				backend string
				self    bool // the source is the node
			}{
				{"itself", 10, "pod-a1", true}, {"neighbour", 11, "pod-a2", false}, {"other node", 12, "pod-b1", false},
			} {
				for _, proto := range []string{"tcp", "udp", "udp-unconnected"} {
					for _, addr := range []string{clusterIPv4(tc.number) + ":80", "[" + clusterIPv6(tc.number) + "]:80",
						netip.AddrPortFrom(c.Nodes[0].IPv4, 30070+uint16(tc.number)).String()} {
						t.Run(tc.name+"/"+proto+"/"+addr, func(t *testing.T) {
							for range 3 {
								r, err := a1.Request(t.Context(), proto, addr)
								if err != nil {
									t.Fatal(err)
								}
								if r.Backend != tc.backend {
									t.Errorf("%s answered, want %s", r.Backend, tc.backend)
								}
								if own := r.Source.Addr() == a1.IPv4 || r.Source.Addr() == a1.IPv6; own == tc.self {
									t.Errorf("%s saw %s", r.Backend, r.Source)
								}
								if r.Peer.String() != addr {
									t.Errorf("peer %s, want %s", r.Peer, addr)
								}
							}
						})
					}
				}
			}
			// The host's own processes: what they send leaves by the route to everywhere, and is caught there.
			for _, route := range []string{"10.96.0.0/16", "fd96::/64"} {
				prefix := netip.MustParsePrefix(route)
				if err := c.Nodes[0].AddRoute(prefix, gateway(c.Nodes[1].Host, prefix)); err != nil {
					t.Fatal(err)
				}
			}
			for _, tc := range []struct {
				number  uint8
				backend string
			}{{10, "pod-a1"}, {12, "pod-b1"}} {
				for _, proto := range []string{"tcp", "udp", "udp-unconnected"} {
					for _, addr := range []string{clusterIPv4(tc.number) + ":80", "[" + clusterIPv6(tc.number) + "]:80"} {
						t.Run("host/"+tc.backend+"/"+proto+"/"+addr, func(t *testing.T) {
							r, err := c.Nodes[0].Request(t.Context(), proto, addr)
							if err != nil {
								t.Fatal(err)
							}
							if r.Backend != tc.backend || r.Peer.String() != addr {
								t.Errorf("%s answered as %s, want %s as %s", r.Backend, r.Peer, tc.backend, addr)
							}
						})
					}
				}
			}
			for _, addr := range []string{clusterIPv4(13) + ":80", "[" + clusterIPv6(13) + "]:80"} {
				t.Run("host/no backend/"+addr, func(t *testing.T) {
					if _, err := c.Nodes[0].Request(t.Context(), "tcp", addr); !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("error %v, want ECONNREFUSED", err)
					}
				})
			}
			for _, addr := range []string{clusterIPv4(13) + ":80", "[" + clusterIPv6(13) + "]:80"} {
				t.Run("no backend/"+addr, func(t *testing.T) {
					if _, err := a1.Request(t.Context(), "tcp", addr); !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("error %v, want ECONNREFUSED", err)
					}
					if _, err := a1.Request(t.Context(), "udp", addr); !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("error %v, want ECONNREFUSED", err)
					}
				})
			}
			if t.Failed() {
				t.Log("\n" + command(t, c.Nodes[0], "status", "-o", "wide"))
				t.Log("\n" + command(t, c.Nodes[0], "flows", "-o", "wide"))
			}
		})
	}
}

func gateway(h *testenv.Host, prefix netip.Prefix) netip.Addr {
	if prefix.Addr().Is4() {
		return h.IPv4
	}
	return h.IPv6
}
