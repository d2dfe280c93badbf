package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// narrow is a place on the way to a NodePort where packets must be shorter than at either end.
type narrow struct {
	name  string
	place int // of the backend
}

var (
	clientsWay = "on the client's way"  // both directions, at a router
	betweenWay = "between the nodes"    // both directions, at a router
	wayOut     = "at the node's way on" // both directions, on the node itself
	podsWay    = "at the pod's link"
	narrows    = []narrow{{clientsWay, podHere}, {clientsWay, podElsewhere}, {betweenWay, podElsewhere}, {wayOut, podElsewhere}, {podsWay, podHere}}
)

// narrowWorld is a world whose client is behind a router.
type narrowWorld struct {
	*world
	router *testenv.Client
	moves  int
}

// TestNodePortNarrow: where packets must be shorter on the way than at its ends, those who send them are told
// so, by whoever meets it: TCP gets through both ways, and datagrams that must not be cut.
func TestNodePortNarrow(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"auto", "stack"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			const first = 30120
			w := &narrowWorld{world: newWorld(t, testenv.Options{Clients: 2})}
			w.router = w.Clients[1]
			w.beRouter(t)
			putPlaces(t, w.world, first)
			putStreams(t, w.world, first+places)
			w.start(t, []string{"--north-south", way})
			for _, n := range narrows {
				for _, c := range []struct{ i, mtu int }{{0, 1280}, {0, 1000}, {1, 1280}} {
					if c.mtu == 1000 && way == "stack" {
						continue // the same code
					}
					node := w.a.Addrs()[c.i]
					at := func(first int) netip.AddrPort { return netip.AddrPortFrom(node, uint16(first+n.place)) }
					check := func(what string, f func(t *testing.T)) {
						t.Run(fmt.Sprintf("%s/%s/IPv%d/%d/%s", n.name, placeNames[n.place], 4+2*c.i, c.mtu, what), func(t *testing.T) {
							w.move(t, n.name, c.i, c.mtu)
							before := counters(t, w.agents[0])
							f(t)
							now := counters(t, w.agents[0])
							if now["icmp_error"]+now["packet_too_big"] == before["icmp_error"]+before["packet_too_big"] {
								t.Error("nobody was told: this tested nothing")
							}
							if ours := now["packet_too_big"] != before["packet_too_big"]; ours != (n.name == wayOut && way == "auto") {
								t.Errorf("told by us: %t", ours)
							}
						})
					}
					check("TCP", func(t *testing.T) { transfer(t, w.client.Host, at(first+places)) })
					if n.name == clientsWay || n.name == wayOut {
						check("long answers", func(t *testing.T) { w.hearLong(t, at(first), c.mtu) })
					}
					if n.name != clientsWay {
						check("long questions", func(t *testing.T) { w.sendLong(t, at(first), c.mtu) })
					}
				}
			}
		})
	}
}

// beRouter makes the second client a router that keeps quiet about shorter ways.
func (w *narrowWorld) beRouter(t *testing.T) {
	t.Helper()
	for _, name := range []string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0"} {
		name, value, _ := strings.Cut(name, "=")
		must(t, w.router.Sysctl(name, value))
	}
	for _, h := range w.Hosts() {
		must(t, h.Sysctl("net.ipv6.conf.eth0.accept_redirects", "0"))
	}
}

// move gives the client an address behind the router that nobody has seen, so that nobody has learned anything about
// the way there, and makes the ways narrow where they are to be.
func (w *narrowWorld) move(t *testing.T, where string, i, mtu int) {
	t.Helper()
	w.moves++
	far := netip.MustParseAddr([]string{fmt.Sprintf("10.99.0.%d", w.moves), fmt.Sprintf("fd99::%x", w.moves)}[i])
	one := func(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }
	only := func(place string) int {
		if place == where {
			return mtu
		}
		return 0
	}
	client, a, b, router := w.client.Host, w.a.Host, w.b.Host, w.router.Host
	// The router is between those where the way is narrow, and nobody else.
	way := func(place string, to *testenv.Host) netip.Addr {
		if place == where {
			return router.Addrs()[i]
		}
		return to.Addrs()[i]
	}
	direct := func(place string) netip.Addr {
		if place == where {
			return router.Addrs()[i]
		}
		return netip.Addr{}
	}
	must(t, client.Netlink().AddrAdd(linkOf(t, client.Namespace, "eth0"), address(one(far))))
	must(t, setRoute(client, "eth0", one(a.Addrs()[i]), direct(clientsWay), far, 0))
	must(t, setRoute(router, "eth0", one(far), client.Addrs()[i], netip.Addr{}, only(clientsWay)))
	must(t, setRoute(router, "eth0", one(a.Addrs()[i]), netip.Addr{}, netip.Addr{}, only(clientsWay)+only(betweenWay)))
	must(t, setRoute(router, "eth0", w.b.PodCIDRs[i], b.Addrs()[i], netip.Addr{}, only(betweenWay)))
	must(t, setRoute(a, "eth0", one(far), way(clientsWay, client), netip.Addr{}, only(wayOut)))
	must(t, setRoute(a, "eth0", w.b.PodCIDRs[i], way(betweenWay, b), netip.Addr{}, only(wayOut)))
	must(t, setRoute(b, "eth0", one(a.Addrs()[i]), direct(betweenWay), netip.Addr{}, 0))
	// To its pods a client elsewhere is node-a, which has not moved: what they have learned goes with their route.
	must(t, w.forget(i))
	must(t, setRoute(a, w.a1.HostLink, one(w.a1.Addrs()[i]), netip.Addr{}, netip.Addr{}, only(podsWay)))
}

// forget makes a pod's route to node-a another one.
func (w *narrowWorld) forget(i int) error {
	routes, err := w.b1.Netlink().RouteList(nil, []int{unix.AF_INET, unix.AF_INET6}[i])
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Gw != nil {
			r.Hoplimit = 64 + w.moves
			return w.b1.Netlink().RouteReplace(&r)
		}
	}
	return errors.New("the pod has no gateway")
}

// setRoute replaces a route; an MTU of 0 is the link's.
func setRoute(h *testenv.Host, link string, to netip.Prefix, via, src netip.Addr, mtu int) error {
	l, err := h.Netlink().LinkByName(link)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: via.AsSlice(), Src: src.AsSlice(), MTU: mtu, MTULock: mtu != 0,
		Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())}}
	if !via.IsValid() && to.Addr().Is4() {
		route.Scope = netlink.SCOPE_LINK
	}
	if err := h.Netlink().RouteReplace(route); err != nil {
		return fmt.Errorf("%s: route to %s: %w", h.Name, to, err)
	}
	return nil
}

// Bytes of IP and UDP headers, by family.
var udpHeaders = map[bool]int{true: 28, false: 48}

// sendLong sends datagrams that must not be cut, until the client's kernel knows that they are too long; then one
// that is not.
func (w *narrowWorld) sendLong(t *testing.T, to netip.AddrPort, mtu int) {
	t.Helper()
	s := openSocket(t, w.client.Host, to.Addr(), unix.SOCK_DGRAM, 0)
	level, option := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	must(t, s.SetOption(t.Context(), level, option, unix.IP_PMTUDISC_DO))
	must(t, s.Connect(t.Context(), to))
	long := strings.Repeat("x", mtu-udpHeaders[to.Addr().Is4()]+1)
	eventually(t, "EMSGSIZE", func(ctx context.Context) error {
		if err := s.Send(ctx, long); !errors.Is(err, unix.EMSGSIZE) {
			return fmt.Errorf("%v for %d bytes", err, len(long))
		}
		return nil
	})
	// What was on its way meanwhile may bring another such error.
	eventually(t, "an answer", func(ctx context.Context) error {
		return w.ask(ctx, t, s.Send, s.Recv, long[1:])
	})
}

// hearLong asks until the backend's kernel knows how long its answers may be, and cuts them.
func (w *narrowWorld) hearLong(t *testing.T, to netip.AddrPort, mtu int) {
	t.Helper()
	s := openSocket(t, w.client.Host, to.Addr(), unix.SOCK_DGRAM, 0)
	must(t, s.Connect(t.Context(), to))
	// The answer is longer by its names.
	question := strings.Repeat("x", mtu-udpHeaders[to.Addr().Is4()])
	if err := w.ask(t.Context(), t, s.Send, s.Recv, question); err == nil {
		t.Error("an answer at once: this tested nothing")
	}
	eventually(t, "an answer", func(ctx context.Context) error { return w.ask(ctx, t, s.Send, s.Recv, question) })
}

// ask sends a question and waits for its answer, not for long.
func (w *narrowWorld) ask(ctx context.Context, t *testing.T, send func(context.Context, string) error, receive func(context.Context) (string, error), question string) error {
	if err := send(ctx, question); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	answer, err := receive(short)
	if err == nil && !strings.HasSuffix(strings.TrimSpace(answer), " "+question) {
		t.Errorf("%d bytes came back, not the %d that were sent", len(answer), len(question))
	}
	return err
}

// TestErrorsReachClients: what the backend's kernel, or a router before it, says of a datagram reaches the socket that
// sent it: a client's outside, a pod's that no hook sees, the host's.
func TestErrorsReachClients(t *testing.T) {
	t.Parallel()
	const first, closedPort = 30140, 9
	w := newWorld(t, testenv.Options{})
	for place, b := range w.inPlaces() {
		s := service(fmt.Sprintf("closed-%d", place), 150+uint8(place), first+int32(place))
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].TargetPort.IntVal = closedPort
		}
		w.put(t, s, b)
	}
	for _, n := range w.Nodes {
		w.agents = append(w.agents, startAgent(t, n, "--manifests", w.dir, "--cgroup-root", unhooked(t, n)))
	}
	for i, node := range w.a.Addrs() {
		// What the host sends leaves by a route to everywhere, and is caught there.
		must(t, w.a.AddRoute(netip.MustParsePrefix([]string{"10.96.0.0/16", "fd96::/64"}[i]), w.b.Addrs()[i]))
		for place, name := range placeNames {
			cluster := netip.MustParseAddr([]string{clusterIPv4(150 + uint8(place)), clusterIPv6(150 + uint8(place))}[i])
			t.Run(fmt.Sprintf("%s/IPv%d", name, 4+2*i), func(t *testing.T) {
				for who, c := range map[string]struct {
					from *testenv.Host
					to   netip.AddrPort
				}{
					"client":         {w.client.Host, netip.AddrPortFrom(node, first+uint16(place))},
					"pod":            {w.a2.Host, netip.AddrPortFrom(cluster, 80)},
					"the pod itself": {w.a1.Host, netip.AddrPortFrom(cluster, 80)},
					"host":           {w.a.Host, netip.AddrPortFrom(cluster, 80)},
				} {
					if who == "host" && place == thisNode {
						continue // its packets to itself pass no link of ours
					}
					before := counters(t, w.agents[0])
					eventually(t, who, func(ctx context.Context) error {
						short, cancel := context.WithTimeout(ctx, time.Second)
						defer cancel()
						if r, err := c.from.Request(short, "udp", c.to.String()); !errors.Is(err, unix.ECONNREFUSED) {
							return fmt.Errorf("asks %s: %+v, %v; want ECONNREFUSED", c.to, r, err)
						}
						return nil
					})
					if counters(t, w.agents[0])["icmp_error"] == before["icmp_error"] {
						t.Errorf("%s: nothing was translated", who)
					}
				}
			})
		}
		// The first router is node-a, by its stack; the second node-b.
		for _, c := range []struct{ place, hops int }{{podHere, 1}, {podElsewhere, 1}, {podElsewhere, 2}, {otherNode, 1}} {
			t.Run(fmt.Sprintf("%d hops to %s/IPv%d", c.hops, placeNames[c.place], 4+2*i), func(t *testing.T) {
				s := openSocket(t, w.client.Host, node, unix.SOCK_DGRAM, 0)
				level, option := unix.IPPROTO_IP, unix.IP_RECVERR
				if node.Is6() {
					level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
				}
				must(t, s.SetOption(t.Context(), level, option, 1))
				setHops(t, s, node, c.hops)
				must(t, s.Connect(t.Context(), netip.AddrPortFrom(node, first+uint16(c.place))))
				eventually(t, "EHOSTUNREACH", func(ctx context.Context) error {
					short, cancel := context.WithTimeout(ctx, time.Second)
					defer cancel()
					err := s.Send(short, "how far?")
					if err == nil {
						_, err = s.Recv(short)
					}
					if !errors.Is(err, unix.EHOSTUNREACH) {
						return fmt.Errorf("%v; want EHOSTUNREACH", err)
					}
					return nil
				})
			})
		}
	}
}
