package test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// TestNoLocalFollowsAddresses: ports without an endpoint here are counted where they can be dialled, so another
// address of the node counts at once, without a change of the Service (parity 7.4).
func TestNoLocalFollowsAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	s := service("local", 63, 30063)
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	w.put(t, s, apiserver.PodBackend(w.b1))
	w.start(t, []string{"--nodeport-addresses", "192.0.2.0/24,2001:db8::/64", "--iptables-localhost-nodeports=false"}, w.a)
	counted := func(what string, want float64) {
		t.Helper()
		eventually(t, what, func(context.Context) error {
			for _, family := range []string{"IPv4", "IPv6"} {
				sample := `kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="` + family + `",traffic_policy="external"}`
				if n := w.agents[0].metric(t, sample); n != want {
					return fmt.Errorf("%s: %g ports, want %g", family, n, want)
				}
			}
			return nil
		})
	}
	lo := linkOf(t, w.a.Namespace, "lo")
	addrs := []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32"), netip.MustParsePrefix("2001:db8::9/128")}
	counted("no address", 0)
	for range 2 {
		for _, addr := range addrs {
			if err := w.a.Netlink().AddrAdd(lo, address(addr)); err != nil {
				t.Fatal(err)
			}
		}
		counted("with an address", 2) // its TCP port and its UDP port
		for _, addr := range addrs {
			if err := w.a.Netlink().AddrDel(lo, address(addr)); err != nil {
				t.Fatal(err)
			}
		}
		counted("without it", 0)
	}
}
