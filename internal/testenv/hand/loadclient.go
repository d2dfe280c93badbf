package hand

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// requestTimeout is how long a request of a load may take: longer than one retransmitted SYN (1 s), so
// that a lost packet shows as a slow request and a lost connection as a failure.
const requestTimeout = 3 * time.Second

// loadClient is one worker's socket. It makes blocking system calls, as few as there can be: a connect
// rate measured with it is the kernel's more than Go's.
type loadClient struct {
	*load
	fd  int // -1: none
	buf []byte
}

// request makes one request and returns who answered.
func (c *loadClient) request() (backend string, err error) {
	fresh := c.fd < 0
	if fresh {
		if err := c.open(); err != nil {
			return "", err
		}
	}
	answer, err := c.ask(fresh)
	if err != nil || !c.Persistent {
		c.close()
	}
	if err != nil {
		return "", err
	}
	backend, _, _ = strings.Cut(answer, " ")
	return backend, nil
}

func (c *loadClient) open() error {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	if c.addr.Addr().Is4() {
		family = unix.AF_INET
	}
	if c.Network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	c.fd = fd
	if err := c.connect(); err != nil {
		c.close()
		return fmt.Errorf("connect %s: %w", c.addr, err)
	}
	return nil
}

func (c *loadClient) connect() error {
	timeout := unix.NsecToTimeval(int64(requestTimeout))
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
		return err
	}
	if c.Reset && c.Network != "udp" {
		if err := unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return err
		}
	}
	sa, err := sockaddr(c.fd, c.addr)
	if err != nil {
		return err
	}
	err = unix.Connect(c.fd, sa)
	switch {
	case errors.Is(err, unix.EINTR): // with a timeout set it is not restarted, but goes on (signal(7))
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		if err := wait(ctx, c.fd, unix.POLLOUT); err != nil {
			return err
		}
		return pendingError(c.fd)
	case errors.Is(err, unix.EINPROGRESS): // the timeout
		return os.ErrDeadlineExceeded
	}
	return err
}

// ask gets one line from the server: the greeting of a fresh TCP connection, else an answer.
func (c *loadClient) ask(fresh bool) (string, error) {
	if !fresh || c.Network == "udp" {
		if err := c.send("who\n"); err != nil {
			return "", fmt.Errorf("send to %s: %w", c.addr, err)
		}
	}
	n := 0
	for {
		got, err := unix.Read(c.fd, c.buf[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			err = os.ErrDeadlineExceeded
		case err == nil && got == 0:
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return "", fmt.Errorf("answer of %s: %w", c.addr, err)
		}
		n += got
		if c.buf[n-1] == '\n' {
			return string(c.buf[:n]), nil
		}
	}
}

func (c *loadClient) send(line string) error {
	for {
		err := unix.Send(c.fd, []byte(line), unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (c *loadClient) close() {
	if c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
	}
}
