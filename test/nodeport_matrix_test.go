package test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// Where a NodePort's only backend is, seen from node-a, and what its Service is called there.
const (
	podHere = iota
	podElsewhere
	thisNode
	otherNode
	places
)

var placeNames = [places]string{"pod here", "pod elsewhere", "this node", "other node"}

// putPlaces makes a Service with one backend in each place; place p's NodePort is first+p.
func putPlaces(t *testing.T, w *world, first int32) {
	t.Helper()
	for place, b := range w.inPlaces() {
		number := first + int32(place)
		w.put(t, service(fmt.Sprintf("place-%d", place), uint8(number-30000), number), b)
	}
}

func (w *world) inPlaces() [places]apiserver.Backend {
	return [places]apiserver.Backend{
		podHere:      apiserver.PodBackend(w.a1),
		podElsewhere: apiserver.PodBackend(w.b1),
		thisNode:     apiserver.NodeBackend(w.a),
		otherNode:    apiserver.NodeBackend(w.b),
	}
}

// The packet path (DESIGN D6) to NodePorts, for outside clients and pods of another node: on each pod
// network, straight from link to link and by the stack. A client's address is kept for backends of the
// node it came to; for others it becomes the node's, on the link that leads there.
func TestNodePort(t *testing.T) {
	t.Parallel()
	for _, pods := range []testenv.PodNetwork{testenv.Routed, testenv.Bridged} {
		for _, overlay := range []testenv.Overlay{testenv.Direct, testenv.VXLAN} {
			for _, way := range []string{"auto", "stack"} {
				t.Run(fmt.Sprintf("%s/%s/%s", pods, overlay, way), func(t *testing.T) {
					t.Parallel()
					testNodePort(t, testenv.Options{PodNetwork: pods, Overlay: overlay}, way)
				})
			}
		}
	}
}

func testNodePort(t *testing.T, o testenv.Options, way string) {
	const first = 30080
	w := newWorld(t, o)
	putPlaces(t, w, first)
	w.start(t, []string{"--north-south", way})

	// A next hop that is not known yet may take the stack, which finds it: not what is asked here.
	for i, addr := range w.b.Addrs() {
		exchange{from: w.a.Host, network: "udp", to: netip.AddrPortFrom(addr, serverPort), backend: w.b.Name, source: w.a.Addrs()[i]}.check(t)
	}
	for place, backend := range w.inPlaces() {
		for i, addr := range w.a.Addrs() {
			for _, from := range []*testenv.Host{w.client.Host, w.b2.Host} {
				t.Run(fmt.Sprintf("%s/IPv%d/%s", placeNames[place], 4+2*i, from.Name), func(t *testing.T) {
					e := exchange{from: from, to: netip.AddrPortFrom(addr, first+uint16(place)), backend: backend.Host.Name, source: from.Addrs()[i]}
					if place == podElsewhere || place == otherNode {
						e.source, e.port = addr, snatPort
					}
					if place == podElsewhere && o.Overlay == testenv.VXLAN {
						e.source = w.a.PodCIDRs[i].Addr() // the tunnel's address, as the kernel would choose
					}
					replies := way
					if o.Overlay == testenv.VXLAN && from != w.client.Host {
						replies = "stack" // the way back is the tunnel, not the link that the client came by
					}
					before := counters(t, w.agents[0])
					for _, network := range networks {
						e.network = network
						e.check(t)
					}
					checkWay(t, w.agents[0], before, e.port == snatPort, way, replies)
				})
			}
		}
	}
}

// checkWay: three flows, which went the one way they should have gone, and came back so.
func checkWay(t *testing.T, a *agent, before map[string]uint64, remote bool, forward, reply string) {
	t.Helper()
	const late = 2 // packets of a connection of before that is being closed
	now := counters(t, a)
	if flows := now["flow_new"] - before["flow_new"]; flows != 3 {
		t.Errorf("%d new flows, want 3", flows)
	}
	for direction, way := range map[string]string{"forward_": forward, "reply_": reply} {
		for name, want := range map[string]bool{"local": !remote, "redirect": remote && way == "auto", "stack": remote && way == "stack"} {
			if n := now[direction+name] - before[direction+name]; n > late != want {
				t.Errorf("%s moved by %d", direction+name, n)
			}
		}
	}
}
