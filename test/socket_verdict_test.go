package test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

// attempt is a socket and the system call that names the Service.
type attempt struct {
	name    string
	kind    int
	counter string // of the hook
	call    func(ctx context.Context, s *hand.Socket, to netip.AddrPort) error
}

var attempts = []attempt{
	{"TCP connect", unix.SOCK_STREAM, "connect", func(ctx context.Context, s *hand.Socket, to netip.AddrPort) error {
		return s.Connect(ctx, to)
	}},
	{"UDP connect", unix.SOCK_DGRAM, "connect", func(ctx context.Context, s *hand.Socket, to netip.AddrPort) error {
		return s.Connect(ctx, to)
	}},
	{"UDP sendto", unix.SOCK_DGRAM, "sendmsg", func(ctx context.Context, s *hand.Socket, to netip.AddrPort) error {
		return s.SendTo(ctx, "who\n", to)
	}},
}

// a Service nobody can answer is refused at once; one that only others may answer is
// silent, and never an errno of the hook's, which kernel sockets would spin on (DESIGN D5).
func TestSocketVerdict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	// A way out, as nodes have: without one the kernel says ENETUNREACH by itself. The client drops what
	// is not for it.
	for i, services := range []string{"10.96.0.0/16", "fd96::/64"} {
		if err := w.a.AddRoute(netip.MustParsePrefix(services), w.client.Addrs()[i]); err != nil {
			t.Fatal(err)
		}
	}
	w.put(t, service("empty", 20, 30020))
	local := service("elsewhere", 21, 30021)
	policy := corev1.ServiceInternalTrafficPolicyLocal
	local.Spec.InternalTrafficPolicy = &policy
	w.put(t, local, apiserver.PodBackend(w.b1))
	w.start(t, nil)

	for _, from := range []*testenv.Host{w.a2.Host, w.a.Host} {
		for _, try := range attempts {
			t.Run(from.Name+"/"+try.name+"/no backend", func(t *testing.T) {
				for _, f := range clusterForms(20) {
					to := netip.AddrPortFrom(f.addr, 80)
					before := counters(t, w.agents[0])
					s := openSocket(t, from, f.addr, try.kind, 0)
					if err := try.call(t.Context(), s, to); !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("%s: %v, want ECONNREFUSED", f.name, err)
					}
					checkMoved(t, w.agents[0], before, map[string]uint64{try.counter: 0, try.counter + "_reject": 1, try.counter + "_drop": 0})
				}
			})
			t.Run(from.Name+"/"+try.name+"/no backend here", func(t *testing.T) {
				for _, f := range clusterForms(21) {
					to := netip.AddrPortFrom(f.addr, 80)
					before := counters(t, w.agents[0])
					s := openSocket(t, from, f.addr, try.kind, 0)
					short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
					defer cancel()
					err := try.call(short, s, to)
					if try.kind == unix.SOCK_DGRAM {
						if err != nil {
							t.Errorf("%s: %v, want the datagram to vanish", f.name, err)
						}
						_, err = s.Recv(short)
					}
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%s: %v, want nothing to happen", f.name, err)
					}
					checkMoved(t, w.agents[0], before, map[string]uint64{try.counter: 0, try.counter + "_reject": 0, try.counter + "_drop": 1})
				}
			})
		}
	}
	t.Run("where the backend is", func(t *testing.T) {
		for _, f := range clusterForms(21) {
			for _, network := range networks {
				exchange{from: w.b2.Host, network: network, to: netip.AddrPortFrom(f.addr, 80),
					backend: w.b1.Name, source: w.b2.Addrs()[f.i]}.check(t)
			}
		}
	})
}

// openSocket makes a socket that can name addr, closed with the test.
func openSocket(t *testing.T, h *testenv.Host, addr netip.Addr, kind, protocol int) *hand.Socket {
	t.Helper()
	family := unix.AF_INET6
	if addr.Is4() {
		family = unix.AF_INET
	}
	s, err := h.Socket(t.Context(), family, kind, protocol)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("close socket: %v", err)
		}
	})
	return s
}
