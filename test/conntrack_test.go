package test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

// A nat rule as kube-proxy makes them, and one that tracks all connections. Answers of what nobody has asked
// are kept from the node, as a firewall would.
const natRules = `
table inet other {
	chain translate {
		type nat hook output priority -100;
		ip daddr 10.96.0.61 udp dport 80 dnat ip to 10.244.2.11:8080
		ip6 daddr fd96::3d udp dport 80 dnat ip6 to [fd44:2::11]:8080
	}
	chain track {
		type filter hook input priority 0;
		ct state established accept
		meta l4proto udp drop
	}
}`

// asker is a UDP socket that was made before there was an agent: no hook sees what it sends if it is connected.
type asker struct {
	*hand.Socket
	name string
	to   netip.AddrPort
}

func newAsker(t *testing.T, from *testenv.Host, to netip.AddrPort) asker {
	t.Helper()
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	socket, err := from.Socket(t.Context(), family, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	return asker{socket, fmt.Sprintf("%s to %s", from.Name, to), to}
}

// ask sends, and returns who answers.
func (a asker) ask(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if err := a.SendTo(ctx, "hello", a.to); err != nil {
		return "", err
	}
	return a.Recv(ctx)
}

// answeredBy waits until that backend answers.
func (a asker) answeredBy(t *testing.T, backend string) {
	t.Helper()
	eventually(t, "answer", func(ctx context.Context) error {
		answer, err := a.ask(ctx)
		if err == nil && !strings.Contains(answer, backend) {
			err = fmt.Errorf("%s: %q, want %s", a.name, answer, backend)
		}
		return err
	})
}

// TestConntrackStale: what another proxy's rules have made of a UDP client goes on after them while its
// backend serves, and no longer (R-6.8 for what nf_conntrack translates).
func TestConntrackStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	for i, all := range []string{"0.0.0.0/0", "::/0"} {
		if err := w.a.AddRoute(netip.MustParsePrefix(all), w.b.Addrs()[i]); err != nil {
			t.Fatal(err)
		}
	}
	run(t, w.a.Host, natRules, "nft", "-f", "-")
	var askers []asker
	for _, addr := range []string{clusterIPv4(61) + ":80", "[" + clusterIPv6(61) + "]:80"} {
		a := newAsker(t, w.a.Host, netip.MustParseAddrPort(addr))
		if err := a.Connect(t.Context(), a.to); err != nil {
			t.Fatal(err)
		}
		a.to = netip.AddrPort{}
		a.answeredBy(t, w.b1.Name)
		askers = append(askers, a)
	}
	run(t, w.a.Host, "", "nft", "flush", "chain", "inet", "other", "translate")

	s := service("moves", 61, 30061)
	w.put(t, s, apiserver.PodBackend(w.b1), apiserver.PodBackend(w.a1))
	w.start(t, nil, w.a)
	agent := w.agents[0]
	eventually(t, "look", func(context.Context) error {
		if n := agent.metric(t, `kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family="IPv6"}`); n == 0 {
			return fmt.Errorf("nf_conntrack was not looked at")
		}
		return nil
	})
	for range 5 { // twice as likely the other, if it were a choice
		for _, a := range askers {
			a.answeredBy(t, w.b1.Name)
		}
	}
	w.put(t, s, apiserver.PodBackend(w.a1), apiserver.PodBackend(w.b2))
	w.put(t, s, apiserver.PodBackend(w.b2))
	for _, a := range askers {
		a.answeredBy(t, w.b2.Name)
	}
	for _, family := range []string{"IPv4", "IPv6"} {
		if n := agent.metric(t, `kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="`+family+`"}`); n != 1 {
			t.Errorf("%s: %g entries deleted, want 1", family, n)
		}
	}
}

// TestConntrackBefore: who has asked a Service before anybody served it, or before there was one, is answered
// as soon as somebody does: from outside, and from the host by packets. What
// nf_conntrack remembers of them is left alone, for it is what lets the host's answers through its firewall.
func TestConntrackBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	for i, all := range []string{"0.0.0.0/0", "::/0"} {
		if err := w.a.AddRoute(netip.MustParsePrefix(all), w.b.Addrs()[i]); err != nil {
			t.Fatal(err)
		}
	}
	run(t, w.a.Host, natRules, "nft", "-f", "-")
	var askers []asker
	for i, cluster := range []string{clusterIPv4(62), clusterIPv6(62)} {
		host := newAsker(t, w.a.Host, netip.AddrPortFrom(netip.MustParseAddr(cluster), 80))
		if err := host.Connect(t.Context(), host.to); err != nil {
			t.Fatal(err)
		}
		host.to = netip.AddrPort{}
		askers = append(askers, host, newAsker(t, w.client.Host, netip.AddrPortFrom(w.a.Addrs()[i], 30062)))
	}
	send := func() {
		for _, a := range askers {
			// The error is that of what was sent before.
			if err := a.SendTo(t.Context(), "hello", a.to); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: %v", a.name, err)
			}
		}
	}
	send()
	w.start(t, nil, w.a)
	send()
	s := service("late", 62, 30062)
	w.put(t, s)
	send()
	for _, backend := range []*testenv.Pod{w.b1, w.b2, w.b1} {
		w.put(t, s, apiserver.PodBackend(backend))
		for _, a := range askers {
			a.answeredBy(t, backend.Name)
		}
	}
	for _, family := range []string{"IPv4", "IPv6"} {
		if n := w.agents[0].metric(t, `kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="`+family+`"}`); n != 0 {
			t.Errorf("%s: %g entries deleted, want none", family, n)
		}
	}
}
