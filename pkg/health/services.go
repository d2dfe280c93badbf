package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// Services answers at the health check NodePorts of Services with externalTrafficPolicy Local: has this
// node endpoints of the Service? One listener for each Service and address. Safe for
// concurrent use. A call costs what it changes.
type Services struct {
	healthy func() bool
	log     *slog.Logger

	mu         sync.Mutex
	addresses  []netip.Addr
	checks     map[endpoints.ObjectName]*check
	incomplete map[endpoints.ObjectName]struct{} // of these not all addresses are listened on
}

// Check is what one Service is to have answered. Port 0: nothing.
type Check struct {
	Service endpoints.ObjectName
	Port    uint16
	Count   Count
}

// Count is how many distinct addresses of ready endpoints a Service has on this node.
type Count struct{ IPv4, IPv6 int }

// NewServices returns a Services that answers for no Service, and listens nowhere yet. Healthy is
// [Proxy.Healthy]; nil where there is no proxy health port, and then all is well.
func NewServices(healthy func() bool, log *slog.Logger) *Services {
	if healthy == nil {
		healthy = func() bool { return true }
	}
	return &Services{
		healthy: healthy, log: log,
		checks: map[endpoints.ObjectName]*check{}, incomplete: map[endpoints.ObjectName]struct{}{},
	}
}

// SetAddresses says where to listen: on the addresses that NodePorts answer on, or a family's wildcard
// . It stops listening on others; [Services.Sync] begins to on new ones.
func (s *Services) SetAddresses(addresses []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(s.addresses, addresses) {
		return
	}
	s.addresses = slices.Clone(addresses)
	for name, c := range s.checks {
		for addr := range c.open {
			if !slices.Contains(addresses, addr) {
				c.stop(addr)
			}
		}
		s.incomplete[name] = struct{}{}
	}
}

// Sync brings the answers for these Services up to date; those not mentioned stay. What is given up is
// closed before anything is opened: a port may pass from one Service to another. Returned are the Services,
// of all, that could not be listened for somewhere; the next call tries them again.
func (s *Services) Sync(changes []Check) map[endpoints.ObjectName]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, change := range changes {
		if c := s.checks[change.Service]; c != nil && c.port != change.Port {
			s.remove(change.Service)
		}
	}
	for _, change := range changes {
		if change.Port == 0 {
			continue
		}
		c := s.checks[change.Service]
		if c == nil {
			c = &check{service: change.Service, port: change.Port, open: map[netip.Addr]listening{}}
			s.checks[change.Service] = c
			s.incomplete[change.Service] = struct{}{}
		}
		c.counts[family(false)].Store(int64(change.Count.IPv4))
		c.counts[family(true)].Store(int64(change.Count.IPv6))
	}
	failed := map[endpoints.ObjectName]error{}
	for name := range s.incomplete {
		if err := s.open(s.checks[name]); err != nil {
			failed[name] = err
		} else {
			delete(s.incomplete, name)
		}
	}
	return failed
}

// Close stops answering for all Services.
func (s *Services) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.checks {
		s.remove(name)
	}
}

func (s *Services) remove(name endpoints.ObjectName) {
	c := s.checks[name]
	for addr := range c.open {
		c.stop(addr)
	}
	delete(s.checks, name)
	delete(s.incomplete, name)
}

// open listens wherever c does not yet.
func (s *Services) open(c *check) error {
	var errs []error
	for _, addr := range s.addresses {
		if _, ok := c.open[addr]; ok {
			continue
		}
		network := "tcp4"
		if addr.Is6() {
			network = "tcp6"
		}
		listener, err := net.Listen(network, netip.AddrPortFrom(addr, c.port).String())
		if addr.IsUnspecified() && errors.Is(err, syscall.EAFNOSUPPORT) {
			continue // a kernel without IPv6: nobody can ask there
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("listen for health checks of %s: %w", c.service, err))
			continue
		}
		l := listening{listener, newHTTPServer(&answerer{check: c, family: family(addr.Is6()), healthy: s.healthy})}
		c.open[addr] = l
		go func() {
			if err := l.server.Serve(l.listener); !errors.Is(err, http.ErrServerClosed) {
				s.log.Error("health checks of a service are not answered", "service", c.service, "error", err)
			}
		}()
	}
	return errors.Join(errs...)
}

// check is the health check of one Service.
type check struct {
	service endpoints.ObjectName
	port    uint16
	counts  [2]atomic.Int64 // by family
	open    map[netip.Addr]listening
}

type listening struct {
	listener net.Listener
	server   *http.Server
}

func family(ipv6 bool) int {
	if ipv6 {
		return 1
	}
	return 0
}

// stop ends the connections too: a load balancer that keeps one must not go on asking. The listener is
// closed here because a server that has not begun to serve does not know its own, and the port may be
// wanted for another Service at once. What closing says is of no use to anybody.
func (c *check) stop(addr netip.Addr) {
	l := c.open[addr]
	_ = l.server.Close()
	_ = l.listener.Close()
	delete(c.open, addr)
}

// answerer answers for a check in one family.
type answerer struct {
	check   *check
	family  int
	healthy func() bool
}

type serviceReport struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int64 `json:"localEndpoints"`
	ServiceProxyHealthy bool  `json:"serviceProxyHealthy"`
}

// ServeHTTP answers any path and method.
func (a *answerer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	r := serviceReport{LocalEndpoints: a.check.counts[a.family].Load(), ServiceProxyHealthy: a.healthy()}
	r.Service.Namespace, r.Service.Name = a.check.service.Namespace, a.check.service.Name
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(r.LocalEndpoints, 10))
	writeBody(w, status(r.LocalEndpoints != 0 && r.ServiceProxyHealthy), text)
}
