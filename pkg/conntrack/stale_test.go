package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newNamespace moves the test to a network namespace of its own, for good: its thread ends with it.
func newNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
}

// track makes an entry: client dialled to, and from answers.
func track(t *testing.T, protocol uint8, client, to, from string) {
	t.Helper()
	c, d, a := netip.MustParseAddrPort(client), netip.MustParseAddrPort(to), netip.MustParseAddrPort(from)
	family := netlink.InetFamily(unix.AF_INET)
	if c.Addr().Is6() {
		family = unix.AF_INET6
	}
	flow := &netlink.ConntrackFlow{
		FamilyType: uint8(family), TimeOut: 1000,
		Forward: netlink.IPTuple{Protocol: protocol, SrcIP: c.Addr().AsSlice(), SrcPort: c.Port(), DstIP: d.Addr().AsSlice(), DstPort: d.Port()},
		Reverse: netlink.IPTuple{Protocol: protocol, SrcIP: a.Addr().AsSlice(), SrcPort: a.Port(), DstIP: c.Addr().AsSlice(), DstPort: c.Port()},
	}
	if protocol == unix.IPPROTO_TCP {
		flow.ProtoInfo = &netlink.ProtoInfoTCP{State: 3} // established
	}
	if err := netlink.ConntrackCreate(netlink.ConntrackTable, family, flow); err != nil {
		t.Fatalf("make entry %s to %s: %v", client, to, err)
	}
}

// tracked returns the clients of the entries there are, of both families, sorted.
func tracked(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range flows {
			list = append(list, addrPort(f.Forward.SrcIP, f.Forward.SrcPort).String())
		}
	}
	slices.Sort(list)
	return list
}

func frontends(list map[string][]string) Frontends {
	f := make(Frontends)
	for frontend, backends := range list {
		serving := make(map[netip.AddrPort]bool)
		for _, b := range backends {
			serving[netip.MustParseAddrPort(b)] = true
		}
		f[netip.MustParseAddrPort(frontend)] = serving
	}
	return f
}

// The cases of kube-proxy's TestCleanStaleEntries, with the two differences that DeleteStale explains.
func TestDeleteStale(t *testing.T) {
	newNamespace(t)
	const udp, tcp = unix.IPPROTO_UDP, unix.IPPROTO_TCP
	entries := []struct {
		protocol         uint8
		client, to, from string
		stale            bool
	}{
		{udp, "192.0.2.1:1", "10.96.0.10:53", "10.244.1.1:5353", false}, // it serves
		{udp, "192.0.2.1:2", "10.96.0.10:53", "10.244.1.2:5353", true},  // gone
		{udp, "192.0.2.1:3", "10.96.0.10:53", "10.244.1.1:5354", true},  // another port now
		{udp, "192.0.2.1:4", "10.96.0.10:53", "10.96.0.10:53", false},   // leads nowhere else
		{udp, "192.0.2.1:5", "10.96.0.10:54", "10.244.1.2:5353", false}, // not a Service's port
		{udp, "192.0.2.1:6", "10.96.0.11:53", "10.244.1.2:5353", true},  // nobody serves
		{udp, "192.0.2.1:7", "10.96.0.11:53", "10.96.0.11:53", false},
		{udp, "192.0.2.1:8", "172.30.0.11:30053", "10.244.1.2:5353", true},   // NodePort
		{udp, "192.0.2.1:9", "8.8.8.8:30053", "10.244.1.2:5353", false},      // not on this node's address
		{tcp, "192.0.2.1:10", "10.96.0.10:53", "10.244.1.2:5353", false},
		{udp, "[fd00::1]:1", "[fd96::10]:53", "[fd44::1]:5353", false},       // it serves
		{udp, "[fd00::1]:2", "[fd96::10]:53", "[fd44::2]:5353", true},        // gone
		{udp, "[fd00::1]:3", "[fd96::10]:53", "[fd96::10]:53", false},        // leads nowhere else
		{udp, "[fd00::1]:4", "[fd30::11]:30053", "[fd44::2]:5353", true},     // NodePort
		{udp, "192.0.2.1:12", "10.96.0.10:53", "10.96.0.10:54", true},        // led to itself, in a way
		{udp, "192.0.2.1:13", "172.30.0.11:30053", "10.244.1.1:5353", false}, // it serves
	}
	for _, e := range entries {
		track(t, e.protocol, e.client, e.to, e.from)
	}
	asked := 0
	known := func() (Frontends, error) {
		asked++
		return frontends(map[string][]string{
			"10.96.0.10:53": {"10.244.1.1:5353"}, "10.96.0.11:53": nil, "172.30.0.11:30053": {"10.244.1.1:5353"},
			"[fd96::10]:53": {"[fd44::1]:5353"}, "[fd30::11]:30053": {"[fd44::1]:5353"},
		}), nil
	}
	for _, want := range []map[bool]int{{false: 5, true: 2}, {false: 0, true: 0}} {
		for ipv6, want := range want {
			if got, err := DeleteStale(ipv6, known); got != want || err != nil {
				t.Errorf("IPv6 %t: deleted %d, %v; want %d", ipv6, got, err, want)
			}
		}
	}
	if asked != 4 {
		t.Errorf("asked %d times for the frontends, want once a call", asked)
	}
	left := tracked(t)
	for _, e := range entries {
		if kept := slices.Contains(left, e.client); kept == e.stale {
			t.Errorf("entry of %s to %s answered by %s: kept %t", e.client, e.to, e.from, kept)
		}
	}
}

// Where nothing is tracked, or nothing led elsewhere, nobody is asked what the Services are.
func TestDeleteStaleAsksForNothing(t *testing.T) {
	newNamespace(t)
	known := func() (Frontends, error) { return nil, errors.New("asked") }
	check := func(what string) {
		t.Helper()
		for _, ipv6 := range []bool{false, true} {
			if n, err := DeleteStale(ipv6, known); n != 0 || err != nil {
				t.Errorf("%s, IPv6 %t: %d, %v", what, ipv6, n, err)
			}
		}
	}
	check("nothing tracked")
	track(t, unix.IPPROTO_UDP, "192.0.2.1:1", "10.96.0.10:53", "10.96.0.10:53")
	track(t, unix.IPPROTO_TCP, "192.0.2.1:1", "10.96.0.10:53", "10.244.1.1:5353")
	check("nothing led elsewhere")
	track(t, unix.IPPROTO_UDP, "192.0.2.1:2", "10.96.0.10:53", "10.244.1.1:5353")
	if n, err := DeleteStale(false, known); n != 0 || err == nil {
		t.Errorf("the frontends are not known: %d, %v", n, err)
	}
	if diff := cmp.Diff([]string{"192.0.2.1:1", "192.0.2.1:1", "192.0.2.1:2"}, tracked(t)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// A dump that the table changed under is begun again, five times in all, and what it has done counts
// (kube-proxy's TestConntracker cases of EINTR).
func TestRetry(t *testing.T) {
	for _, tc := range []struct {
		name      string
		errs      []error
		runs, sum int
		failed    bool
	}{
		{"at once", []error{nil}, 1, 1, false},
		{"interrupted", []error{netlink.ErrDumpInterrupted, nil}, 2, 2, false},
		{"as older kernels say it", []error{unix.EINTR, unix.EINTR, nil}, 3, 3, false},
		{"always interrupted", slices.Repeat([]error{netlink.ErrDumpInterrupted}, 9), 5, 5, true},
		{"not supported", []error{unix.EOPNOTSUPP, nil}, 1, 1, true},
		{"interrupted, then not supported", []error{fmt.Errorf("dump: %w", netlink.ErrDumpInterrupted), unix.EOPNOTSUPP}, 2, 2, true},
	} {
		runs := 0
		sum, err := retry(func() (int, error) { runs++; return 1, tc.errs[runs-1] })
		if runs != tc.runs || sum != tc.sum || (err != nil) != tc.failed {
			t.Errorf("%s: %d runs, sum %d, %v", tc.name, runs, sum, err)
		}
	}
}
