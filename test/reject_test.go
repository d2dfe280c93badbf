package test

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// TestRejectOutside: a client outside is told at once that a NodePort has no backends.
func TestRejectOutside(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	w.put(t, service("empty", 45, 30045))
	w.start(t, nil)
	for _, addr := range w.a.Addrs() {
		for _, network := range []string{"tcp", "udp"} {
			for range 3 {
				to := netip.AddrPortFrom(addr, 30045).String()
				if r, err := w.client.Request(t.Context(), network, to); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("%s to %s: %+v, %v; want ECONNREFUSED", network, to, r, err)
				}
			}
		}
	}
	t.Log(counters(t, w.agents[0]))
}
