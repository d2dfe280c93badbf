package test

import (
	"context"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// An unconnected UDP socket stays with its backend while that serves: QUIC, TFTP and SIP clients lean on
// it (DESIGN D5). When it goes another takes over, and keeps the socket when the first comes back.
func TestSocketSticky(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	s := service("many", 50, 30050)
	pods := map[string]*testenv.Pod{w.a1.Name: w.a1, w.b1.Name: w.b1, w.b2.Name: w.b2}
	put := func(without string) {
		var backends []apiserver.Backend
		for name, pod := range pods {
			if name != without {
				backends = append(backends, apiserver.PodBackend(pod))
			}
		}
		w.put(t, s, backends...)
	}
	put("")
	w.start(t, nil, w.a)

	for _, f := range clusterForms(50) {
		t.Run(f.name, func(t *testing.T) {
			service := netip.AddrPortFrom(f.addr, 80)
			socket := openSocket(t, w.a2.Host, f.addr, unix.SOCK_DGRAM, 0)
			ask := func() string {
				t.Helper()
				if err := socket.SendTo(t.Context(), "who", service); err != nil {
					t.Fatal(err)
				}
				got, err := hear(t, socket)
				if err != nil || got.From != service {
					t.Fatalf("answer %v, %v, want it from %s", got, err, service)
				}
				return got.Backend
			}
			stays := func(backend string) {
				t.Helper()
				for i := range 50 {
					if got := ask(); got != backend {
						t.Fatalf("answer %d is from %s, want %s as before", i+1, got, backend)
					}
				}
			}
			first := ask()
			stays(first)

			put(first)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			second := ""
			if err := testenv.Eventually(ctx, func(context.Context) error {
				if second = ask(); second == first {
					return context.DeadlineExceeded
				}
				return nil
			}); err != nil {
				t.Fatalf("still answered by %s, which is no backend any more", first)
			}
			stays(second)

			put("")
			stays(second)
		})
	}
}
