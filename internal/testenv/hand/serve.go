package hand

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// Server answers on a host until stopped. Over TCP it greets each connection with the line "name
// source", and answers each line it then gets with "name source line". Over UDP it answers each datagram
// with "name source datagram". Name is the host's, source is who the server saw.
type Server struct {
	hand *Hand
	id   int
	Addr netip.AddrPort
}

// Serve starts a server at addr, an IP address and a port; port 0 takes a free one. An unspecified
// address works for TCP; a UDP server answers from its own address only if that is a concrete one.
func (h *Hand) Serve(ctx context.Context, network, addr string) (*Server, error) {
	started, err := call[serving](ctx, h, serve{Network: network, Addr: addr})
	if err != nil {
		return nil, err
	}
	return &Server{hand: h, id: started.ID, Addr: started.Addr}, nil
}

// Stop closes the server and, over TCP, its connections: what the end of its process would do.
func (s *Server) Stop(ctx context.Context) error {
	_, err := call[any](ctx, s.hand, stopServer{ID: s.id})
	return err
}

type serve struct{ Network, Addr string }

type serving struct {
	ID   int
	Addr netip.AddrPort
}

type stopServer struct{ ID int }

func (v serve) do(ctx context.Context, s *server) (any, error) {
	var l stopper
	var addr netip.AddrPort
	switch v.Network {
	case "tcp":
		var config net.ListenConfig
		config.SetMultipathTCP(false) // Go's default is true; what is tested is what everybody else does
		listener, err := config.Listen(ctx, "tcp", v.Addr)
		if err != nil {
			return nil, err
		}
		t := &tcpServer{name: s.name, listener: listener, conns: map[net.Conn]bool{}}
		go t.run()
		l, addr = t, listener.Addr().(*net.TCPAddr).AddrPort()
	case "udp":
		a, err := netip.ParseAddrPort(v.Addr)
		if err != nil {
			return nil, err
		}
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
		if err != nil {
			return nil, err
		}
		u := udpServer{name: s.name, conn: conn}
		go u.run()
		l, addr = u, conn.LocalAddr().(*net.UDPAddr).AddrPort()
	default:
		return nil, fmt.Errorf("serve on %s: unknown network", v.Network)
	}
	return serving{ID: s.listeners.add(l), Addr: addr}, nil
}

func (v stopServer) do(_ context.Context, s *server) (any, error) {
	l, err := s.listeners.remove(v.ID)
	if err != nil {
		return nil, err
	}
	l.stop()
	return nil, nil
}

type tcpServer struct {
	name     string
	listener net.Listener

	mu      sync.Mutex
	conns   map[net.Conn]bool
	stopped bool
}

func (t *tcpServer) run() {
	for {
		conn, err := t.listener.Accept()
		if err != nil {
			return
		}
		t.mu.Lock()
		if t.stopped {
			conn.Close()
		} else {
			t.conns[conn] = true
			go t.answer(conn)
		}
		t.mu.Unlock()
	}
}

func (t *tcpServer) answer(conn net.Conn) {
	defer func() {
		conn.Close()
		t.mu.Lock()
		delete(t.conns, conn)
		t.mu.Unlock()
	}()
	me := t.name + " " + source(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
	if _, err := fmt.Fprintln(conn, me); err != nil {
		return
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if _, err := fmt.Fprintln(conn, me, lines.Text()); err != nil {
			return
		}
	}
}

func (t *tcpServer) stop() {
	t.listener.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	for conn := range t.conns {
		conn.Close()
	}
}

type udpServer struct {
	name string
	conn *net.UDPConn
}

func (u udpServer) run() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		answer := fmt.Sprintln(u.name, source(from), strings.TrimSuffix(string(buf[:n]), "\n"))
		// An error is a client that will not hear from us and say so.
		_, _ = u.conn.WriteToUDPAddrPort([]byte(answer), from)
	}
}

func (u udpServer) stop() { u.conn.Close() }

// source is the address as a person writes it, whatever the family of the listening socket.
func source(a netip.AddrPort) string {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}
