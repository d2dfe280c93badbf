package testenv

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
)

// Forward carries TCP connections that a host makes to one of its own addresses to somewhere else.
type Forward struct {
	listener net.Listener

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]bool
}

// Forward listens on an address of the host and joins each connection with a new one from dial. It ends
// with the host if not before.
func (h *Host) Forward(addr string, dial func(context.Context) (net.Conn, error)) (*Forward, error) {
	listener, err := h.Listen(addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	f := &Forward{listener: listener, conns: map[net.Conn]bool{}}
	go f.run(dial)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forwards = append(h.forwards, f)
	return f, nil
}

// Close refuses further connections and cuts those that exist.
func (f *Forward) Close() {
	f.listener.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for conn := range f.conns {
		conn.Close()
	}
}

func (f *Forward) run(dial func(context.Context) (net.Conn, error)) {
	for {
		near, err := f.listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer near.Close()
			far, err := dial(context.Background())
			if err != nil {
				return // the host sees its connection end, as with any proxy without a server
			}
			defer far.Close()
			if !f.track(near, far) {
				return
			}
			defer f.untrack(near, far)
			go func() {
				_, _ = io.Copy(far, near)
				far.Close()
			}()
			_, _ = io.Copy(near, far)
		}()
	}
}

func (f *Forward) track(conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		f.conns[c] = true
	}
	return !f.closed
}

func (f *Forward) untrack(conns ...net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		delete(f.conns, c)
	}
}
