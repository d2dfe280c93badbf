package test

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// NodePorts from the node's own processes and its pods are the socket path's affair too: on the node's
// addresses, and for the node's processes on its loopback.
func TestSocketNodePort(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	const here, elsewhere, empty = 30070, 30071, 30072
	w.put(t, service("here", 70, here), apiserver.PodBackend(w.a1))
	w.put(t, service("elsewhere", 71, elsewhere), apiserver.PodBackend(w.b1))
	w.put(t, service("empty", 72, empty))
	w.start(t, nil)

	loopback := append(forms(netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()),
		form{"all of 127/8", netip.MustParseAddr("127.1.2.3"), 0},
		form{"unspecified IPv4", netip.IPv4Unspecified(), 0},
		form{"unspecified IPv6", netip.IPv6Unspecified(), 1})
	for _, test := range []struct {
		name  string
		from  *testenv.Host
		addrs []form
	}{
		{"process to its node", w.a.Host, hostForms(w.a.Host)},
		{"process to the loopback", w.a.Host, loopback},
		{"pod to its node", w.a2.Host, hostForms(w.a.Host)},
	} {
		for _, f := range test.addrs {
			t.Run(test.name+"/"+f.name, func(t *testing.T) {
				for _, network := range networks {
					for port, backend := range map[uint16]string{here: w.a1.Name, elsewhere: w.b1.Name} {
						exchange{from: test.from, network: network, to: netip.AddrPortFrom(f.addr, port),
							backend: backend, source: test.from.Addrs()[f.i]}.check(t)
					}
					_, err := test.from.Request(t.Context(), network, netip.AddrPortFrom(f.addr, empty).String())
					if !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("%s to a Service without backends: %v, want ECONNREFUSED", network, err)
					}
				}
			})
		}
	}

	// A pod's loopback is its own: nobody listens there, and the hooks stay out of it.
	for _, f := range loopback {
		t.Run("pod to its loopback/"+f.name, func(t *testing.T) {
			before := counters(t, w.agents[0])
			for _, network := range []string{"tcp", "udp"} {
				_, err := w.a2.Request(t.Context(), network, netip.AddrPortFrom(f.addr, here).String())
				if !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("%s: %v, want ECONNREFUSED from the pod itself", network, err)
				}
			}
			checkMoved(t, w.agents[0], before, untouched)
		})
	}

	// The other node's are not in this node's tables: that node serves them as it does any outside client.
	for _, from := range []*testenv.Host{w.a2.Host, w.a.Host} {
		for _, f := range hostForms(w.b.Host) {
			t.Run(from.Name+" to the other node/"+f.name, func(t *testing.T) {
				before := counters(t, w.agents[0])
				for _, network := range networks {
					exchange{from: from, network: network, to: netip.AddrPortFrom(f.addr, elsewhere),
						backend: w.b1.Name, source: from.Addrs()[f.i]}.check(t)
					exchange{from: from, network: network, to: netip.AddrPortFrom(f.addr, here),
						backend: w.a1.Name, source: w.b.Addrs()[f.i], port: snatPort}.check(t)
				}
				checkMoved(t, w.agents[0], before, untouched)
			})
		}
	}
}
