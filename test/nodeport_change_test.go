package test

import (
	"context"
	"errors"
	"fmt"
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

// whatever becomes of its Service, an established TCP connection goes on; new ones follow
// the change.: a UDP flow from a fixed port follows it as well. The Services are the only ones, so at
// the end the agents know none at all.
func TestNodePortChange(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"auto", "stack"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			testNodePortChange(t, way)
		})
	}
}

func testNodePortChange(t *testing.T, way string) {
	w := newWorld(t, testenv.Options{})
	// Or the redirects that the slow path's one-armed router sends use up the client's allowance of ICMP,
	// and it hears "refused" a second later.
	if err := w.a.Sysctl("net.ipv4.icmp_ratelimit", "0"); err != nil {
		t.Fatal(err)
	}
	type pair struct {
		service      *corev1.Service
		before, then *testenv.Pod
		port         uint16
	}
	pairs := []pair{
		{service("here", 150, 30150), w.a1, w.a2, 30150},
		{service("elsewhere", 151, 30151), w.b1, w.b2, 30151},
	}
	for _, p := range pairs {
		w.put(t, p.service, apiserver.PodBackend(p.before))
	}
	w.start(t, []string{"--north-south", way})

	type flow struct {
		pair
		to   netip.AddrPort
		conn *hand.Socket // TCP
		udp  *hand.Socket
	}
	var flows []flow
	for _, p := range pairs {
		for _, addr := range w.a.Addrs() {
			f := flow{pair: p, to: netip.AddrPortFrom(addr, p.port)}
			f.conn = openSocket(t, w.client.Host, addr, unix.SOCK_STREAM, 0)
			f.udp = openSocket(t, w.client.Host, addr, unix.SOCK_DGRAM, 0)
			if err := errors.Join(f.conn.Connect(t.Context(), f.to), f.udp.Connect(t.Context(), f.to)); err != nil {
				t.Fatal(err)
			}
			checkGreeting(t, f.conn, p.before.Name)
			for range 3 { // so that it is no embryo any more
				checkLine(t, f.udp, p.before.Name, "first")
			}
			flows = append(flows, f)
		}
	}
	for _, step := range []struct {
		name    string
		do      func(p pair)
		refused bool // otherwise answered by the other pod
	}{
		{"another backend", func(p pair) { w.put(t, p.service, apiserver.PodBackend(p.then)) }, false},
		{"no backend", func(p pair) { w.put(t, p.service) }, true},
		{"another backend again", func(p pair) { w.put(t, p.service, apiserver.PodBackend(p.then)) }, false},
		{"no Service", func(p pair) { w.remove(t, p.service) }, true},
	} {
		for _, p := range pairs {
			step.do(p)
		}
		for _, f := range flows {
			t.Run(fmt.Sprintf("%s/%s/%s", step.name, f.service.Name, f.to.Addr()), func(t *testing.T) {
				checkLine(t, f.conn, f.before.Name, "established")
				r, err := w.client.Request(t.Context(), "tcp", f.to.String())
				if step.refused && !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("new connection: answered by %q, %v, want ECONNREFUSED", r.Backend, err)
				} else if !step.refused && r.Backend != f.then.Name {
					t.Errorf("new connection: answered by %q, %v, want %s", r.Backend, err, f.then.Name)
				}
				if err := follows(t, f.udp, f.then.Name, step.refused); err != nil {
					t.Errorf("UDP flow: %v", err)
				}
			})
		}
	}
}

// follows waits until a UDP flow is answered by the backend, or refused.
func follows(t *testing.T, s *hand.Socket, backend string, refused bool) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience/4)
	defer cancel()
	return testenv.Eventually(ctx, func(context.Context) error {
		err := s.Send(t.Context(), "where")
		var got seen
		if err == nil {
			got, err = hear(t, s)
		}
		switch {
		case refused && !errors.Is(err, unix.ECONNREFUSED):
			return fmt.Errorf("answered by %q, %w, want ECONNREFUSED", got.Backend, err)
		case !refused && got.Backend != backend:
			return fmt.Errorf("answered by %q, %w, want %s", got.Backend, err, backend)
		}
		return nil
	})
}

// with externalTrafficPolicy Local outside clients are served by the node they
// come to or by nobody, and keep their address; the node's own processes and pods are served by anybody.
func TestNodePortLocalPolicy(t *testing.T) {
	t.Parallel()
	const port = 30160
	w := newWorld(t, testenv.Options{})
	s := service("local", 160, port)
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	w.put(t, s, apiserver.PodBackend(w.a1))
	w.start(t, []string{"--cluster-cidr", "10.244.0.0/16,fd44::/16"})

	for i, addr := range w.a.Addrs() {
		for _, network := range networks {
			t.Run(fmt.Sprintf("IPv%d/%s", 4+2*i, network), func(t *testing.T) {
				exchange{from: w.client.Host, network: network, to: netip.AddrPortFrom(addr, port),
					backend: w.a1.Name, source: w.client.Addrs()[i]}.check(t)

				other := netip.AddrPortFrom(w.b.Addrs()[i], port)
				for _, from := range []*testenv.Host{w.b.Host, w.b1.Host} {
					exchange{from: from, network: network, to: other, backend: w.a1.Name, source: from.Addrs()[i]}.check(t)
				}
				before := counters(t, w.agents[1])
				short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				r, err := w.client.Request(short, network, other.String())
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("at the node without a backend: answered by %q, %v, want silence", r.Backend, err)
				}
				checkMoved(t, w.agents[1], before, map[string]uint64{"packet_drop": 1, "flow_new": 0})
			})
		}
	}
}
