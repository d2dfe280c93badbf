// Package hand is the child process that stands in each host of a testenv cluster, and what its parent
// says to it. A process joins one network namespace and one cgroup at birth, and hooks act on the process
// that makes the system call: so whatever a test wants done "on that host", the hand there does.
package hand

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"syscall"
	"time"
)

// defaultTimeout bounds what a caller's context leaves unbounded: a test must not hang on a lost packet.
const defaultTimeout = 5 * time.Second

// A verb is one thing a hand can do. It runs in the child; its fields and its result travel by gob.
type verb interface {
	do(ctx context.Context, s *server) (any, error)
}

func init() {
	for _, v := range []any{
		netip.AddrPort{}, hello{}, serve{}, serving{}, stopServer{}, request{}, Reply{},
		open{}, bind{}, connect{}, disconnect{}, sendTo{}, receive{}, datagram{}, socketName{}, setOption{}, getOption{}, closeSocket{},
		startLoad{}, readLoad{}, stopLoad{}, LoadReport{},
		survey{}, []Finding{},
	} {
		gob.Register(v)
	}
}

// Request is a verb on the wire. It is exported for net/rpc only.
type Request struct {
	Verb    any
	Timeout time.Duration
}

// Response is a verb's outcome on the wire. It is exported for net/rpc only.
type Response struct {
	Result any
	Err    *Error
}

// Error is an error that happened in the child. errors.Is finds the kernel's errno in it, and
// os.ErrDeadlineExceeded if nothing happened in time.
type Error struct {
	Text    string
	Errno   syscall.Errno // 0: none
	Timeout bool
}

func (e *Error) Error() string { return e.Text }

// Unwrap returns what the error was in the child, as far as it can travel.
func (e *Error) Unwrap() []error {
	switch {
	case e.Errno != 0:
		return []error{e.Errno}
	case e.Timeout:
		return []error{os.ErrDeadlineExceeded}
	}
	return nil
}

func newError(err error) *Error {
	if err == nil {
		return nil
	}
	e := &Error{Text: err.Error()}
	if !errors.As(err, &e.Errno) {
		e.Timeout = errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	}
	return e
}

// Hand is the parent's end. Its methods may be called from any goroutine; they act in the child.
type Hand struct {
	name   string
	client *rpc.Client
}

// New returns the parent's end of the connection to the hand called name, once the hand has answered.
// It owns conn, also on error.
func New(ctx context.Context, name string, conn net.Conn) (*Hand, error) {
	h := &Hand{name: name, client: rpc.NewClient(conn)}
	if _, err := call[string](ctx, h, hello{}); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// Close lets the child exit.
func (h *Hand) Close() error { return h.client.Close() }

// call does v in the child. The child gives up when ctx's deadline passes and says where it stood then,
// which is worth waiting for a little longer.
func call[R any](ctx context.Context, h *Hand, v verb) (result R, err error) {
	timeout := defaultTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	grace := time.NewTimer(timeout + time.Second)
	defer grace.Stop()

	var response Response
	pending := h.client.Go("Hand.Do", Request{Verb: v, Timeout: timeout}, &response, make(chan *rpc.Call, 1))
	cancelled := ctx.Done()
	for {
		select {
		case <-pending.Done:
			switch {
			case pending.Error != nil:
				return result, fmt.Errorf("%s: %w", h.name, pending.Error)
			case response.Err != nil:
				return result, fmt.Errorf("%s: %w", h.name, response.Err)
			}
			result, _ = response.Result.(R)
			return result, nil
		case <-cancelled:
			if errors.Is(ctx.Err(), context.Canceled) {
				return result, fmt.Errorf("%s: %w", h.name, ctx.Err())
			}
			cancelled = nil
		case <-grace.C:
			return result, fmt.Errorf("%s: no answer from its process: %w", h.name, os.ErrDeadlineExceeded)
		}
	}
}

// Serve is the child's main: it does what the parent says until conn ends.
func Serve(name string, conn net.Conn) error {
	s := &server{name: name, sockets: map[int]bool{}, listeners: newTable[stopper](), loads: newTable[*load]()}
	r := rpc.NewServer()
	if err := r.RegisterName("Hand", (*receiver)(s)); err != nil {
		return err
	}
	r.ServeConn(conn)
	return nil
}

// receiver has the one method that net/rpc may call.
type receiver server

// Do runs one verb.
func (r *receiver) Do(request Request, response *Response) error {
	v, ok := request.Verb.(verb)
	if !ok {
		return fmt.Errorf("%T is no verb", request.Verb)
	}
	ctx, cancel := context.WithTimeout(context.Background(), request.Timeout)
	defer cancel()
	result, err := v.do(ctx, (*server)(r))
	response.Result, response.Err = result, newError(err)
	return nil
}

// hello asks for the hand's name. (Gob carries no struct without fields.)
type hello struct{ Version int }

func (hello) do(_ context.Context, s *server) (any, error) { return s.name, nil }
