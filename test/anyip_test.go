package test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// TestAnyIP: NodePorts answer on addresses that are the node's by a local route alone, as clouds make them for
// load balancers, and no longer than that: to outside clients, pods and the host.
func TestAnyIP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	w.put(t, service("web", 64, 30064), apiserver.PodBackend(w.a1), apiserver.PodBackend(w.b1))
	w.start(t, nil, w.a)
	lo := linkOf(t, w.a.Namespace, "lo").Attrs().Index
	for i, text := range []string{"192.0.2.16/30", "2001:db8::10/126"} {
		prefix := netip.MustParsePrefix(text)
		if err := w.client.AddRoute(prefix, w.a.Addrs()[i]); err != nil {
			t.Fatal(err)
		}
		route := &netlink.Route{LinkIndex: lo, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
			Dst: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}}
		if err := w.a.Netlink().RouteAdd(route); err != nil {
			t.Fatal(err)
		}
		dialled := addrPort(prefix.Addr().Next(), 30064)
		for _, from := range []dialler{w.client, w.a2, w.a} {
			for _, network := range []string{"tcp", "udp"} {
				answered(t, from, network, dialled, w.a1.Name, w.b1.Name)
			}
		}
		if err := w.a.Netlink().RouteDel(route); err != nil {
			t.Fatal(err)
		}
		failing(t, w.client, dialled, "is served no longer", func(err error) bool { return err != nil })
	}
}
