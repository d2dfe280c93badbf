package test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

// What cannot be redirected takes the slow path, packet by packet, where the node's stack does with it
// what routers do.
func TestNodePortStack(t *testing.T) {
	t.Parallel()
	const first = 30110
	w := newWorld(t, testenv.Options{PodNetwork: testenv.Bridged, Overlay: testenv.VXLAN})
	putPlaces(t, w, first)
	w.start(t, nil)

	for i, addr := range w.a.Addrs() {
		family := []string{"IPv4", "IPv6"}[i]
		for place, counter := range map[int]string{podHere: "forward_local", podElsewhere: "forward_stack", otherNode: "forward_stack"} {
			t.Run("at the end of its life/"+placeNames[place]+"/"+family, func(t *testing.T) {
				to := netip.AddrPortFrom(addr, first+uint16(place))
				s := openSocket(t, w.client.Host, addr, unix.SOCK_DGRAM, 0)
				setHops(t, s, addr, 1)
				protocol := []string{"Icmp", "Icmp6"}[i]
				before, expired := counters(t, w.agents[0]), netstat(t, w.a.Host, protocol, "OutTimeExcds")
				if err := s.SendTo(t.Context(), "who", to); err != nil {
					t.Fatal(err)
				}
				short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				if got, err := s.Recv(short); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("received %q, %v, want nothing", got, err)
				}
				checkMoved(t, w.agents[0], before, map[string]uint64{"flow_new": 1, counter: 1, "forward_redirect": 0})
				if now := netstat(t, w.a.Host, protocol, "OutTimeExcds"); now != expired+1 {
					t.Errorf("the node said %d times that a packet's time is over, want once", now-expired)
				}
			})
		}
		t.Run("at the end of its life/this node/"+family, func(t *testing.T) {
			to := netip.AddrPortFrom(addr, first+thisNode)
			s := openSocket(t, w.client.Host, addr, unix.SOCK_DGRAM, 0)
			setHops(t, s, addr, 1)
			if err := take(t, s, "send", to, w.a.Host, 0); err != nil { // it need not go any further
				t.Error(err)
			}
		})
	}

	// 1450 bytes fit on the client's wire in one packet, and not into the tunnel.
	t.Run("too large for the tunnel", func(t *testing.T) {
		to := netip.AddrPortFrom(w.a.IPv4, first+podElsewhere)
		s := openSocket(t, w.client.Host, to.Addr(), unix.SOCK_DGRAM, 0)
		if err := s.SetOption(t.Context(), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT); err != nil {
			t.Fatal(err)
		}
		for _, d := range []struct {
			size            int
			redirect, stack uint64
		}{{100, 1, 0}, {1450, 0, 1}, {100, 1, 0}} {
			payload := strings.Repeat("x", d.size)
			before := counters(t, w.agents[0])
			created := netstat(t, w.a.Host, "Ip", "FragCreates")
			if err := s.SendTo(t.Context(), payload, to); err != nil {
				t.Fatal(err)
			}
			got, err := hear(t, s)
			if err == nil {
				err = different(seen{Backend: w.b1.Name, Payload: payload, From: to}, got)
			}
			if err != nil {
				t.Fatalf("%d bytes: %v", d.size, err)
			}
			checkMoved(t, w.agents[0], before, map[string]uint64{"forward_redirect": d.redirect, "forward_stack": d.stack})
			if made := netstat(t, w.a.Host, "Ip", "FragCreates") - created; made != 2*d.stack {
				t.Errorf("%d bytes: the node made %d fragments, want %d", d.size, made, 2*d.stack)
			}
		}
	})

	t.Run("as usual, after all this", func(t *testing.T) {
		for i, addr := range w.a.Addrs() {
			exchange{from: w.client.Host, network: "tcp", to: netip.AddrPortFrom(addr, first+podElsewhere), backend: w.b1.Name,
				source: w.a.PodCIDRs[i].Addr(), port: snatPort}.check(t)
		}
	})
}

// setHops sets how far what a socket sends to addr may go.
func setHops(t *testing.T, s *hand.Socket, addr netip.Addr, hops int) {
	t.Helper()
	level, option := unix.IPPROTO_IP, unix.IP_TTL
	if addr.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	if err := s.SetOption(t.Context(), level, option, hops); err != nil {
		t.Fatal(err)
	}
}
