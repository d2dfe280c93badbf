package hand

import (
	"context"
	"net/netip"
)

// Socket is a socket in a hand's process. Each method is the system call of that name, made there: an
// error holds the kernel's errno for errors.Is; waiting ends with ctx (5 s without a deadline) in
// os.ErrDeadlineExceeded. An IPv4 address given to an AF_INET6 socket is passed v4-mapped, and
// addresses are returned as the kernel gave them, v4-mapped ones included.
type Socket struct {
	hand *Hand
	fd   int
}

// Socket makes a socket: a unix.AF_*, a unix.SOCK_*, a protocol (0: the default).
func (h *Hand) Socket(ctx context.Context, family, kind, protocol int) (*Socket, error) {
	fd, err := call[int](ctx, h, open{Family: family, Kind: kind, Protocol: protocol})
	if err != nil {
		return nil, err
	}
	return &Socket{hand: h, fd: fd}, nil
}

// Bind binds the socket.
func (s *Socket) Bind(ctx context.Context, addr netip.AddrPort) error {
	_, err := call[any](ctx, s.hand, bind{FD: s.fd, Addr: addr})
	return err
}

// Connect connects, and waits until a TCP handshake has ended.
func (s *Socket) Connect(ctx context.Context, addr netip.AddrPort) error {
	_, err := call[any](ctx, s.hand, connect{FD: s.fd, Addr: addr})
	return err
}

// Disconnect is connect(AF_UNSPEC).
func (s *Socket) Disconnect(ctx context.Context) error {
	_, err := call[any](ctx, s.hand, disconnect{FD: s.fd})
	return err
}

// Send sends on a connected socket.
func (s *Socket) Send(ctx context.Context, payload string) error {
	return s.SendTo(ctx, payload, netip.AddrPort{})
}

// SendTo sends to addr; the zero AddrPort is no address.
func (s *Socket) SendTo(ctx context.Context, payload string, addr netip.AddrPort) error {
	_, err := call[any](ctx, s.hand, sendTo{FD: s.fd, Payload: payload, Addr: addr})
	return err
}

// Recv receives at most 64 KiB; "" is the end of a TCP stream.
func (s *Socket) Recv(ctx context.Context) (string, error) {
	payload, _, err := s.RecvFrom(ctx)
	return payload, err
}

// RecvFrom receives and says from whom; over TCP the kernel does not say.
func (s *Socket) RecvFrom(ctx context.Context) (string, netip.AddrPort, error) {
	d, err := call[datagram](ctx, s.hand, receive{FD: s.fd})
	return d.Payload, d.From, err
}

// GetPeerName returns whom the socket is connected to.
func (s *Socket) GetPeerName(ctx context.Context) (netip.AddrPort, error) {
	return call[netip.AddrPort](ctx, s.hand, socketName{FD: s.fd, Peer: true})
}

// GetSockName returns the socket's own address.
func (s *Socket) GetSockName(ctx context.Context) (netip.AddrPort, error) {
	return call[netip.AddrPort](ctx, s.hand, socketName{FD: s.fd})
}

// SetOption sets an option whose value is an int.
func (s *Socket) SetOption(ctx context.Context, level, option, value int) error {
	_, err := call[any](ctx, s.hand, setOption{FD: s.fd, Level: level, Option: option, Value: value})
	return err
}

// GetOption returns an option whose value is an int.
func (s *Socket) GetOption(ctx context.Context, level, option int) (int, error) {
	return call[int](ctx, s.hand, getOption{FD: s.fd, Level: level, Option: option})
}

// Close closes the socket. Sockets never closed end with the host.
func (s *Socket) Close(ctx context.Context) error {
	_, err := call[any](ctx, s.hand, closeSocket{FD: s.fd})
	return err
}
