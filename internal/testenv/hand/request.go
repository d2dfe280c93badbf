package hand

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// Reply is what one request to a [Server] brought to light.
type Reply struct {
	Backend string         // the name of the host that answered
	Source  netip.AddrPort // whom the server saw
	Peer    netip.AddrPort // whom the client thinks it talks to: getpeername, or recvfrom for udp-unconnected
	Local   netip.AddrPort // the client's own address
}

// Request asks the server at addr, an IP address and a port, who it is. Network is tcp, udp (a connected
// socket) or udp-unconnected (sendto and recvfrom).
func (h *Hand) Request(ctx context.Context, network, addr string) (Reply, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return Reply{}, fmt.Errorf("request: %w", err)
	}
	return call[Reply](ctx, h, request{Network: network, Addr: to})
}

type request struct {
	Network string
	Addr    netip.AddrPort
}

func (v request) do(ctx context.Context, s *server) (any, error) {
	kind, connected := unix.SOCK_STREAM, true
	switch v.Network {
	case "tcp":
	case "udp":
		kind = unix.SOCK_DGRAM
	case "udp-unconnected":
		kind, connected = unix.SOCK_DGRAM, false
	default:
		return nil, fmt.Errorf("request over %s: unknown network", v.Network)
	}
	family := unix.AF_INET6
	if v.Addr.Addr().Is4() {
		family = unix.AF_INET
	}
	opened, err := open{Family: family, Kind: kind}.do(ctx, s)
	if err != nil {
		return nil, err
	}
	fd := opened.(int)
	defer func() { _, _ = closeSocket{FD: fd}.do(ctx, s) }()

	var to netip.AddrPort
	if connected {
		if _, err := (connect{FD: fd, Addr: v.Addr}).do(ctx, s); err != nil {
			return nil, err
		}
	} else {
		to = v.Addr
	}
	if _, err := (sendTo{FD: fd, Payload: "who\n", Addr: to}).do(ctx, s); err != nil {
		return nil, err
	}
	// TCP: the greeting, then the echo of our line, in one segment or two.
	var answer string
	var from netip.AddrPort
	for !strings.HasSuffix(answer, " who\n") {
		received, err := receive{FD: fd}.do(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("answer of %s: %w", v.Addr, err)
		}
		d := received.(datagram)
		if d.Payload == "" {
			return nil, fmt.Errorf("answer of %s ended after %q", v.Addr, answer)
		}
		answer, from = answer+d.Payload, d.From
	}
	reply, err := parseAnswer(answer)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", v.Addr, err)
	}
	reply.Peer = from
	if connected {
		peer, err := socketName{FD: fd, Peer: true}.do(ctx, s)
		if err != nil {
			return nil, err
		}
		reply.Peer = peer.(netip.AddrPort)
	}
	local, err := socketName{FD: fd}.do(ctx, s)
	if err != nil {
		return nil, err
	}
	reply.Local = local.(netip.AddrPort)
	return reply, nil
}

// parseAnswer reads the first line that a [Server] sent.
func parseAnswer(answer string) (Reply, error) {
	words := strings.Fields(answer)
	if len(words) < 2 {
		return Reply{}, fmt.Errorf("%q is no answer", answer)
	}
	source, err := netip.ParseAddrPort(words[1])
	if err != nil {
		return Reply{}, fmt.Errorf("%q is no answer: %w", answer, err)
	}
	return Reply{Backend: words[0], Source: source}, nil
}
