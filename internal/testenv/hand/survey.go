package hand

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Question is one request of a [Hand.Survey].
type Question struct {
	Network string         // tcp or udp, a connected socket
	Addr    netip.AddrPort // of a [Server], or of a Service in front of some
	Timeout time.Duration  // of silence, after which the answer is os.ErrDeadlineExceeded
}

// Finding is what came of a question: a reply, or an error as [Hand.Request] would return it, with the client's own
// address in either case.
type Finding struct {
	Reply Reply
	Err   *Error
}

// Survey asks many questions, each on a socket of its own, a thousand a second, and waits for all answers side by
// side: what is silent costs no more than one timeout. A datagram is sent again while it is not answered, and
// ICMP errors of any kind end a question.
func (h *Hand) Survey(ctx context.Context, questions []Question) ([]Finding, error) {
	return call[[]Finding](ctx, h, survey{Questions: questions})
}

type survey struct{ Questions []Question }

func (v survey) do(ctx context.Context, _ *server) (any, error) {
	const pace, resend = time.Millisecond, 300 * time.Millisecond
	findings := make([]Finding, len(v.Questions))
	var open []*inquiry
	deadline, _ := ctx.Deadline()
	for next, opened := 0, time.Now(); next < len(v.Questions) || len(open) > 0; {
		now := time.Now()
		if now.After(deadline) {
			for _, q := range open {
				q.close()
			}
			return nil, fmt.Errorf("survey: %w after %d questions", os.ErrDeadlineExceeded, next)
		}
		for ; next < len(v.Questions) && opened.Before(now); next, opened = next+1, opened.Add(pace) {
			q := &inquiry{Question: v.Questions[next], finding: &findings[next], fd: -1, asked: now, sent: now}
			if q.end(q.begin()) {
				continue
			}
			open = append(open, q)
		}
		wait := time.Second
		if next < len(v.Questions) {
			wait = time.Until(opened)
		}
		fds := make([]unix.PollFd, len(open))
		for i, q := range open {
			fds[i] = unix.PollFd{Fd: int32(q.fd), Events: q.events}
			wait = min(wait, time.Until(q.asked.Add(q.Timeout)))
			if q.Network == "udp" {
				wait = min(wait, time.Until(q.sent.Add(resend)))
			}
		}
		if _, err := unix.Poll(fds, max(1, int(wait.Milliseconds()))); err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("poll: %w", err)
		}
		now = time.Now()
		left := open[:0]
		for i, q := range open {
			var done bool
			switch {
			case fds[i].Revents != 0:
				done = q.end(q.step())
			case now.Sub(q.asked) >= q.Timeout:
				done = q.end(false, fmt.Errorf("answer of %s: %w", q.Addr, os.ErrDeadlineExceeded))
			case q.Network == "udp" && now.Sub(q.sent) >= resend:
				q.sent = now
				done = q.end(false, q.send())
			}
			if !done {
				left = append(left, q)
			}
		}
		open = left
	}
	return findings, nil
}

// inquiry is a question being asked.
type inquiry struct {
	Question
	finding     *Finding
	fd          int
	events      int16 // waited for
	asked, sent time.Time
	answer      string
}

// begin opens the socket and asks; what it returns is for end.
func (q *inquiry) begin() (done bool, err error) {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	level, option := unix.SOL_IPV6, unix.IPV6_RECVERR
	if q.Addr.Addr().Is4() {
		family, level, option = unix.AF_INET, unix.SOL_IP, unix.IP_RECVERR
	}
	if q.Network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	if q.fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return false, fmt.Errorf("socket: %w", err)
	}
	if q.Network == "udp" { // else it hears of unused ports alone
		err = unix.SetsockoptInt(q.fd, level, option, 1)
	} else { // leaves no TIME_WAIT behind
		err = unix.SetsockoptLinger(q.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	if err != nil {
		return false, fmt.Errorf("setsockopt: %w", err)
	}
	to, err := sockaddr(q.fd, q.Addr)
	if err != nil {
		return false, err
	}
	q.events = unix.POLLIN
	if err := unix.Connect(q.fd, to); errors.Is(err, unix.EINPROGRESS) {
		q.events = unix.POLLOUT
	} else if err != nil {
		return false, fmt.Errorf("connect %s: %w", q.Addr, err)
	}
	local, err := unix.Getsockname(q.fd)
	if err != nil {
		return false, fmt.Errorf("name of the socket to %s: %w", q.Addr, err)
	}
	q.finding.Reply.Local = addrPort(local)
	if q.Network == "udp" {
		return false, q.send()
	}
	return false, nil
}

func (q *inquiry) send() error {
	_, err := unix.SendmsgN(q.fd, []byte("who\n"), nil, nil, unix.MSG_NOSIGNAL)
	if err != nil {
		return fmt.Errorf("send to %s: %w", q.Addr, err)
	}
	return nil
}

// step goes on once poll says that something has happened.
func (q *inquiry) step() (done bool, err error) {
	if q.events == unix.POLLOUT {
		if err := pendingError(q.fd); err != nil {
			return false, fmt.Errorf("connect %s: %w", q.Addr, err)
		}
		q.events = unix.POLLIN
		return false, nil
	}
	buf := make([]byte, 512)
	n, err := unix.Read(q.fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return false, nil
	case err == nil && n == 0:
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return false, fmt.Errorf("answer of %s: %w", q.Addr, err)
	}
	q.answer += string(buf[:n])
	if !strings.HasSuffix(q.answer, "\n") {
		return false, nil
	}
	reply, err := parseAnswer(q.answer)
	if err != nil {
		return false, err
	}
	peer, err := unix.Getpeername(q.fd)
	if err != nil {
		return false, fmt.Errorf("peer of the socket to %s: %w", q.Addr, err)
	}
	reply.Local, reply.Peer = q.finding.Reply.Local, addrPort(peer)
	q.finding.Reply = reply
	return true, nil
}

// end ends the question if it is answered or has failed.
func (q *inquiry) end(done bool, err error) bool {
	if err != nil {
		q.finding.Err = newError(err)
	}
	if done || err != nil {
		q.close()
		return true
	}
	return false
}

func (q *inquiry) close() {
	if q.fd >= 0 {
		unix.Close(q.fd)
	}
}
