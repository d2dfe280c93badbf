package main

import (
	"fmt"
	"net/netip"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
	"github.com/svcproxy/svcproxy/pkg/health"
	"github.com/svcproxy/svcproxy/pkg/metrics"
	"github.com/svcproxy/svcproxy/pkg/reconcile"
	"github.com/svcproxy/svcproxy/pkg/watch"
)

// consequences is what the contents of the tables mean for those who look from elsewhere: load balancers at
// the health check NodePorts, Prometheus, readers of Events. A pass costs what it changes. Owned by the loop.
type consequences struct {
	checks  *health.Services
	metrics *metrics.Metrics
	events  *recorder
	retry   func() // a pass, even if nothing changes: for what could not be listened on

	concerned map[endpoints.ObjectName]bool        // have had something of the following
	pending   map[endpoints.ObjectName]consequence // of changes that are not in the tables yet
	noLocal   noLocalPorts
	deaf      map[endpoints.ObjectName]string // cannot be listened for, and why: as told
	conflicts uint64                          // reconcile.Stats.Conflicts when last looked at
	contested map[contest]bool                // as told
	held      map[endpoints.ObjectName]bool   // as told
}

func newConsequences(a *agent, events *recorder) *consequences {
	healthy := a.health.Healthy
	if a.config.Proxy.HealthzBindAddress == "" {
		healthy = nil
	}
	return &consequences{
		checks: health.NewServices(healthy, a.log), metrics: a.metrics, events: events,
		retry:     func() { a.retry.Reset(a.config.SyncPeriod()) },
		concerned: make(map[endpoints.ObjectName]bool),
		pending:   make(map[endpoints.ObjectName]consequence),
		deaf:      make(map[endpoints.ObjectName]string),
	}
}

// consequence is what one Service's change means once it is in the tables.
type consequence struct {
	check   health.Check
	noLocal portCounts
}

// contest is a frontend that a Service has lost to another.
type contest struct {
	address       netip.AddrPort
	protocol      endpoints.Protocol
	loser, winner endpoints.PortName
}

// expect remembers what a change means; it is so when conclude finds it in the tables.
func (c *consequences) expect(change watch.Change, view *endpoints.View) {
	s := change.Service
	concerns := s != nil && (s.HealthCheckNodePort != 0 || s.InternalLocal || s.ExternalLocal)
	if !concerns && !c.concerned[change.Name] {
		return
	}
	with := consequence{check: health.Check{Service: change.Name}}
	if concerns {
		c.concerned[change.Name] = true
		with.noLocal = countNoLocal(endpoints.Resolve(s, change.Slices, view))
		if with.check.Port = s.HealthCheckNodePort; with.check.Port != 0 {
			with.check.Count.IPv4, with.check.Count.IPv6 = endpoints.LocalEndpoints(s, change.Slices, view)
		}
	} else {
		delete(c.concerned, change.Name)
	}
	c.pending[change.Name] = with
}

// reconsider expects anew of all Services that are concerned, for view is another one. Last is what the
// reconciler was last told of a Service.
func (c *consequences) reconsider(last func(endpoints.ObjectName) (*endpoints.Service, []*endpoints.Slice), view *endpoints.View) {
	for name := range c.concerned {
		service, slices := last(name)
		c.expect(watch.Change{Name: name, Service: service, Slices: slices}, view)
	}
}

// conclude is called when a pass has succeeded for all Services but those held. It says to whom it may
// concern what they wait for (R-11.11: only then).
func (c *consequences) conclude(held []endpoints.ObjectName) {
	waiting := make(map[endpoints.ObjectName]bool, len(held))
	for _, name := range held {
		waiting[name] = true
	}
	var checks []health.Check
	for name, with := range c.pending {
		if waiting[name] {
			continue
		}
		checks = append(checks, with.check)
		c.noLocal.set(name, with.noLocal)
		delete(c.pending, name)
	}
	c.noLocal.report(c.metrics)
	c.listen(checks)
}

// listen brings the health check NodePorts up to date. Who cannot be listened for is told once, until the
// reason changes, and tried again.
func (c *consequences) listen(checks []health.Check) {
	failed := c.checks.Sync(checks)
	for name, err := range failed {
		if text := err.Error(); c.deaf[name] != text {
			c.deaf[name] = text
			c.events.aboutService(name, reasonCheckFailed, actionListen, fmt.Sprintf("failed to start healthcheck %q: %v", name, err))
		}
	}
	for name := range c.deaf {
		if failed[name] == nil {
			delete(c.deaf, name)
		}
	}
	if len(failed) > 0 {
		c.retry()
	}
}

// complain writes Events about Services that have begun to lose a frontend to another, or not to fit.
func (c *consequences) complain(r *reconcile.Reconciler) {
	if n := r.Stats().Conflicts; n != c.conflicts { // somebody has lost since
		c.conflicts = n
		now := make(map[contest]bool)
		for _, conflict := range r.Conflicts() {
			for _, loser := range conflict.Losers {
				k := contest{conflict.Address, conflict.Protocol, loser, conflict.Winner}
				now[k] = true
				if !c.contested[k] {
					c.events.aboutService(loser.ObjectName, reasonFrontendTaken, actionProgram,
						fmt.Sprintf("does not serve %v/%v for port %q: it is Service %v's already", k.address, k.protocol, loser.Port, k.winner.ObjectName))
				}
			}
		}
		c.contested = now
	}
	held := r.Held()
	if len(held) == 0 && len(c.held) == 0 {
		return
	}
	now := make(map[endpoints.ObjectName]bool, len(held))
	for _, name := range held {
		now[name] = true
		if !c.held[name] {
			c.events.aboutService(name, reasonTableFull, actionProgram, "has no room for it as it is now: it is served as it was before")
		}
	}
	c.held = now
}
