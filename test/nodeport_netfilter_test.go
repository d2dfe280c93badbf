package test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// What a CNI and a careful administrator have on a node: pods' packets leave with the node's address, and
// what conntrack cannot place is dropped.
const cniRules = `table inet cni {
	counter invalid { }
	counter tracked { }
	counter masqueraded { }
	chain forward {
		type filter hook forward priority 0;
		ct state invalid counter name invalid drop
		ct state established counter name tracked
	}
	chain postrouting {
		type nat hook postrouting priority 100;
		ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 counter name masqueraded masquerade
		ip6 saddr fd44::/16 ip6 daddr != fd44::/16 counter name masqueraded masquerade
	}
}`

// Beside such rules everything works, for netfilter sees both directions of a connection or none.
func TestNodePortNetfilter(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"auto", "stack"} {
		t.Run(way, func(t *testing.T) {
			const first = 30120
			w := newWorld(t, testenv.Options{})
			putPlaces(t, w, first)
			for _, n := range w.Nodes {
				run(t, n.Host, cniRules, "nft", "-f", "-")
			}
			if _, err := w.client.ServeAll(t.Context(), serverPort); err != nil {
				t.Fatal(err)
			}
			w.start(t, []string{"--north-south", way})

			for i, addr := range w.a.Addrs() {
				for place, backend := range w.inPlaces() {
					t.Run(fmt.Sprintf("%s/IPv%d", placeNames[place], 4+2*i), func(t *testing.T) {
						for _, network := range networks {
							e := exchange{from: w.client.Host, network: network, to: netip.AddrPortFrom(addr, first+uint16(place)),
								backend: backend.Host.Name, source: w.client.Addrs()[i]}
							if place == podElsewhere || place == otherNode {
								e.source, e.port = addr, snatPort
							}
							e.check(t)
						}
					})
				}
				t.Run(fmt.Sprintf("ClusterIP/IPv%d", 4+2*i), func(t *testing.T) {
					to := netip.AddrPortFrom(clusterForms(120 + podElsewhere)[i].addr, 80)
					exchange{from: w.a2.Host, network: "tcp", to: to, backend: w.b1.Name, source: w.a2.Addrs()[i]}.check(t)
				})
				t.Run(fmt.Sprintf("a pod to the outside/IPv%d", 4+2*i), func(t *testing.T) {
					to := netip.AddrPortFrom(w.client.Addrs()[i], serverPort)
					exchange{from: w.a1.Host, network: "tcp", to: to, backend: w.client.Name, source: addr}.check(t)
				})
			}
			for _, n := range w.Nodes {
				if invalid := nftCounter(t, n, "invalid"); invalid != 0 {
					t.Errorf("%s: %d packets were invalid to conntrack", n.Name, invalid)
				}
				if tracked := nftCounter(t, n, "tracked"); tracked == 0 {
					t.Errorf("%s: conntrack saw no connection: this tested nothing", n.Name)
				}
			}
			if masqueraded := nftCounter(t, w.a, "masqueraded"); masqueraded != 2 {
				t.Errorf("%d connections were masqueraded, want the 2 that a pod made to the outside", masqueraded)
			}
		})
	}
}

func nftCounter(t *testing.T, n *testenv.Node, name string) (packets int) {
	t.Helper()
	text := run(t, n.Host, "", "nft", "list", "counter", "inet", "cni", name)
	_, rest, _ := strings.Cut(text, "packets ")
	if _, err := fmt.Sscan(rest, &packets); err != nil {
		t.Fatalf("parse %q: %v", text, err)
	}
	return packets
}
