package test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// TestSourceRanges: load balancer addresses answer only those in the ranges, wherever they are; the Service's
// other frontends answer everybody.
func TestSourceRanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	s := service("walled", 41, 30041)
	vips := []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8:7::7")}
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Spec.LoadBalancerSourceRanges = []string{w.a1.IPv4.String() + "/32", w.a1.IPv6.String() + "/128"}
	for _, vip := range vips {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: vip.String()})
		for _, h := range []*testenv.Host{w.client.Host} {
			prefix := netip.PrefixFrom(vip, vip.BitLen())
			if err := h.AddRoute(prefix, gateway(w.a.Host, prefix)); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.put(t, s, apiserver.PodBackend(w.b1))
	w.start(t, nil)

	for i, vip := range vips {
		for _, network := range []string{"tcp", "udp"} {
			addr := netip.AddrPortFrom(vip, 80).String()
			if r, err := w.a1.Request(t.Context(), network, addr); err != nil || r.Backend != "pod-b1" || r.Source.Addr() != w.a1.Addrs()[i] {
				t.Errorf("admitted pod over %s: %+v, %v", network, r, err)
			}
			for _, from := range []*testenv.Host{w.a2.Host, w.client.Host} {
				if r, err := from.Request(t.Context(), network, addr); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s over %s: %+v, %v; want silence", from.Name, network, r, err)
				}
			}
			if r, err := w.client.Request(t.Context(), network, netip.AddrPortFrom(w.a.Addrs()[i], 30041).String()); err != nil || r.Backend != "pod-b1" {
				t.Errorf("NodePort over %s: %+v, %v", network, r, err)
			}
		}
	}
	// The client is admitted, live.
	s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges, "172.30.0.0/24", "fd30::/64")
	w.put(t, s, apiserver.PodBackend(w.b1))
	for _, vip := range vips {
		eventually(t, "answer", func(context.Context) error {
			_, err := w.client.Request(t.Context(), "tcp", netip.AddrPortFrom(vip, 80).String())
			return err
		})
	}
}

// TestServiceRanges: what nobody has of the addresses that ClusterIPs come from does not leave the node, and
// unused ports of a ClusterIP are refused.
func TestServiceRanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	s := service("web", 42, 30042)
	w.put(t, s, apiserver.PodBackend(w.b1))
	ranges := &networkingv1.ServiceCIDR{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"},
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16", "fd96::/64"}},
	}
	manifest(t, w.dir, "ranges.yaml", ranges)
	w.start(t, nil)

	for _, unused := range []string{clusterIPv4(42) + ":81", "[" + clusterIPv6(42) + "]:81"} {
		for _, network := range []string{"tcp", "udp"} {
			if _, err := w.a1.Request(t.Context(), network, unused); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s %s: %v, want ECONNREFUSED", network, unused, err)
			}
		}
	}
	since := counters(t, w.agents[0])
	for _, nobody := range []string{clusterIPv4(99) + ":80", "[" + clusterIPv6(99) + "]:80"} {
		if _, err := w.a1.Request(t.Context(), "udp", nobody); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v, want silence", nobody, err)
		}
	}
	checkMoved(t, w.agents[0], since, map[string]uint64{"packet_unallocated": 2})
}
