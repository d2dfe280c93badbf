package bpf

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// Packets of one client address and port choose the same slot whatever address they dialled, which for a NodePort is each
// node's own; clients are spread over all.
func TestMaglevChoice(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	forEach(t, []uint8{tcp, udp}, func(t *testing.T, n *node, f family, protocol uint8) {
		here, there := at(f.node, nodePort), at(nth(f.node, 7), nodePort)
		backends := []netip.AddrPort{at(f.pod, 8080), at(nth(f.pod, 1), 8080), at(nth(f.pod, 2), 8080), at(nth(f.pod, 3), 8080)}
		for _, frontend := range []netip.AddrPort{here, there} {
			pool := n.serve(t, frontend, protocol, backends...)
			n.addFrontend(t, frontend, protocol, Frontend{Service: pool, Inside: pool, Outside: pool, Kind: KindNodePort, Flags: FlagMaglev})
		}
		chosen := make(map[netip.AddrPort]int)
		for range 200 {
			client := at(nth(f.unrelated.Addr(), rng.IntN(1<<16)), uint16(1024+rng.IntN(60000)))
			var got [2]netip.AddrPort
			for i, frontend := range []netip.AddrPort{here, there} {
				in := f.first(protocol, client.Port(), frontend).from(client)
				n.run(t, "ingress_l2", n.eth0, at0(n, in).bytes(), 0)
				stub, where := n.entry(t, in.tuple())
				if where != "embryos" {
					t.Fatalf("%v to %v: no flow", client, frontend)
				}
				got[i] = stub.Destination()
			}
			if got[0] != got[1] {
				t.Errorf("%v reaches %v by one node and %v by the other", client, got[0], got[1])
			}
			chosen[got[0]]++
		}
		for _, b := range backends {
			if chosen[b] < 20 { // of 50: one in a million by chance
				t.Errorf("%v was chosen by %d of 200 clients", b, chosen[b])
			}
		}
	})
}
