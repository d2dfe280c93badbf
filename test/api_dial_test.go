package test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

// dialler is a host that requests are made from.
type dialler interface {
	Request(ctx context.Context, network, addr string) (hand.Reply, error)
}

// eventually fails the test if f does not return nil in time.
func eventually(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := testenv.Eventually(ctx, f); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// request makes a request that gives up long before the test does.
func request(ctx context.Context, from dialler, network, addr string) (hand.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	return from.Request(ctx, network, addr)
}

// answered waits until exactly these hosts answer, and returns how long the first answer took.
func answered(t *testing.T, from dialler, network, addr string, want ...string) (first time.Duration) {
	t.Helper()
	begin := time.Now()
	wanted := map[string]bool{}
	for _, name := range want {
		wanted[name] = true
	}
	eventually(t, fmt.Sprintf("%s %s", network, addr), func(ctx context.Context) error {
		seen := map[string]bool{}
		for range 12 * len(want) { // the chance to miss one of two is 2⁻²³, and it is tried again
			r, err := request(ctx, from, network, addr)
			if err != nil {
				return err
			}
			if first == 0 {
				first = time.Since(begin)
			}
			seen[r.Backend] = true
		}
		if !maps.Equal(seen, wanted) {
			return fmt.Errorf("answered by %v, want %v", seen, wanted)
		}
		return nil
	})
	return first
}

// refused waits until a connection is refused. An ICMP error that comes while connect() still holds the socket,
// as it does between namespaces, counts only when the SYN is sent again, a second later (tcp_v4_err).
func refused(t *testing.T, from dialler, addr string) {
	t.Helper()
	eventually(t, addr+" is refused", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		r, err := from.Request(ctx, "tcp", addr)
		switch {
		case err == nil:
			return fmt.Errorf("answered by %s", r.Backend)
		case !errors.Is(err, unix.ECONNREFUSED):
			return err
		}
		return nil
	})
}

// unreachable waits until nobody translates a ClusterIP any more: to the cluster's hosts, which have no default
// route, it leads nowhere then.
func unreachable(t *testing.T, from dialler, addr string) {
	t.Helper()
	failing(t, from, addr, "leads nowhere", func(err error) bool {
		return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH)
	})
}

// silent waits until a connection gets no answer at all: dropped.
func silent(t *testing.T, from dialler, addr string) {
	t.Helper()
	failing(t, from, addr, "is dropped", func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) })
}

func failing(t *testing.T, from dialler, addr, how string, is func(error) bool) {
	t.Helper()
	eventually(t, addr+" "+how, func(ctx context.Context) error {
		r, err := request(ctx, from, "tcp", addr)
		switch {
		case err == nil:
			return fmt.Errorf("answered by %s", r.Backend)
		case !is(err):
			return err
		}
		return nil
	})
}

// clusterAddrs are what a pod dials, IPv4 first.
func clusterAddrs(s *corev1.Service, port int32) []string {
	var list []string
	for _, ip := range s.Spec.ClusterIPs {
		list = append(list, addrPort(netip.MustParseAddr(ip), port))
	}
	return list
}

// nodeAddrs are what a client dials, IPv4 first.
func nodeAddrs(n *testenv.Node, nodePort int32) []string {
	var list []string
	for _, ip := range n.Addrs() {
		list = append(list, addrPort(ip, nodePort))
	}
	return list
}

func addrPort(ip netip.Addr, port int32) string {
	return netip.AddrPortFrom(ip, uint16(port)).String()
}
