package endpoints

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFrontends(t *testing.T) {
	for _, tc := range []struct {
		name     string
		svc      Service
		nodePort uint16
		view     func(*View)
		want     []string
	}{
		{name: "ClusterIP", svc: Service{ClusterIPs: mustAddrs("172.30.0.1")}, want: []string{"ClusterIP 172.30.0.1:80 cluster/cluster"}},
		{name: "ClusterIP, internal Local", svc: Service{ClusterIPs: mustAddrs("172.30.0.1"), InternalLocal: true},
			want: []string{"ClusterIP 172.30.0.1:80 local/local"}},
		{name: "ClusterIP, masquerade all", svc: Service{ClusterIPs: mustAddrs("172.30.0.1")}, nodePort: 30080,
			view: func(v *View) { v.MasqueradeAll = true },
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster no-socket",
				"NodePort 127.0.0.1:30080 cluster/cluster host-only", "NodePort 192.168.0.1:30080 cluster/cluster"}},
		{name: "all kinds, both families",
			svc: Service{
				ClusterIPs: mustAddrs("fd30::1", "172.30.0.1"), ExternalIPs: mustAddrs("203.0.113.9", "203.0.113.1", "2001:db8::1"),
				LoadBalancerIPs: mustAddrs("2001:db8::2", "203.0.113.2"),
			},
			nodePort: 30080,
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster",
				"ClusterIP [fd30::1]:80 cluster/cluster",
				"NodePort 127.0.0.1:30080 cluster/cluster host-only",
				"NodePort 192.168.0.1:30080 cluster/cluster",
				"NodePort [::1]:30080 cluster/cluster host-only",
				"NodePort [fd00::1]:30080 cluster/cluster",
				"ExternalIP 203.0.113.1:80 cluster/cluster",
				"ExternalIP 203.0.113.9:80 cluster/cluster",
				"ExternalIP [2001:db8::1]:80 cluster/cluster",
				"LoadBalancer 203.0.113.2:80 cluster/cluster",
				"LoadBalancer [2001:db8::2]:80 cluster/cluster",
			}},
		{name: "external Local short-circuits for inside clients",
			svc: Service{ClusterIPs: mustAddrs("172.30.0.1"), ExternalIPs: mustAddrs("203.0.113.1"),
				LoadBalancerIPs: mustAddrs("203.0.113.2"), ExternalLocal: true},
			nodePort: 30080,
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster",
				"NodePort 127.0.0.1:30080 cluster/local host-only",
				"NodePort 192.168.0.1:30080 cluster/local",
				"ExternalIP 203.0.113.1:80 cluster/local",
				"LoadBalancer 203.0.113.2:80 cluster/local",
			}},
		{name: "internal Local leaves external kinds alone (R-1.15)",
			svc:  Service{ClusterIPs: mustAddrs("172.30.0.1"), LoadBalancerIPs: mustAddrs("203.0.113.2"), InternalLocal: true},
			want: []string{"ClusterIP 172.30.0.1:80 local/local", "LoadBalancer 203.0.113.2:80 cluster/cluster"}},
		{name: "both Local",
			svc:  Service{ClusterIPs: mustAddrs("172.30.0.1"), LoadBalancerIPs: mustAddrs("203.0.113.2"), InternalLocal: true, ExternalLocal: true},
			want: []string{"ClusterIP 172.30.0.1:80 local/local", "LoadBalancer 203.0.113.2:80 cluster/local"}},
		{name: "no ClusterIP of a family: nothing of it (R-1.2)",
			svc: Service{ClusterIPs: mustAddrs("fd30::1"), ExternalIPs: mustAddrs("203.0.113.1", "2001:db8::1"),
				LoadBalancerIPs: mustAddrs("203.0.113.2"), SourceRanges: mustPrefixes("10.0.0.0/8")},
			nodePort: 30080,
			want: []string{
				"ClusterIP [fd30::1]:80 cluster/cluster",
				"NodePort [::1]:30080 cluster/cluster host-only", "NodePort [fd00::1]:30080 cluster/cluster",
				"ExternalIP [2001:db8::1]:80 cluster/cluster",
			}},
		{name: "VIP without NodePort (R-1.17)", svc: Service{ClusterIPs: mustAddrs("172.30.0.1"), LoadBalancerIPs: mustAddrs("203.0.113.2")},
			want: []string{"ClusterIP 172.30.0.1:80 cluster/cluster", "LoadBalancer 203.0.113.2:80 cluster/cluster"}},
		{name: "no NodePort addresses", svc: Service{ClusterIPs: mustAddrs("172.30.0.1")}, nodePort: 30080,
			view: func(v *View) { v.NodePorts = nil }, want: []string{"ClusterIP 172.30.0.1:80 cluster/cluster"}},

		// Source ranges.
		{name: "ranges bind load balancer addresses only",
			svc: Service{ClusterIPs: mustAddrs("172.30.0.1"), ExternalIPs: mustAddrs("203.0.113.1"),
				LoadBalancerIPs: mustAddrs("203.0.113.2", "203.0.113.3"), SourceRanges: mustPrefixes("192.168.0.0/24", "203.0.113.0/25")},
			nodePort: 30080,
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster",
				"NodePort 127.0.0.1:30080 cluster/cluster host-only", "NodePort 192.168.0.1:30080 cluster/cluster",
				"ExternalIP 203.0.113.1:80 cluster/cluster",
				"LoadBalancer 203.0.113.2:80 cluster/cluster no-socket 192.168.0.0/24 203.0.113.0/25",
				"LoadBalancer 203.0.113.3:80 cluster/cluster no-socket 192.168.0.0/24 203.0.113.0/25",
			}},
		{name: "each family has its ranges",
			svc: Service{ClusterIPs: mustAddrs("172.30.0.1", "fd30::1"), LoadBalancerIPs: mustAddrs("203.0.113.2", "2001:db8::2"),
				SourceRanges: mustPrefixes("2001:db8:1::7/48", "10.1.2.3/8")},
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster", "ClusterIP [fd30::1]:80 cluster/cluster",
				"LoadBalancer 203.0.113.2:80 cluster/cluster no-socket 10.0.0.0/8",
				"LoadBalancer [2001:db8::2]:80 cluster/cluster no-socket 2001:db8:1::/48",
			}},
		{name: "a family without ranges is open",
			svc: Service{ClusterIPs: mustAddrs("172.30.0.1", "fd30::1"), LoadBalancerIPs: mustAddrs("203.0.113.2", "2001:db8::2"),
				SourceRanges: mustPrefixes("10.0.0.0/8")},
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster", "ClusterIP [fd30::1]:80 cluster/cluster",
				"LoadBalancer 203.0.113.2:80 cluster/cluster no-socket 10.0.0.0/8",
				"LoadBalancer [2001:db8::2]:80 cluster/cluster",
			}},
		{name: "a /0 opens its family",
			svc: Service{ClusterIPs: mustAddrs("172.30.0.1", "fd30::1"), LoadBalancerIPs: mustAddrs("203.0.113.2", "2001:db8::2"),
				SourceRanges: mustPrefixes("10.0.0.0/8", "0.0.0.0/0", "2001:db8:1::/48")},
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster", "ClusterIP [fd30::1]:80 cluster/cluster",
				"LoadBalancer 203.0.113.2:80 cluster/cluster",
				"LoadBalancer [2001:db8::2]:80 cluster/cluster no-socket 2001:db8:1::/48",
			}},
		{name: "mapped and invalid ranges",
			svc: Service{ClusterIPs: mustAddrs("172.30.0.1", "fd30::1"), LoadBalancerIPs: mustAddrs("203.0.113.2", "2001:db8::2"),
				SourceRanges: []netip.Prefix{{}, netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 33), netip.MustParsePrefix("::ffff:10.1.2.3/104")}},
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster", "ClusterIP [fd30::1]:80 cluster/cluster",
				"LoadBalancer 203.0.113.2:80 cluster/cluster no-socket 10.0.0.0/8",
				"LoadBalancer [2001:db8::2]:80 cluster/cluster",
			}},
		{name: "the node is admitted, so are the load balancer addresses",
			svc: Service{ClusterIPs: mustAddrs("172.30.0.1", "fd30::1"), LoadBalancerIPs: mustAddrs("203.0.113.2", "2001:db8::2"),
				SourceRanges: mustPrefixes("192.168.0.0/24", "2001:db8:1::/48")},
			view: func(v *View) { v.Primary = mustAddrs("192.168.0.1", "fd00::1") },
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster", "ClusterIP [fd30::1]:80 cluster/cluster",
				"LoadBalancer 203.0.113.2:80 cluster/cluster no-socket 192.168.0.0/24 203.0.113.2/32",
				"LoadBalancer [2001:db8::2]:80 cluster/cluster no-socket 2001:db8:1::/48",
			}},

		// One address and port twice.
		{name: "ClusterIP, ExternalIP, LoadBalancer, in this order",
			svc: Service{ClusterIPs: mustAddrs("172.30.0.1"), ExternalIPs: mustAddrs("203.0.113.1", "172.30.0.1", "203.0.113.1"),
				LoadBalancerIPs: mustAddrs("172.30.0.1", "203.0.113.1", "203.0.113.2", "::ffff:203.0.113.2")},
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster", "ExternalIP 203.0.113.1:80 cluster/cluster", "LoadBalancer 203.0.113.2:80 cluster/cluster"}},
		{name: "IPs before NodePorts", svc: Service{ClusterIPs: mustAddrs("172.30.0.1"), LoadBalancerIPs: mustAddrs("192.168.0.1"), SourceRanges: mustPrefixes("10.0.0.0/8")},
			nodePort: 80,
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster", "NodePort 127.0.0.1:80 cluster/cluster host-only",
				"LoadBalancer 192.168.0.1:80 cluster/cluster no-socket 10.0.0.0/8"}},
		{name: "a node address with another port is no collision", svc: Service{ClusterIPs: mustAddrs("172.30.0.1"), ExternalIPs: mustAddrs("192.168.0.1")},
			nodePort: 30080, view: func(v *View) { v.NodePorts = mustAddrs("192.168.0.1", "192.168.0.1", "::ffff:192.168.0.1") },
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster", "NodePort 192.168.0.1:30080 cluster/cluster", "ExternalIP 192.168.0.1:80 cluster/cluster"}},

		// Addresses that nobody can dial.
		{name: "garbage",
			svc: Service{
				ClusterIPs:      append(mustAddrs("0.0.0.0", "ff02::1", "::ffff:172.30.0.1", "172.30.0.2", "fd30::1%eth0"), netip.Addr{}),
				ExternalIPs:     append(mustAddrs("0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "203.0.113.1", "2001:db8::1"), netip.Addr{}),
				LoadBalancerIPs: append(mustAddrs("::ffff:0.0.0.0", "::ffff:203.0.113.2%eth0", "127.0.0.5"), netip.Addr{}),
			},
			nodePort: 30080,
			view: func(v *View) {
				v.NodePorts = append(mustAddrs("0.0.0.0", "fe80::1%eth0", "::ffff:192.168.0.1"), netip.Addr{})
			},
			want: []string{
				"ClusterIP 172.30.0.1:80 cluster/cluster", "NodePort 192.168.0.1:30080 cluster/cluster",
				"ExternalIP 203.0.113.1:80 cluster/cluster", "LoadBalancer 127.0.0.5:80 cluster/cluster host-only"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc, view := tc.svc, here()
			svc.Name = web
			svc.Ports = []Port{{Protocol: TCP, Port: 80, NodePort: tc.nodePort}}
			if tc.view != nil {
				tc.view(view)
			}
			r := mustOne(t, Resolve(&svc, nil, view))
			if diff := cmp.Diff(tc.want, frontendsText(r)); diff != "" {
				t.Errorf("frontends (-want +got):\n%s", diff)
			}
		})
	}
}
