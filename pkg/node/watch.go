package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	bridgeFilter = "/proc/sys/net/bridge/bridge-nf-call-iptables"

	coalesce = 20 * time.Millisecond  // from the first event of a burst to the reading
	retry    = 200 * time.Millisecond // after a broken subscription
)

// Watcher follows the node's links, addresses and routes.
type Watcher struct {
	devices []string
	log     *slog.Logger
	states  chan State
	wake    chan struct{}

	mu        sync.Mutex
	nodeAddrs []netip.Addr

	// Owned by Run.
	last      *State // delivered
	unmatched []string
	pods      podNames

	// The kernel; tests put faults in between.
	subscribe func() (io.ReadCloser, error)
	read      func() (snapshot, error)
}

// New returns a watcher. Devices are patterns of link names as in [path.Match]; none: the uplinks are found
// by role. The error names a malformed pattern.
func New(devices []string, log *slog.Logger) (*Watcher, error) {
	for _, d := range devices {
		if _, err := path.Match(d, ""); err != nil {
			return nil, fmt.Errorf("parse device pattern %q: %w", d, err)
		}
	}
	return &Watcher{devices: slices.Clone(devices), log: log, states: make(chan State, 1), wake: make(chan struct{}, 1),
		pods: podNames{log: log}, subscribe: subscribe, read: read}, nil
}

// SetNodeAddresses says which addresses the Node object has. The link that has one of them is an uplink.
func (w *Watcher) SetNodeAddresses(addrs []netip.Addr) {
	w.mu.Lock()
	w.nodeAddrs = slices.Clone(addrs)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// States delivers the state when Run starts and whenever it has changed. A state that was not received
// before the next one is replaced by it.
func (w *Watcher) States() <-chan State { return w.states }

// Run watches the network namespace of the calling thread until ctx is done. Trouble with netlink is
// logged and mended by reading everything again.
func (w *Watcher) Run(ctx context.Context) {
	for {
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		w.log.Warn("node watch interrupted, reading everything again", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
		}
	}
}

// follow runs one subscription until it breaks or ctx is done. It subscribes first and reads then, so
// nothing that happens in between is missed.
func (w *Watcher) follow(ctx context.Context) error {
	socket, err := w.subscribe()
	if err != nil {
		return fmt.Errorf("subscribe to netlink: %w", err)
	}
	defer socket.Close() // ends the goroutine
	events := make(chan struct{}, 1)
	broken := make(chan error, 1)
	go func() { broken <- receive(socket, events) }()

	due, armed := time.NewTimer(0), true
	defer due.Stop()
	seek := time.NewTimer(seekMost)
	seek.Stop()
	defer seek.Stop()
	arm := func() {
		if !armed {
			due.Reset(coalesce)
			armed = true
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return fmt.Errorf("receive netlink events: %w", err)
		case <-events:
			arm()
		case <-w.wake:
			arm()
		case <-seek.C:
			arm()
		case <-due.C:
			armed = false
			again, err := w.refresh()
			switch {
			case errors.Is(err, netlink.ErrDumpInterrupted): // it changed while we read
				arm()
			case err != nil:
				return err
			case again > 0:
				seek.Reset(again)
			}
		}
	}
}

// refresh reads everything and delivers what differs from the last delivery. It returns after how long to look
// again for pods that were not found; 0: no need to.
func (w *Watcher) refresh() (again time.Duration, err error) {
	s, err := w.read()
	if err != nil {
		return 0, err
	}
	w.mu.Lock()
	nodeAddrs := w.nodeAddrs
	w.mu.Unlock()
	state, unmatched := s.state(w.devices, nodeAddrs)
	again = w.pods.name(state.PodLinks)

	for _, pattern := range unmatched {
		if !slices.Contains(w.unmatched, pattern) {
			w.log.Warn("no link matches the device pattern", "pattern", pattern)
		}
	}
	w.unmatched = unmatched
	if w.last != nil && w.last.Equal(state) {
		return again, nil
	}
	if w.last == nil || !slices.Equal(w.last.Uplinks, state.Uplinks) {
		names := make([]string, len(state.Uplinks))
		for i, l := range state.Uplinks {
			names[i] = l.Name
		}
		w.log.Info("uplinks found", "links", names)
	}
	select { // we are the only sender: after this there is room
	case <-w.states:
	default:
	}
	w.states <- state
	w.last = &state
	return again, nil
}

// receive turns messages into events until reading fails. What a message says does not matter: it only
// makes us look, so that there is one way to learn the state and not two.
func receive(socket io.Reader, events chan<- struct{}) error {
	var header [unix.SizeofNlMsghdr]byte // the kernel cuts the rest off
	for {
		if _, err := socket.Read(header[:]); err != nil {
			return err // ENOBUFS too: events were lost
		}
		select {
		case events <- struct{}{}:
		default:
		}
	}
}

// subscribe opens a socket that hears of changes to links, addresses and routes.
func subscribe() (io.ReadCloser, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	var groups uint32
	for _, group := range []int{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE} {
		groups |= 1 << (group - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// read asks the kernel for everything. ErrDumpInterrupted: it changed meanwhile, ask again.
func read() (snapshot, error) {
	var s snapshot
	var err error
	if s.links, err = netlink.LinkList(); err != nil {
		return s, fmt.Errorf("list links: %w", err)
	}
	if s.addrs, err = netlink.AddrList(nil, netlink.FAMILY_ALL); err != nil {
		return s, fmt.Errorf("list addresses: %w", err)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		// Table 0 is all of them: policy routing has its default routes elsewhere.
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Type: unix.RTN_UNICAST},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		if err != nil {
			return s, fmt.Errorf("list routes: %w", err)
		}
		s.routes = append(s.routes, routes...)
	}
	// A kernel without br_netfilter has no such file.
	value, err := readSysctl(bridgeFilter)
	s.bridgeFilter = err == nil && strings.TrimSpace(value) != "0"
	return s, nil
}
