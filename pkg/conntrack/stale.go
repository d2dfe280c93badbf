package conntrack

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Frontends are those of Services over UDP, each with the backends that serve it.
type Frontends map[netip.AddrPort]map[netip.AddrPort]bool

// dumpAttempts is how often a dump that was interrupted is begun again: kube-proxy's number.
const dumpAttempts = 5

// DeleteStale deletes the entries of one family that lead a UDP client of a Service to a backend that serves
// it no more, and returns how many there were. It looks at the network namespace of the calling thread;
// without connection tracking there is nothing to do. Frontends are asked for only if there is an entry
// that leads anybody anywhere, which on most nodes there is not.
//
// Such an entry outlives the rule that made it, kube-proxy's most likely, for as long as its client keeps
// sending: netfilter rewrites the packets of this node's own sockets before they come to us, and those of
// links that have no programs. Entries that rewrite no destination are left alone. They cannot
// mislead anybody, since our programs translate before netfilter looks or after it, and behind them may be
// a living flow of the node that we translate on its way out: a firewall that lets in what is known would
// drop its next answer. TCP is as ever left to end by itself.
func DeleteStale(ipv6 bool, frontends func() (Frontends, error)) (deleted int, err error) {
	if n, err := entries(); n == 0 {
		return 0, err
	}
	family := netlink.InetFamily(unix.AF_INET)
	if ipv6 {
		family = unix.AF_INET6
	}
	f := filter{frontends: frontends}
	deleted, err = retry(func() (int, error) {
		n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, &f)
		return int(n), err
	})
	if err = errors.Join(f.err, err); err != nil {
		return deleted, fmt.Errorf("delete stale entries of nf_conntrack: %w", err)
	}
	return deleted, nil
}

// entries is how many the network namespace has. Asking netlink instead would load the module.
func entries() (int, error) {
	text, err := os.ReadFile(sysctls + "nf_conntrack_count")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// retry adds up what f says it has done, until it was not interrupted.
func retry(f func() (int, error)) (sum int, err error) {
	for range dumpAttempts {
		var n int
		n, err = f()
		sum += n
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return sum, err
}

// filter matches what is stale.
type filter struct {
	frontends func() (Frontends, error)
	known     Frontends
	err       error
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f *filter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP || f.err != nil {
		return false
	}
	dialled := addrPort(flow.Forward.DstIP, flow.Forward.DstPort)
	answers := addrPort(flow.Reverse.SrcIP, flow.Reverse.SrcPort)
	if dialled == answers {
		return false
	}
	if f.known == nil {
		if f.known, f.err = f.frontends(); f.err != nil {
			return false
		}
	}
	serving, ok := f.known[dialled]
	return ok && !serving[answers]
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}
