// Package health answers those who ask whether this node's Services work: kubelet and load balancers at
// the proxy health port, load balancers at each Service's health check NodePort.
package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Server is one of the agent's own HTTP ports.
type Server struct {
	Name     string // in errors and logs
	Address  string // host:port; a wildcard host is both families; empty: Run does nothing
	Handler  http.Handler
	HardFail bool // not listening is an error, not a reason to try again
	Log      *slog.Logger

	retry time.Duration // 0: kube-proxy's five seconds
}

// Run serves until ctx is done and then gives the requests in progress a moment to end. If it cannot
// listen, or stops serving, it tries again every five seconds, or returns the error if HardFail is set.
func (s *Server) Run(ctx context.Context) error {
	if s.Address == "" {
		return nil
	}
	retry := s.retry
	if retry == 0 {
		retry = 5 * time.Second
	}
	for {
		err := s.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		err = fmt.Errorf("serve %s on %s: %w", s.Name, s.Address, err)
		if s.HardFail {
			return err
		}
		s.Log.Error("will try again", "after", retry, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
	}
}

func (s *Server) serve(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.Address)
	if err != nil {
		return err
	}
	s.Log.Info("listening", "server", s.Name, "address", listener.Addr().String())
	server := newHTTPServer(s.Handler)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return errors.Join(err, server.Close())
	}
	return nil
}

// newHTTPServer limits what a client can make us hold. There is no limit to the time of an answer: a CPU
// profile takes as long as asked.
func newHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}
