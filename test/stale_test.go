package test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// TestStaleSockets: a connected UDP socket is ended when its backend goes, in pods and on the host, and
// only then (R-6.8, and beyond kube-proxy: also when the last backend or the Service goes).
func TestStaleSockets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	gone, stays := service("gone", 43, 30043), service("stays", 44, 30044)
	w.put(t, gone, apiserver.PodBackend(w.b1))
	w.put(t, stays, apiserver.PodBackend(w.b1))
	w.start(t, nil)

	type connected struct {
		name  string
		send  func() error
		stale bool
	}
	var sockets []connected
	for _, from := range []*testenv.Host{w.a1.Host, w.a2.Host, w.a.Host} {
		for i, f := range clusterForms(43) {
			other := clusterForms(44)[i]
			for _, to := range []struct {
				addr  netip.Addr
				stale bool
			}{{f.addr, true}, {other.addr, false}} {
				family := unix.AF_INET6
				if to.addr.Is4() {
					family = unix.AF_INET
				}
				socket, err := from.Socket(t.Context(), family, unix.SOCK_DGRAM, 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := socket.Connect(t.Context(), netip.AddrPortFrom(to.addr, 80)); err != nil {
					t.Fatal(err)
				}
				exchange := func() error {
					if err := socket.Send(t.Context(), "hello"); err != nil {
						return err
					}
					_, err := socket.Recv(t.Context())
					return err
				}
				if err := exchange(); err != nil {
					t.Fatalf("%s to %s: %v", from.Name, to.addr, err)
				}
				sockets = append(sockets, connected{from.Name + " to " + to.addr.String(), exchange, to.stale})
			}
		}
	}
	w.remove(t, gone)
	for _, s := range sockets {
		if !s.stale {
			if err := s.send(); err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
			continue
		}
		eventually(t, "answer", func(context.Context) error {
			err := s.send()
			if errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EDESTADDRREQ) {
				return nil
			}
			return errors.Join(errors.New(s.name+" still works"), err)
		})
	}
}
