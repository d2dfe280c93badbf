package hand

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The child's side of [Socket].
type (
	open struct{ Family, Kind, Protocol int }
	bind struct {
		FD   int
		Addr netip.AddrPort
	}
	connect struct {
		FD   int
		Addr netip.AddrPort
	}
	disconnect struct{ FD int }
	sendTo     struct {
		FD      int
		Payload string
		Addr    netip.AddrPort
	}
	receive  struct{ FD int }
	datagram struct {
		Payload string
		From    netip.AddrPort
	}
	socketName struct {
		FD   int
		Peer bool
	}
	setOption   struct{ FD, Level, Option, Value int }
	getOption   struct{ FD, Level, Option int }
	closeSocket struct{ FD int }
)

func (v open) do(_ context.Context, s *server) (any, error) {
	fd, err := unix.Socket(v.Family, v.Kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, v.Protocol)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sockets[fd] = true
	return fd, nil
}

func (v closeSocket) do(_ context.Context, s *server) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sockets[v.FD] {
		return nil, fmt.Errorf("close: %w", unix.EBADF) // it may be somebody else's by now
	}
	delete(s.sockets, v.FD)
	return nil, unix.Close(v.FD)
}

func (v bind) do(context.Context, *server) (any, error) {
	sa, err := sockaddr(v.FD, v.Addr)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(v.FD, sa); err != nil {
		return nil, fmt.Errorf("bind %s: %w", v.Addr, err)
	}
	return nil, nil
}

func (v connect) do(ctx context.Context, _ *server) (any, error) {
	sa, err := sockaddr(v.FD, v.Addr)
	if err != nil {
		return nil, err
	}
	err = unix.Connect(v.FD, sa)
	if errors.Is(err, unix.EINPROGRESS) {
		if err = wait(ctx, v.FD, unix.POLLOUT); err == nil {
			err = pendingError(v.FD)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", v.Addr, err)
	}
	return nil, nil
}

func (v disconnect) do(context.Context, *server) (any, error) {
	sa := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(v.FD), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	if errno != 0 {
		return nil, fmt.Errorf("connect AF_UNSPEC: %w", errno)
	}
	return nil, nil
}

func (v sendTo) do(ctx context.Context, _ *server) (any, error) {
	var sa unix.Sockaddr
	if v.Addr.IsValid() {
		var err error
		if sa, err = sockaddr(v.FD, v.Addr); err != nil {
			return nil, err
		}
	}
	for {
		_, err := unix.SendmsgN(v.FD, []byte(v.Payload), nil, sa, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EAGAIN) {
			if err = wait(ctx, v.FD, unix.POLLOUT); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, fmt.Errorf("send to %s: %w", v.Addr, err)
		}
		return nil, nil
	}
}

func (v receive) do(ctx context.Context, _ *server) (any, error) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := unix.Recvfrom(v.FD, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			if err = wait(ctx, v.FD, unix.POLLIN); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, fmt.Errorf("recv: %w", err)
		}
		return datagram{Payload: string(buf[:n]), From: addrPort(from)}, nil
	}
}

func (v socketName) do(context.Context, *server) (any, error) {
	what, name := "getsockname", unix.Getsockname
	if v.Peer {
		what, name = "getpeername", unix.Getpeername
	}
	sa, err := name(v.FD)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return addrPort(sa), nil
}

func (v setOption) do(context.Context, *server) (any, error) {
	if err := unix.SetsockoptInt(v.FD, v.Level, v.Option, v.Value); err != nil {
		return nil, fmt.Errorf("setsockopt %d %d: %w", v.Level, v.Option, err)
	}
	return nil, nil
}

func (v getOption) do(context.Context, *server) (any, error) {
	value, err := unix.GetsockoptInt(v.FD, v.Level, v.Option)
	if err != nil {
		return nil, fmt.Errorf("getsockopt %d %d: %w", v.Level, v.Option, err)
	}
	return value, nil
}

// wait polls fd until one of events or an error is there, or ctx's deadline is.
func wait(ctx context.Context, fd int, events int16) error {
	deadline, _ := ctx.Deadline() // receiver.Do always sets one
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, int(left/time.Millisecond)+1)
		if n > 0 {
			return nil // an error that poll reports is the next system call's to return
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
	}
}

func pendingError(fd int) error {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("getsockopt SO_ERROR: %w", err)
	}
	if errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

func sockaddr(fd int, a netip.AddrPort) (unix.Sockaddr, error) {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return nil, fmt.Errorf("getsockopt SO_DOMAIN: %w", err)
	}
	if family == unix.AF_INET {
		if !a.Addr().Unmap().Is4() {
			return nil, fmt.Errorf("address %s: %w", a, unix.EAFNOSUPPORT)
		}
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().Unmap().As4()}, nil
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}, nil
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
