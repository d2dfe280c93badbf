package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace with its loopback up. It has no name in the file system: it lives
// as long as a process or an open file holds it, so that a killed run leaves none behind.
type Namespace struct {
	fd netns.NsHandle
	nl *netlink.Handle
}

// NewNamespace makes a network namespace. The caller must close it.
func NewNamespace() (*Namespace, error) {
	n := &Namespace{fd: netns.None()}
	// IPv6 addresses must work at once (no duplicate address detection), and nobody advertises a router.
	// The host's own settings may be inherited: undo those that would matter.
	settings := []setting{
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
		{"net.ipv6.conf.all.disable_ipv6", "0"},
		{"net.ipv6.conf.default.disable_ipv6", "0"},
		{"net.ipv6.conf.all.accept_dad", "0"},
		{"net.ipv6.conf.default.accept_dad", "0"},
		{"net.ipv6.conf.default.accept_ra", "0"},
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		var err error
		if n.fd, err = netns.Get(); err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		if n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		if err := writeSettings(settings); err != nil {
			return err
		}
		return n.up("lo")
	})
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Close lets go of the namespace.
func (n *Namespace) Close() error {
	if n.nl != nil {
		n.nl.Close()
	}
	if n.fd.IsOpen() {
		return n.fd.Close()
	}
	return nil
}

// Netlink returns a route netlink handle that acts inside the namespace, from any goroutine.
func (n *Namespace) Netlink() *netlink.Handle { return n.nl }

// Do runs f on a thread inside the namespace: for nft, netlink, sockets. Goroutines that f starts are
// outside. f runs on a goroutine of its own, so it must not call t.Fatal.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.fd); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// DialContext dials an IP address and a port from inside the namespace.
func (n *Namespace) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("dial: %w", err) // a name would be resolved outside
	}
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Listen listens inside the namespace on an IP address and a TCP port.
func (n *Namespace) Listen(addr string) (net.Listener, error) {
	var listener net.Listener
	err := n.Do(func() (err error) {
		listener, err = net.Listen("tcp", addr)
		return err
	})
	return listener, err
}

// Sysctl sets a sysctl of the namespace, named with dots; for the name of a link that has dots itself,
// write slashes instead throughout.
func (n *Namespace) Sysctl(name, value string) error {
	return n.Do(func() error { return writeSettings([]setting{{name, value}}) })
}

func (n *Namespace) up(link string) error {
	l, err := n.nl.LinkByName(link)
	if err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	if err := n.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("set up link %s: %w", link, err)
	}
	return nil
}

type setting struct{ name, value string }

// writeSettings writes sysctls of the calling thread's network namespace.
func writeSettings(settings []setting) error {
	for _, s := range settings {
		path := s.name
		if !strings.Contains(path, "/") {
			path = strings.ReplaceAll(path, ".", "/")
		}
		if err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(s.value), 0); err != nil {
			return fmt.Errorf("set sysctl %s=%s: %w", s.name, s.value, err)
		}
	}
	return nil
}

// onThread runs f on a thread that f may move to another network namespace.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		defer close(result)
		// A thread that ended would take the processes it started with it (Pdeathsig), so it goes back to
		// Go's pool. Only one that cannot return home must end: a locked goroutine's thread does.
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		err = f()
		if homeErr := netns.Set(home); homeErr != nil {
			err = errors.Join(err, fmt.Errorf("return to own network namespace: %w", homeErr))
		} else {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	err, ok := <-result
	if !ok {
		return errors.New("the function ended its goroutine instead of returning")
	}
	return err
}
