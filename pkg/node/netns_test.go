package node

import (
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// newNS moves the calling goroutine's thread into a network namespace of its own. The thread is never
// unlocked, so it ends with the goroutine and nothing else ever runs in there by accident.
func newNS(t testing.TB) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	ns, err := netns.New()
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	return ns
}

// inNS runs fn in ns, on a thread of its own.
func inNS(t testing.TB, ns netns.NsHandle, fn func()) (done <-chan struct{}) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			t.Errorf("enter netns: %v", err)
			return
		}
		fn()
	}()
	return ended
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// addLink makes a link in the thread's netns and sets it up.
func addLink(t testing.TB, l netlink.Link) netlink.Link {
	t.Helper()
	must(t, netlink.LinkAdd(l))
	must(t, netlink.LinkSetUp(l))
	return mustLink(t, l.Attrs().Name)
}

func mustLink(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

// addVeth makes a veth whose other end is in peer.
func addVeth(t testing.TB, name string, peer netns.NsHandle) netlink.Link {
	t.Helper()
	l := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: name, PeerNamespace: netlink.NsFd(peer)}
	l.Name = name
	added := addLink(t, l)
	far, err := netlink.NewHandleAt(peer)
	must(t, err)
	defer far.Close()
	end, err := far.LinkByName(name)
	must(t, err)
	must(t, far.LinkSetUp(end))
	return added
}

func addAddr(t testing.TB, l netlink.Link, cidr string) {
	t.Helper()
	a, err := netlink.ParseAddr(cidr)
	must(t, err)
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	must(t, netlink.AddrAdd(l, a))
}

func delAddr(t testing.TB, l netlink.Link, cidr string) {
	t.Helper()
	a, err := netlink.ParseAddr(cidr)
	must(t, err)
	must(t, netlink.AddrDel(l, a))
}

func linkRoute(t testing.TB, l netlink.Link, dst string, options ...routeOption) *netlink.Route {
	t.Helper()
	r := route(l.Attrs().Index, dst, options...)
	r.Type = 0
	return &r
}
