package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/config"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
	"github.com/svcproxy/svcproxy/pkg/health"
	"github.com/svcproxy/svcproxy/pkg/metrics"
	"github.com/svcproxy/svcproxy/pkg/node"
	"github.com/svcproxy/svcproxy/pkg/reconcile"
	"github.com/svcproxy/svcproxy/pkg/watch"
)

const (
	// collectPeriod is how often the packet path's flows are looked through for expired ones.
	collectPeriod = 15 * time.Second
	// linkRetry is how soon a link that could not be attached to is tried again.
	linkRetry = 2 * time.Second
)

var families = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}

// agent carries what is wanted from the sources to the kernel. Its loop is the only writer of the tables.
type agent struct {
	config     *config.Config
	log        *slog.Logger
	policy     node.NodePortPolicy
	datapath   *bpf.Datapath
	reconciler *reconcile.Reconciler
	links      *node.Watcher
	state      *watch.State
	health     *health.Proxy
	metrics    *metrics.Metrics

	// Owned by the loop.
	local    *node.State     // nil until the first reading
	object   *watch.Node     // nil until the sources have synced
	view     *endpoints.View // nil until the first pass
	changes  []watch.Change  // kept until then
	triggers []time.Time     // of the changes that are not yet in the kernel
	attached bool
	retry    *time.Timer // for what failed in the tables
	relink   *time.Timer // for links that could not be attached to
	counted  watch.Counters
	written  reconcile.Stats
}

// watch runs the source of Services until ctx is done.
func (a *agent) watch(ctx context.Context) error {
	name := a.config.Proxy.HostnameOverride
	if a.config.Manifests != "" {
		return ignoreCanceled(ctx, watch.RunManifests(ctx, a.config.Manifests, name, a.state, a.log))
	}
	connection := a.config.Proxy.ClientConnection
	client, err := watch.NewClient(watch.ClientOptions{
		Kubeconfig: connection.Kubeconfig, Master: a.config.Master, QPS: connection.QPS, Burst: int(connection.Burst), Version: version,
	})
	if err != nil {
		return err
	}
	return ignoreCanceled(ctx, watch.RunAPI(ctx, client, name, a.state, a.log))
}

// run is the loop: what has changed is taken, and in the kernel before the next is looked at. Changes that
// come meanwhile are taken together, so a burst coalesces and a lone change waits for nothing.
func (a *agent) run(ctx context.Context) error {
	a.retry, a.relink = stoppedTimer(), stoppedTimer()
	for _, f := range families {
		a.health.Updated(f) // examined from now on, in case no sync ever succeeds
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.state.Changed():
			a.take()
			continue
		default:
		}
		if a.reconciler.Unlinked() {
			// Waits for the kernel's readers, so only when no change is waiting.
			if err := a.reconciler.Collect(); err != nil {
				a.log.Error("free unlinked entries", "error", err)
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.state.Changed():
			a.take()
		case state := <-a.links.States():
			a.local = &state
			a.apply(nil)
			a.setUplinks()
		case <-a.relink.C:
			a.setUplinks()
		case <-a.retry.C:
			a.finish(a.reconciler.Retry())
		}
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// take takes what the sources have, and applies it.
func (a *agent) take() {
	update := a.state.Take()
	a.countChanges()
	if update.Node != nil {
		a.object = update.Node
		a.health.SetNodeEligible(!update.Node.Deleting)
		a.links.SetNodeAddresses(update.Node.Addresses)
	}
	a.apply(update.Changes)
}

// apply writes changes, and what a changed node means for all Services. Before everything is known that
// the first answer depends on, changes are kept.
func (a *agent) apply(changes []watch.Change) {
	a.changes = append(a.changes, changes...)
	if a.object == nil || a.local == nil {
		a.health.SetAwaiting(a.awaiting()...)
		return
	}
	view := a.viewNow()
	if a.view != nil && a.view.Equal(view) {
		view = nil
	} else {
		a.view = view
	}
	if view == nil && len(a.changes) == 0 {
		return
	}
	wanted := make([]reconcile.Change, len(a.changes))
	a.triggers = a.triggers[:0]
	for i, c := range a.changes {
		wanted[i] = reconcile.Change{Name: c.Name, Service: c.Service, Slices: c.Slices}
		a.triggers = append(a.triggers, c.Triggers...)
	}
	a.changes = nil
	now := time.Now()
	a.metrics.QueuedSync(now)
	for _, f := range families {
		a.health.QueuedUpdate(f)
	}
	a.finish(a.reconciler.Apply(view, wanted))
	a.metrics.ObserveSync(view != nil, time.Since(now))
}

func (a *agent) awaiting() []string {
	var list []string
	if a.object == nil {
		list = append(list, "Services, EndpointSlices and Node from the API server")
	}
	if a.local == nil {
		list = append(list, "links and addresses of this node")
	}
	return list
}

// finish draws the consequences of a pass over the tables. What failed is tried again; health suffers only
// if it does for long. Services that do not fit are no reason to call the node unhealthy.
func (a *agent) finish(result reconcile.Result, err error) {
	a.countWrites()
	if err != nil {
		a.log.Error("services not all programmed", "error", err, "pending", a.reconciler.Pending(), "retry", a.config.SyncPeriod())
		a.retry.Reset(a.config.SyncPeriod())
	}
	if a.reconciler.Pending() > len(a.reconciler.Held()) {
		return
	}
	now := time.Now()
	for _, f := range families {
		a.health.Updated(f)
		for _, t := range a.triggers {
			a.metrics.ObserveProgramming(f, now.Sub(t))
		}
	}
	a.triggers = a.triggers[:0]
	a.metrics.Synced(now)
	a.log.Debug("programmed", "services", result.Services, "writes", result.Writes)
	if !a.attached {
		a.attach(result)
	}
}

// attach lets the programs at the traffic once the first full sync is in their tables; until then those of
// an earlier run, if any, have gone on with what they had.
func (a *agent) attach(result reconcile.Result) {
	if err := a.datapath.AttachCgroup(a.config.CgroupRoot); err != nil {
		a.log.Error("attach socket programs", "error", err, "retry", a.config.SyncPeriod())
		a.health.SetAwaiting("socket programs: " + err.Error())
		a.retry.Reset(a.config.SyncPeriod())
		return
	}
	pruned, err := a.reconciler.Prune()
	if err != nil {
		a.log.Error("remove what an earlier run left", "error", err)
	}
	a.countWrites()
	a.attached = true
	a.setUplinks()
	a.health.SetAwaiting()
	a.log.Info("serving", "services", result.Services, "writes", result.Writes+pruned.Writes, "nodePortAddresses", a.view.NodePorts)
}

// setUplinks attaches the packet programs to the links that lead out of the node, once there is something
// in the tables for them.
func (a *agent) setUplinks() {
	if !a.attached || a.local == nil {
		return
	}
	var uplinks []bpf.UplinkConfig
	for _, l := range a.local.Uplinks {
		if !l.Layer2 {
			a.log.Warn("link without Ethernet header left out: NodePorts do not answer there", "link", l.Name)
			continue
		}
		uplinks = append(uplinks, bpf.UplinkConfig{Index: l.Index, Name: l.Name, MTU: l.MTU, SNAT4: l.SNAT4, SNAT6: l.SNAT6})
	}
	if err := a.datapath.SetUplinks(uplinks); err != nil {
		a.log.Error("attach packet programs", "error", err, "retry", linkRetry)
		a.relink.Reset(linkRetry)
		return
	}
	a.log.Info("packet programs attached", "uplinks", names(uplinks))
}

func names(uplinks []bpf.UplinkConfig) []string {
	var list []string
	for _, l := range uplinks {
		list = append(list, l.Name)
	}
	return list
}

// viewNow is the node as the model sees it.
func (a *agent) viewNow() *endpoints.View {
	view := &endpoints.View{
		Node:      a.object.Name,
		Zone:      a.object.Zone,
		NodePorts: a.policy.Addresses(a.local.Addresses, a.object.Addresses, a.config.LocalhostNodePorts()),
	}
	for _, addr := range a.object.Addresses {
		if !slices.ContainsFunc(view.Primary, func(p netip.Addr) bool { return p.Is4() == addr.Is4() }) {
			view.Primary = append(view.Primary, addr)
		}
	}
	return view
}

// countChanges and countWrites carry counters over to the metrics.
func (a *agent) countChanges() {
	counters := a.state.Counters()
	services, endpoints := a.state.Pending()
	a.metrics.ServiceChanges(int(counters.ServiceChanges-a.counted.ServiceChanges), services)
	a.metrics.EndpointChanges(int(counters.EndpointChanges-a.counted.EndpointChanges), endpoints)
	for kind, n := range counters.Rejected {
		for range n - a.counted.Rejected[kind] {
			a.metrics.ObjectRejected(kind)
		}
	}
	a.counted = counters
}

func (a *agent) countWrites() {
	now, before := a.reconciler.Stats(), a.written
	for table, n := range map[string]uint64{
		"frontends": now.Frontends - before.Frontends, "services": now.Services - before.Services,
		"pools": now.Pools - before.Pools, "slots": now.Slots - before.Slots, "backends": now.Backends - before.Backends,
	} {
		a.metrics.TableWrites(table, int(n))
	}
	a.written = now
}

// collectFlows removes expired flows until ctx is done.
func (a *agent) collectFlows(ctx context.Context) error {
	ticker := time.NewTicker(collectPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if _, err := a.datapath.Collect(); err != nil {
				a.log.Error("collect expired flows", "error", err)
			}
		}
	}
}

// ignoreCanceled drops the error that a source returns because it was told to end.
func ignoreCanceled(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}
