package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

// Host is a network namespace with addresses, a cgroup, and a [hand.Hand]: a process inside both that
// does what a test wants done there. Node, Pod and Client are hosts.
type Host struct {
	*Namespace
	*hand.Hand
	Name   string
	IPv4   netip.Addr
	IPv6   netip.Addr
	Cgroup string // its directory

	process *Process // the hand's

	mu        sync.Mutex
	processes []*Process // started by Start
	forwards  []*Forward
}

// newHost makes a host without links.
func newHost(name, cgroup string, ipv4, ipv6 netip.Addr) (*Host, error) {
	h := &Host{Name: name, IPv4: ipv4, IPv6: ipv6, Cgroup: cgroup}
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		return nil, fmt.Errorf("create cgroup: %w", err)
	}
	var err error
	if h.Namespace, err = NewNamespace(); err != nil {
		return nil, errors.Join(err, os.Remove(cgroup))
	}
	return h, nil
}

// close undoes everything: processes first, so that nothing holds the namespace or the cgroup.
func (h *Host) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.forwards {
		f.Close()
	}
	for _, p := range h.processes {
		p.Kill()
	}
	if h.Hand != nil {
		_ = h.Hand.Close() // rpc.ErrShutdown if the process has died
	}
	if h.process != nil {
		h.process.Kill()
	}
	return errors.Join(h.Namespace.Close(), removeCgroup(h.Cgroup))
}

// Addrs returns the host's two addresses, IPv4 first.
func (h *Host) Addrs() []netip.Addr { return []netip.Addr{h.IPv4, h.IPv6} }

// HandPID returns the process id of the host's hand; /proc/<pid>/ns/net names the namespace for nsenter(1).
func (h *Host) HandPID() int { return h.process.PID() }

// Start starts cmd on the host, in its namespace and its cgroup. It overwrites cmd.SysProcAttr. The
// process ends with the host if not before.
func (h *Host) Start(cmd *exec.Cmd) (*Process, error) {
	p, err := h.Namespace.start(cmd, h.Cgroup)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes = append(h.processes, p)
	return p, nil
}

// ServeAll serves on a port of both addresses, over TCP and UDP.
func (h *Host) ServeAll(ctx context.Context, port uint16) ([]*hand.Server, error) {
	var servers []*hand.Server
	for _, addr := range h.Addrs() {
		for _, network := range []string{"tcp", "udp"} {
			s, err := h.Serve(ctx, network, netip.AddrPortFrom(addr, port).String())
			if err != nil {
				return servers, err
			}
			servers = append(servers, s)
		}
	}
	return servers, nil
}

// handVariable in the environment of a process says that it is a hand, and which host's.
const handVariable = "SVCPROXY_TESTENV_HAND"

var mainCalled bool

// Main turns a process that was started to be a host's hand into that, and does not return then. In all
// others it does nothing. Programs that make clusters call it first thing in main, tests in TestMain.
func Main() {
	name, ok := os.LookupEnv(handVariable)
	if !ok {
		mainCalled = true
		return
	}
	os.Unsetenv(handVariable)
	file := os.NewFile(3, "parent")
	conn, err := net.FileConn(file)
	file.Close()
	if err == nil {
		err = hand.Serve(name, conn)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "hand %s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// startHand starts the host's hand and waits for its answer.
func (h *Host) startHand(ctx context.Context) error {
	if !mainCalled {
		return errors.New("testenv.Main must be called first in main or TestMain")
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("create socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "hand"), os.NewFile(uintptr(fds[1]), "parent")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return fmt.Errorf("use socket pair: %w", err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{filepath.Base(os.Args[0]) + "-hand", h.Name}
	cmd.Env = append(os.Environ(), handVariable+"="+h.Name)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	if h.process, err = h.Namespace.start(cmd, h.Cgroup); err != nil {
		conn.Close()
		return err
	}
	theirs.Close()
	h.Hand, err = hand.New(ctx, h.Name, conn)
	return err
}
