package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// Services answers at the health check NodePorts of Services with externalTrafficPolicy Local: has this
// node endpoints of the Service? One listener for each Service, address and family.
// Safe for concurrent use.
type Services struct {
	addresses [2][]netip.Addr // IPv4, IPv6
	healthy   func() bool
	log       *slog.Logger

	mu        sync.Mutex
	instances map[instanceName]*instance
}

// Count is how many distinct addresses of ready endpoints a Service has on this node.
type Count struct{ IPv4, IPv6 int }

type instanceName struct {
	service endpoints.ObjectName
	ipv6    bool
}

// instance is the health check of one Service in one family.
type instance struct {
	service   endpoints.ObjectName
	port      uint16
	count     atomic.Int64
	healthy   func() bool
	listeners []net.Listener
	servers   []*http.Server
}

// NewServices returns a Services without Services. It listens on addresses: those that NodePorts answer on
// when it is made, or a family's wildcard. Healthy is [Proxy.Healthy]; nil where there is no
// proxy health port, and then all is well.
func NewServices(addresses []netip.Addr, healthy func() bool, log *slog.Logger) *Services {
	if healthy == nil {
		healthy = func() bool { return true }
	}
	s := &Services{healthy: healthy, log: log, instances: map[instanceName]*instance{}}
	for _, addr := range addresses {
		s.addresses[family(addr.Is6())] = append(s.addresses[family(addr.Is6())], addr)
	}
	return s
}

func family(ipv6 bool) int {
	if ipv6 {
		return 1
	}
	return 0
}

// SyncServices makes exactly these Services answer at these ports. Returned are those that could not be
// listened for in some family; the next call tries them again. Without local endpoints (so far) they answer 503.
func (s *Services) SyncServices(ports map[endpoints.ObjectName]uint16) map[endpoints.ObjectName]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, i := range s.instances {
		if port, ok := ports[name.service]; !ok || port != i.port {
			i.close()
			delete(s.instances, name)
		}
	}
	failed := map[endpoints.ObjectName]error{}
	for service, port := range ports {
		for _, ipv6 := range []bool{false, true} {
			name := instanceName{service, ipv6}
			if s.instances[name] != nil || len(s.addresses[family(ipv6)]) == 0 {
				continue
			}
			i := &instance{service: service, port: port, healthy: s.healthy}
			if err := i.open(s.addresses[family(ipv6)], s.log); err != nil {
				failed[service] = errors.Join(failed[service], err)
				continue
			}
			s.instances[name] = i
		}
	}
	return failed
}

// SyncEndpoints sets the counts of all Services; those that are missing have none.
func (s *Services) SyncEndpoints(counts map[endpoints.ObjectName]Count) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, i := range s.instances {
		count := counts[name.service].IPv4
		if name.ipv6 {
			count = counts[name.service].IPv6
		}
		i.count.Store(int64(count))
	}
}

// Close stops answering for all Services.
func (s *Services) Close() { s.SyncServices(nil) }

// open listens on all addresses or on none.
func (i *instance) open(addresses []netip.Addr, log *slog.Logger) error {
	for _, addr := range addresses {
		network := "tcp4"
		if addr.Is6() {
			network = "tcp6"
		}
		listener, err := net.Listen(network, netip.AddrPortFrom(addr, i.port).String())
		if addr.IsUnspecified() && errors.Is(err, syscall.EAFNOSUPPORT) {
			continue // a kernel without IPv6: nobody can ask there
		}
		if err != nil {
			i.close()
			return fmt.Errorf("listen for health checks of %s: %w", i.service, err)
		}
		server := newHTTPServer(i)
		i.listeners, i.servers = append(i.listeners, listener), append(i.servers, server)
		go func() {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				log.Error("health checks of a service are not answered", "service", i.service, "error", err)
			}
		}()
	}
	return nil
}

// close ends the connections too: a load balancer that keeps one must not go on asking. The listeners are
// closed here because a server that has not begun to serve does not know its own, and the port may be
// wanted for another Service at once. What closing says is of no use to anybody.
func (i *instance) close() {
	for _, server := range i.servers {
		_ = server.Close()
	}
	for _, listener := range i.listeners {
		_ = listener.Close()
	}
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
func (i *instance) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	r := serviceReport{LocalEndpoints: i.count.Load(), ServiceProxyHealthy: i.healthy()}
	r.Service.Namespace, r.Service.Name = i.service.Namespace, i.service.Name
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(r.LocalEndpoints, 10))
	writeBody(w, status(r.LocalEndpoints != 0 && r.ServiceProxyHealthy), text)
}
