package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

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
	// sweepDelay gathers what several changes have unlinked: each wait for the kernel's readers costs all
	// processors a little.
	sweepDelay = 100 * time.Millisecond
	// linkRetry is how soon a link that could not be attached to is tried again.
	linkRetry = 2 * time.Second
	// podCIDRPatience is kube-proxy's.
	podCIDRPatience = 5 * time.Minute
)

var families = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}

// family is the index of one of families.
func family(ipv6 bool) int {
	if ipv6 {
		return 1
	}
	return 0
}

// agent carries what is wanted from the sources to the kernel. Its loop is the only writer of the tables.
type agent struct {
	config     *config.Config
	log        *slog.Logger
	policy     node.NodePortPolicy
	claim      *bpf.Claim
	datapath   *bpf.Datapath
	reconciler *reconcile.Reconciler
	links      *node.Watcher
	state      *watch.State
	health     *health.Proxy
	metrics    *metrics.Metrics
	nodeKnown  chan struct{} // closed by the loop when the links have been told the node's addresses

	// Both of capacity 1, told when UDP backends have gone.
	stale   chan struct{} // sockets may be connected to them
	tracked chan struct{} // nf_conntrack may lead to them

	auditRead chan error     // capacity 1: the audit has read what it reads on its own
	checkNow  chan os.Signal // somebody wants to see what is looked at now and then

	// Owned by the loop.
	consequences *consequences

	local    *node.State     // nil until the first reading
	object   *watch.Node     // nil until the sources have synced
	view     *endpoints.View // nil until the first pass
	changes  []watch.Change  // kept until then
	triggers []watch.Trigger // of the changes that are not yet in the kernel
	decoded  []time.Time     // when their events were
	attached bool
	retry    *time.Timer // for what failed in the tables
	relink   *time.Timer // for links that could not be attached to
	podCIDRs *time.Timer // for the Node object to have some, where they are needed
	mend     *time.Timer // to look for pins and programs that somebody has removed
	audit    *time.Timer // to begin an audit
	auditing *reconcile.Audit
	audited  bool   // auditing has read, its steps are to be taken
	udpGone  uint64 // UDP backends that were removed so far
	counted  watch.Counters
	written  reconcile.Stats
}

// watchServices runs the source of Services until ctx is done.
func watchServices(ctx context.Context, c *config.Config, client kubernetes.Interface, state *watch.State, log *slog.Logger) error {
	if c.Manifests != "" {
		return ignoreCanceled(ctx, watch.RunManifests(ctx, c.Manifests, c.Node, state, log))
	}
	return ignoreCanceled(ctx, watch.RunAPI(ctx, client, c.Node, state, log))
}

// run is the loop: what has changed is taken, and in the kernel before the next is looked at. Changes that
// come meanwhile are taken together, so a burst coalesces and a lone change waits for nothing.
func (a *agent) run(ctx context.Context) error {
	a.retry, a.relink, a.podCIDRs = stoppedTimer(), stoppedTimer(), stoppedTimer()
	a.mend, a.audit = stoppedTimer(), stoppedTimer()
	a.health.SetAwaiting(a.awaiting()...)
	for _, f := range families {
		a.health.Updated(f) // examined from now on, in case no sync ever succeeds
	}
	var swept <-chan bool // of a sweep that is on its way
	defer func() {
		if swept != nil {
			<-swept // it uses the tables
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.state.Changed():
			if err := a.take(); err != nil {
				return err
			}
			continue
		default:
		}
		if swept == nil && a.reconciler.Unlinked() {
			swept = a.sweep(ctx)
		}
		if a.audited {
			a.stepAudit()
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.state.Changed():
			if err := a.take(); err != nil {
				return err
			}
		case <-a.mend.C:
			if err := a.mendPins(); err != nil {
				return err
			}
		case <-a.audit.C:
			a.beginAudit()
		case err := <-a.auditRead:
			a.audited = a.haveRead(err)
		case <-a.checkNow:
			if a.attached {
				a.mend.Reset(0)
				a.audit.Reset(0)
			}
		case state := <-a.links.States():
			a.local = &state
			before := a.attached
			if err := a.apply(nil); err != nil {
				return err
			}
			if before { // else the first pass has done it, or will
				a.setUplinks()
			}
		case ok := <-swept:
			swept = nil
			if ok { // else ctx is done
				a.reconciler.Release()
			}
		case <-a.relink.C:
			a.setUplinks()
		case <-a.podCIDRs.C:
			return fmt.Errorf("node %s has had no podCIDRs for %v: --detect-local-mode=NodeCIDR needs them", a.config.Node, podCIDRPatience)
		case <-a.retry.C:
			a.finish(a.reconciler.Retry())
		}
	}
}

// wake tells the reader of a channel of capacity 1 to look.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is about to
	}
}

// sweep waits, beside the loop, for the kernel's readers of what has been unlinked, and sends true when it can be
// released; it closes the channel if ctx ends first.
func (a *agent) sweep(ctx context.Context) <-chan bool {
	swept := make(chan bool, 1)
	a.reconciler.Sweep()
	go func() {
		defer close(swept)
		for delay := sweepDelay; ; delay = a.config.SyncPeriod() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(delay):
			}
			err := a.datapath.Quiesce()
			if err == nil {
				swept <- true
				return
			}
			a.log.Error("wait for the readers of unlinked entries", "error", err, "retry", a.config.SyncPeriod())
		}
	}()
	return swept
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// watchLinks follows the node's links until ctx is done. It begins when the node's addresses are known, for
// without them not every uplink is found, and we would call ourselves ready with some missing.
func (a *agent) watchLinks(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-a.nodeKnown:
		a.links.Run(ctx)
	}
}

// take takes what the sources have, and applies it.
func (a *agent) take() error {
	update := a.state.Take()
	a.countChanges()
	if update.Node != nil {
		first := a.object == nil
		a.setNode(update.Node)
		if first {
			close(a.nodeKnown)
		}
	}
	if update.ServiceCIDRs != nil {
		if err := a.datapath.SetServiceRanges(update.ServiceCIDRs); err != nil {
			a.log.Error("addresses of the Service ranges that nobody has may leave the node", "error", err)
		}
	}
	return a.apply(update.Changes)
}

// setNode takes what the Node object says now.
func (a *agent) setNode(object *watch.Node) {
	with := *object
	with.Addresses = a.config.NodeAddresses(object.Addresses)
	if a.object == nil && a.awaitsPodCIDRs(&with) {
		a.podCIDRs.Reset(podCIDRPatience)
	}
	if !a.awaitsPodCIDRs(&with) {
		a.podCIDRs.Stop()
	}
	a.object = &with
	a.health.SetNodeEligible(!with.Deleting)
	a.links.SetNodeAddresses(with.Addresses)
}

// awaitsPodCIDRs reports whether pods cannot be told before the Node object has podCIDRs. Its
// addresses are not waited for: where they count, they count when they come.
func (a *agent) awaitsPodCIDRs(object *watch.Node) bool {
	return a.config.Proxy.DetectLocalMode == config.ModeNodeCIDR && len(object.PodCIDRs) == 0 && a.view == nil
}

// apply writes changes, and what a changed node means for all Services. Before everything is known that
// the first answer depends on, changes are kept. The error is of a node that we are not for.
func (a *agent) apply(changes []watch.Change) error {
	a.changes = append(a.changes, changes...)
	if awaiting := a.awaiting(); len(awaiting) > 0 {
		a.health.SetAwaiting(awaiting...)
		return nil
	}
	if a.view == nil {
		warnings, err := a.config.CheckFamilies(a.object.Addresses, a.object.PodCIDRs, bpf.HaveIPv6())
		for _, w := range warnings {
			a.log.Warn("configuration", "problem", w)
		}
		if err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
	}
	view := a.viewNow()
	if a.view != nil && a.view.Equal(view) {
		view = nil
	} else {
		a.view = view
		a.consequences.checks.SetAddresses(a.policy.ListenAddresses(a.local.Addresses, a.object.Addresses))
		a.consequences.reconsider(a.reconciler.Service, view)
	}
	if view == nil && len(a.changes) == 0 {
		return nil
	}
	wanted := make([]reconcile.Change, len(a.changes))
	now := time.Now()
	a.triggers, a.decoded = a.triggers[:0], a.decoded[:0]
	for i, c := range a.changes {
		c.Service = a.admitted(c.Service)
		wanted[i] = reconcile.Change{Name: c.Name, Service: c.Service, Slices: c.Slices}
		a.triggers = append(a.triggers, c.Triggers...)
		if !c.Decoded.IsZero() {
			a.metrics.ObserveTaken(now.Sub(c.Decoded))
			a.decoded = append(a.decoded, c.Decoded)
		}
		a.consequences.expect(c, a.view)
	}
	a.changes = nil
	a.metrics.QueuedSync(now)
	for _, f := range families {
		a.health.QueuedUpdate(f)
	}
	a.finish(a.reconciler.Apply(view, wanted))
	a.metrics.ObserveSync(view != nil, time.Since(now))
	return nil
}

func (a *agent) awaiting() []string {
	var list []string
	if a.object == nil {
		list = append(list, "Services, EndpointSlices and Node from the API server")
	}
	if a.local == nil {
		list = append(list, "links and addresses of this node")
	}
	if a.object != nil && a.awaitsPodCIDRs(a.object) {
		list = append(list, "podCIDRs of Node "+a.object.Name)
	}
	return list
}

// admitted is a Service without what the configuration does not admit.
func (a *agent) admitted(s *endpoints.Service) *endpoints.Service {
	if s == nil || len(s.ExternalIPs) == 0 || a.config.ExternalIPs() {
		return s
	}
	without := *s
	without.ExternalIPs = nil
	return &without
}

// finish draws the consequences of a pass over the tables. What failed is tried again; health suffers only
// if it does for long. Services that do not fit are no reason to call the node unhealthy.
func (a *agent) finish(result reconcile.Result, err error) {
	a.countWrites()
	a.consequences.complain(a.reconciler)
	if err != nil {
		a.log.Error("services not all programmed", "error", err, "pending", a.reconciler.Pending(), "retry", a.config.SyncPeriod())
		a.retry.Reset(a.config.SyncPeriod())
	}
	if pending := a.reconciler.Pending() > len(a.reconciler.Held()); pending && err != nil {
		return
	} else if pending {
		// All that is wanted is there; something that is not must first be let go of by others. Before the
		// first Prune that may be for ever, so nothing may wait for it.
		a.retry.Reset(a.config.SyncPeriod())
	}
	if gone := a.reconciler.Stats().UDPBackendsGone; gone != a.udpGone {
		a.udpGone = gone
		wake(a.stale)
		wake(a.tracked)
	}
	now := time.Now()
	for _, f := range families {
		a.health.Updated(f)
	}
	for _, t := range a.triggers {
		a.metrics.ObserveProgramming(families[family(t.IPv6)], now.Sub(t.Time))
	}
	for _, t := range a.decoded {
		a.metrics.ObserveWritten(now.Sub(t))
	}
	a.triggers, a.decoded = a.triggers[:0], a.decoded[:0]
	a.metrics.Synced(now)
	a.log.Debug("programmed", "services", result.Services, "writes", result.Writes)
	if !a.attached {
		a.attach(result)
	}
	if a.attached {
		a.consequences.conclude(a.reconciler.Held())
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
	wake(a.tracked) // what went while nobody looked, or with another proxy
	a.setUplinks()
	a.mend.Reset(a.config.SyncPeriod())
	a.scheduleAudit()
	a.health.SetAwaiting()
	go debug.FreeOSMemory() // decoding the lists took several times what is left of them
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
		uplinks = append(uplinks, bpf.UplinkConfig{Index: l.Index, Name: l.Name, SNAT4: l.SNAT4, SNAT6: l.SNAT6})
	}
	var pods []bpf.PodLinkConfig
	for _, l := range a.local.PodLinks {
		pods = append(pods, bpf.PodLinkConfig{Index: l.Index, Name: l.Name, Bridge: l.Bridge, SNAT4: l.SNAT4, SNAT6: l.SNAT6, NetnsCookie: l.NetnsCookie})
	}
	if err := a.datapath.SetLinks(uplinks, pods); err != nil {
		a.log.Error("attach packet programs", "error", err, "retry", linkRetry)
		a.relink.Reset(linkRetry)
		return
	}
	a.log.Info("packet programs attached", "uplinks", names(uplinks), "podLinks", len(pods))
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
	balancing, _ := endpoints.ParseBalancing(a.config.Balancing) // validated
	view := &endpoints.View{
		Balancing:     balancing,
		Node:          a.object.Name,
		Zone:          a.object.Zone,
		MasqueradeAll: a.config.MasqueradeAll(),
		NodePorts:     a.policy.Addresses(a.local.Addresses, a.object.Addresses, a.config.LocalhostNodePorts()),
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
		"members": now.Members - before.Members, "source_ranges": now.Ranges - before.Ranges,
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

// destroySockets ends, until ctx is done, UDP sockets whose backend is gone. On its own, for it goes through
// all network namespaces.
func (a *agent) destroySockets(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.stale:
			if err := a.datapath.DestroyStaleSockets(); err != nil {
				a.log.Warn("UDP sockets may go on sending to a backend that is gone", "error", err)
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
