package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const patience = 10 * time.Second

// watched is a watcher that runs in a namespace.
type watched struct {
	*Watcher
	t    testing.TB
	last State
	logs *logBuffer
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newWatched(t testing.TB, devices ...string) *watched {
	t.Helper()
	logs := &logBuffer{}
	w, err := New(devices, slog.New(slog.NewTextHandler(logs, nil)))
	must(t, err)
	return &watched{Watcher: w, t: t, logs: logs}
}

func (w *watched) start(ns netns.NsHandle) *watched {
	ctx, cancel := context.WithCancel(context.Background())
	done := inNS(w.t, ns, func() { w.Run(ctx) })
	w.t.Cleanup(func() { cancel(); <-done })
	return w
}

// until receives states until one shows want: the links as "name snat4 snat6", then the addresses.
func (w *watched) until(uplinks string, addrs string) {
	w.t.Helper()
	deadline := time.After(patience)
	var got [2]string
	for {
		select {
		case w.last = <-w.States():
			got = [2]string{describe(w.last), join(w.last.Addresses)}
			if got == [2]string{uplinks, addrs} {
				return
			}
		case <-deadline:
			w.t.Fatalf("state (-want +got):\n%s", cmp.Diff([2]string{uplinks, addrs}, got))
		}
	}
}

func describe(s State) string {
	var parts []string
	for _, l := range s.Uplinks {
		part := l.Name
		for _, a := range []netip.Addr{l.SNAT4, l.SNAT6} {
			if a.IsValid() {
				part += " " + a.String()
			}
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

func join(addrs []netip.Addr) string { return strings.Trim(fmt.Sprint(addrs), "[]") }

func TestWatchLive(t *testing.T) {
	outside := newNS(t)
	ns := newNS(t)
	w := newWatched(t).start(ns)
	w.until("", "")

	eth0 := addVeth(t, "eth0", outside)
	addAddr(t, eth0, "10.0.0.1/24")
	w.until("", "10.0.0.1") // a link as a pod could have it: nothing leads away by it
	w.SetNodeAddresses(ips("10.0.0.1"))
	w.until("eth0 10.0.0.1", "10.0.0.1")
	if l := w.last.Uplinks[0]; !l.Layer2 || l.MTU != 1500 || l.Index != eth0.Attrs().Index {
		t.Errorf("got %+v", l)
	}

	addAddr(t, eth0, "10.0.0.2/24")
	addAddr(t, eth0, "fd00::1/64")
	w.until("eth0 10.0.0.1 fd00::1", "10.0.0.1 10.0.0.2 fd00::1")
	delAddr(t, eth0, "10.0.0.2/24")
	w.until("eth0 10.0.0.1 fd00::1", "10.0.0.1 fd00::1")

	must(t, netlink.LinkSetMTU(eth0, 1400))
	w.until("eth0 10.0.0.1 fd00::1", "10.0.0.1 fd00::1")
	if mtu := w.last.Uplinks[0].MTU; mtu != 1400 {
		t.Errorf("MTU is %d, want 1400", mtu)
	}
	must(t, netlink.LinkSetName(eth0, "lan0"))
	w.until("lan0 10.0.0.1 fd00::1", "10.0.0.1 fd00::1")
	must(t, netlink.LinkDel(eth0))
	w.until("", "")
}

func TestWatchDefaultRouteMoves(t *testing.T) {
	outside := newNS(t)
	ns := newNS(t)
	eth0, eth1 := addVeth(t, "eth0", outside), addVeth(t, "eth1", outside)
	addAddr(t, eth0, "10.0.0.1/24")
	addAddr(t, eth1, "10.1.0.1/24")
	addAddr(t, eth1, "10.1.0.9/32")
	must(t, netlink.RouteAdd(linkRoute(t, eth0, "0.0.0.0/0", via("10.0.0.254"))))
	addrs := "10.0.0.1 10.1.0.1 10.1.0.9"

	w := newWatched(t).start(ns)
	w.until("eth0 10.0.0.1", addrs)
	must(t, netlink.RouteReplace(linkRoute(t, eth1, "0.0.0.0/0", via("10.1.0.254"), src("10.1.0.9"))))
	w.until("eth1 10.1.0.9", addrs)
	must(t, netlink.RouteAdd(linkRoute(t, eth0, "10.244.2.0/24", via("10.0.0.2"))))
	w.until("eth0 10.0.0.1, eth1 10.1.0.9", addrs)
	must(t, netlink.RouteAdd(linkRoute(t, eth0, "0.0.0.0/0", via("10.0.0.254"), table(77))))
	must(t, netlink.RouteDel(linkRoute(t, eth0, "10.244.2.0/24", via("10.0.0.2"))))
	must(t, netlink.RouteDel(linkRoute(t, eth1, "0.0.0.0/0", via("10.1.0.254"))))
	w.until("eth0 10.0.0.1", addrs)
}

func TestWatchPodsAndTunnels(t *testing.T) {
	pods := newNS(t)
	ns := newNS(t)
	named := func(name string) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name = name
		return a
	}
	w := newWatched(t).start(ns)

	bridge := addLink(t, &netlink.Bridge{LinkAttrs: named("cni0")})
	addAddr(t, bridge, "10.244.1.1/24")
	must(t, netlink.LinkSetMaster(addVeth(t, "veth1", pods), bridge))
	routed := addVeth(t, "veth2", pods)
	must(t, netlink.RouteAdd(linkRoute(t, routed, "10.244.9.5/32", func(r *netlink.Route) { r.Scope = netlink.SCOPE_LINK })))
	vxlan := addLink(t, &netlink.Vxlan{LinkAttrs: named("flannel.1"), VxlanId: 1, Port: 8472, Learning: false})
	addAddr(t, vxlan, "10.244.1.0/32")
	tun := &netlink.Tuntap{LinkAttrs: named("tun0"), Mode: netlink.TUNTAP_MODE_TUN, Queues: 1}
	must(t, netlink.LinkAdd(tun))
	t.Cleanup(func() {
		for _, f := range tun.Fds {
			f.Close()
		}
	})
	must(t, netlink.LinkSetUp(tun))
	w.until("", "10.244.1.0 10.244.1.1")

	onlink := func(r *netlink.Route) { r.Flags = int(netlink.FLAG_ONLINK) }
	must(t, netlink.RouteAdd(linkRoute(t, vxlan, "10.244.2.0/24", via("10.244.2.0"), onlink)))
	w.until("flannel.1 10.244.1.0", "10.244.1.0 10.244.1.1")
	must(t, netlink.RouteAdd(linkRoute(t, mustLink(t, "tun0"), "10.244.3.0/24", src("10.244.1.1"),
		func(r *netlink.Route) { r.Scope = netlink.SCOPE_LINK })))
	w.until("flannel.1 10.244.1.0, tun0 10.244.1.1", "10.244.1.0 10.244.1.1")
	if a, b := w.last.Uplinks[0], w.last.Uplinks[1]; !a.Layer2 || b.Layer2 {
		t.Errorf("layer 2: flannel.1 %t, tun0 %t; want true, false", a.Layer2, b.Layer2)
	}
	must(t, netlink.LinkDel(vxlan))
	must(t, netlink.RouteAdd(linkRoute(t, bridge, "0.0.0.0/0", via("10.244.1.254"))))
	w.until("cni0 10.244.1.1, tun0 10.244.1.1", "10.244.1.1")
}

func TestWatchDevices(t *testing.T) {
	outside := newNS(t)
	ns := newNS(t)
	w := newWatched(t, "lan*", "wan0").start(ns)
	w.until("", "")
	for _, pattern := range []string{"lan*", "wan0"} {
		if !strings.Contains(w.logs.String(), "pattern="+pattern) {
			t.Errorf("no warning names %s:\n%s", pattern, w.logs)
		}
	}
	addVeth(t, "lan1", outside)
	w.until("lan1", "")
	wan := addVeth(t, "eth7", outside)
	must(t, netlink.LinkSetName(wan, "wan0"))
	w.until("lan1, wan0", "")
	must(t, netlink.LinkDel(wan))
	w.until("lan1", "")
	if n := strings.Count(w.logs.String(), "pattern=wan0"); n != 2 {
		t.Errorf("%d warnings for wan0, want 2 (at first, and when it went):\n%s", n, w.logs)
	}

	if _, err := New([]string{"eth["}, slog.Default()); err == nil || !strings.Contains(err.Error(), `"eth["`) {
		t.Errorf("malformed pattern: error %v", err)
	}
}

// Events that the kernel had to throw away are made good by a new subscription and a new reading.
func TestWatchOverrun(t *testing.T) {
	outside := newNS(t)
	ns := newNS(t)
	eth0 := addVeth(t, "eth0", outside)
	w := newWatched(t)
	gate := make(chan struct{})
	overrun := make(chan error, 1)
	w.subscribe = func() (io.ReadCloser, error) {
		socket, err := subscribe()
		if err != nil || gate == nil {
			return socket, err
		}
		gated := &slowSocket{File: socket.(*os.File), gate: gate, overrun: overrun}
		gate = nil // only the first one is slow
		return gated, gated.shrink()
	}
	open := gate
	w.start(ns)
	w.until("", "")
	for i := range 200 {
		addAddr(t, eth0, fmt.Sprintf("10.0.%d.1/32", i))
	}
	close(open)
	select {
	case err := <-overrun:
		if !errors.Is(err, unix.ENOBUFS) {
			t.Fatalf("read from the full socket: %v, want ENOBUFS", err)
		}
	case <-time.After(patience):
		t.Fatal("the socket was not read")
	}
	for deadline := time.After(patience); len(w.last.Addresses) != 200; {
		select {
		case w.last = <-w.States():
		case <-deadline:
			t.Fatalf("%d addresses, want 200", len(w.last.Addresses))
		}
	}
	delAddr(t, eth0, "10.0.0.1/32") // and the new subscription works
	for deadline := time.After(patience); len(w.last.Addresses) != 199; {
		select {
		case w.last = <-w.States():
		case <-deadline:
			t.Fatalf("%d addresses, want 199", len(w.last.Addresses))
		}
	}
}

// slowSocket is not read before the gate opens.
type slowSocket struct {
	*os.File
	gate    <-chan struct{}
	overrun chan<- error
}

func (s *slowSocket) shrink() error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) })
	return errors.Join(err, inner)
}

func (s *slowSocket) Read(p []byte) (int, error) {
	<-s.gate
	for {
		n, err := s.File.Read(p)
		if err != nil {
			s.overrun <- err
			return n, err
		}
	}
}

func TestWatchReadsAgain(t *testing.T) {
	tests := []struct {
		name string
		err  error
	}{
		{"dump interrupted", fmt.Errorf("list links: %w", netlink.ErrDumpInterrupted)},
		{"other error", errors.New("out of luck")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns := newNS(t)
			must(t, netlink.LinkSetUp(mustLink(t, "lo")))
			addAddr(t, mustLink(t, "lo"), "10.9.9.9/32")
			w := newWatched(t)
			failures := 3
			w.read = func() (snapshot, error) {
				if failures > 0 {
					failures--
					return snapshot{}, tt.err
				}
				return read()
			}
			w.start(ns)
			w.until("", "10.9.9.9")
		})
	}
}

// A consumer that is not there finds the latest state when it comes, and bursts do not become states.
func TestWatchLatestWins(t *testing.T) {
	ns := newNS(t)
	lo := mustLink(t, "lo")
	w := newWatched(t)
	var mu sync.Mutex
	readings := 0
	w.read = func() (snapshot, error) {
		mu.Lock()
		readings++
		mu.Unlock()
		return read()
	}
	w.start(ns)
	begin := time.Now()
	for i := range 250 {
		addAddr(t, lo, fmt.Sprintf("10.0.0.%d/32", i+1))
	}
	burst := time.Since(begin)
	for deadline := time.After(patience); len(w.last.Addresses) != 250; {
		select {
		case w.last = <-w.States():
		case <-deadline:
			t.Fatalf("%d addresses, want 250", len(w.last.Addresses))
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if limit := int(burst/coalesce) + 4; readings > limit {
		t.Errorf("%d readings in %v, want at most %d", readings, burst, limit)
	}
}

// Addresses of the Node object count at once, also when the kernel has nothing to say.
func TestWatchNodeAddresses(t *testing.T) {
	outside := newNS(t)
	ns := newNS(t)
	addAddr(t, addVeth(t, "eth0", outside), "10.0.0.1/24")
	w := newWatched(t)
	silent, keep, err := os.Pipe()
	must(t, err)
	defer keep.Close()
	w.subscribe = func() (io.ReadCloser, error) { return silent, nil }
	w.start(ns)
	w.until("", "10.0.0.1")
	w.SetNodeAddresses(ips("10.0.0.1", "fd00::1"))
	w.until("eth0 10.0.0.1 fd00::1", "10.0.0.1")
	w.SetNodeAddresses(ips("10.0.0.2"))
	w.until("", "10.0.0.1")
}

// A reading that says nothing new is not delivered.
func TestWatchDeliversDifferences(t *testing.T) {
	ns := newNS(t)
	w := newWatched(t)
	readings := make(chan struct{})
	w.read = func() (snapshot, error) {
		select {
		case readings <- struct{}{}:
		case <-t.Context().Done():
		}
		return read()
	}
	w.start(ns)
	<-readings
	w.until("", "")
	w.SetNodeAddresses(ips("10.0.0.1"))
	<-readings
	w.SetNodeAddresses(ips("10.0.0.2"))
	<-readings // so the one before it is through
	select {
	case s := <-w.States():
		t.Errorf("delivered again: %+v", s)
	default:
	}
}

// Routes that make addresses the node's own count, where they are few enough to have frontends each.
func TestWatchAnyIP(t *testing.T) {
	ns := newNS(t)
	lo := mustLink(t, "lo")
	must(t, netlink.LinkSetUp(lo))
	w := newWatched(t).start(ns)
	w.until("", "")
	route := func(prefix string) *netlink.Route {
		p := netip.MustParsePrefix(prefix)
		return &netlink.Route{LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
			Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	}
	few := []*netlink.Route{route("192.0.2.4/30"), route("2001:db8::8/127"), route("198.51.100.7/32")}
	wide := []*netlink.Route{route("10.0.0.0/8"), route("2001:db8:1::/64"), route("127.1.0.0/24")}
	for _, r := range append(wide, few...) {
		must(t, netlink.RouteAdd(r))
	}
	w.until("", "192.0.2.4 192.0.2.5 192.0.2.6 192.0.2.7 198.51.100.7 2001:db8::8 2001:db8::9")
	must(t, netlink.RouteDel(few[0]))
	w.until("", "198.51.100.7 2001:db8::8 2001:db8::9")
	must(t, netlink.RouteDel(few[1]))
	w.until("", "198.51.100.7")
	for _, told := range []string{"route=10.0.0.0/8", "route=2001:db8:1::/64"} {
		if n := strings.Count(w.logs.String(), told); n != 1 {
			t.Errorf("the log says %d times that %s is too wide:\n%s", n, told, w.logs)
		}
	}
}
