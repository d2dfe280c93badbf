package test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

// The socket path (DESIGN D5) to ClusterIPs, from pods and from the node's own processes. Nothing is
// translated on the way, so backends see the client's own address.
func TestSocketClusterIP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	backends := []struct {
		name    string
		number  uint8
		backend apiserver.Backend
	}{
		{"pod here", 10, apiserver.PodBackend(w.a1)},
		{"pod elsewhere", 11, apiserver.PodBackend(w.b1)},
		{"this node", 12, apiserver.NodeBackend(w.a)},
		{"other node", 13, apiserver.NodeBackend(w.b)},
	}
	for i, b := range backends {
		w.put(t, service(fmt.Sprintf("one-%d", i), b.number, 30010+int32(i)), b.backend)
	}
	w.put(t, service("three", 14, 30014), apiserver.PodBackend(w.a1), apiserver.PodBackend(w.b1), apiserver.PodBackend(w.b2))
	closed := service("closed", 15, 30015)
	for i := range closed.Spec.Ports {
		closed.Spec.Ports[i].TargetPort = intstr.FromInt32(9)
	}
	w.put(t, closed, apiserver.PodBackend(w.b1))
	ports := service("ports", 16, 30016)
	ports.Spec.Ports = append(ports.Spec.Ports, corev1.ServicePort{Name: "admin", Protocol: corev1.ProtocolTCP, Port: 81,
		TargetPort: intstr.FromInt32(serverPort), NodePort: 30017})
	objects := append([]any{ports}, portSlices(ports, "tcp", apiserver.PodBackend(w.a1))...)
	objects = append(objects, portSlices(ports, "udp", apiserver.PodBackend(w.b1))...)
	objects = append(objects, portSlices(ports, "admin", apiserver.PodBackend(w.b2))...)
	manifest(t, w.dir, "ports.yaml", objects...)
	w.start(t, nil, w.a)

	for _, from := range []*testenv.Host{w.a2.Host, w.a.Host} {
		for _, b := range backends {
			t.Run(fmt.Sprintf("%s to %s", from.Name, b.name), func(t *testing.T) {
				for _, f := range clusterForms(b.number) {
					for _, network := range networks {
						exchange{from: from, network: network, to: netip.AddrPortFrom(f.addr, 80),
							backend: b.backend.Host.Name, source: from.Addrs()[f.i]}.check(t)
					}
				}
			})
		}
		t.Run(from.Name+" to each backend", func(t *testing.T) {
			for _, f := range clusterForms(14) {
				for _, network := range []string{"tcp", "udp"} {
					checkSpread(t, from, network, netip.AddrPortFrom(f.addr, 80), w.a1.Name, w.b1.Name, w.b2.Name)
				}
			}
		})
		t.Run(from.Name+" to each port", func(t *testing.T) {
			for _, f := range clusterForms(16) {
				for _, p := range []struct {
					network string
					port    uint16
					backend *testenv.Pod
				}{{"tcp", 80, w.a1}, {"udp", 80, w.b1}, {"udp-unconnected", 80, w.b1}, {"tcp", 81, w.b2}} {
					exchange{from: from, network: p.network, to: netip.AddrPortFrom(f.addr, p.port),
						backend: p.backend.Name, source: from.Addrs()[f.i]}.check(t)
				}
			}
		})
		t.Run(from.Name+" to a closed port of the backend", func(t *testing.T) {
			for _, f := range clusterForms(15) {
				before := counters(t, w.agents[0])
				_, err := from.Request(t.Context(), "tcp", netip.AddrPortFrom(f.addr, 80).String())
				if !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("%s: %v, want ECONNREFUSED from the backend", f.name, err)
				}
				checkMoved(t, w.agents[0], before, map[string]uint64{"connect": 1, "connect_reject": 0})
			}
		})
	}
}

// checkSpread makes requests until each of the backends has answered one: with blocking sockets, where
// those of Request do not block.
func checkSpread(t *testing.T, from *testenv.Host, network string, to netip.AddrPort, backends ...string) {
	t.Helper()
	load, err := from.Load(t.Context(), hand.LoadOptions{Network: network, Addr: to.String(), Workers: 1, Reset: true})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, b := range backends {
		want[b] = true
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = testenv.Eventually(ctx, func(ctx context.Context) error {
		r, err := load.Report(ctx)
		if err != nil {
			return err
		}
		got := map[string]bool{}
		for b := range r.Backends {
			got[b] = true
		}
		return different(want, got)
	})
	r, stopErr := load.Stop(t.Context())
	if err != nil || stopErr != nil || r.Failures > 0 {
		t.Errorf("%s to %s over %s: %v, %v, failures %q", from.Name, to, network, err, stopErr, r.Errors)
	}
}
